/* Opens GGUF files.
 *
 * What: one pass over header, keys and tensor infos that checks everything a later reader relies on, then one over the extents of
 * the tensors. All reads go through base/cursor, all sums and products through the overflow builtins; an allocation comes only
 * after the count has been held against a limit and against the bytes left. Views into the map may be trusted after.
 *
 * Road not taken: reading the file into memory. A map starts at once, is shared by the ranks of a node and costs no copy.
 *
 * Limits: a file that is cut short by others while it is mapped raises SIGBUS; replace model files by rename, never in place. The
 * weights are packed at load, after which the map is closed. Big-endian files and version 1 are named and refused. */
#include "base/cursor.h"
#include "base/mem.h"
#include "model/file_int.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(size_t) == 8, "offsets of 64 bits index memory");

static const struct {
    uint8_t size_bytes; /* 0: not a number */
    char name[8];
} value_types[MODEL_N_TYPES] = {{1, "u8"},   {1, "i8"},   {2, "u16"},   {2, "i16"}, {4, "u32"}, {4, "i32"}, {4, "f32"},
                                {1, "bool"}, {0, "text"}, {0, "array"}, {8, "u64"}, {8, "i64"}, {8, "f64"}};

static const struct {
    uint32_t ggml, elements, bytes;
    const char *name;
} formats[] = {
#define FORMAT(id, ggml, name, elements, bytes, ...) {ggml, elements, bytes, name},
#include "kernels/formats.def"
#undef FORMAT
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* Names of ggml's tensor types (ggml.h, enum ggml_type), so that a refusal can say which. NULL: removed or unassigned. */
static const char *const ggml_types[] = {"F32",     "F16",    "Q4_0",    "Q4_1",  NULL,     NULL,    "Q5_0",  "Q5_1",
                                         "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
                                         "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
                                         "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",  NULL,
                                         NULL,      NULL,     "TQ1_0",   "TQ2_0", NULL,     NULL,    NULL,    "MXFP4"};

const char *model_type_name(model_value_type type) { return type < MODEL_N_TYPES ? value_types[type].name : "unknown"; }
const char *model_format_name(uint32_t format) { return format < N_FORMATS ? formats[format].name : "unknown"; }

const char *model_file_quote(model_string name, char out[MODEL_QUOTED_BYTES]) {
    size_t n = 0, max = MODEL_QUOTED_BYTES - 6;
    out[n++] = '\'';
    for (uint64_t i = 0; i < name.size && n < max; i++)
        out[n++] = name.bytes[i] < ' ' || name.bytes[i] == 127 ? '?' : name.bytes[i];
    snprintf(out + n, MODEL_QUOTED_BYTES - n, name.size >= max ? "...'" : "'");
    return out;
}

typedef struct {
    cursor c;
    model_file *f;
    st_error *e;
    char where[MODEL_QUOTED_BYTES + 16]; /* "key 'x'": what is being read */
    uint64_t *offsets;                   /* [n_tensors] relative to the data; from the infos to the extents */
} reader;

ST_PRINTF(4, 5) static st_code refuse(reader *r, st_code code, uint64_t at, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return st_fail(r->e, code, "%s: %s, byte %" PRIu64 ": %s", r->f->path, r->where, at, text);
}

static st_code no_memory(reader *r) { return st_fail(r->e, ST_FATAL_MEMORY, "%s: out of memory", r->f->path); }

/* Makes sure of n bytes, so that the reads that follow cannot fail. */
static st_code need(reader *r, uint64_t n, const char *what) {
    if (n <= cursor_left(&r->c)) return ST_OK;
    return refuse(r, ST_ERR_FORMAT, r->c.at, "expected %" PRIu64 " bytes of %s, found %zu before the end of the file", n, what,
                  cursor_left(&r->c));
}

static st_code read_string(reader *r, const char *what, uint64_t max, model_string *out) {
    st_code code = need(r, 8, "a length");
    if (code) return code;
    uint64_t at = r->c.at, size = cursor_u64(&r->c);
    if (size > max)
        return refuse(r, ST_ERR_FORMAT, at, "expected a %s of at most %" PRIu64 " bytes, found %" PRIu64, what, max, size);
    if ((code = need(r, size, what))) return code;
    *out = (model_string){.bytes = (const char *)cursor_take(&r->c, size), .size = size};
    return ST_OK;
}

/* A name: not empty, no NUL, given once. */
static st_code read_name(reader *r, const char *kind, uint64_t max, model_names *names, uint32_t index, model_string *name) {
    char quoted[MODEL_QUOTED_BYTES];
    uint64_t at = r->c.at;
    uint32_t found;
    snprintf(r->where, sizeof r->where, "%s %" PRIu32, kind, index);
    st_code code = read_string(r, "name", max, name);
    if (code) return code;
    if (!name->size || memchr(name->bytes, 0, name->size))
        return refuse(r, ST_ERR_FORMAT, at, "expected a name, found %s", name->size ? "a zero byte in it" : "an empty one");
    snprintf(r->where, sizeof r->where, "%s %s", kind, model_file_quote(*name, quoted));
    if (model_names_add(names, *name, index, &found))
        return refuse(r, ST_ERR_FORMAT, at, "expected ordinary names, found more than %d that collide", MODEL_NAMES_MAX_PROBE);
    if (found != MODEL_NO_INDEX)
        return refuse(r, ST_ERR_FORMAT, at, "expected each name once, found it as %s %" PRIu32 " and %" PRIu32, kind, found,
                      index);
    return ST_OK;
}

static st_code check_bools(reader *r, uint64_t at, const uint8_t *bytes, uint64_t n) {
    for (uint64_t i = 0; i < n; i++)
        if (bytes[i] > 1) return refuse(r, ST_ERR_FORMAT, at + i, "expected a bool, 0 or 1, found %u", bytes[i]);
    return ST_OK;
}

static st_code read_strings(reader *r, model_key *k, uint64_t **out) {
    if (k->n > cursor_left(&r->c) / 8)
        return refuse(r, ST_ERR_FORMAT, r->c.at, "expected %" PRIu64 " texts, found room for %zu before the end of the file",
                      k->n, cursor_left(&r->c) / 8);
    if (!(*out = mem_alloc(k->n, sizeof **out))) return no_memory(r);
    model_string text;
    for (uint64_t i = 0; i < k->n; i++) {
        (*out)[i] = r->c.at;
        st_code code = read_string(r, "text", UINT64_MAX, &text);
        if (code) return code;
    }
    return ST_OK;
}

static st_code read_numbers(reader *r, model_key *k) {
    uint64_t n_bytes;
    if (__builtin_mul_overflow(k->n, value_types[k->item_type].size_bytes, &n_bytes)) n_bytes = UINT64_MAX;
    st_code code = need(r, n_bytes, model_type_name(k->item_type));
    if (code) return code;
    k->bytes = cursor_take(&r->c, n_bytes);
    return k->item_type == MODEL_BOOL ? check_bools(r, k->at, k->bytes, k->n) : ST_OK;
}

static st_code read_type(reader *r, model_value_type *out) {
    st_code code = need(r, 4, "a value type");
    if (code) return code;
    uint64_t at = r->c.at;
    uint32_t type = cursor_u32(&r->c);
    if (type >= MODEL_N_TYPES)
        return refuse(r, ST_ERR_FORMAT, at, "expected a value type below %d, found %" PRIu32, MODEL_N_TYPES, type);
    *out = (model_value_type)type;
    return ST_OK;
}

static st_code read_array(reader *r, model_key *k, uint64_t **strings) {
    uint64_t type_at = r->c.at;
    st_code code = read_type(r, &k->item_type);
    if (code) return code;
    if (k->item_type == MODEL_ARRAY)
        return refuse(r, ST_ERR_UNSUPPORTED, type_at, "expected an array of texts or numbers, found an array of arrays");
    if ((code = need(r, 8, "an array length"))) return code;
    k->n = cursor_u64(&r->c);
    k->at = r->c.at;
    k->bytes = r->c.bytes + r->c.at;
    return k->item_type == MODEL_STRING ? read_strings(r, k, strings) : read_numbers(r, k);
}

static st_code read_key(reader *r, uint32_t i) {
    model_key *k = &r->f->keys[i];
    st_code code = read_name(r, "key", GGUF_MAX_KEY_BYTES, &r->f->key_names, i, &k->name);
    if (code || (code = read_type(r, &k->type))) return code;
    k->item_type = k->type;
    k->n = 1;
    k->at = r->c.at;
    if (k->type == MODEL_STRING) {
        model_string text = {0};
        code = read_string(r, "text", UINT64_MAX, &text);
        k->bytes = text.bytes;
        k->size_bytes = text.size;
        return code;
    }
    code = k->type == MODEL_ARRAY ? read_array(r, k, &r->f->strings[i]) : read_numbers(r, k);
    k->size_bytes = r->c.at - k->at;
    return code;
}

static st_code read_alignment(reader *r) {
    model_file *f = r->f;
    static const char key[] = "general.alignment";
    f->alignment = GGUF_DEFAULT_ALIGNMENT;
    if (!model_file_has(f, key)) return ST_OK;
    st_code code = model_file_u64(f, key, GGUF_MIN_ALIGNMENT, GGUF_MAX_ALIGNMENT, &f->alignment, r->e);
    if (code || !(f->alignment & (f->alignment - 1))) return code;
    uint32_t i = model_names_find(&f->key_names, (model_string){key, sizeof key - 1});
    snprintf(r->where, sizeof r->where, "key '%s'", key);
    return refuse(r, ST_ERR_FORMAT, f->keys[i].at, "expected a power of two, found %" PRIu64, f->alignment);
}

static st_code read_shape(reader *r, model_tensor *t, uint64_t *n_elements) {
    st_code code = need(r, 4, "a number of dimensions");
    if (code) return code;
    uint64_t at = r->c.at;
    t->n_dims = cursor_u32(&r->c);
    if (t->n_dims < 1 || t->n_dims > GGUF_MAX_DIMS)
        return refuse(r, ST_ERR_FORMAT, at, "expected 1 to %d dimensions, found %" PRIu32, GGUF_MAX_DIMS, t->n_dims);
    if ((code = need(r, 8 * (uint64_t)t->n_dims, "dimensions"))) return code;
    *n_elements = 1;
    for (uint32_t d = 0; d < GGUF_MAX_DIMS; d++) {
        at = r->c.at;
        t->dims[d] = d < t->n_dims ? cursor_u64(&r->c) : 1;
        if (!t->dims[d]) return refuse(r, ST_ERR_FORMAT, at, "expected dimension %" PRIu32 " above 0, found 0", d);
        if (__builtin_mul_overflow(*n_elements, t->dims[d], n_elements) || *n_elements > INT64_MAX)
            return refuse(r, ST_ERR_FORMAT, at, "expected fewer than 2^63 elements, found dimension %" PRIu32 " of %" PRIu64, d,
                          t->dims[d]);
    }
    return ST_OK;
}

static st_code read_format(reader *r, model_tensor *t, uint64_t n_elements) {
    uint64_t at = r->c.at;
    uint32_t ggml = cursor_u32(&r->c), i = 0;
    while (i < N_FORMATS && formats[i].ggml != ggml) i++;
    if (i == N_FORMATS) {
        const char *name = ggml < sizeof ggml_types / sizeof *ggml_types ? ggml_types[ggml] : NULL;
        return refuse(r, name ? ST_ERR_UNSUPPORTED : ST_ERR_FORMAT, at,
                      "expected a tensor type that Consort has, found %" PRIu32 " (%s)", ggml, name ? name : "unknown");
    }
    if (t->dims[0] % formats[i].elements)
        return refuse(r, ST_ERR_FORMAT, at, "expected rows in whole blocks of %" PRIu32 " for %s, found rows of %" PRIu64,
                      formats[i].elements, formats[i].name, t->dims[0]);
    if (__builtin_mul_overflow(n_elements / formats[i].elements, (uint64_t)formats[i].bytes, &t->size_bytes))
        return refuse(r, ST_ERR_FORMAT, at, "expected a size below 2^64 bytes, found %" PRIu64 " elements of %s", n_elements,
                      formats[i].name);
    t->format = i;
    return ST_OK;
}

static st_code read_tensor(reader *r, uint32_t i) {
    model_tensor *t = &r->f->tensors[i];
    uint64_t n_elements = 0;
    st_code code = read_name(r, "tensor", GGUF_MAX_NAME_BYTES, &r->f->tensor_names, i, &t->name);
    if (code || (code = read_shape(r, t, &n_elements))) return code;
    if ((code = need(r, 12, "type and offset")) || (code = read_format(r, t, n_elements))) return code;
    uint64_t at = r->c.at;
    r->offsets[i] = cursor_u64(&r->c);
    if (r->offsets[i] % r->f->alignment)
        return refuse(r, ST_ERR_FORMAT, at, "expected an offset that is a multiple of %" PRIu64 ", found %" PRIu64,
                      r->f->alignment, r->offsets[i]);
    return ST_OK;
}

static int by_place(const void *a, const void *b) {
    const model_tensor *x = *(const model_tensor *const *)a, *y = *(const model_tensor *const *)b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* Tensors lie one behind the other, in any order, with gaps perhaps, but never over each other. */
static st_code check_overlap(reader *r) {
    model_file *f = r->f;
    const model_tensor **sorted = mem_alloc(f->n_tensors, sizeof *sorted);
    if (!sorted) return no_memory(r);
    for (uint64_t i = 0; i < f->n_tensors; i++) sorted[i] = &f->tensors[i];
    qsort(sorted, f->n_tensors, sizeof *sorted, by_place);
    st_code code = ST_OK;
    for (uint64_t i = 1; i < f->n_tensors && !code; i++) {
        const model_tensor *a = sorted[i - 1], *b = sorted[i];
        const uint8_t *end = (const uint8_t *)a->bytes + a->size_bytes;
        char quoted[MODEL_QUOTED_BYTES];
        if (end <= (const uint8_t *)b->bytes) continue;
        snprintf(r->where, sizeof r->where, "tensor %s", model_file_quote(b->name, quoted));
        code = refuse(r, ST_ERR_FORMAT, (uint64_t)((const uint8_t *)b->bytes - f->bytes),
                      "expected its data behind that of %s, which ends at byte %" PRIu64, model_file_quote(a->name, quoted),
                      (uint64_t)(end - f->bytes));
    }
    mem_free(sorted);
    return code;
}

static st_code place_tensors(reader *r) {
    model_file *f = r->f;
    uint64_t start = (r->c.at + f->alignment - 1) / f->alignment * f->alignment;
    for (uint64_t i = 0; i < f->n_tensors; i++) {
        model_tensor *t = &f->tensors[i];
        uint64_t at, end;
        if (__builtin_add_overflow(start, r->offsets[i], &at) || __builtin_add_overflow(at, t->size_bytes, &end) ||
            end > f->size) {
            char quoted[MODEL_QUOTED_BYTES];
            snprintf(r->where, sizeof r->where, "tensor %s", model_file_quote(t->name, quoted));
            return refuse(r, ST_ERR_FORMAT, start,
                          "expected %" PRIu64 " bytes at offset %" PRIu64 " of the data, found a file of %" PRIu64 " bytes",
                          t->size_bytes, r->offsets[i], f->size);
        }
        t->bytes = f->bytes + at;
    }
    return check_overlap(r);
}

static st_code read_header(reader *r) {
    model_file *f = r->f;
    snprintf(r->where, sizeof r->where, "header");
    st_code code = need(r, 4, "magic");
    if (code) return code;
    const uint8_t *magic = cursor_take(&r->c, 4);
    if (memcmp(magic, "GGUF", 4))
        return refuse(r, ST_ERR_FORMAT, 0, "expected the magic 'GGUF', found %02x %02x %02x %02x%s", magic[0], magic[1], magic[2],
                      magic[3], memcmp(magic, "FUGG", 4) ? "" : " (a big-endian file)");
    if ((code = need(r, 20, "version and counts"))) return code;
    f->version = cursor_u32(&r->c);
    if (f->version != 2 && f->version != 3)
        return refuse(r, ST_ERR_UNSUPPORTED, 4, "expected GGUF version 2 or 3, found %" PRIu32 "%s", f->version,
                      f->version && !(f->version & 0xffff) ? " (a big-endian file)" : "");
    f->n_tensors = cursor_u64(&r->c);
    f->n_keys = cursor_u64(&r->c);
    /* The smallest tensor info has 33 bytes, the smallest key 14. */
    size_t left = cursor_left(&r->c);
    if (f->n_tensors > GGUF_MAX_TENSORS || f->n_tensors > left / 33)
        return refuse(r, ST_ERR_FORMAT, 8, "expected at most %d tensors and room for them in %zu bytes, found %" PRIu64,
                      GGUF_MAX_TENSORS, left, f->n_tensors);
    if (f->n_keys > GGUF_MAX_KEYS || f->n_keys > left / 14)
        return refuse(r, ST_ERR_FORMAT, 16, "expected at most %d keys and room for them in %zu bytes, found %" PRIu64,
                      GGUF_MAX_KEYS, left, f->n_keys);
    return ST_OK;
}

static st_code read_all(reader *r) {
    model_file *f = r->f;
    st_code code = read_header(r);
    if (code) return code;
    f->keys = mem_alloc(f->n_keys, sizeof *f->keys);
    f->strings = mem_alloc(f->n_keys, sizeof *f->strings);
    f->tensors = mem_alloc(f->n_tensors, sizeof *f->tensors);
    r->offsets = mem_alloc(f->n_tensors, sizeof *r->offsets);
    if (!f->keys || !f->strings || !f->tensors || !r->offsets || model_names_init(&f->key_names, f->n_keys) ||
        model_names_init(&f->tensor_names, f->n_tensors))
        return no_memory(r);
    for (uint32_t i = 0; i < f->n_keys; i++)
        if ((code = read_key(r, i))) return code;
    if ((code = read_alignment(r))) return code;
    for (uint32_t i = 0; i < f->n_tensors; i++)
        if ((code = read_tensor(r, i))) return code;
    return place_tensors(r);
}

/* Takes the mapping (NULL: the bytes are the caller's), also when it fails. */
static st_code create(const char *path, const void *bytes, size_t size, filemap *mapped, model_file **out, st_error *e) {
    model_file *f = mem_alloc(1, sizeof *f);
    if (!f) {
        if (mapped) filemap_close(mapped);
        return st_fail(e, ST_FATAL_MEMORY, "%s: out of memory", path);
    }
    *f = (model_file){.path = mem_text(path, strlen(path)), .bytes = bytes, .size = size};
    if (mapped) f->mapped = *mapped;
    reader r = {.c = cursor_of(bytes, size), .f = f, .e = e};
    st_code code = f->path ? read_all(&r) : st_fail(e, ST_FATAL_MEMORY, "%s: out of memory", path);
    mem_free(r.offsets);
    if (code)
        model_file_close(f);
    else
        *out = f;
    return code;
}

st_code model_file_over(const char *path, const void *bytes, size_t size, model_file **out, st_error *e) {
    return create(path, bytes, size, NULL, out, e);
}

st_code model_file_open(const char *path, model_file **out, st_error *e) {
    filemap m = {0};
    st_code code = filemap_open(path, &m, e);
    return code ? code : create(path, m.bytes, m.size_bytes, &m, out, e);
}

void model_file_close(model_file *f) {
    if (!f) return;
    for (uint64_t i = 0; f->strings && i < f->n_keys; i++) mem_free(f->strings[i]);
    mem_free(f->strings);
    mem_free(f->keys);
    mem_free(f->tensors);
    model_names_deinit(&f->key_names);
    model_names_deinit(&f->tensor_names);
    filemap_close(&f->mapped);
    mem_free(f->path);
    mem_free(f);
}
