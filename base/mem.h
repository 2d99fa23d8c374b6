/* Memory: the allocators of all rooms, so that tests can make the n-th allocation fail and debug builds can forbid
 * allocation inside a step.
 *
 * All return zeroed memory (mem_resize: only the old bytes are kept) or NULL; sizes are checked for overflow. Free with
 * mem_free, which accepts NULL. Any thread; the two test switches are per thread. */
#ifndef CONSORT_BASE_MEM_H
#define CONSORT_BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

void *mem_alloc(size_t n, size_t size_bytes); /* n * size_bytes, zeroed */
void *mem_alloc_aligned(size_t n, size_t size_bytes,
                        size_t align_bytes); /* align: power of two; 2 MiB or more asks for huge pages */
void *mem_resize(void *p, size_t old_n, size_t new_n, size_t size_bytes); /* new elements zeroed; on NULL `p` lives on */
char *mem_text(const char *text, size_t n_bytes);                         /* copy with a NUL behind it */
void mem_free(void *p);

/* Large memory for long: zeroed whole pages, huge ones where the system has them, each taken from the system when first touched.
 * Aligned to a page; given back by mem_unmap with the same size. NULL: refused, or size 0. */
void *mem_map(size_t size_bytes);
void mem_unmap(void *p, size_t size_bytes); /* NULL-safe */

/* The n-th allocation from now on this thread fails (1: the next); 0 switches that off. Returns how many allocations were
 * made since the last call, so that a test can walk n until all succeed. */
uint64_t mem_fail_at(uint64_t n);

/* Between begin and end an allocation on this thread breaks an INVARIANT in debug builds (conventions: no allocation in a step).
 */
void mem_step_begin(void);
void mem_step_end(void);

#endif
