#include "base/mem.h"

#include "base/status.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 1 << 21 };

/* Test switches, one set a thread: the only state of this file. */
static _Thread_local uint64_t n_allocations, fail_at;
static _Thread_local int in_step;

static int refused(size_t n, size_t size, size_t *bytes) {
    DCHECK(!in_step);
    n_allocations++;
    if (fail_at && n_allocations == fail_at) return 1;
    return __builtin_mul_overflow(n, size, bytes);
}

void *mem_alloc(size_t n, size_t size) {
    size_t bytes;
    if (refused(n, size, &bytes)) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *mem_alloc_aligned(size_t n, size_t size, size_t align) {
    size_t bytes;
    if (refused(n, size, &bytes) || bytes > SIZE_MAX - align) return NULL;
    bytes = (bytes + align - 1) / align * align;
    void *p = aligned_alloc(align, bytes ? bytes : align);
    /* Before the first touch, which decides the page size. Only advice: a refusal costs speed, not correctness. */
    if (p && align >= HUGE_PAGE_BYTES) (void)madvise(p, bytes, MADV_HUGEPAGE);
    if (p) memset(p, 0, bytes);
    return p;
}

void *mem_resize(void *p, size_t old_n, size_t new_n, size_t size) {
    size_t bytes;
    if (refused(new_n, size, &bytes)) return NULL;
    char *q = realloc(p, bytes ? bytes : 1);
    if (q && new_n > old_n) memset(q + old_n * size, 0, (new_n - old_n) * size);
    return q;
}

char *mem_text(const char *text, size_t n) {
    char *p = n < SIZE_MAX ? mem_alloc(n + 1, 1) : NULL;
    if (p && n) memcpy(p, text, n);
    return p;
}

void mem_free(void *p) { free(p); }

void *mem_map(size_t size) {
    size_t bytes;
    if (refused(1, size, &bytes)) return NULL;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

void mem_unmap(void *p, size_t size) {
    if (p) munmap(p, size);
}

uint64_t mem_fail_at(uint64_t n) {
    uint64_t made = n_allocations;
    n_allocations = 0;
    fail_at = n;
    return made;
}

void mem_step_begin(void) { in_step = 1; }
void mem_step_end(void) { in_step = 0; }
