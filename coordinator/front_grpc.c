/* The gRPC front: calls in, streams of text out.
 *
 * A Generate call becomes a generation, the decoded request and its prompt's tokens, and a stream for each of its n answers: a
 * sequence and the state of its text. A stream lives until the scheduler's FINISHED, even if the client is gone before (then
 * `call` is NULL and nothing is sent), and the generation as long as one of its streams. The first error ends the call and
 * cancels the other streams. A sequence id is counter << 16 | slot, so that it is unique in the epoch and found without a search.
 * The text a client gets depends only on the tokens: they are taken one by one, whatever came together. */
#include "coordinator/coordinator_int.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/sha256.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* Seeds that we draw are whole in every JSON reader (53 bits). */
static const uint64_t SEED_MASK = (UINT64_C(1) << 53) - 1;

enum { SLOT_BITS = 16, MAX_TOKENS_AT_ONCE = NOUNS_MAX_TREE + 1 };

typedef struct {
    coordinator *c;
    net_call *call; /* NULL: the client is gone, or was told the end */
    arena arena;    /* holds the request */
    proto_request request;
    model_ids prompt;
    uint32_t *end_tokens, n_end_tokens;
    uint32_t n_open;   /* streams, and whoever walks over them */
    uint32_t n_tokens; /* of all answers */
    uint32_t n_cached; /* of the prompt, found in the KV cache */
    uint64_t salt[2];
    uint64_t start_ns; /* arrival */
} generation;

struct stream {
    generation *g;
    seq_id seq;
    uint32_t index; /* of the answer */
    model_detokenizer detokenizer;
    answer answer;
    char *text, *piece; /* scratch of one reply, of one token */
    bool submitted;     /* the scheduler knows it */
    bool greeted, cut;  /* first reply sent; a stop string was met */
    uint32_t n_tokens;
    uint64_t plan_ns, first_ns, last_ns; /* first plan, first token, last one so far; 0: not yet */
};

static void release(generation *g) {
    if (--g->n_open) return;
    mem_free(g->prompt.ids);
    mem_free(g->end_tokens);
    arena_deinit(&g->arena);
    mem_free(g);
}

static void stream_free(stream *s) {
    if (!s) return;
    mem_free(s->text);
    mem_free(s->piece);
    answer_deinit(&s->answer);
    release(s->g);
    mem_free(s);
}

static stream *stream_of(coordinator *c, seq_id id) {
    stream *s = c->front.streams[id.value & ((1 << SLOT_BITS) - 1)];
    INVARIANT(s && s->seq.value == id.value);
    return s;
}

static void cancel(stream *s, st_code code, sched_finish finish) {
    sched_event ev = {.kind = SCHED_CANCEL, .seq = s->seq, .code = code, .finish = finish};
    coordinator_event(s->g->c, &ev);
}

/* Ends all streams that are left; one may be gone at once, and with the last the generation. */
static void cancel_all(generation *g, st_code code, sched_finish finish) {
    front *f = &g->c->front;
    g->n_open++;
    for (uint32_t i = 0; i < f->n_slots; i++) {
        stream *s = f->streams[i];
        if (!s || s->g != g) continue;
        if (s->submitted) {
            cancel(s, code, finish);
        } else {
            f->streams[i] = NULL;
            stream_free(s);
        }
    }
    release(g);
}

/* The call ends with an error. */
static void fail(generation *g, st_code code, const char *why) {
    if (!g->call) return;
    net_call_finish(g->call, st_grpc(code), why);
    g->call = NULL;
    cancel_all(g, code, SCHED_FINISH_ERROR);
}

/* ---- answers ---- */

