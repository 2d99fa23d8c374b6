/* Admission: which limits make sense, what a request may need at most, and who may come in.
 *
 * Who is due first is served first (sched_before, sched_state.c): a large request at the head of the queue holds smaller ones
 * back until its blocks are free. To let them pass would use the blocks better and starve the large one. Whoever had to leave a
 * lost group is among the first. Where the head finds no room, those of lower priority that are due later give way to it: as soon
 * as no step names them, if that is enough, and if there is room to keep their tokens. They have been accepted, so they wait, and
 * go on later with the same bytes; those of its own priority keep what they have.
 *
 * A request goes to a group that has room for it and stays there: to the one where it costs least, by those that answer there,
 * who share their steps with it, and by the tokens of prompts that are computed there until its first token comes: those of the
 * others, and its own that are not in the group's KV cache (ties: the lowest number). Where groups serve one purpose only, the
 * group of its purpose comes first: the others are for when there is none, or when it would come sooner there (sched_move.c).
 *
 * Why tokens with which a prompt begins that is computed there now count neither as the other's nor as its own: the group
 * computes them once, for both, while any other would have to compute them, too. So the first token comes about as soon in
 * either, and here for less work.
 *
 * Why not by what their steps take: that is known for the rows that a group has had, and two groups seldom have had the same.
 * Limits: groups of unequal speed get alike many. */
#include "coordinator/sched_int.h"

#include <stdio.h>
#include <string.h>

st_code sched_check_limits(const sched_limits *l, st_error *e) {
    const struct {
        const char *name;
        uint32_t value, low, high;
    } rows[] = {
        {"n_groups", l->n_groups, 1, SCHED_MAX_GROUPS},
        {"max_requests", l->max_requests, 1, 1 << 20},
        {"max_running", l->max_running, 1, PROTO_MAX_PLAN_SEQUENCES}, /* so that one plan can close or open them all */
        {"max_queue", l->max_queue, 0, 1 << 20},
        {"max_batch", l->max_batch, 1, PROTO_MAX_PLAN_SEQUENCES},
        {"max_tree", l->max_tree, 0, NOUNS_MAX_TREE},
        {"max_rows", l->max_rows, l->max_batch > l->max_tree ? l->max_batch : l->max_tree + 1, 1 << 20},
        {"prefill_chunk", l->prefill_chunk, 1, 1 << 20},
        {"max_context", l->max_context, 2, PROTO_MAX_PROMPT_TOKENS},
        {"n_drafters", l->n_drafters, 0, SPEC_MAX_DRAFTERS - 2}, /* beside lookup and the corpus */
        {"max_moves", l->max_moves, 0, PROTO_MAX_PLAN_SEQUENCES},
        {"min_move_tokens", l->min_move_tokens, l->max_moves > 0, PROTO_MAX_PROMPT_TOKENS},
        {"dim", l->dim, l->want_hidden > 0, NOUNS_MAX_DIM},
        {"n_vocab", l->n_vocab, l->n_drafters > 0, 1 << 28},
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < rows[i].low || rows[i].value > rows[i].high)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "scheduler: %s is %u, must be %u to %u", rows[i].name, rows[i].value,
                           rows[i].low, rows[i].high);
    for (uint32_t g = 0; g < l->n_groups; g++)
        if (l->n_blocks[g] < 1 || l->n_blocks[g] > 1 << 28)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "scheduler: n_blocks of group %u is %u, must be 1 to %u", g,
                           l->n_blocks[g], 1U << 28);
    for (uint32_t g = 0; g < l->n_groups; g++)
        if (l->n_slots[g] > 1 << 28)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "scheduler: n_slots of group %u is %u, must be 0 to %u", g, l->n_slots[g],
                           1U << 28);
    if (l->n_drafters > 0 && l->n_groups * l->max_running > PROTO_MAX_PLAN_SEQUENCES)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "scheduler: max_running is %u in %u groups, must be at most %d together, as a "
                       "drafter has them all",
                       l->max_running, l->n_groups, PROTO_MAX_PLAN_SEQUENCES);
    INVARIANT(l->n_drafters == 0 || l->drafter_names);
    return ST_OK;
}

