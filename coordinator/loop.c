/* The coordinator's loop: events from clients, ranks, timers and signals go to the pure scheduler; its actions go out.
 *
 * Carrying out an action can bring up the next event (a stop string cancels its request, a dead link takes the group down). Such
 * an event waits in `pending` until the actions at hand are done, since their views live only until the scheduler's next step.
 *
 *     serving ──SIGTERM, SIGINT, Stop──> draining ──DRAINED──> stopping ranks ──all left──> closing clients ──> end
 *
 * A second signal ends the process's loop at once. The drain has a time-out; what is still running then ends with UNAVAILABLE,
 * and a verifier that even then does not answer its plan is given up after dead_after_ms. */
#include "coordinator/coordinator_int.h"

#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { CLOSE_TIMEOUT_MS = 1000, MAX_MOVES = 8 };
static const uint64_t MS = 1000000;

static void send_plan(coordinator *c, uint32_t verifier, const proto_plan *p) {
    members_send_plan(c, verifier, p);
    for (uint32_t i = 0; i < p->n_open; i++) front_started(c, p->open[i].seq);
}

static void act(coordinator *c, sched_actions actions) {
    for (uint32_t i = 0; i < actions.n; i++) {
        const sched_action *a = &actions.items[i];
        switch (a->kind) {
        case SCHED_ACT_PLAN: send_plan(c, a->group, a->plan); break;
        case SCHED_ACT_DRAFT: members_send_draft(c, a->drafter, a->plan); break;
        case SCHED_ACT_TOKENS: front_tokens(c, a); break;
        case SCHED_ACT_FINISHED: front_finished(c, a); break;
        case SCHED_ACT_TIMER: net_timer_at(c->sched_timer, a->at_ns); break;
        case SCHED_ACT_DRAINED: c->drained = true; break;
        case SCHED_ACT_MOVE: moves_start(c, a); break;
        case SCHED_ACT_MOVE_READY: moves_ready(c, a->move, a->n_ready); break;
        case SCHED_ACT_MOVE_CANCEL: moves_cancel(c, a->move); break;
        }
    }
}

void coordinator_event(coordinator *c, const sched_event *event) {
    if (c->stepping) {
        bool views = event->kind == SCHED_REQUEST || event->kind == SCHED_RESULT || event->kind == SCHED_EARLY ||
                     event->kind == SCHED_DRAFTS;
        INVARIANT(!views && c->n_pending < c->max_pending);
        c->pending[c->n_pending++] = *event;
        return;
    }
    c->stepping = true;
    act(c, sched_step(c->sched, net_now_ns(), event));
    for (uint32_t i = 0; i < c->n_pending; i++) { /* grows while it is walked */
        sched_event next = c->pending[i];
        act(c, sched_step(c->sched, net_now_ns(), &next));
    }
    c->n_pending = 0;
    c->stepping = false;
    front_emptied(c);
    if (!c->drained || c->members.stopping) return;
    front_drained(c);
    members_stop(c);
}

static void on_sched_timer(void *context) {
    sched_event ev = {.kind = SCHED_TIMER};
    coordinator_event(context, &ev);
}

static void end(void *context) {
    coordinator *c = context;
    if (c->ended) return;
    c->ended = true;
    net_loop_stop(c->loop);
}

void coordinator_all_left(coordinator *c) {
    if (c->closing) return; /* heartbeats ask again: the time-out below must not move */
    c->closing = true;
    net_timer_at(c->drain_timer, net_now_ns() + CLOSE_TIMEOUT_MS * MS); /* on_drain_timer ends what a slow client would hold up */
    net_grpc_drain(c->front.server, end, c);
}

static void on_drain_timer(void *context) {
    coordinator *c = context;
    if (c->closing)
        end(c);
    else if (c->overdue && !c->drained) /* nothing runs any more, but the last plan is still not answered */
        members_give_up(c, "it did not answer a plan before the drain was over");
    else if (!c->drained) {
        log_line(LOG_WARN, "coordinator", "the drain took over %u ms: what is still running ends with UNAVAILABLE",
                 c->t->drain_timeout_ms);
        c->overdue = true;
        net_timer_at(c->drain_timer, net_now_ns() + c->t->dead_after_ms * MS);
        front_cancel_all(c, ST_ERR_UNAVAILABLE);
    }
}

