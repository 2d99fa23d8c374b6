/* consort generate: one prompt, one answer, streamed to standard output; what is said about it goes to standard error. */
#include "client/request.h"

#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char *server, *prompt, *tokens, *system;
    uint32_t seconds;
    bool raw, json, quiet;
    proto_message messages[2];
} options;

/* All of standard input, NUL-terminated, in *out (owned). */
static st_code read_all(FILE *f, char **out, size_t *n, st_error *e) {
    char part[65536];
    for (size_t got; *n <= PROTO_MAX_PROMPT_BYTES && (got = fread(part, 1, sizeof part, f)) > 0; *n += got) {
        char *p = mem_resize(*out, *n, *n + got + 1, 1);
        if (!p) return st_fail(e, ST_FATAL_MEMORY, "no memory for a prompt of over %zu bytes", *n);
        memcpy(p + *n, part, got);
        *out = p;
    }
    if (ferror(f)) return st_fail(e, ST_ERR_IO, "standard input: %m");
    if (!*n) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "standard input is empty: give a prompt there, or by --prompt");
    if (memchr(*out, 0, *n)) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "standard input: a prompt with a NUL byte is not text");
    return ST_OK;
}

/* "1,2,3" as the prompt; the ids live in the arena. */
static st_code set_tokens(client_request *q, const char *text, st_error *e) {
    size_t most = 1;
    for (const char *p = text; *p; p++) most += *p == ',';
    uint32_t *ids = arena_alloc(&q->arena, most, sizeof *ids);
    if (!ids) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--tokens: %zu ids are too many", most);
    q->request.prompt_kind = PROTO_PROMPT_TOKENS;
    q->request.tokens = ids;
    for (const char *p = text;; p++) {
        char *end;
        unsigned long id = strtoul(p, &end, 10);
        if (*p < '0' || *p > '9' || id > UINT32_MAX || (*end && *end != ','))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--tokens %s: expected ids separated by commas", text);
        ids[q->request.n_tokens++] = (uint32_t)id;
        if (!*end) return ST_OK;
        p = end;
    }
}

static void set_prompt(options *o, proto_request *r, const char *text, size_t n) {
    if (o->raw) {
        r->prompt_kind = PROTO_PROMPT_TEXT;
        r->text = text;
        r->text_bytes = n;
        return;
    }
    uint32_t k = 0;
    if (o->system) o->messages[k++] = (proto_message){"system", o->system};
    o->messages[k++] = (proto_message){"user", text};
    r->prompt_kind = PROTO_PROMPT_CHAT;
    r->messages = o->messages;
    r->n_messages = k;
}

static json_t *speculation_json(const client_result *r) {
    json_t *by = json_object();
    for (uint32_t i = 0; i < r->n_by_drafter; i++)
        json_object_set_new(by, r->by_drafter[i].name,
                            json_pack("{s:I s:I}", "drafted", (json_int_t)r->by_drafter[i].drafted, "accepted",
                                      (json_int_t)r->by_drafter[i].accepted));
    return json_pack("{s:I s:I s:I s:o}", "steps", (json_int_t)r->steps, "drafted", (json_int_t)r->drafted, "accepted",
                     (json_int_t)r->accepted, "by_drafter", by);
}

/* [{"id": 5, "logprob": -0.1, "top": [[5, -0.1], [7, -2.5]]}, ...], one for each id. */
static json_t *logprobs_json(const client_result *r) {
    json_t *list = json_array();
    size_t n_top = r->n_logs ? r->n_top_ids / r->n_logs : 0;
    for (size_t i = 0; i < r->n_logs; i++) {
        json_t *top = json_array();
        for (size_t k = i * n_top; k < (i + 1) * n_top; k++)
            json_array_append_new(top, json_pack("[I, f]", (json_int_t)r->top_ids[k], (double)r->top_logs[k]));
        json_array_append_new(
            list, json_pack("{s:I, s:f, s:o}", "id", (json_int_t)r->ids[i], "logprob", (double)r->logs[i], "top", top));
    }
    return list;
}

static int print_json(const client_result *r, uint32_t index, double wall_s) {
    json_t *ids = json_array();
    for (size_t i = 0; i < r->n_ids; i++) json_array_append_new(ids, json_integer(r->ids[i]));
    double first_s = (double)r->first_token_ns / 1e9, total_s = (double)r->total_ns / 1e9;
    char text[24]; /* jansson's integers are signed: a larger seed is printed as text */
    snprintf(text, sizeof text, "%llu", (unsigned long long)r->seed);
    json_t *seed = r->seed <= INT64_MAX ? json_integer((json_int_t)r->seed) : json_string(text);
    json_t *o =
        json_pack("{s:i s:s% s:o s:s s:{s:i s:i s:i s:i} s:o s:s s:{s:f s:f s:f s:f s:f} s:o}", "index", (int)index, "text",
                  r->text ? r->text : "", r->n_text, "ids", ids, "finish_reason", r->finish_reason, "usage", "prompt_tokens",
                  r->prompt_tokens, "cached_tokens", r->cached_tokens, "completion_tokens", r->completion_tokens, "total_tokens",
                  r->prompt_tokens + r->completion_tokens, "seed", seed, "request_id", r->request_id, "times", "queue_s",
                  (double)r->queue_ns / 1e9, "first_token_s", first_s, "total_s", total_s, "wall_s", wall_s, "tokens_per_s",
                  r->completion_tokens > 1 && total_s > first_s ? (r->completion_tokens - 1) / (total_s - first_s) : 0.0,
                  "speculation", speculation_json(r));
    if (o && r->n_logs) json_object_set_new(o, "logprobs", logprobs_json(r));
    bool ok = o && !json_dumpf(o, stdout, JSON_COMPACT) && putchar('\n') != EOF;
    json_decref(o);
    return ok ? CLIENT_OK : CLIENT_FAILED;
}

