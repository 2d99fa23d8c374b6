/* Attention and the KV store: a row's output depends on its visible keys alone, however they came to stand where they stand. */
#include "tests/unit/kernels/kernels_test.h"

/* Eleven heads of one KV head: a part of sixteen rows is more queries than go side by side. */
enum { LAYERS = 2, KV_HEADS = 2, HEADS = 13, BLOCKS = 12, LONGEST = 150, N_SEEDS = IS_SLOW ? 6 : 40 };
static const uint32_t kv_head_of[HEADS] = {0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Keys, values and queries of LONGEST positions, and the store. */
typedef struct {
    uint32_t dim, window;
    float *k, *v, *q; /* [LONGEST][heads][dim] */
} text;

static text text_open(uint32_t dim, uint32_t window, uint64_t seed) {
    values v = {.seed = seed};
    text t = {dim, window, mem_alloc(LONGEST * KV_HEADS * dim, 4), mem_alloc(LONGEST * KV_HEADS * dim, 4),
              mem_alloc(LONGEST * HEADS * dim, 4)};
    fill(&v, t.k, LONGEST * KV_HEADS * dim, 2.0f);
    fill(&v, t.v, LONGEST * KV_HEADS * dim, 2.0f);
    fill(&v, t.q, LONGEST * HEADS * dim, 2.0f);
    return t;
}
static void text_close(text *t) {
    mem_free(t->k);
    mem_free(t->v);
    mem_free(t->q);
}

/* K and V of one type; last, of two. */
typedef struct {
    kernels_kv_type k, v;
} pair;
enum { N_PAIRS = KERNELS_N_KV_TYPES + 1 };
static pair pair_of(uint32_t i) {
    return i < KERNELS_N_KV_TYPES ? (pair){(kernels_kv_type)i, (kernels_kv_type)i} : (pair){KERNELS_KV_Q6, KERNELS_KV_F16};
}
static const pair f16s = {KERNELS_KV_F16, KERNELS_KV_F16}, f32s = {KERNELS_KV_F32, KERNELS_KV_F32};

static kernels_kv store_open(rig *r, pair type, uint32_t dim) {
    kernels_kv kv = {.type = {type.k, type.v}, .n_blocks = BLOCKS, .n_layers = LAYERS, .n_kv_heads = KV_HEADS, .head_dim = dim};
    kv.at = rig_bytes(r, kernels_kv_block_bytes(&kv) * BLOCKS);
    return kv;
}

/* Writes and attends rows whose i-th has position[i] of the text; out[n][HEADS][dim]. */
static void run_rows(rig *r, const kernels_kv *kv, const text *t, const kernels_row *rows, const uint32_t *position, uint32_t n,
                     float *out) {
    uint32_t dim = t->dim, kn = KV_HEADS * dim, qn = HEADS * dim;
    float *k = mem_alloc(n * kn, 4), *v = mem_alloc(n * kn, 4), *q = mem_alloc(n * qn, 4);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(k + i * kn, t->k + position[i] * kn, kn * 4);
        memcpy(v + i * kn, t->v + position[i] * kn, kn * 4);
        memcpy(q + i * qn, t->q + position[i] * qn, qn * 4);
    }
    kernels_view o = rig_bytes(r, n * qn * 4);
    r->ops->kv_write(r->d, kv, 1, rig_put(r, k, n * kn * 4), rig_put(r, v, n * kn * 4), rows, n);
    r->ops->attention(r->d, kv, 1, o, rig_put(r, q, n * qn * 4), rows, n, HEADS, kv_head_of, t->window);
    rig_get(r, out, o, n * qn * 4);
    mem_free(k);
    mem_free(v);
    mem_free(q);
}

/* Positions [from, to) as a model runs them without a tree. */
static void run_text(rig *r, const kernels_kv *kv, const text *t, const uint32_t *blocks, uint32_t from, uint32_t to,
                     float *out) {
    uint32_t position[LONGEST];
    kernels_row rows[LONGEST];
    for (uint32_t p = from; p < to; p++) {
        position[p - from] = p;
        rows[p - from] = (kernels_row){.blocks = blocks, .path = &position[p - from], .n_before = p, .n_path = 1, .slot = p};
    }
    run_rows(r, kv, t, rows, position, to - from, out);
}

/* What docs/numerics.md says, spelled out for one query without chunks of storage, blocks or threads: k, v[n][dim] of all
 * positions up to its own. */
