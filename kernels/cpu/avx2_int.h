/* Between the AVX2 files: what the others have for the table of avx2.c, and what they share.
 *
 * All of them are compiled for AVX2, FMA and F16C, so nothing of them may run before kernels_avx2() has asked the processor.
 * Pure; any thread. */
#ifndef CONSORT_KERNELS_AVX2_INT_H
#define CONSORT_KERNELS_AVX2_INT_H

#include "kernels/kernels_int.h"

/* Most tokens of a product: what its registers hold. */
#define TILE_TOKENS 4
#define WIDE_TOKENS 4

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    kernels_product kernels_avx2_product_##id;                                                                                   \
    kernels_product kernels_avx2_product_wide_##id;                                                                              \
    kernels_unpack kernels_avx2_dequantize_##id, kernels_avx2_widen_##id;
#include "kernels/formats.def"
#undef FORMAT

#define KV_TYPE(id, bytes)                                                                                                       \
    kernels_kv_encode kernels_avx2_kv_encode_##id;                                                                               \
    kernels_kv_decode kernels_avx2_kv_decode_##id;
#include "kernels/kv_types.def"
#undef KV_TYPE

void kernels_avx2_rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim);
void kernels_avx2_geglu(float *out, const float *gate, const float *up, uint32_t dim);
void kernels_avx2_attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                         float scale);

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "base/fmath.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }

/* The first n < 8 floats, the others 0. */
INLINE __m256i first(uint32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE __m256 load_first(const float *x, uint32_t n) { return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first(n)); }

INLINE uint32_t max_epu32(__m256i v) {
    __m128i h = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}

/* fmath_expf, eight at a time. Operand order of min and max lets NaN through. */
INLINE __m256 exp8(__m256 x) {
    const __m256 round = _mm256_set1_ps(FMATH_EXPF_ROUND);
    x = _mm256_max_ps(_mm256_set1_ps(FMATH_EXPF_MIN), _mm256_min_ps(_mm256_set1_ps(FMATH_EXPF_MAX), x));
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(FMATH_EXPF_LOG2E), round), n = _mm256_sub_ps(t, round);
    __m256i i = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_castps_si256(round));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FMATH_EXPF_LN2_HI), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FMATH_EXPF_LN2_LO), r);
    __m256 p = _mm256_set1_ps(FMATH_EXPF_P5);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FMATH_EXPF_P4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FMATH_EXPF_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FMATH_EXPF_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FMATH_EXPF_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FMATH_EXPF_P0));
    __m256 y = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i half = _mm256_srai_epi32(i, 1), rest = _mm256_sub_epi32(i, half), bias = _mm256_set1_epi32(127);
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}
#endif

#endif