uint32_t sched_limit_tokens(const sched_limits *l, uint32_t n_prompt, uint32_t max_tokens) {
    uint64_t most = (uint64_t)n_prompt + max_tokens;
    return max_tokens == 0 || most > l->max_context ? l->max_context : (uint32_t)most;
}

uint32_t sched_blocks(const sched_limits *l, uint32_t n_tokens) { return kv_blocks_for((uint64_t)n_tokens + l->max_tree); }

static uint32_t most_blocks(const sched_limits *l) {
    uint32_t most = 0;
    for (uint32_t g = 0; g < l->n_groups; g++)
        if (l->n_blocks[g] > most) most = l->n_blocks[g];
    return most;
}

bool sched_could_hold(const sched_group *g, uint32_t n_tokens) {
    return g->up && sched_blocks(&g->s->limits, n_tokens) <= kv_total_blocks(g->kv);
}

bool sched_fits_a_group(const sched *s, uint32_t n_tokens, bool open) {
    for (const sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        if (sched_could_hold(g, n_tokens) && !(open && g->emptied)) return true;
    return false;
}

st_code sched_can_ever_fit(const sched_limits *l, const sched_event *request, char *message, size_t message_bytes) {
    uint32_t n = request->n_tokens;
    if (n == 0) {
        snprintf(message, message_bytes, "the prompt has no tokens");
        return ST_ERR_INVALID_ARGUMENT;
    }
    if (n >= l->max_context) {
        snprintf(message, message_bytes, "the prompt has %u tokens; prompt and answer together may have %u", n, l->max_context);
        return ST_ERR_INVALID_ARGUMENT;
    }
    uint32_t n_limit = sched_limit_tokens(l, n, request->max_tokens), n_blocks = sched_blocks(l, n_limit);
    if (n_blocks > most_blocks(l)) {
        snprintf(message, message_bytes,
                 "max_tokens: a prompt of %u and an answer of up to %u tokens need %u KV blocks; %s has %u: "
                 "ask for less",
                 n, n_limit - n, n_blocks, l->n_groups > 1 ? "the largest verifier" : "the cluster", most_blocks(l));
        return ST_ERR_INVALID_ARGUMENT;
    }
    return ST_OK;
}

/* One more that runs is a row more in each step of an answer of usual length; a row costs what a token of a prompt does. */
enum { RUNNING_TOKENS = 128 };

uint64_t sched_first_tokens(const sched *s, const sched_request *r) { return (uint64_t)r->n_known + s->limits.max_tree; }

const uint32_t *sched_tokens(const sched_request *r) { return r->known ? r->known : r->prompt; }

/* So two are left, and it is a prompt that opens it on the ranks. Plans count the tokens of these, lest they get too long for a
 * message. */
uint32_t sched_to_share(const sched_request *r) { return r->n_known - 1; }

/* Whether it makes room for one that waits. */
static bool gives_way(const sched_request *r, const sched_request *to) {
    bool can = r->move == SCHED_NO_MOVE && r->last_plan <= r->group->reported;
    return can && r->priority < to->priority && sched_before(to, r);
}

/* Those that run there, or come, and will want another block; `but`: not those that give way to it. */
static uint32_t n_growing(const sched_group *g, const sched_request *but) {
    uint32_t n = sched_n_coming(g);
    for (sched_state state = SCHED_PREFILL; state <= SCHED_DECODE; state++)
        for (const sched_request *r = sched_at(g->s, g->lists[state].first); r; r = sched_next(g->s, r))
            n += !(but && gives_way(r, but)) &&
                 sched_blocks(&g->s->limits, r->n_limit) > kv_blocks_for(sched_first_tokens(g->s, r));
    return n;
}

/* Of max_running. */
static uint32_t n_taken(const sched_group *g) { return sched_n_running(g) + sched_n_coming(g) + g->lists[SCHED_CLOSING].n; }

uint32_t sched_n_there(const sched_group *g, const sched_request *r, uint32_t *n_blocks) {
    return kv_known(g->kv, r->salt, sched_tokens(r), sched_to_share(r), sched_first_tokens(g->s, r), n_blocks);
}

/* Tokens of the whole blocks with which both begin, and which the first may take from the second. */
static uint32_t n_alike(const sched_request *r, const sched_request *o) {
    enum { BLOCK = NOUNS_BLOCK_TOKENS };
    const uint32_t *tokens = sched_tokens(r), most = sched_to_share(r);
    uint32_t n = 0;
    if (memcmp(&r->salt, &o->salt, sizeof r->salt) != 0) return 0;
    while (n + BLOCK < most && n + BLOCK <= o->n_known && !memcmp(tokens + n, o->known + n, BLOCK * sizeof *tokens)) n += BLOCK;
    return n;
}

/* Of its tokens, those that are not computed for it: n_there are in the cache, and prompts that go on from there are computed for
 * others, so that it will sit out and take them (is_computed in sched_batch.c). */
static uint32_t n_given(const sched_group *g, const sched_request *r, uint32_t n_there) {
    uint32_t most = n_there;
    if (!g->s->limits.prefix_cache) return most;
    for (const sched_request *o = sched_at(g->s, g->lists[SCHED_PREFILL].first); o; o = sched_next(g->s, o)) {
        uint32_t n = o->n_cached < n_there + NOUNS_BLOCK_TOKENS && o->n_known > most ? n_alike(r, o) : 0;
        if (n > most) most = n;
    }
    return most;
}

uint64_t sched_work_until(const sched_group *g, const sched_request *r, uint32_t n_there) {
    uint32_t given = n_given(g, r, n_there), for_both = given - n_there;
    uint64_t n = 0;
    for (const sched_request *o = sched_at(g->s, g->lists[SCHED_PREFILL].first); o; o = sched_next(g->s, o))
        n += o->n_known - (o->n_given > o->n_cached ? o->n_given : o->n_cached);
    return (n > for_both ? n - for_both : 0) + r->n_known - given;
}

/* Those who have rows in its steps, now or when their prompts are computed. */
static uint32_t n_answering(const sched_group *g) {
    uint32_t n = g->lists[SCHED_DRAFTING].n + g->lists[SCHED_DECODE].n + sched_n_coming(g);
    return g->serves == SCHED_PREFILLS ? n : n + g->lists[SCHED_PREFILL].n;
}

/* In tokens; UINT64_MAX: the group has no room for it. */
static uint64_t burden(const sched_group *g, const sched_request *r) {
    uint32_t n_blocks;
    if (n_taken(g) >= g->s->limits.max_running) return UINT64_MAX;
    uint32_t n_there = sched_n_there(g, r, &n_blocks);
    if (n_blocks + n_growing(g, NULL) > kv_free_blocks(g->kv)) return UINT64_MAX;
    return (uint64_t)n_answering(g) * RUNNING_TOKENS + sched_work_until(g, r, n_there);
}

/* How far a group is from what the request wants; only the nearest of those that could hold it are asked for room. So a request
 * that was accepted ends in an emptied group rather than nowhere. */
enum { AS_WANTED, OF_ANOTHER_SERVICE, EMPTIED, NOT_AT_ALL };
static int distance(const sched_group *g, const sched_request *r, bool prefill) {
    if (!sched_could_hold(g, r->n_limit)) return NOT_AT_ALL;
    if (g->emptied) return EMPTIED;
    return (g->serves == SCHED_PREFILLS) == prefill ? AS_WANTED : OF_ANOTHER_SERVICE;
}

static bool is_nearest(const sched_group *g, const sched_request *r, bool prefill) {
    const sched *s = g->s;
    int nearest = EMPTIED;
    for (const sched_group *o = s->groups; o < s->groups + s->limits.n_groups; o++)
        if (distance(o, r, prefill) < nearest) nearest = distance(o, r, prefill);
    return distance(g, r, prefill) == nearest;
}

sched_group *sched_pick_group(sched *s, const sched_request *r, bool prefill) {
    sched_group *best = NULL;
    uint64_t least = UINT64_MAX;
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++) {
        uint64_t of = is_nearest(g, r, prefill) ? burden(g, r) : UINT64_MAX;
        if (of < least) best = g, least = of;
    }
    return best;
}

