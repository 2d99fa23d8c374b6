#include "kv/types/types_int.h"

#include <string.h>

static const kv_type *const types[] = {
#define KV_TYPE(name) &kv_type_##name,
#include "kv/types/types.def"
#undef KV_TYPE
};
enum { N_TYPES = sizeof types / sizeof *types };

#define KV_TYPE(name) ", " #name
const char *const kv_type_names = &(
#include "kv/types/types.def"
    )[2];
#undef KV_TYPE

const kv_type *kv_type_at(uint32_t i) { return i < N_TYPES ? types[i] : NULL; }

const kv_type *kv_type_find(const char *name) {
    for (uint32_t i = 0; i < N_TYPES; i++)
        if (!strcmp(types[i]->name, name)) return types[i];
    return NULL;
}

const kv_type *kv_type_choose(const char *name, kernels_precision precision) {
    if (name && strcmp(name, "auto")) return kv_type_find(name);
    return precision == KERNELS_FP32 ? &kv_type_f32 : &kv_type_f16;
}
