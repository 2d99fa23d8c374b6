/* Budgets: what a step takes is learned from noisy steps; the best division over all sequences is found; waiting is given up
 * where it does not pay, and taken up again where it does. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static double uniform(uint64_t *seed) { return (double)table_random(seed) / 2147483648.0; }

/* cmocka's compares floats. */
#define assert_near(a, b, by) assert_true(fabs((double)(a) - (double)(b)) <= (double)(by))

/* ---- what a step takes ---- */

static double stairs(uint32_t rows) { return 4e6 * (rows <= 4 ? 1 : rows <= 8 ? 1.7 : 1.7 + 0.2 * (rows - 8)); }

static void before_a_measurement_a_row_more_is_held_for_a_tenth(void **state) {
    (void)state;
    spec_cost c = {0};
    assert_near(spec_cost_ns(&c, 1), 1, 1e-9);
    assert_near(spec_cost_ns(&c, 11), 2, 1e-9);
    for (int i = 0; i < 20; i++) spec_cost_learn(&c, 1, 5000000);
    assert_near(spec_cost_ns(&c, 1), 5e6, 1);
    assert_near(spec_cost_ns(&c, 11), 1e7, 2);
    spec_cost_learn(&c, 0, 7), spec_cost_learn(&c, 1, 0);
    assert_near(spec_cost_ns(&c, 1), 5e6, 1);
    assert_true(spec_cost_known(&c, 1) && !spec_cost_known(&c, 2));
}

static void a_staircase_is_learned_from_noisy_steps(void **state) {
    (void)state;
    spec_cost c = {0};
    uint64_t seed = 3;
    for (uint32_t i = 0; i < 4000; i++) {
        uint32_t rows = 1 + table_random(&seed) % 12;
        double lost = table_random(&seed) % 20 ? 1 : 10; /* one in twenty loses its core */
        spec_cost_learn(&c, rows, (uint64_t)(stairs(rows) * (0.9 + 0.2 * uniform(&seed)) * lost));
    }
    for (uint32_t rows = 1; rows <= 12; rows++)
        assert_near(spec_cost_ns(&c, rows) / spec_cost_ns(&c, 1), stairs(rows) / stairs(1), 0.08 * stairs(rows) / stairs(1));
}

static void rows_that_nobody_runs_follow_the_machine_and_their_neighbours(void **state) {
    (void)state;
    spec_cost c = {0};
    for (uint32_t i = 0; i < 60; i++)
        for (uint32_t rows = 1; rows <= 9; rows += 4) spec_cost_learn(&c, rows, (uint64_t)stairs(rows));
    assert_near(spec_cost_ns(&c, 7) / ((stairs(5) + stairs(9)) / 2), 1, 0.02); /* between 5 and 9 */
    assert_near(spec_cost_ns(&c, 6) / (0.75 * stairs(5) + 0.25 * stairs(9)), 1, 0.02);
    for (uint32_t i = 0; i < 300; i++) spec_cost_learn(&c, 1, (uint64_t)(1.5 * stairs(1)));
    assert_near(spec_cost_ns(&c, 1) / stairs(1), 1.5, 0.03);
    assert_near(spec_cost_ns(&c, 5) / stairs(5), 1.5, 0.3);
    assert_true(spec_cost_known(&c, 5));
    for (uint32_t i = 0; i < 4096; i++) spec_cost_learn(&c, 1, (uint64_t)stairs(1)); /* then they are to be tried again */
    assert_false(spec_cost_known(&c, 5));
    assert_near(spec_cost_ns(&c, 5) / stairs(1), 1.4, 0.03);
}

static void beyond_what_was_run_rows_are_held_for_cheap(void **state) {
    (void)state;
    spec_cost even = {0}, rising = {0};
    for (uint32_t i = 0; i < 60; i++)
        for (uint32_t rows = 1; rows <= 10; rows++) {
            spec_cost_learn(&even, rows, 4000000);
            spec_cost_learn(&rising, rows, 1000000 * rows);
        }
    assert_near(spec_cost_ns(&even, 40), 4e6, 0.4e6);
    assert_near(spec_cost_ns(&rising, 20), 1e7 * 2.9 / 1.9, 0.5e6);
}

static void one_bad_step_does_not_decide(void **state) {
    (void)state;
    spec_cost c = {0};
    for (uint32_t i = 0; i < 100; i++) spec_cost_learn(&c, 1 + i % 3, 4000000);
    spec_cost_learn(&c, 2, 400000000);
    assert_true(spec_cost_ns(&c, 2) < 4.5e6 && spec_cost_ns(&c, 1) < 4.4e6);
    spec_cost first = {0};
    spec_cost_learn(&first, 1, 40000000); /* the very first one loads pages */
    for (uint32_t i = 0; i < 60; i++) spec_cost_learn(&first, 1, 4000000);
    assert_near(spec_cost_ns(&first, 4), 4e6 * 1.3, 0.3e6);
}

