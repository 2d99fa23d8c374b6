/* Design: a product is cut into ranges of strips (16 output rows each); a part takes its strips through all tokens, a block of
 * tokens at a time, so that a strip stays in the first-level cache while it meets them and the activations of the block stay in
 * the second. A value never depends on the cut: it is one lane of one tile product. Where a weight expands to fp32, a chunk of a
 * strip is turned into floats once and meets all tokens of the block: 32 KB that never leave the second-level cache. */
#include "kernels/cpu/cpu_int.h"

enum {
    BLOCK_TOKENS = 64,    /* 64 x 1,536 columns of activations: 135 KB */
    AHEAD_BYTES = 4096,   /* tried: 1, 2, 4, 6, 8, 16 KiB */
    UNITS = 16,           /* partial products that are summed together */
    PARTS_PER_THREAD = 8, /* a thread that starts late, or is slow, leaves its share to the others; tried: 2, 4, 8, 16 */
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
    uint32_t n, n_strips, tile_tokens;
    float *out; /* [n][rows]; NULL for units */
    double *sums, limit;
    void (*add_on_grid)(double *sum, const float *y, uint32_t n_units, uint32_t n, double limit);
    uint32_t unit_cols;
} product_job;

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* The tokens of a strip that go through it together. */
typedef struct {
    uint32_t strip, t, n_tokens;
    kernels_ahead ahead;
} strip_tokens;

static void product_strip(const product_job *job, strip_tokens s) {
    const kernels_weight *w = job->w;
    uint32_t row0 = s.strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, w->rows - row0);
    float y[KERNELS_TILE_TOKENS][KERNELS_LANES];
    w->product(y, w->strips + s.strip * w->strip_bytes, w->first_k, job->x + s.t * job->stride_bytes, job->stride_bytes,
               s.n_tokens, w->cols, w->cols, s.ahead);
    for (uint32_t i = 0; i < s.n_tokens; i++) memcpy(job->out + (size_t)(s.t + i) * w->rows + row0, y[i], n_rows * sizeof(float));
}

static void units_strip(const product_job *job, strip_tokens s) {
    const kernels_weight *w = job->w;
    const kernels_layout *l = w->layout;
    uint32_t row0 = s.strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, w->rows - row0);
    size_t step_bytes = kernels_layout_is_float(l) ? sizeof(float) : sizeof(kernels_act);
    double sum[KERNELS_TILE_TOKENS][KERNELS_LANES] = {{0}};
    float y[UNITS * KERNELS_TILE_TOKENS][KERNELS_LANES];
    for (uint32_t k = 0, n_k; k < w->cols; k += n_k) {
        n_k = least(UNITS * job->unit_cols, w->cols - k);
        w->product(y, w->strips + s.strip * w->strip_bytes, w->first_k + k,
                   job->x + s.t * job->stride_bytes + k / l->step_k * step_bytes, job->stride_bytes, s.n_tokens, n_k,
                   job->unit_cols, s.ahead);
        job->add_on_grid(sum[0], y[0], (n_k - 1) / job->unit_cols + 1, s.n_tokens * KERNELS_LANES, job->limit);
    }
    for (uint32_t i = 0; i < s.n_tokens; i++) {
        double *out = job->sums + (size_t)(s.t + i) * w->rows + row0;
        if (n_rows == KERNELS_LANES)
            memcpy(out, sum[i], sizeof sum[i]);
        else
            memcpy(out, sum[i], n_rows * sizeof *out);
    }
}

/* w[column][lane] = columns k to k + n_k - 1 of a strip. */
static void expand(const kernels_weight *w, float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k, uint32_t n_k) {
    const kernels_layout *l = w->layout;
    for (uint32_t end = k + n_k; k < end; k += KERNELS_GROUP, out += KERNELS_GROUP) {
        const uint8_t *tile = strip + (size_t)(k / l->tile_k) * l->tile_bytes;
        float column[KERNELS_GROUP];
        if (w->dequantize) {
            w->dequantize(out, tile, k % l->tile_k / KERNELS_GROUP);
            continue;
        }
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            l->unpack(column, tile, k % l->tile_k, lane);
            for (uint32_t i = 0; i < KERNELS_GROUP; i++) out[i][lane] = column[i];
        }
    }
}

