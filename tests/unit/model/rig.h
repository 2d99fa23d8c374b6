/* rig: a loaded model with a store and helpers to run sequences through it. For tests. */
#ifndef CONSORT_TESTS_RIG_H
#define CONSORT_TESTS_RIG_H

#include "tests/unit/model/tiny.h"

enum {
    RIG_ROWS = 96,  /* rows, and choices, of a batch */
    RIG_BLOCKS = 6, /* of a sequence: 192 tokens */
    RIG_SEQUENCES = 64,
};

/* All instruction sets that any build has; kernels_pick refuses those that are not at hand. */
static const char *const rig_isas[] = {"scalar", "avx2", "avx512", "neon", "auto"};

typedef struct {
    const char *isa;
    uint32_t n_threads;
    parallel_group *group; /* NULL: local; otherwise borrowed */
    const char *kv_type;   /* NULL: what goes with the precision */
    kernels_precision precision;
} rig_options;

typedef struct {
    const kernels_ops *ops;
    kernels_device *device;
    parallel_group *group, *own_group;
    model *model;
    kv_store *kv;
    uint32_t table[RIG_SEQUENCES][RIG_BLOCKS]; /* scattered over the store */
    void (*first)(void *context);              /* of each batch (model_batch), as the next three; NULL: not wanted */
    void *context;
    uint32_t n_wanted;
    const uint32_t *wanted;
} rig;

/* Errors: what the parts say; the rig is then empty. */
st_code rig_make(const model_file *f, const rig_options *o, rig *out, st_error *e);
void rig_free(rig *r);

/* A batch under construction; every row is chosen. */
typedef struct {
    uint32_t n, token[RIG_ROWS], position[RIG_ROWS], slot[RIG_ROWS], parent[RIG_ROWS], sequence[RIG_ROWS], choose[RIG_ROWS];
} rig_batch;

/* Adds tokens[from, to) of a sequence, each the parent of the next. */
void rig_add(rig_batch *b, uint32_t sequence, const uint32_t *tokens, uint32_t from, uint32_t to);
/* Adds a tree: node 0 is the root at position `base`, parent[i] < i. */
void rig_add_tree(rig_batch *b, uint32_t sequence, uint32_t base, const uint32_t *token, const uint32_t *parent, uint32_t n);
st_code rig_try(rig *r, const rig_batch *b, st_error *e);
void rig_run(rig *r, const rig_batch *b); /* fails the test */
/* Runs tokens[from, to) in chunks; out[to - from][n_vocab]. */
void rig_feed(rig *r, uint32_t sequence, const uint32_t *tokens, uint32_t from, uint32_t to, uint32_t chunk, float *out);

#endif
