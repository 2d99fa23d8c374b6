/* Hedge: which drafters a request asks, by the hits that all of them had on its tokens.
 *
 * Freund and Schapire's Hedge (J. Comput. Syst. Sci. 55, 1997) with full information (HedgeSpec, arXiv 2510.20064): every drafter
 * that follows a request says for each committed token whether it would have chosen it, so no exploring is needed. The weight of
 * a drafter is e^(RATE * (its hits - the best one's)), hits fading with a horizon of some 24 tokens so that a change of subject
 * is followed: in recorded answers the right table is asked 6 tokens behind one (the median), 19 at most in 9 of 10; with 64
 * tokens and a rate of 0.3 it were 12 and 36, and no better where the subject stays (bench/routing-2026-11-30.md). Drafters are
 * scored at different times; so hits are their share times the tokens that the longest scored one has. Those with a weight of at
 * least LEAST are asked, at most SPEC_HEDGE_MOST.
 *
 * The share starts from the prior's, worth PRIOR tokens: what the prompt says of each drafter (prior.c). With nothing seen all
 * weights are equal, and the prior's order decides.
 *
 * What an answer costs: a round ends with the slowest of those that it asks. So of all candidates, of all but the slowest of
 * these picks, of all but the next slowest ... those are asked that give the most expected tokens a time, the step counted:
 * further ones only where what they add is worth the wait for them, and who is slow but much better still where steps are long.
 * Where waits are alike that changes nothing. What a further drafter adds is little: those that are asked together know much the
 * same. Of the recorded answers the first pick has 0.309 of the first 8 tokens and one of three has 0.344, where three that know
 * different things would have 0.5 (bench/prior-2026-11-29.md): a fifth of what they seem to add. */
#include "speculative/speculative.h"

#include "base/fmath.h"

#define KEPT  (1 - 1 / 24.0f) /* a token */
#define PRIOR 8.0f            /* tokens */
#define RATE  0.8f
#define LEAST 0.1f
#define ADDED 0.2 /* of what a further drafter would add, did it know nothing of what the others do */

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

/* ---- what it costs ---- */

static double slowest_ns(const spec_price *price, uint32_t mask) {
    double most = 0;
    for (uint32_t i = 0; mask >> i; i++)
        if (mask >> i & 1 && price->wait_ns[i] > most) most = price->wait_ns[i];
    return most;
}

/* Tokens a time: the first of each draft with its own share, then as a chain of such. */
static double rate(const spec_tally *hits, const spec_tally *prior, const spec_price *price, uint32_t picked) {
    double share = 0, one = 1, tokens = price->tokens;
    for (uint32_t left = picked; left; left &= left - 1) { /* the order hardly matters: the best is counted in full */
        double other = (double)spec_hedge_share(&hits[__builtin_ctz(left)], &prior[__builtin_ctz(left)]);
        double best = other > share ? other : share, less = other > share ? share : other;
        share = best + ADDED * less * (1 - best);
    }
    for (uint32_t i = 0; i < price->depth; i++) tokens += one *= share;
    return tokens / (price->step_ns + price->n_trips * slowest_ns(price, picked));
}

uint32_t spec_hedge_ask(const spec_tally *hits, const spec_tally *prior, const spec_price *price, uint32_t n,
                        uint32_t candidates) {
    uint32_t best = spec_hedge_pick(hits, prior, n, candidates), picked = best;
    double most = price->step_ns > 0 ? rate(hits, prior, price, picked) : 0;
    while (price->step_ns > 0 && picked) {
        double limit_ns = slowest_ns(price, picked);
        for (uint32_t i = 0; i < n; i++)
            if (price->wait_ns[i] >= limit_ns) candidates &= ~(UINT32_C(1) << i);
        picked = spec_hedge_pick(hits, prior, n, candidates);
        double here = picked ? rate(hits, prior, price, picked) : 0;
        if (here > most) most = here, best = picked;
    }
    return best;
}
