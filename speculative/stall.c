/* What rows of prompts add to a step in which sequences decode, and how many of them keep it short.
 *
 * What a step of n decoding rows takes is known (spec_cost). What k rows of prompts add to it is a table over k, learned as what
 * steps with both took beyond that; between measured k it is interpolated, from nothing at none. Beyond them, no step takes
 * longer than the steps in which the same rows could be run one after the other: k rows at most k / b of a step with b, and where
 * nothing was measured beside n decoding rows, n + k at most (n + k) / n of it. So a first guess allows too little, which is
 * measured and allows more; where nothing at all was measured it allows none. It cannot be said beforehand that a row of a prompt
 * costs what a decoding one does: it has no output head, and a longer step reads the weights once.
 *
 * A table of means is no bound: of steps that are filled up to one, every other would be longer. So room is left for what steps
 * take beyond what is expected of them: `over`, which all but one of some forty exceed by no more than SLACK. It rises by RISE
 * with each that does and falls by FALL with each that does not (a quantile by stochastic approximation), so that a single step
 * that lost its core costs little room. Only where such a step was measured before: else the expectation is too high on purpose.
 *
 * A step that takes over twice what was expected counts as twice. A count that is thought dear is not tried again, so what has
 * not been run for a while is forgotten. Limits: nothing here grows with the length of a sequence; the table follows. */
#include "speculative/speculative.h"

#define RATE  0.1 /* at least; 2 / (seen + 2) before */
#define CLAMP 2.0
#define SLACK 0.01 /* of what is expected */
#define RISE  0.04
#define FALL  0.001
enum { FORGOTTEN = 256 /* steps */ };

static bool known(const spec_stall *s, uint32_t bucket) {
    return s->bucket[bucket].seen > 0 && s->n_steps - s->bucket[bucket].last < FORGOTTEN;
}

static double decoding_ns(const spec_cost *c, uint32_t n_rows) { return c->n_steps ? spec_cost_ns(c, n_rows) : 0; }

double spec_stall_ns(const spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t n_prompt) {
    double base = decoding_ns(c, n_rows), rows_a = 0, a = 0;
    for (uint32_t i = 0; i < SPEC_COST_BUCKETS; i++) {
        double rows_b = (double)s->bucket[i].rows, b = (double)s->bucket[i].ns;
        if (!known(s, i)) continue;
        if (rows_b >= n_prompt) return base + a + (b - a) * (n_prompt - rows_a) / (rows_b - rows_a);
        rows_a = rows_b, a = b;
    }
    return rows_a > 0 ? (base + a) * n_prompt / rows_a : base * (n_rows + n_prompt) / n_rows;
}

static void learn_over(spec_stall *s, double ns, double expected_ns) {
    s->over += ns > expected_ns * (1 + SLACK + s->over) ? RISE : -FALL;
    if (s->over < 0) s->over = 0;
}

void spec_stall_learn(spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t n_prompt, uint64_t step_ns) {
    if (!n_rows || !n_prompt || !step_ns) return;
    uint32_t at = spec_cost_bucket(n_prompt);
    bool fresh = !known(s, at);
    double base = decoding_ns(c, n_rows), most = CLAMP * spec_stall_ns(s, c, n_rows, n_prompt), ns = (double)step_ns;
    if (!fresh && ns > most) ns = most;
    if (!fresh) learn_over(s, ns, most / CLAMP);
    double rate = fresh ? 1 : 2 / (s->bucket[at].seen + 2.0), added = ns > base ? ns - base : 0;
    if (rate < RATE) rate = RATE;
    if (fresh) s->bucket[at].seen = 0;
    s->bucket[at].ns += (float)((added - (double)s->bucket[at].ns) * rate);
    s->bucket[at].rows += (float)((n_prompt - (double)s->bucket[at].rows) * rate);
    s->bucket[at].seen++;
    s->bucket[at].last = ++s->n_steps;
}

uint32_t spec_stall_rows(const spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t most, uint64_t bound_ns) {
    uint32_t fits = 0, over = most + 1;
    double bound = (double)bound_ns / (1 + SLACK + s->over);
    if (!c->n_steps && !s->n_steps) return 0;
    while (over - fits > 1) {
        uint32_t middle = fits + (over - fits) / 2;
        *(spec_stall_ns(s, c, n_rows, middle) <= bound ? &fits : &over) = middle;
    }
    return fits;
}
