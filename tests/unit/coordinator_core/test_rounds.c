/* One request and two drafters, step by step: what a round is taken for, and who takes part in it. */
#include "base/mem.h"
#include "coordinator/sched_int.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { DRAFTERS = 2, ROWS = 16, WAIT_NS = 1000, PROMPT = 28, CHOSEN = 7, HEADS = 1 << 0 };
static const char *const names[] = {"a", "b"};

typedef struct {
    void *memory;
    sched *s;
    sched_request *r;
    uint32_t prompt[PROMPT];
} world;

static void finish_step(world *w, uint64_t now_ns, uint64_t plan, uint32_t n_tokens) {
    const uint32_t token = CHOSEN;
    proto_item item = {.seq = {1}, .n_tokens = n_tokens, .tokens = &token};
    const proto_result result = {.plan_id = plan, .n_items = 1, .items = &item};
    sched_step(w->s, now_ns, &(sched_event){.kind = SCHED_RESULT, .result = &result});
}

/* What it is asked for: nothing, or a chain of the token that the next step chooses and another, as far as its budget goes. */
static void answer(world *w, uint64_t now_ns, uint32_t d) {
    static const uint32_t tokens[] = {CHOSEN, 50}, parents[] = {NOUNS_TREE_ROOT, 0};
    static const float beliefs[] = {0.9f, 0.9f};
    const sched_drafter *of = &w->s->drafters[d];
    assert_true(of->flight > 0 && of->n_asked == 1);
    uint32_t n = of->asked[0].budget < 2 ? of->asked[0].budget : 2;
    proto_item item = {.seq = {1}, .tree = {n, tokens, parents, beliefs}, .n_scored = 1, .n_hits = 1};
    const proto_result result = {.plan_id = of->flight, .n_items = 1, .items = &item};
    sched_step(w->s, now_ns, &(sched_event){.kind = SCHED_DRAFTS, .drafter = d, .result = &result});
}

/* Until the step that ends the prompt is in flight. It is longer than what a plan brings a drafter, which has it in two. */
static void begin(world *w, sched_fusion fusion, sched_ahead ahead) {
    const sched_limits l = {.max_requests = 2,
                            .max_running = 2,
                            .max_rows = ROWS,
                            .max_batch = 2,
                            .prefill_chunk = ROWS,
                            .max_tree = 4,
                            .max_context = 64,
                            .n_groups = 1,
                            .n_blocks = {8},
                            .n_drafters = DRAFTERS,
                            .drafter_names = names,
                            .n_vocab = 1000,
                            .speculation = "all",
                            .fusion = fusion,
                            .adaptive_budgets = true,
                            .draft_ahead = ahead,
                            .want_hidden = ahead == SCHED_AHEAD_EARLY ? HEADS : 0,
                            .dim = 1,
                            .draft_wait_ns = WAIT_NS};
    *w = (world){.memory = mem_alloc_aligned(1, sched_bytes(&l), 64)};
    for (uint32_t i = 0; i < PROMPT; i++) w->prompt[i] = 100 + i;
    assert_int_equal(sched_init(w->memory, &l, &w->s, NULL), ST_OK);
    sched_step(w->s, 1, &(sched_event){.kind = SCHED_GROUP_UP});
    for (uint32_t d = 0; d < DRAFTERS; d++) sched_step(w->s, 2, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = d});
    sched_step(w->s, 3,
               &(sched_event){.kind = SCHED_REQUEST, .seq = {1}, .tokens = w->prompt, .n_tokens = PROMPT, .max_tokens = 40});
    w->r = sched_find(w->s, (seq_id){1});
    assert_non_null(w->r);
    finish_step(w, 50, 1, 0);
    for (uint32_t d = 0; d < DRAFTERS; d++) answer(w, 60, d);
    for (uint32_t d = 0; d < DRAFTERS; d++) answer(w, 61, d);
}

static void begin_round(world *w) {
    finish_step(w, 100, 2, 1);
    assert_int_equal(w->r->state, SCHED_DRAFTING);
}

