/* model: one rank's shard of a model, and the forward pass over a batch.
 *
 * Nouns: a model (weights of one shard on one device), a batch (flat rows: token, position, slot, parent, sequence), a choice.
 * The rows of many sequences go through together: prompt chunks, single tokens and draft trees are all just rows. The logits of a
 * row depend on the model, the precision, the KV type and the tokens before it, and on nothing else (docs/numerics.md). Owner and
 * thread: the step thread. */
#ifndef CONSORT_MODEL_H
#define CONSORT_MODEL_H

#include "kernels/kernels.h"
#include "kv/kv.h"
#include "model/file.h"
#include "parallel/parallel.h"

typedef struct model model;

/* How rotary angles are stretched for contexts longer than trained: all frequencies by 1 / factor; or the low ones only (YaRN,
 * arXiv 2309.00071). Llama 3's way, a factor for each frequency, is the tensor rope_freqs.weight and needs no numbers here. */
typedef struct {
    enum { MODEL_SCALING_NONE, MODEL_SCALING_LINEAR, MODEL_SCALING_YARN } kind;
    double factor, original_context, beta_fast, beta_slow, magnitude; /* magnitude: of cosines and sines */
} model_scaling;

/* What the file says; checked against each other at model_info. */
typedef struct {
    const char *architecture; /* "llama"; static */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, n_vocab, max_context;
    float rms_eps;
    double rope_base;
    model_scaling scaling;
    uint32_t window;        /* positions that a row of a windowed layer sees, itself included; 0: no layer is windowed */
    uint32_t global_every;  /* of so many layers the last is not windowed */
    double rope_base_local; /* of windowed layers, which are never scaled */
} model_info;

/* Errors: ST_ERR_UNSUPPORTED (architecture), ST_ERR_FORMAT; the message names file, key and values. */
ST_CHECKED st_code model_read_info(const model_file *f, model_info *out, st_error *e);
/* The most ranks that can hold the model together: one unit of its row-parallel sums each (docs/numerics.md). */
uint32_t model_max_ranks(const model_info *info);

/* What one rank of a group holds. Heads and columns are cut as when loading; a KV head that the query heads of several ranks read
 * is on each of them. */
typedef struct {
    uint32_t n_heads, n_kv_heads, head_dim, ffn_dim;
    uint64_t weight_bytes;   /* of the file, that it reads: packed they are the same, or a little more (docs/numerics.md) */
    uint64_t kv_token_heads; /* of all layers: of a token each has a row of K and one of V, of head_dim elements */
} model_part;
/* rank < n_ranks. Pure but for the file. Errors: as model_read_info; ST_ERR_UNSUPPORTED (more ranks than units), ST_FATAL_MEMORY.
 */
ST_CHECKED st_code model_read_part(const model_file *f, uint32_t rank, uint32_t n_ranks, model_part *out, st_error *e);

typedef struct {
    const kernels_ops *ops;
    kernels_device *device;
    parallel_group *group; /* rank and size of the shard; the all-reduces */
    uint32_t max_rows;     /* rows of the largest batch */
    uint32_t max_choose;   /* rows whose logits are wanted at once */
    kernels_precision precision;
    void (*progress)(void *context, double share); /* may be NULL; 0 .. 1 while weights are packed */
    void *context;
} model_options;

/* Checks every tensor once, packs this rank's share. `f` must live as long as the model, which looks up tokens in it. Errors: as
 * model_read_info, ST_FATAL_MEMORY. */
ST_CHECKED st_code model_load(const model_file *f, const model_options *o, model **out, st_error *e);
void model_destroy(model *m); /* NULL-safe */
const model_info *model_get_info(const model *m);
size_t model_weight_bytes(const model *m);
/* KV heads that this shard holds: shape for kv_store_create (the caller sets type and n_blocks). */
kv_shape model_kv_shape(const model *m);
uint32_t model_first_kv_head(const model *m); /* of these, in the whole model */

/* Of the vocabulary, the tokens whose logits can be had before all others: the commonest ones, as ids go by merges. 0: none,
 * since no rank has all logits, or they are few. */
uint32_t model_first_tokens(const model *m);
enum { MODEL_VOCAB_ROWS = 16 }; /* the output head is cut in multiples of so many rows: tokens whose logits are made together */
#define MODEL_RUNS(n_vocab) (((n_vocab) + MODEL_VOCAB_ROWS - 1) / MODEL_VOCAB_ROWS)

