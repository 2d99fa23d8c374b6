/* The arithmetic under the scheduler that plans without draft trees cannot reach from outside yet, and its odd sizes. */
#include "base/mem.h"
#include "coordinator/sched_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static uint32_t accept(uint32_t n_known, uint32_t n_limit, const uint32_t *tokens, uint32_t n, sched_finish *finish) {
    const uint32_t ends[] = {7, 9};
    sched_request r = {.n_prompt = 1, .n_known = n_known, .n_limit = n_limit, .rules = {.ends = ends, .n_ends = 2}};
    return sched_accept(&r, tokens, n, finish);
}

static void an_answer_is_cut_where_a_step_of_one_token_each_would_have_ended_it(void **state) {
    (void)state;
    const uint32_t tokens[] = {1, 2, 7, 4, 9};
    sched_finish finish;
    assert_int_equal(accept(10, 100, tokens, 2, &finish), 2);
    assert_int_equal(finish, SCHED_FINISH_NONE);
    assert_int_equal(accept(10, 100, tokens, 5, &finish), 2); /* before the first end token */
    assert_int_equal(finish, SCHED_FINISH_STOP);
    assert_int_equal(accept(10, 12, tokens, 5, &finish), 2); /* no room is left to find the end token in */
    assert_int_equal(finish, SCHED_FINISH_LENGTH);
    assert_int_equal(accept(10, 13, tokens, 5, &finish), 2); /* the end token in the last place */
    assert_int_equal(finish, SCHED_FINISH_STOP);
    assert_int_equal(accept(10, 11, tokens, 1, &finish), 1);
    assert_int_equal(finish, SCHED_FINISH_LENGTH);
    assert_int_equal(accept(10, 100, tokens + 2, 1, &finish), 0);
    assert_int_equal(finish, SCHED_FINISH_STOP);
    assert_int_equal(accept(10, 100, tokens, 0, &finish), 0); /* a prompt chunk */
    assert_int_equal(finish, SCHED_FINISH_NONE);
}

static void an_item_answers_only_what_was_asked(void **state) {
    (void)state;
    static const sched_tree tree = {.tree = {3, {4, 5, 6}, {NOUNS_TREE_ROOT, 0, 0}, {1, 1, 1}}};
    const uint32_t tokens[] = {4, 6, 9, 9};
    const sched_asked chunk = {.n_prefix = 16}, verify = {.n_prefix = 1, .drafts = &tree, .chooses = true};
    sched_request r = {.seq = {5}}, other = {.seq = {6}};
    proto_item item = {.seq = {5}, .tokens = tokens};
    assert_true(sched_answers(&chunk, &r, &item));
    assert_false(sched_answers(&chunk, &other, &item));
    assert_false(sched_answers(&verify, &r, &item)); /* a choice is due */
    item.n_tokens = 1;
    assert_false(sched_answers(&chunk, &r, &item)); /* none is */
    assert_true(sched_answers(&verify, &r, &item));
    item.n_tokens = 3; /* two drafts, one under the other, and a bonus */
    assert_true(sched_answers(&verify, &r, &item));
    assert_false(sched_answers(&(sched_asked){.n_prefix = 1, .chooses = true}, &r, &item)); /* none were asked about */
    const float logs[] = {-1, -2, -3};
    item.logprobs = (token_logprobs){.n_top = 2, .own = logs};
    assert_false(sched_answers(&verify, &r, &item)); /* nor asked for */
    r.rules.logprobs = 3;
    assert_true(sched_answers(&verify, &r, &item));
    r.rules.logprobs = 2;
    assert_false(sched_answers(&verify, &r, &item));
    item.logprobs = (token_logprobs){0};
    assert_false(sched_answers(&verify, &r, &item));
    r.rules.logprobs = 0;
    item.n_tokens = 4; /* the third is no draft */
    assert_false(sched_answers(&verify, &r, &item));
    item.tokens = tokens + 1; /* no path from the root */
    item.n_tokens = 2;
    assert_false(sched_answers(&verify, &r, &item));
    item.code = ST_ERR_NUMERIC; /* then tokens do not count */
    assert_true(sched_answers(&verify, &r, &item));
}

static void accepted_drafts_are_cached_and_the_bonus_is_not(void **state) {
    (void)state;
    const sched_asked chunk = {.n_prefix = 16}, verify = {.n_prefix = 1, .chooses = true};
    assert_int_equal(sched_newly_cached(&chunk, &(proto_item){.n_tokens = 0}), 16);
    assert_int_equal(sched_newly_cached(&verify, &(proto_item){.n_tokens = 1}), 1);
    assert_int_equal(sched_newly_cached(&verify, &(proto_item){.n_tokens = 4}), 4);
}

static void a_prompt_gets_the_rows_that_are_left_but_no_more_than_its_chunk_beside_decodes(void **state) {
    (void)state;
    assert_int_equal(sched_prompt_share(100, 64, 16, true), 16);
    assert_int_equal(sched_prompt_share(100, 64, 16, false), 64);
    assert_int_equal(sched_prompt_share(100, 5, 16, true), 5);
    assert_int_equal(sched_prompt_share(3, 64, 16, true), 3);
    assert_int_equal(sched_prompt_share(3, 64, 16, false), 3);
}

static void the_longest_a_request_can_become_is_bounded_by_the_context(void **state) {
    (void)state;
    const sched_limits l = {.max_context = 100};
    assert_int_equal(sched_limit_tokens(&l, 10, 5), 15);
    assert_int_equal(sched_limit_tokens(&l, 10, 90), 100);
    assert_int_equal(sched_limit_tokens(&l, 10, 91), 100);
    assert_int_equal(sched_limit_tokens(&l, 10, UINT32_MAX), 100);
    assert_int_equal(sched_limit_tokens(&l, 10, 0), 100);
}

