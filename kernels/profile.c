/* Design: the device that callers see is the profile itself behind a cast, since kernels_device is opaque to all but its own
 * operations; views and weights stay those of the real device. Every operation that takes a device has a twin here. */
#include "kernels/profile.h"

#include "base/mem.h"
#include <string.h>
#include <time.h>

enum { MAX_LINES = 64 }; /* operations, and shapes of weights: a model has about ten; the last line takes what is more */

struct kernels_profile {
    kernels_ops ops; /* ours */
    const kernels_ops *inner;
    kernels_device *device;
    st_code failed; /* what a wait of ours said first, for the caller's own */
    uint32_t n_lines;
    kernels_profile_line line[MAX_LINES];
};

static kernels_profile *of(kernels_device *d) { return (kernels_profile *)(void *)d; }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static kernels_profile_line *line_of(kernels_profile *p, const char *operation, uint32_t rows, uint32_t cols) {
    for (uint32_t i = 0; i < p->n_lines; i++) {
        kernels_profile_line *l = &p->line[i];
        if (l->rows == rows && l->cols == cols && !strcmp(l->operation, operation)) return l;
    }
    if (p->n_lines == MAX_LINES) return &p->line[MAX_LINES - 1];
    p->line[p->n_lines] = (kernels_profile_line){.operation = operation, .rows = rows, .cols = cols};
    return &p->line[p->n_lines++];
}

static void note(kernels_profile *p, const char *operation, const kernels_weight *const *w, uint32_t n_weights, uint32_t n,
                 uint64_t start_ns) {
    uint32_t rows = 0, cols = 0;
    uint64_t bytes = 0;
    st_code c = p->inner->wait(p->device);
    if (!p->failed) p->failed = c;
    for (uint32_t i = 0; i < n_weights; i++) {
        uint32_t more = 0;
        p->inner->weight_shape(w[i], &more, &cols);
        rows += more;
        bytes += p->inner->weight_bytes(w[i]);
    }
    kernels_profile_line *l = line_of(p, operation, rows, cols);
    l->n_calls++;
    l->total_ns += now_ns() - start_ns;
    l->multiplications += (uint64_t)rows * cols * n;
    l->weight_bytes += bytes;
}

/* An operation that is timed: parameters and arguments behind the device. */
#define TIMED(name, parameters, arguments)                                                                                       \
    static void timed_##name(kernels_device *d, UNPACK parameters) {                                                             \
        uint64_t start_ns = now_ns();                                                                                            \
        of(d)->inner->name(of(d)->device, UNPACK arguments);                                                                     \
        note(of(d), #name, NULL, 0, 0, start_ns);                                                                                \
    }
#define UNPACK(...) __VA_ARGS__

TIMED(embed, (kernels_view out, const kernels_matrix *table, const uint32_t *token, uint32_t n), (out, table, token, n))
TIMED(rmsnorm, (kernels_view out, kernels_view x, kernels_view w, uint32_t n, uint32_t dim, float eps), (out, x, w, n, dim, eps))
TIMED(quantize, (kernels_view act, kernels_view x, uint32_t n, uint32_t k), (act, x, n, k))
TIMED(add_reduced, (kernels_view x, kernels_view sum, uint32_t n, uint32_t dim), (x, sum, n, dim))
TIMED(add_normed, (kernels_view x, kernels_view sum, kernels_view w, uint32_t n, uint32_t dim, float eps),
      (x, sum, w, n, dim, eps))
TIMED(add_bias, (kernels_view x, kernels_view bias, uint32_t n, uint32_t dim), (x, bias, n, dim))
TIMED(scale, (kernels_view x, float factor, uint32_t n, uint32_t dim), (x, factor, n, dim))
TIMED(rope,
      (kernels_view x, kernels_view table, const uint32_t *position, uint32_t n, uint32_t n_heads, uint32_t head_dim,
       kernels_rope_pairs pairs),
      (x, table, position, n, n_heads, head_dim, pairs))
TIMED(glu, (kernels_view out, kernels_view gate, kernels_view up, uint32_t n, uint32_t dim, kernels_activation activation),
      (out, gate, up, n, dim, activation))
TIMED(kv_write, (const kernels_kv *kv, uint32_t layer, kernels_view k, kernels_view v, const kernels_row *rows, uint32_t n),
      (kv, layer, k, v, rows, n))
TIMED(attention,
      (const kernels_kv *kv, uint32_t layer, kernels_view out, kernels_view q, const kernels_row *rows, uint32_t n,
       uint32_t n_heads, const uint32_t *kv_head_of, uint32_t window),
      (kv, layer, out, q, rows, n, n_heads, kv_head_of, window))
TIMED(kv_move, (const kernels_kv *kv, const uint32_t *blocks, uint32_t to_slot, uint32_t from_slot),
      (kv, blocks, to_slot, from_slot))
