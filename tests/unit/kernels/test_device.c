#include "kernels/profile.h"
#include "tests/unit/kernels/kernels_test.h"
#include <stdlib.h>

static void picking_names_what_there_is(void **state) {
    (void)state;
    const kernels_ops *best = NULL, *other = NULL;
    st_error e;
    unsetenv("CONSORT_ISA");
    assert_int_equal(kernels_pick(NULL, &best, &e), ST_OK);
    assert_int_equal(kernels_pick("auto", &other, &e), ST_OK);
    assert_ptr_equal(best, other);
    assert_string_equal(best->isa, kernels_avx512() ? "avx512" : kernels_avx2() ? "avx2" : kernels_neon() ? "neon" : "scalar");
    for (int isa = 0; isa < RIG_N_REAL; isa++) {
        kernels_device *d;
        const kernels_primitives *p = rig_isas[isa].primitives();
        assert_int_equal(kernels_pick(rig_isas[isa].isa, &other, &e), p ? ST_OK : ST_ERR_UNSUPPORTED);
        if (!p) continue;
        assert_string_equal(other->isa, rig_isas[isa].isa);
        assert_string_equal(p->isa, rig_isas[isa].isa);
        assert_int_equal(other->create(1, &d, &e), ST_OK);
        assert_ptr_equal(d->primitives, p);
        other->destroy(d);
    }
    assert_int_equal(kernels_pick("mmx", &other, &e), ST_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "mmx"));
    assert_non_null(strstr(e.message, "scalar"));
}

static void the_environment_picks_where_nobody_else_does(void **state) {
    (void)state;
    const kernels_ops *best = NULL, *ops = NULL, *scalar = NULL;
    st_error e;
    unsetenv("CONSORT_ISA");
    assert_int_equal(kernels_pick(NULL, &best, &e), ST_OK);
    assert_int_equal(kernels_pick("scalar", &scalar, &e), ST_OK);
    setenv("CONSORT_ISA", "scalar", 1);
    assert_int_equal(kernels_pick(NULL, &ops, &e), ST_OK);
    assert_ptr_equal(ops, scalar);
    assert_int_equal(kernels_pick("auto", &ops, &e), ST_OK);
    assert_ptr_equal(ops, scalar);
    assert_int_equal(kernels_pick(best->isa, &ops, &e), ST_OK);
    assert_ptr_equal(ops, best);
    static const char *const none[] = {"", "auto"};
    for (size_t i = 0; i < 2; i++) {
        setenv("CONSORT_ISA", none[i], 1);
        assert_int_equal(kernels_pick("auto", &ops, &e), ST_OK);
        assert_ptr_equal(ops, best);
    }
    setenv("CONSORT_ISA", "mmx", 1);
    assert_int_equal(kernels_pick("auto", &ops, &e), ST_ERR_UNSUPPORTED);
    assert_non_null(strstr(e.message, "mmx"));
    assert_non_null(strstr(e.message, "CONSORT_ISA"));
    unsetenv("CONSORT_ISA");
}

static void creating_refuses_bad_thread_counts_and_survives_lack_of_memory(void **state) {
    (void)state;
    const kernels_ops *ops = NULL;
    kernels_device *d = NULL;
    st_error e;
    assert_int_equal(kernels_pick("scalar", &ops, &e), ST_OK);
    assert_int_equal(ops->create(0, &d, &e), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(ops->create(100000, &d, &e), ST_ERR_INVALID_ARGUMENT);
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        st_code code = ops->create(2, &d, &e);
        mem_fail_at(0);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(d);
    }
    ops->destroy(d);
    ops->destroy(NULL);
}

