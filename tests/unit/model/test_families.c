/* The forward pass of each family against a plain one in doubles, written from the papers and the models' published definitions,
 * and not from our code: RMSNorm (arXiv 1910.07467), rotary embedding (2104.09864) and its scalings (2306.15595, 2309.00071),
 * grouped- query attention (2305.13245), SwiGLU and GEGLU (2002.05202), Qwen 2 and 3 (2407.10671, 2505.09388), Gemma 3
 * (2503.19786). */
#include "tests/unit/model/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 45, MAX = 800 }; /* tokens; the widest row */

typedef struct {
    const model_file *f;
    const tiny *t;
    bool halves, gelu, windows; /* what the family does */
    model_info i;
    double x[N][MAX], k[N][MAX], v[N][MAX];
} pass;

static const float *tensor(const pass *p, const char *name) {
    const model_tensor *t = model_file_tensor(p->f, name);
    return t ? t->bytes : NULL;
}

static const float *of_layer(const pass *p, uint32_t l, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s", l, name);
    return tensor(p, full);
}

static void norm(double *out, const double *x, const float *w, uint32_t n, double eps) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += x[i] * x[i];
    for (uint32_t i = 0; i < n; i++) out[i] = x[i] / sqrt(sum / n + eps) * w[i];
}

static void product(double *out, const float *w, const double *x, uint32_t n_rows, uint32_t n_cols) {
    for (uint32_t r = 0; r < n_rows; r++) {
        out[r] = 0;
        for (uint32_t c = 0; c < n_cols; c++) out[r] += (double)w[(size_t)r * n_cols + c] * x[c];
    }
}

static double clamp01(double x) { return x < 0 ? 0 : x > 1 ? 1 : x; }

/* Angle of pair i at a position. */
static double angle_of(const pass *p, uint32_t i, uint32_t position, bool local) {
    uint32_t d = p->i.head_dim;
    double base = local ? 500 : 10000, f = pow(base, -2.0 * i / d);
    const float *freqs = tensor(p, "rope_freqs.weight");
    const char *scaling = p->t->scaling && !local ? p->t->scaling : "none";
    if (freqs) f /= (double)freqs[i];
    if (!strcmp(scaling, "linear")) f /= (double)p->t->factor;
    if (!strcmp(scaling, "yarn")) {
        const double l = p->t->trained_context, pi = acos(-1);
        double low = floor(d * log(l / (32 * 2 * pi)) / (2 * log(base))), high = ceil(d * log(l / (2 * pi)) / (2 * log(base)));
        if (low < 0) low = 0;
        double stretch = clamp01((i - low) / (high - low));
        f = f * (1 - stretch) + f / (double)p->t->factor * stretch;
    }
    return position * f;
}

static void rotate(const pass *p, double *x, uint32_t n_heads, uint32_t position, bool local) {
    uint32_t d = p->i.head_dim, apart = p->halves ? d / 2 : 1;
    bool yarn = p->t->scaling && !strcmp(p->t->scaling, "yarn");
    double size = yarn ? 1 + 0.1 * log((double)p->t->factor) : 1;
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < d / 2; i++) {
            double angle = angle_of(p, i, position, local), *pair = x + h * d + (p->halves ? i : 2 * i);
            double a = pair[0], b = pair[apart];
            pair[0] = size * (a * cos(angle) - b * sin(angle));
            pair[apart] = size * (a * sin(angle) + b * cos(angle));
        }
}

static void attend(const pass *p, double *out, const double *q, uint32_t position, uint32_t from) {
    uint32_t d = p->i.head_dim, group = p->i.n_heads / p->i.n_kv_heads;
    for (uint32_t h = 0; h < p->i.n_heads; h++) {
        double weight[N], all = 0;
        for (uint32_t t = from; t <= position; t++) {
            double s = 0;
            for (uint32_t i = 0; i < d; i++) s += q[h * d + i] * p->k[t][h / group * d + i];
            all += weight[t] = exp(s / sqrt(d));
        }
        for (uint32_t i = 0; i < d; i++) {
            double o = 0;
            for (uint32_t t = from; t <= position; t++) o += weight[t] / all * p->v[t][h / group * d + i];
            out[h * d + i] = o;
        }
    }
}

/* One of q, k, v of a position. */
static void project(const pass *p, uint32_t l, char which, double *out, const double *h, uint32_t n_heads) {
    uint32_t d = p->i.head_dim;
    char weight[32], bias[32], norm_of_head[32];
    snprintf(weight, sizeof weight, "attn_%c.weight", which);
    snprintf(bias, sizeof bias, "attn_%c.bias", which);
    snprintf(norm_of_head, sizeof norm_of_head, "attn_%c_norm.weight", which);
    product(out, of_layer(p, l, weight), h, n_heads * d, p->i.dim);
    const float *b = of_layer(p, l, bias), *w = of_layer(p, l, norm_of_head);
    for (uint32_t i = 0; b && i < n_heads * d; i++) out[i] += (double)b[i];
    for (uint32_t i = 0; w && i < n_heads; i++) norm(out + i * d, out + i * d, w, d, p->i.rms_eps);
}

