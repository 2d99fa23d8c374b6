/* What a file says about its model: everything must be there, fit, and be used; whatever is not is named. */
#include "tests/unit/model/rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Loads a file made of `t`; returns the code and the message. */
static st_code load(const tiny *t, st_error *e) {
    tiny_file f = tiny_make(t);
    rig r;
    rig_options o = {.isa = "scalar", .n_threads = 1};
    st_code c = rig_make(f.file, &o, &r, e);
    if (c == ST_OK) rig_free(&r);
    tiny_free(&f);
    return c;
}

static void assert_refused(const tiny *t, st_code code, const char *named) {
    st_error e = {0};
    assert_int_equal(code, load(t, &e));
    if (!strstr(e.message, named) || !strstr(e.message, "tiny.gguf")) fail_msg("'%s' does not name %s", e.message, named);
}

/* Calls f with each family and the name of each of its tensors, as it stands in the file. */
static void each_tensor_of(const char *family, void (*f)(const char *family, const char *name)) {
    tiny t = tiny_of(family);
    t.rope_freqs = !family;
    tiny_file file = tiny_make(&t);
    for (uint64_t i = 0; i < model_file_n_tensors(file.file); i++) {
        char name[64];
        model_string s = model_file_tensor_at(file.file, i)->name;
        snprintf(name, sizeof name, "%.*s", (int)s.size, s.bytes);
        f(family, name);
    }
    tiny_free(&file);
}

static void each_tensor(void (*f)(const char *family, const char *name)) {
    static const char *const families[] = {NULL, "qwen2", "qwen3", "gemma3"};
    for (size_t i = 0; i < 4; i++) each_tensor_of(families[i], f);
}

static void try_without(const char *family, const char *name) {
    tiny t = tiny_of(family);
    t.rope_freqs = !family;
    t.without = name;
    st_error e = {0};
    if (strcmp(name, "output.weight") && strcmp(name, "rope_freqs.weight"))
        assert_refused(&t, ST_ERR_FORMAT, name);
    else
        assert_int_equal(ST_OK, load(&t, &e)); /* then the token table is the head, and no frequency has a factor */
}

static void try_bent(const char *family, const char *name) {
    tiny t = tiny_of(family);
    t.rope_freqs = !family;
    t.bent = name;
    /* The token table says how large the vocabulary is; the head then does not fit it. */
    assert_refused(&t, ST_ERR_FORMAT, strcmp(name, "token_embd.weight") ? name : "output.weight");
}

static void every_missing_tensor_is_named(void **state) {
    (void)state;
    each_tensor(try_without);
}

static void every_misshaped_tensor_is_named(void **state) {
    (void)state;
    each_tensor(try_bent);
}

static void a_vector_that_is_not_f32_is_named(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.half = "blk.1.ffn_norm.weight";
    assert_refused(&t, ST_ERR_UNSUPPORTED, "blk.1.ffn_norm.weight has type F16");
}

static void a_tensor_that_would_be_left_out_is_named(void **state) {
    (void)state;
    static const char *const extra[] = {"blk.0.attn_q_norm.weight", "blk.0.attn_q.bias", "blk.2.attn_q.weight",
                                        "rope_freqs.weights"};
    for (size_t i = 0; i < 4; i++) {
        tiny t = tiny_usual();
        t.extra = extra[i];
        assert_refused(&t, ST_ERR_UNSUPPORTED, extra[i]);
    }
}

static void every_missing_key_is_named(void **state) {
    (void)state;
    static const char *const keys[] = {"general.architecture",      "llama.block_count",          "llama.embedding_length",
                                       "llama.feed_forward_length", "llama.attention.head_count", "llama.context_length"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        tiny t = tiny_usual();
        t.without = keys[i];
        assert_refused(&t, ST_ERR_NOT_FOUND, keys[i]);
    }
}

