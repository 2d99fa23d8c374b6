/* Between the AVX2 files: the products of avx2_product.c, for the table of avx2.c.
 *
 * Both files are compiled for AVX2, FMA and F16C, so nothing of them may run before kernels_avx2() has asked the processor.
 * Pure; any thread. */
#ifndef CONSORT_KERNELS_AVX2_INT_H
#define CONSORT_KERNELS_AVX2_INT_H

#include "kernels/kernels_int.h"

#define FORMAT(id, ggml, name, elements, bytes, ...) kernels_product kernels_avx2_product_##id;
#include "kernels/formats.def"
#undef FORMAT

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const void *p) { return _mm256_loadu_si256(p); }
INLINE __m256 halves(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
#endif

#endif
