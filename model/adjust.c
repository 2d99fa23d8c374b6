/* What changes logits before the choice: bias, penalties, and the mask of what may come at all (docs/numerics.md, "The choice").
 *
 * The row is copied and changed in place, so a sequence that asks for nothing pays for nothing. Penalties count the tokens anew
 * for each choice: a walk over the context is a few microseconds, and counts that are kept would be a vocabulary a sequence, to
 * be taken back along each branch of a draft tree. The mask is a bitmap over the vocabulary: whatever forbids tokens meets here,
 * and whole words of allowed ones are skipped. */
#include "model/model.h"

#include <math.h>
#include <string.h>

static void add_bias(const model_adjustment *a, float *l) {
    for (uint32_t i = 0; i < a->n_bias; i++) l[a->bias_token[i]] += a->bias[i];
}

static bool repeats(float repetition) { return repetition > 0 && repetition != 1; }

bool model_penalises(const sampling *s) { return repeats(s->repetition) || s->presence != 0 || s->frequency != 0; }

enum { SEEN = 1 << 30 }; /* contexts are shorter */

/* Repetition as in Keskar et al., arXiv 1909.05858, but for negative logits; presence and frequency as OpenAI defines them. Each
 * token once: its count is taken away with the penalty. */
static void penalise(const model_adjustment *a, uint32_t *count, float *l) {
    bool all = repeats(a->repetition);
    uint32_t first = all ? 0 : a->n_prompt;
    for (uint32_t i = first; i < a->n_tokens; i++) {
        uint32_t *n = &count[a->tokens[i]];
        *n = (*n | SEEN) + (i >= a->n_prompt);
    }
    for (uint32_t i = first; i < a->n_tokens; i++) {
        uint32_t v = a->tokens[i], n = count[v] & ~(uint32_t)SEEN;
        if (!count[v]) continue;
        count[v] = 0;
        if (all) l[v] = l[v] > 0 ? l[v] / a->repetition : l[v] * a->repetition;
        if (n) l[v] = (l[v] - (float)n * a->frequency) - a->presence;
    }
}

static void forbid(const uint64_t *allowed, uint32_t n_vocab, float *l) {
    for (uint32_t first = 0; first < n_vocab; first += 64) {
        uint64_t word = allowed[first / 64];
        if (word == UINT64_MAX) continue;
        for (uint32_t v = first; v < n_vocab && v - first < 64; v++)
            if (!(word >> (v - first) & 1)) l[v] = -INFINITY;
    }
}

void model_adjust(const float *logits, uint32_t n_vocab, const model_adjustment *a, float *out, uint32_t *count) {
    memcpy(out, logits, n_vocab * sizeof *out);
    add_bias(a, out);
    penalise(a, count, out);
    if (a->allowed) forbid(a->allowed, n_vocab, out);
}
