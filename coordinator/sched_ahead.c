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
 * Early: where verifiers tell what their result will probably be (SCHED_EARLY, worker/step.c), that is the bet, instead: all of
 * the tokens that the step will commit, its own choice too, and the hidden state that this was chosen from. The draft behind it
 * needs no guesses, and is the next round's if the result is the same. Until then the tokens stand behind the known ones, where
 * nobody reads them but bets; the state is kept in the place of that of the last known token, which nobody needs before the
 * result brings another. Rounds in lockstep begin without (sched_lockstep.c): their drafters go on together, or fusions could not
 * be compared. A round whose drafts were there at once has asked, and waited for no time: that is what asking costs.
 * Limits: a bet is worth at most the wait for a draft, and its beliefs are those of drafts as deep as the path is long.
 * Where a group is in lockstep nothing is told early, so a try of merge begins without: `auto` may stay in lockstep where
 * merge with early results is a few hundredths better. */
#include "coordinator/sched_int.h"

#include <string.h>

static uint32_t bit(uint32_t drafter) { return UINT32_C(1) << drafter; }

spec_tree *sched_aheads(const sched *s, const sched_request *r) { return s->aheads + (size_t)r->place * s->limits.n_drafters; }

sched_ahead sched_ahead_of(const char *name) {
    return !strcmp(name, "early") ? SCHED_AHEAD_EARLY : !strcmp(name, "on") ? SCHED_AHEAD_ON : SCHED_AHEAD_OFF;
}

static bool is_early(const sched *s) { return s->limits.draft_ahead == SCHED_AHEAD_EARLY; }

/* Drafters that may go on from the step's likeliest outcome: in lockstep nobody does, as there each would be on its own. */
static uint32_t may_bet(const sched *s, const sched_request *r) {
    uint32_t mask = sched_remote_route(s, r);
    return is_early(s) && sched_in_lockstep(s, r, mask) ? 0 : mask;
}

/* The tokens that the step is expected to accept, and its own choice if it has told that; false: there is nothing to bet on. */
static bool bet_on(const sched *s, const sched_request *r, const sched_asked *asked, uint32_t path[NOUNS_MAX_TREE], uint32_t *n) {
    if (is_early(s))
        memcpy(path, r->known + r->n_known, (*n = r->n_early) * sizeof *path);
    else
        *n = asked->drafts ? spec_tree_likeliest(&asked->drafts->tree, path) : 0;
    return *n > 0 || !is_early(s);
}

static uint32_t budget_of(const sched *s, const sched_request *r, uint32_t n) {
    uint32_t useful = r->n_limit - r->n_known - n - 1, twice = 2 * s->limits.max_tree; /* the guesses, and what follows each */
    if (is_early(s)) return s->limits.max_tree < useful ? s->limits.max_tree : useful;
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
        uint32_t path[NOUNS_MAX_TREE], n, n_new;
        if (r->state == SCHED_CLOSING || !asked->chooses || r->ahead & bit(drafter) || !bet_on(s, r, asked, path, &n)) continue;
        if (!(may_bet(s, r) & bit(drafter)) || has_asked(d, r)) continue;
        n_new = sched_lacks(d, r);
        if (n_new + n > rows || r->n_known + n + 2 > r->n_limit) continue; /* the guess would be the last token */
        if (!r->knows_hidden && (s->limits.want_hidden & bit(drafter))) continue;
        uint32_t budget = budget_of(s, r, n);
        if (!sched_make_follow(s, drafter, r, n + budget, false)) continue; /* nobody gives way for a bet */
        sched_ask(s, d, r, n_new, budget, path, n);
        d->asked[d->n_asked - 1].ahead = true;
        r->ahead |= bit(drafter);
        r->ahead_there &= ~bit(drafter);
        rows -= n_new + n;
        s->stats.bets++;
    }
    return rows;
}

