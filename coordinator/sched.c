/* The scheduler of the verifier groups and their drafters.
 *
 * What: sched_step is the whole control flow: an event changes requests, those that came free of a plan are retired, waiting ones
 * are admitted, and whoever is idle (a group, a drafter) gets its next plan. All arithmetic is in leaves: sched_admit.c (who
 * may come in), sched_batch.c (what goes into a step, what is accepted of a result), sched_draft.c (whom to ask for drafts, what
 * comes of the answers), sched_move.c (who goes on in another group), sched_swap.c (what goes to disk, and comes back),
 * sched_state.c (slots, lists, the way out).
 *
 * Why one plan a step and no queue of steps: continuous batching (Orca, OSDI 2022) wants each step built from what is true when
 * it starts. Today one plan of a group is in flight; sched_group.reported and sched_request.last_plan are written so that a
 * second one needs a second sched_flight and "r->last_plan <= g->reported" where a plan picks its sequences.
 * Why the plans are the first actions: groups compute while the coordinator detokenizes.
 * Why ended sequences are closed by the next plan and not by a message of their own: ranks hear of all changes in one order, so
 * that a block is never in two sequences. The price is a plan without work where nothing else runs.
 * Why a request that lost its group waits like one that is new: admission is the one way in. What it brings besides is its place,
 * with the tokens that it has and what drafters know of it, and its rank among those that wait.
 * Why preemption costs little: blocks of who is sent away are kept (kv/prefix.c) until the room is needed, those that it used
 * last go first, and what is left of them, in blocks or on disk, it has again when it comes back. The road not taken is to
 * reserve for the longest answer: nobody would be sent away, and short answers would hold blocks that they never use.
 * Why whoever waits again keeps its place, if it can: what drafters know of it. Only where one that is due before it is admitted,
 * and all places are taken, it is put aside: its tokens are kept, drafters leave it.
 *
 * Limits: O(running) an event, and the tokens of the first that waits, for each group that has a place for it or in which others
 * give way to it, and for each prompt there that begins like it. O(requests) when a deadline passes or a group is lost. Who comes
 * or waits again finds its place among those that wait from the nearer end: that is O(waiting) for one in the middle, so also for
 * each of a lost group that is there. */
#include "coordinator/sched_int.h"

#include <stdio.h>
#include <string.h>

/* ---- memory ---- */

typedef struct {
    unsigned char *base; /* NULL: only count */
    size_t used_bytes;
} layout;

static void *place(layout *l, size_t n, size_t size_bytes) {
    size_t at = l->used_bytes; /* cannot overflow: limits are bounded by sched_check_limits */
    l->used_bytes += (n * size_bytes + 63) & ~(size_t)63;
    return l->base ? memset(l->base + at, 0, n * size_bytes) : NULL;
}

static uint32_t chain_blocks(const sched_limits *l) { return kv_blocks_for((uint64_t)l->max_context + l->max_tree); }

static uint32_t n_places(const sched_limits *l) { return l->n_groups * l->max_running; }

static sched_group lay_out_group(layout *at, const sched_limits *l, uint32_t n_blocks, uint32_t n_slots) {
    sched_group g = {.next_plan = 1, .asks = true};
    g.flight.items = place(at, l->max_batch, sizeof *g.flight.items);
    g.ended = place(at, l->max_running, sizeof *g.ended);
    g.close = place(at, l->max_running, sizeof *g.close);
    g.open = place(at, l->max_batch, sizeof *g.open);
    g.work = place(at, l->max_batch, sizeof *g.work);
    g.trees = place(at, l->max_tree ? l->max_batch : 0, sizeof *g.trees);
    g.swaps = place(at, n_slots > 0 ? NOUNS_MAX_SWAPS : 0, sizeof *g.swaps);
    size_t kv_bytes = kv_table_bytes(n_blocks, n_slots, l->max_running, chain_blocks(l));
    INVARIANT(kv_bytes > 0); /* bounded, too */
    void *kv_memory = place(at, 1, kv_bytes);
    if (kv_memory) g.kv = kv_table_init(kv_memory, n_blocks, n_slots, l->max_running, chain_blocks(l), l->kv_key);
    return g;
}

