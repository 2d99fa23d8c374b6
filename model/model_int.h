/* model, inside: what loading (bind.c, load.c), running (run.c) and the architectures (arch_*.c) share.
 *
 * Nouns: an extent (a size of the model by which tensors are shaped, such as all query heads), a share (the part of an extent
 * that this rank holds), a place (one scratch array of the forward pass). An architecture is a table of tensors, each shaped by
 * two extents, and a few choices of the decoder; what is cut between ranks, and where, follows from the extents alone. */
#ifndef CONSORT_MODEL_INT_H
#define CONSORT_MODEL_INT_H

#include "model/model.h"

enum {
    MODEL_UNIT_COLS = 256, /* FFN columns of one unit of the exact sum (numerics.md) */
    MODEL_ROPE_ROWS = 16,  /* positions whose angles are made together: whole lines of 64 bytes for any head */
    MODEL_HEAD_COLS = 32,  /* an attention unit is as many heads as make a multiple of this */
};

typedef enum {
    MODEL_ONE,
    MODEL_DIM,
    MODEL_HEADS,
    MODEL_KV_HEADS,
    MODEL_HEAD,      /* one head */
    MODEL_HALF_HEAD, /* pairs of a head that turn together */
    MODEL_FFN,
    MODEL_VOCAB,
    MODEL_N_EXTENTS
} model_extent;

typedef struct {
    uint32_t whole, first, n; /* elements: [first, first + n) of [0, whole) */
} model_share;

typedef enum {
    MODEL_EVERYWHERE, /* every rank its share */
    MODEL_OPTIONAL,   /* the same, where the file has it */
    MODEL_TABLE,      /* nobody: rows are looked up in the file */
    MODEL_LOADING,    /* nobody: looked at while loading, where the file has it */
} model_holder;

typedef struct {
    const char *name;        /* as in the file; of a layer: behind "blk.N."; NULL: not in this family */
    model_extent rows, cols; /* rows ONE: a vector, F32 */
    model_holder holder;
} model_tensor_row;

/* The tensors of all families: outside the layers, and of a layer. A family's tables leave out what it has not. */
enum { MODEL_TOKEN_EMBD, MODEL_OUTPUT_NORM, MODEL_OUTPUT, MODEL_ROPE_FREQS, MODEL_N_OUTER };
enum {
    MODEL_ATTN_NORM,
    MODEL_ATTN_Q,
    MODEL_ATTN_K,
    MODEL_ATTN_V,
    MODEL_ATTN_Q_BIAS,
    MODEL_ATTN_K_BIAS,
    MODEL_ATTN_V_BIAS,
    MODEL_ATTN_Q_NORM, /* of each head */
    MODEL_ATTN_K_NORM,
    MODEL_ATTN_OUTPUT,
    MODEL_ATTN_POST_NORM, /* of what attention adds to the residual */
    MODEL_FFN_NORM,
    MODEL_FFN_GATE,
    MODEL_FFN_UP,
    MODEL_FFN_DOWN,
    MODEL_FFN_POST_NORM,
    MODEL_N_LAYER
};

typedef struct {
    kernels_weight *weight; /* of a matrix; NULL: not in the file, or not on this rank */
    kernels_view vector;    /* of a vector */
} model_weight;

typedef struct model_pass model_pass;

/* A family: its tensors, and where its decoder differs. */
typedef struct {
    const char *name;
    model_tensor_row outer[MODEL_N_OUTER], layer[MODEL_N_LAYER];
    kernels_rope_pairs pairs;
    kernels_activation activation;
    bool scales_embedding;  /* by sqrt(dim) */
    uint32_t global_every;  /* windowed layers but each so many-th; 0: none; a file may say another number */
    double rope_base_local; /* of windowed layers; a file may say another */
} model_arch;

/* Scratch of the forward pass; n = max_rows, local = this rank's share. */
typedef enum {
    MODEL_X,          /* f32 [n][dim] the residual */
    MODEL_H,          /* f32 [n][dim] normed */
    MODEL_ACT,        /* int8 groups of what the next product reads; in fp32 unused */
    MODEL_Q,          /* f32 [n][local heads][head_dim] */
    MODEL_K,          /* f32 [n][local KV heads][head_dim] */
    MODEL_V,          /* the same */
    MODEL_ATT,        /* f32 [n][local heads][head_dim] */
    MODEL_GATE,       /* f32 [n][local ffn] */
    MODEL_UP,         /* the same */
    MODEL_SUM,        /* f64 [n][dim] of units */
    MODEL_CHOSEN,     /* f32 [max_choose][dim] */
    MODEL_LOGITS,     /* f32 [max_choose][local vocabulary] */
    MODEL_ROPE,       /* f32 [max_context][head_dim / 2]{cos, sin}; rows are written when first needed (rope.c) */
    MODEL_ROPE_LOCAL, /* the same, of windowed layers */
    MODEL_VECTORS,    /* f32, each tensor of one row */
    MODEL_N_PLACES
} model_place;

/* One pass over a batch. */
struct model_pass {
    const kernels_kv *kv;
    const model_batch *batch;
    bool locate; /* a row is bad: find the layer */
};

