/* Matrix products for NEON with the dot product instructions, built as those of avx2_product.c: one source for every quantized
 * format, its shape a constant of each instance. A vector is a quad of four rows, and `sdot` adds its four columns in int32,
 * which is exact; all codes fit into a signed byte. The quarters of a tile are done one after the other, so that sums stay in
 * registers. Bits equal ref/block.h. */
#include "kernels/cpu/neon_tile.h"

#ifdef KERNELS_HAS_NEON

/* -- integer sums -------------------------------------------------------------------------------------------------------- */

/* A group of 32 columns of n tokens: their codes, and what a run of columns sums to. */
typedef struct {
    int8x16_t q[KERNELS_TILE_TOKENS][2];
    int32_t sum[KERNELS_TILE_TOKENS][2]; /* of the two halves, or of all and nothing */
} group_act;

/* Of a quarter: the planes at hand, and the sums by token. */
typedef struct {
    uint8x16_t low, high;
    int32x4_t sum[KERNELS_TILE_TOKENS];
} group_sums;

/* The instruction names the quad of activations by a constant. */
INLINE int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t q, const uint32_t quad) {
    switch (quad) {
    case 0: return vdotq_laneq_s32(sum, w, q, 0);
    case 1: return vdotq_laneq_s32(sum, w, q, 1);
    case 2: return vdotq_laneq_s32(sum, w, q, 2);
    default: return vdotq_laneq_s32(sum, w, q, 3);
    }
}

/* Adds four columns to the sums of n tokens. */
INLINE void add_quad(group_sums *g, const uint8_t *codes, const group_act *a, const uint32_t n, const uint32_t quad,
                     const tile_shape s) {
    if (quad % (8 / s.low) == 0) g->low = vld1q_u8(codes + quad * s.low / 8 * 64);
    if (s.high && quad % (8 / s.high) == 0) g->high = vld1q_u8(codes + (s.low + quad * s.high / 8) * 64);
    int8x16_t w = quad_of(g->low, g->high, quad, s);
    for (uint32_t t = 0; t < n; t++) g->sum[t] = dot(g->sum[t], w, a->q[t][quad / 4], quad % 4);
}

typedef float32x4_t token_sums[QUARTERS];

/* -- products ------------------------------------------------------------------------------------------------------------ */

/* Adds the sums of a run of columns, half `part` of a group or all of it, to those of n tokens. */
INLINE void add_run(token_sums *acc, const group_sums *g, const uint8_t *tile, const uint32_t run, const uint32_t part,
                    const uint32_t quarter, const kernels_act *const *a, const group_act *act, const uint32_t n,
                    const tile_shape s) {
    float32x4_t d = scale_of(tile, run, quarter, s), m = s.has_min ? min_of(tile, run, quarter, s) : d;
    for (uint32_t t = 0; t < n; t++) {
        float32x4_t sum = vfmaq_f32(acc[t][quarter], vmulq_n_f32(d, a[t]->d), vcvtq_f32_s32(g->sum[t]));
        if (s.has_min) {
            const float d_sum = s.halves ? a[t]->d * (float)act->sum[t][part] : a[t]->d_sum;
            sum = vfmaq_n_f32(sum, m, d_sum);
        }
        acc[t][quarter] = sum;
    }
}

/* The sums of a run start with what the bias will have added. */
INLINE void start_run(group_sums *g, const group_act *act, const uint32_t part, const uint32_t n, const tile_shape s) {
    for (uint32_t t = 0; t < n; t++) g->sum[t] = vdupq_n_s32(-s.bias * act->sum[t][part]);
}

/* Adds a group of 32 columns to the sums of n tokens. */
INLINE void add_group(token_sums *acc, const uint8_t *tile, uint32_t group, const kernels_act *const *a, const uint32_t n,
                      const tile_shape s) {
    group_act act;
    for (uint32_t t = 0; t < n; t++) {
        act.q[t][0] = vld1q_s8(a[t]->q);
        act.q[t][1] = vld1q_s8(a[t]->q + 16);
        act.sum[t][0] = s.halves ? a[t]->sum_low : a[t]->sum;
        act.sum[t][1] = a[t]->sum - act.sum[t][0];
    }
    for (uint32_t quarter = 0; quarter < QUARTERS; quarter++) {
        const uint8_t *codes = tile + group * tile_codes_bytes(s) + 16 * quarter;
        group_sums g;
        start_run(&g, &act, 0, n, s);
        add_quad(&g, codes, &act, n, 0, s);
        add_quad(&g, codes, &act, n, 1, s);
        add_quad(&g, codes, &act, n, 2, s);
        add_quad(&g, codes, &act, n, 3, s);
        if (s.halves) {
            add_run(acc, &g, tile, 2 * group, 0, quarter, a, &act, n, s);
            start_run(&g, &act, 1, n, s);
        }
        add_quad(&g, codes, &act, n, 4, s);
        add_quad(&g, codes, &act, n, 5, s);
        add_quad(&g, codes, &act, n, 6, s);
        add_quad(&g, codes, &act, n, 7, s);
        add_run(acc, &g, tile, s.halves ? 2 * group + 1 : group, 1, quarter, a, &act, n, s);
    }
}

INLINE void start_chunk(token_sums *acc, const uint32_t n) {
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < QUARTERS; i++) acc[t][i] = vdupq_n_f32(0);
}

INLINE void store_chunk(float (*out)[KERNELS_LANES], token_sums *acc, const uint32_t n, bool is_first) {
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t i = 0; i < QUARTERS; i++) {
            float *sum = out[t] + QUARTER_ROWS * i;
            vst1q_f32(sum, is_first ? acc[t][i] : vaddq_f32(vld1q_f32(sum), acc[t][i]));
        }
}

INLINE float32x4_t floats(const uint8_t *w, const kernels_format format) {
    if (format == KERNELS_F32) return vreinterpretq_f32_u8(vld1q_u8(w));
    if (format == KERNELS_F16) return halves(w);
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(w)), 16));
}

INLINE void add_column(token_sums *acc, const uint8_t *w, const char *x, size_t stride, const uint32_t n,
                       const kernels_format format) {
    for (uint32_t i = 0; i < QUARTERS; i++) {
        float32x4_t quarter = floats(w + i * QUARTER_ROWS * (format == KERNELS_F32 ? 4 : 2), format);
        for (uint32_t t = 0; t < n; t++) acc[t][i] = vfmaq_n_f32(acc[t][i], quarter, *(const float *)(x + t * stride));
    }
}

#define PRODUCT(id) kernels_neon_product_##id
#include "kernels/cpu/product_loops.h"

#endif
