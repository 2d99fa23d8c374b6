/* Whom to ask for drafts, what comes of the answers.
 *
 * What: a round of a request begins with a committed token and ends when the step that verifies the drafts behind it is built.
 * Whoever the request's route asks and is up gets the request in its next plan: the tokens that it lacks, and a budget. A draft
 * that comes before the step is built takes part in it, even after the wait is over. Drafts of remote drafters are kept here,
 * beside those of lookup and the corpus, which are made when the round begins; a step fuses them. While a group computes a
 * prompt, the drafters that will be asked take it in as well. A plan brings a drafter at most max_rows tokens, as a step of the
 * group: who lacks more is brought up over several plans.
 *
 * A drafter's plan serves the requests of all groups, each time another group's first; what it has of a request stays when that
 * is placed in another group.
 *
 * Why a drafter that let someone wait in vain is not asked until it has answered: else each round of each request would wait for
 * it, and a slow drafter would be worse than none.
 * Why plans are bounded: nobody can take back a plan, drafts ahead aside. One that brought all prompts at once would keep the
 * drafter from everybody for minutes, hold up the end of the cluster, and could be longer than a message may be. Why nonsense
 * ends a drafter's part in a request and not the drafter: its view of this sequence cannot be trusted any more; of others it may
 * be right. The sequence is closed there. Why a drafter's plans do not hold requests up as the group's do: they name no blocks of
 * the table, so a sequence that is over is simply closed by the drafter's next plan, and an answer that comes after that is for
 * nobody. Not taken: a queue of plans for each drafter; only behind drafts ahead that are of no use comes a second one. A plan in
 * flight makes the next one larger, which is what a batch wants. Limits: a drafter that can never keep up is asked again after
 * each answer, and each time costs one wait. */
#include "coordinator/sched_int.h"

#include <string.h>

enum {
    FOLLOW_TOKENS = 8 /* that a follower who is not asked gets at once */,
    PROBE_WAITS = 200 /* a drafter that is too slow to be asked is, once in so many times as it takes: half a hundredth */
};

static uint32_t bit(uint32_t drafter) { return UINT32_C(1) << drafter; }
static uint32_t *told(const sched_drafter *d, const sched_request *r) { return &d->told[r->place]; }

spec_tree *sched_proposals(const sched *s, const sched_request *r) { return s->proposals + (size_t)r->place * s->roster.n; }

/* ---- rounds ---- */

uint32_t sched_lacks(const sched_drafter *d, const sched_request *r) { return r->n_known - *told(d, r); }

/* With asking them at that price. `but`: cannot be asked, so that its policy picks among the others and not one of these. */
static uint32_t route_of(const sched *s, const sched_request *r, uint64_t round, const spec_price *price, uint32_t but) {
    spec_roster roster = s->roster;
    roster.up &= ~but;
    spec_tally prior[SPEC_MAX_DRAFTERS];
    for (uint32_t i = 0; i < s->roster.n; i++) prior[i] = sched_prior(s, r, i);
    const spec_record record = {sched_hits(s, r), prior, round, sched_cosine(s, r), r->accepted, *price};
    return spec_route_ask(&r->route, &roster, &record);
}

uint32_t sched_route(const sched *s, const sched_request *r) {
    return route_of(s, r, r->drafts.steps, &r->group->price, r->given_up | s->late);
}

/* Drafters with a rank are of use only where there is room for drafts and time to wait for them. */
static bool asks_anyone(const sched *s) { return s->limits.max_tree > 0 && s->limits.draft_wait_ns > 0; }

static uint32_t remote_route(const sched *s, const sched_request *r, const spec_price *price, uint32_t but) {
    if (!asks_anyone(s)) return 0;
    bool of_next = r->last_plan > r->group->reported || r->n_known - r->n_cached > 1; /* a step ends before it begins */
    return route_of(s, r, r->drafts.steps + of_next, price, but | r->given_up | s->late) & (bit(s->limits.n_drafters) - 1);
}