bool coordinator_is_ready(const coordinator *c) {
    char why[256];
    members_explain(c, why, sizeof why);
    return !why[0] && !c->draining;
}

void coordinator_drain(coordinator *c, const char *why) {
    if (c->draining) return;
    c->draining = true;
    log_line(LOG_INFO, "coordinator", "draining: %s", why);
    net_timer_at(c->drain_timer, net_now_ns() + c->t->drain_timeout_ms * MS);
    sched_event ev = {.kind = SCHED_DRAIN};
    coordinator_event(c, &ev);
}

static void on_signal(void *context, int number) {
    coordinator *c = context;
    if (c->draining) {
        log_line(LOG_WARN, "coordinator", "second signal: leaving at once");
        end(c);
        return;
    }
    (void)number;
    coordinator_drain(c, "signal");
}

/* What the coordinator itself needs of the model file: vocabulary, hashes, context length. */
static st_code read_model(coordinator *c, st_error *e) {
    model_file *f;
    model_string arch;
    uint64_t context = 0, dim = 0, n_layers = 0;
    char key[96];
    st_code code = model_file_open(c->t->model, &f, e);
    if (code) return code;
    code = model_tokenizer_create(f, &c->tokenizer, e);
    if (!code && *c->t->chat_template) code = model_chat_template_set(c->tokenizer, c->t->chat_template, e);
    if (!code) code = model_file_string(f, "general.architecture", &arch, e);
    if (!code) {
        snprintf(key, sizeof key, "%.*s.context_length", (int)(arch.size < 32 ? arch.size : 32), arch.bytes);
        code = model_file_u64(f, key, 1, PROTO_MAX_PROMPT_TOKENS, &context, e);
        snprintf(key, sizeof key, "%.*s.embedding_length", (int)(arch.size < 32 ? arch.size : 32), arch.bytes);
        if (!code) code = model_file_u64(f, key, 1, NOUNS_MAX_DIM, &dim, e);
        snprintf(key, sizeof key, "%.*s.block_count", (int)(arch.size < 32 ? arch.size : 32), arch.bytes);
        if (!code) code = model_file_u64(f, key, 1, UINT16_MAX, &n_layers, e);
    }
    for (uint32_t id = 0; !code && id < model_vocabulary_size(c->tokenizer) && c->n_ends < MAX_ENDS; id++)
        if (model_token_is_end(c->tokenizer, id)) c->ends[c->n_ends++] = id;
    if (!code) code = model_file_hash(f, c->model_hash);
    if (!code) code = model_file_vocabulary_hash(f, c->vocabulary_hash);
    if (!code) {
        c->limits.max_context = (uint32_t)context;
        c->limits.dim = (uint32_t)dim;
        c->n_layers = (uint32_t)n_layers;
        if (c->t->max_context && c->t->max_context < context) c->limits.max_context = c->t->max_context;
    }
    model_file_close(f);
    return code;
}

/* Half a message, so that all else has room. */
bool coordinator_can_send_hidden(const coordinator *c) {
    return (uint64_t)c->limits.max_rows * c->limits.dim * sizeof(uint16_t) <= PROTO_MAX_BYTES / 2;
}

_Static_assert((int)CONFIG_MAX_VERIFIERS == (int)SCHED_MAX_GROUPS, "what a topology may have, the scheduler takes");
_Static_assert((int)CONFIG_MAX_DRAFTED == (int)PROTO_MAX_PLAN_SEQUENCES, "and what a drafter may hold, a plan");

static sched_service service_of(const config_group *g) {
    return !strcmp(g->serves, "prefill") ? SCHED_PREFILLS : !strcmp(g->serves, "decode") ? SCHED_DECODES : SCHED_BOTH;
}

static void describe_groups(sched_limits *l, const config_topology *t) {
    uint32_t n_drafters = 0;
    for (const config_group *g = t->groups; g < t->groups + t->n_groups; g++) {
        uint32_t n_blocks = g->kv_tokens / NOUNS_BLOCK_TOKENS;
        if (g->role == CONFIG_VERIFIER) {
            l->serves[l->n_groups] = service_of(g);
            l->n_slots[l->n_groups] = g->swap_tokens / NOUNS_BLOCK_TOKENS;
            l->n_blocks[l->n_groups++] = n_blocks;
        } else
            l->drafter_blocks[n_drafters++] = sched_keeps_kv(g->kind) ? n_blocks : 0;
    }
}

