/* Moves: what the scheduler wants moved becomes an order to each rank of both groups that takes part; what these answer becomes
 * one SCHED_MOVED.
 *
 *     ordered ──all have answered, or are lost──> over: SCHED_MOVED, ST_OK if each rank of the target has all that it wanted
 *        └── one failed, is lost, MOVE_CANCEL, too long without news ──> cancelled ──all have answered──> over
 *                                                                         └── ANSWER_MS ──> who has not is lost
 *
 * The target's word counts: a source whose last message got lost waits for its lease in vain, and nothing is wrong. Nobody's
 * blocks are given back before it has answered, so that nothing is written into blocks of another sequence. What cannot even be
 * ordered is over with the timer's next tick, not in the midst of the scheduler's actions. Keys of links are made of the
 * cluster's secret: both ends are told the same, and no stranger can guess it. */
#include "coordinator/coordinator_int.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "kv/transfer.h"
#include <stdio.h>
#include <string.h>

enum {
    MAX_RANKS = 64,         /* of a group */
    MOVE_MS = 60000,        /* from the last news of blocks to move, and ... */
    BLOCK_MS = 1000,        /* ... for each block: a dead link is the lease's affair, a slow one is no fault */
    LEAST_LEASE_MS = 10000, /* a rank takes an order between two steps; dead_after_ms where that is more */
    RETRIES = 40,           /* in a lease */
    ANSWER_MS = 60000,      /* and a lease: to let go of the blocks */
};
static const uint64_t MS = 1000000, MEASURES = UINT64_C(1) << 63; /* in ids: apart from the scheduler's */

typedef enum { SOURCE, TARGET } side;

struct move {
    uint64_t id; /* 0: unused */
    uint32_t generation;
    member_group *groups[2];
    bool open[2][MAX_RANKS]; /* has not answered */
    uint32_t n_open;
    bool cancelled, target_failed;
    st_error error; /* the first */
    uint64_t bytes, began_ns, due_ns, patience_ns;
    moves_measured *measured; /* NULL: the scheduler's */
    void *context;
    proto_moved at_target;
};

static uint32_t lease_ms(const coordinator *c) {
    return c->t->dead_after_ms > LEAST_LEASE_MS ? c->t->dead_after_ms : LEAST_LEASE_MS;
}

static const char *name_of(const coordinator *c, const member_group *g) { return c->t->groups[g - c->members.groups].name; }

static move *find(const moves *s, uint64_t id) {
    for (uint32_t i = 0; i < s->n; i++)
        if (s->items[i].id == id) return &s->items[i];
    return NULL;
}

static void set_timer(coordinator *c) {
    uint64_t at = 0;
    for (uint32_t i = 0; i < c->moves.n; i++) {
        const move *m = &c->moves.items[i];
        if (m->id && (!at || m->due_ns < at)) at = m->due_ns;
    }
    net_timer_at(c->moves.timer, at);
}

/* ---- the end ---- */

static void finish(coordinator *c, move *m) {
    move was = *m;
    bool ok = !was.target_failed;
    uint64_t took = net_now_ns() - was.began_ns;
    *m = (move){0};
    set_timer(c);
    if (was.measured) {
        was.measured(was.context, ok ? ST_OK : was.error.code, was.error.message, &was.at_target);
        return;
    }
    metrics *t = &c->metrics;
    *(ok ? &t->moves_done : was.error.code == ST_ERR_CANCELLED ? &t->moves_cancelled : &t->moves_failed) += 1;
    if (ok) {
        t->moved_bytes += was.bytes;
        metrics_add(&t->move, took, 1);
    } else
        log_line(was.error.code == ST_ERR_CANCELLED ? LOG_INFO : LOG_WARN, "coordinator",
                 "KV of a request did not get from %s to %s, and is computed there: %s", name_of(c, was.groups[SOURCE]),
                 name_of(c, was.groups[TARGET]), was.error.message);
    sched_event ev = {.kind = SCHED_MOVED, .move = was.id, .took_ns = took, .code = ok ? ST_OK : was.error.code};
    coordinator_event(c, &ev);
}

