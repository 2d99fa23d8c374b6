#include "kv/types/types_int.h"

/* K as q4 has it but with codes of 6 bits, V in q4: 0.38 of f16. Nearly all that q4 loses it loses by K, whose rows have a few
 * channels that are always large. */
const kv_type kv_type_k6v4 = {.name = "k6v4", .k = KERNELS_KV_Q6, .v = KERNELS_KV_Q4};
