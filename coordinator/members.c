/* The ranks: who is here, what they hold, who is lost.
 *
 *     absent ──REGISTER──> loading ──READY, all hashes agree──> ready ──GOODBYE──> left
 *        ^                    └───────── link closed, silence, ABORT, mismatch ─────────> lost ──REGISTER──> loading
 *
 * A group is up when its last rank is ready, and down as soon as one is lost; the scheduler hears of both. Without any verifier
 * there is no cluster; without one of several, or without a drafter, it is slower. MPI says nothing about a dead rank, so the
 * link and the heartbeats are the only detectors. Each new life of a group has a higher group epoch; frames of an older one are
 * dropped. A link is a stranger's until REGISTER; it has dead_after_ms for that. A GOODBYE that nobody asked for is a loss like
 * any other. */
#include "coordinator/coordinator_int.h"

#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

enum { STOP_TIMEOUT_MS = 3000 };
static const uint64_t MS = 1000000;

/* A frame to or from the member; of strangers nothing is counted. */
static void count_bytes(coordinator *c, const member *m, metrics_direction direction, const net_frame *f) {
    metrics_message k = METRICS_OTHER;
    if (!m) return;
    if (f->type == PROTO_MSG_PLAN) k = METRICS_PLANS;
    if (f->type == PROTO_MSG_RESULT) k = METRICS_RESULTS;
    if (f->type == PROTO_MSG_EARLY) k = METRICS_EARLY_RESULTS;
    c->metrics.link_bytes[direction][c->members.groups[m->group].drafts][k] += (uint64_t)f->n + NET_FRAME_EXTRA_BYTES;
}

/* m: whose link it is; NULL: a stranger's. */
static void send_frame(coordinator *c, net_link *k, const member *m, uint16_t type, proto_bytes *b, st_code encoded) {
    net_frame f = {.type = type,
                   .cluster_epoch = c->o->cluster_epoch,
                   .group_epoch = m ? c->members.groups[m->group].epoch : 0,
                   .payload = b->bytes,
                   .n = (uint32_t)b->n};
    st_code code = encoded ? encoded : net_link_send(k, &f);
    if (!code) count_bytes(c, m, METRICS_SENT, &f);
    proto_bytes_free(b);
    if (code) net_link_close(k, "cannot send");
}

void members_send(coordinator *c, uint32_t rank, uint16_t type, proto_bytes *b, st_code encoded) {
    const member *m = &c->members.items[rank];
    if (m->link)
        send_frame(c, m->link, m, type, b, encoded);
    else
        proto_bytes_free(b);
}

static uint32_t rank_of(const coordinator *c, const member *m) { return (uint32_t)(m - c->members.items); }
static member_group *group_of(coordinator *c, const member *m) { return &c->members.groups[m->group]; }

/* By its number among the drafters, or among the verifiers. */
static member_group *group_at(coordinator *c, bool drafts, uint32_t number) {
    member_group *g = c->members.groups;
    while (g->drafts != drafts || g->number != number) g++;
    return g;
}

member_group *members_verifier(coordinator *c, uint32_t verifier) { return group_at(c, false, verifier); }

static const config_group *config_of(const coordinator *c, const member_group *g) { return &c->t->groups[g - c->members.groups]; }

static bool any_verifier_up(const members *m) {
    bool up = false;
    for (uint32_t i = 0; i < m->n_groups; i++) up |= m->groups[i].up && !m->groups[i].drafts;
    return up;
}

static void abort_link(coordinator *c, net_link *k, const member *m, st_code code, const char *text) {
    proto_abort a = {.code = code};
    proto_bytes b = {0};
    snprintf(a.message, sizeof a.message, "%s", text);
    code = proto_abort_encode(&a, &b);
    send_frame(c, k, m, PROTO_MSG_ABORT, &b, code);
    net_link_close(k, text);
}

static void tell_scheduler(coordinator *c, const member_group *g) {
    sched_event ev = {.kind = g->up ? SCHED_GROUP_UP : SCHED_GROUP_DOWN, .group = g->number};
    if (g->drafts) ev = (sched_event){.kind = g->up ? SCHED_DRAFTER_UP : SCHED_DRAFTER_DOWN, .drafter = g->number};
    coordinator_event(c, &ev);
}

