/* The HTTP/1.1 codec without sockets: what honest clients send in every cut, and what hostile ones send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/http1_int.h"
#include "net/limits.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 1 << 16 };
static const uint64_t MS = 1000000;

typedef struct {
    net_http1 *h;
    net_budget budget;
    uint64_t now_ns;
    char log[MAX_TEXT], sent[MAX_TEXT]; /* requests as the user sees them; bytes to the client; NUL-terminated */
    size_t n_log, n_sent;
    int n_requests, n_ends;
    net_http_call *waiting; /* hold: the call that is not answered yet */
    bool hold, awake;
    net_http_reply reply;
    st_code code; /* of the last receive or send */
} bench;

static void on_request(void *context, net_http_call *c, const net_http_request *r) {
    bench *b = context;
    b->n_requests++;
    b->n_log += (size_t)snprintf(b->log + b->n_log, sizeof b->log - b->n_log, "%s %s?%s [%.*s]\n", r->method, r->path, r->query,
                                 (int)(r->n < 100 ? r->n : 100), r->n ? (const char *)r->body : "");
    if (b->hold)
        b->waiting = c;
    else
        net_http_answer(c, &b->reply);
}
static void on_end(void *context, net_http_call *c) {
    bench *b = context;
    assert_ptr_equal(c, b->waiting);
    b->n_ends++;
}
static void wake(void *context) { ((bench *)context)->awake = true; }

static bench *bench_open(void) {
    static bench b;
    memset(&b, 0, sizeof b);
    b.now_ns = 5 * MS;
    b.budget.limit_bytes = 32 << 20;
    b.reply = (net_http_reply){.status = 200, .type = "text/plain", .body = "yes\n", .n = 4};
    net_http1_setup setup = {{on_request, on_end}, &b, wake, &b, &b.budget};
    assert_int_equal(net_http1_create(&setup, b.now_ns, &b.h), ST_OK);
    return &b;
}
static void bench_close(bench *b) {
    net_http1_destroy(b->h);
    assert_int_equal(b->budget.used_bytes, 0);
}

static void flush(bench *b) {
    for (size_t n = 1; n && !b->code;) {
        b->code = net_http1_send(b->h, b->now_ns, (uint8_t *)b->sent + b->n_sent, sizeof b->sent - 1 - b->n_sent, &n);
        b->n_sent += n;
    }
    b->sent[b->n_sent] = 0;
}
static void feed_bytes(bench *b, const char *bytes, size_t n, size_t piece) {
    for (size_t at = 0; at < n && !b->code; at += piece) {
        size_t some = n - at < piece ? n - at : piece;
        b->code = net_http1_receive(b->h, b->now_ns, (const uint8_t *)bytes + at, some);
        if (!b->code) flush(b);
    }
}
static void feed(bench *b, const char *text) { feed_bytes(b, text, strlen(text), strlen(text)); }
static int status(const bench *b) {
    int n = 0;
    return sscanf(b->sent, "HTTP/1.1 %d ", &n) == 1 ? n : -1;
}

#define HOST "Host: localhost\r\n"
#define GET  "GET /health HTTP/1.1\r\n" HOST "\r\n"
#define YES  "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nConnection: keep-alive\r\n\r\nyes\n"

/* ---- honest clients ---- */

static void a_request_is_told_and_its_answer_sent(void **state) {
    (void)state;
    bench *b = bench_open();
    feed(b, "GET /a/b?c=d&e HTTP/1.1\r\n" HOST "Accept: */*\r\n\r\n");
    assert_string_equal(b->log, "GET /a/b?c=d&e []\n");
    assert_string_equal(b->sent, YES);
    assert_true(b->awake);
    assert_false(net_http1_is_over(b->h));
    bench_close(b);
}

