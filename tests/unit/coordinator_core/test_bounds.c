/* Bounds that a scheduler keeps: of a plan, of the list of actions, and of what it reads. */
#include "base/mem.h"
#include "coordinator/coordinator_core.h"
#include "speculative/speculative.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* Else it could be longer than a message may be, and the verifier would be lost. */
static void a_plan_opens_no_more_tokens_than_the_longest_prompt_has(void **state) {
    (void)state;
    enum { LONG = PROTO_MAX_PROMPT_TOKENS / 2 + 1 };
    const sched_limits l = {.max_requests = 3,
                            .max_running = 3,
                            .max_rows = 8,
                            .max_batch = 4,
                            .prefill_chunk = 1,
                            .max_context = PROTO_MAX_PROMPT_TOKENS,
                            .n_groups = 1,
                            .n_blocks = {3 * PROTO_MAX_PROMPT_TOKENS / NOUNS_BLOCK_TOKENS}};
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    uint32_t *prompt = mem_alloc(LONG, sizeof *prompt);
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 0, &(sched_event){.kind = SCHED_GROUP_UP});
    sched_actions a = {0};
    for (uint32_t i = 0; i < 3; i++) { /* the first is in its step while the long ones come, and decodes beside them */
        sched_event ev = {.kind = SCHED_REQUEST, .seq = {i + 1}, .tokens = prompt, .n_tokens = i ? LONG : 1, .max_tokens = 9};
        a = sched_step(s, 1, &ev);
        if (i == 0) assert_int_equal(a.items[0].kind, SCHED_ACT_PLAN);
    }
    for (uint64_t id = 1; id <= 2; id++) {
        uint32_t token = 7;
        proto_item items[] = {{.seq = {1}, .n_tokens = 1, .tokens = &token}, {.seq = {2}}};
        a = sched_step(
            s, 1 + id,
            &(sched_event){.kind = SCHED_RESULT, .result = &(proto_result){.plan_id = id, .n_items = 2, .items = items}});
        assert_int_equal(a.items[0].kind, SCHED_ACT_PLAN);
        assert_int_equal(a.items[0].plan->n_open, 1);
        assert_int_equal(a.items[0].plan->open[0].seq.value, 1 + id);
    }
    mem_free(memory);
    mem_free(prompt);
}

/* The longest list of actions: every place taken, a batch with tokens, and all of them overdue at that moment. */
static void the_actions_of_any_step_fit(void **state) {
    (void)state;
    const sched_limits l = {.max_requests = 20,
                            .max_running = 10,
                            .max_queue = 10,
                            .max_rows = 10,
                            .max_batch = 10,
                            .prefill_chunk = 4,
                            .max_tree = 0,
                            .max_context = 32,
                            .n_groups = 1,
                            .n_blocks = {10}};
    const uint32_t prompt[] = {1};
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 1, &(sched_event){.kind = SCHED_GROUP_UP});
    proto_result first = {.plan_id = 1, .n_items = 1}, second = {.plan_id = 2, .n_items = 10};
    proto_item items[10];
    for (uint32_t i = 0; i < 20; i++)
        sched_step(s, 1,
                   &(sched_event){.kind = SCHED_REQUEST, .seq = {i + 1}, .tokens = prompt, .n_tokens = 1, .deadline_ns = 5});
    for (uint32_t i = 0; i < 10; i++) items[i] = (proto_item){.seq = {i + 1}, .n_tokens = 1, .tokens = prompt};
    first.items = second.items = items;
    sched_actions acts = sched_step(s, 1, &(sched_event){.kind = SCHED_RESULT, .result = &first});
    assert_int_equal(acts.items[0].plan->n_work, 10);
    sched_step(s, 1, &(sched_event){.kind = SCHED_DRAIN});
    acts = sched_step(s, 5, &(sched_event){.kind = SCHED_RESULT, .result = &second});
    assert_int_equal(acts.n, 1 + 10 + 20 + 1); /* the plan that closes, tokens, ends, the timer goes */
    sched_check(s);
    mem_free(memory);
}

static void items_beyond_the_count_of_a_result_are_not_looked_at(void **state) {
    (void)state;
    const sched_limits l = {.max_requests = 4,
                            .max_running = 4,
                            .max_queue = 4,
                            .max_rows = 16,
                            .max_batch = 4,
                            .prefill_chunk = 4,
                            .max_tree = 0,
                            .max_context = 32,
                            .n_groups = 1,
                            .n_blocks = {10}};
    const uint32_t prompt[] = {1};
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 1, &(sched_event){.kind = SCHED_GROUP_UP});
    sched_step(s, 1, &(sched_event){.kind = SCHED_REQUEST, .seq = {1}, .tokens = prompt, .n_tokens = 1});
    const proto_item items[] = {{.seq = {1}, .n_tokens = 1, .tokens = prompt}};
    const proto_result result = {.plan_id = 1, .n_items = 0, .items = items};
    sched_actions acts = sched_step(s, 1, &(sched_event){.kind = SCHED_RESULT, .result = &result});
    assert_int_equal(acts.n, 2);
    assert_int_equal(acts.items[1].kind, SCHED_ACT_FINISHED);
    assert_int_equal(acts.items[1].code, ST_FATAL_PROTOCOL);
    mem_free(memory);
}

