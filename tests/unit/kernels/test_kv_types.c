/* The contract of every KV type (kernels/kv_types.def): a row depends on itself alone, is the same bytes on every instruction
 * set, comes back within the error that docs/numerics.md names, and shows what is not finite. */
#include "tests/unit/kernels/kernels_test.h"

enum { GUARD = 64, GUARD_BYTE = 0xA5, MAX_ROWS = 5, KINDS = 7, N_KINDS = 5 * KINDS };

static const kernels_primitives *fast[RIG_N_ISAS]; /* what there is besides ref; NULL-terminated */

static void *guarded(size_t n_bytes) {
    uint8_t *p = mem_alloc(n_bytes + GUARD, 1);
    assert_non_null(p);
    memset(p, GUARD_BYTE, n_bytes + GUARD);
    return p;
}
static void assert_guarded(const void *p, size_t n_bytes) {
    for (size_t i = 0; i < GUARD; i++) assert_int_equal(((const uint8_t *)p)[n_bytes + i], GUARD_BYTE);
}

/* Mostly ordinary; some huge, tiny, zero of either sign; where `bad`, one in a hundred not finite. */
static void fill_odd(values *v, float *x, size_t n, bool bad) {
    static const float odd[] = {0.0f,     -0.0f,    1e-42f,   -3e38f,     0x1p-100f, 0x1.fp-101f,
                                65520.0f, -65519.f, 0x1p-25f, 0x1.8p-25f, -1e-8f,    1e6f};
    static const float not_finite[] = {NAN, INFINITY, -INFINITY};
    fill(v, x, n, 4.0f);
    for (size_t i = 0; i < n; i++) {
        if (below(v, 16) == 0) x[i] = odd[below(v, sizeof odd / sizeof *odd)];
        if (bad && below(v, 100) == 0) x[i] = not_finite[below(v, 3)];
    }
}

/* Rows of many kinds: ordinary of several sizes, odd, not finite, all alike, far from zero, halfway between codes. */
static void fill_kind(values *v, float *x, uint32_t n, uint32_t kind) {
    static const float sizes[N_KINDS / KINDS] = {1.0f, 1e-7f, 7e3f, 1e-30f, 300.0f};
    const uint32_t steps = (const uint32_t[]){15, 127, 63}[kind / KINDS % 3];
    const float size = sizes[kind / KINDS % (N_KINDS / KINDS)], offset = next_float(v, 8.0f * size);
    switch (kind % KINDS) {
    case 0: fill(v, x, n, size); break;
    case 1: fill_odd(v, x, n, false); break;
    case 2: fill_odd(v, x, n, true); break;
    case 3:
        for (uint32_t i = 0; i < n; i++) x[i] = kind / KINDS % 2 ? offset : below(v, 2) ? 0.0f : -0.0f;
        break;
    case 4:
        fill(v, x, n, 0.1f * size);
        for (uint32_t i = 0; i < n; i++) x[i] += offset;
        break;
    case 5: /* of the 127 steps of q8 and, by the group, of the 15 of q4 and the 63 of q6 */
        for (uint32_t i = 0; i < n; i++) x[i] = 0.5f * (float)below(v, 2 * steps + 1) - (steps == 127 ? 63.5f : 0.0f);
        x[0] = (float)steps;
        break;
    case 6: /* nearly all the same: the minimum, rounded up to f16, is so many of the tiny steps over the lowest that the code of
               this one is far below 0 */
        for (uint32_t i = 0; i < n; i++) {
            const bool large = kind / KINDS % 2;
            x[i] = i & 1 ? (large ? 60000.00390625f : 16.0000038f) : (large ? 59985.0f : 15.9965f);
        }
    }
}

static void row_of_kind_equals_ref(const kernels_primitives *p, kernels_kv_type type, uint32_t dim, uint32_t kind, values *v) {
    const size_t row = kernels_kv_row_bytes(type, dim);
    const uint32_t n = 1 + dim % MAX_ROWS;
    float *x = guarded(n * dim * sizeof *x), *c = guarded(n * dim * sizeof *c), *d = guarded(n * dim * sizeof *d);
    uint8_t *a = guarded(n * row), *b = guarded(n * row);
    for (uint32_t r = 0; r < n; r++) {
        fill_kind(v, x + r * dim, dim, kind);
        kernels_ref()->kv_encode[type](a + r * row, x + r * dim, dim);
        p->kv_encode[type](b + r * row, x + r * dim, dim);
        assert_guarded(a, (r + 1) * row); /* the next row, not written yet, or what stands behind the last */
        assert_guarded(b, (r + 1) * row);
    }
    assert_memory_equal(a, b, n * row); /* also the bits of NaN: the store is moved between machines */
    kernels_ref()->kv_decode[type](c, a, n, dim);
    p->kv_decode[type](d, a, n, dim);
    assert_guarded(c, n * dim * sizeof *c);
    assert_guarded(d, n * dim * sizeof *d);
    assert_same_floats(c, d, n * dim);
    for (uint32_t r = 0; r < n; r++) { /* a tile is its rows */
        p->kv_decode[type](c, a + r * row, 1, dim);
        assert_same_floats(c, d + r * dim, dim);
    }
    mem_free(x);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(d);
}