TIMED(gather, (kernels_view out, kernels_view x, const uint32_t *index, uint32_t n, uint32_t dim), (out, x, index, n, dim))
TIMED(find_bad, (uint8_t * bad, kernels_view x, uint32_t n, uint32_t dim), (bad, x, n, dim))
TIMED(upload, (kernels_view to, const void *from, size_t n_bytes), (to, from, n_bytes))
TIMED(download, (void *to, kernels_view from, size_t n_bytes), (to, from, n_bytes))
TIMED(copy, (kernels_view to, kernels_view from, size_t n_bytes), (to, from, n_bytes))

static void timed_matmul(kernels_device *d, const kernels_projection *projection, uint32_t n_projections, kernels_view x,
                         kernels_view act, uint32_t n) {
    const kernels_weight *w[KERNELS_MAX_PROJECTIONS];
    uint64_t start_ns = now_ns();
    of(d)->inner->matmul(of(d)->device, projection, n_projections, x, act, n);
    for (uint32_t i = 0; i < n_projections; i++) w[i] = projection[i].weight;
    note(of(d), "matmul", w, n_projections, n, start_ns);
}

static void timed_matmul_units(kernels_device *d, kernels_view out, const kernels_weight *w, kernels_view x, kernels_view act,
                               uint32_t n, uint32_t unit_cols, uint32_t n_units_total) {
    uint64_t start_ns = now_ns();
    of(d)->inner->matmul_units(of(d)->device, out, w, x, act, n, unit_cols, n_units_total);
    note(of(d), "matmul_units", &w, 1, n, start_ns);
}

static st_code pass_alloc(kernels_device *d, size_t size_bytes, kernels_buffer **out) {
    return of(d)->inner->alloc(of(d)->device, size_bytes, out);
}
static void pass_free(kernels_device *d, kernels_buffer *b) { of(d)->inner->free(of(d)->device, b); }
static const void *pass_host(kernels_device *d, kernels_view v, size_t n) { return of(d)->inner->host(of(d)->device, v, n); }
static void pass_peek(kernels_device *d, void *to, const kernels_buffer *from, size_t at, size_t n) {
    of(d)->inner->peek(of(d)->device, to, from, at, n);
}
static void pass_poke(kernels_device *d, kernels_buffer *to, size_t at, const void *from, size_t n, bool soon) {
    of(d)->inner->poke(of(d)->device, to, at, from, n, soon);
}
static st_code pass_wait(kernels_device *d) {
    st_code c = of(d)->inner->wait(of(d)->device);
    return of(d)->failed ? of(d)->failed : c;
}
static st_code pass_weight_create(kernels_device *d, const kernels_matrix *m, uint32_t row0, uint32_t n_rows, uint32_t col0,
                                  uint32_t n_cols, kernels_precision precision, kernels_weight **out) {
    return of(d)->inner->weight_create(of(d)->device, m, row0, n_rows, col0, n_cols, precision, out);
}
static void pass_weight_free(kernels_device *d, kernels_weight *w) { of(d)->inner->weight_free(of(d)->device, w); }

static void profile_destroy(kernels_device *d) {
    if (!d) return;
    of(d)->inner->destroy(of(d)->device);
    mem_free(of(d));
}

st_code kernels_profile_create(const kernels_ops *ops, kernels_device *device, kernels_profile **out) {
    kernels_profile *p = mem_alloc(1, sizeof *p);
    if (!p) return ST_FATAL_MEMORY;
    p->inner = ops;
    p->device = device;
    p->ops = *ops; /* what takes no device stays as it is */
    p->ops.create = NULL;
    p->ops.destroy = profile_destroy;
    p->ops.alloc = pass_alloc;
    p->ops.free = pass_free;
    p->ops.host = pass_host;
    p->ops.peek = pass_peek;
    p->ops.poke = pass_poke;
    p->ops.wait = pass_wait;
    p->ops.weight_create = pass_weight_create;
    p->ops.weight_free = pass_weight_free;
#define TAKE(name) p->ops.name = timed_##name
    TAKE(embed), TAKE(rmsnorm), TAKE(quantize), TAKE(matmul), TAKE(matmul_units), TAKE(add_reduced), TAKE(add_normed);
    TAKE(add_bias), TAKE(scale), TAKE(rope), TAKE(glu), TAKE(kv_write), TAKE(attention), TAKE(kv_move), TAKE(gather);
    TAKE(find_bad), TAKE(upload), TAKE(download), TAKE(copy);
#undef TAKE
    *out = p;
    return ST_OK;
}

const kernels_ops *kernels_profile_ops(const kernels_profile *p) { return &p->ops; }
kernels_device *kernels_profile_device(kernels_profile *p) { return (kernels_device *)(void *)p; }
void kernels_profile_reset(kernels_profile *p) { p->n_lines = 0; }

const kernels_profile_line *kernels_profile_lines(const kernels_profile *p, uint32_t *n) {
    *n = p->n_lines;
    return p->line;
}
