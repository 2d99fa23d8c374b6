/* Budgets: what a step takes, and how many drafted tokens it verifies (design/speculation.md, 5); whether drafters are asked at
 * all is worth.c's.
 *
 * What a step takes is a table over its rows, learned from the steps themselves: time = level * shape[rows]. A shared machine is
 * a third slower for minutes; the level follows that at once and takes the rows that are not run at the time along, so that their
 * ratios stay comparable. The logarithm of measured over expected is cut to 0.3 (but for the first step of so many rows), so that
 * a step that lost its core counts little. Between measured rows it is interpolated; beyond them each row is held for a tenth of
 * the first, which is less than a saturated processor takes, and below them the time for proportional to the rows: then it is
 * tried, and measured. What has not been run for a while counts as unknown again, or a bad quarter of a second would be believed
 * for ever. A stair that lies between two counts that are run would never be seen: now and then a step is as large as none was
 * (`explores`).
 *
 * Drafts: nodes of all sequences in order of path probability, and the best of all prefixes of that order (SmartSpec, arXiv
 * 2406.14066, with a global maximum, since the time is a staircase). The wait for drafters is spent by then, and counts in both.
 */
#include "speculative/speculative.h"

#include "base/fmath.h"

#define FIRST_SLOPE 0.1 /* of a row that nobody measured, in steps of one row */
#define CUT         0.3 /* of the logarithm of a time */
#define FIRST_CUT   1.5 /* ... of the first of a bucket */
#define FIRST_RATE  0.7
#define LEVEL_RATE  0.1
#define SHAPE_RATE  0.03 /* at least; 2 / (seen + 3) before, so that the first, when the level was not yet found, fade */
#define MARGIN      1.02 /* that drafts must gain to be verified at all */
#define CLEAR       1.2  /* ... to need no closer look at what a step without them takes */
enum {
    WARM_STEPS = 8 /* only the level learns */,
    STALE_STEPS = 4096,
    EXACT = 32,
    AN_OCTAVE = 8,
    ENOUGH = 8 /* steps of a bucket to know it by */,
    BEYOND = 4 /* nodes */
};

/* ---- what a step takes ---- */

/* 1 to 32 rows one by one, then eight buckets for each doubling. */
uint32_t spec_cost_bucket(uint32_t rows) {
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

bool spec_cost_known(const spec_cost *c, uint32_t rows) {
    return known(c, spec_cost_bucket(rows)) && c->bucket[spec_cost_bucket(rows)].seen >= ENOUGH;
}

/* Beyond the last bucket that is known: as steep as all that is known, or as a tenth of a step a row, whichever is less. */
static double shape_beyond(const spec_cost *c, uint32_t last, uint32_t rows) {
    uint32_t first = 0;
    double rows_b = (double)c->bucket[last].rows, b = (double)c->bucket[last].shape;
    double rise = b * (unmeasured(rows) / unmeasured(rows_b) - 1);
    while (!known(c, first)) first++;
    double rows_a = (double)c->bucket[first].rows, a = (double)c->bucket[first].shape;
    double seen = rows_b > rows_a ? (b > a ? b - a : 0) * (rows - rows_b) / (rows_b - rows_a) : rise;
    return b + (seen < rise ? seen : rise);
}

double spec_cost_ns(const spec_cost *c, uint32_t rows) {
    uint32_t at = spec_cost_bucket(rows), below = at, above = at;
    double level = c->n_steps ? c->level_ns : 1;
    while (below < SPEC_COST_BUCKETS && !(known(c, below) && (double)c->bucket[below].rows <= rows)) below--; /* wraps past 0 */
    while (above < SPEC_COST_BUCKETS && !(known(c, above) && (double)c->bucket[above].rows >= rows)) above++;
    bool has_below = below < SPEC_COST_BUCKETS, has_above = above < SPEC_COST_BUCKETS;
    if (!has_below && !has_above) return level * unmeasured(rows);
    if (!has_above) return level * shape_beyond(c, below, rows);
    double rows_b = (double)c->bucket[above].rows, b = (double)c->bucket[above].shape;
    if (!has_below) return level * b * rows / rows_b;
    double rows_a = (double)c->bucket[below].rows, a = (double)c->bucket[below].shape;
    return level * (rows_b > rows_a ? a + (b - a) * (rows - rows_a) / (rows_b - rows_a) : a);
}

static double cut(double x, double most) { return x > most ? most : x < -most ? -most : x; }

void spec_cost_learn(spec_cost *c, uint32_t rows, uint64_t step_ns) {
    if (!rows || !step_ns) return;
    if (!c->n_steps) c->level_ns = (double)step_ns / unmeasured(rows);
    double expected = c->n_steps ? spec_cost_ns(c, rows) : (double)step_ns, miss = fmath_log((double)step_ns / expected);
    uint32_t at = spec_cost_bucket(rows);
    bool fresh = !known(c, at);
    c->n_steps++;
    if (c->n_steps <= WARM_STEPS) {
        c->level_ns *= fmath_exp(cut(miss, FIRST_CUT) / (double)c->n_steps);
        return;
    }
    if (fresh) {
        c->bucket[at].shape = (float)(expected / c->level_ns * fmath_exp(FIRST_RATE * cut(miss, FIRST_CUT)));
        c->bucket[at].rows = (float)rows;
        c->bucket[at].seen = 0;
    } else {
        double rate = 2.0 / (c->bucket[at].seen + 3.0);
        miss = cut(miss, CUT);
        c->level_ns *= fmath_exp(LEVEL_RATE * miss);
        c->bucket[at].shape *= (float)fmath_exp((rate > SHAPE_RATE ? rate : SHAPE_RATE) * miss);
        c->bucket[at].rows += (float)((rows - (double)c->bucket[at].rows) * LEVEL_RATE);
    }
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

/* The lowest count of nodes, or the highest, up to a few beyond the best, whose step is not known; there may be `most`. The
 * lowest finds each stair, the highest a wide one soon. Where all are known and the gain is small: none, since an error of some
 * percent in what that takes would decide. */
static uint32_t count_to_explore(const spec_step *step, uint32_t best, uint32_t most, bool close) {
    uint32_t end = most < best + BEYOND ? most : best + BEYOND, found = end + 1;
    for (uint32_t k = 0; k <= end && (found > end || step->explores == SPEC_EXPLORES_FAR); k++)
        if (!spec_cost_known(step->cost, step->n_rows + k)) found = k;
    return found <= end ? found : close ? 0 : best;
}

spec_yield spec_divide(const spec_step *step, spec_share *shares, uint32_t n) {
    double wait = step->cost->n_steps ? (double)step->wait_ns : 0, path, tokens = step->n_choices;
    spec_yield best = {tokens, spec_cost_ns(step->cost, step->n_rows) + wait};
    double plain = tokens / best.ns, to_beat = plain * MARGIN;
    uint32_t n_best = 0, n_taken = 0;
    for (heap h = begin(shares, n); n_taken < step->n_free && take(&h, &path);) {
        tokens += path;
        double ns = spec_cost_ns(step->cost, step->n_rows + ++n_taken) + wait;
        if (tokens / ns <= to_beat) continue;
        to_beat = tokens / ns;
        best = (spec_yield){tokens, ns};
        n_best = n_taken;
    }
    if (step->explores) n_best = count_to_explore(step, n_best, n_taken, to_beat < plain * CLEAR);
    heap h = begin(shares, n);
    while (n_best-- > 0 && take(&h, &path)) {
    }
    return best;
}
