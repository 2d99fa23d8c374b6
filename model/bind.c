/* Binding: what a file says about its model, checked once, so that the forward pass may trust it.
 *
 * Sizes come from the keys, tensors from the architecture's table; both must agree. Everything in the file is either used or
 * refused by name: a bias, a frequency table or a scaling that we would silently leave out would give another model's answers. */
#include "model/model_int.h"

#include "base/fmath.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

/* Limits against hostile files: sizes multiply to less than 2^32 elements a row of anything, and to no absurd allocation. */
enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 512,
    MAX_HEAD_DIM = KERNELS_MAX_HEAD_DIM,
    MAX_DIM = 1 << 17,
    MAX_CONTEXT = 1 << 20,
    MAX_VOCABULARY = 1 << 22, /* also: 2^40 times this fits the integer weights of the filters (sample.c) */
    MAX_KEY_BYTES = 128,
};

#define ARCH(id) extern const model_arch model_arch_##id;
#include "model/archs.def"
#undef ARCH

static const model_arch *const archs[] = {
#define ARCH(id) &model_arch_##id,
#include "model/archs.def"
#undef ARCH
};
#define ARCH(id) #id " "
static const char arch_names[] =
#include "model/archs.def"
    ;
#undef ARCH
enum { N_ARCHS = sizeof archs / sizeof *archs };

static bool same(model_string s, const char *text) { return s.size == strlen(text) && !memcmp(s.bytes, text, s.size); }

const model_arch *model_arch_find(model_string name) {
    for (size_t i = 0; i < N_ARCHS; i++)
        if (same(name, archs[i]->name)) return archs[i];
    return NULL;
}

/* Reads keys "<architecture>.<name>"; the first error stays in `code`. */
typedef struct {
    const model_file *f;
    const char *arch;
    st_error *e;
    st_code code;
} reader;

static const char *key_of(const reader *r, const char *name, char key[MAX_KEY_BYTES]) {
    snprintf(key, MAX_KEY_BYTES, "%s.%s", r->arch, name);
    return key;
}

static uint32_t number(reader *r, const char *name, uint32_t max) {
    char key[MAX_KEY_BYTES];
    uint64_t value = 0;
    if (r->code == ST_OK) r->code = model_file_u64(r->f, key_of(r, name, key), 1, max, &value, r->e);
    return (uint32_t)value;
}

/* As number(), `missing` where the file does not say. */
static uint32_t number_or(reader *r, const char *name, uint32_t max, uint32_t missing) {
    char key[MAX_KEY_BYTES];
    uint64_t value = missing;
    if (r->code != ST_OK) return missing;
    st_code c = model_file_u64(r->f, key_of(r, name, key), 1, max, &value, r->e);
    if (c != ST_ERR_NOT_FOUND) r->code = c;
    return c == ST_OK ? (uint32_t)value : missing;
}

static double real_or(reader *r, const char *name, double missing) {
    char key[MAX_KEY_BYTES];
    double value = missing;
    if (r->code != ST_OK) return missing;
    st_code c = model_file_f64(r->f, key_of(r, name, key), &value, r->e);
    if (c == ST_ERR_NOT_FOUND) return missing;
    r->code = c;
    if (c == ST_OK && !(value > 0 && value < 1e30))
        r->code = st_fail(r->e, ST_ERR_FORMAT, "%s: key %s is %g; expected a positive number", model_file_path(r->f), key, value);
    return value;
}

/* Refuses a file whose key says something that the forward pass does not do. */
static void expect(reader *r, const char *name, uint32_t expected) {
    uint32_t value = number_or(r, name, UINT32_MAX, expected);
    if (r->code == ST_OK && value != expected)
        r->code = st_fail(r->e, ST_ERR_UNSUPPORTED, "%s: key %s.%s is %u; only %u is supported for this model",
                          model_file_path(r->f), r->arch, name, value, expected);
}

static double real(reader *r, const char *name) {
    char key[MAX_KEY_BYTES];
    if (r->code == ST_OK && !model_file_has(r->f, key_of(r, name, key)))
        r->code = st_fail(r->e, ST_ERR_FORMAT, "%s: key %s is missing; the file says that its angles are scaled",
                          model_file_path(r->f), key);
    return real_or(r, name, 1);
}

