/* Priorities and deadlines: who comes in, who is sent away, who takes part in a step; and that nobody starves. One group whose
 * steps take as long as a test says and give each of their sequences a token. */
#include "base/mem.h"
#include "coordinator/coordinator_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { REQUESTS = 4096, BATCH = 8, LOWEST = -PROTO_MAX_PRIORITY, HIGHEST = PROTO_MAX_PRIORITY };
#define SECOND UINT64_C(1000000000)

typedef struct {
    void *memory;
    sched *s;
    uint64_t now_ns, step_ns, plan;                             /* plan: in flight; 0: none */
    uint64_t work[BATCH];                                       /* its sequences */
    uint32_t n_work, n_asked;                                   /* ids are 1 .. n_asked */
    uint32_t n_tokens[REQUESTS];                                /* by id */
    uint64_t over[REQUESTS], refused[REQUESTS], left[REQUESTS]; /* ids, in order; left: closed, and not over */
    uint32_t n_over, n_refused, n_left;
} world;

static world begin_as(bool prefix_cache, uint32_t max_running, uint32_t max_batch, uint32_t n_blocks, uint32_t max_queue) {
    const sched_limits l = {.max_requests = REQUESTS,
                            .prefix_cache = prefix_cache,
                            .max_running = max_running,
                            .max_queue = max_queue,
                            .max_rows = 1024,
                            .max_batch = max_batch,
                            .prefill_chunk = 1024,
                            .max_context = 512,
                            .n_groups = 1,
                            .n_blocks = {n_blocks}};
    world w = {.now_ns = 1000 * SECOND, .step_ns = SECOND / 2};
    w.memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    assert_int_equal(sched_init(w.memory, &l, &w.s, NULL), ST_OK);
    sched_step(w.s, w.now_ns, &(sched_event){.kind = SCHED_GROUP_UP});
    return w;
}

static world begin_with(uint32_t max_running, uint32_t max_batch, uint32_t n_blocks, uint32_t max_queue) {
    return begin_as(false, max_running, max_batch, n_blocks, max_queue);
}

static world begin(uint32_t max_running, uint32_t max_batch, uint32_t n_blocks) {
    return begin_with(max_running, max_batch, n_blocks, REQUESTS);
}

/* With a prefix cache, so that sequences share blocks. */
static world begin_sharing(uint32_t max_running, uint32_t max_batch, uint32_t n_blocks) {
    return begin_as(true, max_running, max_batch, n_blocks, REQUESTS);
}

static bool is_over(const world *w, uint64_t id) {
    for (uint32_t i = 0; i < w->n_over; i++)
        if (w->over[i] == id) return true;
    return false;
}

static void take_plan(world *w, const proto_plan *p) {
    w->plan = p->id;
    w->n_work = p->n_work;
    for (uint32_t i = 0; i < p->n_work; i++) w->work[i] = p->work[i].seq.value;
    for (uint32_t i = 0; i < p->n_close; i++)
        if (!is_over(w, p->close[i].value)) w->left[w->n_left++] = p->close[i].value;
}

static void event(world *w, const sched_event *ev) {
    sched_actions a = sched_step(w->s, w->now_ns, ev);
    for (uint32_t i = 0; i < a.n; i++) {
        uint64_t id = a.items[i].seq.value;
        if (a.items[i].kind == SCHED_ACT_TOKENS) w->n_tokens[id] += a.items[i].n_tokens;
        if (a.items[i].kind != SCHED_ACT_FINISHED) continue;
        if (a.items[i].code == ST_ERR_RESOURCE_EXHAUSTED)
            w->refused[w->n_refused++] = id;
        else
            w->over[w->n_over++] = id;
    }
    for (uint32_t i = 0; i < a.n; i++)
        if (a.items[i].kind == SCHED_ACT_PLAN) take_plan(w, a.items[i].plan);
    sched_check(w->s);
}

/* Returns its id; the prompt is `token` again and again; deadline_ns: from now; 0: none. */
static uint64_t ask_of(world *w, uint32_t token, int32_t priority, uint64_t deadline_ns, uint32_t n_prompt, uint32_t max_tokens) {
    static uint32_t prompts[4][512];
    uint32_t *prompt = prompts[token];
    for (uint32_t i = 0; i < n_prompt; i++) prompt[i] = token;
    assert_true(++w->n_asked < REQUESTS);
    event(w, &(sched_event){.kind = SCHED_REQUEST,
                            .seq = {w->n_asked},
                            .tokens = prompt,
                            .n_tokens = n_prompt,
                            .max_tokens = max_tokens,
                            .priority = priority,
                            .deadline_ns = deadline_ns ? w->now_ns + deadline_ns : 0});
    return w->n_asked;
}

