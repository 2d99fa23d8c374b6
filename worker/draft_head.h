/* draft_head: a drafter that goes on from the target's own hidden state (speculation.md, "Who drafts").
 *
 * Nouns: a head (a recurrent network over hidden states, with output rows of its own for the commonest tokens), a row (a node of
 * a tree that is to be given children). It keeps nothing of a sequence but what it drafted last, to be scored by: whoever has the
 * hidden state of the last token can go on at any step. Thread: the step thread. */
#ifndef CONSORT_WORKER_DRAFT_HEAD_H
#define CONSORT_WORKER_DRAFT_HEAD_H

#include "kernels/kernels.h"
#include "model/file.h"
#include "speculative/speculative.h"

typedef struct {
    const kernels_ops *ops; /* borrowed, as are the next two, which must live as long as the drafter */
    kernels_device *device;
    const model_file *file;
    kernels_precision precision;
    uint32_t max_sequences;
    float floor; /* a node that is believed, with all before it, with less is not proposed */
} draft_head_options;

typedef struct {
    uint32_t dim, n_vocab; /* of the target */
    uint8_t vocabulary_hash[32];
    size_t weight_bytes;
} draft_head_info;

/* Errors: ST_ERR_FORMAT, ST_ERR_UNSUPPORTED, ST_ERR_NOT_FOUND (the message names file, key or tensor), ST_FATAL_MEMORY. Owned: by
 * out->ops->destroy, before the device. */
ST_CHECKED st_code draft_head_create(const draft_head_options *o, draft_head_info *info, spec_drafter **out, st_error *e);

#endif