static model_scaling read_scaling(reader *r) {
    char key[MAX_KEY_BYTES];
    model_string type;
    model_scaling s = {.kind = MODEL_SCALING_NONE, .magnitude = 1};
    if (r->code != ST_OK) return s;
    st_code c = model_file_string(r->f, key_of(r, "rope.scaling.type", key), &type, r->e);
    if (c == ST_ERR_NOT_FOUND) return s;
    r->code = c;
    if (c != ST_OK || same(type, "none")) return s;
    if (same(type, "linear")) {
        s.kind = MODEL_SCALING_LINEAR;
        s.factor = real(r, "rope.scaling.factor");
    } else if (same(type, "yarn")) {
        s.kind = MODEL_SCALING_YARN;
        s.factor = real(r, "rope.scaling.factor");
        s.original_context = number(r, "rope.scaling.original_context_length", INT32_MAX);
        s.beta_fast = real_or(r, "rope.scaling.yarn_beta_fast", 32);
        s.beta_slow = real_or(r, "rope.scaling.yarn_beta_slow", 1);
        s.magnitude = real_or(r, "rope.scaling.attn_factor", 1) * (1 + (s.factor > 1 ? 0.1 * fmath_log(s.factor) : 0));
    } else {
        r->code = st_fail(r->e, ST_ERR_UNSUPPORTED, "%s: key %s is '%.*s'; only 'none', 'linear' and 'yarn' are supported",
                          model_file_path(r->f), key, (int)(type.size < 32 ? type.size : 32), type.bytes);
    }
    return s;
}

/* Windows are the family's; their numbers are the file's. */
static void read_windows(reader *r, const model_arch *arch, model_info *i) {
    enum { GEMMA3_27B_LAYERS = 62 };
    if (!arch->global_every) return;
    i->window = number(r, "attention.sliding_window", INT32_MAX);
    i->global_every = number_or(r, "attention.sliding_window_pattern", MAX_LAYERS, arch->global_every);
    i->rope_base_local = real_or(r, "rope.freq_base_swa", arch->rope_base_local);
    if (r->code == ST_OK && i->n_layers == GEMMA3_27B_LAYERS)
        r->code =
            st_fail(r->e, ST_ERR_UNSUPPORTED, "%s: %u layers: Gemma 3 27B scales its scores in a way of its own, not supported",
                    model_file_path(r->f), i->n_layers);
}

static st_code read_vocabulary(const model_file *f, model_info *info, st_error *e) {
    const model_tensor *t = model_file_tensor(f, "token_embd.weight");
    if (!t) return st_fail(e, ST_ERR_FORMAT, "%s: tensor token_embd.weight is missing", model_file_path(f));
    if (t->dims[1] < 1 || t->dims[1] > MAX_VOCABULARY)
        return st_fail(e, ST_ERR_FORMAT, "%s: tensor token_embd.weight has %llu rows; expected 1 to %d tokens",
                       model_file_path(f), (unsigned long long)t->dims[1], MAX_VOCABULARY);
    info->n_vocab = (uint32_t)t->dims[1];
    const void *tokens;
    uint64_t n;
    st_code c = model_file_array(f, "tokenizer.ggml.tokens", MODEL_STRING, &tokens, &n, e);
    if (c == ST_OK && n != info->n_vocab)
        return st_fail(e, ST_ERR_FORMAT, "%s: tokenizer.ggml.tokens has %llu tokens, but token_embd.weight %u rows",
                       model_file_path(f), (unsigned long long)n, info->n_vocab);
    return c == ST_ERR_NOT_FOUND ? ST_OK : c;
}

static st_code check_shape(const model_file *f, const model_info *i, st_error *e) {
    if (i->n_heads % i->n_kv_heads)
        return st_fail(e, ST_ERR_FORMAT, "%s: %u query heads do not divide among %u KV heads", model_file_path(f), i->n_heads,
                       i->n_kv_heads);
    if (i->head_dim % 2 || i->dim % 32 || i->ffn_dim % 32 || i->n_heads * i->head_dim % 32)
        return st_fail(
            e, ST_ERR_UNSUPPORTED,
            "%s: embedding length %u, feed-forward length %u, %u heads of %u: rows must be multiples of 32 and heads even",
            model_file_path(f), i->dim, i->ffn_dim, i->n_heads, i->head_dim);
    return ST_OK;
}

st_code model_read_info(const model_file *f, model_info *out, st_error *e) {
    model_string name;
    st_code c = model_file_string(f, "general.architecture", &name, e);
    if (c != ST_OK) return c;
    const model_arch *arch = model_arch_find(name);
    if (!arch)
        return st_fail(e, ST_ERR_UNSUPPORTED, "%s: architecture '%.*s' is not supported; these are: %s", model_file_path(f),
                       (int)(name.size < 32 ? name.size : 32), name.bytes, arch_names);
    reader r = {.f = f, .arch = arch->name, .e = e};
    model_info i = {.architecture = arch->name};
    i.n_layers = number(&r, "block_count", MAX_LAYERS);
    i.dim = number(&r, "embedding_length", MAX_DIM);
    i.ffn_dim = number(&r, "feed_forward_length", MAX_DIM);
    i.n_heads = number(&r, "attention.head_count", MAX_HEADS);
    i.max_context = number(&r, "context_length", MAX_CONTEXT);
    if (r.code != ST_OK) return r.code;
    i.n_kv_heads = number_or(&r, "attention.head_count_kv", i.n_heads, i.n_heads);
    i.head_dim = number_or(&r, "attention.key_length", MAX_HEAD_DIM, i.dim / i.n_heads);
    i.rms_eps = (float)real_or(&r, "attention.layer_norm_rms_epsilon", 1e-5);
    i.rope_base = real_or(&r, "rope.freq_base", 10000.0);
    i.scaling = read_scaling(&r);
    read_windows(&r, arch, &i);
    expect(&r, "attention.value_length", i.head_dim);
    expect(&r, "rope.dimension_count", i.head_dim);
    if (r.code != ST_OK) return r.code;
    if (i.head_dim < 1 || i.head_dim > MAX_HEAD_DIM)
        return st_fail(e, ST_ERR_FORMAT, "%s: embedding length %u over %u heads: head size %u is not within 1 to %d",
                       model_file_path(f), i.dim, i.n_heads, i.head_dim, MAX_HEAD_DIM);
    if ((c = check_shape(f, &i, e)) != ST_OK || (c = read_vocabulary(f, &i, e)) != ST_OK) return c;
    *out = i;
    return ST_OK;
}

