/* The server codec against peers that are wrong or hostile, by hand-made frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "h2_pair.h"
#include "net/limits.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

/* Looks for text in what the server sent: literal headers only, so statuses are asked of the user's side where they can be. */
static bool said(const h2_pair *p, const char *text) { return memmem(p->sent, p->n_sent, text, strlen(text)) != NULL; }

/* One call: headers, then `body` with END_STREAM. */
static void call(h2_pair *p, int32_t stream, const uint8_t *head, size_t h, const void *body, size_t n) {
    static uint8_t bytes[65536];
    size_t at = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, head, h);
    at += put_frame(bytes + at, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, stream, body, n);
    lone_feed(p, bytes, at);
    lone_flush(p);
}

/* grpc-status of a trailers-only reply, decoded by a client codec's HPACK; -1: none. */
typedef struct {
    int http, grpc;
    char message[256];
} reply;
static reply reply_of(h2_pair *p, const uint8_t *head, size_t h, const void *body, size_t n) {
    reply r = {-1, -1, ""};
    nghttp2_hd_inflater *inflater = NULL;
    assert_int_equal(nghttp2_hd_inflate_new(&inflater), 0);
    p->n_sent = 0;
    call(p, 1, head, h, body, n);
    for (size_t at = 0; at + 9 <= p->n_sent;) {
        uint8_t *f = p->sent + at;
        size_t left = (size_t)f[0] << 16 | (size_t)f[1] << 8 | f[2];
        at += 9 + left;
        uint8_t *b = f + 9;
        int flags = 0;
        while (f[3] == NGHTTP2_HEADERS && left && !(flags & NGHTTP2_HD_INFLATE_FINAL)) {
            nghttp2_nv nv;
            ssize_t used = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, b, left, 1);
            assert_true(used >= 0);
            b += used;
            left -= (size_t)used;
            if (!(flags & NGHTTP2_HD_INFLATE_EMIT)) continue;
            int number = 0;
            for (size_t i = 0; i < nv.valuelen && i < 4; i++) number = number * 10 + nv.value[i] - '0';
            if (net_header_is(nv.name, nv.namelen, ":status")) r.http = number;
            if (net_header_is(nv.name, nv.namelen, "grpc-status")) r.grpc = number;
            if (net_header_is(nv.name, nv.namelen, "grpc-message"))
                net_percent_decode(nv.value, nv.valuelen, r.message, sizeof r.message);
        }
    }
    nghttp2_hd_inflate_del(inflater);
    return r;
}

static reply ask(const char *path, const char *type, const char *name, const char *value, const void *body, size_t n) {
    static h2_pair p;
    uint8_t head[2000];
    lone_open(&p);
    p.finish_with = 0;
    size_t h = put_request_headers(head, path, type);
    if (name) h += put_text_header(head + h, name, value);
    reply r = reply_of(&p, head, h, body, n);
    assert_int_equal(net_h2_server_calls(p.server), 0);
    if (r.grpc != 0) assert_int_equal(p.n_calls, 0);
    pair_close(&p);
    return r;
}

#define EMPTY "\0\0\0\0\0", 5

