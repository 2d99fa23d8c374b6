/* The n-gram table: what the builder counts, and what the reader refuses. */
#include "base/sha256.h"
#include "speculative/ngram_int.h"
#include "tests/unit/speculative/table.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* How often tokens[0, n) stand in the text, without a look at order or index. */
static uint32_t occurrences(const uint32_t *text, uint32_t n_text, const uint32_t *tokens, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i + n <= n_text; i++) count += !memcmp(text + i, tokens, n * sizeof *tokens);
    return count;
}

static void every_count_is_that_of_a_plain_search(void **state) {
    (void)state;
    enum { N = 700, VOCABULARY = 30 };
    static uint32_t text[N];
    for (uint32_t order = 1; order <= SPEC_NGRAM_MAX_ORDER; order++) {
        spec_ngram_info info;
        spec_ngram g;
        size_t size;
        st_error e;
        table_text(order, VOCABULARY, text, N);
        uint8_t *bytes = table_make(text, N, VOCABULARY, order, &info, &size);
        assert_int_equal(spec_ngram_init(&g, bytes, size, info.vocabulary_hash, &e), ST_OK);
        assert_memory_equal(&g.info, &info, sizeof info);
        for (uint32_t level = 0; level < order; level++) {
            uint32_t n_found = 0;
            for (uint32_t i = 0; i + level < N; i++) {
                ngram_context c;
                uint32_t gram[SPEC_NGRAM_MAX_ORDER], broken = 0, seen = 0;
                for (uint32_t k = 0; k <= level; k++) broken += text[i + k] == SPEC_NGRAM_BREAK;
                if (broken) continue;
                memcpy(gram, text + i, level * sizeof *gram);
                assert_true(ngram_find(&g, level, gram, &c));
                uint32_t total = 0, distinct = 0;
                for (gram[level] = 0; gram[level] < VOCABULARY; gram[level]++) {
                    uint32_t count = occurrences(text, N, gram, level + 1);
                    total += count;
                    distinct += count > 0;
                    for (uint32_t k = c.first; k < c.end; k++) {
                        ngram_entry entry = ngram_entry_at(&g, level, k);
                        if (entry.token == gram[level]) assert_int_equal(entry.count, count), seen++;
                    }
                }
                assert_true(c.total == total && c.distinct == distinct && seen == c.end - c.first);
                assert_int_equal(c.end - c.first, distinct < NGRAM_NEXT ? distinct : NGRAM_NEXT);
                n_found++;
            }
            assert_true(n_found >= info.level[level].n_contexts);
        }
        mem_free(bytes);
    }
}

static void an_empty_text_makes_a_table_without_a_word(void **state) {
    (void)state;
    uint32_t nothing[2] = {SPEC_NGRAM_BREAK, SPEC_NGRAM_BREAK};
    spec_ngram_info info;
    spec_ngram g;
    spec_tree tree;
    size_t size;
    uint8_t *bytes = table_make(nothing, 2, 10, 3, &info, &size);
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, NULL), ST_OK);
    spec_draft item = {.tokens = (uint32_t[]){1}, .n_tokens = 1, .n_new = 1, .budget = 4, .tree = &tree};
    assert_int_equal(g.drafter.ops->draft(&g.drafter, &item, 1, NULL), ST_OK);
    assert_true(tree.n == 0 && item.n_scored == 0);
    mem_free(bytes);
}

/* Contexts of one token stay, rare longer ones go, and what stays is as it was. */
static void contexts_that_were_seen_too_seldom_are_left_out(void **state) {
    (void)state;
    enum { N = 2000, LEAST = 3 };
    static uint32_t text[N];
    spec_ngram_info info, fewer;
    size_t size, small;
    spec_ngram all, g;
    table_text(9, 30, text, N);
    uint8_t *bytes = table_make(text, N, 30, 4, &info, &size), *cut = table_make_of(text, N, 30, 4, LEAST, &fewer, &small);
    assert_int_equal(spec_ngram_init(&all, bytes, size, NULL, NULL), ST_OK);
    assert_int_equal(spec_ngram_init(&g, cut, small, NULL, NULL), ST_OK);
    assert_int_equal(fewer.level[1].n_contexts, info.level[1].n_contexts);
    assert_true(small < size / 2 && fewer.level[3].n_contexts > 0);
    for (uint32_t level = 1; level < 4; level++)
        for (uint32_t i = 0; i + level < N; i++) {
            ngram_context was, is;
            if (!ngram_find(&all, level, text + i, &was)) continue;
            bool there = ngram_find(&g, level, text + i, &is);
            assert_int_equal(there, level < 2 || was.total >= LEAST);
            if (there)
                assert_true(is.total == was.total && is.distinct == was.distinct && is.end - is.first == was.end - was.first);
        }
    mem_free(bytes);
    mem_free(cut);
}