static uint64_t ask(world *w, int32_t priority, uint64_t deadline_ns, uint32_t n_prompt, uint32_t max_tokens) {
    return ask_of(w, 0, priority, deadline_ns, n_prompt, max_tokens);
}

/* The step in flight, which takes step_ns, or that time alone. */
static void run_step(world *w) {
    static const uint32_t token = 7;
    proto_item items[BATCH];
    w->now_ns += w->step_ns;
    const proto_result r = {.plan_id = w->plan, .n_items = w->n_work, .items = items};
    for (uint32_t i = 0; i < w->n_work; i++) items[i] = (proto_item){.seq = {w->work[i]}, .n_tokens = 1, .tokens = &token};
    if (w->plan == 0) return;
    w->plan = 0;
    event(w, &(sched_event){.kind = SCHED_RESULT, .result = &r});
}

static bool computes(const world *w, uint64_t id) {
    for (uint32_t i = 0; i < w->n_work; i++)
        if (w->work[i] == id) return true;
    return false;
}

static void run_out(world *w) {
    for (uint32_t i = 0; w->plan; i++, run_step(w)) assert_true(i < 10000);
    assert_int_equal(w->n_over + w->n_refused, w->n_asked);
}

static void assert_over_in_order(const world *w, uint32_t n, const uint64_t *ids) {
    assert_int_equal(w->n_over, n);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(w->over[i], ids[i]);
}
#define ASSERT_OVER(w, ...)                                                                                                      \
    assert_over_in_order(w, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), (uint64_t[]){__VA_ARGS__})

/* ---- who comes in ---- */

static void those_that_wait_are_served_by_priority_then_by_deadline_then_as_they_came(void **state) {
    (void)state;
    world w = begin(1, 4, 64);
    w.step_ns = SECOND / 100; /* all is over before the first deadline */
    ask(&w, HIGHEST, 0, 5, 3);
    ask(&w, 0, 0, 5, 2);          /* 2 */
    ask(&w, 0, 0, 5, 2);          /* 3 */
    ask(&w, -1, SECOND, 5, 2);    /* 4: a deadline is worth less than a step of priority */
    ask(&w, 2, 0, 5, 2);          /* 5 */
    ask(&w, 0, 9 * SECOND, 5, 2); /* 6 */
    ask(&w, 0, 4 * SECOND, 5, 2); /* 7 */
    ask(&w, 2, 0, 5, 2);          /* 8 */
    ask(&w, 8, 0, 5, 2);          /* 9 */
    run_out(&w);
    ASSERT_OVER(&w, 1, 9, 5, 8, 7, 6, 2, 3, 4);
    assert_int_equal(sched_get_stats(w.s).preempted, 0);
    mem_free(w.memory);
}

static void a_deadline_that_is_far_away_is_as_none(void **state) {
    (void)state;
    world w = begin(1, 4, 64);
    ask(&w, 0, 0, 5, 2);
    ask(&w, 0, 0, 5, 2);
    ask(&w, 0, 600 * SECOND, 5, 2);
    w.now_ns += SECOND;
    ask(&w, 0, 100 * SECOND, 5, 2);
    ask(&w, 0, 0, 5, 2);
    run_out(&w);
    ASSERT_OVER(&w, 1, 2, 3, 4, 5);
    mem_free(w.memory);
}

static void one_that_has_waited_for_a_step_of_priority_is_before_those_that_come_with_one_more(void **state) {
    (void)state;
    world w = begin(1, 4, 64);
    ask(&w, HIGHEST, 0, 5, 3);
    ask(&w, 0, 0, 5, 2); /* 2 */
    w.now_ns += SCHED_PRIORITY_NS - 1;
    ask(&w, 1, 0, 5, 2); /* 3: just before that */
    w.now_ns += 2;
    ask(&w, 1, 0, 5, 2); /* 4: just behind */
    ask(&w, 2, 0, 5, 2); /* 5 */
    run_out(&w);
    ASSERT_OVER(&w, 1, 5, 3, 2, 4);
    mem_free(w.memory);
}

/* There are always some of the highest priority that wait, and the lowest is served all the same, within the bound that
 * sched_state.c states: 17 times 30 seconds, and the time of those who were there then. */
