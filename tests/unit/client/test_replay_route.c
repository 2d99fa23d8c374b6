/* Hedge on real text: answers of the target whose subject changes, and the tables that come with Consort.
 *
 * tests/golden/subjects.txt: token ids of greedy answers of SmolLM2-135M-Instruct, a domain and an answer a line, none of which a
 * table was counted from. bench/routing.py does the same with all recorded answers. */
#include "base/filemap.h"
#include "client/replay_route.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DOMAINS = 4, ANSWERS = 4, LENGTH = 96, MOST = 2 * ANSWERS * LENGTH + 1, CHANGES = DOMAINS * (DOMAINS - 1) * ANSWERS };
static const char *const domains[DOMAINS] = {"code", "general", "math", "medicine"};

typedef struct {
    uint32_t n, tokens[LENGTH];
} answer;
static answer answers[DOMAINS][ANSWERS];
static filemap files[DOMAINS];
static spec_ngram tables[DOMAINS];
static spec_drafter *drafters[DOMAINS];

static int load(void **state) {
    (void)state;
    char line[16384];
    uint32_t n[DOMAINS] = {0};
    FILE *f = fopen(CONSORT_SOURCE_DIR "/tests/golden/subjects.txt", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        uint32_t d = 0;
        char *at = line + strcspn(line, " ");
        while (d < DOMAINS && strncmp(line, domains[d], (size_t)(at - line))) d++;
        assert_true(d < DOMAINS && n[d] < ANSWERS);
        answer *a = &answers[d][n[d]++];
        for (char *end; a->n < LENGTH; a->n++, at = end) {
            a->tokens[a->n] = (uint32_t)strtoul(at, &end, 10);
            if (end == at) break;
        }
    }
    (void)fclose(f);
    for (uint32_t d = 0; d < DOMAINS; d++) {
        char path[512];
        st_error e;
        (void)snprintf(path, sizeof path, CONSORT_SOURCE_DIR "/drafters/%s.ngram", domains[d]);
        assert_int_equal(filemap_open(path, &files[d], &e), ST_OK);
        assert_int_equal(spec_ngram_init(&tables[d], files[d].bytes, files[d].size_bytes, NULL, &e), ST_OK);
        drafters[d] = &tables[d].drafter;
        assert_int_equal(n[d], ANSWERS);
    }
    return 0;
}

static int unload(void **state) {
    (void)state;
    for (uint32_t d = 0; d < DOMAINS; d++) filemap_close(&files[d]);
    return 0;
}

/* What becomes of one text: two answers of a domain, then two of another. */
typedef struct {
    uint32_t asked, first, steps, rounds, right; /* tokens behind the change until the right one is asked, is first; steps until
                                                    it is asked; rounds from 64 tokens on, and those that ask it */
} outcome;

static uint32_t add(uint32_t *text, uint32_t n, const answer *a) {
    memcpy(text + n, a->tokens, a->n * sizeof *text);
    return n + a->n;
}

static outcome change(uint32_t from, uint32_t to, uint32_t i) {
    static uint32_t text[MOST];
    static replay_round rounds[MOST];
    replay_route r = {.drafters = drafters, .n = DOMAINS, .budget = 4};
    outcome out = {.asked = UINT32_MAX, .first = UINT32_MAX};
    uint32_t n = 1, steps = 0;
    for (uint32_t k = 0; k < 2; k++) n = add(text, n, &answers[from][(i + k) % ANSWERS]);
    uint32_t begin = n - 1;
    for (uint32_t k = 0; k < 2; k++) n = add(text, n, &answers[to][(i + k) % ANSWERS]);
    uint32_t n_rounds = replay_run(&r, text, 1, n, rounds);
    for (uint32_t k = 0; k < n_rounds; k++) {
        uint32_t behind = rounds[k].at - begin;
        if (rounds[k].at < begin) continue;
        if (out.asked == UINT32_MAX && rounds[k].picked >> to & 1) out.asked = behind, out.steps = steps;
        if (out.first == UINT32_MAX && rounds[k].first == to) out.first = behind;
        steps++;
        out.rounds += behind >= 64;
        out.right += behind >= 64 && rounds[k].picked >> to & 1;
    }
    return out;
}

static int by_value(const void *a, const void *b) {
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static void a_change_of_subject_is_followed_within_a_few_steps(void **state) {
    (void)state;
    uint32_t asked[CHANGES], first[CHANGES], steps[CHANGES], n = 0, rounds = 0, right = 0;
    for (uint32_t c = 0; c < DOMAINS * DOMAINS * ANSWERS; c++) {
        uint32_t from = c / ANSWERS / DOMAINS, to = c / ANSWERS % DOMAINS;
        if (from == to) continue;
        outcome o = change(from, to, c % ANSWERS);
        asked[n] = o.asked, first[n] = o.first, steps[n++] = o.steps;
        rounds += o.rounds, right += o.right;
    }
    qsort(asked, n, sizeof *asked, by_value);
    qsort(first, n, sizeof *first, by_value);
    qsort(steps, n, sizeof *steps, by_value);
    print_message(
        "%u changes: asked after %u tokens or %u steps (median; 9 of 10: %u, %u), first after %u (%u); later asked in %.2f\n", n,
        asked[n / 2], steps[n / 2], asked[n * 9 / 10], steps[n * 9 / 10], first[n / 2], first[n * 9 / 10],
        (double)right / rounds);
    assert_true(asked[n / 2] <= 10 && steps[n / 2] <= 8 && asked[n * 9 / 10] <= 28 && first[n / 2] <= 32);
    assert_true(right > 0.93 * rounds);
}

static void the_right_one_is_asked_from_the_start(void **state) {
    (void)state;
    uint32_t n = 0, right = 0;
    for (uint32_t d = 0; d < DOMAINS; d++)
        for (uint32_t i = 0; i < ANSWERS; i++) {
            uint32_t text[LENGTH + 1] = {0};
            replay_round rounds[LENGTH + 1];
            replay_route r = {.drafters = drafters, .n = DOMAINS, .budget = 4};
            uint32_t n_rounds = replay_run(&r, text, 1, add(text, 1, &answers[d][i]), rounds);
            for (uint32_t k = 8; k < n_rounds; k++) n++, right += rounds[k].picked >> d & 1;
        }
    print_message("from the eighth step on it is asked in %.2f\n", (double)right / n);
    assert_true(right > 0.9 * n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_change_of_subject_is_followed_within_a_few_steps),
        cmocka_unit_test(the_right_one_is_asked_from_the_start),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