static sched_drafter lay_out_drafter(layout *at, const sched_limits *l) {
    sched_drafter d = {.next_plan = 1};
    d.asked = place(at, l->max_batch, sizeof *d.asked);
    d.told = place(at, n_places(l), sizeof *d.told);
    d.ended = place(at, n_places(l), sizeof *d.ended);
    d.holds = place(at, n_places(l), sizeof *d.holds);
    d.close = place(at, n_places(l), sizeof *d.close);
    d.open = place(at, l->max_batch, sizeof *d.open);
    d.draft = place(at, l->max_batch, sizeof *d.draft);
    d.tentative = place(at, (size_t)l->max_batch * NOUNS_MAX_TREE, sizeof *d.tentative);
    return d;
}

static bool has_corpus(const sched_limits *l) { return l->corpus || l->corpus_drafter; }

/* Lays everything out behind `base`; with base NULL only finds the size. Returns it. */
static size_t lay_out(unsigned char *base, const sched_limits *l, sched **out) {
    layout at = {.base = base};
    sched shape = {.limits = *l, .n_buckets = 1, .n_places = n_places(l)}, *s = place(&at, 1, sizeof *s);
    size_t n = shape.n_places;
    while (shape.n_buckets < l->max_requests) shape.n_buckets *= 2;
    shape.roster.n = l->n_drafters + 1 + has_corpus(l);
    shape.n_moves = l->n_groups * l->max_moves;
    shape.next_move = 1;
    /* PLAN of each group, DRAFT of each drafter, FINISHED of all and of one refused, TOKENS of a batch, TIMER, DRAINED; MOVE,
     * MOVE_READY, MOVE_CANCEL of each move */
    shape.n_actions_max = l->n_groups + l->n_drafters + l->max_requests + 1 + l->max_batch + 2 + 3 * shape.n_moves;
    shape.moves = place(&at, shape.n_moves, sizeof *shape.moves);
    shape.requests = place(&at, l->max_requests, sizeof *shape.requests);
    shape.buckets = place(&at, shape.n_buckets, sizeof *shape.buckets);
    shape.free_places = place(&at, n, sizeof *shape.free_places);
    shape.free_asides = place(&at, n + 1, sizeof *shape.free_asides);
    shape.of_place = place(&at, n, sizeof *shape.of_place);
    shape.of_aside = place(&at, n + 1, sizeof *shape.of_aside);
    shape.actions = place(&at, shape.n_actions_max, sizeof *shape.actions);
    shape.tokens = place(&at, (size_t)l->max_batch * (1 + l->max_tree), sizeof *shape.tokens);
    shape.known = place(&at, n * l->max_context, sizeof *shape.known);
    shape.aside = place(&at, (n + 1) * l->max_context, sizeof *shape.aside);
    shape.hidden = place(&at, l->want_hidden ? n * l->dim : 0, sizeof *shape.hidden);
    shape.proposals = place(&at, n * shape.roster.n, sizeof *shape.proposals);
    shape.aheads = place(&at, l->draft_ahead ? n * l->n_drafters : 0, sizeof *shape.aheads);
    shape.agreed = place(&at, l->fusion != SCHED_MERGE ? n * l->max_tree : 0, sizeof *shape.agreed);
    shape.calibrations = place(&at, shape.roster.n, sizeof *shape.calibrations);
    shape.habits = place(&at, shape.roster.n, sizeof *shape.habits);
    shape.trust = place(&at, n * shape.roster.n, sizeof *shape.trust);
    shape.hits = place(&at, n * shape.roster.n, sizeof *shape.hits);
    shape.prior = place(&at, n * shape.roster.n, sizeof *shape.prior);
    shape.all_hits = place(&at, shape.roster.n, sizeof *shape.all_hits);
    shape.profiles = place(&at, l->n_drafters ? n : 0, sizeof *shape.profiles);
    shape.priors = place(&at, l->n_drafters, sizeof *shape.priors);
    shape.cosine = place(&at, n * shape.roster.n, sizeof *shape.cosine);
    shape.shares = place(&at, l->max_batch, sizeof *shape.shares);
    shape.paths = place(&at, (size_t)l->max_batch * l->max_tree, sizeof *shape.paths);
    shape.by_drafter = place(&at, (1 + (size_t)l->max_requests) * shape.roster.n, sizeof *shape.by_drafter);
    shape.drafters = place(&at, l->n_drafters, sizeof *shape.drafters);
    for (uint32_t i = 0; i < l->n_drafters; i++) {
        sched_drafter d = lay_out_drafter(&at, l);
        if (base) shape.drafters[i] = d;
    }
    shape.groups = place(&at, l->n_groups, sizeof *shape.groups);
    for (uint32_t i = 0; i < l->n_groups; i++) {
        sched_group g = lay_out_group(&at, l, l->n_blocks[i], l->n_slots[i]);
        g.s = s;
        g.serves = l->serves[i];
        if (base) shape.groups[i] = g;
    }
    if (base) *(*out = s) = shape;
    return at.used_bytes;
}

