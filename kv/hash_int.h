/* hash: XXH3-64 of a message, as wide as the processor has it; the same number on all. Debian's library is built for SSE2, which
 * is half as fast as AVX2; a message of KV is read once for it at each end. One thread on an AMD EPYC (family 26), GB/s of bytes
 * in its caches by AVX2 and by AVX-512: 70 and 102 of 25 KB, 72 and 111 of 0.7 MB, 69 and 99 of 8 MB (30 November 2026, medians
 * of 61 turns). Pure; any thread. */
#ifndef CONSORT_KV_HASH_INT_H
#define CONSORT_KV_HASH_INT_H

#include <stddef.h>
#include <stdint.h>

uint64_t kv_hash(const void *bytes, size_t n, uint64_t seed);
/* What it chooses from. hash_avx2.c, hash_avx512.c: on x86-64, and not to be called where the processor has no AVX2, AVX512F. */
uint64_t kv_hash_plain(const void *bytes, size_t n, uint64_t seed);
uint64_t kv_hash_avx2(const void *bytes, size_t n, uint64_t seed);
uint64_t kv_hash_avx512(const void *bytes, size_t n, uint64_t seed);

#endif
