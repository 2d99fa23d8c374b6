/* Kernels: the arithmetic of the forward pass on one device, bit for bit the same on all of them (docs/numerics.md).
 *
 * Nouns: a device (its threads and memory), a view (a place in a device buffer; only the device may look inside), and a
 * weight (a quantized matrix, packed as the device likes). `kernels_pick` gives the one struct of functions for an
 * instruction set; callers queue operations on views in order and `wait` before they download. What an operation points to (rows,
 * positions, tokens, a table's bytes, a KV store) must stay until it is done, and its views that overlap must be the same rows.
 * An operation cannot fail by itself: a device error stays and comes out of `wait`. Shapes are row-major; n is the number of rows
 * (tokens) of the batch. One thread at a time calls a device. */
#ifndef CONSORT_KERNELS_KERNELS_H
#define CONSORT_KERNELS_KERNELS_H

#include "base/nouns.h"
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef enum {
#define FORMAT(id, ggml, name, elements, bytes, ...) KERNELS_##id,
#include "kernels/formats.def"
#undef FORMAT
    KERNELS_N_FORMATS
} kernels_format;

typedef struct {
    const char *name;
    uint32_t ggml_type, block_elements, block_bytes;
} kernels_format_info;

/* Static table entry; NULL for a number that is not a format. */
const kernels_format_info *kernels_format_of(kernels_format format);

/* What a product with a quantized matrix does: rounds activations to int8, or turns its weights to fp32 as it needs them. */
typedef enum { KERNELS_FAST, KERNELS_FP32 } kernels_precision;

/* "fast", "fp32"; NULL: fast. False: there is none of this name. */
bool kernels_precision_find(const char *name, kernels_precision *out);

typedef struct kernels_device kernels_device;
typedef struct kernels_buffer kernels_buffer;
typedef struct kernels_weight kernels_weight;

typedef struct {
    kernels_buffer *buffer;
    size_t at_bytes; /* multiple of 64 */
} kernels_view;

/* A matrix as it stands in a GGUF file: rows of `cols` elements in blocks of `format`. The bytes are only read while a call
 * lasts, or, of an operation, until it is done. */
typedef struct {
    kernels_format format;
    uint32_t rows, cols;
    const void *bytes; /* [rows][cols / block_elements] blocks */
} kernels_matrix;

/* KV storage of a device: blocks of NOUNS_BLOCK_TOKENS tokens,
 *     [n_blocks][n_layers][K, V][n_kv_heads][NOUNS_BLOCK_TOKENS]   rows of head_dim elements in type[K, V]
 * so that a block, a layer of a block and a row are each one run of bytes, of any alignment. Slot s of a sequence is token s % 32
 * of its block s / 32. A row's bytes are made from its own values alone, and mean the same wherever they are copied to. */
typedef enum {
#define KV_TYPE(id, bytes) KERNELS_KV_##id,
#include "kernels/kv_types.def"
#undef KV_TYPE
    KERNELS_N_KV_TYPES
} kernels_kv_type;
enum { KERNELS_MAX_HEAD_DIM = 256 }; /* the caller checks it when it reads a model */
typedef struct {
    kernels_view at;
    kernels_kv_type type[2]; /* of K's rows, of V's */
    uint32_t n_blocks, n_layers, n_kv_heads, head_dim;
} kernels_kv;

size_t kernels_kv_row_bytes(kernels_kv_type type, uint32_t head_dim); /* K or V of one token, one head */
size_t kernels_kv_layer_bytes(const kernels_kv *kv);                  /* of one layer of a block */
size_t kernels_kv_block_bytes(const kernels_kv *kv);                  /* of all layers */

/* What row i of a batch may see, besides itself: positions 0 .. n_before-1 of its sequence from the slots of the same numbers,
 * then n_path further positions from the slots in `path` (the ancestors of a tree node, nearest to the root first, and the row
 * itself last). Its own position is n_before + n_path - 1. Chunks of keys are cut at absolute positions (numerics.md). */
typedef struct {
    const uint32_t *blocks; /* block table of the sequence: index of its b-th block */
    const uint32_t *path;   /* [n_path] slots; includes the row's own */
    uint32_t n_before, n_path, slot;
} kernels_row;

/* Which elements of a head turn together: neighbours 2i, 2i + 1, or i and i + head_dim / 2 of the two halves. */
typedef enum { KERNELS_ROPE_NEIGHBOURS, KERNELS_ROPE_HALVES } kernels_rope_pairs;

