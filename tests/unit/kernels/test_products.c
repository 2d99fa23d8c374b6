/* Matrix products on the device, in both precisions: any grouping of tokens, any number of threads and any split of rows or units
 * give the same bits, and a bad row stays alone. */
#include "tests/unit/kernels/kernels_test.h"

/* Rows: no multiple of 16; columns: 4.5 chunks, more than are unpacked at once; units end inside blocks of 256. */
enum { ROWS = 35, COLS = 2304, TOKENS = 66, UNIT = 192, N_UNITS = COLS / UNIT };

typedef struct {
    kernels_format format;
    kernels_precision precision;
    uint8_t *blocks;
    float *x;       /* [TOKENS][COLS] */
    float *product; /* [TOKENS][ROWS]: scalar, one thread, one token at a time */
    double *sums;
} problem;

/* Float formats have one precision; of the others the second is the same walk over other numbers. */
static kernels_precision last_precision(kernels_format f) {
    return kernels_layout_is_float(kernels_layout_of(f)) || (IS_SLOW && f % 3) ? KERNELS_FAST : KERNELS_FP32;
}
#define EACH_KIND(f, p)                                                                                                          \
    for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++)                                                                       \
        for (kernels_precision p = 0; p <= last_precision(f); p++)

static kernels_matrix matrix_of(const problem *p) { return (kernels_matrix){p->format, ROWS, COLS, p->blocks}; }

/* Both products of x[n], starting at token t0. */
static void multiply(rig *r, const problem *p, uint32_t t0, uint32_t n, uint32_t row0, uint32_t n_rows, float *product,
                     double *sums) {
    kernels_matrix m = matrix_of(p);
    r->precision = p->precision;
    kernels_weight *w = rig_weight(r, &m, row0, n_rows, 0, COLS);
    kernels_view x = rig_put(r, p->x + (size_t)t0 * COLS, (size_t)n * COLS * 4), act = rig_act(r, x, n, COLS);
    kernels_view y = rig_bytes(r, (size_t)n * n_rows * 4 + 4), s = rig_bytes(r, (size_t)n * n_rows * 8 + 8);
    const uint32_t guard = 0xA5A5A5A5;
    uint32_t behind;
    float *with_guard = mem_alloc((size_t)n * n_rows + 1, 4);
    memcpy(with_guard + n * n_rows, &guard, 4);
    r->ops->upload(r->d, y, with_guard, ((size_t)n * n_rows + 1) * 4);
    r->ops->matmul(r->d, &(kernels_projection){.out = y, .weight = w}, 1, x, act, n);
    r->ops->matmul_units(r->d, s, w, x, act, n, UNIT, N_UNITS);
    rig_get(r, with_guard, y, ((size_t)n * n_rows + 1) * 4);
    memcpy(&behind, with_guard + n * n_rows, 4);
    assert_int_equal(behind, guard);
    memcpy(product, with_guard, (size_t)n * n_rows * 4);
    rig_get(r, sums, s, (size_t)n * n_rows * 8);
    mem_free(with_guard);
}

/* With the results of the first n tokens: scalar, one thread, one token at a time. */
static problem problem_open(kernels_format f, kernels_precision precision, uint32_t n) {
    values v = {.seed = 40 + f};
    problem p = {f,
                 precision,
                 random_blocks(&v, f, ROWS, COLS),
                 mem_alloc(TOKENS * COLS, 4),
                 mem_alloc(TOKENS * ROWS, 4),
                 mem_alloc(TOKENS * ROWS, 8)};
    fill(&v, p.x, TOKENS * COLS, 2.0f);
    rig r;
    assert_true(rig_open_isa(&r, 0, 1));
    r.precision = precision;
    kernels_matrix m = matrix_of(&p);
    kernels_weight *w = rig_weight(&r, &m, 0, ROWS, 0, COLS);
    kernels_view x = rig_bytes(&r, COLS * 4), act = rig_bytes(&r, r.ops->act_bytes(1, COLS));
    kernels_view y = rig_bytes(&r, ROWS * 4), s = rig_bytes(&r, ROWS * 8);
    for (uint32_t t = 0; t < n; t++) {
        r.ops->upload(r.d, x, p.x + t * COLS, COLS * 4);
        r.ops->quantize(r.d, act, x, 1, COLS);
        r.ops->matmul(r.d, &(kernels_projection){.out = y, .weight = w}, 1, x, act, 1);
        r.ops->matmul_units(r.d, s, w, x, act, 1, UNIT, N_UNITS);
        rig_get(&r, p.product + t * ROWS, y, ROWS * 4);
        rig_get(&r, p.sums + t * ROWS, s, ROWS * 8);
    }
    rig_close(&r);
    return p;
}
static void problem_close(problem *p) {
    mem_free(p->blocks);
    mem_free(p->x);
    mem_free(p->product);
    mem_free(p->sums);
}