static void expected_query(const float *q, const float *k, const float *v, uint32_t n, uint32_t dim, uint32_t window, float *o) {
    kernels_softmax s = {-INFINITY, 0};
    memset(o, 0, dim * sizeof *o);
    for (uint32_t at = n > window ? n - window : 0, end; at < n; at = end) {
        end = (at / 32 + 1) * 32 < n ? (at / 32 + 1) * 32 : n;
        kernels_query query = {&s, o, q};
        kernels_ref()->attend(&query, 1, k + at * dim, v + at * dim, end - at, dim, 1.0f / sqrtf((float)dim));
    }
    for (uint32_t i = 0; i < dim; i++) o[i] *= 1.0f / s.l;
}

/* K and V of a text as a store of this type gives them back: [KV_HEADS][LONGEST][dim]. */
typedef struct {
    const text *t;
    float *k, *v;
} stored;

static stored stored_open(const text *t, pair type) {
    const kernels_primitives *p = kernels_ref();
    const size_t n = (size_t)KV_HEADS * LONGEST * t->dim;
    stored s = {t, mem_alloc(n, sizeof(float)), mem_alloc(n, sizeof(float))};
    float row[KERNELS_MAX_HEAD_DIM];
    for (uint32_t i = 0; i < KV_HEADS * LONGEST; i++) {
        const size_t from = (i % LONGEST * KV_HEADS + i / LONGEST) * t->dim, to = (size_t)i * t->dim;
        p->kv_encode[type.k](row, t->k + from, t->dim);
        p->kv_decode[type.k](s.k + to, row, 1, t->dim);
        p->kv_encode[type.v](row, t->v + from, t->dim);
        p->kv_decode[type.v](s.v + to, row, 1, t->dim);
    }
    return s;
}
static void stored_close(stored *s) {
    mem_free(s->k);
    mem_free(s->v);
}

static void expected_row(const stored *s, uint32_t position, uint32_t head, float *o) {
    const uint32_t dim = s->t->dim;
    const size_t at = (size_t)kv_head_of[head] * LONGEST * dim;
    expected_query(s->t->q + (position * HEADS + head) * dim, s->k + at, s->v + at, position + 1, dim, s->t->window, o);
}

static void attention_is_what_the_contract_says_in_any_batch(void **state) {
    (void)state;
    static const uint32_t dims[] = {16, 40, 64, 16, 40, 64, 16}, steps[] = {1, 7, 32, 150};
    static const uint32_t windows[] = {KERNELS_NO_WINDOW, KERNELS_NO_WINDOW, KERNELS_NO_WINDOW, 1, 20, 45, 64};
    const uint32_t blocks[] = {7, 2, 11, 0, 5};
    for (uint32_t s = 0, every = IS_SLOW ? 3 : 1; s < sizeof dims / sizeof *dims; s++)
        for (uint32_t type = s % every; type < N_PAIRS; type += every) {
            uint32_t dim = dims[s], row = HEADS * dim;
            text t = text_open(dim, windows[s], 60 + s);
            stored kept = stored_open(&t, pair_of(type));
            float *expected = mem_alloc(LONGEST * row, 4), *out = mem_alloc(LONGEST * row, 4);
            for (uint32_t p = 0; p < LONGEST; p++)
                for (uint32_t h = 0; h < HEADS; h++) expected_row(&kept, p, h, expected + p * row + h * dim);
            for (int isa = 0; isa < RIG_N_REAL; isa++)
                for (uint32_t c = 0; c < 4; c++) {
                    rig r;
                    if (!rig_open_isa(&r, isa, 1 + c % 3)) continue;
                    kernels_kv kv = store_open(&r, pair_of(type), dim);
                    for (uint32_t p = 0; p < LONGEST; p += steps[c]) {
                        uint32_t end = p + steps[c] < LONGEST ? p + steps[c] : LONGEST;
                        run_text(&r, &kv, &t, blocks, p, end, out + p * row);
                        while (r.n_buffers > 1) r.ops->free(r.d, r.buffers[--r.n_buffers]); /* the store stays */
                    }
                    assert_same_floats(out, expected, LONGEST * row);
                    rig_close(&r);
                }
            mem_free(expected);
            mem_free(out);
            stored_close(&kept);
            text_close(&t);
        }
}

