/* The primitives for AVX-512. Bits equal ref/ref.c: the same operations on the same values in the same order, sixteen lanes at a
 * time, which is just the order of sums that docs/numerics.md asks for. */
#include "kernels/cpu/avx512_int.h"

#ifdef KERNELS_HAS_AVX512
#include <math.h>
#include <string.h>

/* -- rows ---------------------------------------------------------------------------------------------------------------- */

INLINE __m512 dot16(const float *a, const float *b, uint32_t n) {
    __m512 s = _mm512_setzero_ps();
    for (uint32_t i = 0; i < n; i += 16) s = _mm512_fmadd_ps(load(a + i, n - i), load(b + i, n - i), s);
    return s;
}

/* Lanes i and i + 8, i and i + 4, i and i + 2, i and i + 1. */
INLINE float sum16(__m512 v) {
    v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    v = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
    v = _mm512_add_ps(v, _mm512_shuffle_ps(v, v, 0x4e));
    v = _mm512_add_ps(v, _mm512_shuffle_ps(v, v, 0xb1));
    return _mm_cvtss_f32(_mm512_castps512_ps128(v));
}

INLINE __m256 half_of(__m512 x, const uint32_t half) {
    return _mm256_castpd_ps(half ? _mm512_extractf64x4_pd(_mm512_castps_pd(x), 1) : _mm512_castpd512_pd256(_mm512_castps_pd(x)));
}

/* A value on the grid is a number of 2^-28, and those under the limit sum up in integers, exactly, which a double holds exactly.
 * Whatever does not fit may spoil its sum, which becomes NaN at the end. */
static void add_on_grid(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit) {
    const __m512d limit8 = _mm512_set1_pd(limit), nan = _mm512_set1_pd(NAN);
    for (uint32_t i = 0; i < n; i += 16) {
        __m512i units[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()}, largest = _mm512_setzero_si512();
        for (uint32_t u = 0; u < n_units; u++) {
            __m512 x = _mm512_loadu_ps(y + (size_t)u * n + i), on_grid = _mm512_mul_ps(x, _mm512_set1_ps(0x1p28f));
            largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
            for (uint32_t h = 0; h < 2; h++) /* to nearest, half to even */
                units[h] = _mm512_add_epi64(units[h], _mm512_cvtps_epi64(half_of(on_grid, h)));
        }
        for (uint32_t h = 0; h < 2; h++) {
            __m512d most = _mm512_cvtps_pd(half_of(_mm512_castsi512_ps(largest), h)), s = _mm512_loadu_pd(sum + i + 8 * h);
            s = _mm512_fmadd_pd(_mm512_cvtepi64_pd(units[h]), _mm512_set1_pd(0x1p-28), s);
            __mmask8 fits = _mm512_cmp_pd_mask(most, limit8, _CMP_LT_OQ);
            _mm512_storeu_pd(sum + i + 8 * h, _mm512_mask_blend_pd(fits, nan, s));
        }
    }
}

/* n <= KERNELS_GROUP; values behind are 0. */
INLINE void quantize_group(kernels_act *out, const float *x, uint32_t n) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512 x0 = load(x, n), x1 = n > 16 ? load(x + 16, n - 16) : _mm512_setzero_ps();
    uint32_t amax = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(x0), magnitude),
                                                             _mm512_and_si512(_mm512_castps_si512(x1), magnitude)));
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        *out = (kernels_act){.d = 0};
        if (amax >= 0x7f800000u) out->d = out->d_sum = NAN;
        return;
    }
    float a;
    memcpy(&a, &amax, sizeof a);
    __m512 inverse = _mm512_set1_ps(127.0f / a);
    __m128i low = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse))); /* to nearest, half to even */
    __m128i high = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse)));
    _mm_storeu_si128((void *)out->q, low);
    _mm_storeu_si128((void *)(out->q + 16), high);
    __m256i sum = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), _mm256_set_m128i(high, low)); /* of fours */
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0x4e));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
    out->sum_low = _mm256_cvtsi256_si32(sum);
    out->sum = out->sum_low + _mm_cvtsi128_si32(_mm256_extracti128_si256(sum, 1));
    out->d = a / 127.0f;
    out->d_sum = out->d * (float)out->sum;
}

