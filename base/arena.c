#include "base/arena.h"

#include "base/mem.h"
#include <string.h>

enum { ALIGN = 64 };

st_code arena_init(arena *a, size_t size_bytes) {
    *a = (arena){.size_bytes = size_bytes};
    if (size_bytes > SIZE_MAX - ALIGN || !(a->owned = mem_alloc(1, size_bytes + ALIGN))) return ST_FATAL_MEMORY;
    a->bytes = (unsigned char *)a->owned + (ALIGN - (uintptr_t)a->owned % ALIGN) % ALIGN;
    return ST_OK;
}

arena arena_over(void *bytes, size_t size_bytes) {
    return (arena){.bytes = bytes, .size_bytes = size_bytes, .dirty_bytes = size_bytes};
}

void arena_deinit(arena *a) {
    mem_free(a->owned);
    *a = (arena){0};
}

void *arena_alloc(arena *a, size_t n, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX - ALIGN) return NULL;
    bytes = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    if (bytes > a->size_bytes - a->used_bytes) return NULL;
    void *p = a->bytes + a->used_bytes;
    if (a->used_bytes < a->dirty_bytes)
        memset(p, 0, bytes < a->dirty_bytes - a->used_bytes ? bytes : a->dirty_bytes - a->used_bytes);
    a->used_bytes += bytes;
    if (a->used_bytes > a->dirty_bytes) a->dirty_bytes = a->used_bytes;
    return p;
}