static void content_types_of_grpc_are_taken_and_others_get_415(void **state) {
    (void)state;
    static const char *const good[] = {"application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8",
                                       "application/grpc+proto; x=y"};
    static const char *const bad[] = {"application/json", "application/grpc-web", "application/grpc+json",
                                      "application/grp",  "application/grpcx",    "text/application/grpc"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        reply r = ask("/a.B/C", good[i], NULL, NULL, EMPTY);
        assert_int_equal(r.http, 200);
        assert_int_equal(r.grpc, 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        reply r = ask("/a.B/C", bad[i], NULL, NULL, EMPTY);
        assert_int_equal(r.http, 415);
        assert_int_equal(r.grpc, -1);
    }
    assert_int_equal(ask("/a.B/C", NULL, NULL, NULL, EMPTY).http, 415);
}

static void bad_paths_are_unimplemented(void **state) {
    (void)state;
    char edge[NET_MAX_PATH_BYTES + 2];
    static const char *const bad[] = {"/", "/a", "/a/", "//a", "/a/b/c", "/a//c"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ask(bad[i], "application/grpc", NULL, NULL, EMPTY).grpc, 12);
    assert_int_equal(ask("/a b/c", "application/grpc", NULL, NULL, EMPTY).http, -1); /* no HTTP: reset */
    assert_int_equal(ask("a/b", "application/grpc", NULL, NULL, EMPTY).http, -1);
    assert_int_equal(ask("/a\x7f/c", "application/grpc", NULL, NULL, EMPTY).http, -1);
    for (size_t n = NET_MAX_PATH_BYTES - 1; n <= NET_MAX_PATH_BYTES + 1; n++) {
        memset(edge, 'x', n);
        edge[n] = 0;
        edge[0] = edge[5] = '/';
        assert_int_equal(ask(edge, "application/grpc", NULL, NULL, EMPTY).grpc, n <= NET_MAX_PATH_BYTES ? 0 : 12);
    }
}

static void messages_that_are_wrong_are_refused_in_words(void **state) {
    (void)state;
    static const struct {
        const char *name, *value, *body;
        size_t n;
        int grpc;
        const char *words;
    } rows[] = {
        {NULL, NULL, "\1\0\0\0\0", 5, 13, "compressed flag set without grpc-encoding"},
        {"grpc-encoding", "identity", "\1\0\0\0\0", 5, 13, "compressed flag set without grpc-encoding"},
        {"grpc-encoding", "gzip", "\1\0\0\0\0", 5, 12, "compressed messages are not supported; send identity"},
        {"grpc-encoding", "gzip", "\0\0\0\0\0", 5, 0, ""},
        {NULL, NULL, "\2\0\0\0\0", 5, 13, "bad compressed flag; expected 0 or 1"},
        {NULL, NULL, "\0\377\377\377\377", 5, 8, "message is larger than the limit of 8388608 bytes"},
        {NULL, NULL, "\0\0\200\0\1", 5, 8, "message is larger than the limit of 8388608 bytes"},
        {NULL, NULL, "\0\0\200\0\0", 5, 13, "request message is cut short"},
        {NULL, NULL, "\0\0\0\0\2x", 6, 13, "request message is cut short"},
        {NULL, NULL, "\0\0", 2, 13, "request message is cut short"},
        {NULL, NULL, "", 0, 13, "no request message"},
        {NULL, NULL, "\0\0\0\0\0\0\0\0\0\0", 10, 12, "more than one request message; client streaming is not supported"},
        {"grpc-timeout", "5", "\0\0\0\0\0", 5, 13, "malformed grpc-timeout; expected at most 8 digits and one of HMSmun"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        reply r = ask("/a.B/C", "application/grpc", rows[i].name, rows[i].value, rows[i].body, rows[i].n);
        assert_int_equal(r.grpc, rows[i].grpc);
        assert_string_equal(r.message, rows[i].words);
    }
}

static void a_get_is_405(void **state) {
    (void)state;
    h2_pair p;
    uint8_t head[400];
    lone_open(&p);
    size_t h = put_text_header(head, ":method", "GET");
    h += put_text_header(head + h, ":scheme", "http");
    h += put_text_header(head + h, ":path", "/a.B/C");
    h += put_text_header(head + h, ":authority", "a");
    h += put_text_header(head + h, "content-type", "application/grpc");
    assert_int_equal(reply_of(&p, head, h, NULL, 0).http, 405);
    pair_close(&p);
}

/* Size as RFC 9113 10.5.1 counts it: name + value + 32 a header. */
static void headers_are_taken_up_to_the_limit(void **state) {
    (void)state;
    static h2_pair p;
    static uint8_t head[40000];
    static char value[NET_MAX_HEADER_BYTES + 1];
    for (int over = -1; over <= 1; over++) {
        lone_open(&p);
        p.finish_with = 0;
        size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
        size_t counted = 7 + 4 + 7 + 4 + 5 + 6 + 10 + 1 + 12 + 16 + 5 * 32;
        size_t n = (size_t)(NET_MAX_HEADER_BYTES + over) - counted - 1 - 32;
        memset(value, 'v', n);
        value[n] = 0;
        h += put_text_header(head + h, "x", value);
        size_t half = h / 2; /* a frame holds 16 KiB: HEADERS and CONTINUATION */
        static uint8_t bytes[40100];
        size_t at = put_frame(bytes, NGHTTP2_HEADERS, 0, 3, head, half);
        at += put_frame(bytes + at, NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 3, head + half, h - half);
        at += put_frame(bytes + at, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 3, EMPTY);
        lone_feed(&p, bytes, at);
        lone_flush(&p);
        assert_int_equal(p.n_calls, over <= 0);
        assert_int_equal(p.server_code, ST_OK);
        assert_int_equal(said(&p, "limit of 16384") || p.n_calls == 0, over > 0);
        pair_close(&p);
    }
}

/* CVE-2026-49975: one large entry in the table, then one byte a reference. */
static void references_to_a_large_entry_end_the_connection(void **state) {
    (void)state;
    static h2_pair p;
    static uint8_t head[16384], bytes[16384 + 9];
    static char value[3001];
    lone_open(&p);
    memset(value, 'v', 3000);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    size_t large = h;
    h += put_text_header(head + h, "x", value);
    head[large] = 0x40; /* with incremental indexing: entry 62 */
    memset(head + h, 0x80 | 62, sizeof head - h);
    size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, head, sizeof head);
    lone_feed(&p, bytes, n);
    assert_int_equal(p.server_code, ST_FATAL_PROTOCOL);
    assert_int_equal(p.n_calls, 0);
    pair_close(&p);
}

static void an_invalid_header_value_resets_the_call(void **state) {
    (void)state;
    h2_pair p;
    uint8_t head[400];
    lone_open(&p);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    h += put_text_header(head + h, "x", "a\nb");
    call(&p, 1, head, h, EMPTY);
    assert_int_equal(p.n_calls, 0);
    assert_true(lone_has_frame(&p, NGHTTP2_RST_STREAM, 1, NGHTTP2_PROTOCOL_ERROR));
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

/* Sends the frame(s) in `bytes` again and again; how many bytes until the connection is over. */
static size_t flood(h2_pair *p, const void *bytes, size_t n, size_t limit, bool read_replies) {
    size_t fed = 0;
    while (fed < limit && !p->server_code && !net_h2_server_is_over(p->server)) {
        lone_feed(p, bytes, n);
        if (read_replies) lone_flush(p);
        fed += n;
    }
    if (!p->server_code) lone_flush(p);
    return fed;
}

static void a_rapid_reset_flood_closes_the_connection(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t head[400], bytes[800];
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    lone_open(&p);
    int32_t stream = 1;
    for (; stream < 200000 && !p.server_code && !net_h2_server_is_over(p.server); stream += 2) {
        size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, head, h);
        n += put_frame(bytes + n, NGHTTP2_RST_STREAM, 0, stream, "\0\0\0\10", 4);
        lone_feed(&p, bytes, n);
        lone_flush(&p);
    }
    assert_true(stream < 2 * 1100);
    assert_true(stream > 2 * 900); /* a client may cancel many calls */
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void made_resets_are_charged_too(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t head[400], bytes[800];
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    lone_open(&p);
    int32_t stream = 1;
    for (; stream < 200000 && !p.server_code && !net_h2_server_is_over(p.server); stream += 2) {
        size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, head, h);
        n += put_frame(bytes + n, NGHTTP2_WINDOW_UPDATE, 0, stream, "\0\0\0\0", 4); /* MadeYouReset: we reset */
        lone_feed(&p, bytes, n);
        lone_flush(&p);
    }
    assert_true(stream < 2 * 1100);
    pair_close(&p);
}

static void resets_that_are_spread_over_time_are_forgiven(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t head[400], bytes[800];
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    lone_open(&p);
    for (int32_t stream = 1; stream < 2 * 900; stream += 2) {
        p.now_ns += 40 * MS;
        size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, head, h);
        n += put_frame(bytes + n, NGHTTP2_RST_STREAM, 0, stream, "\0\0\0\10", 4);
        lone_feed(&p, bytes, n);
        lone_flush(&p);
    }
    net_glitches g = {0};
    for (uint64_t i = 1; i < 50000; i++) assert_true(net_glitch_charge(&g, i * 40 * MS, NET_GLITCH_RESET));
    assert_int_equal(p.server_code, ST_OK);
    assert_false(net_h2_server_is_over(p.server));
    pair_close(&p);
}

