/* Llama 1 to 3, TinyLlama, SmolLM2, Mistral (arXiv 2302.13971, 2310.06825): SwiGLU; converters have put the pairs of a head side
 * by side; llama 3.1 and later carry a factor for each frequency. */
#include "model/model_int.h"

const model_arch model_arch_llama = {
    .name = "llama",
    .outer = {[MODEL_TOKEN_EMBD] = {"token_embd.weight", MODEL_VOCAB, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_OUTPUT_NORM] = {"output_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_OUTPUT] = {"output.weight", MODEL_VOCAB, MODEL_DIM, MODEL_LEADER},
              [MODEL_ROPE_FREQS] = {"rope_freqs.weight", MODEL_ONE, MODEL_HALF_HEAD, MODEL_LOADING}},
    .layer = {[MODEL_ATTN_NORM] = {"attn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_Q] = {"attn_q.weight", MODEL_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_K] = {"attn_k.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_V] = {"attn_v.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_ATTN_OUTPUT] = {"attn_output.weight", MODEL_DIM, MODEL_HEADS, MODEL_EVERYWHERE},
              [MODEL_FFN_NORM] = {"ffn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_GATE] = {"ffn_gate.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_UP] = {"ffn_up.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_DOWN] = {"ffn_down.weight", MODEL_DIM, MODEL_FFN, MODEL_EVERYWHERE}},
    .pairs = KERNELS_ROPE_NEIGHBOURS,
    .activation = KERNELS_SILU,
};
