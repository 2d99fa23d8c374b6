/* The model drafter against a fake model (fake_model.h) that is also the target: every draft must be the truth, whatever was
 * accepted before. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/unit/worker/fake_model.h"
#include "worker/draft_model.h"

enum { BUDGET = 4 };

typedef struct {
    model model;
    kv_store kv;
    spec_drafter *drafter;
} rig;

static int make_rig(void **state) {
    rig *r = mem_alloc(1, sizeof *r);
    r->model.info.n_vocab = VOCAB;
    r->model.bad_row = UINT32_MAX;
    draft_model_options o = {&r->model, &r->kv, BLOCKS, MAX_SEQ, MAX_ROWS, CONTEXT};
    *state = r;
    return draft_model_create(&o, &r->drafter) != ST_OK;
}

static int free_rig(void **state) {
    rig *r = *state;
    r->drafter->ops->destroy(r->drafter);
    mem_free(r);
    return 0;
}

/* One round for one sequence of which the last n_new tokens are new. */
static spec_draft round_of(rig *r, uint64_t seq, const uint32_t *tokens, uint32_t n, uint32_t n_new, uint32_t budget,
                           spec_tree *tree) {
    st_error e = {0};
    spec_draft it = {.seq = {seq}, .tokens = tokens, .n_tokens = n, .n_new = n_new, .budget = budget, .tree = tree};
    assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
    assert_true(spec_tree_check(tree, budget));
    return it;
}

static void assert_chain_is_truth(const spec_tree *t, const uint32_t *tokens, uint32_t n) {
    uint32_t all[CONTEXT + NOUNS_MAX_TREE];
    memcpy(all, tokens, n * sizeof *all);
    for (uint32_t i = 0; i < t->n; i++) {
        assert_int_equal(t->parent[i], i ? i - 1 : NOUNS_TREE_ROOT);
        assert_int_equal(t->token[i], truth(all, n));
        all[n++] = t->token[i];
    }
}

static void drafts_are_its_own_choices_whatever_was_accepted(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT] = {3, 1, 4, 1, 5}, n = 5, n_new = 5, n_scored = 0, n_hits = 0;
    spec_tree t;
    for (unsigned step = 0; n + BUDGET + 1 < 120; step++) {
        spec_draft it = round_of(r, 7, tokens, n, n_new, BUDGET, &t);
        assert_int_equal(t.n, BUDGET);
        assert_chain_is_truth(&t, tokens, n);
        n_scored += it.n_scored;
        n_hits += it.n_hits;
        uint32_t accept = step * 7 % (BUDGET + 1); /* that many drafts hold, then another token comes */
        for (uint32_t i = 0; i < accept; i++) tokens[n + i] = t.token[i];
        tokens[n + accept] = (accept < BUDGET ? t.token[accept] : truth(tokens, n + accept)) + (step & 1 ? 1 : 0);
        tokens[n + accept] %= VOCAB;
        n_new = accept + 1;
        n += n_new;
    }
    assert_int_equal(n_scored, n - n_new - 1); /* every token that was new but the very first */
    assert_true(n_hits > n_scored / 2 && n_hits < n_scored);
}

static void accepted_drafts_are_not_computed_again(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT] = {9, 8, 7}, n = 3;
    spec_tree t;
    round_of(r, 1, tokens, n, n, BUDGET, &t);
    for (uint32_t i = 0; i < BUDGET; i++) tokens[n++] = t.token[i];
    tokens[n] = truth(tokens, n);
    n++;
    uint32_t before = r->model.n_rows;
    spec_draft it = round_of(r, 1, tokens, n, BUDGET + 1, BUDGET, &t);
    assert_int_equal(r->model.n_rows - before, 2 + BUDGET - 1); /* the last draft and the bonus, then the chain */
    assert_int_equal(it.n_scored, BUDGET + 1);
    assert_int_equal(it.n_hits, BUDGET + 1);
}

