/* types: the KV types, one file each, gathered by types.c.
 *
 * A new type is a file here that fills one kv_type, a row in types.c, and in kernels/ a row of kv_types.def with its functions:
 * ref/kv.c and the twin of each instruction set. The key kv_type (config/group.def) names them. Read-only. */
#ifndef CONSORT_KV_TYPES_INT_H
#define CONSORT_KV_TYPES_INT_H

#include "kv/kv.h"

extern const kv_type kv_type_f16, kv_type_f32, kv_type_q8, kv_type_q4;

#endif