static void tokens_threads_and_instruction_sets_do_not_change_a_bit(void **state) {
    (void)state;
    static const uint32_t groups[] = {1, 2, 3, 4, 5, 8, TOKENS};
    float *y = mem_alloc(TOKENS * ROWS, 4);
    double *s = mem_alloc(TOKENS * ROWS, 8);
    EACH_KIND(f, precision) {
        problem p = problem_open(f, precision, TOKENS);
        for (int isa = 0; isa < RIG_N_REAL; isa++)
            for (uint32_t threads = isa ? 1 : 3; threads <= 3; threads++)
                for (size_t g = isa ? 0 : 6; g < sizeof groups / sizeof *groups; g++) {
                    rig r;
                    uint32_t n = groups[g], t0 = TOKENS - n;
                    if (!rig_open_isa(&r, isa, threads)) continue;
                    multiply(&r, &p, t0, n, 0, ROWS, y, s);
                    assert_same_floats(y, p.product + t0 * ROWS, n * ROWS);
                    assert_memory_equal(s, p.sums + t0 * ROWS, n * ROWS * sizeof *s);
                    rig_close(&r);
                }
        problem_close(&p);
    }
    mem_free(y);
    mem_free(s);
}

static void some_of_the_rows_are_those_of_all_and_no_others_are_written(void **state) {
    (void)state;
    static const uint32_t runs[] = {0, 2};
    static const kernels_projection part[] = {
        {.n_rows = 16},   {.first_row = 16, .n_rows = 16}, {.first_row = 32, .n_rows = 3}, {.first_row = 16, .n_rows = 19},
        {.n_rows = ROWS}, {.n_runs = 2, .runs = runs},     {.n_runs = 1, .runs = runs + 1}};
    float y[5 * ROWS], guard[5 * ROWS];
    memset(guard, 0xa5, sizeof guard);
    EACH_KIND(f, precision) {
        problem p = problem_open(f, precision, 5);
        for (size_t i = 0; i < sizeof part / sizeof *part; i++)
            for (uint32_t threads = 1; threads <= 2; threads++) {
                rig r;
                assert_true(rig_open_isa(&r, 0, threads));
                r.precision = precision;
                kernels_matrix m = matrix_of(&p);
                kernels_view x = rig_put(&r, p.x, sizeof(float) * 5 * COLS), act = rig_act(&r, x, 5, COLS);
                kernels_projection some = part[i];
                some.out = rig_put(&r, guard, sizeof guard);
                some.weight = rig_weight(&r, &m, 0, ROWS, 0, COLS);
                r.ops->matmul(r.d, &some, 1, x, act, 5);
                rig_get(&r, y, some.out, sizeof y);
                for (uint32_t at = 0; at < 5 * ROWS; at++) {
                    bool in = at % ROWS >= some.first_row && at % ROWS < some.first_row + some.n_rows;
                    for (uint32_t k = 0; k < some.n_runs; k++) in |= at % ROWS / 16 == some.runs[k];
                    assert_memory_equal(&y[at], in ? &p.product[at] : &guard[at], sizeof *y);
                }
                rig_close(&r);
            }
        problem_close(&p);
    }
}

/* The contract's blocks and chunks compute what a matrix product is, up to the rounding of activations to int8. */
static void a_product_is_the_product_of_the_dequantized_weights(void **state) {
    (void)state;
    EACH_KIND(f, precision) {
        problem p = problem_open(f, precision, 1);
        const kernels_layout *l = kernels_layout_of(f);
        uint8_t *tile = mem_alloc(1, l->tile_bytes);
        for (uint32_t row = 0; row < ROWS; row++) {
            double exact = 0, size = 0;
            for (uint32_t k = 0; k < COLS; k += l->tile_k) {
                float w[256];
                l->pack(tile, p.blocks + ((size_t)row * COLS + k) / l->tile_k * kernels_format_of(f)->block_bytes, 0);
                for (uint32_t i = 0; i < l->tile_k; i += l->step_k) l->unpack(w + i, tile, i, 0);
                for (uint32_t i = 0; i < l->tile_k; i++) {
                    exact += (double)w[i] * (double)p.x[k + i];
                    size += (double)(w[i] * w[i] * p.x[k + i] * p.x[k + i]);
                }
            }
            double error = fabs(exact - (double)p.product[row]),
                   bound = (kernels_layout_is_float(l) || precision ? 1e-5 : 0.05) * sqrt(size);
            if (!(error <= bound))
                fail_msg("%s row %u: %g, exactly %g", kernels_format_of(f)->name, row, (double)p.product[row], exact);
            assert_true(fabs(p.sums[row] - exact) <= bound);
        }
        mem_free(tile);
        problem_close(&p);
    }
}

