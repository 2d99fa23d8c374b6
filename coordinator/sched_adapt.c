/* What drafts are worth, and how many of them a step verifies.
 *
 * What: each result teaches how right each drafter's beliefs are (spec_calibration) and what a step of so many rows takes from
 * its plan to its result (spec_cost; steps that compute prompts are left out, since a row of a prompt costs less than one that
 * chooses). Before a plan is sent, the calibrated trees of each decoding sequence are fused, and the step is divided between
 * them (spec_divide). What rounds that waited for drafters gave, their whole wait counted, is compared with what a step of all
 * sequences would have given had nobody waited, so that rounds stop asking where that is more (spec_worth). A round behind a step
 * that has told early what it will commit is charged with the telling, or drafts that are there at once would seem free.
 *
 * Why a step is divided as if no prompt were in it: the prompt's rows have to be computed in this step or another. Counted in,
 * they would make each token of the step look dear, and drafts that cost more than they bring worth having.
 * Why one answer to all rounds that begin at a time, and not one for each request: a batch of which half waits falls apart in two
 * that each have a step of their own. What drafts are worth is one table for all groups; what steps take, and with it whether to
 * ask, is each group's own.
 * Limits: in the division of a step the wait counts only as far as the group was idle in it; a step is judged by the longest wait
 * of its sequences; where rows are free until the processor is full and a prompt fills it, drafts cost more than is reckoned. */
#include "coordinator/sched_int.h"

#define TELLING 0.03 /* of a step, that it takes longer where it tells early what it will commit (bench/early-2026-11-30.md) */
enum { EXPLORING = 32 /* of so many steps one; of two, while steps without drafts are not known */ };

static spec_fusion fusion_of(bool lockstep) { return lockstep ? SPEC_LOCKSTEP : SPEC_MERGE; }
static spec_trust *trust(const sched *s, const sched_request *r) { return s->trust + (size_t)r->place * s->roster.n; }

/* ---- what results teach ---- */

void sched_forget_trust(sched *s, const sched_request *r) {
    for (uint32_t i = 0; i < s->roster.n; i++) {
        trust(s, r)[i] = (spec_trust){0};
        sched_hits(s, r)[i] = (spec_tally){0};
        sched_cosine(s, r)[i] = (spec_cosine){0};
        sched_proposals(s, r)[i].n = 0; /* of whoever had the place before: its first token would judge them */
    }
    if (s->limits.n_drafters == 0) return;
    spec_profile_of(&s->profiles[r->place], r->prompt, r->n_prompt);
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        s->prior[(size_t)r->place * s->roster.n + i] = spec_prior_of(&s->priors[i], &s->profiles[r->place]);
}

void sched_learn_prior(sched *s, const sched_request *r) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        spec_prior_learn(&s->priors[i], &s->profiles[r->place], &sched_hits(s, r)[i]);
}

/* Until an answer is over that it has followed, what all that run have shown. */
spec_tally sched_prior(const sched *s, const sched_request *r, uint32_t drafter) {
    spec_tally of_prompt = s->prior[(size_t)r->place * s->roster.n + drafter];
    return of_prompt.seen > 0 ? of_prompt : s->all_hits[drafter];
}

void sched_learn_step(sched_group *g, const sched_flight *f) {
    g->idle_since_ns = g->s->now_ns;
    if (f->full) g->full_ns += g->s->now_ns - f->sent_ns;
    if (f->decodes) spec_cost_learn(&g->cost, f->n_rows, g->s->now_ns - f->sent_ns);
    sched_learn_stall(g, f);
}

spec_cosine *sched_cosine(const sched *s, const sched_request *r) { return s->cosine + (size_t)r->place * s->roster.n; }
spec_tally *sched_hits(const sched *s, const sched_request *r) { return s->hits + (size_t)r->place * s->roster.n; }

