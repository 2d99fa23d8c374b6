/* The HTTP/1.1 server on a loop, over real sockets. What its connections share with gRPC's is tested in grpc.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/loop_int.h"
#include <cmocka.h>
#include <string.h>

#define GET "GET /a HTTP/1.1\r\nHost: h\r\n\r\n"

typedef struct {
    net_loop *loop;
    net_http_server *server;
    net_tcp *client; /* NULL: its connection is over */
    uint16_t port;
    net_http_call *held;
    bool hold;
    int n_requests, n_ends;
    const char *to_send;
    char got[8192];
    size_t n_got, stop_at; /* the loop stops when so much has come */
} bench;

static void answer(void *context) {
    bench *b = context;
    net_http_reply r = {.status = 200, .type = "text/plain", .body = "hello", .n = 5};
    net_http_call *c = b->held;
    b->held = NULL;
    net_http_answer(c, &r);
}
static void on_request(void *context, net_http_call *c, const net_http_request *r) {
    bench *b = context;
    assert_string_equal(r->path, "/a");
    b->n_requests++;
    b->held = c;
    if (!b->hold) answer(b);
    if (b->hold) net_loop_stop(b->loop);
}
static void on_end(void *context, net_http_call *c) {
    bench *b = context;
    assert_ptr_equal(c, b->held);
    b->n_ends++;
    net_loop_stop(b->loop);
}
static void client_opened(void *context) {
    bench *b = context;
    assert_int_equal(net_tcp_write(b->client, (const uint8_t *)b->to_send, strlen(b->to_send)), ST_OK);
}
static void client_read(void *context, const uint8_t *bytes, size_t n) {
    bench *b = context;
    assert_true(b->n_got + n < sizeof b->got);
    memcpy(b->got + b->n_got, bytes, n);
    b->n_got += n;
    if (b->n_got == b->stop_at) net_loop_stop(b->loop);
}
static void client_ended(void *context, const char *reason) {
    bench *b = context;
    (void)reason;
    b->client = NULL;
    net_loop_stop(b->loop);
}

static st_code open_bench(bench *b, const char *to_send) {
    static const net_http_callbacks calls = {on_request, on_end};
    static const net_tcp_callbacks client = {.on_open = client_opened, .on_read = client_read, .on_end = client_ended};
    memset(b, 0, sizeof *b);
    b->to_send = to_send;
    st_code rc = net_loop_create(&b->loop, NULL);
    if (!rc) rc = net_http_listen(b->loop, "127.0.0.1", 0, &calls, b, &b->server, &b->port, NULL);
    if (!rc && to_send) rc = net_tcp_connect(b->loop, "127.0.0.1", b->port, 5000, &client, b, &b->client, NULL);
    return rc;
}
static void close_bench(bench *b) {
    net_tcp_close(b->client);
    net_http_destroy(b->server);
    net_loop_destroy(b->loop);
}

static const char reply[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello";

static void requests_of_one_connection_are_answered_in_order(void **state) {
    (void)state;
    bench b;
    assert_int_equal(open_bench(&b, GET GET GET), ST_OK);
    b.stop_at = 3 * (sizeof reply - 1);
    net_loop_run(b.loop);
    assert_int_equal(b.n_requests, 3);
    assert_memory_equal(b.got + 2 * (sizeof reply - 1), reply, sizeof reply - 1);
    assert_non_null(b.client);
    close_bench(&b);
}

static void a_refused_client_gets_its_reply_before_the_end(void **state) {
    (void)state;
    bench b;
    assert_int_equal(open_bench(&b, "GET /a HTTP/1.1\nHost: h\n\nmore and more"), ST_OK);
    net_loop_run(b.loop);
    assert_null(b.client);
    assert_memory_equal(b.got, "HTTP/1.1 400 Bad Request\r\n", 26);
    close_bench(&b);
}

static void an_answer_may_come_in_a_later_turn(void **state) {
    (void)state;
    bench b;
    assert_int_equal(open_bench(&b, GET), ST_OK);
    b.hold = true;
    b.stop_at = sizeof reply - 1;
    net_loop_run(b.loop);
    assert_int_equal(net_loop_post(b.loop, answer, &b), ST_OK);
    net_loop_run(b.loop);
    assert_memory_equal(b.got, reply, sizeof reply - 1);
    close_bench(&b);
}

static void a_client_that_leaves_ends_its_call(void **state) {
    (void)state;
    bench b;
    assert_int_equal(open_bench(&b, GET), ST_OK);
    b.hold = true;
    net_loop_run(b.loop);
    net_tcp_close(b.client);
    b.client = NULL;
    net_loop_run(b.loop);
    assert_int_equal(b.n_ends, 1);
    close_bench(&b);
}

static void a_server_goes_with_calls_open(void **state) {
    (void)state;
    bench b;
    assert_int_equal(open_bench(&b, GET), ST_OK);
    b.hold = true;
    net_loop_run(b.loop);
    close_bench(&b);
    assert_int_equal(b.n_ends, 0);
}

static void each_allocation_of_listen_that_fails_is_told(void **state) {
    (void)state;
    uint64_t n = 0, n_needed;
    do {
        bench b;
        mem_fail_at(++n);
        st_code rc = open_bench(&b, NULL);
        n_needed = mem_fail_at(0);
        assert_int_equal(rc, n_needed < n ? ST_OK : ST_FATAL_MEMORY);
        close_bench(&b);
    } while (n_needed >= n);
    assert_in_range(n, 4, 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(requests_of_one_connection_are_answered_in_order),
                                       cmocka_unit_test(a_refused_client_gets_its_reply_before_the_end),
                                       cmocka_unit_test(an_answer_may_come_in_a_later_turn),
                                       cmocka_unit_test(a_client_that_leaves_ends_its_call),
                                       cmocka_unit_test(a_server_goes_with_calls_open),
                                       cmocka_unit_test(each_allocation_of_listen_that_fails_is_told)};
    return cmocka_run_group_tests_name("net_http", tests, NULL, NULL);
}
