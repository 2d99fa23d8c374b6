/* world: the processes that one mpirun or srun started. Linked by consortd alone (it is MPI).
 *
 * Only at start and end: rank and size, one broadcast that tells every rank where the coordinator listens, and finalize. MPI
 * reports nothing about a dead rank, so nothing else relies on it. Thread: main, before the link and step threads start. */
#ifndef CONSORT_PARALLEL_WORLD_H
#define CONSORT_PARALLEL_WORLD_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

/* MPI_Init_thread(FUNNELED). Errors: ST_ERR_UNSUPPORTED. */
ST_CHECKED st_code parallel_world_start(int *argc, char ***argv, uint32_t *rank, uint32_t *n_ranks, st_error *e);
/* Rank 0's bytes to all, n the same everywhere. Errors: ST_ERR_DEADLINE after deadline_ms (a rank that died before). */
ST_CHECKED st_code parallel_world_broadcast(void *bytes, size_t n, uint32_t deadline_ms, st_error *e);
/* After a clean end: MPI_Finalize. After a death it may hang, so the caller then leaves by _exit (mpi-slurm facts, docs). */
void parallel_world_stop(void);

#endif
