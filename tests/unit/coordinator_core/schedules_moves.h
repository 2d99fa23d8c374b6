/* The moves of random schedules: what ranks and their transport would do. KV is read and written as late as a move in flight may,
 * or as soon as it is said to be ready, so that blocks that were let go too early, or read too early, hold what they should not.
 */
#ifndef CONSORT_TESTS_SCHEDULES_MOVES_H
#define CONSORT_TESTS_SCHEDULES_MOVES_H

#include "tests/unit/coordinator_core/schedules.h"

static inline kv_move *move_with(world *w, uint64_t id) {
    for (uint32_t i = 0; i < MOVES; i++)
        if (w->moves[i].id == id) return &w->moves[i];
    return NULL;
}

static inline uint32_t n_moving(const world *w) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < MOVES; i++) n += w->moves[i].id > 0;
    return n;
}

/* A move in flight of another request reads or writes the block; UINT64_MAX: of any. */
static inline bool is_moving(const world *w, uint32_t group, uint32_t block, uint64_t but_of) {
    for (const kv_move *m = w->moves; m < w->moves + MOVES; m++)
        for (uint32_t b = 0; m->id > 0 && m->client != but_of && b < m->n_blocks; b++)
            if ((m->from == group && !m->from_lost && m->from_blocks[b].index == block) ||
                (m->to == group && !m->to_lost && m->to_blocks[b].index == block))
                return true;
    return false;
}

/* A move in flight writes the block, or may read it. */
static inline bool touches(const world *w, const kv_move *m, uint32_t group, uint32_t block) {
    for (uint32_t b = 0; m->id > 0 && b < m->n_blocks; b++)
        if ((b < m->n_ready && m->from == group && !m->from_lost && m->from_blocks[b].index == block) ||
            (m->to == group && !m->to_lost && m->to_blocks[b].index == block))
            return true;
    (void)w;
    return false;
}

/* Swaps are done at some time while their plan is in flight, moves go on all the time: they must have no block in common. */
static inline void check_swaps_and_move(world *w, const kv_move *m) {
    for (uint32_t g = 0; g < w->limits.n_groups; g++)
        for (uint32_t i = 0; w->verifiers[g].result.plan_id && i < w->verifiers[g].n_swaps; i++)
            CHECK(w, !touches(w, m, g, w->verifiers[g].swaps[i].block));
}

static inline bool moves_away(const world *w, uint32_t group, uint64_t at) {
    for (const kv_move *m = w->moves; m < w->moves + MOVES; m++)
        if (m->id > 0 && m->client == at && m->from == group && !m->from_lost) return true;
    return false;
}

/* Those that are ready arrive. */
static inline void copy_ready(world *w, kv_move *m) {
    enum { BYTES = NOUNS_BLOCK_TOKENS * sizeof(uint64_t) };
    for (; m->n_copied < m->n_ready; m->n_copied++)
        memcpy(w->verifiers[m->to].cache + (size_t)m->to_blocks[m->n_copied].index * NOUNS_BLOCK_TOKENS,
               w->verifiers[m->from].cache + (size_t)m->from_blocks[m->n_copied].index * NOUNS_BLOCK_TOKENS, BYTES);
}

static inline void check_new_move(world *w, const sched_action *a) {
    uint32_t n_of[GROUPS] = {0};
    CHECK(w, a->move == w->last_move + 1 && a->group != a->to && a->group < w->limits.n_groups && a->to < w->limits.n_groups);
    CHECK(w, w->verifiers[a->group].up && w->verifiers[a->to].up && !w->clients[a->seq.value - 1].over);
    CHECK(w, w->emptied[a->group] || w->limits.serves[a->group] == SCHED_PREFILLS);
    CHECK(w, a->n_tokens == a->n_blocks * NOUNS_BLOCK_TOKENS && a->n_tokens >= w->limits.min_move_tokens);
    CHECK(w, a->n_ready <= a->n_blocks && a->n_blocks > 0);
    CHECK(w, !moves_away(w, a->group, a->seq.value - 1));
    for (const kv_move *m = w->moves; m < w->moves + MOVES; m++) {
        if (m->id > 0 && !m->from_lost) n_of[m->from]++;
        if (m->id > 0 && !m->to_lost) n_of[m->to]++;
    }
    CHECK(w, n_of[a->group] < w->limits.max_moves && n_of[a->to] < w->limits.max_moves);
    w->last_move = a->move;
    w->n_early += a->n_ready < a->n_blocks;
}

static inline void begin_move(world *w, const sched_action *a) {
    verifier *to = &w->verifiers[a->to];
    check_new_move(w, a);
    kv_move *m = move_with(w, 0);
    *m = (kv_move){.id = a->move, .client = a->seq.value - 1, .from = a->group, .to = a->to};
    m->n_blocks = a->n_blocks;
    m->n_ready = a->n_ready;
    for (uint32_t b = 0; b < a->n_blocks; b++) {
        block_id id = m->to_blocks[b] = a->to_blocks[b];
        m->from_blocks[b] = a->from_blocks[b];
        CHECK(w, id.index < w->limits.n_blocks[a->to] && id.generation > to->generation[id.index]);
        to->generation[id.index] = id.generation;
        to->fetched[id.index] = false;
    }
    check_swaps_and_move(w, m);
    if (draw(w, 2)) copy_ready(w, m);
}

static inline void more_is_ready(world *w, const sched_action *a) {
    kv_move *m = move_with(w, a->move);
    CHECK(w, m && !m->cancelled && a->n_ready > m->n_ready && a->n_ready <= m->n_blocks);
    m->n_ready = a->n_ready;
    check_swaps_and_move(w, m);
    if (draw(w, 2)) copy_ready(w, m);
}

static inline void call_off_move(world *w, const sched_action *a) {
    kv_move *m = move_with(w, a->move);
    CHECK(w, m && !m->cancelled && (m->from_lost || m->to_lost || w->clients[m->client].over));
    m->cancelled = true;
    w->n_called_off++;
}

/* How the move ends: well only if all was ready; what was called off may have come all the same. */
static inline sched_event end_move(world *w, kv_move *m) {
    sched_event ev = {
        .kind = SCHED_MOVED, .move = m->id, .code = draw(w, 5) ? ST_OK : ST_ERR_UNAVAILABLE, .took_ns = draw(w, 20)};
    bool lost = m->from_lost || m->to_lost;
    if (m->n_ready < m->n_blocks && !lost) ev.code = ST_ERR_CANCELLED;
    w->n_ok += ev.code == ST_OK && !lost && !m->cancelled;
    w->n_vain += ev.code != ST_OK && !lost && !m->cancelled;
    if (!lost) copy_ready(w, m);
    verifier *to = &w->verifiers[m->to];
    for (uint32_t b = 0; !m->to_lost && b < m->n_blocks; b++) {
        uint32_t at = m->to_blocks[b].index;
        if (ev.code == ST_OK)
            to->moved_here[at] = m->to_blocks[b].generation;
        else /* half of it came, up to the last moment */
            memset(to->cache + (size_t)at * NOUNS_BLOCK_TOKENS, 0xbb, NOUNS_BLOCK_TOKENS * sizeof *to->cache);
    }
    if (!m->from_lost) w->verifiers[m->from].ranks[m->client].last_step = w->verifiers[m->from].steps; /* it may go on there */
    m->id = 0;
    return ev;
}

static inline void lose_moves(world *w, uint32_t group) {
    for (kv_move *m = w->moves; m < w->moves + MOVES; m++) {
        m->from_lost |= m->from == group;
        m->to_lost |= m->to == group;
    }
}

#endif
