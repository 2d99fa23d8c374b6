/* Real vocabularies and expressions against golden files of other programs (tests/golden/make_text.py): the committed ones, and
 * all of ../shared/golden where it lies. Skips, with a line that says so, what is not there: scripts/test always fetches SmolLM2,
 * and never Gemma. */
#include "base/mem.h"
#include "model/text_int.h"
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "models/SmolLM2-135M-Instruct.Q4_1.gguf"

static const char *const files[] = {"tests/golden/smollm2-tokenize-sample.jsonl", "../shared/golden/smollm2/tokenize.jsonl"};
#define GEMMA "models/gemma-3-270m-q4_k_m.gguf"
#define SPM   "tests/golden/spm-vocabulary.gguf"

static const char chats[] = "../shared/golden/smollm2/teacher.jsonl";

static model_tokenizer *opened(const char *path, const char *fetch) {
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    st_error e;
    if (access(path, R_OK)) return print_message("SKIPPED: %s is not there (%s)\n", path, fetch), NULL;
    if (model_file_open(path, &f, &e) || model_tokenizer_create(f, &t, &e)) fail_msg("%s", e.message);
    model_file_close(f);
    return t;
}

static int setup(void **state) { return *state = opened(MODEL, "scripts/fetch-model"), 0; }
static int teardown(void **state) { return model_tokenizer_destroy(*state), 0; }

typedef void check(const model_tokenizer *t, const json_t *line, const char *where);

static void each_line(const char *path, const model_tokenizer *t, check *f) {
    FILE *in = fopen(path, "r");
    char *text = NULL, where[128];
    size_t room = 0, n = 0;
    if (!in) return print_message("SKIPPED: %s is not there\n", path);
    while (getline(&text, &room, in) > 0) {
        json_error_t je;
        json_t *line = json_loads(text, JSON_ALLOW_NUL, &je);
        snprintf(where, sizeof where, "%s:%zu", path, ++n);
        if (!line) fail_msg("%s: %s", where, je.text);
        f(t, line, where);
        json_decref(line);
    }
    free(text);
    fclose(in);
    assert_true(n > 0);
    print_message("%zu lines of %s\n", n, path);
}

static bool same_ids(model_ids ids, const json_t *expected, size_t n) {
    bool same = ids.n == n;
    for (size_t i = 0; i < n && same; i++) same = ids.ids[i] == json_integer_value(json_array_get(expected, i));
    return same;
}

/* `n_before`: bytes that the vocabulary puts before text. */
static void check_text(const model_tokenizer *t, const json_t *line, const char *where, bool special, size_t n_before) {
    const json_t *text = json_object_get(line, "text"), *expected = json_object_get(line, "ids");
    const char *bytes = json_string_value(text);
    const size_t size = json_string_length(text);
    model_ids ids;
    model_detokenizer d = {0};
    size_t n = 0;
    assert_int_equal(model_tokenize(t, bytes, size, special, SIZE_MAX, &ids, NULL), ST_OK);
    if (!same_ids(ids, expected, json_array_size(expected))) fail_msg("%s: other ids", where);
    char *back = malloc((ids.n + 1) * model_token_max_bytes(t));
    assert_non_null(back);
    for (size_t i = 0; i < ids.n; i++) model_detokenize(t, &d, ids.ids[i], true, back, &n);
    model_detokenize_end(&d, back, &n);
    if (!size) n_before = 0;
    if (n != size + n_before || memcmp(back + n_before, bytes, size)) fail_msg("%s: other text back", where);
    free(back);
    mem_free(ids.ids);
}

static void check_tokens(const model_tokenizer *t, const json_t *line, const char *where) { check_text(t, line, where, true, 0); }
static void check_gemma(const model_tokenizer *t, const json_t *line, const char *where) { check_text(t, line, where, false, 0); }
static void check_spm(const model_tokenizer *t, const json_t *line, const char *where) { check_text(t, line, where, false, 1); }

static void texts_get_the_ids_of_other_engines_and_come_back(void **state) {
    if (!*state) skip();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) each_line(files[i], *state, check_tokens);
}

static void texts_get_the_ids_of_sentencepiece(void **state) {
    (void)state;
    model_tokenizer *t = opened(SPM, "tests/golden/make_text.py");
    if (!t) skip();
    each_line("tests/golden/spm-tokenize.jsonl", t, check_spm);
    model_tokenizer_destroy(t);
}

static void texts_get_the_ids_of_gemma(void **state) {
    (void)state;
    model_tokenizer *t = opened(GEMMA, "scripts/fetch-model --gemma");
    if (!t) skip();
    each_line("../shared/golden/gemma3/tokenize.jsonl", t, check_gemma);
    model_tokenizer_destroy(t);
}

typedef struct {
    const json_t *expected;
    size_t n;
    const char *where;
} words;

static st_code check_word(void *context, const uint8_t *word, size_t n) {
    words *w = context;
    (void)word;
    if ((size_t)json_integer_value(json_array_get(w->expected, w->n++)) != n) fail_msg("%s: other word %zu", w->where, w->n);
    return ST_OK;
}

static void check_words(const model_tokenizer *t, const json_t *line, const char *where) {
    const json_t *text = json_object_get(line, "text"), *pre = json_object_get(line, "pre");
    words w = {.expected = json_object_get(line, "words"), .where = where};
    model_splitter *s = NULL;
    st_error e;
    (void)t;
    model_string name = {json_string_value(pre), json_string_length(pre)};
    if (model_splitter_create(name, &s, &e) ||
        model_split(s, (const uint8_t *)json_string_value(text), json_string_length(text), check_word, &w, &e))
        fail_msg("%s: %s", where, e.message);
    assert_int_equal(w.n, json_array_size(w.expected));
    model_splitter_destroy(s);
}

static void words_are_those_of_the_published_expressions(void **state) {
    (void)state;
    each_line("tests/golden/pretokenize.jsonl", NULL, check_words);
}

/* The prompts there are ChatML with the default system message and one user message: taken apart and made again. */
static void check_chat(const model_tokenizer *t, const json_t *line, const char *where) {
    const json_t *expected = json_object_get(line, "ids");
    size_t n_prompt = (size_t)json_integer_value(json_object_get(line, "n_prompt")), n = 0;
    model_detokenizer d = {0};
    char *text = calloc(n_prompt + 1, model_token_max_bytes(t));
    assert_non_null(text);
    for (size_t i = 0; i < n_prompt; i++)
        model_detokenize(t, &d, (uint32_t)json_integer_value(json_array_get(expected, i)), true, text, &n);
    char *content = strstr(text, "<|im_start|>user\n");
    if (!content) fail_msg("%s: no user message in %.80s", where, text);
    content += strlen("<|im_start|>user\n");
    char *end = strstr(content, "<|im_end|>");
    assert_non_null(end);
    *end = 0;
    const model_message m = {"user", content};
    model_ids ids;
    assert_int_equal(model_chat_tokenize(t, &m, 1, SIZE_MAX, &ids, NULL), ST_OK);
    if (!same_ids(ids, expected, n_prompt)) fail_msg("%s: other ids", where);
    mem_free(ids.ids);
    free(text);
}

static void chat_prompts_get_the_ids_of_other_engines(void **state) {
    if (!*state) skip();
    each_line(chats, *state, check_chat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_get_the_ids_of_other_engines_and_come_back),
        cmocka_unit_test(texts_get_the_ids_of_sentencepiece),
        cmocka_unit_test(texts_get_the_ids_of_gemma),
        cmocka_unit_test(words_are_those_of_the_published_expressions),
        cmocka_unit_test(chat_prompts_get_the_ids_of_other_engines),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
