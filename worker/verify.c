/* The part of a verifier: the leader takes plans and decides, the other ranks follow it.
 *
 * The leader passes each plan on with its decisions on the step before (exchange.h), so that all ranks compute the same step. A
 * rank that is not the leader sleeps until a WAKE, listens for plans for LISTEN_NS after each step, and sleeps again. */
#include "base/log.h"
#include "base/mem.h"
#include "net/net.h"
#include "worker/exchange.h"
#include "worker/part_int.h"
#include "worker/step.h"

static const uint64_t LISTEN_NS = 2000000;

typedef struct {
    part part;
    parallel_group *group; /* the worker's */
    part_engine engine;
    exchange *exchange; /* NULL: a group of one */
    step *step;
    const uint32_t *words; /* [n_words] the leader's decisions on the last step; in `step` */
    uint32_t n_words;
    uint64_t last_plan; /* not the leader: the last that came */
} verifier;

static verifier *of(part *p) { return (verifier *)p; }

static st_code load(part *p, st_error *e) {
    verifier *v = of(p);
    const config_topology *t = p->o->topology;
    part_engine *n = &v->engine;
    v->group = p->o->group_link;
    st_code code = part_engine_init(p, t->model, v->group, n, e);
    if (code) return code;
    step_options o = {n->model, n->kv, n->ops, n->device, t->max_running, t->max_rows, n->max_context};
    code = step_create(&o, &v->step);
    if (!code && v->group->n_ranks > 1) code = exchange_create(v->group, step_max_words(&o), PROTO_MAX_BYTES, &v->exchange);
    if (code)
        return st_fail(e, code, "no memory for the sequences of a rank (max_running %u, context %u)", t->max_running,
                       n->max_context);
    return ST_OK;
}

/* The leader's step: the others hear the last decisions and the plan, all compute, the leader decides. */
static st_code lead(part *p, const uint8_t *bytes, size_t n, proto_bytes *out, st_error *e) {
    verifier *v = of(p);
    proto_plan plan;
    proto_result result;
    uint64_t start = net_now_ns();
    exchange_message m = {v->words, v->n_words, bytes, (uint32_t)n};
    st_code code = part_decode(p, bytes, n, &plan, e);
    if (!code && v->exchange) code = exchange_send(v->exchange, &m, e);
    if (code) return code;
    mem_step_begin();
    code = step_run(v->step, &plan, e);
    if (!code) v->words = step_decide(v->step, &v->n_words);
    if (!code) code = step_apply(v->step, v->words, v->n_words, &result, e);
    mem_step_end();
    if (code) return code;
    result.step_ns = net_now_ns() - start;
    code = proto_result_encode(&result, out);
    return code ? st_fail(e, code, "cannot encode the result of plan %llu", (unsigned long long)plan.id) : ST_OK;
}

/* Another rank's part of a step. */
static st_code take_part(verifier *v, const exchange_message *m, st_error *e) {
    proto_plan plan;
    proto_result result;
    st_code code = step_apply(v->step, m->words, m->n_words, &result, e);
    if (!code) code = part_decode(&v->part, m->plan, m->n_plan, &plan, e);
    if (code) return code;
    mem_step_begin();
    code = step_run(v->step, &plan, e);
    mem_step_end();
    v->last_plan = plan.id;
    return code;
}

/* Steps as they come: up to the plan that the last WAKE named, however late the leader is with it, and on until none has come for
 * LISTEN_NS. */
static st_code follow(part *p, st_error *e) {
    verifier *v = of(p);
    exchange_message m;
    st_code code = ST_OK;
    atomic_store(&p->wake_waits, false); /* before wanted_plan is read: a WAKE from here on is seen or posts anew */
    for (;;) {
        bool done, owed = v->last_plan < atomic_load(&p->wanted_plan);
        code = exchange_receive(v->exchange, owed ? (uint64_t)v->group->deadline_ms * 1000000 : LISTEN_NS, &m, &done, e);
        if (code) return code;
        if (!done)
            return owed
                       ? st_fail(e, ST_ERR_DEADLINE, "the leader did not pass on plan %llu", (unsigned long long)v->last_plan + 1)
                       : ST_OK;
        p->ended = !m.n_plan;
        if (p->ended) return ST_OK;
        code = take_part(v, &m, e);
        if (code) return code;
    }
}

/* So that no broadcast is left half done when MPI ends. */
static st_code part_company(part *p, st_error *e) {
    verifier *v = of(p);
    exchange_message end = {0};
    bool done;
    if (!v->exchange || p->ended) return ST_OK;
    if (v->group->rank == 0) return exchange_send(v->exchange, &end, e);
    st_code code = exchange_receive(v->exchange, (uint64_t)v->group->deadline_ms * 1000000, &end, &done, e);
    return code || done ? code : st_fail(e, ST_ERR_DEADLINE, "the leader did not say goodbye");
}

static void destroy(part *p) {
    verifier *v = of(p);
    arena_deinit(&p->arena);
    step_destroy(v->step);
    part_engine_deinit(&v->engine);
    exchange_destroy(v->exchange);
    mem_free(v);
}

st_code part_verify(bool leads, part **out) {
    static const part_ops leader = {.load = load, .step = lead, .part_company = part_company, .destroy = destroy};
    static const part_ops follower = {.load = load, .follow = follow, .part_company = part_company, .destroy = destroy};
    verifier *v = mem_alloc(1, sizeof *v);
    if (!v) return ST_FATAL_MEMORY;
    v->part.ops = leads ? &leader : &follower;
    *out = &v->part;
    return ST_OK;
}
