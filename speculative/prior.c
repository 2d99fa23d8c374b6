/* A prior from the prompt: how often each drafter is expected to be right in an answer that has not begun.
 *
 * What: a prompt is the set of its tokens, hashed to buckets. Of each drafter a linear model says the share of an answer's tokens
 * that it will have chosen, too: the mean of all answers, and the weights of the prompt's buckets. When an answer ends, the hits
 * in it of whoever followed it, asked or not, move both a part of the way (normalized least mean squares: Widrow and Hoff 1960,
 * Nagumo and Noda 1967), which forgets as slowly as it learns: the prompt would now be expected to do as it did by RATE of the
 * error, and by less where few tokens were scored.
 *
 * Why not by domain: domains have to be named, and found in each prompt; hits are there anyway, and are what counts. Offline the
 * first pick is the best drafter in hindsight for 0.80 of prompts once 128 answers have taught, for 0.85 once 484 have, where the
 * mean of all finds it for 0.21 (bench/prior-2026-11-29.md). Road not taken: tallies by bucket, joined by their mean or by how
 * far each is from all: hardly better than none, since most tokens are in all prompts and must be explained away, which the error
 * does. Limits: nothing of the order of tokens; a prompt of many thousand sets most buckets, and is held to be as the mean. */
#include "speculative/speculative.h"

#define RATE    0.3f
#define KEPT    (1 - 1 / 64.0f) /* of the mean, an answer */
#define CERTAIN 64.0f           /* tokens that the prior counts as scored: its share stands nearly as it is */
#define FEW     8.0f            /* scored tokens that count half */

void spec_profile_of(spec_profile *p, const uint32_t *tokens, uint32_t n) {
    *p = (spec_profile){0};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bucket = (tokens[i] * UINT32_C(2654435761)) >> (32 - SPEC_PROFILE_BITS);
        uint64_t bit = UINT64_C(1) << bucket % 64, *word = &p->word[bucket / 64];
        p->n += !(*word & bit);
        *word |= bit;
    }
}

/* The next bucket of the prompt from *at on, which moves behind it; false: there is none. */
static bool next(const spec_profile *p, uint32_t *at, uint32_t *bucket) {
    for (; *at < SPEC_PROFILE_BUCKETS; *at = (*at / 64 + 1) * 64) {
        uint64_t left = p->word[*at / 64] >> *at % 64;
        if (!left) continue;
        *bucket = *at + (uint32_t)__builtin_ctzll(left);
        *at = *bucket + 1;
        return true;
    }
    return false;
}

/* The mean and what the buckets add to it. */
static float expected(const spec_prior *d, const spec_profile *p) {
    float sum = 0;
    for (uint32_t at = 0, b; next(p, &at, &b);) sum += d->weight[b];
    return d->all.hits / d->all.seen + sum;
}

spec_tally spec_prior_of(const spec_prior *d, const spec_profile *p) {
    if (!(d->all.seen > 0)) return (spec_tally){0};
    float share = expected(d, p);
    return (spec_tally){CERTAIN, CERTAIN * (share < 0 ? 0 : share > 1 ? 1 : share)};
}

void spec_prior_learn(spec_prior *d, const spec_profile *p, const spec_tally *hits) {
    if (!(hits->seen > 0)) return;
    float share = hits->hits / hits->seen, sure = hits->seen / (hits->seen + FEW);
    d->all = (spec_tally){d->all.seen * KEPT + sure, d->all.hits * KEPT + sure * share};
    if (p->n == 0) return;
    float step = RATE * sure * (share - expected(d, p)) / (float)p->n;
    for (uint32_t at = 0, b; next(p, &at, &b);) d->weight[b] += step;
}
