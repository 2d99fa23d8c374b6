/* A cluster of virtual time for tests of what drafting is worth: a verifier whose steps take a given time by their rows, drafters
 * of a given speed, honesty and skill, and clients that ask again as soon as they are answered. Steps vary by a tenth and one in
 * fifty takes three times as long. One seed is one run; one world at a time. */
#ifndef CONSORT_TESTS_GOODPUT_H
#define CONSORT_TESTS_GOODPUT_H

#include "base/mem.h"
#include "coordinator/coordinator_core.h"
#include "speculative/speculative.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { CLIENTS = 64, DRAFTERS = 3, VOCABULARY = 5000, ANSWER = 60, CONTEXT = 100, SETTLE = 600, MEASURE = 4000, N_SEEDS = 4 };
static const uint64_t US = 1000;
#define EARLY_SHARE 0.78 /* of a step that is over when it is told early what it will commit; as of the next, measured ... */
#define EARLY_RIGHT 0.97 /* ... of sequences (bench/early-2026-11-30.md) */

typedef struct {
    uint64_t takes_ns;
    double right;    /* share of its nodes that are */
    double believes; /* what it says */
} skill;

typedef struct {
    const char *policy;
    bool adaptive;
    sched_fusion fusion;
    uint32_t n_clients, max_tree, n_drafters;
    uint32_t max_batch; /* 0: all clients' */
    double (*step_us)(uint32_t rows);
    skill drafters[DRAFTERS], later[DRAFTERS]; /* later: once it is half over, if `changes` */
    bool changes;
    uint32_t lost; /* mask of drafters that are, then */
    sched_ahead ahead;
    double telling; /* share of a step that an early result costs, where one is asked for */
    bool repeats;   /* every other answer says its prompt over and over */
    bool alike;     /* all drafters are right, and wrong, at the same places */
    uint32_t n_prompt;
    uint64_t seed;
} setting;

typedef struct {
    const setting *of;
    uint64_t random, now_ns;
    sched *s;
    void *memory;
    uint64_t next_seq, step_ends_ns, n_steps;
    uint64_t early_ns;       /* then the verifier tells its result; 0: it does not, or has */
    uint32_t known[1 << 16]; /* tokens that the verifier's side of a sequence has, by the low bits of its id */
    proto_result result;
    proto_item items[CLIENTS];
    uint32_t tokens[CLIENTS][NOUNS_MAX_TREE + 1];
    struct {
        uint64_t ends_ns; /* 0: idle */
        uint32_t known[1 << 16];
        proto_result result;
        proto_item items[CLIENTS];
        uint32_t tokens[CLIENTS][NOUNS_MAX_TREE], parents[CLIENTS][NOUNS_MAX_TREE];
        float probabilities[CLIENTS][NOUNS_MAX_TREE];
    } drafters[DRAFTERS];
    uint32_t n_finished; /* of this step: to be replaced */
    uint64_t n_tokens;
    sched_stats stats;           /* at the end ... */
    uint64_t n_drafts[DRAFTERS]; /* ... and that came of each while it was measured */
    struct {
        uint64_t steps, asked;
    } of_answers[2]; /* other answers; those that repeat */
} world;

static double draw(world *w) {
    w->random = w->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(w->random >> 33) / 2147483648.0;
}

static uint32_t prompt[CONTEXT - ANSWER]; /* 1, 2, 3, ... */

static bool repeats(const world *w, uint64_t seq) { return w->of->repeats && seq % 2; }

/* The text of a sequence, from nothing but its place. */
static uint32_t token_at(const world *w, uint64_t seq, uint32_t place) {
    if (repeats(w, seq)) return prompt[place % 3];
    uint64_t h = (seq * 1000 + place + 1) * UINT64_C(0x9E3779B97F4A7C15);
    h ^= h >> 29;
    return (uint32_t)((h * UINT64_C(0xBF58476D1CE4E5B9)) >> 40) % VOCABULARY;
}

/* In [0, 1), of a place of a sequence and nothing else. */
static double luck_of(uint64_t seq, uint32_t place) {
    uint64_t h = (seq * 1000 + place + 1) * UINT64_C(0xD6E8FEB86659FD93);
    return (double)((h ^ h >> 32) * UINT64_C(0xD6E8FEB86659FD93) >> 40) / 16777216.0;
}

static double luck(world *w, uint64_t seq, uint32_t place) { return w->of->alike ? luck_of(seq, place) : draw(w); }