uint32_t sched_remote_route(const sched *s, const sched_request *r) { return remote_route(s, r, &r->group->price, 0); }

/* Drafters with a rank that are to hear of its tokens, asked or not. */
static uint32_t followers(const sched *s, const sched_request *r) {
    if (!asks_anyone(s)) return 0;
    return spec_route_follow(&r->route, &s->roster) & (bit(s->limits.n_drafters) - 1) & ~(r->given_up | s->late);
}

/* Drafters that lack more than one plan brings: there is no sense in waiting for them yet. */
static uint32_t behind(const sched *s, const sched_request *r) {
    uint32_t mask = 0;
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        if (sched_lacks(&s->drafters[i], r) > sched_follow_chunk(s, i)) mask |= bit(i);
    return mask;
}

static bool begins(const sched_request *r) {
    bool ready = r->state == SCHED_DECODE || (r->state == SCHED_PREFILL && r->move == SCHED_NO_MOVE);
    return ready && r->n_known - r->n_cached == 1;
}

/* What lookup and the corpus propose stands at once. */
static void draft_locally(sched *s, sched_request *r) {
    spec_tree *proposals = sched_proposals(s, r), *own = &proposals[s->limits.n_drafters];
    uint32_t asked = sched_route(s, r) >> s->limits.n_drafters, most = sched_most_drafts(s, r);
    for (uint32_t i = 0; i < s->roster.n; i++) proposals[i].n = 0;
    if (asked & 1) spec_lookup(&s->lookup, r->known, r->n_known, most, &own[0]);
    if (!(asked & 2)) return;
    spec_draft it = {
        .seq = r->seq, .sampling = r->sampling, .tokens = r->known, .n_tokens = r->n_known, .budget = most, .tree = &own[1]};
    INVARIANT(s->corpus_drafter->ops->draft(s->corpus_drafter, &it, 1, NULL) == ST_OK);
}

/* Drafters with a rank that a round of it may ask, none of `full` among them; room aside. */
static uint32_t may_ask(const sched *s, const sched_request *r, const spec_price *price, uint32_t full) {
    uint32_t but = full | behind(s, r);
    if (!r->knows_hidden) but |= s->limits.want_hidden; /* behind a prompt of one token nothing was chosen */
    return sched_most_drafts(s, r) > 0 ? remote_route(s, r, price, but) : 0;
}

/* Of those that it wants to ask, who has room for it. Where somebody has none its policy picks again among the others. */
static uint32_t with_room(sched *s, sched_request *r, uint32_t wanted) {
    uint32_t fit = sched_with_room(s, r, wanted);
    for (uint32_t full = wanted & ~fit; fit != wanted; full |= wanted & ~fit) {
        wanted = may_ask(s, r, &r->group->price, full);
        fit = sched_with_room(s, r, wanted);
    }
    return fit;
}

/* Those that it would ask beside these, did they answer at once, and that were not asked for so long that it costs little to see
 * whether they do by now. One round asks them, not all that begin beside it. */
static uint32_t probed(sched *s, const sched_request *r, uint32_t asked) {
    spec_price price = r->group->price;
    double wait_ns[SPEC_MAX_DRAFTERS] = {0};
    bool any = false;
    if (!asked || price.step_ns <= 0) return 0;
    price.wait_ns = wait_ns;
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) {
        double takes_ns = price.n_trips * s->answer_ns[i]; /* in lockstep each trip of the round waits for it */
        bool old = takes_ns > 0 && (double)(s->now_ns - s->answered_ns[i]) >= PROBE_WAITS * takes_ns;
        wait_ns[i] = old ? 0 : s->answer_ns[i];
        any |= old && !(asked & bit(i));
    }
    uint32_t mask = any ? may_ask(s, r, &price, 0) & ~asked : 0;
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        if (mask & bit(i)) s->answered_ns[i] = s->now_ns;
    return mask;
}

