/* The primitives for NEON. Bits equal ref/ref.c: the same operations on the same values in the same order, four lanes at a time;
 * only exact steps (integer sums, conversions) are arranged otherwise. */
#include "kernels/cpu/neon_int.h"

#ifdef KERNELS_HAS_NEON
#include "base/fmath.h"
#include "base/half.h"
#include <math.h>
#include <string.h>
#include <sys/auxv.h>

/* -- rows ---------------------------------------------------------------------------------------------------------------- */

/* The 16 lanes. */
typedef struct {
    float32x4_t v[4];
} sums16;

INLINE void add_products(sums16 *s, const float *a, const float *b) {
    for (uint32_t i = 0; i < 4; i++) s->v[i] = vfmaq_f32(s->v[i], vld1q_f32(a + 4 * i), vld1q_f32(b + 4 * i));
}

/* Sixteen lanes over n, then lanes i and i + 8, i and i + 4 added. */
INLINE float32x4_t dot4(const float *a, const float *b, uint32_t n) {
    sums16 s = {{vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)}};
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) add_products(&s, a + i, b + i);
    if (i < n) {
        float last[2][16] = {{0}};
        memcpy(last[0], a + i, (n - i) * sizeof *a);
        memcpy(last[1], b + i, (n - i) * sizeof *b);
        add_products(&s, last[0], last[1]);
    }
    return vaddq_f32(vaddq_f32(s.v[0], s.v[2]), vaddq_f32(s.v[1], s.v[3]));
}

INLINE float sum4(float32x4_t v) {
    float32x2_t pair = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}

/* fmath_expf, four at a time. NaN passes min and max. */
INLINE float32x4_t exp4(float32x4_t x) {
    const float32x4_t round = vdupq_n_f32(FMATH_EXPF_ROUND);
    x = vmaxq_f32(vdupq_n_f32(FMATH_EXPF_MIN), vminq_f32(vdupq_n_f32(FMATH_EXPF_MAX), x));
    float32x4_t t = vfmaq_f32(round, x, vdupq_n_f32(FMATH_EXPF_LOG2E)), n = vsubq_f32(t, round);
    int32x4_t i = vsubq_s32(vreinterpretq_s32_f32(t), vreinterpretq_s32_f32(round));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-FMATH_EXPF_LN2_HI));
    r = vfmaq_f32(r, n, vdupq_n_f32(-FMATH_EXPF_LN2_LO));
    float32x4_t p = vdupq_n_f32(FMATH_EXPF_P5);
    p = vfmaq_f32(vdupq_n_f32(FMATH_EXPF_P4), p, r);
    p = vfmaq_f32(vdupq_n_f32(FMATH_EXPF_P3), p, r);
    p = vfmaq_f32(vdupq_n_f32(FMATH_EXPF_P2), p, r);
    p = vfmaq_f32(vdupq_n_f32(FMATH_EXPF_P1), p, r);
    p = vfmaq_f32(vdupq_n_f32(FMATH_EXPF_P0), p, r);
    float32x4_t y = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    int32x4_t half = vshrq_n_s32(i, 1), rest = vsubq_s32(i, half), bias = vdupq_n_s32(127);
    y = vmulq_f32(y, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23)));
    return vmulq_f32(y, vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23)));
}

static void add_on_grid(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit) {
    const float64x2_t m = vdupq_n_f64(0x1.8p24), limit2 = vdupq_n_f64(limit), nan = vdupq_n_f64(NAN);
    for (uint32_t i = 0; i < n; i += 2) {
        float64x2_t s = vld1q_f64(sum + i);
        uint64x2_t fits =
            vdupq_n_u64(UINT64_MAX); /* sums are exact, so that a value that does not fit may spoil its sum at the end */
        for (uint32_t u = 0; u < n_units; u++) {
            float64x2_t x = vcvt_f64_f32(vld1_f32(y + (size_t)u * n + i));
            fits = vandq_u64(fits, vcaltq_f64(x, limit2));
            s = vaddq_f64(s, vsubq_f64(vaddq_f64(x, m), m));
        }
        vst1q_f64(sum + i, vbslq_f64(fits, s, nan));
    }
}

