/* consort inspect: what a GGUF file holds, and what a rank of a group would hold of it, for people or as one JSON object. */
#include "client/client_int.h"

#include "base/cursor.h"
#include "base/sha256.h"
#include "model/model.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 4 }; /* elements of an array, without --all */

static json_t *text_json(model_string s) {
    json_t *text = json_stringn(s.bytes, s.size);
    return text ? text : json_string("(not UTF-8)");
}

/* One value of `type` at the cursor. */
static json_t *number_json(model_value_type type, cursor *c) {
    switch (type) {
    case MODEL_U8: return json_integer(cursor_u8(c));
    case MODEL_I8: return json_integer((int8_t)cursor_u8(c));
    case MODEL_U16: return json_integer(cursor_u16(c));
    case MODEL_I16: return json_integer((int16_t)cursor_u16(c));
    case MODEL_U32: return json_integer(cursor_u32(c));
    case MODEL_I32: return json_integer((int32_t)cursor_u32(c));
    case MODEL_U64:
    case MODEL_I64: return json_integer((json_int_t)cursor_u64(c));
    case MODEL_F32: return json_real((double)cursor_f32(c));
    case MODEL_F64: return json_real(cursor_f64(c));
    case MODEL_BOOL: return json_boolean(cursor_u8(c));
    default: return json_null();
    }
}

/* A scalar, or the first elements of an array. */
static json_t *value_json(const model_file *f, const model_key *k, bool all) {
    cursor c = cursor_of(k->bytes, k->size_bytes);
    if (k->type == MODEL_STRING) return text_json((model_string){k->bytes, k->size_bytes});
    if (k->type != MODEL_ARRAY) return number_json(k->type, &c);
    json_t *list = json_array();
    for (uint64_t i = 0; i < k->n && (all || i < SHOWN); i++)
        json_array_append_new(list, k->item_type == MODEL_STRING ? text_json(model_key_string_at(f, k, i))
                                                                 : number_json(k->item_type, &c));
    return list;
}

static json_t *key_json(const model_file *f, const model_key *k, bool all) {
    json_t *o = json_pack("{s:o, s:s}", "name", text_json(k->name), "type", model_type_name(k->type));
    if (k->type == MODEL_ARRAY)
        json_object_update_new(o, json_pack("{s:s, s:I}", "of", model_type_name(k->item_type), "n", (json_int_t)k->n));
    json_object_set_new(o, "value", value_json(f, k, all));
    return o;
}

static json_t *tensor_json(const model_tensor *t) {
    json_t *dims = json_array();
    for (uint32_t d = 0; d < t->n_dims; d++) json_array_append_new(dims, json_integer((json_int_t)t->dims[d]));
    return json_pack("{s:o, s:s, s:o, s:I}", "name", text_json(t->name), "type", model_format_name(t->format), "dims", dims,
                     "bytes", (json_int_t)t->size_bytes);
}

static st_code report_json(const model_file *f, bool all, json_t **out, st_error *e) {
    uint8_t hash[2][SHA256_BYTES];
    char file_hex[2 * SHA256_BYTES + 1], vocabulary_hex[2 * SHA256_BYTES + 1];
    if (model_file_hash(f, hash[0]) || model_file_vocabulary_hash(f, hash[1]))
        return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    sha256_hex(hash[0], file_hex);
    sha256_hex(hash[1], vocabulary_hex);
    json_t *keys = json_array(), *tensors = json_array();
    for (uint64_t i = 0; i < model_file_n_keys(f); i++) json_array_append_new(keys, key_json(f, model_file_key_at(f, i), all));
    for (uint64_t i = 0; i < model_file_n_tensors(f); i++)
        json_array_append_new(tensors, tensor_json(model_file_tensor_at(f, i)));
    *out = json_pack("{s:s, s:i, s:I, s:s, s:s, s:o, s:o}", "file", model_file_path(f), "version", (int)model_file_version(f),
                     "bytes", (json_int_t)model_file_size(f), "sha256", file_hex, "vocabulary_sha256", vocabulary_hex, "keys",
                     keys, "tensors", tensors);
    return *out ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
}

/* "ranks": what each of n would hold. */
static st_code add_ranks(json_t *report, const model_file *f, uint32_t n, const kv_type *kv, st_error *e) {
    json_t *ranks = json_array();
    st_code c = ST_OK;
    for (uint32_t rank = 0; rank < n && c == ST_OK; rank++) {
        model_part p = {0};
        c = model_read_part(f, rank, n, &p, e);
        json_array_append_new(ranks, json_pack("{s:i, s:i, s:i, s:i, s:I, s:I}", "rank", (int)rank, "heads", (int)p.n_heads,
                                               "kv_heads", (int)p.n_kv_heads, "ffn_columns", (int)p.ffn_dim, "weight_bytes",
                                               (json_int_t)p.weight_bytes, "kv_token_bytes",
                                               (json_int_t)(p.kv_token_heads * kv_type_token_bytes(kv, p.head_dim))));
    }
    json_object_set_new(report, "kv_type", json_string(kv->name));
    json_object_set_new(report, "ranks", ranks);
    return c;
}

