/* The scheduler of one verifier group.
 *
 * What: sched_step is the whole control flow: an event changes requests, those that came free of a plan are retired, waiting ones
 * are admitted, and if the group is idle the next plan is built. All arithmetic is in leaves: sched_admit.c (who may come in),
 * sched_batch.c (what goes into a step, what is accepted of a result), sched_state.c (slots, lists, the way out).
 *
 * Why one plan a step and no queue of steps: continuous batching (Orca, OSDI 2022) wants each step built from what is true when
 * it starts. Today one plan is in flight; s->reported and sched_request.last_plan are written so that a second one needs a second
 * sched_flight and "r->last_plan <= s->reported" where a plan picks its sequences.
 * Why the plan is action 0: the group computes while the coordinator detokenizes.
 * Why ended sequences are closed by the next plan and not by a message of their own: ranks hear of all changes in one order, so
 * that a block is never in two sequences. The price is a plan without work where nothing else runs.
 * Not taken: preemption. A reservation covers the longest answer, so an admitted sequence always finishes; the price is blocks
 * that short answers never use.
 * Limits: O(running) an event; O(requests) when a deadline passes or the group is lost. */
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
    return l->base ? l->base + at : NULL;
}

static uint32_t chain_blocks(const sched_limits *l) { return kv_blocks_for((uint64_t)l->max_context + l->max_tree); }

/* Lays everything out behind `base`; with base NULL only finds the size. Returns it. */
static size_t lay_out(unsigned char *base, const sched_limits *l, sched **out) {
    layout at = {.base = base};
    sched shape = {.limits = *l, .n_buckets = 1}, *s = place(&at, 1, sizeof *s);
    while (shape.n_buckets < l->max_requests) shape.n_buckets *= 2;
    /* FINISHED of all and of one refused, TOKENS of a batch, PLAN, TIMER, DRAINED */
    shape.n_actions_max = l->max_requests + 1 + l->max_batch + 3;
    shape.requests = place(&at, l->max_requests, sizeof *shape.requests);
    shape.buckets = place(&at, shape.n_buckets, sizeof *shape.buckets);
    shape.flight.items = place(&at, l->max_batch, sizeof *shape.flight.items);
    shape.ended = place(&at, l->max_running, sizeof *shape.ended);
    shape.close = place(&at, l->max_running, sizeof *shape.close);
    shape.open = place(&at, l->max_batch, sizeof *shape.open);
    shape.work = place(&at, l->max_batch, sizeof *shape.work);
    shape.actions = place(&at, shape.n_actions_max, sizeof *shape.actions);
    shape.tokens = place(&at, (size_t)l->max_batch * (1 + l->max_tree), sizeof *shape.tokens);
    shape.known = place(&at, (size_t)l->max_running * l->max_context, sizeof *shape.known);
    shape.trees = place(&at, l->max_tree ? l->max_batch : 0, sizeof *shape.trees);
    size_t kv_bytes = kv_table_bytes(l->n_blocks, l->max_running, chain_blocks(l));
    INVARIANT(kv_bytes > 0); /* bounded, too */
    void *kv_memory = place(&at, 1, kv_bytes);
    if (base) {
        memset(base, 0, at.used_bytes);
        shape.kv = kv_table_init(kv_memory, l->n_blocks, l->max_running, chain_blocks(l));
        *s = shape;
        *out = s;
    }
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
    s->roster = (spec_roster){.n = 1, .name = {"lookup"}, .up = 1};
    code = spec_route_parse(&s->route, limits->speculation ? limits->speculation : "none", &s->roster, e);
    if (code != ST_OK) return e ? st_prefix(e, "speculation") : code;
    s->next_plan = 1;
    *out = s;
    return ST_OK;
}

/* ---- events ---- */

static void refuse(sched *s, seq_id seq, st_code code, const char *message) {
    sched_say_finished(s, seq, SCHED_FINISH_ERROR, code, message);
    s->stats.rejected++;
}

