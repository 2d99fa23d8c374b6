#include "kv/types/types_int.h"

/* IEEE 754 half, rounded to nearest even from the fp32 row: the default of mode `fast` (numerics.md). */
const kv_type kv_type_f16 = {.name = "f16", .k = KERNELS_KV_F16, .v = KERNELS_KV_F16};