static const char *text_at(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static void print_value(const json_t *key) {
    const json_t *value = json_object_get(key, "value"), *n = json_object_get(key, "n");
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (n && (size_t)json_integer_value(n) > json_array_size(value))
        printf("%" JSON_INTEGER_FORMAT " %s: %.*s,...]\n", json_integer_value(n), text_at(key, "of"),
               text ? (int)strlen(text) - 1 : 0, text ? text : "");
    else
        printf("%.200s\n", text ? text : "");
    free(text); /* jansson's */
}

static void print_report(const json_t *o) {
    const json_t *entry;
    size_t i;
    printf("%s: GGUF version %" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT " bytes\n", text_at(o, "file"),
           json_integer_value(json_object_get(o, "version")), json_integer_value(json_object_get(o, "bytes")));
    printf("sha256             %s\nvocabulary sha256  %s\n\n%zu keys\n", text_at(o, "sha256"), text_at(o, "vocabulary_sha256"),
           json_array_size(json_object_get(o, "keys")));
    json_array_foreach(json_object_get(o, "keys"), i, entry) {
        printf("  %-42s %-5s ", text_at(entry, "name"), text_at(entry, "type"));
        print_value(entry);
    }
    printf("\n%zu tensors\n", json_array_size(json_object_get(o, "tensors")));
    json_array_foreach(json_object_get(o, "tensors"), i, entry) {
        char *dims = json_dumps(json_object_get(entry, "dims"), JSON_COMPACT);
        printf("  %-42s %-5s %11" JSON_INTEGER_FORMAT " bytes  %s\n", text_at(entry, "name"), text_at(entry, "type"),
               json_integer_value(json_object_get(entry, "bytes")), dims ? dims : "");
        free(dims);
    }
}

static json_int_t number_at(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static void print_ranks(const json_t *o) {
    const json_t *ranks = json_object_get(o, "ranks"), *r;
    size_t i;
    if (!ranks) return;
    printf("\n%zu rank%s, KV in %s\n  rank  heads  KV heads  FFN columns  weights in bytes  KV bytes a token\n",
           json_array_size(ranks), json_array_size(ranks) == 1 ? "" : "s", text_at(o, "kv_type"));
    json_array_foreach(ranks, i, r) {
        printf("  %4zu  %5lld  %8lld  %11lld  %16lld  %16lld\n", i, number_at(r, "heads"), number_at(r, "kv_heads"),
               number_at(r, "ffn_columns"), number_at(r, "weight_bytes"), number_at(r, "kv_token_bytes"));
    }
}

static st_code make_report(const model_file *f, bool all, uint32_t n_ranks, const char *kv_name, json_t **out, st_error *e) {
    const kv_type *kv = kv_type_find(kv_name);
    if (!kv) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "no KV type '%s' (%s)", kv_name, kv_type_names);
    st_code c = report_json(f, all, out, e);
    return c == ST_OK && n_ranks ? add_ranks(*out, f, n_ranks, kv, e) : c;
}

int client_inspect(int argc, char **argv) {
    const char *path = NULL, *kv_name = "f16";
    uint32_t n_ranks = 0;
    bool as_json = false, all = false;
    const client_option options[] = {
        {"FILE", CLIENT_TEXT, &path, NULL, "GGUF file", true},
        {"--json", CLIENT_FLAG, &as_json, NULL, "one JSON object", false},
        {"--all", CLIENT_FLAG, &all, NULL, "all elements of arrays", false},
        {"--tp", CLIENT_U32, &n_ranks, "N", "add what each of N tensor-parallel ranks would hold", false},
        {"--kv-type", CLIENT_TEXT, &kv_name, "T", "of the KV cache, for --tp, as the key kv_type of a group has it (f16)", false},
    };
    int rc = client_options(argc, argv, "Checks a GGUF file and prints its keys, tensors, sizes and hashes.", options,
                            sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    model_file *f = NULL;
    json_t *report = NULL;
    st_code code = model_file_open(path, &f, &e);
    if (!code) code = make_report(f, all, n_ranks, kv_name, &report, &e);
    if (!code && as_json)
        rc = json_dumpf(report, stdout, JSON_COMPACT) || putchar('\n') == EOF ? CLIENT_FAILED : CLIENT_OK;
    else if (!code)
        print_report(report), print_ranks(report), rc = CLIENT_OK;
    else
        rc = client_fail(argv[0], &e);
    json_decref(report);
    model_file_close(f);
    return rc;
}
