/* The scheduler under events chosen by the fuzzer: limits, requests, cancels, results right and wrong, groups and
 * drafters that come and go, are drained, and moves that end well or not. The scheduler may refuse anything; its state must stay
 * whole, and each accepted request must end exactly once. */
#include "base/mem.h"
#include "coordinator/coordinator_core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REQUESTS = 64, DRAFTERS = 2, GROUPS = 3 };

typedef struct {
    const uint8_t *data;
    size_t left;
    sched *s;
    uint64_t now_ns;
    uint32_t n_sent;
    uint64_t last_move;
    bool over[REQUESTS];
    struct {
        proto_result result; /* a right answer to the last plan */
        proto_item items[PROTO_MAX_PLAN_SEQUENCES];
    } groups[GROUPS + 1]; /* the last is not there */
    struct {
        proto_result result;
        bool ahead;
        proto_item items[PROTO_MAX_PLAN_SEQUENCES];
    } drafters[DRAFTERS];
} world;

static const uint32_t tokens[256] = {1, 2, 3, 4, 5, 6, 7, 8};
static const uint32_t parents[64] = {NOUNS_TREE_ROOT, 0, NOUNS_TREE_ROOT, 1, 1, 7};
static const float probabilities[64] = {1, 0.5F, 0.25F, 1, 1.5F};
static const char *const names[DRAFTERS] = {"a", "b"};
static const char *const policies[] = {"all", "none", "lookup", "fixed:a", "fixed:b", "", "fixed:c", "x"};

static uint8_t byte(world *w) {
    if (w->left == 0) return 0;
    w->left--;
    return *w->data++;
}

static void answer(world *w, uint32_t group, const proto_plan *p) {
    INVARIANT(group < GROUPS);
    proto_item *items = w->groups[group].items;
    w->groups[group].result = (proto_result){.plan_id = p->id, .n_items = p->n_work, .items = items};
    for (uint32_t i = 0; i < p->n_swaps; i++)
        *(p->swaps[i].in ? &w->groups[group].result.swap_in_ns : &w->groups[group].result.swap_out_ns) += p->id % 8;
    for (uint32_t i = 0; i < p->n_work; i++) {
        uint32_t n_tokens = byte(w) % 4 != 0; /* right or wrong, as it happens: a chunk takes none */
        items[i] = (proto_item){.seq = p->work[i].seq, .n_tokens = n_tokens, .tokens = tokens + byte(w) % 128};
        if (byte(w) % 64 == 63) items[i].code = ST_ERR_NUMERIC;
    }
}

/* Trees are right up to a few nodes, and then not. */
static void answer_drafts(world *w, uint32_t drafter, const proto_plan *p) {
    INVARIANT(drafter < DRAFTERS && p->kind == PROTO_PLAN_DRAFT);
    INVARIANT(w->drafters[drafter].result.plan_id == 0 || w->drafters[drafter].ahead);
    w->drafters[drafter].ahead = p->ahead;
    proto_item *items = w->drafters[drafter].items;
    w->drafters[drafter].result = (proto_result){.plan_id = p->id, .n_items = p->n_draft, .items = items};
    for (uint32_t i = 0; i < p->n_draft; i++) {
        uint32_t n = byte(w) % 8;
        if (n > p->draft[i].budget && byte(w) % 4) n = p->draft[i].budget;
        items[i] = (proto_item){.seq = p->draft[i].seq};
        items[i].tree = (token_tree){
            .n_nodes = n, .token = tokens + byte(w) % 4, .parent = parents, .probability = n % 2 ? probabilities : NULL};
        if (byte(w) % 64 == 63) items[i].code = ST_ERR_NO_BLOCKS;
    }
}

static void drafter_event(world *w, sched_event *ev, proto_result *result) {
    ev->drafter = byte(w) % (DRAFTERS + 1); /* one that is not there, too */
    if (ev->drafter == DRAFTERS) return;
    proto_result *waiting = &w->drafters[ev->drafter].result;
    *result = *waiting;
    uint8_t how = byte(w);
    bool stale = how == 1 && ev->kind == SCHED_DRAFTS; /* a drafter that goes or comes has nothing in flight after that */
    if (stale)
        result->plan_id++;
    else
        waiting->plan_id = 0;
    if (how == 2 && result->n_items > 0) result->n_items--;
}

static void step(world *w, const sched_event *ev) {
    w->now_ns += byte(w) % 8;
    sched_actions acts = sched_step(w->s, w->now_ns, ev);
    for (uint32_t i = 0; i < acts.n; i++) {
        const sched_action *a = &acts.items[i];
        if (a->kind == SCHED_ACT_PLAN) answer(w, a->group, a->plan);
        if (a->kind == SCHED_ACT_MOVE) w->last_move = a->move;
        if (a->kind == SCHED_ACT_DRAFT) answer_drafts(w, a->drafter, a->plan);
        if (a->kind != SCHED_ACT_FINISHED) continue;
        INVARIANT(a->seq.value >= 1 && a->seq.value <= w->n_sent && !w->over[a->seq.value - 1]);
        w->over[a->seq.value - 1] = true;
    }
    sched_check(w->s);
}