size_t sched_bytes(const sched_limits *limits) {
    return sched_check_limits(limits, NULL) == ST_OK ? lay_out(NULL, limits, NULL) : 0;
}

st_code sched_init(void *memory, const sched_limits *limits, sched **out, st_error *e) {
    st_code code = sched_check_limits(limits, e);
    if (code != ST_OK) return code;
    INVARIANT(memory && ((uintptr_t)memory & 63) == 0);
    sched *s = NULL;
    lay_out(memory, limits, &s);
    sched_state_init(s);
    s->lookup = SPEC_LOOKUP_OPTIONS;
    s->lookup.floor = limits->draft_floor;
    s->roster = spec_roster_of(limits->drafter_names, limits->n_drafters, has_corpus(limits));
    if (limits->corpus) code = spec_ngram_init(&s->corpus, limits->corpus, limits->corpus_bytes, limits->vocabulary_hash, e);
    if (code != ST_OK) return e ? st_prefix(e, "corpus") : code;
    s->corpus.floor = limits->draft_floor;
    s->corpus_drafter = limits->corpus_drafter ? limits->corpus_drafter : &s->corpus.drafter;
    for (uint32_t i = 0; i < s->roster.n; i++) {
        s->by_drafter[i].name = s->roster.name[i];
        snprintf(s->habits[i].name, sizeof s->habits[i].name, "%s", s->roster.name[i]);
    }
    code = spec_route_parse(&s->route, limits->speculation ? limits->speculation : "none", &s->roster, e);
    if (code != ST_OK) return e ? st_prefix(e, "speculation") : code;
    *out = s;
    return ST_OK;
}

/* ---- events ---- */

static void refuse(sched *s, seq_id seq, st_code code, const char *message) {
    sched_say_finished(s, seq, SCHED_FINISH_ERROR, code, message);
    s->stats.rejected++;
}

static const char too_large[] = "no verifier group that is ready has KV blocks enough for it";

/* `open`: and takes new requests. */
static bool any_up(const sched *s, bool open) {
    for (uint32_t g = 0; g < s->limits.n_groups; g++)
        if (s->groups[g].up && !(open && s->groups[g].emptied)) return true;
    return false;
}