static void print_speculation(const client_result *r) {
    const char *between = " (";
    fprintf(stderr, "; %.2f tokens a step, %.0f %% of drafts accepted", (double)(r->steps + r->accepted) / (double)r->steps,
            100.0 * (double)r->accepted / (double)r->drafted);
    for (uint32_t i = 0; i < r->n_by_drafter; i++) {
        const proto_drafter_figures *d = &r->by_drafter[i];
        if (!d->drafted) continue;
        fprintf(stderr, "%s%s %.0f %%", between, d->name, 100.0 * (double)d->accepted / (double)d->drafted);
        between = ", ";
    }
    if (*between == ',') fputc(')', stderr);
}

static void print_summary(const client_result *r) {
    double first_s = (double)r->first_token_ns / 1e9, rest_s = (double)(r->total_ns - r->first_token_ns) / 1e9;
    fprintf(stderr, "%u prompt tokens", r->prompt_tokens);
    if (r->cached_tokens) fprintf(stderr, " (%u from the cache)", r->cached_tokens);
    fprintf(stderr, ", %u tokens (%s); first token after %.0f ms", r->completion_tokens, r->finish_reason, first_s * 1e3);
    if (r->completion_tokens > 1 && rest_s > 0) fprintf(stderr, ", then %.1f tokens/s", (r->completion_tokens - 1) / rest_s);
    if (r->drafted) print_speculation(r);
    fprintf(stderr, "; seed %llu, request %s\n", (unsigned long long)r->seed, r->request_id);
}

/* What has not been shown yet, and a line's end. */
static void print_text(const client_result *r, uint32_t index, uint32_t n_choices) {
    if (n_choices > 1 && r->n_text) printf("--- %u ---\n%s", index, r->text);
    if (r->n_text && r->text[r->n_text - 1] != '\n') putchar('\n');
    fflush(stdout);
}

static int run(const char *verb, options *o, client_request *q) {
    st_error e = {0};
    struct timespec start, end;
    client_rpc *rpc = NULL;
    client_result r[PROTO_MAX_CHOICES] = {{0}};
    uint32_t n_choices = q->request.n_choices; /* several come interleaved: shown when all are there */
    r[0].show = !o->json && n_choices == 1;
    size_t n = o->prompt ? strlen(o->prompt) : 0;
    char *input = NULL;
    st_code code = o->prompt || o->tokens ? ST_OK : read_all(stdin, &input, &n, &e);
    if (o->tokens)
        code = set_tokens(q, o->tokens, &e);
    else
        set_prompt(o, &q->request, o->prompt ? o->prompt : input, n);
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (!code) code = client_rpc_open(o->server, &rpc, &e);
    if (!code) code = client_generate_call(rpc, &q->request, o->seconds, r, &e);
    clock_gettime(CLOCK_MONOTONIC, &end);
    client_rpc_close(rpc);
    int rc = code ? client_fail(verb, &e) : CLIENT_OK;
    double wall_s = (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    for (uint32_t i = 0; i < n_choices && i < PROTO_MAX_CHOICES; i++) {
        if (rc == CLIENT_OK && o->json) rc = print_json(&r[i], i, wall_s);
        if (!o->json) print_text(&r[i], i, n_choices);
        if (rc == CLIENT_OK && !o->json && !o->quiet) print_summary(&r[i]);
        client_result_deinit(&r[i]);
    }
    mem_free(input);
    return rc;
}

int client_generate(int argc, char **argv) {
    options o = {.server = client_server()};
    client_request q;
    client_option table[CLIENT_MAX_OPTIONS + 8] = {
        CLIENT_SERVER_OPTION(o.server),
        {"--prompt", CLIENT_TEXT, &o.prompt, "TEXT", "the user's message; default: standard input", false},
        {"--system", CLIENT_TEXT, &o.system, "TEXT", "a system message before it; default: the model's own", false},
        {"--tokens", CLIENT_TEXT, &o.tokens, "IDS", "token ids separated by commas, instead of a prompt", false},
        {"--raw", CLIENT_FLAG, &o.raw, NULL, "the prompt is plain text to continue: no chat template", false},
        {"--json", CLIENT_FLAG, &o.json, NULL, "print one JSON object for each answer at the end instead of the text", false},
        {"--quiet", CLIENT_FLAG, &o.quiet, NULL, "no summary on standard error", false},
        {"--timeout", CLIENT_U32, &o.seconds, "SECONDS", "deadline of the request; default: none", false},
    };
    size_t n = 8;
    st_error e = {0};
    if (client_request_init(&q, &e)) return client_fail(argv[0], &e);
    client_request_options(&q, table, &n);
    int rc = client_options(argc, argv, "Sends a prompt to the cluster and streams the answer to standard output.", table, n);
    if (rc == CLIENT_GO_ON && ((o.tokens && o.prompt) || (o.system && (o.raw || o.tokens)))) {
        fprintf(stderr, "consort generate: %s exclude each other\n",
                o.system ? "--system and --raw or --tokens" : "--prompt and --tokens");
        rc = CLIENT_USAGE;
    }
    if (rc == CLIENT_GO_ON) rc = run(argv[0], &o, &q);
    client_request_deinit(&q);
    return rc;
}
