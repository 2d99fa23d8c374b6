/* Block: the product of a row of a quantized tile with quantized activations, for every format of blocks of 32.
 *
 * A format gives its scale, minimum and integers; the formula and the order of sums stand here once (docs/numerics.md,
 * "Matrix products"). Included by the formats of ref/ only. Pure; any thread. */
#ifndef CONSORT_KERNELS_REF_BLOCK_H
#define CONSORT_KERNELS_REF_BLOCK_H

#include "kernels/kernels_int.h"

typedef struct {
    float d, m;
    int8_t q[KERNELS_GROUP];
} block_row; /* one row of a tile: value k is d * q[k] + m */

static inline float block_sum(float acc, const block_row *w, bool has_min, const kernels_act *a) {
    int32_t isum = 0;
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) isum += w->q[k] * a->q[k];
    acc = __builtin_fmaf(w->d * a->d, (float)isum, acc);
    return has_min ? __builtin_fmaf(w->m, a->d_sum, acc) : acc;
}

static inline void block_product(float (*out)[KERNELS_LANES], const uint8_t *tile, size_t tile_bytes,
                                 block_row (*read)(const uint8_t *, uint32_t), bool has_min, const void *x, size_t stride,
                                 uint32_t n_tokens, uint32_t n_k) {
    const uint32_t n_blocks = n_k / KERNELS_GROUP, chunk = KERNELS_CHUNK / KERNELS_GROUP;
    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
        float sum[KERNELS_TILE_TOKENS] = {0};
        for (uint32_t b0 = 0; b0 < n_blocks; b0 += chunk) {
            uint32_t end = n_blocks - b0 < chunk ? n_blocks : b0 + chunk;
            float acc[KERNELS_TILE_TOKENS] = {0};
            for (uint32_t b = b0; b < end; b++) {
                block_row w = read(tile + b * tile_bytes, lane);
                for (uint32_t t = 0; t < n_tokens; t++)
                    acc[t] = block_sum(acc[t], &w, has_min, (const kernels_act *)((const char *)x + t * stride) + b);
            }
            for (uint32_t t = 0; t < n_tokens; t++) sum[t] = b0 ? sum[t] + acc[t] : acc[t];
        }
        for (uint32_t t = 0; t < n_tokens; t++) out[t][lane] = sum[t];
    }
}

#endif