/* Of a prompt nobody's hits count: it is not the target's text. */
void sched_learn_hits(sched *s, const sched_request *r, uint32_t drafter, const sched_draft_asked *asked,
                      const proto_item *item) {
    uint32_t n_answered = asked->n_known - r->n_prompt, n = asked->n_new < n_answered ? asked->n_new : n_answered;
    if (asked->n_known <= r->n_prompt) return;
    if (n > SPEC_MAX_SCORED) n = SPEC_MAX_SCORED;
    if (s->limits.want_hidden >> drafter & 1 && n > item->n_scored)
        n = item->n_scored; /* only where it was given the state before */
    uint32_t n_hits = item->n_hits < n ? item->n_hits : n;
    spec_hedge_learn(&sched_hits(s, r)[drafter], n, n_hits);
    spec_hedge_learn(&s->all_hits[drafter], n, n_hits);
}

static void learn_agreement(sched *s, const sched_tree *offer, const proto_item *item) {
    spec_tree whole = offer->tree;
    whole.n = offer->n_offered;
    spec_agreement_learn(&s->agreement, &whole, offer->from, item->tokens, item->n_tokens);
}

static void judge_round(sched_request *r, const sched_tree *offer, const proto_item *item) {
    token_tree without = spec_tree_view(&offer->without);
    uint32_t n_without = spec_tree_walk(&without, item->tokens, item->n_tokens, NULL);
    spec_worth_judge(&r->group->worth, fusion_of(r->lockstep), (spec_trust){(float)offer->promised, (float)(item->n_tokens - 1)},
                     (spec_trust){(float)offer->promised_without, (float)n_without});
}

void sched_learn_drafts(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    const spec_tree *proposals = sched_proposals(s, r);
    const spec_likeness likeness = {s->limits.similarity, s->limits.similarity_context};
    spec_cosine_accepted(&r->accepted, item->n_tokens - 1);
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        if (r->asked >> i & 1 || proposals[i].n) /* drafts ahead were asked for before */
            spec_cosine_learn(&sched_cosine(s, r)[i], &proposals[i], item->tokens, item->n_tokens, &likeness);
    for (uint32_t i = 0; i < s->roster.n; i++)
        spec_calibration_learn(&s->calibrations[i], &trust(s, r)[i], &proposals[i], item->tokens, item->n_tokens);
    if (asked->offer) learn_agreement(s, asked->offer, item);
    if (asked->offer && r->asked) judge_round(r, asked->offer, item);
}

void sched_calibrate(const sched *s, const sched_request *r, uint32_t drafter, spec_tree *out) {
    spec_calibrate(&s->calibrations[drafter], &trust(s, r)[drafter], &sched_proposals(s, r)[drafter], out);
}

/* One tree of what the drafters of the mask proposed, as calibrated; and its path probabilities. */
static spec_share fuse(const sched *s, const sched_request *r, uint32_t mask, sched_tree *t, float *path) {
    spec_tree calibrated[SPEC_MAX_DRAFTERS];
    for (uint32_t i = 0; i < s->roster.n; i++) {
        calibrated[i].n = 0;
        if (mask >> i & 1) sched_calibrate(s, r, i, &calibrated[i]);
    }
    spec_fuse(calibrated, NULL, s->roster.n, sched_most_drafts(s, r), &t->tree, t->from);
    t->n_offered = t->tree.n;
    for (uint32_t i = 0; i < t->tree.n; i++) {
        path[i] = spec_agreed(&s->agreement, t->from[i], t->tree.probability[i]);
        if (t->tree.parent[i] != NOUNS_TREE_ROOT) path[i] *= path[t->tree.parent[i]];
        if (i > 0 && path[i] > path[i - 1]) path[i] = path[i - 1]; /* a share never rises */
    }
    return (spec_share){.path = path, .n = t->tree.n};
}

double sched_local_gain(const sched *s, const sched_request *r) {
    sched_tree t;
    float path[NOUNS_MAX_TREE], sum = 0;
    spec_share all = fuse(s, r, s->roster.local, &t, path);
    for (uint32_t i = 0; i < all.n; i++) sum += path[i];
    return (double)sum;
}