/* For each rank that has not answered. */
static void tell(coordinator *c, const move *m, side s, uint16_t type, uint32_t n_ready) {
    for (uint32_t i = 0; i < m->groups[s]->n_ranks; i++) {
        proto_bytes b = {0};
        if (!m->open[s][i]) continue;
        st_code code =
            type == PROTO_MSG_MOVE_READY ? proto_move_ready_encode(m->id, n_ready, &b) : proto_move_cancel_encode(m->id, &b);
        members_send(c, m->groups[s]->leader + i, type, &b, code);
    }
}

static void cancel(coordinator *c, move *m, st_code code, const char *why) {
    if (!m->error.code) (void)st_fail(&m->error, code, "%s", why);
    if (m->cancelled) return;
    m->cancelled = true;
    if (!m->n_open) return; /* it is over with the next tick */
    m->due_ns = net_now_ns() + (ANSWER_MS + lease_ms(c)) * MS;
    set_timer(c);
    tell(c, m, SOURCE, PROTO_MSG_MOVE_CANCEL, 0);
    tell(c, m, TARGET, PROTO_MSG_MOVE_CANCEL, 0);
}

static void close_rank(move *m, side s, uint32_t rank, bool ok) {
    if (!m->open[s][rank]) return;
    m->open[s][rank] = false;
    m->n_open--;
    m->target_failed |= s == TARGET && !ok;
}

void moves_answered(coordinator *c, uint32_t rank, const proto_moved *r) {
    const member *who = &c->members.items[rank];
    member_group *g = &c->members.groups[who->group];
    move *m = find(&c->moves, r->id);
    side s = m && m->groups[TARGET] == g && m->open[TARGET][rank - g->leader] ? TARGET : SOURCE;
    if (!m || m->groups[s] != g || !m->open[s][rank - g->leader]) return; /* not of this life */
    close_rank(m, s, rank - g->leader, r->code == ST_OK);
    if (s == TARGET) {
        m->bytes += r->bytes;
        m->at_target = *r;
    }
    if (r->code) cancel(c, m, r->code, r->message[0] ? r->message : st_text(r->code));
    if (!m->n_open) finish(c, m);
}

void moves_lost(coordinator *c, const member_group *g) {
    char text[96];
    snprintf(text, sizeof text, "group %s is lost", name_of(c, g));
    for (uint32_t i = 0; i < c->moves.n; i++) {
        move *m = &c->moves.items[i];
        if (!m->id || (m->groups[SOURCE] != g && m->groups[TARGET] != g)) continue;
        for (side s = SOURCE; s <= TARGET; s++)
            for (uint32_t r = 0; m->groups[s] == g && r < g->n_ranks; r++) close_rank(m, s, r, false);
        cancel(c, m, ST_ERR_UNAVAILABLE, text);
        if (!m->n_open) finish(c, m);
    }
}

static void on_timer(void *context) {
    coordinator *c = context;
    uint64_t now = net_now_ns();
    for (uint32_t i = 0; i < c->moves.n && !c->members.stopping; i++) {
        move *m = &c->moves.items[i];
        if (!m->id || now < m->due_ns) continue;
        uint64_t id = m->id;
        if (!m->n_open)
            finish(c, m);
        else if (!m->cancelled)
            cancel(c, m, ST_ERR_DEADLINE, "nothing was heard of it for too long");
        else
            for (side s = SOURCE; s <= TARGET; s++)
                for (uint32_t r = 0; m->id == id && r < m->groups[s]->n_ranks; r++)
                    if (m->open[s][r])
                        members_refuse(c, m->groups[s]->leader + r, ST_ERR_DEADLINE, "it did not end a move of KV");
    }
    set_timer(c);
}

/* ---- the beginning ---- */

static move *take_slot(coordinator *c, uint64_t id, member_group *from, member_group *to, uint32_t n_blocks) {
    move *m = find(&c->moves, 0);
    if (!m) return NULL;
    *m = (move){.id = id, .groups = {from, to}, .began_ns = net_now_ns()};
    m->generation = ++c->moves.generation;
    if (!m->generation) m->generation = ++c->moves.generation;
    m->patience_ns = (MOVE_MS + (uint64_t)n_blocks * BLOCK_MS) * MS;
    m->due_ns = m->began_ns + m->patience_ns;
    return m;
}

