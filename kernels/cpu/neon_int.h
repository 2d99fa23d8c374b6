/* Between the NEON files: what the others have for the table of neon.c, and what they share.
 *
 * All are compiled for AArch64 with the dot product instructions (Armv8.2), so nothing of them may run before kernels_neon() has
 * asked the processor. A vector is four floats: the 16 lanes of docs/numerics.md are four of them. Pure; any thread. */
#ifndef CONSORT_KERNELS_NEON_INT_H
#define CONSORT_KERNELS_NEON_INT_H

#include "kernels/kernels_int.h"

/* Most tokens of a product: what its registers hold. */
#define TILE_TOKENS 4

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    kernels_product kernels_neon_product_##id;                                                                                   \
    kernels_unpack kernels_neon_dequantize_##id;
#include "kernels/formats.def"
#undef FORMAT

#define KV_TYPE(id, bytes)                                                                                                       \
    kernels_kv_encode kernels_neon_kv_encode_##id;                                                                               \
    kernels_kv_decode kernels_neon_kv_decode_##id;
#include "kernels/kv_types.def"
#undef KV_TYPE

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define KERNELS_HAS_NEON 1
#define INLINE           static inline __attribute__((always_inline))

INLINE float32x4_t halves(const void *p) { /* of any alignment */
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
#endif

#endif
