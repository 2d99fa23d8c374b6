/* SentencePiece vocabularies: the small one of tests/golden, whole and damaged. That ids are right is test_golden.c's business.
 */
#include "base/mem.h"
#include "model/text.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROOM = 1 << 16, BOS = 1, END = 2, BYTES = 3 }; /* SentencePiece puts its byte tokens behind <unk>, <s>, </s> */

static _Alignas(64) uint8_t bytes[ROOM];
static size_t n_bytes;

static void read_file(void) {
    FILE *in = fopen("tests/golden/spm-vocabulary.gguf", "rb");
    assert_non_null(in);
    n_bytes = fread(bytes, 1, ROOM, in);
    assert_true(n_bytes < ROOM);
    fclose(in);
}

static st_code create(model_tokenizer **t, st_error *e) {
    model_file *f = NULL;
    st_code code = model_file_over("spm.gguf", bytes, n_bytes, &f, e);
    if (!code) code = model_tokenizer_create(f, t, e);
    model_file_close(f);
    return code;
}

static int setup(void **state) {
    model_tokenizer *t = NULL;
    st_error e = {0};
    read_file();
    if (create(&t, &e)) fail_msg("%s", e.message);
    return *state = t, 0;
}
static int teardown(void **state) { return model_tokenizer_destroy(*state), 0; }

static void a_prompt_begins_with_one_bos(void **state) {
    const model_tokenizer *t = *state;
    static const char *const texts[] = {"the cluster", "<s>the cluster"};
    model_ids plain, prompt;
    assert_int_equal(model_tokenize(t, texts[0], strlen(texts[0]), true, 99, &plain, NULL), ST_OK);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(model_prompt_tokenize(t, texts[i], strlen(texts[i]), 99, &prompt, NULL), ST_OK);
        assert_int_equal(prompt.n, plain.n + 1);
        assert_int_equal(prompt.ids[0], BOS);
        assert_memory_equal(prompt.ids + 1, plain.ids, plain.n * sizeof *plain.ids);
        mem_free(prompt.ids);
    }
    st_error e = {0};
    assert_int_equal(model_prompt_tokenize(t, texts[0], strlen(texts[0]), 0, &prompt, &e), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(model_prompt_tokenize(t, texts[0], strlen(texts[0]), plain.n, &prompt, &e), ST_ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(e.message, "the text has more than"));
    mem_free(plain.ids);
    assert_true(model_token_is_end(t, END));
    assert_true(model_token_is_special(t, BOS));
}

/* A text's ids give the bytes back that its byte tokens give. */
static void any_bytes_come_back(void **state) {
    const model_tokenizer *t = *state;
    static const char *const bits[] = {"the ", " worker", "\xc3\xa9", "\xe2\x82\xac", "\xff", "\xc3",
                                       "\x80", "\n",      "  ",       "</s>",         "0x41"};
    uint32_t seed = 7;
    for (int round = 0; round < 2000; round++) {
        char text[256], found[1024], expected[1024];
        size_t n = 0, n_found = 0, n_expected = 0;
        model_detokenizer a = {0}, b = {0};
        model_ids ids;
        for (uint32_t i = 0; i < 1 + (uint32_t)round % 15; i++) {
            const char *bit = bits[(seed = seed * 1664525 + 1013904223, seed >> 8) % (sizeof bits / sizeof *bits)];
            memcpy(text + n, bit, strlen(bit));
            n += strlen(bit);
        }
        assert_int_equal(model_tokenize(t, text, n, false, SIZE_MAX, &ids, NULL), ST_OK);
        for (size_t i = 0; i < ids.n; i++) model_detokenize(t, &a, ids.ids[i], true, found, &n_found);
        model_detokenize(t, &b, BYTES + ' ', true, expected, &n_expected); /* the space that is put before */
        for (size_t i = 0; i < n; i++) model_detokenize(t, &b, BYTES + (uint8_t)text[i], true, expected, &n_expected);
        model_detokenize_end(&a, found, &n_found);
        model_detokenize_end(&b, expected, &n_expected);
        assert_int_equal(n_found, n_expected);
        assert_memory_equal(found, expected, n_found);
        mem_free(ids.ids);
    }
}

static void long_texts_take_no_quadratic_time(void **state) {
    const size_t n = 1 << 20;
    char *text = malloc(n);
    assert_non_null(text);
    for (const char *kind = "a \n\xff"; *kind; kind++) {
        model_ids ids;
        memset(text, *kind, n);
        assert_int_equal(model_tokenize(*state, text, n, true, SIZE_MAX, &ids, NULL), ST_OK);
        assert_true(ids.n > n / 64);
        mem_free(ids.ids);
    }
    free(text);
}

/* Where the value of `key` begins in the file: behind the text, the type and, of an array, its type and length. */
static uint8_t *value_of(const char *key, size_t skip) {
    size_t n = strlen(key);
    for (size_t i = 0; i + n < n_bytes; i++)
        if (!memcmp(bytes + i, key, n)) return bytes + i + n + skip;
    fail_msg("no key %s", key);
    return NULL;
}

/* The plain algorithm over the pieces of the file: the highest score of all pairs, leftmost, again and again. */
typedef struct {
    char text[700][64];
    float score[700];
} pieces;

static uint32_t piece_of(const pieces *p, const char *text, size_t n) {
    for (uint32_t id = BYTES + 256; id < 700; id++)
        if (strlen(p->text[id]) == n && !memcmp(p->text[id], text, n)) return id;
    return UINT32_MAX;
}