static void carry_out(world *w, const proto_plan *p) {
    uint32_t rows = 0;
    w->result = (proto_result){.plan_id = p->id, .n_items = p->n_work, .items = w->items};
    for (uint32_t i = 0; i < p->n_open; i++) w->known[p->open[i].seq.value & 0xffff] = p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_work; i++) {
        const proto_work *work = &p->work[i];
        uint32_t *known = &w->known[work->seq.value & 0xffff], node = NOUNS_TREE_ROOT;
        rows += work->n_prefix + work->tree.n_nodes;
        w->items[i] = (proto_item){.seq = work->seq, .tokens = w->tokens[i]};
        w->of_answers[repeats(w, work->seq.value)].steps++;
        if (work->start + work->n_prefix < *known) continue;
        do {
            uint32_t t = w->tokens[i][w->items[i].n_tokens++] = token_at(w, work->seq.value, (*known)++);
            node = spec_tree_child(&work->tree, node, t);
        } while (node != NOUNS_TREE_ROOT);
    }
    double us = rows ? w->of->step_us(rows) * (0.9 + 0.2 * draw(w)) * (draw(w) < 0.02 ? 3 : 1) : 10;
    w->early_ns = p->early ? w->now_ns + (uint64_t)(us * 1000 * EARLY_SHARE) : 0;
    w->step_ends_ns = w->now_ns + (uint64_t)(us * 1000 * (p->early ? 1 + w->of->telling : 1));
    w->n_steps += rows > 0;
}

static bool has_changed(const world *w) { return w->of->changes && w->n_steps > SETTLE + MEASURE / 2; }

/* Of n tokens before `known`, those that it would have chosen. */
static uint32_t hits_of(const skill *k, uint32_t drafter, uint64_t seq, uint32_t known, uint32_t n) {
    uint32_t hits = 0;
    for (uint32_t i = 1; i <= n; i++) hits += luck_of(seq * DRAFTERS + drafter, known - i) < k->right;
    return hits;
}

static void draft(world *w, uint32_t drafter, const proto_plan *p) {
    const skill *k = has_changed(w) ? &w->of->later[drafter] : &w->of->drafters[drafter];
    w->drafters[drafter].result = (proto_result){.plan_id = p->id, .n_items = p->n_draft, .items = w->drafters[drafter].items};
    for (uint32_t i = 0; i < p->n_open; i++) w->drafters[drafter].known[p->open[i].seq.value & 0xffff] = p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_draft; i++) {
        uint64_t seq = p->draft[i].seq.value;
        uint32_t *tokens = w->drafters[drafter].tokens[i], *parents = w->drafters[drafter].parents[i];
        uint32_t known = w->drafters[drafter].known[seq & 0xffff] += p->draft[i].n_tokens;
        uint32_t n_scored = p->draft[i].n_tokens < SPEC_MAX_SCORED ? p->draft[i].n_tokens : SPEC_MAX_SCORED;
        uint32_t n_hits = hits_of(k, drafter, seq, known, n_scored);
        w->of_answers[repeats(w, seq)].asked += p->draft[i].budget > 0;
        known += p->draft[i].n_tentative; /* what follows a wrong one is wrong too: nobody will ask for it */
        for (uint32_t n = 0; n < p->draft[i].budget; n++) {
            tokens[n] = luck(w, seq, known + n) < k->right ? token_at(w, seq, known + n) : VOCABULARY - 1;
            parents[n] = n ? n - 1 : NOUNS_TREE_ROOT;
            w->drafters[drafter].probabilities[i][n] = (float)k->believes;
        }
        w->drafters[drafter].items[i] =
            (proto_item){.seq = p->draft[i].seq,
                         .tree = {p->draft[i].budget, tokens, parents, w->drafters[drafter].probabilities[i]},
                         .n_scored = n_scored,
                         .n_hits = n_hits};
    }
    w->drafters[drafter].ends_ns = w->now_ns + k->takes_ns; /* at once, where the plan before it was ahead */
}

static void step(world *w, const sched_event *ev) {
    sched_actions acts = sched_step(w->s, w->now_ns, ev);
    for (uint32_t i = 0; i < acts.n; i++) {
        const sched_action *a = &acts.items[i];
        if (a->kind == SCHED_ACT_PLAN) carry_out(w, a->plan);
        if (a->kind == SCHED_ACT_DRAFT) draft(w, a->drafter, a->plan);
        if (a->kind == SCHED_ACT_TOKENS) w->n_tokens += a->n_tokens;
        w->n_finished += a->kind == SCHED_ACT_FINISHED;
    }
}

static void ask(world *w) {
    step(w,
         &(sched_event){
             .kind = SCHED_REQUEST, .seq = {++w->next_seq}, .tokens = prompt, .n_tokens = w->of->n_prompt, .max_tokens = ANSWER});
}