static void begin_round(sched *s, sched_request *r) {
    r->budget = sched_most_drafts(s, r);
    r->asked = may_ask(s, r, &r->group->price, 0);
    s->stats.unasked_rounds += r->asked && !r->group->asks;
    uint32_t also = r->group->asks ? probed(s, r, r->asked) : 0;
    r->asked = r->group->asks ? with_room(s, r, r->asked | also) : 0;
    r->probed = r->asked & also;
    r->awaited = r->asked;
    r->n_agreed = 0;
    r->full_ns = r->group->full_ns;
    r->belief = 1;
    r->draft_by_ns = s->now_ns + s->limits.draft_wait_ns;
    if (s->limits.draft_ahead == SCHED_AHEAD_EARLY && sched_in_lockstep(s, r, r->asked)) r->ahead = 0; /* each was on its own */
    sched_use_ahead(s, r);
    r->tries = r->asked && r->group->try_ns;
    if (r->tries) spec_worth_try(&r->group->worth, r->group->try_ns, s->now_ns);
    r->kind = r->group->round_kind;
    r->lockstep = sched_in_lockstep(s, r, r->asked);
    s->stats.asked_rounds += r->asked > 0;
    s->stats.lockstep_rounds += r->asked && r->lockstep;
    if (r->awaited)
        sched_move(s, r, SCHED_DRAFTING); /* all waits are equally long, so that list is in order of their ends */
    else if (r->state != SCHED_DECODE)
        sched_move(s, r, SCHED_DECODE);
}

void sched_begin_round(sched *s, sched_request *r) {
    draft_locally(s, r);
    begin_round(s, r);
}

void sched_begin_rounds(sched_group *g, const sched_flight *f) {
    sched *s = g->s;
    uint32_t n = 0;
    double gain = 0;
    bool any_several = false;
    for (uint32_t i = 0; i < f->n_items; i++) {
        sched_request *r = &s->requests[f->items[i].slot];
        if (!begins(r)) continue;
        draft_locally(s, r);
        gain += sched_local_gain(s, r);
        any_several |= sched_several(may_ask(s, r, &g->price, 0));
        n++;
    }
    if (n == 0) return;
    sched_decide_asking(g, gain / n, any_several);
    for (uint32_t i = 0; i < f->n_items; i++)
        if (begins(&s->requests[f->items[i].slot])) begin_round(s, &s->requests[f->items[i].slot]);
}

void sched_answered(sched *s, sched_request *r) {
    if (r->state != SCHED_DRAFTING || r->awaited || (r->lockstep && sched_agree(s, r))) return;
    sched_move(s, r, SCHED_DECODE);
}

void sched_end_waits(sched_group *g) {
    sched *s = g->s;
    for (sched_request *r; (r = sched_first(g, SCHED_DRAFTING)) && r->draft_by_ns <= s->now_ns;) {
        s->late |= r->awaited & s->busy;
        for (uint32_t i = 0; i < s->limits.n_drafters; i++)
            if (r->awaited & bit(i) && r->n_agreed == 0) sched_learn_answer(s, i, r); /* else it was of several tokens */
        r->awaited = 0;
        sched_answered(s, r);
    }
}

uint64_t sched_next_wait_ns(const sched_group *g) {
    uint32_t first = g->lists[SCHED_DRAFTING].first;
    return first == SCHED_NO_SLOT ? 0 : g->s->requests[first].draft_by_ns;
}

/* ---- hidden states ---- */

bool sched_wants_hidden(const char *kind) {
    const spec_kind *k = spec_kind_find(kind);
    return k && k->wants_hidden;
}

bool sched_keeps_kv(const char *kind) {
    const spec_kind *k = spec_kind_find(kind);
    return k && k->keeps_kv;
}

