/* Slots, lists and ids of the scheduler's requests, their order, and the way out of each state.
 *
 * The order, of those that wait, of prompts, and of who is sent away first (the last): by when a request is due. That is its
 * deadline, or SCHED_PRIORITY_NS after it came where it has none so early; and as much earlier for each step of priority. So it
 * is by priority as long as nobody has waited for that time, by deadlines among equals, else first come, first served; and who
 * has waited n times as long is before all who come then with n steps more.
 *
 * Why that does not starve: when a request is due is settled as it comes. Nobody that comes more than (PROTO_MAX_PRIORITY + 1 -
 * its priority) * SCHED_PRIORITY_NS later is before it, and the first of all always goes on.
 *
 * Why not by priority first and only then by deadlines, however far: a deadline is mostly a time-out, long and the same for all;
 * one that is further away than a step of priority says nothing of a hurry.
 *
 * Those that decode take turns: one has its turn after all that were there before it, as if it had come SCHED_PRIORITY_STEPS
 * steps earlier for each step of priority. A step takes the first of them. So one sits out at most SCHED_PRIORITY_STEPS steps for
 * each step of priority that the others have more, and one for each of the others. */
#include "coordinator/sched_int.h"

#include <stdio.h>

static uint32_t slot_of(const sched *s, const sched_request *r) { return (uint32_t)(r - s->requests); }
sched_request *sched_at(sched *s, uint32_t slot) { return slot == SCHED_NO_SLOT ? NULL : &s->requests[slot]; }

/* ---- lists ---- */

/* Those of its state, in its group. */
static sched_list *list_of(sched *s, const sched_request *r) {
    if (r->state == SCHED_FREE) return &s->free;
    return r->state == SCHED_WAITING ? &s->waiting : &r->group->lists[r->state];
}

bool sched_before(const sched_request *a, const sched_request *b) {
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->number < b->number;
}

/* In the list of a state. */
static bool is_before(sched_state state, const sched_request *a, const sched_request *b) {
    if (state == SCHED_WAITING || state == SCHED_PREFILL) return sched_before(a, b);
    return state == SCHED_DECODE && a->turn < b->turn;
}

/* Behind whom it comes: behind all that it is not before. Looked for from both ends at once: who comes is mostly among the last,
 * who waits again among the first. */
static uint32_t find_previous(const sched *s, const sched_list *l, const sched_request *r) {
    uint32_t previous = l->last, next = l->first;
    while (previous != SCHED_NO_SLOT && is_before(r->state, r, &s->requests[previous])) {
        if (is_before(r->state, r, &s->requests[next])) return s->requests[next].previous;
        previous = s->requests[previous].previous;
        next = s->requests[next].next;
    }
    return previous;
}

/* Puts it into the list of its state. */
static void attach(sched *s, sched_request *r) {
    sched_list *l = list_of(s, r);
    uint32_t slot = slot_of(s, r), previous = find_previous(s, l, r);
    uint32_t *ahead = previous == SCHED_NO_SLOT ? &l->first : &s->requests[previous].next;
    r->previous = previous;
    r->next = *ahead;
    *ahead = slot;
    *(r->next == SCHED_NO_SLOT ? &l->last : &s->requests[r->next].previous) = slot;
    l->n++;
}