static void every_instruction_set_writes_and_reads_rows_as_ref_does(void **state) {
    (void)state;
    values v = {.seed = 101};
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++)
            for (uint32_t dim = 1; dim <= KERNELS_MAX_HEAD_DIM; dim += dim < 100 ? 1 : 12)
                for (uint32_t kind = 0; kind < N_KINDS; kind++) row_of_kind_equals_ref(*p, (kernels_kv_type)type, dim, kind, &v);
}

/* Whatever bytes a store holds, as of a block that nobody wrote. */
static void every_instruction_set_reads_any_bytes_alike(void **state) {
    (void)state;
    values v = {.seed = 102};
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++)
            for (uint32_t dim = 1; dim <= 200; dim++) {
                float a[200], b[200];
                uint8_t row[4 * 200];
                for (size_t i = 0; i < sizeof row; i++) row[i] = (uint8_t)next_u32(&v);
                kernels_ref()->kv_decode[type](a, row, 1, dim);
                (*p)->kv_decode[type](b, row, 1, dim);
                assert_same_floats(a, b, dim);
            }
}

/* The largest code of a type whose groups of 32 have a scale and a minimum; 0 of others. */
static uint32_t most_code(kernels_kv_type type) { return type == KERNELS_KV_Q4 ? 15 : type == KERNELS_KV_Q6 ? 63 : 0; }

/* The largest error of an element of a group, or row, from low to high. docs/numerics.md, "KV types". */
static double error_bound(kernels_kv_type type, double x, double low, double high) {
    const double most = fmax(fabs(low), fabs(high)), half = 0x1p-11, least = 0x1p-25, codes = most_code(type);
    switch (type) {
    case KERNELS_KV_F32: return 0;
    case KERNELS_KV_F16: return fmax(fabs(x) * half, least);
    case KERNELS_KV_Q8: return most < 0x1p-100 ? most : most / 254 * (1 + 1e-4);
    case KERNELS_KV_Q4:
    case KERNELS_KV_Q6: return (high - low) / (2 * codes) + (high - low + 2 * most) * half + (codes + 1) * least;
    case KERNELS_N_KV_TYPES: break;
    }
    return -1;
}

static void an_element_comes_back_within_the_bound_of_its_type(void **state) {
    (void)state;
    values v = {.seed = 103};
    for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++)
        for (uint32_t dim = 1; dim <= 130; dim++)
            for (uint32_t kind = 0; kind < N_KINDS; kind++) {
                const uint32_t group = most_code((kernels_kv_type)type) ? 32 : dim;
                float x[130], y[130];
                uint8_t row[4 * 130];
                if (kind % KINDS == 1 || kind % KINDS == 2) continue; /* beyond what a half can hold */
                fill_kind(&v, x, dim, kind);
                kernels_ref()->kv_encode[type](row, x, dim);
                kernels_ref()->kv_decode[type](y, row, 1, dim);
                for (uint32_t i = 0; i < dim; i++) {
                    float low = x[i], high = x[i];
                    for (uint32_t k = i / group * group; k < dim && k < (i / group + 1) * group; k++) {
                        low = fminf(low, x[k]);
                        high = fmaxf(high, x[k]);
                    }
                    double bound = error_bound((kernels_kv_type)type, (double)x[i], (double)low, (double)high);
                    if (!(fabs((double)x[i] - (double)y[i]) <= bound))
                        fail_msg("type %u, element %u of %u, kind %u: %a came back as %a; bound %g", type, i, dim, kind,
                                 (double)x[i], (double)y[i], bound);
                }
            }
}

