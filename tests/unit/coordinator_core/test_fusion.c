/* Which fusion is taken, in a cluster of virtual time: four drafters that know different things, links of a given round trip.
 * Each of them is sure of two tokens in five, and then nearly always right, and has no idea of the others. So what one drafts
 * alone ends soon, and together they go on. All of it with and without early results, which rounds in lockstep take nothing of.
 */
#include "base/mem.h"
#include "coordinator/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { N_SEEDS = 3, DRAFTERS = 4, BUDGET = 8, STREAMS = 8, ANSWER = 128 };
static const uint64_t US = 1000;

typedef struct {
    sim_options o;
    sim_drafter drafters[DRAFTERS];
    proto_habit habit;
    sim_lengths lengths;
    sim_drafter *unused;
} world;

typedef struct {
    double tokens_per_s;
    uint64_t asked, lockstep; /* rounds */
} outcome;

static double share(const outcome *o) { return (double)o->lockstep / (double)o->asked; }

static const char *const names[] = {"a", "b", "c", "d"};

static void point(sim_cost *c, uint32_t size, uint64_t ns) {
    c->size[c->n] = size;
    for (int i = 0; i < SIM_COST_DRAWS; i++) c->ns[c->n][i] = ns;
    c->n++;
}

static void set(world *w, sched_fusion fusion, sched_ahead ahead, const char *policy, uint32_t n_drafters) {
    memset(w, 0, sizeof *w);
    w->lengths = (sim_lengths){8, UINT32_MAX};
    w->o = (sim_options){.seed = 7,
                         .n_copies = 1,
                         .limits = {.max_requests = 64,
                                    .max_running = 32,
                                    .max_queue = 32,
                                    .max_rows = 256,
                                    .max_batch = 32,
                                    .prefill_chunk = 64,
                                    .max_tree = BUDGET,
                                    .max_context = 2048,
                                    .n_groups = 1,
                                    .n_blocks = {4096},
                                    .speculation = policy,
                                    .n_drafters = n_drafters,
                                    .drafter_names = names,
                                    .n_vocab = 4096,
                                    .adaptive_budgets = true,
                                    .draft_floor = 0.05f,
                                    .fusion = fusion,
                                    .draft_ahead = ahead,
                                    .draft_wait_ns = 500000 * US},
                         .drafters = w->drafters,
                         .early_share = 0.75,
                         .early_right = 0.97,
                         .max_tokens = ANSWER,
                         .lengths = &w->lengths,
                         .n_lengths = 1,
                         .n_slots = STREAMS};
    point(&w->o.step, 0, 0);
    point(&w->o.step, 1, 10000 * US);
    point(&w->o.step, 8, 12000 * US);
    point(&w->o.step, 64, 40000 * US);
    for (uint32_t d = 0; d < PROTO_HABIT_DEPTHS; d++) {
        w->habit.seen[0][d][14] = 40, w->habit.hits[0][d][14] = 36;
        w->habit.seen[0][d][1] = 60, w->habit.hits[0][d][1] = 6;
    }
    for (uint32_t i = 0; i < n_drafters; i++) {
        point(&w->drafters[i].cost, 0, 0);
        point(&w->drafters[i].cost, 1, 100 * US);
        point(&w->drafters[i].cost, 8, 800 * US);
        w->drafters[i].habit = &w->habit;
        w->drafters[i].as = i;
    }
}

typedef struct {
    uint64_t way_us;
    uint32_t n_requests; /* 0: no more loads */
} load;

/* One load behind the other; what the last one gave, and its rounds. */
static outcome run(world *w, uint32_t n_streams, const load *loads) {
    st_error e;
    sim *s;
    size_t bytes = sim_bytes(&w->o);
    void *memory = mem_alloc_aligned(bytes ? bytes : 64, 1, 64);
    outcome out = {0};
    if (sim_init(memory, &w->o, &s, &e)) fail_msg("%s", e.message);
    for (; loads->n_requests; loads++) {
        sched_stats before = sim_get_stats(s, 0);
        sim_set_link(s, loads->way_us * US);
        sim_begin(s, &(sim_load){.n_streams = n_streams, .n_requests = loads->n_requests}, NULL, NULL);
        while (sim_step(s)) {
        }
        sched_stats after = sim_get_stats(s, 0);
        out.tokens_per_s = (double)sim_get_figures(s).tokens * 1e9 / (double)sim_get_figures(s).now_ns;
        out.asked = after.asked_rounds - before.asked_rounds;
        out.lockstep = after.lockstep_rounds - before.lockstep_rounds;
    }
    mem_free(memory);
    return out;
}

/* Means over the seeds, by fusion. */
static void compare(sched_ahead ahead, const char *policy, uint32_t n_streams, const load *loads, outcome out[3]) {
    static world w;
    memset(out, 0, 3 * sizeof *out);
    for (int seed = 0; seed < N_SEEDS; seed++)
        for (int f = 0; f < 3; f++) {
            set(&w, (sched_fusion)f, ahead, policy, DRAFTERS);
            w.o.seed = (uint64_t)seed;
            outcome o = run(&w, n_streams, loads);
            out[f].tokens_per_s += o.tokens_per_s / N_SEEDS;
            out[f].asked += o.asked;
            out[f].lockstep += o.lockstep;
        }
    print_message("%s, early results %d, %u streams, %.3f ms each way: merge %.1f, lockstep %.1f, auto %.1f tokens/s; %.3f of "
                  "its rounds in lockstep\n",
                  policy, ahead == SCHED_AHEAD_EARLY, n_streams, (double)loads->way_us / 1e3, out[SCHED_MERGE].tokens_per_s,
                  out[SCHED_LOCKSTEP].tokens_per_s, out[SCHED_FUSION_AUTO].tokens_per_s, share(&out[SCHED_FUSION_AUTO]));
}

