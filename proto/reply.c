/* The replies of the public API: one streamed piece of an answer, and the status of the cluster. A client trusts a coordinator no
 * more than the other way round: texts are checked before they reach a terminal's program. */
#include "proto/proto_int.h"

#include "base/mem.h"
#include "consort.pb-c.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BAD ST_ERR_FORMAT

/* ---- what drafts did: in the last reply, and in the status ---- */
/* Scratch of one encoding. */
typedef struct {
    Consort__V1__DrafterFigures figures[PROTO_MAX_DRAFTERS], *list[PROTO_MAX_DRAFTERS];
} figures_parts;

static Consort__V1__DrafterFigures **encode_figures(const proto_drafter_figures *from, uint32_t n, figures_parts *parts) {
    INVARIANT(n <= PROTO_MAX_DRAFTERS);
    for (uint32_t i = 0; i < n; i++) {
        Consort__V1__DrafterFigures *m = parts->list[i] = &parts->figures[i];
        consort__v1__drafter_figures__init(m);
        m->has_name = m->has_drafted = m->has_accepted = 1;
        m->name = proto_wire_text(from[i].name);
        m->drafted = from[i].drafted;
        m->accepted = from[i].accepted;
    }
    return parts->list;
}

static st_code take_word(const char *field, bool has, ProtobufCBinaryData d, size_t n_max, const char **out, st_error *e) {
    *out = has ? (d.len ? (const char *)d.data : "") : NULL;
    return has ? proto_wire_check_word(field, (const char *)d.data, d.len, n_max, BAD, e) : ST_OK;
}

static st_code decode_figures(Consort__V1__DrafterFigures *const *m, size_t n, arena *a, const proto_drafter_figures **out,
                              uint32_t *n_out, st_error *e) {
    if (n > PROTO_MAX_DRAFTERS) return st_fail(e, BAD, "by_drafter: %zu are over %d", n, PROTO_MAX_DRAFTERS);
    proto_drafter_figures *to = arena_alloc(a, n, sizeof *to);
    if (!to) return st_fail(e, BAD, "by_drafter: no memory left for %zu", n);
    for (size_t i = 0; i < n; i++) {
        st_code code = take_word("by_drafter.name", true, m[i]->name, sizeof((proto_register *)0)->name - 1, &to[i].name, e);
        if (code) return code;
        to[i].drafted = m[i]->drafted;
        to[i].accepted = m[i]->accepted;
    }
    *out = to;
    *n_out = (uint32_t)n;
    return ST_OK;
}