/* Who is due last, of those whose blocks can be had; `by`: of those that give way to it. */
static sched_request *last_due(sched_group *g, const sched_request *by) {
    sched_request *last = NULL;
    for (sched_state state = SCHED_PREFILL; state <= SCHED_DECODE; state++)
        for (sched_request *r = sched_first(g, state); r; r = sched_next(g->s, r))
            if (r->move == SCHED_NO_MOVE && (!by || gives_way(r, by)) && (!last || sched_before(last, r))) last = r;
    return last;
}

/* Whether there is room when all have given way. There may be more than is counted, where they share blocks. Mostly nobody gives
 * way: then its tokens, which may be many, are not looked at. */
static bool would_have_room(sched_group *g, const sched_request *r) {
    uint32_t n_gone = 0, n_free = kv_free_blocks(g->kv);
    for (sched_state state = SCHED_PREFILL; state <= SCHED_DECODE; state++)
        for (const sched_request *o = sched_first(g, state); o; o = sched_next(g->s, o)) {
            if (!gives_way(o, r)) continue;
            n_gone++;
            n_free += kv_released(g->kv, o->chain);
        }
    if (n_gone == 0 || n_taken(g) - n_gone >= g->s->limits.max_running) return false;
    uint32_t n_blocks = kv_known_then(g->kv, r->salt, sched_tokens(r), sched_to_share(r), sched_first_tokens(g->s, r));
    return n_blocks + n_growing(g, r) <= n_free;
}

