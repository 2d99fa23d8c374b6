/* world: the processes that one mpirun or srun started. Linked by consortd and by programs that measure or test (it is MPI).
 *
 * Only at start and end: rank and size, which ranks share a host, one broadcast that tells every rank where the coordinator
 * listens, and finalize. MPI reports nothing about a dead rank, so nothing else relies on it; a transfer that goes by it has a
 * lease. Thread: main, before the others start. */
#ifndef CONSORT_PARALLEL_WORLD_H
#define CONSORT_PARALLEL_WORLD_H

#include "parallel/parallel.h"
#include "parallel/transport.h"
#include <stddef.h>
#include <stdint.h>

/* MPI_Init_thread(SERIALIZED): main starts and ends MPI; in between the step thread calls it and the one that owns the
 * transports, one at a time (world_int.h). Errors: ST_ERR_UNSUPPORTED; ST_ERR_DEADLINE (a rank that died before). */
ST_CHECKED st_code parallel_world_start(int *argc, char ***argv, uint32_t *rank, uint32_t *n_ranks, st_error *e);
/* Rank 0's bytes to all, n the same everywhere. Errors: ST_ERR_DEADLINE after deadline_ms (a rank that died before). */
ST_CHECKED st_code parallel_world_broadcast(void *bytes, size_t n, uint32_t deadline_ms, st_error *e);
/* n bytes of each rank to all: all[n_ranks][n], in order of rank. Errors as above. */
ST_CHECKED st_code parallel_world_gather(const void *mine, void *all, size_t n, uint32_t deadline_ms, st_error *e);
/* The group of the world's ranks first_rank ... first_rank + n_ranks - 1, of which the caller is one; all of them call it. Owns:
 * the caller, by g->ops->destroy(g). Errors: ST_FATAL_*; ST_ERR_DEADLINE, where one does not say in time whether it
 * has the memory for sums. It waits for the others to come: a rank that died before is the coordinator's to notice. */
ST_CHECKED st_code parallel_world_group(uint32_t first_rank, uint32_t n_ranks, uint32_t deadline_ms, parallel_group **out,
                                        st_error *e);
/* All kinds of transport, the one to try first at 0; NULL behind the last. That of MPI (transport_mpi.c): its address holds in
 * this world. It reports no death: what a rank that died was to do never ends, and no PEER_LOST comes. Polls while a link is
 * open. */
const transport_kind *parallel_world_transport_at(uint32_t i);
/* After a clean end: MPI_Finalize. After a death it may hang, so the caller then leaves by _exit (mpi-slurm facts, docs). */
void parallel_world_stop(void);

#endif
