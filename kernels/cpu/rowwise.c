#include "kernels/cpu/cpu_int.h"

/* One context for the operations that treat a row at a time. */
typedef struct {
    const kernels_primitives *p;
    float *out;
    const float *x, *w;
    double *sum;
    const uint32_t *index;
    uint8_t *bad;
    uint32_t dim, n_heads, head_dim;
    kernels_rope_pairs pairs;
    kernels_activation activation;
    float eps, factor;
} row_job;

static void rmsnorm_row(void *context, uint32_t i) {
    const row_job *job = context;
    size_t at = (size_t)i * job->dim;
    job->p->rmsnorm(job->out + at, job->x + at, job->w, job->dim, job->eps);
}

void kernels_cpu_rmsnorm(kernels_device *d, kernels_view out, kernels_view x, kernels_view w, uint32_t n, uint32_t dim,
                         float eps) {
    row_job job = {.p = d->primitives,
                   .out = kernels_cpu_floats(out, n, dim),
                   .x = kernels_cpu_floats(x, n, dim),
                   .w = kernels_cpu_floats(w, 1, dim),
                   .dim = dim,
                   .eps = eps};
    kernels_cpu_rows(d, n, dim, rmsnorm_row, &job, sizeof job);
}

static void add_row(void *context, uint32_t i) {
    const row_job *job = context;
    float *x = job->out + (size_t)i * job->dim;
    const double *sum = job->sum + (size_t)i * job->dim;
    for (uint32_t k = 0; k < job->dim; k++) x[k] += (float)sum[k];
}

void kernels_cpu_add_reduced(kernels_device *d, kernels_view x, kernels_view sum, uint32_t n, uint32_t dim) {
    row_job job = {
        .out = kernels_cpu_floats(x, n, dim), .sum = kernels_cpu_at(sum, (size_t)n * dim * sizeof(double)), .dim = dim};
    kernels_cpu_rows(d, n, dim, add_row, &job, sizeof job);
}

/* The row as floats takes the front half of its own doubles: float k is written where no double after k stands. */
static void add_normed_row(void *context, uint32_t i) {
    const row_job *job = context;
    float *x = job->out + (size_t)i * job->dim;
    char *row = (char *)(job->sum + (size_t)i * job->dim);
    for (uint32_t k = 0; k < job->dim; k++) {
        double y;
        memcpy(&y, row + k * sizeof y, sizeof y);
        const float narrow = (float)y;
        memcpy(row + k * sizeof narrow, &narrow, sizeof narrow);
    }
    float *y = (float *)(void *)row;
    job->p->rmsnorm(y, y, job->w, job->dim, job->eps);
    for (uint32_t k = 0; k < job->dim; k++) x[k] += y[k];
}

void kernels_cpu_add_normed(kernels_device *d, kernels_view x, kernels_view sum, kernels_view w, uint32_t n, uint32_t dim,
                            float eps) {
    row_job job = {.p = d->primitives,
                   .out = kernels_cpu_floats(x, n, dim),
                   .sum = kernels_cpu_at(sum, (size_t)n * dim * sizeof(double)),
                   .w = kernels_cpu_floats(w, 1, dim),
                   .dim = dim,
                   .eps = eps};
    kernels_cpu_rows(d, n, dim, add_normed_row, &job, sizeof job);
}

static void add_bias_row(void *context, uint32_t i) {
    const row_job *job = context;
    float *x = job->out + (size_t)i * job->dim;
    for (uint32_t k = 0; k < job->dim; k++) x[k] += job->w[k];
}

void kernels_cpu_add_bias(kernels_device *d, kernels_view x, kernels_view bias, uint32_t n, uint32_t dim) {
    row_job job = {.out = kernels_cpu_floats(x, n, dim), .w = kernels_cpu_floats(bias, 1, dim), .dim = dim};
    kernels_cpu_rows(d, n, dim, add_bias_row, &job, sizeof job);
}

static void scale_row(void *context, uint32_t i) {
    const row_job *job = context;
    float *x = job->out + (size_t)i * job->dim;
    for (uint32_t k = 0; k < job->dim; k++) x[k] *= job->factor;
}

