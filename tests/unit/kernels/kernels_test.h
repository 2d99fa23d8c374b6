/* Shared by the tests of kernels/: seeded values, matrices of every format, and a device with views, each call checked.
 *
 * Values come from Philox, so a failure repeats. Buffers are handed out with guard bytes behind them by the tests that look
 * for writes past the end. Static inline: each test program has its own copy. */
#ifndef CONSORT_TESTS_KERNELS_TEST_H
#define CONSORT_TESTS_KERNELS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/mem.h"
#include "base/philox.h"
#include "kernels/cpu/cpu_int.h"
#include "kernels/kernels_int.h"
#include "kernels/tile.h"
#include <math.h>
#include <string.h>

/* Whether each step is slow, under a sanitizer or an emulator: then a third of what differs in formats and sizes is enough. */
#ifdef __aarch64__
#define IS_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SLOW 1
#endif
#endif
#ifndef IS_SLOW
#define IS_SLOW 0
#endif

typedef struct {
    uint64_t seed;
    uint32_t n;
} values;

static inline uint32_t next_u32(values *v) {
    philox_block b = philox(v->seed, (philox_block){{v->n >> 2, 0, 0, 0}});
    return b.word[v->n++ & 3];
}
static inline uint32_t below(values *v, uint32_t n) { return next_u32(v) % n; }
/* In (-size, size), on a grid of 2^-24 of it. */
static inline float next_float(values *v, float size) { return ((float)(int32_t)(next_u32(v) >> 7) - 0x1p24f) * 0x1p-24f * size; }
static inline void fill(values *v, float *x, size_t n, float size) {
    for (size_t i = 0; i < n; i++) x[i] = next_float(v, size);
}

/* Any bits as integers, but scales that are finite and small. Owner: caller (mem_free). */
static inline uint8_t *random_blocks(values *v, kernels_format format, uint32_t rows, uint32_t cols) {
    const kernels_format_info *f = kernels_format_of(format);
    size_t n = (size_t)rows * cols / f->block_elements;
    uint8_t *bytes = mem_alloc(n, f->block_bytes);
    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++) {
        uint8_t *b = bytes + i * f->block_bytes;
        float x = next_float(v, 1.0f), y = next_float(v, 0.5f);
        uint16_t d = half_of_float(x * 0.05f), m = half_of_float(y);
        if (format == KERNELS_F32) {
            memcpy(b, &x, 4);
        } else if (format == KERNELS_F16) {
            memcpy(b, &m, 2);
        } else if (format == KERNELS_BF16) {
            memcpy(b, (uint8_t *)&x + 2, 2);
        } else {
            const tile_shape *s = &tile_shapes[format];
            float sub = s->scale == TILE_BYTES ? 16.0f : 1.0f; /* sub-scales make a scale so much larger */
            uint16_t less = half_of_float(x * 0.05f / sub);
            for (uint32_t k = 0; k < f->block_bytes; k++) b[k] = (uint8_t)next_u32(v);
            if (s->scale == TILE_E8M0)
                b[s->d_at] = (uint8_t)(118 + b[s->d_at] % 8);
            else
                memcpy(b + s->d_at, sub > 1 ? &less : &d, 2);
            if (s->has_min) memcpy(b + s->d_at + 2, &m, 2);
        }
    }
    return bytes;
}

/* Equal bits, or both not a number (whose bits the contract leaves open). */
static inline bool same_float(float a, float b) { return !memcmp(&a, &b, sizeof a) || (a != a && b != b); }
static inline void assert_same_floats(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i])) fail_msg("value %zu of %zu: %a and %a", i, n, (double)a[i], (double)b[i]);
}

/* A device with what a test allocates on it, freed together. */
typedef struct {
    const kernels_ops *ops;
    kernels_device *d;
    kernels_precision precision; /* of the weights to come */
    uint32_t n_buffers, n_weights;
    kernels_buffer *buffers[48];
    kernels_weight *weights[48];
} rig;

/* The AVX-512 kernels on a processor that need not have it (emulated_avx512.h); NULL without AVX2, or where SIMDe is missing. */
#ifdef CONSORT_EMULATED_AVX512
const kernels_primitives *kernels_emulated_avx512(void);
#else
static inline const kernels_primitives *kernels_emulated_avx512(void) { return NULL; }
#endif

/* All tables of primitives that there are; each gives NULL where it cannot run. The first is what the others are compared with.
 */
static const struct {
    const char *isa;
    const kernels_primitives *(*primitives)(void);
} rig_isas[] = {{"scalar", kernels_ref},
                {"avx2", kernels_avx2},
                {"avx512", kernels_avx512},
                {"neon", kernels_neon},
                {"emulated", kernels_emulated_avx512}};
enum {
    RIG_N_ISAS = sizeof rig_isas / sizeof *rig_isas,
    RIG_N_REAL = RIG_N_ISAS - 1, /* without the emulated one, which is slow: for what any of them shows */
};

/* A device of the best instruction set. */
static inline void rig_open(rig *r, uint32_t n_threads) {
    st_error e;
    memset(r, 0, sizeof *r);
    assert_int_equal(kernels_pick(NULL, &r->ops, &e), ST_OK);
    assert_int_equal(r->ops->create(n_threads, &r->d, &e), ST_OK);
}
/* A device of rig_isas[isa]; false where it cannot run. */
static inline bool rig_open_isa(rig *r, int isa, uint32_t n_threads) {
    if (!rig_isas[isa].primitives()) return false;
    rig_open(r, n_threads);
    r->d->primitives = rig_isas[isa].primitives();
    return true;
}
static inline void rig_close(rig *r) {
    for (uint32_t i = 0; i < r->n_buffers; i++) r->ops->free(r->d, r->buffers[i]);
    for (uint32_t i = 0; i < r->n_weights; i++) r->ops->weight_free(r->d, r->weights[i]);
    r->ops->destroy(r->d);
}
static inline kernels_view rig_bytes(rig *r, size_t n_bytes) {
    assert_true(r->n_buffers < 48);
    kernels_buffer **b = &r->buffers[r->n_buffers++];
    assert_int_equal(r->ops->alloc(r->d, n_bytes, b), ST_OK);
    return (kernels_view){*b, 0};
}
static inline kernels_view rig_put(rig *r, const void *from, size_t n_bytes) {
    kernels_view v = rig_bytes(r, n_bytes);
    r->ops->upload(r->d, v, from, n_bytes);
    return v;
}
static inline void rig_get(rig *r, void *to, kernels_view v, size_t n_bytes) {
    r->ops->download(r->d, to, v, n_bytes);
    assert_int_equal(r->ops->wait(r->d), ST_OK);
}
static inline kernels_weight *rig_weight(rig *r, const kernels_matrix *m, uint32_t row0, uint32_t n_rows, uint32_t col0,
                                         uint32_t n_cols) {
    assert_true(r->n_weights < 48);
    kernels_weight **w = &r->weights[r->n_weights++];
    assert_int_equal(r->ops->weight_create(r->d, m, row0, n_rows, col0, n_cols, r->precision, w), ST_OK);
    return *w;
}
/* Activations of x[n][k], quantized on the device. */
static inline kernels_view rig_act(rig *r, kernels_view x, uint32_t n, uint32_t k) {
    kernels_view act = rig_bytes(r, r->ops->act_bytes(n, k));
    r->ops->quantize(r->d, act, x, n, k);
    return act;
}

#endif
