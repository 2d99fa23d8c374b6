/* The contract that every pure row of drafters.def passes, and what is special to each kind. */
#include "model/model.h"
#include "speculative/speculative.h"
#include "tests/unit/speculative/table.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { VOCABULARY = 60, TRAINED = 5000, LONGEST = 400 };

typedef struct {
    spec_lookup_drafter lookup;
    spec_ngram ngram;
    uint8_t *table;
} storage;

static int set_up(void **state) {
    static uint32_t text[TRAINED];
    storage *s = mem_alloc(1, sizeof *s);
    spec_ngram_info info;
    size_t size;
    table_text(3, VOCABULARY, text, TRAINED);
    s->table = table_make(text, TRAINED, VOCABULARY, 4, &info, &size);
    *state = s;
    return spec_ngram_init(&s->ngram, s->table, size, NULL, NULL) ? -1 : 0;
}

static int tear_down(void **state) {
    storage *s = *state;
    mem_free(s->table);
    mem_free(s);
    return 0;
}

/* A new pure kind says here how it is made. */
static spec_drafter *drafter_of(storage *s, uint32_t kind) {
    switch (kind) {
    case SPEC_KIND_lookup: return spec_lookup_init(&s->lookup, &SPEC_LOOKUP_OPTIONS);
    case SPEC_KIND_ngram: return &s->ngram.drafter;
    default: fail_msg("kind %s has no row in this test", spec_kinds[kind].name); return NULL;
    }
}

/* n tokens at the end of an allocation of their own, so that a sanitizer sees a read past either end. */
static uint32_t *exact_copy(const uint32_t *tokens, uint32_t n) {
    uint32_t *copy = mem_alloc(n, sizeof *copy);
    memcpy(copy, tokens, n * sizeof *copy);
    return copy;
}

static void random_case(uint64_t *seed, uint32_t *tokens, spec_draft *item) {
    bool known = table_random(seed) % 4; /* or ids that no table has seen */
    uint32_t few = table_random(seed) % 5 ? 6 : VOCABULARY;
    item->n_tokens = 1 + table_random(seed) % LONGEST;
    for (uint32_t i = 0; i < item->n_tokens; i++)
        tokens[i] = known ? table_random(seed) % few : UINT32_MAX - 1 - table_random(seed) % 3;
    item->n_new = table_random(seed) % 3 ? 1 + table_random(seed) % item->n_tokens : item->n_tokens;
    item->budget = table_random(seed) % (NOUNS_MAX_TREE + 1);
    item->sampling = (sampling){.temperature = (float)(table_random(seed) % 4) / 2,
                                .top_p = 1 - (float)(table_random(seed) % 3) / 4,
                                .min_p = (float)(table_random(seed) % 3) / 16,
                                .top_k = table_random(seed) % 3,
                                .seed = table_random(seed)};
}

static bool same(const spec_tree *a, const spec_tree *b) {
    return a->n == b->n && !memcmp(a->token, b->token, a->n * 4) && !memcmp(a->parent, b->parent, a->n * 4) &&
           !memcmp(a->probability, b->probability, a->n * 4);
}

static void every_draft_keeps_the_contract(void **state) {
    static uint32_t tokens[LONGEST];
    static spec_tree tree, again;
    for (uint32_t kind = 0; kind < SPEC_N_KINDS; kind++) {
        if (!spec_kinds[kind].pure) continue;
        spec_drafter *d = drafter_of(*state, kind);
        uint64_t seed = 17;
        assert_string_equal(d->ops->name, spec_kinds[kind].name);
        assert_int_equal(d->ops->wants_hidden, spec_kinds[kind].wants_hidden);
        for (uint32_t round = 0; round < 1500; round++) {
            spec_draft item = {.seq = {1}, .tree = &tree};
            random_case(&seed, tokens, &item);
            item.tokens = exact_copy(tokens, item.n_tokens);
            assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK);
            assert_true(spec_tree_check(&tree, item.budget));
            uint32_t most = item.n_new < SPEC_MAX_SCORED ? item.n_new : SPEC_MAX_SCORED;
            assert_true(item.n_hits <= item.n_scored && item.n_scored <= most);
            spec_draft second = item;
            second.tree = &again, second.seq.value = 2;
            assert_int_equal(d->ops->draft(d, &second, 1, NULL), ST_OK);
            assert_true(same(&tree, &again) && second.n_hits == item.n_hits && second.n_scored == item.n_scored);
            mem_free((void *)item.tokens);
        }
        d->ops->close(d, (seq_id){1});
        d->ops->close(d, (seq_id){99});
        d->ops->destroy(d);
        d->ops->destroy(NULL);
    }
}

