/* Inside kernels/: the seams between the CPU device, the layouts and the primitives.
 *
 * A layout says how a number format stands in memory once packed: a tile holds KERNELS_LANES output rows side by side (lane =
 * row), so that a product needs no sum across lanes and one load of a tile serves several tokens. A primitive is the
 * arithmetic of one row (or one tile); a table of them is an instruction set. ref/ is the truth, and every other table gives
 * the same bits (docs/numerics.md). The device (cpu/device.c) has the buffers, the shapes and the threads, and no arithmetic.
 * All functions here are pure; any thread. */
#ifndef CONSORT_KERNELS_INT_H
#define CONSORT_KERNELS_INT_H

#include "kernels/kernels.h"

enum {
    KERNELS_LANES = 16,                      /* output rows of a tile; lanes of a sum */
    KERNELS_CHUNK = 512,                     /* columns of a chunk of K */
    KERNELS_GROUP = 32,                      /* columns that share an activation scale */
    KERNELS_TILE_TOKENS = 13,                /* most tokens of one tile product */
    KERNELS_N_ROPES = 2,                     /* of kernels_rope_pairs */
    KERNELS_N_ACTIVATIONS = 2,               /* of kernels_activation */
    KERNELS_CHUNK_KEYS = NOUNS_BLOCK_TOKENS, /* keys of a step of online softmax */
};

/* An activation group: 32 values as int8, and what the block formula needs of them. */
typedef struct {
    int8_t q[KERNELS_GROUP];
    float d;              /* scale; NaN where a value was not finite */
    float d_sum;          /* d * (float)sum */
    int32_t sum, sum_low; /* of q; of its first 16 */
} kernels_act;

/* Weights that a product asks for while it runs: from address at + g * group_bytes on when it takes group g of the strip and,
 * into the second-level cache, those that stand later_bytes behind (0: none). The processor's own streams end at each 4 KiB
 * page. */
typedef struct {
    uintptr_t at; /* no pointer, since it may lie behind the last weight */
    uint32_t group_bytes, later_bytes;
} kernels_ahead;

static inline void kernels_ask(kernels_ahead ahead, uint32_t group) {
    uintptr_t at = ahead.at + (size_t)group * ahead.group_bytes;
    for (const uintptr_t end = at + ahead.group_bytes; at < end; at += 64) {
        if (ahead.later_bytes) __builtin_prefetch((const void *)(at + ahead.later_bytes), 0, 2);
        __builtin_prefetch((const void *)at);
        __asm__ volatile("" : : "r"(at)); /* gcc takes a loop that only asks for one without effect */
    }
}

/* out[unit][t][lane] = x[t] . row `lane` of a strip, over each unit of unit_k of its columns k0 .. k0 + n_k - 1 (the last may be
 * shorter), in chunks of KERNELS_CHUNK from the unit's first. x: n_tokens (1 to tile_tokens of the table, or wide_tokens) rows,
 * stride_bytes apart, of kernels_act (quantized formats: k0, n_k and unit_k are multiples of KERNELS_GROUP) or of float, from
 * column k0 on. */
typedef void kernels_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride_bytes,
                             uint32_t n_tokens, uint32_t n_k, uint32_t unit_k, kernels_ahead ahead);

/* A group of 32 columns of a tile of a quantized format: as floats out[column][lane], equal to those of its layout's `unpack`, or
 * as a wide tile (tile.h), whose codes are as the table's own product_wide takes them. */
typedef void kernels_unpack(void *out, const uint8_t *tile, uint32_t group);

typedef struct {
    uint32_t tile_k; /* columns of a tile: the elements of a block */
    uint32_t step_k; /* columns that can be taken alone: KERNELS_GROUP, or 1 of a float format */
    uint32_t tile_bytes;
    void (*pack)(uint8_t *tile, const uint8_t *block, uint32_t lane);
    /* out[step_k] = columns from k0 on of a tile, as the gguf package dequantizes */
    void (*unpack)(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane);
    kernels_product *product; /* scalar */
} kernels_layout;

#define FORMAT(id, ggml, name, elements, bytes, ...) extern const kernels_layout kernels_layout_##id;
#include "kernels/formats.def"
#undef FORMAT
const kernels_layout *kernels_layout_of(kernels_format format);
static inline bool kernels_layout_is_float(const kernels_layout *l) { return l->tile_k == 1; }

typedef struct {
    float m, l; /* running maximum and sum of online softmax; starts at -infinity, 0 */
} kernels_softmax;

/* A query of attention: its state, the running sum o[head_dim], and q[head_dim]. */
typedef struct {
    kernels_softmax *state;
    float *o;
    const float *q;
} kernels_query;