/* Answers one token to each sequence of the group's plan that decodes, none to the prompts; returns the next plan. */
static const proto_plan *next_plan(sched *s, uint32_t group, const proto_plan *p) {
    static const uint32_t token = 7;
    proto_item items[4];
    for (uint32_t i = 0; i < p->n_work; i++)
        items[i] = (proto_item){.seq = p->work[i].seq, .n_tokens = p->work[i].seq.value == 1, .tokens = &token};
    const proto_result r = {.plan_id = p->id, .n_items = p->n_work, .items = items};
    sched_actions a = sched_step(s, 2, &(sched_event){.kind = SCHED_RESULT, .group = group, .result = &r});
    for (uint32_t i = 0; i < a.n; i++)
        if (a.items[i].kind == SCHED_ACT_PLAN && a.items[i].group == group) return a.items[i].plan;
    return NULL;
}

/* An answer grows in the group that prefills, since there is no room for it elsewhere, beside a prompt that came later and whose
 * KV moves: when blocks run out it waits itself, for the move reads and writes those of the prompt. */
static void an_answer_takes_no_blocks_from_a_prompt_that_moves(void **state) {
    (void)state;
    const sched_limits l = {.max_requests = 8,
                            .max_running = 4,
                            .max_queue = 4,
                            .max_rows = 128,
                            .max_batch = 4,
                            .prefill_chunk = 1,
                            .max_context = 256,
                            .n_groups = 2,
                            .n_blocks = {7, 9},
                            .serves = {SCHED_PREFILLS, SCHED_DECODES},
                            .max_moves = 1,
                            .min_move_tokens = NOUNS_BLOCK_TOKENS};
    static const struct { uint32_t n_prompt, max_tokens; } asked[] = {{126, 60}, {33, 20}, {33, 20}, {33, 20}, {40, 5}};
    static const uint32_t prompt[126];
    void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    const proto_plan *p = NULL;
    bool moves = false;
    sched *s;
    assert_int_equal(sched_init(memory, &l, &s, NULL), ST_OK);
    sched_step(s, 0, &(sched_event){.kind = SCHED_GROUP_UP});
    for (uint32_t i = 0; i < 5; i++) { /* the first before there is another group, the next three fill that */
        if (i == 1) p = next_plan(s, 0, p);
        if (i == 1) sched_step(s, 1, &(sched_event){.kind = SCHED_GROUP_UP, .group = 1});
        sched_event ev = {.kind = SCHED_REQUEST, .seq = {i + 1}, .tokens = prompt, .n_tokens = asked[i].n_prompt};
        ev.max_tokens = asked[i].max_tokens;
        sched_actions a = sched_step(s, 1, &ev);
        if (i == 0) p = a.items[0].plan;
    }
    for (uint32_t i = 0; sched_get_stats(s).preempted == 0; i++) {
        assert_true(i < 40 && p);
        p = next_plan(s, 0, p);
        moves |= sched_get_stats(s).moving == 1;
        sched_check(s);
    }
    assert_true(moves && p->n_close == 1 && p->close[0].value == 1);
    assert_true(p->n_work == 1 && p->work[0].seq.value == 5);
    assert_int_equal(sched_get_stats(s).moving, 1);
    mem_free(memory);
}

/* With lookup and the corpus they fill a mask. */
static void one_drafter_too_many_is_refused(void **state) {
    (void)state;
    const char *names[SPEC_MAX_DRAFTERS];
    for (uint32_t i = 0; i < SPEC_MAX_DRAFTERS; i++) names[i] = "a";
    for (uint32_t n = SPEC_MAX_DRAFTERS - 2; n <= SPEC_MAX_DRAFTERS; n++) {
        const sched_limits l = {.max_requests = 1,
                                .max_running = 1,
                                .max_rows = 4,
                                .max_batch = 1,
                                .prefill_chunk = 4,
                                .max_context = 32,
                                .n_groups = 1,
                                .n_blocks = {1},
                                .n_drafters = n,
                                .drafter_names = names,
                                .n_vocab = 9};
        void *memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
        sched *s;
        assert_int_equal(sched_init(memory, &l, &s, NULL), n == SPEC_MAX_DRAFTERS - 2 ? ST_OK : ST_ERR_INVALID_ARGUMENT);
        mem_free(memory);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_opens_no_more_tokens_than_the_longest_prompt_has),
        cmocka_unit_test(the_actions_of_any_step_fit),
        cmocka_unit_test(an_answer_takes_no_blocks_from_a_prompt_that_moves),
        cmocka_unit_test(one_drafter_too_many_is_refused),
        cmocka_unit_test(items_beyond_the_count_of_a_result_are_not_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
