/* SentencePiece's BPE over scores, as llama and gemma files carry it (Kudo and Richardson 2018; token type and byte tokens as in
 * GGUF): characters are joined to the longest piece whose parts are joined before it, the highest score first, leftmost first.
 *
 * What: the same merging as bpe.c, with pieces found by their text instead of a table of merges, since files have no merges. A
 * character that is no piece becomes its bytes' tokens. Spaces and SentencePiece's sign for them (U+2581) are one and the same,
 * so vocabulary and text are both brought to the space, once.
 *
 * Road not taken: the unigram model's Viterbi search; such files say another tokenizer.ggml.model, and are refused. */
#include "base/mem.h"
#include "model/text_int.h"
#include "model/utf8_int.h"
#include <string.h>

static const char space_sign[] = "\xe2\x96\x81";

size_t model_spm_unescape(const char *text, size_t n, uint8_t *out) {
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        bool sign = n - i >= 3 && !memcmp(text + i, space_sign, 3);
        out[n_out++] = sign ? ' ' : (uint8_t)text[i];
        if (sign) i += 2;
    }
    return n_out;
}

static int hex(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

int model_spm_byte(model_string text) {
    const char *t = text.bytes;
    if (text.size != 6 || memcmp(t, "<0x", 3) || t[5] != '>' || hex(t[3]) < 0 || hex(t[4]) < 0) return -1;
    return hex(t[3]) * 16 + hex(t[4]);
}

typedef struct {
    const model_pieces *pieces;
    const uint8_t *text;
} spm;

static model_joined join(const void *context, const model_symbol *left, const model_symbol *right) {
    const spm *s = context;
    model_string whole = {(const char *)s->text + left->start, (uint64_t)left->n_bytes + right->n_bytes};
    uint32_t id = whole.size > s->pieces->longest_bytes ? MODEL_NO_INDEX : model_names_find(&s->pieces->names, whole);
    return id == MODEL_NO_INDEX ? (model_joined){.id = MODEL_NO_ID} : (model_joined){s->pieces->rank[id], id};
}

/* Characters of text as symbols; bytes that are not UTF-8 stand alone. */
static uint32_t load(const model_pieces *p, model_symbol *symbols, const uint8_t *text, size_t n_bytes) {
    uint32_t n = 0;
    for (size_t at = 0, size; at < n_bytes; at += size) {
        if (model_utf8_next(text + at, n_bytes - at, &size) != UTF8_WHOLE) size = 1;
        uint32_t id = model_names_find(&p->names, (model_string){(const char *)text + at, size});
        symbols[n++] = (model_symbol){.id = id, .start = (uint32_t)at, .n_bytes = (uint32_t)size};
    }
    return n;
}

st_code model_spm(const model_pieces *p, model_bpe_scratch *scratch, const uint8_t *text, size_t n_bytes, model_id_list *out) {
    st_code code = model_symbols_reserve(scratch, n_bytes);
    if (code) return code;
    const spm s = {p, text};
    const uint32_t n = load(p, scratch->symbols, text, n_bytes);
    model_symbols_merge(scratch, n, join, &s);
    for (uint32_t i = n ? 0 : MODEL_NO_SYMBOL; i != MODEL_NO_SYMBOL && !code; i = scratch->symbols[i].next) {
        const model_symbol *symbol = &scratch->symbols[i];
        if (symbol->id != MODEL_NO_ID) code = model_id_list_push(out, symbol->id);
        for (uint32_t k = 0; symbol->id == MODEL_NO_ID && k < symbol->n_bytes && !code; k++)
            code = model_id_list_push(out, p->byte_id[text[symbol->start + k]]);
    }
    return code;
}
