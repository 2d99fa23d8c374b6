/* Inside kernels/cpu/: what the files of AVX2 primitives share. Only included where AVX2, FMA and F16C are compiled for. */
#ifndef CONSORT_KERNELS_AVX2_INT_H
#define CONSORT_KERNELS_AVX2_INT_H

#include "base/fmath.h"
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

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
