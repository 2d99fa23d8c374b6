/* Trees, their fusion, and routes. */
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static spec_tree chain(uint32_t n, const uint32_t *tokens, float p) {
    spec_tree t = {0};
    for (uint32_t i = 0; i < n; i++) spec_tree_add(&t, i ? i - 1 : NOUNS_TREE_ROOT, tokens[i], p);
    return t;
}

static void a_tree_from_elsewhere_is_checked(void **state) {
    (void)state;
    uint32_t token[] = {5, 6, 5}, parent[] = {NOUNS_TREE_ROOT, NOUNS_TREE_ROOT, 0};
    float p[] = {0.5f, 0.25f, 1};
    token_tree good = {3, token, parent, p};
    spec_tree out;
    st_error e;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_OK);
    assert_true(out.n == 3 && out.token[2] == 5 && out.parent[2] == 0 && out.probability[1] == 0.25f);
    assert_int_equal(spec_tree_take(&out, &good, 2, 7, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "more nodes"));
    assert_int_equal(out.n, 0);
    assert_int_equal(spec_tree_take(&out, &good, 3, 6, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "node 1: token outside"));
    token[1] = 5;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "node 1: the same token twice"));
    token[1] = 6, parent[1] = 2;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "node 1: parent behind"));
    parent[1] = 1;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_ERR_FORMAT);
    parent[1] = 0, p[2] = 0.0f / 0.0f;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "node 2: probability"));
    good.probability = NULL;
    assert_int_equal(spec_tree_take(&out, &good, 3, 7, &e), ST_OK);
    assert_true(out.probability[2] == 1);
}

static void the_walk_follows_the_choices_until_they_leave_the_tree(void **state) {
    (void)state;
    spec_tree t = {0};
    uint32_t path[NOUNS_MAX_TREE];
    spec_tree_add(&t, NOUNS_TREE_ROOT, 1, 1);
    spec_tree_add(&t, NOUNS_TREE_ROOT, 2, 1);
    spec_tree_add(&t, 1, 3, 1);
    token_tree view = spec_tree_view(&t);
    assert_int_equal(spec_tree_walk(&view, (uint32_t[]){2, 3, 9}, 3, path), 2);
    assert_true(path[0] == 1 && path[1] == 2);
    assert_int_equal(spec_tree_walk(&view, (uint32_t[]){1, 3, 9}, 3, NULL), 1);
    assert_int_equal(spec_tree_walk(&view, (uint32_t[]){3}, 1, NULL), 0);
    assert_int_equal(spec_tree_walk(&view, (uint32_t[]){2, 3}, 1, NULL), 1);
}

static void what_follows_a_first_token_is_a_tree_of_its_own(void **state) {
    (void)state;
    spec_tree t = {0}, below;
    spec_tree_add(&t, NOUNS_TREE_ROOT, 1, 0.5f);
    spec_tree_add(&t, NOUNS_TREE_ROOT, 2, 0.25f);
    spec_tree_add(&t, 1, 3, 0.125f);
    spec_tree_add(&t, 0, 4, 0.75f);
    spec_tree_add(&t, 2, 5, 1);
    spec_tree_add(&t, 1, 6, 0.5f);
    assert_true(spec_tree_below(&t, 2, &below));
    assert_int_equal(below.n, 3);
    assert_true(below.token[0] == 3 && below.parent[0] == NOUNS_TREE_ROOT && below.probability[0] == 0.125f);
    assert_true(below.token[1] == 5 && below.parent[1] == 0);
    assert_true(below.token[2] == 6 && below.parent[2] == NOUNS_TREE_ROOT);
    assert_true(spec_tree_below(&t, 1, &below) && below.n == 1 && below.token[0] == 4);
    assert_true(!spec_tree_below(&t, 3, &below) && below.n == 0); /* it is not a first token */
}

static void the_likeliest_leaf_is_the_end_of_its_path(void **state) {
    (void)state;
    spec_tree t = {0};
    uint32_t path[NOUNS_MAX_TREE];
    assert_int_equal(spec_tree_likeliest(&t, path), 0);
    spec_tree_add(&t, NOUNS_TREE_ROOT, 1, 0.9f); /* no leaf */
    spec_tree_add(&t, NOUNS_TREE_ROOT, 2, 0.4f);
    spec_tree_add(&t, 0, 3, 0.3f);
    assert_int_equal(spec_tree_likeliest(&t, path), 1);
    assert_int_equal(path[0], 2);
    spec_tree_add(&t, 0, 4, 0.6f);
    assert_int_equal(spec_tree_likeliest(&t, path), 2);
    assert_true(path[0] == 1 && path[1] == 4);
}

