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

/* The first n < 8 floats, the others 0. */
INLINE __m256i first(uint32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE __m256 load_first(const float *x, uint32_t n) { return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first(n)); }

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

static void add_on_grid(double *sum, const float *y, uint32_t n, double limit) {
    const __m256d m = _mm256_set1_pd(0x1.8p24), limit4 = _mm256_set1_pd(limit), nan = _mm256_set1_pd(NAN);
    const __m256d sign = _mm256_set1_pd(-0.0);
    for (uint32_t i = 0; i < n; i += 4) {
        __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(y + i));
        __m256d fits = _mm256_cmp_pd(_mm256_andnot_pd(sign, x), limit4, _CMP_LT_OQ);
        x = _mm256_blendv_pd(nan, _mm256_sub_pd(_mm256_add_pd(x, m), m), fits);
        _mm256_storeu_pd(sum + i, _mm256_add_pd(_mm256_loadu_pd(sum + i), x));
    }
}

static void quantize_full(kernels_act *out, const float *x) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_setzero_si256();
    for (uint32_t i = 0; i < KERNELS_GROUP; i += 8) m = _mm256_max_epu32(m, _mm256_and_si256(load(x + i), magnitude));
    __m128i h = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0xb1));
    uint32_t amax = (uint32_t)_mm_cvtsi128_si32(h);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        *out = (kernels_act){.d = 0};
        if (amax >= 0x7f800000u) out->d = out->d_sum = NAN;
        return;
    }
    float a;
    memcpy(&a, &amax, sizeof a);
    __m256 inverse = _mm256_set1_ps(127.0f / a);
    __m256i q[4], sum = _mm256_setzero_si256();
    for (uint32_t i = 0; i < 4; i++) {
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), inverse)); /* to nearest, half to even */
        sum = _mm256_add_epi32(sum, q[i]);
    }
    /* Packing works in 128-bit halves: put the four-byte pieces back in order. */
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((void *)out->q, bytes);
    h = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    out->sum = _mm_cvtsi128_si32(h);
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

/* -- KV and attention ---------------------------------------------------------------------------------------------------- */

static void encode_f16(void *out, const float *x, uint32_t n) {
    uint16_t *to = out;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((void *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < n; i++) to[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

static void decode_f16(float *out, const void *x, uint32_t n) {
    const uint16_t *from = x;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, halves((const void *)(from + i)));
    for (; i < n; i++) out[i] = _cvtsh_ss(from[i]);
}

static void encode_f32(void *out, const float *x, uint32_t n) { memcpy(out, x, n * sizeof *x); }
static void decode_f32(float *out, const void *x, uint32_t n) { memcpy(out, x, n * sizeof *out); }

/* Lane j: the sum of key j's lanes, in the order of sum8: i with i + 4, with i + 2, with i + 1. */
INLINE __m256 sum8_of_8(const __m256 *r) {
    __m256 pair[4], quad[2];
    for (uint32_t j = 0; j < 4; j++)
        pair[j] = _mm256_add_ps(_mm256_permute2f128_ps(r[2 * j], r[2 * j + 1], 0x20),
                                _mm256_permute2f128_ps(r[2 * j], r[2 * j + 1], 0x31));
    for (uint32_t j = 0; j < 2; j++)
        quad[j] = _mm256_add_ps(_mm256_shuffle_ps(pair[2 * j], pair[2 * j + 1], 0x44),
                                _mm256_shuffle_ps(pair[2 * j], pair[2 * j + 1], 0xee));
    __m256 all = _mm256_add_ps(_mm256_shuffle_ps(quad[0], quad[1], 0x88), _mm256_shuffle_ps(quad[0], quad[1], 0xdd));
    return _mm256_permutevar8x32_ps(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* o += p_j * v_j, ascending, over 8 * width values. */
INLINE void add_values(float *o, const float *v, const float *p, uint32_t n_keys, uint32_t head_dim, __m256 rescale,
                       const uint32_t width) {
    __m256 acc[8];
    for (uint32_t i = 0; i < width; i++) acc[i] = _mm256_mul_ps(_mm256_loadu_ps(o + 8 * i), rescale);
    for (uint32_t j = 0; j < n_keys; j++, v += head_dim) {
        __m256 pj = _mm256_broadcast_ss(p + j);
        for (uint32_t i = 0; i < width; i++) acc[i] = _mm256_fmadd_ps(pj, _mm256_loadu_ps(v + 8 * i), acc[i]);
    }
    for (uint32_t i = 0; i < width; i++) _mm256_storeu_ps(o + 8 * i, acc[i]);
}

INLINE void attend_dim(kernels_softmax *s, float *o, const float *q, const float *k, const float *v, uint32_t n_keys,
                       const uint32_t head_dim, float scale) {
    float p[KERNELS_CHUNK_KEYS], m = s->m;
    for (uint32_t j0 = 0; j0 < n_keys; j0 += 8) {
        __m256 r[8];
        for (uint32_t j = 0; j < 8; j++) /* behind the last key: that key again, not looked at */
            r[j] = dot8(q, k + (j0 + j < n_keys ? j0 + j : n_keys - 1) * head_dim, head_dim);
        _mm256_storeu_ps(p + j0, _mm256_mul_ps(sum8_of_8(r), _mm256_set1_ps(scale)));
    }
    for (uint32_t j = 0; j < n_keys; j++)
        if (p[j] > m) m = p[j];
    float rescale = fmath_expf(s->m - m);
    for (uint32_t j = 0; j < n_keys; j += 8)
        _mm256_storeu_ps(p + j, exp8(_mm256_sub_ps(_mm256_loadu_ps(p + j), _mm256_set1_ps(m))));
    s->m = m;
    s->l *= rescale;
    for (uint32_t j = 0; j < n_keys; j++) s->l += p[j];
    uint32_t i = 0;
    __m256 rescale8 = _mm256_set1_ps(rescale);
    for (; i + 64 <= head_dim; i += 64) add_values(o + i, v + i, p, n_keys, head_dim, rescale8, 8);
    for (; i + 8 <= head_dim; i += 8) add_values(o + i, v + i, p, n_keys, head_dim, rescale8, 1);
    for (; i < head_dim; i++) {
        o[i] *= rescale;
        for (uint32_t j = 0; j < n_keys; j++) o[i] = __builtin_fmaf(p[j], v[j * head_dim + i], o[i]);
    }
}

/* The common sizes as constants, so that the loops over them unroll. */
static void attend(kernels_softmax *s, float *o, const float *q, const float *k, const float *v, uint32_t n_keys,
                   uint32_t head_dim, float scale) {
    switch (head_dim) {
    case 64: attend_dim(s, o, q, k, v, n_keys, 64, scale); break;
    case 128: attend_dim(s, o, q, k, v, n_keys, 128, scale); break;
    default: attend_dim(s, o, q, k, v, n_keys, head_dim, scale); break;
    }
}

static const kernels_primitives table = {
    .isa = "avx2",
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
    .add_on_grid = add_on_grid,
    .quantize = quantize,
    .rmsnorm = rmsnorm,
    .rope = {[KERNELS_ROPE_NEIGHBOURS] = rope, [KERNELS_ROPE_HALVES] = kernels_avx2_rope_halves},
    .glu = {[KERNELS_SILU] = swiglu, [KERNELS_GELU] = kernels_avx2_geglu},
    .kv_encode = {[KERNELS_KV_F16] = encode_f16, [KERNELS_KV_F32] = encode_f32},
    .kv_decode = {[KERNELS_KV_F16] = decode_f16, [KERNELS_KV_F32] = decode_f32},
    .attend = attend,
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
