/* Whether drafters are waited for, and how they go on: each alone, or together in lockstep (design/speculation.md, 4 and 5).
 *
 * Whether to wait: each round that asked knows what is expected of it, and of a step without; the sums of both fade. Both are
 * held to what such rounds have kept of their promises: the tokens that come judge the drafts that would have been verified
 * without, too. Beliefs are calibrated over all rounds, and where somebody was asked and does not agree, lookup is right less
 * often; so by its promises a step without is a fifth worse than it is, and waiting would pay where it does not. Sums are kept by
 * the number of decoding sequences, in powers of two, since what pays for one does not for thirty; and by what lookup alone would
 * bring, since where the text repeats itself there is little that others could add. What is not known yet is held to be as
 * where waiting gains rather more, else each of some ten kinds would have to pay for its own first rounds; and all that do not
 * pay share one allowance for probes, which tries of a fusion do not spend.
 *
 * Lockstep or not: rounds in lockstep are one more kind of round, and what they give is learnt by having some. Lockstep brings
 * longer drafts where drafters know different things, and costs a round trip a token; so of both fusions are kept the tokens of
 * a round that asked several (one alone never is in lockstep), its step, how often it waited for an answer and what that takes,
 * and the one with more tokens a time is taken. Rounds differ from each other by a third, and a few hundredths decide: those are
 * means over many rounds. What an answer takes differs little and can change at once, when a link does: that is a mean over a
 * few. What the step would have given without is the unit, since the text's and the machine's moods are in both. Promises are no
 * measure between the two either: where drafters go on from each other's tokens they come true more often. The fusion that gives
 * less is tried again as often as that costs a quarter of a hundredth: often, where it gives hardly less; as much time behind a
 * try is left to the probes above. What lockstep costs before its first round is at most the wait for a draft that each makes
 * alone, at each depth, and what a round waits at all. Not taken: to reckon a round in lockstep from the round trip and the time
 * of a pass: neither is seen alone, and what counts most, the tokens that others add, is not in them. Limits: each kind of round
 * learns for itself: some dozens of rounds where lockstep is known of a kind beside it; else its first tries are as far apart as
 * what they may cost demands. Where drafts without would have gone on behind the tokens that came, they are judged by these
 * alone. */
#include "speculative/speculative.h"

#define WORTH       1.01 /* that rounds must give to be waited for, in lockstep to be taken for those that are not */
#define KEPT        0.9
#define LONG_KEPT   (1 - 1 / 64.0)
#define TRUST_KEPT  (1 - 1 / 256.0f)
#define TRUST_PRIOR 16.0f /* promised drafts */
#define LEAST_LOSS  0.01  /* of a round, that trying the other fusion is held to cost */
enum { FIRST_ROUNDS = 4, PROBE_WAITS = 200 };

uint32_t spec_worth_kind(uint32_t n_sequences, double gain) {
    static const double edges[SPEC_GAINS - 1] = {0.25, 0.8, 2}; /* nothing; a guess; a short match; a copy */
    uint32_t load = 0, g = 0;
    while (load < SPEC_LOADS - 1 && n_sequences >> (load + 1)) load++;
    while (g < SPEC_GAINS - 1 && gain >= edges[g]) g++;
    return load * SPEC_GAINS + g;
}

static bool is_known(const spec_worth *w, spec_fusion f, uint32_t kind) { return w->kind[f][kind].n_rounds >= FIRST_ROUNDS; }

static bool pays(const spec_worth *w, spec_fusion f, uint32_t kind) {
    const spec_yield *with = &w->kind[f][kind].with, *without = &w->kind[f][kind].without;
    return with->tokens * without->ns > without->tokens * with->ns * WORTH;
}

/* The kind itself, or the nearest known one in which waiting gains rather more: with less that is there anyway, or half, a
 * quarter ... as many sequences. SPEC_ROUND_KINDS: none is known. */
static uint32_t evidence(const spec_worth *w, spec_fusion f, uint32_t kind) {
    for (uint32_t load = kind / SPEC_GAINS + 1; load-- > 0;)
        for (uint32_t gain = kind % SPEC_GAINS + 1; gain-- > 0;)
            if (is_known(w, f, load * SPEC_GAINS + gain)) return load * SPEC_GAINS + gain;
    return SPEC_ROUND_KINDS;
}

bool spec_worth_asking(const spec_worth *w, spec_fusion f, uint32_t kind, uint64_t now_ns) {
    uint32_t as = evidence(w, f, kind);
    if (as == SPEC_ROUND_KINDS || pays(w, f, as)) return true;
    uint64_t asked_ns = w->kind[f][kind].asked_ns, last_ns = asked_ns > w->probed_ns ? asked_ns : w->probed_ns;
    return now_ns >= w->quiet_ns && (double)(now_ns - last_ns) >= PROBE_WAITS * w->kind[f][as].wait_ns;
}

/* ---- the two fusions ---- */

static double round_ns(const spec_worth *w, spec_fusion f, uint32_t kind) {
    const spec_worth_rounds *k = &w->kind[f][kind];
    return (k->longer.ns + k->n_trips * k->trip_ns) / k->n_longer;
}

static bool is_compared(const spec_worth *w, spec_fusion f, uint32_t kind) {
    return w->kind[f][kind].n_longer > FIRST_ROUNDS - 1; /* it fades by less */
}