/* Sixteen queries side by side, a lane each: q, o[head_dim][KERNELS_LANES]. */
typedef struct {
    _Alignas(64) float m[KERNELS_LANES], l[KERNELS_LANES]; /* kernels_softmax of each */
    int32_t first[KERNELS_LANES], end[KERNELS_LANES];      /* positions that each sees: first .. end - 1 */
    float q[KERNELS_MAX_HEAD_DIM * KERNELS_LANES], o[KERNELS_MAX_HEAD_DIM * KERNELS_LANES];
} kernels_lanes;

/* row = x[dim] as its KV type rounds it: kernels_kv_row_bytes(), at any address (f16: an even one). */
typedef void kernels_kv_encode(void *row, const float *x, uint32_t dim);
/* out[n_rows][dim] = what the rows, one behind the other, hold. */
typedef void kernels_kv_decode(float *out, const void *rows, uint32_t n_rows, uint32_t dim);

typedef struct {
    const char *isa;
    uint32_t tile_tokens;                             /* most tokens that `product` takes: what its registers hold */
    kernels_product *product[KERNELS_N_FORMATS];      /* NULL: the layout's scalar one */
    kernels_unpack *dequantize[KERNELS_N_FORMATS];    /* NULL: by the layout's unpack */
    kernels_unpack *widen[KERNELS_N_FORMATS];         /* NULL, with product_wide: never done */
    uint32_t wide_tokens;                             /* most tokens that `product_wide` takes, >= tile_tokens */
    uint32_t packed_passes;                           /* over a strip as it is packed; where it would take more, it is widened */
    kernels_product *product_wide[KERNELS_N_FORMATS]; /* of a strip of wide tiles */
    /* sum[i] += each y[u][i] rounded to the grid of 2^-28, half to even; NaN where |y[u][i]| >= limit (docs/numerics.md).
     * y[n_units][n]; n is a multiple of KERNELS_LANES, n_units * limit <= 2^25 */
    void (*add_on_grid)(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit);
    void (*quantize)(kernels_act *out, const float *x, uint32_t k); /* out[(k + 31) / 32]; a short last group is filled with 0 */
    void (*rmsnorm)(float *out, const float *x, const float *w, uint32_t dim, float eps);
    /* [kernels_rope_pairs]; cos_sin[head_dim / 2][2] */
    void (*rope[KERNELS_N_ROPES])(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim);
    /* [kernels_activation] */
    void (*glu[KERNELS_N_ACTIVATIONS])(float *out, const float *gate, const float *up, uint32_t dim);
    kernels_kv_encode *kv_encode[KERNELS_N_KV_TYPES];
    kernels_kv_decode *kv_decode[KERNELS_N_KV_TYPES];
    /* One chunk of keys, which all n queries see: 1 <= n_keys <= KERNELS_CHUNK_KEYS; k, v[n_keys][head_dim]. */
    void (*attend)(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                   float scale);
    /* The same for queries of several rows, each with `first` and `end` of its own; the chunk is of positions p0 on. Opened with
     * q[KERNELS_LANES][head_dim]; closing leaves the first n divided by l where they are done, or as `attend` goes on with
     * them. NULL: by `attend` alone. */
    void (*open_lanes)(kernels_lanes *l, const float *const *q, uint32_t head_dim);
    void (*attend_lanes)(kernels_lanes *l, uint32_t p0, const float *k, const float *v, uint32_t n_keys, uint32_t head_dim,
                         float scale);
    void (*close_lanes)(const kernels_lanes *l, const kernels_query *query, uint32_t n, uint32_t head_dim, bool done);
} kernels_primitives;

/* GELU by tanh is x / (1 + exp(-u)), u = x (C1 + C2 x^2): C1 = 2 sqrt(2 / pi), C2 = 0.044715 C1. */
#define KERNELS_GELU_C1 1.5957691216057308f
#define KERNELS_GELU_C2 0.0713548162726009f

/* ref/rows.c; the twins are in cpu/avx2_rows.c. */
void kernels_ref_rope_halves(float *x, const float *cos_sin, uint32_t n_heads, uint32_t head_dim);
void kernels_ref_geglu(float *out, const float *gate, const float *up, uint32_t dim);
/* ref/kv.c; the twins are in cpu/avx2_kv.c, avx512_kv.c and neon_kv.c. */
#define KV_TYPE(id, bytes)                                                                                                       \
    kernels_kv_encode kernels_ref_kv_encode_##id;                                                                                \
    kernels_kv_decode kernels_ref_kv_decode_##id;
#include "kernels/kv_types.def"
#undef KV_TYPE

const kernels_primitives *kernels_ref(void);
const kernels_primitives *kernels_avx2(void);   /* NULL where this build or this processor lacks AVX2, FMA or F16C */
const kernels_primitives *kernels_avx512(void); /* ... AVX-512 F, BW, VL, DQ or VNNI, or what kernels_avx2 needs */
const kernels_primitives *kernels_neon(void);   /* ... Armv8.2's dot product */

#endif