static void any_rows_have_a_time_and_wide_steps_rise_evenly(void **state) {
    (void)state;
    spec_cost c = {0};
    uint64_t seed = 5;
    for (uint32_t i = 0; i < 4000; i++) {
        uint32_t rows = 1 + table_random(&seed) % 300;
        spec_cost_learn(&c, rows, 1000000 + 100000 * rows);
    }
    for (uint32_t rows = 2; rows < 290; rows++) {
        assert_near(spec_cost_ns(&c, rows) / (1e6 + 1e5 * rows), 1, 0.1);
        assert_true(spec_cost_ns(&c, rows) > 0.9 * spec_cost_ns(&c, rows - 1));
    }
    for (uint32_t rows = 1; rows; rows *= 2) {
        spec_cost_learn(&c, rows, 1000);
        spec_cost_learn(&c, rows, UINT64_MAX);
        assert_true(spec_cost_ns(&c, rows) > 0 && isfinite(spec_cost_ns(&c, rows)));
    }
}

/* ---- dividing a step ---- */

static spec_cost measured(double (*time)(uint32_t), uint32_t most) {
    spec_cost c = {0};
    for (uint32_t i = 0; i < 100; i++)
        for (uint32_t rows = 1; rows <= most; rows++) spec_cost_learn(&c, rows, (uint64_t)time(rows));
    return c;
}

static double flat(uint32_t rows) { return 4e6 + 1e3 * rows; }
static double steep(uint32_t rows) { return 1e6 * rows; }
static double late_stairs(uint32_t rows) { return 1e6 * (rows <= 1 ? 1 : rows <= 2 ? 1.45 : 1.5); } /* the second row is dear */

static void all_is_verified_where_rows_are_free_and_nothing_where_they_are_dear(void **state) {
    (void)state;
    const float path[] = {0.6f, 0.4f, 0.2f, 0.05f};
    spec_cost cheap = measured(flat, 40), dear = measured(steep, 40);
    spec_share s[2] = {{path, 4, 9, 0}, {path, 3, 9, 0}};
    spec_yield y = spec_divide(&(spec_step){.cost = &cheap, .n_rows = 2, .n_choices = 2, .n_free = 20}, s, 2);
    assert_true(s[0].taken == 4 && s[1].taken == 3);
    assert_near(y.tokens, 2 + 1.25 + 1.2, 1e-5);
    y = spec_divide(&(spec_step){.cost = &cheap, .n_rows = 2, .n_choices = 2, .n_free = 3}, s, 2);
    assert_true(s[0].taken == 2 && s[1].taken == 1); /* .6 .6 and one of the .4s: the earlier sequence's */
    y = spec_divide(&(spec_step){.cost = &dear, .n_rows = 2, .n_choices = 2, .n_free = 20}, s, 2);
    assert_true(s[0].taken == 0 && s[1].taken == 0);
    assert_near(y.tokens, 2, 1e-9);
    assert_near(y.ns, 2e6, 1e5);
}

static void the_best_of_all_counts_is_found_and_not_the_first_that_is_better_than_its_neighbours(void **state) {
    (void)state;
    const float path[] = {0.4f, 0.39f, 0.38f, 0.37f};
    spec_cost c = measured(late_stairs, 20);
    spec_share s = {path, 4, 0, 0};
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 1}, &s, 1);
    assert_int_equal(s.taken, 0); /* 1.4 tokens in 1.45 */
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 9}, &s, 1);
    assert_int_equal(s.taken, 4); /* 2.54 in 1.5 */
}

static void drafts_that_would_gain_next_to_nothing_are_left_out(void **state) {
    (void)state;
    spec_cost c = measured(flat, 20);
    spec_share s = {(const float[]){0.015f}, 1, 0, 0};
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 9}, &s, 1);
    assert_int_equal(s.taken, 0);
    s.path = (const float[]){0.03f};
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 9}, &s, 1);
    assert_int_equal(s.taken, 1);
}

/* Steps of two and three rows are as short as one of one, but only steps of one and four were seen. */
static void what_no_step_has_shown_is_explored(void **state) {
    (void)state;
    const float path[] = {0.8f, 0.7f, 0.6f};
    spec_cost c = {0};
    spec_share s = {path, 3, 0, 0};
    for (uint32_t i = 0; i < 80; i++) spec_cost_learn(&c, i % 2 ? 1 : 4, i % 2 ? 4000000 : 12000000);
    spec_step step = {.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 20, .explores = SPEC_EXPLORES_NEAR};
    uint32_t n_times[4] = {0};
    for (uint32_t i = 0; i < 30; i++) {
        spec_yield y = spec_divide(&step, &s, 1);
        if (spec_cost_known(&c, 1 + s.taken)) break;
        assert_true(y.tokens >= 1);
        n_times[s.taken]++;
        spec_cost_learn(&c, 1 + s.taken, 4000000);
    }
    assert_true(n_times[0] == 0 && n_times[1] == 8 && n_times[2] == 8 && n_times[3] == 0);
    step.explores = SPEC_EXPLORES_NOT;
    (void)spec_divide(&step, &s, 1);
    assert_int_equal(s.taken, 2);
    spec_cost none = {0}; /* first of all, what a step without drafts takes */
    (void)spec_divide(&(spec_step){.cost = &none, .n_rows = 1, .n_choices = 1, .n_free = 20, .explores = SPEC_EXPLORES_NEAR}, &s,
                      1);
    assert_int_equal(s.taken, 0);
}