static void add(const pass *p, double *x, double *h, const float *post_norm) {
    if (post_norm) norm(h, h, post_norm, p->i.dim, p->i.rms_eps);
    for (uint32_t c = 0; c < p->i.dim; c++) x[c] += h[c];
}

static double activate(const pass *p, double g) {
    if (!p->gelu) return g / (1 + exp(-g));
    return 0.5 * g * (1 + tanh(sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g)));
}

static void layer(pass *p, uint32_t l) {
    const model_info *i = &p->i;
    double h[MAX], q[MAX], o[MAX], up[MAX];
    bool local = p->windows && l % 2 == 0;
    for (uint32_t t = 0; t < N; t++) {
        uint32_t from = local && t + 1 > p->t->window ? t + 1 - p->t->window : 0;
        norm(h, p->x[t], of_layer(p, l, "attn_norm.weight"), i->dim, i->rms_eps);
        project(p, l, 'q', q, h, i->n_heads);
        project(p, l, 'k', p->k[t], h, i->n_kv_heads);
        project(p, l, 'v', p->v[t], h, i->n_kv_heads);
        rotate(p, q, i->n_heads, t, local);
        rotate(p, p->k[t], i->n_kv_heads, t, local);
        attend(p, o, q, t, from);
        product(h, of_layer(p, l, "attn_output.weight"), o, i->dim, i->n_heads * i->head_dim);
        add(p, p->x[t], h, of_layer(p, l, "post_attention_norm.weight"));
        norm(h, p->x[t], of_layer(p, l, "ffn_norm.weight"), i->dim, i->rms_eps);
        product(o, of_layer(p, l, "ffn_gate.weight"), h, i->ffn_dim, i->dim);
        product(up, of_layer(p, l, "ffn_up.weight"), h, i->ffn_dim, i->dim);
        for (uint32_t c = 0; c < i->ffn_dim; c++) o[c] = activate(p, o[c]) * up[c];
        product(h, of_layer(p, l, "ffn_down.weight"), o, i->dim, i->ffn_dim);
        add(p, p->x[t], h, of_layer(p, l, "post_ffw_norm.weight"));
    }
}

static void compare(const tiny *t) {
    tiny_file f = tiny_make(t);
    pass *p = calloc(1, sizeof *p);
    float *logits = calloc((size_t)N * t->n_vocab, sizeof *logits);
    double *expected = calloc(t->n_vocab, sizeof *expected), largest = 0, h[MAX];
    uint32_t token[N];
    rig r;
    assert_true(p && logits && expected);
    bool gemma = t->architecture && !strcmp(t->architecture, "gemma3");
    *p = (pass){.f = f.file, .t = t, .halves = t->architecture != NULL, .gelu = gemma, .windows = gemma};
    assert_int_equal(ST_OK, model_read_info(f.file, &p->i, NULL));
    const float *table = tensor(p, "token_embd.weight"), *head = tensor(p, "output.weight");
    for (uint32_t i = 0; i < N; i++) {
        token[i] = i * 31 % t->n_vocab;
        for (uint32_t c = 0; c < t->dim; c++)
            p->x[i][c] = (double)table[(size_t)token[i] * t->dim + c] * (gemma ? sqrt(t->dim) : 1);
    }
    for (uint32_t l = 0; l < t->n_layers; l++) layer(p, l);
    rig_options o = {.isa = "auto", .n_threads = 2, .kv_type = "f32"};
    assert_int_equal(ST_OK, rig_make(f.file, &o, &r, NULL));
    rig_feed(&r, 1, token, 0, N, N, logits);
    for (uint32_t i = 0; i < N; i++) {
        norm(h, p->x[i], tensor(p, "output_norm.weight"), t->dim, p->i.rms_eps);
        product(expected, head ? head : table, h, t->n_vocab, t->dim);
        for (uint32_t v = 0; v < t->n_vocab; v++) {
            assert_true(fabs(expected[v] - (double)logits[(size_t)i * t->n_vocab + v]) < 2e-5);
            if (fabs(expected[v]) > largest) largest = fabs(expected[v]);
        }
    }
    assert_true(largest > 1); /* of logits that are not all near zero */
    rig_free(&r);
    free(p);
    free(logits);
    free(expected);
    tiny_free(&f);
}

static void logits_are_those_of_a_plain_forward_pass(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.floats = true;
    t.n_layers = 3;
    t.n_heads = 6;
    t.n_kv_heads = 2;
    compare(&t);
}

static void without_an_output_tensor_the_token_table_is_the_head(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.floats = t.tied = true;
    compare(&t);
}

static tiny floats_of(const char *architecture) {
    tiny t = tiny_of(architecture);
    t.floats = true;
    t.n_layers = 3;
    t.n_heads = 6;
    t.n_kv_heads = 2;
    return t;
}

