#include "kv/types/types_int.h"

/* Groups of 32 elements of a row, 4 bits each, with a scale and a minimum in f16: 0.31 of f16 where the head is a multiple of 32.
 * Here 2 bytes of 20 for each fp32 number would count, and 4 bits are lost long before a half's places are. */
const kv_type kv_type_q4 = {.name = "q4", .k = KERNELS_KV_Q4, .v = KERNELS_KV_Q4};