static void buffers_and_weights_survive_lack_of_memory(void **state) {
    (void)state;
    rig r;
    values v = {.seed = 31};
    uint8_t *blocks = random_blocks(&v, KERNELS_Q4_1, 40, 64);
    kernels_matrix m = {KERNELS_Q4_1, 40, 64, blocks};
    assert_true(rig_open_isa(&r, 0, 1));
    for (uint64_t n = 1;; n++) {
        kernels_buffer *b = NULL;
        mem_fail_at(n);
        st_code code = r.ops->alloc(r.d, 100, &b);
        mem_fail_at(0);
        r.ops->free(r.d, b);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(b);
    }
    for (uint64_t n = 1;; n++) {
        kernels_weight *w = NULL;
        mem_fail_at(n);
        st_code code = r.ops->weight_create(r.d, &m, 0, 40, 0, 64, KERNELS_FAST, &w);
        mem_fail_at(0);
        r.ops->weight_free(r.d, w);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(w);
    }
    rig_close(&r);
    mem_free(blocks);
}

static void weights_outside_their_matrix_are_refused(void **state) {
    (void)state;
    static const uint32_t bad[][4] = {{0, 0, 0, 64},  {0, 41, 0, 64},  {41, 1, 0, 64}, {40, 1, 0, 64}, {1, UINT32_MAX, 0, 64},
                                      {0, 40, 0, 96}, {0, 40, 16, 32}, {0, 40, 0, 33}, {0, 40, 0, 0},  {0, 40, 96, 32}};
    rig r;
    values v = {.seed = 32};
    uint8_t *blocks = random_blocks(&v, KERNELS_Q4_1, 40, 64);
    kernels_matrix m = {KERNELS_Q4_1, 40, 64, blocks};
    kernels_weight *w = NULL;
    assert_true(rig_open_isa(&r, 0, 1));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(r.ops->weight_create(r.d, &m, bad[i][0], bad[i][1], bad[i][2], bad[i][3], KERNELS_FAST, &w),
                         ST_ERR_INVALID_ARGUMENT);
    m.format = KERNELS_N_FORMATS;
    assert_int_equal(r.ops->weight_create(r.d, &m, 0, 40, 0, 64, KERNELS_FAST, &w), ST_ERR_UNSUPPORTED);
    assert_null(w);
    rig_close(&r);
    mem_free(blocks);
}

static void many_weights_come_and_go(void **state) {
    (void)state;
    rig r;
    values v = {.seed = 33};
    uint8_t *blocks = random_blocks(&v, KERNELS_Q8_0, 600, 1024);
    kernels_matrix m = {KERNELS_Q8_0, 600, 1024, blocks};
    kernels_weight *w[12] = {NULL};
    assert_true(rig_open_isa(&r, 0, 1));
    for (uint32_t i = 0; i < 100; i++) { /* slabs fill, empty, and are made anew */
        uint32_t k = below(&v, 12);
        r.ops->weight_free(r.d, w[k]);
        w[k] = NULL;
        if (below(&v, 4)) assert_int_equal(r.ops->weight_create(r.d, &m, 0, 600, 0, 1024, KERNELS_FAST, &w[k]), ST_OK);
        if (w[k]) assert_int_equal(r.ops->weight_bytes(w[k]), 608 * 1024 / 32 * 34);
    }
    for (uint32_t k = 0; k < 12; k++) r.ops->weight_free(r.d, w[k]);
    rig_close(&r);
    mem_free(blocks);
}

static void bytes_go_up_and_down_and_across(void **state) {
    (void)state;
    rig r;
    uint8_t from[300], to[300];
    for (uint32_t i = 0; i < 300; i++) from[i] = (uint8_t)(i * 7);
    rig_open(&r, 2);
    kernels_view a = rig_bytes(&r, 512), b = rig_bytes(&r, 512);
    rig_get(&r, to, a, 300);
    for (uint32_t i = 0; i < 300; i++) assert_int_equal(to[i], 0); /* new buffers are zeroed */
    kernels_view a64 = {a.buffer, 64}, b128 = {b.buffer, 128};
    r.ops->upload(r.d, a64, from, 300);
    r.ops->copy(r.d, b128, a64, 299);
    rig_get(&r, to, b128, 300);
    assert_memory_equal(to, from, 299);
    assert_int_equal(to[299], 0);
    rig_close(&r);
}

