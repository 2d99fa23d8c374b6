/* consort score: how likely a model finds given texts, position by position. */
#include "client/client_int.h"
#include "client/engine_int.h"

#include "base/mem.h"
#include "base/sha256.h"

enum { ROWS = 256, CHOICES = 64 };

typedef struct {
    engine *g;
    bool hash; /* of the logits is wanted */
    sha256 logits;
} scorer;

typedef struct {
    uint32_t *id; /* [n], owned */
    uint32_t n, n_prompt;
} text;

static st_code read_text(const engine *g, const json_t *line, text *t, st_error *e) {
    const json_t *ids = json_object_get(line, "ids"), *prompt = json_object_get(line, "n_prompt");
    size_t n = json_array_size(ids);
    uint32_t max = engine_info(g)->max_context, n_vocab = engine_info(g)->n_vocab;
    if (n < 1 || n > max) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "ids: expected 1 to %u token ids, found %zu", max, n);
    json_int_t n_prompt = json_integer_value(prompt);
    if (!json_is_integer(prompt) || n_prompt < 1 || (uint64_t)n_prompt > n)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "n_prompt: expected a number from 1 to %zu", n);
    if (!(t->id = mem_alloc(n, sizeof *t->id))) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    t->n = (uint32_t)n;
    t->n_prompt = (uint32_t)n_prompt;
    for (uint32_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= n_vocab)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "ids[%u]: expected a number from 0 to %u", i, n_vocab - 1);
        t->id[i] = (uint32_t)value;
    }
    return ST_OK;
}

/* The row at p predicts id[p + 1]; the last token predicts nothing that is asked for, so it is not run. */
static st_code score_text(scorer *s, const text *t, json_t *argmax, json_t *nll, st_error *e) {
    const sampling greedy = {.temperature = 0};
    engine *g = s->g;
    uint32_t n_vocab = engine_info(g)->n_vocab, n_rows = t->n - 1, done = t->n_prompt; /* ids before `done` are scored */
    st_code c = engine_make_room(g, 1, t->n, e);
    for (uint32_t at = 0; c == ST_OK && at < n_rows;) {
        while (at < n_rows && engine_add(g, 0, t->id[at], at, at + 1 >= t->n_prompt)) at++;
        c = engine_run(g, e);
        for (uint32_t first = done; c == ST_OK && done <= at; done++) {
            const float *logits = engine_logits(g, done - first);
            if (s->hash) sha256_add(&s->logits, logits, n_vocab * sizeof *logits);
            json_array_append_new(argmax, json_integer(model_choose(logits, n_vocab, &greedy, done, NULL)));
            json_array_append_new(nll, json_real(model_nll(logits, n_vocab, t->id[done])));
        }
    }
    return c;
}

static json_t *score(void *context, const json_t *line, st_error *e) {
    scorer *s = context;
    text t = {0};
    uint8_t hash[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    json_t *argmax = json_array(), *nll = json_array();
    sha256_begin(&s->logits);
    st_code c = read_text(s->g, line, &t, e);
    if (c == ST_OK) c = score_text(s, &t, argmax, nll, e);
    st_code hashed = sha256_end(&s->logits, hash);
    if (c == ST_OK && hashed != ST_OK) c = st_fail(e, hashed, "out of memory");
    mem_free(t.id);
    json_t *out = c == ST_OK ? json_pack("{s:O, s:O}", "argmax", argmax, "nll", nll) : NULL;
    if (out && s->hash) {
        sha256_hex(hash, hex);
        json_object_set_new(out, "logits_sha256", json_string(hex));
    }
    json_decref(argmax);
    json_decref(nll);
    return out;
}

int client_score(int argc, char **argv) {
    engine_options o = {.max_rows = ROWS, .max_choose = CHOICES};
    scorer s = {0};
    const client_option options[] = {
        {"--model", CLIENT_TEXT, &o.path, "F", "GGUF file", true},
        {"--threads", CLIENT_U32, &o.n_threads, "N", "compute threads (default: one a processor)", false},
        {"--isa", CLIENT_TEXT, &o.isa, "X", "instruction set: auto, avx512, avx2, neon, scalar (the answers are the same)",
         false},
        {"--precision", CLIENT_TEXT, &o.precision, "P", "of products: fast (default), fp32", false},
        {"--kv-type", CLIENT_TEXT, &o.kv_type, "T",
         "how K and V are rounded, as the key kv_type of a group has it (default: f16 with fast, f32 with fp32)", false},
        {"--hash", CLIENT_FLAG, &s.hash, NULL, "add \"logits_sha256\": of the logits' bytes, all positions in a row", false},
    };
    int rc = client_options(
        argc, argv,
        "Reads JSON lines {\"ids\": [...], \"n_prompt\": k} from standard input. Prints for each {\"argmax\": [...], "
        "\"nll\": [...]}:\nthe likeliest token, and -log p of the token that stands there, for ids[k], ids[k+1], ...",
        options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    rc = engine_open(&o, &s.g, &e) ? client_fail(argv[0], &e) : client_json_lines(argv[0], stdin, score, &s);
    engine_close(s.g);
    return rc;
}
