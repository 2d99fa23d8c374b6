/* F32, F16 and BF16 weights: a tile is one column of 16 rows; activations stay floats. */
#include "base/half.h"
#include "kernels/kernels_int.h"

static void pack_32(uint8_t *tile, const uint8_t *block, uint32_t lane) { memcpy(tile + 4 * lane, block, 4); }
static void pack_16(uint8_t *tile, const uint8_t *block, uint32_t lane) { memcpy(tile + 2 * lane, block, 2); }

static void unpack_f32(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane) {
    (void)k0;
    memcpy(out, tile + 4 * lane, 4);
}
static void unpack_f16(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane) {
    (void)k0;
    *out = half_load(tile + 2 * lane);
}
static void unpack_bf16(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane) { /* the upper half of a float */
    (void)k0;
    uint32_t u = (uint32_t)tile[2 * lane] << 16 | (uint32_t)tile[2 * lane + 1] << 24;
    memcpy(out, &u, 4);
}

static inline void product(float (*out)[KERNELS_LANES], const uint8_t *tile, size_t tile_bytes,
                           void (*unpack)(float *, const uint8_t *, uint32_t, uint32_t), const void *x, size_t stride,
                           uint32_t n_tokens, uint32_t n_k) {
    for (uint32_t t = 0; t < n_tokens; t++) {
        const float *row = (const float *)((const char *)x + t * stride);
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            float sum = 0;
            for (uint32_t c0 = 0; c0 < n_k; c0 += KERNELS_CHUNK) {
                uint32_t end = n_k - c0 < KERNELS_CHUNK ? n_k : c0 + KERNELS_CHUNK;
                float acc = 0, w;
                for (uint32_t k = c0; k < end; k++) {
                    unpack(&w, tile + k * tile_bytes, 0, lane);
                    acc = __builtin_fmaf(w, row[k], acc);
                }
                sum = c0 ? sum + acc : acc;
            }
            out[t][lane] = sum;
        }
    }
}

#define FLOAT_FORMAT(id, bytes, pack, unpack)                                                                                    \
    static void product_##id(float(*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,        \
                             uint32_t n, uint32_t n_k, uint32_t unit_k, kernels_ahead ahead) {                                   \
        (void)ahead;                                                                                                             \
        for (uint32_t k = 0; k < n_k; k += unit_k, out += n)                                                                     \
            product(out, strip + (size_t)(k0 + k) * KERNELS_LANES * bytes, KERNELS_LANES * bytes, unpack, (const float *)x + k,  \
                    stride, n, n_k - k < unit_k ? n_k - k : unit_k);                                                             \
    }                                                                                                                            \
    const kernels_layout kernels_layout_##id = {1, 1, KERNELS_LANES * bytes, pack, unpack, product_##id};
FLOAT_FORMAT(F32, 4, pack_32, unpack_f32)
FLOAT_FORMAT(F16, 2, pack_16, unpack_f16)
FLOAT_FORMAT(BF16, 2, pack_16, unpack_bf16)