/* Of any size and alignment, and not a byte more. */
static void a_copy_past_the_caches_is_a_copy(void **state) {
    (void)state;
    enum { N = 3 * 4096 };
    uint8_t *from = mem_alloc_aligned(1, N + 128, 64), *to = mem_alloc_aligned(1, N + 128, 64);
    for (size_t i = 0; i < N + 128; i++) from[i] = (uint8_t)(i * 31 + (i >> 8));
    static const size_t sizes[] = {0, 1, 63, 64, 4095, 4096, 4097, 4096 + 63, 8192, N};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t a = 0; a < 64; a += 1 + a / 4)
            for (size_t b = 0; b < 64; b += 1 + b / 4) {
                memset(to, 0xee, N + 128);
                kernels_copy_past_cache(to + a, from + b, sizes[s]);
                assert_memory_equal(to + a, from + b, sizes[s]);
                for (size_t i = 0; i < a; i++) assert_int_equal(to[i], 0xee);
                for (size_t i = a + sizes[s]; i < N + 128; i++) assert_int_equal(to[i], 0xee);
            }
    mem_free(from), mem_free(to);
}

static void embedding_and_gathering_pick_rows(void **state) {
    (void)state;
    enum { ROWS = 37, COLS = 512 };
    for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++) {
        rig r;
        values v = {.seed = 34};
        uint8_t *blocks = random_blocks(&v, f, ROWS, COLS);
        kernels_matrix m = {f, ROWS, COLS, blocks};
        const kernels_layout *l = kernels_layout_of(f);
        const uint32_t token[] = {36, 0, 15, 16, 36}, index[] = {4, 1, 1};
        float out[5 * COLS], expected[KERNELS_GROUP], picked[3 * COLS];
        rig_open(&r, 2);
        kernels_view x = rig_bytes(&r, sizeof out), y = rig_bytes(&r, sizeof picked);
        r.ops->embed(r.d, x, &m, token, 5);
        rig_get(&r, out, x, sizeof out);
        for (uint32_t i = 0; i < 5; i++)
            for (uint32_t c = 0; c < COLS; c += l->step_k) {
                uint8_t *tile = mem_alloc(1, l->tile_bytes);
                l->pack(tile, blocks + (token[i] * COLS + c) / l->tile_k * kernels_format_of(f)->block_bytes, 3);
                l->unpack(expected, tile, c % l->tile_k, 3);
                assert_memory_equal(out + i * COLS + c, expected, l->step_k * sizeof(float));
                mem_free(tile);
            }
        r.ops->gather(r.d, y, x, index, 3, COLS);
        rig_get(&r, picked, y, sizeof picked);
        for (uint32_t i = 0; i < 3; i++) assert_memory_equal(picked + i * COLS, out + index[i] * COLS, COLS * sizeof(float));
        rig_close(&r);
        mem_free(blocks);
    }
}

static void bad_rows_are_found_and_only_they(void **state) {
    (void)state;
    enum { N = 70, DIM = 333 };
    static const float bad_values[] = {INFINITY, -INFINITY, NAN, -NAN};
    rig r;
    values v = {.seed = 35};
    float *x = mem_alloc(N * DIM, sizeof *x);
    uint8_t found[N + 1];
    fill(&v, x, N * DIM, 3e38f);
    for (uint32_t i = 0; i < N; i += 3) x[i * DIM + below(&v, DIM)] = bad_values[i % 4];
    rig_open(&r, 3);
    memset(found, 7, sizeof found);
    r.ops->find_bad(r.d, found, rig_put(&r, x, N * DIM * sizeof *x), N, DIM);
    assert_int_equal(r.ops->wait(r.d), ST_OK);
    for (uint32_t i = 0; i < N; i++) assert_int_equal(found[i], i % 3 == 0);
    assert_int_equal(found[N], 7);
    rig_close(&r);
    mem_free(x);
}