bool sched_request_wants_hidden(const sched *s, const sched_request *r) {
    return asks_anyone(s) && (spec_route_may(&r->route, &s->roster) & s->limits.want_hidden) != 0;
}

static uint16_t *hidden_of(const sched *s, const sched_request *r) { return s->hidden + (size_t)r->place * s->limits.dim; }

void sched_keep_hidden(sched *s, sched_request *r, const hidden_states *h, uint32_t n) {
    uint32_t dim = s->limits.dim;
    r->knows_hidden = h->f16 && h->dim == dim && s->limits.want_hidden;
    if (r->knows_hidden) memcpy(hidden_of(s, r), h->f16 + (size_t)(n - 1) * dim, dim * sizeof *h->f16);
}

/* ---- plans ---- */

void sched_ask(sched *s, sched_drafter *d, sched_request *r, uint32_t n_new, uint32_t budget, const uint32_t *tentative,
               uint32_t n_tentative) {
    uint32_t *n_told = told(d, r);
    const uint32_t *tokens = r->known + *n_told;
    bool opens = *n_told == 0; /* then the open brings them */
    if (opens)
        d->open[d->plan.n_open++] = (proto_open){.seq = r->seq,
                                                 .seq_epoch = r->epoch,
                                                 .sampling = r->sampling,
                                                 .rules = r->rules,
                                                 .n_tokens = n_new,
                                                 .tokens = tokens,
                                                 .n_answered = n_new > r->n_prompt ? n_new - r->n_prompt : 0};
    *n_told += n_new;
    INVARIANT(s->limits.drafter_blocks[d - s->drafters] == 0 ||
              kv_blocks_for((uint64_t)*n_told + n_tentative + budget) <= d->holds[r->place].n_blocks);
    d->holds[r->place].last_plan = d->next_plan;
    uint32_t *behind = d->tentative + (size_t)d->n_asked * NOUNS_MAX_TREE;
    if (n_tentative) memcpy(behind, tentative, n_tentative * sizeof *behind);
    bool hidden = *n_told == r->n_known && r->knows_hidden && (s->limits.want_hidden & bit((uint32_t)(d - s->drafters)));
    if (r->n_early > 0) hidden &= n_tentative > 0;                 /* then it is of their end */
    uint32_t n_early = hidden && r->n_early > 0 ? n_tentative : 0; /* it is scored by these, as draft_step.c has it */
    d->draft[d->plan.n_draft++] = (proto_draft){.seq = r->seq,
                                                .n_tokens = opens ? 0 : n_new,
                                                .tokens = tokens,
                                                .budget = budget,
                                                .hidden = {s->limits.dim, hidden ? hidden_of(s, r) : NULL},
                                                .hidden_at_end = n_early > 0,
                                                .n_tentative = n_tentative,
                                                .tentative = behind};
    d->asked[d->n_asked++] = (sched_draft_asked){.slot = (uint32_t)(r - s->requests),
                                                 .seq = r->seq,
                                                 .n_known = *n_told + n_early,
                                                 .n_new = n_early > 0 ? n_early : n_new,
                                                 .budget = budget};
}

/* Asks for the drafts that requests wait for, as far as `rows` tokens go; returns how many are left. */
static uint32_t ask_for_drafts(sched_group *g, uint32_t drafter, uint32_t rows) {
    sched *s = g->s;
    sched_drafter *d = &s->drafters[drafter];
    for (sched_request *r = sched_first(g, SCHED_DRAFTING); r && d->n_asked < s->limits.max_batch; r = sched_next(s, r)) {
        uint32_t n = sched_lacks(d, r);
        if (!(r->awaited & bit(drafter)) || n > rows) continue;
        sched_ask(s, d, r, n, r->lockstep ? 1 : r->budget, r->n_agreed ? sched_agreed(s, r) : NULL, r->n_agreed);
        rows -= n;
    }
    return rows;
}

