/* Scalar primitives of families beside llama's: rotation of the two halves of a head (GPT-NeoX), and GELU by tanh (Hendrycks and
 * Gimpel, arXiv 1606.08415) before the gate's product (Shazeer, 2002.05202). */
#include "base/fmath.h"
#include "kernels/kernels_int.h"

void kernels_ref_rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim)
        for (uint32_t i = 0; i < half; i++) {
            float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[i], b = x[i + half];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + half] = __builtin_fmaf(b, c, a * s);
        }
}

void kernels_ref_geglu(float *out, const float *gate, const float *up, uint32_t dim) {
    for (uint32_t i = 0; i < dim; i++) {
        float g = gate[i], u = g * __builtin_fmaf(KERNELS_GELU_C2, g * g, KERNELS_GELU_C1);
        out[i] = g / (1.0f + fmath_expf(-u)) * up[i];
    }
}