static void reply(stream *s, proto_reply *r) {
    generation *g = s->g;
    proto_bytes b = {0};
    if (!g->call) return;
    r->index = s->index;
    if (!s->greeted) {
        r->request_id = g->request.request_id;
        r->has_seed = true;
        r->seed = g->request.sampling.seed;
    }
    st_code code = proto_reply_encode(r, &b);
    if (!code) code = net_call_send(g->call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    s->greeted = true;
    if (code) fail(g, code, code == ST_ERR_RESOURCE_EXHAUSTED ? "the client does not read its answer" : st_text(code));
}

void front_started(coordinator *c, seq_id seq) {
    stream *s = stream_of(c, seq);
    if (s->plan_ns) return; /* its verifier was lost, and this is the next one */
    s->plan_ns = net_now_ns();
    metrics_add(&c->metrics.queue, s->plan_ns - s->g->start_ns, 1);
    c->metrics.prompt_tokens += s->g->prompt.n;
}

/* n tokens have come together. */
static void count_tokens(stream *s, uint32_t n) {
    metrics *m = &s->g->c->metrics;
    uint64_t now = net_now_ns();
    if (!s->first_ns) {
        s->first_ns = now;
        metrics_add(&m->first_token, now - s->g->start_ns, 1);
    } else
        metrics_add(&m->inter_token, (now - s->last_ns) / n, n);
    s->last_ns = now;
    s->n_tokens += n;
    s->g->n_tokens += n;
    m->generation_tokens += n;
}

static void count_end(const stream *s, const sched_action *a) {
    metrics *m = &s->g->c->metrics;
    if (a->code) {
        m->failed[st_grpc(a->code)]++;
        return;
    }
    *(a->finish == SCHED_FINISH_LENGTH && !s->cut ? &m->succeeded_length : &m->succeeded_stop) += 1;
    metrics_add(&m->whole_request, net_now_ns() - s->g->start_ns, 1);
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
    if (s->g->request.hidden_states) r.hidden = a->hidden;
    count_tokens(s, n);
    reply(s, &r);
    if (s->cut) cancel(s, ST_OK, SCHED_FINISH_STOP);
}

static void send_last(stream *s, const sched_action *a) {
    const generation *g = s->g;
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
                     .has_usage = g->n_open == 1,
                     .prompt_tokens = (uint32_t)g->prompt.n,
                     .cached_tokens = g->n_cached,
                     .completion_tokens = g->n_tokens,
                     .queue_ns = s->plan_ns ? s->plan_ns - g->start_ns : 0,
                     .first_token_ns = s->first_ns ? s->first_ns - g->start_ns : 0,
                     .total_ns = now - g->start_ns,
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
    generation *g = s->g;
    double ms = (double)(net_now_ns() - g->start_ns) / 1e6;
    char text[ST_MESSAGE_BYTES] = "";
    if (s->index == 0) g->n_cached = a->n_shared; /* what the others find there is mostly its work */
    if (!a->code) send_last(s, a);
    explain(c, a, text, sizeof text);
    log_line(LOG_INFO, "coordinator",
             "request %s, answer %u: %s, %zu prompt tokens, %u tokens, %.1f ms, %llu steps, %llu of %llu drafts accepted%s%s",
             g->request.request_id, s->index, words[a->finish], g->prompt.n, s->n_tokens, ms, (unsigned long long)a->drafts.steps,
             (unsigned long long)a->drafts.accepted, (unsigned long long)a->drafts.drafted, text[0] ? ": " : "", text);
    count_end(s, a);
    trace_note(&c->trace, "request", g->request.request_id,
               &(proto_span){.lane = (uint32_t)(a->seq.value & ((1 << SLOT_BITS) - 1)),
                             .start_ns = g->start_ns - c->started_ns,
                             .duration_ns = net_now_ns() - g->start_ns,
                             .part_ns = s->first_ns ? s->first_ns - g->start_ns : 0,
                             .sequences = 1,
                             .tokens = s->n_tokens,
                             .prompt = (uint32_t)g->prompt.n,
                             .drafted = (uint32_t)a->drafts.drafted,
                             .accepted = (uint32_t)a->drafts.accepted});
    *(a->code ? &c->front.failed : &c->front.done) += 1;
    c->front.prompt_tokens += g->prompt.n;
    c->front.answer_tokens += s->n_tokens;
    c->front.streams[a->seq.value & ((1 << SLOT_BITS) - 1)] = NULL;
    if (a->code)
        fail(g, a->code, text);
    else if (g->call && g->n_open == 1) {
        net_call_finish(g->call, st_grpc(ST_OK), "");
        g->call = NULL;
    }
    stream_free(s);
}

/* ---- Generate ---- */

static st_code tokenize(generation *g, st_error *e) {
    const proto_request *r = &g->request;
    const model_tokenizer *t = g->c->tokenizer;
    size_t most = g->c->limits.max_context;
    st_code code = ST_OK;
    if (r->prompt_kind == PROTO_PROMPT_TEXT) {
        code = model_prompt_tokenize(t, r->text, r->text_bytes, most, &g->prompt, e);
        return code ? st_prefix(e, "text") : ST_OK;
    }
    if (r->prompt_kind == PROTO_PROMPT_CHAT) {
        code = model_chat_tokenize(t, (const model_message *)r->messages, r->n_messages, most, &g->prompt, e);
        return code ? st_prefix(e, "chat") : ST_OK;
    }
    for (uint32_t i = 0; i < r->n_tokens; i++)
        if (r->tokens[i] >= model_vocabulary_size(t))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tokens[%u]: %u is outside the vocabulary of %u", i, r->tokens[i],
                           model_vocabulary_size(t));
    g->prompt.ids = mem_alloc(r->n_tokens, sizeof(uint32_t));
    if (!g->prompt.ids) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u tokens", r->n_tokens);
    memcpy(g->prompt.ids, r->tokens, r->n_tokens * sizeof(uint32_t));
    g->prompt.n = r->n_tokens;
    return ST_OK;
}

