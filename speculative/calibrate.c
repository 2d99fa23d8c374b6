/* Calibration: from a drafter's belief in a node to the share of such nodes that are right.
 *
 * What: histogram binning (Zadrozny and Elkan, ICML 2001), online: by depth and belief, hits / seen with both multiplied by a
 * constant under 1 at each observation, so that the last few hundred count. The belief itself stands in for the first
 * observations (a prior of PRIOR of them), so that a handful does not swing it. All that a drafter proposed is observed, not only
 * what fusion kept: the committed tokens judge both, and a bin that looks bad once would else never be seen again.
 *
 * Why a factor for each request beside it: a table for code is right in a third of its proposals on code and in a tenth on
 * mathematics (bench/speculation-2026-11-24.md), and the bins see the mixture. The factor is hits / promised hits with a prior of
 * 1. Road not taken: bins for each request; an answer of a hundred tokens would not fill them.
 *
 * Why what is fused is judged once more: fusion takes drafters for independent, and they are not, since all that have seen a
 * phrase propose it. The order of nodes suffers little from that, but whether one pays is asked of its probability. Bins halve
 * the share of misses, since joint beliefs crowd near 1. */
#include "speculative/speculative.h"

#include "base/fmath.h"

#define PRIOR        8.0f
#define KEPT         (1 - 1 / 256.0f) /* of a bin's past at each observation */
#define TRUST_PRIOR  5.0f             /* promised hits */
#define TRUST_KEPT   (1 - 1 / 64.0f)
#define MOST_TRUST   2.0f
#define MOST_CERTAIN 0.98f /* a request's factor makes nothing surer than this */
#define AGREED_PRIOR 16.0f /* promised hits */

static uint32_t bin_of(float p) {
    uint32_t bin = (uint32_t)(p * SPEC_BINS);
    return bin < SPEC_BINS ? bin : SPEC_BINS - 1;
}

/* Parents come first, so a node's depth is its parent's and one. */
static void depths_of(const spec_tree *t, uint32_t depth[NOUNS_MAX_TREE]) {
    for (uint32_t i = 0; i < t->n; i++) depth[i] = t->parent[i] == NOUNS_TREE_ROOT ? 0 : depth[t->parent[i]] + 1;
}

static uint32_t row_of(uint32_t depth) { return depth < SPEC_DEPTHS ? depth : SPEC_DEPTHS - 1; }

static float share_of_hits(const spec_calibration *c, uint32_t depth, float p) {
    const spec_tally *t = &c->bin[row_of(depth)][bin_of(p)];
    return (t->hits + PRIOR * p) / (t->seen + PRIOR);
}

static float factor_of(const spec_trust *t, float prior) {
    float factor = (t->hits + prior) / (t->promised + prior);
    return factor < MOST_TRUST ? factor : MOST_TRUST;
}

static float with_factor(float p, float factor) {
    float q = p * factor, most = p > MOST_CERTAIN ? p : MOST_CERTAIN;
    return q < most ? q : most;
}

void spec_calibrate(const spec_calibration *c, const spec_trust *t, const spec_tree *raw, spec_tree *out) {
    uint32_t depth[NOUNS_MAX_TREE];
    float factor = factor_of(t, TRUST_PRIOR), p;
    depths_of(raw, depth);
    out->n = 0;
    for (uint32_t i = 0; i < raw->n; i++) {
        p = raw->probability[i] > 0 ? with_factor(share_of_hits(c, depth[i], raw->probability[i]), factor) : 0;
        spec_tree_add(out, raw->parent[i], raw->token[i], p);
    }
}

/* Which nodes the n committed tokens are an observation of, and which of these were right. */
static void judge(const spec_tree *t, const uint32_t *tokens, uint32_t n, const uint32_t *depth, bool *observed, bool *right) {
    for (uint32_t i = 0; i < t->n; i++) {
        observed[i] = depth[i] < n && (t->parent[i] == NOUNS_TREE_ROOT || right[t->parent[i]]);
        right[i] = observed[i] && t->token[i] == tokens[depth[i]];
        observed[i] &= t->probability[i] > 0;
    }
}

void spec_calibration_learn(spec_calibration *c, spec_trust *t, const spec_tree *raw, const uint32_t *tokens, uint32_t n) {
    uint32_t depth[NOUNS_MAX_TREE];
    bool observed[NOUNS_MAX_TREE], right[NOUNS_MAX_TREE];
    depths_of(raw, depth);
    judge(raw, tokens, n, depth, observed, right);
    for (uint32_t i = 0; i < raw->n; i++) {
        if (!observed[i]) continue;
        float p = raw->probability[i], hit = right[i] ? 1.0f : 0.0f, promised = share_of_hits(c, depth[i], p);
        spec_tally *bin = &c->bin[row_of(depth[i])][bin_of(p)];
        *bin = (spec_tally){bin->seen * KEPT + 1, bin->hits * KEPT + hit};
        *t = (spec_trust){t->promised * TRUST_KEPT + promised, t->hits * TRUST_KEPT + hit};
    }
}

/* ---- agreement ---- */

/* By half-octaves of 1 - p. */
static uint32_t agreement_bin(uint32_t from, float p) {
    float octaves = p < 1 ? -fmath_logf(1 - p) * 1.442695f : SPEC_AGREEMENT_BINS;
    uint32_t bin = (uint32_t)(2 * octaves), more = 0; /* voices than one */
    while (more < SPEC_VOICES - 1 && (from &= from - 1)) more++;
    return more * SPEC_AGREEMENT_BINS + (bin < SPEC_AGREEMENT_BINS ? bin : SPEC_AGREEMENT_BINS - 1);
}

float spec_agreed(const spec_agreement *a, uint32_t from, float p) {
    return with_factor(p, factor_of(&a->bin[agreement_bin(from, p)], AGREED_PRIOR));
}

void spec_agreement_learn(spec_agreement *a, const spec_tree *fused, const uint32_t *from, const uint32_t *tokens, uint32_t n) {
    uint32_t depth[NOUNS_MAX_TREE];
    bool observed[NOUNS_MAX_TREE], right[NOUNS_MAX_TREE];
    depths_of(fused, depth);
    judge(fused, tokens, n, depth, observed, right);
    for (uint32_t i = 0; i < fused->n; i++) {
        if (!observed[i]) continue;
        float p = fused->probability[i];
        spec_trust *bin = &a->bin[agreement_bin(from[i], p)];
        *bin = (spec_trust){bin->promised * KEPT + p, bin->hits * KEPT + (right[i] ? 1.0f : 0.0f)};
    }
}
