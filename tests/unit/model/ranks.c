#include "tests/unit/model/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The leader adds, from the last rank to the first: the order must not matter. */
static st_code meet_and_add(parallel_group *g, double *values, size_t n) {
    ranks *all = ((ranks_member *)g)->all;
    all->values[g->rank] = values;
    pthread_barrier_wait(&all->barrier);
    if (g->rank == 0) {
        all->n_sums++;
        for (size_t i = 0; i < n; i++) {
            all->sum[i] = 0;
            for (uint32_t k = all->n; k-- > 0;) all->sum[i] += all->values[k][i];
        }
    }
    pthread_barrier_wait(&all->barrier);
    memcpy(values, all->sum, n * sizeof *values);
    pthread_barrier_wait(&all->barrier);
    return ST_OK;
}

static st_code meet_and_gather(parallel_group *g, const void *mine, size_t n, void *to, uint32_t root) {
    ranks *all = ((ranks_member *)g)->all;
    all->parts[g->rank] = mine;
    pthread_barrier_wait(&all->barrier);
    if (g->rank == root)
        for (uint32_t k = 0; k < all->n; k++) memcpy((char *)to + k * n, all->parts[k], n);
    pthread_barrier_wait(&all->barrier);
    return ST_OK;
}

const parallel_group_ops ranks_ops = {.name = "threads", .all_reduce = meet_and_add, .gather = meet_and_gather};

void ranks_open(ranks *out, const model_file *f, uint32_t n, rig_options o) {
    assert_true(n >= 1 && n <= RANKS_MAX);
    *out = (ranks){.n = n};
    assert_int_equal(0, pthread_barrier_init(&out->barrier, NULL, n));
    for (uint32_t k = 0; k < n; k++) {
        st_error e = {0};
        out->member[k] = (ranks_member){{.ops = &ranks_ops, .rank = k, .n_ranks = n}, out};
        o.group = n == 1 ? NULL : &out->member[k].base;
        if (rig_make(f, &o, &out->r[k], &e) != ST_OK) fail_msg("rank %u of %u: %s", k, n, e.message);
    }
    out->sum = calloc((size_t)RIG_ROWS * model_get_info(out->r[0].model)->dim, sizeof *out->sum);
    assert_non_null(out->sum);
}

typedef struct {
    rig *r;
    const rig_batch *b;
    st_error e;
    st_code code;
} run_job;

static void *run_rank(void *context) {
    run_job *job = context;
    job->code = rig_try(job->r, job->b, &job->e);
    return NULL;
}

void ranks_run(ranks *all, const rig_batch *b) {
    run_job job[RANKS_MAX];
    pthread_t thread[RANKS_MAX];
    for (uint32_t k = 0; k < all->n; k++) {
        job[k] = (run_job){.r = &all->r[k], .b = b};
        assert_int_equal(0, pthread_create(&thread[k], NULL, run_rank, &job[k]));
    }
    for (uint32_t k = 0; k < all->n; k++) assert_int_equal(0, pthread_join(thread[k], NULL));
    for (uint32_t k = 0; k < all->n; k++)
        if (job[k].code != ST_OK) fail_msg("rank %u of %u: %s", k, all->n, job[k].e.message);
}

void ranks_free(ranks *all) {
    for (uint32_t k = 0; k < all->n; k++) rig_free(&all->r[k]);
    pthread_barrier_destroy(&all->barrier);
    free(all->sum);
}
