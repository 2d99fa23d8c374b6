/* Hedge: the drafters that hit are asked, and a change of subject is followed. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N = 5, ALL = 31 };

static const spec_tally no_prior[N];

/* `n` tokens, of which drafter i hits percent[i]. */
static void answer(spec_tally *t, uint32_t n, const uint32_t *percent, uint64_t *seed) {
    for (uint32_t token = 0; token < n; token++)
        for (uint32_t i = 0; i < N; i++) spec_hedge_learn(&t[i], 1, table_random(seed) % 100 < percent[i]);
}

static uint32_t count(uint32_t mask) {
    uint32_t n = 0;
    for (; mask; mask &= mask - 1) n++;
    return n;
}

static void with_nothing_seen_the_best_of_the_past_are_asked(void **state) {
    (void)state;
    spec_tally t[N] = {0};
    const spec_tally prior[N] = {{1000, 50}, {1000, 300}, {1000, 100}, {1000, 310}, {1000, 200}};
    assert_int_equal(spec_hedge_pick(t, prior, N, ALL), 2 | 8 | 16);
    assert_int_equal(spec_hedge_pick(t, prior, N, 1 | 4), 1 | 4);
    assert_int_equal(spec_hedge_pick(t, prior, N, 0), 0);
    assert_int_equal(count(spec_hedge_pick(t, no_prior, N, ALL)), SPEC_HEDGE_MOST);
    assert_int_equal(spec_hedge_pick(t, no_prior, N, ALL), 7); /* ties: the lower number */
}

static void a_few_tokens_do_not_decide(void **state) {
    (void)state;
    spec_tally t[N] = {0};
    const spec_tally prior[N] = {{1000, 50}, {1000, 50}, {1000, 100}, {1000, 310}, {1000, 200}};
    spec_hedge_learn(&t[3], 3, 0);
    assert_int_equal(spec_hedge_pick(t, prior, N, ALL), 4 | 8 | 16);
    spec_hedge_learn(&t[0], 3, 3);
    assert_int_equal(spec_hedge_pick(t, no_prior, 3, 7), 7);
}

static void those_that_hit_are_asked_and_the_others_are_dropped(void **state) {
    (void)state;
    uint64_t seed = 3;
    spec_tally t[N] = {0};
    answer(t, 12, (uint32_t[]){10, 10, 60, 10, 10}, &seed);
    assert_true(spec_hedge_pick(t, no_prior, N, ALL) & 4); /* at once */
    answer(t, 60, (uint32_t[]){10, 10, 60, 10, 10}, &seed);
    assert_int_equal(spec_hedge_pick(t, no_prior, N, ALL), 4);
    assert_true(spec_hedge_pick(t, no_prior, N, ALL & ~4U) != 0); /* it is lost: the others are compared with each other */
    answer(t, 200, (uint32_t[]){10, 55, 60, 55, 55}, &seed);
    assert_int_equal(count(spec_hedge_pick(t, no_prior, N, ALL)), 3);
    assert_false(spec_hedge_pick(t, no_prior, N, ALL) & 1);
}

static void a_change_of_subject_is_followed_within_a_hundred_tokens(void **state) {
    (void)state;
    uint64_t seed = 5;
    spec_tally t[N] = {0};
    answer(t, 1000, (uint32_t[]){60, 10, 10, 10, 10}, &seed);
    assert_int_equal(spec_hedge_pick(t, no_prior, N, ALL), 1);
    answer(t, 24, (uint32_t[]){10, 10, 10, 10, 60}, &seed);
    assert_true(spec_hedge_pick(t, no_prior, N, ALL) & 16);
    answer(t, 76, (uint32_t[]){10, 10, 10, 10, 60}, &seed);
    assert_int_equal(spec_hedge_pick(t, no_prior, N, ALL), 16);
}

/* Scores come in lots and late: it is the share that counts, and one that was scored little is not yet judged. */
static void drafters_are_compared_by_their_shares(void **state) {
    (void)state;
    spec_tally t[N] = {0};
    spec_hedge_learn(&t[0], 60, 30);
    spec_hedge_learn(&t[1], 20, 10);
    spec_hedge_learn(&t[2], 60, 6);
    spec_hedge_learn(&t[3], 2, 1);
    uint32_t picked = spec_hedge_pick(t, no_prior, 4, 15);
    assert_true((picked & 1) && (picked & 2) && !(picked & 4));
}

