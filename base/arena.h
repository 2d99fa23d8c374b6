/* Arena: memory given out front to back and taken back all at once; sized at start, so that steps do not allocate.
 *
 *     [ used | free .................. ]      arena_alloc moves `used`; arena_reset sets it to 0 (or to a mark)
 *     [ ever used ..... | still zero . ]      only what was used before is cleared, so that memory never used costs nothing
 *
 * arena_init takes memory from mem.h; arena_over borrows the caller's. Alignment is 64 bytes. One thread at a time. */
#ifndef CONSORT_BASE_ARENA_H
#define CONSORT_BASE_ARENA_H

#include "base/status.h"
#include <stddef.h>

typedef struct {
    unsigned char *bytes;                       /* [size_bytes] */
    size_t size_bytes, used_bytes, dirty_bytes; /* dirty: may not be zero */
    void *owned;                                /* what mem.h gave; NULL: borrowed */
} arena;

ST_CHECKED st_code arena_init(arena *a, size_t size_bytes); /* ST_FATAL_MEMORY */
arena arena_over(void *bytes, size_t size_bytes);           /* borrowed, 64-byte aligned */
void arena_deinit(arena *a);                                /* also on a zeroed arena */
void *arena_alloc(arena *a, size_t n, size_t size_bytes);   /* zeroed, NULL when full */
static inline void arena_reset(arena *a, size_t mark_bytes) { a->used_bytes = mark_bytes; }

#endif
