#include "kv/types/types_int.h"

/* A row of int8 codes with one scale: 0.53 of f16 at a head of 64. The scale is fp32, as that of activations is. As a half it
 * would save 2 of 68 bytes, and ask for three rules more: rows too large for it, rows so small that it loses its places, and
 * codes that are cut since a scale rounded down does not reach the largest element. */
const kv_type kv_type_q8 = {.name = "q8", .k = KERNELS_KV_Q8, .v = KERNELS_KV_Q8};