/* Attention in plain doubles: the contract's order of sums computes what attention is. */
static void attention_is_softmax_of_scaled_products(void **state) {
    (void)state;
    enum { DIM = 64, AT = 149 };
    text t = text_open(DIM, KERNELS_NO_WINDOW, 70);
    stored kept = stored_open(&t, f32s);
    float o[DIM];
    expected_row(&kept, AT, 3, o);
    double sum = 0, exact[DIM] = {0};
    for (uint32_t p = 0; p <= AT; p++) {
        double s = 0;
        for (uint32_t i = 0; i < DIM; i++)
            s += (double)t.q[(AT * HEADS + 3) * DIM + i] * (double)t.k[(p * KV_HEADS + 1) * DIM + i];
        double w = exp(s / 8);
        sum += w;
        for (uint32_t i = 0; i < DIM; i++) exact[i] += w * (double)t.v[(p * KV_HEADS + 1) * DIM + i];
    }
    for (uint32_t i = 0; i < DIM; i++) assert_true(fabs(exact[i] / sum - (double)o[i]) < 1e-5);
    stored_close(&kept);
    text_close(&t);
}

/* A tree over position 60 on: the branch 61, 62, ... of node numbers that jump, among siblings with other keys. */
static void branch_attends(pair type, uint32_t window) {
    enum { DIM = 64, BASE = 60, DEPTH = 9, ROW = HEADS * DIM };
    const uint32_t blocks[] = {3, 9, 1, 4}, straight[] = {6, 5, 8, 10};
    static const uint32_t node[DEPTH] = {0, 2, 3, 7, 8, 11, 14, 15, 19}; /* slots BASE + node; the gaps are other branches */
    text t = text_open(DIM, window, 71), other = text_open(DIM, window, 72);
    float expected[DEPTH * ROW], out[40 * ROW], *prompt = mem_alloc(LONGEST * ROW, 4);
    for (int isa = 0; isa < RIG_N_REAL; isa++)
        for (uint32_t threads = 1; threads <= 2; threads++) {
            rig r;
            if (!rig_open_isa(&r, isa, threads)) continue;
            kernels_kv kv = store_open(&r, type, DIM);
            run_text(&r, &kv, &t, straight, 0, BASE + DEPTH, prompt);
            memcpy(expected, prompt + BASE * ROW, sizeof expected);
            run_text(&r, &kv, &t, blocks, 0, BASE, prompt);
            for (uint32_t n = 0, p = BASE; n < 20; n++, p++) { /* siblings first: garbage in every slot */
                kernels_row sibling = {.blocks = blocks, .path = &p, .n_before = BASE, .n_path = 1, .slot = p};
                run_rows(&r, &kv, &other, &sibling, &p, 1, out);
                while (r.n_buffers > 1) r.ops->free(r.d, r.buffers[--r.n_buffers]);
            }
            uint32_t path[DEPTH], position[DEPTH];
            kernels_row rows[DEPTH];
            for (uint32_t i = 0; i < DEPTH; i++) {
                path[i] = BASE + node[i];
                position[i] = BASE + i;
                rows[i] = (kernels_row){.blocks = blocks, .path = path, .n_before = BASE, .n_path = i + 1, .slot = path[i]};
            }
            run_rows(&r, &kv, &t, rows, position, DEPTH, out);
            assert_same_floats(out, expected, DEPTH * ROW);
            for (uint32_t i = 0; i < DEPTH; i++)
                r.ops->kv_move(r.d, &kv, blocks, BASE + i, BASE + node[i]); /* compaction, in place */
            run_text(&r, &kv, &t, blocks, BASE + DEPTH - 1, BASE + DEPTH, out);
            assert_same_floats(out, expected + (DEPTH - 1) * ROW, ROW);
            rig_close(&r);
        }
    mem_free(prompt);
    text_close(&t);
    text_close(&other);
}

static void a_branch_of_a_tree_attends_as_if_it_were_contiguous(void **state) {
    (void)state;
    static const uint32_t windows[] = {KERNELS_NO_WINDOW, 1, 5, 33};
    for (uint32_t type = 0; type < N_PAIRS; type++)
        for (size_t i = 0; i < sizeof windows / sizeof *windows; i++) branch_attends(pair_of(type), windows[i]);
}

/* -- batches of any rows ------------------------------------------------------------------------------------------------- */

