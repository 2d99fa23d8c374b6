/* The llama family: RMSNorm, rotary attention over grouped KV heads, SwiGLU; the output head may be the token table. */
#include "model/model_int.h"

enum { ATTN_NORM, ATTN_Q, ATTN_K, ATTN_V, ATTN_OUTPUT, FFN_NORM, FFN_GATE, FFN_UP, FFN_DOWN, N_LAYER };

static const model_tensor_row outer[MODEL_N_OUTER] = {
    [MODEL_TOKEN_EMBD] = {"token_embd.weight", MODEL_VOCAB, MODEL_DIM, MODEL_EVERYWHERE},
    [MODEL_OUTPUT_NORM] = {"output_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
    [MODEL_OUTPUT] = {"output.weight", MODEL_VOCAB, MODEL_DIM, MODEL_LEADER},
};

static const model_tensor_row layer[N_LAYER] = {
    [ATTN_NORM] = {"attn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
    [ATTN_Q] = {"attn_q.weight", MODEL_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
    [ATTN_K] = {"attn_k.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
    [ATTN_V] = {"attn_v.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
    [ATTN_OUTPUT] = {"attn_output.weight", MODEL_DIM, MODEL_HEADS, MODEL_EVERYWHERE},
    [FFN_NORM] = {"ffn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
    [FFN_GATE] = {"ffn_gate.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
    [FFN_UP] = {"ffn_up.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
    [FFN_DOWN] = {"ffn_down.weight", MODEL_DIM, MODEL_FFN, MODEL_EVERYWHERE},
};

static st_code attention(model *m, const model_pass *p, uint32_t l, st_error *e) {
    const kernels_ops *ops = m->ops;
    kernels_device *d = m->device;
    const kernels_view *at = m->place;
    const model_weight *w = &m->layer[(size_t)l * N_LAYER];
    const model_batch *b = p->batch;
    uint32_t n = b->n_rows, dim = m->info.dim, head_dim = m->info.head_dim, cols = m->share[MODEL_HEADS].n;
    uint32_t n_heads = cols / head_dim, n_kv_heads = m->share[MODEL_KV_HEADS].n / head_dim;

    ops->rmsnorm(d, at[MODEL_H], at[MODEL_X], w[ATTN_NORM].vector, n, dim, m->info.rms_eps);
    ops->quantize(d, at[MODEL_ACT], at[MODEL_H], n, dim);
    ops->matmul(d, at[MODEL_Q], w[ATTN_Q].weight, at[MODEL_H], at[MODEL_ACT], n);
    ops->matmul(d, at[MODEL_K], w[ATTN_K].weight, at[MODEL_H], at[MODEL_ACT], n);
    ops->matmul(d, at[MODEL_V], w[ATTN_V].weight, at[MODEL_H], at[MODEL_ACT], n);
    ops->rope(d, at[MODEL_Q], at[MODEL_ROPE], b->position, n, n_heads, head_dim);
    ops->rope(d, at[MODEL_K], at[MODEL_ROPE], b->position, n, n_kv_heads, head_dim);
    ops->kv_write(d, p->kv, l, at[MODEL_K], at[MODEL_V], m->rows, n);
    ops->attention(d, p->kv, l, at[MODEL_ATT], at[MODEL_Q], m->rows, n, n_heads, m->kv_head_of);
    ops->quantize(d, at[MODEL_ACT], at[MODEL_ATT], n, cols);
    ops->matmul_units(d, at[MODEL_SUM], w[ATTN_OUTPUT].weight, at[MODEL_ATT], at[MODEL_ACT], n, m->head_unit_cols,
                      m->n_head_units);
    return model_add_sum(m, n, e);
}

static st_code feed_forward(model *m, const model_pass *p, uint32_t l, st_error *e) {
    const kernels_ops *ops = m->ops;
    kernels_device *d = m->device;
    const kernels_view *at = m->place;
    const model_weight *w = &m->layer[(size_t)l * N_LAYER];
    uint32_t n = p->batch->n_rows, dim = m->info.dim, cols = m->share[MODEL_FFN].n;

    ops->rmsnorm(d, at[MODEL_H], at[MODEL_X], w[FFN_NORM].vector, n, dim, m->info.rms_eps);
    ops->quantize(d, at[MODEL_ACT], at[MODEL_H], n, dim);
    ops->matmul(d, at[MODEL_GATE], w[FFN_GATE].weight, at[MODEL_H], at[MODEL_ACT], n);
    ops->matmul(d, at[MODEL_UP], w[FFN_UP].weight, at[MODEL_H], at[MODEL_ACT], n);
    ops->swiglu(d, at[MODEL_GATE], at[MODEL_GATE], at[MODEL_UP], n, cols);
    ops->quantize(d, at[MODEL_ACT], at[MODEL_GATE], n, cols);
    ops->matmul_units(d, at[MODEL_SUM], w[FFN_DOWN].weight, at[MODEL_GATE], at[MODEL_ACT], n, MODEL_UNIT_COLS, m->n_ffn_units);
    return model_add_sum(m, n, e);
}

static st_code layers(model *m, const model_pass *p, st_error *e) {
    m->ops->embed(m->device, m->place[MODEL_X], m->outer[MODEL_TOKEN_EMBD].weight, p->batch->token, p->batch->n_rows);
    for (uint32_t l = 0; l < m->info.n_layers; l++) {
        st_code c = attention(m, p, l, e);
        if (c == ST_OK) c = feed_forward(m, p, l, e);
        if (c == ST_OK) c = model_layer_done(m, p, l, e);
        if (c != ST_OK) return c;
    }
    return ST_OK;
}

static void head(model *m, uint32_t n) {
    const kernels_view *at = m->place;
    const kernels_weight *own = m->outer[MODEL_OUTPUT].weight;
    m->ops->rmsnorm(m->device, at[MODEL_CHOSEN], at[MODEL_CHOSEN], m->outer[MODEL_OUTPUT_NORM].vector, n, m->info.dim,
                    m->info.rms_eps);
    m->ops->quantize(m->device, at[MODEL_ACT], at[MODEL_CHOSEN], n, m->info.dim);
    m->ops->matmul(m->device, at[MODEL_LOGITS], own ? own : m->outer[MODEL_TOKEN_EMBD].weight, at[MODEL_CHOSEN], at[MODEL_ACT],
                   n);
}

const model_arch model_arch_llama = {
    .name = "llama", .outer = outer, .layer = layer, .n_layer = N_LAYER, .layers = layers, .head = head};
