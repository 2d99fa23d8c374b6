/* Ids to text, a token at a time: bytes wait in `pending` until they make a character or cannot make one any more. */
#include "model/text_int.h"

#include "model/utf8_int.h"
#include <string.h>

static void put(char *out, size_t *n, const void *bytes, size_t size) {
    memcpy(out + *n, bytes, size);
    *n += size;
}

static void put_replacement(char *out, size_t *n) { put(out, n, "\xef\xbf\xbd", 3); }

static void drop(model_detokenizer *d, size_t size) {
    d->n_pending -= (uint32_t)size;
    memmove(d->pending, d->pending + size, d->n_pending);
}

static void add_byte(model_detokenizer *d, uint8_t byte, char *out, size_t *n) {
    size_t size;
    d->pending[d->n_pending++] = byte;
    while (d->n_pending) {
        model_utf8_kind kind = model_utf8_next(d->pending, d->n_pending, &size);
        if (kind == UTF8_CUT) return; /* at most 3 bytes */
        if (kind == UTF8_WHOLE)
            put(out, n, d->pending, size);
        else
            put_replacement(out, n);
        drop(d, size);
    }
}

void model_detokenize(const model_tokenizer *t, model_detokenizer *d, uint32_t id, bool show_special, char *out, size_t *n) {
    if (id >= t->n || (model_token_is_special(t, id) && !show_special)) return;
    for (uint32_t i = t->start[id]; i < t->start[id + 1]; i++) add_byte(d, t->bytes[i], out, n);
}

void model_detokenize_end(model_detokenizer *d, char *out, size_t *n) {
    if (d->n_pending) put_replacement(out, n); /* the start of one character */
    d->n_pending = 0;
}

/* Three pending bytes and each of the token's may become a U+FFFD of three. */
size_t model_token_max_bytes(const model_tokenizer *t) { return 3 * ((size_t)t->longest_bytes + 3); }
