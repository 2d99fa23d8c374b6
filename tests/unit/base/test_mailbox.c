#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mailbox.h"
#include "base/mem.h"
#include <pthread.h>

enum { N_POSTERS = 4, N_EACH = 2000 };

static void items_come_out_in_the_order_of_posts(void **state) {
    (void)state;
    mailbox *m;
    mailbox_item item;
    assert_int_equal(mailbox_create(3, &m), ST_OK);
    assert_false(mailbox_try_take(m, &item));
    for (uint32_t i = 0; i < 10; i++) { /* around the ring */
        assert_true(mailbox_post(m, &(mailbox_item){.kind = 2 * i}));
        assert_true(mailbox_post(m, &(mailbox_item){.kind = 2 * i + 1}));
        mailbox_take(m, &item);
        assert_int_equal(item.kind, 2 * i);
        assert_true(mailbox_try_take(m, &item));
        assert_int_equal(item.kind, 2 * i + 1);
    }
    mailbox_destroy(m, NULL);
}

static void a_full_mailbox_refuses_and_keeps_what_it_has(void **state) {
    (void)state;
    mailbox *m;
    mailbox_item item;
    assert_int_equal(mailbox_create(2, &m), ST_OK);
    assert_true(mailbox_post(m, &(mailbox_item){.kind = 1}));
    assert_true(mailbox_post(m, &(mailbox_item){.kind = 2}));
    assert_false(mailbox_post(m, &(mailbox_item){.kind = 3}));
    mailbox_take(m, &item);
    assert_int_equal(item.kind, 1);
    assert_true(mailbox_post(m, &(mailbox_item){.kind = 4}));
    mailbox_take(m, &item);
    assert_int_equal(item.kind, 2);
    mailbox_take(m, &item);
    assert_int_equal(item.kind, 4);
    mailbox_destroy(m, NULL);
}

static void drop_item(mailbox_item *item) { mem_free(item->data); }

static void what_is_left_inside_is_dropped_at_destroy(void **state) {
    (void)state;
    mailbox *m;
    assert_int_equal(mailbox_create(4, &m), ST_OK);
    for (int i = 0; i < 3; i++) assert_true(mailbox_post(m, &(mailbox_item){.data = mem_alloc(16, 1), .n = 16}));
    mailbox_destroy(m, drop_item); /* the leak sanitizer looks on */
    mailbox_destroy(NULL, NULL);
    mem_fail_at(1);
    assert_int_equal(mailbox_create(4, &m), ST_FATAL_MEMORY);
    mem_fail_at(0);
}

typedef struct {
    mailbox *m;
    uint32_t who;
} poster;

static void *post_all(void *context) {
    poster *p = context;
    for (uint32_t i = 0; i < N_EACH;) i += mailbox_post(p->m, &(mailbox_item){.kind = p->who, .n = i});
    return NULL;
}

static void many_posters_lose_nothing_and_each_keeps_its_order(void **state) {
    (void)state;
    mailbox *m;
    pthread_t threads[N_POSTERS];
    poster posters[N_POSTERS];
    size_t next[N_POSTERS] = {0};
    assert_int_equal(mailbox_create(8, &m), ST_OK);
    for (uint32_t i = 0; i < N_POSTERS; i++) {
        posters[i] = (poster){m, i};
        assert_int_equal(pthread_create(&threads[i], NULL, post_all, &posters[i]), 0);
    }
    for (int i = 0; i < N_POSTERS * N_EACH; i++) {
        mailbox_item item;
        mailbox_take(m, &item);
        assert_int_equal(item.n, next[item.kind]++);
    }
    for (int i = 0; i < N_POSTERS; i++) pthread_join(threads[i], NULL);
    mailbox_destroy(m, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_in_the_order_of_posts),
        cmocka_unit_test(a_full_mailbox_refuses_and_keeps_what_it_has),
        cmocka_unit_test(what_is_left_inside_is_dropped_at_destroy),
        cmocka_unit_test(many_posters_lose_nothing_and_each_keeps_its_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
