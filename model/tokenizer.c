/* Builds a tokenizer from a GGUF file's vocabulary.
 *
 * What: two kinds of vocabulary. "gpt2" is byte-level BPE: bytes are written as printable characters, merges are listed. "llama"
 * is SentencePiece's BPE: text with a sign for spaces, byte tokens <0x41>, a score for each token. Either way tokens are kept as
 * the bytes they stand for; what the file writes otherwise is undone once, here. Hashes of token texts that are only needed while
 * building are freed after.
 *
 * Limits: files that want an end token put behind text are refused, not half obeyed. */
#include "base/cursor.h"
#include "base/mem.h"
#include "model/file_int.h"
#include "model/text_int.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

/* Ends of a turn that files do not always name in a key; they count if they are control tokens. */
static const char *const end_texts[] = {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"};
static const char *const end_keys[] = {KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id")};

typedef struct {
    const model_file *f;
    model_tokenizer *t;
    model_names names;         /* texts of ordinary tokens as they stand in the file -> id */
    int16_t byte_of[256 + 68]; /* GPT-2's character for a byte -> the byte, or -1 */
    st_error *e;
} builder;

static bool is_special(const model_tokenizer *t, uint32_t id) {
    return t->type[id] == MODEL_TOKEN_CONTROL || t->type[id] == MODEL_TOKEN_USER;
}

static st_code no_memory(const builder *b) { return st_fail(b->e, ST_FATAL_MEMORY, "%s: out of memory", model_file_path(b->f)); }

/* GPT-2's bytes_to_unicode(): printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up, in order. */
static void fill_byte_of(builder *b) {
    memset(b->byte_of, 0xff, sizeof b->byte_of);
    for (int16_t byte = 0, next = 256; byte < 256; byte++) {
        bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
        b->byte_of[printable ? byte : next++] = byte;
    }
}

/* Writes the bytes that a token's text stands for; returns how many, or -1 if a character stands for no byte. */
static int64_t undo_mapping(const builder *b, model_string text, uint8_t *out) {
    int64_t n = 0;
    for (uint64_t i = 0; i < text.size; i++) {
        uint32_t c = (uint8_t)text.bytes[i];
        if (c >= 0xc2 && c <= 0xc5 && i + 1 < text.size) c = (c & 31) << 6 | ((uint8_t)text.bytes[++i] & 63);
        if (c >= sizeof b->byte_of / sizeof *b->byte_of || b->byte_of[c] < 0) return -1;
        out[n++] = (uint8_t)b->byte_of[c];
    }
    return n;
}

/* The same of a SentencePiece vocabulary. */
static int64_t spm_text(model_tokenizer *t, uint32_t id, model_string text, uint8_t *out) {
    int byte = t->type[id] == MODEL_TOKEN_BYTE ? model_spm_byte(text) : -1;
    if (byte < 0) return is_special(t, id) ? -1 : (int64_t)model_spm_unescape(text.bytes, text.size, out);
    t->pieces.byte_id[byte] = id;
    *out = (uint8_t)byte;
    return 1;
}

static st_code add_token(builder *b, uint32_t id, model_string text) {
    model_tokenizer *t = b->t;
    const char *path = model_file_path(b->f);
    uint8_t *out = t->bytes + t->start[id];
    uint32_t found;
    int64_t n = -1;
    if (t->is_spm) {
        n = spm_text(t, id, text, out);
    } else if (!is_special(t, id)) {
        n = undo_mapping(b, text, out);
        if (model_names_add(&b->names, text, id, &found))
            return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("tokens") "': token %" PRIu32 ": too many texts collide", path,
                           id);
        if (found != MODEL_NO_INDEX)
            return st_fail(b->e, ST_ERR_FORMAT,
                           "%s: key '" KEY("tokens") "': expected each text once, found tokens %" PRIu32 " and %" PRIu32
                                                     " the same",
                           path, found, id);
        if (n == 1) t->merges.byte_id[*out] = id;
    }
    if (n < 0) { /* the text stands for itself */
        memcpy(out, text.bytes, text.size);
        n = (int64_t)text.size;
    }
    t->start[id + 1] = t->start[id] + (uint32_t)n;
    if ((uint32_t)n > t->longest_bytes) t->longest_bytes = (uint32_t)n;
    return ST_OK;
}

static st_code read_types(builder *b) {
    const void *bytes;
    uint64_t n;
    st_code code = model_file_array(b->f, KEY("token_type"), MODEL_I32, &bytes, &n, b->e);
    if (code) return code;
    if (n != b->t->n)
        return st_fail(b->e, ST_ERR_FORMAT,
                       "%s: key '" KEY("token_type") "': expected %" PRIu32 " elements, one a token, found %" PRIu64,
                       model_file_path(b->f), b->t->n, n);
    cursor c = cursor_of(bytes, 4 * n);
    for (uint32_t i = 0; i < b->t->n; i++) {
        uint32_t type = cursor_u32(&c);
        if (type < MODEL_TOKEN_NORMAL || type > MODEL_TOKEN_LAST_TYPE)
            return st_fail(b->e, ST_ERR_FORMAT,
                           "%s: key '" KEY("token_type") "': token %" PRIu32 ": expected %d to %d, found %" PRId32,
                           model_file_path(b->f), i, MODEL_TOKEN_NORMAL, MODEL_TOKEN_LAST_TYPE, (int32_t)type);
        b->t->type[i] = (uint8_t)type;
    }
    return ST_OK;
}

/* Bytes of all texts as they stand in the file, which are no fewer than those they stand for. */
static st_code measure(const builder *b, uint64_t *total) {
    *total = 0;
    for (uint32_t i = 0; i < b->t->n; i++) {
        uint64_t size = model_file_string_at(b->f, KEY("tokens"), i).size;
        if (size > MODEL_MAX_TOKEN_BYTES)
            return st_fail(b->e, ST_ERR_FORMAT,
                           "%s: key '" KEY("tokens") "': token %" PRIu32 ": expected at most %d bytes, found %" PRIu64,
                           model_file_path(b->f), i, MODEL_MAX_TOKEN_BYTES, size);
        *total += size;
    }
    if (*total < UINT32_MAX) return ST_OK;
    return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("tokens") "': expected less than 4 GiB of text, found %" PRIu64 " bytes",
                   model_file_path(b->f), *total);
}