static void what_was_waited_makes_more_drafts_pay(void **state) {
    (void)state;
    const float path[] = {0.5f, 0.4f, 0.3f};
    spec_cost c = measured(steep, 20);
    spec_share s = {path, 3, 0, 0};
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 9}, &s, 1);
    assert_int_equal(s.taken, 0);
    (void)spec_divide(&(spec_step){.cost = &c, .n_rows = 1, .n_choices = 1, .n_free = 9, .wait_ns = 3000000}, &s, 1);
    assert_int_equal(s.taken, 2); /* 1/4 1.5/5 1.9/6 2.2/7 */
    spec_cost none = {0};         /* a wait cannot be compared with what was never measured */
    spec_yield y = spec_divide(&(spec_step){.cost = &none, .n_rows = 1, .n_choices = 1, .n_free = 9, .wait_ns = 5}, &s, 1);
    assert_true(s.taken == 3 && y.ns < 2);
}

static void any_division_is_the_best_prefix_of_all_nodes_in_order(void **state) {
    (void)state;
    enum { SEQUENCES = 20, NODES = 8 };
    static float path[SEQUENCES][NODES];
    uint64_t seed = 9;
    for (uint32_t round = 0; round < 500; round++) {
        spec_cost c = {0};
        spec_share s[SEQUENCES];
        uint32_t n = table_random(&seed) % (SEQUENCES + 1), n_free = table_random(&seed) % 200, n_all = 0;
        float all[SEQUENCES * NODES];
        for (uint32_t i = 0; i < 400; i++)
            spec_cost_learn(&c, 1 + table_random(&seed) % 60, 1000000 + 500000 * (table_random(&seed) % 4));
        for (uint32_t i = 0; i < n; i++) {
            s[i] = (spec_share){path[i], table_random(&seed) % (NODES + 1), 0, 0};
            float p = 1;
            for (uint32_t k = 0; k < s[i].n; k++) all[n_all++] = path[i][k] = p *= (float)(table_random(&seed) % 9) / 8;
        }
        for (uint32_t i = 1; i < n_all; i++) /* descending */
            for (uint32_t k = i; k && all[k] > all[k - 1]; k--) {
                float t = all[k];
                all[k] = all[k - 1], all[k - 1] = t;
            }
        spec_step step = {
            .cost = &c, .n_rows = 1 + n, .n_choices = 1 + n, .n_free = n_free, .wait_ns = table_random(&seed) % 1000000};
        spec_yield y = spec_divide(&step, s, n);
        double tokens = 1 + n, plain = tokens / (spec_cost_ns(&c, 1 + n) + (double)step.wait_ns), best = plain * 1.02, got = 0;
        uint32_t n_taken = 0;
        for (uint32_t k = 0; k < n_all && k < n_free; k++) {
            tokens += (double)all[k];
            double rate = tokens / (spec_cost_ns(&c, 2 + n + k) + (double)step.wait_ns);
            if (rate > best) best = rate;
        }
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t k = 0; k < s[i].taken; k++) got += (double)path[i][k];
            n_taken += s[i].taken;
        }
        assert_true(n_taken <= n_free);
        assert_near(got, y.tokens - 1 - n, 1e-6);
        assert_near(y.ns, spec_cost_ns(&c, 1 + n + n_taken) + (double)step.wait_ns, 1e-3);
        assert_near(y.tokens / y.ns, n_taken ? best : plain, 1e-9 * plain);
        assert_true(n_taken || best <= plain * 1.02 + 1e-15);
    }
}

/* ---- whether to ask ---- */

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(before_a_measurement_a_row_more_is_held_for_a_tenth),
        cmocka_unit_test(a_staircase_is_learned_from_noisy_steps),
        cmocka_unit_test(rows_that_nobody_runs_follow_the_machine_and_their_neighbours),
        cmocka_unit_test(beyond_what_was_run_rows_are_held_for_cheap),
        cmocka_unit_test(one_bad_step_does_not_decide),
        cmocka_unit_test(any_rows_have_a_time_and_wide_steps_rise_evenly),
        cmocka_unit_test(all_is_verified_where_rows_are_free_and_nothing_where_they_are_dear),
        cmocka_unit_test(the_best_of_all_counts_is_found_and_not_the_first_that_is_better_than_its_neighbours),
        cmocka_unit_test(drafts_that_would_gain_next_to_nothing_are_left_out),
        cmocka_unit_test(what_no_step_has_shown_is_explored),
        cmocka_unit_test(what_was_waited_makes_more_drafts_pay),
        cmocka_unit_test(any_division_is_the_best_prefix_of_all_nodes_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
