/* Design: a product is cut into ranges of strips (16 output rows each); a part takes its strips through all tokens, a block of
 * tokens at a time, so that a strip stays in the first-level cache while it meets them and the activations of the block stay in
 * the second. A value never depends on the cut: it is one lane of one tile product. Where it would take more than a few passes
 * over a strip, that is first unpacked (to wide tiles; in KERNELS_FP32 to floats, always) and the passes read what comes out. */
#include "kernels/cpu/cpu_int.h"

enum {
    BLOCK_TOKENS = 64,      /* 64 x 1,536 columns of activations: 147 KB */
    AHEAD_BYTES = 1024,     /* into the first-level cache; tried: 1, 2 KiB */
    LATER_BYTES = 7168,     /* further, into the second; tried: 0, and sums of both of 6, 8, 12, 16 KiB */
    UNITS = 16,             /* partial products that are summed together */
    PARTS_PER_THREAD = 8,   /* a thread that starts late, or is slow, leaves its share to the others; tried: 2, 4, 8, 16 */
    UNPACKED_BYTES = 32768, /* of columns that are unpacked at a time */
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
    kernels_cpu_rows(d, n, k, quantize_row, &job, sizeof job);
}

typedef struct {
    const kernels_weight *w;
    const char *x; /* rows of kernels_act, or of float */
    size_t stride_bytes;
    bool is_float;
    uint32_t n, first_strip, n_strips; /* n_strips 0: all, when it is added to a sweep */
    const uint32_t *strips;            /* [n_strips] these; NULL: from first_strip on */
    const kernels_primitives *p;
    float *out; /* [n][rows]; NULL for units */
    double *sums, limit;
    uint32_t unit_cols; /* all of them where there are no units */
} product_job;

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Tokens t .. t + n - 1 going through columns k .. k + n_k - 1 of a strip together: through whole units, or a piece of one, which
 * goes on from where others ended, or which others will go on from. */
typedef struct {
    uint32_t strip, t, n, k, n_k;
    bool goes_on, is_open;
    kernels_product *product;
    const uint8_t *tiles;
    uint32_t tiles_k; /* where column k stands in them */
} pass;

/* Values of the first n lanes; compilers copy a number of bytes that they know far faster. */
static inline void copy_lanes(void *to, const void *from, uint32_t n, size_t value_bytes) {
    if (n == KERNELS_LANES)
        memcpy(to, from, KERNELS_LANES * value_bytes);
    else
        memcpy(to, from, n * value_bytes);
}

/* y[n_units][n][lane] to where they belong. */
static void put_sums(const product_job *job, const pass *p, float (*y)[KERNELS_LANES]) {
    const uint32_t rows = job->w->rows, row0 = p->strip * KERNELS_LANES, n_rows = least(KERNELS_LANES, rows - row0);
    const size_t at = (size_t)p->t * rows + row0;
    if (job->out) {
        for (uint32_t i = 0; i < p->n; i++) copy_lanes(job->out + at + (size_t)i * rows, y[i], n_rows, sizeof(float));
        return;
    }
    double sum[KERNELS_TILE_TOKENS][KERNELS_LANES];
    if (p->k < job->unit_cols)
        memset(sum, 0, p->n * sizeof *sum);
    else
        for (uint32_t i = 0; i < p->n; i++) copy_lanes(sum[i], job->sums + at + (size_t)i * rows, n_rows, sizeof(double));
    job->p->add_on_grid(sum[0], y[0], (p->n_k - 1) / job->unit_cols + 1, p->n * KERNELS_LANES, job->limit);
    for (uint32_t i = 0; i < p->n; i++) copy_lanes(job->sums + at + (size_t)i * rows, sum[i], n_rows, sizeof(double));
}

/* `piece`, of these tokens: what the pieces of a unit before this one sum to. */
static void run_pass(const product_job *job, const pass *p, kernels_ahead ahead, float (*piece)[KERNELS_LANES]) {
    const size_t k_bytes = job->is_float ? p->k * sizeof(float) : p->k / KERNELS_GROUP * sizeof(kernels_act);
    float y[UNITS * KERNELS_TILE_TOKENS][KERNELS_LANES];
    p->product(y, p->tiles, p->tiles_k, job->x + p->t * job->stride_bytes + k_bytes, job->stride_bytes, p->n, p->n_k,
               job->unit_cols, ahead);
    for (uint32_t i = 0; p->goes_on && i < p->n; i++)
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) y[i][lane] = piece[i][lane] + y[i][lane];
    if (p->is_open)
        memcpy(piece, y, p->n * sizeof *y);
    else
        put_sums(job, p, y);
}