/* A group in which others give way, as few as needed; NULL: none. */
static sched_group *make_way(sched *s, const sched_request *r, bool prefill) {
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++) {
        if (!is_nearest(g, r, prefill) || !would_have_room(g, r)) continue;
        for (sched_request *last; burden(g, r) == UINT64_MAX && (last = last_due(g, r)); s->stats.gave_way++) sched_preempt(last);
        if (burden(g, r) < UINT64_MAX) return g;
    }
    return NULL;
}

static sched_group *group_for(sched *s, const sched_request *r) {
    bool prefill = sched_prefills_apart(s, r);
    sched_group *g = sched_pick_group(s, r, prefill), *here = NULL;
    if (prefill && (!g || g->lists[SCHED_PREFILL].n > 0)) here = sched_pick_group(s, r, false);
    if (here && sched_comes_sooner(here, g, r)) return here;
    return g ? g : make_way(s, r, prefill);
}

/* Who took that place, or that room aside, last; NULL: it does not wait with it. */
static sched_request *waits_with(sched *s, uint32_t place) {
    sched_request *r = &s->requests[s->of_place[place]];
    return r->state == SCHED_WAITING && r->place == place ? r : NULL;
}
static sched_request *waits_aside(sched *s, uint32_t aside) {
    sched_request *r = &s->requests[s->of_aside[aside]];
    return r->state == SCHED_WAITING && r->aside == aside ? r : NULL;
}

