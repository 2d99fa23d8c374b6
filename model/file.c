/* Reads an open GGUF file: keys by name, with their types checked, and the two hashes. */
#include "model/file_int.h"

#include "base/cursor.h"
#include "base/sha256.h"
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *model_file_path(const model_file *f) { return f->path; }
uint64_t model_file_size(const model_file *f) { return f->size; }
uint32_t model_file_version(const model_file *f) { return f->version; }
uint64_t model_file_n_keys(const model_file *f) { return f->n_keys; }
const model_key *model_file_key_at(const model_file *f, uint64_t i) { return &f->keys[i]; }
uint64_t model_file_n_tensors(const model_file *f) { return f->n_tensors; }
const model_tensor *model_file_tensor_at(const model_file *f, uint64_t i) { return &f->tensors[i]; }

static model_string string_of(const char *text) { return (model_string){.bytes = text, .size = strlen(text)}; }

const model_tensor *model_file_tensor(const model_file *f, const char *name) {
    uint32_t i = model_names_find(&f->tensor_names, string_of(name));
    return i == MODEL_NO_INDEX ? NULL : &f->tensors[i];
}

static const model_key *find(const model_file *f, const char *key) {
    uint32_t i = model_names_find(&f->key_names, string_of(key));
    return i == MODEL_NO_INDEX ? NULL : &f->keys[i];
}

bool model_file_has(const model_file *f, const char *key) { return find(f, key) != NULL; }

static st_code missing(const model_file *f, const char *key, st_error *e) {
    return st_fail(e, ST_ERR_NOT_FOUND, "%s: key '%s' is missing", f->path, key);
}

static st_code wrong_type(const model_file *f, const model_key *k, const char *expected, st_error *e) {
    char quoted[MODEL_QUOTED_BYTES];
    return st_fail(e, ST_ERR_FORMAT, "%s: key %s, byte %" PRIu64 ": expected %s, found %s%s", f->path,
                   model_file_quote(k->name, quoted), k->at, expected, k->type == MODEL_ARRAY ? "an array of " : "",
                   model_type_name(k->item_type));
}

/* False if the key is not a whole number. Negative ones come back as *negative. */
static bool whole(const model_key *k, uint64_t *value, bool *negative) {
    cursor c = cursor_of(k->bytes, k->size_bytes);
    int64_t i;
    *negative = false;
    switch (k->type) {
    case MODEL_U8: *value = cursor_u8(&c); return true;
    case MODEL_U16: *value = cursor_u16(&c); return true;
    case MODEL_U32: *value = cursor_u32(&c); return true;
    case MODEL_U64: *value = cursor_u64(&c); return true;
    case MODEL_I8: i = (int8_t)cursor_u8(&c); break;
    case MODEL_I16: i = (int16_t)cursor_u16(&c); break;
    case MODEL_I32: i = (int32_t)cursor_u32(&c); break;
    case MODEL_I64: i = (int64_t)cursor_u64(&c); break;
    default: return false;
    }
    *negative = i < 0;
    *value = (uint64_t)i;
    return true;
}

st_code model_file_u64(const model_file *f, const char *key, uint64_t min, uint64_t max, uint64_t *out, st_error *e) {
    const model_key *k = find(f, key);
    uint64_t value;
    bool negative;
    if (!k) return missing(f, key, e);
    if (!whole(k, &value, &negative)) return wrong_type(f, k, "a whole number", e);
    if (negative || value < min || value > max) {
        char found[24];
        snprintf(found, sizeof found, negative ? "%" PRId64 : "%" PRIu64, value);
        return st_fail(e, ST_ERR_FORMAT, "%s: key '%s', byte %" PRIu64 ": expected %" PRIu64 " to %" PRIu64 ", found %s", f->path,
                       key, k->at, min, max, found);
    }
    *out = value;
    return ST_OK;
}

st_code model_file_f64(const model_file *f, const char *key, double *out, st_error *e) {
    const model_key *k = find(f, key);
    if (!k) return missing(f, key, e);
    if (k->type != MODEL_F32 && k->type != MODEL_F64) return wrong_type(f, k, "f32 or f64", e);
    cursor c = cursor_of(k->bytes, k->size_bytes);
    double value = k->type == MODEL_F32 ? (double)cursor_f32(&c) : cursor_f64(&c);
    if (!isfinite(value))
        return st_fail(e, ST_ERR_FORMAT, "%s: key '%s', byte %" PRIu64 ": expected a finite number, found %f", f->path, key,
                       k->at, value);
    *out = value;
    return ST_OK;
}

st_code model_file_bool(const model_file *f, const char *key, bool *out, st_error *e) {
    const model_key *k = find(f, key);
    if (!k) return missing(f, key, e);
    if (k->type != MODEL_BOOL) return wrong_type(f, k, "bool", e);
    *out = *(const uint8_t *)k->bytes != 0;
    return ST_OK;
}

st_code model_file_string(const model_file *f, const char *key, model_string *out, st_error *e) {
    const model_key *k = find(f, key);
    if (!k) return missing(f, key, e);
    if (k->type != MODEL_STRING) return wrong_type(f, k, "text", e);
    *out = (model_string){.bytes = k->bytes, .size = k->size_bytes};
    return ST_OK;
}

st_code model_file_array(const model_file *f, const char *key, model_value_type type, const void **bytes, uint64_t *n,
                         st_error *e) {
    const model_key *k = find(f, key);
    if (!k) return missing(f, key, e);
    if (k->type != MODEL_ARRAY || k->item_type != type) {
        char expected[32];
        snprintf(expected, sizeof expected, "an array of %s", model_type_name(type));
        return wrong_type(f, k, expected, e);
    }
    if (bytes) *bytes = k->bytes;
    *n = k->n;
    return ST_OK;
}

model_string model_key_string_at(const model_file *f, const model_key *k, uint64_t i) {
    INVARIANT(k && k->type == MODEL_ARRAY && k->item_type == MODEL_STRING && i < k->n);
    cursor c = cursor_of(f->bytes, f->size);
    cursor_seek(&c, f->strings[k - f->keys][i]);
    uint64_t size = cursor_u64(&c);
    return (model_string){.bytes = (const char *)cursor_take(&c, size), .size = size};
}

model_string model_file_string_at(const model_file *f, const char *key, uint64_t i) {
    return model_key_string_at(f, find(f, key), i);
}

st_code model_file_hash(const model_file *f, uint8_t out[32]) { return sha256_of(f->bytes, f->size, out); }

/* One record a key: its name, a zero byte, its kind (0: missing, 1: number, 2: text or bool, 3: array), then a number as u64, or
 * element type, count and bytes as they stand in the file. The width in which a file stores a number does not matter. */
st_code model_file_vocabulary_hash(const model_file *f, uint8_t out[32]) {
    static const char *const names[] = {
        "tokenizer.ggml.model",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix",
    };
    sha256 h;
    sha256_begin(&h);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const model_key *k = find(f, names[i]);
        uint64_t value = 0;
        bool negative;
        uint8_t kind = !k ? 0 : whole(k, &value, &negative) ? 1 : k->type == MODEL_ARRAY ? 3 : 2;
        uint64_t head[3] = {value, kind > 1 ? k->item_type : 0, kind > 1 ? (kind == 3 ? k->n : k->size_bytes) : 0};
        sha256_add(&h, names[i], strlen(names[i]) + 1);
        sha256_add(&h, &kind, 1);
        sha256_add(&h, head, sizeof head);
        if (kind > 1) sha256_add(&h, k->bytes, k->size_bytes);
    }
    return sha256_end(&h, out);
}