/* A step of the group may end while it waits, and other rounds begin. */
static void a_round_teaches_what_it_began_as(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_LOCKSTEP, SCHED_AHEAD_OFF);
    begin_round(&w);
    sched_group *g = w.r->group;
    uint32_t kind = g->round_kind, other = kind + SPEC_GAINS;
    for (int i = 0; i < 20; i++) spec_cost_learn(&g->cost, 1, 1000); /* else it is not known what it would have been without */
    g->round_kind = other;
    sched_step(w.s, 100 + WAIT_NS, &(sched_event){.kind = SCHED_TIMER});
    assert_int_equal(g->worth.kind[SPEC_LOCKSTEP][kind].n_rounds, 1);
    assert_int_equal(g->worth.kind[SPEC_LOCKSTEP][other].n_rounds, 0);
    mem_free(w.memory);
}

/* What one of two has drafted ahead has come true: the other goes on alone. */
static void who_is_left_alone_is_not_in_lockstep(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_FUSION_AUTO, SCHED_AHEAD_ON);
    for (uint32_t d = 0; d < DRAFTERS; d++) answer(&w, 62, d);
    assert_int_equal(w.r->ahead & w.r->ahead_there, 3);
    sched_aheads(w.s, w.r)[1].n = 0; /* it had no guess */
    spec_worth *worth = &w.r->group->worth;
    for (uint32_t i = 0; i < 8; i++) /* lockstep gives more */
        for (uint32_t f = 0; f < SPEC_FUSIONS; f++)
            spec_worth_learn(worth,
                             &(spec_round){.fusion = (spec_fusion)f,
                                           .n_sequences = 1,
                                           .n_trips = 1,
                                           .several = true,
                                           .with = {f == SPEC_LOCKSTEP ? 4 : 2, 2000},
                                           .without = {1, 1500},
                                           .wait_ns = 500},
                             100);
    begin_round(&w);
    assert_true(w.r->group->lockstep);
    assert_int_equal(w.r->asked, 2);
    assert_false(w.r->lockstep);
    assert_int_equal(sched_get_stats(w.s).asked_rounds, 1);
    assert_int_equal(sched_get_stats(w.s).lockstep_rounds, 0);
    mem_free(w.memory);
}

/* It lacks more than one plan brings. */
static void who_comes_back_takes_no_part_in_the_round(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_LOCKSTEP, SCHED_AHEAD_OFF);
    begin_round(&w);
    sched_step(w.s, 110, &(sched_event){.kind = SCHED_DRAFTER_DOWN, .drafter = 1});
    sched_step(w.s, 120, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = 1});
    answer(&w, 130, 0);
    assert_int_equal(w.r->n_agreed, 1);
    assert_int_equal(w.r->awaited, 1);
    mem_free(w.memory);
}

/* The path to what it drafted is the others'. */
static void rounds_in_lockstep_teach_no_habits(void **state) {
    (void)state;
    for (int f = SCHED_MERGE; f <= SCHED_LOCKSTEP; f++) {
        world w;
        begin(&w, (sched_fusion)f, SCHED_AHEAD_OFF);
        begin_round(&w);
        while (w.r->state == SCHED_DRAFTING)
            for (uint32_t d = 0; d < DRAFTERS; d++) answer(&w, 110, d);
        finish_step(&w, 200, 3, 1);
        uint64_t n = 0;
        for (uint32_t bin = 0; bin < PROTO_HABIT_BINS; bin++) n += sched_get_habit(w.s, 0)->seen[0][0][bin];
        assert_int_equal(n, f == SCHED_MERGE);
        mem_free(w.memory);
    }
}

/* The tokens that came judge what lookup alone would have had verified. */
static void a_round_is_judged_by_what_it_would_have_got_without_too(void **state) {
    (void)state;
    for (uint32_t right = 0; right <= 1; right++) {
        world w;
        begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
        begin_round(&w);
        for (int i = 0; i < 20; i++) spec_cost_learn(&w.r->group->cost, 1, 1000); /* else steps without drafts are tried */
        spec_tree_add(&sched_proposals(w.s, w.r)[DRAFTERS], NOUNS_TREE_ROOT, right ? CHOSEN : 60, 0.8f);
        for (uint32_t d = 0; d < DRAFTERS; d++) answer(&w, 110, d);
        finish_step(&w, 200, 3, 1);
        const spec_worth *worth = &w.r->group->worth;
        assert_true(worth->kept_without.promised > 0.7f && worth->kept_without.promised < 0.9f);
        assert_true(worth->kept[SPEC_MERGE].promised > 1);
        assert_int_equal(worth->kept_without.hits, right);
        mem_free(w.memory);
    }
}

