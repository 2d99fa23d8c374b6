/* MeasureKv: how fast KV gets from one rank to another, by each transport that reaches, for some sizes of message; and what the
 * KV of a prompt takes, as many messages of the model's own size.
 *
 * Two ranks of verifiers, of different groups if there are two, move memory of no content, by turns through the protocol of
 * moves and by the transport alone: ROUNDS times each, so that what else the machines do comes to both. A figure is the median.
 * One measurement at a time, and none beside requests: it would tell of both. */
#include "coordinator/coordinator_int.h"

#include "base/mem.h"
#include "kv/kv_core.h"
#include <stdio.h>
#include <string.h>

enum { ROUNDS = 5, ROUND_BYTES = 64 << 20, LEAST_PIECES = 16, RAW = 0, MOVED = 1 };
static const uint32_t sizes[] = {25600, 704 << 10, 8 << 20};
enum { N_SIZES = sizeof sizes / sizeof *sizes, PROMPT = N_SIZES }; /* PROMPT: as if it were one more size */

struct measure {
    coordinator *c;
    net_call *call; /* NULL: nobody listens any more */
    uint32_t source, target, way, size, round, n_replies;
    char ways[PROTO_MAX_TRANSPORTS][PROTO_TRANSPORT_BYTES]; /* [n_ways] that both ranks have */
    uint32_t n_ways;
    uint32_t prompt_tokens, n_sizes; /* 0: without PROMPT */
    double rates[2][ROUNDS];         /* [RAW, MOVED] bytes a second; the last is one move of each */
    uint64_t id;                     /* of the move at hand */
};

static void next(measure *m);

static void finish(measure *m, st_code code, const char *text) {
    m->c->measure = NULL;
    if (m->call) net_call_finish(m->call, st_grpc(code), text);
    mem_free(m);
}

static double median(double rates[ROUNDS]) {
    for (int i = 1; i < ROUNDS; i++)
        for (int k = i; k > 0 && rates[k] < rates[k - 1]; k--) {
            double less = rates[k];
            rates[k] = rates[k - 1];
            rates[k - 1] = less;
        }
    return rates[ROUNDS / 2];
}

/* What a rank holds of one layer of one block: the larger of both. Where degrees of tensor parallelism differ the other side's
 * ranks share it, and this one sends or takes all of it: a move is over when it is. Up to a unit of scratch. */
static uint32_t piece_of_model(const measure *m) {
    uint64_t most = 1;
    for (uint32_t i = 0; i < 2; i++) {
        const proto_register *r = &m->c->members.items[i ? m->target : m->source].info;
        uint64_t bytes = r->kv_blocks ? r->kv_bytes / r->kv_blocks / m->c->n_layers : 0;
        if (bytes > most) most = bytes;
    }
    if (most > PROTO_MAX_SCRATCH_BYTES) most = PROTO_MAX_SCRATCH_BYTES;
    return (uint32_t)(most / PROTO_SCRATCH_UNIT + (most % PROTO_SCRATCH_UNIT > 0)) * PROTO_SCRATCH_UNIT;
}

static proto_scratch scratch_of(const measure *m) {
    if (m->size == PROMPT) return (proto_scratch){piece_of_model(m), m->c->n_layers * kv_blocks_for(m->prompt_tokens), false};
    uint32_t n = ROUND_BYTES / sizes[m->size];
    return (proto_scratch){sizes[m->size], n < LEAST_PIECES ? LEAST_PIECES : n, false};
}

/* What the prompt's KV takes, and from how many tokens on the scheduler would move it: nothing moves within a group. */
static void add_prompt(const measure *m, proto_measurement *v) {
    const uint32_t from = m->c->members.items[m->source].group, to = m->c->members.items[m->target].group;
    const sched_group_stats target = sched_get_group(m->c->sched, m->c->members.groups[to].number);
    const bool may_move = from != to && m->c->limits.max_moves > 0;
    proto_scratch scratch = scratch_of(m);
    v->prompt_tokens = m->prompt_tokens;
    v->move_ns = (uint64_t)((double)scratch.n_pieces * scratch.piece_bytes * 1e9 / v->bytes_per_s);
    v->crossover_tokens = may_move && target.moves_pay ? m->c->limits.min_move_tokens : 0;
    v->move_token_ns = sched_get_stats(m->c->sched).move_token_ns;
    v->prompt_token_ns = target.prompt_token_ns;
}

