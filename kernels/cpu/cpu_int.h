/* Inside kernels/cpu/: the CPU device, one source for all instruction sets.
 *
 * The device has memory, threads and a table of primitives; each operation checks its shapes, cuts its rows, tiles or heads
 * into parts, and calls a primitive for each. An operation is done when it returns, but for those by rows: they
 * are queued until the next other one, or wait(). A view outside its buffer is a bug of the caller and breaks an INVARIANT. One
 * thread at a time calls a device. */
#ifndef CONSORT_KERNELS_CPU_INT_H
#define CONSORT_KERNELS_CPU_INT_H

#include "base/pool.h"
#include "kernels/kernels_int.h"
#include <string.h>

typedef struct kernels_slab kernels_slab;

enum { KERNELS_ROW_STEPS = 8, KERNELS_ROW_STEP_BYTES = 192 };

/* part(context, i) makes row i of an operation from row i of others. */
typedef struct {
    pool_part *part;
    _Alignas(16) unsigned char context[KERNELS_ROW_STEP_BYTES];
} kernels_row_step;

struct kernels_device {
    const kernels_primitives *primitives;
    pool *threads;
    uint32_t n_threads, n_buffers, n_weights; /* alive; must be 0 at the end */
    kernels_slab *slabs;                      /* memory of weights */
    /* Operations by rows that have been queued: the next other one runs them all, a row through all of them at a time. */
    kernels_row_step step[KERNELS_ROW_STEPS];
    uint32_t n_steps, n_rows;
    uint64_t n_values;
};

struct kernels_buffer {
    unsigned char *bytes;
    size_t size_bytes;
};

struct kernels_weight {
    const kernels_layout *layout;
    kernels_slab *slab;
    kernels_product *product; /* of its packed strips */
    /* A strip unpacked for many tokens: always in KERNELS_FP32, to floats; else where more than two passes would read it. */
    kernels_product *product_unpacked; /* NULL: never; of a float format, or of wide tiles */
    kernels_unpack *unpack;            /* NULL: by the layout's */
    uint32_t unpacked_bytes;           /* of a group of columns */
    bool is_fp32;                      /* a quantized format in KERNELS_FP32 */
    uint32_t rows, cols;
    uint32_t first_k;   /* columns of the first tile that are not the weight's: it starts inside a block */
    size_t strip_bytes; /* the tiles of KERNELS_LANES rows, ascending K */
    uint8_t *strips;    /* [(rows + 15) / 16][strip_bytes] */
};

static inline void *kernels_cpu_at(kernels_view v, size_t n_bytes) {
    INVARIANT(v.buffer && v.at_bytes % 64 == 0 && v.at_bytes <= v.buffer->size_bytes &&
              n_bytes <= v.buffer->size_bytes - v.at_bytes);
    return v.buffer->bytes + v.at_bytes;
}
static inline float *kernels_cpu_floats(kernels_view v, uint32_t rows, uint32_t cols) {
    return kernels_cpu_at(v, (size_t)rows * cols * sizeof(float));
}

/* Queues part(context, row) for n rows of `values` values; the context is copied. Row i may touch only row i of what others
 * queued with the same n touch: they run a row through all of them at a time. */
void kernels_cpu_rows(kernels_device *d, uint32_t n, uint32_t values, pool_part *part, const void *context, size_t context_bytes);

/* Runs what is queued. */
void kernels_cpu_flush(kernels_device *d);

/* The members of kernels_ops, by file; see kernels.h. */
st_code kernels_cpu_weight_create(kernels_device *d, const kernels_matrix *m, uint32_t row0, uint32_t n_rows, uint32_t col0,
                                  uint32_t n_cols, kernels_precision precision, kernels_weight **out);
void kernels_cpu_weight_free(kernels_device *d, kernels_weight *w);
size_t kernels_cpu_weight_bytes(const kernels_weight *w);
void kernels_cpu_weight_shape(const kernels_weight *w, uint32_t *rows, uint32_t *cols);
void kernels_cpu_embed(kernels_device *d, kernels_view out, const kernels_matrix *table, const uint32_t *token, uint32_t n);

size_t kernels_cpu_act_bytes(uint32_t n, uint32_t k);
void kernels_cpu_quantize(kernels_device *d, kernels_view act, kernels_view x, uint32_t n, uint32_t k);
void kernels_cpu_matmul(kernels_device *d, const kernels_projection *p, uint32_t n_projections, kernels_view x, kernels_view act,
                        uint32_t n);
void kernels_cpu_matmul_units(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                              uint32_t n, uint32_t unit_cols, uint32_t n_units_total);

void kernels_cpu_rmsnorm(kernels_device *d, kernels_view out, kernels_view x, kernels_view w, uint32_t n, uint32_t dim,
                         float eps);
void kernels_cpu_add_reduced(kernels_device *d, kernels_view x, kernels_view sum, uint32_t n, uint32_t dim);
void kernels_cpu_add_normed(kernels_device *d, kernels_view x, kernels_view sum, kernels_view w, uint32_t n, uint32_t dim,
                            float eps);
void kernels_cpu_add_bias(kernels_device *d, kernels_view x, kernels_view bias, uint32_t n, uint32_t dim);
void kernels_cpu_scale(kernels_device *d, kernels_view x, float factor, uint32_t n, uint32_t dim);
void kernels_cpu_rope(kernels_device *d, kernels_view x, kernels_view table, const uint32_t *position, uint32_t n,
                      uint32_t n_heads, uint32_t head_dim, kernels_rope_pairs pairs);
void kernels_cpu_glu(kernels_device *d, kernels_view out, kernels_view gate, kernels_view up, uint32_t n, uint32_t dim,
                     kernels_activation activation);
void kernels_cpu_gather(kernels_device *d, kernels_view out, kernels_view x, const uint32_t *index, uint32_t n, uint32_t dim);
void kernels_cpu_find_bad(kernels_device *d, uint8_t *bad, kernels_view x, uint32_t n, uint32_t dim);

void kernels_cpu_kv_write(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view k, kernels_view v,
                          const kernels_row *rows, uint32_t n);
void kernels_cpu_attention(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view out, kernels_view q,
                           const kernels_row *rows, uint32_t n, uint32_t n_heads, const uint32_t *kv_head_of, uint32_t window);
void kernels_cpu_kv_move(kernels_device *d, const kernels_kv *kv, const uint32_t *blocks, uint32_t to_slot, uint32_t from_slot);

#endif