static void a_stream_of_the_highest_priority_starves_nobody(void **state) {
    (void)state;
    enum { WAITING = 3, ANSWER = 2 };
    for (int32_t priority = LOWEST; priority <= HIGHEST; priority += 4) {
        world w = begin(1, 4, 64);
        uint64_t begun_ns = w.now_ns, steps = (uint64_t)(HIGHEST + 1 - priority);
        ask(&w, HIGHEST, 0, 5, ANSWER);
        uint64_t low = ask(&w, priority, 0, 5, ANSWER), deadline_ns = 0;
        while (!is_over(&w, low)) {
            uint32_t n = sched_get_stats(w.s).waiting - (w.n_tokens[low] == 0 && !computes(&w, low));
            for (; n < WAITING; n++) ask(&w, HIGHEST, deadline_ns = deadline_ns ? 0 : 20 * SECOND, 5, ANSWER);
            assert_true(w.now_ns - begun_ns <= steps * SCHED_PRIORITY_NS + (WAITING + 2) * ANSWER * w.step_ns);
            run_step(&w);
        }
        assert_true(w.now_ns - begun_ns >= (steps - 1) * SCHED_PRIORITY_NS); /* and not before its time */
        assert_true(w.n_over >= steps - 1);
        assert_int_equal(sched_get_stats(w.s).preempted, 0);
        mem_free(w.memory);
    }
}

static void a_full_queue_refuses_who_comes_whatever_its_priority(void **state) {
    (void)state;
    world w = begin_with(1, 4, 64, 1);
    ask(&w, 1, 0, 5, 4);
    ask(&w, 0, 0, 5, 4);
    uint64_t third = ask(&w, 1, 0, 5, 4);
    assert_true(w.n_refused == 1 && w.refused[0] == third);
    run_out(&w);
    ASSERT_OVER(&w, 1, 2);
    mem_free(w.memory);
}

/* Of the two that run one has no turn in the step in flight: its place is the newcomer's at once. */
static void a_full_queue_refuses_nobody_who_finds_a_place_by_priority(void **state) {
    (void)state;
    world w = begin_with(2, 1, 64, 0);
    ask(&w, 0, 0, 5, 4);
    uint64_t young = ask(&w, 0, 0, 5, 4), high = ask(&w, 1, 0, 5, 4);
    assert_true(w.n_refused == 0 && sched_get_stats(w.s).waiting == 1);
    run_out(&w);
    assert_true(w.n_over == 3 && w.over[2] == young && w.n_tokens[young] == 4 && w.n_tokens[high] == 4);
    mem_free(w.memory);
}

/* ---- who is sent away ---- */

/* Each has a block, and all want a second, and then a third: there are five. */
static void when_blocks_run_out_the_lowest_priority_goes_then_the_youngest(void **state) {
    (void)state;
    world w = begin(4, 4, 5);
    uint64_t first = ask(&w, 0, 0, 30, 50), low = ask(&w, -1, 0, 30, 50), young = ask(&w, 0, 0, 30, 50);
    for (uint32_t i = 0; i < 45; i++) run_step(&w);
    assert_true(w.n_left == 2 && w.left[0] == low && w.left[1] == young);
    assert_true(w.n_tokens[first] > w.n_tokens[young] && w.n_tokens[young] > w.n_tokens[low]);
    run_out(&w);
    ASSERT_OVER(&w, first, young, low);
    for (uint64_t id = first; id <= young; id++) assert_int_equal(w.n_tokens[id], 50);
    mem_free(w.memory);
}

/* The one of low priority wants the last block; it is itself who goes, not the others. */
static void a_lower_priority_takes_no_blocks_from_a_higher_one(void **state) {
    (void)state;
    world w = begin(4, 4, 5);
    uint64_t low = ask(&w, -1, 0, 30, 50), high = ask(&w, 1, 0, 28, 50), other = ask(&w, 1, 0, 28, 50);
    while (w.n_left == 0) run_step(&w);
    assert_int_equal(w.left[0], low);
    run_out(&w);
    for (uint32_t i = 0; i < w.n_left; i++) assert_int_not_equal(w.left[i], high);
    assert_true(w.over[2] == low && w.n_tokens[low] == 50 && w.n_tokens[other] == 50);
    mem_free(w.memory);
}

static void those_of_lower_priority_give_way_to_one_that_waits_the_last_first(void **state) {
    (void)state;
    world w = begin(2, 4, 64);
    uint64_t first = ask(&w, 0, 0, 5, 20), second = ask(&w, 0, 0, 5, 20);
    run_step(&w);
    uint64_t equal = ask(&w, 0, 0, 5, 20), high = ask(&w, 1, 0, 5, 4);
    assert_true(computes(&w, first) && w.n_left == 0); /* the step in flight names them */
    run_step(&w);
    assert_true(w.n_left == 1 && w.left[0] == second);
    assert_true(computes(&w, first) && computes(&w, high) && w.n_work == 2);
    run_out(&w);
    ASSERT_OVER(&w, high, first, second, equal);
    for (uint64_t id = first; id <= equal; id++) assert_int_equal(w.n_tokens[id], 20);
    assert_int_equal(sched_get_stats(w.s).preempted, 1);
    mem_free(w.memory);
}