/* ---- GenerateReply ---- */
st_code proto_reply_encode(const proto_reply *r, proto_bytes *out) {
    Consort__V1__GenerateReply m = CONSORT__V1__GENERATE_REPLY__INIT;
    Consort__V1__Usage usage = CONSORT__V1__USAGE__INIT;
    Consort__V1__Timing timing = CONSORT__V1__TIMING__INIT;
    Consort__V1__Logprobs logprobs = CONSORT__V1__LOGPROBS__INIT;
    Consort__V1__Speculation speculation = CONSORT__V1__SPECULATION__INIT;
    figures_parts parts;
    m.has_request_id = r->request_id != NULL;
    m.request_id = proto_wire_text(r->request_id);
    m.has_seed = r->has_seed;
    m.seed = r->seed;
    m.has_text = r->text_bytes != 0;
    m.text = proto_wire_data(r->text, r->text_bytes);
    m.n_tokens = r->n_tokens;
    m.tokens = (uint32_t *)(uintptr_t)r->tokens;
    if (r->logprobs.own) {
        m.logprobs = &logprobs;
        logprobs.n_token = r->n_tokens;
        logprobs.n_top_tokens = logprobs.n_top = (size_t)r->n_tokens * r->logprobs.n_top;
        logprobs.token = (float *)(uintptr_t)r->logprobs.own;
        logprobs.top_tokens = (uint32_t *)(uintptr_t)r->logprobs.top;
        logprobs.top = (float *)(uintptr_t)r->logprobs.top_log;
    }
    m.has_hidden_states = r->hidden.f16 != NULL;
    m.hidden_states = proto_wire_hidden(&r->hidden, r->n_tokens);
    m.has_index = 1;
    m.index = r->index;
    if (r->has_usage) {
        m.usage = &usage;
        usage.has_prompt_tokens = usage.has_completion_tokens = usage.has_cached_tokens = 1;
        usage.cached_tokens = r->cached_tokens;
        usage.prompt_tokens = r->prompt_tokens;
        usage.completion_tokens = r->completion_tokens;
    }
    if (r->finish_reason) {
        m.has_finish_reason = 1;
        m.finish_reason = proto_wire_text(r->finish_reason);
        m.timing = &timing;
        timing.has_queue_ns = timing.has_first_token_ns = timing.has_total_ns = 1;
        timing.queue_ns = r->queue_ns;
        timing.first_token_ns = r->first_token_ns;
        timing.total_ns = r->total_ns;
        m.speculation = &speculation;
        speculation.has_steps = speculation.has_drafted = speculation.has_accepted = 1;
        speculation.steps = r->steps;
        speculation.drafted = r->drafted;
        speculation.accepted = r->accepted;
        speculation.n_by_drafter = r->n_by_drafter;
        speculation.by_drafter = encode_figures(r->by_drafter, r->n_by_drafter, &parts);
    }
    return proto_wire_pack(&m.base, out);
}

st_code proto_reply_decode(const uint8_t *bytes, size_t n, arena *a, proto_reply *out, st_error *e) {
    size_t mark = a->used_bytes;
    Consort__V1__GenerateReply *m;
    proto_reply r = {0};
    st_code code = proto_wire_unpack(&consort__v1__generate_reply__descriptor, bytes, n, a, BAD, BAD, &m, e);
    if (code) return code;
    code = take_word("request_id", m->has_request_id, m->request_id, PROTO_REQUEST_ID_BYTES, &r.request_id, e);
    if (!code) code = take_word("finish_reason", m->has_finish_reason, m->finish_reason, 64, &r.finish_reason, e);
    if (!code) code = proto_wire_check_text("text", (const char *)m->text.data, m->text.len, 0, PROTO_MAX_BYTES, BAD, e);
    if (!code && m->speculation)
        code = decode_figures(m->speculation->by_drafter, m->speculation->n_by_drafter, a, &r.by_drafter, &r.n_by_drafter, e);
    if (!code && m->logprobs) {
        const Consort__V1__Logprobs *l = m->logprobs;
        wire_logprobs logs = {l->n_token, l->n_top_tokens, l->n_top, l->token, l->top, l->top_tokens};
        code = proto_wire_logprobs(logs, m->n_tokens, &r.logprobs, BAD, e);
    }
    if (!code) code = proto_wire_take_hidden("hidden_states", m->hidden_states, m->n_tokens, &r.hidden, BAD, e);
    if (code) {
        arena_reset(a, mark);
        return code;
    }
    r.has_seed = m->has_seed;
    r.seed = m->seed;
    r.text = m->text.len ? (const char *)m->text.data : NULL;
    r.text_bytes = m->text.len;
    r.tokens = m->tokens;
    r.n_tokens = (uint32_t)m->n_tokens;
    r.index = m->index;
    if ((r.has_usage = m->usage != NULL)) {
        r.prompt_tokens = m->usage->prompt_tokens;
        r.cached_tokens = m->usage->cached_tokens;
        r.completion_tokens = m->usage->completion_tokens;
    }
    if (m->timing) {
        r.queue_ns = m->timing->queue_ns;
        r.first_token_ns = m->timing->first_token_ns;
        r.total_ns = m->timing->total_ns;
    }
    if (m->speculation) {
        r.steps = m->speculation->steps;
        r.drafted = m->speculation->drafted;
        r.accepted = m->speculation->accepted;
    }
    *out = r;
    return ST_OK;
}

