/* Threads that take turns are never in at once, and one that has its turn all the time lets the others have theirs. */
#include "parallel/turns.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { THREADS = 3, TURNS = 300000 };

typedef struct {
    turns t;
    uint64_t n; /* not atomic */
    _Atomic int over;
} shared;

static void *take_turns(void *context) {
    shared *s = context;
    for (uint32_t i = 0; i < TURNS; i++) {
        turns_begin(&s->t);
        s->n++;
        turns_end(&s->t);
    }
    return NULL;
}

static void one_at_a_time_is_in(void **state) {
    (void)state;
    shared s = {0};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(0, pthread_create(&threads[i], NULL, take_turns, &s));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(THREADS * TURNS, s.n);
}

static void *never_rest(void *context) {
    shared *s = context;
    while (!s->over) {
        turns_begin(&s->t);
        s->n++;
        turns_end(&s->t);
    }
    return NULL;
}

static void who_never_rests_keeps_no_other_out(void **state) {
    (void)state;
    shared s = {0};
    pthread_t thread;
    assert_int_equal(0, pthread_create(&thread, NULL, never_rest, &s));
    for (uint32_t i = 0; i < 1000; i++) {
        turns_begin(&s.t);
        s.n++;
        turns_end(&s.t);
    }
    s.over = 1;
    pthread_join(thread, NULL);
    assert_true(s.n >= 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_at_a_time_is_in),
        cmocka_unit_test(who_never_rests_keeps_no_other_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
