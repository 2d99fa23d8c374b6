/* step: from a plan to its result; the only code that touches sequences on a rank.
 *
 * Nouns: a step object (the open sequences of this rank, and the scratch of a step), a plan, a result. For each sequence it keeps
 * the tokens, how many of them are in the KV cache, and the block table. Memory is taken at create; a step allocates nothing.
 * Thread: the step thread. */
#ifndef CONSORT_WORKER_STEP_H
#define CONSORT_WORKER_STEP_H

#include "model/model.h"
#include "proto/proto_core.h"

typedef struct step step;

typedef struct {
    model *model; /* borrowed, as is kv */
    kv_store *kv;
    const kernels_ops *ops;
    kernels_device *device;
    uint32_t max_sequences, max_rows, max_context;
    void (*early)(void *context, const proto_result *guess); /* see step_run; NULL: nobody wants it */
    void *context;
} step_options;

ST_CHECKED st_code step_create(const step_options *o, step **out); /* ST_FATAL_MEMORY */
void step_destroy(step *s);                                        /* NULL-safe */

/* A step is three calls: step_run on every rank of the group; step_decide on the leader, which alone has logits; step_apply on
 * every rank with the leader's words, before the next step_run.
 *
 * step_run: closes, opens, then one forward pass over all work. Errors: ST_FATAL_PROTOCOL (the plan contradicts what this rank
 * holds; the message says how), and those of model_run: the rank must leave. Where the plan asks for an early result, and this
 * rank has all logits, o.early is called in the midst with what the result will be if each choice is one of the commonest tokens;
 * its items without tokens are not known yet. The guess lives as long as the call. */
ST_CHECKED st_code step_run(step *s, const proto_plan *plan, st_error *e);
/* What the leader chose at each item, as words; a view until the next call. At most step_max_words(). */
const uint32_t *step_decide(step *s, uint32_t *n_words);
uint32_t step_max_words(const step_options *o);
/* Takes the chosen tokens and keeps the KV of accepted nodes. Log-probabilities are with those who decided themselves. *out is a
 * view into s and `words`; a sequence whose numbers stopped
 * being finite is one bad item of it. Errors: ST_FATAL_PROTOCOL (words that do not fit the plan), ST_FATAL_* from the device. */
ST_CHECKED st_code step_apply(step *s, const uint32_t *words, uint32_t n_words, proto_result *out, st_error *e);
bool step_is_settled(const step *s); /* no step_run waits for its step_apply */
uint32_t step_open_sequences(const step *s);

#endif