/* Bytes that were worked out by hand. */
static void rows_of_q8_q4_and_q6_are_these_bytes(void **state) {
    (void)state;
    const float x8[] = {127, -127, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -0.0f};
    static const uint8_t row8[] = {0, 0, 0x80, 0x3f, 127, 129, 0, 2, 2, 0, 254, 0}; /* scale 1; half to even */
    float x4[33], y[33];
    static const uint8_t row4[40] = {0,    0x3c, 0,    0xbc, 0xf0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, /* 1, -1 */
                                     0x00, 0x00, 0x00, 0x42};                                                      /* 0, 3 */
    uint8_t row[40];
    kernels_ref()->kv_encode[KERNELS_KV_Q8](row, x8, 8);
    assert_memory_equal(row, row8, sizeof row8);
    for (uint32_t i = 0; i < 32; i++) x4[i] = -1;
    x4[1] = 0.5f;   /* 1.5 steps above the minimum: 2 */
    x4[2] = -0.5f;  /* half a step: 0 */
    x4[15] = 0.25f; /* 1.25 steps: 1 */
    x4[16] = 14;
    x4[31] = 7;
    x4[32] = 3; /* a group of one */
    kernels_ref()->kv_encode[KERNELS_KV_Q4](row, x4, 33);
    assert_memory_equal(row, row4, sizeof row4);
    kernels_ref()->kv_decode[KERNELS_KV_Q4](y, row, 1, 33);
    assert_true(y[0] == -1 && y[1] == 1 && y[2] == -1 && y[15] == 0 && y[16] == 14 && y[31] == 7 && y[32] == 3);
    static const uint8_t row6[28] = {0, 0x3c, 0, 0xbc, 0xf0, 2,    0,    0, 0, 0, 0, 0, 0, 0, /* 1, -1; codes 63, 2, 0, 17, 50 */
                                     0, 0,    0, 0,    0,    0x21, 0x30, 0, 0, 0, 0, 0, 0, 0xc4};
    x4[15] = 15.75f; /* 16.75 steps: 17 */
    x4[16] = 62;
    x4[31] = 49;
    kernels_ref()->kv_encode[KERNELS_KV_Q6](row, x4, 32);
    assert_memory_equal(row, row6, sizeof row6);
    kernels_ref()->kv_decode[KERNELS_KV_Q6](y, row, 1, 32);
    assert_true(y[0] == -1 && y[1] == 1 && y[2] == -1 && y[15] == 16 && y[16] == 62 && y[31] == 49);
}

static void zeros_come_back_as_zeros(void **state) {
    (void)state;
    for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++) {
        float x[40] = {0}, y[40];
        uint8_t row[4 * 40];
        x[3] = x[35] = -0.0f;
        kernels_ref()->kv_encode[type](row, x, 40);
        kernels_ref()->kv_decode[type](y, row, 1, 40);
        for (uint32_t i = 0; i < 40; i++) assert_true(y[i] == 0);
    }
}

/* A value that is not finite, or that the type cannot hold, must reach the check for bad values, and none beyond its row. */
static void what_is_not_finite_is_seen_and_spoils_no_other_row(void **state) {
    (void)state;
    enum { DIM = 70, AT = 37 };
    static const float bad[] = {NAN, INFINITY, -INFINITY, 70000.0f, -70000.0f, 1e6f};
    for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++)
        for (size_t b = 0; b < sizeof bad / sizeof *bad; b++) {
            float x[2][DIM], y[2][DIM], alone[DIM];
            uint8_t rows[2][4 * DIM];
            values v = {.seed = 104};
            const bool wide = type == KERNELS_KV_F32 || type == KERNELS_KV_Q8; /* holds any finite value */
            fill(&v, x[0], 2 * DIM, 2.0f);
            x[0][AT] = bad[b];
            for (uint32_t r = 0; r < 2; r++) {
                kernels_ref()->kv_encode[type](rows[r], x[r], DIM);
                kernels_ref()->kv_decode[type](y[r], rows[r], 1, DIM);
            }
            kernels_ref()->kv_encode[type](rows[0], x[1], DIM);
            kernels_ref()->kv_decode[type](alone, rows[0], 1, DIM);
            assert_same_floats(y[1], alone, DIM);
            /* q4 codes 70000 over a minimum of -2, q6 also 1e6; what they lack then is a step that small values can be told apart
             * by. */
            const uint32_t codes = most_code((kernels_kv_type)type);
            const bool held = isfinite(bad[b]) && (wide || (codes && bad[b] > 0 && bad[b] / (float)codes < 65504));
            assert_int_equal(held, isfinite(y[0][AT]) != 0);
            for (uint32_t i = 0; i < DIM && !held; i++) {
                const bool spoilt = type == KERNELS_KV_Q8 || (codes && i / 32 == AT / 32) || i == AT;
                assert_int_equal(spoilt, !isfinite(y[0][i]));
            }
        }
}

enum { TOKENS = 9, HEADS = 3, DIM = 40, BLOCKS = 3 };

