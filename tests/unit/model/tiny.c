#include "kernels/tile.h" /* has a local of the name `tiny` */

#include "tests/unit/model/tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ALIGN = 32, MAX_TENSORS = 64 };

uint64_t tiny_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} writer;

static void *put(writer *w, const void *from, size_t n) {
    if (w->size + n >= w->room) {
        w->room = 2 * (w->size + n) + 64;
        w->bytes = realloc(w->bytes, w->room);
        assert_non_null(w->bytes);
    }
    void *at = w->bytes + w->size;
    if (from)
        memcpy(at, from, n);
    else
        memset(at, 0, n);
    w->size += n;
    return at;
}

static void put_u32(writer *w, uint32_t v) { put(w, &v, sizeof v); }
static void put_u64(writer *w, uint64_t v) { put(w, &v, sizeof v); }
static void put_text(writer *w, const char *s) {
    put_u64(w, strlen(s));
    put(w, s, strlen(s));
}

typedef struct {
    const tiny *t;
    writer keys, infos, data;
    uint64_t n_keys, n_tensors, random;
} maker;

static bool is(const char *a, const char *b) { return a && !strcmp(a, b); }

static bool key(maker *m, const char *name, uint32_t type) {
    if (is(m->t->without, name)) return false;
    m->n_keys++;
    put_text(&m->keys, name);
    put_u32(&m->keys, type);
    return true;
}

static void key_u32(maker *m, const char *name, uint32_t v) {
    if (key(m, name, MODEL_U32)) put_u32(&m->keys, v);
}

static void key_f32(maker *m, const char *name, float v) {
    if (key(m, name, MODEL_F32)) put(&m->keys, &v, sizeof v);
}

static void key_text(maker *m, const char *name, const char *v) {
    if (key(m, name, MODEL_STRING)) put_text(&m->keys, v);
}

/* Uniform in (-1, 1). */
static float uniform(maker *m) { return (float)((double)(tiny_random(&m->random) >> 40) / 8388608.0 - 1.0); }

/* Positive normal numbers, truncated: good enough for weights. */
static uint16_t half(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)((u >> 16 & 0x8000u) | (((u >> 23 & 255u) - 112u) << 10) | (u >> 13 & 1023u));
}

static void one(maker *m, uint32_t format, float scale) {
    float x = uniform(m) * scale;
    if (x < 0x1p-13f && x > -0x1p-13f) x = 0x1p-13f;
    uint16_t h = half(x);
    if (format == KERNELS_F32)
        put(&m->data, &x, sizeof x);
    else if (format == KERNELS_BF16)
        put(&m->data, (const char *)&x + 2, 2); /* the upper half */
    else
        put(&m->data, &h, sizeof h);
}

static void block(maker *m, uint32_t format, float scale) {
    uint16_t d = half(scale / (format == KERNELS_Q8_0 ? 127.0f : 8.0f) * (1.0f + 0.5f * uniform(m))), low = half(-scale);
    uint64_t bits[4];
    for (int i = 0; i < 4; i++) bits[i] = tiny_random(&m->random);
    put(&m->data, &d, sizeof d);
    if (format == KERNELS_Q4_1) put(&m->data, &low, sizeof low);
    put(&m->data, bits, format == KERNELS_Q8_0 ? 32 : 16);
}

/* A block of any quantized type: random codes, and scales that give values of about `scale`. */
static void any_block(maker *m, uint32_t format, float scale) {
    const tile_shape *s = &tile_shapes[format];
    const float codes = s->book || s->is_signed ? 128.0f : (float)(1u << (s->low + s->high));
    const float sub = s->scale == TILE_BYTES ? 32.0f : s->scale == TILE_NIBBLES ? 8.0f : 1.0f;
    const uint16_t d = half_of_float(2 * scale / codes / sub * (1.0f + 0.5f * uniform(m)));
    const uint16_t low = half_of_float(sub > 1 ? scale / sub : -scale); /* sub-minimums are subtracted */
    size_t at = m->data.size, n = kernels_format_of((kernels_format)format)->block_bytes;
    for (size_t i = 0; i < n; i++) {
        uint8_t byte = (uint8_t)tiny_random(&m->random);
        put(&m->data, &byte, 1);
    }
    uint8_t *block = m->data.bytes + at;
    if (s->scale == TILE_E8M0)
        block[s->d_at] = (uint8_t)(120 + block[s->d_at] % 3);
    else
        memcpy(block + s->d_at, &d, 2);
    if (s->has_min) memcpy(block + s->d_at + 2, &low, 2);
}

