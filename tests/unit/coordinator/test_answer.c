#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "coordinator/coordinator_int.h" /* answer is inside the room; it has no public face */
#include <string.h>

enum { MAX_PIECE = 16 };

/* Pushes `text` in pieces whose lengths `seed` decides; what comes out is NUL-terminated in `out`. Returns whether a stop string
 * was met. */
static bool run(const char *const *stops, uint32_t n_stops, const char *text, unsigned seed, char *out) {
    answer a;
    size_t n = 0, at = 0, size = strlen(text);
    bool met = false;
    assert_int_equal(answer_init(&a, stops, n_stops, MAX_PIECE), ST_OK);
    while (at < size && !met) {
        seed = seed * 1103515245u + 12345u;
        size_t piece = (seed >> 16) % (MAX_PIECE + 1);
        if (piece > size - at) piece = size - at;
        met = answer_push(&a, text + at, piece, out, &n);
        at += piece;
    }
    if (!met) answer_end(&a, out, &n);
    out[n] = 0;
    answer_deinit(&a);
    return met;
}

static void text_without_stop_strings_goes_through_at_once(void **state) {
    (void)state;
    answer a;
    char out[64];
    size_t n = 0;
    assert_int_equal(answer_init(&a, NULL, 0, MAX_PIECE), ST_OK);
    assert_false(answer_push(&a, "hello", 5, out, &n));
    assert_int_equal(n, 5);
    answer_deinit(&a);
}

static void what_may_begin_a_stop_string_is_held_until_it_is_decided(void **state) {
    (void)state;
    const char *stops[] = {"END"};
    answer a;
    char out[64];
    size_t n = 0;
    assert_int_equal(answer_init(&a, stops, 1, MAX_PIECE), ST_OK);
    assert_false(answer_push(&a, "the E", 5, out, &n));
    assert_int_equal(n, 4);
    assert_false(answer_push(&a, "N", 1, out, &n));
    assert_int_equal(n, 4);
    assert_false(answer_push(&a, "E", 1, out, &n)); /* "EN" is free, the new "E" is held */
    assert_memory_equal(out, "the EN", 6);
    assert_int_equal(n, 6);
    assert_true(answer_push(&a, "ND and more", 11, out, &n));
    assert_int_equal(n, 6);
    answer_deinit(&a);
}

static void the_cut_is_the_same_however_the_text_comes_in(void **state) {
    (void)state;
    static const struct {
        const char *stops[3], *text, *out;
        bool met;
    } cases[] = {
        {{"aab"}, "aaaaab rest", "aaa", true},
        {{"abc", "b"}, "xxabc", "xxa", true}, /* the shorter one is whole first */
        {{"x", "yx"}, "..yx..", "..", true},  /* both end together: the earlier start wins */
        {{"stop"}, "no such word: sto", "no such word: sto", false},
        {{"\n\n", "###"}, "a\nb## c\n\n###", "a\nb## c", true},
        {{"ü"}, "f\xc3\xb6r \xc3\xbc x", "f\xc3\xb6r ", true},
    };
    char out[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t n_stops = 0;
        while (n_stops < 3 && cases[i].stops[n_stops]) n_stops++;
        for (unsigned seed = 0; seed < 500; seed++) {
            assert_int_equal(run(cases[i].stops, n_stops, cases[i].text, seed, out), cases[i].met);
            assert_string_equal(out, cases[i].out);
        }
    }
}

static void answers_survive_allocation_failure(void **state) {
    (void)state;
    answer a;
    mem_fail_at(1);
    assert_int_equal(answer_init(&a, NULL, 0, MAX_PIECE), ST_FATAL_MEMORY);
    mem_fail_at(0);
    answer_deinit(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_without_stop_strings_goes_through_at_once),
        cmocka_unit_test(what_may_begin_a_stop_string_is_held_until_it_is_decided),
        cmocka_unit_test(the_cut_is_the_same_however_the_text_comes_in),
        cmocka_unit_test(answers_survive_allocation_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
