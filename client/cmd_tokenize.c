/* consort tokenize: JSON lines {"text": ...} to {"ids": [...]}, or back. */
#include "client/client_int.h"

#include "base/mem.h"
#include "model/text.h"

typedef struct {
    model_tokenizer *tokenizer;
    bool no_special;
} tokenize;

static json_t *encode(void *context, const json_t *line, st_error *e) {
    const tokenize *t = context;
    const json_t *text = json_object_get(line, "text");
    model_ids ids;
    if (!json_is_string(text)) return (void)st_fail(e, ST_ERR_INVALID_ARGUMENT, "text: expected a string"), NULL;
    if (model_tokenize(t->tokenizer, json_string_value(text), json_string_length(text), !t->no_special, SIZE_MAX, &ids, e))
        return NULL;
    json_t *list = json_array();
    for (size_t i = 0; i < ids.n; i++) json_array_append_new(list, json_integer(ids.ids[i]));
    mem_free(ids.ids);
    return json_pack("{s:o}", "ids", list);
}

static st_code decode_ids(const tokenize *t, const json_t *ids, char *out, size_t *n, st_error *e) {
    model_detokenizer d = {0};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= model_vocabulary_size(t->tokenizer))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "ids[%zu]: expected a number below %u", i,
                           model_vocabulary_size(t->tokenizer));
        model_detokenize(t->tokenizer, &d, (uint32_t)value, !t->no_special, out, n);
    }
    model_detokenize_end(&d, out, n);
    return ST_OK;
}

static json_t *decode(void *context, const json_t *line, st_error *e) {
    const tokenize *t = context;
    const json_t *ids = json_object_get(line, "ids");
    if (!json_is_array(ids)) return (void)st_fail(e, ST_ERR_INVALID_ARGUMENT, "ids: expected an array"), NULL;
    char *out = mem_alloc(json_array_size(ids) + 1, model_token_max_bytes(t->tokenizer));
    if (!out) return (void)st_fail(e, ST_FATAL_MEMORY, "out of memory"), NULL;
    size_t n = 0;
    json_t *answer = decode_ids(t, ids, out, &n, e) ? NULL : json_pack("{s:o}", "text", json_stringn(out, n));
    mem_free(out);
    return answer;
}

int client_tokenize(int argc, char **argv) {
    const char *path = NULL;
    bool back = false;
    tokenize t = {0};
    const client_option options[] = {
        {"--model", CLIENT_TEXT, &path, "F", "GGUF file with the vocabulary", true},
        {"--no-special", CLIENT_FLAG, &t.no_special, NULL, "text of control tokens is plain text; with --decode: leave them out",
         false},
        {"--decode", CLIENT_FLAG, &back, NULL, "{\"ids\"} in, {\"text\"} out", false},
    };
    int rc = client_options(argc, argv, "Reads JSON lines {\"text\": ...} from standard input, prints {\"ids\": [...]} for each.",
                            options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    model_file *f = NULL;
    st_code code = model_file_open(path, &f, &e);
    if (!code) code = model_tokenizer_create(f, &t.tokenizer, &e);
    rc = code ? client_fail(argv[0], &e) : client_json_lines(argv[0], stdin, back ? decode : encode, &t);
    model_tokenizer_destroy(t.tokenizer);
    model_file_close(f);
    return rc;
}
