#include "kv/hash_int.h"

#define XXH_INLINE_ALL /* kv_core calls no library */
#include <xxhash.h>

uint64_t kv_hash_plain(const void *bytes, size_t n, uint64_t seed) { return XXH3_64bits_withSeed(bytes, n, seed); }

uint64_t kv_hash(const void *bytes, size_t n, uint64_t seed) {
#ifdef CONSORT_KV_HASH_X86
    if (__builtin_cpu_supports("avx512f")) return kv_hash_avx512(bytes, n, seed);
    if (__builtin_cpu_supports("avx2")) return kv_hash_avx2(bytes, n, seed);
#endif
    return kv_hash_plain(bytes, n, seed);
}
