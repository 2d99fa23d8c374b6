/* Calibration: beliefs become shares of hits, slowly enough and fast enough. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { RIGHT = 1, WRONG = 2 };

static spec_tree chain(uint32_t n, float p) {
    spec_tree t = {0};
    for (uint32_t i = 0; i < n; i++) spec_tree_add(&t, i ? i - 1 : NOUNS_TREE_ROOT, RIGHT, p);
    return t;
}

/* What a belief of p at this depth (0: the first) is held for, in a request of which nothing is known. */
static float worth(const spec_calibration *c, uint32_t depth, float p) {
    spec_tree raw = chain(depth + 1, p), out;
    spec_calibrate(c, &(spec_trust){0}, &raw, &out);
    return out.probability[depth];
}

/* Nodes of belief p at the first place, right in `percent` of the cases; each in a request of its own. */
static void observe(spec_calibration *c, float p, uint32_t n, uint32_t percent, uint64_t *seed) {
    spec_tree raw = chain(1, p);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = table_random(seed) % 100 < percent ? RIGHT : WRONG;
        spec_calibration_learn(c, &(spec_trust){0}, &raw, &token, 1);
    }
}

static void a_belief_stands_until_something_is_seen(void **state) {
    (void)state;
    spec_calibration c = {0};
    const float beliefs[] = {0, 0.01f, 0.25f, 0.5f, 0.9f, 1};
    for (uint32_t depth = 0; depth < 6; depth++)
        for (uint32_t i = 0; i < 6; i++) assert_float_equal(worth(&c, depth, beliefs[i]), beliefs[i], 1e-6);
}

static void a_node_of_belief_0_is_not_judged_and_those_below_it_are(void **state) {
    (void)state;
    spec_calibration c = {0};
    spec_trust t = {0};
    spec_tree raw = {0}, out;
    spec_tree_add(&raw, spec_tree_add(&raw, NOUNS_TREE_ROOT, RIGHT, 0), RIGHT, 0.5f);
    for (uint32_t i = 0; i < 100; i++) spec_calibration_learn(&c, &t, &raw, (uint32_t[]){RIGHT, RIGHT}, 2);
    assert_true(c.bin[0][0].seen == 0 && c.bin[1][SPEC_BINS / 2].seen > 50);
    spec_calibrate(&c, &t, &raw, &out);
    assert_true(out.probability[0] == 0 && out.probability[1] > 0.9f);
    c.bin[0][0] = (spec_tally){100, 50}; /* tokens that were believed a little */
    spec_calibrate(&c, &t, &raw, &out);
    assert_true(out.probability[0] == 0);
}

static void an_overconfident_drafter_is_held_for_what_it_hits(void **state) {
    (void)state;
    spec_calibration c = {0};
    uint64_t seed = 3;
    observe(&c, 0.8f, 600, 40, &seed);
    assert_float_equal(worth(&c, 0, 0.8f), 0.4f, 0.08);
    assert_float_equal(worth(&c, 0, 0.5f), 0.5f, 1e-6); /* other beliefs and depths are their own */
    assert_float_equal(worth(&c, 1, 0.8f), 0.8f, 1e-6);
    observe(&c, 1, 600, 70, &seed); /* the last bin holds certainty too */
    assert_float_equal(worth(&c, 0, 1), 0.7f, 0.08);
}

static void a_few_misses_do_not_swing_it_and_a_change_is_followed(void **state) {
    (void)state;
    spec_calibration c = {0};
    uint64_t seed = 5;
    observe(&c, 0.9f, 3, 0, &seed);
    assert_true(worth(&c, 0, 0.9f) > 0.6f && worth(&c, 0, 0.9f) < 0.8f);
    observe(&c, 0.9f, 5000, 10, &seed);
    assert_float_equal(worth(&c, 0, 0.9f), 0.12f, 0.06);
    observe(&c, 0.9f, 700, 90, &seed);
    assert_true(worth(&c, 0, 0.9f) > 0.8f);
}

static void only_children_of_accepted_nodes_are_observed_and_only_where_a_token_judges_them(void **state) {
    (void)state;
    spec_calibration c = {0};
    spec_trust t = {0};
    spec_tree raw = {0};
    spec_tree_add(&raw, NOUNS_TREE_ROOT, WRONG, 0.5f); /* depth 1: a miss */
    spec_tree_add(&raw, 0, RIGHT, 0.5f);               /* under it: nobody knows */
    spec_tree_add(&raw, NOUNS_TREE_ROOT, RIGHT, 0.3f); /* its sibling: a hit */
    spec_tree_add(&raw, 2, RIGHT, 0.5f);               /* depth 2, under the hit: a miss, by the bonus token */
    spec_tree_add(&raw, 3, RIGHT, 0.5f);               /* under that: nobody knows */
    spec_calibration_learn(&c, &t, &raw, (uint32_t[]){RIGHT, WRONG}, 2);
    assert_true(worth(&c, 0, 0.5f) < 0.5f && worth(&c, 0, 0.3f) > 0.3f && worth(&c, 1, 0.5f) < 0.5f);
    assert_float_equal(c.bin[0][8].seen, 1, 0);
    assert_float_equal(c.bin[1][8].seen, 1, 0);
    assert_float_equal(c.bin[2][8].seen, 0, 0);
    assert_float_equal(t.hits, 1, 0.05);
    spec_calibration_learn(&c, &t, &raw, (uint32_t[]){RIGHT}, 1); /* no token reaches the second depth */
    assert_float_equal(c.bin[1][8].seen, 1, 0);
}

