/* Design: the device is the same source for every instruction set; a back end is this table of operations over a table of
 * primitives, so a new instruction set is one file of primitives and one row here. Operations run at once on the calling thread
 * and its pool, but for those that make a row of the same rows of others (norms, quantization, ...): such a run of them is one
 * loop over rows, so that threads meet once and a row stays in the first-level cache. Buffers count themselves, so that a leak is
 * found at destroy. */
#include "kernels/cpu/cpu_int.h"

#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

enum {
    MAP_BYTES = 1 << 21,    /* from here on pages of its own: a KV cache costs what is used of it */
    WORTH_A_WAKE = 1 << 14, /* values of cheap row work that pay for waking a thread */
    RUNS_PER_THREAD = 2,    /* of rows: a thread that starts late leaves one to the others */
};

static void cpu_destroy(kernels_device *d) {
    if (!d) return;
    INVARIANT(!d->n_buffers && !d->n_weights);
    pool_destroy(d->threads);
    mem_free(d);
}

static st_code cpu_create(const kernels_primitives *primitives, uint32_t n_threads, kernels_device **out, st_error *e) {
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "threads: %u, expected 1 to %d", n_threads, POOL_MAX_THREADS);
    if (!primitives)
        return st_fail(e, ST_ERR_UNSUPPORTED, "this processor lacks the instruction set; use \"auto\" or \"scalar\"");
    kernels_device *d = mem_alloc(1, sizeof *d);
    if (!d) return st_fail(e, ST_FATAL_MEMORY, "no memory for a device");
    st_code code = pool_create(n_threads, &d->threads);
    if (code) {
        cpu_destroy(d);
        return st_fail(e, code, "cannot start %u compute threads: %s", n_threads, st_text(code));
    }
    d->primitives = primitives;
    d->n_threads = n_threads;
    *out = d;
    return ST_OK;
}

static st_code scalar_create(uint32_t n_threads, kernels_device **out, st_error *e) {
    return cpu_create(kernels_ref(), n_threads, out, e);
}
static st_code avx2_create(uint32_t n_threads, kernels_device **out, st_error *e) {
    return cpu_create(kernels_avx2(), n_threads, out, e);
}
static st_code avx512_create(uint32_t n_threads, kernels_device **out, st_error *e) {
    return cpu_create(kernels_avx512(), n_threads, out, e);
}
static st_code neon_create(uint32_t n_threads, kernels_device **out, st_error *e) {
    return cpu_create(kernels_neon(), n_threads, out, e);
}

static st_code buffer_alloc(kernels_device *d, size_t size, kernels_buffer **out) {
    kernels_buffer *b = mem_alloc(1, sizeof *b);
    if (!b) return ST_FATAL_MEMORY;
    b->bytes = size < MAP_BYTES ? mem_alloc_aligned(size, 1, 64) : mem_map(size);
    if (!b->bytes) {
        mem_free(b);
        return ST_FATAL_MEMORY;
    }
    b->size_bytes = size;
    d->n_buffers++;
    *out = b;
    return ST_OK;
}

static void buffer_free(kernels_device *d, kernels_buffer *b) {
    if (!b) return;
    kernels_cpu_flush(d);
    d->n_buffers--;
    if (b->size_bytes < MAP_BYTES)
        mem_free(b->bytes);
    else
        mem_unmap(b->bytes, b->size_bytes);
    mem_free(b);
}

static void upload(kernels_device *d, kernels_view to, const void *from, size_t n) {
    kernels_cpu_flush(d);
    if (n) memcpy(kernels_cpu_at(to, n), from, n);
}

static void download(kernels_device *d, void *to, kernels_view from, size_t n) {
    kernels_cpu_flush(d);
    if (n) memcpy(to, kernels_cpu_at(from, n), n);
}

static const void *host(kernels_device *d, kernels_view v, size_t n) {
    kernels_cpu_flush(d);
    return kernels_cpu_at(v, n);
}

static void copy(kernels_device *d, kernels_view to, kernels_view from, size_t n) {
    kernels_cpu_flush(d);
    if (n) memcpy(kernels_cpu_at(to, n), kernels_cpu_at(from, n), n);
}

/* No flush: steps that were put off are the other thread's, and of other bytes. */
static void peek(kernels_device *d, void *to, const kernels_buffer *from, size_t at, size_t n) {
    (void)d;
    INVARIANT(at <= from->size_bytes && n <= from->size_bytes - at);
    if (n) memcpy(to, (const char *)from->bytes + at, n);
}

static void poke(kernels_device *d, kernels_buffer *to, size_t at, const void *from, size_t n, bool soon) {
    (void)d;
    INVARIANT(at <= to->size_bytes && n <= to->size_bytes - at);
    if (!soon)
        kernels_copy_past_cache((char *)to->bytes + at, from, n);
    else if (n)
        memcpy((char *)to->bytes + at, from, n);
}