/* What must be so before a request gets a place; the queue's length is judged after admission has had its turn. */
static st_code may_enter(const sched *s, const sched_event *ev, char *message, size_t message_bytes) {
    st_code code = sched_can_ever_fit(&s->limits, ev, message, message_bytes);
    if (code != ST_OK) return code;
    if (ev->deadline_ns > 0 && ev->deadline_ns <= s->now_ns) { /* else others might be sent away for one that is over at once */
        snprintf(message, message_bytes, "%s", st_text(ST_ERR_DEADLINE));
        return ST_ERR_DEADLINE;
    }
    if (s->draining || !any_up(s, true)) {
        snprintf(message, message_bytes, "%s",
                 s->draining        ? "the cluster is shutting down"
                 : any_up(s, false) ? "each verifier group that is ready is drained"
                                    : "no verifier group is ready");
        return ST_ERR_UNAVAILABLE;
    }
    if (!sched_fits_a_group(s, sched_limit_tokens(&s->limits, ev->n_tokens, ev->max_tokens), true)) {
        snprintf(message, message_bytes, "%s", too_large);
        return ST_ERR_UNAVAILABLE;
    }
    if (s->free.n == 0) {
        snprintf(message, message_bytes, "the cluster has its limit of %u requests; try again later", s->limits.max_requests);
        return ST_ERR_RESOURCE_EXHAUSTED;
    }
    return ST_OK;
}

static st_code read_policy(const sched *s, const sched_event *ev, spec_route *route, char *message, size_t message_bytes) {
    st_error e = {0};
    if (!ev->speculation || !ev->speculation[0]) return ST_OK;
    st_code code = spec_route_parse(route, ev->speculation, &s->roster, &e);
    if (code != ST_OK) snprintf(message, message_bytes, "speculation: %s", e.message);
    return code == ST_OK ? ST_OK : ST_ERR_INVALID_ARGUMENT;
}

static void on_request(sched *s, const sched_event *ev) {
    char message[sizeof s->actions->message];
    spec_route route = s->route;
    st_code code = may_enter(s, ev, message, sizeof message);
    if (code == ST_OK) code = read_policy(s, ev, &route, message, sizeof message);
    if (code != ST_OK) {
        refuse(s, ev->seq, code, message);
        return;
    }
    sched_request *r = sched_slot_take(s, ev);
    r->prompt = ev->tokens;
    r->n_prompt = r->n_known = ev->n_tokens;
    r->n_limit = sched_limit_tokens(&s->limits, ev->n_tokens, ev->max_tokens);
    r->sampling = ev->sampling;
    r->rules = ev->rules;
    r->salt = (kv_salt){{ev->cache_salt[0], ev->cache_salt[1]}};
    r->route = route;
    r->rules.hidden |= sched_request_wants_hidden(s, r);
    sched_admit(s);
    if (r->state == SCHED_WAITING && s->waiting.n > s->limits.max_queue) { /* nobody who was accepted goes for it */
        snprintf(message, sizeof message, "no place is free and the queue is full (limit %u); try again later",
                 s->limits.max_queue);
        sched_drop(s, r);
        refuse(s, ev->seq, ST_ERR_RESOURCE_EXHAUSTED, message);
        return;
    }
    if (r->deadline_ns && (s->timer_ns == 0 || r->deadline_ns < s->timer_ns)) s->timer_ns = r->deadline_ns;
}

static void on_cancel(sched *s, const sched_event *ev) {
    sched_request *r = sched_find(s, ev->seq);
    if (r) sched_end(s, r, ev->finish, ev->code, ev->code == ST_OK ? NULL : st_text(ev->code)); /* else: crossed its end */
}

static void give_tokens(sched *s, sched_request *r, const proto_item *item, uint32_t n) {
    sched_action *a = sched_act(s, SCHED_ACT_TOKENS, r->seq);
    a->tokens = memcpy(s->tokens + s->n_tokens, item->tokens, n * sizeof *item->tokens);
    a->logprobs = item->logprobs;
    a->hidden = item->hidden;
    a->n_tokens = n;
    s->n_tokens += n;
    s->stats.tokens += n;
}