static void quantize(kernels_act *out, const float *x, uint32_t k) {
    for (; k >= KERNELS_GROUP; k -= KERNELS_GROUP, x += KERNELS_GROUP) quantize_group(out++, x, KERNELS_GROUP);
    if (k) quantize_group(out, x, k);
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t dim, float eps) {
    __m512 r = _mm512_set1_ps(1.0f / sqrtf(sum16(dot16(x, x, dim)) / (float)dim + eps));
    for (uint32_t i = 0; i < dim; i += 16)
        store(out + i, _mm512_mul_ps(_mm512_mul_ps(load(x + i, dim - i), r), load(w + i, dim - i)), dim - i);
}

static void rope(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim)
        for (uint32_t i = 0; i < head_dim; i += 16) {
            __m512 v = load(x + i, head_dim - i), t = load(cos_sin + i, head_dim - i);
            __m512 crossed = _mm512_mul_ps(_mm512_shuffle_ps(v, v, 0xb1), _mm512_shuffle_ps(t, t, 0xf5));
            store(x + i, _mm512_fmaddsub_ps(v, _mm512_shuffle_ps(t, t, 0xa0), crossed), head_dim - i);
        }
}

static void rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim)
        for (uint32_t i = 0; i < half; i += 16) {
            uint32_t n = half - i;
            __m512 t0 = load(cos_sin + 2 * i, 2 * n), t1 = n > 8 ? load(cos_sin + 2 * i + 16, 2 * n - 16) : _mm512_setzero_ps();
            __m512 c = _mm512_permutex2var_ps(t0, even, t1), s = _mm512_permutex2var_ps(t0, odd, t1);
            __m512 a = load(x + i, n), b = load(x + i + half, n);
            store(x + i, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)), n);
            store(x + i + half, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)), n);
        }
}

/* (gate / (1 + exp(-u))) * up */
INLINE void glu(float *out, __m512 gate, __m512 u, const float *up, uint32_t n) {
    __m512 minus_u = _mm512_xor_ps(u, _mm512_set1_ps(-0.0f));
    store(out, _mm512_mul_ps(_mm512_div_ps(gate, _mm512_add_ps(_mm512_set1_ps(1.0f), exp16(minus_u))), load(up, n)), n);
}

static void swiglu(float *out, const float *gate, const float *up, uint32_t dim) {
    for (uint32_t i = 0; i < dim; i += 16) {
        __m512 g = load(gate + i, dim - i);
        glu(out + i, g, g, up + i, dim - i);
    }
}

static void geglu(float *out, const float *gate, const float *up, uint32_t dim) {
    const __m512 c1 = _mm512_set1_ps(KERNELS_GELU_C1), c2 = _mm512_set1_ps(KERNELS_GELU_C2);
    for (uint32_t i = 0; i < dim; i += 16) {
        __m512 g = load(gate + i, dim - i);
        glu(out + i, g, _mm512_mul_ps(g, _mm512_fmadd_ps(c2, _mm512_mul_ps(g, g), c1)), up + i, dim - i);
    }
}

static const kernels_primitives table = {
    .isa = "avx512",
    .tile_tokens = TILE_TOKENS,
    .product =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx512_product_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .dequantize =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx512_dequantize_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .widen =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx512_widen_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .wide_tokens = WIDE_TOKENS,
    .packed_passes = 4, /* tried on Zen 5: 2, 3, 6 */
    .product_wide =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx512_product_wide_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .add_on_grid = add_on_grid,
    .quantize = quantize,
    .rmsnorm = rmsnorm,
    .rope = {[KERNELS_ROPE_NEIGHBOURS] = rope, [KERNELS_ROPE_HALVES] = rope_halves},
    .glu = {[KERNELS_SILU] = swiglu, [KERNELS_GELU] = geglu},
    .kv_encode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_avx512_kv_encode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .kv_decode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_avx512_kv_decode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .attend = kernels_avx512_attend,
    .open_lanes = kernels_avx512_open_lanes,
    .attend_lanes = kernels_avx512_attend_lanes,
    .close_lanes = kernels_avx512_close_lanes,
};

const kernels_primitives *kernels_avx512(void) {
    return kernels_avx2() && /* FMA and F16C, too */
                   __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vnni")
               ? &table
               : NULL;
}

#else

const kernels_primitives *kernels_avx512(void) { return NULL; }

#endif