enum { SEQUENCES = 3, SEQUENCE_BLOCKS = 5, SLOTS = SEQUENCE_BLOCKS * 32 };
enum { PARTS = 3, PART_ROWS = 20, MOST_ROWS = PARTS * PART_ROWS, MOST_HEADS = 20 };

/* Rows over a store of floats whose every slot holds something. */
typedef struct {
    kernels_kv kv;
    uint32_t n, n_heads, window, kv_head_of[MOST_HEADS];
    uint32_t blocks[SEQUENCES][SEQUENCE_BLOCKS]; /* also shared */
    uint32_t sees[MOST_ROWS][SLOTS];             /* slots of a row's positions */
    kernels_row rows[MOST_ROWS];
    float *store, *q, *expected; /* q, expected: [n][n_heads][head_dim] */
} any_batch;

static void shuffle(values *v, kernels_row *rows, uint32_t n) {
    for (uint32_t i = n; i > 1; i--) {
        kernels_row *a = &rows[i - 1], *b = &rows[below(v, i)], row = *a;
        *a = *b;
        *b = row;
    }
}

/* Rows of one sequence behind a base: text, text with branches, or a tree. They say what they see as model/run.c does, by the
 * slots behind the base, or anyhow. */
static void any_rows(values *v, any_batch *b) {
    const uint32_t *blocks = b->blocks[below(v, SEQUENCES)], first = b->n;
    const uint32_t base = below(v, 2) ? below(v, SLOTS - PART_ROWS) : below(v, SEQUENCE_BLOCKS) * 32;
    const uint32_t branches = below(v, 3) * 2, says = below(v, 3), n_rows = 1 + below(v, PART_ROWS);
    for (uint32_t i = 0; i < n_rows; i++) {
        uint32_t *sees = b->sees[first + i], n = base, most = 0;
        const uint32_t parent = below(v, 5) < branches ? below(v, i + 1) : i - 1; /* among these; i or -1: none */
        for (uint32_t k = 0; k < base; k++) sees[k] = k;
        if (parent < i) {
            n = b->rows[first + parent].n_before + b->rows[first + parent].n_path;
            memcpy(sees, b->sees[first + parent], n * sizeof *sees);
        }
        sees[n++] = base + i;
        while (most + 1 < n && sees[most] == most) most++;
        const uint32_t n_before = says == 0 ? most : says == 1 ? base : below(v, most + 1);
        b->rows[b->n++] = (kernels_row){.blocks = blocks, .path = sees + n_before, .n_before = n_before, .n_path = n - n_before};
    }
    if (branches && below(v, 2)) shuffle(v, b->rows + first, n_rows);
}

static void any_expected(const any_batch *b, uint32_t row, uint32_t head) {
    static float k[SLOTS * KERNELS_MAX_HEAD_DIM], v[SLOTS * KERNELS_MAX_HEAD_DIM];
    const kernels_row *r = &b->rows[row];
    const uint32_t dim = b->kv.head_dim, n = r->n_before + r->n_path, at = (row * b->n_heads + head) * dim;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t slot = i < r->n_before ? i : r->path[i - r->n_before];
        const float *block = b->store + (size_t)r->blocks[slot / 32] * 2 * b->kv.n_kv_heads * 32 * dim;
        memcpy(k + i * dim, block + (b->kv_head_of[head] * 32 + slot % 32) * dim, dim * sizeof *k);
        memcpy(v + i * dim, block + ((b->kv.n_kv_heads + b->kv_head_of[head]) * 32 + slot % 32) * dim, dim * sizeof *v);
    }
    expected_query(b->q + at, k, v, n, dim, b->window, b->expected + at);
}

