/* The arithmetic of a load: order of prompts, arrivals, percentiles, summary. */
#include "client/load.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Three groups of 2, 5 and 1 prompts. */
static const uint32_t FIRST[] = {0, 2, 7, 8};
enum { N_GROUPS = 3, N_PROMPTS = 8, N_GIVEN = 60 };

static void give(uint64_t seed, uint32_t out[N_GIVEN]) {
    load_mix m;
    uint32_t order[N_PROMPTS];
    load_mix_init(&m, seed, FIRST, N_GROUPS, order);
    for (int i = 0; i < N_GIVEN; i++) out[i] = load_mix_next(&m);
}

static uint32_t group_of(uint32_t prompt) { return prompt < FIRST[1] ? 0 : prompt < FIRST[2] ? 1 : 2; }

static void every_round_has_one_prompt_of_each_group(void **state) {
    uint32_t got[N_GIVEN];
    (void)state;
    give(1, got);
    for (int i = 0; i < N_GIVEN; i += N_GROUPS) {
        uint32_t seen = 0;
        for (int k = 0; k < N_GROUPS; k++) seen |= 1u << group_of(got[i + k]);
        assert_int_equal(seen, 7);
    }
}

static void a_group_gives_all_its_prompts_before_one_comes_again(void **state) {
    uint32_t got[N_GIVEN];
    (void)state;
    give(1, got);
    for (uint32_t g = 0; g < N_GROUPS; g++) {
        uint32_t size = FIRST[g + 1] - FIRST[g], seen = 0, n = 0;
        for (int i = 0; i < N_GIVEN; i++) {
            if (group_of(got[i]) != g) continue;
            assert_false(seen >> got[i] & 1);
            seen |= 1u << got[i];
            if (++n % size == 0) seen = 0;
        }
        assert_int_equal(n, N_GIVEN / N_GROUPS);
    }
}

static void the_order_is_the_seeds(void **state) {
    uint32_t a[N_GIVEN], again[N_GIVEN], other[N_GIVEN];
    int differ_in_rounds = 0;
    (void)state;
    give(1, a);
    give(1, again);
    give(2, other);
    assert_memory_equal(a, again, sizeof a);
    assert_memory_not_equal(a, other, sizeof a);
    for (int i = N_GROUPS; i < N_GIVEN; i++) differ_in_rounds += group_of(a[i]) != group_of(a[i - N_GROUPS]);
    assert_true(differ_in_rounds); /* no group has a place of its own */
}

static void arrivals_are_a_function_of_the_seed_and_stretched_by_the_rate(void **state) {
    load_arrivals a, b, other;
    uint64_t last = 0;
    bool differs = false;
    (void)state;
    load_arrivals_init(&a, 7, 2);
    load_arrivals_init(&b, 7, 0.5);
    load_arrivals_init(&other, 8, 2);
    for (int i = 0; i < 1000; i++) {
        uint64_t at = load_arrivals_next(&a), slow = load_arrivals_next(&b);
        assert_true(at >= last);
        assert_true(slow >= 4 * at && slow - 4 * at <= 4);
        differs |= at != load_arrivals_next(&other);
        last = at;
    }
    assert_true(differs);
}

/* Mean and variance of a Poisson process; the bounds are over four standard deviations of either. */
static void arrivals_are_poisson(void **state) {
    enum { N = 20000 };
    load_arrivals a;
    double sum = 0, squares = 0;
    uint64_t last = 0;
    (void)state;
    load_arrivals_init(&a, 3, 100);
    for (int i = 0; i < N; i++) {
        uint64_t at = load_arrivals_next(&a);
        double gap = (double)(at - last) / 1e9 * 100;
        sum += gap;
        squares += gap * gap;
        last = at;
    }
    assert_true(fabs(sum / N - 1) < 0.03);
    assert_true(fabs(squares / N - 2) < 0.15);
}

static void percentiles_are_by_nearest_rank(void **state) {
    uint64_t hundred[100], ten[] = {9, 1, 8, 2, 7, 3, 6, 4, 5, 100}, one[] = {42};
    (void)state;
    for (uint64_t i = 0; i < 100; i++) hundred[i] = (i * 37 + 5) % 100 + 1; /* 1 .. 100, mixed */
    load_spread s = load_spread_of(hundred, 100);
    assert_true(s.n == 100 && s.p50 == 50 && s.p90 == 90 && s.p99 == 99 && s.max == 100 && s.mean == 50.5);
    s = load_spread_of(ten, 10);
    assert_true(s.p50 == 5 && s.p90 == 9 && s.p99 == 100 && s.max == 100 && s.mean == 14.5);
    s = load_spread_of(ten, 9); /* they are sorted now: 1 .. 9 */
    assert_true(s.p50 == 5 && s.p90 == 9 && s.p99 == 9);
    s = load_spread_of(one, 1);
    assert_true(s.p50 == 42 && s.p90 == 42 && s.p99 == 42 && s.max == 42 && s.mean == 42);
    s = load_spread_of(NULL, 0);
    assert_true(s.n == 0 && s.p99 == 0 && s.mean == 0);
}