#define MODEL_MASK_WORDS(n) (((size_t)(n) + 63) / 64) /* of n tokens, or runs: number v is bit v % 64 of word v / 64 */

#define MODEL_NO_PARENT UINT32_MAX
/* Rows of a sequence stand together, parents before children. A row without a parent in the batch continues the committed tokens
 * of its sequence, so its position is the number of tokens before it and slot == position. Tree nodes have slot = base + index,
 * base being the slot of the root. */
typedef struct {
    uint32_t n_rows;
    const uint32_t *token, *position, *slot; /* [n_rows] */
    const uint32_t *parent;                  /* [n_rows] row number < its own, or MODEL_NO_PARENT */
    const uint32_t *sequence;                /* [n_rows] index into blocks */
    const uint32_t *const *blocks;           /* [n_sequences] block tables (indices into the store) that cover all slots */
    uint32_t n_choose;
    const uint32_t *choose; /* [n_choose] rows whose logits are wanted, ascending */
    /* Called in the midst, when of the logits those of the model_first_tokens and of the wanted runs are there, and all hidden
     * states: model_logits and model_hidden show them. NULL: nobody wants that. */
    void (*first)(void *context);
    void *context;
    uint32_t n_wanted; /* with `first`: runs of MODEL_VOCAB_ROWS tokens behind the model_first_tokens, which are computed again */
    const uint32_t *wanted; /* [n_wanted] each once, < MODEL_RUNS(n_vocab) */
} model_batch;

/* Runs the batch: writes KV of all rows, leaves logits of the chosen rows on rank 0 of the group (the leader chooses). A row
 * whose values stopped being finite is bad (model_row_bad): only its sequence is lost. Errors: ST_ERR_DEADLINE, ST_ERR_CANCELLED
 * from the group; ST_FATAL_* from the device; ST_ERR_INVALID_ARGUMENT (names the row that does not fit). No allocation. */
ST_CHECKED st_code model_run(model *m, kv_store *kv, const model_batch *b, st_error *e);
const float *model_logits(const model *m, uint32_t i); /* rank 0: [n_vocab] of choose[i]; view until the next run */
/* Rank 0: [dim] the hidden state that these logits were made of, after the final norm; view as of `model_logits`. */
const float *model_hidden(const model *m, uint32_t i);
/* False, or true with *layer = where a value of this row was first not finite (n_layers: the output head). */
bool model_row_bad(const model *m, uint32_t row, uint32_t *layer);

/* What changes a row of logits before the choice. */
typedef struct {
    uint32_t n_bias;
    const uint32_t *bias_token; /* [n_bias] each once */
    const float *bias;
    float repetition, presence, frequency; /* as in `sampling` */
    uint32_t n_tokens, n_prompt;
    const uint32_t *tokens;  /* [n_tokens] all before the choice, the first n_prompt of them the prompt */
    const uint64_t *allowed; /* [MODEL_MASK_WORDS(n_vocab)] tokens that may come, one at least; NULL: all */
} model_adjustment;
/* out[n_vocab] = the logits after bias, penalties and mask (docs/numerics.md). count[n_vocab]: scratch, all 0 before and after.
 * Pure; any thread. */
void model_adjust(const float *logits, uint32_t n_vocab, const model_adjustment *a, float *out, uint32_t *count);
bool model_penalises(const sampling *s); /* whether the tokens before a choice change its logits */
/* The target's choice at `position` (docs/numerics.md, "The choice"). logits[n_vocab]; `work` is a scratch of n_vocab uint64,
 * needed for filters only. Ties go to the lowest id. Pure; any thread. Formula: gumbel-max with Philox4x32-10 (Salmon et al., SC
 * 2011). */
uint32_t model_choose(const float *logits, uint32_t n_vocab, const sampling *s, uint32_t position, uint64_t *work);
/* -log softmax(logits)[id], in double. */
double model_nll(const float *logits, uint32_t n_vocab, uint32_t id);
/* log softmax(logits) of `id`, and of the n_top <= n_vocab likeliest: top[n_top] ids, descending, ties to the lower id, and their
 * top_log[n_top]. In double, rounded once. */
float model_logprobs(const float *logits, uint32_t n_vocab, uint32_t id, uint32_t n_top, uint32_t *top, float *top_log);

#endif