static void quantize_full(kernels_act *out, const float *x) {
    uint32x4_t m = vdupq_n_u32(0);
    for (uint32_t i = 0; i < KERNELS_GROUP; i += 4) m = vmaxq_u32(m, vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x + i))));
    uint32_t amax = vmaxvq_u32(m);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        *out = (kernels_act){.d = 0};
        if (amax >= 0x7f800000u) out->d = out->d_sum = NAN;
        return;
    }
    float a;
    memcpy(&a, &amax, sizeof a);
    const float inverse = 127.0f / a;
    int32x4_t sum[2] = {vdupq_n_s32(0), vdupq_n_s32(0)}; /* of the halves */
    for (uint32_t i = 0; i < KERNELS_GROUP; i += 8) {
        int32x4_t q0 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), inverse)); /* to nearest, half to even */
        int32x4_t q1 = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), inverse));
        vst1_s8(out->q + i, vmovn_s16(vcombine_s16(vmovn_s32(q0), vmovn_s32(q1))));
        sum[i / 16] = vaddq_s32(sum[i / 16], vaddq_s32(q0, q1));
    }
    out->sum_low = vaddvq_s32(sum[0]);
    out->sum = out->sum_low + vaddvq_s32(sum[1]);
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
    float r = 1.0f / sqrtf(sum4(dot4(x, x, dim)) / (float)dim + eps);
    uint32_t i = 0;
    for (; i + 4 <= dim; i += 4) vst1q_f32(out + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), r), vld1q_f32(w + i)));
    for (; i < dim; i++) out[i] = x[i] * r * w[i];
}

/* Turns the pairs (a, b). */
INLINE void turn(float32x4_t *a, float32x4_t *b, float32x4x2_t cos_sin) {
    float32x4_t c = cos_sin.val[0], s = cos_sin.val[1], old = *a;
    *a = vfmaq_f32(vnegq_f32(vmulq_f32(*b, s)), *a, c);
    *b = vfmaq_f32(vmulq_f32(old, s), *b, c);
}

static void rope(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 8 <= head_dim; i += 8) {
            float32x4x2_t v = vld2q_f32(x + i);
            turn(&v.val[0], &v.val[1], vld2q_f32(cos_sin + i));
            vst2q_f32(x + i, v);
        }
        for (; i + 1 < head_dim; i += 2) {
            float c = cos_sin[i], s = cos_sin[i + 1], a = x[i], b = x[i + 1];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + 1] = __builtin_fmaf(b, c, a * s);
        }
    }
}

static void rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    const uint32_t half = head_dim / 2;
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim) {
        uint32_t i = 0;
        for (; i + 4 <= half; i += 4) {
            float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + half);
            turn(&a, &b, vld2q_f32(cos_sin + 2 * i));
            vst1q_f32(x + i, a);
            vst1q_f32(x + i + half, b);
        }
        for (; i < half; i++) {
            float c = cos_sin[2 * i], s = cos_sin[2 * i + 1], a = x[i], b = x[i + half];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + half] = __builtin_fmaf(b, c, a * s);
        }
    }
}

/* (gate / (1 + exp(-u))) * up */
INLINE float32x4_t glu(float32x4_t gate, float32x4_t u, float32x4_t up) {
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(u)))), up);
}

static void swiglu(float *out, const float *gate, const float *up, uint32_t dim) {
    uint32_t i = 0;
    for (; i + 4 <= dim; i += 4) {
        float32x4_t g = vld1q_f32(gate + i);
        vst1q_f32(out + i, glu(g, g, vld1q_f32(up + i)));
    }
    for (; i < dim; i++) out[i] = gate[i] / (1.0f + fmath_expf(-gate[i])) * up[i];
}