/* Ids that end the answer: the client's, and the model's own unless they are to be ignored. */
static st_code collect_ends(generation *g, st_error *e) {
    const proto_request *r = &g->request;
    uint32_t n_vocab = model_vocabulary_size(g->c->tokenizer);
    g->end_tokens = mem_alloc(r->n_stop_tokens + g->c->n_ends, sizeof(uint32_t));
    if (!g->end_tokens) return st_fail(e, ST_FATAL_MEMORY, "no memory for the stop tokens");
    for (uint32_t i = 0; i < r->n_stop_tokens; i++) {
        if (r->stop_tokens[i] >= n_vocab)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "stop_tokens[%u]: %u is outside the vocabulary of %u", i,
                           r->stop_tokens[i], n_vocab);
        g->end_tokens[g->n_end_tokens++] = r->stop_tokens[i];
    }
    for (uint32_t i = 0; i < g->c->n_ends && !r->ignore_end; i++) g->end_tokens[g->n_end_tokens++] = g->c->ends[i];
    return ST_OK;
}

static st_code check_bias(const generation *g, st_error *e) {
    const proto_request *r = &g->request;
    uint32_t n_vocab = model_vocabulary_size(g->c->tokenizer);
    for (uint32_t i = 0; i < r->n_bias; i++)
        if (r->bias_token[i] >= n_vocab)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "logit_bias[%u]: token %u is outside the vocabulary of %u", i,
                           r->bias_token[i], n_vocab);
    return ST_OK;
}

static token_rules rules_of(const generation *g) {
    const proto_request *r = &g->request;
    uint32_t n_vocab = model_vocabulary_size(g->c->tokenizer), n_top = r->top_logprobs < n_vocab ? r->top_logprobs : n_vocab;
    return (token_rules){.min_tokens = r->min_tokens,
                         .n_ends = g->n_end_tokens,
                         .n_bias = r->n_bias,
                         .ends = g->end_tokens,
                         .bias_token = r->bias_token,
                         .bias = r->bias,
                         .logprobs = r->logprobs || n_top ? n_top + 1 : 0,
                         .hidden = r->hidden_states};
}

/* The first 128 bits of its SHA-256; none: zeros. */
static st_code take_salt(generation *g, st_error *e) {
    uint8_t hash[SHA256_BYTES];
    if (!g->request.cache_salt[0]) return ST_OK;
    if (sha256_of(g->request.cache_salt, strlen(g->request.cache_salt), hash))
        return st_fail(e, ST_FATAL_MEMORY, "no memory for a hash");
    memcpy(g->salt, hash, sizeof g->salt);
    return ST_OK;
}

