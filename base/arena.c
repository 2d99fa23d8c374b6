#include "base/arena.h"

#include "base/mem.h"
#include <string.h>

enum { ALIGN = 64 };

st_code arena_init(arena *a, size_t size_bytes) {
    *a = (arena){.bytes = mem_alloc_aligned(size_bytes, 1, ALIGN), .size_bytes = size_bytes, .owned = true};
    return a->bytes ? ST_OK : ST_FATAL_MEMORY;
}

arena arena_over(void *bytes, size_t size_bytes) { return (arena){.bytes = bytes, .size_bytes = size_bytes}; }

void arena_deinit(arena *a) {
    if (a->owned) mem_free(a->bytes);
    *a = (arena){0};
}

void *arena_alloc(arena *a, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - ALIGN) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > a->size_bytes - a->used_bytes) return NULL;
    void *p = a->bytes + a->used_bytes;
    a->used_bytes += bytes;
    return memset(p, 0, bytes);
}
