/* KV rows for AVX-512. Bits equal ref/kv.c. */
#include "kernels/cpu/avx512_int.h"

#ifdef KERNELS_HAS_AVX512
#include "kernels/cpu/kv_q4.h"
#include <string.h>

void kernels_avx512_kv_encode_F16(void *row, const float *x, uint32_t dim) {
    uint16_t *to = row;
    for (uint32_t i = 0; i < dim; i += 16)
        _mm256_mask_storeu_epi16(to + i, first(dim - i), _mm512_cvtps_ph(load(x + i, dim - i), _MM_FROUND_TO_NEAREST_INT));
}

void kernels_avx512_kv_decode_F16(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint16_t *from = rows;
    const uint32_t n = n_rows * dim;
    for (uint32_t i = 0; i < n; i += 16) store(out + i, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n - i), from + i)), n - i);
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

INLINE __m512i q4_codes(__m512 x, q4_coding c) {
    __m512 y = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_set1_ps(c.m)), _mm512_set1_ps(c.inverse));
    y = _mm512_min_ps(_mm512_max_ps(y, _mm512_setzero_ps()), _mm512_set1_ps(15)); /* as if cut after rounding: both are whole */
    return _mm512_cvtps_epi32(y);
}

INLINE void encode_group(uint8_t *group, const float *x) {
    const __m512 v0 = _mm512_loadu_ps(x), v1 = _mm512_loadu_ps(x + 16), minus = _mm512_set1_ps(-0.0f);
    const bool finite = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitudes(v0), magnitudes(v1))) < 0x7f800000u;
    const float high = _mm512_reduce_max_ps(_mm512_max_ps(v0, v1));
    const float low = -_mm512_reduce_max_ps(_mm512_xor_ps(_mm512_min_ps(v0, v1), minus));
    const q4_coding c = q4_begin(group, low, high, finite);
    __m128i codes = _mm_setzero_si128();
    if (c.inverse > 0) codes = _mm512_cvtepi32_epi8(_mm512_or_si512(q4_codes(v0, c), _mm512_slli_epi32(q4_codes(v1, c), 4)));
    _mm_storeu_si128((void *)(group + Q4_CODES), codes);
}

void kernels_avx512_kv_encode_Q4(void *row, const float *x, uint32_t dim) { q4_encode_row(row, x, dim, encode_group); }

/* out[n], n <= 32. d * code is exact, so that the fma rounds as the sum in ref/kv.c. */
INLINE void decode_group(float *out, const uint8_t *group, uint32_t n) {
    const __m128i codes = _mm_loadu_si128((const void *)(group + Q4_CODES)), low = _mm_set1_epi8(15);
    int32_t both;
    memcpy(&both, group, sizeof both);
    const __m128 dm = _mm_cvtph_ps(_mm_cvtsi32_si128(both));
    const __m512 d = _mm512_set1_ps(_mm_cvtss_f32(dm)), m = _mm512_set1_ps(_mm_cvtss_f32(_mm_movehdup_ps(dm)));
    const __m512 a = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(codes, low)));
    store(out, _mm512_fmadd_ps(d, a, m), n);
    if (n <= 16) return;
    const __m512 b = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(codes, 4), low)));
    store(out + 16, _mm512_fmadd_ps(d, b, m), n - 16);
}

void kernels_avx512_kv_decode_Q4(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint8_t *group = rows;
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t i = 0;
        for (; i + Q4_GROUP <= dim; i += Q4_GROUP, out += Q4_GROUP, group += Q4_GROUP_BYTES) decode_group(out, group, Q4_GROUP);
        if (i == dim) continue;
        decode_group(out, group, dim - i);
        out += dim - i;
        group += Q4_GROUP_BYTES;
    }
}

#endif
