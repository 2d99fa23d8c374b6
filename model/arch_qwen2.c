/* Qwen 2 and 2.5 (arXiv 2407.10671): llama with biases on q, k and v, which are cut with their heads, and halves that turn. */
#include "model/model_int.h"

const model_arch model_arch_qwen2 = {
    .name = "qwen2",
    .outer = {MODEL_DECODER_OUTER},
    .layer = {MODEL_DECODER_LAYER, [MODEL_ATTN_Q_BIAS] = {"attn_q.bias", MODEL_ONE, MODEL_HEADS, MODEL_EVERYWHERE},
              [MODEL_ATTN_K_BIAS] = {"attn_k.bias", MODEL_ONE, MODEL_KV_HEADS, MODEL_EVERYWHERE},
              [MODEL_ATTN_V_BIAS] = {"attn_v.bias", MODEL_ONE, MODEL_KV_HEADS, MODEL_EVERYWHERE}},
    .pairs = KERNELS_ROPE_HALVES,
    .activation = KERNELS_SILU,
};