static void who_has_followed_no_answer_yet_is_known_by_its_hits(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
    w.s->prior[w.r->place * w.s->roster.n] = (spec_tally){64, 16};
    w.s->all_hits[0] = w.s->all_hits[1] = (spec_tally){64, 48};
    assert_true(sched_prior(w.s, w.r, 0).hits == 16 && sched_prior(w.s, w.r, 1).hits == 48);
    mem_free(w.memory);
}

/* The worker scores it by them: what came before them it was told as early tokens. */
static void a_head_is_scored_by_the_early_tokens_that_it_goes_on_from(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_MERGE, SCHED_AHEAD_EARLY);
    static const uint32_t token = CHOSEN;
    static const uint16_t state_f16 = 0;
    proto_item item = {.seq = {1}, .n_tokens = 1, .tokens = &token, .hidden = {1, &state_f16}};
    const proto_result early = {.plan_id = 2, .n_items = 1, .items = &item};
    sched_step(w.s, 90, &(sched_event){.kind = SCHED_EARLY, .result = &early});
    for (uint32_t d = 0; d < DRAFTERS; d++) answer(&w, 91, d);
    assert_true(sched_hits(w.s, w.r)[0].seen == 1 && sched_hits(w.s, w.r)[0].hits == 1);
    assert_true(sched_hits(w.s, w.r)[1].seen == 0); /* no head: its tokens are tentative */
    mem_free(w.memory);
}

/* Else nobody would be: of the two the first is much better, and its policy would ask no other beside it. */
static void who_cannot_be_asked_is_not_picked(void **state) {
    (void)state;
    enum { NOTHING, GAVE_NONSENSE, IS_BEHIND, HAS_NO_STATE, HAS_NO_ROOM, N };
    for (int what = NOTHING; what < N; what++) {
        world w;
        begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
        sched_drafter *better = &w.s->drafters[0];
        assert_int_equal(spec_route_parse(&w.r->route, "hedge", &w.s->roster, NULL), ST_OK);
        sched_hits(w.s, w.r)[0] = (spec_tally){24, 22};
        sched_hits(w.s, w.r)[1] = (spec_tally){24, 2};
        if (what == GAVE_NONSENSE) w.r->given_up = 1, sched_leave_drafter(better, w.r);
        if (what == IS_BEHIND) better->told[w.r->place] = 1;
        if (what == HAS_NO_STATE) w.s->limits.want_hidden = 1;
        if (what == HAS_NO_ROOM) { /* for one token and a tree behind its prompt */
            w.s->limits.drafter_blocks[0] = better->n_held = 1;
            better->holds[w.r->place] = (sched_hold){.slot = (uint32_t)(w.r - w.s->requests), .n_blocks = 1};
        }
        begin_round(&w);
        assert_int_equal(w.r->asked, what == NOTHING ? 1 : 2);
        mem_free(w.memory);
    }
}

/* A wait and one step for all is sooner than two steps, but a step has two places. */
static void a_step_that_is_full_is_not_held(void **state) {
    (void)state;
    for (uint32_t n_ready = 1; n_ready <= 2; n_ready++) {
        world w;
        begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
        begin_round(&w);
        sched_group *g = w.r->group;
        for (uint32_t n = 1; n <= 3; n++) spec_cost_learn(&g->cost, n, 1000);
        for (uint32_t d = 0; d < DRAFTERS; d++) w.s->drafters[d].waits_ns[SPEC_MERGE] = 50;
        g->lists[SCHED_DECODE].n = n_ready;
        assert_int_equal(sched_holds_step(g), n_ready < 2);
        mem_free(w.memory);
    }
}

/* As one that was held up is to cost the drafter little. */
static void an_answer_to_a_crowd_is_one_sample(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
    begin_round(&w);
    answer(&w, 110, 0);
    assert_true(w.s->answer_ns[0] == 1 + 10);
    w.s->now_ns = 100 + 810;
    for (int i = 0; i < 16; i++) sched_learn_answer(w.s, 0, w.r);
    assert_true(w.s->answer_ns[0] == 1 + 10 + 800 / 8);
    w.r->probed = 1; /* then it is the one that counts */
    sched_learn_answer(w.s, 0, w.r);
    assert_true(w.s->answer_ns[0] == 1 + 810);
    mem_free(w.memory);
}

