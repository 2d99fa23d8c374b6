/* The virtual cluster: where what must come out can be said beforehand. */
#include "base/mem.h"
#include "coordinator/sim.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { ANSWER = 61, PROMPT = 12, BUDGET = 4, STREAMS = 16 };
static const uint64_t MS = 1000000;

/* What a test sets, and what came of it. */
typedef struct {
    sim_options o;
    sim_drafter drafter;
    proto_habit habit, lookup;
    sim_lengths lengths;
    void *memory;
    sim *sim;
    uint64_t n_done, n_failed, steps, drafted, accepted, tokens, sum_ns, first_sent_ns, last_sent_ns, first_ns, last_ns;
    uint64_t longest_gap_ns; /* mean of one answer's tokens behind its first */
} world;

static const char *const names[] = {"d"};

static void flat(sim_cost *c, uint32_t point, uint32_t size, uint64_t ns) {
    c->n = point + 1;
    c->size[point] = size;
    for (int i = 0; i < SIM_COST_DRAWS; i++) c->ns[point][i] = ns;
}

/* A verifier of 10 ms a step whatever is in it, a drafter of no time. */
static void set(world *w, const char *policy) {
    memset(w, 0, sizeof *w);
    w->lengths = (sim_lengths){PROMPT, UINT32_MAX};
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
                                    .n_drafters = 1,
                                    .drafter_names = names,
                                    .n_vocab = 4096,
                                    .draft_wait_ns = 500 * MS},
                         .drafters = &w->drafter,
                         .max_tokens = ANSWER,
                         .lengths = &w->lengths,
                         .n_lengths = 1,
                         .n_slots = STREAMS};
    flat(&w->o.step, 0, 0, 0);
    flat(&w->o.step, 1, 1, 10 * MS);
    flat(&w->drafter.cost, 0, 0, 0);
    w->drafter.habit = &w->habit;
}

static void set_verifiers(world *w, uint32_t n) {
    sched_limits *l = &w->o.limits;
    l->n_groups = n;
    for (uint32_t g = 1; g < n; g++) l->n_blocks[g] = l->n_blocks[0];
    w->o.n_slots = n * STREAMS;
}

/* A chain that never ends, of beliefs in one bin, `hits` of a hundred right. */
static void chain(proto_habit *h, uint32_t bin, uint64_t hits) {
    for (uint32_t d = 0; d < PROTO_HABIT_DEPTHS; d++) h->seen[0][d][bin] = 100, h->hits[0][d][bin] = hits;
}

static void take(void *context, const sim_record *r) {
    world *w = context;
    w->n_done++;
    w->n_failed += r->code != ST_OK;
    w->steps += r->drafts.steps;
    w->drafted += r->drafts.drafted;
    w->accepted += r->drafts.accepted;
    w->tokens += r->n_tokens;
    w->sum_ns += r->end_ns - r->sent_ns;
    w->last_sent_ns = r->sent_ns;
    w->last_ns = r->last_ns;
    uint64_t gap_ns = r->n_tokens > 1 ? (r->last_ns - r->first_ns) / (r->n_tokens - 1) : 0;
    if (gap_ns > w->longest_gap_ns) w->longest_gap_ns = gap_ns;
    if (w->n_done == 1) w->first_sent_ns = r->sent_ns, w->first_ns = r->first_ns;
}

static void begin(world *w) {
    st_error e;
    size_t bytes = sim_bytes(&w->o);
    w->memory = mem_alloc_aligned(bytes ? bytes : 64, 1, 64);
    if (sim_init(w->memory, &w->o, &w->sim, &e)) fail_msg("%s", e.message);
}

static sim_figures run(world *w, uint32_t n_streams, uint64_t n_requests) {
    sim_load load = {.n_streams = n_streams, .n_requests = n_requests};
    w->n_done = w->n_failed = w->steps = w->drafted = w->accepted = w->tokens = w->sum_ns = 0;
    sim_begin(w->sim, &load, take, w);
    while (sim_step(w->sim)) {
    }
    assert_int_equal(w->n_done, n_requests);
    return sim_get_figures(w->sim);
}

