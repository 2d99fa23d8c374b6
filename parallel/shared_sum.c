/* Design: a rank has two places for a piece of its values and the number of the newest piece it wrote; pieces go to the two by
 * turns. Whoever writes piece i + 2 over piece i has seen all others write piece i + 1, which they do when they have read piece
 * i; so two places are enough and nothing has to be handed back. Values are added in order of rank. Waiting spins, then yields
 * the core between two looks (ranks may share cores), as in group_mpi.c. */
#include "parallel/shared_sum.h"

#include "base/pause.h"
#include <sched.h>
#include <string.h>
#include <time.h>

enum { PAUSES_PER_LOOK = 100 };

struct shared_sum_rank {
    _Alignas(64) _Atomic uint64_t n_pieces; /* written so far; piece i stands in piece[i % 2] */
    _Alignas(64) double piece[2][SHARED_SUM_PIECE];
};

size_t shared_sum_bytes(uint32_t n_ranks) { return n_ranks * sizeof(shared_sum_rank); }

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static st_code wait_for(const shared_sum_rank *r, uint64_t n_pieces, const parallel_group *g) {
    for (uint64_t end = 0;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (atomic_load_explicit(&r->n_pieces, memory_order_acquire) >= n_pieces) return ST_OK;
            pause_briefly();
        }
        if (atomic_load(&g->aborted)) return ST_ERR_CANCELLED;
        if (!end) end = now_ns() + (uint64_t)g->deadline_ms * 1000000u;
        if (now_ns() > end) return ST_ERR_DEADLINE;
        sched_yield();
    }
}

static st_code add_piece(shared_sum *s, const parallel_group *g, double *values, size_t n) {
    const size_t at = s->n_pieces % 2;
    shared_sum_rank *mine = &s->ranks[g->rank];
    memcpy(mine->piece[at], values, n * sizeof *values);
    atomic_store_explicit(&mine->n_pieces, ++s->n_pieces, memory_order_release);
    for (uint32_t rank = 0; rank < g->n_ranks; rank++) {
        const shared_sum_rank *r = &s->ranks[rank];
        st_code code = wait_for(r, s->n_pieces, g);
        if (code) return code;
        if (rank == 0)
            memcpy(values, r->piece[at], n * sizeof *values);
        else
            for (size_t i = 0; i < n; i++) values[i] += r->piece[at][i];
    }
    return ST_OK;
}

st_code shared_sum_add(shared_sum *s, const parallel_group *g, double *values, size_t n) {
    st_code code = ST_OK;
    for (size_t i = 0; !code && i < n; i += SHARED_SUM_PIECE)
        code = add_piece(s, g, values + i, n - i < SHARED_SUM_PIECE ? n - i : SHARED_SUM_PIECE);
    return code;
}
