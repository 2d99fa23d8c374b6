#include "model/head.h"

#include "base/nouns.h"
#include <string.h>

enum { MAX_IDS = 1 << 20 }; /* more than any vocabulary has */

static st_code read_hash(const model_file *f, uint8_t out[32], st_error *e) {
    model_string s;
    st_code code = model_file_string(f, "recurrent-head.vocabulary_hash", &s, e);
    bool ok = !code && s.size == 64;
    for (uint32_t i = 0; ok && i < 64; i++) {
        char c = s.bytes[i];
        uint8_t digit = (uint8_t)(c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 255);
        ok = digit < 16;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] | digit : digit << 4);
    }
    if (code || ok) return code;
    return st_fail(e, ST_ERR_FORMAT, "%s: recurrent-head.vocabulary_hash: expected 64 digits of lower hexadecimal",
                   model_file_path(f));
}

static st_code read_ids(const model_file *f, model_head *h, st_error *e) {
    uint64_t n;
    st_code code = model_file_array(f, "recurrent-head.token_ids", MODEL_I32, &h->ids, &n, e);
    if (code) return code;
    if (!n || n > MAX_IDS)
        return st_fail(e, ST_ERR_FORMAT, "%s: recurrent-head.token_ids: %llu of them, expected 1 to %d", model_file_path(f),
                       (unsigned long long)n, MAX_IDS);
    h->n_ids = (uint32_t)n;
    for (uint32_t i = 0, id, last = 0; i < h->n_ids; i++, last = id) {
        memcpy(&id, (const uint8_t *)h->ids + i * sizeof id, sizeof id);
        if (id >= h->n_vocab || (i && id <= last))
            return st_fail(e, ST_ERR_FORMAT, "%s: recurrent-head.token_ids[%u]: %u; expected ascending ids under %u",
                           model_file_path(f), i, id, h->n_vocab);
    }
    return ST_OK;
}

st_code model_head_read(const model_file *f, model_head *out, st_error *e) {
    static const char name[] = "recurrent-head";
    model_string arch;
    uint64_t dim = 0, ffn = 0, n_vocab = 0;
    *out = (model_head){0};
    st_code code = model_file_string(f, "general.architecture", &arch, e);
    if (!code && (arch.size != strlen(name) || memcmp(arch.bytes, name, arch.size)))
        code = st_fail(e, ST_ERR_UNSUPPORTED, "%s: general.architecture: '%.*s'; a drafter of kind head needs %s",
                       model_file_path(f), (int)(arch.size < 64 ? arch.size : 64), arch.bytes, name);
    if (!code) code = model_file_u64(f, "recurrent-head.embedding_length", 1, NOUNS_MAX_DIM, &dim, e);
    if (!code) code = model_file_u64(f, "recurrent-head.feed_forward_length", 1, NOUNS_MAX_DIM, &ffn, e);
    if (!code) code = model_file_u64(f, "recurrent-head.vocab_size", 1, 1 << 28, &n_vocab, e);
    if (!code && (dim % 32 || ffn % 32))
        code = st_fail(e, ST_ERR_UNSUPPORTED, "%s: embedding_length %u, feed_forward_length %u: expected multiples of 32",
                       model_file_path(f), (uint32_t)dim, (uint32_t)ffn);
    out->dim = (uint32_t)dim;
    out->ffn_dim = (uint32_t)ffn;
    out->n_vocab = (uint32_t)n_vocab;
    if (!code) code = read_hash(f, out->vocabulary_hash, e);
    return code ? code : read_ids(f, out, e);
}