/* A group is of no use without one of its ranks: the others are sent away, which gets them out of a collective with the dead one
 * too. */
static void group_down(coordinator *c, const member *lost) {
    member_group *g = group_of(c, lost);
    bool was_up = g->up;
    g->up = false;
    g->settled = true;
    g->plan = g->answered = 0;
    for (uint32_t i = g->leader; i < g->leader + g->n_ranks; i++) {
        member *m = &c->members.items[i];
        if (m->link && m->state != MEMBER_LOST && m->state != MEMBER_LEFT) {
            m->state = MEMBER_LOST;
            snprintf(m->reason, sizeof m->reason, "sent away, since rank %u is lost: %s", rank_of(c, lost), lost->reason);
            debug_lost(c, i);
            abort_link(c, m->link, m, ST_ERR_UNAVAILABLE, m->reason);
        }
    }
    if (!was_up) return;
    if (!g->drafts && any_verifier_up(&c->members))
        log_line(LOG_WARN, "coordinator", "verifier %s is lost: its requests go on in the others", config_of(c, g)->name);
    tell_scheduler(c, g);
    if (!g->drafts) moves_lost(c, g);
}

static void lose(coordinator *c, member *m, const char *reason) {
    if (m->state == MEMBER_LOST || m->state == MEMBER_LEFT) return;
    snprintf(m->reason, sizeof m->reason, "%s", reason);
    m->state = MEMBER_LOST;
    group_of(c, m)->epoch++; /* what the old life of the group still sends is dropped */
    log_line(LOG_ERROR, "coordinator", "rank %u (%s) is lost: %s", rank_of(c, m), c->t->groups[m->group].name, m->reason);
    debug_lost(c, rank_of(c, m)); /* its link may take long to close */
    group_down(c, m);
}

/* Refuses a rank, with the reason on both sides. */
static void refuse(coordinator *c, net_link *k, member *m, st_code code, const char *text) {
    if (m)
        lose(c, m, text);
    else
        log_line(LOG_ERROR, "coordinator", "refused a rank: %s", text);
    abort_link(c, k, m, code, text);
}

void members_refuse(coordinator *c, uint32_t rank, st_code code, const char *why) {
    member *m = &c->members.items[rank];
    if (m->link) refuse(c, m->link, m, code, why);
}

static void forget_stranger(members *m, const net_link *k) {
    for (uint32_t i = 0; i < m->n; i++)
        if (m->strangers[i].link == k) m->strangers[i].link = NULL;
}

static void on_register(coordinator *c, net_link *k, const net_frame *f) {
    proto_register info;
    st_error e = {0};
    uint32_t group, group_rank;
    char text[256] = "";
    if (proto_register_decode(f->payload, f->n, &info, &e)) {
        refuse(c, k, NULL, ST_FATAL_PROTOCOL, e.message);
        return;
    }
    if (!config_rank(c->t, info.rank, &group, &group_rank))
        snprintf(text, sizeof text, "rank %u registered, but the topology has worker ranks 1 .. %u", info.rank, c->members.n - 1);
    else if (info.group != group || info.group_rank != group_rank || info.group_size != c->t->groups[group].tensor_parallel)
        snprintf(
            text, sizeof text,
            "rank %u says it is %u of %u in group %u, the topology says %u of %u in group %u: do all hosts read the same file?",
            info.rank, info.group_rank, info.group_size, info.group, group_rank, c->t->groups[group].tensor_parallel, group);
    else if (c->members.items[info.rank].link)
        snprintf(text, sizeof text, "rank %u is registered already", info.rank);
    if (text[0]) {
        refuse(c, k, NULL, ST_ERR_MISMATCH, text);
        return;
    }
    if (c->members.stopping) {
        refuse(c, k, NULL, ST_ERR_UNAVAILABLE, "the cluster is stopping");
        return;
    }
    forget_stranger(&c->members, k);
    member *m = &c->members.items[info.rank];
    *m = (member){.state = MEMBER_LOADING, .group = group, .link = k, .info = info, .heard_ns = net_now_ns()};
    net_link_set_user(k, m);
    proto_bytes b = {0};
    proto_welcome w = {c->o->cluster_epoch, c->members.groups[group].epoch, c->t->heartbeat_ms, c->t->dead_after_ms};
    st_code code = proto_welcome_encode(&w, &b);
    send_frame(c, k, m, PROTO_MSG_WELCOME, &b, code);
}

