#include "kv/types/types_int.h"

/* As computed: the default of mode `fp32`. */
const kv_type kv_type_f32 = {.name = "f32", .k = KERNELS_KV_F32, .v = KERNELS_KV_F32};