static void the_glitch_bucket_holds_its_burst_and_no_more(void **state) {
    (void)state;
    net_glitches g = {.at_ns = 5};
    for (int i = 0; i < NET_GLITCH_BURST; i++) assert_true(net_glitch_charge(&g, 5, 1));
    assert_false(net_glitch_charge(&g, 5, 1));
    net_glitch_earn(&g, 10);
    assert_true(net_glitch_charge(&g, 5, 9));
    assert_false(net_glitch_charge(&g, 5, 1));
    assert_true(net_glitch_charge(&g, 5 + 1000 * MS, NET_GLITCH_PER_SECOND - 1));
}

static void floods_of_cheap_frames_end_the_connection(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t settings[2400 * 6] = {0};
    static const struct {
        uint8_t type, flags;
        const char *payload;
        size_t n;
    } rows[] = {{NGHTTP2_PING, 0, "12345678", 8},
                {NGHTTP2_SETTINGS, 0, NULL, 0},
                {NGHTTP2_WINDOW_UPDATE, 0, "\0\0\0\1", 4},
                {NGHTTP2_PRIORITY, 0, "\0\0\0\1\1", 5},
                {NGHTTP2_DATA, 0, "", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int reads = 0; reads < 2; reads++) {
            uint8_t bytes[500], head[400];
            lone_open(&p);
            size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
            lone_feed(&p, bytes, put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, head, h));
            size_t n = put_frame(bytes, rows[i].type, rows[i].flags,
                                 rows[i].type == NGHTTP2_PRIORITY ? 3 : rows[i].type == NGHTTP2_DATA, rows[i].payload, rows[i].n);
            size_t fed = flood(&p, bytes, n, n * 20000, reads);
            assert_true(fed / n <= NET_GLITCH_BURST + NET_SLICE_BYTES);
            pair_close(&p);
        }
    }
    static uint8_t bytes[20000]; /* CVE-2020-11080 */
    lone_open(&p);
    size_t n = put_frame(bytes, NGHTTP2_SETTINGS, 0, 0, settings, sizeof settings);
    lone_feed(&p, bytes, n);
    lone_flush(&p);
    assert_true(p.server_code || net_h2_server_is_over(p.server));
    pair_close(&p);
}