/* A device of two threads behind a profile, or the plain one. */
/* A long run of operations by rows, with others in between; `eager` waits after each. What comes out is in out[2 * N][DIM]. */
enum { QUEUE_N = 70, QUEUE_DIM = 256 };
static void run_queue(int isa, uint32_t threads, bool eager, float *out) {
    enum { N = QUEUE_N, DIM = QUEUE_DIM };
    rig r;
    values v = {.seed = 36};
    float *x = mem_alloc(N * DIM, sizeof *x);
    uint32_t slot[N], index[N], blocks[] = {2, 0, 1};
    kernels_row rows[N];
    fill(&v, x, N * DIM, 2.0f);
    for (uint32_t i = 0; i < N; i++) {
        slot[i] = i;
        index[i] = N - 1 - i;
        rows[i] = (kernels_row){.blocks = blocks, .path = &slot[i], .n_before = i, .n_path = 1, .slot = i};
    }
    if (!rig_open_isa(&r, isa, threads)) rig_open(&r, threads);
    const kernels_ops *o = r.ops;
#define STEP(...)                                                                                                                \
    do {                                                                                                                         \
        __VA_ARGS__;                                                                                                             \
        if (eager) assert_int_equal(o->wait(r.d), ST_OK);                                                                        \
    } while (0)
    kernels_view a = rig_put(&r, x, N * DIM * 4), w = rig_put(&r, x + DIM, DIM * 4), b = rig_bytes(&r, N * DIM * 4);
    kernels_view c = rig_bytes(&r, N * DIM * 4), d = rig_bytes(&r, N * DIM * 4);
    kernels_kv kv = {.type = {KERNELS_KV_F32, KERNELS_KV_F32}, .n_blocks = 3, .n_layers = 1, .n_kv_heads = 1, .head_dim = DIM};
    kv.at = rig_bytes(&r, kernels_kv_block_bytes(&kv) * 3);
    kernels_buffer *brief;
    assert_int_equal(o->alloc(r.d, N * DIM * 4, &brief), ST_OK);
    STEP(o->copy(r.d, (kernels_view){brief, 0}, a, N * DIM * 4));
    STEP(o->rmsnorm(r.d, b, (kernels_view){brief, 0}, w, N, DIM, 1e-5f));
    STEP(o->free(r.d, brief));                                               /* while the operation that reads it is queued */
    for (uint32_t i = 0; i < 11; i++) STEP(o->scale(r.d, b, 1.25f, N, DIM)); /* more than a queue holds */
    STEP(o->glu(r.d, c, a, b, N, DIM, KERNELS_SILU));
    STEP(o->rmsnorm(r.d, c, c, w, 2 * N, DIM / 2, 1e-5f)); /* rows of another width */
    STEP(o->add_bias(r.d, c, w, N, DIM));
    STEP(o->gather(r.d, d, c, index, N, DIM));
    STEP(o->add_bias(r.d, d, w, N, DIM));
    STEP(o->copy(r.d, a, d, N * DIM * 4));
    STEP(o->scale(r.d, d, 0.5f, N, DIM));
    STEP(o->kv_write(r.d, &kv, 0, a, d, rows, N));
    STEP(o->kv_move(r.d, &kv, blocks, 3, 40));
    STEP(o->attention(r.d, &kv, 0, b, d, rows, N, 1, &(uint32_t){0}, KERNELS_NO_WINDOW));
    STEP(o->scale(r.d, b, 3.0f, N, DIM));
#undef STEP
    rig_get(&r, out, b, N * DIM * 4);
    memcpy(out + N * DIM, o->host(r.d, d, N * DIM * 4), N * DIM * 4);
    rig_close(&r);
    mem_free(x);
}

static void queued_operations_do_what_they_do_one_by_one(void **state) {
    (void)state;
    float *one_by_one = mem_alloc(2 * QUEUE_N * QUEUE_DIM, 4), *out = mem_alloc(2 * QUEUE_N * QUEUE_DIM, 4);
    run_queue(0, 1, true, one_by_one);
    for (int isa = 0; isa < RIG_N_REAL; isa++)
        for (uint32_t threads = 1; threads <= 3; threads++) {
            run_queue(isa, threads, false, out);
            assert_same_floats(out, one_by_one, 2 * QUEUE_N * QUEUE_DIM);
        }
    mem_free(one_by_one);
    mem_free(out);
}

