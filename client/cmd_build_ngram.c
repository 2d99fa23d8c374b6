/* consort build-ngram: counts texts into the table of an ngram drafter (speculative/ngram_int.h tells its format). */
#include "client/client_int.h"

#include "base/mem.h"
#include "model/text.h"
#include "speculative/speculative.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

enum { MAX_TOKENS = 1 << 30 }; /* 4 GiB of ids, and as much for the sort */

typedef struct {
    const char *model, *out, *field;
    uint32_t order, least;
    model_tokenizer *tokenizer; /* made with the first file */
    uint8_t vocabulary_hash[SPEC_NGRAM_HASH_BYTES];
    uint32_t *ids; /* [n] of room: texts with SPEC_NGRAM_BREAK behind each */
    size_t n, room, n_texts;
    const char **files;
    size_t n_files;
} build;

static st_code add_file(void *context, const char *name, const char *value, st_error *e) {
    build *b = context;
    const char **files = mem_resize((void *)b->files, b->n_files, b->n_files + 1, sizeof *files);
    (void)name;
    if (!files) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    b->files = files;
    b->files[b->n_files++] = value;
    return ST_OK;
}

static st_code add_text(build *b, const uint32_t *ids, size_t n, st_error *e) {
    if (n >= MAX_TOKENS - b->n) return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "more than %d tokens", MAX_TOKENS);
    if (b->n + n + 1 > b->room) {
        size_t room = 2 * (b->n + n + 1);
        uint32_t *grown = mem_resize(b->ids, b->room, room, sizeof *grown);
        if (!grown) return st_fail(e, ST_FATAL_MEMORY, "out of memory for %zu tokens", room);
        b->ids = grown;
        b->room = room;
    }
    if (n) memcpy(b->ids + b->n, ids, n * sizeof *ids);
    b->ids[b->n + n] = SPEC_NGRAM_BREAK;
    b->n += n + 1;
    b->n_texts++;
    return ST_OK;
}

static st_code add_words(build *b, const char *text, size_t size, st_error *e) {
    model_ids ids = {0};
    st_code code = model_tokenize(b->tokenizer, text, size, false, MAX_TOKENS, &ids, e);
    if (!code) code = add_text(b, ids.ids, ids.n, e);
    mem_free(ids.ids);
    return code;
}

/* {"ids": [...]}, as `consort tokenize` prints. */
static st_code add_ids(build *b, const json_t *list, st_error *e) {
    size_t n = json_array_size(list);
    uint32_t *ids = mem_alloc(n ? n : 1, sizeof *ids);
    st_code code = ids ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory for %zu ids", n);
    for (size_t i = 0; !code && i < n; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value >= model_vocabulary_size(b->tokenizer))
            code = st_fail(e, ST_ERR_INVALID_ARGUMENT, "ids[%zu]: expected a number below %u", i,
                           model_vocabulary_size(b->tokenizer));
        ids[i] = (uint32_t)value;
    }
    if (!code) code = add_text(b, ids, n, e);
    mem_free(ids);
    return code;
}