/* What must be so before a request gets a place; the queue's length is judged after admission has had its turn. */
static st_code may_enter(const sched *s, const sched_event *ev, char *message, size_t message_bytes) {
    st_code code = sched_can_ever_fit(&s->limits, ev, message, message_bytes);
    if (code != ST_OK) return code;
    if (s->draining || !s->group_up) {
        snprintf(message, message_bytes, "%s", s->draining ? "the cluster is shutting down" : "no verifier group is ready");
        return ST_ERR_UNAVAILABLE;
    }
    if (s->lists[SCHED_FREE].n == 0) {
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
    sched_request *r = sched_slot_take(s, ev->seq);
    r->prompt = ev->tokens;
    r->n_prompt = r->n_known = ev->n_tokens;
    r->n_limit = sched_limit_tokens(&s->limits, ev->n_tokens, ev->max_tokens);
    r->ends = ev->end_tokens;
    r->n_ends = ev->n_end_tokens;
    r->sampling = ev->sampling;
    r->deadline_ns = ev->deadline_ns;
    r->route = route;
    sched_admit(s);
    if (s->lists[SCHED_WAITING].n > s->limits.max_queue) { /* then it is the last of them */
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

static void give_tokens(sched *s, sched_request *r, const uint32_t *tokens, uint32_t n) {
    sched_action *a = sched_act(s, SCHED_ACT_TOKENS, r->seq);
    a->tokens = memcpy(s->tokens + s->n_tokens, tokens, n * sizeof *tokens);
    a->n_tokens = n;
    s->n_tokens += n;
    s->stats.tokens += n;
}

static void count_drafts(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    if (!asked->chooses) return;
    sched_drafts *counts[] = {&r->drafts, &s->stats.drafts};
    for (int i = 0; i < 2; i++) {
        counts[i]->steps++;
        counts[i]->drafted += asked->n_tree;
        counts[i]->accepted += item->n_tokens - 1;
    }
}

/* What one item of a result means for its request. */
static void take_item(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    char message[sizeof s->actions->message];
    if (!item || !sched_answers(asked, r->seq, item)) {
        snprintf(message, sizeof message, "the verifier's answer to plan %llu does not fit the plan",
                 (unsigned long long)s->reported);
        sched_end(s, r, SCHED_FINISH_ERROR, ST_FATAL_PROTOCOL, message);
        return;
    }
    if (item->code != ST_OK) {
        snprintf(message, sizeof message, "%s, in layer %u of the model", st_text(item->code), item->layer);
        sched_end(s, r, SCHED_FINISH_ERROR, item->code, message);
        return;
    }
    sched_finish finish;
    uint32_t n = sched_accept(r, item->tokens, item->n_tokens, &finish);
    if (n > 0) give_tokens(s, r, item->tokens, n);
    memcpy(r->known + r->n_known, item->tokens, n * sizeof *r->known);
    count_drafts(s, r, asked, item);
    r->n_cached += sched_newly_cached(asked, item);
    r->n_known += n;
    if (finish != SCHED_FINISH_NONE)
        sched_end(s, r, finish, ST_OK, NULL);
    else if (r->state == SCHED_PREFILL && r->n_known - r->n_cached == 1)
        sched_move(s, r, SCHED_DECODE);
}

static void on_result(sched *s, const proto_result *result) {
    const sched_flight f = s->flight;
    if (f.id == 0 || result->plan_id != f.id) {
        s->stats.stale_results++;
        return;
    }
    s->flight.id = 0;
    s->reported = f.id;
    s->stats.steps++;
    s->stats.rows += f.n_rows;
    for (uint32_t i = 0; i < f.n_items; i++) {
        sched_request *r = &s->requests[f.items[i].slot];
        if (r->state == SCHED_CLOSING) continue; /* its client has gone: the tokens are for nobody */
        take_item(s, r, &f.items[i], i < result->n_items ? &result->items[i] : NULL);
    }
}

static void end_all(sched *s, st_code code, const char *message) {
    for (sched_state state = SCHED_WAITING; state <= SCHED_DECODE; state++)
        for (sched_request *r; (r = sched_first(s, state));) sched_end(s, r, SCHED_FINISH_ERROR, code, message);
}

/* Nothing that the group was asked will be answered, and what it held is gone. */
static void on_group_down(sched *s) {
    s->flight.id = 0;
    s->reported = s->next_plan - 1;
    end_all(s, ST_ERR_UNAVAILABLE, "the verifier group was lost");
    sched_retire_reported(s);
    s->n_ended = 0;
    s->group_up = false;
}

static void on_group_up(sched *s) {
    if (s->group_up) on_group_down(s); /* it came back before its loss was noticed */
    s->group_up = true;
    s->next_plan = 1; /* ids count from 1 in each group epoch */
    s->reported = 0;
}

static void end_overdue(sched *s, uint64_t now_ns) {
    s->timer_ns = 0;
    for (sched_state state = SCHED_WAITING; state <= SCHED_DECODE; state++)
        for (sched_request *r = sched_first(s, state), *next; r; r = next) {
            next = sched_next(s, r);
            if (r->deadline_ns == 0) continue;
            if (r->deadline_ns <= now_ns)
                sched_end(s, r, SCHED_FINISH_ERROR, ST_ERR_DEADLINE, st_text(ST_ERR_DEADLINE));
            else if (s->timer_ns == 0 || r->deadline_ns < s->timer_ns)
                s->timer_ns = r->deadline_ns;
        }
}

/* ---- the step ---- */

static uint32_t n_live(const sched *s) {
    return s->lists[SCHED_WAITING].n + s->lists[SCHED_PREFILL].n + s->lists[SCHED_DECODE].n;
}

static void tell_timer(sched *s) {
    if (n_live(s) == 0) s->timer_ns = 0; /* else the deadline of one that is over may ring once, for nothing */
    if (s->timer_ns == s->announced_ns) return;
    s->announced_ns = s->timer_ns;
    sched_act(s, SCHED_ACT_TIMER, (seq_id){0})->at_ns = s->timer_ns;
}

static void tell_drained(sched *s) {
    if (!s->draining || s->drained || n_live(s) > 0 || s->flight.id > 0 || s->n_ended > 0) return;
    s->drained = true;
    sched_act(s, SCHED_ACT_DRAINED, (seq_id){0});
}

sched_actions sched_step(sched *s, uint64_t now_ns, const sched_event *ev) {
    s->n_actions = 1; /* the plan's place */
    s->n_tokens = 0;
    switch (ev->kind) {
    case SCHED_REQUEST: on_request(s, ev); break;
    case SCHED_CANCEL: on_cancel(s, ev); break;
    case SCHED_RESULT: on_result(s, ev->result); break;
    case SCHED_GROUP_UP: on_group_up(s); break;
    case SCHED_GROUP_DOWN: on_group_down(s); break;
    case SCHED_DRAIN: s->draining = true; break;
    case SCHED_TIMER: s->announced_ns = 0; break;
    }
    if (s->timer_ns > 0 && now_ns >= s->timer_ns) end_overdue(s, now_ns);
    sched_retire_reported(s);
    sched_admit(s);
    bool planned = s->group_up && s->flight.id == 0 && sched_build_plan(s);
    if (planned) s->actions[0] = (sched_action){.kind = SCHED_ACT_PLAN, .plan = &s->plan};
    tell_timer(s);
    tell_drained(s);
#ifdef CONSORT_DEBUG
    sched_check(s);
#endif
    return planned ? (sched_actions){s->n_actions, s->actions} : (sched_actions){s->n_actions - 1, s->actions + 1};
}

sched_stats sched_get_stats(const sched *s) {
    sched_stats out = s->stats;
    out.waiting = s->lists[SCHED_WAITING].n;
    out.running = s->lists[SCHED_PREFILL].n + s->lists[SCHED_DECODE].n + s->lists[SCHED_CLOSING].n;
    out.blocks_total = kv_total_blocks(s->kv);
    out.blocks_used = kv_used_blocks(s->kv);
    out.blocks_reserved = out.blocks_total - out.blocks_used - kv_free_blocks(s->kv);
    out.group_up = s->group_up;
    out.draining = s->draining;
    return out;
}