void sched_decide_asking(sched_group *g, double gain, bool several) {
    const sched_limits *l = &g->s->limits;
    uint32_t kind = spec_worth_kind(sched_n_running(g), gain);
    g->try_ns = 0;
    g->lockstep = l->fusion == SCHED_LOCKSTEP;
    if (l->fusion == SCHED_FUSION_AUTO && several) /* with fixed budgets nothing is learnt, and all merge */
        g->lockstep =
            spec_worth_fusion(&g->worth, kind, l->max_tree, l->draft_wait_ns, &g->try_ns, g->s->now_ns) == SPEC_LOCKSTEP;
    g->asks = g->try_ns || !l->adaptive_budgets || spec_worth_asking(&g->worth, fusion_of(g->lockstep), kind, g->s->now_ns);
    g->round_kind = kind;
    if (l->adaptive_budgets && g->cost.n_steps > 0)
        g->price = (spec_price){.wait_ns = g->s->answer_ns,
                                .step_ns = spec_cost_ns(&g->cost, sched_n_running(g)),
                                .tokens = 1 + gain,
                                .n_trips = spec_worth_trips(&g->worth, fusion_of(g->lockstep), kind),
                                .depth = l->max_tree};
}

_Static_assert((int)SCHED_MAX_COSTS == (int)SPEC_COST_BUCKETS, "a place for each bucket");

uint32_t sched_get_costs(const sched *s, uint32_t group, sched_cost out[SCHED_MAX_COSTS]) {
    INVARIANT(group < s->limits.n_groups);
    const spec_cost *cost = &s->groups[group].cost;
    uint32_t n = 0, shown = 0;
    for (uint32_t i = 0; i < SPEC_COST_BUCKETS; i++) {
        uint32_t rows = (uint32_t)(cost->bucket[i].rows + 0.5f);
        if (rows <= shown || !spec_cost_known(cost, rows)) continue;
        out[n++] = (sched_cost){rows, spec_cost_ns(cost, rows)};
        shown = rows;
    }
    return n;
}

/* Means that fade. */
void sched_learn_wait(sched *s, uint32_t drafter, const sched_request *r, bool whole) {
    sched_drafter *d = &s->drafters[drafter];
    uint64_t *means[] = {&d->stats.wait_ns, &d->waits_ns[fusion_of(r->lockstep)]};
    uint64_t wait_ns = s->now_ns - (r->draft_by_ns - s->limits.draft_wait_ns);
    for (int i = 0; i < 1 + whole; i++) *means[i] = *means[i] ? *means[i] - *means[i] / 8 + wait_ns / 8 : wait_ns;
}

/* A mean that fades. One answer that was held up is not to cost the drafter its place: what one adds is a step's time at most. Of
 * who is hardly ever asked the last one counts. An answer is to all who wait for it, and is one sample however many these are, or
 * of a crowd's each would add that much. */
void sched_learn_answer(sched *s, uint32_t drafter, const sched_request *r) {
    double *mean_ns = &s->answer_ns[drafter], step_ns = r->group->price.step_ns;
    double wait_ns = 1 + (double)(s->now_ns - (r->draft_by_ns - s->limits.draft_wait_ns)), most_ns = *mean_ns + step_ns;
    if (*mean_ns > 0 && step_ns > 0 && wait_ns > most_ns) wait_ns = most_ns;
    bool alone = *mean_ns == 0 || r->probed >> drafter & 1;
    if (!alone && s->answered_ns[drafter] == s->now_ns) return;
    *mean_ns = alone ? wait_ns : *mean_ns + (wait_ns - *mean_ns) / 8;
    s->answered_ns[drafter] = s->now_ns;
}

/* ---- whether to begin a step ---- */

/* Rows of prompts beside n_decode sequences, if drafts take none of them. */
static uint32_t prompt_rows(sched_group *g, uint32_t n_decode) {
    sched *s = g->s;
    if (g->lists[SCHED_PREFILL].n == 0) return 0;
    uint32_t rows = 0,
             most = sched_prompt_room(g, &(sched_flight){.n_rows = n_decode, .n_decoding = n_decode, .n_choosing = n_decode});
    for (sched_request *r = sched_first(g, SCHED_PREFILL); r && rows < most; r = sched_next(s, r))
        rows += sched_prompt_share(r->n_known - r->n_cached, most - rows, s->limits.prefill_chunk, n_decode > 0);
    return rows;
}

