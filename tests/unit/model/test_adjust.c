/* What changes logits before the choice, against its definition read aloud, token by token. */
#include "tests/unit/model/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 331, MANY = 40 };

static uint32_t below(uint64_t *seed, uint32_t n) { return (uint32_t)(tiny_random(seed) >> 33) % n; }

static float plain(const float *logits, uint32_t v, const model_adjustment *a) {
    float l = logits[v];
    for (uint32_t i = 0; i < a->n_bias; i++)
        if (a->bias_token[i] == v) l += a->bias[i];
    uint32_t n_all = 0, n_answer = 0;
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        n_all += a->tokens[i] == v;
        n_answer += i >= a->n_prompt && a->tokens[i] == v;
    }
    if (n_all && a->repetition != 0) l = l > 0 ? l / a->repetition : l * a->repetition;
    l = l - (float)n_answer * a->frequency - (n_answer > 0 ? a->presence : 0);
    return a->allowed && !(a->allowed[v / 64] >> v % 64 & 1) ? -INFINITY : l;
}

static void assert_as_plain(const float *logits, uint32_t n, const model_adjustment *a) {
    float out[N + 1];
    uint32_t count[N] = {0}, zeros[N] = {0};
    out[n] = 77; /* a guard */
    model_adjust(logits, n, a, out, count);
    assert_memory_equal(count, zeros, sizeof count);
    for (uint32_t v = 0; v < n; v++) {
        float expected = plain(logits, v, a);
        assert_memory_equal(&out[v], &expected, sizeof expected);
    }
    assert_true(out[n] == 77);
}

static void every_token_gets_what_the_definition_says(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int round = 0; round < 300; round++) {
        uint32_t n = round % 3 ? 1 + below(&seed, N) : 64 * (1 + below(&seed, 5)), ids[MANY], n_bias = below(&seed, MANY) % n;
        float logits[N], bias[MANY];
        uint64_t allowed[MODEL_MASK_WORDS(N)];
        for (uint32_t v = 0; v < n; v++) logits[v] = (float)below(&seed, 4000) / 100 - 20;
        for (uint32_t i = 0; i < n_bias; i++) ids[i] = i * (n / MANY ? n / MANY : 1), bias[i] = (float)below(&seed, 200) - 100;
        for (size_t i = 0; i < MODEL_MASK_WORDS(N); i++) allowed[i] = round % 4 ? tiny_random(&seed) : UINT64_MAX;
        uint32_t tokens[2 * MANY], n_tokens = 1 + below(&seed, 2 * MANY), kinds = below(&seed, 8);
        for (uint32_t i = 0; i < n_tokens; i++) tokens[i] = below(&seed, below(&seed, 2) ? n : n / 20 + 1);
        model_adjustment a = {.n_bias = n_bias,
                              .bias_token = ids,
                              .bias = bias,
                              .repetition = kinds & 1 ? 0.5f + (float)below(&seed, 3) / 2 : 0,
                              .presence = kinds & 2 ? (float)below(&seed, 401) / 100 - 2 : 0,
                              .frequency = kinds & 4 ? (float)below(&seed, 401) / 100 - 2 : 0,
                              .n_tokens = n_tokens,
                              .n_prompt = 1 + below(&seed, n_tokens),
                              .tokens = tokens,
                              .allowed = round % 5 ? allowed : NULL};
        assert_as_plain(logits, n, &a);
    }
}

static void a_forbidden_token_is_never_chosen(void **state) {
    (void)state;
    float logits[N], out[N];
    uint64_t allowed[MODEL_MASK_WORDS(N)], work[N], seed = 2;
    const sampling asked[] = {{.temperature = 0},
                              {.temperature = 3, .top_p = 1, .seed = 4},
                              {.temperature = 3, .top_p = 1, .top_k = 100, .seed = 5},
                              {.temperature = 3, .top_p = 0.99f, .typical_p = 0.99f, .seed = 6}};
    for (uint32_t p = 0; p < 400; p++) {
        for (uint32_t v = 0; v < N; v++) logits[v] = (float)below(&seed, 4000) / 100 - 20;
        memset(allowed, 0, sizeof allowed);
        for (uint32_t i = 0, n = 1 + below(&seed, 3); i < n; i++)
            allowed[below(&seed, N) / 64] |= UINT64_C(1) << below(&seed, 60);
        allowed[0] |= 2; /* one is a token of the vocabulary for sure */
        model_adjustment a = {.allowed = allowed};
        model_adjust(logits, N, &a, out, NULL); /* no tokens, no counts */
        for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
            uint32_t id = model_choose(out, N, &asked[i], p, work);
            if (!(allowed[id / 64] >> id % 64 & 1)) fail_msg("setting %zu, position %u: %u", i, p, id);
        }
    }
}

static void only_real_penalties_count_as_such(void **state) {
    (void)state;
    assert_false(model_penalises(&(sampling){0}));
    assert_false(model_penalises(&(sampling){.repetition = 1}));
    assert_true(model_penalises(&(sampling){.repetition = 0.9f}));
    assert_true(model_penalises(&(sampling){.repetition = 1, .presence = -1}));
    assert_true(model_penalises(&(sampling){.repetition = 1, .frequency = 0.1f}));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_gets_what_the_definition_says),
        cmocka_unit_test(a_forbidden_token_is_never_chosen),
        cmocka_unit_test(only_real_penalties_count_as_such),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