static void detach(sched *s, sched_request *r) {
    sched_list *l = list_of(s, r);
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

void sched_move(sched *s, sched_request *r, sched_state to) { sched_enter(s, r, r->group, to); }

void sched_enter(sched *s, sched_request *r, sched_group *to, sched_state state) {
    detach(s, r);
    r->group = to;
    r->state = state;
    if (state == SCHED_DECODE) r->turn = (int64_t)to->next_plan - (int64_t)r->priority * SCHED_PRIORITY_STEPS;
    attach(s, r);
}

sched_request *sched_first(sched_group *g, sched_state state) { return sched_at(g->s, g->lists[state].first); }
sched_request *sched_next(sched *s, const sched_request *r) { return sched_at(s, r->next); }

uint32_t sched_n_running(const sched_group *g) {
    uint32_t n = 0;
    for (sched_state state = SCHED_PREFILL; state <= SCHED_MOVING; state++) n += g->lists[state].n;
    return n;
}

/* ---- ids ---- */

/* Ids count up, so the low bits spread them; the caller is trusted not to choose them against us. */
static uint32_t *bucket(sched *s, seq_id seq) { return &s->buckets[seq.value & (s->n_buckets - 1)]; }

sched_request *sched_find(sched *s, seq_id seq) {
    for (sched_request *r = sched_at(s, *bucket(s, seq)); r; r = sched_at(s, r->next_of_bucket))
        if (r->seq.value == seq.value) return r;
    return NULL;
}

static void forget_id(sched *s, const sched_request *r) {
    uint32_t *link = bucket(s, r->seq);
    while (*link != slot_of(s, r)) link = &s->requests[*link].next_of_bucket;
    *link = r->next_of_bucket;
}

/* Deadlines past the time in which a step of priority is reached by waiting are like none. */
static int64_t due_of(const sched *s, const sched_event *ev) {
    uint64_t due_ns = s->now_ns + SCHED_PRIORITY_NS;
    INVARIANT(ev->priority >= -PROTO_MAX_PRIORITY && ev->priority <= PROTO_MAX_PRIORITY); /* the caller's promise, too */
    if (ev->deadline_ns > 0 && ev->deadline_ns < due_ns) due_ns = ev->deadline_ns;
    return (int64_t)due_ns - ev->priority * (int64_t)SCHED_PRIORITY_NS;
}

sched_request *sched_slot_take(sched *s, const sched_event *ev) {
    seq_id seq = ev->seq;
    INVARIANT(seq.value != 0 && !sched_find(s, seq)); /* the caller's promise: ids are new */
    sched_request *r = sched_at(s, s->free.first);
    if (!r) return NULL;
    detach(s, r);
    uint32_t *first = bucket(s, seq);
    *r = (sched_request){.seq = seq,
                         .number = s->n_accepted++,
                         .priority = ev->priority,
                         .deadline_ns = ev->deadline_ns,
                         .due_ns = due_of(s, ev),
                         .state = SCHED_WAITING,
                         .next_of_bucket = *first,
                         .chain = KV_CHAIN_NONE,
                         .place = SCHED_NO_PLACE,
                         .aside = SCHED_NO_PLACE,
                         .move = SCHED_NO_MOVE,
                         .by_drafter = s->by_drafter + (1 + (size_t)slot_of(s, r)) * s->roster.n};
    for (uint32_t i = 0; i < s->roster.n; i++) r->by_drafter[i] = (proto_drafter_figures){.name = s->roster.name[i]};
    *first = slot_of(s, r);
    attach(s, r);
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

void sched_close_there(sched_request *r) {
    if (r->open) r->group->ended[r->group->n_ended++] = r->seq;
    r->open = false;
}

void sched_leave_place(sched *s, sched_request *r) {
    sched_leave_drafters(s, r);
    s->free_places[s->n_free_places++] = r->place;
    r->place = SCHED_NO_PLACE;
}

void sched_leave_aside(sched *s, sched_request *r) {
    if (r->aside != SCHED_NO_PLACE) s->free_asides[s->n_free_asides++] = r->aside;
    r->aside = SCHED_NO_PLACE;
}

/* Nothing in flight names it: its blocks may go to others, for the next plan closes it before it does anything else. */
static void retire(sched *s, sched_request *r) {
    INVARIANT(r->move == SCHED_NO_MOVE);
    if (r->group) kv_release(r->group->kv, r->chain);
    sched_close_there(r);
    if (r->place != SCHED_NO_PLACE) {
        sched_learn_prior(s, r);
        sched_leave_place(s, r);
    }
    sched_leave_aside(s, r);
    sched_move(s, r, SCHED_FREE);
    r->group = NULL;
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
    if (r->move != SCHED_NO_MOVE) sched_cancel_move(s, r);
    if (r->move != SCHED_NO_MOVE || (r->group && r->last_plan > r->group->reported))
        sched_move(s, r, SCHED_CLOSING);
    else
        retire(s, r);
}

void sched_end(sched *s, sched_request *r, sched_finish finish, st_code code, const char *message) {
    sched_action *a = sched_say_finished(s, r->seq, finish, code, message);
    a->n_shared = r->n_shared;
    a->drafts = r->drafts;
    a->n_by_drafter = s->roster.n;
    a->by_drafter = r->by_drafter; /* the slot is taken by no other in this call */
    s->stats.finished++;
    sched_drop(s, r);
}

void sched_retire_reported(sched_group *g) {
    for (sched_request *r = sched_first(g, SCHED_CLOSING), *next; r; r = next) {
        next = sched_next(g->s, r);
        if (r->last_plan <= g->reported && r->move == SCHED_NO_MOVE) retire(g->s, r);
    }
}

static void wait_again(sched *s, sched_request *r) {
    INVARIANT(r->move == SCHED_NO_MOVE);
    kv_release(r->group->kv, r->chain);
    sched_forget_asked(s, r);
    detach(s, r);
    r->group = NULL;
    r->state = SCHED_WAITING;
    r->chain = KV_CHAIN_NONE;
    r->n_cached = r->n_told = 0;
    r->asked = r->awaited = r->ahead = 0;
    if (r->n_early > 0) r->knows_hidden = false; /* it is of tokens that never came */
    r->n_early = 0;
    r->n_agreed = 0;
    r->open = false;
    r->last_plan = 0;
    attach(s, r);
}

void sched_displace(sched_request *r) {
    sched *s = r->group->s;
    wait_again(s, r);
    r->displaced = true;
}

void sched_preempt(sched_request *r) {
    sched_group *g = r->group;
    INVARIANT(r->last_plan <= g->reported);
    sched_close_there(r);
    sched_expect_again(r);
    wait_again(g->s, r);
    g->s->stats.preempted++;
}

void sched_leave(sched_request *r) {
    INVARIANT(r->last_plan <= r->group->reported);
    sched_close_there(r);
    sched_displace(r);
}

/* ---- the beginning, and the check ---- */

void sched_state_init(sched *s) {
    const sched_list none = {SCHED_NO_SLOT, SCHED_NO_SLOT, 0};
    s->free = s->waiting = none;
    for (uint32_t g = 0; g < s->limits.n_groups; g++)
        for (uint32_t i = 0; i < SCHED_N_STATES; i++) s->groups[g].lists[i] = none;
    for (uint32_t i = 0; i < s->n_buckets; i++) s->buckets[i] = SCHED_NO_SLOT;
    for (uint32_t i = 0; i < s->limits.max_requests; i++) attach(s, &s->requests[i]);
    while (s->n_free_places < s->n_places) {
        s->free_places[s->n_free_places] = s->n_places - 1 - s->n_free_places; /* place 0 on top */
        s->n_free_places++;
    }
    for (; s->n_free_asides <= s->n_places; s->n_free_asides++) s->free_asides[s->n_free_asides] = s->n_places - s->n_free_asides;
}

static void check_request(const sched *s, const sched_group *g, const sched_request *r) {
    bool has_chain = r->chain.index != KV_CHAIN_NONE.index, has_place = r->place != SCHED_NO_PLACE;
    bool is_aside = r->aside != SCHED_NO_PLACE;
    INVARIANT(r->group == g);
    if (r->state == SCHED_FREE) return;
    INVARIANT(r->seq.value != 0 && r->n_prompt > 0 && r->n_known >= r->n_prompt);
    INVARIANT(has_chain == (g != NULL) && (!r->open || has_chain));
    INVARIANT(has_place >= (g != NULL) && has_place + is_aside == (r->epoch > 0) && (r->known != NULL) == (r->epoch > 0));
    INVARIANT(r->known || r->n_known == r->n_prompt);
    bool in_flight = g && (r->last_plan > g->reported || r->move != SCHED_NO_MOVE);
    INVARIANT((r->state == SCHED_CLOSING) <= in_flight); /* closing: because a plan or a move names it */
    INVARIANT(g || r->move == SCHED_NO_MOVE);
    if (r->state == SCHED_CLOSING) return;
    INVARIANT(r->n_cached < r->n_known && r->n_known < r->n_limit && r->n_limit <= s->limits.max_context);
    INVARIANT((r->state == SCHED_DRAFTING) == (r->awaited != 0));
    if (!g) {
        INVARIANT(r->n_cached == 0 && r->last_plan == 0 && r->ahead == 0 && r->n_early == 0);
        return;
    }
    INVARIANT(r->n_early == 0 || r->last_plan > g->reported);
    uint32_t n_blocks;
    kv_chain_blocks(g->kv, r->chain, &n_blocks);
    INVARIANT(n_blocks >= kv_blocks_for(r->n_cached) && n_blocks >= r->n_told);
    if (r->state == SCHED_MOVING)
        INVARIANT(r->last_plan <= g->reported && r->move != SCHED_NO_MOVE);
    else
        INVARIANT((r->state != SCHED_PREFILL) == (r->n_known - r->n_cached == 1));
    INVARIANT(r->move == SCHED_NO_MOVE || r->state == SCHED_MOVING || (r->state == SCHED_PREFILL && g->serves == SCHED_PREFILLS));
}

/* Of the requests of one list or several. */
typedef struct {
    uint32_t n, n_open, n_named, n_places, n_asides;
} sums;

static void check_list(const sched *s, const sched_group *g, sched_state state, const sched_list *l, sums *all) {
    uint32_t previous = SCHED_NO_SLOT, n = 0;
    for (uint32_t i = l->first; i != SCHED_NO_SLOT; previous = i, i = s->requests[i].next, n++) {
        const sched_request *r = &s->requests[i];
        INVARIANT(n < s->limits.max_requests && r->state == state && r->previous == previous);
        INVARIANT(previous == SCHED_NO_SLOT || !is_before(state, r, &s->requests[previous]));
        check_request(s, g, r);
        all->n_open += g && r->open;
        all->n_named += g && r->last_plan > g->reported;
        all->n_places += state != SCHED_FREE && r->place != SCHED_NO_PLACE;
        all->n_asides += state != SCHED_FREE && r->aside != SCHED_NO_PLACE;
    }
    INVARIANT(l->last == previous && l->n == n);
    all->n += n;
}

static sums check_group(const sched_group *g) {
    sums of = {0};
    for (sched_state state = SCHED_PREFILL; state <= SCHED_CLOSING; state++) check_list(g->s, g, state, &g->lists[state], &of);
    INVARIANT(g->up || of.n == 0);
    INVARIANT(of.n + sched_n_coming(g) <= g->s->limits.max_running && of.n_open + g->n_ended <= g->s->limits.max_running);
    INVARIANT(of.n_named == (g->flight.id > 0 ? g->flight.n_items : 0)); /* one plan in flight names each of its sequences once */
    INVARIANT(g->flight.id == 0 || g->flight.id == g->next_plan - 1);
    INVARIANT(!g->held_until_ns || (g->up && g->flight.id == 0 && g->lists[SCHED_DRAFTING].n > 0));
    kv_check(g->kv);
    return of;
}

void sched_check(const sched *s) {
    sums all = {0};
    check_list(s, NULL, SCHED_FREE, &s->free, &all);
    check_list(s, NULL, SCHED_WAITING, &s->waiting, &all);
    uint32_t n_ids = 0, n_live = s->waiting.n;
    for (uint32_t g = 0; g < s->limits.n_groups; g++) {
        sums of = check_group(&s->groups[g]);
        all.n += of.n;
        all.n_places += of.n_places;
        n_live += sched_n_running(&s->groups[g]);
    }
    INVARIANT(all.n == s->limits.max_requests && all.n_places + s->n_free_places == s->n_places);
    INVARIANT(all.n_asides + s->n_free_asides == s->n_places + 1); /* only those that wait have one */
    for (uint32_t b = 0; b < s->n_buckets; b++)
        for (uint32_t i = s->buckets[b]; i != SCHED_NO_SLOT; i = s->requests[i].next_of_bucket) {
            INVARIANT(s->requests[i].state >= SCHED_WAITING && s->requests[i].state <= SCHED_MOVING);
            n_ids++;
        }
    INVARIANT(n_ids == n_live);
    sched_check_moves(s);
    sched_check_drafters(s);
}
