/* model, inside: what loading (bind.c, load.c), running (run.c) and the architectures (arch_*.c) share.
 *
 * Nouns: an extent (a size of the model by which tensors are shaped, such as all query heads), a share (the part of an extent
 * that this rank holds), a place (one scratch array of the forward pass). An architecture is a table of tensors, each shaped by
 * two extents, and two functions; what is cut between ranks, and where, follows from the extents alone. */
#ifndef CONSORT_MODEL_INT_H
#define CONSORT_MODEL_INT_H

#include "model/model.h"

enum {
    MODEL_UNIT_COLS = 256, /* FFN columns of one unit of the exact sum (numerics.md) */
    MODEL_HEAD_COLS = 32,  /* an attention unit is as many heads as make a multiple of this */
};

typedef enum { MODEL_ONE, MODEL_DIM, MODEL_HEADS, MODEL_KV_HEADS, MODEL_FFN, MODEL_VOCAB, MODEL_N_EXTENTS } model_extent;

typedef struct {
    uint32_t whole, first, n; /* elements: [first, first + n) of [0, whole) */
} model_share;

typedef enum {
    MODEL_EVERYWHERE, /* every rank its share */
    MODEL_LEADER,     /* rank 0, where the file has it */
} model_holder;

typedef struct {
    const char *name;        /* as in the file; of a layer: behind "blk.N." */
    model_extent rows, cols; /* rows ONE: a vector, F32 */
    model_holder holder;
} model_tensor_row;

/* The tensors outside the layers, in the order that every architecture's table keeps. */
enum { MODEL_TOKEN_EMBD, MODEL_OUTPUT_NORM, MODEL_OUTPUT, MODEL_N_OUTER };

typedef struct {
    kernels_weight *weight; /* of a matrix; NULL: not in the file, or not on this rank */
    kernels_view vector;    /* of a vector */
} model_weight;

typedef struct model_pass model_pass;

typedef struct {
    const char *name;
    const model_tensor_row *outer; /* [MODEL_N_OUTER] */
    const model_tensor_row *layer; /* [n_layer] */
    uint32_t n_layer;
    /* Tokens of the batch to MODEL_X after the last layer; calls model_layer_done after each. */
    st_code (*layers)(model *m, const model_pass *p, st_error *e);
    /* MODEL_CHOSEN[n][dim] (overwritten) to MODEL_LOGITS[n][n_vocab]. */
    void (*head)(model *m, uint32_t n);
} model_arch;

/* Scratch of the forward pass; n = max_rows, local = this rank's share. */
typedef enum {
    MODEL_X,       /* f32 [n][dim] the residual */
    MODEL_H,       /* f32 [n][dim] normed */
    MODEL_ACT,     /* int8 groups of what the next product reads */
    MODEL_Q,       /* f32 [n][local heads][head_dim] */
    MODEL_K,       /* f32 [n][local KV heads][head_dim] */
    MODEL_V,       /* the same */
    MODEL_ATT,     /* f32 [n][local heads][head_dim] */
    MODEL_GATE,    /* f32 [n][local ffn] */
    MODEL_UP,      /* the same */
    MODEL_SUM,     /* f64 [n][dim] of units */
    MODEL_CHOSEN,  /* f32 [max_choose][dim] */
    MODEL_LOGITS,  /* f32 [max_choose][n_vocab] */
    MODEL_ROPE,    /* f32 [max_context][head_dim / 2]{cos, sin} */
    MODEL_VECTORS, /* f32, each tensor of one row */
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
    model_share share[MODEL_N_EXTENTS];
    uint32_t head_unit_cols, n_head_units, n_ffn_units; /* of all ranks */
    uint32_t *kv_head_of;                               /* [local heads] */

    model_weight outer[MODEL_N_OUTER];
    model_weight *layer; /* [n_layers][arch->n_layer] */
    size_t weight_bytes;

    kernels_buffer *memory;
    kernels_view place[MODEL_N_PLACES];
    kernels_row *rows;   /* [max_rows] */
    uint32_t *paths;     /* [max_rows][NOUNS_MAX_TREE + 1] */
    uint32_t *bad_layer; /* [max_rows] UINT32_MAX: the row is finite */
    uint8_t *bad;        /* [max(max_rows, max_choose)] */
    float *logits;       /* [max_choose][n_vocab] */
    double *sum;         /* [max_rows][dim]; NULL in a group of one */
};

const model_arch *model_arch_find(model_string name);

/* Finds and checks all tensors of the table: found[MODEL_N_OUTER + n_layers * n_layer], outer ones first, NULL where an optional
 * one is missing. A tensor that the table does not know is refused: the model would be another one without it. */
st_code model_bind(const model_file *f, const model_info *info, const model_arch *arch, const model_tensor **found, st_error *e);

/* Whole size of an extent in elements. */
uint32_t model_extent_size(const model_info *info, model_extent x);

/* MODEL_X[n][dim] += MODEL_SUM over all ranks. */
st_code model_add_sum(model *m, uint32_t n, st_error *e);
/* Only where the pass locates: notes the rows that are not finite after `layer`. */
st_code model_layer_done(model *m, const model_pass *p, uint32_t layer, st_error *e);

#endif
