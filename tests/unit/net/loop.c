#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/limits.h"
#include "net/loop_int.h"
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MS UINT64_C(1000000)
enum { THREADS = 4, POSTS = 2000 };

static net_loop *new_loop(void) {
    net_loop *l = NULL;
    assert_int_equal(net_loop_create(&l, NULL), ST_OK);
    return l;
}

static void stop(void *loop) { net_loop_stop(loop); }

/* ---- posts ---- */

typedef struct {
    net_loop *loop;
    int next[THREADS], n, wrong;
} post_board;
typedef struct {
    post_board *board;
    int thread, number;
} note;

static void take_note(void *context) {
    note *n = context;
    post_board *b = n->board;
    b->wrong += b->next[n->thread]++ != n->number;
    if (++b->n == THREADS * POSTS) net_loop_stop(b->loop);
}

static void *post_many(void *context) {
    note *notes = context; /* [POSTS] */
    for (int i = 0; i < POSTS; i++)
        if (net_loop_post(notes[i].board->loop, take_note, &notes[i])) return notes;
    return NULL;
}

static void posts_of_many_threads_run_each_in_its_order(void **state) {
    (void)state;
    static note notes[THREADS][POSTS];
    post_board b = {.loop = new_loop()};
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++) {
        for (int i = 0; i < POSTS; i++) notes[t][i] = (note){&b, t, i};
        assert_int_equal(pthread_create(&threads[t], NULL, post_many, notes[t]), 0);
    }
    net_loop_run(b.loop);
    for (int t = 0; t < THREADS; t++) {
        void *failed = NULL;
        pthread_join(threads[t], &failed);
        assert_null(failed);
    }
    assert_int_equal(b.n, THREADS * POSTS);
    assert_int_equal(b.wrong, 0);
    net_loop_destroy(b.loop);
}

static void count_and_stop(void *context) {
    post_board *b = context;
    b->n++;
    net_loop_stop(b->loop);
}

static void posts_left_behind_still_run_when_the_loop_ends(void **state) {
    (void)state;
    post_board b = {.loop = new_loop()};
    assert_int_equal(net_loop_post(b.loop, count_and_stop, &b), ST_OK);
    assert_int_equal(net_loop_post(b.loop, count_and_stop, &b), ST_OK);
    net_loop_destroy(b.loop);
    assert_int_equal(b.n, 2);
    net_loop_destroy(NULL);
}

/* ---- timers ---- */

typedef struct {
    net_loop *loop;
    net_timer *timer;
    uint64_t at_ns;
    int number, *order, *n;
} alarm_clock;

static void rang(void *context) {
    alarm_clock *a = context;
    assert_true(net_now_ns() >= a->at_ns);
    a->order[(*a->n)++] = a->number;
    if (*a->n == 3) net_loop_stop(a->loop);
}

static void timers_fire_in_order_never_early_and_not_when_off(void **state) {
    (void)state;
    net_loop *l = new_loop();
    int order[4], n = 0;
    static const uint64_t after_ms[4] = {30, 5, 15, 10};
    alarm_clock a[4];
    uint64_t now = net_now_ns();
    for (int i = 0; i < 4; i++) {
        a[i] = (alarm_clock){l, NULL, now + after_ms[i] * MS, i, order, &n};
        assert_int_equal(net_timer_create(l, rang, &a[i], &a[i].timer), ST_OK);
        net_timer_at(a[i].timer, a[i].at_ns);
    }
    net_timer_at(a[3].timer, 0);
    net_loop_run(l);
    assert_int_equal(n, 3);
    assert_true(order[0] == 1 && order[1] == 2 && order[2] == 0);
    for (int i = 0; i < 3; i++) net_timer_destroy(a[i].timer); /* the loop closes the last */
    net_timer_destroy(NULL);
    net_loop_destroy(l);
}

static void again(void *context) {
    alarm_clock *a = context;
    if (++*a->n < 50) net_timer_at(a->timer, 1); /* long past */
}

static void a_timer_set_to_the_past_in_its_own_callback_does_not_starve_posts(void **state) {
    (void)state;
    net_loop *l = new_loop();
    int n = 0;
    alarm_clock a = {.loop = l, .n = &n};
    assert_int_equal(net_timer_create(l, again, &a, &a.timer), ST_OK);
    net_timer_at(a.timer, 1);
    assert_int_equal(net_loop_post(l, stop, l), ST_OK);
    net_loop_run(l);
    assert_true(n < 50);
    net_timer_destroy(a.timer);
    net_loop_destroy(l);
}

/* ---- signals ---- */

static void got_signal(void *context, int number) {
    net_loop *l = *(net_loop **)context;
    assert_int_equal(number, SIGTERM);
    net_loop_stop(l);
}

static void a_signal_reaches_the_loop_once_installed(void **state) {
    (void)state;
    net_loop *l = new_loop();
    st_error e;
    assert_int_equal(net_loop_on_signal(l, got_signal, &l, &e), ST_OK);
    assert_int_equal(net_loop_on_signal(l, got_signal, &l, &e), ST_ERR_INVALID_ARGUMENT);
    kill(getpid(), SIGTERM);
    net_loop_run(l);
    net_loop_destroy(l);
}

