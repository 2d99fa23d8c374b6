/* Whom a drafter follows that keeps a KV cache of each request.
 *
 * What: its blocks are counted here and nowhere else. A request that it follows holds those of its known tokens and of what is to
 * be drafted behind them, from before its first token is sent until it is closed there; it holds more as it grows. A rank takes
 * no more for it than that (worker/draft_model.c), and does so behind the plan's closings, so it never runs out.
 *
 * Who gives way where blocks are short: the request that is worth least; of equals, whoever was asked for longest ago, then the
 * lower place. What one is worth is how many of its next tokens the drafter is expected to choose as the target will: the share
 * that it chose of late (spec_hedge_share), of as many as that share is said to hold for; nothing, where its policy asks another
 * drafter now or it waits for a group. Who comes must be worth more than who goes by the tokens that could be drafted for
 * others while it catches up. Who cannot grow since nobody is worth less gives way itself: of equals that fill the
 * cache, one goes and the others draft on. Whoever gave way may be followed again, all of its tokens then being new.
 *
 * Why a request that someone waits for, or that the plan in the making names, does not give way: it is to be drafted for with the
 * room that it was promised. Why not the one used longest ago: it is a bad victim where all take turns, and it says nothing of
 * what its drafts are worth.
 * Limits: O(places) where blocks are short. With round-robin a request is worth nothing to whose turn it is not. */
#include "coordinator/sched_int.h"

enum {
    HOLDS_FOR_TOKENS = 64, /* a share is held to hold: a subject lasts longer than hedge remembers (speculative/hedge.c) */
    ROWS_A_DRAFT = 6       /* of many tokens at once, in the time of one drafted token: 5 to 6.4 (bench/engine-2026-11-28.md) */
};

static uint32_t number_of(const sched *s, const sched_drafter *d) { return (uint32_t)(d - s->drafters); }
static const sched_request *of_place(const sched *s, const sched_drafter *d, uint32_t place) {
    return &s->requests[d->holds[place].slot];
}

uint32_t sched_follow_chunk(const sched *s, uint32_t drafter) {
    const sched_limits *l = &s->limits;
    uint32_t step = l->max_tree + 1, chunk = l->prefill_chunk > step ? l->prefill_chunk : step; /* what one step may commit */
    return l->drafter_blocks[drafter] > 0 && chunk < l->max_rows ? chunk : l->max_rows;
}

/* In tokens. */
static float worth(const sched *s, const sched_drafter *d, const sched_request *r) {
    uint32_t i = number_of(s, d), left = r->n_limit - r->n_known;
    bool runs = r->group && r->state != SCHED_CLOSING;
    if (!runs || !(sched_route(s, r) >> i & 1)) return 0;
    spec_tally prior = sched_prior(s, r, i);
    return (float)(left < HOLDS_FOR_TOKENS ? left : HOLDS_FOR_TOKENS) * spec_hedge_share(&sched_hits(s, r)[i], &prior);
}

/* Its worth, less that of the drafts that catching up takes. */
static float claim(const sched *s, const sched_drafter *d, const sched_request *r) {
    return worth(s, d, r) - (float)sched_lacks(d, r) / ROWS_A_DRAFT;
}

static bool is_needed(const sched *s, const sched_drafter *d, const sched_request *r) {
    uint32_t drafting = r->lockstep ? r->asked : r->awaited; /* whoever has answered is asked for the next depth */
    bool is_waited_for = r->state == SCHED_DRAFTING && drafting >> number_of(s, d) & 1;
    return is_waited_for || d->holds[r->place].last_plan == d->next_plan;
}

/* What those hold who are worth less than `claimed`, and do not do without it now; *n_needed: likewise of those who need it. */
static uint32_t held_by_lesser(const sched *s, const sched_drafter *d, const sched_request *but, float claimed,
                               uint32_t *n_needed) {
    uint32_t n[2] = {0};
    for (uint32_t p = 0; p < s->n_places; p++) {
        const sched_request *r = of_place(s, d, p);
        if (d->holds[p].n_blocks > 0 && r != but && worth(s, d, r) < claimed) n[is_needed(s, d, r)] += d->holds[p].n_blocks;
    }
    *n_needed = n[1];
    return n[0];
}

