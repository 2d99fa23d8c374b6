/* Which fusion is taken, in a cluster of virtual time: four drafters that know different things, links of a given round trip. Each
 * of them is sure of two tokens in five, and then nearly always right, and has no idea of the others. So what one drafts alone
 * ends soon, and together they go on. */
#include "base/mem.h"
#include "coordinator/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { DRAFTERS = 4, BUDGET = 8, STREAMS = 8, ANSWER = 128 };
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
    sched_stats stats;
} outcome;

static const char *const names[] = {"a", "b", "c", "d"};

static void point(sim_cost *c, uint32_t size, uint64_t ns) {
    c->size[c->n] = size;
    for (int i = 0; i < SIM_COST_DRAWS; i++) c->ns[c->n][i] = ns;
    c->n++;
}

static void set(world *w, sched_fusion fusion, uint32_t n_drafters, uint64_t way_us) {
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
                                    .speculation = "all",
                                    .n_drafters = n_drafters,
                                    .drafter_names = names,
                                    .n_vocab = 4096,
                                    .adaptive_budgets = true,
                                    .draft_floor = 0.05f,
                                    .fusion = fusion,
                                    .draft_wait_ns = 500000 * US},
                         .drafters = w->drafters,
                         .link_ns = way_us * US,
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
    }
}

static outcome run(world *w, uint32_t n_streams, uint64_t n_warm_up, uint64_t n, uint64_t later_us) {
    st_error e;
    sim *s;
    size_t bytes = sim_bytes(&w->o);
    void *memory = mem_alloc_aligned(bytes ? bytes : 64, 1, 64);
    if (sim_init(memory, &w->o, &s, &e)) fail_msg("%s", e.message);
    sim_begin(s, &(sim_load){.n_streams = n_streams, .n_requests = n_warm_up}, NULL, NULL);
    while (sim_step(s)) {
    }
    if (later_us) {
        sim_set_link(s, later_us * US);
    }
    sched_stats before = sim_get_stats(s, 0);
    sim_begin(s, &(sim_load){.n_streams = n_streams, .n_requests = n}, NULL, NULL);
    while (sim_step(s)) {
    }
    sim_figures f = sim_get_figures(s);
    outcome out = {(double)f.tokens * 1e9 / (double)f.now_ns, sim_get_stats(s, 0)};
    out.stats.asked_rounds -= before.asked_rounds;
    out.stats.lockstep_rounds -= before.lockstep_rounds;
    mem_free(memory);
    return out;
}

static void table(void **state) {
    (void)state;
    static world w;
    for (uint64_t way = 300; way <= 600; way += 100) 
        for (int f = 0; f < 3; f++) {
            set(&w, (sched_fusion)f, 4, way);
            outcome o = run(&w, 1, 50, 200, 0);
            print_message("%llu us, fusion %d: %.1f; expected %.1f accepted %llu; asked %llu lockstep %llu unasked %llu steps %llu\n", (unsigned long long)way, f, o.tokens_per_s, o.stats.expected, (unsigned long long)o.stats.drafts.accepted,(unsigned long long)o.stats.asked_rounds,(unsigned long long)o.stats.lockstep_rounds,(unsigned long long)o.stats.unasked_rounds,(unsigned long long)o.stats.drafts.steps);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