static void geglu(float *out, const float *gate, const float *up, uint32_t dim) {
    const float32x4_t c1 = vdupq_n_f32(KERNELS_GELU_C1), c2 = vdupq_n_f32(KERNELS_GELU_C2);
    uint32_t i = 0;
    for (; i + 4 <= dim; i += 4) {
        float32x4_t g = vld1q_f32(gate + i);
        vst1q_f32(out + i, glu(g, vmulq_f32(g, vfmaq_f32(c1, c2, vmulq_f32(g, g))), vld1q_f32(up + i)));
    }
    kernels_ref_geglu(out + i, gate + i, up + i, dim - i);
}

/* -- KV and attention ---------------------------------------------------------------------------------------------------- */

/* Lane i with i + 2, of two keys side by side. */
INLINE float32x4_t pairs(float32x4_t a, float32x4_t b) {
    return vaddq_f32(vcombine_f32(vget_low_f32(a), vget_low_f32(b)), vcombine_f32(vget_high_f32(a), vget_high_f32(b)));
}

/* o += p_j * v_j, ascending, over 4 * width values. */
INLINE void add_values(float *o, const float *v, const float *p, uint32_t n_keys, uint32_t head_dim, float rescale,
                       const uint32_t width) {
    float32x4_t acc[8];
    for (uint32_t i = 0; i < width; i++) acc[i] = vmulq_n_f32(vld1q_f32(o + 4 * i), rescale);
    for (uint32_t j = 0; j < n_keys; j++, v += head_dim)
        for (uint32_t i = 0; i < width; i++) acc[i] = vfmaq_n_f32(acc[i], vld1q_f32(v + 4 * i), p[j]);
    for (uint32_t i = 0; i < width; i++) vst1q_f32(o + 4 * i, acc[i]);
}

static void attend_one(const kernels_query *query, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                       float scale) {
    kernels_softmax *s = query->state;
    float *o = query->o;
    float p[KERNELS_CHUNK_KEYS], m = s->m;
    for (uint32_t j0 = 0; j0 < n_keys; j0 += 4) {
        float32x4_t r[4];
        for (uint32_t j = 0; j < 4; j++) /* behind the last key: that key again, not looked at */
            r[j] = dot4(query->q, k + (j0 + j < n_keys ? j0 + j : n_keys - 1) * head_dim, head_dim);
        vst1q_f32(p + j0, vmulq_n_f32(vpaddq_f32(pairs(r[0], r[1]), pairs(r[2], r[3])), scale)); /* lane i with i + 1 */
    }
    for (uint32_t j = 0; j < n_keys; j++)
        if (p[j] > m) m = p[j];
    float rescale = fmath_expf(s->m - m);
    for (uint32_t j = 0; j < n_keys; j += 4) vst1q_f32(p + j, exp4(vsubq_f32(vld1q_f32(p + j), vdupq_n_f32(m))));
    s->m = m;
    s->l *= rescale;
    for (uint32_t j = 0; j < n_keys; j++) s->l += p[j];
    uint32_t i = 0;
    for (; i + 32 <= head_dim; i += 32) add_values(o + i, v + i, p, n_keys, head_dim, rescale, 8);
    for (; i + 4 <= head_dim; i += 4) add_values(o + i, v + i, p, n_keys, head_dim, rescale, 1);
    for (; i < head_dim; i++) {
        o[i] *= rescale;
        for (uint32_t j = 0; j < n_keys; j++) o[i] = __builtin_fmaf(p[j], v[j * head_dim + i], o[i]);
    }
}

static void attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                   float scale) {
    for (uint32_t i = 0; i < n; i++) attend_one(&query[i], k, v, n_keys, head_dim, scale);
}

static const kernels_primitives table = {
    .isa = "neon",
    .tile_tokens = TILE_TOKENS,
    .product =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_neon_product_##id,
#include "kernels/formats.def"
#undef FORMAT
        },
    .dequantize =
        {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = kernels_neon_dequantize_##id,
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
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_neon_kv_encode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .kv_decode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_neon_kv_decode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .attend = attend,
};

const kernels_primitives *kernels_neon(void) { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? &table : NULL; }

#else

const kernels_primitives *kernels_neon(void) { return NULL; }

#endif