/* What a rank loaded must be what the coordinator's own file says. Of a drafter only the vocabulary must, and the KV blocks that
 * the scheduler counts. */
static bool agrees(const coordinator *c, const proto_register *r, char *text, size_t n) {
    bool drafts = c->members.groups[r->group].drafts;
    uint32_t n_blocks = c->t->groups[r->group].kv_tokens / NOUNS_BLOCK_TOKENS;
    uint32_t n_slots = c->t->groups[r->group].swap_tokens / NOUNS_BLOCK_TOKENS;
    if (!drafts && memcmp(r->model_hash, c->model_hash, sizeof c->model_hash))
        snprintf(text, n,
                 "rank %u (%s) holds another model file than the coordinator (SHA-256 differs): copy %s to that host again",
                 r->rank, r->hostname, c->t->model);
    else if (!drafts && strcmp(r->precision, c->t->precision))
        snprintf(text, n, "rank %u (%s) computes with precision %s, the topology says %s: do all hosts read the same file?",
                 r->rank, r->hostname, r->precision, c->t->precision);
    else if (memcmp(r->vocabulary_hash, c->vocabulary_hash, sizeof c->vocabulary_hash))
        snprintf(text, n, "rank %u (%s, %s) has another vocabulary than %s", r->rank, c->t->groups[r->group].name, r->hostname,
                 c->t->model);
    else if (r->dim != c->limits.dim && (!drafts || r->wants_hidden))
        snprintf(text, n, "rank %u (%s, %s) is for hidden states of %u numbers, those of %s have %u", r->rank,
                 c->t->groups[r->group].name, r->hostname, r->dim, c->t->model, c->limits.dim);
    else if (r->wants_hidden && r->n_vocab != c->limits.n_vocab)
        snprintf(text, n, "rank %u (%s, %s) is for a vocabulary of %u tokens, that of %s has %u", r->rank,
                 c->t->groups[r->group].name, r->hostname, r->n_vocab, c->t->model, c->limits.n_vocab);
    else if (!drafts &&
             (r->kv_blocks != n_blocks || r->max_context != c->limits.max_context || r->max_rows != c->limits.max_rows))
        snprintf(text, n,
                 "rank %u (%s) holds %llu KV blocks, context %u, %u rows a step; expected %u, %u, %u: do all hosts read the same "
                 "topology?",
                 r->rank, r->hostname, (unsigned long long)r->kv_blocks, r->max_context, r->max_rows, n_blocks,
                 c->limits.max_context, c->limits.max_rows);
    else if (r->kv_slots != n_slots)
        snprintf(text, n, "rank %u (%s) has a swap file of %llu KV blocks; expected %u: do all hosts read the same topology?",
                 r->rank, r->hostname, (unsigned long long)r->kv_slots, n_slots);
    else if (drafts && sched_keeps_kv(c->t->groups[r->group].kind) && r->kv_blocks != n_blocks)
        snprintf(text, n, "rank %u (%s, %s) holds %llu KV blocks; expected %u: do all hosts read the same topology?", r->rank,
                 c->t->groups[r->group].name, r->hostname, (unsigned long long)r->kv_blocks, n_blocks);
    else
        return true;
    return false;
}

static void group_may_be_up(coordinator *c, member_group *g) {
    for (uint32_t i = g->leader; i < g->leader + g->n_ranks; i++)
        if (c->members.items[i].state != MEMBER_READY) return;
    g->up = g->settled = true;
    tell_scheduler(c, g);
}