static double rate_of(world *w, uint32_t n_streams, uint64_t n_warm_up, uint64_t n_requests) {
    begin(w);
    if (n_warm_up) run(w, n_streams, n_warm_up);
    sim_figures f = run(w, n_streams, n_requests);
    mem_free(w->memory);
    return (double)f.tokens * 1e9 / (double)f.now_ns;
}

static void without_drafts_a_token_takes_a_step(void **state) {
    (void)state;
    static world w;
    set(&w, "none");
    begin(&w);
    sim_figures f = run(&w, 1, 10);
    assert_int_equal(f.tokens, 10 * ANSWER);
    assert_int_equal(f.now_ns, 10 * ANSWER * 10 * MS);
    assert_int_equal(sim_get_verifier(w.sim, 0, 0).busy_ns, f.now_ns);
    assert_int_equal(sim_get_stats(w.sim, 0).tokens, f.tokens);
    assert_int_equal(sim_get_drafter(w.sim, 0, 0).plans, 0);
    f = run(&w, 8, 80); /* eight share each step, but for the prompts' */
    assert_true(f.now_ns >= 10 * ANSWER * 10 * MS && f.now_ns < 10 * (ANSWER + 2) * 10 * MS);
    mem_free(w.memory);
}

/* A draft takes 2 ms of the 2.5 ms between the early result and the result. Behind wrong ones it takes them behind the result. */
static void nobody_waits_for_a_drafter_that_begins_on_early_results(void **state) {
    (void)state;
    static const double right[] = {1, 0.5, 0};
    uint64_t took_ns[3], off_ns = 0;
    for (int i = -1; i < 3; i++) {
        static world w;
        set(&w, "fixed:d");
        chain(&w.habit, PROTO_HABIT_BINS - 1, 100);
        flat(&w.drafter.cost, 0, 0, 2 * MS);
        w.o.limits.draft_ahead = i < 0 ? SCHED_AHEAD_OFF : SCHED_AHEAD_EARLY;
        w.o.early_share = 0.75;
        w.o.early_right = i < 0 ? 1 : right[i];
        begin(&w);
        *(i < 0 ? &off_ns : &took_ns[i]) = run(&w, 1, 20).now_ns;
        sched_stats st = sim_get_stats(w.sim, 0);
        assert_int_equal(st.tokens, 20 * ANSWER);
        assert_int_equal(w.accepted, w.drafted);
        if (i == 0) assert_true(took_ns[0] == w.steps * 10 * MS && st.early_right > 0 && st.bets_won == st.bets);
        assert_true((st.early_wrong > 0) == (i > 0) && (i < 0 || st.early_right > 0 || right[i] < 1));
        mem_free(w.memory);
    }
    assert_true(took_ns[0] < took_ns[1] && took_ns[1] < took_ns[2] && took_ns[2] == off_ns);
}

static void a_perfect_drafter_gives_the_budget_and_one(void **state) {
    (void)state;
    for (int adaptive = 0; adaptive < 2; adaptive++) {
        static world w;
        set(&w, "fixed:d");
        w.o.limits.adaptive_budgets = adaptive;
        chain(&w.habit, PROTO_HABIT_BINS - 1, 100);
        begin(&w);
        if (adaptive) run(&w, 1, 50);
        run(&w, 1, 20);
        assert_int_equal(w.tokens, 20 * ANSWER);
        if (!adaptive) assert_int_equal(w.steps, 20 * (1 + (ANSWER - 1) / (BUDGET + 1))); /* the first token is the prompt's */
        assert_true((double)w.steps < 1.1 * 20 * (1 + (ANSWER - 1) / (BUDGET + 1)));
        assert_int_equal(w.accepted, w.tokens - w.steps);
        mem_free(w.memory);
    }
}

static void drafts_are_right_as_often_as_such_beliefs_were(void **state) {
    (void)state;
    static world w;
    set(&w, "fixed:d");
    w.o.limits.max_tree = 1;
    chain(&w.habit, 6, 45);
    begin(&w);
    run(&w, 1, 400);
    double share = (double)w.accepted / (double)w.drafted;
    print_message("45 %% are to be right: %.1f %% of %llu\n", 100 * share, (unsigned long long)w.drafted);
    assert_true(w.drafted > 10000 && share > 0.43 && share < 0.47);
    mem_free(w.memory);
}

