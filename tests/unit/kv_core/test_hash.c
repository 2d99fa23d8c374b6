/* The checksum of a message is the same number from each variant that this machine has: the peer's may have others. */
#include "kv/hash_int.h"
#include "tests/unit/kv_core/rig.h"

#include <xxhash.h>

enum { LONGEST = 2000, LARGE = 128 << 10, N_SEEDS = 5, MAX_VARIANTS = 4 };
static const uint64_t seeds[N_SEEDS] = {0, 1, 0x9e3779b97f4a7c15, INT64_MAX, UINT64_MAX};

typedef struct {
    const char *name;
    uint64_t (*hash)(const void *bytes, size_t n, uint64_t seed);
} variant;

static uint32_t variants_here(variant out[MAX_VARIANTS]) {
    uint32_t n = 0;
    out[n++] = (variant){"chosen", kv_hash};
    out[n++] = (variant){"plain", kv_hash_plain};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) out[n++] = (variant){"AVX2", kv_hash_avx2};
    if (__builtin_cpu_supports("avx512f")) out[n++] = (variant){"AVX-512", kv_hash_avx512};
#endif
    return n;
}

static void every_variant_is_xxh3_of_any_length_and_seed(void **state) {
    (void)state;
    uint64_t random = 11;
    uint8_t *bytes = mem_alloc(LARGE + 1, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i <= LARGE; i++) bytes[i] = (uint8_t)draw_below(&random, 256);
    variant variants[MAX_VARIANTS];
    const uint32_t n_variants = variants_here(variants);
    for (size_t n = 0; n <= LONGEST + 1; n++)
        for (uint32_t s = 0; s < N_SEEDS; s++) {
            const size_t length = n <= LONGEST ? n : LARGE;
            const uint8_t *from = bytes + s % 2; /* on no particular address */
            const uint64_t expected = XXH3_64bits_withSeed(from, length, seeds[s]);
            for (uint32_t v = 0; v < n_variants; v++)
                if (variants[v].hash(from, length, seeds[s]) != expected)
                    fail_msg("%s: another number for %zu bytes, seed %d", variants[v].name, length, (int)s);
        }
    mem_free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_variant_is_xxh3_of_any_length_and_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
