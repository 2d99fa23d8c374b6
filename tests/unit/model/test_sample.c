/* The choice of a token: properties of the filters, the distribution, and answers that must never change. */
#include "base/fmath.h"
#include "base/philox.h"
#include "tests/unit/model/tiny.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N = 1003 };

static const sampling open_sampling = {.temperature = 1, .top_p = 1, .min_p = 0, .top_k = 0, .seed = 42};

static void fill(float *logits, uint32_t n, uint64_t seed, float spread) {
    for (uint32_t i = 0; i < n; i++) logits[i] = spread * (float)((double)(tiny_random(&seed) >> 40) / 16777216.0);
}

/* "The choice" of numerics.md read aloud: sorts, keeps prefixes, draws for every token that is left. */
typedef struct {
    float l;
    uint32_t id;
    float deviation;
} candidate;

static int by_l_then_id(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->l > y->l ? -1 : x->l < y->l ? 1 : x->id < y->id ? -1 : x->id > y->id;
}

static int by_id(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_deviation_then_id(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    return x->deviation < y->deviation ? -1 : x->deviation > y->deviation ? 1 : by_id(a, b);
}

static uint64_t plain_weight(float l, float l_max) { return (uint64_t)((double)fmath_expf(l - l_max) * 1099511627776.0); }

/* c[0, n): descending; so it is after. Returns how many stay. */
static uint32_t plain_typical(candidate *c, uint32_t n, float p) {
    float l_max = c[0].l;
    uint64_t all = 0, sum = 0;
    double mean = 0;
    uint32_t k = 0;
    while (n && plain_weight(c[n - 1].l, l_max) == 0) n--;
    qsort(c, n, sizeof *c, by_id);
    for (uint32_t i = 0; i < n; i++) {
        all += plain_weight(c[i].l, l_max);
        mean += (double)plain_weight(c[i].l, l_max) * (double)(c[i].l - l_max);
    }
    mean /= (double)all;
    for (uint32_t i = 0; i < n; i++) c[i].deviation = (float)fabs(mean - (double)(c[i].l - l_max));
    qsort(c, n, sizeof *c, by_deviation_then_id);
    do sum += plain_weight(c[k++].l, l_max);
    while (k < n && (double)sum < (double)p * (double)all);
    qsort(c, k, sizeof *c, by_l_then_id);
    return k;
}

static uint32_t plain_choose(const float *logits, uint32_t n, const sampling *s, uint32_t position) {
    candidate *c = malloc(n * sizeof *c);
    assert_non_null(c);
    for (uint32_t i = 0; i < n; i++) c[i] = (candidate){s->temperature > 0 ? logits[i] / s->temperature : logits[i], i, 0};
    qsort(c, n, sizeof *c, by_l_then_id);
    uint32_t best = c[0].id;
    if (s->temperature > 0) {
        if (s->top_k && s->top_k < n) n = s->top_k;
        if (s->typical_p > 0 && s->typical_p < 1) n = plain_typical(c, n, s->typical_p);
        float l_max = c[0].l, best_score = -INFINITY;
        best = c[0].id;
        if (s->top_p < 1) {
            uint64_t all = 0, sum = 0;
            uint32_t k = 0;
            for (uint32_t i = 0; i < n; i++) all += plain_weight(c[i].l, l_max);
            do sum += plain_weight(c[k++].l, l_max);
            while (k < n && (double)sum < (double)s->top_p * (double)all);
            n = k;
        }
        for (uint32_t i = 0; i < n; i++) {
            if (s->min_p > 0 && (double)plain_weight(c[i].l, l_max) < (double)s->min_p * 1099511627776.0) continue;
            philox_block b = philox(s->seed, (philox_block){{position, c[i].id >> 2, s->sample, 0}});
            float u = ((float)(b.word[c[i].id & 3] >> 9) + 0.5f) * 0x1p-23f;
            float score = c[i].l + -fmath_logf(-fmath_logf(u));
            if (score > best_score || (score == best_score && c[i].id < best)) best_score = score, best = c[i].id;
        }
    }
    free(c);
    return best;
}

static void every_setting_chooses_as_the_plain_loop_does(void **state) {
    (void)state;
    static float logits[N];
    static uint64_t work[N];
    static const float temperatures[] = {0, 0.2f, 0.7f, 1, 3}, top_ps[] = {1, 0.95f, 0.5f, 0.01f}, min_ps[] = {0, 0.02f, 0.9f},
                       typical_ps[] = {0, 1, 0.9f, 0.4f, 0.001f};
    static const uint32_t top_ks[] = {0, 1, 2, 40, N - 1, N, N + 5};
    uint32_t position = 0;
    for (uint64_t round = 0; round < 7; round++) {
        fill(logits, N, round, round % 2 ? 4 : 25);
        if (round == 4) /* many ties, and zeros of both signs */
            for (uint32_t i = 0; i < N; i++) logits[i] = (float)((int)logits[i] / 5) * (i % 2 ? 1.0f : -1.0f);
        if (round == 5) qsort(logits, N, sizeof *logits, by_l_then_id);
        if (round == 6) /* so large that sums with a Gumbel value round to ties */
            for (uint32_t i = 0; i < N; i++) logits[i] = 1e8f + 8.0f * (float)(i % 5);
        for (size_t t = 0; t < 5; t++)
            for (size_t p = 0; p < 4; p++)
                for (size_t m = 0; m < 3; m++)
                    for (size_t k = 0; k < 7; k++) {
                        sampling s = {.temperature = temperatures[t],
                                      .top_p = top_ps[p],
                                      .min_p = min_ps[m],
                                      .top_k = top_ks[k],
                                      .seed = round * 77,
                                      .sample = (uint32_t)k,
                                      .typical_p = typical_ps[position % 5]};
                        assert_int_equal(plain_choose(logits, N, &s, position), model_choose(logits, N, &s, position, work));
                        position++;
                    }
    }
}

static void top_k_of_one_is_the_argmax(void **state) {
    (void)state;
    static float logits[N];
    static uint64_t work[N];
    sampling s = open_sampling;
    s.top_k = 1;
    for (uint32_t i = 0; i < 200; i++) {
        fill(logits, N, i, 3);
        logits[i] = logits[N - 1 - i] = 50;
        assert_int_equal(i, model_choose(logits, N, &s, i, work));
    }
}

static void ties_go_to_the_lowest_id(void **state) {
    (void)state;
    float logits[] = {-1, 2, -0.0f, 2, 0, 2};
    uint64_t work[6];
    sampling s = open_sampling;
    s.temperature = 0;
    assert_int_equal(1, model_choose(logits, 6, &s, 0, work));
    s.temperature = 1;
    s.top_k = 1;
    assert_int_equal(1, model_choose(logits, 6, &s, 0, work));
    float zeros[] = {-0.0f, 0}; /* equal as numbers, different as bits */
    for (uint32_t p = 0; p < 50; p++) assert_int_equal(0, model_choose(zeros, 2, &s, p, work));
}

static void the_largest_is_found_wherever_it_stands(void **state) {
    (void)state;
    static float logits[2000];
    const sampling greedy = {.temperature = 0};
    for (uint32_t n = 1; n < 2000; n += n < 40 ? 1 : 97)
        for (uint32_t at = 0; at < n; at += n < 40 ? 1 : 13) {
            for (uint32_t i = 0; i < n; i++) logits[i] = -2.0f - (float)(i % 7);
            logits[at] = -1;
            logits[n - 1] = -1; /* and the first of equals */
            assert_int_equal(model_choose(logits, n, &greedy, 0, NULL), at);
        }
    for (uint32_t i = 0; i < 2000; i++) logits[i] = -INFINITY;
    assert_int_equal(model_choose(logits, 2000, &greedy, 0, NULL), 0);
    logits[700] = -0.0f;
    logits[701] = 0;
    assert_int_equal(model_choose(logits, 2000, &greedy, 0, NULL), 700);
}

/* Renaming ids changes which token draws what, so only the set of tokens that can come out is compared. */
static void the_set_that_top_p_keeps_does_not_depend_on_the_order_of_ids(void **state) {
    (void)state;
    enum { M = 64 };
    float logits[M], turned[M];
    uint64_t work[M];
    bool seen[M] = {0}, seen_turned[M] = {0};
    fill(logits, M, 5, 3);
    for (uint32_t i = 0; i < M; i++) turned[(i * 37 + 11) % M] = logits[i];
    sampling s = open_sampling;
    s.top_p = 0.6f;
    for (uint32_t p = 0; p < 20000; p++) {
        seen[model_choose(logits, M, &s, p, work)] = true;
        seen_turned[model_choose(turned, M, &s, p, work)] = true;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < M; i++) {
        assert_int_equal(seen[i], seen_turned[(i * 37 + 11) % M]);
        n += seen[i];
    }
    assert_in_range(n, 2, M - 2);
}

static void min_p_removes_what_is_less_likely_than_its_share_of_the_best(void **state) {
    (void)state;
    float logits[] = {0, -1.6094f /* ln 0.2000 */, -1.6095f, -5, -0.1f};
    uint64_t work[5];
    bool seen[5] = {0};
    sampling s = open_sampling;
    s.min_p = 0.2f;
    for (uint32_t p = 0; p < 2000; p++) seen[model_choose(logits, 5, &s, p, work)] = true;
    assert_true(seen[0] && seen[1] && !seen[2] && !seen[3] && seen[4]);
}

/* p = 0.5, 0.3, 0.1, 0.1: the mean surprise is 1.168 nats, that of 0.3 is 1.204, nearest of all. */
static void typical_p_keeps_what_is_as_surprising_as_expected_even_if_that_is_not_the_likeliest(void **state) {
    (void)state;
    float logits[] = {-0.6931f, -1.2040f, -2.3026f, -2.3026f, -INFINITY};
    uint64_t work[5];
    sampling s = open_sampling;
    s.typical_p = 0.2f;
    for (uint32_t p = 0; p < 200; p++) assert_int_equal(model_choose(logits, 5, &s, p, work), 1);
    bool seen[5] = {0};
    s.typical_p = 0.75f;
    for (uint32_t p = 0; p < 2000; p++) seen[model_choose(logits, 5, &s, p, work)] = true;
    assert_true(seen[0] && seen[1] && !seen[2] && !seen[3] && !seen[4]);
    s.min_p = 0.61f; /* of the likeliest that is left */
    s.typical_p = 0.2f;
    assert_int_equal(model_choose(logits, 5, &s, 0, work), 1);
}

/* Gumbel-max draws from softmax(logits / T): chi-square over 16 tokens; 99.99 % of true draws stay under 44.3 (15 degrees). */
static void choices_follow_the_softmax(void **state) {
    (void)state;
    enum { M = 16, DRAWS = 40000 };
    float logits[M];
    uint64_t work[M];
    uint32_t count[M] = {0};
    double weight[M], all = 0, chi = 0;
    fill(logits, M, 9, 3);
    sampling s = open_sampling;
    s.temperature = 1.3f;
    for (uint32_t i = 0; i < M; i++) all += weight[i] = exp(logits[i] / 1.3);
    for (uint32_t p = 0; p < DRAWS; p++) count[model_choose(logits, M, &s, p, work)]++;
    for (uint32_t i = 0; i < M; i++) {
        double expected = DRAWS * weight[i] / all;
        assert_true(expected > 20);
        chi += (count[i] - expected) * (count[i] - expected) / expected;
    }
    assert_true(chi < 44.3);
}

static void a_choice_depends_on_seed_position_and_sample(void **state) {
    (void)state;
    static float logits[N];
    uint32_t same[3] = {0};
    fill(logits, N, 3, 1);
    for (uint32_t p = 0; p < 200; p++) {
        sampling a = open_sampling, b = a, c = a;
        b.seed += UINT64_C(1) << 32;
        c.sample = 1;
        uint32_t x = model_choose(logits, N, &a, p, NULL);
        assert_int_equal(x, model_choose(logits, N, &a, p, NULL));
        same[0] += x == model_choose(logits, N, &b, p, NULL);
        same[1] += x == model_choose(logits, N, &c, p, NULL);
        same[2] += x == model_choose(logits, N, &a, p + 1, NULL);
    }
    for (int i = 0; i < 3; i++) assert_in_range(same[i], 0, 10);
}

/* Frozen: what clients were answered under these seeds. Made by a script that follows speculation.md, not by this code. */
static void known_choices_never_change(void **state) {
    (void)state;
    static float logits[N];
    static uint64_t work[N];
    static const uint32_t expected[4][6] = {{752, 464, 108, 840, 276, 113},
                                            {646, 99, 607, 320, 667, 59},
                                            {320, 100, 197, 829, 127, 261},
                                            {928, 531, 995, 928, 534, 801}};
    static const sampling settings[] = {{.temperature = 1, .top_p = 1, .seed = 1},
                                        {.temperature = 0.7f, .top_p = 0.9f, .top_k = 50, .seed = UINT64_C(0xfedcba9876543210)},
                                        {.temperature = 2, .top_p = 1, .min_p = 0.05f, .seed = 7, .sample = 3},
                                        {.temperature = 1, .top_p = 0.5f}};
    fill(logits, N, 2026, 12);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t p = 0; p < 6; p++) {
            uint32_t id = model_choose(logits, N, &settings[i], p * 1000, work);
            if (id != expected[i][p]) print_message("setting %u, position %u: %u\n", i, p * 1000, id);
            assert_int_equal(expected[i][p], id);
        }
}