static uint32_t ask(const spec_tally *t, const double *wait_ms, double step_ms) {
    const spec_price price = {.wait_ns = wait_ms, .step_ns = step_ms, .tokens = 1, .n_trips = 1, .depth = 8}; /* any unit */
    return spec_hedge_ask(t, no_prior, &price, N, ALL);
}

static void who_is_asked_is_worth_the_wait(void **state) {
    (void)state;
    const spec_tally alike[N] = {{60, 36}, {60, 36}, {60, 36}, {60, 3}, {60, 3}};
    assert_int_equal(ask(alike, (double[N]){0.2, 20, 0.2, 0.2, 0.2}, 4), 1 | 4); /* a far one that adds little */
    assert_int_equal(ask(alike, (double[N]){0.2, 0.3, 5, 0.2, 0.2}, 4), 1 | 2);  /* one more that costs next to nothing */
    assert_int_equal(ask(alike, (double[N]){20, 20, 20, 0.2, 0.2}, 4),
                     8 | 16); /* those that are there at once, if hardly right */
    assert_int_equal(ask(alike, (double[N]){20, 20, 20, 0.2, 0.2}, 400), 1 | 2 | 4); /* ... but not where steps are long */
    assert_int_equal(ask(alike, (double[N]){20, 0, 0.2, 0.2, 0.2}, 4), 2 | 4);       /* what is not known is tried */
    const spec_tally slow_and_better[N] = {{60, 36}, {60, 15}, {60, 3}, {60, 3}, {60, 3}};
    assert_int_equal(ask(slow_and_better, (double[N]){3, 0.2, 0.2, 0.2, 0.2}, 4), 1);
    assert_int_equal(ask(slow_and_better, (double[N]){6, 0.2, 0.2, 0.2, 0.2}, 4), 2);
}

static void equal_or_unknown_prices_change_no_pick(void **state) {
    (void)state;
    uint64_t seed = 9;
    double waits[2][N] = {{3, 3, 3, 3, 3}};
    for (uint32_t round = 0; round < 2000; round++) {
        spec_tally t[N] = {0};
        for (uint32_t i = 0; i < N; i++) spec_hedge_learn(&t[i], 40, table_random(&seed) % 41);
        for (uint32_t i = 0; i < N; i++) waits[1][i] = table_random(&seed) % 10;
        assert_int_equal(ask(t, waits[0], 1 + table_random(&seed) % 9), spec_hedge_pick(t, no_prior, N, ALL));
        assert_int_equal(ask(t, waits[1], 0), spec_hedge_pick(t, no_prior, N, ALL));
    }
}

static void any_record_gives_a_part_of_the_candidates(void **state) {
    (void)state;
    uint64_t seed = 7;
    spec_tally t[SPEC_MAX_DRAFTERS] = {0}, prior[SPEC_MAX_DRAFTERS] = {0};
    for (uint32_t round = 0; round < 5000; round++) {
        uint32_t i = table_random(&seed) % SPEC_MAX_DRAFTERS, n = table_random(&seed) % 80,
                 hits = n ? table_random(&seed) % (n + 1) : 0;
        spec_hedge_learn(table_random(&seed) % 2 ? &t[i] : &prior[i], n, hits);
        uint32_t candidates = table_random(&seed) * 3, picked = spec_hedge_pick(t, prior, SPEC_MAX_DRAFTERS, candidates);
        assert_int_equal(picked & ~candidates, 0);
        assert_true(count(picked) <= SPEC_HEDGE_MOST && (picked > 0) == (candidates > 0));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_nothing_seen_the_best_of_the_past_are_asked),
        cmocka_unit_test(a_few_tokens_do_not_decide),
        cmocka_unit_test(those_that_hit_are_asked_and_the_others_are_dropped),
        cmocka_unit_test(a_change_of_subject_is_followed_within_a_hundred_tokens),
        cmocka_unit_test(drafters_are_compared_by_their_shares),
        cmocka_unit_test(who_is_asked_is_worth_the_wait),
        cmocka_unit_test(equal_or_unknown_prices_change_no_pick),
        cmocka_unit_test(any_record_gives_a_part_of_the_candidates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