static void each_family_is_what_was_published(void **state) {
    (void)state;
    static const char *const names[] = {"qwen2", "qwen3", "gemma3"};
    for (size_t i = 0; i < 3; i++) {
        tiny t = floats_of(names[i]);
        t.tied = i > 0;
        compare(&t);
    }
}

static void angles_are_scaled_as_the_file_says(void **state) {
    (void)state;
    static const char *const names[] = {NULL, "qwen2", "gemma3"};
    for (size_t i = 0; i < 3; i++)
        for (int yarn = 0; yarn < 2; yarn++) {
            tiny t = floats_of(names[i]);
            t.scaling = yarn ? "yarn" : "linear";
            t.factor = 4;
            t.trained_context = 600;      /* so that pairs of all three kinds are there */
            if (yarn && i == 2) continue; /* no such model: its windowed layers would not be scaled */
            compare(&t);
        }
    tiny t = floats_of(NULL);
    t.rope_freqs = true;
    compare(&t);
}

/* The same tiny files through llama.cpp, float weights and float KV: tests/golden/make_families.py. Its GELU comes from a table
 * of halves. */
static const struct {
    const char *name, *architecture, *scaling;
    bool rope_freqs;
    double bound;
} peers[] = {
    {"llama", NULL, NULL, false, 2e-5},
    {"llama-linear", NULL, "linear", false, 2e-5},
    {"llama-yarn", NULL, "yarn", false, 2e-5},
    {"llama-freqs", NULL, NULL, true, 2e-5},
    {"qwen2", "qwen2", NULL, false, 2e-5},
    {"qwen2-yarn", "qwen2", "yarn", false, 2e-5},
    {"qwen3", "qwen3", NULL, false, 2e-5},
    {"gemma3", "gemma3", NULL, false, 3e-3},
    {"gemma3-linear", "gemma3", "linear", false, 3e-3},
};

static tiny peer_file(size_t i) {
    tiny t = tiny_of(peers[i].architecture);
    t.floats = true;
    t.n_layers = t.window ? 12 : 3; /* llama.cpp has each sixth layer see all, whatever the file says */
    t.n_heads = 2;                  /* heads as wide together as the model, or llama.cpp refuses qwen2 */
    t.scaling = peers[i].scaling;
    t.factor = t.scaling ? 4 : 0;
    t.trained_context = t.scaling ? 64 : 0;
    t.rope_freqs = peers[i].rope_freqs;
    t.tied = t.window != 0;
    t.global_every = 6;
    t.rope_base_local = 10000;
    return t;
}

static void write_peer_files(const char *directory) {
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        char path[512];
        tiny t = peer_file(i);
        tiny_file f = tiny_make(&t);
        snprintf(path, sizeof path, "%s/%s.gguf", directory, peers[i].name);
        FILE *out = fopen(path, "wb");
        assert_non_null(out);
        assert_int_equal(f.size, fwrite(f.bytes, 1, f.size, out));
        fclose(out);
        tiny_free(&f);
    }
}

static void logits_are_those_of_llama_cpp(void **state) {
    (void)state;
    FILE *in = fopen("tests/golden/families.txt", "r");
    char name[32];
    unsigned n, token[N], at;
    assert_non_null(in);
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) { /* name, n tokens, then n - 1 times -log p of the next */
        tiny t = peer_file(i);
        tiny_file f = tiny_make(&t);
        rig r;
        rig_options o = {.isa = "auto", .n_threads = 1, .kv_type = "f32"};
        float *logits = calloc((size_t)N * t.n_vocab, sizeof *logits);
        uint32_t ids[N];
        double nll;
        assert_non_null(logits);
        assert_int_equal(ST_OK, rig_make(f.file, &o, &r, NULL));
        assert_int_equal(2, fscanf(in, "%31s %u", name, &n));
        assert_string_equal(name, peers[i].name);
        assert_true(n <= N);
        for (unsigned k = 0; k < n; k++) assert_int_equal(1, fscanf(in, "%u", &token[k]));
        for (unsigned k = 0; k < n; k++) ids[k] = token[k];
        rig_feed(&r, 0, ids, 0, n, n, logits);
        while (fscanf(in, " @%u %lf", &at, &nll) == 2) {
            assert_true(at + 1 < n);
            double found = model_nll(logits + (size_t)at * t.n_vocab, t.n_vocab, ids[at + 1]);
            if (!(fabs(found - nll) < peers[i].bound)) fail_msg("%s, row %u: %.7f, llama.cpp %.7f", name, at, found, nll);
        }
        free(logits);
        rig_free(&r);
        tiny_free(&f);
    }
    fclose(in);
}

int main(void) {
    const char *directory = getenv("CONSORT_WRITE_PEERS"); /* for tests/golden/make_families.py */
    if (directory) return write_peer_files(directory), 0;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_a_plain_forward_pass),
        cmocka_unit_test(each_family_is_what_was_published),
        cmocka_unit_test(logits_are_those_of_llama_cpp),
        cmocka_unit_test(angles_are_scaled_as_the_file_says),
        cmocka_unit_test(without_an_output_tensor_the_token_table_is_the_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
