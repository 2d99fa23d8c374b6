/* The real vocabulary against golden files of other engines: the committed sample, and all of ../shared/golden where it lies.
 * Skips, with a line that says so, what is not there: scripts/test always fetches the model. */
#include "base/mem.h"
#include "model/text.h"
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
static const char chats[] = "../shared/golden/smollm2/teacher.jsonl";

static int setup(void **state) {
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    st_error e;
    *state = NULL;
    if (access(MODEL, R_OK)) return print_message("SKIPPED: %s is not there (scripts/fetch-model)\n", MODEL), 0;
    if (model_file_open(MODEL, &f, &e) || model_tokenizer_create(f, &t, &e)) return print_error("%s\n", e.message), 1;
    model_file_close(f);
    *state = t;
    return 0;
}

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

static void check_tokens(const model_tokenizer *t, const json_t *line, const char *where) {
    const json_t *text = json_object_get(line, "text"), *expected = json_object_get(line, "ids");
    const char *bytes = json_string_value(text);
    const size_t size = json_string_length(text);
    model_ids ids;
    model_detokenizer d = {0};
    size_t n = 0;
    assert_int_equal(model_tokenize(t, bytes, size, true, SIZE_MAX, &ids, NULL), ST_OK);
    if (!same_ids(ids, expected, json_array_size(expected))) fail_msg("%s: other ids", where);
    char *back = malloc((ids.n + 1) * model_token_max_bytes(t));
    assert_non_null(back);
    for (size_t i = 0; i < ids.n; i++) model_detokenize(t, &d, ids.ids[i], true, back, &n);
    model_detokenize_end(&d, back, &n);
    if (n != size || memcmp(back, bytes, n)) fail_msg("%s: other text back", where);
    free(back);
    mem_free(ids.ids);
}

static void texts_get_the_ids_of_other_engines_and_come_back(void **state) {
    if (!*state) skip();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) each_line(files[i], *state, check_tokens);
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
        cmocka_unit_test(chat_prompts_get_the_ids_of_other_engines),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