static const sched_request *least(const sched *s, const sched_drafter *d, const sched_request *but) {
    const sched_request *found = NULL;
    float of_found = 0;
    for (uint32_t p = 0; p < s->n_places; p++) {
        const sched_request *r = of_place(s, d, p);
        if (d->holds[p].n_blocks == 0 || r == but || is_needed(s, d, r)) continue;
        float of = worth(s, d, r);
        bool older = found && of == of_found && d->holds[p].last_plan < d->holds[found->place].last_plan;
        if (!found || of < of_found || older) found = r, of_found = of;
    }
    return found;
}

static void give_way(sched_drafter *d, const sched_request *r) {
    d->stats.dropped += d->told[r->place] > 0;
    sched_leave_drafter(d, r);
}

/* Room for n_more blocks of the request, by those who are worth less or by itself. */
static bool press(sched *s, sched_drafter *d, const sched_request *r, uint32_t n_more) {
    uint32_t total = s->limits.drafter_blocks[number_of(s, d)], n_needed;
    float claimed = claim(s, d, r);
    if (claimed <= 0 && d->holds[r->place].n_blocks == 0) return false; /* nobody is worth less */
    uint32_t n_lesser = held_by_lesser(s, d, r, claimed, &n_needed);
    if (n_more > total - d->n_held + n_lesser) {
        if (n_needed == 0 && d->holds[r->place].n_blocks > 0 && !is_needed(s, d, r)) give_way(d, r);
        return false;
    }
    while (n_more > total - d->n_held) give_way(d, least(s, d, r));
    return true;
}

bool sched_make_follow(sched *s, uint32_t drafter, sched_request *r, uint32_t n_behind, bool presses) {
    sched_drafter *d = &s->drafters[drafter];
    sched_hold *h = &d->holds[r->place];
    uint32_t total = s->limits.drafter_blocks[drafter], n = kv_blocks_for((uint64_t)r->n_known + n_behind);
    if (total == 0 || n <= h->n_blocks) return true;
    uint32_t n_more = n - h->n_blocks;
    if (n_more > total - d->n_held && !(presses && press(s, d, r, n_more))) return false;
    d->n_held += n_more;
    h->n_blocks = n;
    h->slot = (uint32_t)(r - s->requests);
    return true;
}

uint32_t sched_with_room(sched *s, sched_request *r, uint32_t drafters) {
    for (uint32_t i = 0; i < s->limits.n_drafters; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if (drafters & bit && !sched_make_follow(s, i, r, s->limits.max_tree, true)) drafters &= ~bit;
    }
    return drafters;
}

void sched_leave_drafter(sched_drafter *d, const sched_request *r) {
    sched_hold *h = &d->holds[r->place];
    if (d->told[r->place] > 0) d->ended[d->n_ended++] = r->seq;
    d->told[r->place] = 0;
    d->n_held -= h->n_blocks;
    *h = (sched_hold){0};
}

void sched_forget_holds(sched *s, sched_drafter *d) {
    for (uint32_t i = 0; i < s->n_places; i++) {
        d->told[i] = 0;
        d->holds[i] = (sched_hold){0};
    }
    d->n_held = 0;
}

void sched_check_holds(const sched *s, const sched_drafter *d) {
    uint32_t total = s->limits.drafter_blocks[number_of(s, d)], n_held = 0;
    for (uint32_t i = 0; i < s->n_places; i++) {
        n_held += d->holds[i].n_blocks;
        INVARIANT(total == 0 || d->holds[i].n_blocks >= kv_blocks_for(d->told[i]));
        INVARIANT(d->holds[i].n_blocks == 0 || of_place(s, d, i)->place == i);
    }
    INVARIANT(n_held == d->n_held && n_held <= total);
}