static void on_ready(coordinator *c, net_link *k, member *m, const net_frame *f) {
    proto_register info;
    st_error e = {0};
    char text[256];
    if (proto_register_decode(f->payload, f->n, &info, &e) || info.rank != m->info.rank || m->state != MEMBER_LOADING) {
        refuse(c, k, m, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "READY of another rank, or twice");
        return;
    }
    if (!agrees(c, &info, text, sizeof text)) {
        refuse(c, k, m, ST_ERR_MISMATCH, text);
        return;
    }
    m->info = info;
    m->state = MEMBER_READY;
    m->load_share = 1;
    log_line(LOG_INFO, "coordinator", "rank %u is ready: %s%s%s %s on %s, %u threads%s%s%s%s, %.1f MB weights, %.1f MB KV",
             info.rank, info.role, info.kind[0] ? " " : "", info.kind, c->t->groups[m->group].name, info.hostname, info.n_threads,
             info.isa[0] ? " of " : "", info.isa, info.precision[0] ? ", " : "", info.precision, (double)info.weight_bytes / 1e6,
             (double)info.kv_bytes / 1e6);
    group_may_be_up(c, group_of(c, m));
}

static void on_heartbeat(coordinator *c, net_link *k, member *m, const net_frame *f) {
    proto_heartbeat h;
    st_error e = {0};
    if (proto_heartbeat_decode(f->payload, f->n, &h, &e))
        refuse(c, k, m, ST_FATAL_PROTOCOL, e.message);
    else
        m->load_share = h.load_share;
}

/* What a plan took beyond its step is the house's own cost: coding, the way, the mailbox and its wake-up. */
static void take_time(coordinator *c, member_group *g, const proto_result *r) {
    uint64_t t = net_now_ns() - g->sent_ns;
    uint32_t n_choices = 0, n_chosen = 0, n_nodes = g->n_nodes;
    if (r->plan_id != g->plan) return;
    for (uint32_t i = 0; i < r->n_items; i++) {
        n_choices += r->items[i].n_tokens > 0;
        n_chosen += r->items[i].n_tokens;
        n_nodes += r->items[i].tree.n_nodes;
    }
    uint32_t n_known = n_choices + n_nodes < r->n_rows ? n_choices + n_nodes : r->n_rows; /* a rank's word is not trusted */
    trace_note(&c->trace, g->drafts ? "draft" : "step", config_of(c, g)->name,
               &(proto_span){.lane = g->leader,
                             .start_ns = g->sent_ns - c->started_ns,
                             .duration_ns = t,
                             .part_ns = r->step_ns < t ? r->step_ns : t,
                             .plan = r->plan_id,
                             .sequences = r->n_items,
                             .tokens = r->n_rows,
                             .prompt = r->n_rows - n_known,
                             .drafted = n_nodes,
                             .accepted = n_chosen - n_choices});
    g->plan = 0;
    g->answered = r->plan_id;
    if (g->drafts) {
        metrics_add(&c->metrics.draft, t, 1);
        return;
    }
    metrics_add(&c->metrics.step, r->step_ns, 1);
    metrics_add(&c->metrics.plan_overhead, t > r->step_ns ? t - r->step_ns : 0, 1);
}

static void take_result(coordinator *c, member *m, const proto_result *r) {
    member_group *g = group_of(c, m);
    double ms = (double)r->step_ns / 1e6;
    sched_event ev = {.kind = SCHED_RESULT, .result = r, .group = g->number};
    if (g->drafts) ev = (sched_event){.kind = SCHED_DRAFTS, .result = r, .drafter = g->number};
    take_time(c, g, r);
    m->step_ms = m->steps++ ? m->step_ms * 0.9 + ms * 0.1 : ms;
    coordinator_event(c, &ev);
}