/* Lookup is the scheduler's own; the text is to be so that it finds what it is said to find. */
static void texts_repeat_as_was_measured(void **state) {
    (void)state;
    static world w;
    set(&w, "lookup");
    w.lengths.n_prompt = 100;
    w.o.lookup = &w.lookup;
    w.o.limits.max_tree = 1;
    w.lookup.none[0] = 400;
    w.lookup.seen[0][0][4] = 400, w.lookup.hits[0][0][4] = 80;   /* behind one token */
    w.lookup.seen[0][0][9] = 100, w.lookup.hits[0][0][9] = 55;   /* two */
    w.lookup.seen[0][0][14] = 100, w.lookup.hits[0][0][14] = 90; /* six */
    begin(&w);
    run(&w, 1, 400);
    double drafted = (double)w.drafted / (double)(w.steps - 400), right = (double)w.accepted / (double)w.drafted;
    print_message("60 %% of rounds are to draft: %.1f %%; 37 %% to be right: %.1f %%\n", 100 * drafted, 100 * right);
    assert_true(drafted > 0.55 && drafted < 0.65 && right > 0.3 && right < 0.45);
    mem_free(w.memory);
}

/* The corpus has no rank: it drafts at once, by its habit. */
static void the_corpus_drafts_as_was_measured(void **state) {
    (void)state;
    for (int perfect = 0; perfect < 2; perfect++) {
        static world w;
        static proto_habit corpus;
        set(&w, "all");
        w.o.limits.n_drafters = 0;
        w.o.corpus = &corpus;
        memset(&corpus, 0, sizeof corpus);
        chain(&corpus, perfect ? PROTO_HABIT_BINS - 1 : 6, perfect ? 100 : 45);
        w.o.limits.max_tree = perfect ? BUDGET : 1;
        begin(&w);
        run(&w, 1, 400);
        double share = (double)w.accepted / (double)w.drafted;
        assert_int_equal(w.tokens, 400 * ANSWER);
        if (perfect) assert_int_equal(w.steps, 400 * (1 + (ANSWER - 1) / (BUDGET + 1)));
        if (!perfect) assert_true(w.drafted > 10000 && share > 0.43 && share < 0.47);
        sched_stats st = sim_get_stats(w.sim, 0);
        assert_int_equal(st.n_by_drafter, 2);
        assert_string_equal(st.by_drafter[1].name, "corpus");
        assert_int_equal(st.by_drafter[1].accepted, w.accepted);
        mem_free(w.memory);
    }
}

/* Two of 45 right of a hundred. Of one file they are right together, or where all tokens are as easy for one as for another. */
static void what_drafters_know_alike_counts_once(void **state) {
    (void)state;
    static const char *const two[] = {"d", "e"};
    static const struct {
        uint32_t as;
        double alike, low, high; /* accepted a step */
    } cases[] = {{0, 0, 0.43, 0.47}, {1, 0, 0.67, 0.73}, {1, 1, 0.43, 0.47}, {1, 0.5, 0.5, 0.66}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static world w;
        static sim_drafter drafters[2];
        set(&w, "all");
        chain(&w.habit, 6, 45);
        drafters[0] = drafters[1] = w.drafter;
        drafters[1].as = cases[i].as;
        w.o.drafters = drafters;
        w.o.alike = cases[i].alike;
        w.o.limits.drafter_names = two;
        w.o.limits.n_drafters = 2;
        w.o.limits.max_tree = 2;
        for (uint32_t d = 1; d < PROTO_HABIT_DEPTHS; d++) w.habit.seen[0][d][6] = 0;
        begin(&w);
        run(&w, 1, 400);
        double each = (double)w.accepted / (double)(w.steps - 400); /* the first step of each is its prompt's */
        print_message("number %u, alike %.1f: %.3f a step\n", cases[i].as, cases[i].alike, each);
        assert_true(each > cases[i].low && each < cases[i].high);
        mem_free(w.memory);
    }
}

