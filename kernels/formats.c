#include "kernels/kernels_int.h"

#include <string.h>

static const kernels_format_info info[KERNELS_N_FORMATS] = {
#define FORMAT(id, ggml, text, elements, bytes, ...)                                                                             \
    [KERNELS_##id] = {.name = text, .ggml_type = ggml, .block_elements = elements, .block_bytes = bytes},
#include "kernels/formats.def"
#undef FORMAT
};

static const kernels_layout *const layouts[KERNELS_N_FORMATS] = {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = &kernels_layout_##id,
#include "kernels/formats.def"
#undef FORMAT
};

const kernels_format_info *kernels_format_of(kernels_format format) {
    return (unsigned)format < KERNELS_N_FORMATS ? &info[format] : NULL;
}

const kernels_layout *kernels_layout_of(kernels_format format) {
    return (unsigned)format < KERNELS_N_FORMATS ? layouts[format] : NULL;
}

bool kernels_precision_find(const char *name, kernels_precision *out) {
    bool fp32 = name && !strcmp(name, "fp32");
    *out = fp32 ? KERNELS_FP32 : KERNELS_FAST;
    return fp32 || !name || !strcmp(name, "fast");
}
