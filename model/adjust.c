/* What changes logits before the choice: bias, then the mask of what may come at all (docs/numerics.md, "The choice").
 *
 * The row is copied and changed in place, so a sequence that asks for nothing pays for nothing. The mask is a bitmap over the
 * vocabulary: whatever forbids tokens meets here, and whole words of allowed ones are skipped. */
#include "model/model.h"

#include <math.h>
#include <string.h>

static void add_bias(const model_adjustment *a, float *l) {
    for (uint32_t i = 0; i < a->n_bias; i++) l[a->bias_token[i]] += a->bias[i];
}

static void forbid(const uint64_t *allowed, uint32_t n_vocab, float *l) {
    for (uint32_t first = 0; first < n_vocab; first += 64) {
        uint64_t word = allowed[first / 64];
        if (word == UINT64_MAX) continue;
        for (uint32_t v = first; v < n_vocab && v - first < 64; v++)
            if (!(word >> (v - first) & 1)) l[v] = -INFINITY;
    }
}

void model_adjust(const float *logits, uint32_t n_vocab, const model_adjustment *a, float *out) {
    memcpy(out, logits, n_vocab * sizeof *out);
    add_bias(a, out);
    if (a->allowed) forbid(a->allowed, n_vocab, out);
}