/* Tokens a time, in that of rounds without; of a kind that is compared. */
static double gain(const spec_worth *w, spec_fusion f, uint32_t kind) {
    const spec_worth_rounds *k = &w->kind[f][kind];
    return k->longer.tokens / k->n_longer / round_ns(w, f, kind) * k->longer_without.ns / k->longer_without.tokens;
}

static double lost_by_trying(const spec_worth *w, spec_fusion f, uint32_t kind, double best) {
    double part = 1 - gain(w, f, kind) / best;
    return round_ns(w, f, kind) * (part > LEAST_LOSS ? part : LEAST_LOSS);
}

spec_fusion spec_worth_fusion(const spec_worth *w, uint32_t kind, uint32_t depth, uint64_t wait_ns, uint64_t *try_ns,
                              uint64_t now_ns) {
    uint32_t merged = evidence(w, SPEC_MERGE, kind), as = evidence(w, SPEC_LOCKSTEP, kind);
    *try_ns = 0;
    if (merged == SPEC_ROUND_KINDS) return SPEC_MERGE;
    spec_fusion better = SPEC_MERGE;
    double loss_ns = w->kind[SPEC_MERGE][merged].wait_ns * depth;
    if (loss_ns > (double)wait_ns) loss_ns = (double)wait_ns;
    if (as < SPEC_ROUND_KINDS && is_compared(w, SPEC_MERGE, as) && is_compared(w, SPEC_LOCKSTEP, as)) {
        double of_merge = gain(w, SPEC_MERGE, as), of_lockstep = gain(w, SPEC_LOCKSTEP, as);
        if (of_lockstep > of_merge * WORTH) better = SPEC_LOCKSTEP;
        double best = better == SPEC_LOCKSTEP ? of_lockstep : of_merge;
        loss_ns = lost_by_trying(w, better == SPEC_LOCKSTEP ? SPEC_MERGE : SPEC_LOCKSTEP, as, best > 1 ? best : 1);
    }
    spec_fusion other = better == SPEC_LOCKSTEP ? SPEC_MERGE : SPEC_LOCKSTEP;
    if (now_ns < w->turn_ns || (double)(now_ns - w->kind[other][kind].several_ns) < PROBE_WAITS * loss_ns) return better;
    *try_ns = 1 + (uint64_t)(PROBE_WAITS * loss_ns);
    return other;
}

void spec_worth_try(spec_worth *w, uint64_t try_ns, uint64_t now_ns) {
    w->quiet_ns = now_ns + try_ns;
    w->turn_ns = w->quiet_ns + try_ns; /* the time between is there for the other probes */
}

double spec_worth_trips(const spec_worth *w, spec_fusion f, uint32_t kind) {
    const spec_worth_rounds *k = &w->kind[f][kind];
    return k->n_longer > 0 ? k->n_trips / k->n_longer : 1;
}

/* ---- what rounds teach ---- */

static spec_yield faded(spec_yield sum, double kept, spec_yield y) {
    return (spec_yield){sum.tokens * kept + y.tokens, sum.ns * kept + y.ns};
}

static spec_trust judged(spec_trust sum, spec_trust t) {
    return (spec_trust){sum.promised * TRUST_KEPT + t.promised, sum.hits * TRUST_KEPT + t.hits};
}

void spec_worth_judge(spec_worth *w, spec_fusion f, spec_trust with, spec_trust without) {
    w->kept[f] = judged(w->kept[f], with);
    w->kept_without = judged(w->kept_without, without);
}

/* What is to be expected of a round that promises y, as so much was kept so far. */
static spec_yield held_to(const spec_trust *kept, spec_yield y, uint32_t n_sequences) {
    double share = (double)((kept->hits + TRUST_PRIOR) / (kept->promised + TRUST_PRIOR));
    return (spec_yield){n_sequences + (y.tokens - n_sequences) * share, y.ns};
}

static void learn_longer(spec_worth_rounds *k, const spec_round *r, uint64_t now_ns) {
    double wait_ns = (double)r->wait_ns, rate = 1 / (1 + (k->n_longer < FIRST_ROUNDS ? k->n_longer : FIRST_ROUNDS));
    k->trip_ns += (wait_ns / r->n_trips - k->trip_ns) * rate;
    k->longer = faded(k->longer, LONG_KEPT, (spec_yield){r->with.tokens, r->with.ns - wait_ns});
    k->longer_without = faded(k->longer_without, LONG_KEPT, r->without);
    k->n_longer = k->n_longer * LONG_KEPT + 1;
    k->n_trips = k->n_trips * LONG_KEPT + r->n_trips;
    k->several_ns = now_ns;
}

void spec_worth_learn(spec_worth *w, const spec_round *promised, uint64_t now_ns) {
    spec_round r = *promised;
    spec_worth_rounds *k = &w->kind[r.fusion][r.kind];
    double slow = k->n_rounds < FIRST_ROUNDS ? 1 / (k->n_rounds + 1.0) : 1 - KEPT;
    r.with = held_to(&w->kept[r.fusion], r.with, r.n_sequences);
    r.without = held_to(&w->kept_without, r.without, r.n_sequences);
    if (r.several) learn_longer(k, &r, now_ns);
    k->with = faded(k->with, KEPT, r.with);
    k->without = faded(k->without, KEPT, r.without);
    k->wait_ns += ((double)r.wait_ns - k->wait_ns) * slow;
    k->n_rounds += k->n_rounds < FIRST_ROUNDS;
    k->asked_ns = now_ns;
    if (!pays(w, r.fusion, r.kind) && !r.tries) w->probed_ns = now_ns;
}
