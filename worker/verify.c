/* The part of a verifier: the leader takes plans and decides, the other ranks follow it.
 *
 * The leader passes each plan on with its decisions on the step before (exchange.h), so that all ranks compute the same step. A
 * rank that is not the leader sleeps until a WAKE, listens for plans for LISTEN_NS after each step, and sleeps again. Before an
 * order to move KV goes to the mover, all ranks take the decisions on the last plan that was answered: what they keep of a draft
 * tree is then where it belongs, and nothing of that plan is still to be written.
 *
 * A leader alone in its group tells what its result will probably be, where the plan asks for that, in the midst of the step. */
#include "base/log.h"
#include "base/mem.h"
#include "net/net.h"
#include "worker/exchange.h"
#include "worker/mover.h"
#include "worker/part_int.h"
#include "worker/step.h"
#include <string.h>

static const uint64_t LISTEN_NS = 2000000;

enum {
    SWAPS_MS = 60000, /* for all ranks to have swapped a plan's blocks; where deadline_ms is more, that */
    MAX_RANKS = 64    /* of a group: tensor_parallel in config/group.def */
};

typedef struct {
    part part;
    parallel_group *group; /* the worker's */
    part_engine engine;
    exchange *exchange; /* NULL: a group of one */
    step *step;
    kv_swap_file *swap_file; /* NULL: none */
    const uint32_t *words;   /* [n_words] the leader's decisions on the last step; in `step` */
    uint32_t n_words;
    uint64_t last_plan; /* the last that was run ... */
    uint64_t began_ns;  /* ... since when */
    mover *mover;       /* NULL: this rank has no transports */
} verifier;

static verifier *of(part *p) { return (verifier *)p; }

static st_code start_mover(verifier *v, st_error *e) {
    part *p = &v->part;
    const kernels_kv *kv = kv_store_view(v->engine.kv);
    mover_options o = {.transports = p->o->transports,
                       .n_transports = p->o->n_transports,
                       .secret = p->o->secret,
                       .store = v->engine.kv,
                       .held = {model_first_kv_head(v->engine.model), kv->n_kv_heads},
                       .n_kv_heads = model_get_info(v->engine.model)->n_kv_heads,
                       .kv_type = p->info.kv_type,
                       .rank = p->o->group_rank,
                       .moved = p->moved,
                       .context = p->link};
    memcpy(o.model, p->info.model_hash, sizeof o.model);
    p->info.first_kv_head = o.held.first;
    p->info.n_kv_heads = o.held.n;
    return mover_start(&o, &v->mover, e);
}

/* In the midst of a step: to the coordinator at once. One that cannot be encoded is not missed. */
static void tell_early(void *context, const proto_result *guess) {
    verifier *v = context;
    proto_bytes b = {0};
    proto_result r = *guess;
    r.step_ns = net_now_ns() - v->began_ns;
    mem_step_end();
    if (!proto_result_encode(&r, &b)) v->part.early(v->part.link, b);
    mem_step_begin();
}

static st_code load(part *p, st_error *e) {
    verifier *v = of(p);
    const config_topology *t = p->o->topology;
    part_engine *n = &v->engine;
    v->group = p->o->group_link;
    st_code code = part_engine_init(p, t->model, v->group, n, e);
    if (code) return code;
    step_options o = {n->model, n->kv, n->ops, n->device, t->max_running, t->max_rows, n->max_context, tell_early, v};
    code = step_create(&o, &v->step);
    if (!code && v->group->n_ranks > 1) code = exchange_create(v->group, step_max_words(&o), PROTO_MAX_BYTES, &v->exchange);
    if (code)
        return st_fail(e, code, "no memory for the sequences of a rank (max_running %u, context %u)", t->max_running,
                       n->max_context);
    p->info.kv_slots = p->config->swap_tokens / NOUNS_BLOCK_TOKENS;
    if (p->info.kv_slots > 0)
        code = kv_swap_file_create(n->ops, n->device, n->kv, p->config->swap_directory, (uint32_t)p->info.kv_slots, &v->swap_file,
                                   e);
    return code || !p->o->n_transports ? code : start_mover(v, e);
}

/* All ranks of the group have swapped; took_ns becomes what the slowest took each way. Without it a plan of swaps alone would
 * have no collective, and a rank whose disk is slower would fall behind, plan by plan, until the others find it missing in a sum.
 * A slow disk is no dead rank: the deadline is one of its own, and a rank that is dead ends the wait as the coordinator sees it.
 */
