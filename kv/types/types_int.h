/* types: the KV types, one file each, gathered by types.c.
 *
 * A new type is a file here that fills one kv_type, and a row in types.def. Rows of K or V that are rounded in a new way are in
 * kernels/ a row of kv_types.def with its functions: ref/kv.c and the twin of each instruction set. The key kv_type
 * (config/group.def) names the types. Read-only. */
#ifndef CONSORT_KV_TYPES_INT_H
#define CONSORT_KV_TYPES_INT_H

#include "kv/kv.h"

#define KV_TYPE(name) extern const kv_type kv_type_##name;
#include "kv/types/types.def"
#undef KV_TYPE

#endif