static st_code read_tokens(builder *b) {
    model_tokenizer *t = b->t;
    uint64_t n, total;
    st_code code = model_file_array(b->f, KEY("tokens"), MODEL_STRING, NULL, &n, b->e);
    if (code) return code;
    if (!n || n > MODEL_MAX_VOCABULARY)
        return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("tokens") "': expected 1 to %d tokens, found %" PRIu64,
                       model_file_path(b->f), MODEL_MAX_VOCABULARY, n);
    t->n = (uint32_t)n;
    if ((code = measure(b, &total))) return code;
    t->bytes = mem_alloc(total, 1);
    t->start = mem_alloc(n + 1, sizeof *t->start);
    t->type = mem_alloc(n, sizeof *t->type);
    t->is_end = mem_alloc(n, sizeof *t->is_end);
    if (!t->bytes || !t->start || !t->type || !t->is_end || model_names_init(&b->names, n)) return no_memory(b);
    if ((code = read_types(b))) return code;
    for (uint32_t i = 0; i < t->n && !code; i++) code = add_token(b, i, model_file_string_at(b->f, KEY("tokens"), i));
    return code;
}

/* "left right": two ordinary tokens whose texts joined are a third. */
static st_code add_merge(builder *b, uint32_t rank, model_string text) {
    char quoted[MODEL_QUOTED_BYTES], joined[2 * MODEL_MAX_TOKEN_BYTES];
    const char *problem = NULL, *space = text.size ? memchr(text.bytes, ' ', text.size) : NULL;
    uint64_t n_left = space ? (uint64_t)(space - text.bytes) : 0, n_right = space ? text.size - n_left - 1 : 0;
    if (!n_left || !n_right || memchr(space + 1, ' ', n_right))
        problem = "expected two texts with a space between";
    else if (n_left > MODEL_MAX_TOKEN_BYTES || n_right > MODEL_MAX_TOKEN_BYTES)
        problem = "expected texts of tokens";
    if (!problem) {
        memcpy(joined, text.bytes, n_left);
        memcpy(joined + n_left, space + 1, n_right);
        uint32_t left = model_names_find(&b->names, (model_string){text.bytes, n_left});
        uint32_t right = model_names_find(&b->names, (model_string){space + 1, n_right});
        uint32_t merged = model_names_find(&b->names, (model_string){joined, n_left + n_right});
        if (left == MODEL_NO_INDEX || right == MODEL_NO_INDEX || merged == MODEL_NO_INDEX)
            problem = "expected both parts and the whole among the tokens";
        else if (model_merges_add(&b->t->merges, left, right, rank, merged))
            problem = "expected each merge once";
    }
    if (!problem) return ST_OK;
    return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("merges") "': merge %" PRIu32 ": %s, found %s", model_file_path(b->f),
                   rank, problem, model_file_quote(text, quoted));
}