static st_code add_line(build *b, const char *text, size_t size, st_error *e) {
    json_error_t je;
    json_t *line = json_loadb(text, size, JSON_ALLOW_NUL, &je);
    const json_t *ids = json_object_get(line, "ids"), *field = json_object_get(line, b->field);
    st_code code;
    if (json_is_array(ids))
        code = add_ids(b, ids, e);
    else if (json_is_string(field))
        code = add_words(b, json_string_value(field), json_string_length(field), e);
    else
        code = st_fail(e, ST_ERR_FORMAT, "expected a JSON object with the text '%s' or a list 'ids'%s%s (--field names the text)",
                       b->field, line ? "" : ": ", line ? "" : je.text);
    json_decref(line);
    return code;
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* A .jsonl file is a text a line, any other file is one text. */
static st_code read_file(build *b, const char *path, st_error *e) {
    bool lines = ends_with(path, ".jsonl");
    char *text = NULL;
    size_t room = 0, number = 0;
    FILE *in = fopen(path, "rb");
    st_code code = in ? ST_OK : st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    for (ssize_t size; !code && (size = getdelim(&text, &room, lines ? '\n' : EOF, in)) >= 0;) {
        number++;
        if (lines && strspn(text, " \t\r\n") == (size_t)size) continue;
        code = lines ? add_line(b, text, (size_t)size, e) : add_words(b, text, (size_t)size, e);
        if (code) (void)st_prefix(e, lines ? "%s: line %zu" : "%s", path, number);
    }
    if (!code && ferror(in)) code = st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    free(text); /* getdelim's */
    if (in) (void)fclose(in);
    return code;
}

/* Written beside and renamed: a drafter that maps the old table keeps it. */
static st_code save(const char *path, const uint8_t *bytes, size_t size, st_error *e) {
    size_t room = strlen(path) + sizeof ".new";
    char *beside = mem_alloc(room, 1);
    if (!beside) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    (void)snprintf(beside, room, "%s.new", path);
    FILE *out = fopen(beside, "wb");
    bool good = out && fwrite(bytes, 1, size, out) == size;
    if (out && fclose(out)) good = false;
    st_code code = good && !rename(beside, path) ? ST_OK : st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    if (code && out) (void)remove(beside);
    mem_free(beside);
    return code;
}

static void print_statistics(const build *b, const spec_ngram_info *info, uint64_t size) {
    printf("%s: order %u, %zu texts, %" PRIu64 " tokens, %" PRIu64 " bytes\n", b->out, info->order, b->n_texts, info->n_tokens,
           size);
    for (uint32_t c = 0; c < info->order; c++)
        printf("  contexts of %u tokens %9u, with %9u followers\n", c, info->level[c].n_contexts, info->level[c].n_entries);
}

static st_code make_table(build *b, st_error *e) {
    spec_ngram_info info = {.order = b->order, .least = b->least, .n_vocab = model_vocabulary_size(b->tokenizer)};
    memcpy(info.vocabulary_hash, b->vocabulary_hash, sizeof info.vocabulary_hash);
    uint32_t n = (uint32_t)b->n, *index = mem_alloc(b->n, sizeof *index);
    if (!index) return st_fail(e, ST_FATAL_MEMORY, "out of memory to sort %u tokens", n);
    spec_ngram_sort(b->ids, n, b->order, index);
    uint64_t size = spec_ngram_size(b->ids, n, index, &info);
    uint8_t *bytes = mem_alloc(size, 1);
    st_code code = bytes && !spec_ngram_write(b->ids, n, index, &info, bytes)
                       ? ST_OK
                       : st_fail(e, ST_FATAL_MEMORY, "out of memory for a table of %" PRIu64 " bytes", size);
    if (!code) code = save(b->out, bytes, size, e);
    if (!code) print_statistics(b, &info, size);
    mem_free(bytes);
    mem_free(index);
    return code;
}

static st_code run(build *b, st_error *e) {
    model_file *f = NULL;
    st_code code = model_file_open(b->model, &f, e);
    if (!code) code = model_tokenizer_create(f, &b->tokenizer, e);
    if (!code && model_file_vocabulary_hash(f, b->vocabulary_hash)) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
    for (size_t i = 0; !code && i < b->n_files; i++) code = read_file(b, b->files[i], e);
    if (!code && !b->n) code = st_fail(e, ST_ERR_INVALID_ARGUMENT, "there is no text in the files");
    if (!code) code = make_table(b, e);
    model_file_close(f);
    return code;
}

int client_build_ngram(int argc, char **argv) {
    build b = {.field = "output", .order = SPEC_NGRAM_MAX_ORDER};
    client_setter files = {add_file, &b};
    const client_option options[] = {
        {"--model", CLIENT_TEXT, &b.model, "F", "GGUF file with the target's vocabulary", true},
        {"--out", CLIENT_TEXT, &b.out, "T", "the table", true},
        {"--order", CLIENT_U32, &b.order, "N", "tokens of the longest n-gram, 1 to 4 (4)", false},
        {"--min-count", CLIENT_U32, &b.least, "N",
         "leave out what follows two or more tokens that were seen fewer times: a smaller table, hardly worse (1)", false},
        {"--field", CLIENT_TEXT, &b.field, "NAME", "the text in JSON lines (output)", false},
        {"FILE...", CLIENT_SET, &files, NULL, ".jsonl: JSON lines with that field, or with \"ids\"; others: one text each", true},
    };
    int rc = client_options(argc, argv, "Counts what follows what in texts, for a drafter of kind ngram.", options,
                            sizeof options / sizeof *options);
    st_error e = {0};
    if (rc == CLIENT_GO_ON && (b.order < 1 || b.order > SPEC_NGRAM_MAX_ORDER)) {
        (void)st_fail(&e, ST_ERR_INVALID_ARGUMENT, "--order %u: expected 1 to %d", b.order, SPEC_NGRAM_MAX_ORDER);
        (void)client_fail(argv[0], &e), rc = CLIENT_USAGE;
    }
    if (rc == CLIENT_GO_ON) rc = run(&b, &e) ? client_fail(argv[0], &e) : CLIENT_OK;
    model_tokenizer_destroy(b.tokenizer);
    mem_free(b.ids);
    mem_free((void *)b.files);
    return rc;
}
