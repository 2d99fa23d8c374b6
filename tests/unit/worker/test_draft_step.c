/* The draft step: against a drafter of this test's own, which notes down what it is given, and once with a real kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/unit/speculative/table.h"
#include "worker/draft_step.h"
#include <string.h>

enum { MAX_SEQ = 3, VOCAB = 50, LONG = 5000, DIM = 3 };

typedef struct {
    spec_drafter drafter;
    spec_draft seen[MAX_SEQ]; /* of the last call; its tokens are views of the step's */
    uint32_t n_seen, n_calls, n_closed;
    seq_id closed; /* the last */
    st_code code;  /* what it answers */
    bool stops;    /* it was told to end early */
} noting;

typedef struct {
    noting fake;
    draft_step *step;
    uint64_t last_plan;
    uint32_t text[LONG];
} rig;

/* A chain of `budget` nodes that count up from the sequence's number; figures that tell one sequence from another. */
static st_code draft(spec_drafter *d, spec_draft *items, uint32_t n, st_error *e) {
    noting *f = (noting *)d;
    f->n_calls++;
    f->n_seen = n;
    f->stops = spec_drafter_stops(d);
    for (uint32_t i = 0; i < n; i++) {
        spec_draft *it = &items[i];
        for (uint32_t k = 0; k < it->budget; k++)
            spec_tree_add(it->tree, k ? k - 1 : NOUNS_TREE_ROOT, (uint32_t)it->seq.value + k, 0.5f);
        it->n_scored = 10 * (uint32_t)it->seq.value;
        it->n_hits = (uint32_t)it->seq.value;
        f->seen[i] = *it;
    }
    return f->code ? st_fail(e, f->code, "the drafter has no more") : ST_OK;
}

static void note_close(spec_drafter *d, seq_id seq) {
    noting *f = (noting *)d;
    f->closed = seq;
    f->n_closed++;
}

static const spec_drafter_ops noting_ops = {.name = "noting", .draft = draft, .close = note_close};

static void make_step(rig *r) {
    draft_step_options o = {&r->fake.drafter, MAX_SEQ, VOCAB, DIM};
    assert_int_equal(draft_step_create(&o, &r->step), ST_OK);
}

static int make_rig(void **state) {
    rig *r = *state = mem_alloc(1, sizeof *r);
    r->fake.drafter.ops = &noting_ops;
    for (uint32_t i = 0; i < LONG; i++) r->text[i] = i * 7 % VOCAB;
    make_step(r);
    return 0;
}

static int free_rig(void **state) {
    rig *r = *state;
    draft_step_destroy(r->step);
    mem_free(r);
    return 0;
}

static st_code run(rig *r, proto_plan p, proto_result *out, st_error *e) {
    p.id = ++r->last_plan;
    if (!p.kind) p.kind = PROTO_PLAN_DRAFT;
    return draft_step_run(r->step, &p, out, e);
}

static proto_result works(rig *r, proto_plan p) {
    proto_result out = {0};
    st_error e = {0};
    if (run(r, p, &out, &e)) fail_msg("%s", e.message);
    assert_int_equal(out.plan_id, r->last_plan);
    assert_int_equal(out.n_items, p.n_draft);
    return out;
}

/* A list of a plan, with its length: PLAN(LIST(close, {7}, {8})). */
#define LIST(of, ...)                                                                                                            \
    .n_##of = sizeof((LIST_##of[]){__VA_ARGS__}) / sizeof(LIST_##of), .of = (LIST_##of[]) { __VA_ARGS__ }
typedef seq_id LIST_close;
typedef proto_open LIST_open;
typedef proto_draft LIST_draft;
#define PLAN(...) ((proto_plan){__VA_ARGS__})

static proto_open opened(uint64_t seq, const uint32_t *tokens, uint32_t n) {
    return (proto_open){.seq = {seq}, .seq_epoch = 1, .n_tokens = n, .tokens = tokens};
}