static st_code meet(const verifier *v, uint64_t took_ns[2], st_error *e) {
    parallel_group *g = v->group;
    const uint32_t deadline_ms = g->deadline_ms;
    double all[2 * MAX_RANKS] = {0}; /* out, in of each rank: each adds its own to zeros */
    INVARIANT(g->n_ranks <= MAX_RANKS);
    for (uint32_t way = 0; way < 2; way++) all[2 * g->rank + way] = (double)took_ns[way];
    if (deadline_ms < SWAPS_MS) g->deadline_ms = SWAPS_MS;
    st_code code = g->ops->all_reduce(g, all, 2 * (size_t)g->n_ranks);
    g->deadline_ms = deadline_ms;
    if (code) return st_fail(e, code, "not all ranks of the group have swapped their KV blocks: %s", st_text(code));
    for (uint32_t i = 0; i < 2 * g->n_ranks; i++)
        if ((uint64_t)all[i] > took_ns[i % 2]) took_ns[i % 2] = (uint64_t)all[i];
    return ST_OK;
}

/* Before the plan's step, and behind all that was decided on the one before: took_ns[0] out, [1] in, of the slowest rank. */
static st_code swap_blocks(verifier *v, const proto_plan *plan, uint64_t took_ns[2], st_error *e) {
    took_ns[0] = took_ns[1] = 0;
    if (plan->n_swaps && !v->swap_file)
        return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu swaps KV blocks, but this rank has no swap file",
                       (unsigned long long)plan->id);
    for (uint32_t i = 0; i < plan->n_swaps; i++) {
        uint64_t start = net_now_ns();
        st_code code = kv_swap_file_do(v->swap_file, &plan->swaps[i], e);
        if (code) return code;
        took_ns[plan->swaps[i].in] += net_now_ns() - start;
    }
    return plan->n_swaps && v->exchange ? meet(v, took_ns, e) : ST_OK;
}

/* The leader's step: the others hear the last decisions and the plan, all compute, the leader decides. */
static st_code lead(part *p, const uint8_t *bytes, size_t n, proto_bytes *out, st_error *e) {
    verifier *v = of(p);
    proto_plan plan;
    proto_result result;
    uint64_t swaps_ns[2];
    exchange_message m = {v->words, v->n_words, bytes, (uint32_t)n};
    v->began_ns = net_now_ns();
    st_code code = part_decode(p, bytes, n, &plan, e);
    if (!code && v->exchange) code = exchange_send(v->exchange, &m, e);
    if (code) return code;
    mem_step_begin();
    code = swap_blocks(v, &plan, swaps_ns, e);
    if (!code) code = step_run(v->step, &plan, e);
    if (!code) v->words = step_decide(v->step, &v->n_words);
    if (!code) code = step_apply(v->step, v->words, v->n_words, &result, e);
    v->last_plan = plan.id;
    mem_step_end();
    if (code) return code;
    result.step_ns = net_now_ns() - v->began_ns;
    result.swap_out_ns = swaps_ns[0];
    result.swap_in_ns = swaps_ns[1];
    code = proto_result_encode(&result, out);
    return code ? st_fail(e, code, "cannot encode the result of plan %llu", (unsigned long long)plan.id) : ST_OK;
}

/* Another rank's part of a step; without a plan, of its end alone. */
static st_code take_part(verifier *v, const exchange_message *m, st_error *e) {
    proto_plan plan;
    proto_result result;
    uint64_t swaps_ns[2];
    v->part.ended = !m->n_plan && !m->n_words;
    if (v->part.ended) return ST_OK;
    st_code code = step_apply(v->step, m->words, m->n_words, &result, e);
    if (code || !m->n_plan) return code;
    code = part_decode(&v->part, m->plan, m->n_plan, &plan, e);
    if (code) return code;
    mem_step_begin();
    code = swap_blocks(v, &plan, swaps_ns, e);
    if (!code) code = step_run(v->step, &plan, e);
    mem_step_end();
    v->last_plan = plan.id;
    return code;
}

/* What the leader owes. */
static st_code receive(verifier *v, exchange_message *m, st_error *e) {
    bool done;
    st_code code = exchange_receive(v->exchange, (uint64_t)v->group->deadline_ms * 1000000, m, &done, e);
    if (code || done) return code;
    return st_fail(e, ST_ERR_DEADLINE, "the leader did not pass on what follows plan %llu", (unsigned long long)v->last_plan);
}