/* Else its first token would judge the drafts of the one before. */
static void who_takes_over_a_chain_has_no_proposals_of_the_one_before(void **state) {
    (void)state;
    const sched_limits l = {.max_requests = 1, /* so that there is one chain */
                            .max_running = 1,
                            .max_rows = 16,
                            .max_batch = 1,
                            .prefill_chunk = 16,
                            .max_tree = 4,
                            .max_context = 64,
                            .n_groups = 1,
                            .n_blocks = {4},
                            .speculation = "lookup"};
    const uint32_t prompt[] = {5, 6, 7, 5, 6}, chosen[] = {7};
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    proto_item item = {.n_tokens = 1, .tokens = chosen};
    proto_result result = {.n_items = 1, .items = &item};
    sched_event ask = {.kind = SCHED_REQUEST, .tokens = prompt, .n_tokens = 5};
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 1, &(sched_event){.kind = SCHED_GROUP_UP});
    ask.seq = item.seq = (seq_id){1};
    sched_step(s, 2, &ask);
    result.plan_id = 1;
    sched_actions acts = sched_step(s, 3, &(sched_event){.kind = SCHED_RESULT, .result = &result});
    assert_true(acts.items[0].plan->work[0].tree.n_nodes > 0); /* 5, 6, 7 came before */
    result.plan_id = 2;
    sched_step(s, 4,
               &(sched_event){.kind = SCHED_CANCEL, .seq = {1}, .code = ST_ERR_CANCELLED, .finish = SCHED_FINISH_CANCELLED});
    sched_step(s, 5, &(sched_event){.kind = SCHED_RESULT, .result = &result});
    ask.seq = (seq_id){2};
    sched_step(s, 6, &ask);
    const sched_request *r = sched_find(s, ask.seq);
    assert_non_null(r);
    assert_int_not_equal(r->chain.index, KV_CHAIN_NONE.index);
    for (uint32_t i = 0; i < s->roster.n; i++) assert_int_equal(sched_proposals(s, r)[i].n, 0);
    mem_free(memory);
}

enum { ALIKE = 40, DRAFTERS = 5 };

/* One request behind the other, of two kinds of prompts, each known by half of its tokens. At one drafters 0 and 1 are often
 * right, at the other 3 and 4; of the last of each kind, those that its first round asks. */
static uint32_t first_asked(sched *s, bool other, uint64_t *n_plans, uint64_t number, bool goes_on) {
    static uint32_t prompt[8]; /* outlives the request */
    uint64_t now_ns = number * 10 + 10;
    for (uint32_t i = 0; i < 8; i++) prompt[i] = i % 2 ? i : (other ? 100 : 200) + i;
    const sched_event ask = {.kind = SCHED_REQUEST, .seq = {number + 1}, .tokens = prompt, .n_tokens = 8, .max_tokens = 50};
    sched_step(s, now_ns, &ask);
    sched_request *r = sched_find(s, ask.seq);
    assert_non_null(r);
    uint32_t asked = sched_route(s, r) & ((1U << DRAFTERS) - 1);
    for (uint32_t d = 0; goes_on && d < DRAFTERS; d++)
        spec_hedge_learn(&sched_hits(s, r)[d], 40, (other ? d < 2 : d > 2) ? 20 : 2);
    sched_step(s, now_ns + 1,
               &(sched_event){.kind = SCHED_CANCEL, .seq = ask.seq, .code = ST_ERR_CANCELLED, .finish = SCHED_FINISH_CANCELLED});
    for (int i = 0; i < 2; i++) /* of the prompt; and the one that closes it */
        sched_step(s, now_ns + 2, &(sched_event){.kind = SCHED_RESULT, .result = &(proto_result){.plan_id = ++*n_plans}});
    return asked;
}

static void a_prompt_like_others_begins_with_the_drafters_that_were_right_there(void **state) {
    (void)state;
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    const sched_limits l = {.max_requests = 2,
                            .max_running = 2,
                            .max_rows = 64,
                            .max_batch = 2,
                            .prefill_chunk = 16,
                            .max_tree = 4,
                            .max_context = 64,
                            .n_groups = 1,
                            .n_blocks = {8},
                            .n_drafters = DRAFTERS,
                            .drafter_names = names,
                            .n_vocab = 1000,
                            .draft_wait_ns = 1000,
                            .speculation = "hedge"};
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    uint64_t n_plans = 0;
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 1, &(sched_event){.kind = SCHED_GROUP_UP});
    for (uint32_t d = 0; d < DRAFTERS; d++) sched_step(s, 2, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = d});
    assert_int_equal(first_asked(s, true, &n_plans, 0, false), 1 | 2 | 4); /* nothing is known */
    for (uint32_t i = 1; i <= ALIKE; i++) first_asked(s, i % 2, &n_plans, i, true);
    assert_int_equal(first_asked(s, true, &n_plans, ALIKE + 1, false) & (1 | 2), 1 | 2);
    assert_int_equal(first_asked(s, false, &n_plans, ALIKE + 2, false) & (8 | 16), 8 | 16);
    mem_free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_cut_where_a_step_of_one_token_each_would_have_ended_it),
        cmocka_unit_test(an_item_answers_only_what_was_asked),
        cmocka_unit_test(accepted_drafts_are_cached_and_the_bonus_is_not),
        cmocka_unit_test(a_prompt_gets_the_rows_that_are_left_but_no_more_than_its_chunk_beside_decodes),
        cmocka_unit_test(who_takes_over_a_chain_has_no_proposals_of_the_one_before),
        cmocka_unit_test(a_prompt_like_others_begins_with_the_drafters_that_were_right_there),
        cmocka_unit_test(the_longest_a_request_can_become_is_bounded_by_the_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
