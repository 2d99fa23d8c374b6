/* The decoder of all families: RMSNorm, rotary attention over grouped KV heads, a gated feed-forward; the output head may be the
 * token table. A family's row says what it adds: biases of q, k and v, norms of each head, norms behind both halves of a layer,
 * windows, GELU. A tensor that the family has not got is a step left out.
 *
 * Road not taken: a function for each family; four of them differed in a line here and there, and each would repeat the rest. */
#include "model/model_int.h"

#include <math.h> /* sqrtf is exact by IEEE 754 */

static const model_weight *weights_of(const model *m, uint32_t layer) { return &m->layer[(size_t)layer * MODEL_N_LAYER]; }
static bool has(const model_weight *w) { return w->vector.buffer != NULL; }

/* What the next product reads beside its fp32 rows; in KERNELS_FP32 it reads nothing else. */
static void quantize(model *m, model_place x, uint32_t n, uint32_t cols) {
    if (m->precision == KERNELS_FAST) m->ops->quantize(m->device, m->place[MODEL_ACT], m->place[x], n, cols);
}

/* What comes after the product of q, k or v: the bias, and for q and k the norm of each head and the turn by position. */
static void finish(model *m, const model_pass *p, model_place place, const model_weight *bias, const model_weight *norm,
                   uint32_t cols, const kernels_view *table) {
    const kernels_ops *ops = m->ops;
    kernels_device *d = m->device;
    const kernels_view *at = m->place;
    uint32_t n = p->batch->n_rows, head_dim = m->info.head_dim, n_heads = cols / head_dim;
    if (has(bias)) ops->add_bias(d, at[place], bias->vector, n, cols);
    if (norm && has(norm)) ops->rmsnorm(d, at[place], at[place], norm->vector, n * n_heads, head_dim, m->info.rms_eps);
    if (table) ops->rope(d, at[place], *table, p->batch->position, n, n_heads, head_dim, m->arch->pairs);
}

static st_code attention(model *m, const model_pass *p, uint32_t l, st_error *e) {
    const kernels_ops *ops = m->ops;
    kernels_device *d = m->device;
    const kernels_view *at = m->place;
    const model_weight *w = weights_of(m, l);
    uint32_t n = p->batch->n_rows, dim = m->info.dim, cols = m->share[MODEL_HEADS].n, kv_cols = m->share[MODEL_KV_HEADS].n;
    bool windowed = m->info.window && (l + 1) % m->info.global_every != 0;
    const kernels_view *table = &at[windowed ? MODEL_ROPE_LOCAL : MODEL_ROPE];

    ops->rmsnorm(d, at[MODEL_H], at[MODEL_X], w[MODEL_ATTN_NORM].vector, n, dim, m->info.rms_eps);
    quantize(m, MODEL_H, n, dim);
    const kernels_projection qkv[] = {{.out = at[MODEL_Q], .weight = w[MODEL_ATTN_Q].weight},
                                      {.out = at[MODEL_K], .weight = w[MODEL_ATTN_K].weight},
                                      {.out = at[MODEL_V], .weight = w[MODEL_ATTN_V].weight}};
    ops->matmul(d, qkv, 3, at[MODEL_H], at[MODEL_ACT], n);
    finish(m, p, MODEL_Q, &w[MODEL_ATTN_Q_BIAS], &w[MODEL_ATTN_Q_NORM], cols, table);
    finish(m, p, MODEL_K, &w[MODEL_ATTN_K_BIAS], &w[MODEL_ATTN_K_NORM], kv_cols, table);
    finish(m, p, MODEL_V, &w[MODEL_ATTN_V_BIAS], NULL, kv_cols, NULL);
    ops->kv_write(d, p->kv, l, at[MODEL_K], at[MODEL_V], m->rows, n);
    ops->attention(d, p->kv, l, at[MODEL_ATT], at[MODEL_Q], m->rows, n, cols / m->info.head_dim, m->kv_head_of,
                   windowed ? m->info.window : KERNELS_NO_WINDOW);
    quantize(m, MODEL_ATT, n, cols);
    ops->matmul_units(d, at[MODEL_SUM], w[MODEL_ATTN_OUTPUT].weight, at[MODEL_ATT], at[MODEL_ACT], n, m->head_unit_cols,
                      m->n_head_units);
    return model_add_sum(m, n, &w[MODEL_ATTN_POST_NORM], e);
}

static st_code feed_forward(model *m, const model_pass *p, uint32_t l, st_error *e) {
    const kernels_ops *ops = m->ops;
    kernels_device *d = m->device;
    const kernels_view *at = m->place;
    const model_weight *w = weights_of(m, l);
    uint32_t n = p->batch->n_rows, dim = m->info.dim, cols = m->share[MODEL_FFN].n;

    ops->rmsnorm(d, at[MODEL_H], at[MODEL_X], w[MODEL_FFN_NORM].vector, n, dim, m->info.rms_eps);
    quantize(m, MODEL_H, n, dim);
    const kernels_projection both[] = {{.out = at[MODEL_GATE], .weight = w[MODEL_FFN_GATE].weight},
                                       {.out = at[MODEL_UP], .weight = w[MODEL_FFN_UP].weight}};
    ops->matmul(d, both, 2, at[MODEL_H], at[MODEL_ACT], n);
    ops->glu(d, at[MODEL_GATE], at[MODEL_GATE], at[MODEL_UP], n, cols, m->arch->activation);
    quantize(m, MODEL_GATE, n, cols);
    ops->matmul_units(d, at[MODEL_SUM], w[MODEL_FFN_DOWN].weight, at[MODEL_GATE], at[MODEL_ACT], n, MODEL_UNIT_COLS,
                      m->n_ffn_units);
    return model_add_sum(m, n, &w[MODEL_FFN_POST_NORM], e);
}

st_code model_decode_layers(model *m, const model_pass *p, st_error *e) {
    uint32_t n = p->batch->n_rows, dim = m->info.dim;
    m->ops->embed(m->device, m->place[MODEL_X], &m->table, p->batch->token, n);
    if (m->arch->scales_embedding) m->ops->scale(m->device, m->place[MODEL_X], sqrtf((float)dim), n, dim);
    for (uint32_t l = 0; l < m->info.n_layers; l++) {
        st_code c = attention(m, p, l, e);
        if (c == ST_OK) c = feed_forward(m, p, l, e);
        if (c == ST_OK) c = model_layer_done(m, p, l, e);
        if (c != ST_OK) return c;
    }
    return ST_OK;
}

void model_norm_chosen(model *m, uint32_t n) {
    const kernels_view *at = m->place;
    m->ops->rmsnorm(m->device, at[MODEL_CHOSEN], at[MODEL_CHOSEN], m->outer[MODEL_OUTPUT_NORM].vector, n, m->info.dim,
                    m->info.rms_eps);
    quantize(m, MODEL_CHOSEN, n, m->info.dim);
}

void model_decode_head(model *m, uint32_t n, uint32_t first_row, uint32_t n_rows, const uint32_t *runs, uint32_t n_runs) {
    const kernels_view *at = m->place;
    const kernels_weight *w = m->outer[MODEL_OUTPUT].weight;
    const kernels_projection head[] = {{.out = at[MODEL_LOGITS], .weight = w, .first_row = first_row, .n_rows = n_rows},
                                       {.out = at[MODEL_LOGITS], .weight = w, .n_runs = n_runs, .runs = runs}};
    m->ops->matmul(m->device, head, n_runs > 0 ? 2 : 1, at[MODEL_CHOSEN], at[MODEL_ACT], n);
}
