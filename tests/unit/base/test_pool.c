#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"

enum { MAX_PARTS = 257 };

typedef struct {
    uint32_t runs[MAX_PARTS]; /* not atomic: a part run twice at once is a race for ThreadSanitizer to see */
    uint32_t add;
} counts;

static void count(void *context, uint32_t part) {
    counts *c = context;
    c->runs[part] += c->add;
}

static void every_part_runs_exactly_once(void **state) {
    (void)state;
    static const uint32_t sizes[] = {0, 1, 2, 3, 7, 64, MAX_PARTS};
    for (uint32_t threads = 1; threads <= 9; threads++) { /* more than this machine has, too */
        pool *p = NULL;
        counts c = {.add = 0};
        uint32_t expected[MAX_PARTS] = {0};
        assert_int_equal(pool_create(threads, &p), ST_OK);
        assert_int_equal(pool_n_threads(p), threads);
        for (uint32_t job = 0; job < 700; job++) {
            uint32_t n = sizes[job % (sizeof sizes / sizeof *sizes)];
            c.add = job; /* written between loops, read in them */
            pool_run(p, n, count, &c);
            for (uint32_t i = 0; i < n; i++) expected[i] += job;
            assert_memory_equal(c.runs, expected, sizeof expected);
        }
        pool_destroy(p);
    }
}

static void two_jobs_never_mix(void **state) {
    (void)state;
    pool *p = NULL;
    counts a = {.add = 1}, b = {.add = 1};
    assert_int_equal(pool_create(4, &p), ST_OK);
    for (uint32_t job = 0; job < 5000; job++) pool_run(p, job & 1 ? 3 : 5, count, job & 1 ? &a : &b);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(a.runs[i], i < 3 ? 2500 : 0);
        assert_int_equal(b.runs[i], 2500);
    }
    pool_destroy(p);
}

enum { STUCK_PARTS = 12 };

/* Part 0 ends when all others have, so whoever has it must not keep the rest of its share. */
static void wait_for_others(void *context, uint32_t part) {
    _Atomic uint32_t *n_done = context;
    for (time_t end = time(NULL) + 20; !part && atomic_load(n_done) < STUCK_PARTS - 1 && time(NULL) < end;) sched_yield();
    if (part || atomic_load(n_done) == STUCK_PARTS - 1) atomic_fetch_add(n_done, 1);
}

static void a_stuck_thread_delays_only_its_part(void **state) {
    (void)state;
    for (uint32_t threads = 2; threads <= 4; threads++) {
        pool *p = NULL;
        _Atomic uint32_t n_done = 0;
        assert_int_equal(pool_create(threads, &p), ST_OK);
        pool_run(p, STUCK_PARTS, wait_for_others, &n_done);
        assert_int_equal(atomic_load(&n_done), STUCK_PARTS);
        pool_destroy(p);
    }
}

enum { NONE = UINT32_MAX };

typedef struct {
    pthread_t caller;
    _Atomic uint32_t first[2]; /* part that the caller, and the other thread, ran first */
} firsts;

/* The caller's first part ends when the other thread has one, too. */
static void note_first(void *context, uint32_t part) {
    firsts *f = context;
    const bool is_caller = pthread_equal(pthread_self(), f->caller);
    _Atomic uint32_t *first = &f->first[!is_caller];
    if (atomic_load(first) != NONE) return;
    atomic_store(first, part);
    for (time_t end = time(NULL) + 20; is_caller && atomic_load(&f->first[1]) == NONE && time(NULL) < end;) sched_yield();
}

/* A thread comes to the other's share only when it is through with its own. */
static void each_thread_begins_with_its_share(void **state) {
    (void)state;
    pool *p = NULL;
    assert_int_equal(pool_create(2, &p), ST_OK);
    for (uint32_t job = 0; job < 200; job++) {
        firsts f = {pthread_self(), {NONE, NONE}};
        pool_run(p, 64, note_first, &f);
        assert_true(atomic_load(&f.first[0]) < 32 || atomic_load(&f.first[0]) == NONE); /* none: the other took all */
        assert_in_range(atomic_load(&f.first[1]), 32, 63);
    }
    pool_destroy(p);
}

static void creating_fails_cleanly(void **state) {
    (void)state;
    pool *p = NULL;
    assert_int_equal(pool_create(0, &p), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(pool_create(POOL_MAX_THREADS + 1, &p), ST_ERR_INVALID_ARGUMENT);
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        st_code code = pool_create(3, &p);
        mem_fail_at(0);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(p);
    }
    pool_destroy(p);
    pool_destroy(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_runs_exactly_once),
        cmocka_unit_test(two_jobs_never_mix),
        cmocka_unit_test(a_stuck_thread_delays_only_its_part),
        cmocka_unit_test(each_thread_begins_with_its_share),
        cmocka_unit_test(creating_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