/* ---- tcp ---- */

typedef struct {
    net_loop *loop;
    net_tcp *accepted, *connected;
    net_soon soon;
    int n_open, n_end, n_soon, expected_ends;
    size_t received, to_receive;
    bool never_reads, finish_when_all;
    char reason[600], seen[64];
} wire;

static void wire_open(void *context) { ((wire *)context)->n_open++; }
static void wire_end(void *context, const char *reason) {
    wire *w = context;
    snprintf(w->reason, sizeof w->reason, "%s", reason);
    if (++w->n_end == w->expected_ends) net_loop_stop(w->loop);
}
static void server_read(void *context, const uint8_t *bytes, size_t n) {
    wire *w = context;
    if (w->received + n < sizeof w->seen) memcpy(w->seen + w->received, bytes, n);
    w->received += n;
    if (w->received == w->to_receive) net_tcp_finish(w->accepted, "all is said", true);
}
static const net_tcp_callbacks server_side = {.on_read = server_read, .on_end = wire_end};
static const net_tcp_callbacks client_side = {.on_open = wire_open, .on_end = wire_end};
static void wire_accept(void *context, net_tcp *t) {
    wire *w = context;
    w->accepted = t;
    net_tcp_adopt(t, &server_side, w);
    if (w->never_reads) net_tcp_pause(t, true);
}

static void refused_connections_say_where_and_why(void **state) {
    (void)state;
    wire w = {.loop = new_loop(), .expected_ends = 1};
    net_listener *s;
    uint16_t port;
    char expected[100];
    assert_int_equal(net_listen(w.loop, "127.0.0.1", 0, wire_accept, &w, &s, &port, NULL), ST_OK);
    net_listener_destroy(s); /* a port where surely nobody listens */
    assert_int_equal(net_tcp_connect(w.loop, "127.0.0.1", port, 5000, &client_side, &w, &w.connected, NULL), ST_OK);
    net_loop_run(w.loop);
    snprintf(expected, sizeof expected, "cannot connect to 127.0.0.1:%u: connection refused", port);
    assert_string_equal(w.reason, expected);
    assert_int_equal(w.n_open, 0);
    net_loop_destroy(w.loop);
}

static void unknown_hosts_and_taken_ports_are_told(void **state) {
    (void)state;
    wire w = {.loop = new_loop(), .expected_ends = 1};
    net_listener *s, *t;
    uint16_t port;
    st_error e;
    assert_int_equal(net_tcp_connect(w.loop, "no such host", 1, 5000, &client_side, &w, &w.connected, NULL), ST_OK);
    net_loop_run(w.loop);
    assert_non_null(strstr(w.reason, "cannot connect to no such host:1: "));
    assert_int_equal(net_listen(w.loop, "127.0.0.1", 0, wire_accept, &w, &s, &port, NULL), ST_OK);
    assert_int_equal(net_listen(w.loop, "127.0.0.1", port, wire_accept, &w, &t, NULL, &e), ST_ERR_UNAVAILABLE);
    assert_non_null(strstr(e.message, "address already in use; is another cluster running there?"));
    net_listener_destroy(s);
    net_loop_destroy(w.loop);
}

static void send_pieces(void *context) {
    wire *w = context;
    static uint8_t piece[100000];
    assert_int_equal(w->n_open, 0);
    for (size_t sent = 0; sent < w->to_receive; sent += sizeof piece)
        assert_int_equal(net_tcp_write(w->connected, piece, sizeof piece), ST_OK);
}

static void bytes_arrive_and_both_sides_end(void **state) {
    (void)state;
    static const char *const hosts[] = {"127.0.0.1", "localhost", "::1"};
    for (size_t i = 0; i < 3; i++) {
        wire w = {.loop = new_loop(), .expected_ends = 2, .to_receive = 3000000};
        const net_tcp_callbacks sender = {.on_open = send_pieces, .on_end = wire_end};
        net_listener *s = NULL;
        uint16_t port;
        st_code rc = net_listen(w.loop, hosts[i], 0, wire_accept, &w, &s, &port, NULL);
        if (rc && i == 2) { /* a machine without IPv6 */
            net_loop_destroy(w.loop);
            continue;
        }
        assert_int_equal(rc, ST_OK);
        assert_int_equal(net_tcp_connect(w.loop, hosts[i], port, 5000, &sender, &w, &w.connected, NULL), ST_OK);
        net_loop_run(w.loop);
        assert_int_equal(w.received, 3000000);
        assert_int_equal(w.n_end, 2);
        net_listener_destroy(s);
        net_loop_destroy(w.loop);
    }
}

static void fill(void *context) {
    wire *w = context;
    static uint8_t piece[1 << 20];
    for (int i = 0; i < 16; i++) assert_int_equal(net_tcp_write(w->connected, piece, sizeof piece), ST_OK);
    assert_true(net_tcp_pending(w->connected) > 4 << 20); /* what the kernel did not take */
    net_loop_stop(w->loop);
}

