/* draft_model: a drafter that is a language model of its own, over the target's vocabulary (speculation.md, 2).
 *
 * Nouns: the drafter (one interface for all kinds, speculative/speculative.h), a sequence's cache (tokens whose KV it holds, and
 * its own choice after each). It drafts chains: its choice under the request's own temperature, filters, seed and position, which
 * is what the target would choose if both agreed. Which sequences share its KV cache is the scheduler's affair: it closes one
 * before another needs the room. Thread: the step thread. */
#ifndef CONSORT_WORKER_DRAFT_MODEL_H
#define CONSORT_WORKER_DRAFT_MODEL_H

#include "model/model.h"
#include "speculative/speculative.h"

typedef struct {
    model *model; /* borrowed, as are all of these */
    kv_store *kv;
    uint32_t n_blocks; /* of the store */
    uint32_t max_sequences, max_rows, max_context;
} draft_model_options;

/* Errors: ST_FATAL_MEMORY. Owned: by out->ops->destroy. */
ST_CHECKED st_code draft_model_create(const draft_model_options *o, spec_drafter **out);

#endif