/* Columns k to k + n_k - 1 of a strip. */
static void unpack(const kernels_weight *w, uint8_t *out, const uint8_t *strip, uint32_t k, uint32_t n_k) {
    const kernels_layout *l = w->layout;
    for (uint32_t end = k + n_k; k < end; k += KERNELS_GROUP, out += w->unpacked_bytes) {
        const uint8_t *tile = strip + (size_t)(k / l->tile_k) * l->tile_bytes;
        float column[KERNELS_GROUP];
        if (w->unpack) {
            w->unpack(out, tile, k % l->tile_k / KERNELS_GROUP);
            continue;
        }
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            l->unpack(column, tile, k % l->tile_k, lane);
            for (uint32_t i = 0; i < KERNELS_GROUP; i++)
                memcpy(out + (i * KERNELS_LANES + lane) * sizeof *column, &column[i], sizeof *column);
        }
    }
}

/* How n tokens go through the strips of a weight. */
typedef struct {
    bool unpacks;
    uint32_t at_once;     /* columns taken at a time: some whole units, or a chunk of one that is too long */
    uint32_t n_passes;    /* through each of them */
    uint32_t group_bytes; /* that a pass asks for with each group; 0: products that do not ask */
} way;

static way way_of(const product_job *job, uint32_t n) {
    const kernels_weight *w = job->w;
    const kernels_layout *l = w->layout;
    const bool unpacks = w->is_fp32 || (w->product_unpacked && n > job->p->packed_passes * job->p->tile_tokens);
    const uint32_t most = unpacks ? UNPACKED_BYTES / w->unpacked_bytes * KERNELS_GROUP : UINT32_MAX;
    const uint32_t n_passes = (n - 1) / (unpacks && !w->is_fp32 ? job->p->wide_tokens : job->p->tile_tokens) + 1;
    return (way){
        .unpacks = unpacks,
        .at_once = job->unit_cols > most ? KERNELS_CHUNK : least(UNITS, most / job->unit_cols) * job->unit_cols,
        .n_passes = n_passes,
        .group_bytes = job->is_float ? 0 : (l->tile_bytes / (l->tile_k / l->step_k) - 1) / n_passes + 1,
    };
}

/* A strip that one pass takes all tokens through is asked for a little ahead. Where there are more passes, each asks for its
 * share of the next strip, so that memory has something to do while those run for which the strip is at hand. */
static kernels_ahead what_to_ask(const kernels_weight *w, const way *how, uint32_t strip, uint32_t i) {
    const uintptr_t here = (uintptr_t)w->strips + strip * w->strip_bytes;
    if (how->n_passes == 1) return (kernels_ahead){here + AHEAD_BYTES, how->group_bytes, LATER_BYTES};
    return (kernels_ahead){here + w->strip_bytes + w->strip_bytes / how->n_passes * i, how->group_bytes, 0};
}

/* A strip and tokens t0 .. t0 + n - 1. */
static void run_strip(const product_job *job, const way *how, uint32_t strip, uint32_t t0, uint32_t n) {
    const kernels_weight *w = job->w;
    _Alignas(64) uint8_t unpacked[UNPACKED_BYTES];
    float piece[BLOCK_TOKENS][KERNELS_LANES];
    pass p = {.strip = strip, .product = w->product, .tiles = w->strips + strip * w->strip_bytes};
    for (; p.k < w->cols; p.k += p.n_k) {
        const uint32_t of_unit = p.k ? p.k % job->unit_cols : 0;
        p.n_k = least(w->cols - p.k, of_unit ? least(how->at_once, job->unit_cols - of_unit) : how->at_once);
        p.goes_on = of_unit;
        p.is_open = p.k + p.n_k < w->cols && (p.k + p.n_k) % job->unit_cols;
        p.tiles_k = w->first_k + p.k;
        if (how->unpacks) {
            unpack(w, unpacked, w->strips + strip * w->strip_bytes, w->first_k + p.k, p.n_k);
            p.product = w->product_unpacked;
            p.tiles = unpacked;
            p.tiles_k = 0;
        }
        for (uint32_t i = 0, first = 0; i < how->n_passes; i++, first += p.n) {
            kernels_ahead ahead = what_to_ask(w, how, strip, i);
            if (how->unpacks) ahead.at += p.k / KERNELS_GROUP * ahead.group_bytes;
            p.t = t0 + first;
            p.n = (n - first) / (how->n_passes - i);
            run_pass(job, &p, ahead, piece + first);
        }
    }
}

