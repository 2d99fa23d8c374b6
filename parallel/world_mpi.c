/* The world by MPI: rank, size, who is where, one broadcast, finalize; and the turns of the threads that call MPI.
 *
 * One thread at a time: MPI_THREAD_MULTIPLE collapses under several blocking threads (docs/operations.md). What all take part in
 * is nonblocking and tested with growing naps, so that a rank that died before it costs a time-out and not a hang; MPI itself
 * reports no death. */
#include "parallel/world.h"

#include "parallel/clock.h"
#include "parallel/world_int.h"

#include <sys/random.h>
#include <time.h>

enum { FIRST_NAP_NS = 20000, LONGEST_NAP_NS = 1000000, MEET_DEADLINE_MS = 60000 };

turns world_turns;

static world_messages messages; /* written by parallel_world_start, before there are threads */

const world_messages *world_messages_of_all(void) { return &messages; }

static uint64_t now_ms(void) { return parallel_now_ns() / 1000000u; }

static st_code wait_for(MPI_Request *request, uint32_t deadline_ms, const char *what, st_error *e) {
    uint64_t end = now_ms() + deadline_ms;
    struct timespec nap = {.tv_nsec = FIRST_NAP_NS};
    for (int done = 0;;) {
        if (MPI_TURN(MPI_Test(request, &done, MPI_STATUS_IGNORE)) != MPI_SUCCESS)
            return st_fail(e, ST_FATAL_INTERNAL, "MPI_Test failed");
        if (done) return ST_OK;
        if (now_ms() > end)
            return st_fail(e, ST_ERR_DEADLINE, "the start %s took over %u ms: is a rank dead?", what, deadline_ms);
        nanosleep(&nap, NULL);
        if (nap.tv_nsec < LONGEST_NAP_NS) nap.tv_nsec *= 2;
    }
}

/* Messages between two ranks have a communicator of their own: none is taken for one of MPI's own or of a later use. */
static st_code start_messages(st_error *e) {
    MPI_Request request;
    messages.job = 0;
    if (messages.rank == 0 && getrandom(&messages.job, sizeof messages.job, 0) != (ssize_t)sizeof messages.job)
        return st_fail(e, ST_FATAL_INTERNAL, "getrandom failed");
    if (MPI_TURN(MPI_Comm_idup(MPI_COMM_WORLD, &messages.comm, &request)) != MPI_SUCCESS)
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Comm_idup failed");
    st_code code = wait_for(&request, MEET_DEADLINE_MS, "of messages", e);
    if (code) return code;
    MPI_TURN(MPI_Comm_set_errhandler(messages.comm, MPI_ERRORS_RETURN));
    return parallel_world_broadcast(&messages.job, sizeof messages.job, MEET_DEADLINE_MS, e);
}

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
    messages = (world_messages){.rank = r, .n_ranks = n};
    return start_messages(e);
}

st_code parallel_world_broadcast(void *bytes, size_t n, uint32_t deadline_ms, st_error *e) {
    MPI_Request request;
    if (n > INT32_MAX || MPI_TURN(MPI_Ibcast(bytes, (int)n, MPI_BYTE, 0, MPI_COMM_WORLD, &request)) != MPI_SUCCESS)
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Ibcast of %zu bytes failed", n);
    return wait_for(&request, deadline_ms, "broadcast", e);
}

st_code parallel_world_gather(const void *mine, void *all, size_t n, uint32_t deadline_ms, st_error *e) {
    MPI_Request request;
    if (n > INT32_MAX ||
        MPI_TURN(MPI_Iallgather(mine, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, MPI_COMM_WORLD, &request)) != MPI_SUCCESS)
        return st_fail(e, ST_FATAL_INTERNAL, "MPI_Iallgather of %zu bytes failed", n);
    return wait_for(&request, deadline_ms, "gather", e);
}

static const transport_kind *const kinds[] = {
#define TRANSPORT(name, where) &transport_##name,
#include "parallel/transports.def"
#undef TRANSPORT
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };
_Static_assert((int)N_KINDS <= (int)TRANSPORT_MAX_KINDS, "a rank has room for all of them");

const transport_kind *parallel_world_transport_at(uint32_t i) { return i < N_KINDS ? kinds[i] : NULL; }

void parallel_world_stop(void) { MPI_TURN(MPI_Finalize()); }