/* What one item of a result means for its request. */
static void take_item(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    char message[sizeof s->actions->message];
    if (!item || !sched_answers(asked, r, item)) {
        snprintf(message, sizeof message, "the verifier's answer to plan %llu does not fit the plan",
                 (unsigned long long)r->group->reported);
        sched_end(s, r, SCHED_FINISH_ERROR, ST_FATAL_PROTOCOL, message);
        return;
    }
    if (item->code != ST_OK) {
        snprintf(message, sizeof message, "%s, in layer %u of the model", st_text(item->code), item->layer);
        sched_end(s, r, SCHED_FINISH_ERROR, item->code, message);
        return;
    }
    sched_finish finish;
    if (asked->chooses) sched_settle_ahead(s, r, asked, item);
    uint32_t n = sched_accept(r, item->tokens, item->n_tokens, &finish);
    if (n > 0) { /* else item->tokens may be NULL */
        give_tokens(s, r, item, n);
        memcpy(r->known + r->n_known, item->tokens, n * sizeof *r->known);
        sched_keep_hidden(s, r, &item->hidden, n);
    }
    if (asked->chooses) {
        sched_learn_habits(s, r, item);
        sched_learn_drafts(s, r, asked, item);
        sched_count_drafts(s, r, asked, item);
    }
    r->n_cached += sched_newly_cached(asked, item);
    r->n_known += n;
    sched_keep(r);
    if (finish != SCHED_FINISH_NONE) sched_end(s, r, finish, ST_OK, NULL);
}

static sched_group *group_of(sched *s, uint32_t group) { return group < s->limits.n_groups ? &s->groups[group] : NULL; }

static void on_result(sched *s, sched_group *g, const proto_result *result) {
    if (!g || g->flight.id == 0 || result->plan_id != g->flight.id) {
        s->stats.stale_results++;
        return;
    }
    sched_flight f = g->flight;
    g->flight.id = 0;
    g->reported = f.id;
    g->stats.steps++;
    g->stats.rows += f.n_rows;
    s->stats.moved_kv += result->n_moved;
    sched_learn_swaps(g, &f, result);
    sched_learn_step(g, &f);
    sched_learn_prompts(g, &f);
    for (uint32_t i = 0; i < f.n_items; i++) {
        sched_request *r = &s->requests[f.items[i].slot];
        if (r->state == SCHED_CLOSING) continue; /* its client has gone: the tokens are for nobody */
        take_item(s, r, &f.items[i], i < result->n_items ? &result->items[i] : NULL);
    }
    sched_begin_rounds(g, &f);
    sched_adopt(g);
}

/* Those that wait and that no group which is up could hold. */
static void end_stranded(sched *s) {
    const char *why = any_up(s, false) ? too_large : "the verifier group was lost";
    for (sched_request *r = sched_at(s, s->waiting.first), *next; r; r = next) {
        next = sched_next(s, r);
        if (!sched_fits_a_group(s, r->n_limit, false)) sched_end(s, r, SCHED_FINISH_ERROR, ST_ERR_UNAVAILABLE, why);
    }
}

/* Nothing that the group was asked will be answered, and what it held is gone. */
static void on_group_down(sched *s, sched_group *g) {
    g->flight.id = 0;
    g->reported = g->next_plan - 1;
    g->held_until_ns = 0;
    g->up = false;
    sched_lose_moves(g);
    for (sched_state state = SCHED_PREFILL; state <= SCHED_MOVING; state++)
        for (sched_request *r; (r = sched_first(g, state));) sched_displace(r);
    sched_retire_reported(g);
    g->n_ended = 0;
    kv_forget(g->kv);
    (void)kv_take_swaps(g->kv, g->swaps); /* they were for its ranks */
    end_stranded(s);
}

static void on_group_up(sched *s, sched_group *g) {
    if (g->up) on_group_down(s, g); /* it came back before its loss was noticed */
    g->up = true;
    g->next_plan = 1; /* ids count from 1 in each group epoch */
    g->reported = g->last_swaps = 0;
}