static void the_flood_is_seen_within_one_read(void **state) {
    (void)state;
    static h2_pair p;
    static uint8_t bytes[17 * 60000];
    size_t n = 0;
    lone_open(&p);
    for (int i = 0; i < 60000; i++) n += put_frame(bytes + n, NGHTTP2_WINDOW_UPDATE, 0, 0, "\0\0\0\1", 4);
    lone_feed(&p, bytes, n);
    lone_flush(&p);
    assert_true(net_h2_server_is_over(p.server));
    assert_true(lone_has_frame(&p, NGHTTP2_GOAWAY, 0, NGHTTP2_ENHANCE_YOUR_CALM));
    pair_close(&p);
}

static void pings_without_reading_stay_bounded(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t bytes[17];
    lone_open(&p);
    size_t n = put_frame(bytes, NGHTTP2_PING, 0, 0, "12345678", 8);
    size_t fed = flood(&p, bytes, n, n * 100000, false);
    assert_true(fed / n <= NET_MAX_OUTBOUND_ACKS + 1);
    pair_close(&p);
}

static void endless_continuation_ends_the_connection(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t head[400], bytes[500];
    for (size_t length = 0; length <= 8; length += 8) {
        lone_open(&p);
        size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
        size_t n = put_frame(bytes, NGHTTP2_HEADERS, 0, 1, head, h);
        lone_feed(&p, bytes, n);
        uint8_t field[8] = {0x10, 1, 'x', 4, 'y', 'y', 'y', 'y'};
        n = put_frame(bytes, NGHTTP2_CONTINUATION, 0, 1, field, length);
        size_t fed = flood(&p, bytes, n, n * 100000, true);
        assert_true(fed / n <= 1001);
        assert_int_equal(p.n_calls, 0);
        pair_close(&p);
    }
}