/* ---- StatusReply ---- */
/* The number fields of proto_status, by name. */
#define STATUS_NUMBERS(N)                                                                                                        \
    N(ready)                                                                                                                     \
    N(draining)                                                                                                                  \
    N(uptime_ns)                                                                                                                 \
    N(requests_running)                                                                                                          \
    N(requests_waiting)                                                                                                          \
    N(requests_done)                                                                                                             \
    N(requests_failed)                                                                                                           \
    N(tokens_generated)                                                                                                          \
    N(tokens_prompt)                                                                                                             \
    N(steps)                                                                                                                     \
    N(largest_batch)                                                                                                             \
    N(kv_blocks_total)                                                                                                           \
    N(kv_blocks_used)                                                                                                            \
    N(drafted)                                                                                                                   \
    N(accepted)                                                                                                                  \
    N(late_drafts)                                                                                                               \
    N(cluster_epoch)

/* Scratch of one worker. */
typedef struct {
    Consort__V1__TransportAddress addresses[PROTO_MAX_TRANSPORTS], *list[PROTO_MAX_TRANSPORTS];
} worker_parts;

static void encode_addresses(const proto_register *r, Consort__V1__Worker *w, worker_parts *parts) {
    INVARIANT(r->n_addresses <= PROTO_MAX_TRANSPORTS);
    for (uint32_t i = 0; i < r->n_addresses; i++) {
        Consort__V1__TransportAddress *m = parts->list[i] = &parts->addresses[i];
        consort__v1__transport_address__init(m);
        m->has_transport = m->has_address = 1;
        m->transport = proto_wire_text(r->addresses[i].transport);
        m->address = proto_wire_text(r->addresses[i].address);
    }
    w->n_addresses = r->n_addresses;
    w->addresses = parts->list;
}

static void encode_worker(const proto_worker_status *s, Consort__V1__Worker *w, worker_parts *parts) {
    consort__v1__worker__init(w);
    encode_addresses(&s->info, w, parts);
#define U(f)    w->has_##f = 1, w->f = s->info.f;
#define WORD(f) w->has_##f = 1, w->f = proto_wire_text(s->info.f);
#define HASH(f) w->has_##f = 1, w->f = proto_wire_data(s->info.f, sizeof s->info.f);
#include "proto/register.def"
#undef U
#undef WORD
#undef HASH
    w->has_up = w->has_drained = w->has_requests = w->has_step_ms = w->has_steps = 1;
    w->has_followed = w->has_kv_blocks_held = w->has_dropped = 1;
    w->up = s->up;
    w->drained = s->drained;
    w->requests = s->requests;
    w->step_ms = s->step_ms;
    w->steps = s->steps;
    w->followed = s->followed;
    w->kv_blocks_held = s->kv_blocks_held;
    w->dropped = s->dropped;
}

st_code proto_status_encode(const proto_status *s, proto_bytes *out) {
    Consort__V1__StatusReply m = CONSORT__V1__STATUS_REPLY__INIT;
    Consort__V1__Worker *workers = mem_alloc(s->n_workers, sizeof *workers), **list = mem_alloc(s->n_workers, sizeof(void *));
    worker_parts *scratch = mem_alloc(s->n_workers, sizeof *scratch);
    st_code code = workers && list && scratch ? ST_OK : ST_FATAL_MEMORY;
    for (uint32_t i = 0; !code && i < s->n_workers; i++) encode_worker(&s->workers[i], list[i] = &workers[i], &scratch[i]);
#define N(f) m.has_##f = 1, m.f = s->f;
    STATUS_NUMBERS(N)
#undef N
    m.has_version = m.has_model = m.has_reason = 1;
    m.version = proto_wire_text(s->version);
    m.model = proto_wire_text(s->model);
    m.reason = proto_wire_text(s->reason);
    figures_parts parts;
    m.n_by_drafter = s->n_by_drafter;
    m.by_drafter = encode_figures(s->by_drafter, s->n_by_drafter, &parts);
    m.n_workers = s->n_workers;
    m.workers = list;
    if (!code) code = proto_wire_pack(&m.base, out);
    mem_free(workers);
    mem_free(scratch);
    mem_free(list);
    return code;
}

