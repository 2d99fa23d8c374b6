/* Dequantization for NEON, as in avx2_dequant.c: the value, which is exact, times the scale, then the minimum. */
#include "kernels/cpu/neon_tile.h"

#ifdef KERNELS_HAS_NEON

/* Columns 4 * at to 4 * at + 3 of four rows: byte j of a row is moved to the top of its four and down again with its sign. */
INLINE void quad(float (*out)[KERNELS_LANES], const uint8_t *codes, float32x4_t d, float32x4_t m, const uint32_t quarter,
                 const uint32_t at, const tile_shape s) {
    const uint8_t *plane = codes + 16 * quarter;
    uint8x16_t low = vld1q_u8(plane + at * s.low / 8 * 64), high = low;
    if (s.high) high = vld1q_u8(plane + (s.low + at * s.high / 8) * 64);
    const int32x4_t x = vreinterpretq_s32_s8(vsubq_s8(quad_of(low, high, at, s), vdupq_n_s8((int8_t)s.bias)));
    for (int j = 0; j < 4; j++) {
        float32x4_t y = vmulq_f32(d, vcvtq_f32_s32(vshrq_n_s32(vshlq_s32(x, vdupq_n_s32(24 - 8 * j)), 24)));
        if (s.has_min) y = vaddq_f32(y, m);
        vst1q_f32(out[4 * at + (uint32_t)j] + QUARTER_ROWS * quarter, y);
    }
}

INLINE void dequantize(float (*out)[KERNELS_LANES], const uint8_t *tile, uint32_t group, const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    const uint32_t run = s.halves ? 2 * group : group;
    for (uint32_t quarter = 0; quarter < QUARTERS; quarter++) {
        float32x4_t d = scale_of(tile, run, quarter, s), m = s.has_min ? min_of(tile, run, quarter, s) : d;
        quad(out, codes, d, m, quarter, 0, s);
        quad(out, codes, d, m, quarter, 1, s);
        quad(out, codes, d, m, quarter, 2, s);
        quad(out, codes, d, m, quarter, 3, s);
        if (s.halves) {
            d = scale_of(tile, run + 1, quarter, s);
            m = s.has_min ? min_of(tile, run + 1, quarter, s) : d;
        }
        quad(out, codes, d, m, quarter, 4, s);
        quad(out, codes, d, m, quarter, 5, s);
        quad(out, codes, d, m, quarter, 6, s);
        quad(out, codes, d, m, quarter, 7, s);
    }
}

/* The float formats have no groups; their products read them as they are. */
#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_neon_dequantize_##id(void *out, const uint8_t *tile, uint32_t group) {                                          \
        if (KERNELS_##id > KERNELS_BF16) dequantize(out, tile, group, tile_shapes[KERNELS_##id]);                                \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