static st_code make_key(const coordinator *c, const move *m, uint32_t source, uint32_t target, uint8_t key[PROTO_KEY_BYTES]) {
    char text[96];
    uint8_t tag[SHA256_BYTES];
    int n =
        snprintf(text, sizeof text, "consort move 1: %llu.%u %u -> %u", (unsigned long long)m->id, m->generation, source, target);
    st_code code = sha256_hmac(c->o->secret, NET_SECRET_BYTES, text, (size_t)n, tag);
    memcpy(key, tag, PROTO_KEY_BYTES);
    return code;
}

static kv_heads held_by(const coordinator *c, uint32_t rank) {
    const proto_register *r = &c->members.items[rank].info;
    return (kv_heads){r->first_kv_head, r->n_kv_heads};
}

typedef struct {
    proto_flow flow[PROTO_MAX_FLOWS];
    uint8_t key[PROTO_MAX_FLOWS][PROTO_KEY_BYTES];
    uint32_t n;
} flows;

static st_code add_flow(coordinator *c, const move *m, side s, uint32_t source, uint32_t target, kv_heads heads, flows *out) {
    const member_group *peers = m->groups[s == SOURCE ? TARGET : SOURCE];
    uint32_t peer = s == SOURCE ? target : source;
    const proto_register *r = &c->members.items[peers->leader + peer].info;
    if (out->n == PROTO_MAX_FLOWS) return ST_ERR_UNSUPPORTED;
    out->flow[out->n] = (proto_flow){.peer = peer,
                                     .first_head = heads.first,
                                     .n_heads = heads.n,
                                     .n_addresses = r->n_addresses,
                                     .addresses = r->addresses,
                                     .key = out->key[out->n]};
    st_code code = make_key(c, m, m->groups[SOURCE]->leader + source, m->groups[TARGET]->leader + target, out->key[out->n]);
    out->n++;
    return code;
}

/* Of one rank: the heads that it sends or gets, and to or from whom. */
static st_code find_flows(coordinator *c, const move *m, side s, uint32_t rank, flows *out) {
    const member_group *from = m->groups[SOURCE], *to = m->groups[TARGET];
    kv_heads held[MAX_RANKS], heads;
    st_code code = ST_OK;
    out->n = 0;
    for (uint32_t i = 0; i < from->n_ranks; i++) held[i] = held_by(c, from->leader + i);
    for (uint32_t source = 0; source < from->n_ranks; source++)
        for (uint32_t target = 0; target < to->n_ranks && !code; target++) {
            if ((s == SOURCE ? source : target) != rank) continue;
            kv_heads wanted = held_by(c, to->leader + target);
            code = wanted.n ? kv_transfer_heads(held, from->n_ranks, source, wanted, target, &heads) : ST_ERR_INVALID_ARGUMENT;
            if (!code && heads.n) code = add_flow(c, m, s, source, target, heads, out);
        }
    return code;
}

static void order_rank(coordinator *c, move *m, side s, uint32_t rank, const flows *f, proto_move *order) {
    proto_bytes b = {0};
    order->target = s == TARGET;
    order->after_plan = order->scratch.n_pieces ? 0 : m->groups[s]->answered;
    order->n_flows = f->n;
    order->flows = f->flow;
    m->open[s][rank] = true;
    m->n_open++;
    st_code code = proto_move_encode(order, &b);
    members_send(c, m->groups[s]->leader + rank, PROTO_MSG_MOVE, &b, code);
}

static void order_all(coordinator *c, move *m, const sched_action *a, uint32_t *indices, proto_move *order) {
    flows f;
    st_code code = m->groups[SOURCE]->up && m->groups[TARGET]->up ? ST_OK : ST_ERR_UNAVAILABLE;
    for (int pass = 0; pass < 2 && !code; pass++) /* nobody is told before all is known to be possible */
        for (side s = SOURCE; s <= TARGET && !code; s++) {
            const block_id *blocks = s == SOURCE ? a->from_blocks : a->to_blocks;
            for (uint32_t i = 0; i < a->n_blocks; i++) indices[i] = blocks[i].index;
            for (uint32_t i = 0; i < m->groups[s]->n_ranks && !code; i++) {
                code = find_flows(c, m, s, i, &f);
                if (!code && pass) order_rank(c, m, s, i, &f, order); /* also without flows: after_plan is for all */
            }
        }
    if (!code) return;
    m->target_failed = true;
    m->due_ns = net_now_ns();
    (void)st_fail(&m->error, code, "%s",
                  code == ST_ERR_UNAVAILABLE ? "a group is not up" : "not all ranks have transports, or hold its heads");
}

