/* A group by MPI: nonblocking collectives, tested in a loop that looks at the deadline and the abort flag.
 *
 * Why not blocking calls: MPI reports nothing about a dead rank, and a collective with one never completes. A collective that was
 * given up stays pending in MPI, so the group is of no use after an error: the rank leaves. Waiting spins on MPI_Test, which is
 * what moves MPI forward, and yields the core between two tests (ranks may share cores); it ends after spin_ns where the caller
 * has another way to be woken. The sum is MPI_SUM of doubles, exact by construction of the values (docs/numerics.md), so the
 * algorithm that MPI takes does not matter. Where all ranks share a host, they sum in memory of theirs instead (shared_sum.h). */
#include "parallel/parallel.h"
#include "parallel/shared_sum.h"
#include "parallel/world.h"

#include "base/mem.h"
#include <mpi.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

enum { TESTS_PER_LOOK = 32, LINE = 64 /* bytes */ };

typedef struct {
    parallel_group base;
    MPI_Comm comm;
    MPI_Request pending; /* of a receive that was given up for a while; MPI_REQUEST_NULL: none */
    shared_sum sum;      /* of ranks on one host */
} group_mpi;

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ST_OK: done. ST_ERR_DEADLINE: not within limit_ns. */
static st_code wait_for(group_mpi *g, MPI_Request *request, uint64_t limit_ns) {
    uint64_t end = now_ns() + limit_ns;
    for (;;) {
        for (int i = 0; i < TESTS_PER_LOOK; i++) {
            int done = 0;
            if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return ST_FATAL_INTERNAL;
            if (done) return ST_OK;
        }
        if (atomic_load(&g->base.aborted)) return ST_ERR_CANCELLED;
        if (now_ns() > end) return ST_ERR_DEADLINE;
        sched_yield();
    }
}

static uint64_t deadline_ns(const parallel_group *base) { return (uint64_t)base->deadline_ms * 1000000u; }

static st_code all_reduce(parallel_group *base, double *values, size_t n) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_Iallreduce(MPI_IN_PLACE, values, (int)n, MPI_DOUBLE, MPI_SUM, g->comm, &request) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code all_reduce_in_memory(parallel_group *base, double *values, size_t n) {
    return shared_sum_add(&((group_mpi *)base)->sum, base, values, n);
}

static st_code broadcast(parallel_group *base, void *bytes, size_t n, uint32_t root) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_Ibcast(bytes, (int)n, MPI_BYTE, (int)root, g->comm, &request) != MPI_SUCCESS) return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code gather(parallel_group *base, const void *mine, size_t n, void *all, uint32_t root) {
    group_mpi *g = (group_mpi *)base;
    MPI_Request request;
    if (n > INT32_MAX) return ST_ERR_INVALID_ARGUMENT;
    if (MPI_Igather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, (int)root, g->comm, &request) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    return wait_for(g, &request, deadline_ns(base));
}

static st_code listen_for(parallel_group *base, void *bytes, size_t n, uint32_t root, uint64_t spin_ns, bool *done) {
    group_mpi *g = (group_mpi *)base;
    *done = false;
    if (n > INT32_MAX || root == base->rank) return ST_ERR_INVALID_ARGUMENT;
    if (g->pending == MPI_REQUEST_NULL && MPI_Ibcast(bytes, (int)n, MPI_BYTE, (int)root, g->comm, &g->pending) != MPI_SUCCESS)
        return ST_FATAL_INTERNAL;
    st_code code = wait_for(g, &g->pending, spin_ns);
    *done = code == ST_OK;
    return code == ST_ERR_DEADLINE ? ST_OK : code;
}

/* Communicator and window are not freed: that is collective, and the others may be dead; MPI_Finalize takes them. */
static void destroy(parallel_group *base) { mem_free(base); }

static const parallel_group_ops mpi = {
    .name = "mpi", .all_reduce = all_reduce, .broadcast = broadcast, .gather = gather, .listen = listen_for, .destroy = destroy};

static const parallel_group_ops mpi_one_host = {.name = "mpi, one host",
                                                .all_reduce = all_reduce_in_memory,
                                                .broadcast = broadcast,
                                                .gather = gather,
                                                .listen = listen_for,
                                                .destroy = destroy};

/* Memory that all ranks of the group share, zeros; NULL where not all are on one host, or where there is none. All ranks get it
 * or none does. */
static void *shared_memory(MPI_Comm comm, uint32_t rank, size_t n_bytes) {
    MPI_Comm host;
    MPI_Win window;
    MPI_Aint bytes;
    void *start = NULL;
    int n = 0, n_here = 0, unit, all = 0;
    MPI_Comm_size(comm, &n);
    if (MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host) != MPI_SUCCESS) return NULL;
    MPI_Comm_size(host, &n_here);
    MPI_Comm_free(&host);
    int ok = n_here == n;
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, comm);
    if (!all) return NULL;
    ok = MPI_Win_allocate_shared(rank == 0 ? (MPI_Aint)n_bytes + LINE : 0, 1, MPI_INFO_NULL, comm, &start, &window) ==
             MPI_SUCCESS &&
         MPI_Win_shared_query(window, 0, &bytes, &unit, &start) == MPI_SUCCESS;
    /* Pages are the same for all ranks, and so is what is left to the next line. */
    void *memory = ok ? (char *)start + (LINE - (uintptr_t)start % LINE) % LINE : NULL;
    if (ok && rank == 0) memset(memory, 0, n_bytes);
    MPI_Allreduce(&ok, &all, 1, MPI_INT, MPI_MIN, comm); /* behind it, the zeros are there for all */
    return all ? memory : NULL;
}

st_code parallel_world_group(uint32_t first_rank, uint32_t n_ranks, uint32_t deadline_ms, parallel_group **out, st_error *e) {
    int range[1][3] = {{(int)first_rank, (int)(first_rank + n_ranks - 1), 1}}, rank;
    MPI_Group world, members;
    group_mpi *g = mem_alloc(1, sizeof *g);
    if (!g) return st_fail(e, ST_FATAL_MEMORY, "no memory for a group");
    *g = (group_mpi){.base = {.ops = &mpi, .n_ranks = n_ranks, .deadline_ms = deadline_ms}, .pending = MPI_REQUEST_NULL};
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_range_incl(world, 1, range, &members);
    int rc = MPI_Comm_create_group(MPI_COMM_WORLD, members, (int)first_rank, &g->comm); /* the tag keeps groups apart */
    MPI_Group_free(&members);
    MPI_Group_free(&world);
    if (rc != MPI_SUCCESS || g->comm == MPI_COMM_NULL) {
        mem_free(g);
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Comm_create_group of ranks %u to %u failed", first_rank,
                       first_rank + n_ranks - 1);
    }
    MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(g->comm, &rank);
    g->base.rank = (uint32_t)rank;
    if (n_ranks <= SHARED_SUM_MAX_RANKS) g->sum.ranks = shared_memory(g->comm, g->base.rank, shared_sum_bytes(n_ranks));
    if (g->sum.ranks) g->base.ops = &mpi_one_host;
    *out = &g->base;
    return ST_OK;
}