/* What is drafted first for a position is what is scored there later: scores over a text are the hits of its first nodes. */
static void hits_are_those_of_the_own_choice_at_every_position(void **state) {
    static uint32_t tokens[LONGEST];
    for (uint32_t kind = 0; kind < SPEC_N_KINDS; kind++) {
        if (!spec_kinds[kind].pure) continue;
        spec_drafter *d = drafter_of(*state, kind);
        for (uint32_t hot = 0; hot < 2; hot++) {
            sampling s = {.temperature = hot ? 0.9f : 0, .top_p = 1, .seed = 5};
            uint64_t seed = 23 + hot;
            uint32_t n_scored = 0, n_hits = 0, n = 1;
            tokens[0] = 1;
            for (; n < 60; n++) { /* a text that often does as the drafter says */
                spec_tree tree;
                spec_draft item = {.sampling = s, .tokens = tokens, .n_tokens = n, .budget = 1, .tree = &tree};
                assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK);
                tokens[n] = tree.n && table_random(&seed) % 2 ? tree.token[0] : table_random(&seed) % 8;
                n_scored += tree.n;
                n_hits += tree.n && tree.token[0] == tokens[n];
            }
            spec_tree tree;
            spec_draft item = {.sampling = s, .tokens = tokens, .n_tokens = n, .n_new = n - 1, .tree = &tree};
            assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK);
            assert_true(tree.n == 0 && n_hits > 20);
            assert_int_equal(item.n_scored, n_scored);
            assert_int_equal(item.n_hits, n_hits);
        }
    }
}

static void a_batch_is_its_items_one_by_one(void **state) {
    static uint32_t tokens[3][LONGEST];
    for (uint32_t kind = 0; kind < SPEC_N_KINDS; kind++) {
        if (!spec_kinds[kind].pure) continue;
        spec_drafter *d = drafter_of(*state, kind);
        uint64_t seed = 31;
        spec_draft items[3], single;
        spec_tree trees[3], tree;
        for (uint32_t i = 0; i < 3; i++) {
            items[i] = (spec_draft){.seq = {i + 1}, .tokens = tokens[i], .tree = &trees[i]};
            random_case(&seed, tokens[i], &items[i]);
        }
        assert_int_equal(d->ops->draft(d, items, 3, NULL), ST_OK);
        for (uint32_t i = 0; i < 3; i++) {
            single = items[i];
            single.tree = &tree;
            assert_int_equal(d->ops->draft(d, &single, 1, NULL), ST_OK);
            assert_true(same(&tree, &trees[i]) && single.n_hits == items[i].n_hits);
        }
    }
}

/* The draft behind tentative tokens is that behind the same tokens, committed; scored are those that are committed. */
static void tentative_tokens_are_drafted_behind_and_not_scored(void **state) {
    static uint32_t tokens[LONGEST];
    static spec_tree tree, expected;
    for (uint32_t kind = 0; kind < SPEC_N_KINDS; kind++) {
        if (!spec_kinds[kind].pure) continue;
        spec_drafter *d = drafter_of(*state, kind);
        uint64_t seed = 61;
        for (uint32_t round = 0; round < 500; round++) {
            spec_draft item = {.seq = {1}, .tree = &expected}, plain, ahead;
            random_case(&seed, tokens, &item);
            if (item.n_tokens < 2) continue;
            item.tokens = exact_copy(tokens, item.n_tokens);
            plain = ahead = item;
            ahead.n_tentative = 1 + table_random(&seed) % (item.n_tokens - 1);
            ahead.n_tokens -= ahead.n_tentative;
            ahead.n_new = ahead.n_new < ahead.n_tokens ? ahead.n_new : ahead.n_tokens;
            plain.n_tokens = ahead.n_tokens, plain.n_new = ahead.n_new;
            assert_int_equal(d->ops->draft(d, &plain, 1, NULL), ST_OK);
            assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK);
            ahead.tree = &tree;
            assert_int_equal(d->ops->draft(d, &ahead, 1, NULL), ST_OK);
            assert_true(same(&tree, &expected));
            assert_true(ahead.n_scored == plain.n_scored && ahead.n_hits == plain.n_hits);
            mem_free((void *)item.tokens);
        }
    }
}

