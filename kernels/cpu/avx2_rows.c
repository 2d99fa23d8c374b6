/* AVX2 twins of ref/rows.c; as in avx2.c, nothing here may run before kernels_avx2() has asked the processor. */
#include "kernels/cpu/avx2_int.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

void kernels_avx2_rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 8 <= half; i += 8) {
            __m256 t0 = _mm256_loadu_ps(cos_sin + 2 * i), t1 = _mm256_loadu_ps(cos_sin + 2 * i + 8);
            /* {cos, sin} pairs apart; shuffles work in 128-bit halves: put the pieces of two back in order */
            __m256 c = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(t0, t1, 0x88)), 0xd8));
            __m256 s = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(t0, t1, 0xdd)), 0xd8));
            __m256 a = _mm256_loadu_ps(x + i), b = _mm256_loadu_ps(x + i + half);
            _mm256_storeu_ps(x + i, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
            _mm256_storeu_ps(x + i + half, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
        }
        for (; i < half; i++) {
            float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[i], b = x[i + half];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + half] = __builtin_fmaf(b, c, a * s);
        }
    }
}

void kernels_avx2_geglu(float *out, const float *gate, const float *up, uint32_t dim) {
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    const __m256 c1 = _mm256_set1_ps(KERNELS_GELU_C1), c2 = _mm256_set1_ps(KERNELS_GELU_C2);
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i), u = _mm256_mul_ps(g, _mm256_fmadd_ps(c2, _mm256_mul_ps(g, g), c1));
        __m256 gelu = _mm256_div_ps(g, _mm256_add_ps(one, exp8(_mm256_xor_ps(u, sign))));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(gelu, _mm256_loadu_ps(up + i)));
    }
    kernels_ref_geglu(out + i, gate + i, up + i, dim - i);
}

#endif