static void short_ways_are_gone_together(void **state) {
    for (uint64_t way_us = 25; way_us <= 125; way_us += 100) {
        outcome o[3];
        compare(*(sched_ahead *)*state, "all", 1, (load[]){{way_us, 50}, {way_us, 150}, {0}}, o);
        assert_true(o[SCHED_LOCKSTEP].tokens_per_s > 1.2 * o[SCHED_MERGE].tokens_per_s); /* else there is nothing to find */
        assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.98 * o[SCHED_LOCKSTEP].tokens_per_s);
        assert_true(share(&o[SCHED_FUSION_AUTO]) > 0.9);
    }
}

static void long_ways_are_gone_once(void **state) {
    for (uint32_t n_streams = 1; n_streams <= STREAMS; n_streams *= STREAMS) {
        outcome o[3];
        compare(*(sched_ahead *)*state, "all", n_streams, (load[]){{3125, 50 * n_streams}, {3125, 150 * n_streams}, {0}}, o);
        assert_true(o[SCHED_LOCKSTEP].tokens_per_s < 0.8 * o[SCHED_MERGE].tokens_per_s);
        assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.98 * o[SCHED_MERGE].tokens_per_s);
        assert_true(o[SCHED_FUSION_AUTO].lockstep > 0 && share(&o[SCHED_FUSION_AUTO]) < 0.02); /* it is tried */
    }
}

/* Where both give about the same, whatever is taken must not be less than the better by more than a little. */
static void ways_between_cost_little(void **state) {
    for (uint64_t way_us = 400; way_us <= 600; way_us += 100) {
        outcome o[3];
        compare(*(sched_ahead *)*state, "all", 1, (load[]){{way_us, 50}, {way_us, 150}, {0}}, o);
        double best = o[SCHED_MERGE].tokens_per_s;
        if (o[SCHED_LOCKSTEP].tokens_per_s > best) best = o[SCHED_LOCKSTEP].tokens_per_s;
        assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.97 * best);
    }
}

/* It asks three drafters at most. */
static void hedge_finds_it_too(void **state) {
    for (uint64_t way_us = 25; way_us <= 3125; way_us += 3100) {
        outcome o[3];
        compare(*(sched_ahead *)*state, "hedge", 1, (load[]){{way_us, 50}, {way_us, 150}, {0}}, o);
        double best = o[SCHED_MERGE].tokens_per_s;
        if (o[SCHED_LOCKSTEP].tokens_per_s > best) best = o[SCHED_LOCKSTEP].tokens_per_s;
        assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.97 * best);
    }
}

static void a_link_that_changes_is_followed(void **state) {
    outcome o[3];
    compare(*(sched_ahead *)*state, "all", 1, (load[]){{25, 50}, {3125, 10}, {3125, 50}, {0}}, o); /* from fast to slow */
    assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.98 * o[SCHED_MERGE].tokens_per_s);
    compare(*(sched_ahead *)*state, "all", 1, (load[]){{625, 50}, {25, 50}, {25, 100}, {0}},
            o); /* and back: it takes tries to see that */
    assert_true(o[SCHED_FUSION_AUTO].tokens_per_s > 0.97 * o[SCHED_LOCKSTEP].tokens_per_s);
}

/* Nobody is there whose token it could go on from. */
static void one_drafter_never_goes_in_lockstep(void **state) {
    static world w;
    for (int i = 0; i < 2; i++) {
        set(&w, SCHED_FUSION_AUTO, *(sched_ahead *)*state, i ? "fixed:b" : "all", i ? DRAFTERS : 1);
        outcome o = run(&w, 1, (load[]){{25, 50}, {0}});
        assert_true(o.asked > 1000 && o.lockstep == 0);
    }
}

/* There is nothing then to choose by. */
static void fixed_budgets_never_go_in_lockstep(void **state) {
    static world w;
    set(&w, SCHED_FUSION_AUTO, *(sched_ahead *)*state, "all", DRAFTERS);
    w.o.limits.adaptive_budgets = false;
    outcome o = run(&w, 1, (load[]){{25, 20}, {0}});
    assert_true(o.asked > 400 && o.lockstep == 0);
}

int main(void) {
    static sched_ahead off = SCHED_AHEAD_OFF, early = SCHED_AHEAD_EARLY;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(short_ways_are_gone_together, &off),
        cmocka_unit_test_prestate(short_ways_are_gone_together, &early),
        cmocka_unit_test_prestate(long_ways_are_gone_once, &off),
        cmocka_unit_test_prestate(long_ways_are_gone_once, &early),
        cmocka_unit_test_prestate(ways_between_cost_little, &off),
        cmocka_unit_test_prestate(ways_between_cost_little, &early),
        cmocka_unit_test_prestate(a_link_that_changes_is_followed, &off),
        cmocka_unit_test_prestate(a_link_that_changes_is_followed, &early),
        cmocka_unit_test_prestate(one_drafter_never_goes_in_lockstep, &off),
        cmocka_unit_test_prestate(one_drafter_never_goes_in_lockstep, &early),
        cmocka_unit_test_prestate(fixed_budgets_never_go_in_lockstep, &off),
        cmocka_unit_test_prestate(fixed_budgets_never_go_in_lockstep, &early),
        cmocka_unit_test_prestate(hedge_finds_it_too, &off),
        cmocka_unit_test_prestate(hedge_finds_it_too, &early),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
