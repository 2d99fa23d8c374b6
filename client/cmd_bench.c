/* consort bench: engine, the speed of the forward pass in this process; serve, that of a cluster
 * (bench_serve.c); kv, that of its transports (bench_kv.c).
 *
 * prompt: a prompt of P tokens, logits of its last position only, after the same once unmeasured. decode: B sequences, one token
 * each a step, greedy; batch 1 from an empty context, others after 64-token prompts. verify: n tokens of one sequence a step, all
 * with their logits, after a prompt of 64, as a chain of drafts is verified. --context: all of these after prompts of so many.
 * Tokens per second count the tokens of all sequences.
 */
#include "client/bench_int.h"
#include "client/engine_int.h"

#include "base/mem.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 256, MAX_LIST = 16, DECODE_PROMPT = 64, MAX_CONTEXT = 1 << 24 };
#define USUAL_CONTEXT UINT32_MAX

typedef struct {
    uint32_t n, value[MAX_LIST];
} list;

typedef struct {
    const char *what, *threads_text, *batch_text, *verify_text;
    engine_options engine;
    list threads, batch, verify;
    uint32_t n_prompt, n_generate, n_context;
    bool json;
    double read_roof; /* GB/s of the threads at hand; 0: not measured */
} bench;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* "1,2,8": numbers from 1 to max. */
static st_code read_list(const char *name, const char *text, uint32_t max, list *out, st_error *e) {
    out->n = 0;
    for (const char *at = text;;) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || *at < '0' || *at > '9' || value < 1 || value > max || (*end && *end != ',') || out->n == MAX_LIST)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s %s: expected at most %d numbers from 1 to %u, with commas between",
                           name, text, MAX_LIST, max);
        out->value[out->n++] = (uint32_t)value;
        if (!*end) return ST_OK;
        at = end + 1;
    }
}

/* Any tokens will do; these spread over the vocabulary, and so over the memory of the token table. */
static uint32_t some_token(const engine *g, uint32_t sequence, uint32_t position) {
    return (uint32_t)((sequence * 7919 + position * UINT64_C(104729) + 17) % engine_info(g)->n_vocab);
}

static st_code run_prompt(engine *g, uint32_t sequence, uint32_t n, st_error *e) {
    st_code c = ST_OK;
    for (uint32_t at = 0; c == ST_OK && at < n;) {
        while (at < n && engine_add(g, sequence, some_token(g, sequence, at), at, at + 1 == n)) at++;
        c = engine_run(g, e);
    }
    return c;
}

static double start_clock(engine *g) {
    if (engine_profile(g)) kernels_profile_reset(engine_profile(g));
    return now_s();
}

static st_code time_prompt(engine *g, uint32_t n, double *tokens_per_s, st_error *e) {
    st_code c = engine_make_room(g, 1, n, e);
    if (c == ST_OK) c = run_prompt(g, 0, n, e);
    double start = start_clock(g);
    if (c == ST_OK) c = run_prompt(g, 0, n, e);
    *tokens_per_s = n / (now_s() - start);
    return c;
}

static st_code time_decode(engine *g, uint32_t n_batch, uint32_t n_context, uint32_t n_tokens, double *tokens_per_s,
                           st_error *e) {
    const sampling greedy = {.temperature = 0};
    const uint32_t usual = n_batch == 1 ? 0 : DECODE_PROMPT, base = n_context == USUAL_CONTEXT ? usual : n_context;
    uint32_t n_vocab = engine_info(g)->n_vocab, token[ROWS];
    st_code c = engine_make_room(g, n_batch, base + n_tokens, e);
    for (uint32_t s = 0; c == ST_OK && s < n_batch; s++) {
        c = run_prompt(g, s, base, e);
        token[s] = c == ST_OK && base ? model_choose(engine_logits(g, 0), n_vocab, &greedy, base, NULL) : some_token(g, s, 0);
    }
    double start = start_clock(g);
    for (uint32_t k = 0; c == ST_OK && k < n_tokens; k++) {
        for (uint32_t s = 0; s < n_batch; s++) (void)engine_add(g, s, token[s], base + k, true);
        c = engine_run(g, e);
        for (uint32_t s = 0; c == ST_OK && s < n_batch; s++)
            token[s] = model_choose(engine_logits(g, s), n_vocab, &greedy, base + k + 1, NULL);
    }
    *tokens_per_s = (double)n_batch * n_tokens / (now_s() - start);
    return c;
}