static st_code decode_worker(const Consort__V1__Worker *w, uint32_t i, proto_worker_status *s, st_error *e) {
    st_code code = ST_OK;
#define U(f) s->info.f = w->f;
#define WORD(f)                                                                                                                  \
    if (!code) code = proto_wire_copy_word(#f, w->f, s->info.f, sizeof s->info.f, BAD, e);
#define HASH(f)                                                                                                                  \
    if (!code) code = proto_wire_copy_hash(#f, w->f, s->info.f, BAD, e);
#include "proto/register.def"
#undef U
#undef WORD
#undef HASH
    for (size_t k = 0; !code && k < w->n_addresses; k++)
        code = proto_wire_add_address("addresses", w->addresses[k]->transport, w->addresses[k]->address, s->info.addresses,
                                      &s->info.n_addresses, BAD, e);
    s->up = w->up;
    s->drained = w->drained;
    s->requests = w->requests;
    s->step_ms = w->step_ms;
    s->steps = w->steps;
    s->followed = w->followed;
    s->kv_blocks_held = w->kv_blocks_held;
    s->dropped = w->dropped;
    if (!code && !isfinite(s->step_ms)) code = st_fail(e, BAD, "step_ms: %g is not finite", s->step_ms);
    return code && e ? st_prefix(e, "workers[%u]", i) : code;
}

static st_code copy_text(const char *field, ProtobufCBinaryData d, char *dst, size_t dst_bytes, st_error *e) {
    st_code code = proto_wire_check_text(field, (const char *)d.data, d.len, 0, dst_bytes - 1, BAD, e);
    if (!code && d.len) memcpy(dst, d.data, d.len);
    return code;
}

static st_code decode_workers(const Consort__V1__StatusReply *m, arena *a, proto_status *s, st_error *e) {
    if (m->n_workers > PROTO_MAX_WORKERS) return st_fail(e, BAD, "workers: %zu are over %d", m->n_workers, PROTO_MAX_WORKERS);
    proto_worker_status *workers = arena_alloc(a, m->n_workers, sizeof *workers);
    if (!workers) return st_fail(e, BAD, "workers: no memory left for %zu", m->n_workers);
    for (uint32_t i = 0; i < m->n_workers; i++) {
        st_code code = decode_worker(m->workers[i], i, &workers[i], e);
        if (code) return code;
    }
    s->n_workers = (uint32_t)m->n_workers;
    s->workers = workers;
    return ST_OK;
}

st_code proto_status_decode(const uint8_t *bytes, size_t n, arena *a, proto_status *out, st_error *e) {
    size_t mark = a->used_bytes;
    Consort__V1__StatusReply *m;
    proto_status s = {0};
    st_code code = proto_wire_unpack(&consort__v1__status_reply__descriptor, bytes, n, a, BAD, BAD, &m, e);
    if (code) return code;
#define N(f) s.f = m->f;
    STATUS_NUMBERS(N)
#undef N
    code = proto_wire_copy_word("version", m->version, s.version, sizeof s.version, BAD, e);
    if (!code) code = copy_text("model", m->model, s.model, sizeof s.model, e);
    if (!code) code = copy_text("reason", m->reason, s.reason, sizeof s.reason, e);
    if (!code) code = decode_figures(m->by_drafter, m->n_by_drafter, a, &s.by_drafter, &s.n_by_drafter, e);
    if (!code) code = decode_workers(m, a, &s, e);
    if (code)
        arena_reset(a, mark);
    else
        *out = s;
    return code;
}