static void a_slow_link_makes_drafting_not_worth_it(void **state) {
    (void)state;
    static world w;
    double rates[2];
    for (int i = 0; i < 2; i++) {
        set(&w, i ? "all" : "none");
        w.o.limits.adaptive_budgets = true;
        w.o.link_ns = 50 * MS;
        chain(&w.habit, 4, 28);
        rates[i] = rate_of(&w, 1, 20, 100);
    }
    print_message("behind 50 ms each way: %.3f of none\n", rates[1] / rates[0]);
    assert_true(rates[1] > 0.98 * rates[0]);
    set(&w, "all");
    w.o.limits.adaptive_budgets = true;
    chain(&w.habit, 4, 28);
    assert_true(rate_of(&w, 1, 20, 100) > 1.2 * 100); /* without the way it is */
}

static void a_link_takes_its_latency_and_its_bytes(void **state) {
    (void)state;
    static world w;
    set(&w, "none");
    w.o.link_ns = 3 * MS;
    begin(&w);
    run(&w, 1, 1);
    assert_int_equal(w.first_ns, 16 * MS);
    mem_free(w.memory);
    set(&w, "none");
    w.lengths.n_prompt = 1000;
    w.o.limits.max_rows = w.o.limits.prefill_chunk = 1024;
    w.o.link_byte_ns = 80; /* 100 Mbit/s */
    begin(&w);
    run(&w, 1, 1);
    assert_true(w.first_ns > 10 * MS + 3000 * 80 && w.first_ns < 10 * MS + 4000 * 80); /* three bytes a token, and some */
    mem_free(w.memory);
}

/* Points of no, two and six rows: what one row takes is not known, and is that of two. */
static void costs_lie_on_lines_through_their_points(void **state) {
    (void)state;
    static const struct {
        uint32_t n_streams;
        double step_ms;
    } cases[] = {{1, 10}, {2, 10}, {4, 20}, {6, 30}, {10, 50}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static world w;
        set(&w, "none");
        w.lengths.n_prompt = 1; /* so that all are in step from the first token on */
        flat(&w.o.step, 1, 2, 10 * MS);
        flat(&w.o.step, 2, 6, 30 * MS);
        begin(&w);
        sim_figures f = run(&w, cases[i].n_streams, cases[i].n_streams);
        double ms = (double)f.now_ns / 1e6 / ANSWER;
        print_message("%u rows: %.2f ms\n", cases[i].n_streams, ms);
        assert_true(ms > 0.95 * cases[i].step_ms && ms < 1.05 * cases[i].step_ms);
        mem_free(w.memory);
    }
}

static void each_sequence_of_a_step_adds_its_time(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 8; n *= 2) {
        static world w;
        set(&w, "none");
        w.lengths.n_prompt = 1;
        w.o.step.sequence_ns = (double)MS;
        begin(&w);
        double ns = (double)run(&w, n, n).now_ns, expected_ns = (double)(ANSWER * (10 + n - 1) * MS);
        assert_true(ns >= expected_ns && ns < 1.02 * expected_ns); /* the first is a step ahead */
        mem_free(w.memory);
    }
}

/* The longest step with decoding sequences and prompts, and how many there were. */
static uint64_t longest_mixed_ns(world *w, uint32_t n_streams, uint64_t n_requests, uint64_t *n_mixed) {
    sim_load load = {.n_streams = n_streams, .n_requests = n_requests};
    uint64_t longest_ns = 0, sent_ns = 0, busy_ns = 0, mixed = sim_get_stats(w->sim, 0).mixed_steps, first = mixed;
    sim_begin(w->sim, &load, take, w);
    while (sim_step(w->sim)) {
        uint64_t now_ns = sim_get_figures(w->sim).now_ns, now_busy_ns = sim_get_verifier(w->sim, 0, 0).busy_ns;
        if (sim_get_stats(w->sim, 0).mixed_steps > mixed && now_ns - sent_ns > longest_ns) longest_ns = now_ns - sent_ns;
        mixed = sim_get_stats(w->sim, 0).mixed_steps;
        if (now_busy_ns > busy_ns) sent_ns = now_ns; /* the next step began */
        busy_ns = now_busy_ns;
    }
    *n_mixed = mixed - first;
    return longest_ns;
}