/* A drafter that is asked ahead every other time, with the truth or with anything, drafts and is scored as one that never is. */
static void tentative_tokens_are_drafted_behind_and_leave_no_trace(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT] = {3, 1, 4, 1, 5}, n = 5, n_new = 5;
    spec_tree t, same, ahead;
    for (unsigned step = 0; n + 3 * BUDGET < 150; step++) {
        spec_draft plain = round_of(r, 1, tokens, n, n_new, BUDGET, &t), it;
        if (step % 3) { /* or the new tokens come with the tentative ones */
            it = round_of(r, 2, tokens, n, n_new, BUDGET, &same);
            assert_memory_equal(same.token, t.token, BUDGET * sizeof *t.token);
            assert_int_equal(it.n_hits, plain.n_hits);
        }
        st_error e = {0};
        uint32_t behind[CONTEXT], n_ahead = 1 + step % BUDGET;
        memcpy(behind, tokens, n * sizeof *behind);
        memcpy(behind + n, t.token, n_ahead * sizeof *behind);
        if (step % 2) behind[n + n_ahead - 1] = step % VOCAB;
        it = (spec_draft){.seq = {2}, .tokens = behind, .n_tokens = n, .n_tentative = n_ahead, .budget = BUDGET, .tree = &ahead};
        it.n_new = step % 3 ? 0 : n_new;
        assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        assert_int_equal(ahead.n, BUDGET);
        assert_chain_is_truth(&ahead, behind, n + n_ahead);
        assert_int_equal(it.n_scored, step % 3 ? 0 : plain.n_scored);
        assert_int_equal(it.n_hits, step % 3 ? 0 : plain.n_hits);
        uint32_t accept = step * 7 % (BUDGET + 1);
        memcpy(tokens + n, t.token, accept * sizeof *tokens);
        tokens[n + accept] = (truth(tokens, n + accept) + (step & 1)) % VOCAB;
        n_new = accept + 1;
        n += n_new;
    }
}

static void a_draft_behind_tentative_tokens_ends_where_the_context_ends(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t tokens[CONTEXT + 1];
    spec_tree t;
    for (uint32_t i = 0; i <= CONTEXT; i++) tokens[i] = i % VOCAB;
    for (uint32_t over = 0; over < 2; over++) {
        spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = CONTEXT - 4, .n_tentative = over ? 5 : 2, .budget = BUDGET};
        it.tree = &t;
        assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        assert_int_equal(t.n, over ? 0 : 2);
        assert_chain_is_truth(&t, tokens, CONTEXT - 2);
    }
    round_of(r, 1, tokens, CONTEXT - 4, 0, BUDGET, &t);
    assert_chain_is_truth(&t, tokens, CONTEXT - 4);
}

/* True at the third question. */
static bool stops_soon(void *context) { return ++*(uint32_t *)context > 2; }

static void a_draft_that_is_of_no_use_ends_between_passes(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT] = {3, 1, 4, 1, 5}, n_asked = 0;
    spec_tree t;
    r->drafter->stop = stops_soon;
    r->drafter->stop_context = &n_asked;
    round_of(r, 1, tokens, 5, 5, BUDGET, &t);
    assert_int_equal(t.n, 3); /* of the prompt's pass, and of two more */
    assert_chain_is_truth(&t, tokens, 5);
    r->drafter->stop = NULL;
    round_of(r, 1, tokens, 5, 0, BUDGET, &t);
    assert_int_equal(t.n, BUDGET);
    assert_chain_is_truth(&t, tokens, 5);
}

static void many_sequences_go_through_together_and_long_prompts_in_chunks(void **state) {
    rig *r = *state;
    uint32_t tokens[MAX_SEQ][CONTEXT];
    spec_tree trees[MAX_SEQ];
    spec_draft items[MAX_SEQ];
    st_error e = {0};
    for (uint32_t q = 0; q < MAX_SEQ; q++) {
        for (uint32_t i = 0; i < CONTEXT; i++) tokens[q][i] = (q * 31 + i * 7) % VOCAB;
        items[q] = (spec_draft){
            .seq = {q + 1}, .tokens = tokens[q], .n_tokens = 50 * (q + 1), .n_new = 50 * (q + 1), .budget = q, .tree = &trees[q]};
    }
    assert_int_equal(r->drafter->ops->draft(r->drafter, items, MAX_SEQ, &e), ST_OK);
    for (uint32_t q = 0; q < MAX_SEQ; q++) {
        assert_int_equal(trees[q].n, q);
        assert_chain_is_truth(&trees[q], tokens[q], items[q].n_tokens);
        assert_int_equal(items[q].n_scored, items[q].n_tokens - 1 < SPEC_MAX_SCORED ? items[q].n_tokens - 1 : SPEC_MAX_SCORED);
    }
}

static void assert_same_draft(const spec_draft *a, const spec_draft *b) {
    assert_int_equal(a->tree->n, b->tree->n);
    assert_memory_equal(a->tree->token, b->tree->token, a->tree->n * sizeof *a->tree->token);
    assert_memory_equal(a->tree->parent, b->tree->parent, a->tree->n * sizeof *a->tree->parent);
    assert_memory_equal(a->tree->probability, b->tree->probability, a->tree->n * sizeof *a->tree->probability);
    assert_int_equal(a->n_scored, b->n_scored);
    assert_int_equal(a->n_hits, b->n_hits);
}

