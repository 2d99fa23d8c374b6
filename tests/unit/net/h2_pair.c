#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "h2_pair.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static uint8_t sum_of(const uint8_t *bytes, size_t n) {
    uint8_t sum = 0;
    for (size_t i = 0; i < n; i++) sum = (uint8_t)(sum * 31 + bytes[i]);
    return sum;
}

static void on_call(void *context, net_call *c, const char *path, const uint8_t *message, size_t n) {
    h2_pair *p = context;
    p->call = c;
    p->n_calls++;
    snprintf(p->path, sizeof p->path, "%s", path);
    p->request_bytes = n;
    p->request_sum = sum_of(message, n);
    if (p->finish_with >= 0) net_call_finish(c, p->finish_with, p->finish_with ? "no: 100 %, \xc3\xa4\n" : NULL);
}
static void on_end(void *context, net_call *c, st_code code) {
    h2_pair *p = context;
    assert_int_equal(net_call_send(c, NULL, 0, NULL), ST_ERR_UNAVAILABLE);
    p->n_ends++;
    p->end_code = code;
}
static void on_credit(void *context, net_call *c) {
    h2_pair *p = context;
    (void)c;
    p->n_credits++;
}
static void on_message(void *context, const uint8_t *message, size_t n) {
    h2_pair *p = context;
    p->n_messages++;
    p->message_bytes += n;
    p->message_sum = sum_of(message, n);
}
static void on_done(void *context, int status, const char *message) {
    h2_pair *p = context;
    p->n_done++;
    p->status = status;
    snprintf(p->message, sizeof p->message, "%s", message);
}
static void on_wake(void *context) {
    h2_pair *p = context;
    p->n_wakes++;
}

const net_grpc_reply h2_pair_reply = {on_message, on_done};
const net_grpc_callbacks h2_pair_calls = {on_call, on_end, on_credit};

static void start(h2_pair *p) {
    memset(p, 0, sizeof *p);
    p->now_ns = 1000 * MS;
    p->finish_with = -1;
    net_h2_server_setup setup = {.calls = h2_pair_calls, .context = p, .wake = on_wake, .wake_context = p};
    assert_int_equal(net_h2_server_create(&setup, p->now_ns, &p->server), ST_OK);
}

void pair_open(h2_pair *p) {
    start(p);
    assert_int_equal(net_h2_client_create("test:1", NULL, NULL, &p->client), ST_OK);
    pair_run(p);
}

void pair_close(h2_pair *p) {
    net_h2_server_destroy(p->server);
    net_h2_client_destroy(p->client);
}

void pair_run(h2_pair *p) {
    uint8_t bytes[1000]; /* small and odd: splits frames */
    size_t up = 1, down = 1;
    while (up || down) {
        assert_int_equal(net_h2_client_send(p->client, bytes, sizeof bytes, &up), ST_OK);
        if (up && !p->server_code) p->server_code = net_h2_server_receive(p->server, p->now_ns, bytes, up);
        down = 0;
        if (p->hold_replies || p->server_code) continue;
        assert_int_equal(net_h2_server_send(p->server, p->now_ns, bytes, sizeof bytes, &down), ST_OK);
        if (down) assert_int_equal(net_h2_client_receive(p->client, bytes, down), ST_OK);
    }
}

net_h2_request *pair_start(h2_pair *p, const char *path, const uint8_t *message, size_t n, uint32_t timeout_ms) {
    net_h2_request *r = NULL;
    assert_int_equal(net_h2_client_start(p->client, p->now_ns, path, message, n, timeout_ms, &h2_pair_reply, p, &r), ST_OK);
    return r;
}

void lone_open(h2_pair *p) {
    uint8_t bytes[64];
    start(p);
    memcpy(bytes, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    size_t n = 24 + put_frame(bytes + 24, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    lone_feed(p, bytes, n);
    lone_flush(p);
}

void lone_feed(h2_pair *p, const void *bytes, size_t n) {
    if (!p->server_code) p->server_code = net_h2_server_receive(p->server, p->now_ns, bytes, n);
}

void lone_flush(h2_pair *p) {
    size_t n = 1;
    uint8_t bytes[16384];
    while (n && !p->server_code) {
        p->server_code = net_h2_server_send(p->server, p->now_ns, bytes, sizeof bytes, &n);
        if (p->n_sent + n > sizeof p->sent) p->n_sent = 0;
        memcpy(p->sent + p->n_sent, bytes, n);
        p->n_sent += n;
    }
}

static uint32_t read_u32(const uint8_t *b) { return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3]; }

bool lone_has_frame(const h2_pair *p, uint8_t type, int32_t stream, uint32_t error) {
    for (size_t at = 0; at + 9 <= p->n_sent;) {
        const uint8_t *f = p->sent + at;
        size_t n = read_u32(f) >> 8;
        uint32_t code = type == NGHTTP2_RST_STREAM ? read_u32(f + 9) : type == NGHTTP2_GOAWAY ? read_u32(f + 13) : 0;
        if (f[3] == type && read_u32(f + 5) == (uint32_t)stream && code == error) return true;
        at += 9 + n;
    }
    return false;
}

size_t put_frame(uint8_t *out, uint8_t type, uint8_t flags, int32_t stream, const void *payload, size_t n) {
    uint8_t head[9] = {(uint8_t)(n >> 16),      (uint8_t)(n >> 8),      (uint8_t)n,     type, flags, (uint8_t)(stream >> 24),
                       (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
    memcpy(out, head, sizeof head);
    if (n) memcpy(out + sizeof head, payload, n);
    return sizeof head + n;
}

static size_t put_string(uint8_t *out, const char *text) { /* RFC 7541 5.2, up to 127 + 127 + 128 * 127 bytes */
    size_t n = strlen(text), at = 1;
    out[0] = (uint8_t)(n < 127 ? n : 127);
    if (n >= 127) {
        size_t rest = n - 127;
        for (; rest >= 128; rest >>= 7) out[at++] = (uint8_t)(rest % 128 + 128);
        out[at++] = (uint8_t)rest;
    }
    memcpy(out + at, text, n);
    return at + n;
}

size_t put_text_header(uint8_t *out, const char *name, const char *value) {
    out[0] = 0x10;
    size_t n = 1 + put_string(out + 1, name);
    return n + put_string(out + n, value);
}

size_t put_request_headers(uint8_t *out, const char *path, const char *content_type) {
    size_t n = put_text_header(out, ":method", "POST");
    n += put_text_header(out + n, ":scheme", "http");
    n += put_text_header(out + n, ":path", path);
    n += put_text_header(out + n, ":authority", "a");
    if (content_type) n += put_text_header(out + n, "content-type", content_type);
    return n;
}
