/* Cosine: the surest and nearest drafters are asked, and others while few drafts are accepted. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { N = 6, ALL = 63 };

static float distance(void *context, uint32_t a, uint32_t b) {
    ++*(uint32_t *)context;
    return 1 - (float)(a < b ? b - a : a - b) / 10; /* below 0 past a distance of 10 */
}

static const spec_likeness none = {NULL, NULL};

static spec_cosine after_rounds(uint32_t n, float belief, uint32_t token, uint32_t truth, const spec_likeness *likeness) {
    spec_cosine c = {0};
    for (uint32_t i = 0; i < n; i++) {
        spec_tree t = {0};
        spec_tree_add(&t, NOUNS_TREE_ROOT, token, belief);
        spec_cosine_learn(&c, &t, &truth, 1, likeness);
    }
    return c;
}

static void the_places_that_were_drafted_for_are_judged(void **state) {
    (void)state;
    uint32_t calls = 0;
    const spec_likeness likeness = {distance, &calls};
    spec_cosine c = {0};
    spec_tree t = {0};
    uint32_t a = spec_tree_add(&t, NOUNS_TREE_ROOT, 5, 0.5f), b = spec_tree_add(&t, a, 7, 0.25f);
    uint32_t other = spec_tree_add(&t, NOUNS_TREE_ROOT, 6, 0.5f); /* not its own choice */
    spec_tree_add(&t, b, 30, 0.75f);
    spec_tree_add(&t, other, 9, 0.125f);
    spec_cosine_learn(&c, &t, (uint32_t[]){5, 7, 33, 1}, 4, &likeness);
    assert_int_equal(calls, 1); /* that a token is like itself needs no embedding */
    assert_int_equal(c.n_tried, 1);
    assert_true(c.seen > 2.9f && c.seen < 3);
    assert_true(fabsf(c.belief / c.seen - 0.5f) < 0.01f);
    assert_true(fabsf(c.similarity / c.seen - 2.7f / 3) < 0.01f);
    c = (spec_cosine){0};
    spec_cosine_learn(&c, &t, (uint32_t[]){6, 9}, 2, &likeness); /* the first is a near miss; behind it, it had a choice */
    assert_true(fabsf(c.similarity - 1.9f) < 0.05f && fabsf(c.belief - 0.625f) < 0.02f);
    c = (spec_cosine){0};
    spec_cosine_learn(&c, &t, (uint32_t[]){50, 7}, 2, &likeness); /* far off: no less than nothing */
    assert_true(c.similarity == 0 && c.seen == 1);
}

static void a_node_of_belief_0_is_not_its_own_choice(void **state) {
    (void)state;
    spec_cosine c = {0};
    spec_tree t = {0};
    uint32_t path = spec_tree_add(&t, NOUNS_TREE_ROOT, 4, 0);
    spec_tree_add(&t, NOUNS_TREE_ROOT, 5, 0.5f);
    spec_tree_add(&t, path, 8, 0.75f);
    spec_cosine_learn(&c, &t, (uint32_t[]){4, 8}, 2, &none);
    assert_true(fabsf(c.belief - 1.25f) < 0.02f && fabsf(c.similarity - 1) < 0.02f);
}

static void who_drafts_nothing_when_asked_scores_less(void **state) {
    (void)state;
    spec_cosine c[2] = {after_rounds(20, 0.5f, 1, 1, &none), after_rounds(20, 0.5f, 1, 1, &none)};
    const spec_tree empty = {0};
    for (uint32_t i = 0; i < 20; i++) spec_cosine_learn(&c[0], &empty, (uint32_t[]){1}, 1, &none);
    assert_int_equal(c[0].n_tried, 40);
    assert_true(c[0].belief / c[0].seen < 0.8f * c[1].belief / c[1].seen);
}

/* Sure and far off, near and unsure: less than moderately both. */
static void the_score_is_the_harmonic_mean(void **state) {
    (void)state;
    uint32_t calls = 0;
    const spec_likeness likeness = {distance, &calls};
    spec_cosine c[N];
    c[0] = after_rounds(9, 0.95f, 10, 19, &likeness); /* 0.95 and 0.1 */
    c[1] = after_rounds(9, 0.1f, 10, 10, &likeness);  /* 0.1 and 1 */
    c[2] = after_rounds(9, 0.5f, 10, 15, &likeness);  /* 0.5 and 0.5 */
    c[3] = after_rounds(9, 0.4f, 10, 13, &likeness);  /* 0.4 and 0.7: 0.51 */
    c[4] = after_rounds(9, 0.6f, 10, 16, &likeness);  /* 0.6 and 0.4: 0.48 */
    c[5] = after_rounds(9, 0.2f, 10, 10, &likeness);  /* 0.2 and 1: 0.33 */
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, 5), 4 | 8 | 16);
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL & ~8U, 5), 4 | 16 | 32);
    assert_int_equal(spec_cosine_pick(c, NULL, N, 1 | 2, 5), 1 | 2);
    assert_int_equal(spec_cosine_pick(c, NULL, N, 0, 5), 0);
}