void moves_start(coordinator *c, const sched_action *a) {
    move *m = take_slot(c, a->move, members_verifier(c, a->group), members_verifier(c, a->to), a->n_blocks);
    INVARIANT(m); /* a group has max_moves */
    uint32_t *indices = mem_alloc(a->n_blocks, sizeof *indices);
    proto_move order = {.id = m->id,
                        .generation = m->generation,
                        .n_tokens = a->n_tokens,
                        .n_ready = a->n_ready,
                        .by_layer = !strcmp(c->t->kv_order, "layer"),
                        .lease_ms = lease_ms(c),
                        .retry_ms = lease_ms(c) / RETRIES,
                        .n_blocks = a->n_blocks,
                        .blocks = indices};
    if (indices)
        order_all(c, m, a, indices, &order);
    else {
        m->target_failed = true;
        m->due_ns = m->began_ns;
        (void)st_fail(&m->error, ST_FATAL_MEMORY, "no memory for an order");
    }
    mem_free(indices);
    set_timer(c);
}

uint64_t moves_measure(coordinator *c, uint32_t from, uint32_t to, const char *way, const proto_scratch *scratch,
                       moves_measured *measured, void *context) {
    const uint32_t ranks[2] = {from, to};
    member_group *groups[2];
    for (side s = SOURCE; s <= TARGET; s++) groups[s] = &c->members.groups[c->members.items[ranks[s]].group];
    uint64_t id = MEASURES | (c->moves.generation + UINT64_C(1));
    uint32_t n_blocks = scratch->n_pieces / c->n_layers; /* as large a move */
    move *m = groups[SOURCE]->up && groups[TARGET]->up ? take_slot(c, id, groups[SOURCE], groups[TARGET], n_blocks) : NULL;
    if (!m) return 0;
    m->measured = measured;
    m->context = context;
    proto_move order = {
        .id = id, .generation = m->generation, .lease_ms = lease_ms(c), .retry_ms = lease_ms(c) / RETRIES, .scratch = *scratch};
    snprintf(order.way, sizeof order.way, "%s", way);
    for (side s = SOURCE; s <= TARGET; s++) {
        flows f = {.n = 0};
        st_code code = add_flow(c, m, s, from - groups[SOURCE]->leader, to - groups[TARGET]->leader, (kv_heads){0, 1}, &f);
        if (!code) order_rank(c, m, s, ranks[s] - groups[s]->leader, &f, &order);
        if (code) cancel(c, m, code, "no key could be made");
    }
    set_timer(c);
    return id;
}

void moves_ready(coordinator *c, uint64_t id, uint32_t n_ready) {
    move *m = find(&c->moves, id);
    if (!m || m->cancelled) return;
    m->due_ns = net_now_ns() + m->patience_ns;
    set_timer(c);
    tell(c, m, SOURCE, PROTO_MSG_MOVE_READY, n_ready);
}

void moves_cancel(coordinator *c, uint64_t id) {
    move *m = find(&c->moves, id);
    if (m) cancel(c, m, ST_ERR_CANCELLED, "it was of no use any more");
}

st_code moves_init(coordinator *c, st_error *e) {
    moves *s = &c->moves;
    s->n = c->members.n_verifiers * c->limits.max_moves + 1; /* and a measurement */
    s->items = mem_alloc(s->n, sizeof *s->items);
    if (!s->items) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u moves", s->n);
    return net_timer_create(c->loop, on_timer, c, &s->timer);
}

void moves_deinit(moves *s) {
    net_timer_destroy(s->timer);
    mem_free(s->items);
    *s = (moves){0};
}
