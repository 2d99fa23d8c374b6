/* engine: a model in this process, for the verbs that need no cluster (score, bench).
 *
 * Nouns: a room (n sequences of so many tokens in a block store of their own), a row. Rows are added, then run together; a row
 * continues its sequence at the position given, and rows of a sequence added in one go stand together in order. One thread. */
#ifndef CONSORT_CLIENT_ENGINE_INT_H
#define CONSORT_CLIENT_ENGINE_INT_H

#include "kernels/profile.h"
#include "model/model.h"

typedef struct {
    const char *path, *isa, *kv_type; /* isa NULL: the best; kv_type NULL: f16 */
    uint32_t n_threads;               /* 0: one a processor */
    uint32_t max_rows, max_choose;
    bool profile; /* time the operations, see engine_profile */
} engine_options;

typedef struct engine engine;

/* Errors: as model_file_open, model_load; the message says which. */
ST_CHECKED st_code engine_open(const engine_options *o, engine **out, st_error *e);
void engine_close(engine *g); /* NULL-safe */
const model_info *engine_info(const engine *g);
kernels_profile *engine_profile(engine *g); /* NULL where options did not ask for it */

/* Room for sequences 0 .. n_sequences-1 of n_tokens each; what was there before is lost. Errors: ST_FATAL_MEMORY,
 * ST_ERR_INVALID_ARGUMENT (longer than the model's context). */
ST_CHECKED st_code engine_make_room(engine *g, uint32_t n_sequences, uint32_t n_tokens, st_error *e);

/* False where the batch is full (of rows, or of wanted logits). */
bool engine_add(engine *g, uint32_t sequence, uint32_t token, uint32_t position, bool wanted);
/* Runs and clears the batch. Errors: as model_run; ST_ERR_NUMERIC where a row went bad (names position and layer). */
ST_CHECKED st_code engine_run(engine *g, st_error *e);
const float *engine_logits(const engine *g, uint32_t i); /* [n_vocab] of its i-th wanted row; view until the next run */

#endif
