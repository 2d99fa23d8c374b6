/* What a drafter believes of the next token, and what the target's own noise makes of that.
 *
 * At T > 0 the target's choice is the largest of log q(v) / T + gumbel(v), and the noise is known; so the own choice is the
 * largest of log p(v) / T + gumbel(v), and v's probability goes with p(v) e^(T gumbel(v)): p(v) itself as T goes to 0, and the
 * softmax of the noisy beliefs at T = 1. The filters of the request cut the candidates as the target's. */
#include "speculative/speculative.h"

#include "base/fmath.h"
#include "base/philox.h"
#include <math.h> /* isfinite */

/* Descending score, then ascending id. */
static void sort(spec_belief *b, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        spec_belief c = b[i];
        uint32_t at = i;
        for (; at && (b[at - 1].score < c.score || (b[at - 1].score == c.score && b[at - 1].token > c.token)); at--)
            b[at] = b[at - 1];
        b[at] = c;
    }
}

/* The candidates, sorted by p, that top-k, top-p and min-p leave: always a prefix. Typical-p, bias, penalties and min_tokens are
 * not asked: where they are used, that costs some hits, and nothing else. */
static uint32_t n_allowed(const spec_belief *b, uint32_t n_beliefs, const sampling *s) {
    uint32_t n = 0;
    float sum = 0;
    while (n < n_beliefs && (!s->top_k || n < s->top_k) && (!n || sum < s->top_p) && b[n].p >= s->min_p * b[0].p) sum += b[n++].p;
    return n;
}

/* -log(-log(u)) for the token's word at the position, as the target draws it (design/speculation.md, 1). */
static float gumbel(const sampling *s, uint32_t position, uint32_t token) {
    philox_block words = philox(s->seed, (philox_block){{position, token >> 2, s->sample, 0}});
    float u = ((float)(words.word[token & 3] >> 9) + 0.5f) * 0x1p-23f;
    return -fmath_logf(-fmath_logf(u));
}

uint32_t spec_believe(spec_belief *b, uint32_t n, const sampling *s, uint32_t position) {
    float rest = 1, sum = 0;
    for (uint32_t i = 0; i < n; i++) b[i].score = b[i].p, rest -= b[i].p;
    sort(b, n);
    if (!(s->temperature > 0) || !n) return n;
    n = n_allowed(b, n, s);
    for (uint32_t i = 0; i < n; i++) b[i].score = fmath_logf(b[i].p) / s->temperature + gumbel(s, position, b[i].token);
    sort(b, n);
    float top = b[0].score;
    if (!isfinite(top)) return 0; /* T is next to nothing */
    for (uint32_t i = 0; i < n; i++) sum += b[i].p = fmath_expf(s->temperature * (b[i].score - top));
    if (rest > 0) sum += rest * fmath_expf(-s->temperature * top);
    for (uint32_t i = 0; i < n; i++) b[i].p /= sum;
    return n;
}
