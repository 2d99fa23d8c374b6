/* Between the AVX-512 files: what avx512_product.c has for the table of avx512.c, and what they share.
 *
 * Both are compiled for AVX-512 F, BW, VL, DQ and VNNI, FMA and F16C, so nothing of them may run before kernels_avx512() has
 * asked the processor. One vector is KERNELS_LANES floats: a row of a tile, a step of the 16 lanes. Where a row ends inside a
 * vector, masks load zeros and leave the bytes behind it alone, so there are no scalar tails. Pure; any thread. */
#ifndef CONSORT_KERNELS_AVX512_INT_H
#define CONSORT_KERNELS_AVX512_INT_H

#include "kernels/kernels_int.h"

#define FORMAT(id, ggml, name, elements, bytes, ...) kernels_product kernels_avx512_product_##id;
#include "kernels/formats.def"
#undef FORMAT

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) &&                           \
    defined(__AVX512VNNI__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>

#define KERNELS_HAS_AVX512 1
#define INLINE             static inline __attribute__((always_inline))

INLINE __m512 halves(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
#endif

#endif
