/* What a prompt says of drafters. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { DRAFTERS = 4, LENGTH = 40, COMMON = 300, OWN = 60 };

/* Half of a prompt's tokens are those of any text, half those of its subject. */
static void write(uint32_t *tokens, uint32_t subject, uint64_t *seed) {
    for (uint32_t i = 0; i < LENGTH; i++) {
        uint32_t u = (uint32_t)table_random(seed);
        tokens[i] = u % 2 ? u / 2 % COMMON : COMMON + subject * OWN + u / 2 % OWN;
    }
}

/* The drafter of the subject is right in two of five, the others in one of ten: an answer of n tokens. */
static spec_tally hits_of(uint32_t drafter, uint32_t subject, uint32_t n, uint64_t *seed) {
    spec_tally t = {0};
    for (uint32_t i = 0; i < n; i++) spec_hedge_learn(&t, 1, table_random(seed) % 100 < (drafter == subject ? 40 : 10));
    return t;
}

static void teach(spec_prior *d, uint32_t n_answers, uint32_t shift, uint64_t *seed) {
    for (uint32_t i = 0; i < n_answers; i++) {
        uint32_t tokens[LENGTH], subject = (uint32_t)(table_random(seed) % DRAFTERS);
        spec_profile p;
        write(tokens, subject, seed);
        spec_profile_of(&p, tokens, LENGTH);
        for (uint32_t k = 0; k < DRAFTERS; k++) {
            spec_tally hits = hits_of(k, (subject + shift) % DRAFTERS, 60, seed);
            spec_prior_learn(&d[k], &p, &hits);
        }
    }
}

/* Of a hundred new prompts, those whose first pick is the drafter of their subject. */
static uint32_t right_of(const spec_prior *d, uint32_t shift, uint64_t *seed) {
    const spec_tally nothing[DRAFTERS] = {0};
    uint32_t n_right = 0;
    for (uint32_t i = 0; i < 100; i++) {
        uint32_t tokens[LENGTH], subject = i % DRAFTERS, best = 0;
        spec_profile p;
        spec_tally prior[DRAFTERS];
        write(tokens, subject, seed);
        spec_profile_of(&p, tokens, LENGTH);
        for (uint32_t k = 0; k < DRAFTERS; k++) prior[k] = spec_prior_of(&d[k], &p);
        for (uint32_t k = 1; k < DRAFTERS; k++)
            if (spec_hedge_share(&nothing[k], &prior[k]) > spec_hedge_share(&nothing[best], &prior[best])) best = k;
        n_right += best == (subject + shift) % DRAFTERS;
    }
    return n_right;
}

static void a_subject_is_known_by_its_tokens(void **state) {
    (void)state;
    static spec_prior d[DRAFTERS];
    uint64_t seed = 3;
    teach(d, 150, 0, &seed);
    uint32_t n = right_of(d, 0, &seed);
    print_message("%u of a hundred first picks are right\n", n);
    assert_true(n > 85);
}

static void what_has_changed_is_forgotten(void **state) {
    (void)state;
    static spec_prior d[DRAFTERS];
    uint64_t seed = 5;
    teach(d, 300, 0, &seed);
    teach(d, 300, 1, &seed); /* another drafter is good at each subject now */
    uint32_t n = right_of(d, 1, &seed);
    print_message("%u of a hundred, after a change\n", n);
    assert_true(n > 75);
}

static void nothing_is_expected_before_anything_was_seen(void **state) {
    (void)state;
    static spec_prior d;
    const uint32_t tokens[] = {1, 2, 3, 2};
    spec_profile p;
    spec_profile_of(&p, tokens, 4);
    assert_int_equal(p.n, 3);
    spec_tally t = spec_prior_of(&d, &p), none = {0};
    assert_true(!(t.seen > 0) && !(t.hits > 0));
    spec_prior_learn(&d, &p, &none); /* it was not scored */
    assert_true(!(d.all.seen > 0));
    spec_tally hits = {8, 8};
    spec_prior_learn(&d, &p, &hits);
    t = spec_prior_of(&d, &p);
    assert_true(t.seen > 0 && t.hits > 0.99f * t.seen);
}

/* Of a prompt without tokens, or whose tokens nobody has seen, the mean of all is expected. */
static void a_prompt_like_none_before_is_as_the_mean(void **state) {
    (void)state;
    static spec_prior d;
    uint64_t seed = 7;
    for (uint32_t i = 0; i < 200; i++) {
        const uint32_t token = 1;
        spec_profile p;
        spec_profile_of(&p, &token, 1);
        spec_tally hits = hits_of(0, i % 2, 60, &seed); /* 40 and 10 of a hundred in turn */
        spec_prior_learn(&d, &p, &hits);
    }
    for (uint32_t n = 0; n < 2; n++) {
        const uint32_t other = 2;
        spec_profile p;
        spec_profile_of(&p, &other, n);
        spec_tally t = spec_prior_of(&d, &p);
        assert_true(t.hits > 0.2f * t.seen && t.hits < 0.3f * t.seen);
    }
}

/* Whatever comes, a share stays a share. */
static void any_history_gives_a_share(void **state) {
    (void)state;
    static spec_prior d;
    uint64_t seed = 9;
    for (uint32_t i = 0; i < 5000; i++) {
        uint32_t tokens[LENGTH], n = (uint32_t)(table_random(&seed) % (LENGTH + 1));
        for (uint32_t k = 0; k < n; k++) tokens[k] = (uint32_t)table_random(&seed) % 64;
        spec_profile p;
        spec_profile_of(&p, tokens, n);
        float seen = (float)(table_random(&seed) % 65);
        spec_tally hits = {seen, table_random(&seed) % 2 ? seen : 0};
        spec_prior_learn(&d, &p, &hits);
        spec_tally t = spec_prior_of(&d, &p);
        assert_true(t.hits >= 0 && t.hits <= t.seen);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_subject_is_known_by_its_tokens),
        cmocka_unit_test(what_has_changed_is_forgotten),
        cmocka_unit_test(nothing_is_expected_before_anything_was_seen),
        cmocka_unit_test(a_prompt_like_none_before_is_as_the_mean),
        cmocka_unit_test(any_history_gives_a_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