static uint8_t *some_table(size_t *size) {
    enum { N = 300 };
    static uint32_t text[N];
    spec_ngram_info info;
    table_text(5, 40, text, N);
    return table_make(text, N, 40, 3, &info, size);
}

static void a_changed_or_cut_file_is_refused(void **state) {
    (void)state;
    size_t size;
    uint8_t *bytes = some_table(&size);
    spec_ngram g;
    st_error e;
    for (size_t at = 0; at < size; at++) {
        bytes[at] ^= 1;
        assert_int_not_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_OK);
        bytes[at] ^= 1;
        assert_int_not_equal(spec_ngram_init(&g, bytes, at, NULL, &e), ST_OK);
    }
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_OK);
    mem_free(bytes);
}

static void a_refusal_says_why(void **state) {
    (void)state;
    size_t size;
    uint8_t *bytes = some_table(&size), other[SPEC_NGRAM_HASH_BYTES] = {9};
    spec_ngram g;
    st_error e;
    assert_int_equal(spec_ngram_init(&g, "GGUF", 4, NULL, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "not an n-gram table"));
    assert_int_equal(spec_ngram_init(&g, bytes, size, other, &e), ST_ERR_MISMATCH);
    assert_non_null(strstr(e.message, "another vocabulary"));
    assert_int_equal(spec_ngram_init(&g, bytes, size - 1, NULL, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "cut"));
    bytes[8] = 2;
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "version 2, expected 1"));
    bytes[8] = 1, bytes[size - 1] ^= 1;
    assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_ERR_FORMAT);
    assert_non_null(strstr(e.message, "checksum"));
    mem_free(bytes);
}

/* With the checksum made right again, each rule of the format has to hold by itself. */
static void a_well_summed_file_that_breaks_a_rule_is_refused(void **state) {
    (void)state;
    uint32_t text[] = {1, 2, 1, 2, 1, 3, SPEC_NGRAM_BREAK, 2, 3};
    enum {
        LEVELS = NGRAM_HEAD_BYTES + 2 * NGRAM_LEVEL_BYTES,
        ENTRIES = LEVELS + 12,
        CONTEXTS_1 = ENTRIES + 3 * NGRAM_ENTRY_BYTES
    };
    const struct {
        size_t at;
        uint8_t value;
    } breaks[] = {
        {16, 3},             /* n_vocab: token 3 is outside */
        {20, 1},             /* the word that is 0 */
        {LEVELS, 1},         /* first context begins at entry 1 */
        {LEVELS + 4, 7},     /* total 7 < 3 + 3 + 2 */
        {LEVELS + 8, 2},     /* distinct 2 < 3 entries */
        {ENTRIES, 3},        /* 3 twice */
        {ENTRIES + 4, 2},    /* counts not descending */
        {ENTRIES + 20, 0},   /* a count of 0 */
        {CONTEXTS_1, 2},     /* contexts not ascending: 2, 2 */
        {CONTEXTS_1 + 4, 1}, /* its entries begin at 1 */
    };
    for (size_t i = 0; i < sizeof breaks / sizeof *breaks; i++) {
        spec_ngram_info info;
        spec_ngram g;
        size_t size;
        st_error e;
        uint8_t *bytes = table_make(text, sizeof text / sizeof *text, 4, 2, &info, &size);
        assert_int_equal(spec_ngram_init(&g, bytes, size, NULL, &e), ST_OK);
        assert_int_not_equal(bytes[breaks[i].at], breaks[i].value);
        bytes[breaks[i].at] = breaks[i].value;
        assert_int_equal(sha256_of(bytes, size - SHA256_BYTES, bytes + size - SHA256_BYTES), ST_OK);
        if (spec_ngram_init(&g, bytes, size, NULL, &e) != ST_ERR_FORMAT) fail_msg("break %zu is not refused", i);
        mem_free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_that_were_seen_too_seldom_are_left_out),
        cmocka_unit_test(every_count_is_that_of_a_plain_search),
        cmocka_unit_test(an_empty_text_makes_a_table_without_a_word),
        cmocka_unit_test(a_changed_or_cut_file_is_refused),
        cmocka_unit_test(a_refusal_says_why),
        cmocka_unit_test(a_well_summed_file_that_breaks_a_rule_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
