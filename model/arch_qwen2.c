/* Qwen 2 and 2.5 (arXiv 2407.10671): llama with biases on q, k and v, which are cut with their heads, and halves that turn. */
#include "model/model_int.h"

const model_arch model_arch_qwen2 = {
    .name = "qwen2",
    .outer = {[MODEL_TOKEN_EMBD] = {"token_embd.weight", MODEL_VOCAB, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_OUTPUT_NORM] = {"output_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_OUTPUT] = {"output.weight", MODEL_VOCAB, MODEL_DIM, MODEL_LEADER}},
    .layer = {[MODEL_ATTN_NORM] = {"attn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_Q] = {"attn_q.weight", MODEL_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_K] = {"attn_k.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_V] = {"attn_v.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_OUTPUT] = {"attn_output.weight", MODEL_DIM, MODEL_HEADS, MODEL_EVERYWHERE},
              [MODEL_FFN_NORM] = {"ffn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_GATE] = {"ffn_gate.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_UP] = {"ffn_up.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_DOWN] = {"ffn_down.weight", MODEL_DIM, MODEL_FFN, MODEL_EVERYWHERE},
              [MODEL_ATTN_Q_BIAS] = {"attn_q.bias", MODEL_ONE, MODEL_HEADS, MODEL_EVERYWHERE},
              [MODEL_ATTN_K_BIAS] = {"attn_k.bias", MODEL_ONE, MODEL_KV_HEADS, MODEL_EVERYWHERE},
              [MODEL_ATTN_V_BIAS] = {"attn_v.bias", MODEL_ONE, MODEL_KV_HEADS, MODEL_EVERYWHERE}},
    .pairs = KERNELS_ROPE_HALVES,
    .activation = KERNELS_SILU,
};
