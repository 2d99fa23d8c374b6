/* A small model's layer, all kernels in a row: its bits are frozen, and the same for every instruction set, thread count and
 * grouping of tokens. A change of this hash changes every text that was ever made: docs/numerics.md says how that is done. */
#include "base/fmath.h"
#include "tests/unit/kernels/kernels_test.h"

enum { N = 45, DIM = 192, HEADS = 3, KV_HEADS = 1, HEAD = 64, FFN = 576, VOCAB = 100, LAYERS = 2 };
static const uint32_t kv_head_of[HEADS] = {0, 0, 0};
static const uint32_t blocks[] = {1, 0};

typedef struct {
    kernels_weight *q, *k, *v, *o, *gate, *up, *down;
    kernels_view norm;
} layer;

typedef struct {
    rig r;
    layer layers[LAYERS];
    kernels_weight *head;
    uint8_t *table_bytes;
    kernels_matrix table; /* the head, as in a file */
    kernels_view x, h, act, q, k, v, a, sum, gate, up, logits, rope;
    kernels_kv kv;
} chain;

static kernels_weight *weight(chain *c, values *v, kernels_format f, uint32_t rows, uint32_t cols) {
    uint8_t *bytes = random_blocks(v, f, rows, cols);
    kernels_matrix m = {f, rows, cols, bytes};
    kernels_weight *w = rig_weight(&c->r, &m, 0, rows, 0, cols);
    mem_free(bytes);
    return w;
}

static bool chain_open(chain *c, int isa, uint32_t threads) {
    values v = {.seed = 80};
    float norm[DIM], rope[N * HEAD];
    if (!rig_open_isa(&c->r, isa, threads)) return false;
    for (uint32_t p = 0; p < N; p++)
        for (uint32_t i = 0; i < HEAD; i += 2) {
            double angle = p * fmath_exp(-(double)i / HEAD * fmath_log(10000.0));
            rope[p * HEAD + i] = (float)fmath_cos(angle);
            rope[p * HEAD + i + 1] = (float)fmath_sin(angle);
        }
    c->rope = rig_put(&c->r, rope, sizeof rope);
    c->table_bytes = random_blocks(&v, KERNELS_Q8_0, VOCAB, DIM);
    c->table = (kernels_matrix){KERNELS_Q8_0, VOCAB, DIM, c->table_bytes};
    c->head = rig_weight(&c->r, &c->table, 0, VOCAB, 0, DIM);
    for (uint32_t i = 0; i < LAYERS; i++) { /* every format has its place */
        layer *l = &c->layers[i];
        fill(&v, norm, DIM, 1.0f);
        l->norm = rig_put(&c->r, norm, sizeof norm);
        l->q = weight(c, &v, KERNELS_Q4_1, DIM, DIM);
        l->k = weight(c, &v, KERNELS_Q4_0, KV_HEADS * HEAD, DIM);
        l->v = weight(c, &v, KERNELS_F16, KV_HEADS * HEAD, DIM);
        l->o = weight(c, &v, KERNELS_Q4_1, DIM, DIM);
        l->gate = weight(c, &v, KERNELS_Q4_0, FFN, DIM);
        l->up = weight(c, &v, KERNELS_F32, FFN, DIM);
        l->down = weight(c, &v, KERNELS_Q4_1, DIM, FFN);
    }
    c->x = rig_bytes(&c->r, N * DIM * 4);
    c->h = rig_bytes(&c->r, N * DIM * 4);
    c->act = rig_bytes(&c->r, c->r.ops->act_bytes(N, FFN));
    c->q = rig_bytes(&c->r, N * DIM * 4);
    c->k = rig_bytes(&c->r, N * KV_HEADS * HEAD * 4);
    c->v = rig_bytes(&c->r, N * KV_HEADS * HEAD * 4);
    c->a = rig_bytes(&c->r, N * DIM * 4);
    c->sum = rig_bytes(&c->r, N * DIM * 8);
    c->gate = rig_bytes(&c->r, N * FFN * 4);
    c->up = rig_bytes(&c->r, N * FFN * 4);
    c->logits = rig_bytes(&c->r, N * VOCAB * 4);
    c->kv = (kernels_kv){
        .type = {KERNELS_KV_F16, KERNELS_KV_F16}, .n_blocks = 2, .n_layers = LAYERS, .n_kv_heads = KV_HEADS, .head_dim = HEAD};
    c->kv.at = rig_bytes(&c->r, kernels_kv_block_bytes(&c->kv) * 2);
    return true;
}

