/* F32 and F16 weights: a tile is one column of 16 rows; activations stay floats. */
#include "kernels/half.h"
#include "kernels/kernels_int.h"

static void pack_f32(uint8_t *tile, const uint8_t *block, uint32_t lane) { memcpy(tile + 4 * lane, block, 4); }
static void pack_f16(uint8_t *tile, const uint8_t *block, uint32_t lane) { memcpy(tile + 2 * lane, block, 2); }
static void unpack_f32(float *out, const uint8_t *tile, uint32_t lane) { memcpy(out, tile + 4 * lane, 4); }
static void unpack_f16(float *out, const uint8_t *tile, uint32_t lane) { *out = half_load(tile + 2 * lane); }

static inline void product(float (*out)[KERNELS_LANES], const uint8_t *tile, size_t tile_bytes,
                           void (*unpack)(float *, const uint8_t *, uint32_t), const void *x, size_t stride, uint32_t n_tokens,
                           uint32_t n_k) {
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *row = (const float *)((const char *)x + t * stride);
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            float sum = 0;
            for (uint32_t k0 = 0; k0 < n_k; k0 += KERNELS_CHUNK) {
                uint32_t end = n_k - k0 < KERNELS_CHUNK ? n_k : k0 + KERNELS_CHUNK;
                float acc = 0, w;
                for (uint32_t k = k0; k < end; k++) {
                    unpack(&w, tile + k * tile_bytes, lane);
                    acc = __builtin_fmaf(w, row[k], acc);
                }
                sum = k0 ? sum + acc : acc;
            }
            out[t][lane] = sum;
        }
    }
}

static void product_f32(float (*out)[KERNELS_LANES], const uint8_t *tile, const void *x, size_t stride, uint32_t n_tokens,
                        uint32_t n_k) {
    product(out, tile, 64, unpack_f32, x, stride, n_tokens, n_k);
}

static void product_f16(float (*out)[KERNELS_LANES], const uint8_t *tile, const void *x, size_t stride, uint32_t n_tokens,
                        uint32_t n_k) {
    product(out, tile, 32, unpack_f16, x, stride, n_tokens, n_k);
}

const kernels_layout kernels_layout_F32 = {1, 64, pack_f32, unpack_f32, product_f32};
const kernels_layout kernels_layout_F16 = {1, 32, pack_f16, unpack_f16, product_f16};