/* Writes heads [head0, head0 + n_heads) of tokens [from, to) to their slots; the store's bytes are the caller's to free. */
static uint8_t *stored(int isa, kernels_kv_type type, const float *x, uint32_t head0, uint32_t n_heads, uint32_t from,
                       uint32_t to, uint32_t step) {
    static const uint32_t blocks[] = {2, 0};
    rig r;
    if (!rig_open_isa(&r, isa, 2)) return NULL;
    kernels_kv kv = {.type = {type, type}, .n_blocks = BLOCKS, .n_layers = 1, .n_kv_heads = n_heads, .head_dim = DIM};
    const size_t n = kernels_kv_block_bytes(&kv) * BLOCKS;
    kv.at = rig_bytes(&r, n);
    for (uint32_t first = from; first < to; first += step) {
        float k[TOKENS * HEADS * DIM];
        kernels_row rows[TOKENS];
        uint32_t slot[TOKENS], n_rows = to - first < step ? to - first : step;
        for (uint32_t i = 0; i < n_rows; i++) {
            slot[i] = 28 + first + i; /* over the border of two blocks */
            rows[i] = (kernels_row){.blocks = blocks, .path = &slot[i], .n_before = slot[i], .n_path = 1, .slot = slot[i]};
            memcpy(k + i * n_heads * DIM, x + ((first + i) * HEADS + head0) * DIM, n_heads * DIM * sizeof *k);
        }
        kernels_view view = rig_put(&r, k, n_rows * n_heads * DIM * sizeof *k);
        r.ops->kv_write(r.d, &kv, 0, view, view, rows, n_rows);
        assert_int_equal(r.ops->wait(r.d), ST_OK); /* it reads `rows` until then */
    }
    uint8_t *bytes = mem_alloc(n, 1);
    rig_get(&r, bytes, kv.at, n);
    rig_close(&r);
    return bytes;
}

/* Where K (v = 0) or V of a token's head stands in such a store of n_heads. */
static const uint8_t *at(const uint8_t *bytes, size_t row, uint32_t n_heads, uint32_t v, uint32_t head, uint32_t token) {
    const uint32_t slot = 28 + token, block = slot < 32 ? 2 : 0;
    return bytes + (((size_t)block * 2 + v) * n_heads + head) * 32 * row + slot % 32 * row;
}

static void a_row_depends_on_itself_alone(void **state) {
    (void)state;
    values v = {.seed = 105};
    float x[TOKENS * HEADS * DIM], other[TOKENS * HEADS * DIM];
    fill(&v, x, TOKENS * HEADS * DIM, 3.0f);
    fill_odd(&v, other, TOKENS * HEADS * DIM, true);
    memcpy(other + 4 * HEADS * DIM, x + 4 * HEADS * DIM, HEADS * DIM * sizeof *x); /* token 4 among others */
    for (int isa = 0; isa < RIG_N_ISAS; isa++)
        for (uint32_t type = 0; type < KERNELS_N_KV_TYPES; type++) {
            const kernels_kv_type t = (kernels_kv_type)type;
            const size_t row = kernels_kv_row_bytes(t, DIM);
            uint8_t *batch = stored(isa, t, x, 0, HEADS, 0, TOKENS, TOKENS);
            if (!batch) continue;
            uint8_t *each = stored(isa, t, x, 0, HEADS, 0, TOKENS, 1),
                    *among = stored(isa, t, other, 0, HEADS, 0, TOKENS, TOKENS);
            uint8_t *shard = stored(isa, t, x, 1, 1, 0, TOKENS, 4); /* the rank that holds the second head */
            assert_memory_equal(batch, each, BLOCKS * 2 * HEADS * 32 * row);
            for (uint32_t kv = 0; kv < 2; kv++) {
                for (uint32_t h = 0; h < HEADS; h++)
                    assert_memory_equal(at(batch, row, HEADS, kv, h, 4), at(among, row, HEADS, kv, h, 4), row);
                for (uint32_t token = 0; token < TOKENS; token++)
                    assert_memory_equal(at(batch, row, HEADS, kv, 1, token), at(shard, row, 1, kv, 0, token), row);
            }
            mem_free(batch);
            mem_free(each);
            mem_free(among);
            mem_free(shard);
        }
}

int main(void) {
    uint32_t n = 0;
    for (int isa = 1; isa < RIG_N_ISAS; isa++)
        if (rig_isas[isa].primitives()) fast[n++] = rig_isas[isa].primitives();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_instruction_set_writes_and_reads_rows_as_ref_does),
        cmocka_unit_test(every_instruction_set_reads_any_bytes_alike),
        cmocka_unit_test(an_element_comes_back_within_the_bound_of_its_type),
        cmocka_unit_test(rows_of_q8_q4_and_q6_are_these_bytes),
        cmocka_unit_test(zeros_come_back_as_zeros),
        cmocka_unit_test(what_is_not_finite_is_seen_and_spoils_no_other_row),
        cmocka_unit_test(a_row_depends_on_itself_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