/* When the last drafter is to be expected that someone waits for, and how long that takes it. 0: nobody waits. */
static uint64_t drafts_due_ns(sched_group *g, uint64_t *takes_ns) {
    sched *s = g->s;
    uint64_t due_ns = 0;
    for (sched_request *r = sched_first(g, SCHED_DRAFTING); r; r = sched_next(s, r))
        for (uint32_t i = 0; i < s->limits.n_drafters; i++) {
            uint64_t wait_ns = s->drafters[i].waits_ns[fusion_of(r->lockstep)];
            uint64_t at_ns = r->draft_by_ns - s->limits.draft_wait_ns + wait_ns;
            if (r->awaited >> i & 1 && at_ns > due_ns) due_ns = at_ns, *takes_ns = wait_ns;
        }
    return due_ns;
}

/* A step now for those who are ready and one for the others behind it, or a wait and one step for all: what ends earlier. A draft
 * that is overdue is waited for as long again and no longer. */
bool sched_holds_step(sched_group *g) {
    sched *s = g->s;
    uint32_t n_wait = g->lists[SCHED_DRAFTING].n, n_ready = g->lists[SCHED_DECODE].n;
    bool was_held = g->held_until_ns > 0;
    g->held_until_ns = 0;
    if (!s->limits.adaptive_budgets || n_wait == 0 || g->cost.n_steps == 0) return false;
    if (n_ready >= sched_places(g)) return false; /* those who wait would have no place in it */
    n_ready += prompt_rows(g, n_ready < s->limits.max_rows ? n_ready : s->limits.max_rows);
    if (n_ready == 0) return false;
    uint64_t takes_ns = 0, due_ns = drafts_due_ns(g, &takes_ns), left_ns = due_ns > s->now_ns ? due_ns - s->now_ns : 0;
    double apart = spec_cost_ns(&g->cost, n_ready) + spec_cost_ns(&g->cost, n_wait);
    if ((double)left_ns + spec_cost_ns(&g->cost, n_ready + n_wait) >= apart) return false;
    uint64_t until_ns = due_ns + takes_ns;
    if (until_ns <= s->now_ns) return false;
    s->stats.held_steps += !was_held;
    g->held_until_ns = until_ns;
    return true;
}

/* ---- the drafts of a step ---- */

uint32_t sched_most_drafts(const sched *s, const sched_request *r) {
    uint32_t useful = r->n_limit - r->n_known - 1; /* the step's own choice takes one */
    return s->limits.max_tree < useful ? s->limits.max_tree : useful;
}

/* The longest wait of somebody in the step. Steps that had no place left do not count: who has sat one out has waited for that,
 * as it would have with nobody asked, and no drafter is to blame. */
static uint64_t waited_ns(sched_group *g, uint32_t n_decode) {
    sched *s = g->s;
    uint64_t longest = 0;
    sched_request *r = sched_first(g, SCHED_DECODE);
    for (uint32_t i = 0; i < n_decode; i++, r = sched_next(s, r)) {
        uint64_t wait_ns = s->now_ns - (r->draft_by_ns - s->limits.draft_wait_ns), full_ns = g->full_ns - r->full_ns;
        wait_ns -= full_ns < wait_ns ? full_ns : wait_ns; /* it may have begun while one was computed */
        if (r->asked && wait_ns > longest) longest = wait_ns;
    }
    return longest;
}

static spec_yield divide(sched_group *g, spec_step *step, uint32_t n_decode, uint32_t mask) {
    sched *s = g->s;
    sched_request *r = sched_first(g, SCHED_DECODE);
    for (uint32_t i = 0; i < n_decode; i++, r = sched_next(s, r))
        s->shares[i] = fuse(s, r, mask, &g->trees[i], s->paths + (size_t)i * s->limits.max_tree);
    return spec_divide(step, s->shares, n_decode);
}

/* Cuts a tree to what a step has for it; returns how many of it are expected to be accepted. */
static double cut(spec_tree *t, const spec_share *share) {
    double promised = 0;
    t->n = share->taken;
    for (uint32_t i = 0; i < share->taken; i++) promised += (double)share->path[i];
    return promised;
}

