/* head: what the GGUF file of a draft head says of itself (speculation.md, "Heads").
 *
 * Architecture "recurrent-head": sizes, the vocabulary that it is for, and the tokens that have output rows. The tensors are
 * those of worker/draft_head.c, which has the formula. Views live as long as the file. Pure; any thread. */
#ifndef CONSORT_MODEL_HEAD_H
#define CONSORT_MODEL_HEAD_H

#include "model/file.h"

typedef struct {
    uint32_t dim, ffn_dim; /* of hidden states, of its feed-forward; multiples of 32 */
    uint32_t n_vocab;      /* of the target */
    uint8_t vocabulary_hash[32];
    uint32_t n_ids;
    const void *ids; /* [n_ids] int32 in the file, not aligned: ascending, < n_vocab */
} model_head;

/* Errors: ST_ERR_UNSUPPORTED (another architecture, sizes), ST_ERR_NOT_FOUND, ST_ERR_FORMAT; the message names file and key. */
ST_CHECKED st_code model_head_read(const model_file *f, model_head *out, st_error *e);

#endif
