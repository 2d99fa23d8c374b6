/* consort perplexity: how well a model predicts a text, in one number. */
#include "client/client_int.h"
#include "client/engine_int.h"

#include "base/filemap.h"
#include "base/mem.h"
#include "model/text.h"
#include <math.h>
#include <string.h>

enum { ROWS = 256, CHOICES = 64, CONTEXT = 512 };

typedef struct {
    const char *text;
    uint32_t context;
    bool json;
} options;

typedef struct {
    double nll;
    uint64_t n;
} total;

typedef struct {
    model_ids bos, text; /* bos: none, or one */
} input;

/* The window's tokens predict each other from `first` on: those before only give context. */
static st_code score_window(engine *g, const uint32_t *ids, uint32_t n, uint32_t first, total *sum, st_error *e) {
    uint32_t n_vocab = engine_info(g)->n_vocab, n_rows = n - 1, done = first;
    st_code c = engine_make_room(g, 1, n, e);
    for (uint32_t at = 0; c == ST_OK && at < n_rows;) {
        while (at < n_rows && engine_add(g, 0, ids[at], at, at + 1 >= first)) at++;
        c = engine_run(g, e);
        for (uint32_t from = done; c == ST_OK && done <= at; done++, sum->n++)
            sum->nll += model_nll(engine_logits(g, done - from), n_vocab, ids[done]);
    }
    return c;
}

/* Windows of `context` tokens, the BOS among them where the vocabulary asks for one, each half a window on; so every token but
 * the first half window's has about half a window before it, and each is scored once. */
static st_code score_all(engine *g, const input *in, uint32_t context, total *sum, st_error *e) {
    uint32_t *window = mem_alloc(context, sizeof *window);
    size_t n_bos = in->bos.n, width = context - n_bos, n = in->text.n;
    st_code c = window ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "no memory for a window of %u tokens", context);
    if (c == ST_OK && n_bos) window[0] = in->bos.ids[0];
    for (size_t from = 0, scored = n_bos ? 0 : 1; c == ST_OK && scored < n; from += width / 2) {
        size_t end = n - from < width ? n : from + width;
        memcpy(window + n_bos, in->text.ids + from, (end - from) * sizeof *window);
        c = score_window(g, window, (uint32_t)(n_bos + end - from), (uint32_t)(n_bos + scored - from), sum, e);
        scored = end;
        if (c == ST_OK) fprintf(stderr, "\r%zu of %zu tokens: %.4f ", scored, n, exp(sum->nll / (double)sum->n));
    }
    fputc('\n', stderr);
    mem_free(window);
    return c;
}

static st_code read_input(const engine_options *o, const char *path, input *in, st_error *e) {
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    filemap m = {0};
    st_code c = filemap_open(path, &m, e);
    if (c == ST_OK) c = model_file_open(o->path, &f, e);
    if (c == ST_OK) c = model_tokenizer_create(f, &t, e);
    if (c == ST_OK) c = model_prompt_tokenize(t, "", 0, 1, &in->bos, e);
    if (c == ST_OK && model_tokenize(t, m.bytes ? m.bytes : "", m.size_bytes, false, INT32_MAX, &in->text, e))
        c = st_prefix(e, "%s", path);
    if (c == ST_OK && in->text.n < 2)
        c = st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: %zu tokens; at least 2 are needed", path, in->text.n);
    model_tokenizer_destroy(t);
    model_file_close(f);
    filemap_close(&m);
    return c;
}

static st_code run(const engine_options *eo, const options *o, total *sum, st_error *e) {
    input in = {0};
    engine *g = NULL;
    st_code c = read_input(eo, o->text, &in, e);
    if (c == ST_OK) c = engine_open(eo, &g, e);
    if (c == ST_OK && (o->context < 8 || o->context > engine_info(g)->max_context))
        c = st_fail(e, ST_ERR_INVALID_ARGUMENT, "--context %u: expected 8 to %u", o->context, engine_info(g)->max_context);
    if (c == ST_OK) c = score_all(g, &in, o->context, sum, e);
    engine_close(g);
    mem_free(in.bos.ids);
    mem_free(in.text.ids);
    return c;
}

int client_perplexity(int argc, char **argv) {
    engine_options eo = {.max_rows = ROWS, .max_choose = CHOICES};
    options o = {.context = CONTEXT};
    const client_option table[] = {
        {"--model", CLIENT_TEXT, &eo.path, "F", "GGUF file", true},
        {"--text", CLIENT_TEXT, &o.text, "F", "a file of UTF-8 text", true},
        {"--context", CLIENT_U32, &o.context, "N", "tokens of a window (512)", false},
        {"--threads", CLIENT_U32, &eo.n_threads, "N", "compute threads (default: one a processor)", false},
        {"--isa", CLIENT_TEXT, &eo.isa, "X", "instruction set: auto, avx512, avx2, neon, scalar (the answers are the same)",
         false},
        {"--precision", CLIENT_TEXT, &eo.precision, "P", "of products: fast (default), fp32", false},
        {"--kv-type", CLIENT_TEXT, &eo.kv_type, "T",
         "how K and V are rounded, as the key kv_type of a group has it (default: f16 with fast, f32 with fp32)", false},
        {"--json", CLIENT_FLAG, &o.json, NULL, "one JSON object", false},
    };
    int rc =
        client_options(argc, argv,
                       "Prints exp of the mean of -log p over the tokens of a text. Windows overlap by half, and each token is\n"
                       "scored once, in the first window that holds it.",
                       table, sizeof table / sizeof *table);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    total sum = {0};
    if (run(&eo, &o, &sum, &e)) return client_fail(argv[0], &e);
    double nll = sum.nll / (double)sum.n;
    if (o.json)
        printf("{\"tokens\": %llu, \"nll\": %.9g, \"perplexity\": %.9g}\n", (unsigned long long)sum.n, nll, exp(nll));
    else
        printf("%.4f over %llu tokens\n", exp(nll), (unsigned long long)sum.n);
    return CLIENT_OK;
}