static float path_of(const spec_tree *t, uint32_t node) {
    float path = 1;
    for (; node != NOUNS_TREE_ROOT; node = t->parent[node]) path *= t->probability[node];
    return path;
}

/* Trees grow in order of belief, so the floor cuts off their end. */
static void a_floor_leaves_out_what_is_believed_less(void **state) {
    storage *st = *state;
    spec_drafter *drafters[] = {&st->ngram.drafter, spec_lookup_init(&st->lookup, &SPEC_LOOKUP_OPTIONS)};
    uint32_t tokens[LONGEST], n_cut = 0, n_kept = 0;
    uint64_t seed = 51;
    for (uint32_t round = 0; round < 400; round++) {
        spec_tree all, left;
        spec_draft item = {.seq = {1}, .tokens = tokens, .tree = &all};
        random_case(&seed, tokens, &item);
        float floor = 0.05f * (float)(1 + table_random(&seed) % 19);
        for (uint32_t i = 0; i < 2; i++) {
            item.tree = &all;
            st->ngram.floor = st->lookup.options.floor = 0;
            assert_int_equal(drafters[i]->ops->draft(drafters[i], &item, 1, NULL), ST_OK);
            item.tree = &left;
            st->ngram.floor = st->lookup.options.floor = floor;
            assert_int_equal(drafters[i]->ops->draft(drafters[i], &item, 1, NULL), ST_OK);
            assert_true(left.n <= all.n);
            for (uint32_t k = 0; k < left.n; k++) {
                assert_true(left.token[k] == all.token[k] && left.parent[k] == all.parent[k]);
                assert_true(path_of(&left, k) >= floor * 0.999f); /* another order of products */
            }
            assert_true(left.n == all.n || path_of(&all, left.n) <= floor * 1.001f);
            n_cut += left.n < all.n;
            n_kept += left.n > 0;
        }
    }
    assert_true(n_cut > 100 && n_kept > 100);
    st->ngram.floor = 0;
}

static void lookup_takes_the_latest_of_the_longest_matches(void **state) {
    (void)state;
    spec_tree t;
    uint32_t text[] = {1, 2, 3, 40, 9, 1, 2, 3, 41, 9, 7, 3, 42, 9, 1, 2, 3};
    spec_lookup(&SPEC_LOOKUP_OPTIONS, text, sizeof text / sizeof *text, 3, &t);
    assert_true(t.n == 3 && t.token[0] == 41 && t.token[1] == 9 && t.token[2] == 7);
    assert_true(t.probability[0] < t.probability[1] && t.probability[1] < t.probability[2]);
    spec_lookup(&(spec_lookup_options){.min_match = 1, .max_match = 1}, text, sizeof text / sizeof *text, 3,
                &t); /* one token: the latest 3 */
    assert_true(t.n == 3 && t.token[0] == 42);
    spec_lookup(&(spec_lookup_options){.min_match = 5, .max_match = 6}, text, sizeof text / sizeof *text, 3,
                &t); /* 9 1 2 3 is four */
    assert_int_equal(t.n, 0);
    spec_lookup(&SPEC_LOOKUP_OPTIONS, (uint32_t[]){8, 3, 41, 5, 3, 42, 6, 3}, 8, 1, &t); /* equally long: the latest */
    assert_true(t.n == 1 && t.token[0] == 42);
    spec_lookup(&SPEC_LOOKUP_OPTIONS, (uint32_t[]){4, 5}, 2, 3, &t);
    assert_int_equal(t.n, 0);
    spec_lookup(&SPEC_LOOKUP_OPTIONS, NULL, 0, 3, &t);
    assert_int_equal(t.n, 0);
}

static void lookup_goes_on_with_a_period_through_its_own_draft(void **state) {
    (void)state;
    spec_tree t;
    spec_lookup(&SPEC_LOOKUP_OPTIONS, (uint32_t[]){8, 1, 2, 3, 1, 2, 3}, 7, NOUNS_MAX_TREE, &t);
    assert_int_equal(t.n, NOUNS_MAX_TREE);
    for (uint32_t i = 0; i < t.n; i++) assert_int_equal(t.token[i], 1 + i % 3);
}