void kernels_cpu_scale(kernels_device *d, kernels_view x, float factor, uint32_t n, uint32_t dim) {
    row_job job = {.out = kernels_cpu_floats(x, n, dim), .factor = factor, .dim = dim};
    kernels_cpu_rows(d, n, dim, scale_row, &job, sizeof job);
}

static void rope_row(void *context, uint32_t i) {
    const row_job *job = context;
    job->p->rope[job->pairs](job->out + (size_t)i * job->n_heads * job->head_dim, job->x + (size_t)job->index[i] * job->head_dim,
                             job->n_heads, job->head_dim);
}

void kernels_cpu_rope(kernels_device *d, kernels_view x, kernels_view table, const uint32_t *position, uint32_t n,
                      uint32_t n_heads, uint32_t head_dim, kernels_rope_pairs pairs) {
    INVARIANT(head_dim % 2 == 0 && (unsigned)pairs < KERNELS_N_ROPES);
    uint32_t last = 0;
    for (uint32_t i = 0; i < n; i++) last = position[i] > last ? position[i] : last;
    row_job job = {.p = d->primitives,
                   .out = kernels_cpu_floats(x, n, n_heads * head_dim),
                   .x = kernels_cpu_at(table, ((size_t)last + 1) * head_dim * sizeof(float)),
                   .index = position,
                   .n_heads = n_heads,
                   .head_dim = head_dim,
                   .pairs = pairs};
    kernels_cpu_rows(d, n, n_heads * head_dim, rope_row, &job, sizeof job);
}

static void glu_row(void *context, uint32_t i) {
    const row_job *job = context;
    size_t at = (size_t)i * job->dim;
    job->p->glu[job->activation](job->out + at, job->x + at, job->w + at, job->dim);
}

void kernels_cpu_glu(kernels_device *d, kernels_view out, kernels_view gate, kernels_view up, uint32_t n, uint32_t dim,
                     kernels_activation activation) {
    INVARIANT((unsigned)activation < KERNELS_N_ACTIVATIONS);
    row_job job = {.p = d->primitives,
                   .out = kernels_cpu_floats(out, n, dim),
                   .x = kernels_cpu_floats(gate, n, dim),
                   .w = kernels_cpu_floats(up, n, dim),
                   .dim = dim,
                   .activation = activation};
    kernels_cpu_rows(d, n, dim, glu_row, &job, sizeof job);
}

void kernels_cpu_gather(kernels_device *d, kernels_view out, kernels_view x, const uint32_t *index, uint32_t n, uint32_t dim) {
    kernels_cpu_flush(d);
    uint32_t last = 0;
    for (uint32_t i = 0; i < n; i++) last = index[i] > last ? index[i] : last;
    float *to = kernels_cpu_floats(out, n, dim);
    const float *from = kernels_cpu_at(x, n ? ((size_t)last + 1) * dim * sizeof(float) : 0);
    for (uint32_t i = 0; i < n; i++) memcpy(to + (size_t)i * dim, from + (size_t)index[i] * dim, dim * sizeof(float));
}

static void find_bad_row(void *context, uint32_t i) {
    const row_job *job = context;
    const float *x = job->x + (size_t)i * job->dim;
    uint32_t all_ones = 0; /* exponents of all ones: infinity or NaN; in integers, so that no flag or branch is needed */
    for (uint32_t k = 0; k < job->dim; k++) {
        uint32_t u;
        memcpy(&u, &x[k], sizeof u);
        all_ones |= (u & 0x7f800000u) == 0x7f800000u;
    }
    job->bad[i] = (uint8_t)all_ones;
}

void kernels_cpu_find_bad(kernels_device *d, uint8_t *bad, kernels_view x, uint32_t n, uint32_t dim) {
    row_job job = {.x = kernels_cpu_floats(x, n, dim), .bad = bad, .dim = dim};
    kernels_cpu_rows(d, n, dim, find_bad_row, &job, sizeof job);
}