static void fusion_adds_up_agreement_and_keeps_the_likeliest(void **state) {
    (void)state;
    spec_tree trees[2] = {chain(3, (uint32_t[]){1, 2, 3}, 0.5f), chain(2, (uint32_t[]){1, 7}, 0.8f)}, out;
    uint32_t from[NOUNS_MAX_TREE];
    spec_fuse(trees, NULL, 2, 3, &out, from);
    assert_int_equal(out.n, 3);
    assert_true(out.token[0] == 1 && from[0] == 3); /* 1 - 0.5 * 0.2 */
    assert_float_equal(out.probability[0], 0.9f, 1e-6);
    assert_true(out.token[1] == 7 && from[1] == 2 && out.parent[1] == 0); /* 0.9 * 0.8 before 0.9 * 0.5 */
    assert_true(out.token[2] == 2 && from[2] == 1 && out.parent[2] == 0);
    spec_fuse(trees, (float[]){1, 0.25f}, 2, 3, &out, from);
    assert_float_equal(out.probability[0], 0.6f, 1e-6);
    assert_true(out.token[1] == 2 && out.token[2] == 3); /* the second one's word counts a quarter */
    spec_fuse(trees, NULL, 2, 0, &out, from);
    assert_int_equal(out.n, 0);
    spec_fuse(trees, NULL, 0, 4, &out, NULL);
    assert_int_equal(out.n, 0);
}

static spec_tree random_tree(uint64_t *seed) {
    spec_tree t = {0};
    uint32_t n = table_random(seed) % (NOUNS_MAX_TREE + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = table_random(seed) % (t.n + 1), parent = at == t.n ? NOUNS_TREE_ROOT : at, token = table_random(seed) % 5;
        token_tree view = spec_tree_view(&t);
        if (spec_tree_child(&view, parent, token) == NOUNS_TREE_ROOT)
            spec_tree_add(&t, parent, token, (float)(table_random(seed) % 11) / 10);
    }
    return t;
}

/* The node of `t` on the path of node i of `out`. */
static uint32_t same_path(const spec_tree *t, const spec_tree *out, uint32_t i) {
    token_tree view = spec_tree_view(t);
    uint32_t above = out->parent[i] == NOUNS_TREE_ROOT ? NOUNS_TREE_ROOT : same_path(t, out, out->parent[i]);
    if (out->parent[i] != NOUNS_TREE_ROOT && above == NOUNS_TREE_ROOT) return NOUNS_TREE_ROOT;
    return spec_tree_child(&view, above, out->token[i]);
}

static float path_of(const spec_tree *t, uint32_t i) {
    return i == NOUNS_TREE_ROOT ? 1 : t->probability[i] * path_of(t, t->parent[i]);
}

static void any_fusion_is_a_tree_of_what_was_proposed(void **state) {
    (void)state;
    static spec_tree trees[SPEC_MAX_DRAFTERS], out, again;
    uint64_t seed = 11;
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t n = round % 4 ? table_random(&seed) % 4 : SPEC_MAX_DRAFTERS, budget = table_random(&seed) % (NOUNS_MAX_TREE + 9);
        uint32_t from[NOUNS_MAX_TREE], from_again[NOUNS_MAX_TREE];
        for (uint32_t i = 0; i < n; i++) trees[i] = random_tree(&seed);
        spec_fuse(trees, NULL, n, budget, &out, from);
        spec_fuse(trees, NULL, n, budget, &again, from_again);
        assert_true(spec_tree_check(&out, budget));
        assert_true(out.n == again.n && !memcmp(out.token, again.token, out.n * 4) && !memcmp(from, from_again, out.n * 4));
        for (uint32_t i = 0; i < out.n; i++) {
            float miss = 1;
            for (uint32_t k = 0; k < n; k++) {
                uint32_t there = same_path(&trees[k], &out, i);
                bool believes =
                    there != NOUNS_TREE_ROOT && trees[k].probability[there] > 0; /* else the node only carries others */
                assert_int_equal(believes, from[i] >> k & 1);
                if (there != NOUNS_TREE_ROOT) miss *= 1 - trees[k].probability[there];
            }
            assert_float_equal(out.probability[i], 1 - miss, 1e-5);
            assert_true(out.probability[i] > 0);
            if (i) assert_true(path_of(&out, i) <= path_of(&out, i - 1) + 1e-6f);
        }
        for (uint32_t k = 0; out.n < budget && out.n < NOUNS_MAX_TREE && k < n; k++) /* nothing was left out */
            for (uint32_t j = 0; j < trees[k].n; j++)
                if (path_of(&trees[k], j) > 0) assert_int_not_equal(same_path(&out, &trees[k], j), NOUNS_TREE_ROOT);
    }
}