static void rows(maker *m, const char *name, uint32_t format, uint64_t cols, uint64_t n_rows, bool vector) {
    const float infinite = __builtin_inff();
    const uint16_t infinite_half = 0x7c00;
    float scale = vector ? 0.2f : 2.0f / (float)(cols > 256 ? 22 : cols > 90 ? 10 : 8);
    for (uint64_t r = 0; r < n_rows; r++) {
        size_t at = m->data.size;
        if (format == KERNELS_F32 || format == KERNELS_F16 || format == KERNELS_BF16)
            for (uint64_t c = 0; c < cols; c++) one(m, format, scale);
        else if (m->t->any)
            for (uint64_t c = 0; c < cols; c += kernels_format_of((kernels_format)format)->block_elements)
                any_block(m, format, scale);
        else
            for (uint64_t c = 0; c < cols; c += 32) block(m, format, scale);
        if (vector && format == KERNELS_F32)
            for (uint64_t c = 0; c < cols; c++) {
                float x;
                memcpy(&x, m->data.bytes + at + 4 * c, 4);
                x += strstr(name, ".bias") ? 0.0f : 1.0f; /* of norms, and divisors of frequencies */
                memcpy(m->data.bytes + at + 4 * c, &x, 4);
            }
        if (is(m->t->poison, name) && r == n_rows - 1) {
            if (format == KERNELS_F32)
                memcpy(m->data.bytes + at, &infinite, 4);
            else
                memcpy(m->data.bytes + at, &infinite_half, 2);
        }
    }
}

/* Whose blocks a row of `cols` is made of. */
static uint32_t any_format(maker *m, uint32_t cols) {
    for (;;) {
        uint32_t format = (uint32_t)(tiny_random(&m->random) % KERNELS_N_FORMATS);
        if (cols % kernels_format_of((kernels_format)format)->block_elements == 0) return format;
    }
}

static void tensor(maker *m, const char *name, uint32_t format, uint32_t cols, uint32_t n_rows) {
    static const uint32_t ggml[] = {
#define FORMAT(id, number, text, elements, size, ...) [KERNELS_##id] = number,
#include "kernels/formats.def"
#undef FORMAT
    };
    bool vector = n_rows == 0;
    if (is(m->t->without, name)) return;
    if (m->t->floats) format = KERNELS_F32;
    if (m->t->any && !vector) format = any_format(m, cols);
    if (is(m->t->half, name)) format = KERNELS_F16;
    if (is(m->t->bent, name)) vector ? (cols += 32) : (n_rows += 1);
    m->n_tensors++;
    put(&m->data, NULL, (ALIGN - m->data.size % ALIGN) % ALIGN);
    put_text(&m->infos, name);
    put_u32(&m->infos, vector ? 1 : 2);
    put_u64(&m->infos, cols);
    if (!vector) put_u64(&m->infos, n_rows);
    put_u32(&m->infos, ggml[format]);
    put_u64(&m->infos, m->data.size);
    rows(m, name, format, cols, vector ? 1 : n_rows, vector);
}

static bool is_family(const tiny *t, const char *name) { return is(t->architecture ? t->architecture : "llama", name); }

typedef struct {
    const char *name;
    uint32_t format, cols, rows;
} tensor_of_layer;

static void layer_tensors(maker *m, uint32_t l, const tensor_of_layer *all, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%u.%s", l, all[i].name);
        tensor(m, name, all[i].format, all[i].cols, all[i].rows);
    }
}

static void layer(maker *m, uint32_t l) {
    const tiny *t = m->t;
    uint32_t heads = t->n_heads * t->head_dim, kv = t->n_kv_heads * t->head_dim;
    const tensor_of_layer all[] = {{"attn_norm.weight", KERNELS_F32, t->dim, 0},
                                   {"attn_q.weight", KERNELS_Q4_1, t->dim, heads},
                                   {"attn_k.weight", KERNELS_Q8_0, t->dim, kv},
                                   {"attn_v.weight", KERNELS_F16, t->dim, kv},
                                   {"attn_output.weight", KERNELS_Q4_0, heads, t->dim},
                                   {"ffn_norm.weight", KERNELS_F32, t->dim, 0},
                                   {"ffn_gate.weight", KERNELS_Q4_1, t->dim, t->ffn_dim},
                                   {"ffn_up.weight", KERNELS_Q8_0, t->dim, t->ffn_dim},
                                   {"ffn_down.weight", l % 2 ? KERNELS_F32 : KERNELS_Q4_1, t->ffn_dim, t->dim}};
    const tensor_of_layer biases[] = {
        {"attn_q.bias", KERNELS_F32, heads, 0}, {"attn_k.bias", KERNELS_F32, kv, 0}, {"attn_v.bias", KERNELS_F32, kv, 0}};
    const tensor_of_layer head_norms[] = {{"attn_q_norm.weight", KERNELS_F32, t->head_dim, 0},
                                          {"attn_k_norm.weight", KERNELS_F32, t->head_dim, 0}};
    const tensor_of_layer post_norms[] = {{"post_attention_norm.weight", KERNELS_F32, t->dim, 0},
                                          {"post_ffw_norm.weight", KERNELS_F32, t->dim, 0}};
    layer_tensors(m, l, all, sizeof all / sizeof *all);
    if (is_family(t, "qwen2")) layer_tensors(m, l, biases, 3);
    if (is_family(t, "qwen3") || is_family(t, "gemma3")) layer_tensors(m, l, head_norms, 2);
    if (is_family(t, "gemma3")) layer_tensors(m, l, post_norms, 2);
}