/* One output of columns c0 .. c0 + n - 1: by fma, ascending, in chunks that start at 0. */
static float in_order(const float *w, const float *x, uint32_t n) {
    float sum = 0;
    for (uint32_t c = 0; c < n; c += KERNELS_CHUNK) {
        float acc = 0;
        for (uint32_t k = c; k < n && k < c + KERNELS_CHUNK; k++) acc = fmaf(w[k], x[k], acc);
        sum = c ? sum + acc : acc;
    }
    return sum;
}

/* The definition of fp32, written out: what `unpack` gives, column by column, chunk by chunk, unit by unit. */
static void in_fp32_a_product_is_bit_for_bit_the_sum_over_dequantized_columns(void **state) {
    (void)state;
    for (kernels_format f = KERNELS_Q4_0; f < KERNELS_N_FORMATS; f++) {
        problem p = problem_open(f, KERNELS_FP32, 1);
        const kernels_layout *l = kernels_layout_of(f);
        uint8_t *tile = mem_alloc(1, l->tile_bytes);
        float w[COLS];
        for (uint32_t row = 0; row < ROWS; row++) {
            double sum = 0;
            for (uint32_t k = 0; k < COLS; k += l->tile_k) {
                l->pack(tile, p.blocks + ((size_t)row * COLS + k) / l->tile_k * kernels_format_of(f)->block_bytes, 3);
                for (uint32_t i = 0; i < l->tile_k; i += l->step_k) l->unpack(w + k + i, tile, i, 3);
            }
            float y = in_order(w, p.x, COLS);
            assert_same_floats(&y, p.product + row, 1);
            for (uint32_t k = 0; k < COLS; k += UNIT) {
                const double m = 0x1.8p24, x = in_order(w + k, p.x + k, UNIT);
                sum += (x + m) - m;
            }
            assert_memory_equal(&sum, p.sums + row, sizeof sum);
        }
        mem_free(tile);
        problem_close(&p);
    }
}

/* Units longer than a chunk, and a weight that starts inside a block of 256. */
static void in_fp32_units_longer_than_a_chunk_restart_where_they_begin(void **state) {
    (void)state;
    enum { LONG = 576, FIRST = 96, N = 2 * LONG };
    problem p = problem_open(KERNELS_Q4_K, KERNELS_FP32, 1);
    kernels_matrix m = matrix_of(&p);
    const kernels_layout *l = kernels_layout_of(p.format);
    for (int isa = 0; isa < RIG_N_ISAS; isa++) {
        rig r;
        double sums[ROWS];
        float w[COLS];
        uint8_t *tile = mem_alloc(1, l->tile_bytes);
        if (rig_open_isa(&r, isa, 1)) {
            r.precision = KERNELS_FP32;
            kernels_weight *weight = rig_weight(&r, &m, 0, ROWS, FIRST, N);
            kernels_view out = rig_bytes(&r, sizeof sums), x = rig_put(&r, p.x, N * sizeof *p.x);
            r.ops->matmul_units(r.d, out, weight, x, (kernels_view){0}, 1, LONG, 2);
            rig_get(&r, sums, out, sizeof sums);
            for (uint32_t row = 0; row < ROWS; row++) {
                const double grid = 0x1.8p24;
                for (uint32_t k = 0; k < COLS; k += l->tile_k) {
                    l->pack(tile, p.blocks + ((size_t)row * COLS + k) / 256 * kernels_format_of(p.format)->block_bytes, 0);
                    for (uint32_t i = 0; i < l->tile_k; i += l->step_k) l->unpack(w + k + i, tile, i, 0);
                }
                double a = in_order(w + FIRST, p.x, LONG), b = in_order(w + FIRST + LONG, p.x + LONG, LONG);
                double sum = 0 + ((a + grid) - grid) + ((b + grid) - grid);
                assert_memory_equal(&sum, sums + row, sizeof sum);
            }
            rig_close(&r);
        }
        mem_free(tile);
    }
    problem_close(&p);
}

