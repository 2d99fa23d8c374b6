/* Design: a product is cut into ranges of strips (16 output rows each); a part takes its strips through all tokens, a block of
 * tokens at a time, so that a strip stays in the first-level cache while it meets them and the activations of the block stay in
 * the second. A value never depends on the cut: it is one lane of one tile product. */
#include "kernels/cpu/cpu_int.h"

enum {
    BLOCK_TOKENS = 64,    /* 64 x 1,536 columns of activations: 135 KB */
    UNITS = 16,           /* partial products that are summed together */
    PARTS_PER_THREAD = 4, /* a thread that starts late leaves its share to the others */
};

size_t kernels_cpu_act_bytes(uint32_t n, uint32_t k) {
    return (size_t)n * (((size_t)k + KERNELS_GROUP - 1) / KERNELS_GROUP) * sizeof(kernels_act);
}

typedef struct {
    kernels_device *d;
    char *act;
    const float *x;
    uint32_t k;
} quantize_job;

static void quantize_row(void *context, uint32_t i) {
    const quantize_job *job = context;
    job->d->primitives->quantize((kernels_act *)(job->act + i * kernels_cpu_act_bytes(1, job->k)), job->x + (size_t)i * job->k,
                                 job->k);
}

void kernels_cpu_quantize(kernels_device *d, kernels_view act, kernels_view x, uint32_t n, uint32_t k) {
    quantize_job job = {d, kernels_cpu_at(act, kernels_cpu_act_bytes(n, k)), kernels_cpu_floats(x, n, k), k};
    kernels_cpu_rows(d, n, k, quantize_row, &job);
}

typedef struct {
    const kernels_weight *w;
    const char *x; /* rows of kernels_act, or of float */
    size_t stride_bytes;
    uint32_t n, n_strips, strips_a_part;
    float *out; /* [n][rows]; NULL for units */
    double *sums, limit;
    void (*add_on_grid)(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit);
    uint32_t unit_cols;
} product_job;

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void product_strip(const product_job *job, uint32_t strip, uint32_t t, uint32_t n_tokens) {
    const kernels_weight *w = job->w;
    uint32_t row0 = strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, w->rows - row0);
    float y[KERNELS_TILE_TOKENS][KERNELS_LANES];
    w->product(y, w->strips + strip * w->strip_bytes, w->first_k, job->x + t * job->stride_bytes, job->stride_bytes, n_tokens,
               w->cols);
    for (uint32_t i = 0; i < n_tokens; i++) memcpy(job->out + (size_t)(t + i) * w->rows + row0, y[i], n_rows * sizeof(float));
}

static void units_strip(const product_job *job, uint32_t strip, uint32_t t, uint32_t n_tokens) {
    const kernels_weight *w = job->w;
    const kernels_layout *l = w->layout;
    uint32_t row0 = strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, w->rows - row0);
    size_t step_bytes = kernels_layout_is_float(l) ? sizeof(float) : sizeof(kernels_act);
    double sum[KERNELS_TILE_TOKENS][KERNELS_LANES] = {{0}};
    float y[UNITS * KERNELS_TILE_TOKENS][KERNELS_LANES];
    for (uint32_t k = 0, n_units = 0; k < w->cols; k += job->unit_cols) {
        w->product(y + n_units++ * n_tokens, w->strips + strip * w->strip_bytes, w->first_k + k,
                   job->x + t * job->stride_bytes + k / l->step_k * step_bytes, job->stride_bytes, n_tokens,
                   least(job->unit_cols, w->cols - k));
        if (n_units < UNITS && k + job->unit_cols < w->cols) continue;
        job->add_on_grid(sum[0], y[0], n_units, n_tokens * KERNELS_LANES, job->limit);
        n_units = 0;
    }
    for (uint32_t i = 0; i < n_tokens; i++) {
        double *out = job->sums + (size_t)(t + i) * w->rows + row0;
        if (n_rows == KERNELS_LANES)
            memcpy(out, sum[i], sizeof sum[i]);
        else
            memcpy(out, sum[i], n_rows * sizeof *out);
    }
}

static void product_part(void *context, uint32_t part) {
    const product_job *job = context;
    uint32_t from = part * job->strips_a_part, to = least(job->n_strips, from + job->strips_a_part);
    for (uint32_t t0 = 0; t0 < job->n; t0 += BLOCK_TOKENS) {
        uint32_t end = least(job->n, t0 + BLOCK_TOKENS);
        for (uint32_t strip = from; strip < to; strip++)
            for (uint32_t t = t0; t < end; t += KERNELS_TILE_TOKENS)
                (job->out ? product_strip : units_strip)(job, strip, t, least(KERNELS_TILE_TOKENS, end - t));
    }
}

static void run(kernels_device *d, product_job *job, kernels_view x, kernels_view act) {
    const kernels_weight *w = job->w;
    bool is_float = kernels_layout_is_float(w->layout);
    job->stride_bytes = is_float ? w->cols * sizeof(float) : kernels_cpu_act_bytes(1, w->cols);
    job->x = kernels_cpu_at(is_float ? x : act, job->n * job->stride_bytes);
    job->n_strips = (w->rows - 1) / KERNELS_LANES + 1;
    uint32_t parts = d->n_threads == 1 ? 1 : d->n_threads * PARTS_PER_THREAD;
    job->strips_a_part = (job->n_strips - 1) / parts + 1;
    pool_run(d->threads, (job->n_strips - 1) / job->strips_a_part + 1, product_part, job);
}

void kernels_cpu_matmul(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                        uint32_t n) {
    product_job job = {.w = w, .n = n, .out = kernels_cpu_floats(out, n, w->rows)};
    run(d, &job, x, act);
}

void kernels_cpu_matmul_units(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                              uint32_t n, uint32_t unit_cols, uint32_t n_units_total) {
    INVARIANT(unit_cols && unit_cols % w->layout->step_k == 0 && n_units_total);
    double limit = 0x1p25 / n_units_total;
    product_job job = {.w = w,
                       .n = n,
                       .sums = kernels_cpu_at(out, (size_t)n * w->rows * sizeof(double)),
                       .limit = limit < 0x1p23 ? limit : 0x1p23,
                       .add_on_grid = d->primitives->add_on_grid,
                       .unit_cols = unit_cols};
    run(d, &job, x, act);
}
