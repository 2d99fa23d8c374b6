/* Splits text into words with PCRE2, before byte-pair merging.
 *
 * What: a row of pretokenizers.def is one to four expressions, compiled once. Text is cut into runs of valid UTF-8, which the
 * expressions split, and runs of other bytes, which are words as they are: so PCRE2 never sees invalid UTF-8 and need not check.
 *
 * Road not taken: hand-written splitters need their own tables of Unicode classes, and one more for each model.
 *
 * Limits: match steps are bounded in proportion to the text; the expressions of the table need a small part of that. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/mem.h"
#include "model/file_int.h"
#include "model/text_int.h"
#include "model/utf8_int.h"
#include <pcre2.h>
#include <string.h>

enum { MAX_PATTERNS = 4, STEPS_BASE = 10000, STEPS_A_BYTE = 64 };

static const struct {
    const char *name;
    bool keeps_words;
    const char *patterns[MAX_PATTERNS];
} table[] = {
#define PRETOKENIZER(name, keeps_words, ...) {name, keeps_words, {__VA_ARGS__}},
#include "model/pretokenizers.def"
#undef PRETOKENIZER
};

struct model_splitter {
    pcre2_general_context *memory;
    pcre2_code *patterns[MAX_PATTERNS]; /* NULL behind the last */
    bool keeps_words;
};

static void *allocate(size_t n, void *context) { return (void)context, mem_alloc(n, 1); }
static void release(void *p, void *context) { (void)context, mem_free(p); }

static st_code compile(model_splitter *s, const char *const patterns[MAX_PATTERNS]) {
    s->memory = pcre2_general_context_create(allocate, release, NULL);
    pcre2_compile_context *context = s->memory ? pcre2_compile_context_create(s->memory) : NULL;
    st_code code = context ? ST_OK : ST_FATAL_MEMORY;
    for (int i = 0; i < MAX_PATTERNS && patterns[i] && !code; i++) {
        int error;
        PCRE2_SIZE at;
        s->patterns[i] = pcre2_compile((PCRE2_SPTR)patterns[i], PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &at, context);
        if (!s->patterns[i]) code = ST_FATAL_MEMORY; /* the table's expressions are valid, so nothing else can fail */
        /* Without JIT (no executable memory) the same matches come from the interpreter. */
        if (s->patterns[i]) (void)pcre2_jit_compile(s->patterns[i], PCRE2_JIT_COMPLETE);
    }
    pcre2_compile_context_free(context);
    return code;
}

st_code model_splitter_create(model_string name, model_splitter **out, st_error *e) {
    size_t row = 0;
    char quoted[MODEL_QUOTED_BYTES];
    while (row < sizeof table / sizeof *table &&
           (strlen(table[row].name) != name.size || memcmp(table[row].name, name.bytes, name.size)))
        row++;
    if (row == sizeof table / sizeof *table)
        return st_fail(e, ST_ERR_UNSUPPORTED, "expected a pre-tokenizer of model/pretokenizers.def, found %s",
                       model_file_quote(name, quoted));
    model_splitter *s = mem_alloc(1, sizeof *s);
    st_code code = s ? compile(s, table[row].patterns) : ST_FATAL_MEMORY;
    if (code) {
        model_splitter_destroy(s);
        return st_fail(e, code, "out of memory");
    }
    s->keeps_words = table[row].keeps_words;
    *out = s;
    return ST_OK;
}

void model_splitter_destroy(model_splitter *s) {
    if (!s) return;
    for (int i = 0; i < MAX_PATTERNS; i++) pcre2_code_free(s->patterns[i]);
    pcre2_general_context_free(s->memory);
    mem_free(s);
}

bool model_splitter_keeps_words(const model_splitter *s) { return s->keeps_words; }

typedef struct {
    const model_splitter *s;
    pcre2_match_data *match; /* one for all levels: read before the next level overwrites it */
    pcre2_match_context *limits;
    model_word *word;
    void *context;
    st_error *e;
} split_run;

static st_code split_level(split_run *r, int level, const uint8_t *text, size_t n) {
    const pcre2_code *pattern = level < MAX_PATTERNS ? r->s->patterns[level] : NULL;
    if (!n) return ST_OK;
    if (!pattern) return r->word(r->context, text, n);
    st_code code = ST_OK;
    for (size_t at = 0; at < n && !code;) {
        int rc = pcre2_match(pattern, text, n, at, PCRE2_NO_UTF_CHECK, r->match, r->limits);
        if (rc == PCRE2_ERROR_NOMATCH) return split_level(r, level + 1, text + at, n - at);
        if (rc < 0)
            return st_fail(r->e, rc == PCRE2_ERROR_NOMEMORY ? ST_FATAL_MEMORY : ST_FATAL_INTERNAL,
                           "PCRE2 error %d while splitting text", rc);
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(r->match);
        const size_t start = span[0], end = span[1];
        INVARIANT(end > start); /* no expression of the table matches nothing */
        code = split_level(r, level + 1, text + at, start - at);
        if (!code) code = split_level(r, level + 1, text + start, end - start);
        at = end;
    }
    return code;
}

/* Length of the run at `text` whose characters are all whole (*whole) or all not. */
static size_t run_length(const uint8_t *text, size_t n, bool *whole) {
    size_t at = 0, size;
    while (at < n) {
        bool is_whole = model_utf8_next(text + at, n - at, &size) == UTF8_WHOLE;
        if (!at) *whole = is_whole;
        if (is_whole != *whole) break;
        at += size;
    }
    return at;
}

st_code model_split(const model_splitter *s, const uint8_t *text, size_t n, model_word *word, void *context, st_error *e) {
    split_run r = {.s = s, .word = word, .context = context, .e = e};
    r.match = pcre2_match_data_create(1, s->memory);
    r.limits = pcre2_match_context_create(s->memory);
    st_code code = r.match && r.limits ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (!code) pcre2_set_match_limit(r.limits, (uint32_t)(n < UINT32_MAX / 128 ? STEPS_BASE + STEPS_A_BYTE * n : UINT32_MAX));
    for (size_t at = 0, size; at < n && !code; at += size) {
        bool whole = false;
        size = run_length(text + at, n - at, &whole);
        code = split_level(&r, whole ? 0 : MAX_PATTERNS, text + at, size);
    }
    pcre2_match_context_free(r.limits);
    pcre2_match_data_free(r.match);
    return code;
}