/* What is open when the loop goes is told and freed. */
static void a_loop_that_ends_tells_its_connections(void **state) {
    (void)state;
    wire w = {.loop = new_loop(), .never_reads = true};
    const net_tcp_callbacks sender = {.on_open = fill, .on_end = wire_end};
    net_listener *s;
    uint16_t port;
    assert_int_equal(net_listen(w.loop, "127.0.0.1", 0, wire_accept, &w, &s, &port, NULL), ST_OK);
    assert_int_equal(net_tcp_connect(w.loop, "127.0.0.1", port, 5000, &sender, &w, &w.connected, NULL), ST_OK);
    net_loop_run(w.loop);
    net_loop_destroy(w.loop);
    assert_true(w.n_end >= 1);
    assert_string_equal(w.reason, "the loop has ended");
}

static void soon_fn(void *context) {
    wire *w = context;
    if (++w->n_soon == 3)
        net_loop_stop(w->loop);
    else
        net_soon_add(w->loop, &w->soon);
}
static void add_soon_twice(void *context) {
    wire *w = context;
    net_soon_add(w->loop, &w->soon);
    net_soon_add(w->loop, &w->soon);
    assert_int_equal(w->n_soon, 0); /* not from inside */
}

static void soon_runs_after_the_callback_and_before_the_loop_waits(void **state) {
    (void)state;
    wire w = {.loop = new_loop()};
    w.soon = (net_soon){.fn = soon_fn, .context = &w};
    assert_int_equal(net_loop_post(w.loop, add_soon_twice, &w), ST_OK);
    net_loop_run(w.loop);
    assert_int_equal(w.n_soon, 3);
    net_loop_destroy(w.loop);
}

static void each_allocation_that_fails_is_survived(void **state) {
    (void)state;
    uint64_t made = 1, k = 0;
    while (made >= k) {
        wire w = {0};
        net_listener *s = NULL;
        net_timer *t = NULL;
        uint16_t port = 0;
        mem_fail_at(++k);
        bool ok = net_loop_create(&w.loop, NULL) == ST_OK;
        ok = ok && net_timer_create(w.loop, stop, w.loop, &t) == ST_OK;
        ok = ok && net_loop_post(w.loop, stop, w.loop) == ST_OK;
        ok = ok && net_listen(w.loop, "127.0.0.1", 0, wire_accept, &w, &s, &port, NULL) == ST_OK;
        ok = ok && net_tcp_connect(w.loop, "127.0.0.1", port, 5000, &client_side, &w, &w.connected, NULL) == ST_OK;
        made = mem_fail_at(0);
        assert_int_equal(ok, made < k);
        net_loop_destroy(w.loop);
    }
    assert_int_equal(k, 6);
}

static void connection_is_refused(void *context, const char *reason) { wire_end(context, reason); }

/* accept() goes on when there is no memory for a connection. */
static void a_connection_without_memory_is_refused_and_the_next_is_taken(void **state) {
    (void)state;
    wire w = {.loop = new_loop(), .expected_ends = 1}, v = {.loop = w.loop};
    const net_tcp_callbacks first = {.on_open = wire_open, .on_end = connection_is_refused};
    net_listener *s;
    uint16_t port;
    assert_int_equal(net_listen(w.loop, "127.0.0.1", 0, wire_accept, &v, &s, &port, NULL), ST_OK);
    assert_int_equal(net_tcp_connect(w.loop, "127.0.0.1", port, 5000, &first, &w, &w.connected, NULL), ST_OK);
    mem_fail_at(1);
    net_loop_run(w.loop);
    mem_fail_at(0);
    assert_null(v.accepted);
    v.expected_ends = 2;
    v.to_receive = 3000000;
    const net_tcp_callbacks sender = {.on_open = send_pieces, .on_end = wire_end};
    assert_int_equal(net_tcp_connect(w.loop, "127.0.0.1", port, 5000, &sender, &v, &v.connected, NULL), ST_OK);
    net_loop_run(w.loop);
    assert_int_equal(v.received, 3000000);
    net_listener_destroy(s);
    net_loop_destroy(w.loop);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(posts_of_many_threads_run_each_in_its_order),
        cmocka_unit_test(posts_left_behind_still_run_when_the_loop_ends),
        cmocka_unit_test(timers_fire_in_order_never_early_and_not_when_off),
        cmocka_unit_test(a_timer_set_to_the_past_in_its_own_callback_does_not_starve_posts),
        cmocka_unit_test(a_signal_reaches_the_loop_once_installed),
        cmocka_unit_test(refused_connections_say_where_and_why),
        cmocka_unit_test(unknown_hosts_and_taken_ports_are_told),
        cmocka_unit_test(bytes_arrive_and_both_sides_end),
        cmocka_unit_test(a_loop_that_ends_tells_its_connections),
        cmocka_unit_test(soon_runs_after_the_callback_and_before_the_loop_waits),
        cmocka_unit_test(each_allocation_that_fails_is_survived),
        cmocka_unit_test(a_connection_without_memory_is_refused_and_the_next_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
