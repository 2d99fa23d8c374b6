/* Log-probabilities against sorting and libm in long double. */
#include "tests/unit/model/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { N = 700, MOST = 20 };

typedef struct {
    float l;
    uint32_t id;
} candidate;

static int by_l_then_id(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->l > y->l ? -1 : x->l < y->l ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

static void assert_close(float value, long double expected) {
    if (!(fabsl((long double)value - expected) <= 1e-7L * (1 + fabsl(expected))))
        fail_msg("%.9g, expected %.9Lg", (double)value, expected);
}

static void they_are_the_softmax_and_the_likeliest_come_in_order(void **state) {
    (void)state;
    uint64_t seed = 5;
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t n = 1 + (uint32_t)(tiny_random(&seed) >> 33) % N, n_top = round % (MOST + 1) < n ? round % (MOST + 1) : n;
        uint32_t id = (uint32_t)(tiny_random(&seed) >> 33) % n, top[MOST + 1];
        float logits[N], top_log[MOST + 1];
        candidate c[N];
        long double sum = 0;
        for (uint32_t v = 0; v < n; v++) {
            double unit = (double)(tiny_random(&seed) >> 40) / 16777216.0;
            logits[v] = round % 3 ? (float)(40 * unit - 20) : (float)(int)(6 * unit); /* many ties */
            c[v] = (candidate){logits[v], v};
            sum += expl((long double)logits[v]);
        }
        qsort(c, n, sizeof *c, by_l_then_id);
        top[n_top] = 77, top_log[n_top] = 77;
        assert_close(model_logprobs(logits, n, id, n_top, top, top_log), (long double)logits[id] - logl(sum));
        for (uint32_t k = 0; k < n_top; k++) {
            assert_int_equal(top[k], c[k].id);
            assert_close(top_log[k], (long double)c[k].l - logl(sum));
        }
        assert_true(top[n_top] == 77 && top_log[n_top] == 77);
    }
}

static void a_certain_token_has_0_and_never_more(void **state) {
    (void)state;
    float logits[] = {-80, 3e38f, -3e38f}, top_log[3];
    uint32_t top[3];
    float zero = model_logprobs(logits, 3, 1, 3, top, top_log);
    assert_true(zero == 0 && !signbit(zero) && !signbit(top_log[0]));
    assert_true(top_log[0] == 0 && top_log[1] < -1e38f && top_log[2] == -INFINITY); /* past the largest float */
    assert_true(model_logprobs(logits, 3, 0, 1, top, top_log) < -1e38f && top_log[0] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_are_the_softmax_and_the_likeliest_come_in_order),
        cmocka_unit_test(a_certain_token_has_0_and_never_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
