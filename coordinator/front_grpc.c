/* The gRPC front: calls in, streams of text out.
 *
 * A Generate call becomes a stream: the decoded request, its prompt's tokens, the state of its text. It lives from the call until
 * the scheduler's FINISHED, even if the client is gone before (then `call` is NULL and nothing is sent). Its sequence id is
 * counter << 16 | slot, so that it is unique in the epoch and found without a search. The text a client gets depends only on the
 * tokens: they are taken one by one, whatever came together. */
#include "coordinator/coordinator_int.h"

#include "base/log.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Seeds that we draw are whole in every JSON reader (53 bits). */
static const uint64_t SEED_MASK = (UINT64_C(1) << 53) - 1;

enum { SLOT_BITS = 16, MAX_TOKENS_AT_ONCE = NOUNS_MAX_TREE + 1 };

struct stream {
    coordinator *c;
    net_call *call; /* NULL: the client is gone */
    seq_id seq;
    arena arena; /* holds the request */
    proto_request request;
    model_ids prompt;
    uint32_t *end_tokens, n_end_tokens;
    model_detokenizer detokenizer;
    answer answer;
    char *text, *piece; /* scratch of one reply, of one token */
    bool greeted, cut;  /* first reply sent; a stop string was met */
    uint32_t n_tokens;
    uint64_t start_ns, plan_ns, first_ns, last_ns; /* arrival, first plan, first token, last one so far; 0: not yet */
};

static void stream_free(stream *s) {
    if (!s) return;
    mem_free(s->prompt.ids);
    mem_free(s->end_tokens);
    mem_free(s->text);
    mem_free(s->piece);
    answer_deinit(&s->answer);
    arena_deinit(&s->arena);
    mem_free(s);
}

static stream *stream_of(coordinator *c, seq_id id) {
    stream *s = c->front.streams[id.value & ((1 << SLOT_BITS) - 1)];
    INVARIANT(s && s->seq.value == id.value);
    return s;
}

static void cancel(stream *s, st_code code, sched_finish finish) {
    sched_event ev = {.kind = SCHED_CANCEL, .seq = s->seq, .code = code, .finish = finish};
    coordinator_event(s->c, &ev);
}

/* ---- answers ---- */