/* Steps as they come: up to the plan that the last WAKE named, however late the leader is with it, and on until none has come for
 * LISTEN_NS. An order about a move comes in between; `move` goes on from there. */
static st_code follow(part *p, st_error *e) {
    verifier *v = of(p);
    exchange_message m;
    st_code code = ST_OK;
    atomic_store(&p->wake_waits, false); /* before wanted_plan is read: a WAKE from here on is seen or posts anew */
    while (!code && !p->ended && !atomic_load(&p->n_orders)) {
        bool done = true;
        if (v->last_plan < atomic_load(&p->wanted_plan))
            code = receive(v, &m, e);
        else
            code = exchange_receive(v->exchange, LISTEN_NS, &m, &done, e);
        if (!done) return ST_OK;
        if (!code) code = take_part(v, &m, e);
    }
    return code;
}

/* ---- moves ---- */

/* The leader has taken its decisions on `plan` when it answered it; the others hear them with the next plan, or here. */
static st_code settle(verifier *v, uint64_t plan, st_error *e) {
    exchange_message m = {v->words, v->n_words, NULL, 0};
    st_code code = ST_OK;
    if (!v->exchange) return ST_OK;
    if (v->group->rank == 0) {
        if (v->last_plan > plan || !v->n_words) return ST_OK;
        v->n_words = 0;
        return exchange_send(v->exchange, &m, e);
    }
    while (!code && !v->part.ended && (v->last_plan < plan || (v->last_plan == plan && !step_is_settled(v->step)))) {
        code = receive(v, &m, e);
        if (!code) code = take_part(v, &m, e);
    }
    return code;
}

static st_code take_order(verifier *v, const uint8_t *bytes, size_t n, st_error *e) {
    proto_move order;
    arena a = {0}; /* the part's is for plans, of which one may come in between */
    st_code code = arena_init(&a, proto_arena_bytes(n));
    if (!code) code = proto_move_decode(bytes, n, &a, &order, e);
    if (!code) code = settle(v, order.after_plan, e);
    if (!code) code = mover_order(v->mover, &order);
    arena_deinit(&a);
    return code;
}

static st_code move(part *p, proto_message_type type, const uint8_t *bytes, size_t n, st_error *e) {
    verifier *v = of(p);
    uint64_t id;
    uint32_t n_ready;
    st_code code;
    if (!v->mover) return st_fail(e, ST_FATAL_PROTOCOL, "an order to move KV to a rank that has no transports");
    if (type == PROTO_MSG_MOVE)
        code = take_order(v, bytes, n, e);
    else if (type == PROTO_MSG_MOVE_READY) {
        code = proto_move_ready_decode(bytes, n, &id, &n_ready, e);
        if (!code) code = mover_ready(v->mover, id, n_ready);
    } else {
        code = proto_move_cancel_decode(bytes, n, &id, e);
        if (!code) code = mover_cancel(v->mover, id);
    }
    if (code && !e->message[0]) (void)st_fail(e, code, "an order to move KV: %s", st_text(code));
    return code || !v->exchange || v->group->rank == 0 ? code : follow(p, e);
}

/* So that no broadcast is left half done when MPI ends. */
static st_code part_company(part *p, st_error *e) {
    verifier *v = of(p);
    exchange_message m = {0};
    st_code code = ST_OK;
    if (!v->exchange || p->ended) return ST_OK;
    if (v->group->rank == 0) return exchange_send(v->exchange, &m, e);
    while (!code && !p->ended) {
        code = receive(v, &m, e);
        if (!code) code = take_part(v, &m, e);
    }
    return code;
}

static void destroy(part *p) {
    verifier *v = of(p);
    mover_stop(v->mover); /* it reads and writes the store */
    arena_deinit(&p->arena);
    step_destroy(v->step);
    kv_swap_file_destroy(v->swap_file);
    part_engine_deinit(&v->engine);
    exchange_destroy(v->exchange);
    mem_free(v);
}

st_code part_verify(bool leads, part **out) {
    static const part_ops leader = {.load = load, .step = lead, .move = move, .part_company = part_company, .destroy = destroy};
    static const part_ops follower = {
        .load = load, .follow = follow, .move = move, .part_company = part_company, .destroy = destroy};
    verifier *v = mem_alloc(1, sizeof *v);
    if (!v) return ST_FATAL_MEMORY;
    v->part.ops = leads ? &leader : &follower;
    *out = &v->part;
    return ST_OK;
}
