/* The scalar primitives: the truth that every instruction set is compared with, written as docs/numerics.md says it and for no
 * other quality. */
#include "base/fmath.h"
#include "base/half.h"
#include "kernels/kernels_int.h"
#include <math.h> /* NAN; sqrtf and rintf are exact by IEEE 754 */

static void add_on_grid(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit) {
    const double m = 0x1.8p24;
    for (uint32_t i = 0; i < n_units * n; i++) {
        double x = y[i];
        sum[i % n] += x > -limit && x < limit ? (x + m) - m : __builtin_nan("");
    }
}

static void quantize_group(kernels_act *out, const float *x, uint32_t n) {
    uint32_t amax = 0; /* as bits: NaN sorts above infinity, on every instruction set */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffffu;
        if (u > amax) amax = u;
    }
    *out = (kernels_act){.d = 0};
    if (amax >= 0x7f800000u) {
        out->d = out->d_sum = NAN;
    } else if (amax >= 0x0d800000u) { /* 2^-100 */
        float a;
        memcpy(&a, &amax, sizeof a);
        float inverse = 127.0f / a;
        for (uint32_t i = 0; i < n; i++) {
            out->q[i] = (int8_t)rintf(x[i] * inverse);
            out->sum += out->q[i];
            if (i < KERNELS_GROUP / 2) out->sum_low += out->q[i];
        }
        out->d = a / 127.0f;
        out->d_sum = out->d * (float)out->sum;
    }
}

static void quantize(kernels_act *out, const float *x, uint32_t k) {
    for (uint32_t i = 0; i < k; i += KERNELS_GROUP) quantize_group(out++, x + i, k - i < KERNELS_GROUP ? k - i : KERNELS_GROUP);
}

/* Sum of a[i] * b[i] in 16 lanes; behind the end a row goes on with zeros to a multiple of 16. */
static float dot16(const float *a, const float *b, uint32_t n) {
    float lane[KERNELS_LANES] = {0};
    for (uint32_t i = 0; i < n; i += KERNELS_LANES)
        for (uint32_t j = 0; j < KERNELS_LANES; j++)
            lane[j] = i + j < n ? __builtin_fmaf(a[i + j], b[i + j], lane[j]) : __builtin_fmaf(0, 0, lane[j]);
    for (uint32_t step = KERNELS_LANES / 2; step; step /= 2)
        for (uint32_t j = 0; j < step; j++) lane[j] += lane[j + step];
    return lane[0];
}

static void rmsnorm(float *out, const float *x, const float *w, uint32_t dim, float eps) {
    float r = 1.0f / sqrtf(dot16(x, x, dim) / (float)dim + eps);
    for (uint32_t i = 0; i < dim; i++) out[i] = x[i] * r * w[i];
}

static void rope(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim) {
    for (uint32_t h = 0; h < n_heads; h++, x += head_dim)
        for (uint32_t i = 0; i + 1 < head_dim; i += 2) {
            float c = cos_sin[i], s = cos_sin[i + 1], a = x[i], b = x[i + 1];
            x[i] = __builtin_fmaf(a, c, -(b * s));
            x[i + 1] = __builtin_fmaf(b, c, a * s);
        }
}

static void swiglu(float *out, const float *gate, const float *up, uint32_t dim) {
    for (uint32_t i = 0; i < dim; i++) out[i] = gate[i] / (1.0f + fmath_expf(-gate[i])) * up[i];
}

/* Online softmax (Milakov and Gimelshein, arXiv 1805.02867), a chunk of keys at a time. */
static void attend_one(const kernels_query *query, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                       float scale) {
    kernels_softmax *s = query->state;
    float *o = query->o;
    float score[KERNELS_CHUNK_KEYS], m = s->m;
    for (uint32_t j = 0; j < n_keys; j++) {
        score[j] = dot16(query->q, k + j * head_dim, head_dim) * scale;
        if (score[j] > m) m = score[j];
    }
    float rescale = fmath_expf(s->m - m);
    s->m = m;
    s->l *= rescale;
    for (uint32_t i = 0; i < head_dim; i++) o[i] *= rescale;
    for (uint32_t j = 0; j < n_keys; j++) {
        float p = fmath_expf(score[j] - m);
        s->l += p;
        for (uint32_t i = 0; i < head_dim; i++) o[i] = __builtin_fmaf(p, v[j * head_dim + i], o[i]);
    }
}

static void attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                   float scale) {
    for (uint32_t i = 0; i < n; i++) attend_one(&query[i], k, v, n_keys, head_dim, scale);
}

static const kernels_primitives table = {
    .isa = "scalar",
    .tile_tokens = KERNELS_TILE_TOKENS,
    .add_on_grid = add_on_grid,
    .quantize = quantize,
    .rmsnorm = rmsnorm,
    .rope = {[KERNELS_ROPE_NEIGHBOURS] = rope, [KERNELS_ROPE_HALVES] = kernels_ref_rope_halves},
    .glu = {[KERNELS_SILU] = swiglu, [KERNELS_GELU] = kernels_ref_geglu},
    .kv_encode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_ref_kv_encode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .kv_decode =
        {
#define KV_TYPE(id, bytes) [KERNELS_KV_##id] = kernels_ref_kv_decode_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
        },
    .attend = attend,
};

const kernels_primitives *kernels_ref(void) { return &table; }