static void reply(stream *s, proto_reply *r) {
    proto_bytes b = {0};
    if (!s->call) return;
    if (!s->greeted) {
        r->request_id = s->request.request_id;
        r->has_seed = true;
        r->seed = s->request.sampling.seed;
    }
    st_code code = proto_reply_encode(r, &b);
    if (!code) code = net_call_send(s->call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    s->greeted = true;
    if (!code) return;
    net_call_finish(s->call, st_grpc(code),
                    code == ST_ERR_RESOURCE_EXHAUSTED ? "the client does not read its answer" : st_text(code));
    s->call = NULL;
    cancel(s, code, SCHED_FINISH_ERROR);
}

void front_started(coordinator *c, seq_id seq) {
    stream *s = stream_of(c, seq);
    s->plan_ns = net_now_ns();
    metrics_add(&c->metrics.queue, s->plan_ns - s->start_ns, 1);
    c->metrics.prompt_tokens += s->prompt.n;
}

/* n tokens have come together. */
static void count_tokens(stream *s, uint32_t n) {
    metrics *m = &s->c->metrics;
    uint64_t now = net_now_ns();
    if (!s->first_ns) {
        s->first_ns = now;
        metrics_add(&m->first_token, now - s->start_ns, 1);
    } else
        metrics_add(&m->inter_token, (now - s->last_ns) / n, n);
    s->last_ns = now;
    s->n_tokens += n;
    m->generation_tokens += n;
}

static void count_end(const stream *s, const sched_action *a) {
    metrics *m = &s->c->metrics;
    if (a->code) {
        m->failed[st_grpc(a->code)]++;
        return;
    }
    *(a->finish == SCHED_FINISH_LENGTH && !s->cut ? &m->succeeded_length : &m->succeeded_stop) += 1;
    metrics_add(&m->whole_request, net_now_ns() - s->start_ns, 1);
}

static void refuse(coordinator *c, net_call *call, st_code code, const char *why) {
    c->front.failed++;
    c->metrics.failed[st_grpc(code)]++;
    net_call_finish(call, st_grpc(code), why);
}

void front_tokens(coordinator *c, const sched_action *a) {
    stream *s = stream_of(c, a->seq);
    size_t n_text = 0, n_piece;
    uint32_t n = 0;
    INVARIANT(a->n_tokens <= MAX_TOKENS_AT_ONCE);
    while (n < a->n_tokens && !s->cut) {
        n_piece = 0;
        model_detokenize(c->tokenizer, &s->detokenizer, a->tokens[n++], false, s->piece, &n_piece);
        s->cut = answer_push(&s->answer, s->piece, n_piece, s->text, &n_text);
    }
    if (!n) return; /* already cut: the scheduler has not heard of it yet */
    proto_reply r = {.text = s->text, .text_bytes = n_text, .tokens = a->tokens, .n_tokens = n, .logprobs = a->logprobs};
    count_tokens(s, n);
    reply(s, &r);
    if (s->cut) cancel(s, ST_OK, SCHED_FINISH_STOP);
}

static void send_last(stream *s, const sched_action *a) {
    char *text = s->text;
    size_t n_text = 0, n_piece = 0;
    uint64_t now = net_now_ns();
    if (!s->cut) {
        model_detokenize_end(&s->detokenizer, s->piece, &n_piece);
        s->cut = answer_push(&s->answer, s->piece, n_piece, text, &n_text);
        if (!s->cut) answer_end(&s->answer, text, &n_text);
    }
    proto_reply r = {.text = text,
                     .text_bytes = n_text,
                     .finish_reason = a->finish == SCHED_FINISH_LENGTH && !s->cut ? "length" : "stop",
                     .prompt_tokens = (uint32_t)s->prompt.n,
                     .completion_tokens = s->n_tokens,
                     .queue_ns = s->plan_ns ? s->plan_ns - s->start_ns : 0,
                     .first_token_ns = s->first_ns ? s->first_ns - s->start_ns : 0,
                     .total_ns = now - s->start_ns,
                     .steps = a->drafts.steps,
                     .drafted = a->drafts.drafted,
                     .accepted = a->drafts.accepted,
                     .n_by_drafter = a->n_by_drafter,
                     .by_drafter = a->by_drafter};
    reply(s, &r);
}

/* What the client is told of an error; where the cluster is not ready, also why. */
static void explain(coordinator *c, const sched_action *a, char *text, size_t n) {
    char why[256] = "";
    if (a->code == ST_ERR_UNAVAILABLE) members_explain(c, why, sizeof why);
    if (a->code) snprintf(text, n, "%s%s%s", a->message[0] ? a->message : st_text(a->code), why[0] ? ": " : "", why);
}

void front_finished(coordinator *c, const sched_action *a) {
    static const char *const words[] = {"none", "stop", "length", "cancelled", "error"};
    stream *s = stream_of(c, a->seq);
    double ms = (double)(net_now_ns() - s->start_ns) / 1e6;
    char text[ST_MESSAGE_BYTES] = "";
    if (!a->code) send_last(s, a);
    explain(c, a, text, sizeof text);
    if (s->call) net_call_finish(s->call, st_grpc(a->code), text);
    log_line(LOG_INFO, "coordinator",
             "request %s: %s, %zu prompt tokens, %u tokens, %.1f ms, %llu steps, %llu of %llu drafts accepted%s%s",
             s->request.request_id, words[a->finish], s->prompt.n, s->n_tokens, ms, (unsigned long long)a->drafts.steps,
             (unsigned long long)a->drafts.accepted, (unsigned long long)a->drafts.drafted, text[0] ? ": " : "", text);
    count_end(s, a);
    *(a->code ? &c->front.failed : &c->front.done) += 1;
    c->front.prompt_tokens += s->prompt.n;
    c->front.answer_tokens += s->n_tokens;
    c->front.streams[a->seq.value & ((1 << SLOT_BITS) - 1)] = NULL;
    stream_free(s);
}

/* ---- Generate ---- */

static st_code tokenize(stream *s, st_error *e) {
    const proto_request *r = &s->request;
    const model_tokenizer *t = s->c->tokenizer;
    size_t most = s->c->limits.max_context;
    st_code code = ST_OK;
    if (r->prompt_kind == PROTO_PROMPT_TEXT) {
        code = model_prompt_tokenize(t, r->text, r->text_bytes, most, &s->prompt, e);
        return code ? st_prefix(e, "text") : ST_OK;
    }
    if (r->prompt_kind == PROTO_PROMPT_CHAT) {
        code = model_chat_tokenize(t, (const model_message *)r->messages, r->n_messages, most, &s->prompt, e);
        return code ? st_prefix(e, "chat") : ST_OK;
    }
    for (uint32_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] >= model_vocabulary_size(t))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tokens[%u]: %u is outside the vocabulary of %u", i, r->tokens[i],
                           model_vocabulary_size(t));
    s->prompt.ids = mem_alloc(r->n_tokens, sizeof(uint32_t));
    if (!s->prompt.ids) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u tokens", r->n_tokens);
    memcpy(s->prompt.ids, r->tokens, r->n_tokens * sizeof(uint32_t));
    s->prompt.n = r->n_tokens;
    return ST_OK;
}