static void run_layer(chain *c, uint32_t index, const kernels_row *rows, const uint32_t *position, uint32_t n) {
    const kernels_ops *o = c->r.ops;
    kernels_device *d = c->r.d;
    const layer *l = &c->layers[index];
    o->rmsnorm(d, c->h, c->x, l->norm, n, DIM, 1e-5f);
    o->quantize(d, c->act, c->h, n, DIM);
    o->matmul(d,
              (kernels_projection[]){{.out = c->q, .weight = l->q}, {.out = c->k, .weight = l->k}, {.out = c->v, .weight = l->v}},
              3, c->h, c->act, n);
    o->rope(d, c->q, c->rope, position, n, HEADS, HEAD, KERNELS_ROPE_NEIGHBOURS);
    o->rope(d, c->k, c->rope, position, n, KV_HEADS, HEAD, KERNELS_ROPE_NEIGHBOURS);
    o->kv_write(d, &c->kv, index, c->k, c->v, rows, n);
    o->attention(d, &c->kv, index, c->a, c->q, rows, n, HEADS, kv_head_of, KERNELS_NO_WINDOW);
    o->quantize(d, c->act, c->a, n, DIM);
    o->matmul_units(d, c->sum, l->o, c->a, c->act, n, HEAD, HEADS);
    o->add_reduced(d, c->x, c->sum, n, DIM);
    o->rmsnorm(d, c->h, c->x, l->norm, n, DIM, 1e-5f);
    o->quantize(d, c->act, c->h, n, DIM);
    o->matmul(d, (kernels_projection[]){{.out = c->gate, .weight = l->gate}, {.out = c->up, .weight = l->up}}, 2, c->h, c->act,
              n);
    o->glu(d, c->gate, c->gate, c->up, n, FFN, KERNELS_SILU);
    o->quantize(d, c->act, c->gate, n, FFN);
    /* Units of 256, the last one short; in the second layer one unit longer than a chunk of K. */
    o->matmul_units(d, c->sum, l->down, c->gate, c->act, n, index ? FFN : 256, index ? 1 : 3);
    o->add_reduced(d, c->x, c->sum, n, DIM);
}

/* Logits of N tokens, `step` at a time. */
static void run_chain(chain *c, uint32_t step, float *logits) {
    const kernels_ops *o = c->r.ops;
    for (uint32_t p0 = 0; p0 < N; p0 += step) {
        uint32_t n = N - p0 < step ? N - p0 : step, token[N], position[N];
        kernels_row rows[N];
        for (uint32_t i = 0; i < n; i++) {
            position[i] = p0 + i;
            token[i] = (p0 + i) * 37 % VOCAB;
            rows[i] = (kernels_row){.blocks = blocks, .path = &position[i], .n_before = p0 + i, .n_path = 1, .slot = p0 + i};
        }
        o->embed(c->r.d, c->x, &c->table, token, n);
        for (uint32_t i = 0; i < LAYERS; i++) run_layer(c, i, rows, position, n);
        o->rmsnorm(c->r.d, c->h, c->x, c->layers[0].norm, n, DIM, 1e-5f);
        o->quantize(c->r.d, c->act, c->h, n, DIM);
        o->matmul(c->r.d, &(kernels_projection){.out = c->logits, .weight = c->head}, 1, c->h, c->act, n);
        rig_get(&c->r, logits + p0 * VOCAB, c->logits, n * VOCAB * sizeof *logits);
    }
}

static void a_chain_of_kernels_has_its_frozen_bits(void **state) {
    (void)state;
    static const uint32_t steps[] = {1, 2, 5, 32, N};
    static float logits[N * VOCAB];
    for (int isa = 0; isa < RIG_N_ISAS; isa++)
        for (uint32_t threads = 1; threads <= 3; threads++)
            for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
                chain c;
                if (((isa == 0 || isa >= RIG_N_REAL) && s % 2) || !chain_open(&c, isa, threads)) continue;
                run_chain(&c, steps[s], logits);
                rig_close(&c.r);
                mem_free(c.table_bytes);
                uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
                for (size_t i = 0; i < sizeof logits; i++) h = (h ^ ((const uint8_t *)logits)[i]) * UINT64_C(0x100000001b3);
                for (size_t i = 0; i < N * VOCAB; i++) assert_true(isfinite(logits[i]));
                if (h != UINT64_C(0xda9bf9e112c68752))
                    fail_msg("%s, %u threads, %u tokens at a time: %#llx", rig_isas[isa].isa, threads, steps[s],
                             (unsigned long long)h);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_chain_of_kernels_has_its_frozen_bits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
