/* How the AVX2 files read a packed tile (kernels/tile.h): codes by four columns of eight rows, scales and minimums by eight rows.
 *
 * A vector has eight rows, so a tile is two halves. The shape is a constant where these are called, so that what they do is
 * chosen when they are compiled. Bits equal ref/block.h. Pure; any thread. */
#ifndef CONSORT_KERNELS_AVX2_TILE_H
#define CONSORT_KERNELS_AVX2_TILE_H

#include "kernels/cpu/avx2_int.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/tile.h"

enum { HALF_ROWS = 8 };

INLINE __m256i bits(__m256i plane, const uint32_t from, const uint32_t to, const uint32_t n) {
    __m256i x = from > to   ? _mm256_srli_epi16(plane, (int)(from - to))
                : from < to ? _mm256_slli_epi16(plane, (int)(to - from))
                            : plane;
    return n == 8 ? x : _mm256_and_si256(x, _mm256_set1_epi8((char)(((1 << n) - 1) << to)));
}

/* Four columns of eight rows, of the planes that hold them: unsigned codes, or values of a book. */
INLINE __m256i quad_of(const __m256i *low, const __m256i *high, const uint32_t quad, const tile_shape s) {
    if (s.is_wide) return *low;
    __m256i x = bits(*low, quad % (8 / s.low) * s.low, 0, s.low);
    if (s.high) x = _mm256_or_si256(x, bits(*high, quad % (8 / s.high) * s.high, s.low, s.high));
    if (!s.book) return x;
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)tile_books[s.book])), x);
}

INLINE __m256i bytes8(const uint8_t *p, const bool is_signed) {
    __m128i x = _mm_loadl_epi64((const void *)p);
    return is_signed ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x);
}

/* tile_e8m0, eight at a time. */
INLINE __m256 e8m0(const uint8_t *p) {
    __m256i e = bytes8(p, false), tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x200000), e);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, tiny, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

/* Scales of eight rows; `run` counts the runs of columns that share a sub-scale. */
INLINE __m256 scale_of(const uint8_t *tile, const uint32_t run, const uint32_t half, const tile_shape s) {
    if (s.is_wide) return _mm256_loadu_ps((const void *)(tile + tile_d(s) + (run * KERNELS_LANES + HALF_ROWS * half) * 4));
    if (s.scale == TILE_E8M0) return e8m0(tile + tile_d(s) + HALF_ROWS * half);
    __m256 d = halves(tile + tile_d(s) + 2 * HALF_ROWS * half);
    if (s.scale == TILE_HALF) return d;
    __m256i sub = bytes8(tile + tile_sub(s) + run * KERNELS_LANES + HALF_ROWS * half, s.scale == TILE_BYTES);
    if (s.scale == TILE_NIBBLES) sub = _mm256_and_si256(sub, _mm256_set1_epi32(15));
    return _mm256_mul_ps(d, _mm256_cvtepi32_ps(sub));
}

/* The same of minimums. */
INLINE __m256 min_of(const uint8_t *tile, const uint32_t run, const uint32_t half, const tile_shape s) {
    if (s.is_wide) return _mm256_loadu_ps((const void *)(tile + tile_wide_m(s) + (run * KERNELS_LANES + HALF_ROWS * half) * 4));
    __m256 m = halves(tile + tile_m(s) + 2 * HALF_ROWS * half);
    if (s.scale == TILE_HALF) return m;
    const uint32_t at = s.scale == TILE_BYTES ? tile_sub_min(s) : tile_sub(s);
    __m256i sub = bytes8(tile + at + run * KERNELS_LANES + HALF_ROWS * half, false);
    if (s.scale == TILE_NIBBLES) sub = _mm256_srli_epi32(sub, 4);
    return _mm256_xor_ps(_mm256_mul_ps(m, _mm256_cvtepi32_ps(sub)), _mm256_set1_ps(-0.0f));
}
#endif

#endif