/* Ids that end the answer: the client's, and the model's own unless they are to be ignored. */
static st_code collect_ends(stream *s, st_error *e) {
    const proto_request *r = &s->request;
    uint32_t n_vocab = model_vocabulary_size(s->c->tokenizer);
    s->end_tokens = mem_alloc(r->n_stop_tokens + s->c->n_ends, sizeof(uint32_t));
    if (!s->end_tokens) return st_fail(e, ST_FATAL_MEMORY, "no memory for the stop tokens");
    for (uint32_t i = 0; i < r->n_stop_tokens; i++) {
        if (r->stop_tokens[i] >= n_vocab)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "stop_tokens[%u]: %u is outside the vocabulary of %u", i,
                           r->stop_tokens[i], n_vocab);
        s->end_tokens[s->n_end_tokens++] = r->stop_tokens[i];
    }
    for (uint32_t i = 0; i < s->c->n_ends && !r->ignore_end; i++) s->end_tokens[s->n_end_tokens++] = s->c->ends[i];
    return ST_OK;
}

static st_code check_bias(const stream *s, st_error *e) {
    const proto_request *r = &s->request;
    uint32_t n_vocab = model_vocabulary_size(s->c->tokenizer);
    for (uint32_t i = 0; i < r->n_bias; i++)
        if (r->bias_token[i] >= n_vocab)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "logit_bias[%u]: token %u is outside the vocabulary of %u", i,
                           r->bias_token[i], n_vocab);
    return ST_OK;
}

static token_rules rules_of(const stream *s) {
    const proto_request *r = &s->request;
    uint32_t n_vocab = model_vocabulary_size(s->c->tokenizer), n_top = r->top_logprobs < n_vocab ? r->top_logprobs : n_vocab;
    return (token_rules){.min_tokens = r->min_tokens,
                         .n_ends = s->n_end_tokens,
                         .n_bias = r->n_bias,
                         .ends = s->end_tokens,
                         .bias_token = r->bias_token,
                         .bias = r->bias,
                         .logprobs = r->logprobs || n_top ? n_top + 1 : 0};
}

static st_code fill(stream *s, const uint8_t *message, size_t n, st_error *e) {
    coordinator *c = s->c;
    proto_request *r = &s->request;
    if (arena_init(&s->arena, proto_arena_bytes(n)))
        return st_fail(e, ST_FATAL_MEMORY, "no memory for a request of %zu bytes", n);
    st_code code = proto_request_decode(message, n, &s->arena, r, e);
    if (!code) code = tokenize(s, e);
    if (!code) code = collect_ends(s, e);
    if (!code) code = check_bias(s, e);
    if (code) return code;
    if (!r->has_seed && getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) < 0)
        return st_fail(e, ST_FATAL_INTERNAL, "no random numbers for a seed: %m");
    if (!r->has_seed) r->sampling.seed &= SEED_MASK;
    if (!r->request_id[0])
        snprintf(r->request_id, sizeof r->request_id, "req-%u-%llu", c->o->cluster_epoch, (unsigned long long)c->front.next_id);
    if (!r->max_tokens) r->max_tokens = c->t->default_max_tokens;
    size_t most = model_token_max_bytes(c->tokenizer) + 8;
    code = answer_init(&s->answer, r->stops, r->n_stops, most);
    s->piece = mem_alloc(most, 1);
    s->text = mem_alloc(answer_capacity(&s->answer) + MAX_TOKENS_AT_ONCE * most, 1);
    return code || !s->piece || !s->text ? st_fail(e, ST_FATAL_MEMORY, "no memory for an answer") : ST_OK;
}

