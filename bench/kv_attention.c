/* bench_kv_attention [ISA]: what attention of one new token over 2,048 costs by KV type, in all layers of a model of
 * SmolLM2-135M's shape.
 *
 * One thread. The types take turns, each turn beginning with the next; of each the least of its turns counts, in processor time
 * of the thread, which bears other work on the machine. Printed, a line a type: microseconds, and their share of f16's. */
#include "kv/kv.h"

#include <stdio.h>
#include <time.h>

enum {
    LAYERS = 30,
    TOKENS = 2048,
    HEADS = 9,
    KV_HEADS = 3,
    DIM = 64,
    BLOCKS = TOKENS / NOUNS_BLOCK_TOKENS,
    TURNS = 40,
    MAX_TYPES = 16
};

typedef struct {
    const kernels_ops *ops;
    kernels_device *device;
    kernels_view x, out; /* x: q, k and v of a token alike */
    uint32_t blocks[BLOCKS], kv_head_of[HEADS], n;
    kv_store *stores[MAX_TYPES]; /* [n], of all types */
} bench;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static st_code fill(const bench *b, const kernels_kv *kv) {
    st_code c = ST_OK;
    for (uint32_t p = 0; p < TOKENS && c == ST_OK; p++) {
        const kernels_row row = {.blocks = b->blocks, .path = &p, .n_before = p, .n_path = 1, .slot = p};
        for (uint32_t l = 0; l < LAYERS; l++) b->ops->kv_write(b->device, kv, l, b->x, b->x, &row, 1);
        c = b->ops->wait(b->device);
    }
    return c;
}

/* Of one thread an operation is done when it returns. */
static double turn_us(const bench *b, const kernels_kv *kv) {
    static const uint32_t last = TOKENS - 1;
    const kernels_row row = {.blocks = b->blocks, .path = &last, .n_before = last, .n_path = 1, .slot = last};
    double from = now_us();
    for (uint32_t l = 0; l < LAYERS; l++)
        b->ops->attention(b->device, kv, l, b->out, b->x, &row, 1, HEADS, b->kv_head_of, KERNELS_NO_WINDOW);
    return now_us() - from;
}

static st_code open_bench(bench *b, const char *isa, st_error *e) {
    float x[HEADS * DIM];
    st_code c = kernels_pick(isa, &b->ops, e);
    if (c == ST_OK) c = b->ops->create(1, &b->device, e);
    if (c == ST_OK) c = b->ops->alloc(b->device, sizeof x, &b->x.buffer);
    if (c == ST_OK) c = b->ops->alloc(b->device, sizeof x, &b->out.buffer);
    if (c != ST_OK) return c;
    for (uint32_t i = 0; i < HEADS * DIM; i++) x[i] = (float)(i * 2654435761u >> 8) * 0x1p-23f - 1.0f;
    b->ops->upload(b->device, b->x, x, sizeof x);
    for (uint32_t i = 0; i < BLOCKS; i++) b->blocks[i] = i;
    for (uint32_t i = 0; i < HEADS; i++) b->kv_head_of[i] = i / (HEADS / KV_HEADS);
    return ST_OK;
}

static void close_bench(bench *b) {
    for (uint32_t i = 0; i < b->n; i++) kv_store_destroy(b->stores[i]);
    if (b->x.buffer) b->ops->free(b->device, b->x.buffer);
    if (b->out.buffer) b->ops->free(b->device, b->out.buffer);
    if (b->device) b->ops->destroy(b->device);
}

static st_code open_stores(bench *b, st_error *e) {
    st_code c = ST_OK;
    for (const kv_type *t; c == ST_OK && b->n < MAX_TYPES && (t = kv_type_at(b->n));) {
        const kv_shape shape = {.type = t, .n_blocks = BLOCKS, .n_layers = LAYERS, .n_kv_heads = KV_HEADS, .head_dim = DIM};
        c = kv_store_create(b->ops, b->device, &shape, &b->stores[b->n], e);
        if (c == ST_OK) c = fill(b, kv_store_view(b->stores[b->n++]));
    }
    return c;
}

static void measure(const bench *b) {
    double least[MAX_TYPES], f16 = 0;
    for (uint32_t i = 0; i < b->n; i++) least[i] = 1e18;
    for (uint32_t turn = 0; turn < TURNS; turn++)
        for (uint32_t i = 0; i < b->n; i++) {
            const uint32_t at = (turn + i) % b->n;
            const double us = turn_us(b, kv_store_view(b->stores[at]));
            if (us < least[at]) least[at] = us;
        }
    for (uint32_t i = 0; i < b->n; i++)
        if (kv_type_at(i) == kv_type_find("f16")) f16 = least[i];
    for (uint32_t i = 0; i < b->n; i++)
        printf("%s %-5s %7.0f us %5.2f of f16\n", b->ops->isa, kv_type_at(i)->name, least[i], least[i] / f16);
}

int main(int argc, char **argv) {
    bench b = {0};
    st_error e = {0};
    st_code c = open_bench(&b, argc > 1 ? argv[1] : NULL, &e);
    if (c == ST_OK) c = open_stores(&b, &e);
    if (c == ST_OK) measure(&b);
    close_bench(&b);
    if (c != ST_OK) fprintf(stderr, "bench_kv_attention: %s\n", e.message[0] ? e.message : "out of memory");
    return c == ST_OK ? 0 : 1;
}
