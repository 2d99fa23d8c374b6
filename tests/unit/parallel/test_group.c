/* A group of one changes nothing: what it has is the sum, and everybody's bytes. */
#include "base/mem.h"
#include "parallel/parallel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void a_group_of_one_leaves_values_and_bytes_as_they_are(void **state) {
    (void)state;
    parallel_group *g = NULL;
    double values[] = {1.5, -0.0, __builtin_nan("")}, kept[3];
    char bytes[] = "round";
    memcpy(kept, values, sizeof kept);
    assert_int_equal(ST_OK, parallel_group_local(&g));
    assert_int_equal(0, g->rank);
    assert_int_equal(1, g->n_ranks);
    assert_int_equal(ST_OK, g->ops->all_reduce(g, values, 3));
    assert_memory_equal(values, kept, sizeof kept);
    assert_int_equal(ST_OK, g->ops->broadcast(g, bytes, sizeof bytes, 0));
    assert_string_equal("round", bytes);
    char all[sizeof bytes] = "";
    assert_int_equal(ST_OK, g->ops->gather(g, bytes, sizeof bytes, all, 0));
    assert_string_equal("round", all);
    g->ops->destroy(g);
}

static void without_memory_there_is_no_group(void **state) {
    (void)state;
    parallel_group *g = NULL;
    mem_fail_at(1);
    assert_int_equal(ST_FATAL_MEMORY, parallel_group_local(&g));
    mem_fail_at(0);
    assert_null(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_group_of_one_leaves_values_and_bytes_as_they_are),
        cmocka_unit_test(without_memory_there_is_no_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