static st_code count_merges(const builder *b, uint64_t *n) {
    st_code code = model_file_array(b->f, KEY("merges"), MODEL_STRING, NULL, n, b->e);
    if (code || *n < UINT32_MAX) return code;
    return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("merges") "': expected fewer than 2^32 - 1, found %" PRIu64,
                   model_file_path(b->f), *n);
}

model_string model_token_text(const model_tokenizer *t, uint32_t id) {
    return (model_string){(const char *)t->bytes + t->start[id], t->start[id + 1] - t->start[id]};
}

static int by_text(const void *a, const void *b, void *tokenizer) {
    model_string x = model_token_text(tokenizer, *(const uint32_t *)a), y = model_token_text(tokenizer, *(const uint32_t *)b);
    int order = memcmp(x.bytes, y.bytes, x.size < y.size ? x.size : y.size);
    return order ? order : x.size < y.size ? -1 : x.size > y.size;
}

static st_code sort_special(builder *b) {
    model_tokenizer *t = b->t;
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++) n += is_special(t, i);
    if (!(t->special = mem_alloc(n, sizeof *t->special))) return no_memory(b);
    for (uint32_t i = 0; i < t->n; i++) {
        if (!is_special(t, i) || !model_token_text(t, i).size) continue;
        t->special[t->n_special++] = i;
        t->special_start[(uint8_t)model_token_text(t, i).bytes[0]] = true;
    }
    qsort_r(t->special, t->n_special, sizeof *t->special, by_text, t);
    for (uint32_t i = 1; i < t->n_special; i++)
        if (!by_text(&t->special[i - 1], &t->special[i], t))
            return st_fail(b->e, ST_ERR_FORMAT,
                           "%s: key '" KEY("tokens") "': expected each text once, found special tokens %" PRIu32 " and %" PRIu32
                                                     " the same",
                           model_file_path(b->f), t->special[i - 1], t->special[i]);
    return ST_OK;
}

static st_code mark_ends(builder *b) {
    model_tokenizer *t = b->t;
    for (size_t i = 0; i < sizeof end_keys / sizeof *end_keys; i++) {
        uint64_t id;
        if (!model_file_has(b->f, end_keys[i])) continue;
        st_code code = model_file_u64(b->f, end_keys[i], 0, t->n - 1, &id, b->e);
        if (code) return code;
        t->is_end[id] = true;
    }
    for (size_t i = 0; i < sizeof end_texts / sizeof *end_texts; i++) {
        uint32_t id = model_special_id(t, end_texts[i]);
        if (id != MODEL_NO_ID && t->type[id] == MODEL_TOKEN_CONTROL) t->is_end[id] = true;
    }
    return ST_OK;
}

