/* shared_sum: the all-reduce of ranks that share memory, without messages: each writes what it has and reads what the others
 * wrote. Knows no MPI: whoever opens it brings the memory. Thread: one a rank. */
#ifndef CONSORT_PARALLEL_SHARED_SUM_H
#define CONSORT_PARALLEL_SHARED_SUM_H

#include "parallel/parallel.h"

enum {
    SHARED_SUM_MAX_RANKS = 8,   /* each reads what all others wrote: with more, messages move less */
    SHARED_SUM_PIECE = 8 * 1024 /* values at a time; 8 rows of 576 go in one piece */
};

typedef struct shared_sum_rank shared_sum_rank;
typedef struct {
    shared_sum_rank *ranks; /* [n_ranks], the shared memory; of whoever opened it */
    uint64_t n_pieces;      /* that this rank has written */
} shared_sum;

/* Bytes of memory for n_ranks ranks. It must be aligned to 64 bytes and be zero before any rank calls shared_sum_add. */
size_t shared_sum_bytes(uint32_t n_ranks);

/* parallel_group_ops.all_reduce for the ranks of g, with the same deadline, flag and errors. All ranks pass the same n. */
ST_CHECKED st_code shared_sum_add(shared_sum *s, const parallel_group *g, double *values, size_t n);

#endif