static proto_draft asked(uint64_t seq, const uint32_t *tokens, uint32_t n, uint32_t budget) {
    return (proto_draft){.seq = {seq}, .n_tokens = n, .tokens = tokens, .budget = budget};
}

/* What the drafter saw for the i-th draft of the last plan. */
static void assert_seen(const rig *r, uint32_t i, const uint32_t *tokens, uint32_t n, uint32_t n_new, uint32_t budget) {
    const spec_draft *it = &r->fake.seen[i];
    assert_true(i < r->fake.n_seen);
    assert_int_equal(it->n_tokens, n);
    assert_int_equal(it->n_new, n_new);
    assert_int_equal(it->budget, budget);
    assert_memory_equal(it->tokens, tokens, n * sizeof *tokens);
}

/* ---- what goes in ---- */

static void a_drafter_gets_the_hidden_state_of_the_last_token_and_no_other(void **state) {
    rig *r = *state;
    const uint16_t hidden[DIM] = {1, 2, 3};
    proto_draft ask = asked(7, r->text + 5, 1, 3);
    proto_result out;
    st_error e = {0};
    works(r, PLAN(LIST(open, opened(7, r->text, 5)), LIST(draft, asked(7, NULL, 0, 0))));
    assert_null(r->fake.seen[0].hidden.f16);
    ask.hidden = (hidden_states){DIM, hidden};
    works(r, PLAN(LIST(draft, ask)));
    assert_int_equal(r->fake.seen[0].hidden.dim, DIM);
    assert_memory_equal(r->fake.seen[0].hidden.f16, hidden, sizeof hidden);
    works(r, PLAN(LIST(draft, asked(7, r->text + 6, 1, 3))));
    assert_null(r->fake.seen[0].hidden.f16);
    ask.hidden.dim = DIM + 1;
    assert_int_equal(run(r, PLAN(LIST(draft, ask)), &out, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "sequence 7: a hidden state of 4 numbers, expected 3");
}

static void a_drafter_gets_all_tokens_and_how_many_are_new_since_the_last_draft(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text, *u = r->text + 100;
    works(r, PLAN(LIST(open, opened(7, t, 5)), LIST(draft, asked(7, NULL, 0, 0))));
    assert_seen(r, 0, t, 5, 5, 0);
    works(r, PLAN(LIST(draft, asked(7, t + 5, 2, 3)))); /* after a budget of 0 */
    assert_seen(r, 0, t, 7, 2, 3);
    works(r, PLAN(LIST(open, opened(8, u, 4)))); /* opened now, asked later */
    assert_int_equal(r->fake.n_seen, 0);
    works(r, PLAN(LIST(draft, asked(7, t + 7, 1, 3), asked(8, u + 4, 3, 2))));
    assert_seen(r, 0, t, 8, 1, 3);
    assert_seen(r, 1, u, 7, 7, 2);
    works(r, PLAN(LIST(draft, asked(8, NULL, 0, 2)))); /* nothing came */
    assert_seen(r, 0, u, 7, 0, 2);
}

static void a_sequence_may_be_opened_without_tokens_and_get_them_with_its_first_draft(void **state) {
    rig *r = *state;
    works(r, PLAN(LIST(open, opened(7, NULL, 0)), LIST(draft, asked(7, r->text, 3, 1))));
    assert_seen(r, 0, r->text, 3, 3, 1);
}

/* A drafter that goes on from the state of the last of them need not know that they may yet be taken back. */
static void tentative_tokens_whose_state_is_known_are_as_good_as_committed_for_one_draft(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text;
    const uint16_t hidden[DIM] = {1, 2, 3};
    proto_draft ask = asked(7, t + 5, 2, 3);
    ask.hidden = (hidden_states){DIM, hidden};
    ask.tentative = t + 7, ask.n_tentative = 4;
    ask.hidden_at_end = true;
    proto_result out = works(r, PLAN(LIST(open, opened(7, t, 5)), LIST(draft, ask)));
    assert_seen(r, 0, t, 11, 4, 3);
    assert_int_equal(r->fake.seen[0].n_tentative, 0);
    assert_memory_equal(r->fake.seen[0].hidden.f16, hidden, sizeof hidden);
    assert_int_equal(out.n_rows, 4 + 3);
    uint32_t others[] = {1, 2}, all[9];
    memcpy(all, t, 7 * sizeof *all);
    memcpy(all + 7, others, sizeof others);
    works(r, PLAN(LIST(draft, asked(7, others, 2, 3)))); /* they came in their place */
    assert_seen(r, 0, all, 9, 2, 3);
}

static void tentative_tokens_stand_behind_the_others_for_one_draft(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text, *u = r->text + 100;
    proto_draft seven = asked(7, t + 5, 2, 3), eight = asked(8, NULL, 0, 1);
    seven.tentative = u, seven.n_tentative = NOUNS_MAX_TREE;
    eight.tentative = u + 5, eight.n_tentative = 1;
    works(r, PLAN(LIST(open, opened(7, t, 5), opened(8, t, 1024)))); /* 1024: its place is full */
    proto_result out = works(r, PLAN(LIST(draft, seven, eight)));
    assert_seen(r, 0, t, 7, 7, 3);
    assert_seen(r, 1, t, 1024, 1024, 1);
    assert_int_equal(out.n_rows, 7 + NOUNS_MAX_TREE + 3 + 1024 + 1 + 1);
    for (uint32_t i = 0; i < 2; i++) {
        const proto_draft *ask = i ? &eight : &seven;
        const spec_draft *it = &r->fake.seen[i];
        assert_int_equal(it->n_tentative, ask->n_tentative);
        assert_memory_equal(it->tokens + it->n_tokens, ask->tentative, ask->n_tentative * sizeof *it->tokens);
    }
    works(r, PLAN(LIST(draft, asked(7, t + 7, 1, 3))));
    assert_seen(r, 0, t, 8, 1, 3);
    assert_int_equal(r->fake.seen[0].n_tentative, 0);
}

static bool says_yes(void *context) { return *(bool *)context; }

static void only_a_plan_of_drafts_ahead_ends_early(void **state) {
    rig *r = *state;
    bool yes = true;
    draft_step_stops(r->step, says_yes, &yes);
    works(r, PLAN(LIST(open, opened(7, r->text, 5))));
    works(r, PLAN(.ahead = true, LIST(draft, asked(7, NULL, 0, 3))));
    assert_true(r->fake.stops);
    works(r, PLAN(LIST(draft, asked(7, NULL, 0, 3))));
    assert_false(r->fake.stops);
    yes = false;
    works(r, PLAN(.ahead = true, LIST(draft, asked(7, NULL, 0, 3))));
    assert_false(r->fake.stops);
}

static void the_sampling_of_a_sequence_is_kept(void **state) {
    rig *r = *state;
    proto_open seven = opened(7, r->text, 2), eight = opened(8, r->text, 2);
    seven.sampling = (sampling){.temperature = 0.5f, .top_p = 0.9f, .min_p = 0.1f, .top_k = 40, .seed = 1234, .sample = 3};
    eight.sampling = (sampling){.temperature = 1, .top_p = 1, .seed = 5678};
    works(r, PLAN(LIST(open, seven, eight)));
    for (uint32_t round = 0; round < 2; round++) {
        works(r, PLAN(LIST(draft, asked(8, NULL, 0, 1), asked(7, NULL, 0, 1))));
        assert_memory_equal(&r->fake.seen[0].sampling, &eight.sampling, sizeof eight.sampling);
        assert_memory_equal(&r->fake.seen[1].sampling, &seven.sampling, sizeof seven.sampling);
    }
}

static void a_sequence_that_outgrows_its_place_keeps_its_tokens(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text;
    works(r, PLAN(LIST(open, opened(7, t, 1000), opened(8, t + 9, 3))));
    for (uint32_t n = 1000; n + 1000 <= LONG; n += 1000) {
        works(r, PLAN(LIST(draft, asked(7, t + n, 1000, 1), asked(8, NULL, 0, 1))));
        assert_seen(r, 0, t, n + 1000, n == 1000 ? 2000 : 1000, 1);
        assert_seen(r, 1, t + 9, 3, n == 1000 ? 3 : 0, 1);
    }
}

/* ---- what comes out ---- */

static void trees_and_figures_come_back_in_the_order_of_the_plan(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text;
    works(r, PLAN(LIST(open, opened(7, t, 5), opened(8, t, 6), opened(9, t, 7))));
    const uint32_t budgets[][MAX_SEQ] = {{2, 0, NOUNS_MAX_TREE}, {0, 1, 0}}; /* a tree of the first round is gone in the second */
    for (uint32_t round = 0; round < 2; round++) {
        const uint32_t *b = budgets[round];
        proto_result out = works(r, PLAN(LIST(draft, asked(9, NULL, 0, b[0]), asked(7, t, 2, b[1]), asked(8, NULL, 0, b[2]))));
        const uint32_t seqs[MAX_SEQ] = {9, 7, 8};
        for (uint32_t i = 0; i < MAX_SEQ; i++) {
            const proto_item *it = &out.items[i];
            assert_int_equal(it->seq.value, seqs[i]);
            assert_int_equal(it->code, ST_OK);
            assert_int_equal(it->n_tokens, 0);
            assert_int_equal(it->n_scored, 10 * seqs[i]);
            assert_int_equal(it->n_hits, seqs[i]);
            assert_int_equal(it->tree.n_nodes, b[i]);
            for (uint32_t k = 0; k < b[i]; k++) {
                assert_int_equal(it->tree.token[k], seqs[i] + k);
                assert_int_equal(it->tree.parent[k], k ? k - 1 : NOUNS_TREE_ROOT);
                assert_true(it->tree.probability[k] == 0.5f);
            }
        }
        assert_int_equal(out.n_rows, (round ? 2 : 5 + 2 + 6 + 7) + b[0] + b[1] + b[2]);
    }
}

static void an_error_of_the_drafter_is_that_of_the_step(void **state) {
    rig *r = *state;
    proto_result out;
    st_error e = {0};
    r->fake.code = ST_FATAL_INTERNAL;
    assert_int_equal(run(r, PLAN(LIST(open, opened(7, r->text, 1)), LIST(draft, asked(7, NULL, 0, 1))), &out, &e),
                     ST_FATAL_INTERNAL);
    assert_string_equal(e.message, "the drafter has no more");
}

/* ---- places ---- */

static void a_close_frees_the_place_and_tells_the_drafter(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text, *u = r->text + 100;
    works(r, PLAN(LIST(open, opened(7, t, 20), opened(8, t, 20), opened(9, t, 20))));
    works(r, PLAN(LIST(close, {8}), LIST(open, opened(10, u, 2)), LIST(draft, asked(10, u + 2, 1, 1), asked(9, NULL, 0, 1))));
    assert_int_equal(r->fake.n_closed, 1);
    assert_int_equal(r->fake.closed.value, 8);
    assert_seen(r, 0, u, 3, 3, 1); /* nothing of the one before */
    assert_seen(r, 1, t, 20, 20, 1);
    works(r, PLAN(LIST(close, {7}, {9}, {10}))); /* a plan that only closes */
    assert_int_equal(r->fake.n_closed, 4);
    works(r, PLAN(LIST(open, opened(8, u, 4)), LIST(draft, asked(8, NULL, 0, 1)))); /* an id may come again */
    assert_seen(r, 0, u, 4, 4, 1);
}

static void what_contradicts_the_open_sequences_is_refused_by_name(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text, wrong[] = {1, VOCAB};
    const struct {
        proto_plan plan;
        const char *says;
    } cases[] = {
        {PLAN(LIST(close, {99})), "closes sequence 99,"},
        {PLAN(LIST(close, {0})), "closes sequence 0,"},
        {PLAN(LIST(close, {7}, {7})), "closes sequence 7,"},
        {PLAN(LIST(open, opened(7, t, 1))), "opens sequence 7, which is open"},
        {PLAN(LIST(open, opened(9, t, 1), opened(9, t, 1))), "opens sequence 9, which is"},
        {PLAN(LIST(open, opened(0, t, 1))), "opens sequence 0, which is open, or no id"},
        {PLAN(LIST(open, opened(9, t, 1), opened(10, t, 1))), "opens sequence 10, which is one too many"},
        {PLAN(LIST(draft, asked(99, t, 1, 1))), "draft of sequence 99,"},
        {PLAN(LIST(draft, asked(0, t, 1, 1))), "draft of sequence 0,"},
        {PLAN(LIST(close, {7}), LIST(draft, asked(7, t, 1, 1))), "draft of sequence 7,"},
        {PLAN(LIST(draft, asked(7, t, 1, 1), asked(8, t, 1, 1), asked(7, t, 1, 1))),
         "draft of sequence 7, which is not open, or twice"},
        {PLAN(LIST(open, opened(9, wrong, 2))), "sequence 9: token 50 is outside the vocabulary of 50"},
        {PLAN(LIST(draft, asked(8, wrong, 2, 1))), "sequence 8: token 50 is outside"},
        {PLAN(LIST(draft, {.seq = {8}, .tentative = wrong, .n_tentative = 2})), "sequence 8: token 50 is outside"},
        {PLAN(LIST(open, opened(9, NULL, 0)), LIST(draft, {.seq = {9}, .tentative = t, .n_tentative = 1})),
         "sequence 9 has no tokens"},
        {PLAN(LIST(open, opened(9, NULL, 0)), LIST(draft, asked(9, NULL, 0, 1))), "sequence 9 has no tokens"},
        {PLAN(.kind = PROTO_PLAN_STEP), "kind 1 with 0 drafts; a drafter takes kind 2"},
        {PLAN(.n_draft = MAX_SEQ + 1), "4 drafts; a drafter takes kind 2 with at most 3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        proto_result out;
        st_error e = {0};
        works(r, PLAN(LIST(open, opened(7, t, 1), opened(8, t, 1))));
        uint32_t n_calls = r->fake.n_calls;
        assert_int_equal(run(r, cases[i].plan, &out, &e), ST_FATAL_PROTOCOL);
        if (!strstr(e.message, cases[i].says)) fail_msg("case %zu: '%s' does not say '%s'", i, e.message, cases[i].says);
        assert_int_equal(r->fake.n_calls, n_calls); /* it is not asked */
        draft_step_destroy(r->step);
        make_step(r);
    }
}

static void a_sequence_may_be_as_long_as_a_prompt_and_no_longer(void **state) {
    rig *r = *state;
    proto_result out;
    st_error e = {0};
    uint32_t *most = mem_alloc(PROTO_MAX_PROMPT_TOKENS, sizeof *most);
    works(r, PLAN(LIST(open, opened(7, most, PROTO_MAX_PROMPT_TOKENS)), LIST(draft, asked(7, NULL, 0, 1))));
    assert_seen(r, 0, most, PROTO_MAX_PROMPT_TOKENS, PROTO_MAX_PROMPT_TOKENS, 1);
    assert_int_equal(run(r, PLAN(LIST(draft, asked(7, most, 1, 1))), &out, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "sequence 7 would have 1048577 tokens, over 1048576");
    mem_free(most);
}

/* ---- memory ---- */

static void create_survives_each_failing_allocation(void **state) {
    rig *r = *state;
    draft_step_options o = {&r->fake.drafter, MAX_SEQ, VOCAB, DIM};
    draft_step *d = NULL;
    mem_fail_at(0);
    assert_int_equal(draft_step_create(&o, &d), ST_OK);
    draft_step_destroy(d);
    d = NULL;
    for (uint64_t n = mem_fail_at(0); n; n--) {
        mem_fail_at(n);
        assert_int_equal(draft_step_create(&o, &d), ST_FATAL_MEMORY);
        assert_null(d);
    }
    mem_fail_at(0);
    draft_step_destroy(NULL);
}

/* The first tokens of a sequence, and those for which its place is too small. */
static void growth_survives_each_failing_allocation(void **state) {
    rig *r = *state;
    const uint32_t *t = r->text;
    uint64_t n_failed = 0;
    for (uint64_t n = 1;; n++) {
        proto_result out;
        st_error e = {0};
        draft_step_destroy(r->step);
        make_step(r);
        mem_fail_at(n);
        st_code code = run(r, PLAN(LIST(open, opened(7, t, 3), opened(8, t, 3))), &out, &e);
        if (!code) code = run(r, PLAN(LIST(draft, asked(8, t + 3, 2000, 1), asked(7, t + 3, 1, 1))), &out, &e);
        mem_fail_at(0);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_non_null(strstr(e.message, "tokens"));
        n_failed++;
    }
    assert_int_equal(n_failed, 3);
    assert_seen(r, 0, t, 2003, 2003, 1);
    assert_seen(r, 1, t, 4, 4, 1);
}

/* ---- with a kind ---- */

static void a_table_drafts_what_followed_in_its_text(void **state) {
    (void)state;
    enum { ROUND = 5, N = 40 * ROUND };
    uint32_t text[N];
    spec_ngram_info info;
    spec_ngram g;
    size_t size;
    rig r = {0};
    proto_result out;
    st_error e = {0};
    for (uint32_t i = 0; i < N; i++) text[i] = 10 + i % ROUND; /* 10 11 12 13 14 10 ... */
    uint8_t *bytes = table_make(text, N, VOCAB, 3, &info, &size);
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_OK);
    draft_step_options o = {&g.drafter, MAX_SEQ, g.info.n_vocab, 0};
    assert_int_equal(draft_step_create(&o, &r.step), ST_OK);

    out = works(&r, PLAN(LIST(open, opened(7, text, 4)), LIST(draft, asked(7, NULL, 0, 0))));
    assert_int_equal(out.items[0].tree.n_nodes, 0); /* the prompt is only scored */
    assert_int_equal(out.items[0].n_scored, 4);
    for (uint32_t n = 4; n < 30; n += 3) {
        out = works(&r, PLAN(LIST(draft, asked(7, text + n, 3, 1))));
        assert_int_equal(out.items[0].tree.n_nodes, 1);
        assert_int_equal(out.items[0].tree.token[0], text[n + 3]);
        assert_int_equal(out.items[0].n_scored, 3);
        assert_int_equal(out.items[0].n_hits, 3);
    }
    works(&r, PLAN(LIST(close, {7})));
    draft_step_destroy(r.step);
    mem_free(bytes);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, make_rig, free_rig)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_drafter_gets_all_tokens_and_how_many_are_new_since_the_last_draft),
        WITH_RIG(a_drafter_gets_the_hidden_state_of_the_last_token_and_no_other),
        WITH_RIG(a_sequence_may_be_opened_without_tokens_and_get_them_with_its_first_draft),
        WITH_RIG(tentative_tokens_whose_state_is_known_are_as_good_as_committed_for_one_draft),
        WITH_RIG(tentative_tokens_stand_behind_the_others_for_one_draft),
        WITH_RIG(only_a_plan_of_drafts_ahead_ends_early),
        WITH_RIG(the_sampling_of_a_sequence_is_kept),
        WITH_RIG(a_sequence_that_outgrows_its_place_keeps_its_tokens),
        WITH_RIG(trees_and_figures_come_back_in_the_order_of_the_plan),
        WITH_RIG(an_error_of_the_drafter_is_that_of_the_step),
        WITH_RIG(a_close_frees_the_place_and_tells_the_drafter),
        WITH_RIG(what_contradicts_the_open_sequences_is_refused_by_name),
        WITH_RIG(a_sequence_may_be_as_long_as_a_prompt_and_no_longer),
        WITH_RIG(create_survives_each_failing_allocation),
        WITH_RIG(growth_survives_each_failing_allocation),
        cmocka_unit_test(a_table_drafts_what_followed_in_its_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