static void rows_split_over_ranks_are_the_rows_of_the_whole(void **state) {
    (void)state;
    static const uint32_t cuts[] = {1, 16, 30, 34};
    float *y = mem_alloc(4 * ROWS, 4);
    double *s = mem_alloc(4 * ROWS, 8);
    problem p = problem_open(KERNELS_Q4_1, KERNELS_FAST, 4);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++)
        for (uint32_t half = 0; half < 2; half++) {
            rig r;
            uint32_t row0 = half ? cuts[c] : 0, n_rows = half ? ROWS - cuts[c] : cuts[c];
            rig_open(&r, 2);
            multiply(&r, &p, 0, 4, row0, n_rows, y, s);
            for (uint32_t t = 0; t < 4; t++) assert_same_floats(y + t * n_rows, p.product + t * ROWS + row0, n_rows);
            rig_close(&r);
        }
    problem_close(&p);
    mem_free(y);
    mem_free(s);
}

/* Every rank holds a run of units; the ranks' sums are added in any order. Most trials are of one token, the first of enough to
 * unpack strips. */
static void units_split_over_ranks_in_any_order_sum_to_the_whole(void **state) {
    (void)state;
    enum { MANY = 17 };
    EACH_KIND(f, precision) {
        problem p = problem_open(f, precision, MANY);
        kernels_matrix m = matrix_of(&p);
        double *part = mem_alloc(N_UNITS * MANY * ROWS, sizeof *part);
        float *x = mem_alloc(MANY * COLS, sizeof *x);
        values v = {.seed = 50};
        for (int trial = 0; trial < 12; trial++) {
            uint32_t cuts[N_UNITS + 1] = {0}, n_ranks = 0, at = 0, n = trial ? 1 : MANY;
            while (at < N_UNITS) cuts[++n_ranks] = at += 1 + below(&v, N_UNITS - at);
            for (uint32_t rank = 0; rank < n_ranks; rank++) {
                rig r;
                uint32_t col0 = cuts[rank] * UNIT, n_cols = (cuts[rank + 1] - cuts[rank]) * UNIT;
                rig_open(&r, 1);
                r.precision = precision;
                kernels_weight *w = rig_weight(&r, &m, 0, ROWS, col0, n_cols);
                for (uint32_t t = 0; t < n; t++) memcpy(x + t * n_cols, p.x + t * COLS + col0, n_cols * sizeof *x);
                kernels_view in = rig_put(&r, x, n * n_cols * sizeof *x), out = rig_bytes(&r, n * ROWS * sizeof *part);
                r.ops->matmul_units(r.d, out, w, in, rig_act(&r, in, n, n_cols), n, UNIT, N_UNITS);
                rig_get(&r, part + rank * n * ROWS, out, n * ROWS * sizeof *part);
                rig_close(&r);
            }
            for (uint32_t i = 0; i < n * ROWS; i++) {
                double sum = 0;
                for (uint32_t rank = 0, first = below(&v, n_ranks); rank < n_ranks; rank++)
                    sum += part[(first + rank) % n_ranks * n * ROWS + i];
                assert_memory_equal(&sum, &p.sums[i], sizeof sum);
            }
        }
        mem_free(x);
        mem_free(part);
        problem_close(&p);
    }
}

/* One column of weights a unit, so that the partials are what the test says. */
static void run_units(const float *partial, uint32_t n, double *sum, uint32_t n_total) {
    rig r;
    float ones[64];
    for (uint32_t i = 0; i < n; i++) ones[i] = 1;
    rig_open(&r, 1);
    kernels_matrix m = {KERNELS_F32, 1, n, partial};
    kernels_view out = rig_bytes(&r, sizeof *sum);
    r.ops->matmul_units(r.d, out, rig_weight(&r, &m, 0, 1, 0, n), rig_put(&r, ones, n * sizeof *ones), (kernels_view){0}, 1, 1,
                        n_total);
    rig_get(&r, sum, out, sizeof *sum);
    rig_close(&r);
}

static void sums_on_the_grid_do_not_depend_on_order(void **state) {
    (void)state;
    values v = {.seed = 51};
    for (int trial = 0; trial < 400; trial++) {
        float partial[64];
        double first, sum;
        uint32_t n = 2 + below(&v, 63);
        for (uint32_t i = 0; i < n; i++) /* ties of the grid among them, and sizes up to the limit */
            partial[i] = below(&v, 3) ? next_float(&v, 0x1.fp24f / (float)n) : ((float)below(&v, 4096) + 0.5f) * 0x1p-28f;
        run_units(partial, n, &first, n);
        for (int shuffle = 0; shuffle < 4; shuffle++) {
            for (uint32_t i = n - 1; i; i--) {
                uint32_t j = below(&v, i + 1);
                float x = partial[i];
                partial[i] = partial[j];
                partial[j] = x;
            }
            run_units(partial, n, &sum, n);
            assert_memory_equal(&sum, &first, sizeof sum);
        }
    }
}

