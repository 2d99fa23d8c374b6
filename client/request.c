#include "client/request.h"

#include "base/mem.h"
#include <string.h>

enum { ARENA_BYTES = 16 << 20 };

static st_code set(void *context, const char *name, const char *value, st_error *e) {
    client_request *r = context;
    return proto_request_set(&r->request, name, value, &r->arena, e);
}

st_code client_request_init(client_request *r, st_error *e) {
    *r = (client_request){.request = proto_request_default()};
    r->setter = (client_setter){set, r};
    st_code code = arena_init(&r->arena, ARENA_BYTES);
    return code ? st_fail(e, code, "out of memory") : ST_OK;
}

void client_request_deinit(client_request *r) { arena_deinit(&r->arena); }

void client_request_options(client_request *r, client_option *options, size_t *n) {
    proto_field *f = r->fields;
    for (size_t i = 0; i < CLIENT_MAX_OPTIONS && proto_request_field(i, &f[i]); i++) {
        const char *open = f[i].range[0] ? " (" : "", *close = f[i].range[0] ? ")" : "";
        snprintf(r->help[i], sizeof r->help[i], "%s%s%s%s", f[i].help, open, f[i].range, close);
        options[(*n)++] =
            (client_option){f[i].cli, f[i].value ? CLIENT_SET : CLIENT_SET_FLAG, &r->setter, f[i].value, r->help[i], false};
    }
}

void client_result_deinit(client_result *r) {
    mem_free(r->text);
    mem_free(r->ids);
    mem_free(r->logs);
    mem_free(r->top_ids);
    mem_free(r->top_logs);
    r->text = NULL;
    r->ids = r->top_ids = NULL;
    r->logs = r->top_logs = NULL;
}

/* Appends n elements of `size` bytes to *array, which holds *have. */
static st_code append(void *array, size_t *have, const void *more, size_t n, size_t size) {
    char *p;
    memcpy(&p, array, sizeof p);
    p = mem_resize(p, *have, *have + n + 1, size);
    if (!p) return ST_FATAL_MEMORY;
    if (n) memcpy(p + *have * size, more, n * size);
    memset(p + (*have + n) * size, 0, size);
    memcpy(array, &p, sizeof p);
    *have += n;
    return ST_OK;
}

static st_code show(const char *text, size_t n, st_error *e) {
    return fwrite(text, 1, n, stdout) == n && !fflush(stdout) ? ST_OK : st_fail(e, ST_ERR_IO, "standard output: %m");
}

static st_code take_logprobs(client_result *out, const token_logprobs *l, uint32_t n_tokens) {
    size_t n_top = (size_t)n_tokens * l->n_top;
    if (!l->own) return ST_OK;
    st_code code = append(&out->logs, &out->n_logs, l->own, n_tokens, sizeof *out->logs);
    if (!code) code = append(&out->top_ids, &out->n_top_ids, l->top, n_top, sizeof *out->top_ids);
    return code ? code : append(&out->top_logs, &out->n_top_logs, l->top_log, n_top, sizeof *out->top_logs);
}

static st_code take_reply(client_result *out, const proto_reply *r, st_error *e) {
    if (r->request_id) snprintf(out->request_id, sizeof out->request_id, "%s", r->request_id);
    if (r->has_seed) out->seed = r->seed;
    if (append(&out->text, &out->n_text, r->text, r->text_bytes, 1) ||
        append(&out->ids, &out->n_ids, r->tokens, r->n_tokens, sizeof *out->ids) || take_logprobs(out, &r->logprobs, r->n_tokens))
        return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    out->completion_tokens += r->n_tokens;
    if (r->finish_reason) {
        snprintf(out->finish_reason, sizeof out->finish_reason, "%s", r->finish_reason);
        out->steps = r->steps;
        out->drafted = r->drafted;
        out->accepted = r->accepted;
        for (uint32_t i = 0; i < r->n_by_drafter && i < PROTO_MAX_DRAFTERS; i++) {
            snprintf(out->names[i], sizeof out->names[i], "%s", r->by_drafter[i].name);
            out->by_drafter[i] = r->by_drafter[i];
            out->by_drafter[i].name = out->names[i];
            out->n_by_drafter = i + 1;
        }
        out->queue_ns = r->queue_ns;
        out->first_token_ns = r->first_token_ns;
        out->total_ns = r->total_ns;
    }
    return out->show && r->text_bytes ? show(r->text, r->text_bytes, e) : ST_OK;
}

typedef struct {
    client_result *results; /* [n] */
    uint32_t n;
    st_error *e;
} answers;

static st_code on_message(void *context, const uint8_t *message, size_t n) {
    const answers *all = context;
    proto_reply r;
    arena a = {0};
    st_code code = arena_init(&a, proto_arena_bytes(n));
    code = code ? st_fail(all->e, code, "out of memory") : proto_reply_decode(message, n, &a, &r, all->e);
    if (!code && r.index >= all->n)
        code = st_fail(all->e, ST_ERR_FORMAT, "index: %u in a reply; %u answers were asked for", r.index, all->n);
    if (!code) code = take_reply(&all->results[r.index], &r, all->e);
    for (uint32_t i = 0; !code && r.has_usage && i < all->n; i++) {
        all->results[i].prompt_tokens = r.prompt_tokens;
        all->results[i].cached_tokens = r.cached_tokens;
    }
    arena_deinit(&a);
    return code;
}

st_code client_generate_call(client_rpc *rpc, const proto_request *request, uint32_t timeout_s, client_result *out, st_error *e) {
    proto_bytes b = {0};
    answers all = {out, request->n_choices, e};
    st_code code = proto_request_check(request, e);
    if (!code && proto_request_encode(request, &b)) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (!code) code = client_rpc_call(rpc, "/consort.v1.Inference/Generate", b.bytes, b.n, timeout_s, on_message, &all, e);
    proto_bytes_free(&b);
    return code;
}