static void begin(world *w, const setting *of) {
    static const char *const names[] = {"a", "b", "c"};
    memset(w, 0, sizeof *w);
    w->of = of;
    w->random = 12345 + of->seed;
    w->now_ns = 1000000;
    for (uint32_t i = 0; i < CONTEXT - ANSWER; i++) prompt[i] = i + 1;
    const sched_limits l = {.max_requests = CLIENTS + 2,
                            .max_running = CLIENTS,
                            .max_queue = 2,
                            .max_rows = 256,
                            .max_batch = of->max_batch ? of->max_batch : CLIENTS,
                            .prefill_chunk = 16,
                            .max_tree = of->max_tree,
                            .max_context = CONTEXT,
                            .n_groups = 1,
                            .n_blocks = {CLIENTS * 6},
                            .speculation = of->policy,
                            .n_drafters = of->n_drafters,
                            .drafter_names = names,
                            .n_vocab = VOCABULARY,
                            .adaptive_budgets = of->adaptive,
                            .fusion = of->fusion,
                            .draft_ahead = of->ahead,
                            .draft_wait_ns = 200000 * US};
    w->memory = mem_alloc_aligned(1, sched_bytes(&l), 64);
    assert_int_equal(sched_init(w->memory, &l, &w->s, NULL), ST_OK);
    step(w, &(sched_event){.kind = SCHED_GROUP_UP});
    for (uint32_t i = 0; i < of->n_drafters; i++) step(w, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = i});
    for (uint32_t i = 0; i < of->n_clients; i++) ask(w);
}

/* The result, or what is told of it before: then some end with another token. */
static void tell(world *w, sched_event_kind kind) {
    proto_result r = w->result;
    proto_item items[CLIENTS];
    uint32_t tokens[CLIENTS][NOUNS_MAX_TREE + 1];
    memcpy(items, w->items, sizeof items);
    memcpy(tokens, w->tokens, sizeof tokens);
    for (uint32_t i = 0; i < r.n_items; i++) {
        items[i].tokens = tokens[i];
        if (kind == SCHED_EARLY && items[i].n_tokens && luck_of(w->n_steps, i) >= EARLY_RIGHT)
            tokens[i][items[i].n_tokens - 1] ^= 1;
    }
    r.items = items;
    step(w, &(sched_event){.kind = kind, .result = &r});
}

/* What comes first: an early result, a step's end or a drafter's answer. No wait ever runs out. */
static void one_event(world *w) {
    uint32_t first = DRAFTERS;
    uint64_t at = w->early_ns ? w->early_ns : w->step_ends_ns ? w->step_ends_ns : UINT64_MAX;
    for (uint32_t i = 0; i < DRAFTERS; i++)
        if (w->drafters[i].ends_ns && w->drafters[i].ends_ns < at) at = w->drafters[first = i].ends_ns;
    assert_true(at != UINT64_MAX);
    w->now_ns = at;
    if (first < DRAFTERS) {
        w->drafters[first].ends_ns = 0;
        step(w, &(sched_event){.kind = SCHED_DRAFTS, .drafter = first, .result = &w->drafters[first].result});
    } else if (w->early_ns) {
        w->early_ns = 0;
        tell(w, SCHED_EARLY);
    } else {
        w->step_ends_ns = 0;
        tell(w, SCHED_RESULT);
    }
    for (; w->n_finished; w->n_finished--) ask(w);
}

static void lose(world *w) {
    for (uint32_t i = 0; i < w->of->n_drafters; i++)
        if (w->of->lost >> i & 1) {
            w->drafters[i].ends_ns = 0;
            step(w, &(sched_event){.kind = SCHED_DRAFTER_DOWN, .drafter = i});
        }
}

/* Tokens a second from step SETTLE, or from where things have changed, to the end. */
static world w;
static double rate_of(const setting *of) {
    begin(&w, of);
    uint64_t from = of->changes ? SETTLE + MEASURE / 2 + SETTLE : SETTLE;
    while (w.n_steps < from) {
        if (of->changes && of->lost && w.n_steps == SETTLE + MEASURE / 2 && sched_get_drafter(w.s, 0).up) lose(&w);
        one_event(&w);
    }
    for (uint32_t i = 0; i < of->n_drafters; i++) w.n_drafts[i] = sched_get_drafter(w.s, i).drafts;
    uint64_t n_tokens = w.n_tokens, began_ns = w.now_ns;
    while (w.n_steps < SETTLE + MEASURE) one_event(&w);
    double rate = (double)(w.n_tokens - n_tokens) * 1e9 / (double)(w.now_ns - began_ns);
    w.stats = sched_get_stats(w.s);
    for (uint32_t i = 0; i < of->n_drafters; i++) w.n_drafts[i] = sched_get_drafter(w.s, i).drafts - w.n_drafts[i];
    mem_free(w.memory);
    return rate;
}

/* In that of no speculation. */
static inline double gain_of(setting of) {
    setting none = of;
    none.policy = "none";
    return rate_of(&of) / rate_of(&none);
}

static inline double flat_to_four(uint32_t rows) { return 4000 + (rows > 4 ? 1000.0 * (rows - 4) : 100.0 * rows); }
static inline double linear(uint32_t rows) { return 300 + 1000.0 * rows; }
static inline double roof(uint32_t rows) { return rows < 40 ? 4000 : 100.0 * rows; }
static inline double steps_of_eight(uint32_t rows) { return 2000.0 * ((rows + 7) / 8); }

#endif