static st_code time_verify(engine *g, uint32_t n_rows, uint32_t n_context, uint32_t n_steps, double *tokens_per_s, st_error *e) {
    const uint32_t base = n_context == USUAL_CONTEXT ? DECODE_PROMPT : n_context;
    st_code c = engine_make_room(g, 1, base + n_rows, e);
    if (c == ST_OK) c = run_prompt(g, 0, base, e);
    double start = start_clock(g);
    for (uint32_t k = 0; c == ST_OK && k < n_steps; k++) { /* each step writes the same slots again */
        for (uint32_t i = 0; i < n_rows; i++) (void)engine_add(g, 0, some_token(g, 1, i), base + i, true);
        c = engine_run(g, e);
    }
    *tokens_per_s = (double)n_rows * n_steps / (now_s() - start);
    return c;
}

/* What reading weights could reach: the best of some sweeps of all threads over memory on huge pages that fits no cache. */
enum { ROOF_BYTES = 96 << 20, ROOF_SWEEPS = 8, ROOF_PARTS = 64 };

static void read_part(void *context, uint32_t part) {
    const uint64_t *word = (const uint64_t *)context + (size_t)part * (ROOF_BYTES / ROOF_PARTS / sizeof(uint64_t));
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < ROOF_BYTES / ROOF_PARTS / sizeof(uint64_t); i += 8)
        for (size_t k = 0; k < 8; k++) sum[k] |= word[i + k];
    INVARIANT(!(sum[0] | sum[1] | sum[2] | sum[3] | sum[4] | sum[5] | sum[6] | sum[7])); /* so that the reads are not left out */
}

static st_code read_roof(uint32_t n_threads, double *gb_per_s, st_error *e) {
    pool *threads = NULL;
    char *memory = mem_map(ROOF_BYTES);
    double best = 0;
    st_code c = memory ? pool_create(n_threads, &threads) : ST_FATAL_MEMORY;
    if (c == ST_OK) memset(memory, 0, ROOF_BYTES); /* pages that nobody wrote are all the same one */
    for (int i = 0; c == ST_OK && i < ROOF_SWEEPS; i++) {
        double start = now_s();
        pool_run(threads, ROOF_PARTS, read_part, memory);
        double speed = ROOF_BYTES / (now_s() - start) * 1e-9;
        if (speed > best) best = speed;
    }
    *gb_per_s = best;
    pool_destroy(threads);
    if (memory) mem_unmap(memory, ROOF_BYTES);
    return c == ST_OK ? c : st_fail(e, c, "the read roof of %u threads cannot be measured: %s", n_threads, st_text(c));
}

/* Rates are of the weights: bytes read, each once a call, and multiplications with activations. */
static void note_operation(const bench *b, json_t *out, const kernels_profile_line *l, uint64_t all_ns) {
    double ns = (double)l->total_ns, gb_per_s = (double)l->weight_bytes / ns, gmac_per_s = (double)l->multiplications / ns;
    if (b->json) {
        json_t *line = json_pack("{s:s, s:i, s:f}", "operation", l->operation, "calls", (int)l->n_calls, "ms", ns * 1e-6);
        if (l->rows)
            json_object_update_new(line, json_pack("{s:i, s:i, s:f, s:f}", "rows", (int)l->rows, "cols", (int)l->cols, "gb_per_s",
                                                   gb_per_s, "gmac_per_s", gmac_per_s));
        json_array_append_new(out, line);
        return;
    }
    printf("    %-13s %9.2f ms %5.1f %% %8llu calls", l->operation, ns * 1e-6, 100 * ns / (double)all_ns,
           (unsigned long long)l->n_calls);
    if (l->rows)
        printf("  %6u x %-6u %6.1f GB/s (%2.0f %% of the read roof) %6.1f GMAC/s", l->rows, l->cols, gb_per_s,
               100 * gb_per_s / b->read_roof, gmac_per_s);
    putchar('\n');
}