/* Also where the rounds behind the step will ask to find out whether that pays: they are to wait as long as others would. */
bool sched_wants_early(const sched_group *g) {
    const sched *s = g->s;
    bool any = false;
    for (uint32_t i = 0; is_early(s) && !any && i < g->flight.n_items; i++) {
        const sched_request *r = &s->requests[g->flight.items[i].slot];
        any = g->flight.items[i].chooses && !r->rules.logprobs && may_bet(s, r);
    }
    if (!any || g->asks) return any;
    uint64_t then_ns = s->now_ns + (uint64_t)spec_cost_ns(&g->cost, g->flight.n_rows);
    return spec_worth_asking(&g->worth, g->lockstep ? SPEC_LOCKSTEP : SPEC_MERGE, g->round_kind, then_ns);
}

/* Of a second one nothing is taken: what was asked for is behind the first. */
void sched_take_early(sched_group *g, const proto_result *early) {
    sched *s = g->s;
    if (g->flight.id == 0 || early->plan_id != g->flight.id) {
        s->stats.early_late++;
        return;
    }
    for (uint32_t i = 0; i < g->flight.n_items && i < early->n_items; i++) {
        const sched_asked *asked = &g->flight.items[i];
        const proto_item *item = &early->items[i];
        sched_request *r = &s->requests[asked->slot];
        sched_finish finish;
        if (r->state == SCHED_CLOSING || r->n_early > 0 || !is_early(s) || item->n_tokens > NOUNS_MAX_TREE) continue;
        if (item->code != ST_OK || item->n_tokens == 0 || !sched_answers(asked, r, item)) continue;
        if (item->tokens[item->n_tokens - 1] >= s->limits.n_vocab) continue; /* those before it are drafts */
        if (sched_accept(r, item->tokens, item->n_tokens, &finish) < item->n_tokens || finish != SCHED_FINISH_NONE) continue;
        memcpy(r->known + r->n_known, item->tokens, item->n_tokens * sizeof *r->known);
        r->n_early = item->n_tokens;
        sched_keep_hidden(s, r, &item->hidden, item->n_tokens);
    }
}

void sched_settle_ahead(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    uint32_t path[NOUNS_MAX_TREE], n;
    if (!r->ahead && r->n_early == 0) return;
    bool won = bet_on(s, r, asked, path, &n) && item->n_tokens == (is_early(s) ? n : n + 1);
    won = won && memcmp(item->tokens, path, n * sizeof *path) == 0;
    if (!won) r->ahead = 0;
    if (r->n_early > 0) ++*(won ? &s->stats.early_right : &s->stats.early_wrong);
    r->n_early = 0;
}

/* A draft behind the path that was committed: what follows the last token, if that is not in the path already. */
static bool use(sched *s, sched_request *r, uint32_t drafter) {
    const spec_tree *ahead = &sched_aheads(s, r)[drafter];
    spec_tree *out = &sched_proposals(s, r)[drafter];
    bool useful = is_early(s) || (spec_tree_below(ahead, r->known[r->n_known - 1], out) && out->n > 0);
    if (is_early(s)) *out = *ahead;
    s->stats.bets_won += useful;
    return useful;
}

void sched_use_ahead(sched *s, sched_request *r) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) {
        if (!(r->ahead & r->ahead_there & bit(i))) continue;
        r->ahead &= ~bit(i);
        if (!use(s, r, i)) continue;
        if (r->asked & bit(i)) sched_learn_answer(s, i, r);
        r->awaited &= ~bit(i);
        if (!is_early(s)) r->asked &= ~bit(i); /* that round says nothing of what asking costs */
    }
}

void sched_take_ahead(sched *s, sched_request *r, uint32_t drafter, const spec_tree *tree) {
    if (!(r->ahead & bit(drafter))) return;
    sched_aheads(s, r)[drafter] = *tree;
    r->ahead_there |= bit(drafter);
    if (r->last_plan > r->group->reported) return; /* the step still runs */
    r->ahead &= ~bit(drafter);
    if (!use(s, r, drafter)) return;
    if (r->awaited & bit(drafter)) sched_learn_answer(s, drafter, r);
    if (is_early(s) && r->awaited & bit(drafter)) sched_learn_wait(s, drafter, r, false);
    r->awaited &= ~bit(drafter);
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