/* What the step would verify, had nobody been asked. */
static spec_yield divide_without(sched_group *g, spec_step *step, uint32_t n_decode) {
    spec_yield expected = divide(g, step, n_decode, g->s->roster.local);
    for (uint32_t i = 0; i < n_decode; i++) {
        g->trees[i].without = g->trees[i].tree;
        g->trees[i].promised_without = cut(&g->trees[i].without, &g->s->shares[i]);
    }
    return expected;
}

/* What the step would have given had nobody waited: all would be in it. */
static void learn_worth(sched_group *g, const spec_step *step, spec_round *round) {
    if (g->tells) round->wait_ns += (uint64_t)(TELLING * round->without.ns); /* in the times of steps either way */
    uint32_t n_all = g->lists[SCHED_DECODE].n + g->lists[SCHED_DRAFTING].n;
    if (n_all > g->s->limits.max_batch) n_all = g->s->limits.max_batch;
    round->without.ns += spec_cost_ns(&g->cost, step->n_rows + n_all - step->n_choices) - spec_cost_ns(&g->cost, step->n_rows);
    round->with.ns += (double)round->wait_ns - (double)step->wait_ns;
    spec_worth_learn(&g->worth, round, g->s->now_ns);
}

/* How the first n_decode sequences have asked, any in lockstep before all others; false: none has. */
static bool describe_round(sched_group *g, uint32_t n_decode, spec_round *round, bool *probes) {
    sched_request *r = sched_first(g, SCHED_DECODE);
    *round = (spec_round){.n_sequences = n_decode};
    *probes = false;
    for (uint32_t i = 0; i < n_decode; i++, r = sched_next(g->s, r)) {
        if (!r->asked) continue;
        uint32_t n_trips = r->lockstep ? r->n_agreed + 1 : 1;
        if (round->n_trips == 0 || (r->lockstep && round->fusion == SPEC_MERGE)) round->kind = r->kind;
        if (r->lockstep) round->fusion = SPEC_LOCKSTEP;
        round->tries |= r->tries;
        *probes |= r->probed > 0;
        round->several |= r->lockstep || sched_several(r->asked);
        if (n_trips > round->n_trips) round->n_trips = n_trips;
    }
    return round->n_trips > 0;
}

void sched_choose_drafts(sched_group *g, uint32_t n_decode) {
    sched *s = g->s;
    spec_round round;
    if (s->limits.max_tree == 0 || n_decode == 0) return;
    bool probes, asked = describe_round(g, n_decode, &round, &probes);
    bool beside = g->lists[SCHED_PREFILL].n > 0; /* of prompts; what such a step takes does not tell what its drafts took */
    spec_step step = {
        .cost = &g->cost, .n_rows = n_decode, .n_choices = n_decode, .n_free = s->limits.max_rows - n_decode - beside};
    bool knows = spec_cost_known(&g->cost, step.n_rows); /* else it cannot be said what drafts gain */
    if (asked) round.without = divide_without(g, &step, n_decode);
    if (asked) round.wait_ns = waited_ns(g, n_decode);
    uint64_t idle = s->now_ns - g->idle_since_ns;
    step.wait_ns = round.wait_ns < idle ? round.wait_ns : idle; /* the group worked for others in the rest of it */
    if (!beside && g->stats.steps % (knows ? EXPLORING : 2) == 0)
        step.explores = knows && g->stats.steps / EXPLORING % 2 ? SPEC_EXPLORES_FAR : SPEC_EXPLORES_NEAR;
    round.with = divide(g, &step, n_decode, UINT32_MAX);
    for (uint32_t i = 0; i < n_decode; i++) {
        s->stats.offered += g->trees[i].tree.n;
        g->trees[i].promised = cut(&g->trees[i].tree, &s->shares[i]);
        s->stats.expected += g->trees[i].promised;
    }
    if (asked && knows && !probes) learn_worth(g, &step, &round); /* the next one asks without whoever was only probed */
}