static void keys_that_contradict_each_other_are_refused(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.n_kv_heads = 2;
    assert_refused(&t, ST_ERR_FORMAT, "3 query heads do not divide among 2 KV heads");
    t = tiny_usual();
    t.n_layers = 0;
    assert_refused(&t, ST_ERR_FORMAT, "llama.block_count");
    t = tiny_usual();
    t.max_context = UINT32_MAX;
    assert_refused(&t, ST_ERR_FORMAT, "llama.context_length");
    t = tiny_usual();
    t.without = "llama.attention.key_length"; /* then 64 / 3 = 21 */
    assert_refused(&t, ST_ERR_UNSUPPORTED, "llama.attention.value_length is 32");
    t = tiny_usual();
    t.n_tokens = 199;
    assert_refused(&t, ST_ERR_FORMAT, "199 tokens");
}

static void what_the_forward_pass_does_not_do_is_refused(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.architecture = "mamba";
    assert_refused(&t, ST_ERR_UNSUPPORTED, "'mamba'");
    t = tiny_usual();
    t.scaling = "longrope";
    assert_refused(&t, ST_ERR_UNSUPPORTED, "'longrope'");
    t.scaling = "linear";
    assert_refused(&t, ST_ERR_FORMAT, "llama.rope.scaling.factor is missing");
    t = tiny_usual();
    t.scaling = "yarn";
    t.factor = 2;
    assert_refused(&t, ST_ERR_NOT_FOUND, "llama.rope.scaling.original_context_length");
    t = tiny_of("gemma3");
    t.window = 0;
    assert_refused(&t, ST_ERR_NOT_FOUND, "gemma3.attention.sliding_window");
    t.window = 20;
    t.n_layers = 62;
    assert_refused(&t, ST_ERR_UNSUPPORTED, "Gemma 3 27B");
    t = tiny_usual();
    t.rope_dims = 16;
    assert_refused(&t, ST_ERR_UNSUPPORTED, "llama.rope.dimension_count is 16");
}

static void info_is_what_the_keys_say_and_has_defaults(void **state) {
    (void)state;
    tiny t = tiny_usual();
    t.n_kv_heads = 3;
    t.without = "llama.attention.head_count_kv";
    t.scaling = "none";
    t.n_tokens = 200;
    tiny_file f = tiny_make(&t);
    model_info i;
    assert_int_equal(ST_OK, model_read_info(f.file, &i, NULL));
    assert_string_equal("llama", i.architecture);
    assert_int_equal(3, i.n_kv_heads);
    assert_int_equal(32, i.head_dim);
    assert_int_equal(200, i.n_vocab);
    assert_int_equal(192, i.max_context);
    assert_true(i.rms_eps == 1e-5f && i.rope_base == 10000.0);
    tiny_free(&f);
}

static void note(void *context, double share) {
    double *last = context;
    assert_true(share > *last && share <= 1);
    *last = share;
}

static void progress_rises_to_one(void **state) {
    (void)state;
    tiny t = tiny_usual();
    tiny_file f = tiny_make(&t);
    rig r;
    rig_options o = {.isa = "scalar", .n_threads = 1};
    assert_int_equal(ST_OK, rig_make(f.file, &o, &r, NULL));
    double last = 0;
    model *m;
    model_options options = {r.ops, r.device, r.group, 4, 4, KERNELS_FAST, note, &last};
    assert_int_equal(ST_OK, model_load(f.file, &options, &m, NULL));
    assert_true(last == 1);
    model_destroy(m);
    options.max_choose = 5;
    st_error e = {0};
    assert_int_equal(ST_ERR_INVALID_ARGUMENT, model_load(f.file, &options, &m, &e));
    rig_free(&r);
    tiny_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_missing_tensor_is_named),
        cmocka_unit_test(every_misshaped_tensor_is_named),
        cmocka_unit_test(a_vector_that_is_not_f32_is_named),
        cmocka_unit_test(a_tensor_that_would_be_left_out_is_named),
        cmocka_unit_test(every_missing_key_is_named),
        cmocka_unit_test(keys_that_contradict_each_other_are_refused),
        cmocka_unit_test(what_the_forward_pass_does_not_do_is_refused),
        cmocka_unit_test(info_is_what_the_keys_say_and_has_defaults),
        cmocka_unit_test(progress_rises_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
