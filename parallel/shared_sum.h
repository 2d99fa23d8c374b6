/* shared_sum: the all-reduce of ranks that share memory, without messages: each writes what it has and reads what the others
 * wrote. Knows no MPI: whoever uses it agrees with the others on a name and on whether all have the memory. Thread: one a rank.
 */
#ifndef CONSORT_PARALLEL_SHARED_SUM_H
#define CONSORT_PARALLEL_SHARED_SUM_H

#include "parallel/parallel.h"

enum {
    SHARED_SUM_MAX_RANKS = 8,    /* each reads what all others wrote: with more, messages move less */
    SHARED_SUM_PIECE = 8 * 1024, /* values at a time; 8 rows of 576 go in one piece */
    SHARED_SUM_NAME = 48
};

typedef struct shared_sum_rank shared_sum_rank;
typedef struct {
    shared_sum_rank *ranks; /* [n_ranks], the shared memory */
    uint64_t n_pieces;      /* that this rank has written */
} shared_sum;

/* Memory for n_ranks ranks under a new name, which stays until shared_sum_forget (128 KiB a rank). NULL: there is none to be had.
 * Owns: the caller, by shared_sum_close. */
shared_sum_rank *shared_sum_create(char name[SHARED_SUM_NAME], uint32_t n_ranks);
/* The same memory in another process of this host. NULL: it is not to be had here. Owns: as above. */
shared_sum_rank *shared_sum_open(const char *name, uint32_t n_ranks);
/* Takes the name away. Who has the memory keeps it. */
void shared_sum_forget(const char *name);
void shared_sum_close(shared_sum_rank *ranks, uint32_t n_ranks); /* NULL-safe */

/* parallel_group_ops.all_reduce for the ranks of g, with the same deadline, flag and errors. All ranks pass the same n. */
ST_CHECKED st_code shared_sum_add(shared_sum *s, const parallel_group *g, double *values, size_t n);

#endif