/* Sequences far behind, one that was closed in between, and one that lacks a token: what comes of all at once is what comes of
 * each alone, and the rows of all fill each pass. */
static void catching_up_together_is_catching_up_one_by_one_in_fewer_passes(void **state) {
    rig *r = *state, *other;
    assert_int_equal(make_rig((void **)&other), 0);
    uint32_t tokens[MAX_SEQ][CONTEXT], n_rows = 0, n_runs = 0;
    const uint32_t n_before[MAX_SEQ] = {10, 3, 100, 40}, n_now[MAX_SEQ] = {90, 75, 101, 120}, budget[MAX_SEQ] = {0, BUDGET, 2, 0};
    spec_tree trees[MAX_SEQ], same;
    spec_draft items[MAX_SEQ];
    st_error e = {0};
    for (uint32_t q = 0; q < MAX_SEQ; q++) {
        for (uint32_t i = 0; i < CONTEXT; i++) tokens[q][i] = i % 3 ? truth(tokens[q], i) : (q * 31 + i * 7) % VOCAB;
        round_of(r, q + 1, tokens[q], n_before[q], n_before[q], 0, &same);
        round_of(other, q + 1, tokens[q], n_before[q], n_before[q], 0, &same);
        bool is_new = q == 1;
        if (is_new)
            r->drafter->ops->close(r->drafter, (seq_id){q + 1}), other->drafter->ops->close(other->drafter, (seq_id){q + 1});
        items[q] =
            (spec_draft){.seq = {q + 1}, .tokens = tokens[q], .n_tokens = n_now[q], .budget = budget[q], .tree = &trees[q]};
        items[q].n_new = is_new ? n_now[q] : n_now[q] - n_before[q];
        n_rows += items[q].n_new;
    }
    uint32_t n_before_runs = r->model.n_runs;
    assert_int_equal(r->drafter->ops->draft(r->drafter, items, MAX_SEQ, &e), ST_OK);
    n_runs = r->model.n_runs - n_before_runs;
    assert_int_equal(n_runs, (n_rows + MAX_ROWS - 1) / MAX_ROWS + BUDGET - 1);
    n_before_runs = other->model.n_runs;
    for (uint32_t q = 0; q < MAX_SEQ; q++) {
        spec_draft alone = round_of(other, q + 1, tokens[q], n_now[q], items[q].n_new, budget[q], &same);
        assert_same_draft(&items[q], &alone);
        assert_chain_is_truth(&trees[q], tokens[q], n_now[q]);
        assert_true(alone.n_hits > 0 || q == 2);
    }
    assert_true(n_runs < other->model.n_runs - n_before_runs);
    free_rig((void **)&other);
}

static void a_sequence_that_grows_takes_blocks_and_is_not_computed_again(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT];
    spec_tree t;
    for (uint32_t i = 0; i < CONTEXT; i++) tokens[i] = i * 13 % VOCAB;
    for (uint32_t n = 5; n <= 250; n += 5) round_of(r, 1, tokens, n, 5, 0, &t);
    assert_int_equal(r->model.n_rows, 250);
}

static void a_draft_ends_where_the_context_ends(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT];
    spec_tree t;
    for (uint32_t i = 0; i < CONTEXT; i++) tokens[i] = i % VOCAB;
    round_of(r, 1, tokens, CONTEXT - 2, CONTEXT - 2, BUDGET, &t);
    assert_int_equal(t.n, 2);
    assert_chain_is_truth(&t, tokens, CONTEXT - 2);
}

static void without_blocks_or_places_there_is_no_draft_and_later_there_is(void **state) {
    rig *r = *state;
    uint32_t tokens[CONTEXT];
    spec_tree t;
    for (uint32_t i = 0; i < CONTEXT; i++) tokens[i] = i * 3 % VOCAB;
    for (uint64_t q = 1; q <= MAX_SEQ; q++)
        round_of(r, q, tokens, 200, 200, BUDGET, &t); /* 10 blocks each: all places are taken */
    round_of(r, 99, tokens, 200, 200, BUDGET, &t);
    assert_int_equal(t.n, 0);
    r->drafter->ops->close(r->drafter, (seq_id){2});
    r->drafter->ops->close(r->drafter, (seq_id){12345}); /* unknown: ignored */
    round_of(r, 99, tokens, 200, 200, BUDGET, &t);
    assert_int_equal(t.n, BUDGET);
    assert_chain_is_truth(&t, tokens, 200);
}

