/* gRPC server and client on one loop, over real sockets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/limits.h"
#include "net/net.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    net_loop *loop;
    net_grpc_server *server;
    net_grpc_client *client;
    uint16_t port;
    /* server */
    net_call *call;
    int n_calls, n_ends, to_send, sent, n_credits;
    st_code end_code;
    bool hold, drained; /* hold: calls stay open */
    net_fn then;        /* after a call came */
    /* client */
    void *handle;
    int n_messages, n_done, stop_after, status;
    char message[600];
} bench;

static void send_more(bench *b) {
    static uint8_t piece[40000];
    bool slow = false;
    while (b->sent < b->to_send && !slow) {
        st_code rc = net_call_send(b->call, piece, sizeof piece, &slow);
        if (rc) {
            assert_int_equal(rc, ST_FATAL_MEMORY); /* as the last test wants it */
            net_call_finish(b->call, 8, "out of memory");
            return;
        }
        b->sent++;
    }
    if (b->sent == b->to_send && !b->hold) net_call_finish(b->call, 0, NULL);
}
static void on_call(void *context, net_call *c, const char *path, const uint8_t *message, size_t n) {
    bench *b = context;
    (void)message, (void)n;
    b->call = c;
    b->n_calls++;
    b->sent = 0;
    net_call_set_user(c, b);
    if (strcmp(path, "/a.B/Error") == 0)
        net_call_finish(c, 5, "no such thing");
    else
        send_more(b);
    if (b->then) b->then(b);
}
static void on_end(void *context, net_call *c, st_code code) {
    bench *b = context;
    assert_ptr_equal(net_call_user(c), b);
    b->n_ends++;
    b->end_code = code;
    if (!b->stop_after) net_loop_stop(b->loop);
}
static void on_credit(void *context, net_call *c) {
    bench *b = context;
    (void)c;
    b->n_credits++;
    send_more(b);
}
static void on_message(void *context, const uint8_t *message, size_t n) {
    bench *b = context;
    (void)message;
    b->n_messages += n == 40000;
}
static void on_done(void *context, int status, const char *message) {
    bench *b = context;
    b->n_done++;
    b->status = status;
    snprintf(b->message, sizeof b->message, "%s", message);
    if (b->n_done == b->stop_after) net_loop_stop(b->loop);
}
static const net_grpc_callbacks calls = {on_call, on_end, on_credit};
static const net_grpc_reply reply = {on_message, on_done};

static void open_bench(bench *b) {
    memset(b, 0, sizeof *b);
    b->stop_after = 1;
    assert_int_equal(net_loop_create(&b->loop, NULL), ST_OK);
    assert_int_equal(net_grpc_listen(b->loop, "127.0.0.1", 0, &calls, b, &b->server, &b->port, NULL), ST_OK);
    assert_int_equal(net_grpc_connect(b->loop, "127.0.0.1", b->port, 5000, &b->client, NULL), ST_OK);
}
static void close_bench(bench *b) {
    net_grpc_client_destroy(b->client);
    net_grpc_destroy(b->server);
    net_loop_destroy(b->loop);
}
static void start(bench *b, const char *path, uint32_t timeout_ms) {
    assert_int_equal(net_grpc_start(b->client, path, NULL, 0, timeout_ms, &reply, b, &b->handle), ST_OK);
}

static void a_stream_larger_than_all_windows_arrives_with_credit(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.to_send = 500; /* 20 MB */
    start(&b, "/a.B/Stream", 0);
    net_loop_run(b.loop);
    assert_int_equal(b.n_messages, 500);
    assert_int_equal(b.status, 0);
    assert_true(b.n_credits > 0);
    close_bench(&b);
}

static void calls_side_by_side_are_answered(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.to_send = 1;
    b.stop_after = 300; /* more than may run at once: the client waits its turn */
    for (int i = 0; i < 300; i++) start(&b, i % 3 ? "/a.B/One" : "/a.B/Error", 0);
    net_loop_run(b.loop);
    assert_int_equal(b.n_calls, 300);
    assert_int_equal(b.n_messages, 200);
    close_bench(&b);
}

static void cancel(void *context) {
    bench *b = context;
    net_grpc_cancel(b->client, b->handle);
}

static void cancel_reaches_the_server(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.hold = true;
    b.stop_after = 0;
    b.then = cancel;
    start(&b, "/a.B/Hold", 0);
    net_loop_run(b.loop);
    assert_int_equal(b.n_done, 1);
    assert_int_equal(b.status, 1);
    assert_int_equal(b.end_code, ST_ERR_CANCELLED);
    close_bench(&b);
}

