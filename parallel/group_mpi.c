/* A group by MPI: nonblocking collectives, tested in a loop that looks at the deadline and the abort flag.
 *
 * Why not blocking calls: MPI reports nothing about a dead rank, and a collective with one never completes. A collective that was
 * given up stays pending in MPI, so the group is of no use after an error: the rank leaves. Waiting spins on MPI_Test, which is
 * what moves MPI forward, and yields the core between two tests (ranks may share cores; another thread has its turn to call MPI,
 * world_int.h); it ends after spin_ns where the caller has another way to be woken. The sum is MPI_SUM of doubles, exact by
 * construction of the values (docs/numerics.md), so the algorithm that MPI takes does not matter. Where all ranks share a host,
 * they sum in memory of theirs instead (shared_sum.h). */
#include "parallel/clock.h"
#include "parallel/parallel.h"
#include "parallel/shared_sum.h"
#include "parallel/world.h"
#include "parallel/world_int.h"

#include "base/mem.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { TESTS_PER_LOOK = 32 };

typedef struct {
    parallel_group base;
    MPI_Comm comm;
    MPI_Request pending; /* of a receive that was given up for a while; MPI_REQUEST_NULL: none */
    shared_sum sum;      /* of ranks on one host */
} group_mpi;

/* ST_OK: done. ST_ERR_DEADLINE: not within limit_ns. */
static st_code wait_for(group_mpi *g, MPI_Request *request, uint64_t limit_ns) {
    uint64_t end = parallel_now_ns() + limit_ns;
    for (;;) {
        for (int i = 0; i < TESTS_PER_LOOK; i++) {
            int done = 0;
            if (MPI_TURN(MPI_Test(request, &done, MPI_STATUS_IGNORE)) != MPI_SUCCESS) return ST_FATAL_INTERNAL;
            if (done) return ST_OK;
        }
        if (atomic_load(&g->base.aborted)) return ST_ERR_CANCELLED;
        if (parallel_now_ns() > end) return ST_ERR_DEADLINE;
        sched_yield();
    }
}

static uint64_t deadline_ns(const parallel_group *base) { return (uint64_t)base->deadline_ms * 1000000u; }

static st_code all_reduce(parallel_group *base, double *values, size_t n) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (g->sum.ranks) return shared_sum_add(&g->sum, base, values, n);
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_TURN(MPI_Iallreduce(MPI_IN_PLACE, values, (int)n, MPI_DOUBLE, MPI_SUM, g->comm, &request)) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code broadcast(parallel_group *base, void *bytes, size_t n, uint32_t root) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_TURN(MPI_Ibcast(bytes, (int)n, MPI_BYTE, (int)root, g->comm, &request)) != MPI_SUCCESS) return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code gather(parallel_group *base, const void *mine, size_t n, void *all, uint32_t root) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_TURN(MPI_Igather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, (int)root, g->comm, &request)) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code listen_for(parallel_group *base, void *bytes, size_t n, uint32_t root, uint64_t spin_ns, bool *done) {
    group_mpi *g = (group_mpi *)base;
    *done = false;
    if (n > INT32_MAX || root == base->rank) return ST_ERR_INVALID_ARGUMENT;
    if (g->pending == MPI_REQUEST_NULL &&
        MPI_TURN(MPI_Ibcast(bytes, (int)n, MPI_BYTE, (int)root, g->comm, &g->pending)) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    st_code code = wait_for(g, &g->pending, spin_ns);
    *done = code == ST_OK;
    return code == ST_ERR_DEADLINE ? ST_OK : code;
}

/* The communicator is not freed: that is collective, and the others may be dead; MPI_Finalize takes it. */
static void destroy(parallel_group *base) {
    shared_sum_close(((group_mpi *)base)->sum.ranks, base->n_ranks);
    mem_free(base);
}

static const parallel_group_ops mpi = {
    .name = "mpi", .all_reduce = all_reduce, .broadcast = broadcast, .gather = gather, .listen = listen_for, .destroy = destroy};

/* Has the group sum in shared memory if all of its ranks can have that: none uses it before all have said so. */
static st_code share_memory(group_mpi *g) {
    const uint32_t n = g->base.n_ranks;
    const char *sums = getenv("CONSORT_SUMS");
    char name[SHARED_SUM_NAME] = "";
    shared_sum_rank *ranks = NULL;
    if (n > SHARED_SUM_MAX_RANKS) return ST_OK;
    const bool is_first = g->base.rank == 0;
    if (is_first && !(sums && !strcmp(sums, "messages"))) ranks = shared_sum_create(name, n);
    st_code code = broadcast(&g->base, name, sizeof name, 0);
    if (!code && !is_first && memchr(name, 0, sizeof name)) ranks = shared_sum_open(name, n);
    double n_have = ranks ? 1 : 0;
    if (!code) code = all_reduce(&g->base, &n_have, 1);
    if (is_first && ranks) shared_sum_forget(name);
    if (!code && n_have == n)
        g->sum.ranks = ranks;
    else
        shared_sum_close(ranks, n);
    return code;
}

st_code parallel_world_group(uint32_t first_rank, uint32_t n_ranks, uint32_t deadline_ms, parallel_group **out, st_error *e) {
    int range[1][3] = {{(int)first_rank, (int)(first_rank + n_ranks - 1), 1}}, rank;
    MPI_Group world, members;
    group_mpi *g = mem_alloc(1, sizeof *g);
    if (!g) return st_fail(e, ST_FATAL_MEMORY, "no memory for a group");
    *g = (group_mpi){.base = {.ops = &mpi, .n_ranks = n_ranks, .deadline_ms = deadline_ms}, .pending = MPI_REQUEST_NULL};
    MPI_TURN(MPI_Comm_group(MPI_COMM_WORLD, &world));
    MPI_TURN(MPI_Group_range_incl(world, 1, range, &members));
    /* The tag keeps groups apart. It waits for other ranks: at start, when no other thread calls MPI. */
    int rc = MPI_TURN(MPI_Comm_create_group(MPI_COMM_WORLD, members, (int)first_rank, &g->comm));
    MPI_TURN(MPI_Group_free(&members));
    MPI_TURN(MPI_Group_free(&world));
    if (rc != MPI_SUCCESS || g->comm == MPI_COMM_NULL) {
        mem_free(g);
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Comm_create_group of ranks %u to %u failed", first_rank,
                       first_rank + n_ranks - 1);
    }
    MPI_TURN(MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN));
    MPI_TURN(MPI_Comm_rank(g->comm, &rank));
    g->base.rank = (uint32_t)rank;
    st_code code = share_memory(g);
    if (code) {
        mem_free(g);
        return st_fail(e, code, "ranks %u to %u did not agree on shared memory within %u ms", first_rank,
                       first_rank + n_ranks - 1, deadline_ms);
    }
    *out = &g->base;
    return ST_OK;
}
