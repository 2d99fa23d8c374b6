/* Slots, lists and ids of the scheduler's requests, and the way out of each state. */
#include "coordinator/sched_int.h"

#include <stdio.h>

static uint32_t slot_of(const sched *s, const sched_request *r) { return (uint32_t)(r - s->requests); }
static sched_request *at(sched *s, uint32_t slot) { return slot == SCHED_NO_SLOT ? NULL : &s->requests[slot]; }

/* ---- lists ---- */

static void append(sched *s, sched_request *r, sched_state state) {
    sched_list *l = &s->lists[state];
    uint32_t slot = slot_of(s, r);
    r->state = state;
    r->previous = l->last;
    r->next = SCHED_NO_SLOT;
    if (l->last == SCHED_NO_SLOT)
        l->first = slot;
    else
        s->requests[l->last].next = slot;
    l->last = slot;
    l->n++;
}

static void detach(sched *s, sched_request *r) {
    sched_list *l = &s->lists[r->state];
    if (r->previous == SCHED_NO_SLOT)
        l->first = r->next;
    else
        s->requests[r->previous].next = r->next;
    if (r->next == SCHED_NO_SLOT)
        l->last = r->previous;
    else
        s->requests[r->next].previous = r->previous;
    l->n--;
}

void sched_move(sched *s, sched_request *r, sched_state to) {
    detach(s, r);
    append(s, r, to);
}

sched_request *sched_first(sched *s, sched_state state) { return at(s, s->lists[state].first); }
sched_request *sched_next(sched *s, const sched_request *r) { return at(s, r->next); }

/* ---- ids ---- */

/* Ids count up, so the low bits spread them; the caller is trusted not to choose them against us. */
static uint32_t *bucket(sched *s, seq_id seq) { return &s->buckets[seq.value & (s->n_buckets - 1)]; }

sched_request *sched_find(sched *s, seq_id seq) {
    for (sched_request *r = at(s, *bucket(s, seq)); r; r = at(s, r->next_of_bucket))
        if (r->seq.value == seq.value) return r;
    return NULL;
}

static void forget_id(sched *s, const sched_request *r) {
    uint32_t *link = bucket(s, r->seq);
    while (*link != slot_of(s, r)) link = &s->requests[*link].next_of_bucket;
    *link = r->next_of_bucket;
}

sched_request *sched_slot_take(sched *s, seq_id seq) {
    INVARIANT(seq.value != 0 && !sched_find(s, seq)); /* the caller's promise: ids are new */
    sched_request *r = sched_first(s, SCHED_FREE);
    if (!r) return NULL;
    detach(s, r);
    uint32_t *first = bucket(s, seq);
    *r = (sched_request){.seq = seq,
                         .next_of_bucket = *first,
                         .chain = KV_CHAIN_NONE,
                         .by_drafter = s->by_drafter + (1 + (size_t)slot_of(s, r)) * s->roster.n};
    for (uint32_t i = 0; i < s->roster.n; i++) r->by_drafter[i] = (proto_drafter_figures){.name = s->roster.name[i]};
    *first = slot_of(s, r);
    append(s, r, SCHED_WAITING);
    return r;
}

/* ---- the way out ---- */

sched_action *sched_act(sched *s, sched_action_kind kind, seq_id seq) {
    INVARIANT(s->n_actions < s->n_actions_max);
    sched_action *a = &s->actions[s->n_actions++];
    *a = (sched_action){.kind = kind, .seq = seq};
    return a;
}

sched_action *sched_act_first(sched *s, sched_action_kind kind, const proto_plan *plan) {
    INVARIANT(s->first_action > 0);
    sched_action *a = &s->actions[--s->first_action];
    *a = (sched_action){.kind = kind, .plan = plan};
    return a;
}

/* No plan in flight names it: its blocks may go to others, for the next plan closes it before it does anything else. */
static void retire(sched *s, sched_request *r) {
    if (r->chain.index != KV_CHAIN_NONE.index) {
        sched_leave_drafters(s, r);
        kv_release(s->kv, r->chain);
    }
    if (r->open) s->ended[s->n_ended++] = r->seq;
    sched_move(s, r, SCHED_FREE);
}

sched_action *sched_say_finished(sched *s, seq_id seq, sched_finish finish, st_code code, const char *message) {
    sched_action *a = sched_act(s, SCHED_ACT_FINISHED, seq);
    a->finish = finish;
    a->code = code;
    if (message) snprintf(a->message, sizeof a->message, "%s", message);
    return a;
}