static void nll_is_the_negative_logarithm_of_the_softmax(void **state) {
    (void)state;
    float logits[] = {1, 2, 3, -100};
    double sum = exp(1) + exp(2) + exp(3) + exp(-100);
    for (uint32_t i = 0; i < 4; i++) assert_true(fabs(model_nll(logits, 4, i) - (log(sum) - logits[i])) < 1e-12);
    float far[] = {1e30f, -1e30f};
    assert_true(fabs(model_nll(far, 2, 0)) < 1e-12);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_setting_chooses_as_the_plain_loop_does),
        cmocka_unit_test(top_k_of_one_is_the_argmax),
        cmocka_unit_test(ties_go_to_the_lowest_id),
        cmocka_unit_test(the_largest_is_found_wherever_it_stands),
        cmocka_unit_test(the_set_that_top_p_keeps_does_not_depend_on_the_order_of_ids),
        cmocka_unit_test(min_p_removes_what_is_less_likely_than_its_share_of_the_best),
        cmocka_unit_test(typical_p_keeps_what_is_as_surprising_as_expected_even_if_that_is_not_the_likeliest),
        cmocka_unit_test(choices_follow_the_softmax),
        cmocka_unit_test(a_choice_depends_on_seed_position_and_sample),
        cmocka_unit_test(known_choices_never_change),
        cmocka_unit_test(nll_is_the_negative_logarithm_of_the_softmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