static st_code wait_all(kernels_device *d) {
    kernels_cpu_flush(d);
    return ST_OK;
}

/* Rows by the run: claiming a part costs as much as a short row. */
typedef struct {
    kernels_device *d;
    uint32_t rows_a_run;
} row_runs;

static void row_run(void *context, uint32_t run) {
    const row_runs *r = context;
    kernels_device *d = r->d;
    uint32_t from = run * r->rows_a_run, to = d->n_rows - from < r->rows_a_run ? d->n_rows : from + r->rows_a_run;
    for (uint32_t i = from; i < to; i++)
        for (uint32_t s = 0; s < d->n_steps; s++) d->step[s].part(d->step[s].context, i);
}

void kernels_cpu_flush(kernels_device *d) {
    if (!d->n_steps) return;
    uint32_t n_runs = d->n_values < WORTH_A_WAKE ? 1 : d->n_threads * RUNS_PER_THREAD;
    row_runs r = {d, (d->n_rows - 1) / n_runs + 1};
    pool_run(d->threads, (d->n_rows - 1) / r.rows_a_run + 1, row_run, &r);
    d->n_steps = 0;
    d->n_values = 0;
}

void kernels_cpu_rows(kernels_device *d, uint32_t n, uint32_t values, pool_part *part, const void *context,
                      size_t context_bytes) {
    INVARIANT(context_bytes <= KERNELS_ROW_STEP_BYTES);
    if (!n) return;
    if (d->n_rows != n || d->n_steps == KERNELS_ROW_STEPS) kernels_cpu_flush(d);
    kernels_row_step *step = &d->step[d->n_steps++];
    step->part = part;
    memcpy(step->context, context, context_bytes);
    d->n_rows = n;
    d->n_values += (uint64_t)n * values;
}

#define CPU_OPS(name, creator)                                                                                                   \
    {                                                                                                                            \
        .isa = name, .create = creator, .destroy = cpu_destroy, .alloc = buffer_alloc, .free = buffer_free, .upload = upload,    \
        .download = download, .host = host, .copy = copy, .peek = peek, .poke = poke, .wait = wait_all,                          \
        .weight_create = kernels_cpu_weight_create, .weight_free = kernels_cpu_weight_free,                                      \
        .weight_bytes = kernels_cpu_weight_bytes, .weight_shape = kernels_cpu_weight_shape, .embed = kernels_cpu_embed,          \
        .rmsnorm = kernels_cpu_rmsnorm, .act_bytes = kernels_cpu_act_bytes, .quantize = kernels_cpu_quantize,                    \
        .matmul = kernels_cpu_matmul, .matmul_units = kernels_cpu_matmul_units, .add_reduced = kernels_cpu_add_reduced,          \
        .add_normed = kernels_cpu_add_normed, .add_bias = kernels_cpu_add_bias, .scale = kernels_cpu_scale,                      \
        .rope = kernels_cpu_rope, .glu = kernels_cpu_glu, .kv_write = kernels_cpu_kv_write, .attention = kernels_cpu_attention,  \
        .kv_move = kernels_cpu_kv_move, .gather = kernels_cpu_gather, .find_bad = kernels_cpu_find_bad,                          \
    }

/* Best first; the last runs everywhere. */
static const struct {
    const kernels_primitives *(*primitives)(void);
    kernels_ops ops;
} backends[] = {
    {kernels_avx512, CPU_OPS("avx512", avx512_create)},
    {kernels_avx2, CPU_OPS("avx2", avx2_create)},
    {kernels_neon, CPU_OPS("neon", neon_create)},
    {kernels_ref, CPU_OPS("scalar", scalar_create)},
};

st_code kernels_pick(const char *isa, const kernels_ops **out, st_error *e) {
    const char *forced = getenv("CONSORT_ISA");
    bool any = !isa || !strcmp(isa, "auto"), by_environment = any && forced && *forced;
    if (by_environment) {
        isa = forced;
        any = !strcmp(isa, "auto");
    }
    bool known = any;
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        bool named = !any && !strcmp(isa, backends[i].ops.isa);
        known |= named;
        if ((any || named) && backends[i].primitives()) {
            *out = &backends[i].ops;
            return ST_OK;
        }
    }
    return st_fail(e, ST_ERR_UNSUPPORTED,
                   "instruction set \"%s\"%s: %s; expected \"auto\", \"avx512\", \"avx2\", \"neon\" or \"scalar\"", isa,
                   by_environment ? " of the environment variable CONSORT_ISA" : "",
                   known ? "this processor or build lacks it" : "unknown");
}
