/* Fault points: off unless a plan says otherwise, and the same again with the same plan. */
#include "base/fault.h"

#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

enum { PASSES = 4000 };

static uint32_t count(fault_point p, char hits[PASSES]) {
    uint32_t n = 0;
    for (int i = 0; i < PASSES; i++) {
        hits[i] = fault_hits(p) ? 'x' : '-';
        n += hits[i] == 'x';
    }
    return n;
}

static void without_a_plan_no_point_hits(void **state) {
    (void)state;
    char hits[PASSES];
    const char *const none[] = {NULL, ""};
    for (int p = 0; p < FAULT_N_POINTS; p++) assert_int_equal(count((fault_point)p, hits), 0);
    assert_int_equal(fault_plan("move.flip=1", NULL), ST_OK);
    assert_int_equal(count(FAULT_MOVE_FLIP, hits), PASSES);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(fault_plan(none[i], NULL), ST_OK);
        assert_int_equal(count(FAULT_MOVE_FLIP, hits), 0);
    }
}

static void every_point_can_be_named_and_hits_alone(void **state) {
    (void)state;
    char hits[PASSES], plan[64];
    for (int p = 0; p < FAULT_N_POINTS; p++) {
        snprintf(plan, sizeof plan, "%s=1", fault_get((fault_point)p).name);
        assert_int_equal(fault_plan(plan, NULL), ST_OK);
        for (int q = 0; q < FAULT_N_POINTS; q++) assert_int_equal(count((fault_point)q, hits), p == q ? PASSES : 0);
    }
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static void one_pass_in_so_many_hits_and_the_seed_says_which(void **state) {
    (void)state;
    char first[PASSES], again[PASSES], other[PASSES];
    assert_int_equal(fault_plan("move.cut=40,seed=7,move.flip=3", NULL), ST_OK);
    assert_in_range(count(FAULT_MOVE_CUT, first), PASSES / 80, PASSES / 20);
    assert_int_equal(fault_plan("seed=7,move.cut=40", NULL), ST_OK);
    count(FAULT_MOVE_CUT, again);
    assert_memory_equal(first, again, PASSES);
    assert_int_equal(fault_plan("seed=8,move.cut=40", NULL), ST_OK);
    count(FAULT_MOVE_CUT, other);
    assert_memory_not_equal(first, other, PASSES);
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static void a_plan_that_makes_no_sense_is_told_and_changes_nothing(void **state) {
    (void)state;
    char before[PASSES];
    assert_int_equal(fault_plan("move.flip=2,seed=3", NULL), ST_OK);
    count(FAULT_MOVE_FLIP, before);
    const char *const bad[][2] = {{"move.flip=2,move=3", "no fault point 'move'"},
                                  {"move.flip=2,move.flipp=3", "no fault point 'move.flipp'"},
                                  {"move.flip=2,move.cut", "expected POINT=N"},
                                  {"move.flip=2,move.cut=", "expected POINT=N"},
                                  {"move.flip=2,move.cut=-1", "expected POINT=N"},
                                  {"move.flip=2,move.cut=1x", "expected POINT=N"},
                                  {"move.flip=2,,move.cut=1", "expected POINT=N"},
                                  {"move.flip=2,move.cut=0", "move.cut: one in 0?"},
                                  {"move.flip=2,move.cut=4294967296", "one in 4294967296?"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        st_error e = {0};
        char hits[PASSES];
        assert_int_equal(fault_plan(bad[i][0], &e), ST_ERR_INVALID_ARGUMENT);
        if (!strstr(e.message, bad[i][1])) fail_msg("%s: %s", bad[i][0], e.message);
        assert_int_not_equal(count(FAULT_MOVE_FLIP, hits), 0);
    }
    assert_int_equal(fault_get(FAULT_MOVE_FLIP).one_in, 2);
    assert_int_equal(fault_get(FAULT_MOVE_FLIP).passes, (1 + sizeof bad / sizeof *bad) * PASSES);
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static void a_point_tells_what_it_is_and_how_often_it_hit(void **state) {
    (void)state;
    char hits[PASSES];
    assert_int_equal(fault_plan("move.cut=10,seed=5", NULL), ST_OK);
    uint32_t n = count(FAULT_MOVE_CUT, hits);
    for (int off = 0; off < 2; off++) { /* with no plan the counts are those of the last one */
        fault_state s = fault_get(FAULT_MOVE_CUT);
        assert_string_equal(s.name, "move.cut");
        assert_non_null(strstr(s.help, "breaks"));
        assert_true(s.one_in == (off ? 0 : 10) && s.passes == PASSES && s.hits == n);
        assert_int_equal(fault_plan("", NULL), ST_OK);
    }
    assert_int_equal(fault_plan("move.flip=1", NULL), ST_OK);
    fault_state s = fault_get(FAULT_MOVE_CUT);
    assert_true(s.one_in == 0 && s.passes == 0 && s.hits == 0);
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static atomic_bool over;

static void *pass_points(void *context) {
    (void)context;
    while (!atomic_load(&over))
        for (int p = 0; p < FAULT_N_POINTS; p++) fault_hits((fault_point)p);
    return NULL;
}

/* What ThreadSanitizer says is the test; and that the last plan holds. */
static void plans_change_while_threads_pass_points(void **state) {
    (void)state;
    pthread_t threads[2];
    char hits[PASSES];
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, pass_points, NULL), 0);
    for (uint32_t i = 0; i < 200; i++) {
        assert_int_equal(fault_plan(i % 3   ? "move.flip=1000,move.cut=7000,seed=1"
                                    : i % 2 ? "move.stall=500"
                                            : NULL,
                                    NULL),
                         ST_OK);
        fault_state s = fault_get((fault_point)(i % FAULT_N_POINTS));
        assert_non_null(s.name);
    }
    atomic_store(&over, true);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(fault_plan("move.short=1", NULL), ST_OK);
    assert_true(count(FAULT_MOVE_SHORT, hits) == PASSES && count(FAULT_MOVE_STALL, hits) == 0);
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_plan_no_point_hits),
        cmocka_unit_test(every_point_can_be_named_and_hits_alone),
        cmocka_unit_test(one_pass_in_so_many_hits_and_the_seed_says_which),
        cmocka_unit_test(a_plan_that_makes_no_sense_is_told_and_changes_nothing),
        cmocka_unit_test(a_point_tells_what_it_is_and_how_often_it_hit),
        cmocka_unit_test(plans_change_while_threads_pass_points),
    };
    log_setup(LOG_ERROR, -1); /* each fault is a line */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