static void without_embeddings_only_the_token_itself_is_like_it(void **state) {
    (void)state;
    spec_cosine c[N] = {after_rounds(9, 0.9f, 10, 11, &none), after_rounds(9, 0.1f, 10, 10, &none)};
    assert_true(c[0].similarity == 0 && c[1].similarity > 8);
}

static void while_few_drafts_are_accepted_the_least_tried_takes_a_place(void **state) {
    (void)state;
    spec_cosine c[N] = {0};
    float accepted = 0;
    for (uint32_t i = 0; i < 3; i++) c[i] = after_rounds(10 + i, 0.5f, 1, 1, &none);
    for (uint32_t i = 3; i < N; i++) c[i] = after_rounds(5 - i % 3, 0.1f, 1, 1, &none);
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, accepted), 1 | 2 | 32);
    c[5].n_tried = 50;
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, accepted), 1 | 2 | 16);
    for (uint32_t i = 0; i < 30; i++) spec_cosine_accepted(&accepted, 2);
    assert_true(fabsf(accepted - 2) < 0.1f);
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, accepted), 1 | 2 | 4);
    for (uint32_t i = 0; i < 30; i++) spec_cosine_accepted(&accepted, i % 2);
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, accepted), 1 | 2 | 16);
}

static void with_nothing_seen_the_lowest_are_asked_and_all_have_their_turn(void **state) {
    (void)state;
    spec_cosine c[N] = {0};
    uint32_t tried = 0;
    assert_int_equal(spec_cosine_pick(c, NULL, N, ALL, 0), 7);
    for (uint32_t round = 0; round < 4; round++) {
        uint32_t picked = spec_cosine_pick(c, NULL, N, ALL, 0);
        tried |= picked;
        for (uint32_t i = 0; i < N; i++) c[i].n_tried += picked >> i & 1;
    }
    assert_int_equal(tried, ALL);
}

static void of_equals_the_faster_is_asked(void **state) {
    (void)state;
    spec_cosine c[N] = {0};
    const double wait_ns[N] = {9, 2, 2, 1, 5, 3};
    assert_int_equal(spec_cosine_pick(c, wait_ns, N, ALL, 5), 2 | 4 | 8);
    c[0] = after_rounds(9, 0.5f, 1, 1, &none);
    assert_int_equal(spec_cosine_pick(c, wait_ns, N, ALL, 5), 1 | 2 | 8); /* the score comes first */
}

static void any_record_gives_a_part_of_the_candidates(void **state) {
    (void)state;
    uint64_t seed = 7;
    spec_cosine c[SPEC_MAX_DRAFTERS] = {0};
    for (uint32_t round = 0; round < 3000; round++) {
        uint32_t i = table_random(&seed) % SPEC_MAX_DRAFTERS, candidates = table_random(&seed) * 3, n = 0;
        c[i] = after_rounds(table_random(&seed) % 5, (float)(table_random(&seed) % 11) / 10, 1, table_random(&seed) % 3, &none);
        uint32_t picked = spec_cosine_pick(c, NULL, SPEC_MAX_DRAFTERS, candidates, (float)(table_random(&seed) % 3));
        for (uint32_t left = picked; left; left &= left - 1) n++;
        assert_int_equal(picked & ~candidates, 0);
        assert_true(n <= SPEC_COSINE_MOST && (n > 0) == (candidates > 0));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_places_that_were_drafted_for_are_judged),
        cmocka_unit_test(a_node_of_belief_0_is_not_its_own_choice),
        cmocka_unit_test(who_drafts_nothing_when_asked_scores_less),
        cmocka_unit_test(the_score_is_the_harmonic_mean),
        cmocka_unit_test(without_embeddings_only_the_token_itself_is_like_it),
        cmocka_unit_test(while_few_drafts_are_accepted_the_least_tried_takes_a_place),
        cmocka_unit_test(with_nothing_seen_the_lowest_are_asked_and_all_have_their_turn),
        cmocka_unit_test(of_equals_the_faster_is_asked),
        cmocka_unit_test(any_record_gives_a_part_of_the_candidates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