static size_t naive(const pieces *p, const char *text, size_t n_text, uint32_t *ids) {
    size_t start[65], n = n_text;
    for (size_t i = 0; i <= n_text; i++) start[i] = i;
    for (;;) {
        uint32_t best = UINT32_MAX;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            uint32_t id = piece_of(p, text + start[i], start[i + 2] - start[i]);
            if (id != UINT32_MAX && (best == UINT32_MAX || p->score[id] > p->score[best])) best = id, at = i;
        }
        if (best == UINT32_MAX) break;
        memmove(start + at + 1, start + at + 2, (n - at - 1) * sizeof *start);
        n--;
    }
    for (size_t i = 0; i < n; i++) ids[i] = piece_of(p, text + start[i], start[i + 1] - start[i]);
    return n;
}

static void random_texts_merge_as_the_plain_algorithm_does(void **state) {
    (void)state;
    static pieces p;
    uint32_t seed = 3;
    for (int coarse = 0; coarse < 2; coarse++) { /* then many scores are equal, and the leftmost pair goes first */
        model_tokenizer *t = NULL;
        uint8_t *scores = value_of("tokenizer.ggml.scores", 16);
        for (uint32_t id = 0; id < 700; id++) {
            float score;
            memcpy(&score, scores + 4 * id, 4);
            if (coarse) score = (float)((int)score / 100);
            memcpy(scores + 4 * id, &score, 4);
            p.score[id] = score;
        }
        assert_int_equal(create(&t, NULL), ST_OK);
        for (uint32_t id = 0; id < 700; id++) {
            model_detokenizer d = {0};
            char text[256];
            size_t n = 0;
            model_detokenize(t, &d, id, false, text, &n);
            assert_true(n < sizeof p.text[id]);
            memcpy(p.text[id], text, n);
            p.text[id][n] = 0;
        }
        for (int round = 0; round < 300; round++) {
            char text[64] = " ";
            uint32_t expected[64];
            size_t n = 2 + (seed = seed * 1664525 + 1013904223, seed >> 8) % 40;
            for (size_t i = 1; i < n; i++) text[i] = "theraonsi cd"[(seed = seed * 1664525 + 1013904223, seed >> 8) % 12];
            model_ids ids;
            assert_int_equal(model_tokenize(t, text + 1, n - 1, false, SIZE_MAX, &ids, NULL), ST_OK);
            assert_int_equal(ids.n, naive(&p, text, n, expected));
            assert_memory_equal(ids.ids, expected, ids.n * sizeof *expected);
            mem_free(ids.ids);
        }
        model_tokenizer_destroy(t);
    }
    read_file();
}

static void refused(st_code code, const char *message) {
    model_tokenizer *t = NULL;
    st_error e = {0};
    assert_int_equal(create(&t, &e), code);
    if (!strstr(e.message, message)) fail_msg("%s\n  expected %s", e.message, message);
    read_file();
}

static void damaged_vocabularies_are_refused_by_key_and_value(void **state) {
    (void)state;
    enum { TYPE = 4, ARRAY = 16 };
    const float infinite = __builtin_inff();
    memcpy(value_of("tokenizer.ggml.scores", ARRAY) + 4 * 300, &infinite, 4);
    refused(ST_ERR_FORMAT, "key 'tokenizer.ggml.scores': token 300: expected a finite number");
    value_of("tokenizer.ggml.scores", 0)[-1] = 'z';
    refused(ST_ERR_NOT_FOUND, "tokenizer.ggml.scores");
    value_of("<0x41>", 0)[-2] = 'G';
    refused(ST_ERR_UNSUPPORTED, "key 'tokenizer.ggml.tokens': expected a byte token for each byte, found none for <0x41>");
    memset(value_of("tokenizer.ggml.bos_token_id", TYPE), 0xff, 4);
    refused(ST_ERR_FORMAT, "expected 0 to 699");
}

static void each_failed_allocation_is_told_and_leaks_nothing(void **state) {
    uint64_t n = 0, failures = 0;
    do {
        model_tokenizer *t = NULL;
        st_error e = {0};
        mem_fail_at(++n);
        st_code code = create(&t, &e);
        assert_int_equal(code, code ? ST_FATAL_MEMORY : ST_OK);
        failures += code != ST_OK;
        model_tokenizer_destroy(t);
    } while (mem_fail_at(0) >= n);
    assert_true(failures >= 10);
    n = failures = 0;
    do {
        model_ids ids = {0};
        st_error e = {0};
        mem_fail_at(++n);
        st_code code = model_prompt_tokenize(*state, "the </s> worker", 15, 99, &ids, &e);
        assert_int_equal(code, code ? ST_FATAL_MEMORY : ST_OK);
        assert_int_equal(e.code, code);
        failures += code != ST_OK;
        mem_free(ids.ids);
    } while (mem_fail_at(0) >= n);
    assert_true(failures >= 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_begins_with_one_bos),
        cmocka_unit_test(any_bytes_come_back),
        cmocka_unit_test(random_texts_merge_as_the_plain_algorithm_does),
        cmocka_unit_test(long_texts_take_no_quadratic_time),
        cmocka_unit_test(damaged_vocabularies_are_refused_by_key_and_value),
        cmocka_unit_test(each_failed_allocation_is_told_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