/* The texts that plain text may become, for look-ups that go on after building. */
static st_code index_pieces(builder *b) {
    model_tokenizer *t = b->t;
    if (!t->is_spm && !t->keeps_words) return ST_OK;
    if (model_names_init(&t->pieces.names, t->n)) return no_memory(b);
    for (uint32_t i = 0; i < t->n; i++) {
        model_string text = model_token_text(t, i);
        uint32_t found = MODEL_NO_INDEX;
        if (is_special(t, i) || (t->is_spm && t->type[i] == MODEL_TOKEN_BYTE) || !text.size) continue;
        if (text.size > t->pieces.longest_bytes) t->pieces.longest_bytes = (uint32_t)text.size;
        st_code code = model_names_add(&t->pieces.names, text, i, &found);
        if (code || (t->is_spm && found != MODEL_NO_INDEX))
            return st_fail(b->e, ST_ERR_FORMAT,
                           "%s: key '" KEY("tokens") "': expected each text once, found token %" PRIu32 " %s",
                           model_file_path(b->f), i, code ? "whose text collides with too many" : "like another before it");
    }
    return ST_OK;
}

typedef struct {
    float score;
    uint32_t id;
} scored;

static int by_score(const void *a, const void *b) {
    const scored *x = a, *y = b;
    return x->score != y->score ? (x->score > y->score ? -1 : 1) : (x->id > y->id) - (x->id < y->id);
}

/* Scores become places, highest first; equal scores the same place, so that the leftmost pair wins. */
static st_code rank_pieces(builder *b) {
    model_tokenizer *t = b->t;
    const void *bytes;
    uint64_t n;
    st_code code = model_file_array(b->f, KEY("scores"), MODEL_F32, &bytes, &n, b->e);
    if (code) return code;
    if (n != t->n)
        return st_fail(b->e, ST_ERR_FORMAT,
                       "%s: key '" KEY("scores") "': expected %" PRIu32 " elements, one a token, found %" PRIu64,
                       model_file_path(b->f), t->n, n);
    scored *all = mem_alloc(n, sizeof *all);
    if (!all || !(t->pieces.rank = mem_alloc(n, sizeof *t->pieces.rank))) code = no_memory(b);
    cursor c = cursor_of(bytes, 4 * n);
    for (uint32_t i = 0; i < n && !code; i++) {
        all[i] = (scored){cursor_f32(&c), i};
        if (!(all[i].score > -INFINITY && all[i].score < INFINITY))
            code = st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("scores") "': token %" PRIu32 ": expected a finite number",
                           model_file_path(b->f), i);
    }
    if (!code) qsort(all, n, sizeof *all, by_score);
    for (uint32_t i = 1; i < n && !code; i++)
        t->pieces.rank[all[i].id] = t->pieces.rank[all[i - 1].id] + (all[i].score < all[i - 1].score);
    for (int byte = 0; byte < 256 && !code; byte++)
        if (t->pieces.byte_id[byte] == MODEL_NO_ID)
            code = st_fail(b->e, ST_ERR_UNSUPPORTED,
                           "%s: key '" KEY("tokens") "': expected a byte token for each byte, found none for <0x%02X>",
                           model_file_path(b->f), (unsigned)byte);
    mem_free(all);
    return code;
}

static st_code flag(builder *b, const char *key, bool missing, bool *out) {
    *out = missing;
    return model_file_has(b->f, key) ? model_file_bool(b->f, key, out, b->e) : ST_OK;
}

static st_code id_of(builder *b, const char *key, uint32_t *out) {
    uint64_t id = MODEL_NO_ID;
    st_code code = model_file_has(b->f, key) ? model_file_u64(b->f, key, 0, b->t->n - 1, &id, b->e) : ST_OK;
    *out = (uint32_t)id;
    return code;
}

/* Where the file does not say, it is as other engines take it: SentencePiece wants a BOS and a space put before text, byte-level
 * vocabularies do not, but for those that keep words (llama 3, tekken), which want a BOS. */
static st_code read_flags(builder *b) {
    model_tokenizer *t = b->t;
    bool bos = false, eos = false;
    st_code code = id_of(b, KEY("bos_token_id"), &t->bos_id);
    if (!code) code = id_of(b, KEY("eos_token_id"), &t->eos_id);
    if (!code) code = flag(b, KEY("add_bos_token"), (t->is_spm || t->keeps_words) && t->bos_id != MODEL_NO_ID, &bos);
    if (!code) code = flag(b, KEY("add_eos_token"), false, &eos);
    if (!code) code = flag(b, KEY("add_space_prefix"), t->is_spm, &t->space_prefix);
    if (code) return code;
    if (eos || (t->space_prefix && !t->is_spm))
        return st_fail(b->e, ST_ERR_UNSUPPORTED, "%s: key '%s': expected false, found true", model_file_path(b->f),
                       eos ? KEY("add_eos_token") : KEY("add_space_prefix"));
    if (bos && t->bos_id == MODEL_NO_ID)
        return st_fail(b->e, ST_ERR_FORMAT, "%s: key '" KEY("bos_token_id") "' is missing; prompts begin with it",
                       model_file_path(b->f));
    t->bos = bos ? t->bos_id : MODEL_NO_ID;
    return ST_OK;
}