static void prompts_keep_no_stream_waiting_longer_than_it_may(void **state) {
    (void)state;
    enum { BOUND = 150, ROW = 2 /* ms, of one that chooses */ };
    static const char *const policies[] = {"none", "fixed:d"};
    static world w;
    for (int curve = 0; curve < 2; curve++)
        for (int drafts = 0; drafts < 2; drafts++)
            for (int bounded = 0; bounded < 2; bounded++) {
                uint64_t n_mixed;
                set(&w, policies[drafts]);
                chain(&w.habit, 9, 60);
                w.lengths.n_prompt = 300;
                w.o.limits.max_context = 1024;
                w.o.limits.prefill_chunk = 256;
                w.o.limits.adaptive_budgets = true;
                w.o.limits.max_stall_ns = bounded ? BOUND * MS : 0;
                flat(&w.o.step, 1, 1, 20 * MS);
                flat(&w.o.step, 2, 41, (20 + 40 * ROW) * MS);
                w.o.step.n_prompts = 2; /* at first the weights are read anyway */
                w.o.step.prompt_size[0] = 32, w.o.step.prompt_ns[0] = (curve ? 8 : 48) * (double)MS;
                w.o.step.prompt_size[1] = 232,
                w.o.step.prompt_ns[1] = w.o.step.prompt_ns[0] + 200 * (curve ? 1.25 : 1.5) * (double)MS;
                begin(&w);
                uint64_t learning_ns = longest_mixed_ns(&w, 8, 200, &n_mixed);
                uint64_t ns = longest_mixed_ns(&w, 8, 100, &n_mixed);
                print_message("%s, curve %d, bound %d: longest of %llu steps %.1f ms\n", policies[drafts], curve, bounded * BOUND,
                              (unsigned long long)n_mixed, (double)ns / 1e6);
                assert_true(n_mixed > 100);
                assert_int_equal(sim_get_stats(w.sim, 0).longest_mixed_ns, learning_ns > ns ? learning_ns : ns);
                if (bounded) assert_true(ns <= (BOUND + ROW) * MS && ns > BOUND * MS * 9 / 10);
                if (!bounded) assert_true(ns > 2 * BOUND * MS);
                mem_free(w.memory);
            }
}

static void copies_and_verifiers_share_the_load(void **state) {
    (void)state;
    static world w;
    set(&w, "none");
    double one = rate_of(&w, 1, 0, 20);
    set(&w, "none");
    w.o.n_copies = 4;
    double four = rate_of(&w, 4, 0, 80);
    assert_true(four > 3.999 * one && four < 4.001 * one);
    set(&w, "none");
    w.o.n_copies = 2;
    set_verifiers(&w, 2);
    four = rate_of(&w, 4, 0, 80);
    assert_true(four > 3.999 * one && four < 4.001 * one);
}

/* One that is fast enough gives each of them what it would give one alone. */
static void a_drafter_serves_all_verifiers(void **state) {
    (void)state;
    static world w;
    double rates[2];
    for (uint32_t i = 0; i < 2; i++) {
        set(&w, "fixed:d");
        chain(&w.habit, 15, 100);
        set_verifiers(&w, 1 + 3 * i);
        begin(&w);
        sim_figures f = run(&w, 1 + 3 * i, 20 * (1 + 3 * i));
        rates[i] = (double)f.tokens / (double)f.now_ns;
        for (uint32_t g = 0; g < 1 + 3 * i; g++) assert_true(sim_get_verifier(w.sim, 0, g).busy_ns > f.now_ns / 100 * 95);
        assert_true(sim_get_drafter(w.sim, 0, 0).plans > 0);
        mem_free(w.memory);
    }
    assert_true(rates[1] > 3.9 * rates[0] && rates[1] < 4.1 * rates[0]);
}

/* A prompt of twenty blocks and a bit, in steps of four blocks, goes to the verifier that prefills; the answer comes from the
 * other. What the first token takes is the prompt's steps; the second waits for the last of the KV and a step of what is left. */
