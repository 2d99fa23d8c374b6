/* Faults and ForgetKv: what tests do to a running cluster, and only to one that was started for it (debug: on).
 *
 *     Faults ──FAULTS──> each rank that is meant ──FAULTS_TOLD, its loss, or too long──> a reply ──the last──> the end
 *
 * One such call at a time. The coordinator's own points are set here. A rank that was lost before is told by a reply with an
 * error, and fails the call only if it was asked for by its number or its group's name. */
#include "coordinator/coordinator_int.h"

#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static const uint64_t MS = 1000000;

static const char *group_of(const coordinator *c, uint32_t rank) {
    return rank ? c->t->groups[c->members.items[rank].group].name : "coordinator";
}

static void finish(coordinator *c) {
    debug *d = &c->debug;
    net_call *call = d->call;
    d->call = NULL;
    net_timer_at(d->timer, 0);
    net_call_finish(call, st_grpc(d->error.code), d->error.code ? d->error.message : "");
}

/* One that walks over the ranks counts as open, too. */
static void close_one(coordinator *c) {
    if (--c->debug.n_open == 0 && c->debug.call) finish(c);
}

static void note(coordinator *c, uint32_t rank, st_code code, const char *why) {
    if (!c->debug.error.code) (void)st_fail(&c->debug.error, code, "rank %u (%s): %s", rank, group_of(c, rank), why);
}

static void reply(coordinator *c, uint32_t rank, const proto_faults *said) {
    proto_faults_reply r = {.rank = rank, .said = *said};
    proto_bytes b = {0};
    if (!c->debug.call) return;
    snprintf(r.group, sizeof r.group, "%s", group_of(c, rank));
    st_code code = proto_faults_reply_encode(&r, &b);
    if (!code) code = net_call_send(c->debug.call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    if (code) note(c, rank, code, "its answer could not be sent");
}

static void reply_error(coordinator *c, uint32_t rank, st_code code, const char *why) {
    proto_faults said = {.code = code};
    snprintf(said.message, sizeof said.message, "%s", why);
    reply(c, rank, &said);
}

void debug_answered(coordinator *c, uint32_t rank, const proto_faults *f) {
    debug *d = &c->debug;
    if (!d->call || f->id != d->id || !d->open[rank]) return;
    d->open[rank] = false;
    if (f->code) note(c, rank, f->code, f->message);
    reply(c, rank, f);
    close_one(c);
}

void debug_lost(coordinator *c, uint32_t rank) {
    debug *d = &c->debug;
    if (!d->call || !d->open[rank] || c->closing) return;
    const char *reason = c->members.items[rank].reason;
    if (!reason[0]) reason = "it has left"; /* as it was told to */
    d->open[rank] = false;
    note(c, rank, ST_ERR_UNAVAILABLE, reason);
    reply_error(c, rank, ST_ERR_UNAVAILABLE, reason);
    close_one(c);
}

/* Who is silent altogether is lost before: that is seen at the first beat behind dead_after_ms. */
static uint32_t patience_ms(const coordinator *c) { return c->t->dead_after_ms + 2 * c->t->heartbeat_ms; }

static void on_timer(void *context) {
    coordinator *c = context;
    char why[64];
    snprintf(why, sizeof why, "no answer within %u ms", patience_ms(c));
    for (uint32_t i = 1; i < c->members.n && c->debug.call; i++) {
        if (!c->debug.open[i]) continue;
        c->debug.open[i] = false;
        note(c, i, ST_ERR_DEADLINE, why);
        reply_error(c, i, ST_ERR_DEADLINE, why);
        close_one(c);
    }
}

static st_code check_allowed(const coordinator *c, st_error *e) {
    if (!strcmp(c->t->debug, "on")) return ST_OK;
    return st_fail(e, ST_ERR_MISMATCH,
                   "this cluster was not started for it: faults are made only where the topology says debug: on");
}

static st_code check_whom(const coordinator *c, const proto_faults_request *q, st_error *e) {
    if (q->has_rank && q->rank >= c->members.n)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "rank: %u; this cluster has 0 (the coordinator) to %u", q->rank,
                       c->members.n - 1);
    for (uint32_t i = 0; q->group[0] && i < c->t->n_groups; i++)
        if (!strcmp(c->t->groups[i].name, q->group)) return ST_OK;
    return q->group[0] ? st_fail(e, ST_ERR_INVALID_ARGUMENT, "group: there is no '%s'", q->group) : ST_OK;
}