static void the_grid_rounds_half_to_even_and_ends_at_its_limit(void **state) {
    (void)state;
    static const struct {
        float partial;
        uint32_t n_total;
        double sum;
    } cases[] = {{0x1p-28f, 1, 0x1p-28},
                 {0x1.8p-28f, 1, 0x1p-27},
                 {0x1p-29f, 1, 0},
                 {0x1.000002p-29f, 1, 0x1p-28},
                 {-0x1.4p-27f, 1, -0x1p-27},
                 {0x1p23f, 1, NAN},
                 {0x1.fffffep22f, 1, 0x1.fffffep22},
                 {0x1p23f, 4, NAN},
                 {0x1.fffffep22f, 5, NAN},
                 {6710886.0f, 5, 6710886},
                 {6710887.0f, 5, NAN},
                 {-6710887.0f, 5, NAN},
                 {INFINITY, 1, NAN},
                 {NAN, 1, NAN}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double sum;
        run_units(&cases[i].partial, 1, &sum, cases[i].n_total);
        if (!(sum == cases[i].sum || (sum != sum && cases[i].sum != cases[i].sum))) fail_msg("case %zu: %a", i, sum);
    }
}

static void a_bad_row_is_found_and_the_others_are_untouched(void **state) {
    (void)state;
    static const float poison[] = {NAN, INFINITY, -INFINITY, 3e38f, 0x1p-149f};
    for (int isa = 0; isa < RIG_N_REAL; isa++) EACH_KIND(f, precision) {
            enum { N = 9 };
            rig r;
            problem p = problem_open(f, precision, N);
            uint8_t bad[N], bad_sum[N];
            float *y = mem_alloc(N * ROWS, 4);
            double *s = mem_alloc(N * ROWS, 8);
            for (uint32_t i = 0; i < 5; i++) p.x[(size_t)(i + 2) * COLS + 100 * i] = poison[i];
            if (rig_open_isa(&r, isa, 2)) {
                multiply(&r, &p, 0, N, 0, ROWS, y, s);
                kernels_view sum = rig_put(&r, s, N * ROWS * 8), x = rig_bytes(&r, N * ROWS * 4);
                r.ops->find_bad(r.d, bad, rig_put(&r, y, N * ROWS * 4), N, ROWS);
                r.ops->add_reduced(r.d, x, sum, N, ROWS);
                r.ops->find_bad(r.d, bad_sum, x, N, ROWS);
                assert_int_equal(r.ops->wait(r.d), ST_OK);
                for (uint32_t i = 0; i < N; i++) {
                    if (i >= 2 && i <= 4) assert_true(bad[i] && bad_sum[i]); /* not finite: seen at once */
                    if (i == 5) assert_true(bad_sum[i]);                     /* finite, but off the grid */
                    if (i == 6) assert_true(!bad[i] && !bad_sum[i]);         /* subnormal: harmless */
                    if (i >= 2 && i <= 6) continue;
                    assert_true(!bad[i] && !bad_sum[i]);
                    assert_same_floats(y + i * ROWS, p.product + i * ROWS, ROWS);
                    assert_memory_equal(s + i * ROWS, p.sums + i * ROWS, ROWS * 8);
                }
                rig_close(&r);
            }
            mem_free(y);
            mem_free(s);
            problem_close(&p);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_threads_and_instruction_sets_do_not_change_a_bit),
        cmocka_unit_test(some_of_the_rows_are_those_of_all_and_no_others_are_written),
        cmocka_unit_test(a_product_is_the_product_of_the_dequantized_weights),
        cmocka_unit_test(in_fp32_a_product_is_bit_for_bit_the_sum_over_dequantized_columns),
        cmocka_unit_test(in_fp32_units_longer_than_a_chunk_restart_where_they_begin),
        cmocka_unit_test(rows_split_over_ranks_are_the_rows_of_the_whole),
        cmocka_unit_test(units_split_over_ranks_in_any_order_sum_to_the_whole),
        cmocka_unit_test(sums_on_the_grid_do_not_depend_on_order),
        cmocka_unit_test(the_grid_rounds_half_to_even_and_ends_at_its_limit),
        cmocka_unit_test(a_bad_row_is_found_and_the_others_are_untouched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
