/* The scheduler under events chosen by the fuzzer: limits, requests, cancels, results right and wrong, a group that comes and
 * goes. The scheduler may refuse anything; its state must stay whole, and each accepted request must end exactly once. */
#include "base/mem.h"
#include "coordinator/coordinator_core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REQUESTS = 64 };

typedef struct {
    const uint8_t *data;
    size_t left;
    sched *s;
    uint64_t now_ns;
    uint32_t n_sent;
    bool over[REQUESTS];
    proto_result result; /* a right answer to the last plan */
    proto_item items[PROTO_MAX_PLAN_SEQUENCES];
} world;

static const uint32_t tokens[256] = {1, 2, 3, 4, 5, 6, 7, 8};

static uint8_t byte(world *w) {
    if (w->left == 0) return 0;
    w->left--;
    return *w->data++;
}

static void answer(world *w, const proto_plan *p) {
    w->result = (proto_result){.plan_id = p->id, .n_items = p->n_work, .items = w->items};
    for (uint32_t i = 0; i < p->n_work; i++) {
        uint32_t n_tokens = byte(w) % 4 != 0; /* right or wrong, as it happens: a chunk takes none */
        w->items[i] = (proto_item){.seq = p->work[i].seq, .n_tokens = n_tokens, .tokens = tokens + byte(w) % 128};
        if (byte(w) % 64 == 63) w->items[i].code = ST_ERR_NUMERIC;
    }
}

static void step(world *w, const sched_event *ev) {
    w->now_ns += byte(w) % 8;
    sched_actions acts = sched_step(w->s, w->now_ns, ev);
    for (uint32_t i = 0; i < acts.n; i++) {
        const sched_action *a = &acts.items[i];
        if (a->kind == SCHED_ACT_PLAN) answer(w, a->plan);
        if (a->kind != SCHED_ACT_FINISHED) continue;
        INVARIANT(a->seq.value >= 1 && a->seq.value <= w->n_sent && !w->over[a->seq.value - 1]);
        w->over[a->seq.value - 1] = true;
    }
    sched_check(w->s);
}

static void one_event(world *w) {
    sched_event ev = {.kind = (sched_event_kind)(byte(w) % (SCHED_TIMER + 1)), .result = &w->result};
    if (byte(w) % 4 != 0) ev.kind = byte(w) % 2 ? SCHED_REQUEST : SCHED_RESULT; /* the usual ones */
    if (ev.kind == SCHED_REQUEST && w->n_sent == REQUESTS) ev.kind = SCHED_RESULT;
    if (ev.kind == SCHED_REQUEST) {
        ev.seq.value = ++w->n_sent;
        ev.tokens = tokens;
        ev.n_tokens = byte(w);
        ev.max_tokens = byte(w);
        ev.end_tokens = tokens;
        ev.n_end_tokens = byte(w) % 8;
        ev.deadline_ns = byte(w);
    }
    if (ev.kind == SCHED_CANCEL) {
        ev.seq.value = byte(w);
        ev.code = byte(w) % 2 ? ST_OK : ST_ERR_CANCELLED;
        ev.finish = ev.code == ST_OK ? SCHED_FINISH_STOP : SCHED_FINISH_CANCELLED;
    }
    if (ev.kind == SCHED_RESULT) {
        uint8_t how = byte(w);
        if (how == 1) w->result.plan_id++;
        if (how == 2 && w->result.n_items > 0) w->result.n_items--;
        if (how == 3) w->items[0].seq.value++;
    }
    step(w, &ev);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    world w = {.data = data, .left = size};
    const sched_limits l = {.max_requests = byte(&w),
                            .max_running = byte(&w),
                            .max_queue = byte(&w),
                            .max_rows = byte(&w),
                            .max_batch = byte(&w),
                            .prefill_chunk = byte(&w),
                            .max_tree = byte(&w) % 72U,
                            .max_context = byte(&w),
                            .n_blocks = byte(&w) % 64U};
    size_t n = sched_bytes(&l);
    if (n == 0) return 0;
    void *memory = mem_alloc_aligned(1, n, 64);
    if (sched_init(memory, &l, &w.s, NULL) != ST_OK) st_abort(__FILE__, __LINE__, "sched_bytes and sched_init disagree");
    step(&w, &(sched_event){.kind = SCHED_GROUP_UP});
    while (w.left > 0) one_event(&w);
    step(&w, &(sched_event){.kind = SCHED_GROUP_DOWN});
    for (uint32_t i = 0; i < w.n_sent; i++) INVARIANT(w.over[i]);
    INVARIANT(sched_get_stats(w.s).blocks_used == 0);
    mem_free(memory);
    return 0;
}
