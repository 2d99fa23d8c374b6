/* The sum in shared memory, its ranks being threads here: right whatever the sizes and whoever is late, and an end to waiting. */
#include "parallel/shared_sum.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROUNDS = 300, MAX_VALUES = 2 * SHARED_SUM_PIECE + 77 };

typedef struct {
    parallel_group g;
    shared_sum s;
    double *values;
    uint64_t n_wrong;
    st_code code;
    pthread_t thread;
} member;

/* Whole numbers: their sums are exact. */
static double value(uint32_t rank, uint32_t round, size_t i) {
    return (double)((i * 31 + round * 7 + rank * 1013) % 4093) - 2046;
}

static size_t size_of(uint32_t round) {
    static const size_t sizes[] = {1, 576, 0, 8 * 576, SHARED_SUM_PIECE, 3, SHARED_SUM_PIECE + 1, MAX_VALUES};
    return sizes[round % (sizeof sizes / sizeof *sizes)];
}

static void *take_part(void *argument) {
    member *m = argument;
    for (uint32_t round = 0; !m->code && round < ROUNDS; round++) {
        const size_t n = size_of(round);
        for (uint32_t i = 0; (round + m->g.rank) % 16 == 0 && i < 200; i++) sched_yield(); /* late */
        for (size_t i = 0; i < n; i++) m->values[i] = value(m->g.rank, round, i);
        m->code = shared_sum_add(&m->s, &m->g, m->values, n);
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (uint32_t rank = 0; rank < m->g.n_ranks; rank++) sum += value(rank, round, i);
            m->n_wrong += m->values[i] != sum;
        }
    }
    return NULL;
}

/* n_members of n ranks take part. */
static void run(member *all, uint32_t n, uint32_t n_members, uint32_t deadline_ms) {
    char name[SHARED_SUM_NAME];
    shared_sum_rank *memory = shared_sum_create(name, n);
    assert_non_null(memory);
    for (uint32_t rank = 0; rank < n_members; rank++) {
        member *m = &all[rank];
        *m = (member){.g = {.rank = rank, .n_ranks = n, .deadline_ms = deadline_ms},
                      .s = {.ranks = rank % 2 ? shared_sum_open(name, n) : memory}};
        assert_non_null(m->s.ranks); /* half of them at another address */
    }
    shared_sum_forget(name); /* at once, as a group does: cluster tests beside this one look for names that stay */
    for (uint32_t rank = 0; rank < n_members; rank++) {
        member *m = &all[rank];
        m->values = malloc(MAX_VALUES * sizeof *m->values);
        assert_non_null(m->values);
        assert_int_equal(0, pthread_create(&m->thread, NULL, take_part, m));
    }
    for (uint32_t rank = 0; rank < n_members; rank++) {
        pthread_join(all[rank].thread, NULL);
        free(all[rank].values);
        if (rank % 2) shared_sum_close(all[rank].s.ranks, n);
    }
    shared_sum_close(memory, n);
}

static void every_rank_has_the_sum_of_all(void **state) {
    (void)state;
    for (uint32_t n = 1; n <= 5; n++) {
        member all[SHARED_SUM_MAX_RANKS];
        run(all, n, n, 60000);
        for (uint32_t rank = 0; rank < n; rank++) {
            assert_int_equal(ST_OK, all[rank].code);
            assert_int_equal(0, all[rank].n_wrong);
        }
    }
}

static void a_rank_that_does_not_come_is_waited_for_until_the_deadline(void **state) {
    (void)state;
    member all[3];
    run(all, 3, 2, 50);
    assert_int_equal(ST_ERR_DEADLINE, all[0].code);
    assert_int_equal(ST_ERR_DEADLINE, all[1].code);
}

static void the_flag_ends_waiting(void **state) {
    (void)state;
    char name[SHARED_SUM_NAME];
    shared_sum_rank *memory = shared_sum_create(name, 2);
    double values[3] = {1, 2, 3};
    parallel_group g = {.rank = 1, .n_ranks = 2, .deadline_ms = 60000, .aborted = true};
    shared_sum s = {.ranks = memory};
    assert_non_null(memory);
    assert_int_equal(ST_ERR_CANCELLED, shared_sum_add(&s, &g, values, 3));
    shared_sum_forget(name);
    shared_sum_close(memory, 2);
}

static void a_name_is_good_until_it_is_forgotten_and_for_as_many_ranks(void **state) {
    (void)state;
    char name[SHARED_SUM_NAME], other[SHARED_SUM_NAME];
    shared_sum_rank *memory = shared_sum_create(name, 2), *another = shared_sum_create(other, 2), *again;
    assert_non_null(memory);
    assert_non_null(another);
    assert_string_not_equal(name, other);
    assert_null(shared_sum_open("", 2));
    assert_null(shared_sum_open(name, 3));
    assert_non_null(again = shared_sum_open(name, 2));
    shared_sum_close(again, 2);
    shared_sum_forget(name);
    assert_null(shared_sum_open(name, 2));
    shared_sum_forget(other);
    shared_sum_close(memory, 2);
    shared_sum_close(another, 2);
    shared_sum_close(NULL, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_the_sum_of_all),
        cmocka_unit_test(a_rank_that_does_not_come_is_waited_for_until_the_deadline),
        cmocka_unit_test(the_flag_ends_waiting),
        cmocka_unit_test(a_name_is_good_until_it_is_forgotten_and_for_as_many_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