static uint32_t free_slot(const front *f) {
    uint32_t i = 0;
    while (i < f->n_slots && f->streams[i]) i++;
    return i;
}

static void on_generate(coordinator *c, net_call *call, const uint8_t *message, size_t n) {
    front *f = &c->front;
    st_error e = {0};
    uint32_t slot = free_slot(f);
    stream *s = slot < f->n_slots ? mem_alloc(1, sizeof *s) : NULL;
    if (!s) {
        refuse(c, call, ST_ERR_RESOURCE_EXHAUSTED, "too many requests at once: try again later");
        return;
    }
    *s = (stream){.c = c, .call = call, .start_ns = net_now_ns()};
    st_code code = fill(s, message, n, &e);
    if (code) {
        log_line(LOG_INFO, "coordinator", "refused a request: %s", e.message);
        refuse(c, call, code, e.message);
        stream_free(s);
        return;
    }
    s->seq.value = f->next_id++ << SLOT_BITS | slot;
    f->streams[slot] = s;
    net_call_set_user(call, s);
    sched_event ev = {.kind = SCHED_REQUEST,
                      .seq = s->seq,
                      .tokens = s->prompt.ids,
                      .n_tokens = (uint32_t)s->prompt.n,
                      .max_tokens = s->request.max_tokens,
                      .sampling = s->request.sampling,
                      .rules = rules_of(s),
                      .deadline_ns = net_call_deadline_ns(call),
                      .speculation = s->request.speculation};
    coordinator_event(c, &ev);
}

/* ---- Status and Stop ---- */

/* What the topology says of a rank, also of one that never came. */
static void describe_rank(const coordinator *c, uint32_t rank, proto_register *r) {
    const config_group *g = &c->t->groups[c->members.items[rank].group];
    bool drafts = g->role == CONFIG_DRAFTER;
    r->rank = rank;
    snprintf(r->role, sizeof r->role, "%s", drafts ? "drafter" : "verifier");
    snprintf(r->kind, sizeof r->kind, "%s", drafts ? g->kind : "");
    snprintf(r->name, sizeof r->name, "%s", g->name);
}

static void fill_status(coordinator *c, proto_status *st, proto_worker_status *workers) {
    sched_stats q = sched_get_stats(c->sched);
    snprintf(st->version, sizeof st->version, "%s", CONSORT_VERSION);
    snprintf(st->model, sizeof st->model, "%s", c->t->model);
    members_explain(c, st->reason, sizeof st->reason);
    st->ready = coordinator_is_ready(c);
    st->draining = c->draining;
    st->uptime_ns = net_now_ns() - c->started_ns;
    st->requests_running = q.running;
    st->requests_waiting = q.waiting;
    st->requests_done = c->front.done;
    st->requests_failed = c->front.failed;
    st->tokens_generated = c->front.answer_tokens;
    st->tokens_prompt = c->front.prompt_tokens;
    st->steps = q.steps;
    st->largest_batch = q.largest_batch;
    st->drafted = q.drafts.drafted;
    st->accepted = q.drafts.accepted;
    st->late_drafts = q.late_drafts;
    st->n_by_drafter = q.n_by_drafter;
    st->by_drafter = q.by_drafter;
    st->kv_blocks_total = q.blocks_total;
    st->kv_blocks_used = q.blocks_used;
    st->cluster_epoch = c->o->cluster_epoch;
    st->n_workers = c->members.n - 1;
    st->workers = workers;
    for (uint32_t i = 1; i < c->members.n; i++) {
        const member *m = &c->members.items[i];
        workers[i - 1] =
            (proto_worker_status){.info = m->info, .up = m->state == MEMBER_READY, .step_ms = m->step_ms, .steps = m->steps};
        describe_rank(c, i, &workers[i - 1].info);
    }
}