static void any_batch_open(any_batch *b, values *v) {
    static const uint32_t dims[] = {8, 8, 17, 17, 40, 64};
    static const float odd[] = {NAN, INFINITY, 0x1p127f, 1e-40f};
    b->kv = (kernels_kv){.type = {KERNELS_KV_F32, KERNELS_KV_F32}, .n_blocks = BLOCKS, .n_layers = 1};
    b->kv.n_kv_heads = 1 + below(v, 3);
    b->kv.head_dim = dims[below(v, 6)];
    b->n = 0;
    b->n_heads = 1 + below(v, below(v, 6) ? 8 : MOST_HEADS);
    b->window = below(v, 2) ? KERNELS_NO_WINDOW : 1 + below(v, SLOTS);
    const bool mixed = below(v, 4) == 0, has_odd = below(v, 4) == 0;
    for (uint32_t h = 0; h < b->n_heads; h++)
        b->kv_head_of[h] = mixed ? below(v, b->kv.n_kv_heads) : h * b->kv.n_kv_heads / b->n_heads;
    for (uint32_t i = 0; i < SEQUENCES * SEQUENCE_BLOCKS; i++)
        b->blocks[i / SEQUENCE_BLOCKS][i % SEQUENCE_BLOCKS] = below(v, BLOCKS);
    for (uint32_t parts = 1 + below(v, PARTS); parts; parts--) any_rows(v, b);
    if (below(v, 6) == 0) shuffle(v, b->rows, b->n);
    const size_t n_store = kernels_kv_block_bytes(&b->kv) * BLOCKS / sizeof(float), n = b->n * b->n_heads * b->kv.head_dim;
    b->store = mem_alloc(n_store, sizeof(float));
    b->q = mem_alloc(n, sizeof(float));
    b->expected = mem_alloc(n, sizeof(float));
    fill(v, b->store, n_store, 2.0f);
    fill(v, b->q, n, 2.0f);
    for (uint32_t i = 0; has_odd && i < 8; i++) b->store[below(v, (uint32_t)n_store)] = odd[i % 4];
    for (uint32_t i = 0; i < b->n * b->n_heads; i++) any_expected(b, i / b->n_heads, i % b->n_heads);
}