static void note(const bench *b, json_t *out, engine *g, const char *test, uint32_t batch, double tokens_per_s) {
    json_t *operations = json_array();
    if (!b->json) printf("%-7s threads %2u  batch %3u  %10.1f tokens/s\n", test, b->engine.n_threads, batch, tokens_per_s);
    if (engine_profile(g)) {
        uint32_t n;
        uint64_t all_ns = 0;
        const kernels_profile_line *line = kernels_profile_lines(engine_profile(g), &n);
        for (uint32_t i = 0; i < n; i++) all_ns += line[i].total_ns;
        for (uint32_t i = 0; i < n; i++) note_operation(b, operations, &line[i], all_ns);
    }
    if (b->json) {
        json_t *result = json_pack("{s:s, s:i, s:i, s:f}", "test", test, "threads", (int)b->engine.n_threads, "batch", (int)batch,
                                   "tokens_per_s", tokens_per_s);
        if (engine_profile(g))
            json_object_update_new(result, json_pack("{s:f, s:O}", "read_roof_gb_per_s", b->read_roof, "operations", operations));
        json_array_append_new(out, result);
    }
    json_decref(operations);
    fflush(stdout);
}

static st_code measure(bench *b, json_t *out, st_error *e) {
    engine *g = NULL;
    double speed = 0;
    st_code c = b->engine.profile ? read_roof(b->engine.n_threads, &b->read_roof, e) : ST_OK;
    if (c == ST_OK) c = engine_open(&b->engine, &g, e);
    if (c == ST_OK) c = time_prompt(g, b->n_prompt, &speed, e);
    if (c == ST_OK) note(b, out, g, "prompt", 1, speed);
    for (uint32_t i = 0; c == ST_OK && i < b->batch.n; i++) {
        c = time_decode(g, b->batch.value[i], b->n_context, b->n_generate, &speed, e);
        if (c == ST_OK) note(b, out, g, "decode", b->batch.value[i], speed);
    }
    for (uint32_t i = 0; c == ST_OK && i < b->verify.n; i++) {
        c = time_verify(g, b->verify.value[i], b->n_context, b->n_generate, &speed, e);
        if (c == ST_OK) note(b, out, g, "verify", b->verify.value[i], speed);
    }
    engine_close(g);
    return c;
}

static int usage(const char *verb, const st_error *e) {
    (void)client_fail(verb, e);
    return CLIENT_USAGE;
}

