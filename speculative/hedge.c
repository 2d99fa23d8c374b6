/* Hedge: which drafters a request asks, by the hits that all of them had on its tokens.
 *
 * Freund and Schapire's Hedge (J. Comput. Syst. Sci. 55, 1997) with full information (HedgeSpec, arXiv 2510.20064): every drafter
 * that follows a request says for each committed token whether it would have chosen it, so no exploring is needed. The weight of
 * a drafter is e^(RATE * (its hits - the best one's)), hits fading with a horizon of some 64 tokens so that a change of subject
 * is followed. Drafters are scored at different times; so hits are their share times the tokens that the longest scored one has.
 * Those with a weight of at least LEAST are asked, at most SPEC_HEDGE_MOST.
 *
 * The share starts from the prior's, worth PRIOR tokens: what the prompt says of each drafter (prior.c). With nothing seen all
 * weights are equal, and the prior's order decides. */
#include "speculative/speculative.h"

#include "base/fmath.h"

#define KEPT  (1 - 1 / 64.0f) /* a token */
#define PRIOR 8.0f            /* tokens */
#define RATE  0.3f
#define LEAST 0.1f

void spec_hedge_learn(spec_tally *t, uint32_t n_tokens, uint32_t n_hits) {
    float each = n_tokens ? (float)n_hits / (float)n_tokens : 0; /* which ones they were is not told */
    for (uint32_t i = 0; i < n_tokens; i++) *t = (spec_tally){t->seen * KEPT + 1, t->hits * KEPT + each};
}

float spec_hedge_share(const spec_tally *t, const spec_tally *prior) {
    float share = (prior->hits + 1) / (prior->seen + 4);
    return (t->hits + PRIOR * share) / (t->seen + PRIOR);
}

uint32_t spec_hedge_pick(const spec_tally *hits, const spec_tally *prior, uint32_t n, uint32_t candidates) {
    float horizon = 0, best_share = 0;
    uint32_t picked = 0;
    for (uint32_t i = 0; i < n; i++)
        if (candidates >> i & 1) {
            float share = spec_hedge_share(&hits[i], &prior[i]);
            if (hits[i].seen > horizon) horizon = hits[i].seen;
            if (share > best_share) best_share = share;
        }
    for (uint32_t k = 0; k < SPEC_HEDGE_MOST; k++) {
        float most = -1;
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++)
            if ((candidates & ~picked) >> i & 1 && spec_hedge_share(&hits[i], &prior[i]) > most)
                most = spec_hedge_share(&hits[i], &prior[i]), best = i;
        if (best == n || fmath_expf(RATE * horizon * (most - best_share)) < LEAST) break;
        picked |= UINT32_C(1) << best;
    }
    return picked;
}