static void few_blocks_are_used_to_the_last(void **state) {
    rig *r = *state;
    r->drafter->ops->destroy(r->drafter);
    draft_model_options o = {&r->model, &r->kv, 8, MAX_SEQ, MAX_ROWS, CONTEXT}; /* fewer than one sequence may need */
    assert_int_equal(draft_model_create(&o, &r->drafter), ST_OK);
    uint32_t tokens[CONTEXT];
    spec_tree t;
    for (uint32_t i = 0; i < CONTEXT; i++) tokens[i] = i * 5 % VOCAB;
    for (uint32_t n = 100; n <= 200; n += 10) {
        round_of(r, 1, tokens, n, 10, BUDGET, &t);
        assert_int_equal(t.n, BUDGET);
        assert_chain_is_truth(&t, tokens, n);
    }
    round_of(r, 2, tokens, 100, 100, BUDGET, &t);
    assert_int_equal(t.n, 0); /* the first has seven of them */
    round_of(r, 2, tokens, 20, 20, BUDGET, &t);
    assert_int_equal(t.n, BUDGET);
    round_of(r, 2, tokens, 40, 20, BUDGET, &t);
    assert_int_equal(t.n, 0); /* it would need a second one, and keeps what it has */
    r->drafter->ops->close(r->drafter, (seq_id){1});
    uint32_t before = r->model.n_rows;
    round_of(r, 2, tokens, 40, 0, BUDGET, &t);
    assert_int_equal(t.n, BUDGET);
    assert_chain_is_truth(&t, tokens, 40);
    assert_int_equal(r->model.n_rows - before, 20 + BUDGET - 1);
}

/* A NaN on the wire would cost the drafter its place in the cluster. */
static void a_sequence_whose_numbers_are_not_finite_gets_no_draft_and_the_others_do(void **state) {
    rig *r = *state;
    enum { LONG = 100, SHORT = 5 };
    uint32_t tokens[2][LONG];
    spec_tree trees[2];
    spec_draft items[2];
    st_error e = {0};
    for (uint32_t i = 0; i < LONG; i++) tokens[0][i] = tokens[1][i] = i * 11 % VOCAB;
    const struct {
        uint32_t bad_row, n_short;
    } cases[] = {{LONG + SHORT - 1, 0}, {1, 1}}; /* its last committed token; its first draft, in the pass after that */
    for (uint32_t k = 0; k < 2; k++) {
        for (uint32_t q = 0; q < 2; q++) {
            uint32_t n = q ? SHORT : LONG;
            items[q] =
                (spec_draft){.seq = {1 + q}, .tokens = tokens[q], .n_tokens = n, .n_new = n, .budget = BUDGET, .tree = &trees[q]};
            r->drafter->ops->close(r->drafter, items[q].seq);
        }
        r->model.bad_row = cases[k].bad_row;
        assert_int_equal(r->drafter->ops->draft(r->drafter, items, 2, &e), ST_OK);
        assert_int_equal(trees[0].n, BUDGET);
        assert_chain_is_truth(&trees[0], tokens[0], LONG);
        assert_int_equal(trees[1].n, cases[k].n_short);
        assert_int_equal(items[1].n_scored, k ? SHORT - 1 : 0);
    }
}

static void create_survives_each_failing_allocation(void **state) {
    rig *r = *state;
    draft_model_options o = {&r->model, &r->kv, BLOCKS, MAX_SEQ, MAX_ROWS, CONTEXT};
    spec_drafter *d = NULL;
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        st_code code = draft_model_create(&o, &d);
        mem_fail_at(0);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(d);
    }
    const spec_drafter_ops *ops = d->ops;
    ops->destroy(d);
    ops->destroy(NULL);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, make_rig, free_rig)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_RIG(drafts_are_its_own_choices_whatever_was_accepted),
        WITH_RIG(accepted_drafts_are_not_computed_again),
        WITH_RIG(tentative_tokens_are_drafted_behind_and_leave_no_trace),
        WITH_RIG(a_draft_behind_tentative_tokens_ends_where_the_context_ends),
        WITH_RIG(a_draft_that_is_of_no_use_ends_between_passes),
        WITH_RIG(many_sequences_go_through_together_and_long_prompts_in_chunks),
        WITH_RIG(catching_up_together_is_catching_up_one_by_one_in_fewer_passes),
        WITH_RIG(a_sequence_that_grows_takes_blocks_and_is_not_computed_again),
        WITH_RIG(a_draft_ends_where_the_context_ends),
        WITH_RIG(without_blocks_or_places_there_is_no_draft_and_later_there_is),
        WITH_RIG(few_blocks_are_used_to_the_last),
        WITH_RIG(a_sequence_whose_numbers_are_not_finite_gets_no_draft_and_the_others_do),
        WITH_RIG(create_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