st_code sched_may_empty(const sched *s, uint32_t group, st_error *e) {
    INVARIANT(group < s->limits.n_groups);
    for (uint32_t i = 0; i < s->limits.n_groups; i++)
        if (i == group ? s->groups[i].emptied : s->groups[i].up && !s->groups[i].emptied) return ST_OK;
    return st_fail(e, ST_ERR_UNAVAILABLE, "no other verifier group that is ready takes requests");
}

static void on_empty(sched *s, sched_group *g) {
    if (sched_may_empty(s, (uint32_t)(g - s->groups), NULL) == ST_OK) g->emptied = true;
}

static bool knows_drafter(const sched *s, uint32_t drafter) {
    return drafter < s->limits.n_drafters && s->drafters[drafter].stats.up;
}

/* One item an asked draft, in its order; those of requests that are over count for nobody. */
static void on_drafts(sched *s, uint32_t drafter, const proto_result *result) {
    sched_drafter *d = knows_drafter(s, drafter) ? &s->drafters[drafter] : NULL;
    if (!d || d->flight == 0 || result->plan_id != d->flight) {
        s->stats.stale_results++;
        return;
    }
    d->flight = 0;
    s->busy &= ~(UINT32_C(1) << drafter);
    s->late &= ~(UINT32_C(1) << drafter);
    for (uint32_t i = 0; i < d->n_asked; i++) {
        sched_request *r = sched_asked_for(s, &d->asked[i]);
        if (!r) continue;
        sched_take_draft(s, r, drafter, &d->asked[i], i < result->n_items ? &result->items[i] : NULL);
        sched_answered(s, r);
    }
}

/* What it held and was asked is gone; requests go on without it. */
static void on_drafter_down(sched *s, uint32_t drafter) {
    if (!knows_drafter(s, drafter)) return;
    sched_forget_drafter(s, drafter);
    s->drafters[drafter].stats.up = false;
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        for (sched_request *r = sched_first(g, SCHED_DRAFTING), *next; r; r = next) {
            next = sched_next(s, r);
            sched_answered(s, r);
        }
}

static void on_drafter_up(sched *s, uint32_t drafter) {
    if (drafter >= s->limits.n_drafters) return;
    on_drafter_down(s, drafter); /* it came back before its loss was noticed */
    s->drafters[drafter].stats.up = true;
    s->roster.up |= UINT32_C(1) << drafter;
}

static void end_overdue_from(sched *s, sched_request *r) {
    for (sched_request *next; r; r = next) {
        next = sched_next(s, r);
        if (r->deadline_ns == 0) continue;
        if (r->deadline_ns <= s->now_ns)
            sched_end(s, r, SCHED_FINISH_ERROR, ST_ERR_DEADLINE, st_text(ST_ERR_DEADLINE));
        else if (s->timer_ns == 0 || r->deadline_ns < s->timer_ns)
            s->timer_ns = r->deadline_ns;
    }
}

static void end_overdue(sched *s) {
    s->timer_ns = 0;
    end_overdue_from(s, sched_at(s, s->waiting.first));
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        for (sched_state state = SCHED_PREFILL; state <= SCHED_MOVING; state++) end_overdue_from(s, sched_first(g, state));
}

/* ---- the step ---- */

static uint32_t n_live(const sched *s) {
    uint32_t n = s->waiting.n;
    for (uint32_t g = 0; g < s->limits.n_groups; g++) n += sched_n_running(&s->groups[g]);
    return n;
}

/* The earlier of two times, where 0 is none. */
static uint64_t sooner(uint64_t a_ns, uint64_t b_ns) { return a_ns == 0 || (b_ns > 0 && b_ns < a_ns) ? b_ns : a_ns; }