static void on_result(coordinator *c, net_link *k, member *m, const net_frame *f) {
    uint32_t epoch = group_of(c, m)->epoch;
    proto_result r;
    st_error e = {0};
    arena a;
    if (f->group_epoch < epoch) {
        log_line(LOG_WARN, "coordinator", "dropped a result of rank %u of epoch %u, now %u", rank_of(c, m), f->group_epoch,
                 epoch);
        return;
    }
    if (f->group_epoch > epoch || m->state != MEMBER_READY || m->info.group_rank) {
        refuse(c, k, m, ST_FATAL_PROTOCOL, "a RESULT of a later epoch, before READY, or not from the leader");
        return;
    }
    if (arena_init(&a, proto_arena_bytes(f->n)) || proto_result_decode(f->payload, f->n, &a, &r, &e))
        refuse(c, k, m, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "no memory for a result");
    else
        take_result(c, m, &r);
    arena_deinit(&a);
}

/* Only a hint: one that cannot be read is dropped. */
static void on_early(coordinator *c, net_link *k, member *m, const net_frame *f) {
    const member_group *g = group_of(c, m);
    proto_result r;
    arena a;
    if (f->group_epoch < g->epoch) return;
    if (f->group_epoch > g->epoch || g->drafts || m->state != MEMBER_READY || m->info.group_rank) {
        refuse(c, k, m, ST_FATAL_PROTOCOL, "an EARLY of a later epoch, before READY, or not from a verifier's leader");
        return;
    }
    if (!arena_init(&a, proto_arena_bytes(f->n)) && !proto_result_decode(f->payload, f->n, &a, &r, NULL))
        coordinator_event(c, &(sched_event){.kind = SCHED_EARLY, .result = &r, .group = g->number});
    arena_deinit(&a);
}

static void on_moved(coordinator *c, net_link *k, member *m, const net_frame *f) {
    uint32_t epoch = group_of(c, m)->epoch;
    proto_moved r;
    st_error e = {0};
    if (f->group_epoch < epoch) return; /* its group has been lost meanwhile, and the move with it */
    if (f->group_epoch > epoch || m->state != MEMBER_READY || proto_moved_decode(f->payload, f->n, &r, &e))
        refuse(c, k, m, ST_FATAL_PROTOCOL, e.message[0] ? e.message : "a MOVED of a later epoch, or before READY");
    else
        moves_answered(c, rank_of(c, m), &r);
}

static void on_faults_told(coordinator *c, net_link *k, member *m, const net_frame *f) {
    proto_faults r;
    st_error e = {0};
    if (proto_faults_decode(f->payload, f->n, &r, &e))
        refuse(c, k, m, ST_FATAL_PROTOCOL, e.message);
    else
        debug_answered(c, rank_of(c, m), &r);
}

static void on_abort(coordinator *c, net_link *k, member *m, const net_frame *f) {
    proto_abort a;
    lose(c, m, proto_abort_decode(f->payload, f->n, &a, NULL) ? "an unreadable ABORT" : a.message);
    net_link_close(k, "you are lost, as you said");
}

static void on_frame(void *context, net_link *k, const net_frame *f) {
    coordinator *c = context;
    member *m = net_link_user(k);
    if (m) m->heard_ns = net_now_ns();
    count_bytes(c, m, METRICS_RECEIVED, f);
    if (f->cluster_epoch != c->o->cluster_epoch || (!m && f->type != PROTO_MSG_REGISTER)) {
        refuse(c, k, m, ST_FATAL_PROTOCOL, m ? "a frame of another cluster epoch" : "the first frame must be REGISTER");
        return;
    }
    switch (f->type) {
    case PROTO_MSG_REGISTER:
        if (m)
            refuse(c, k, m, ST_FATAL_PROTOCOL, "a second REGISTER");
        else
            on_register(c, k, f);
        break;
    case PROTO_MSG_READY: on_ready(c, k, m, f); break;
    case PROTO_MSG_HEARTBEAT: on_heartbeat(c, k, m, f); break;
    case PROTO_MSG_RESULT: on_result(c, k, m, f); break;
    case PROTO_MSG_EARLY: on_early(c, k, m, f); break;
    case PROTO_MSG_MOVED: on_moved(c, k, m, f); break;
    case PROTO_MSG_FAULTS_TOLD: on_faults_told(c, k, m, f); break;
    case PROTO_MSG_ABORT: on_abort(c, k, m, f); break;
    case PROTO_MSG_GOODBYE:
        if (!c->members.stopping) {
            refuse(c, k, m, ST_FATAL_PROTOCOL, "it left without having been told to");
            break;
        }
        m->state = MEMBER_LEFT;
        net_link_close(k, "goodbye");
        break;
    default: refuse(c, k, m, ST_FATAL_PROTOCOL, "a message of a type that no coordinator takes");
    }
}