/* Gives rows that are left to prompts in the making and to requests that the drafter is far behind; returns how many then are. */
static uint32_t bring_up(sched_group *g, uint32_t drafter, uint32_t rows) {
    sched *s = g->s;
    sched_drafter *d = &s->drafters[drafter];
    for (sched_state state = SCHED_PREFILL; state <= SCHED_DECODE; state++)
        for (sched_request *r = sched_first(g, state); r && rows > 0 && d->n_asked < s->limits.max_batch; r = sched_next(s, r)) {
            uint32_t n = sched_lacks(d, r), follow = followers(s, r) & bit(drafter);
            uint32_t enough = state == SCHED_PREFILL ? 1 : follow ? FOLLOW_TOKENS : sched_follow_chunk(s, drafter) + 1;
            if (n < enough || !((sched_remote_route(s, r) | follow) & bit(drafter))) continue;
            if (!sched_make_follow(s, drafter, r, s->limits.max_tree, true)) continue;
            if (n > rows) n = rows;
            sched_ask(s, d, r, n, 0, NULL, 0);
            rows -= n;
        }
    return rows;
}

/* One of these for the requests of each group, as far as rows go; they take turns in being first. */
static uint32_t serve(sched *s, uint32_t drafter, uint32_t rows,
                      uint32_t (*ask)(sched_group *g, uint32_t drafter, uint32_t rows)) {
    uint32_t n = s->limits.n_groups, first = (uint32_t)(s->drafters[drafter].next_plan % n);
    for (uint32_t i = 0; i < n; i++) rows = ask(&s->groups[(first + i) % n], drafter, rows);
    return rows;
}

bool sched_build_draft(sched *s, uint32_t drafter) {
    sched_drafter *d = &s->drafters[drafter];
    d->plan = (proto_plan){.id = d->next_plan, .kind = PROTO_PLAN_DRAFT, .close = d->close, .open = d->open, .draft = d->draft};
    d->n_asked = 0;
    uint32_t rows = serve(s, drafter, s->limits.max_rows, ask_for_drafts), chunk = sched_follow_chunk(s, drafter);
    rows = serve(s, drafter, d->n_asked > 0 && rows > chunk ? chunk : rows, bring_up);
    bool ahead = d->n_asked == 0;
    if (s->limits.draft_ahead) serve(s, drafter, rows, sched_ask_ahead);
    d->plan.ahead = ahead && d->n_asked > 0;
    for (uint32_t i = 0; i < d->n_ended; i++) d->close[d->plan.n_close++] = d->ended[i]; /* and of those who gave way just now */
    d->n_ended = 0;
    if (d->n_asked == 0 && d->plan.n_close == 0) return false;
    d->flight = d->next_plan++;
    s->busy |= bit(drafter);
    return true;
}

/* ---- answers ---- */

sched_request *sched_asked_for(sched *s, const sched_draft_asked *asked) {
    sched_request *r = &s->requests[asked->slot];
    bool live = r->state >= SCHED_PREFILL && r->state <= SCHED_DECODE;
    return live && r->seq.value == asked->seq.value ? r : NULL;
}

void sched_forget_asked(sched *s, const sched_request *r) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        for (uint32_t k = 0; k < s->drafters[i].n_asked; k++)
            if (s->drafters[i].asked[k].seq.value == r->seq.value) s->drafters[i].asked[k].seq.value = 0;
}