void sched_drop(sched *s, sched_request *r) {
    forget_id(s, r);
    if (r->last_plan > s->reported)
        sched_move(s, r, SCHED_CLOSING);
    else
        retire(s, r);
}

void sched_end(sched *s, sched_request *r, sched_finish finish, st_code code, const char *message) {
    sched_action *a = sched_say_finished(s, r->seq, finish, code, message);
    a->drafts = r->drafts;
    a->n_by_drafter = s->roster.n;
    a->by_drafter = r->by_drafter; /* the slot is taken by no other in this call */
    s->stats.finished++;
    sched_drop(s, r);
}

void sched_retire_reported(sched *s) {
    for (sched_request *r = sched_first(s, SCHED_CLOSING), *next; r; r = next) {
        next = sched_next(s, r);
        if (r->last_plan <= s->reported) retire(s, r);
    }
}

/* ---- the beginning, and the check ---- */

void sched_state_init(sched *s) {
    for (uint32_t i = 0; i < SCHED_N_STATES; i++) s->lists[i] = (sched_list){SCHED_NO_SLOT, SCHED_NO_SLOT, 0};
    for (uint32_t i = 0; i < s->n_buckets; i++) s->buckets[i] = SCHED_NO_SLOT;
    for (uint32_t i = 0; i < s->limits.max_requests; i++) append(s, &s->requests[i], SCHED_FREE);
}

static void check_request(const sched *s, const sched_request *r) {
    bool has_chain = r->chain.index != KV_CHAIN_NONE.index;
    if (r->state == SCHED_FREE) return;
    INVARIANT(r->seq.value != 0 && r->n_prompt > 0 && r->n_known >= r->n_prompt);
    INVARIANT(has_chain == (r->state != SCHED_WAITING) && (!r->open || has_chain));
    INVARIANT((r->state == SCHED_CLOSING) <= (r->last_plan > s->reported)); /* closing: because a plan names it */
    if (r->state == SCHED_CLOSING) return;
    INVARIANT(r->n_cached < r->n_known && r->n_known < r->n_limit && r->n_limit <= s->limits.max_context);
    if (r->state == SCHED_WAITING) return;
    uint32_t n_blocks;
    kv_chain_blocks(s->kv, r->chain, &n_blocks);
    INVARIANT(n_blocks >= kv_blocks_for(r->n_cached));
    INVARIANT((r->state != SCHED_PREFILL) == (r->n_known - r->n_cached == 1));
    INVARIANT((r->state == SCHED_DRAFTING) == (r->awaited != 0));
}

void sched_check(const sched *s) {
    uint32_t n_all = 0, n_named = 0, n_open = 0;
    for (uint32_t state = 0; state < SCHED_N_STATES; state++) {
        const sched_list *l = &s->lists[state];
        uint32_t previous = SCHED_NO_SLOT, n = 0;
        for (uint32_t i = l->first; i != SCHED_NO_SLOT; previous = i, i = s->requests[i].next, n++) {
            const sched_request *r = &s->requests[i];
            INVARIANT(n < s->limits.max_requests && r->state == state && r->previous == previous);
            check_request(s, r);
            n_open += state != SCHED_FREE && r->open;
            n_named += state != SCHED_FREE && r->last_plan > s->reported;
        }
        INVARIANT(l->last == previous && l->n == n);
        n_all += n;
    }
    INVARIANT(n_all == s->limits.max_requests);
    INVARIANT(n_open + s->n_ended <= s->limits.max_running);
    INVARIANT(n_named == (s->flight.id > 0 ? s->flight.n_items : 0)); /* one plan in flight names each of its sequences once */
    INVARIANT(s->flight.id == 0 || s->flight.id == s->next_plan - 1);
    uint32_t n_ids = 0;
    for (uint32_t b = 0; b < s->n_buckets; b++)
        for (uint32_t i = s->buckets[b]; i != SCHED_NO_SLOT; i = s->requests[i].next_of_bucket) {
            INVARIANT(s->requests[i].state >= SCHED_WAITING && s->requests[i].state <= SCHED_DECODE);
            n_ids++;
        }
    for (uint32_t state = SCHED_WAITING; state <= SCHED_DECODE; state++) n_ids -= s->lists[state].n;
    INVARIANT(n_ids == 0);
    INVARIANT(!s->held_until_ns || (s->group_up && s->flight.id == 0 && s->lists[SCHED_DRAFTING].n > 0));
    sched_check_drafters(s);
    kv_check(s->kv);
}