static bool is_meant(const coordinator *c, const proto_faults_request *q, uint32_t rank) {
    if (q->has_rank) return rank == q->rank;
    return !q->group[0] || (rank && !strcmp(group_of(c, rank), q->group));
}

static void ask_self(coordinator *c, const proto_faults_request *q) {
    proto_faults said;
    st_error e = {0};
    st_code code = q->set ? fault_plan(q->plan, &e) : ST_OK;
    proto_faults_of_this_process(&said);
    said.code = code;
    if (code) memcpy(said.message, e.message, sizeof said.message);
    if (code) note(c, 0, code, e.message);
    reply(c, 0, &said);
}

static void ask(coordinator *c, const proto_faults_request *q, uint32_t rank) {
    debug *d = &c->debug;
    const member *m = &c->members.items[rank];
    proto_faults_order order = {.id = d->id, .set = q->set};
    proto_bytes b = {0};
    if (!m->link || (m->state != MEMBER_LOADING && m->state != MEMBER_READY)) {
        const char *why = m->state == MEMBER_ABSENT ? "it has not joined yet" : m->reason[0] ? m->reason : "it is lost";
        if (q->has_rank || q->group[0]) note(c, rank, ST_ERR_UNAVAILABLE, why);
        reply_error(c, rank, ST_ERR_UNAVAILABLE, why);
        return;
    }
    memcpy(order.plan, q->plan, sizeof order.plan);
    d->open[rank] = true;
    d->n_open++;
    st_code code = proto_faults_order_encode(&order, &b);
    members_send(c, rank, PROTO_MSG_FAULTS, &b, code);
}

void debug_faults(coordinator *c, net_call *call, const uint8_t *message, size_t n) {
    debug *d = &c->debug;
    proto_faults_request q;
    st_error e = {0};
    st_code code = check_allowed(c, &e);
    if (!code) code = proto_faults_request_decode(message, n, &q, &e);
    if (!code) code = check_whom(c, &q, &e);
    if (!code && d->call) code = st_fail(&e, ST_ERR_RESOURCE_EXHAUSTED, "another call of Faults is on its way: try again");
    if (code) {
        net_call_finish(call, st_grpc(code), e.message);
        return;
    }
    if (q.set) log_line(LOG_WARN, "coordinator", "faults: '%s', asked for by a client", q.plan);
    d->call = call;
    d->id++;
    d->error = (st_error){0};
    d->n_open = 1;
    memset(d->open, 0, c->members.n * sizeof *d->open);
    net_timer_at(d->timer, net_now_ns() + patience_ms(c) * MS);
    for (uint32_t i = 0; i < c->members.n; i++) {
        if (!is_meant(c, &q, i)) continue;
        if (i)
            ask(c, &q, i);
        else
            ask_self(c, &q);
    }
    close_one(c);
}

void debug_forget_kv(coordinator *c, net_call *call) {
    st_error e = {0};
    proto_bytes b = {0};
    st_code code = check_allowed(c, &e);
    if (code) {
        net_call_finish(call, st_grpc(code), e.message);
        return;
    }
    const uint64_t kept = sched_get_stats(c->sched).blocks_kept;
    coordinator_event(c, &(sched_event){.kind = SCHED_FORGET});
    sched_stats s = sched_get_stats(c->sched);
    proto_blocks blocks = {kept, s.blocks_used, s.blocks_reserved, s.blocks_kept, s.blocks_total, s.slots_used};
    code = proto_blocks_encode(&blocks, &b);
    if (!code) code = net_call_send(call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    net_call_finish(call, st_grpc(code), st_text(code));
}

void debug_leave(coordinator *c, const net_call *call) {
    if (c->debug.call != call) return;
    c->debug.call = NULL;
    net_timer_at(c->debug.timer, 0);
}

st_code debug_init(coordinator *c, st_error *e) {
    c->debug.open = mem_alloc(c->members.n, sizeof *c->debug.open);
    if (!c->debug.open) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u ranks", c->members.n);
    return net_timer_create(c->loop, on_timer, c, &c->debug.timer);
}

void debug_deinit(debug *d) {
    net_timer_destroy(d->timer);
    mem_free(d->open);
    *d = (debug){0};
}
