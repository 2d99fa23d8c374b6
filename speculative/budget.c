/* Budgets: how many drafted tokens a step verifies, and whether drafters are asked at all (design/speculation.md, 5).
 *
 * What a step takes is a table over its rows, learned from the steps themselves: time = level * shape[rows]. A shared machine is
 * a third slower for minutes; the level follows that at once and takes the rows that are not run at the time along, so that their
 * ratios stay comparable. The logarithm of measured over expected is cut to half a unit, so that a step that lost its core counts
 * little. Between measured rows it is interpolated; beyond them each row is held for a tenth of the first, which is less than a
 * saturated processor takes: then it is tried, and measured. What has not been run for a while counts as unknown again, or a bad
 * quarter of a second would be believed for ever.
 *
 * Drafts: nodes of all sequences in order of path probability, and the best of all prefixes of that order (SmartSpec, arXiv
 * 2406.14066, with a global maximum, since the time is a staircase). The wait for drafters is spent by then, and counts in both.
 *
 * Whether to wait: each round that asked knows what it would have given without; the sums of both fade. The load is the number of
 * decoding sequences, in powers of two: what pays for one does not for thirty. */
#include "speculative/speculative.h"

#include "base/fmath.h"

#define FIRST_SLOPE 0.1 /* of a row that nobody measured, in steps of one row */
#define CUT         0.5 /* of the logarithm of a time */
#define LEVEL_RATE  0.1
#define SHAPE_RATE  0.02 /* at least; 1 / (seen + 2) before */
#define MARGIN      1.02 /* that drafts must gain to be verified at all */
#define WORTH       1.01 /* ... and to be waited for */
#define WORTH_KEPT  0.9
enum {
    WARM_STEPS = 8 /* only the level learns */,
    STALE_STEPS = 1024,
    EXACT = 32,
    AN_OCTAVE = 8,
    FIRST_ROUNDS = 4,
    PROBE_WAITS = 100
};

/* ---- what a step takes ---- */

/* 1 to 32 rows one by one, then eight buckets for each doubling. */
static uint32_t bucket_of(uint32_t rows) {
    uint32_t bucket = EXACT, width = EXACT / AN_OCTAVE, from = EXACT;
    if (rows <= EXACT) return rows - 1;
    while (rows > 2 * from && bucket < SPEC_COST_BUCKETS - AN_OCTAVE) bucket += AN_OCTAVE, width *= 2, from *= 2;
    bucket += (rows - from - 1) / width;
    return bucket < SPEC_COST_BUCKETS ? bucket : SPEC_COST_BUCKETS - 1;
}

static bool known(const spec_cost *c, uint32_t bucket) {
    return c->bucket[bucket].seen > 0 && c->n_steps - c->bucket[bucket].last < STALE_STEPS;
}

static double unmeasured(double rows) { return 1 + FIRST_SLOPE * (rows - 1); }

bool spec_cost_known(const spec_cost *c, uint32_t rows) { return known(c, bucket_of(rows)); }

double spec_cost_ns(const spec_cost *c, uint32_t rows) {
    uint32_t at = bucket_of(rows), below = at, above = at;
    double level = c->n_steps ? c->level_ns : 1;
    while (below < SPEC_COST_BUCKETS && !(known(c, below) && (double)c->bucket[below].rows <= rows)) below--; /* wraps past 0 */
    while (above < SPEC_COST_BUCKETS && !(known(c, above) && (double)c->bucket[above].rows >= rows)) above++;
    bool has_below = below < SPEC_COST_BUCKETS, has_above = above < SPEC_COST_BUCKETS;
    if (!has_below && !has_above) return level * unmeasured(rows);
    double rows_a = (double)c->bucket[has_below ? below : above].rows, a = (double)c->bucket[has_below ? below : above].shape;
    if (!has_below || !has_above) return level * a * unmeasured(rows) / unmeasured(rows_a);
    double rows_b = (double)c->bucket[above].rows, b = (double)c->bucket[above].shape;
    return level * (rows_b > rows_a ? a + (b - a) * (rows - rows_a) / (rows_b - rows_a) : a);
}

void spec_cost_learn(spec_cost *c, uint32_t rows, uint64_t step_ns) {
    if (!rows || !step_ns) return;
    if (!c->n_steps) c->level_ns = (double)step_ns / unmeasured(rows);
    double expected = spec_cost_ns(c, rows), miss = fmath_log((double)step_ns / (c->n_steps ? expected : (double)step_ns));
    miss = miss > CUT ? CUT : miss < -CUT ? -CUT : miss;
    uint32_t at = bucket_of(rows);
    bool fresh = !known(c, at);
    c->n_steps++;
    if (c->n_steps <= WARM_STEPS) {
        c->level_ns *= fmath_exp(miss / (double)c->n_steps);
        return;
    }
    if (fresh) {
        c->bucket[at].shape = (float)(expected / c->level_ns);
        c->bucket[at].rows = (float)rows;
        c->bucket[at].seen = 0;
    }
    double rate = 1.0 / (c->bucket[at].seen + 2.0);
    c->level_ns *= fmath_exp(LEVEL_RATE * miss);
    c->bucket[at].shape *= (float)fmath_exp((rate > SHAPE_RATE ? rate : SHAPE_RATE) * miss);
    c->bucket[at].rows += (float)((rows - (double)c->bucket[at].rows) * LEVEL_RATE);
    c->bucket[at].seen++;
    c->bucket[at].last = c->n_steps;
}

