/* Reading tiles (tile.h) for NEON: codes by four columns of four rows, scales and minimums by four rows; for products and for
 * dequantization. The shape is a constant of each use, so that what they do is chosen when they are compiled. Pure; any thread.
 */
#ifndef CONSORT_KERNELS_NEON_TILE_H
#define CONSORT_KERNELS_NEON_TILE_H

#include "kernels/cpu/neon_int.h"
#include "kernels/tile.h"

#ifdef KERNELS_HAS_NEON

enum { QUARTER_ROWS = 4, QUARTERS = KERNELS_LANES / QUARTER_ROWS }; /* a vector has four rows: a tile is four quarters */

INLINE uint8x16_t bits(uint8x16_t plane, const uint32_t from, const uint32_t to, const uint32_t n) {
    const uint8x16_t down = vdupq_n_u8((uint8_t)(from > to ? from - to : 0)),
                     up = vdupq_n_u8((uint8_t)(to > from ? to - from : 0));
    uint8x16_t x = from > to ? plane >> down : from < to ? plane << up : plane;
    return !to && from + n == 8 ? x : vandq_u8(x, vdupq_n_u8((uint8_t)(((1u << n) - 1) << to)));
}

/* Four columns of four rows, of the planes that hold them: codes, or values of the book. */
INLINE int8x16_t quad_of(const uint8x16_t low, const uint8x16_t high, const uint32_t quad, const tile_shape s) {
    uint8x16_t x = bits(low, quad % (8 / s.low) * s.low, 0, s.low);
    if (s.high) x = vorrq_u8(x, bits(high, quad % (8 / s.high) * s.high, s.low, s.high));
    return s.book ? vqtbl1q_s8(vld1q_s8(tile_books[s.book]), x) : vreinterpretq_s8_u8(x);
}

INLINE int32x4_t bytes4(const uint8_t *p, const bool is_signed) {
    uint32_t word;
    memcpy(&word, p, sizeof word);
    if (is_signed) return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(word))));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(word)))));
}

/* tile_e8m0, four at a time. */
INLINE float32x4_t e8m0(const uint8_t *p) {
    int32x4_t e = bytes4(p, false), normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23);
    int32x4_t tiny = vshlq_s32(vdupq_n_s32(0x200000), e);
    return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), tiny, normal));
}

/* Scales of four rows; `run` counts the runs of columns that share a sub-scale. */
INLINE float32x4_t scale_of(const uint8_t *tile, const uint32_t run, const uint32_t quarter, const tile_shape s) {
    if (s.scale == TILE_E8M0) return e8m0(tile + tile_d(s) + QUARTER_ROWS * quarter);
    float32x4_t d = halves(tile + tile_d(s) + 2 * QUARTER_ROWS * quarter);
    if (s.scale == TILE_HALF) return d;
    int32x4_t sub = bytes4(tile + tile_sub(s) + run * KERNELS_LANES + QUARTER_ROWS * quarter, s.scale == TILE_BYTES);
    if (s.scale == TILE_NIBBLES) sub = vandq_s32(sub, vdupq_n_s32(15));
    return vmulq_f32(d, vcvtq_f32_s32(sub));
}

/* The same of minimums. */
INLINE float32x4_t min_of(const uint8_t *tile, const uint32_t run, const uint32_t quarter, const tile_shape s) {
    float32x4_t m = halves(tile + tile_m(s) + 2 * QUARTER_ROWS * quarter);
    if (s.scale == TILE_HALF) return m;
    const uint32_t at = s.scale == TILE_BYTES ? tile_sub_min(s) : tile_sub(s);
    int32x4_t sub = bytes4(tile + at + run * KERNELS_LANES + QUARTER_ROWS * quarter, false);
    if (s.scale == TILE_NIBBLES) sub = vshrq_n_s32(sub, 4);
    return vnegq_f32(vmulq_f32(m, vcvtq_f32_s32(sub)));
}

#endif

#endif
