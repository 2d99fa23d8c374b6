/* consort bench kv: how fast KV cache gets from one rank of a cluster to another, and whether that is sooner than to compute it.
 * The workers measure; this prints, and asks for the prompts that are computed.
 *
 * A computed prompt is one of random tokens under a salt of its own, so that nothing of it is in the prefix cache; its time is
 * the cluster's, from arrival to the first token. */
#include "client/bench_int.h"

#include "base/mem.h"
#include <string.h>
#include <sys/random.h>

enum { USUAL_PROMPT = 1000, PROMPTS = 3, LOOK_MS = 20, PATIENCE_MS = 10000 };

typedef struct {
    json_t *list;
    bool json;
    uint32_t n_prompt; /* 0: none */
    double recompute_ms;
    /* of the cluster's verifiers */
    uint32_t n_ranks, n_vocab, most_tokens; /* of a prompt */
    uint64_t busy;                          /* requests */
    st_error *e;
} table;

static json_t *or_null(bool known, json_t *value) {
    if (known) return value;
    json_decref(value);
    return json_null();
}

static void print_json(const table *t, const proto_measurement *m) {
    json_t *row =
        json_pack("{s:s, s:i, s:f, s:f, s:i, s:i}", "transport", m->transport, "block_bytes", (int)m->block_bytes, "gb_s",
                  m->bytes_per_s / 1e9, "raw_gb_s", m->raw_bytes_per_s / 1e9, "source", (int)m->source, "target", (int)m->target);
    if (m->prompt_tokens)
        json_object_update_new(row, json_pack("{s:i, s:f, s:f, s:o, s:o, s:o}", "prompt_tokens", (int)m->prompt_tokens, "move_ms",
                                              (double)m->move_ns / 1e6, "recompute_ms", t->recompute_ms, "crossover_tokens",
                                              or_null(m->crossover_tokens > 0, json_integer(m->crossover_tokens)),
                                              "move_token_ns", or_null(m->move_token_ns > 0, json_real(m->move_token_ns)),
                                              "prompt_token_ns", or_null(m->prompt_token_ns > 0, json_real(m->prompt_token_ns))));
    json_array_append_new(t->list, row);
}

static void print_learnt(double ns) {
    if (ns > 0)
        printf("%.1f us", ns / 1e3);
    else
        printf("not known yet");
}

static void print_text(const table *t, const proto_measurement *m) {
    printf("rank %u to rank %u  %-4s %8.3f MB  %7.3f GB/s, %3.0f %% of the %7.3f GB/s of the transport alone\n", m->source,
           m->target, m->transport, m->block_bytes / 1e6, m->bytes_per_s / 1e9, 100 * m->bytes_per_s / m->raw_bytes_per_s,
           m->raw_bytes_per_s / 1e9);
    if (!m->prompt_tokens) return;
    printf("  a prompt of %u tokens moves in %.2f ms and is computed in %.2f ms; the scheduler ", m->prompt_tokens,
           (double)m->move_ns / 1e6, t->recompute_ms);
    if (m->crossover_tokens)
        printf("moves from %u tokens on", m->crossover_tokens);
    else if (m->move_token_ns > m->prompt_token_ns && m->prompt_token_ns > 0)
        printf("computes at any length");
    else
        printf("moves nothing between the two");
    printf(" (a token moved: ");
    print_learnt(m->move_token_ns);
    printf(", computed: ");
    print_learnt(m->prompt_token_ns);
    printf(")\n");
}

static st_code on_measurement(void *context, const uint8_t *message, size_t n) {
    const table *t = context;
    proto_measurement m;
    st_code code = proto_measurement_decode(message, n, &m, t->e);
    if (code) return code;
    if (t->json)
        print_json(t, &m);
    else
        print_text(t, &m);
    fflush(stdout);
    return ST_OK;
}

/* ---- what it takes to compute a prompt ---- */

/* One token is answered. How large a tree is reserved for it the cluster alone knows: room for the largest. */
static uint64_t most_prompt(const proto_register *r) {
    const uint64_t tokens = r->kv_blocks * NOUNS_BLOCK_TOKENS, reserved = 1 + NOUNS_MAX_TREE;
    const uint64_t by_blocks = tokens > reserved ? tokens - reserved : 0,
                   by_context = r->max_context > 1 ? r->max_context - 1 : 0;
    return by_blocks < by_context ? by_blocks : by_context;
}

static st_code on_status(void *context, const uint8_t *message, size_t n) {
    table *t = context;
    proto_status s;
    arena a = {0};
    st_code code = arena_init(&a, proto_arena_bytes(n));
    code = code ? st_fail(t->e, code, "out of memory") : proto_status_decode(message, n, &a, &s, t->e);
    t->n_ranks = 0;
    t->most_tokens = UINT32_MAX;
    t->n_vocab = 0;
    for (uint32_t i = 0; !code && i < s.n_workers; i++) {
        const proto_register *r = &s.workers[i].info;
        if (!s.workers[i].up || strcmp(r->role, "verifier")) continue;
        uint64_t most = most_prompt(r);
        if (most < t->most_tokens) t->most_tokens = (uint32_t)most;
        t->n_vocab = r->n_vocab;
        t->n_ranks++;
    }
    if (!code) t->busy = s.requests_running + s.requests_waiting;
    arena_deinit(&a);
    return code;
}

static st_code look(client_rpc *r, table *t) {
    return client_rpc_call(r, "/consort.v1.Inference/Status", NULL, 0, 0, on_status, t, t->e);
}

/* The last one is over for its client before it is for the cluster. */
static st_code wait_until_idle(client_rpc *r, table *t) {
    st_code code = look(r, t);
    for (uint32_t ms = 0; !code && t->busy && ms < PATIENCE_MS; ms += LOOK_MS) {
        code = client_rpc_pause(r, LOOK_MS, t->e);
        if (!code) code = look(r, t);
    }
    return code; /* MeasureKv says it if others are busy */
}

