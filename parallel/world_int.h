/* world_int: what the files that know MPI share. MPI is one a process, and so is this.
 *
 * Two threads call MPI, the step thread (a group) and the mover (transport_mpi.c), where it allows one at a time
 * (MPI_THREAD_SERIALIZED): each call is a turn. No call waits for another rank once the ranks have started, so turns are short.
 */
#ifndef CONSORT_PARALLEL_WORLD_INT_H
#define CONSORT_PARALLEL_WORLD_INT_H

#include "parallel/turns.h"
#include <mpi.h>
#include <stdint.h>

extern turns world_turns;
static inline int world_turn_end(int rc) {
    turns_end(&world_turns);
    return rc;
}
#define MPI_TURN(call) (turns_begin(&world_turns), world_turn_end(call)) /* the call's result */

/* Of all ranks, for messages from one to another. Made by parallel_world_start. */
typedef struct {
    MPI_Comm comm;
    uint64_t job; /* drawn by rank 0: tells this world from others */
    int rank, n_ranks;
} world_messages;
const world_messages *world_messages_of_all(void);

#endif