/* ---- dividing a step ---- */

/* A heap of the sequences that have nodes left, by the path probability of the next; ties: the lower number. heap[i] is kept in
 * shares[i].open. */
typedef struct {
    spec_share *shares;
    uint32_t n;
} heap;

static bool before(const heap *h, uint32_t a, uint32_t b) {
    float pa = h->shares[a].path[h->shares[a].taken], pb = h->shares[b].path[h->shares[b].taken];
    return pa > pb || (!(pa < pb) && a < b);
}

static void sift(heap *h, uint32_t i) {
    for (uint32_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && before(h, h->shares[child + 1].open, h->shares[child].open)) child++;
        if (!before(h, h->shares[child].open, h->shares[i].open)) return;
        uint32_t lower = h->shares[i].open;
        h->shares[i].open = h->shares[child].open;
        h->shares[child].open = lower;
    }
}

static heap begin(spec_share *shares, uint32_t n) {
    heap h = {shares, 0};
    for (uint32_t i = 0; i < n; i++) {
        shares[i].taken = 0;
        if (shares[i].n) shares[h.n++].open = i;
    }
    for (uint32_t i = h.n / 2; i-- > 0;) sift(&h, i);
    return h;
}

/* Takes the likeliest node that is left and returns its path probability; false: none is. */
static bool take(heap *h, double *path) {
    if (!h->n) return false;
    spec_share *s = &h->shares[h->shares[0].open];
    *path = (double)s->path[s->taken++];
    if (s->taken == s->n) h->shares[0].open = h->shares[--h->n].open;
    sift(h, 0);
    return true;
}

spec_yield spec_divide(const spec_step *step, spec_share *shares, uint32_t n) {
    double wait = step->cost->n_steps ? (double)step->wait_ns : 0, path, tokens = step->n_choices;
    spec_yield best = {tokens, spec_cost_ns(step->cost, step->n_rows) + wait};
    double to_beat = tokens / best.ns * MARGIN;
    uint32_t n_best = 0, n_taken = 0;
    for (heap h = begin(shares, n); n_taken < step->n_free && take(&h, &path);) {
        tokens += path;
        double ns = spec_cost_ns(step->cost, step->n_rows + ++n_taken) + wait;
        if (tokens / ns <= to_beat) continue;
        to_beat = tokens / ns;
        best = (spec_yield){tokens, ns};
        n_best = n_taken;
    }
    heap h = begin(shares, n);
    while (n_best-- > 0 && take(&h, &path)) {
    }
    return best;
}

/* ---- whether to ask ---- */

static uint32_t load_of(uint32_t n_sequences) {
    uint32_t load = 0;
    while (load < SPEC_LOADS - 1 && n_sequences >> (load + 1)) load++;
    return load;
}

bool spec_worth_asking(const spec_worth *w, uint32_t n_sequences, uint64_t now_ns) {
    uint32_t l = load_of(n_sequences);
    const spec_yield *with = &w->load[l].with, *without = &w->load[l].without;
    if (w->load[l].n_rounds < FIRST_ROUNDS || with->tokens * without->ns > without->tokens * with->ns * WORTH) return true;
    return (double)(now_ns - w->load[l].asked_ns) >= PROBE_WAITS * w->load[l].wait_ns;
}

static spec_yield faded(spec_yield sum, spec_yield y) {
    return (spec_yield){sum.tokens * WORTH_KEPT + y.tokens, sum.ns * WORTH_KEPT + y.ns};
}

void spec_worth_learn(spec_worth *w, uint32_t n_sequences, spec_yield with, spec_yield without, uint64_t wait_ns,
                      uint64_t now_ns) {
    uint32_t l = load_of(n_sequences);
    double rate = w->load[l].n_rounds < FIRST_ROUNDS ? 1.0 / (w->load[l].n_rounds + 1.0) : 1 - WORTH_KEPT;
    w->load[l].with = faded(w->load[l].with, with);
    w->load[l].without = faded(w->load[l].without, without);
    w->load[l].wait_ns += ((double)wait_ns - w->load[l].wait_ns) * rate;
    w->load[l].n_rounds += w->load[l].n_rounds < FIRST_ROUNDS;
    w->load[l].asked_ns = now_ns;
}
