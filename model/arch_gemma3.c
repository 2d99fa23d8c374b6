/* Gemma 3 (arXiv 2503.19786): embeddings times sqrt(dim), norms before and behind both halves of a layer, q and k of each head
 * normed, GELU; five layers that see a window, turning by a base of their own, to each that sees all. Converters have added the 1
 * to the norms' weights. */
#include "model/model_int.h"

const model_arch model_arch_gemma3 = {
    .name = "gemma3",
    .outer = {MODEL_DECODER_OUTER},
    .layer = {MODEL_DECODER_LAYER, [MODEL_ATTN_Q_NORM] = {"attn_q_norm.weight", MODEL_ONE, MODEL_HEAD, MODEL_EVERYWHERE},
              [MODEL_ATTN_K_NORM] = {"attn_k_norm.weight", MODEL_ONE, MODEL_HEAD, MODEL_EVERYWHERE},
              [MODEL_ATTN_POST_NORM] = {"post_attention_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},
              [MODEL_FFN_POST_NORM] = {"post_ffw_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE}},
    .pairs = KERNELS_ROPE_HALVES,
    .activation = KERNELS_GELU,
    .scales_embedding = true,
    .global_every = 6,
    .rope_base_local = 10000,
};