uint32_t model_extent_size(const model_info *i, model_extent x) {
    switch (x) {
    case MODEL_ONE: return 1;
    case MODEL_DIM: return i->dim;
    case MODEL_HEADS: return i->n_heads * i->head_dim;
    case MODEL_KV_HEADS: return i->n_kv_heads * i->head_dim;
    case MODEL_HEAD: return i->head_dim;
    case MODEL_HALF_HEAD: return i->head_dim / 2;
    case MODEL_FFN: return i->ffn_dim;
    case MODEL_VOCAB: return i->n_vocab;
    case MODEL_N_EXTENTS: break;
    }
    st_abort(__FILE__, __LINE__, "extent");
}

static st_code check_tensor(const model_file *f, const model_info *info, const model_tensor_row *row, const char *name,
                            const model_tensor **found, st_error *e) {
    const model_tensor *t = row->name ? model_file_tensor(f, name) : NULL;
    *found = t;
    if (!row->name) return ST_OK;
    if (!t)
        return row->holder == MODEL_OPTIONAL || row->holder == MODEL_LOADING
                   ? ST_OK
                   : st_fail(e, ST_ERR_FORMAT, "%s: tensor %s is missing", model_file_path(f), name);
    uint32_t rows = model_extent_size(info, row->rows), cols = model_extent_size(info, row->cols);
    uint32_t n_dims = row->rows == MODEL_ONE ? 1 : 2;
    if (t->n_dims != n_dims || t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != 1 || t->dims[3] != 1)
        return st_fail(e, ST_ERR_FORMAT, "%s: tensor %s is [%llu, %llu] with %u dimensions; the keys say [%u, %u] with %u",
                       model_file_path(f), name, (unsigned long long)t->dims[0], (unsigned long long)t->dims[1], t->n_dims, cols,
                       rows, n_dims);
    const kernels_format_info *format = kernels_format_of((kernels_format)t->format);
    if (!format || (row->rows == MODEL_ONE && t->format != KERNELS_F32))
        return st_fail(e, ST_ERR_UNSUPPORTED, "%s: tensor %s has type %s; %s", model_file_path(f), name,
                       format ? format->name : "unknown", format ? "a vector must be F32" : "see kernels/formats.def");
    return ST_OK;
}

/* All of the table is bound; does the file hold more? */
static st_code refuse_unknown(const model_file *f, const model_tensor *const *found, size_t n_found, st_error *e) {
    size_t n = 0;
    for (size_t i = 0; i < n_found; i++) n += found[i] != NULL;
    if (model_file_n_tensors(f) == n) return ST_OK; /* names are unique */
    for (uint64_t i = 0; i < model_file_n_tensors(f); i++) {
        const model_tensor *t = model_file_tensor_at(f, i);
        size_t k = 0;
        while (k < n_found && found[k] != t) k++;
        if (k == n_found)
            return st_fail(e, ST_ERR_UNSUPPORTED, "%s: tensor %.*s has no use in this architecture; refused rather than left out",
                           model_file_path(f), (int)(t->name.size < 64 ? t->name.size : 64), t->name.bytes);
    }
    return st_fail(e, ST_ERR_FORMAT, "%s: a tensor's name stands twice", model_file_path(f));
}

st_code model_bind(const model_file *f, const model_info *info, const model_arch *arch, const model_tensor **found, st_error *e) {
    char name[MAX_KEY_BYTES];
    st_code c = ST_OK;
    size_t n = 0;
    for (uint32_t k = 0; k < MODEL_N_OUTER && c == ST_OK; k++)
        c = check_tensor(f, info, &arch->outer[k], arch->outer[k].name, &found[n++], e);
    for (uint32_t l = 0; l < info->n_layers; l++)
        for (uint32_t k = 0; k < MODEL_N_LAYER && c == ST_OK; k++) {
            snprintf(name, sizeof name, "blk.%u.%s", l, arch->layer[k].name ? arch->layer[k].name : "");
            c = check_tensor(f, info, &arch->layer[k], name, &found[n++], e);
        }
    return c == ST_OK ? refuse_unknown(f, found, n, e) : c;
}