static void a_prompt_moves_while_it_is_computed(void **state) {
    (void)state;
    enum { BLOCKS = 20, ROWS = 4 * NOUNS_BLOCK_TOKENS };
    for (uint64_t token_us = 10; token_us <= 100; token_us *= 10) {
        static world w;
        set(&w, "none");
        set_verifiers(&w, 2);
        flat(&w.o.step, 0, 0, 10 * MS); /* of prompts only, too */
        w.o.step.n = 2;
        w.o.limits.serves[0] = SCHED_PREFILLS;
        w.o.limits.max_moves = 2;
        w.o.limits.min_move_tokens = NOUNS_BLOCK_TOKENS;
        w.o.limits.max_rows = w.o.limits.prefill_chunk = ROWS;
        w.lengths.n_prompt = BLOCKS * NOUNS_BLOCK_TOKENS + 5;
        w.o.max_tokens = 11;
        w.o.move_ns = 3 * MS;
        w.o.move_token_ns = (double)token_us * 1000;
        begin(&w);
        sim_figures f = run(&w, 1, 1);
        uint64_t last_ns = w.last_ns, chunk_ns = ROWS * token_us * 1000, steps = BLOCKS / 4 + 1;
        assert_int_equal(w.first_ns, steps * 10 * MS);
        /* Each step is 10 ms; the moves of four blocks take longer or shorter than that. */
        uint64_t there_ns = chunk_ns > 10 * MS ? 10 * MS + BLOCKS / 4 * chunk_ns : BLOCKS / 4 * 10 * MS + chunk_ns;
        uint64_t on_ns = there_ns + 3 * MS > w.first_ns ? there_ns + 3 * MS : w.first_ns;
        assert_int_equal(last_ns, on_ns + 10 * 10 * MS);
        assert_int_equal(f.tokens, 11);
        sched_stats st = sim_get_stats(w.sim, 0);
        assert_true(st.moves == 1 && st.moves_failed == 0 && st.moved_tokens == BLOCKS * NOUNS_BLOCK_TOKENS);
        assert_int_equal(sim_get_verifier(w.sim, 0, 1).plans, 10 + 1); /* the last one closes it */
        mem_free(w.memory);
    }
}

/* Long prompts beside answers: where one verifier prefills, steps of the other are never longer for them. */
static void answers_are_not_held_up_where_another_prefills(void **state) {
    (void)state;
    uint64_t longest_ns[2];
    for (int apart = 0; apart < 2; apart++) {
        static world w;
        static sim_lengths lengths[8];
        set(&w, "none");
        set_verifiers(&w, 2);
        for (int i = 0; i < 8; i++) lengths[i] = (sim_lengths){i % 2 ? 12 : 1000, UINT32_MAX};
        w.o.lengths = lengths;
        w.o.n_lengths = 8;
        w.o.limits.serves[0] = apart ? SCHED_PREFILLS : SCHED_BOTH;
        w.o.limits.max_moves = 8;
        w.o.limits.min_move_tokens = NOUNS_BLOCK_TOKENS;
        w.o.move_ns = 1 * MS;
        w.o.move_token_ns = 1000;
        w.o.step.n_prompts = 1;
        w.o.step.prompt_size[0] = 1;
        w.o.step.prompt_ns[0] = 1e6;
        begin(&w);
        run(&w, 8, 200);
        assert_int_equal(w.n_failed, 0);
        longest_ns[apart] = w.longest_gap_ns;
        if (apart) assert_true(sim_get_stats(w.sim, 0).moved_tokens > 50 * 900);
        mem_free(w.memory);
    }
    print_message("the slowest answer after its first token: %.1f ms a token; with a verifier that prefills %.1f\n",
                  (double)longest_ns[0] / 1e6, (double)longest_ns[1] / 1e6);
    assert_true(2 * longest_ns[1] < longest_ns[0]);
}