static void every_cut_of_the_input_gives_the_same(void **state) {
    (void)state;
    static const char text[] = "\r\nGET /one?q HTTP/1.1\r\n" HOST "\r\n"
                               "POST /two HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\na\rb\n c\0de"
                               "POST /three HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"
                               "4;x=y\r\n\r\n\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
                               "HEAD http://localhost:80/four HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n";
    char log[MAX_TEXT], sent[MAX_TEXT];
    for (size_t piece = sizeof text - 1; piece > 0; piece--) {
        bench *b = bench_open();
        feed_bytes(b, text, sizeof text - 1, piece);
        assert_int_equal(b->code, ST_OK);
        assert_int_equal(b->n_requests, 4);
        assert_true(net_http1_is_over(b->h));
        if (piece == sizeof text - 1) {
            memcpy(log, b->log, b->n_log + 1);
            memcpy(sent, b->sent, b->n_sent + 1);
        }
        assert_string_equal(b->log, log);
        assert_string_equal(b->sent, sent);
        bench_close(b);
    }
    assert_non_null(strstr(log, "POST /three? [\r\n\r\n0123456789]\nHEAD /four? []\n"));
}

static void head_gets_the_head_alone(void **state) {
    (void)state;
    bench *b = bench_open();
    feed(b, "HEAD / HTTP/1.1\r\n" HOST "\r\n");
    assert_non_null(strstr(b->sent, "Content-Length: 4\r\n"));
    assert_string_equal(b->sent + b->n_sent - 4, "\r\n\r\n");
    bench_close(b);
}

static void a_connection_ends_where_one_side_says_so(void **state) {
    static const struct {
        const char *text;
        bool over;
    } rows[] = {{"GET / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", true},
                {"GET / HTTP/1.0\r\n\r\n", true},
                {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false},
                {GET, false}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench *b = bench_open();
        feed(b, rows[i].text);
        assert_int_equal(status(b), 200);
        assert_int_equal(net_http1_is_over(b->h), rows[i].over);
        assert_non_null(strstr(b->sent, rows[i].over ? "Connection: close" : "Connection: keep-alive"));
        feed(b, GET);
        assert_int_equal(b->n_requests, rows[i].over ? 1 : 2); /* what comes after the end is not looked at */
        bench_close(b);
    }
}