static st_code make_sched(coordinator *c, st_error *e) {
    const config_topology *t = c->t;
    sched_limits *l = &c->limits;
    l->max_running = t->max_running;
    l->max_queue = t->max_queue;
    l->max_requests = c->members.n_verifiers * t->max_running + t->max_queue;
    l->max_rows = t->max_rows;
    l->max_batch = t->max_batch;
    l->prefill_chunk = t->prefill_chunk;
    l->max_stall_ns = t->max_stall_ms * MS;
    l->max_tree = t->draft_budget;
    l->speculation = t->speculation;
    l->n_drafters = c->members.n_drafters;
    l->drafter_names = c->members.drafter_names;
    l->want_hidden = c->members.want_hidden;
    l->vocabulary_hash = c->vocabulary_hash;
    l->n_vocab = model_vocabulary_size(c->tokenizer);
    l->prefix_cache = strcmp(t->prefix_cache, "on") == 0;
    l->adaptive_budgets = strcmp(t->draft_budgets, "adaptive") == 0;
    l->draft_ahead = sched_ahead_of(t->draft_ahead);
    l->fusion = sched_fusion_of(t->fusion);
    l->max_moves = strcmp(t->kv_transport, "off") ? MAX_MOVES : 0;
    l->draft_floor = (float)t->draft_floor / 100;
    l->draft_wait_ns = t->draft_wait_ms * MS;
    l->similarity = c->o->similarity;
    l->similarity_context = c->o->similarity_context;
    l->min_move_tokens = t->move_tokens;
    describe_groups(l, t);
    if (l->want_hidden && !coordinator_can_send_hidden(c))
        return st_fail(e, ST_ERR_UNSUPPORTED,
                       "max_rows: %u: the hidden states of so many tokens, %u numbers each, would be too long for a message to "
                       "heads; at most %u",
                       l->max_rows, l->dim, (unsigned)(PROTO_MAX_BYTES / 2 / sizeof(uint16_t) / l->dim));
    if (getrandom(&l->kv_key, sizeof l->kv_key, 0) != (ssize_t)sizeof l->kv_key)
        return st_fail(e, ST_FATAL_INTERNAL, "no random numbers: %m");
    st_code code = *t->corpus ? filemap_open(t->corpus, &c->corpus, e) : ST_OK;
    if (!code && *t->corpus && !c->corpus.bytes) code = st_fail(e, ST_ERR_FORMAT, "%s is empty", t->corpus);
    if (code) return st_prefix(e, "corpus");
    l->corpus = c->corpus.bytes;
    l->corpus_bytes = c->corpus.size_bytes;
    size_t bytes = sched_bytes(l);
    c->sched_memory = mem_alloc_aligned(bytes, 1, 64);
    c->max_pending = 2 * (l->max_requests + c->members.n_groups) + c->members.n_verifiers * l->max_moves + 8;
    c->pending = mem_alloc(c->max_pending, sizeof *c->pending);
    if (!c->sched_memory || !c->pending)
        return st_fail(e, ST_FATAL_MEMORY, "no memory for a scheduler of %u requests", l->max_requests);
    return sched_init(c->sched_memory, l, &c->sched, e);
}

/* {"pid", "grpc", "control", "http", "epoch"}, whole or not at all. */
static st_code write_run_file(coordinator *c, st_error *e) {
    char temporary[4096], grpc_host[256], control_host[256], http_host[256], http[288] = "";
    uint16_t port;
    if (!c->o->run_file) return ST_OK;
    st_code code = config_split_address(c->t->listen, grpc_host, sizeof grpc_host, &port, e);
    if (!code) code = config_split_address(c->t->control_listen, control_host, sizeof control_host, &port, e);
    if (!code && c->http) code = config_split_address(c->t->http_listen, http_host, sizeof http_host, &port, e);
    if (code) return code;
    if (c->http) snprintf(http, sizeof http, "%s:%u", http_host, c->http_port);
    snprintf(temporary, sizeof temporary, "%s.tmp", c->o->run_file);
    FILE *f = fopen(temporary, "w");
    bool ok = f != NULL;
    if (ok)
        ok = fprintf(f, "{\"pid\": %ld, \"grpc\": \"%s:%u\", \"control\": \"%s:%u\", \"http\": \"%s\", \"epoch\": %u}\n",
                     (long)getpid(), grpc_host, c->front.port, control_host, c->members.port, http, c->o->cluster_epoch) > 0;
    if (f && fclose(f)) ok = false;
    if (!ok || rename(temporary, c->o->run_file))
        return st_fail(e, ST_ERR_IO, "--run-file %s: cannot write it: %m", c->o->run_file);
    c->run_file_written = true;
    return ST_OK;
}

