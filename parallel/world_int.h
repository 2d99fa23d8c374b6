/* world_int: what the files that know MPI share. MPI is one a process, and so is this.
 *
 * Two threads call MPI, the step thread (a group) and the mover (transport_mpi.c), where it allows one at a time
 * (MPI_THREAD_SERIALIZED): each call is a turn. No call waits for another rank, so turns are short; who asks first comes first,
 * so that a thread which tests in a loop does not keep the other out. */
#ifndef CONSORT_PARALLEL_WORLD_INT_H
#define CONSORT_PARALLEL_WORLD_INT_H

#include "base/status.h"
#include <mpi.h>

#define MPI_TURN(call) (world_turn_begin(), world_turn_end(call)) /* the call's result */
void world_turn_begin(void);
int world_turn_end(int rc);

/* Of all ranks, for messages from one to another. Made by parallel_world_start. */
typedef struct {
    MPI_Comm comm;
    uint64_t job; /* drawn by rank 0: tells this world from others */
    int rank, n_ranks;
} world_messages;
const world_messages *world_messages_of_all(void);

#endif