/* One place: the second has that of the first, whose tokens are kept aside; for the third there is no room to keep more, so it
 * waits for the second to end, and all others for the third. */
static void no_more_are_sent_away_than_run_at_once(void **state) {
    (void)state;
    world w = begin(1, 4, 64);
    uint64_t first = ask(&w, 0, 0, 5, 9), second, third, fourth;
    run_step(&w);
    second = ask(&w, 1, 0, 5, 9);
    run_step(&w);
    assert_true(computes(&w, second) && w.n_left == 1 && w.left[0] == first);
    third = ask(&w, 2, 0, 5, 9), fourth = ask(&w, -1, 0, 5, 9);
    run_out(&w);
    ASSERT_OVER(&w, second, third, first, fourth);
    assert_int_equal(w.n_left, 1);
    for (uint64_t id = first; id <= fourth; id++) assert_int_equal(w.n_tokens[id], 9);
    mem_free(w.memory);
}

/* It wants five blocks of six. One of its own priority has three of them, and to send the other away would not be enough. */
static void nobody_is_sent_away_where_that_is_not_enough(void **state) {
    (void)state;
    world w = begin(4, 4, 6);
    uint64_t own = ask(&w, 1, 0, 65, 5), low = ask(&w, 0, 0, 5, 20), large = ask(&w, 1, 0, 130, 5);
    run_out(&w);
    assert_int_equal(sched_get_stats(w.s).preempted, 0);
    ASSERT_OVER(&w, own, large, low);
    mem_free(w.memory);
}

/* Of its three blocks `low` has two together with `own`: they come free only when that is over. */
static void blocks_of_those_who_stay_do_not_come_free(void **state) {
    (void)state;
    world w = begin_sharing(4, 4, 7);
    uint64_t own = ask_of(&w, 1, 1, 0, 70, 5);
    run_step(&w);
    uint64_t low = ask_of(&w, 1, 0, 0, 70, 20), large = ask_of(&w, 2, 1, 0, 134, 5);
    for (; !is_over(&w, own); run_step(&w)) assert_int_equal(sched_get_stats(w.s).preempted, 0);
    run_out(&w);
    assert_int_equal(sched_get_stats(w.s).gave_way, 1);
    ASSERT_OVER(&w, own, large, low);
    mem_free(w.memory);
}

/* Six blocks are wanted, of which `low` has four; when it is gone, five are free, or six where there is one more. */
static void blocks_that_it_has_with_who_goes_are_wanted_all_the_same(void **state) {
    (void)state;
    for (uint32_t n_blocks = 8; n_blocks <= 9; n_blocks++) {
        world w = begin_sharing(4, 4, n_blocks);
        ask_of(&w, 2, 1, 0, 65, 5);
        uint64_t low = ask_of(&w, 1, 0, 0, 130, 20);
        run_step(&w);
        uint64_t large = ask_of(&w, 1, 1, 0, 161, 50);
        run_step(&w);
        bool enough = n_blocks == 9;
        assert_true(w.n_left == enough && computes(&w, low) == !enough && computes(&w, large) == enough);
        run_out(&w);
        mem_free(w.memory);
    }
}

static void one_that_came_long_enough_before_is_not_sent_away(void **state) {
    (void)state;
    for (int young = 0; young <= 1; young++) {
        world w = begin(1, 4, 64);
        uint64_t old = ask(&w, 0, 0, 5, 5);
        w.now_ns += young ? SCHED_PRIORITY_NS - 1 : SCHED_PRIORITY_NS + 1;
        uint64_t high = ask(&w, 1, 0, 5, 5);
        run_out(&w);
        assert_true(w.n_left == (uint32_t)young && w.over[0] == (young ? high : old));
        mem_free(w.memory);
    }
}

/* Of the two that run one has no turn in the step in flight, and would give way. */
static void nobody_is_sent_away_for_one_that_comes_too_late(void **state) {
    (void)state;
    world w = begin(2, 1, 64);
    ask(&w, 0, 0, 5, 4);
    ask(&w, 0, 0, 5, 4);
    uint64_t late = ask(&w, 1, 0 - SECOND, 5, 4); /* a second ago */
    assert_true(w.n_over == 1 && w.over[0] == late && sched_get_stats(w.s).rejected == 1);
    assert_true(sched_get_stats(w.s).running == 2 && sched_get_stats(w.s).preempted == 0);
    run_out(&w);
    assert_int_equal(w.n_tokens[late], 0);
    mem_free(w.memory);
}

