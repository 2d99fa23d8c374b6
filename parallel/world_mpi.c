/* The world by MPI: rank, size, who is where, one broadcast, finalize.
 *
 * One MPI thread a process: MPI_THREAD_MULTIPLE collapses under several blocking threads (docs/operations.md). What all
 * take part in is nonblocking and tested with growing naps, so that a rank that died before it costs a time-out and not a hang;
 * MPI itself reports no death. */
#include "parallel/world.h"

#include "parallel/clock.h"

#include <mpi.h>
#include <time.h>

enum { FIRST_NAP_NS = 20000, LONGEST_NAP_NS = 1000000 };

st_code parallel_world_start(int *argc, char ***argv, uint32_t *rank, uint32_t *n_ranks, st_error *e) {
    int provided = 0, r = 0, n = 0;
    if (MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS)
        return st_fail(e, ST_ERR_UNSUPPORTED, "MPI_Init_thread failed; start consortd by mpirun or srun --mpi=pmix");
    if (provided < MPI_THREAD_SERIALIZED)
        return st_fail(e, ST_ERR_UNSUPPORTED, "this MPI allows no threads beside it: MPI_THREAD_SERIALIZED is needed");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &r);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    *rank = (uint32_t)r;
    *n_ranks = (uint32_t)n;
    return ST_OK;
}

static uint64_t now_ms(void) { return parallel_now_ns() / 1000000u; }

static st_code wait_for(MPI_Request *request, uint32_t deadline_ms, const char *what, st_error *e) {
    uint64_t end = now_ms() + deadline_ms;
    struct timespec nap = {.tv_nsec = FIRST_NAP_NS};
    for (int done = 0;;) {
        if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return st_fail(e, ST_FATAL_INTERNAL, "MPI_Test failed");
        if (done) return ST_OK;
        if (now_ms() > end)
            return st_fail(e, ST_ERR_DEADLINE, "the start %s took over %u ms: is a rank dead?", what, deadline_ms);
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < LONGEST_NAP_NS) nap.tv_nsec *= 2;
    }
}

st_code parallel_world_broadcast(void *bytes, size_t n, uint32_t deadline_ms, st_error *e) {
    MPI_Request request;
    if (n > INT32_MAX || MPI_Ibcast(bytes, (int)n, MPI_BYTE, 0, MPI_COMM_WORLD, &request) != MPI_SUCCESS)
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Ibcast of %zu bytes failed", n);
    return wait_for(&request, deadline_ms, "broadcast", e);
}

st_code parallel_world_gather(const void *mine, void *all, size_t n, uint32_t deadline_ms, st_error *e) {
    MPI_Request request;
    if (n > INT32_MAX || MPI_Iallgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, MPI_COMM_WORLD, &request) != MPI_SUCCESS)
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Iallgather of %zu bytes failed", n);
    return wait_for(&request, deadline_ms, "gather", e);
}

void parallel_world_stop(void) { MPI_Finalize(); }
