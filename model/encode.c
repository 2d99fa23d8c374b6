/* Text to ids: taken apart at special tokens, and what is between them by the vocabulary's own way.
 *
 * What: the longest special token at a place is found by narrowing a range of the sorted array byte by byte.
 *
 * Road not taken: a trie or Aho-Corasick for special tokens; there are a few dozen, and most bytes start none. */
#include "base/mem.h"
#include "model/text_int.h"
#include <string.h>

/* First of special[lo..hi), which agree up to byte `depth` and are longer, whose byte there is at least c. */
static uint32_t narrow(const model_tokenizer *t, uint32_t lo, uint32_t hi, size_t depth, int c) {
    while (lo < hi) {
        uint32_t middle = lo + (hi - lo) / 2;
        if ((uint8_t)model_token_text(t, t->special[middle]).bytes[depth] < c)
            lo = middle + 1;
        else
            hi = middle;
    }
    return lo;
}

/* The longest special token at `text`, or MODEL_NO_ID. */
static uint32_t special_at(const model_tokenizer *t, const char *text, size_t size, bool control) {
    uint32_t lo = 0, hi = t->n_special, best = MODEL_NO_ID;
    for (size_t depth = 0; lo < hi; depth++) {
        if (model_token_text(t, t->special[lo]).size == depth) { /* ends here; it sorts before its extensions */
            if (control || t->type[t->special[lo]] == MODEL_TOKEN_USER) best = t->special[lo];
            lo++;
        }
        if (depth == size) break;
        lo = narrow(t, lo, hi, depth, (uint8_t)text[depth]);
        hi = narrow(t, lo, hi, depth, (uint8_t)text[depth] + 1);
    }
    return best;
}

uint32_t model_special_id(const model_tokenizer *t, const char *text) {
    uint32_t id = special_at(t, text, strlen(text), true);
    return id != MODEL_NO_ID && model_token_text(t, id).size == strlen(text) ? id : MODEL_NO_ID;
}

typedef struct {
    const model_tokenizer *t;
    model_bpe_scratch scratch;
    model_id_list *out;
    st_error *e;
} run;

static st_code add_word(void *context, const uint8_t *word, size_t n) {
    run *r = context;
    const model_tokenizer *t = r->t;
    uint32_t whole = t->keeps_words ? model_names_find(&t->pieces.names, (model_string){(const char *)word, n}) : MODEL_NO_INDEX;
    return whole != MODEL_NO_INDEX ? model_id_list_push(r->out, whole) : model_bpe(&t->merges, &r->scratch, word, n, r->out);
}

/* Text without special tokens. SentencePiece puts a space before each such text, where the file says so. */
static st_code add_plain(run *r, const char *text, size_t n) {
    const model_tokenizer *t = r->t;
    if (!n) return ST_OK;
    if (!t->is_spm) return model_split(t->splitter, (const uint8_t *)text, n, add_word, r, r->e);
    uint8_t *plain = mem_alloc(n + 1, 1);
    if (!plain) return ST_FATAL_MEMORY;
    plain[0] = ' ';
    size_t n_plain = t->space_prefix + model_spm_unescape(text, n, plain + t->space_prefix);
    st_code code = model_spm(&t->pieces, &r->scratch, plain, n_plain, r->out);
    mem_free(plain);
    return code;
}

static st_code add_pieces(run *r, const char *text, size_t size, bool control) {
    const model_tokenizer *t = r->t;
    size_t from = 0, at = 0;
    st_code code = ST_OK;
    while (at < size && !code) {
        uint32_t id = t->special_start[(uint8_t)text[at]] ? special_at(t, text + at, size - at, control) : MODEL_NO_ID;
        if (id == MODEL_NO_ID) {
            at++;
            continue;
        }
        code = add_plain(r, text + from, at - from);
        if (!code) code = model_id_list_push(r->out, id);
        from = at += model_token_text(t, id).size;
    }
    return code ? code : add_plain(r, text + from, size - from);
}

st_code model_tokenize_append(const model_tokenizer *t, const char *text, size_t size, bool parse_special, model_id_list *out,
                              st_error *e) {
    run r = {.t = t, .out = out, .e = e};
    if (size >= UINT32_MAX) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "expected less than 4 GiB of text, found %zu bytes", size);
    /* So many bytes make more ids whatever they are: refuse before any work. (A space may have been written as three bytes.) */
    st_code code = t->longest_bytes && size / t->longest_bytes / (t->is_spm ? 3 : 1) > out->max
                       ? ST_ERR_INVALID_ARGUMENT
                       : add_pieces(&r, text, size, parse_special);
    model_bpe_scratch_deinit(&r.scratch);
    if (code == ST_ERR_INVALID_ARGUMENT) return st_fail(e, code, "the text has more than %zu tokens", out->max);
    return code == ST_FATAL_MEMORY ? st_fail(e, code, "out of memory") : code;
}

static st_code tokenize(const model_tokenizer *t, const char *text, size_t size, bool parse_special, bool bos, size_t max_ids,
                        model_ids *out, st_error *e) {
    model_id_list ids = {.max = max_ids};
    st_code code = bos ? model_id_list_push(&ids, t->bos) : ST_OK;
    if (code) code = st_fail(e, code, code == ST_FATAL_MEMORY ? "out of memory" : "the text has more than %zu tokens", max_ids);
    if (!code) code = model_tokenize_append(t, text, size, parse_special, &ids, e);
    if (code)
        mem_free(ids.ids);
    else
        *out = (model_ids){.ids = ids.ids, .n = ids.n};
    return code;
}

st_code model_tokenize(const model_tokenizer *t, const char *text, size_t size, bool parse_special, size_t max_ids,
                       model_ids *out, st_error *e) {
    return tokenize(t, text, size, parse_special, false, max_ids, out, e);
}

st_code model_prompt_tokenize(const model_tokenizer *t, const char *text, size_t size, size_t max_ids, model_ids *out,
                              st_error *e) {
    model_string bos = t->bos == MODEL_NO_ID ? (model_string){0} : model_token_text(t, t->bos);
    bool has = bos.size && size >= bos.size && !memcmp(text, bos.bytes, bos.size);
    return tokenize(t, text, size, true, t->bos != MODEL_NO_ID && !has, max_ids, out, e);
}