static void check_all_left(coordinator *c) {
    members *m = &c->members;
    if (!m->stopping) return;
    bool all = true;
    for (uint32_t i = 1; i < m->n; i++) all &= !m->items[i].link;
    if (all || net_now_ns() > m->stop_by_ns) coordinator_all_left(c);
}

static void on_open(void *context, net_link *k) {
    coordinator *c = context;
    members *m = &c->members;
    uint32_t i = 0;
    while (i < m->n && m->strangers[i].link) i++;
    if (i < m->n) {
        m->strangers[i].link = k;
        m->strangers[i].since_ns = net_now_ns();
    } else
        net_link_close(k, "more ranks join at once than the topology has");
}

static void on_close(void *context, net_link *k, const char *reason) {
    coordinator *c = context;
    member *m = net_link_user(k);
    forget_stranger(&c->members, k);
    if (!m) return;
    m->link = NULL;
    lose(c, m, reason);
    debug_lost(c, rank_of(c, m));
    check_all_left(c);
}

/* Heartbeats out, silence found, once every heartbeat_ms. */
static void on_beat(void *context) {
    coordinator *c = context;
    members *m = &c->members;
    uint64_t now = net_now_ns();
    for (uint32_t i = 0; i < m->n; i++)
        if (m->strangers[i].link && now - m->strangers[i].since_ns > c->t->dead_after_ms * MS)
            net_link_close(m->strangers[i].link, "no REGISTER came");
    for (uint32_t i = 1; i < m->n; i++) {
        member *r = &m->items[i];
        if (!r->link) continue;
        if (now - r->heard_ns > c->t->dead_after_ms * MS) {
            lose(c, r, "no sign of life: heartbeats stopped");
            net_link_close(r->link, "no sign of life");
            continue;
        }
        proto_bytes b = {0};
        proto_heartbeat h = {.sent_ns = now};
        st_code code = proto_heartbeat_encode(&h, &b);
        send_frame(c, r->link, r, PROTO_MSG_HEARTBEAT, &b, code);
    }
    check_all_left(c);
    net_timer_at(m->beat, now + c->t->heartbeat_ms * MS);
}

st_code members_init(coordinator *c, st_error *e) {
    members *m = &c->members;
    const config_topology *t = c->t;
    uint32_t rank = 1;
    m->n = config_n_ranks(t);
    m->n_groups = t->n_groups;
    m->items = mem_alloc(m->n, sizeof *m->items);
    m->strangers = mem_alloc(m->n, sizeof *m->strangers);
    m->groups = mem_alloc(m->n_groups, sizeof *m->groups);
    m->drafter_names = mem_alloc(m->n_groups, sizeof *m->drafter_names);
    if (!m->items || !m->strangers || !m->groups || !m->drafter_names)
        return st_fail(e, ST_FATAL_MEMORY, "no memory for %u ranks", m->n);
    for (uint32_t g = 0; g < m->n_groups; g++) {
        const config_group *of = &t->groups[g];
        bool drafts = of->role == CONFIG_DRAFTER;
        m->groups[g] = (member_group){.leader = rank,
                                      .n_ranks = of->tensor_parallel,
                                      .number = drafts ? m->n_drafters : m->n_verifiers++,
                                      .epoch = 1,
                                      .drafts = drafts};
        for (uint32_t i = 0; i < of->tensor_parallel; i++) m->items[rank++].group = g;
        if (drafts && sched_wants_hidden(of->kind)) m->want_hidden |= UINT32_C(1) << m->n_drafters;
        if (drafts) m->drafter_names[m->n_drafters++] = of->name;
    }
    return ST_OK;
}