static void a_header_block_that_does_not_end_times_out(void **state) {
    (void)state;
    h2_pair p;
    uint8_t head[400], bytes[500];
    lone_open(&p);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    size_t n = put_frame(bytes, NGHTTP2_HEADERS, 0, 1, head, h);
    lone_feed(&p, bytes, n);
    assert_int_equal(net_h2_server_next_ns(p.server), p.now_ns + NET_HTTP2_HEADER_MS * MS);
    p.now_ns += NET_HTTP2_HEADER_MS * MS;
    net_h2_server_tick(p.server, p.now_ns);
    lone_flush(&p);
    assert_true(net_h2_server_is_over(p.server));
    pair_close(&p);
}

static void a_request_that_does_not_end_times_out(void **state) {
    (void)state;
    h2_pair p;
    uint8_t head[400], bytes[500];
    lone_open(&p);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, head, h);
    lone_feed(&p, bytes, n);
    p.now_ns += NET_HTTP2_REQUEST_MS * MS - 1;
    net_h2_server_tick(p.server, p.now_ns);
    assert_int_equal(net_h2_server_calls(p.server), 1);
    p.now_ns += 1;
    net_h2_server_tick(p.server, p.now_ns);
    lone_flush(&p);
    assert_int_equal(net_h2_server_calls(p.server), 0);
    assert_true(lone_has_frame(&p, NGHTTP2_RST_STREAM, 1, NGHTTP2_NO_ERROR)); /* behind the trailers: it had not half-closed */
    pair_close(&p);
}

static void silent_and_idle_connections_are_closed(void **state) {
    (void)state;
    h2_pair p;
    memset(&p, 0, sizeof p);
    net_h2_server_setup setup = {.calls = h2_pair_calls, .context = &p};
    assert_int_equal(net_h2_server_create(&setup, MS, &p.server), ST_OK);
    lone_flush(&p);
    assert_int_equal(net_h2_server_next_ns(p.server), MS + NET_HTTP2_HANDSHAKE_MS * MS);
    net_h2_server_tick(p.server, MS + NET_HTTP2_HANDSHAKE_MS * MS);
    lone_flush(&p);
    assert_true(net_h2_server_is_over(p.server));
    pair_close(&p);
    lone_open(&p);
    assert_int_equal(net_h2_server_next_ns(p.server), p.now_ns + NET_HTTP2_IDLE_MS * MS);
    net_h2_server_tick(p.server, p.now_ns + NET_HTTP2_IDLE_MS * MS);
    lone_flush(&p);
    assert_true(net_h2_server_is_over(p.server));
    pair_close(&p);
}