static void all_depths_from_the_fourth_on_share_a_row(void **state) {
    (void)state;
    spec_calibration c = {0};
    spec_trust t = {0};
    uint32_t tokens[NOUNS_MAX_TREE];
    spec_tree raw = chain(NOUNS_MAX_TREE, 0.5f);
    for (uint32_t i = 0; i < NOUNS_MAX_TREE; i++) tokens[i] = RIGHT;
    spec_calibration_learn(&c, &t, &raw, tokens, NOUNS_MAX_TREE);
    assert_float_equal(worth(&c, 3, 0.5f), worth(&c, 9, 0.5f), 0);
    assert_true(worth(&c, 3, 0.5f) > 0.9f && worth(&c, 2, 0.5f) < 0.6f);
}

/* The same beliefs, right in one request and wrong in another: each gets what its own hits say, and the map sees the mean. */
static void requests_that_differ_are_told_apart(void **state) {
    (void)state;
    spec_calibration c = {0};
    spec_trust good = {0}, bad = {0};
    spec_tree raw = chain(1, 0.6f), out;
    for (uint32_t i = 0; i < 40; i++) {
        spec_calibration_learn(&c, &good, &raw, (uint32_t[]){i % 10 ? RIGHT : WRONG}, 1);
        spec_calibration_learn(&c, &bad, &raw, (uint32_t[]){i % 10 ? WRONG : RIGHT}, 1);
    }
    assert_float_equal(worth(&c, 0, 0.6f), 0.5f, 0.06);
    spec_calibrate(&c, &good, &raw, &out);
    assert_true(out.probability[0] > 0.7f);
    spec_calibrate(&c, &bad, &raw, &out);
    assert_true(out.probability[0] < 0.2f);
}

static void what_comes_out_is_a_tree_of_probabilities_whatever_was_seen(void **state) {
    (void)state;
    spec_calibration c = {0};
    spec_trust t = {0};
    uint64_t seed = 7;
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t tokens[4], n = 1 + table_random(&seed) % 4;
        spec_tree raw = {0}, out;
        for (uint32_t i = 0; i < table_random(&seed) % 9; i++) {
            uint32_t parent = i == 0 || table_random(&seed) % 3 ? i - 1 : table_random(&seed) % i;
            spec_tree_add(&raw, i ? parent : NOUNS_TREE_ROOT, i + 10 * (table_random(&seed) % 2),
                          (float)(table_random(&seed) % 33) / 32);
        }
        for (uint32_t i = 0; i < n; i++) tokens[i] = raw.n && table_random(&seed) % 8 ? raw.token[i % raw.n] : 99;
        spec_calibration_learn(&c, &t, &raw, tokens, n);
        spec_calibrate(&c, &t, &raw, &out);
        assert_true(out.n == raw.n && spec_tree_check(&out, NOUNS_MAX_TREE));
    }
}

/* Two that always say the same are together no surer than one. */
static void agreement_of_those_who_know_alike_is_worth_no_more(void **state) {
    (void)state;
    spec_agreement a = {0};
    const uint32_t right[] = {5, 6}, wrong[] = {9, 9}, from[] = {3, 3};
    const spec_tree joint = {2, {5, 6}, {NOUNS_TREE_ROOT, 0}, {0.75f, 0.75f}};
    assert_float_equal(spec_agreed(&a, 3, 0.75f), 0.75f, 1e-6); /* nothing was seen */
    for (int i = 0; i < 200; i++) spec_agreement_learn(&a, &joint, from, i % 2 ? right : wrong, i % 2 ? 2 : 1);
    /* of 300 nodes whose parent was right 200 were: the second ones always */
    assert_float_equal(spec_agreed(&a, 3, 0.75f), 200.0f / 300, 0.05);
    assert_float_equal(spec_agreed(&a, 1, 0.75f), 0.75f, 1e-6); /* one alone */
    assert_float_equal(spec_agreed(&a, 7, 0.75f), 0.75f, 1e-6); /* three */
    assert_float_equal(spec_agreed(&a, 3, 0.97f), 0.97f, 1e-6); /* and other beliefs are their own */
    assert_true(spec_agreed(&a, UINT32_MAX, 1) <= 1 && spec_agreed(&a, 0, 0) == 0);
    for (int i = 0; i < 2000; i++) spec_agreement_learn(&a, &joint, from, wrong, 1);
    assert_true(spec_agreed(&a, 3, 0.75f) < 0.1f); /* the last few hundred count */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agreement_of_those_who_know_alike_is_worth_no_more),
        cmocka_unit_test(a_belief_stands_until_something_is_seen),
        cmocka_unit_test(a_node_of_belief_0_is_not_judged_and_those_below_it_are),
        cmocka_unit_test(an_overconfident_drafter_is_held_for_what_it_hits),
        cmocka_unit_test(a_few_misses_do_not_swing_it_and_a_change_is_followed),
        cmocka_unit_test(only_children_of_accepted_nodes_are_observed_and_only_where_a_token_judges_them),
        cmocka_unit_test(all_depths_from_the_fourth_on_share_a_row),
        cmocka_unit_test(requests_that_differ_are_told_apart),
        cmocka_unit_test(what_comes_out_is_a_tree_of_probabilities_whatever_was_seen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