/* With the target believing exactly what the table believes, both choose the same token at every seed and position. */
static void the_tables_choice_is_the_targets_where_they_believe_the_same(void **state) {
    storage *st = *state;
    spec_drafter *d = &st->ngram.drafter;
    uint64_t work[VOCABULARY], seed = 41;
    uint32_t n_differ_from_greedy = 0;
    st->ngram.width = SPEC_NGRAM_MAX_WIDTH;
    for (uint32_t round = 0; round < 300; round++) {
        uint32_t tokens[3] = {table_random(&seed) % 8, table_random(&seed) % 8, table_random(&seed) % 8};
        float logits[VOCABULARY];
        spec_tree tree;
        spec_draft item = {.tokens = tokens, .n_tokens = 3, .budget = 1, .tree = &tree};
        for (uint32_t i = 0; i < VOCABULARY; i++) logits[i] = -INFINITY;
        item.budget = NOUNS_MAX_TREE;
        assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK); /* T = 0: probabilities are the beliefs */
        uint32_t greedy = tree.token[0], kept = 0;
        for (uint32_t i = 0; i < tree.n; i++)
            if (tree.parent[i] == NOUNS_TREE_ROOT) logits[tree.token[i]] = logf(tree.probability[i]), kept++;
        item.sampling = (sampling){.temperature = 0.7f, .top_p = 1, .top_k = kept, .seed = round, .sample = round % 3};
        item.budget = 1;
        assert_int_equal(d->ops->draft(d, &item, 1, NULL), ST_OK);
        sampling plain = item.sampling;
        assert_int_equal(tree.token[0], model_choose(logits, VOCABULARY, &plain, 3, work));
        n_differ_from_greedy += tree.token[0] != greedy;
    }
    assert_true(n_differ_from_greedy > 60);
    st->ngram.width = 2;
}

static void a_table_drafts_what_it_has_seen(void **state) {
    (void)state;
    uint32_t text[] = {1, 2, 3, 4, 5, SPEC_NGRAM_BREAK, 9, 2, 3, 7, SPEC_NGRAM_BREAK, 1, 2, 3, 4, 6};
    spec_ngram_info info;
    spec_ngram g;
    spec_tree tree;
    size_t size;
    uint8_t *bytes = table_make(text, sizeof text / sizeof *text, 10, 4, &info, &size);
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, NULL), ST_OK);
    spec_draft item = {.tokens = (uint32_t[]){1, 2, 3}, .n_tokens = 3, .budget = 1, .tree = &tree};
    assert_int_equal(g.drafter.ops->draft(&g.drafter, &item, 1, NULL), ST_OK);
    assert_int_equal(tree.token[0], 4); /* two of three times behind 2 3, always behind 1 2 3 */
    item.tokens = (uint32_t[]){9, 2, 3};
    assert_int_equal(g.drafter.ops->draft(&g.drafter, &item, 1, NULL), ST_OK);
    assert_int_equal(tree.token[0], 7); /* the longest context has the most weight */
    g.width = 1, item.budget = 5;
    assert_int_equal(g.drafter.ops->draft(&g.drafter, &item, 1, NULL), ST_OK);
    for (uint32_t i = 0; i < tree.n; i++) assert_int_equal(tree.parent[i], i ? i - 1 : NOUNS_TREE_ROOT);
    mem_free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_draft_keeps_the_contract),
        cmocka_unit_test(hits_are_those_of_the_own_choice_at_every_position),
        cmocka_unit_test(a_batch_is_its_items_one_by_one),
        cmocka_unit_test(tentative_tokens_are_drafted_behind_and_not_scored),
        cmocka_unit_test(a_floor_leaves_out_what_is_believed_less),
        cmocka_unit_test(lookup_takes_the_latest_of_the_longest_matches),
        cmocka_unit_test(lookup_goes_on_with_a_period_through_its_own_draft),
        cmocka_unit_test(the_tables_choice_is_the_targets_where_they_believe_the_same),
        cmocka_unit_test(a_table_drafts_what_it_has_seen),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