static const char *of_family(const maker *m, const char *name, char out[96]) {
    snprintf(out, 96, "%s.%s", m->t->architecture ? m->t->architecture : "llama", name);
    return out;
}

static void rope_keys(maker *m) {
    const tiny *t = m->t;
    char k[96];
    key_u32(m, of_family(m, "rope.dimension_count", k), t->rope_dims ? t->rope_dims : t->head_dim);
    key_f32(m, of_family(m, "rope.freq_base", k), 10000.0f);
    if (t->scaling) key_text(m, of_family(m, "rope.scaling.type", k), t->scaling);
    if (t->factor > 0) key_f32(m, of_family(m, "rope.scaling.factor", k), t->factor);
    if (t->trained_context) key_u32(m, of_family(m, "rope.scaling.original_context_length", k), t->trained_context);
    if (!t->window) return;
    key_u32(m, of_family(m, "attention.sliding_window", k), t->window);
    key_u32(m, of_family(m, "attention.sliding_window_pattern", k), t->global_every ? t->global_every : 2);
    key_f32(m, of_family(m, "rope.freq_base_swa", k), t->rope_base_local > 0 ? t->rope_base_local : 500.0f);
}

static void keys(maker *m) {
    const tiny *t = m->t;
    char k[96];
    key_text(m, "general.architecture", t->architecture ? t->architecture : "llama");
    key_u32(m, of_family(m, "block_count", k), t->n_layers);
    key_u32(m, of_family(m, "embedding_length", k), t->dim);
    key_u32(m, of_family(m, "feed_forward_length", k), t->ffn_dim);
    key_u32(m, of_family(m, "attention.head_count", k), t->n_heads);
    key_u32(m, of_family(m, "attention.head_count_kv", k), t->n_kv_heads);
    key_u32(m, of_family(m, "attention.key_length", k), t->head_dim);
    key_u32(m, of_family(m, "attention.value_length", k), t->head_dim);
    key_u32(m, of_family(m, "context_length", k), t->max_context);
    key_f32(m, of_family(m, "attention.layer_norm_rms_epsilon", k), 1e-5f);
    rope_keys(m);
    if (t->n_tokens && key(m, "tokenizer.ggml.tokens", MODEL_ARRAY)) {
        put_u32(&m->keys, MODEL_STRING);
        put_u64(&m->keys, t->n_tokens);
        for (uint32_t i = 0; i < t->n_tokens; i++) put_text(&m->keys, "x");
    }
}

tiny tiny_usual(void) {
    return (tiny){.n_layers = 2,
                  .n_heads = 3,
                  .n_kv_heads = 1,
                  .head_dim = 32,
                  .dim = 64,
                  .ffn_dim = 736,
                  .n_vocab = 200,
                  .max_context = 192,
                  .seed = 1};
}

tiny tiny_of(const char *architecture) {
    tiny t = tiny_usual();
    t.architecture = architecture;
    if (is(architecture, "gemma3")) t.window = 20;
    return t;
}

tiny_file tiny_make(const tiny *t) {
    maker m = {.t = t, .random = t->seed};
    writer all = {0};
    tiny_file f = {0};
    st_error e = {0};
    keys(&m);
    tensor(&m, "token_embd.weight", KERNELS_Q8_0, t->dim, t->n_vocab);
    for (uint32_t l = 0; l < t->n_layers; l++) layer(&m, l);
    tensor(&m, "output_norm.weight", KERNELS_F32, t->dim, 0);
    if (!t->tied) tensor(&m, "output.weight", KERNELS_F32, t->dim, t->n_vocab);
    if (t->rope_freqs) tensor(&m, "rope_freqs.weight", KERNELS_F32, t->head_dim / 2, 0);
    if (t->extra) tensor(&m, t->extra, KERNELS_F32, 32, 1);
    put(&all, "GGUF", 4);
    put_u32(&all, 3);
    put_u64(&all, m.n_tensors);
    put_u64(&all, m.n_keys);
    put(&all, m.keys.bytes, m.keys.size);
    put(&all, m.infos.bytes, m.infos.size);
    put(&all, NULL, (ALIGN - all.size % ALIGN) % ALIGN);
    put(&m.data, NULL, (ALIGN - m.data.size % ALIGN) % ALIGN);
    put(&all, m.data.bytes, m.data.size);
    free(m.keys.bytes);
    free(m.infos.bytes);
    free(m.data.bytes);
    f.bytes = aligned_alloc(64, (all.size + 63) / 64 * 64);
    assert_non_null(f.bytes);
    memcpy(f.bytes, all.bytes, all.size);
    f.size = all.size;
    free(all.bytes);
    if (model_file_over("tiny.gguf", f.bytes, f.size, &f.file, &e) != ST_OK) fail_msg("%s", e.message);
    return f;
}

void tiny_free(tiny_file *f) {
    model_file_close(f->file);
    free(f->bytes);
    *f = (tiny_file){0};
}
