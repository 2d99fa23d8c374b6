/* Llama 1 to 3, TinyLlama, SmolLM2, Mistral (arXiv 2302.13971, 2310.06825): SwiGLU; converters have put the pairs of a head side
 * by side; llama 3.1 and later carry a factor for each frequency. */
#include "model/model_int.h"

const model_arch model_arch_llama = {
    .name = "llama",
    .outer = {MODEL_DECODER_OUTER, [MODEL_ROPE_FREQS] = {"rope_freqs.weight", MODEL_ONE, MODEL_HALF_HEAD, MODEL_LOADING}},
    .layer = {MODEL_DECODER_LAYER},
    .pairs = KERNELS_ROPE_NEIGHBOURS,
    .activation = KERNELS_SILU,
};