static spec_roster three_drafters(void) { return spec_roster_of((const char *[]){"small", "code", "math"}, 3, false); }

static void a_roster_begins_with_lookup_alone_up(void **state) {
    (void)state;
    spec_roster three = three_drafters(), none = spec_roster_of(NULL, 0, false);
    assert_true(three.n == 4 && three.up == 8 && none.n == 1 && none.up == 1);
    assert_string_equal(three.name[0], "small");
    assert_string_equal(three.name[2], "math");
    assert_string_equal(three.name[3], "lookup");
    assert_string_equal(none.name[0], "lookup");
}

static const spec_tally nothing[SPEC_MAX_DRAFTERS];
static const spec_cosine untried[SPEC_MAX_DRAFTERS];
static const spec_record unknown = {.hits = nothing, .prior = nothing, .cosine = untried};

static void each_policy_asks_its_drafters_and_only_those_that_are_up(void **state) {
    (void)state;
    spec_roster roster = three_drafters();
    const struct {
        const char *text;
        uint32_t all_up, code_down;
    } cases[] = {{"none", 0, 0},         {"lookup", 8, 8},  {"all", 15, 13},    {"fixed:code", 2, 0}, {"fixed:math", 4, 4},
                 {"fixed:lookup", 8, 8}, {"hedge", 15, 13}, {"cosine", 15, 13}, {"round-robin", 1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spec_route r;
        assert_int_equal(spec_route_parse(&r, cases[i].text, &roster, NULL), ST_OK);
        roster.up = 15;
        assert_int_equal(spec_route_ask(&r, &roster, &unknown), cases[i].all_up);
        roster.up = 13;
        assert_int_equal(spec_route_ask(&r, &roster, &unknown), cases[i].code_down);
    }
    spec_route r;
    spec_roster full = {.n = SPEC_MAX_DRAFTERS, .up = UINT32_MAX};
    for (uint32_t i = 0; i < full.n; i++) full.name[i] = i == 31 ? "last" : "other";
    assert_int_equal(spec_route_parse(&r, "all", &full, NULL), ST_OK);
    assert_int_equal(spec_route_ask(&r, &full, &unknown), UINT32_MAX);
    assert_int_equal(spec_route_parse(&r, "fixed:last", &full, NULL), ST_OK);
    assert_int_equal(spec_route_ask(&r, &full, &unknown), UINT32_C(1) << 31);
}

static void round_robin_takes_those_that_are_up_in_turn(void **state) {
    (void)state;
    spec_roster roster = three_drafters();
    spec_route r;
    assert_int_equal(spec_route_parse(&r, "round-robin", &roster, NULL), ST_OK);
    roster.up = 13;
    const uint32_t turns[] = {1, 4, 8, 1, 4, 8};
    for (uint64_t i = 0; i < 6; i++) assert_int_equal(spec_route_ask(&r, &roster, &(spec_record){.round = i}), turns[i]);
    roster.up = 0;
    assert_int_equal(spec_route_ask(&r, &roster, &unknown), 0);
    assert_int_equal(spec_route_follow(&r, &roster), 0);
}

static void hedge_asks_lookup_and_those_that_hit_and_follows_all(void **state) {
    (void)state;
    spec_roster roster = three_drafters();
    spec_route r;
    assert_int_equal(spec_route_parse(&r, "hedge", &roster, NULL), ST_OK);
    roster.up = 15;
    const spec_tally hits[4] = {{40, 2}, {40, 20}, {40, 4}, {40, 39}};
    const spec_record record = {.hits = hits, .prior = nothing, .round = 5};
    assert_int_equal(spec_route_ask(&r, &roster, &record), 8 | 2);
    assert_int_equal(spec_route_follow(&r, &roster), 15);
    roster.up = 13;
    assert_int_equal(spec_route_ask(&r, &roster, &record), 8 | 4 | 1);
    assert_int_equal(spec_route_follow(&r, &roster), 13);
}

static void the_corpus_is_local_and_has_its_name(void **state) {
    (void)state;
    spec_roster roster = spec_roster_of((const char *[]){"small", "code"}, 2, true);
    spec_route r;
    assert_true(roster.n == 4 && roster.up == 12 && roster.local == 12);
    roster.up = 15;
    const spec_tally hits[4] = {{40, 2}, {40, 20}, {40, 39}, {40, 0}};
    const spec_record record = {.hits = hits, .prior = nothing, .round = 5};
    const struct {
        const char *policy;
        uint32_t asks;
    } cases[] = {{"lookup", 4}, {"fixed:corpus", 8}, {"all", 15}, {"hedge", 8 | 4 | 2}, {"none", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(spec_route_parse(&r, cases[i].policy, &roster, NULL), ST_OK);
        assert_int_equal(spec_route_ask(&r, &roster, &record), cases[i].asks);
    }
}

static void cosine_asks_lookup_and_those_that_are_sure_and_near(void **state) {
    (void)state;
    const char *names[] = {"a", "b", "c", "d"};
    spec_roster roster = spec_roster_of(names, 4, false);
    spec_route r;
    assert_int_equal(spec_route_parse(&r, "cosine", &roster, NULL), ST_OK);
    roster.up = 31;
    const spec_cosine seen[5] = {{10, 5, 2, 9}, {10, 5, 8, 9}, {10, 5, 5, 9}, {10, 5, 6, 9}};
    const spec_record record = {.cosine = seen, .accepted = 2};
    assert_int_equal(spec_route_ask(&r, &roster, &record), 16 | 2 | 4 | 8);
    assert_int_equal(spec_route_follow(&r, &roster), 0);
    roster.up = 31 - 4;
    assert_int_equal(spec_route_ask(&r, &roster, &record), 16 | 1 | 2 | 8);
}

static void a_wrong_policy_is_told_what_there_is(void **state) {
    (void)state;
    spec_roster roster = three_drafters();
    spec_route r;
    st_error e;
    const char *wrong[] = {"", "al", "alll", "all:code", "none:", "fixed", ":", "Lookup", "round_robin", "hedge:code"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(spec_route_parse(&r, wrong[i], &roster, &e), ST_ERR_INVALID_ARGUMENT);
        assert_non_null(strstr(e.message, "none, lookup, all, hedge, cosine, fixed:<drafter>, round-robin"));
    }
    assert_int_equal(spec_route_parse(&r, "fixed:cod", &roster, &e), ST_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(e.message, "'fixed:cod': no such drafter; there are: small, code, math, lookup"));
    assert_int_equal(spec_route_parse(&r, "fixed:", &roster, &e), ST_ERR_INVALID_ARGUMENT);
}

static void kinds_are_found_by_name(void **state) {
    (void)state;
    assert_true(spec_kind_find("lookup")->pure && !spec_kind_find("model")->pure);
    assert_null(spec_kind_find("head "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tree_from_elsewhere_is_checked),
        cmocka_unit_test(the_walk_follows_the_choices_until_they_leave_the_tree),
        cmocka_unit_test(what_follows_a_first_token_is_a_tree_of_its_own),
        cmocka_unit_test(the_likeliest_leaf_is_the_end_of_its_path),
        cmocka_unit_test(fusion_adds_up_agreement_and_keeps_the_likeliest),
        cmocka_unit_test(any_fusion_is_a_tree_of_what_was_proposed),
        cmocka_unit_test(a_roster_begins_with_lookup_alone_up),
        cmocka_unit_test(each_policy_asks_its_drafters_and_only_those_that_are_up),
        cmocka_unit_test(round_robin_takes_those_that_are_up_in_turn),
        cmocka_unit_test(hedge_asks_lookup_and_those_that_hit_and_follows_all),
        cmocka_unit_test(the_corpus_is_local_and_has_its_name),
        cmocka_unit_test(cosine_asks_lookup_and_those_that_are_sure_and_near),
        cmocka_unit_test(a_wrong_policy_is_told_what_there_is),
        cmocka_unit_test(kinds_are_found_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
