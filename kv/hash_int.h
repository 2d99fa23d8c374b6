/* hash: XXH3-64 of a message, as wide as the processor has it; the same number on all. Debian's library is built for SSE2, which
 * is half as fast as AVX2; a message of KV is read once for it at each end. Pure; any thread. */
#ifndef CONSORT_KV_HASH_INT_H
#define CONSORT_KV_HASH_INT_H

#include <stddef.h>
#include <stdint.h>

uint64_t kv_hash(const void *bytes, size_t n, uint64_t seed);
/* hash_avx2.c: not to be called where the processor has no AVX2. */
uint64_t kv_hash_avx2(const void *bytes, size_t n, uint64_t seed);

#endif
