/* part: what a rank does in its group, on its step thread: load, then one call for each plan or order, then unload.
 *
 * Nouns: a part (the step thread's state; verify.c and draft.c make one each), an engine (a model with its device and KV cache,
 * which both may need). The link thread makes a part and frees it; in between it touches the atomics only. */
#ifndef CONSORT_WORKER_PART_INT_H
#define CONSORT_WORKER_PART_INT_H

#include "base/arena.h"
#include "model/model.h"
#include "proto/proto.h"
#include "worker/worker.h"

typedef struct part part;
typedef struct {
    /* Loads what the topology says, and says in p->info what that is. */
    st_code (*load)(part *p, st_error *e);
    /* Carries out a plan; *result is the encoded result, the caller's. Errors: the rank must leave. */
    st_code (*step)(part *p, const uint8_t *plan, size_t n, proto_bytes *result, st_error *e);
    /* A WAKE came: the steps that p->wanted_plan promises, and what follows at once. NULL: nobody wakes this rank. */
    st_code (*follow)(part *p, st_error *e);
    /* MOVE, MOVE_READY or MOVE_CANCEL, as it came. NULL: a rank that moves no KV. Errors: the rank must leave. */
    st_code (*move)(part *p, proto_message_type type, const uint8_t *bytes, size_t n, st_error *e);
    /* Takes leave of the other ranks of the group, unless p->ended. NULL: there are none. */
    st_code (*part_company)(part *p, st_error *e);
    void (*destroy)(part *p); /* also after a load that failed half-way */
} part_ops;

struct part {
    const part_ops *ops; /* first field of each role's struct */
    const worker_options *o;
    const config_group *config;
    proto_register info;
    void (*moved)(void *context, const proto_moved *m); /* what came of a MOVE; the mover's thread calls it */
    void (*early)(void *context, proto_bytes result);   /* takes an encoded early result, on the step thread */
    void *link;                                         /* the context of both */
    arena arena;                                        /* decoded plans */
    bool ended;                                         /* not the leader: the leader said that the group ends */
    _Atomic uint32_t load_permille;
    _Atomic uint32_t n_plans;     /* in the mailbox */
    _Atomic bool wake_waits;      /* a WAKE is in the mailbox */
    _Atomic uint32_t n_orders;    /* about moves, in the mailbox */
    _Atomic uint64_t wanted_plan; /* the last plan that a WAKE has named */
};

/* One file a role. The caller fills in o, config and info. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code part_verify(bool leads, part **out);
ST_CHECKED st_code part_draft(part **out);

/* For the files of the roles: the view lives until the next call. */
ST_CHECKED st_code part_decode(part *p, const uint8_t *bytes, size_t n, proto_plan *plan, st_error *e);

typedef struct {
    kernels_device *device;
    const kernels_ops *ops;
    model_file *file; /* the model looks up tokens in it */
    kernels_precision precision;
    model *model;
    kv_store *kv;
    uint32_t n_blocks, max_context; /* tokens: of the topology, or what the model was made for */
} part_engine;

/* Makes the device that the topology asks for, and says so in p->info; a part of part_engine_init. */
ST_CHECKED st_code part_device_init(part *p, part_engine *out, st_error *e);
/* Loads this rank's share of the model at `path` and its KV cache, and fills in p->info. `out` starts zeroed; part_engine_deinit
 * gives back what there is, also after an error. Errors name the file or key. */
ST_CHECKED st_code part_engine_init(part *p, const char *path, parallel_group *group, part_engine *out, st_error *e);
void part_engine_deinit(part_engine *n);

#endif