static st_code fill(generation *g, const uint8_t *message, size_t n, st_error *e) {
    coordinator *c = g->c;
    proto_request *r = &g->request;
    if (arena_init(&g->arena, proto_arena_bytes(n)))
        return st_fail(e, ST_FATAL_MEMORY, "no memory for a request of %zu bytes", n);
    st_code code = proto_request_decode(message, n, &g->arena, r, e);
    if (!code && r->n_choices > c->front.n_slots)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "n: %u answers; this cluster holds %u requests at most", r->n_choices,
                       c->front.n_slots);
    if (!code && r->hidden_states && !coordinator_can_send_hidden(c))
        return st_fail(e, ST_ERR_UNSUPPORTED,
                       "hidden_states: those of a step of %u tokens would be too long for a message: a smaller max_rows",
                       c->limits.max_rows);
    if (!code) code = tokenize(g, e);
    if (!code) code = collect_ends(g, e);
    if (!code) code = check_bias(g, e);
    if (!code) code = take_salt(g, e);
    if (code) return code;
    if (!r->has_seed && getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) < 0)
        return st_fail(e, ST_FATAL_INTERNAL, "no random numbers for a seed: %m");
    if (!r->has_seed) r->sampling.seed &= SEED_MASK;
    if (!r->request_id[0])
        snprintf(r->request_id, sizeof r->request_id, "req-%u-%llu", c->o->cluster_epoch, (unsigned long long)c->front.next_id);
    if (!r->max_tokens) r->max_tokens = c->t->default_max_tokens;
    return ST_OK;
}

/* Takes the first free slot. Errors: ST_ERR_RESOURCE_EXHAUSTED, ST_FATAL_MEMORY. */
static st_code open_stream(generation *g, uint32_t index, st_error *e) {
    front *f = &g->c->front;
    const proto_request *r = &g->request;
    uint32_t slot = 0;
    while (slot < f->n_slots && f->streams[slot]) slot++;
    if (slot == f->n_slots) return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "too many requests at once: try again later");
    stream *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "no memory for an answer");
    *s = (stream){.g = g, .index = index, .seq = {f->next_id++ << SLOT_BITS | slot}};
    g->n_open++;
    f->streams[slot] = s; /* whoever drops the generation frees it */
    size_t most = model_token_max_bytes(g->c->tokenizer) + 8;
    st_code code = answer_init(&s->answer, r->stops, r->n_stops, most);
    s->piece = mem_alloc(most, 1);
    s->text = mem_alloc(answer_capacity(&s->answer) + MAX_TOKENS_AT_ONCE * most, 1);
    return code || !s->piece || !s->text ? st_fail(e, ST_FATAL_MEMORY, "no memory for an answer") : ST_OK;
}

/* One answer to the scheduler: index i draws with sample first_choice + i (docs/numerics.md, "The choice"). */
static void submit(stream *s) {
    generation *g = s->g;
    sched_event ev = {.kind = SCHED_REQUEST,
                      .seq = s->seq,
                      .tokens = g->prompt.ids,
                      .n_tokens = (uint32_t)g->prompt.n,
                      .max_tokens = g->request.max_tokens,
                      .sampling = g->request.sampling,
                      .rules = rules_of(g),
                      .cache_salt = {g->salt[0], g->salt[1]},
                      .deadline_ns = net_call_deadline_ns(g->call),
                      .priority = g->request.priority,
                      .speculation = g->request.speculation};
    ev.sampling.sample += s->index;
    s->submitted = true;
    coordinator_event(g->c, &ev);
}

