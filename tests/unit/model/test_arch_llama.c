/* The llama forward pass against a plain one in doubles, written from the architecture's papers and not from our code:
 * RMSNorm (arXiv 1910.07467), rotary embedding (2104.09864), grouped-query attention (2305.13245), SwiGLU (2002.05202). */
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

static void rotate(const pass *p, double *x, uint32_t n_heads, uint32_t position) {
    uint32_t d = p->i.head_dim;
    for (uint32_t h = 0; h < n_heads; h++)
        for (uint32_t i = 0; i < d; i += 2) {
            double angle = position * pow(p->i.rope_base, -(double)i / d), a = x[h * d + i], b = x[h * d + i + 1];
            x[h * d + i] = a * cos(angle) - b * sin(angle);
            x[h * d + i + 1] = a * sin(angle) + b * cos(angle);
        }
}

static void attend(const pass *p, double *out, const double *q, uint32_t position) {
    uint32_t d = p->i.head_dim, group = p->i.n_heads / p->i.n_kv_heads;
    for (uint32_t h = 0; h < p->i.n_heads; h++) {
        double weight[N], all = 0;
        for (uint32_t t = 0; t <= position; t++) {
            double s = 0;
            for (uint32_t i = 0; i < d; i++) s += q[h * d + i] * p->k[t][h / group * d + i];
            all += weight[t] = exp(s / sqrt(d));
        }
        for (uint32_t i = 0; i < d; i++) {
            double o = 0;
            for (uint32_t t = 0; t <= position; t++) o += weight[t] / all * p->v[t][h / group * d + i];
            out[h * d + i] = o;
        }
    }
}

static void layer(pass *p, uint32_t l) {
    const model_info *i = &p->i;
    double h[MAX], q[MAX], o[MAX], up[MAX];
    uint32_t heads = i->n_heads * i->head_dim, kv = i->n_kv_heads * i->head_dim;
    for (uint32_t t = 0; t < N; t++) {
        norm(h, p->x[t], of_layer(p, l, "attn_norm.weight"), i->dim, i->rms_eps);
        product(q, of_layer(p, l, "attn_q.weight"), h, heads, i->dim);
        product(p->k[t], of_layer(p, l, "attn_k.weight"), h, kv, i->dim);
        product(p->v[t], of_layer(p, l, "attn_v.weight"), h, kv, i->dim);
        rotate(p, q, i->n_heads, t);
        rotate(p, p->k[t], i->n_kv_heads, t);
        attend(p, o, q, t);
        product(h, of_layer(p, l, "attn_output.weight"), o, i->dim, heads);
        for (uint32_t c = 0; c < i->dim; c++) p->x[t][c] += h[c];
        norm(h, p->x[t], of_layer(p, l, "ffn_norm.weight"), i->dim, i->rms_eps);
        product(o, of_layer(p, l, "ffn_gate.weight"), h, i->ffn_dim, i->dim);
        product(up, of_layer(p, l, "ffn_up.weight"), h, i->ffn_dim, i->dim);
        for (uint32_t c = 0; c < i->ffn_dim; c++) o[c] = o[c] / (1 + exp(-o[c])) * up[c];
        product(h, of_layer(p, l, "ffn_down.weight"), o, i->dim, i->ffn_dim);
        for (uint32_t c = 0; c < i->dim; c++) p->x[t][c] += h[c];
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
    p->f = f.file;
    assert_int_equal(ST_OK, model_read_info(f.file, &p->i, NULL));
    const float *table = tensor(p, "token_embd.weight"), *head = tensor(p, "output.weight");
    for (uint32_t i = 0; i < N; i++) {
        token[i] = i * 31 % t->n_vocab;
        for (uint32_t c = 0; c < t->dim; c++) p->x[i][c] = table[(size_t)token[i] * t->dim + c];
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_a_plain_forward_pass),
        cmocka_unit_test(without_an_output_tensor_the_token_table_is_the_head),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
