/* Design: a rank has two places for a piece of its values and the number of the newest piece it wrote; pieces go to the two by
 * turns. Whoever writes piece i + 2 over piece i has seen all others write piece i + 1, which they do when they have read piece
 * i; so two places are enough and nothing has to be handed back. Values are added in order of rank. Waiting spins, then yields
 * the core between two looks (ranks may share cores), as in group_mpi.c. */
#include "parallel/shared_sum.h"

#include "base/pause.h"
#include "parallel/clock.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAUSES_PER_LOOK = 100 };

struct shared_sum_rank {
    _Alignas(64) _Atomic uint64_t n_pieces; /* written so far; piece i stands in piece[i % 2] */
    _Alignas(64) double piece[2][SHARED_SUM_PIECE];
};

static size_t n_bytes(uint32_t n_ranks) { return n_ranks * sizeof(shared_sum_rank); }

static shared_sum_rank *map(int fd, uint32_t n_ranks) {
    void *p = mmap(NULL, n_bytes(n_ranks), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

shared_sum_rank *shared_sum_create(char name[SHARED_SUM_NAME], uint32_t n_ranks) {
    uint64_t x[2];
    shared_sum_rank *ranks = NULL;
    if (getrandom(x, sizeof x, 0) != sizeof x) return NULL;
    snprintf(name, SHARED_SUM_NAME, "/consort-sum-%016" PRIx64 "%016" PRIx64, x[0], x[1]);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return NULL;
    if (!posix_fallocate(fd, 0, (off_t)n_bytes(n_ranks))) ranks = map(fd, n_ranks); /* zeros; a full file system is told here */
    close(fd);
    if (!ranks) shared_sum_forget(name);
    return ranks;
}

shared_sum_rank *shared_sum_open(const char *name, uint32_t n_ranks) {
    struct stat is;
    int fd = shm_open(name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return NULL;
    shared_sum_rank *ranks = !fstat(fd, &is) && (size_t)is.st_size == n_bytes(n_ranks) ? map(fd, n_ranks) : NULL;
    close(fd);
    return ranks;
}

void shared_sum_forget(const char *name) { shm_unlink(name); }

void shared_sum_close(shared_sum_rank *ranks, uint32_t n_ranks) {
    if (ranks) munmap(ranks, n_bytes(n_ranks));
}

/* end_ns: of the whole sum; 0 until there was something to wait for. */
static st_code wait_for(const shared_sum_rank *r, uint64_t n_pieces, const parallel_group *g, uint64_t *end_ns) {
    for (;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (atomic_load_explicit(&r->n_pieces, memory_order_acquire) >= n_pieces) return ST_OK;
            pause_briefly();
        }
        if (atomic_load(&g->aborted)) return ST_ERR_CANCELLED;
        if (!*end_ns) *end_ns = parallel_now_ns() + (uint64_t)g->deadline_ms * 1000000u;
        if (parallel_now_ns() > *end_ns) return ST_ERR_DEADLINE;
        sched_yield();
    }
}

static st_code add_piece(shared_sum *s, const parallel_group *g, double *values, size_t n, uint64_t *end_ns) {
    const size_t at = s->n_pieces % 2;
    shared_sum_rank *mine = &s->ranks[g->rank];
    memcpy(mine->piece[at], values, n * sizeof *values);
    atomic_store_explicit(&mine->n_pieces, ++s->n_pieces, memory_order_release);
    for (uint32_t rank = 0; rank < g->n_ranks; rank++) {
        const shared_sum_rank *r = &s->ranks[rank];
        st_code code = wait_for(r, s->n_pieces, g, end_ns);
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
    uint64_t end_ns = 0;
    for (size_t i = 0; !code && i < n; i += SHARED_SUM_PIECE)
        code = add_piece(s, g, values + i, n - i < SHARED_SUM_PIECE ? n - i : SHARED_SUM_PIECE, &end_ns);
    return code;
}