static void the_deadline_ends_the_call_at_both_sides(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.hold = true;
    b.stop_after = 0;
    start(&b, "/a.B/Hold", 30);
    net_loop_run(b.loop); /* until on_end: the server's own timer or the client's reset */
    assert_int_equal(b.n_ends, 1);
    close_bench(&b);
}

static void nobody_there_is_said_in_words(void **state) {
    (void)state;
    bench b;
    char expected[200];
    open_bench(&b);
    net_grpc_client_destroy(b.client);
    net_grpc_destroy(b.server);
    b.server = NULL;
    assert_int_equal(net_grpc_connect(b.loop, "127.0.0.1", b.port, 5000, &b.client, NULL), ST_OK);
    start(&b, "/a.B/C", 0);
    net_loop_run(b.loop);
    assert_int_equal(b.status, 14);
    snprintf(expected, sizeof expected, "cannot connect to 127.0.0.1:%u: connection refused; is the cluster running?", b.port);
    assert_string_equal(b.message, expected);
    b.stop_after = 2;
    start(&b, "/a.B/C", 0); /* and again, later */
    net_loop_run(b.loop);
    assert_string_equal(b.message, expected);
    close_bench(&b);
}

static void kill_server(void *context) {
    bench *b = context;
    net_grpc_destroy(b->server);
    b->server = NULL;
}
static void post_kill(void *context) {
    bench *b = context;
    assert_int_equal(net_loop_post(b->loop, kill_server, b), ST_OK);
}

static void a_lost_connection_ends_the_calls(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.hold = true;
    b.then = post_kill;
    start(&b, "/a.B/Hold", 0);
    net_loop_run(b.loop);
    assert_int_equal(b.status, 14);
    assert_non_null(strstr(b.message, "connection to 127.0.0.1:"));
    assert_int_equal(b.n_ends, 0); /* destroy tells nobody */
    close_bench(&b);
}

static void drained(void *context) {
    bench *b = context;
    b->drained = true;
    net_loop_stop(b->loop);
}
static void finish_call(void *context) {
    bench *b = context;
    assert_false(b->drained);
    net_call_finish(b->call, 0, NULL);
}
static void drain(void *context) {
    bench *b = context;
    net_grpc_drain(b->server, drained, b);
    assert_int_equal(net_loop_post(b->loop, finish_call, b), ST_OK);
}

static void a_drained_server_has_finished_its_calls(void **state) {
    (void)state;
    bench b;
    open_bench(&b);
    b.hold = true;
    b.then = drain;
    b.stop_after = 100;
    start(&b, "/a.B/Hold", 0);
    net_loop_run(b.loop);
    assert_true(b.drained);
    assert_int_equal(b.n_done, 1);
    assert_int_equal(b.status, 0);
    close_bench(&b);
    open_bench(&b);
    net_grpc_drain(b.server, drained, &b); /* with nobody there */
    net_loop_run(b.loop);
    assert_true(b.drained);
    close_bench(&b);
}

/* From the k-th allocation on the connection may die, but the loop goes on and the caller hears of it. */
static void each_allocation_that_fails_is_survived(void **state) {
    (void)state;
    uint64_t made = 1, k = 0;
    while (made >= k) {
        bench b = {.stop_after = 1, .to_send = 1};
        assert_int_equal(net_loop_create(&b.loop, NULL), ST_OK);
        mem_fail_at(++k);
        bool ok = net_grpc_listen(b.loop, "127.0.0.1", 0, &calls, &b, &b.server, &b.port, NULL) == ST_OK;
        ok = ok && net_grpc_connect(b.loop, "127.0.0.1", b.port, 5000, &b.client, NULL) == ST_OK;
        ok = ok && net_grpc_start(b.client, "/a.B/C", NULL, 0, 5000, &reply, &b, NULL) == ST_OK;
        if (ok) net_loop_run(b.loop);
        made = mem_fail_at(0);
        if (made < k) assert_true(ok && b.status == 0 && b.n_messages == 1);
        close_bench(&b);
    }
    assert_true(k > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_larger_than_all_windows_arrives_with_credit),
        cmocka_unit_test(calls_side_by_side_are_answered),
        cmocka_unit_test(cancel_reaches_the_server),
        cmocka_unit_test(the_deadline_ends_the_call_at_both_sides),
        cmocka_unit_test(nobody_there_is_said_in_words),
        cmocka_unit_test(a_lost_connection_ends_the_calls),
        cmocka_unit_test(a_drained_server_has_finished_its_calls),
        cmocka_unit_test(each_allocation_that_fails_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