static void any_batch_runs(any_batch *b, uint32_t seed, int isa) {
    const size_t n = b->n * b->n_heads * b->kv.head_dim;
    rig r;
    if (!rig_open_isa(&r, isa, 1 + seed % 4)) return;
    float *out = mem_alloc(n, sizeof *out);
    b->kv.at = rig_put(&r, b->store, kernels_kv_block_bytes(&b->kv) * BLOCKS);
    kernels_view o = rig_bytes(&r, n * sizeof *out), q = rig_put(&r, b->q, n * sizeof *out);
    r.ops->attention(r.d, &b->kv, 0, o, q, b->rows, b->n, b->n_heads, b->kv_head_of, b->window);
    rig_get(&r, out, o, n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        if (!same_float(out[i], b->expected[i]))
            fail_msg("seed %u, %s: value %zu of %zu: %a, not %a", seed, rig_isas[isa].isa, i, n, (double)out[i],
                     (double)b->expected[i]);
    mem_free(out);
    rig_close(&r);
}

static void a_row_attends_to_what_it_sees_whatever_rows_are_beside_it(void **state) {
    (void)state;
    any_batch *b = mem_alloc(1, sizeof *b);
    for (uint32_t seed = 0; seed < N_SEEDS; seed++) {
        values v = {.seed = 1000 + seed};
        any_batch_open(b, &v);
        for (int isa = 1; isa < RIG_N_ISAS; isa++) any_batch_runs(b, seed, isa);
        mem_free(b->store);
        mem_free(b->q);
        mem_free(b->expected);
    }
    mem_free(b);
}

static void sequences_in_one_batch_do_not_see_each_other(void **state) {
    (void)state;
    enum { DIM = 16, ROW = HEADS * DIM, N = 11 };
    const uint32_t blocks_a[] = {0, 3}, blocks_b[] = {2, 1};
    text a = text_open(DIM, KERNELS_NO_WINDOW, 73), b = text_open(DIM, KERNELS_NO_WINDOW, 74);
    float expected_a[N * ROW], expected_b[N * ROW], out[2 * N * ROW];
    rig r;
    rig_open(&r, 2);
    kernels_kv kv = store_open(&r, f16s, DIM);
    run_text(&r, &kv, &a, blocks_a, 0, N, expected_a);
    run_text(&r, &kv, &b, blocks_b, 0, N, expected_b);
    text both = text_open(DIM, KERNELS_NO_WINDOW, 75); /* first N positions of a, then of b */
    memcpy(both.k, a.k, N * KV_HEADS * DIM * 4);
    memcpy(both.v, a.v, N * KV_HEADS * DIM * 4);
    memcpy(both.q, a.q, N * ROW * 4);
    memcpy(both.k + N * KV_HEADS * DIM, b.k, N * KV_HEADS * DIM * 4);
    memcpy(both.v + N * KV_HEADS * DIM, b.v, N * KV_HEADS * DIM * 4);
    memcpy(both.q + N * ROW, b.q, N * ROW * 4);
    uint32_t slot[2 * N], from[2 * N];
    kernels_row rows[2 * N];
    for (uint32_t i = 0; i < 2 * N; i++) { /* interleaved */
        uint32_t p = i / 2;
        slot[i] = p;
        from[i] = i % 2 ? N + p : p;
        rows[i] = (kernels_row){.blocks = i % 2 ? blocks_b : blocks_a, .path = &slot[i], .n_before = p, .n_path = 1, .slot = p};
    }
    run_rows(&r, &kv, &both, rows, from, 2 * N, out);
    for (uint32_t i = 0; i < 2 * N; i++) assert_same_floats(out + i * ROW, (i % 2 ? expected_b : expected_a) + i / 2 * ROW, ROW);
    rig_close(&r);
    text_close(&a);
    text_close(&b);
    text_close(&both);
}

static void a_row_that_is_not_finite_spoils_only_rows_that_see_it(void **state) {
    (void)state;
    enum { DIM = 16, ROW = HEADS * DIM, N = 40, BAD = 35 };
    const uint32_t blocks[] = {0, 3};
    for (uint32_t type = 0; type < N_PAIRS; type++) {
        text t = text_open(DIM, KERNELS_NO_WINDOW, 76);
        float clean[N * ROW], out[N * ROW];
        rig r;
        rig_open(&r, 2);
        kernels_kv kv = store_open(&r, pair_of(type), DIM);
        run_text(&r, &kv, &t, blocks, 0, N, clean);
        const bool half = kv.type[0] != KERNELS_KV_F32 && kv.type[0] != KERNELS_KV_Q8; /* where a large number will do */
        for (uint32_t i = 0; i < KV_HEADS * DIM; i++) t.k[BAD * KV_HEADS * DIM + i] = half ? 1e6f : INFINITY;
        run_text(&r, &kv, &t, blocks, 0, N, out);
        assert_same_floats(out, clean, BAD * ROW);
        for (uint32_t p = BAD; p < N; p++) {
            bool bad = false;
            for (uint32_t i = 0; i < ROW; i++) bad |= !isfinite(out[p * ROW + i]);
            assert_true(bad);
        }
        rig_close(&r);
        text_close(&t);
    }
}

static void moving_a_token_moves_all_layers_and_nothing_else(void **state) {
    (void)state;
    enum { DIM = 24 };
    const uint32_t blocks[] = {4, 2};
    for (uint32_t type = 0; type < N_PAIRS; type++) {
        rig r;
        values v = {.seed = 77};
        rig_open(&r, 1);
        kernels_kv kv = store_open(&r, pair_of(type), DIM);
        size_t n = kernels_kv_block_bytes(&kv) * BLOCKS, block = n / BLOCKS, at = 0;
        uint8_t *before = mem_alloc(n, 1), *after = mem_alloc(n, 1);
        for (size_t i = 0; i < n; i++) before[i] = (uint8_t)next_u32(&v);
        r.ops->upload(r.d, kv.at, before, n);
        r.ops->kv_move(r.d, &kv, blocks, 5, 5);
        r.ops->kv_move(r.d, &kv, blocks, 31, 33);
        rig_get(&r, after, kv.at, n);
        for (size_t i = 0; i < LAYERS * 2 * KV_HEADS; i++) {
            const size_t row = kernels_kv_row_bytes(kv.type[i / KV_HEADS % 2], DIM);
            memcpy(before + 4 * block + at + 31 * row, before + 2 * block + at + 1 * row, row);
            at += 32 * row;
        }
        assert_int_equal(at, block);
        assert_memory_equal(before, after, n);
        mem_free(before);
        mem_free(after);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_what_the_contract_says_in_any_batch),
        cmocka_unit_test(attention_is_softmax_of_scaled_products),
        cmocka_unit_test(a_branch_of_a_tree_attends_as_if_it_were_contiguous),
        cmocka_unit_test(a_row_attends_to_what_it_sees_whatever_rows_are_beside_it),
        cmocka_unit_test(sequences_in_one_batch_do_not_see_each_other),
        cmocka_unit_test(a_row_that_is_not_finite_spoils_only_rows_that_see_it),
        cmocka_unit_test(moving_a_token_moves_all_layers_and_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