/* Scheduled, sent, first, last, end; tokens, those of the first reply; domain. */
static load_record record(const uint64_t times[5], uint32_t n_tokens, uint32_t n_first, uint32_t domain) {
    return (load_record){.scheduled_ns = times[0],
                         .sent_ns = times[1],
                         .first_ns = times[2],
                         .last_ns = times[3],
                         .end_ns = times[4],
                         .ended = true,
                         .n_tokens = n_tokens,
                         .n_first = n_first,
                         .prompt_tokens = 10,
                         .domain = domain};
}

static void times_count_from_the_schedule_and_failures_apart(void **state) {
    uint64_t scratch[5];
    load_summary s;
    (void)state;
    load_record r[] = {
        record((uint64_t[]){100, 130, 200, 500, 510}, 4, 1, 0), /* 3 tokens in 300 */
        record((uint64_t[]){0, 0, 50, 250, 260}, 4, 2, 1),      /* 2 in 200 */
        record((uint64_t[]){10, 10, 0, 0, 30}, 0, 0, 0),        /* no tokens: no first one */
        record((uint64_t[]){0, 0, 20, 20, 900}, 1, 1, 1),       record((uint64_t[]){0, 0, 1, 2, 3}, 7, 1, 0),
    };
    r[3].error = "gone";
    r[4].ended = false;
    load_summarize(r, 5, (uint32_t)LOAD_ALL_DOMAINS, scratch, &s);
    assert_true(s.n == 3 && s.n_failed == 1 && s.n_tokens == 8 && s.prompt_tokens == 30 && s.end_ns == 900);
    assert_true(s.first_token.n == 2 && s.first_token.p50 == 50 && s.first_token.max == 100);
    assert_true(s.whole.n == 3 && s.whole.p50 == 260 && s.whole.max == 410 && s.late.max == 30);
    assert_true(s.per_token.n == 2 && s.per_token.p50 == 100 && s.token_ns == 100);
    load_summarize(r, 5, 1, scratch, &s);
    assert_true(s.n == 1 && s.n_failed == 1 && s.n_tokens == 4 && s.whole.max == 260);
    load_summarize(r, 0, (uint32_t)LOAD_ALL_DOMAINS, scratch, &s);
    assert_true(s.n == 0 && s.token_ns == 0 && s.whole.n == 0);
}

static void drafters_are_added_up_by_name(void **state) {
    uint64_t scratch[3];
    load_summary s;
    load_use first[] = {{5, 10, 3}, {2, 4, 4}}, second[] = {{2, 6, 1}}, failed[] = {{2, 100, 100}};
    const uint64_t times[5] = {0, 0, 1, 2, 3};
    (void)state;
    load_record r[] = {record(times, 2, 1, 0), record(times, 2, 1, 0), record(times, 2, 1, 0)};
    r[0].uses = first, r[0].n_uses = 2, r[0].steps = 9, r[0].drafted = 12, r[0].accepted = 6;
    r[1].uses = second, r[1].n_uses = 1, r[1].steps = 1, r[1].drafted = 6, r[1].accepted = 1;
    r[2].uses = failed, r[2].n_uses = 1, r[2].steps = 50, r[2].error = "gone";
    load_summarize(r, 3, (uint32_t)LOAD_ALL_DOMAINS, scratch, &s);
    assert_true(s.steps == 10 && s.drafted == 18 && s.accepted == 7 && s.n_uses == 2);
    assert_true(s.uses[0].name == 5 && s.uses[0].drafted == 10 && s.uses[0].accepted == 3);
    assert_true(s.uses[1].name == 2 && s.uses[1].drafted == 10 && s.uses[1].accepted == 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_round_has_one_prompt_of_each_group),
        cmocka_unit_test(a_group_gives_all_its_prompts_before_one_comes_again),
        cmocka_unit_test(the_order_is_the_seeds),
        cmocka_unit_test(arrivals_are_a_function_of_the_seed_and_stretched_by_the_rate),
        cmocka_unit_test(arrivals_are_poisson),
        cmocka_unit_test(percentiles_are_by_nearest_rank),
        cmocka_unit_test(times_count_from_the_schedule_and_failures_apart),
        cmocka_unit_test(drafters_are_added_up_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
