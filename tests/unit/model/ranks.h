/* ranks: the ranks of a tensor-parallel group as threads of this process, which add their values where they meet. For tests. */
#ifndef CONSORT_TESTS_RANKS_H
#define CONSORT_TESTS_RANKS_H

#include "tests/unit/model/rig.h"

#include <pthread.h>

enum { RANKS_MAX = 4 };

typedef struct ranks ranks;

typedef struct {
    parallel_group base;
    ranks *all;
} ranks_member;

struct ranks {
    uint32_t n;
    rig r[RANKS_MAX]; /* r[0]: the leader, which has the logits */
    size_t n_sums;    /* all-reduces so far */

    ranks_member member[RANKS_MAX];
    pthread_barrier_t barrier;
    double *values[RANKS_MAX];
    const void *parts[RANKS_MAX]; /* of a gather */
    double *sum;                  /* as many as the largest all-reduce of a batch */
};

extern const parallel_group_ops ranks_ops; /* of such a group */

/* Shards of the model on n ranks; `o->group` is left out of account. One rank has the group of one. Fails the test. */
void ranks_open(ranks *out, const model_file *f, uint32_t n, rig_options o);
void ranks_run(ranks *all, const rig_batch *b); /* on all ranks at once; fails the test */
void ranks_free(ranks *all);

#endif