/* One of the products that read the same rows: out[n][rows of the weight] f32. With n_rows > 0 only the columns [first_row,
 * first_row + n_rows) of `out` are computed, and no others written; both are multiples of 16, but the last row may end it. With
 * n_runs > 0 only those of the runs are, run r being the columns 16 r .. 16 r + 15. */
typedef struct {
    kernels_view out;
    const kernels_weight *weight;
    uint32_t first_row, n_rows, n_runs;
    const uint32_t *runs; /* [n_runs] each once */
} kernels_projection;
enum { KERNELS_MAX_PROJECTIONS = 3 };

typedef enum { KERNELS_SILU, KERNELS_GELU } kernels_activation;
#define KERNELS_NO_WINDOW UINT32_MAX

typedef struct {
    const char *isa; /* "scalar", "avx2", "avx512", "neon" */

    /* n_threads >= 1, the caller's included. Errors: ST_FATAL_MEMORY, ST_ERR_INVALID_ARGUMENT, ST_ERR_UNSUPPORTED,
     * ST_ERR_RESOURCE_EXHAUSTED (no more threads). */
    ST_CHECKED st_code (*create)(uint32_t n_threads, kernels_device **out, st_error *e);
    void (*destroy)(kernels_device *d); /* NULL-safe; all its buffers and weights must be freed before */

    /* Buffers: zeroed; 64-byte aligned. Errors: ST_FATAL_MEMORY. */
    ST_CHECKED st_code (*alloc)(kernels_device *d, size_t size_bytes, kernels_buffer **out);
    void (*free)(kernels_device *d, kernels_buffer *b);
    void (*upload)(kernels_device *d, kernels_view to, const void *from, size_t n_bytes);
    void (*download)(kernels_device *d, void *to, kernels_view from, size_t n_bytes);
    /* What the view holds, for the host to read until the next operation; waits for the operations before. */
    const void *(*host)(kernels_device *d, kernels_view v, size_t n_bytes);
    void (*copy)(kernels_device *d, kernels_view to, kernels_view from, size_t n_bytes); /* must not overlap */
    /* Bytes of a buffer from at_bytes on, of any alignment, to and from the host; done when they return. Unlike all else these
     * may be called by a second thread while the device computes with other bytes (KV that moves between groups), or while the
     * first calls them for other bytes (KV that is swapped). They do not wait for operations before: the first thread calls wait
     * where there are some with these bytes. soon: the device reads what is poked in the next operations; else some time later.
     */
    void (*peek)(kernels_device *d, void *to, const kernels_buffer *from, size_t at_bytes, size_t n_bytes);
    void (*poke)(kernels_device *d, kernels_buffer *to, size_t at_bytes, const void *from, size_t n_bytes, bool soon);
    ST_CHECKED st_code (*wait)(kernels_device *d); /* all operations before are done */

    /* Packs rows [row0, row0 + n_rows) and columns [col0, col0 + n_cols) of `m`; columns on borders of 32 (a block of 256 may be
     * cut) or, of a float format, anywhere. They take the same memory in either precision. Errors: ST_FATAL_MEMORY,
     * ST_ERR_UNSUPPORTED (format), ST_ERR_INVALID_ARGUMENT (a range outside `m` or off the borders). */
    ST_CHECKED st_code (*weight_create)(kernels_device *d, const kernels_matrix *m, uint32_t row0, uint32_t n_rows, uint32_t col0,
                                        uint32_t n_cols, kernels_precision precision, kernels_weight **out);
    void (*weight_free)(kernels_device *d, kernels_weight *w);
    size_t (*weight_bytes)(const kernels_weight *w);
    void (*weight_shape)(const kernels_weight *w, uint32_t *rows, uint32_t *cols);

    /* out[n][cols] f32 = rows `token` of the table, dequantized as the gguf package does. The table stays as it stands in the
     * file: a pass reads a few rows of it. */
    void (*embed)(kernels_device *d, kernels_view out, const kernels_matrix *table, const uint32_t *token, uint32_t n);
    /* out[n][dim] = x * r * w, r = 1 / sqrt(sum of squares / dim + eps); w: f32 [dim] */
    void (*rmsnorm)(kernels_device *d, kernels_view out, kernels_view x, kernels_view w, uint32_t n, uint32_t dim, float eps);
    /* act = rows of x[n][k] quantized to int8 in groups of 32; act_bytes(n, k) bytes */
    size_t (*act_bytes)(uint32_t n, uint32_t k);
    void (*quantize)(kernels_device *d, kernels_view act, kernels_view x, uint32_t n, uint32_t k);
    /* out = x . weight^T of each projection, up to KERNELS_MAX_PROJECTIONS of them in one sweep; quantized formats in
     * KERNELS_FAST read `act` (made from x), all others x[n][cols of the weight] */
    void (*matmul)(kernels_device *d, const kernels_projection *p, uint32_t n_projections, kernels_view x, kernels_view act,
                   uint32_t n);
    /* out[n][rows of w] f64 = sum over the units of unit_cols columns of the partial on the grid of 2^-28 (NaN where a partial is
     * not finite or too large for an exact sum over n_units_total): may be summed with other ranks' in any order */
    void (*matmul_units)(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                         uint32_t n, uint32_t unit_cols, uint32_t n_units_total);
    /* x[n][dim] += (float)sum[n][dim] */
    void (*add_reduced)(kernels_device *d, kernels_view x, kernels_view sum, uint32_t n, uint32_t dim);
    /* x[n][dim] += the row (float)sum[n][dim], normed as by rmsnorm with w; spoils `sum` */
    void (*add_normed)(kernels_device *d, kernels_view x, kernels_view sum, kernels_view w, uint32_t n, uint32_t dim, float eps);
    /* x[n][dim] += bias[dim] */
    void (*add_bias)(kernels_device *d, kernels_view x, kernels_view bias, uint32_t n, uint32_t dim);
    /* x[n][dim] *= factor */
    void (*scale)(kernels_device *d, kernels_view x, float factor, uint32_t n, uint32_t dim);
    /* rotates the pairs of each head of x[n][n_heads][head_dim] by the angles table[position][head_dim / 2]{cos, sin} */
    void (*rope)(kernels_device *d, kernels_view x, kernels_view table, const uint32_t *position, uint32_t n, uint32_t n_heads,
                 uint32_t head_dim, kernels_rope_pairs pairs);
    /* out[n][dim] = activation(gate) * up */
    void (*glu)(kernels_device *d, kernels_view out, kernels_view gate, kernels_view up, uint32_t n, uint32_t dim,
                kernels_activation activation);
    /* writes k, v [n][n_kv_heads][head_dim] f32 of the rows to their slots in `layer` */
    void (*kv_write)(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view k, kernels_view v,
                     const kernels_row *rows, uint32_t n);
    /* out[n][n_heads][head_dim] f32; query head h reads KV head kv_head_of[h] (an index among the kv heads of `kv`). A row
     * sees the last `window` positions of those that its kernels_row names, itself included */
    void (*attention)(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view out, kernels_view q,
                      const kernels_row *rows, uint32_t n, uint32_t n_heads, const uint32_t *kv_head_of, uint32_t window);
    /* moves one token of KV, all layers, from slot to slot of a sequence with this block table (compaction after a draft tree) */
    void (*kv_move)(kernels_device *d, const kernels_kv *kv, const uint32_t *blocks, uint32_t to_slot, uint32_t from_slot);
    /* out[i][dim] = x[index[i]][dim] */
    void (*gather)(kernels_device *d, kernels_view out, kernels_view x, const uint32_t *index, uint32_t n, uint32_t dim);
    /* bad[i] = 1 where row i of x[n][dim] holds a value that is not finite; on the host after wait() */
    void (*find_bad)(kernels_device *d, uint8_t *bad, kernels_view x, uint32_t n, uint32_t dim);
} kernels_ops;

/* The functions for an instruction set: "scalar", "avx2", "avx512" (F, BW, VL, DQ and VNNI) or "neon" (with dot products). NULL
 * or "auto": the one that the environment variable CONSORT_ISA names, if it is set, or the best that this processor has. Static.
 * Errors: ST_ERR_UNSUPPORTED names what was asked and what there is. */
ST_CHECKED st_code kernels_pick(const char *isa, const kernels_ops **out, st_error *e);

/* memcpy for what is not read soon: past the caches, where the processor can and n is worth it. Written before anything that
 * comes after it. Any thread. */
void kernels_copy_past_cache(void *to, const void *from, size_t n);

#endif