static void on_generate(coordinator *c, net_call *call, const uint8_t *message, size_t n) {
    st_error e = {0};
    generation *g = mem_alloc(1, sizeof *g);
    if (!g) {
        refuse(c, call, ST_FATAL_MEMORY, "no memory for a request");
        return;
    }
    *g = (generation){.c = c, .call = call, .n_open = 1, .start_ns = net_now_ns()};
    st_code code = fill(g, message, n, &e);
    for (uint32_t i = 0; !code && i < g->request.n_choices; i++) code = open_stream(g, i, &e);
    if (code) {
        log_line(LOG_INFO, "coordinator", "refused a request: %s", e.message);
        refuse(c, call, code, e.message);
        cancel_all(g, code, SCHED_FINISH_ERROR);
        release(g);
        return;
    }
    net_call_set_user(call, g);
    for (uint32_t i = 0; i < c->front.n_slots && g->call; i++) { /* ascending answers; one that is refused ends the call */
        stream *s = c->front.streams[i];
        if (s && s->g == g) submit(s);
    }
    release(g);
}

/* ---- Status, Trace, Stop and Drain ---- */

/* What the topology says of a rank, also of one that never came. */
static void describe_rank(const coordinator *c, uint32_t rank, proto_register *r) {
    const config_group *g = &c->t->groups[c->members.items[rank].group];
    bool drafts = g->role == CONFIG_DRAFTER;
    r->rank = rank;
    snprintf(r->role, sizeof r->role, "%s", drafts ? "drafter" : "verifier");
    snprintf(r->kind, sizeof r->kind, "%s", drafts ? g->kind : "");
    snprintf(r->name, sizeof r->name, "%s", g->name);
}

