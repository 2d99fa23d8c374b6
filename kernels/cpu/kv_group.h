/* What the fast twins of the KV rows q4 and q6 share: a group's scale and minimum from its smallest and largest value, as
 * ref/kv.c has them, and the walk over the groups of a row. A group is f16 scale, f16 minimum, 16 bytes whose low halves are the
 * low four bits of codes 0 to 15 and whose high halves are those of 16 to 31; and, where a code has six bits, 8 bytes: byte i has
 * the high two of codes i, i + 8, i + 16 and i + 24, the first lowest. The halves are made in integers, so that a NaN has the
 * same bits everywhere.
 *
 * Pure; any thread. `bits` of a code is a constant: 4 or 6. */
#ifndef CONSORT_KERNELS_CPU_KV_GROUP_H
#define CONSORT_KERNELS_CPU_KV_GROUP_H

#include "base/half.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { KV_GROUP = 32, KV_LOW_AT = 4, KV_HIGH_AT = 20 };

INLINE uint32_t kv_group_bytes(const uint32_t bits) { return 4 + KV_GROUP * bits / 8; }
INLINE uint32_t kv_most_code(const uint32_t bits) { return (1u << bits) - 1; }

typedef struct {
    float m, inverse; /* codes are rint((x - m) * inverse), cut to 0 .. kv_most_code; all 0 where inverse is 0 */
} kv_coding;

/* Writes scale and minimum of a group of values from `low` to `high`; `finite`: all are. */
INLINE kv_coding kv_group_begin(uint8_t *group, float low, float high, bool finite, const uint32_t bits) {
    uint16_t minimum = half_of_float(low + 0.0f); /* of a zero: the positive one */
    float m = half_to_float(minimum), range = high - m;
    uint16_t scale = range > 0 ? half_of_float(range / (float)kv_most_code(bits)) : 0;
    float d = half_to_float(scale);
    if (!finite || isinf(m) || isinf(d)) {
        scale = 0;
        minimum = 0x7e00; /* NaN */
        m = d = 0;
    }
    memcpy(group, &scale, sizeof scale);
    memcpy(group + 2, &minimum, sizeof minimum);
    return (kv_coding){m, d > 0 ? 1.0f / d : 0};
}

/* A row by an instruction set's own function of a group; a short last group is filled up with its first value. */
INLINE void kv_encode_groups(void *row, const float *x, uint32_t dim, const uint32_t bits,
                             void (*encode_group)(uint8_t *group, const float *x, const uint32_t bits)) {
    uint8_t *group = row;
    for (; dim >= KV_GROUP; dim -= KV_GROUP, x += KV_GROUP, group += kv_group_bytes(bits)) encode_group(group, x, bits);
    if (!dim) return;
    float last[KV_GROUP];
    for (uint32_t i = 0; i < KV_GROUP; i++) last[i] = x[i < dim ? i : 0];
    encode_group(group, last, bits);
}

/* Rows, likewise. */
INLINE void kv_decode_groups(float *out, const void *rows, uint32_t n_rows, uint32_t dim, const uint32_t bits,
                             void (*decode_group)(float *out, const uint8_t *group, const uint32_t bits)) {
    const uint8_t *group = rows;
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t i = 0;
        for (; i + KV_GROUP <= dim; i += KV_GROUP, out += KV_GROUP, group += kv_group_bytes(bits)) decode_group(out, group, bits);
        if (i == dim) continue;
        float last[KV_GROUP];
        decode_group(last, group, bits);
        memcpy(out, last, (dim - i) * sizeof *out);
        out += dim - i;
        group += kv_group_bytes(bits);
    }
}

#ifdef __SSE2__
/* Codes of a group, a byte each, to its bytes, and back: of 0 to 15, and of 16 to 31. */
INLINE void kv_put_codes(uint8_t *group, __m128i first, __m128i last, const uint32_t bits) {
    const __m128i four = _mm_set1_epi8(15);
    __m128i low = _mm_or_si128(_mm_and_si128(first, four), _mm_slli_epi16(_mm_and_si128(last, four), 4));
    _mm_storeu_si128((void *)(group + KV_LOW_AT), low);
    if (bits == 4) return;
    const __m128i two = _mm_set1_epi8(3);
    __m128i high = _mm_and_si128(_mm_srli_epi16(first, 4), two);
    high = _mm_or_si128(high, _mm_slli_epi16(_mm_and_si128(_mm_srli_epi16(last, 4), two), 4));
    _mm_storel_epi64((void *)(group + KV_HIGH_AT), _mm_or_si128(high, _mm_slli_epi16(_mm_srli_si128(high, 8), 2)));
}
INLINE void kv_get_codes(__m128i codes[2], const uint8_t *group, const uint32_t bits) {
    const __m128i low = _mm_loadu_si128((const void *)(group + KV_LOW_AT)), four = _mm_set1_epi8(15);
    codes[0] = _mm_and_si128(low, four);
    codes[1] = _mm_and_si128(_mm_srli_epi16(low, 4), four);
    if (bits == 4) return;
    const __m128i high = _mm_loadl_epi64((const void *)(group + KV_HIGH_AT)), two = _mm_set1_epi8(0x30);
    const __m128i both = _mm_unpacklo_epi64(high, _mm_srli_epi16(high, 2)); /* of 0 to 15 in the lowest bits, of 16 to 31 above */
    codes[0] = _mm_or_si128(codes[0], _mm_and_si128(_mm_slli_epi16(both, 4), two));
    codes[1] = _mm_or_si128(codes[1], _mm_and_si128(both, two));
}
#endif

#endif