/* The last of those that wait again gives its place away, and keeps its tokens. There is one: in a group there is room. */
static void put_aside(sched *s) {
    sched_request *r = NULL, *o;
    for (uint32_t i = 0; i < s->n_places; i++)
        if ((o = waits_with(s, i)) && (!r || sched_before(r, o))) r = o;
    INVARIANT(r && s->n_free_asides > 0);
    r->aside = s->free_asides[--s->n_free_asides];
    s->of_aside[r->aside] = (uint32_t)(r - s->requests);
    r->known = memcpy(s->aside + (size_t)r->aside * s->limits.max_context, r->known, r->n_known * sizeof *r->known);
    r->knows_hidden = false;
    sched_leave_place(s, r);
}

static void take_place(sched *s, sched_request *r) {
    if (s->n_free_places == 0) put_aside(s);
    r->place = s->free_places[--s->n_free_places];
    s->of_place[r->place] = (uint32_t)(r - s->requests);
    r->known = memcpy(s->known + (size_t)r->place * s->limits.max_context, sched_tokens(r), r->n_known * sizeof *r->known);
    sched_leave_aside(s, r);
    sched_forget_trust(s, r);
}

/* The first of those that wait; where all places are taken and all room aside is, but for what two need to change places, the
 * first of those that have either: there may be many before them that have neither. */
static sched_request *next_to_admit(sched *s) {
    sched_request *r = sched_at(s, s->waiting.first), *o;
    if (!r || r->epoch > 0 || s->n_free_places > 0 || s->n_free_asides > 1) return r;
    r = NULL;
    for (uint32_t i = 0; i < s->n_places; i++)
        if ((o = waits_with(s, i)) && (!r || sched_before(o, r))) r = o;
    for (uint32_t i = 0; i <= s->n_places; i++)
        if ((o = waits_aside(s, i)) && (!r || sched_before(o, r))) r = o;
    return r;
}

void sched_share(sched_request *r, uint32_t n) {
    r->n_cached += n;
    r->group->stats.shared += n;
    if (r->epoch == 1) r->n_shared += n;
}

void sched_admit(sched *s) {
    sched_group *g;
    for (sched_request *r; (r = next_to_admit(s)) && (g = group_for(s, r));) {
        s->stats.displaced += r->displaced;
        r->displaced = false;
        if (r->place == SCHED_NO_PLACE) take_place(s, r);
        r->group = g; /* but it still is in the list of those that wait */
        r->epoch++;
        uint32_t n = 0;
        INVARIANT(kv_reserve_known(g->kv, r->salt, r->known, sched_to_share(r), sched_first_tokens(s, r), &r->chain, &n) ==
                  ST_OK);
        g->stats.looked_up += r->n_known;
        r->n_given = n_given(g, r, n);
        sched_share(r, n);
        if (r->n_known - r->n_cached > 1)
            sched_move(s, r, SCHED_PREFILL);
        else
            sched_begin_round(s, r);
    }
}

void sched_make_room(sched_group *g) {
    uint32_t n = 0;
    for (sched_request *r = sched_first(g, SCHED_DECODE); r && n < g->s->limits.max_batch;) {
        bool fits = kv_grow(g->kv, r->chain, sched_first_tokens(g->s, r)) == ST_OK;
        if (!fits) sched_preempt(last_due(g, NULL));
        r = fits ? sched_next(g->s, r) : sched_first(g, SCHED_DECODE); /* anew, as the list may have changed anywhere */
        n = fits ? n + 1 : 0;
    }
}

/* An answer may have been cut: what is in the cache behind it is of no use. */
void sched_keep(sched_request *r) {
    uint32_t n = r->n_cached < r->n_known ? r->n_cached : r->n_known;
    if (r->group->s->limits.prefix_cache) kv_keep(r->group->kv, r->chain, r->salt, r->known, n);
}

void sched_adopt(sched_group *g) {
    for (sched_request *r = sched_first(g, SCHED_PREFILL); r; r = sched_next(g->s, r))
        sched_share(r, kv_adopt(g->kv, r->chain, r->salt, r->known, sched_to_share(r)));
}