st_code members_listen(coordinator *c, st_error *e) {
    static const net_link_callbacks callbacks = {on_open, on_frame, on_close};
    members *m = &c->members;
    char host[256];
    uint16_t port;
    m->started_ns = net_now_ns();
    st_code code = config_split_address(c->t->control_listen, host, sizeof host, &port, e);
    if (!code) code = net_link_listen(c->loop, host, port, c->o->secret, &callbacks, c, &m->server, &m->port, e);
    if (!code) code = net_timer_create(c->loop, on_beat, c, &m->beat);
    if (!code) on_beat(c);
    return code;
}

void members_deinit(members *m) {
    net_timer_destroy(m->beat);
    mem_free(m->items);
    mem_free(m->strangers);
    mem_free(m->groups);
    mem_free(m->drafter_names);
    *m = (members){0};
}

static void send_plan(coordinator *c, member_group *g, const proto_plan *p) {
    proto_bytes b = {0};
    if (!g->up) return; /* its DOWN is on its way to the scheduler */
    g->plan = p->id;
    g->n_nodes = 0;
    for (uint32_t i = 0; i < p->n_work; i++) g->n_nodes += p->work[i].tree.n_nodes;
    g->sent_ns = net_now_ns();
    st_code code = proto_plan_encode(p, &b);
    member *m = &c->members.items[g->leader];
    send_frame(c, m->link, m, PROTO_MSG_PLAN, &b, code);
    for (uint32_t i = 1; i < g->n_ranks; i++) { /* they may have gone to sleep since the last step */
        proto_bytes wake = {0};
        code = proto_wake_encode(p->id, &wake);
        send_frame(c, m[i].link, m, PROTO_MSG_WAKE, &wake, code);
    }
}

void members_send_plan(coordinator *c, uint32_t verifier, const proto_plan *p) { send_plan(c, group_at(c, false, verifier), p); }

void members_send_draft(coordinator *c, uint32_t drafter, const proto_plan *p) { send_plan(c, group_at(c, true, drafter), p); }

void members_give_up(coordinator *c, const char *why) {
    for (uint32_t i = 0; i < c->members.n_verifiers; i++) {
        member_group *g = group_at(c, false, i);
        member *leader = &c->members.items[g->leader];
        if (g->plan && leader->link) refuse(c, leader->link, leader, ST_ERR_DEADLINE, why);
    }
}

void members_stop(coordinator *c) {
    members *m = &c->members;
    m->stopping = true;
    for (uint32_t i = 0; i < m->n_groups; i++) m->groups[i].up = false; /* they have nothing to do any more */
    m->stop_by_ns = net_now_ns() + STOP_TIMEOUT_MS * MS;
    for (uint32_t i = 1; i < m->n; i++) {
        proto_bytes none = {0};
        if (m->items[i].link) send_frame(c, m->items[i].link, &m->items[i], PROTO_MSG_STOP, &none, ST_OK);
    }
    check_all_left(c);
}

void members_explain(const coordinator *c, char *text, size_t n) {
    static const char *const words[] = {"has not joined yet", "is loading", "is ready", "is lost", "has left"};
    const members *m = &c->members;
    bool serves = any_verifier_up(m);
    text[0] = 0;
    for (uint32_t i = 1; i < m->n && !text[0]; i++) {
        const member *r = &m->items[i];
        const member_group *g = &m->groups[r->group];
        bool late = r->state <= MEMBER_LOADING && net_now_ns() - m->started_ns > c->t->join_timeout_ms * MS;
        if (r->state == MEMBER_READY || ((g->drafts || serves) && (g->settled || late))) continue;
        if (r->state == MEMBER_LOADING)
            snprintf(text, n, "rank %u %s (%.0f %%)", i, words[r->state], r->load_share * 100);
        else if (late)
            snprintf(text, n, "rank %u has not joined within %u ms: did it start, and can it reach the control address?", i,
                     c->t->join_timeout_ms);
        else
            snprintf(text, n, "rank %u %s%s%s", i, words[r->state], r->reason[0] ? ": " : "", r->reason);
    }
}