static void tell_timer(sched *s) {
    if (n_live(s) == 0) s->timer_ns = 0; /* else the deadline of one that is over may ring once, for nothing */
    uint64_t at_ns = s->timer_ns;
    for (const sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        at_ns = sooner(at_ns, sooner(sched_next_wait_ns(g), g->held_until_ns));
    /* One that rings before that, or for nothing, tells again then: rounds are shorter than their waits. */
    bool rings_before = s->announced_ns > s->now_ns && (at_ns > 0 ? s->announced_ns <= at_ns : n_live(s) > 0);
    if (at_ns == s->announced_ns || rings_before) return;
    s->announced_ns = at_ns;
    sched_act(s, SCHED_ACT_TIMER, (seq_id){0})->at_ns = at_ns;
}

static void tell_drained(sched *s) {
    if (!s->draining || s->drained || n_live(s) > 0) return;
    for (uint32_t i = 0; i < s->n_moves; i++)
        if (s->moves[i].id > 0) return;
    for (const sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        if (g->flight.id > 0 || g->n_ended > 0) return;
    s->drained = true;
    sched_act(s, SCHED_ACT_DRAINED, (seq_id){0});
}

static void plan_drafts(sched *s) {
    for (uint32_t i = s->limits.n_drafters; i-- > 0;) /* backwards, as what is put first comes before the last put */
        if (s->drafters[i].stats.up && (s->drafters[i].flight == 0 || sched_abandons(s, i)) && sched_build_draft(s, i))
            sched_act_first(s, SCHED_ACT_DRAFT, &s->drafters[i].plan)->drafter = i;
}

/* Returns the mask of groups that have a new plan. Before those of drafters, which go on from what is asked for. */
static uint32_t plan_steps(sched *s) {
    uint32_t planned = 0;
    for (uint32_t i = 0; i < s->limits.n_groups; i++) {
        sched_group *g = &s->groups[i];
        sched_end_waits(g);
        if (g->up && g->flight.id == 0 && !sched_holds_step(g) && sched_build_plan(g)) planned |= UINT32_C(1) << i;
    }
    return planned;
}

static void tell_steps(sched *s, uint32_t planned) {
    for (uint32_t i = s->limits.n_groups; i-- > 0;) /* as in plan_drafts */
        if (planned >> i & 1) sched_act_first(s, SCHED_ACT_PLAN, &s->groups[i].plan)->group = i;
}

static void count_time(sched *s, uint64_t passed_ns) {
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        if (g->flight.id > 0)
            g->stats.busy_ns += passed_ns;
        else if (sched_n_running(g) > 0)
            g->stats.idle_ns += passed_ns;
}

sched_actions sched_step(sched *s, uint64_t now_ns, const sched_event *ev) {
    sched_group *g = group_of(s, ev->group);
    s->first_action = s->n_actions = s->limits.n_groups + s->limits.n_drafters + s->n_moves; /* the places of what comes first */
    s->n_tokens = 0;
    count_time(s, now_ns - s->now_ns);
    s->now_ns = now_ns;
    switch (ev->kind) {
    case SCHED_REQUEST: on_request(s, ev); break;
    case SCHED_CANCEL: on_cancel(s, ev); break;
    case SCHED_RESULT: on_result(s, g, ev->result); break;
    case SCHED_EARLY:
        if (g) sched_take_early(g, ev->result);
        break;
    case SCHED_GROUP_UP:
        if (g) on_group_up(s, g);
        break;
    case SCHED_GROUP_DOWN:
        if (g) on_group_down(s, g);
        break;
    case SCHED_DRAFTER_UP: on_drafter_up(s, ev->drafter); break;
    case SCHED_DRAFTER_DOWN: on_drafter_down(s, ev->drafter); break;
    case SCHED_DRAFTS: on_drafts(s, ev->drafter, ev->result); break;
    case SCHED_DRAIN: s->draining = true; break;
    case SCHED_MOVED: sched_take_moved(s, ev); break;
    case SCHED_EMPTY:
        if (g) on_empty(s, g);
        break;
    case SCHED_FILL:
        if (g) g->emptied = false;
        break;
    case SCHED_FORGET:
        for (g = s->groups; g < s->groups + s->limits.n_groups; g++) kv_forget(g->kv);
        break;
    case SCHED_TIMER: s->announced_ns = 0; break;
    }
    if (s->timer_ns > 0 && now_ns >= s->timer_ns) end_overdue(s);
    for (g = s->groups; g < s->groups + s->limits.n_groups; g++) sched_retire_reported(g);
    sched_give_away(s);
    sched_admit(s);
    uint32_t planned = plan_steps(s);
    sched_move_early(s);
    if (!s->drained) plan_drafts(s);
    tell_steps(s, planned);
    sched_tell_ready(s);
    tell_timer(s);
    tell_drained(s);
#ifdef CONSORT_DEBUG
    sched_check(s);
#endif
    return (sched_actions){s->n_actions - s->first_action, s->actions + s->first_action};
}

sched_group_stats sched_get_group(const sched *s, uint32_t group) {
    INVARIANT(group < s->limits.n_groups);
    const sched_group *g = &s->groups[group];
    sched_group_stats out = g->stats;
    out.up = g->up;
    out.emptied = g->emptied;
    out.coming = sched_n_coming(g);
    out.running = sched_n_running(g) + g->lists[SCHED_CLOSING].n;
    out.blocks_total = kv_total_blocks(g->kv);
    out.blocks_used = kv_used_blocks(g->kv);
    out.blocks_kept = kv_kept_blocks(g->kv);
    out.slots_total = kv_total_slots(g->kv);
    out.slots_used = kv_used_slots(g->kv);
    out.blocks_reserved = out.blocks_total - out.blocks_used - kv_free_blocks(g->kv);
    out.prompt_token_ns = g->prompt_ns;
    out.moves_pay = sched_moves_pay(g);
    return out;
}

static void add_group(sched_stats *to, sched_group_stats g) {
    to->groups_up += g.up;
    to->running += g.running;
    to->blocks_total += g.blocks_total;
    to->blocks_used += g.blocks_used;
    to->blocks_reserved += g.blocks_reserved;
    to->blocks_kept += g.blocks_kept;
    to->steps += g.steps;
    to->rows += g.rows;
    to->busy_ns += g.busy_ns;
    to->idle_ns += g.idle_ns;
    to->looked_up += g.looked_up;
    to->shared += g.shared;
    to->slots_total += g.slots_total;
    to->slots_used += g.slots_used;
    to->swapped_out += g.swapped_out;
    to->swapped_in += g.swapped_in;
    to->swap_out_ns += g.swap_out_ns;
    to->swap_in_ns += g.swap_in_ns;
}

sched_stats sched_get_stats(const sched *s) {
    sched_stats out = s->stats;
    out.waiting = s->waiting.n;
    for (uint32_t i = 0; i < s->limits.n_groups; i++) add_group(&out, sched_get_group(s, i));
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) out.late_drafts += s->drafters[i].stats.late;
    out.n_by_drafter = s->roster.n;
    out.by_drafter = s->by_drafter;
    for (uint32_t i = 0; i < s->n_moves; i++) out.moving += s->moves[i].id > 0;
    out.move_token_ns = s->move_ns;
    out.draining = s->draining;
    return out;
}

sched_drafter_stats sched_get_drafter(const sched *s, uint32_t drafter) {
    INVARIANT(drafter < s->limits.n_drafters);
    const sched_drafter *d = &s->drafters[drafter];
    sched_drafter_stats out = d->stats;
    for (uint32_t i = 0; i < s->n_places; i++) out.followed += d->told[i] > 0 || d->holds[i].n_blocks > 0;
    out.kv_blocks = s->limits.drafter_blocks[drafter];
    out.kv_held = d->n_held;
    return out;
}