/* product_strip and units_strip of a weight that expands, for up to BLOCK_TOKENS. */
static void expanded_strip(const product_job *job, uint32_t strip, uint32_t t0, uint32_t n_tokens) {
    const kernels_weight *w = job->w;
    const uint8_t *tiles = w->strips + strip * w->strip_bytes;
    uint32_t row0 = strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, w->rows - row0);
    _Alignas(64) float columns[KERNELS_CHUNK][KERNELS_LANES], y[BLOCK_TOKENS][KERNELS_LANES];
    float part[KERNELS_TILE_TOKENS][KERNELS_LANES];
    double sum[BLOCK_TOKENS][KERNELS_LANES];
    memset(sum, 0, n_tokens * sizeof *sum);
    for (uint32_t k = 0, unit = 0, n_k; k < w->cols; k += n_k) {
        uint32_t unit_end = job->out ? w->cols : least(w->cols, unit + job->unit_cols);
        n_k = least(KERNELS_CHUNK, unit_end - k);
        expand(w, columns, tiles, w->first_k + k, n_k);
        for (uint32_t t = 0, n; t < n_tokens; t += n) {
            n = least(job->tile_tokens, n_tokens - t);
            w->product(k > unit ? part : y + t, (const uint8_t *)columns, 0,
                       job->x + (t0 + t) * job->stride_bytes + k * sizeof(float), job->stride_bytes, n, n_k, n_k,
                       (kernels_ahead){0});
            for (uint32_t i = 0; k > unit && i < n; i++)
                for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) y[t + i][lane] += part[i][lane];
        }
        if (k + n_k < unit_end) continue;
        unit = unit_end;
        if (job->sums) job->add_on_grid(sum[0], y[0], 1, n_tokens * KERNELS_LANES, job->limit);
    }
    for (uint32_t i = 0; i < n_tokens; i++) {
        size_t at = (size_t)(t0 + i) * w->rows + row0;
        if (job->out) memcpy(job->out + at, y[i], n_rows * sizeof(float));
        if (job->sums) memcpy(job->sums + at, sum[i], n_rows * sizeof(double));
    }
}

/* A strip that one pass takes all tokens through is asked for a little ahead. Where there are more passes, each asks for its
 * share of the next strip, so that memory has something to do while those run for which the strip is at hand. */
static kernels_ahead what_to_ask(const kernels_weight *w, uint32_t strip, uint32_t pass, uint32_t n_passes) {
    const kernels_layout *l = w->layout;
    const char *here = (const char *)w->strips + strip * w->strip_bytes;
    uint32_t group_bytes = l->tile_bytes / (l->tile_k / l->step_k);
    if (kernels_layout_is_float(l)) return (kernels_ahead){0};
    if (n_passes == 1) return (kernels_ahead){here + AHEAD_BYTES, group_bytes};
    return (kernels_ahead){here + w->strip_bytes + w->strip_bytes / n_passes * pass, (group_bytes - 1) / n_passes + 1};
}

static void product_strips(const product_job *job, uint32_t from, uint32_t to) {
    for (uint32_t t0 = 0; t0 < job->n; t0 += BLOCK_TOKENS) {
        uint32_t end = least(job->n, t0 + BLOCK_TOKENS);
        for (uint32_t strip = from; strip < to; strip++) {
            if (job->w->expands) {
                expanded_strip(job, strip, t0, end - t0);
                continue;
            }
            uint32_t n_passes = (end - t0 - 1) / job->tile_tokens + 1;
            for (uint32_t i = 0; i < n_passes; i++) {
                uint32_t t = t0 + (end - t0) * i / n_passes, next = t0 + (end - t0) * (i + 1) / n_passes;
                (job->out ? product_strip
                          : units_strip)(job, (strip_tokens){strip, t, next - t, what_to_ask(job->w, strip, i, n_passes)});
            }
        }
    }
}

/* Products in one sweep: their strips stand one after the other. */
typedef struct {
    product_job job[KERNELS_MAX_PROJECTIONS];
    uint32_t n_jobs, n_strips, strips_a_part;
} sweep;

static void sweep_part(void *context, uint32_t part) {
    const sweep *s = context;
    uint32_t from = part * s->strips_a_part, to = least(s->n_strips, from + s->strips_a_part), first = 0;
    for (uint32_t i = 0; i < s->n_jobs; first += s->job[i++].n_strips) {
        uint32_t end = first + s->job[i].n_strips;
        if (from < end && to > first) product_strips(&s->job[i], from > first ? from - first : 0, least(to, end) - first);
    }
}

static void sweep_add(kernels_device *d, sweep *s, product_job job, kernels_view x, kernels_view act) {
    const kernels_weight *w = job.w;
    INVARIANT(s->n_jobs < KERNELS_MAX_PROJECTIONS);
    bool is_float = w->expands || kernels_layout_is_float(w->layout);
    job.stride_bytes = is_float ? w->cols * sizeof(float) : kernels_cpu_act_bytes(1, w->cols);
    job.x = kernels_cpu_at(is_float ? x : act, job.n * job.stride_bytes);
    job.n_strips = (w->rows - 1) / KERNELS_LANES + 1;
    job.tile_tokens = d->primitives->tile_tokens;
    s->n_strips += job.n_strips;
    s->job[s->n_jobs++] = job;
}

static void sweep_run(kernels_device *d, sweep *s) {
    uint32_t parts = d->n_threads == 1 ? 1 : d->n_threads * PARTS_PER_THREAD;
    s->strips_a_part = (s->n_strips - 1) / parts + 1;
    pool_run(d->threads, (s->n_strips - 1) / s->strips_a_part + 1, sweep_part, s);
}

void kernels_cpu_matmul(kernels_device *d, const kernels_projection *p, uint32_t n_projections, kernels_view x, kernels_view act,
                        uint32_t n) {
    sweep s = {.n_jobs = 0};
    for (uint32_t i = 0; i < n_projections; i++) {
        const kernels_weight *w = p[i].weight;
        sweep_add(d, &s, (product_job){.w = w, .n = n, .out = kernels_cpu_floats(p[i].out, n, w->rows)}, x, act);
    }
    sweep_run(d, &s);
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
    sweep s = {.n_jobs = 0};
    sweep_add(d, &s, job, x, act);
    sweep_run(d, &s);
}