static void on_status(coordinator *c, net_call *call) {
    proto_status st = {0};
    proto_bytes b = {0};
    proto_worker_status *workers = mem_alloc(c->members.n, sizeof *workers);
    st_code code = workers ? ST_OK : ST_FATAL_MEMORY;
    if (!code) {
        fill_status(c, &st, workers);
        code = proto_status_encode(&st, &b);
    }
    if (!code) code = net_call_send(call, b.bytes, b.n, NULL);
    net_call_finish(call, st_grpc(code), st_text(code));
    proto_bytes_free(&b);
    mem_free(workers);
}

static void answer_stop(net_call *call) {
    st_code code = net_call_send(call, (const uint8_t *)"", 0, NULL); /* StopReply has no fields */
    net_call_finish(call, st_grpc(code), st_text(code));
}

static void on_stop(coordinator *c, net_call *call) {
    front *f = &c->front;
    if (c->drained) {
        answer_stop(call);
        return;
    }
    if (f->n_stops == sizeof f->stop_calls / sizeof *f->stop_calls) {
        net_call_finish(call, st_grpc(ST_ERR_RESOURCE_EXHAUSTED), "many others wait for the same drain already");
        return;
    }
    f->stop_calls[f->n_stops++] = call;
    coordinator_drain(c, "Stop was called");
}

void front_drained(coordinator *c) {
    for (uint32_t i = 0; i < c->front.n_stops; i++) answer_stop(c->front.stop_calls[i]);
    c->front.n_stops = 0;
}

void front_cancel_all(coordinator *c, st_code code) {
    for (uint32_t i = 0; i < c->front.n_slots; i++)
        if (c->front.streams[i]) cancel(c->front.streams[i], code, SCHED_FINISH_ERROR);
}

/* ---- callbacks ---- */

static void on_call(void *context, net_call *call, const char *path, const uint8_t *message, size_t n) {
    coordinator *c = context;
    char text[256];
    if (strcmp(path, "/consort.v1.Inference/Generate") == 0)
        on_generate(c, call, message, n);
    else if (strcmp(path, "/consort.v1.Inference/Status") == 0)
        on_status(c, call);
    else if (strcmp(path, "/consort.v1.Admin/Stop") == 0)
        on_stop(c, call);
    else {
        snprintf(text, sizeof text, "there is no method %.180s", path);
        net_call_finish(call, st_grpc(ST_ERR_UNSUPPORTED), text);
    }
}

static void on_end(void *context, net_call *call, st_code code) {
    coordinator *c = context;
    stream *s = net_call_user(call);
    if (s) {
        s->call = NULL;
        cancel(s, code, SCHED_FINISH_CANCELLED);
        return;
    }
    for (uint32_t i = 0; i < c->front.n_stops; i++)
        if (c->front.stop_calls[i] == call) c->front.stop_calls[i] = c->front.stop_calls[--c->front.n_stops];
}

st_code front_init(coordinator *c, st_error *e) {
    static const net_grpc_callbacks callbacks = {on_call, on_end, NULL};
    front *f = &c->front;
    char host[256];
    uint16_t port;
    f->n_slots = c->limits.max_requests;
    f->next_id = 1;
    if (f->n_slots > 1 << SLOT_BITS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "max_running + max_queue: %u is over %d", f->n_slots, 1 << SLOT_BITS);
    f->streams = mem_alloc(f->n_slots, sizeof *f->streams);
    if (!f->streams) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u requests", f->n_slots);
    st_code code = config_split_address(c->t->listen, host, sizeof host, &port, e);
    return code ? code : net_grpc_listen(c->loop, host, port, &callbacks, c, &f->server, &f->port, e);
}

void front_deinit(coordinator *c) {
    front *f = &c->front;
    net_grpc_destroy(f->server);
    for (uint32_t i = 0; f->streams && i < f->n_slots; i++) stream_free(f->streams[i]);
    mem_free(f->streams);
    *f = (front){0};
}