/* Random tokens and a salt that nobody has used. */
static st_code draw_prompt(const table *t, uint32_t *tokens, proto_request *q) {
    uint64_t salt;
    if (getrandom(&salt, sizeof salt, 0) != (ssize_t)sizeof salt) return st_fail(t->e, ST_ERR_IO, "no random numbers: %m");
    for (uint32_t i = 0; i < t->n_prompt; i += 32) { /* the system gives 256 bytes at once, whatever happens */
        uint32_t n = t->n_prompt - i < 32 ? t->n_prompt - i : 32;
        if (getrandom(&tokens[i], n * sizeof *tokens, 0) != (ssize_t)(n * sizeof *tokens))
            return st_fail(t->e, ST_ERR_IO, "no random numbers: %m");
    }
    for (uint32_t i = 0; i < t->n_prompt; i++) tokens[i] %= t->n_vocab;
    *q = proto_request_default();
    q->prompt_kind = PROTO_PROMPT_TOKENS;
    q->tokens = tokens;
    q->n_tokens = t->n_prompt;
    q->max_tokens = 1;
    q->ignore_end = true;
    snprintf(q->cache_salt, sizeof q->cache_salt, "bench-kv-%016llx", (unsigned long long)salt);
    return ST_OK;
}

static double median(double of[PROMPTS]) {
    for (int i = 1; i < PROMPTS; i++)
        for (int k = i; k > 0 && of[k] < of[k - 1]; k--) {
            double less = of[k];
            of[k] = of[k - 1];
            of[k - 1] = less;
        }
    return of[PROMPTS / 2];
}

static st_code compute_prompts(client_rpc *r, table *t) {
    uint32_t *tokens = mem_alloc(t->n_prompt, sizeof *tokens);
    double ms[PROMPTS];
    st_code code = tokens ? ST_OK : st_fail(t->e, ST_FATAL_MEMORY, "out of memory");
    for (int i = 0; !code && i < PROMPTS; i++) {
        proto_request q;
        client_result result = {0};
        code = draw_prompt(t, tokens, &q);
        if (!code) code = client_generate_call(r, &q, 0, &result, t->e);
        ms[i] = (double)result.first_token_ns / 1e6;
        client_result_deinit(&result);
    }
    mem_free(tokens);
    if (!code) t->recompute_ms = median(ms);
    return code ? code : wait_until_idle(r, t);
}

/* Where there is something to measure; MeasureKv says it if not. */
static st_code prepare(client_rpc *r, table *t, bool usual) {
    st_code code = t->n_prompt ? look(r, t) : ST_OK;
    if (code || !t->n_prompt || t->n_ranks < 2 || t->busy) return code;
    if (!t->n_vocab) return st_fail(t->e, ST_ERR_FORMAT, "the cluster says that its verifiers have no vocabulary");
    if (usual && t->n_prompt > t->most_tokens) t->n_prompt = t->most_tokens;
    if (t->n_prompt > t->most_tokens)
        return st_fail(t->e, ST_ERR_INVALID_ARGUMENT,
                       "--prompt %u: expected at most %u, which this cluster holds whatever is drafted for it", t->n_prompt,
                       t->most_tokens);
    return t->n_prompt ? compute_prompts(r, t) : ST_OK;
}

static st_code measure(client_rpc *r, table *t, bool usual) {
    proto_bytes b = {0};
    st_code code = prepare(r, t, usual);
    if (!code && proto_measure_request_encode(t->n_prompt, &b)) code = st_fail(t->e, ST_FATAL_MEMORY, "out of memory");
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/MeasureKv", b.bytes, b.n, 0, on_measurement, t, t->e);
    proto_bytes_free(&b);
    return code;
}

int bench_kv(int argc, char **argv) {
    const char *server = client_server();
    uint32_t n_prompt = UINT32_MAX;
    st_error e = {0};
    table t = {.e = &e};
    const client_option options[] = {
        CLIENT_SERVER_OPTION(server),
        {"--prompt", CLIENT_U32, &n_prompt, "N",
         "also move the KV of a prompt of N tokens, and compute one; 0: none (default: 1000, or as many as the cluster holds)",
         false},
        {"--json", CLIENT_FLAG, &t.json, NULL,
         "one JSON list of {transport, block_bytes, gb_s, raw_gb_s, source, target}; those of a prompt also have prompt_tokens, "
         "move_ms, recompute_ms, crossover_tokens, move_token_ns, prompt_token_ns",
         false},
    };
    int rc = client_options(
        argc, argv,
        "Measures how fast KV cache gets from one rank of the cluster's verifiers to another, by each transport that leads "
        "there, for\n"
        "messages of several sizes: with the checks and copies of a move, and, by turns with that, by the transport alone; and "
        "whether\n"
        "the KV of a prompt is there sooner moved or computed. The cluster must have nothing else to do. Takes some seconds a "
        "line.",
        options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    client_rpc *r = NULL;
    bool usual = n_prompt == UINT32_MAX;
    t.n_prompt = usual ? USUAL_PROMPT : n_prompt;
    t.list = json_array();
    st_code code = client_rpc_open(server, &r, &e);
    if (!code) code = measure(r, &t, usual);
    client_rpc_close(r);
    if (!code && t.json && (json_dumpf(t.list, stdout, JSON_REAL_PRECISION(5)) || putchar('\n') == EOF))
        code = st_fail(&e, ST_ERR_IO, "standard output cannot be written");
    json_decref(t.list);
    return code ? client_fail(argv[0], &e) : CLIENT_OK;
}