/* ---- who takes part in a step ---- */

/* Of two that decode, where a step has one place, the lower one has every ninth. */
static void a_step_of_priority_is_worth_eight_steps(void **state) {
    (void)state;
    world w = begin(2, 1, 64);
    uint64_t high = ask(&w, 1, 0, 5, 400), low = ask(&w, 0, 0, 5, 400);
    for (uint32_t i = 0; i < 10; i++) run_step(&w); /* both prompts are done */
    uint32_t before[] = {w.n_tokens[high], w.n_tokens[low]};
    for (uint32_t i = 0; i < 180; i++) run_step(&w);
    assert_int_equal(w.n_tokens[low] - before[1], 180 / (SCHED_PRIORITY_STEPS + 1));
    assert_int_equal(w.n_tokens[high] - before[0], 180 - 180 / (SCHED_PRIORITY_STEPS + 1));
    mem_free(w.memory);
}

/* Two places, three of the highest priority and two of the lowest: equals take turns, and nobody sits out more steps than
 * sched_state.c says. */
static void nobody_sits_out_for_ever_and_equals_take_turns(void **state) {
    (void)state;
    enum { MOST = (HIGHEST - LOWEST) * SCHED_PRIORITY_STEPS + 4 };
    world w = begin(5, 2, 64);
    uint64_t last[6] = {0}, longest[6] = {0};
    for (uint32_t i = 0; i < 5; i++) ask(&w, i < 3 ? HIGHEST : LOWEST, 0, 5, 500);
    for (uint64_t i = 1; i <= 2 * MOST; i++) {
        for (uint64_t id = 1; id <= 5; id++) {
            if (i - last[id] > longest[id]) longest[id] = i - last[id];
            if (computes(&w, id)) last[id] = i;
        }
        run_step(&w);
    }
    for (uint64_t id = 1; id <= 3; id++) assert_true(longest[id] <= 3);
    for (uint64_t id = 4; id <= 5; id++) assert_true(longest[id] <= MOST && longest[id] > MOST / 2);
    assert_true(w.n_tokens[4] - w.n_tokens[5] + 1 <= 2 && w.n_tokens[5] >= 2); /* as many, or one apart */
    mem_free(w.memory);
}

/* Rows for one prompt at a time: the first due goes first, though another came before it. */
static void prompts_share_rows_by_priority(void **state) {
    (void)state;
    world w = begin(4, 1, 64);
    uint64_t runs = ask(&w, 0, 0, 5, 9), low = ask(&w, 0, 0, 5, 9), high = ask(&w, 1, 0, 5, 9);
    run_step(&w);
    assert_true(computes(&w, high) && w.n_work == 1);
    run_step(&w);
    assert_true(computes(&w, low) && !computes(&w, runs));
    mem_free(w.memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_that_wait_are_served_by_priority_then_by_deadline_then_as_they_came),
        cmocka_unit_test(a_deadline_that_is_far_away_is_as_none),
        cmocka_unit_test(one_that_has_waited_for_a_step_of_priority_is_before_those_that_come_with_one_more),
        cmocka_unit_test(a_stream_of_the_highest_priority_starves_nobody),
        cmocka_unit_test(a_full_queue_refuses_who_comes_whatever_its_priority),
        cmocka_unit_test(a_full_queue_refuses_nobody_who_finds_a_place_by_priority),
        cmocka_unit_test(when_blocks_run_out_the_lowest_priority_goes_then_the_youngest),
        cmocka_unit_test(a_lower_priority_takes_no_blocks_from_a_higher_one),
        cmocka_unit_test(those_of_lower_priority_give_way_to_one_that_waits_the_last_first),
        cmocka_unit_test(no_more_are_sent_away_than_run_at_once),
        cmocka_unit_test(nobody_is_sent_away_where_that_is_not_enough),
        cmocka_unit_test(blocks_of_those_who_stay_do_not_come_free),
        cmocka_unit_test(blocks_that_it_has_with_who_goes_are_wanted_all_the_same),
        cmocka_unit_test(one_that_came_long_enough_before_is_not_sent_away),
        cmocka_unit_test(nobody_is_sent_away_for_one_that_comes_too_late),
        cmocka_unit_test(a_step_of_priority_is_worth_eight_steps),
        cmocka_unit_test(nobody_sits_out_for_ever_and_equals_take_turns),
        cmocka_unit_test(prompts_share_rows_by_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