struct model {
    model_info info;
    const model_arch *arch;
    const kernels_ops *ops;
    kernels_device *device;
    parallel_group *group;
    uint32_t max_rows, max_choose;
    kernels_precision precision;
    model_share share[MODEL_N_EXTENTS];
    uint32_t head_unit_cols, n_head_units, n_ffn_units; /* of all ranks */
    uint32_t *kv_head_of;                               /* [local heads] */
    double frequency[2][KERNELS_MAX_HEAD_DIM / 2];      /* of MODEL_ROPE, MODEL_ROPE_LOCAL */
    uint32_t n_rope;                                    /* positions that both have */

    model_weight outer[MODEL_N_OUTER];
    model_weight *layer;  /* [n_layers][MODEL_N_LAYER] */
    kernels_matrix table; /* the token table in the file */
    size_t weight_bytes;

    kernels_buffer *memory;
    kernels_view place[MODEL_N_PLACES];
    kernels_row *rows;   /* [max_rows] */
    uint32_t *paths;     /* [max_rows][NOUNS_MAX_TREE + 1] */
    uint32_t *bad_layer; /* [max_rows] UINT32_MAX: the row is finite */
    uint8_t *bad;        /* [max(max_rows, max_choose)] */
    const float *logits; /* [n_choose][n_vocab] of the last run, on rank 0 */
    const float *hidden; /* [n_choose][dim] likewise */
    double *sum;         /* [max_rows][dim]; NULL in a group of one, as the three below */
    uint8_t *head_part;  /* this rank's part of the logits: a message to rank 0 (run.c) */
    uint8_t *head_parts; /* [n_ranks] of them, and ... */
    float *head_whole;   /* [max_choose][n_vocab], on rank 0 */
};

const model_arch *model_arch_find(model_string name);

/* Finds and checks all tensors of the table: found[MODEL_N_OUTER + n_layers * MODEL_N_LAYER], outer ones first, NULL for what the
 * family or the file has not. A tensor that the table does not know is refused: the model would be another one without it. */
st_code model_bind(const model_file *f, const model_info *info, const model_arch *arch, const model_tensor **found, st_error *e);

/* Rotary angles: frequencies at loading (freqs: rope_freqs.weight or NULL), table rows as positions are reached. */
ST_CHECKED st_code model_rope_init(model *m, const model_tensor *freqs, const char *path, st_error *e);
void model_rope_reach(model *m, uint32_t n_positions);

/* Tokens of the batch to MODEL_X after the last layer; calls model_layer_done after each. */
st_code model_decode_layers(model *m, const model_pass *p, st_error *e);
/* MODEL_CHOSEN[n][dim] normed, in place; then these n_rows columns of MODEL_LOGITS[n][local vocabulary], on borders of 16, and
 * those of the runs (model_batch), in one sweep of all threads. */
void model_norm_chosen(model *m, uint32_t n);
void model_decode_head(model *m, uint32_t n, uint32_t first_row, uint32_t n_rows, const uint32_t *runs, uint32_t n_runs);

/* Bytes of a rank's part of n rows of logits: f32 [n][largest share of the vocabulary], then a byte a row: it is bad. */
size_t model_head_bytes(const model *m, uint32_t n);
/* The rows of the output head that a rank holds, in multiples of 16. */
model_share model_vocab_share(const model_info *info, uint32_t rank, uint32_t n_ranks);

/* Whole size of an extent in elements. */
uint32_t model_extent_size(const model_info *info, model_extent x);

/* MODEL_X[n][dim] += MODEL_SUM over all ranks, normed if the family has such a norm. */
st_code model_add_sum(model *m, uint32_t n, const model_weight *norm, st_error *e);
/* Only where the pass locates: notes the rows that are not finite after `layer`. */
st_code model_layer_done(model *m, const model_pass *p, uint32_t layer, st_error *e);

/* The tensors that every family of decoders has. */
#define MODEL_DECODER_OUTER                                                                                                      \
    [MODEL_TOKEN_EMBD] = {"token_embd.weight", MODEL_VOCAB, MODEL_DIM, MODEL_TABLE},                                             \
    [MODEL_OUTPUT_NORM] = {"output_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},                                        \
    [MODEL_OUTPUT] = {"output.weight", MODEL_VOCAB, MODEL_DIM, MODEL_OPTIONAL}
#define MODEL_DECODER_LAYER                                                                                                      \
    [MODEL_ATTN_NORM] = {"attn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},                                            \
    [MODEL_ATTN_Q] = {"attn_q.weight", MODEL_HEADS, MODEL_DIM, MODEL_EVERYWHERE},                                                \
    [MODEL_ATTN_K] = {"attn_k.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},                                             \
    [MODEL_ATTN_V] = {"attn_v.weight", MODEL_KV_HEADS, MODEL_DIM, MODEL_EVERYWHERE},                                             \
    [MODEL_ATTN_OUTPUT] = {"attn_output.weight", MODEL_DIM, MODEL_HEADS, MODEL_EVERYWHERE},                                      \
    [MODEL_FFN_NORM] = {"ffn_norm.weight", MODEL_ONE, MODEL_DIM, MODEL_EVERYWHERE},                                              \
    [MODEL_FFN_GATE] = {"ffn_gate.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},                                              \
    [MODEL_FFN_UP] = {"ffn_up.weight", MODEL_FFN, MODEL_DIM, MODEL_EVERYWHERE},                                                  \
    [MODEL_FFN_DOWN] = {"ffn_down.weight", MODEL_DIM, MODEL_FFN, MODEL_EVERYWHERE}

#endif
