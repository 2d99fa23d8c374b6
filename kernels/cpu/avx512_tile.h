/* Reading tiles (tile.h) for AVX-512, in vectors of 16 rows: codes, scales and minimums; for products and for dequantization. The
 * shape is a constant of each use, so that shifts, masks and formulas are chosen when it is compiled. */
#ifndef CONSORT_KERNELS_AVX512_TILE_H
#define CONSORT_KERNELS_AVX512_TILE_H

#include "kernels/cpu/avx512_int.h"
#include "kernels/tile.h"

#ifdef KERNELS_HAS_AVX512

/* One factor of vpdpbusd is unsigned: values that have a sign without a bias get one here. */
INLINE int32_t bias_of(const tile_shape s) { return s.bias + (s.is_signed ? 128 : 0); }

/* All values without a minimum are widened to value + 128, so that there are only these four. */
INLINE tile_shape wide_of(const bool halves, const bool has_min) {
    return (tile_shape){.groups = 1, .low = 8, .is_wide = true, .halves = halves, .has_min = has_min, .bias = has_min ? 0 : 128};
}

INLINE __m512i bits(__m512i plane, const uint32_t from, const uint32_t to, const uint32_t n) {
    __m512i x = from > to ? _mm512_srli_epi32(plane, from - to) : from < to ? _mm512_slli_epi32(plane, to - from) : plane;
    return n == 8 ? x : _mm512_and_si512(x, _mm512_set1_epi8((char)(((1 << n) - 1) << to)));
}

/* Four columns of 16 rows as unsigned values: their value + bias_of(s). */
INLINE __m512i quad_of(const __m512i low, const __m512i high, const uint32_t quad, const tile_shape s) {
    __m512i x = bits(low, quad % (8 / s.low) * s.low, 0, s.low);
    if (s.high) x = _mm512_or_si512(x, bits(high, quad % (8 / s.high) * s.high, s.low, s.high));
    if (s.book) x = _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)tile_books[s.book])), x);
    return s.is_signed ? _mm512_xor_si512(x, _mm512_set1_epi8((char)0x80)) : x;
}

INLINE __m512i bytes16(const uint8_t *p, const bool is_signed) {
    __m128i x = _mm_loadu_si128((const void *)p);
    return is_signed ? _mm512_cvtepi8_epi32(x) : _mm512_cvtepu8_epi32(x);
}

/* tile_e8m0, sixteen at a time. */
INLINE __m512 e8m0(const uint8_t *p) {
    __m512i e = bytes16(p, false), normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 is_tiny = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(2), e);
    return _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_tiny, normal, _mm512_sllv_epi32(_mm512_set1_epi32(0x200000), e)));
}

/* Scales of the rows; `run` counts the runs of columns that share a sub-scale. */
INLINE __m512 scale_of(const uint8_t *tile, const uint32_t run, const tile_shape s) {
    if (s.is_wide) return _mm512_loadu_ps(tile + tile_d(s) + run * 4 * KERNELS_LANES);
    if (s.scale == TILE_E8M0) return e8m0(tile + tile_d(s));
    __m512 d = halves(tile + tile_d(s));
    if (s.scale == TILE_HALF) return d;
    __m512i sub = bytes16(tile + tile_sub(s) + run * KERNELS_LANES, s.scale == TILE_BYTES);
    if (s.scale == TILE_NIBBLES) sub = _mm512_and_si512(sub, _mm512_set1_epi32(15));
    return _mm512_mul_ps(d, _mm512_cvtepi32_ps(sub));
}

/* The same of minimums. */
INLINE __m512 min_of(const uint8_t *tile, const uint32_t run, const tile_shape s) {
    if (s.is_wide) return _mm512_loadu_ps(tile + tile_wide_m(s) + run * 4 * KERNELS_LANES);
    __m512 m = halves(tile + tile_m(s));
    if (s.scale == TILE_HALF) return m;
    const uint32_t at = s.scale == TILE_BYTES ? tile_sub_min(s) : tile_sub(s);
    __m512i sub = bytes16(tile + at + run * KERNELS_LANES, false);
    if (s.scale == TILE_NIBBLES) sub = _mm512_srli_epi32(sub, 4);
    return _mm512_xor_ps(_mm512_mul_ps(m, _mm512_cvtepi32_ps(sub)), _mm512_set1_ps(-0.0f));
}

#endif

#endif
