/* KV rows for AVX-512. Bits equal ref/kv.c. */
#include "kernels/cpu/avx512_int.h"

#ifdef KERNELS_HAS_AVX512
#include "kernels/cpu/kv_group.h"
#include <string.h>

void kernels_avx512_kv_encode_F16(void *row, const float *x, uint32_t dim) {
    uint16_t *to = row;
    for (uint32_t i = 0; i < dim; i += 16)
        _mm256_mask_storeu_epi16(to + i, first(dim - i), _mm512_cvtps_ph(load(x + i, dim - i), _MM_FROUND_TO_NEAREST_INT));
}

void kernels_avx512_kv_decode_F16(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint16_t *from = rows;
    const uint32_t n = n_rows * dim;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(out + i, halves(from + i));
    if (i < n) store(out + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n - i), from + i)), n - i);
}

void kernels_avx512_kv_encode_F32(void *row, const float *x, uint32_t dim) { memcpy(row, x, dim * sizeof *x); }
void kernels_avx512_kv_decode_F32(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    memcpy(out, rows, (size_t)n_rows * dim * sizeof *out);
}

INLINE __m512i magnitudes(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

/* The first n bytes, the others 0; and back. */
INLINE __m128i load_bytes(const uint8_t *p, uint32_t n) {
    __m128i v = _mm_setzero_si128();
    if (n >= 16) return _mm_loadu_si128((const void *)p);
    memcpy(&v, p, n);
    return v;
}
INLINE void store_bytes(uint8_t *p, __m128i v, uint32_t n) {
    if (n >= 16)
        _mm_storeu_si128((void *)p, v);
    else
        memcpy(p, &v, n);
}

void kernels_avx512_kv_encode_Q8(void *row, const float *x, uint32_t dim) {
    uint8_t *code = (uint8_t *)row + sizeof(float);
    __m512i most = _mm512_setzero_si512();
    for (uint32_t i = 0; i < dim; i += 16) most = _mm512_max_epu32(most, magnitudes(load(x + i, dim - i)));
    const uint32_t amax = _mm512_reduce_max_epu32(most);
    float a, d = 0;
    memcpy(&a, &amax, sizeof a);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        if (amax >= 0x7f800000u) d = NAN;
        memset(code, 0, dim);
    } else {
        d = a / 127.0f;
        const __m512 inverse = _mm512_set1_ps(127.0f / a);
        for (uint32_t i = 0; i < dim; i += 16) { /* to nearest, half to even */
            __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + i, dim - i), inverse));
            store_bytes(code + i, _mm512_cvtepi32_epi8(q), dim - i);
        }
    }
    memcpy(row, &d, sizeof d);
}

void kernels_avx512_kv_decode_Q8(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint8_t *row = rows;
    for (uint32_t r = 0; r < n_rows; r++, row += sizeof(float) + dim, out += dim) {
        const uint8_t *code = row + sizeof(float);
        float d;
        memcpy(&d, row, sizeof d);
        for (uint32_t i = 0; i < dim; i += 16) {
            __m512 q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(code + i, dim - i)));
            store(out + i, _mm512_mul_ps(_mm512_set1_ps(d), q), dim - i);
        }
    }
}

INLINE __m128i codes_of(__m512 x, kv_coding c, const uint32_t bits) {
    __m512 y = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_set1_ps(c.m)), _mm512_set1_ps(c.inverse));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps((float)kv_most_code(bits)));
    return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(y)); /* as if cut after rounding: both ends are whole */
}

INLINE void encode_group(uint8_t *group, const float *x, const uint32_t bits) {
    const __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16), minus = _mm512_set1_ps(-0.0f);
    const bool finite = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes(v0), magnitudes(v1))) < 0x7f800000u;
    const float high = _mm512_reduce_max_ps(_mm512_max_ps(v0, v1));
    const float low = -_mm512_reduce_max_ps(_mm512_xor_ps(_mm512_min_ps(v0, v1), minus));
    const kv_coding c = kv_group_begin(group, low, high, finite, bits);
    __m128i first = _mm_setzero_si128(), last = first;
    if (c.inverse > 0) {
        first = codes_of(v0, c, bits);
        last = codes_of(v1, c, bits);
    }
    kv_put_codes(group, first, last, bits);
}

/* out[n], n <= 32. d * code is exact, so that the fma rounds as the sum in ref/kv.c. */
INLINE void decode_first(float *out, const uint8_t *group, uint32_t n, const uint32_t bits) {
    int32_t both;
    __m128i q[2];
    memcpy(&both, group, sizeof both);
    kv_get_codes(q, group, bits);
    const __m128 dm = _mm_cvtph_ps(_mm_cvtsi32_si128(both));
    const __m512 d = _mm512_set1_ps(_mm_cvtss_f32(dm)), m = _mm512_set1_ps(_mm_cvtss_f32(_mm_movehdup_ps(dm)));
    store(out, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q[0])), m), n);
    if (n > 16) store(out + 16, _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q[1])), m), n - 16);
}

INLINE void decode_rows(float *out, const uint8_t *group, uint32_t n_rows, uint32_t dim, const uint32_t bits) {
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t i = 0;
        for (; i + KV_GROUP <= dim; i += KV_GROUP, out += KV_GROUP, group += kv_group_bytes(bits))
            decode_first(out, group, KV_GROUP, bits);
        if (i == dim) continue;
        decode_first(out, group, dim - i, bits);
        out += dim - i;
        group += kv_group_bytes(bits);
    }
}

#define GROUPS(id, bits)                                                                                                         \
    void kernels_avx512_kv_encode_##id(void *row, const float *x, uint32_t dim) {                                                \
        kv_encode_groups(row, x, dim, bits, encode_group);                                                                       \
    }                                                                                                                            \
    void kernels_avx512_kv_decode_##id(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {                            \
        decode_rows(out, rows, n_rows, dim, bits);                                                                               \
    }
GROUPS(Q4, 4)
GROUPS(Q6, 6)
#undef GROUPS

#endif
