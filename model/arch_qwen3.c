/* Qwen 3 (arXiv 2505.09388): no biases, but q and k of each head are normed before they turn; heads of a size of their own. */
#include "model/model_int.h"

const model_arch model_arch_qwen3 = {
    .name = "qwen3",
    .outer = {MODEL_DECODER_OUTER},
    .layer = {MODEL_DECODER_LAYER, [MODEL_ATTN_Q_NORM] = {"attn_q_norm.weight", MODEL_ONE, MODEL_HEAD, MODEL_EVERYWHERE},
              [MODEL_ATTN_K_NORM] = {"attn_k_norm.weight", MODEL_ONE, MODEL_HEAD, MODEL_EVERYWHERE}},
    .pairs = KERNELS_ROPE_HALVES,
    .activation = KERNELS_SILU,
};