static void product_strips(const product_job *job, uint32_t from, uint32_t to) {
    for (uint32_t t = 0; t < job->n; t += BLOCK_TOKENS) {
        const uint32_t n = least(BLOCK_TOKENS, job->n - t);
        const way how = way_of(job, n);
        for (uint32_t i = from; i < to; i++) run_strip(job, &how, job->strips ? job->strips[i] : i, t, n);
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
        const uint32_t at = s->job[i].first_strip;
        if (from < end && to > first)
            product_strips(&s->job[i], at + (from > first ? from - first : 0), at + least(to, end) - first);
    }
}

static void sweep_add(kernels_device *d, sweep *s, product_job job, kernels_view x, kernels_view act) {
    const kernels_weight *w = job.w;
    INVARIANT(s->n_jobs < KERNELS_MAX_PROJECTIONS);
    job.is_float = w->is_fp32 || kernels_layout_is_float(w->layout);
    job.stride_bytes = job.is_float ? w->cols * sizeof(float) : kernels_cpu_act_bytes(1, w->cols);
    job.x = kernels_cpu_at(job.is_float ? x : act, job.n * job.stride_bytes);
    const uint32_t n_all = (w->rows - 1) / KERNELS_LANES + 1;
    if (!job.n_strips) job.n_strips = n_all;
    INVARIANT(job.first_strip < n_all && job.n_strips <= n_all - job.first_strip);
    job.p = d->primitives;
    s->n_strips += job.n_strips;
    s->job[s->n_jobs++] = job;
}

static void sweep_run(kernels_device *d, sweep *s) {
    kernels_cpu_flush(d);
    uint32_t parts = d->n_threads == 1 ? 1 : d->n_threads * PARTS_PER_THREAD;
    s->strips_a_part = (s->n_strips - 1) / parts + 1;
    pool_run(d->threads, (s->n_strips - 1) / s->strips_a_part + 1, sweep_part, s);
}

void kernels_cpu_matmul(kernels_device *d, const kernels_projection *p, uint32_t n_projections, kernels_view x, kernels_view act,
                        uint32_t n) {
    sweep s = {.n_jobs = 0};
    for (uint32_t i = 0; i < n_projections; i++) {
        const kernels_weight *w = p[i].weight;
        product_job job = {.w = w,
                           .n = n,
                           .first_strip = p[i].first_row / KERNELS_LANES,
                           .n_strips = p[i].n_runs > 0 ? p[i].n_runs : (p[i].n_rows + KERNELS_LANES - 1) / KERNELS_LANES,
                           .strips = p[i].n_runs > 0 ? p[i].runs : NULL,
                           .out = kernels_cpu_floats(p[i].out, n, w->rows),
                           .unit_cols = w->cols};
        sweep_add(d, &s, job, x, act);
    }
    sweep_run(d, &s);
}

void kernels_cpu_matmul_units(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                              uint32_t n, uint32_t unit_cols, uint32_t n_units_total) {
    INVARIANT(unit_cols && unit_cols % w->layout->step_k == 0 && (w->cols - 1) / unit_cols < n_units_total);
    double limit = 0x1p25 / n_units_total;
    product_job job = {.w = w,
                       .n = n,
                       .sums = kernels_cpu_at(out, (size_t)n * w->rows * sizeof(double)),
                       .limit = limit < 0x1p23 ? limit : 0x1p23,
                       .unit_cols = unit_cols};
    sweep s = {.n_jobs = 0};
    sweep_add(d, &s, job, x, act);
    sweep_run(d, &s);
}
