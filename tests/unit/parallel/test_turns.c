/* Threads that take turns are never in at once, and come in the order in which they asked. */
#include "parallel/turns.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { THREADS = 3, TURNS = 2000 };

typedef struct {
    turns t;
    uint64_t n; /* not atomic */
    pthread_t order[THREADS];
} shared;

static void *take_turns(void *context) {
    shared *s = context;
    for (uint32_t i = 0; i < TURNS; i++) {
        turns_begin(&s->t);
        const uint64_t n = s->n;
        sched_yield(); /* to who might come in */
        s->n = n + 1;
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

static void *come_once(void *context) {
    shared *s = context;
    turns_begin(&s->t);
    s->order[s->n++] = pthread_self();
    turns_end(&s->t);
    return NULL;
}

static void who_asks_first_comes_first(void **state) {
    (void)state;
    shared s = {0};
    pthread_t threads[THREADS];
    turns_begin(&s.t);
    for (unsigned i = 0; i < THREADS; i++) { /* they ask, one after the other */
        assert_int_equal(0, pthread_create(&threads[i], NULL, come_once, &s));
        while (s.t.next < i + 2) sched_yield();
    }
    turns_end(&s.t);
    turns_begin(&s.t); /* at once again: that is behind them all */
    assert_int_equal(THREADS, s.n);
    turns_end(&s.t);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(pthread_equal(threads[i], s.order[i]));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_at_a_time_is_in),
        cmocka_unit_test(who_asks_first_comes_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
