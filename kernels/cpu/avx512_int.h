/* Between the AVX-512 files: what the others have for the table of avx512.c, and what they share.
 *
 * All of them are compiled for AVX-512 F, BW, VL, DQ and VNNI, FMA and F16C, so nothing of them may run before kernels_avx512()
 * has asked the processor. One vector is KERNELS_LANES floats: a row of a tile, a step of the 16 lanes. Where a row ends inside a
 * vector, masks load zeros and leave the bytes behind it alone, so there are no scalar tails. Pure; any thread. */
#ifndef CONSORT_KERNELS_AVX512_INT_H
#define CONSORT_KERNELS_AVX512_INT_H

#include "kernels/kernels_int.h"

/* Most tokens of a product: what its registers hold. */
#define TILE_TOKENS 9 /* a token and 8 drafted behind it */
#define WIDE_TOKENS 13

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    kernels_product kernels_avx512_product_##id;                                                                                 \
    kernels_product kernels_avx512_product_wide_##id;                                                                            \
    kernels_unpack kernels_avx512_dequantize_##id, kernels_avx512_widen_##id;
#include "kernels/formats.def"
#undef FORMAT

#define KV_TYPE(id, bytes)                                                                                                       \
    kernels_kv_encode kernels_avx512_kv_encode_##id;                                                                             \
    kernels_kv_decode kernels_avx512_kv_decode_##id;
#include "kernels/kv_types.def"
#undef KV_TYPE

void kernels_avx512_attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                           float scale);
void kernels_avx512_open_lanes(kernels_lanes *l, const float *const *q, uint32_t dim);
void kernels_avx512_attend_lanes(kernels_lanes *l, uint32_t p0, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                                 float scale);
void kernels_avx512_close_lanes(const kernels_lanes *l, const kernels_query *query, uint32_t n, uint32_t dim, bool done);

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) &&                           \
    defined(__AVX512VNNI__) && defined(__FMA__) && defined(__F16C__)
#include "base/fmath.h"
#include <immintrin.h>

#define KERNELS_HAS_AVX512 1
#define INLINE             static inline __attribute__((always_inline))

INLINE __m512 halves(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }

/* The first n lanes. */
INLINE __mmask16 first(uint32_t n) { return (__mmask16)(n >= 16 ? 0xffffu : (1u << n) - 1u); }

/* The first n floats, the others 0; and back. */
INLINE __m512 load(const float *x, uint32_t n) { return n >= 16 ? _mm512_loadu_ps(x) : _mm512_maskz_loadu_ps(first(n), x); }
INLINE void store(float *x, __m512 v, uint32_t n) {
    if (n >= 16)
        _mm512_storeu_ps(x, v);
    else
        _mm512_mask_storeu_ps(x, first(n), v);
}

/* fmath_expf, sixteen at a time. Operand order of min and max lets NaN through. */
INLINE __m512 exp16(__m512 x) {
    const __m512 round = _mm512_set1_ps(FMATH_EXPF_ROUND);
    x = _mm512_max_ps(_mm512_set1_ps(FMATH_EXPF_MIN), _mm512_min_ps(_mm512_set1_ps(FMATH_EXPF_MAX), x));
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(FMATH_EXPF_LOG2E), round), n = _mm512_sub_ps(t, round);
    __m512i i = _mm512_sub_epi32(_mm512_castps_si512(t), _mm512_castps_si512(round));
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-FMATH_EXPF_LN2_HI), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-FMATH_EXPF_LN2_LO), r);
    __m512 p = _mm512_set1_ps(FMATH_EXPF_P5);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FMATH_EXPF_P4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FMATH_EXPF_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FMATH_EXPF_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FMATH_EXPF_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FMATH_EXPF_P0));
    __m512 y = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i half = _mm512_srai_epi32(i, 1), rest = _mm512_sub_epi32(i, half), bias = _mm512_set1_epi32(127);
    y = _mm512_mul_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23)));
    return _mm512_mul_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23)));
}
#endif

#endif
