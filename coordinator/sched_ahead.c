/* Drafting ahead: while a group computes a step, drafters go on from its likeliest outcome (PEARL, arXiv 2408.11850; PipeInfer,
 * arXiv 2407.11798).
 *
 * What: a bet is that the step will accept the drafts on the way to the likeliest leaf of its tree. The drafter is asked for a
 * tree behind these as tentative tokens; the first tokens of that tree are its guesses at the step's own choice, which follows
 * them. The bet is won if the step commits just that path and then one of the guesses: what follows the guess is the next round's
 * draft, and nobody waits for it. A bet that is lost is forgotten. One that is won while its draft is still being made is waited
 * for as any draft is; if none of its guesses then is the token, the drafter is asked again.
 * A drafter that is at nothing but lost bets while someone waits for it gets the next plan behind the one it has, and ends that
 * early (worker/draft.c); what it answers to it is stale.
 *
 * Why the leaf and not each node of the tree: one chain of passes a sequence is what a drafter has time for in a step, and behind
 * an inner node the likeliest guesses are the ones that the tree has already.
 * Limits: a bet is worth at most the wait for a draft, and its beliefs are those of drafts as deep as the path is long. */
#include "coordinator/sched_int.h"

static uint32_t bit(uint32_t drafter) { return UINT32_C(1) << drafter; }

spec_tree *sched_aheads(const sched *s, const sched_request *r) { return s->aheads + (size_t)r->place * s->limits.n_drafters; }

/* The tokens that the step is expected to accept. */
static uint32_t bet_on(const sched_asked *asked, uint32_t path[NOUNS_MAX_TREE]) {
    return asked->drafts ? spec_tree_likeliest(&asked->drafts->tree, path) : 0;
}

static uint32_t budget_of(const sched *s) {
    uint32_t twice = 2 * s->limits.max_tree; /* the guesses, and what follows each */
    return twice < NOUNS_MAX_TREE ? twice : NOUNS_MAX_TREE;
}

static bool has_asked(const sched_drafter *d, const sched_request *r) {
    for (uint32_t i = 0; i < d->n_asked; i++)
        if (d->asked[i].seq.value == r->seq.value) return true;
    return false;
}

uint32_t sched_ask_ahead(sched_group *g, uint32_t drafter, uint32_t rows) {
    sched *s = g->s;
    sched_drafter *d = &s->drafters[drafter];
    for (uint32_t i = 0; g->flight.id && i < g->flight.n_items && d->n_asked < s->limits.max_batch; i++) {
        const sched_asked *asked = &g->flight.items[i];
        sched_request *r = &s->requests[asked->slot];
        uint32_t path[NOUNS_MAX_TREE], n = bet_on(asked, path), n_new;
        if (r->state == SCHED_CLOSING || !asked->chooses || r->ahead & bit(drafter)) continue;
        if (!(sched_remote_route(s, r) & bit(drafter)) || has_asked(d, r)) continue;
        n_new = sched_lacks(d, r);
        if (n_new + n > rows || r->n_known + n + 2 > r->n_limit) continue; /* the guess would be the last token */
        if (!r->knows_hidden && (s->limits.want_hidden & bit(drafter))) continue;
        if (!sched_make_follow(s, drafter, r, n + budget_of(s), false)) continue; /* nobody gives way for a bet */
        sched_ask(s, d, r, n_new, budget_of(s), path, n);
        d->asked[d->n_asked - 1].ahead = true;
        r->ahead |= bit(drafter);
        r->ahead_there &= ~bit(drafter);
        rows -= n_new + n;
        s->stats.bets++;
    }
    return rows;
}

void sched_settle_ahead(sched_request *r, const sched_asked *asked, const proto_item *item) {
    uint32_t path[NOUNS_MAX_TREE], n;
    if (!r->ahead) return;
    n = bet_on(asked, path);
    bool won = item->n_tokens == n + 1;
    for (uint32_t i = 0; won && i < n; i++) won = item->tokens[i] == path[i];
    if (!won) r->ahead = 0;
}

/* A draft behind the path that was committed: what follows the last token. */
static bool use(sched *s, sched_request *r, uint32_t drafter) {
    bool guessed = spec_tree_below(&sched_aheads(s, r)[drafter], r->known[r->n_known - 1], &sched_proposals(s, r)[drafter]);
    bool useful = guessed && sched_proposals(s, r)[drafter].n > 0;
    s->stats.bets_won += useful;
    return useful;
}

void sched_use_ahead(sched *s, sched_request *r) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) {
        if (!(r->ahead & r->ahead_there & bit(i))) continue;
        r->ahead &= ~bit(i);
        if (!use(s, r, i)) continue;
        r->awaited &= ~bit(i);
        r->asked &= ~bit(i); /* that round says nothing of what asking costs */
    }
}

void sched_take_ahead(sched *s, sched_request *r, uint32_t drafter, const spec_tree *tree) {
    if (!(r->ahead & bit(drafter))) return;
    sched_aheads(s, r)[drafter] = *tree;
    r->ahead_there |= bit(drafter);
    if (r->last_plan > r->group->reported) return; /* the step still runs */
    r->ahead &= ~bit(drafter);
    if (use(s, r, drafter)) r->awaited &= ~bit(drafter);
}

bool sched_abandons(sched *s, uint32_t drafter) {
    sched_drafter *d = &s->drafters[drafter];
    bool awaited = false;
    if (d->flight == 0 || !d->plan.ahead) return false;
    for (uint32_t i = 0; i < d->n_asked; i++) {
        sched_request *r = sched_asked_for(s, &d->asked[i]);
        if (r && r->ahead & bit(drafter)) return false;
    }
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        for (sched_request *r = sched_first(g, SCHED_DRAFTING); r && !awaited; r = sched_next(s, r))
            awaited = r->awaited >> drafter & 1;
    if (!awaited) return false;
    s->stats.bets_dropped += d->n_asked;
    d->plan.ahead = false; /* once: two plans are all that a drafter is given */
    d->flight = 0;
    s->busy &= ~bit(drafter);
    return true;
}