static st_code check_kind(builder *b) {
    char quoted[MODEL_QUOTED_BYTES];
    model_string kind, pre;
    st_code code = model_file_string(b->f, KEY("model"), &kind, b->e);
    if (code) return code;
    b->t->is_spm = kind.size == 5 && !memcmp(kind.bytes, "llama", 5);
    if (b->t->is_spm) return ST_OK;
    if (kind.size != 4 || memcmp(kind.bytes, "gpt2", 4))
        return st_fail(b->e, ST_ERR_UNSUPPORTED, "%s: key '" KEY("model") "': expected 'gpt2' or 'llama', found %s",
                       model_file_path(b->f), model_file_quote(kind, quoted));
    if ((code = model_file_string(b->f, KEY("pre"), &pre, b->e))) return code;
    if ((code = model_splitter_create(pre, &b->t->splitter, b->e)))
        return b->e ? st_prefix(b->e, "%s: key '" KEY("pre") "'", model_file_path(b->f)) : code;
    b->t->keeps_words = model_splitter_keeps_words(b->t->splitter);
    return ST_OK;
}

static st_code find_template(builder *b) {
    static const char key[] = "tokenizer.chat_template";
    model_string text;
    if (!model_file_has(b->f, key)) return ST_OK;
    st_code code = model_file_string(b->f, key, &text, b->e);
    if (!code) b->t->chat = model_template_find(text);
    return code;
}

static st_code build(builder *b) {
    model_tokenizer *t = b->t;
    uint64_t n_merges = 0;
    fill_byte_of(b);
    for (int byte = 0; byte < 256; byte++) t->pieces.byte_id[byte] = MODEL_NO_ID;
    st_code code = check_kind(b);
    if (!code && !t->is_spm) code = count_merges(b, &n_merges);
    if (!code && model_merges_init(&t->merges, n_merges)) code = no_memory(b);
    if (!code) code = read_tokens(b);
    for (uint32_t i = 0; i < n_merges && !code; i++) code = add_merge(b, i, model_file_string_at(b->f, KEY("merges"), i));
    if (!code) code = index_pieces(b);
    if (!code && t->is_spm) code = rank_pieces(b);
    if (!code) code = sort_special(b);
    if (!code) code = mark_ends(b);
    if (!code) code = read_flags(b);
    return code ? code : find_template(b);
}

st_code model_tokenizer_create(const model_file *f, model_tokenizer **out, st_error *e) {
    builder b = {.f = f, .t = mem_alloc(1, sizeof *b.t), .e = e};
    st_code code = b.t ? build(&b) : no_memory(&b);
    model_names_deinit(&b.names);
    if (code)
        model_tokenizer_destroy(b.t);
    else
        *out = b.t;
    return code;
}

void model_tokenizer_destroy(model_tokenizer *t) {
    if (!t) return;
    model_splitter_destroy(t->splitter);
    model_merges_deinit(&t->merges);
    model_names_deinit(&t->pieces.names);
    mem_free(t->pieces.rank);
    mem_free(t->bytes);
    mem_free(t->start);
    mem_free(t->type);
    mem_free(t->is_end);
    mem_free(t->special);
    mem_free(t);
}

uint32_t model_vocabulary_size(const model_tokenizer *t) { return t->n; }
bool model_token_is_end(const model_tokenizer *t, uint32_t id) { return id < t->n && t->is_end[id]; }
bool model_token_is_special(const model_tokenizer *t, uint32_t id) { return id < t->n && t->type[id] == MODEL_TOKEN_CONTROL; }