static int run(const char *verb, bench *b) {
    st_error e = {0};
    if (strcmp(b->what, "engine")) {
        (void)st_fail(&e, ST_ERR_INVALID_ARGUMENT, "no test '%s' (engine; serve or kv, right behind bench)", b->what);
        return usage(verb, &e);
    }
    if (read_list("--threads", b->threads_text, 1024, &b->threads, &e) ||
        read_list("--batch", b->batch_text, ROWS, &b->batch, &e) ||
        (b->verify_text && read_list("--verify", b->verify_text, ROWS, &b->verify, &e)))
        return usage(verb, &e);
    if (!b->n_prompt || !b->n_generate) {
        (void)st_fail(&e, ST_ERR_INVALID_ARGUMENT, "--prompt, --generate: expected at least 1 token");
        return usage(verb, &e);
    }
    if (b->n_context != USUAL_CONTEXT && b->n_context > MAX_CONTEXT) {
        (void)st_fail(&e, ST_ERR_INVALID_ARGUMENT, "--context %u: expected at most %d", b->n_context, MAX_CONTEXT);
        return usage(verb, &e);
    }
    b->engine.max_choose = 1;
    for (uint32_t i = 0; i < b->batch.n; i++)
        if (b->batch.value[i] > b->engine.max_choose) b->engine.max_choose = b->batch.value[i];
    for (uint32_t i = 0; i < b->verify.n; i++)
        if (b->verify.value[i] > b->engine.max_choose) b->engine.max_choose = b->verify.value[i];
    json_t *out = json_array();
    st_code c = ST_OK;
    for (uint32_t i = 0; c == ST_OK && i < b->threads.n; i++) {
        b->engine.n_threads = b->threads.value[i];
        c = measure(b, out, &e);
    }
    if (c == ST_OK && b->json && (json_dumpf(out, stdout, JSON_REAL_PRECISION(5)) || putchar('\n') == EOF))
        c = st_fail(&e, ST_ERR_IO, "standard output cannot be written");
    json_decref(out);
    return c == ST_OK ? CLIENT_OK : client_fail(verb, &e);
}

int client_bench(int argc, char **argv) {
    char serve[] = "bench serve"; /* its argv[0] */
    if (argc > 1 && !strcmp(argv[1], "serve")) {
        argv[1] = serve;
        return bench_serve(argc - 1, argv + 1);
    }
    char kv[] = "bench kv";
    if (argc > 1 && !strcmp(argv[1], "kv")) {
        argv[1] = kv;
        return bench_kv(argc - 1, argv + 1);
    }
    bench b = {.threads_text = "1",
               .batch_text = "1,4,8,16",
               .n_prompt = 512,
               .n_generate = 64,
               .n_context = USUAL_CONTEXT,
               .engine.max_rows = ROWS};
    const client_option options[] = {
        {"TEST", CLIENT_TEXT, &b.what, NULL,
         "engine: the forward pass in this process; serve, kv: a running cluster (consort bench serve --help)", true},
        {"--model", CLIENT_TEXT, &b.engine.path, "F", "GGUF file", true},
        {"--threads", CLIENT_TEXT, &b.threads_text, "N,N", "compute threads (default: 1)", false},
        {"--prompt", CLIENT_U32, &b.n_prompt, "N", "tokens of the prompt (default: 512)", false},
        {"--generate", CLIENT_U32, &b.n_generate, "N", "tokens decoded by each sequence (default: 64)", false},
        {"--context", CLIENT_U32, &b.n_context, "N",
         "tokens of each sequence before those decoded or verified (default: 64; none with batch 1)", false},
        {"--batch", CLIENT_TEXT, &b.batch_text, "N,N", "sequences that decode together (default: 1,4,8,16)", false},
        {"--verify", CLIENT_TEXT, &b.verify_text, "N,N", "tokens of one sequence in a step (default: not measured)", false},
        {"--isa", CLIENT_TEXT, &b.engine.isa, "X", "instruction set: auto, avx512, avx2, neon, scalar", false},
        {"--precision", CLIENT_TEXT, &b.engine.precision, "P", "of products: fast (default), fp32", false},
        {"--kv-type", CLIENT_TEXT, &b.engine.kv_type, "T",
         "how K and V are rounded, as the key kv_type of a group has it (default: f16 with fast, f32 with fp32)", false},
        {"--profile", CLIENT_FLAG, &b.engine.profile, NULL,
         "time by operation, and the read roof of this machine; costs some speed", false},
        {"--json", CLIENT_FLAG, &b.json, NULL, "one JSON list of {test, threads, batch, tokens_per_s}", false},
    };
    int rc = client_options(argc, argv, "Measures, and prints tokens per second of all sequences together.", options,
                            sizeof options / sizeof *options);
    return rc == CLIENT_GO_ON ? run(argv[0], &b) : rc;
}