static void one_event(world *w) {
    sched_event ev = {.kind = (sched_event_kind)(byte(w) % (SCHED_TIMER + 1)), .group = byte(w) % (GROUPS + 1)};
    proto_result *result = &w->groups[ev.group].result;
    ev.result = result;
    static const sched_event_kind usual[] = {SCHED_REQUEST, SCHED_RESULT, SCHED_RESULT, SCHED_DRAFTS, SCHED_EARLY,
                                             SCHED_MOVED,   SCHED_EMPTY,  SCHED_FILL,   SCHED_FORGET};
    proto_result drafts = {0}, early = *result;
    proto_item first;
    if (byte(w) % 4 != 0) ev.kind = usual[byte(w) % 9];
    if (ev.kind == SCHED_REQUEST && w->n_sent == REQUESTS) ev.kind = SCHED_RESULT;
    if (ev.kind == SCHED_REQUEST) {
        ev.seq.value = ++w->n_sent;
        ev.tokens = tokens;
        ev.n_tokens = byte(w);
        ev.max_tokens = byte(w);
        ev.rules.ends = tokens;
        ev.rules.n_ends = byte(w) % 8;
        ev.deadline_ns = byte(w);
        ev.priority = byte(w) % (2 * PROTO_MAX_PRIORITY + 1) - PROTO_MAX_PRIORITY;
        ev.speculation = policies[byte(w) % 8];
    }
    if (ev.kind == SCHED_CANCEL) {
        ev.seq.value = byte(w);
        ev.code = byte(w) % 2 ? ST_OK : ST_ERR_CANCELLED;
        ev.finish = ev.code == ST_OK ? SCHED_FINISH_STOP : SCHED_FINISH_CANCELLED;
    }
    if (ev.kind == SCHED_RESULT) {
        uint8_t how = byte(w);
        if (how == 1) result->plan_id++;
        if (how == 2 && result->n_items > 0) result->n_items--;
        if (how == 3) w->groups[ev.group].items[0].seq.value++;
    }
    if (ev.kind == SCHED_EARLY) {
        uint8_t how = byte(w) % 4;
        ev.result = &early;
        if (how == 1) early.plan_id++;
        if (how == 2 && early.n_items > 0) early.n_items--;
        if (how == 3 && early.n_items > 0) {
            first = early.items[0];
            first.n_tokens = byte(w) % 3;
            first.tokens = tokens + byte(w) % 128;
            early.items = &first;
            early.n_items = 1;
        }
    }
    if (ev.kind == SCHED_MOVED) {
        ev.move = w->last_move - byte(w) % 4; /* in flight, over, or none */
        ev.code = byte(w) % 4 ? ST_OK : ST_ERR_UNAVAILABLE;
    }
    if (ev.kind >= SCHED_DRAFTER_UP && ev.kind <= SCHED_DRAFTS) {
        ev.result = &drafts;
        drafter_event(w, &ev, &drafts);
    }
    step(w, &ev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    world w = {.data = data, .left = size};
    sched_limits l = {.max_requests = byte(&w),
                      .max_running = byte(&w),
                      .max_queue = byte(&w),
                      .max_rows = byte(&w),
                      .max_batch = byte(&w),
                      .prefill_chunk = byte(&w),
                      .max_tree = byte(&w) % 72U,
                      .max_context = byte(&w),
                      .n_groups = 1 + byte(&w) % GROUPS,
                      .n_blocks = {byte(&w) % 64U, byte(&w) % 64U, byte(&w) % 64U},
                      .speculation = "all",
                      .n_drafters = DRAFTERS,
                      .drafter_names = names,
                      .n_vocab = 200,
                      .draft_wait_ns = byte(&w)};
    l.max_stall_ns = l.draft_wait_ns / 8 % 4;
    l.adaptive_budgets = l.draft_wait_ns % 2;
    l.draft_ahead = (sched_ahead)(l.draft_wait_ns / 2 % 3);
    l.prefix_cache = l.draft_wait_ns / 4 % 2;
    l.fusion = (sched_fusion)(l.draft_wait_ns / 4 % 3);
    l.drafter_blocks[0] = (uint32_t)(l.draft_wait_ns / 8 % 8);
    l.max_moves = l.draft_wait_ns / 8 % 4;
    l.min_move_tokens = 32;
    for (uint32_t g = 0; g < GROUPS && l.prefix_cache; g++) l.n_slots[g] = (uint32_t)(l.draft_wait_ns / 16 % 8 * (1 + g));
    for (uint32_t g = 0; g < GROUPS; g++) l.serves[g] = (sched_service)(l.draft_wait_ns / 16 / (1 + g) % 3);
    size_t n = sched_bytes(&l);
    if (n == 0) return 0;
    void *memory = mem_alloc_aligned(1, n, 64);
    if (sched_init(memory, &l, &w.s, NULL) != ST_OK) st_abort(__FILE__, __LINE__, "sched_bytes and sched_init disagree");
    for (uint32_t g = 0; g < l.n_groups; g++) step(&w, &(sched_event){.kind = SCHED_GROUP_UP, .group = g});
    while (w.left > 0) one_event(&w);
    for (uint32_t g = 0; g < l.n_groups; g++) step(&w, &(sched_event){.kind = SCHED_GROUP_DOWN, .group = g});
    for (uint32_t i = 0; i < w.n_sent; i++) INVARIANT(w.over[i]);
    INVARIANT(sched_get_stats(w.s).blocks_used == 0);
    mem_free(memory);
    return 0;
}