static void one_seed_is_one_run(void **state) {
    (void)state;
    static world w;
    uint64_t ends[3];
    for (int i = 0; i < 3; i++) {
        set(&w, "all");
        w.o.seed = i < 2 ? 1 : 2;
        w.o.n_copies = 3;
        w.o.limits.adaptive_budgets = true;
        w.lengths.n_answer = 40;
        w.o.lookup = &w.lookup;
        w.lookup.none[0] = 50;
        chain(&w.lookup, 4, 30);
        chain(&w.habit, 9, 60);
        w.o.step.ns[1][0] = 8 * MS, w.o.step.ns[1][7] = 15 * MS;
        begin(&w);
        sim_figures f = run(&w, 8, 100);
        assert_int_equal(w.tokens, 100 * 40); /* they end by themselves */
        ends[i] = f.now_ns * 1000 + f.events % 1000;
        mem_free(w.memory);
    }
    assert_int_equal(ends[0], ends[1]);
    assert_int_not_equal(ends[0], ends[2]);
}

static void an_open_loop_sends_when_it_is_time_and_is_refused_without_room(void **state) {
    (void)state;
    static world w;
    uint64_t arrivals_ns[20];
    set(&w, "none");
    begin(&w);
    for (uint64_t i = 0; i < 20; i++) arrivals_ns[i] = 5 * MS + 2000 * MS * i;
    sim_load load = {.n_requests = 20, .arrivals_ns = arrivals_ns};
    sim_begin(w.sim, &load, take, &w);
    while (sim_step(w.sim)) {
    }
    assert_int_equal(w.n_done, 20);
    assert_int_equal(w.n_failed, 0);
    assert_int_equal(w.first_sent_ns, arrivals_ns[0]);
    assert_int_equal(w.last_sent_ns, arrivals_ns[19]);
    assert_int_equal(w.sum_ns, 20 * ANSWER * 10 * MS);
    for (uint64_t i = 0; i < 20; i++) arrivals_ns[i] = 0; /* all at once */
    w.n_done = 0;
    sim_begin(w.sim, &load, take, &w);
    while (sim_step(w.sim)) {
    }
    assert_int_equal(w.n_done, 20);
    assert_int_equal(w.n_failed, 20 - STREAMS);
    mem_free(w.memory);
}

static void bad_options_are_named(void **state) {
    (void)state;
    static world w;
    static _Alignas(64) unsigned char memory[64];
    st_error e;
    set(&w, "none");
    w.o.n_copies = 0;
    assert_int_equal(sim_bytes(&w.o), 0);
    assert_int_equal(sim_init(memory, &w.o, &w.sim, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "simulator: copies: 0, must be 1 to 1024");
    set(&w, "nobody");
    size_t bytes = sim_bytes(&w.o);
    w.memory = mem_alloc_aligned(bytes, 1, 64);
    assert_int_equal(sim_init(w.memory, &w.o, &w.sim, &e), ST_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(e.message, "speculation"));
    mem_free(w.memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_drafts_a_token_takes_a_step),
        cmocka_unit_test(a_perfect_drafter_gives_the_budget_and_one),
        cmocka_unit_test(nobody_waits_for_a_drafter_that_begins_on_early_results),
        cmocka_unit_test(drafts_are_right_as_often_as_such_beliefs_were),
        cmocka_unit_test(texts_repeat_as_was_measured),
        cmocka_unit_test(the_corpus_drafts_as_was_measured),
        cmocka_unit_test(what_drafters_know_alike_counts_once),
        cmocka_unit_test(a_slow_link_makes_drafting_not_worth_it),
        cmocka_unit_test(a_link_takes_its_latency_and_its_bytes),
        cmocka_unit_test(costs_lie_on_lines_through_their_points),
        cmocka_unit_test(each_sequence_of_a_step_adds_its_time),
        cmocka_unit_test(prompts_keep_no_stream_waiting_longer_than_it_may),
        cmocka_unit_test(copies_and_verifiers_share_the_load),
        cmocka_unit_test(a_drafter_serves_all_verifiers),
        cmocka_unit_test(a_prompt_moves_while_it_is_computed),
        cmocka_unit_test(answers_are_not_held_up_where_another_prefills),
        cmocka_unit_test(one_seed_is_one_run),
        cmocka_unit_test(an_open_loop_sends_when_it_is_time_and_is_refused_without_room),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