/* Once in 200 times as long as a round waits for it: in lockstep it waits several times. */
static void a_probe_is_as_rare_as_it_is_dear(void **state) {
    (void)state;
    for (uint32_t n_trips = 1; n_trips <= 4; n_trips += 3) {
        world w;
        begin(&w, SCHED_LOCKSTEP, SCHED_AHEAD_OFF);
        assert_int_equal(spec_route_parse(&w.r->route, "hedge", &w.s->roster, NULL), ST_OK);
        sched_group *g = w.r->group;
        spec_cost_learn(&g->cost, 1, 1000);
        for (uint32_t k = 0; k < SPEC_ROUND_KINDS; k++) {
            g->worth.kind[SPEC_LOCKSTEP][k].n_longer = 1;
            g->worth.kind[SPEC_LOCKSTEP][k].n_trips = n_trips;
        }
        for (uint32_t d = 0; d < DRAFTERS; d++) {
            sched_hits(w.s, w.r)[d] = (spec_tally){24, 12};
            w.s->answer_ns[d] = d ? 2000 : 10;
        }
        finish_step(&w, 2 * 200 * 2000, 2, 1);
        assert_int_equal(w.r->probed, n_trips == 1 ? 2 : 0);
        assert_int_equal(w.r->asked, n_trips == 1 ? 3 : 1);
        mem_free(w.memory);
    }
}

/* The wait of all its tokens together is not that for one answer. */
static void a_round_that_ends_late_at_its_second_token_teaches_no_answer(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_LOCKSTEP, SCHED_AHEAD_OFF);
    begin_round(&w);
    for (uint32_t d = 0; d < DRAFTERS; d++) answer(&w, 110, d);
    answer(&w, 120, 0);
    assert_int_equal(w.r->n_agreed, 1);
    sched_step(w.s, 100 + WAIT_NS, &(sched_event){.kind = SCHED_TIMER});
    assert_int_equal(w.s->late, 2);
    assert_true(w.s->answer_ns[1] == 1 + 10);
    mem_free(w.memory);
}

static void nothing_of_how_long_it_took_outlives_a_drafter(void **state) {
    (void)state;
    world w;
    begin(&w, SCHED_MERGE, SCHED_AHEAD_OFF);
    begin_round(&w);
    answer(&w, 110, 1);
    const sched_drafter *d = &w.s->drafters[1];
    assert_true(d->waits_ns[SPEC_MERGE] == 10 && d->stats.wait_ns == 10 && w.s->answer_ns[1] > 0);
    sched_step(w.s, 120, &(sched_event){.kind = SCHED_DRAFTER_DOWN, .drafter = 1});
    assert_true(d->waits_ns[SPEC_MERGE] == 0 && d->stats.wait_ns == 0 && w.s->answer_ns[1] == 0);
    mem_free(w.memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_round_teaches_what_it_began_as),
        cmocka_unit_test(who_is_left_alone_is_not_in_lockstep),
        cmocka_unit_test(who_has_followed_no_answer_yet_is_known_by_its_hits),
        cmocka_unit_test(rounds_in_lockstep_teach_no_habits),
        cmocka_unit_test(a_round_is_judged_by_what_it_would_have_got_without_too),
        cmocka_unit_test(a_head_is_scored_by_the_early_tokens_that_it_goes_on_from),
        cmocka_unit_test(who_cannot_be_asked_is_not_picked),
        cmocka_unit_test(a_step_that_is_full_is_not_held),
        cmocka_unit_test(an_answer_to_a_crowd_is_one_sample),
        cmocka_unit_test(a_probe_is_as_rare_as_it_is_dear),
        cmocka_unit_test(a_round_that_ends_late_at_its_second_token_teaches_no_answer),
        cmocka_unit_test(nothing_of_how_long_it_took_outlives_a_drafter),
        cmocka_unit_test(who_comes_back_takes_no_part_in_the_round),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