static void run_projections(const uint8_t *blocks, bool profiled, float *out, kernels_profile **profile) {
    enum { ROWS = 40, COLS = 64, N = 3 };
    const kernels_matrix m = {KERNELS_Q8_0, 2 * ROWS, COLS, blocks};
    rig r;
    values v = {.seed = 71};
    float x[N * COLS];
    fill(&v, x, N * COLS, 1.0f);
    rig_open(&r, 2);
    if (profiled) {
        mem_fail_at(1);
        assert_int_equal(kernels_profile_create(r.ops, r.d, profile), ST_FATAL_MEMORY);
        mem_fail_at(0);
        assert_int_equal(kernels_profile_create(r.ops, r.d, profile), ST_OK);
        r.ops = kernels_profile_ops(*profile);
        r.d = kernels_profile_device(*profile);
    }
    kernels_weight *a = rig_weight(&r, &m, 0, ROWS, 0, COLS), *b = rig_weight(&r, &m, ROWS, ROWS, 0, COLS);
    kernels_view in = rig_put(&r, x, sizeof x), act = rig_act(&r, in, N, COLS);
    kernels_view first = rig_bytes(&r, N * ROWS * sizeof *out), second = rig_bytes(&r, N * ROWS * sizeof *out);
    for (int i = 0; i < 2; i++)
        r.ops->matmul(r.d, (kernels_projection[]){{.out = first, .weight = a}, {.out = second, .weight = b}}, 2, in, act, N);
    rig_get(&r, out, first, N * ROWS * sizeof *out);
    rig_get(&r, out + N * ROWS, second, N * ROWS * sizeof *out);
    if (profiled) {
        uint32_t n, found = 0;
        const kernels_profile_line *l = kernels_profile_lines(*profile, &n);
        for (uint32_t i = 0; i < n; i++) {
            if (strcmp(l[i].operation, "matmul")) continue;
            found++;
            assert_int_equal(l[i].rows, 2 * ROWS);
            assert_int_equal(l[i].cols, COLS);
            assert_int_equal(l[i].n_calls, 2);
            assert_int_equal(l[i].multiplications, 2 * 2 * ROWS * COLS * N);
            assert_int_equal(l[i].weight_bytes, 2 * 2 * r.ops->weight_bytes(a));
            assert_true(l[i].total_ns > 0);
        }
        assert_int_equal(found, 1);
        assert_int_equal(n, 4); /* and upload, quantize, download */
        kernels_profile_reset(*profile);
        (void)kernels_profile_lines(*profile, &n);
        assert_int_equal(n, 0);
    }
    rig_close(&r);
}

static void a_profile_counts_operations_and_changes_no_result(void **state) {
    (void)state;
    values v = {.seed = 70};
    uint8_t *blocks = random_blocks(&v, KERNELS_Q8_0, 80, 64);
    float plain[240], profiled[240];
    kernels_profile *p;
    run_projections(blocks, false, plain, NULL);
    run_projections(blocks, true, profiled, &p);
    assert_memory_equal(plain, profiled, sizeof plain);
    mem_free(blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(picking_names_what_there_is),
        cmocka_unit_test(the_environment_picks_where_nobody_else_does),
        cmocka_unit_test(creating_refuses_bad_thread_counts_and_survives_lack_of_memory),
        cmocka_unit_test(buffers_and_weights_survive_lack_of_memory),
        cmocka_unit_test(weights_outside_their_matrix_are_refused),
        cmocka_unit_test(many_weights_come_and_go),
        cmocka_unit_test(bytes_go_up_and_down_and_across),
        cmocka_unit_test(a_copy_past_the_caches_is_a_copy),
        cmocka_unit_test(embedding_and_gathering_pick_rows),
        cmocka_unit_test(bad_rows_are_found_and_only_they),
        cmocka_unit_test(queued_operations_do_what_they_do_one_by_one),
        cmocka_unit_test(a_profile_counts_operations_and_changes_no_result),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
