/* The primitives for AVX2, FMA and F16C; compiled with those flags, so nothing here may run before kernels_avx2() has asked the
 * processor. Bits equal ref/ref.c: the same operations on the same values in the same order, eight lanes at a time; only exact
 * steps (integer sums, conversions) are arranged otherwise. */
#include "kernels/cpu/avx2_int.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "base/fmath.h"
#include <cpuid.h>
#include <math.h>
#include <string.h>

/* -- rows ---------------------------------------------------------------------------------------------------------------- */

/* Lanes i and i + 8 already added. */
INLINE float sum8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Sixteen lanes over n, then lanes i and i + 8 added. */
INLINE __m256 dot8(const float *a, const float *b, uint32_t n) {
    __m256 s0 = _mm256_setzero_ps(), s1 = s0;
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
        s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
    }
    if (i < n) {
        s0 = _mm256_fmadd_ps(load_first(a + i, n - i), load_first(b + i, n - i), s0);
        __m256 a1 = _mm256_setzero_ps(), b1 = a1;
        if (n - i > 8) {
            a1 = load_first(a + i + 8, n - i - 8);
            b1 = load_first(b + i + 8, n - i - 8);
        }
        s1 = _mm256_fmadd_ps(a1, b1, s1);
    }
    return _mm256_add_ps(s0, s1);
}

INLINE __m256d on_grid(__m128 x) {
    const __m256d m = _mm256_set1_pd(0x1.8p24);
    return _mm256_sub_pd(_mm256_add_pd(_mm256_cvtps_pd(x), m), m);
}

/* Sums are exact, so that a value that does not fit may spoil its sum at the end. */
INLINE void store_fitting(double *sum, __m256d s, __m128 most, double limit) {
    __m256d fits = _mm256_cmp_pd(_mm256_cvtps_pd(most), _mm256_set1_pd(limit), _CMP_LT_OQ);
    _mm256_storeu_pd(sum, _mm256_blendv_pd(_mm256_set1_pd(NAN), s, fits));
}

static void add_on_grid(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit) {
    for (uint32_t i = 0; i < n; i += 8, y += 8) {
        __m256d s0 = _mm256_loadu_pd(sum + i), s1 = _mm256_loadu_pd(sum + i + 4);
        __m256i most = _mm256_setzero_si256(); /* of the magnitudes as bits: NaN sorts above infinity */
        for (uint32_t u = 0; u < n_units; u++) {
            __m256 x = _mm256_loadu_ps(y + (size_t)u * n);
            most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)));
            s0 = _mm256_add_pd(s0, on_grid(_mm256_castps256_ps128(x)));
            s1 = _mm256_add_pd(s1, on_grid(_mm256_extractf128_ps(x, 1)));
        }
        __m256 largest = _mm256_castsi256_ps(most);
        store_fitting(sum + i, s0, _mm256_castps256_ps128(largest), limit);
        store_fitting(sum + i + 4, s1, _mm256_extractf128_ps(largest, 1), limit);
    }
}

static void quantize_full(kernels_act *out, const float *x) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    for (uint32_t i = 0; i < KERNELS_GROUP; i += 8) m = _mm256_max_epu32(m, _mm256_and_si256(load(x + i), magnitude));
    const uint32_t amax = max_epu32(m);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        *out = (kernels_act){.d = 0};
        if (amax >= 0x7f800000u) out->d = out->d_sum = NAN;
        return;
    }
    float a;
    memcpy(&a, &amax, sizeof a);
    __m256 inverse = _mm256_set1_ps(127.0f / a);
    __m256i q[4];
    for (uint32_t i = 0; i < 4; i++) /* to nearest, half to even */
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse));
    /* Packing works in 128-bit halves: put the four-byte pieces back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((void *)out->q, bytes);
    /* In each 128 bits: two sums of the first half, two of the second. */
    __m256i pairs = _mm256_hadd_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    h = _mm_hadd_epi32(h, h);
    out->sum_low = _mm_cvtsi128_si32(h);
    out->sum = out->sum_low + _mm_extract_epi32(h, 1);
    out->d = a / 127.0f;
    out->d_sum = out->d * (float)out->sum;
}

static void quantize(kernels_act *out, const float *x, uint32_t k) {
    for (; k >= KERNELS_GROUP; k -= KERNELS_GROUP, x += KERNELS_GROUP) quantize_full(out++, x);
    if (!k) return;
    float last[KERNELS_GROUP] = {0};
    memcpy(last, x, k * sizeof *x);
    quantize_full(out, last);
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t dim, float eps) {
    float r = 1.0f / sqrtf(sum8(dot8(x, x, dim)) / (float)dim + eps);
    __m256 r8 = _mm256_set1_ps(r);
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8)
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), r8), _mm256_loadu_ps(w + i)));
    for (; i < dim; i++) out[i] = x[i] * r * w[i];
}

static void rope(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 8 <= head_dim; i += 8) {
            __m256 v = _mm256_loadu_ps(x + i), t = _mm256_loadu_ps(cos_sin + i);
            __m256 crossed = _mm256_mul_ps(_mm256_permute_ps(v, 0xb1), _mm256_movehdup_ps(t));
            _mm256_storeu_ps(x + i, _mm256_fmaddsub_ps(v, _mm256_moveldup_ps(t), crossed));
        }
        for (; i + 1 < head_dim; i += 2) {
            float c = cos_sin[i], s = cos_sin[i + 1], a = x[i], b = x[i + 1];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + 1] = __builtin_fmaf(b, c, a * s);
        }
    }
}

static void swiglu(float *out, const float *gate, const float *up, uint32_t dim) {
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, exp8(_mm256_xor_ps(g, sign))));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(silu, _mm256_loadu_ps(up + i)));
    }
    for (; i < dim; i++) out[i] = gate[i] / (1.0f + fmath_expf(-gate[i])) * up[i];
}

static const kernels_primitives table = {
    .isa = "avx2",
    .tile_tokens = TILE_TOKENS,
    .product =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx2_product_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .dequantize =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx2_dequantize_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .widen =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx2_widen_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .wide_tokens = WIDE_TOKENS,
    .packed_passes = 4, /* tried: 2, 3, 6 */
    .product_wide =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_avx2_product_wide_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .add_on_grid = add_on_grid,
    .quantize = quantize,
    .rmsnorm = rmsnorm,
    .rope = {[KERNELS_ROPE_NEIGHBOURS] = rope, [KERNELS_ROPE_HALVES] = kernels_avx2_rope_halves},
    .glu = {[KERNELS_SILU] = swiglu, [KERNELS_GELU] = kernels_avx2_geglu},
    .kv_encode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_avx2_kv_encode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .kv_decode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_avx2_kv_decode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .attend = kernels_avx2_attend,
};

/* gcc and clang differ in whether __builtin_cpu_supports knows F16C. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

const kernels_primitives *kernels_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() ? &table : NULL;
}

#else

const kernels_primitives *kernels_avx2(void) { return NULL; }

#endif