/* Of its group: what it does for requests. */
static void describe_in_use(const coordinator *c, const member *m, proto_worker_status *w) {
    const member_group *g = &c->members.groups[m->group];
    if (g->drafts) {
        sched_drafter_stats d = sched_get_drafter(c->sched, g->number);
        w->followed = d.followed;
        w->kv_blocks_held = d.kv_held;
        w->dropped = d.dropped;
    } else {
        sched_group_stats v = sched_get_group(c->sched, g->number);
        w->drained = v.emptied;
        w->requests = v.running;
    }
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
        describe_in_use(c, m, &workers[i - 1]);
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

static st_code send_habits(coordinator *c, net_call *call) {
    const proto_habit *habits[PROTO_MAX_DRAFTERS];
    proto_bytes b = {0};
    uint32_t n = sched_get_stats(c->sched).n_by_drafter;
    for (uint32_t i = 0; i < n; i++) habits[i] = sched_get_habit(c->sched, i);
    st_code code = proto_habits_encode(habits, n, &b);
    if (!code) code = net_call_send(call, b.bytes, b.n, NULL);
    proto_bytes_free(&b);
    return code;
}

static void on_trace(coordinator *c, net_call *call) {
    proto_span *spans = mem_alloc(PROTO_MAX_SPANS, sizeof *spans);
    st_code code = spans ? ST_OK : ST_FATAL_MEMORY;
    uint64_t at = 0;
    for (uint32_t n; !code && (n = trace_read(&c->trace, &at, spans, PROTO_MAX_SPANS)) > 0;) {
        proto_bytes b = {0};
        code = proto_spans_encode(spans, n, &b);
        if (!code) code = net_call_send(call, b.bytes, b.n, NULL);
        proto_bytes_free(&b);
    }
    if (!code) code = send_habits(c, call);
    net_call_finish(call, st_grpc(code), st_text(code));
    mem_free(spans);
}

/* StopReply and DrainReply have no fields. */
static void answer_empty(net_call *call) {
    st_code code = net_call_send(call, (const uint8_t *)"", 0, NULL);
    net_call_finish(call, st_grpc(code), st_text(code));
}

static void on_stop(coordinator *c, net_call *call) {
    front *f = &c->front;
    if (c->drained) {
        answer_empty(call);
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
    for (uint32_t i = 0; i < c->front.n_stops; i++) answer_empty(c->front.stop_calls[i]);
    c->front.n_stops = 0;
}

/* Its number among the verifiers. */
static st_code find_verifier(const coordinator *c, const char *name, uint32_t *number, st_error *e) {
    char names[ST_MESSAGE_BYTES / 2] = "";
    for (uint32_t i = 0; i < c->t->n_groups; i++) {
        const config_group *g = &c->t->groups[i];
        *number = c->members.groups[i].number;
        if (g->role != CONFIG_VERIFIER) continue;
        if (!strcmp(g->name, name)) return ST_OK;
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", g->name);
    }
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "group: there is no verifier '%s'; there are: %s", name, names);
}

void front_emptied(coordinator *c) {
    front *f = &c->front;
    for (uint32_t i = 0; i < f->n_drains;) {
        sched_group_stats g = sched_get_group(c->sched, f->drains[i].verifier);
        net_call *call = f->drains[i].call;
        if (g.emptied && g.running + g.coming > 0) {
            i++;
            continue;
        }
        f->drains[i] = f->drains[--f->n_drains];
        if (g.emptied)
            answer_empty(call);
        else
            net_call_finish(call, st_grpc(ST_ERR_UNAVAILABLE), "another call has put the verifier back into service");
    }
}

static void on_drain(coordinator *c, net_call *call, const uint8_t *message, size_t n) {
    front *f = &c->front;
    proto_drain d;
    st_error e = {0};
    uint32_t verifier = 0;
    st_code code = proto_drain_decode(message, n, &d, &e);
    if (!code) code = find_verifier(c, d.group, &verifier, &e);
    if (!code && !d.undo) code = sched_may_empty(c->sched, verifier, &e);
    if (!code && f->n_drains == sizeof f->drains / sizeof *f->drains)
        code = st_fail(&e, ST_ERR_RESOURCE_EXHAUSTED, "many others wait for a verifier to be drained already");
    if (code) {
        net_call_finish(call, st_grpc(code), e.message);
        return;
    }
    log_line(LOG_INFO, "coordinator", "verifier %s %s", d.group, d.undo ? "takes requests again" : "is being drained");
    sched_event ev = {.kind = d.undo ? SCHED_FILL : SCHED_EMPTY, .group = verifier};
    coordinator_event(c, &ev);
    if (d.undo || !d.wait) {
        answer_empty(call);
        return;
    }
    f->drains[f->n_drains].call = call;
    f->drains[f->n_drains++].verifier = verifier;
    front_emptied(c);
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
    else if (strcmp(path, "/consort.v1.Admin/Drain") == 0)
        on_drain(c, call, message, n);
    else if (strcmp(path, "/consort.v1.Admin/Trace") == 0)
        on_trace(c, call);
    else if (strcmp(path, "/consort.v1.Admin/MeasureKv") == 0)
        measure_start(c, call, message, n);
    else if (strcmp(path, "/consort.v1.Admin/Faults") == 0)
        debug_faults(c, call, message, n);
    else if (strcmp(path, "/consort.v1.Admin/ForgetKv") == 0)
        debug_forget_kv(c, call);
    else {
        snprintf(text, sizeof text, "there is no method %.180s", path);
        net_call_finish(call, st_grpc(ST_ERR_UNSUPPORTED), text);
    }
}

static void on_end(void *context, net_call *call, st_code code) {
    coordinator *c = context;
    generation *g = net_call_user(call);
    if (g) {
        g->call = NULL;
        cancel_all(g, code, SCHED_FINISH_CANCELLED);
        return;
    }
    measure_forget(c, call);
    debug_leave(c, call);
    for (uint32_t i = 0; i < c->front.n_stops; i++)
        if (c->front.stop_calls[i] == call) c->front.stop_calls[i] = c->front.stop_calls[--c->front.n_stops];
    for (uint32_t i = 0; i < c->front.n_drains; i++)
        if (c->front.drains[i].call == call) c->front.drains[i] = c->front.drains[--c->front.n_drains];
}

st_code front_init(coordinator *c, st_error *e) {
    static const net_grpc_callbacks callbacks = {on_call, on_end, NULL};
    front *f = &c->front;
    char host[256];
    uint16_t port;
    f->n_slots = c->limits.max_requests;
    f->next_id = 1;
    if (f->n_slots > 1 << SLOT_BITS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "max_running of each verifier + max_queue: %u is over %d", f->n_slots,
                       1 << SLOT_BITS);
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