static void upgrades_are_ignored_and_100_continue_is_said(void **state) {
    (void)state;
    bench *b = bench_open();
    feed(b, "GET / HTTP/1.1\r\n" HOST "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
    assert_string_equal(b->sent, YES);
    feed(b, "POST / HTTP/1.1\r\n" HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_string_equal(b->sent, YES "HTTP/1.1 100 Continue\r\n\r\n");
    feed(b, "ok");
    assert_string_equal(b->sent, YES "HTTP/1.1 100 Continue\r\n\r\n" YES);
    bench_close(b);
}

static void an_answer_may_come_later_and_pipelined_requests_wait_for_it(void **state) {
    (void)state;
    bench *b = bench_open();
    b->hold = true;
    feed(b, "GET /1 HTTP/1.1\r\n" HOST "\r\n" GET GET);
    assert_int_equal(b->n_requests, 1);
    assert_int_equal(net_http1_next_ns(b->h), UINT64_MAX); /* a call takes its time */
    for (int i = 0; i < 2; i++) {
        net_http_answer(b->waiting, &b->reply);
        flush(b);
        assert_int_equal(b->n_requests, i + 2);
    }
    assert_string_equal(b->log, "GET /1? []\nGET /health? []\nGET /health? []\n");
    net_http1_lost(b->h);
    assert_int_equal(b->n_ends, 1);
    bench_close(b);
}

static void what_is_pipelined_is_bounded(void **state) {
    (void)state;
    static char big[100000];
    bench *b = bench_open();
    b->hold = true;
    feed(b, GET);
    for (int i = 0; i < 10000 && !net_http1_is_full(b->h); i++) feed(b, GET);
    assert_true(net_http1_is_full(b->h));
    assert_true(b->budget.used_bytes < 2 * NET_HTTP1_MAX_AHEAD_BYTES + 4096);
    bench_close(b);

    b = bench_open(); /* answers that nobody reads: the next request waits */
    b->reply.body = big;
    b->reply.n = sizeof big;
    for (int i = 0; i < 100; i++) assert_int_equal(net_http1_receive(b->h, b->now_ns, (const uint8_t *)GET, strlen(GET)), ST_OK);
    assert_int_equal(b->n_requests, 3);
    for (size_t n = 1, total = 0; n;) {
        static uint8_t out[65536];
        assert_int_equal(net_http1_send(b->h, b->now_ns, out, sizeof out, &n), ST_OK);
        total += n;
        if (!n) assert_true(total > 100 * sizeof big);
    }
    assert_int_equal(b->n_requests, 100);
    bench_close(b);
}

/* ---- hostile ones ---- */

static void what_could_smuggle_a_request_is_refused(void **state) {
    static const struct {
        const char *what, *text;
        int status;
    } rows[] = {
        {"CL and TE", "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"TE and CL", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400},
        {"two lengths", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", 400},
        {"two codings", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         400},
        {"a list of codings", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
        {"chunked, then another", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
        {"TE in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"a list of lengths", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1, 1\r\n\r\na", 400},
        {"a length with a space", "POST / HTTP/1.1\r\n" HOST "Content-Length: 1 1\r\n\r\na", 400},
        {"a negative length", "POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\na", 400},
        {"a length with a plus", "POST / HTTP/1.1\r\n" HOST "Content-Length: +1\r\n\r\na", 400},
        {"an empty length", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\na", 400},
        {"a length past 64 bits", "POST / HTTP/1.1\r\n" HOST "Content-Length: 18446744073709551617\r\n\r\na", 400},
        {"a space before the colon", "POST / HTTP/1.1\r\n" HOST "Content-Length : 1\r\n\r\na", 400},
        {"a bare CR in a value", "GET / HTTP/1.1\r\n" HOST "A: b\rContent-Length: 5\r\n\r\n", 400},
        {"a bare CR that ends the head", "GET / HTTP/1.1\r\n" HOST "\rGET /x HTTP/1.1\r\n\r\n", 400},
        {"a CR before CR LF", "GET / HTTP/1.1\r\r\n" HOST "\r\n", 400},
        {"a bare LF", "GET / HTTP/1.1\n" HOST "\r\n", 400},
        {"a bare LF that ends the head", "GET / HTTP/1.1\r\n" HOST "\n", 400},
        {"CR CR LF", "GET / HTTP/1.1\r\n" HOST "\r\r\n", 400},
        {"CR LF CR and something else", "GET / HTTP/1.1\r\n" HOST "\rX", 400},
        {"a folded field", "GET / HTTP/1.1\r\n" HOST "A: b\r\n c\r\n\r\n", 400},
        {"a folded field by tab", "GET / HTTP/1.1\r\n" HOST "A: b\r\n\tc\r\n\r\n", 400},
        {"a folded length", "POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n 1\r\n\r\na", 400},
        {"a space before the first field", "POST / HTTP/1.1\r\n Content-Length: 1\r\n" HOST "\r\na", 400},
        {"a field without a colon", "GET / HTTP/1.1\r\n" HOST "nothing\r\n\r\n", 400},
        {"a field without a name", "GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400},
        {"a control character", "GET / HTTP/1.1\r\n" HOST "A: b\001c\r\n\r\n", 400},
        {"a chunk of no digits", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nx\r\n\r\n", 400},
        {"a chunk size in C", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", 400},
        {"a chunk size past 64 bits", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\na", 400},
        {"a chunk longer than its size", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
         400},
        {"a bare CR in a chunk's head", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\ra\r\n0\r\n\r\n", 400},
        {"a bare LF in a chunk's head", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n", 400},
        {"a bare LF behind a chunk", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n", 400},
        {"a folded trailer", "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n c\r\n\r\n", 400},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t piece = 1; piece < 100; piece += 98) {
            bench *b = bench_open();
            feed_bytes(b, rows[i].text, strlen(rows[i].text), piece);
            if (status(b) != rows[i].status || b->n_requests || !net_http1_is_over(b->h))
                fail_msg("%s: %d requests, '%s'", rows[i].what, b->n_requests, b->sent);
            bench_close(b);
        }
}

static void what_is_no_request_for_us_is_refused(void **state) {
    static const struct {
        const char *text;
        int status;
    } rows[] = {
        {"GET / HTTP/1.1\r\n\r\n", 400}, /* no Host */
        {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400},
        {"GET /\r\n\r\n", 505}, /* HTTP/0.9 */
        {"GET / HTTP/2.0\r\n" HOST "\r\n", 505},
        {"GET / HTTP/1.2\r\n" HOST "\r\n", 505},
        {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400},
        {"CONNECT localhost:80 HTTP/1.1\r\n" HOST "\r\n", 405},
        {"OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 400},
        {"GET http://localhost HTTP/1.1\r\n" HOST "\r\n", 400},
        {" GET / HTTP/1.1\r\n" HOST "\r\n", 400},
        {"G\001T / HTTP/1.1\r\n" HOST "\r\n", 400},
        {"get / HTTP/1.1\r\n" HOST "\r\n", 400},
        {"\x16\x03\x01\x02", 400}, /* TLS */
        {"A\r\n\r\n", 400},
        {"\r\n\r\n", -1}, /* nothing yet */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench *b = bench_open();
        feed(b, rows[i].text);
        if (status(b) != rows[i].status || b->n_requests) fail_msg("'%s': '%s'", rows[i].text, b->sent);
        bench_close(b);
    }
}

/* A request whose part that is named grows to n; its status. */
static int status_of(const char *what, size_t n) {
    static char text[1 << 17];
    bench *b = bench_open();
    memset(text, 'a', sizeof text);
    size_t at = 0, fill = 0;
#define PUT(s) (memcpy(text + at, s, strlen(s)), at += strlen(s))
    if (!strcmp(what, "target")) {
        PUT("GET /");
        at += n - 1;
        PUT(" HTTP/1.1\r\n" HOST "\r\n");
    } else if (!strcmp(what, "head")) {
        PUT("GET / HTTP/1.1\r\n" HOST "A: ");
        fill = n - at - 4;
        at += fill;
        PUT("\r\n\r\n");
    } else if (!strcmp(what, "fields")) {
        PUT("GET / HTTP/1.1\r\n" HOST);
        for (size_t i = 1; i < n; i++) PUT("A: b\r\n");
        PUT("\r\n");
    } else if (!strcmp(what, "length")) {
        at = (size_t)snprintf(text, sizeof text, "POST / HTTP/1.1\r\n" HOST "Content-Length: %zu\r\n\r\n", n);
    } else if (!strcmp(what, "chunk")) {
        at = (size_t)snprintf(text, sizeof text, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n%zx\r\n",
                              n - 1);
    } else if (!strcmp(what, "extension")) {
        PUT("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n0;");
        fill = n - at - 4;
        at += fill;
        PUT("\r\n\r\n");
    }
    feed_bytes(b, text, at, 1000);
    int code = status(b);
    bench_close(b);
    return code;
}

static void limits_hold_to_the_byte(void **state) {
    static const struct {
        const char *what;
        size_t limit;
        int below, above; /* -1: it waits for more */
    } rows[] = {{"target", NET_HTTP1_MAX_TARGET_BYTES, 200, 414}, {"head", NET_HTTP1_MAX_HEAD_BYTES, 200, 431},
                {"fields", NET_HTTP1_MAX_FIELDS, 200, 431},       {"length", NET_HTTP1_MAX_BODY_BYTES, -1, 413},
                {"chunk", NET_HTTP1_MAX_BODY_BYTES, -1, 413},     {"extension", NET_HTTP1_MAX_HEAD_BYTES, 200, 400}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t n = rows[i].limit - 1; n <= rows[i].limit + 1; n++)
            if (status_of(rows[i].what, n) != (n > rows[i].limit ? rows[i].above : rows[i].below))
                fail_msg("%s of %zu: %d", rows[i].what, n, status_of(rows[i].what, n));
}

static void chunks_of_one_byte_end_at_the_limit_of_framing(void **state) {
    (void)state;
    bench *b = bench_open();
    feed(b, "POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    int n = 0;
    for (; n < 100000 && !net_http1_is_over(b->h); n++) feed(b, "1\r\na\r\n");
    assert_in_range(n, 4000, 4200); /* 5 bytes of framing, one of them earned */
    assert_int_equal(status(b), 400);
    bench_close(b);
}

static void slow_clients_meet_their_time_outs(void **state) {
    static const struct {
        const char *text;
        uint64_t ms;
        int status; /* -1: closed without a word */
    } rows[] = {{"", NET_HTTP1_HEADER_MS, -1},
                {GET, NET_HTTP1_IDLE_MS, -1},
                {"GET / HT", NET_HTTP1_HEADER_MS, 408},
                {GET "GET / HT", NET_HTTP1_HEADER_MS, 408},
                {"POST / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\na", NET_HTTP1_REQUEST_MS, 408}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        bench *b = bench_open();
        feed(b, rows[i].text);
        uint64_t at = net_http1_next_ns(b->h);
        assert_int_equal(at, b->now_ns + rows[i].ms * MS);
        b->n_sent = 0;
        net_http1_tick(b->h, at - 1);
        assert_false(net_http1_is_over(b->h));
        net_http1_tick(b->h, at);
        flush(b);
        assert_true(net_http1_is_over(b->h));
        assert_int_equal(status(b), rows[i].status);
        bench_close(b);
    }
}

static void a_byte_now_and_then_does_not_push_the_time_out_away(void **state) {
    (void)state;
    bench *b = bench_open();
    uint64_t start = b->now_ns;
    feed(b, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < 20 && !net_http1_is_over(b->h); i++) {
        b->now_ns += 1000 * MS;
        net_http1_tick(b->h, b->now_ns);
        feed(b, "a");
        flush(b);
    }
    assert_int_equal(b->now_ns, start + NET_HTTP1_HEADER_MS * MS);
    bench_close(b);
}

static void each_allocation_that_fails_is_survived(void **state) {
    (void)state;
    static const char text[] = GET "POST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabc" GET;
    uint64_t n = 0, n_needed = 0;
    do {
        static bench b;
        memset(&b, 0, sizeof b);
        b.budget.limit_bytes = 1 << 20;
        b.reply = (net_http_reply){.status = 200, .type = "text/plain", .body = "yes\n", .n = 4};
        net_http1_setup setup = {{on_request, on_end}, &b, wake, &b, &b.budget};
        mem_fail_at(++n);
        b.code = net_http1_create(&setup, 0, &b.h);
        if (!b.code) feed_bytes(&b, text, sizeof text - 1, sizeof text - 1);
        n_needed = mem_fail_at(0);
        if (n_needed >= n && !b.code) assert_true(net_http1_is_over(b.h)); /* an answer was lost, and the connection with it */
        bench_close(&b);
    } while (n_needed >= n && n < 100);
    assert_in_range(n, 4, 99);
}

static void a_budget_that_is_used_up_ends_the_connection(void **state) {
    (void)state;
    bench *b = bench_open();
    b->budget.limit_bytes = 8192;
    feed(b, "POST / HTTP/1.1\r\n" HOST "Content-Length: 100000\r\n\r\n");
    static char body[20000];
    feed_bytes(b, body, sizeof body, 1000);
    assert_int_equal(b->n_requests, 0);
    assert_int_equal(status(b), 503);
    assert_true(net_http1_is_over(b->h));
    bench_close(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_told_and_its_answer_sent),
        cmocka_unit_test(every_cut_of_the_input_gives_the_same),
        cmocka_unit_test(head_gets_the_head_alone),
        cmocka_unit_test(a_connection_ends_where_one_side_says_so),
        cmocka_unit_test(upgrades_are_ignored_and_100_continue_is_said),
        cmocka_unit_test(an_answer_may_come_later_and_pipelined_requests_wait_for_it),
        cmocka_unit_test(what_is_pipelined_is_bounded),
        cmocka_unit_test(what_could_smuggle_a_request_is_refused),
        cmocka_unit_test(what_is_no_request_for_us_is_refused),
        cmocka_unit_test(limits_hold_to_the_byte),
        cmocka_unit_test(chunks_of_one_byte_end_at_the_limit_of_framing),
        cmocka_unit_test(slow_clients_meet_their_time_outs),
        cmocka_unit_test(a_byte_now_and_then_does_not_push_the_time_out_away),
        cmocka_unit_test(each_allocation_that_fails_is_survived),
        cmocka_unit_test(a_budget_that_is_used_up_ends_the_connection),
    };
    return cmocka_run_group_tests_name("net_http1", tests, NULL, NULL);
}