static void warn_if_open(const char *field, const char *address) {
    if (strncmp(address, "127.", 4) && strncmp(address, "localhost", 9) && strncmp(address, "[::1]", 5))
        log_line(LOG_WARN, "coordinator",
                 "%s %s is reachable from other hosts, and this version has NO keys and NO TLS: use it on a private network only",
                 field, address);
}

st_code coordinator_create(const coordinator_options *o, coordinator **out, st_error *e) {
    coordinator *c = mem_alloc(1, sizeof *c);
    if (!c) return st_fail(e, ST_FATAL_MEMORY, "no memory for the coordinator");
    c->o = o;
    c->t = o->topology;
    c->started_ns = net_now_ns();
    st_code code = trace_init(&c->trace, e);
    if (!code) code = members_init(c, e);
    if (!code) code = net_loop_create(&c->loop, e);
    if (!code) code = read_model(c, e);
    if (!code) code = make_sched(c, e);
    if (!code) code = net_timer_create(c->loop, on_sched_timer, c, &c->sched_timer);
    if (!code) code = net_timer_create(c->loop, on_drain_timer, c, &c->drain_timer);
    if (!code) code = moves_init(c, e);
    if (!code) code = debug_init(c, e);
    if (!code) code = net_loop_on_signal(c->loop, on_signal, c, e);
    if (!code) code = members_listen(c, e);
    if (!code) code = front_init(c, e);
    if (!code) code = front_http_init(c, e);
    if (!code) code = write_run_file(c, e);
    if (code) {
        coordinator_destroy(c);
        return code;
    }
    warn_if_open("listen", c->t->listen);
    warn_if_open("control_listen", c->t->control_listen);
    if (c->http) warn_if_open("http_listen", c->t->http_listen);
    if (!strcmp(c->t->debug, "on"))
        log_line(LOG_WARN, "coordinator", "debug: on: whoever reaches %s may make faults in this cluster", c->t->listen);
    if (o->kv_listens) warn_if_open("kv_listen", c->t->kv_listen);
    log_line(LOG_INFO, "coordinator", "gRPC on port %u, control link on port %u, model %s, %u ranks expected", c->front.port,
             c->members.port, c->t->model, c->members.n - 1);
    *out = c;
    return ST_OK;
}

uint16_t coordinator_control_port(const coordinator *c) { return c->members.port; }

st_code coordinator_run(coordinator *c, bool *lost_ranks, st_error *e) {
    net_loop_run(c->loop);
    *lost_ranks = false;
    for (uint32_t i = 1; i < c->members.n; i++) *lost_ranks |= c->members.items[i].state != MEMBER_LEFT;
    return c->drained ? ST_OK : st_fail(e, ST_ERR_CANCELLED, "ended by a second signal, before the drain was done");
}

void coordinator_destroy(coordinator *c) {
    if (!c) return;
    c->stepping = c->closing = true; /* what closing brings up is not for the scheduler any more */
    c->n_pending = 0;
    net_link_server_destroy(c->members.server);
    front_deinit(c);
    net_http_destroy(c->http);
    measure_deinit(c);
    moves_deinit(&c->moves);
    debug_deinit(&c->debug);
    members_deinit(&c->members);
    net_timer_destroy(c->sched_timer);
    net_timer_destroy(c->drain_timer);
    net_loop_destroy(c->loop);
    model_tokenizer_destroy(c->tokenizer);
    if (c->run_file_written && c->drained)
        unlink(c->o->run_file); /* left behind: not a clean end, which is how the launcher knows */
    trace_deinit(&c->trace);
    mem_free(c->pending);
    mem_free(c->sched_memory);
    filemap_close(&c->corpus);
    mem_free(c);
}