/* False: it is over. */
static bool reply(measure *m) {
    proto_measurement v = {.block_bytes = scratch_of(m).piece_bytes,
                           .bytes_per_s = median(m->rates[MOVED]),
                           .raw_bytes_per_s = median(m->rates[RAW]),
                           .source = m->source,
                           .target = m->target};
    proto_bytes b = {0};
    snprintf(v.transport, sizeof v.transport, "%s", m->ways[m->way]);
    if (m->size == PROMPT) add_prompt(m, &v);
    st_code code = proto_measurement_encode(&v, &b);
    if (!code) code = net_call_send(m->call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    if (code) {
        finish(m, code, st_text(code));
        return false;
    }
    m->n_replies++;
    return true;
}

static void measured(void *context, st_code code, const char *message, const proto_moved *at_target) {
    measure *m = context;
    if (!m->call || (code && code != ST_ERR_UNSUPPORTED)) {
        finish(m, code ? code : ST_ERR_CANCELLED, message);
        return;
    }
    if (!code && !at_target->bytes) { /* a rank's word is not trusted */
        finish(m, ST_FATAL_PROTOCOL, "a rank says that all has come, and that it was nothing");
        return;
    }
    if (code) { /* this way does not lead there */
        m->way++;
        m->size = m->round = 0;
    } else {
        uint64_t ns = at_target->took_ns ? at_target->took_ns : 1;
        m->rates[m->round % 2][m->round / 2] = (double)at_target->bytes * 1e9 / (double)ns;
        if (++m->round == 2 * ROUNDS) {
            m->round = 0;
            if (!reply(m)) return;
            m->size++;
        }
        if (m->size == m->n_sizes) m->size = 0, m->way++;
    }
    next(m);
}

/* In the source's order. */
static void find_ways(measure *m) {
    const proto_register *a = &m->c->members.items[m->source].info, *b = &m->c->members.items[m->target].info;
    for (uint32_t i = 0; i < a->n_addresses; i++)
        for (uint32_t k = 0; k < b->n_addresses; k++)
            if (!strcmp(a->addresses[i].transport, b->addresses[k].transport))
                memcpy(m->ways[m->n_ways++], a->addresses[i].transport, PROTO_TRANSPORT_BYTES);
}

static void next(measure *m) {
    if (m->way == m->n_ways) {
        if (m->n_replies)
            finish(m, ST_OK, "");
        else
            finish(m, ST_ERR_UNSUPPORTED,
                   "no transport that both ranks have leads from one to the other (kv_transport, kv_listen)");
        return;
    }
    proto_scratch scratch = scratch_of(m);
    scratch.raw = m->round % 2 == RAW;
    m->id = moves_measure(m->c, m->source, m->target, m->ways[m->way], &scratch, measured, m);
    if (!m->id) finish(m, ST_ERR_UNAVAILABLE, "one of the ranks is gone");
}

/* Of different groups if there are two; otherwise of one. False: there are no two. */
static bool choose_ranks(const coordinator *c, measure *m) {
    for (uint32_t i = 0; i < c->members.n_groups; i++) {
        const member_group *g = &c->members.groups[i];
        if (g->drafts || !g->up) continue;
        if (m->source) {
            m->target = g->leader;
            return true;
        }
        m->source = g->leader;
    }
    for (uint32_t i = 0; i < c->members.n_groups; i++) {
        const member_group *g = &c->members.groups[i];
        if (g->drafts || !g->up || g->n_ranks < 2) continue;
        m->source = g->leader;
        m->target = g->leader + 1;
        return true;
    }
    return false;
}

static st_code read_request(const coordinator *c, const uint8_t *message, size_t n, uint32_t *prompt_tokens, st_error *e) {
    st_code code = proto_measure_request_decode(message, n, prompt_tokens, e);
    uint64_t n_pieces = code ? 0 : (uint64_t)kv_blocks_for(*prompt_tokens) * c->n_layers;
    if (n_pieces > PROTO_MAX_SCRATCH_PIECES)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "prompt_tokens: %u in %u layers are %llu pieces; expected at most %d",
                       *prompt_tokens, c->n_layers, (unsigned long long)n_pieces, PROTO_MAX_SCRATCH_PIECES);
    return code;
}

/* A request of one group could not be longer, nor then what moves. */
static st_code check_prompt(const measure *m, st_error *e) {
    const sched_limits *l = &m->c->limits;
    uint64_t room = (uint64_t)l->max_tree + 1, most = l->max_context - 1; /* a token of the answer, and its drafts */
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t tokens = m->c->members.items[i ? m->target : m->source].info.kv_blocks * NOUNS_BLOCK_TOKENS;
        tokens = tokens > room ? tokens - room : 0;
        if (tokens < most) most = tokens;
    }
    if (m->prompt_tokens <= most) return ST_OK;
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "prompt_tokens: %u; the two verifiers hold prompts of %llu tokens at most",
                   m->prompt_tokens, (unsigned long long)most);
}

void measure_start(coordinator *c, net_call *call, const uint8_t *message, size_t n) {
    sched_stats q = sched_get_stats(c->sched);
    uint32_t prompt_tokens = 0;
    st_error e = {0};
    st_code code = read_request(c, message, n, &prompt_tokens, &e);
    if (code) {
        net_call_finish(call, st_grpc(code), e.message);
        return;
    }
    measure *m = c->measure || q.running || q.waiting ? NULL : mem_alloc(1, sizeof *m);
    if (!m) {
        const char *why = c->measure ? "another one measures"
                          : q.running || q.waiting
                              ? "requests are running; what is measured beside them says little: try again later"
                              : "no memory";
        net_call_finish(call, st_grpc(ST_ERR_RESOURCE_EXHAUSTED), why);
        return;
    }
    *m = (measure){.c = c, .call = call, .prompt_tokens = prompt_tokens, .n_sizes = N_SIZES + (prompt_tokens > 0)};
    c->measure = m;
    const bool two = choose_ranks(c, m);
    code = two ? check_prompt(m, &e) : ST_OK;
    if (code)
        finish(m, code, e.message);
    else if (two) {
        find_ways(m);
        next(m);
    } else
        finish(m, ST_ERR_MISMATCH,
               "the cluster has one verifier, of one rank: its KV has nowhere to go. A topology with two groups of role "
               "verifier, or with "
               "one of tensor_parallel 2, can be measured (cluster-configs/two-verifiers.yaml)");
}

void measure_forget(coordinator *c, const net_call *call) {
    measure *m = c->measure;
    if (!m || m->call != call) return;
    m->call = NULL;
    moves_cancel(c, m->id);
}

void measure_deinit(coordinator *c) {
    mem_free(c->measure);
    c->measure = NULL;
}