/* One too many is refused; with our SETTINGS acknowledged it is a protocol error of the whole connection (RFC 9113 5.1.2). */
static void streams_are_limited(void **state) {
    (void)state;
    static h2_pair p;
    uint8_t head[400], bytes[500];
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    for (int acked = 0; acked < 2; acked++) {
        lone_open(&p);
        size_t n = put_frame(bytes, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
        if (acked) lone_feed(&p, bytes, n);
        for (int32_t i = 0; i <= NET_MAX_STREAMS; i++) {
            n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, head, h);
            lone_feed(&p, bytes, n);
            lone_flush(&p);
            assert_true(net_h2_server_calls(p.server) == (size_t)i + 1 || i == NET_MAX_STREAMS);
        }
        assert_true(net_h2_server_calls(p.server) <= NET_MAX_STREAMS);
        if (acked)
            assert_true(lone_has_frame(&p, NGHTTP2_GOAWAY, 0, NGHTTP2_PROTOCOL_ERROR));
        else
            assert_true(lone_has_frame(&p, NGHTTP2_RST_STREAM, 2 * NET_MAX_STREAMS + 1, NGHTTP2_REFUSED_STREAM));
        pair_close(&p);
    }
}

static void what_is_held_for_all_connections_is_limited(void **state) {
    (void)state;
    h2_pair p;
    uint8_t head[400], bytes[800];
    net_budget all = {.limit_bytes = 1000};
    lone_open(&p);
    net_h2_server_destroy(p.server);
    net_h2_server_setup setup = {.calls = h2_pair_calls, .context = &p, .budget = &all};
    assert_int_equal(net_h2_server_create(&setup, MS, &p.server), ST_OK);
    lone_feed(&p, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    for (int32_t stream = 1; stream <= 7; stream += 2) {
        size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, stream, head, h);
        n += put_frame(bytes + n, NGHTTP2_DATA, 0, stream, "\0\0\0\0\100x", 6);
        lone_feed(&p, bytes, n);
        lone_flush(&p);
    }
    assert_int_equal(all.used_bytes, 3 * 256); /* the fourth was refused */
    assert_int_equal(net_h2_server_calls(p.server), 3);
    net_h2_server_destroy(p.server);
    assert_int_equal(all.used_bytes, 0);
}

static void bytes_that_are_no_http2_end_the_connection(void **state) {
    (void)state;
    h2_pair p;
    memset(&p, 0, sizeof p);
    net_h2_server_setup setup = {.calls = h2_pair_calls, .context = &p};
    assert_int_equal(net_h2_server_create(&setup, MS, &p.server), ST_OK);
    lone_feed(&p, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27);
    assert_int_equal(p.server_code, ST_FATAL_PROTOCOL);
    pair_close(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(content_types_of_grpc_are_taken_and_others_get_415),
        cmocka_unit_test(bad_paths_are_unimplemented),
        cmocka_unit_test(messages_that_are_wrong_are_refused_in_words),
        cmocka_unit_test(a_get_is_405),
        cmocka_unit_test(headers_are_taken_up_to_the_limit),
        cmocka_unit_test(references_to_a_large_entry_end_the_connection),
        cmocka_unit_test(an_invalid_header_value_resets_the_call),
        cmocka_unit_test(a_rapid_reset_flood_closes_the_connection),
        cmocka_unit_test(made_resets_are_charged_too),
        cmocka_unit_test(resets_that_are_spread_over_time_are_forgiven),
        cmocka_unit_test(the_glitch_bucket_holds_its_burst_and_no_more),
        cmocka_unit_test(floods_of_cheap_frames_end_the_connection),
        cmocka_unit_test(the_flood_is_seen_within_one_read),
        cmocka_unit_test(pings_without_reading_stay_bounded),
        cmocka_unit_test(endless_continuation_ends_the_connection),
        cmocka_unit_test(a_header_block_that_does_not_end_times_out),
        cmocka_unit_test(a_request_that_does_not_end_times_out),
        cmocka_unit_test(silent_and_idle_connections_are_closed),
        cmocka_unit_test(streams_are_limited),
        cmocka_unit_test(what_is_held_for_all_connections_is_limited),
        cmocka_unit_test(bytes_that_are_no_http2_end_the_connection),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