void sched_take_draft(sched *s, sched_request *r, uint32_t drafter, const sched_draft_asked *asked, const proto_item *item) {
    sched_drafter *d = &s->drafters[drafter];
    bool in_time = r->n_known == asked->n_known && r->last_plan <= r->group->reported; /* its step is not built yet */
    spec_tree tree;
    if (!item || item->seq.value != r->seq.value || item->code != ST_OK ||
        spec_tree_take(&tree, &item->tree, asked->budget, s->limits.n_vocab, NULL) != ST_OK) {
        d->stats.bad++;
        r->given_up |= bit(drafter);
        r->awaited &= ~bit(drafter);
        r->ahead &= ~bit(drafter);
        sched_leave_drafter(d, r);
        return;
    }
    d->stats.scored += item->n_scored;
    d->stats.hits += item->n_hits;
    sched_learn_hits(s, r, drafter, asked, item);
    if (asked->budget == 0) return;
    if (asked->ahead) {
        sched_take_ahead(s, r, drafter, &tree);
        return;
    }
    d->stats.drafts++;
    d->stats.late += !in_time;
    if (!in_time) return;
    if (r->lockstep)
        sched_graft(s, r, drafter, &tree);
    else
        sched_proposals(s, r)[drafter] = tree;
    if (r->awaited & bit(drafter) && r->n_agreed == 0) sched_learn_answer(s, drafter, r);
    if (r->awaited & bit(drafter) && !r->lockstep) sched_learn_wait(s, drafter, r, true);
    r->awaited &= ~bit(drafter);
}

/* ---- the way out ---- */

void sched_forget_drafter(sched *s, uint32_t drafter) {
    sched_drafter *d = &s->drafters[drafter];
    d->next_plan = 1;
    d->flight = 0;
    s->answer_ns[drafter] = 0; /* whoever comes back may be elsewhere */
    d->stats.wait_ns = 0;
    for (uint32_t f = 0; f < SPEC_FUSIONS; f++) d->waits_ns[f] = 0;
    d->n_asked = d->n_ended = 0;
    sched_forget_holds(s, d);
    for (uint32_t i = 0; i < s->limits.max_requests; i++) {
        s->requests[i].asked &= ~bit(drafter); /* back again, it may be too far behind for the rest of a round */
        s->requests[i].awaited &= ~bit(drafter);
        s->requests[i].given_up &= ~bit(drafter);
        s->requests[i].ahead &= ~bit(drafter);
    }
    s->busy &= ~bit(drafter);
    s->late &= ~bit(drafter);
    s->roster.up &= ~bit(drafter);
}

void sched_leave_drafters(sched *s, const sched_request *r) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) sched_leave_drafter(&s->drafters[i], r);
}

/* ---- the check ---- */

static void check_drafter(const sched *s, uint32_t drafter) {
    const sched_drafter *d = &s->drafters[drafter];
    uint32_t n_open = 0, n_told = 0;
    for (uint32_t i = 0; i < s->n_places; i++) n_told += d->told[i] > 0;
    for (uint32_t i = 0; i < s->limits.max_requests; i++) {
        const sched_request *r = &s->requests[i];
        if (r->state == SCHED_FREE || r->place == SCHED_NO_PLACE) continue;
        INVARIANT(*told(d, r) <= r->n_known && !(*told(d, r) && (r->given_up & bit(drafter))));
        n_open += *told(d, r) > 0;
    }
    INVARIANT(n_open == n_told && n_told + d->n_ended <= s->n_places);
    INVARIANT(d->stats.up == (s->roster.up >> drafter & 1) && (d->flight > 0) == (s->busy >> drafter & 1));
    INVARIANT(d->stats.up || (n_told == 0 && d->n_ended == 0 && d->flight == 0));
    INVARIANT(d->flight == 0 || d->flight == d->next_plan - 1);
    sched_check_holds(s, d);
}

void sched_check_drafters(const sched *s) {
    uint32_t remote = bit(s->limits.n_drafters) - 1;
    INVARIANT(((s->busy | s->late) & ~(s->roster.up & remote)) == 0 && (s->late & ~s->busy) == 0);
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) check_drafter(s, i);
    for (uint32_t i = 0; i < s->limits.max_requests; i++)
        INVARIANT(s->requests[i].state != SCHED_DRAFTING || (s->requests[i].awaited & ~(s->roster.up & remote)) == 0);
}
