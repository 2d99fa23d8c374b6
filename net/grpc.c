/* gRPC on the loop: what the codecs (h2.c, h2_client.c) need to be a server (serve.c) and a client. No HTTP/2 knowledge here. */
#include "net/grpc_int.h"

#include "base/mem.h"
#include "net/h2_int.h"
#include "net/limits.h"
#include "net/loop_int.h"
#include "net/serve_int.h"
#include <stdio.h>
#include <string.h>

/* ---- server ---- */

struct net_grpc_server {
    net_served *served;
    net_grpc_callbacks cb;
    void *context;
};

static st_code h2_create(void *owner, net_budget *budget, net_fn wake, void *wake_context, uint64_t now_ns, void **self) {
    net_grpc_server *s = owner;
    net_h2_server *h = NULL;
    net_h2_server_setup setup = {
        .calls = s->cb, .context = s->context, .wake = wake, .wake_context = wake_context, .budget = budget};
    st_code rc = net_h2_server_create(&setup, now_ns, &h);
    *self = h;
    return rc;
}
static st_code h2_receive(void *self, uint64_t now_ns, const uint8_t *bytes, size_t n) {
    return net_h2_server_receive(self, now_ns, bytes, n);
}
static st_code h2_send(void *self, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n) {
    return net_h2_server_send(self, now_ns, out, capacity, n);
}
static void h2_tick(void *self, uint64_t now_ns) { net_h2_server_tick(self, now_ns); }
static uint64_t h2_next_ns(const void *self) { return net_h2_server_next_ns(self); }
static bool h2_is_over(const void *self) { return net_h2_server_is_over(self); }
static void h2_drain(void *self, uint64_t now_ns) { net_h2_server_drain(self, now_ns); }
static void h2_lost(void *self) { net_h2_server_lost(self, ST_ERR_CANCELLED); }
static void h2_destroy(void *self) { net_h2_server_destroy(self); }
static const net_codec h2_codec = {.create = h2_create,
                                   .receive = h2_receive,
                                   .send = h2_send,
                                   .tick = h2_tick,
                                   .next_ns = h2_next_ns,
                                   .is_over = h2_is_over,
                                   .drain = h2_drain,
                                   .lost = h2_lost,
                                   .destroy = h2_destroy};

st_code net_grpc_listen(net_loop *l, const char *host, uint16_t port, const net_grpc_callbacks *cb, void *context,
                        net_grpc_server **out, uint16_t *bound_port, st_error *e) {
    static const net_serve_limits limits = {NET_MAX_CONNECTIONS, NET_HTTP2_STALL_MS, NET_MAX_SERVER_BUFFER_BYTES};
    *out = NULL;
    net_grpc_server *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "gRPC server: out of memory");
    *s = (net_grpc_server){.cb = *cb, .context = context};
    st_code rc = net_serve(l, host, port, &h2_codec, s, &limits, &s->served, bound_port, e);
    if (rc) {
        net_grpc_destroy(s);
        return rc;
    }
    *out = s;
    return ST_OK;
}

void net_grpc_set_limits(net_grpc_server *s, size_t max_connections, uint64_t stall_ms) {
    net_serve_set_limits(s->served, max_connections, stall_ms);
}

void net_grpc_drain(net_grpc_server *s, net_fn done, void *context) { net_serve_drain(s->served, done, context); }

void net_grpc_destroy(net_grpc_server *s) {
    if (!s) return;
    net_serve_destroy(s->served);
    mem_free(s);
}

/* ---- client ---- */

struct net_grpc_client {
    net_loop *loop;
    net_tcp *tcp; /* NULL: gone */
    net_h2_client *codec;
    net_timer *timer;
    net_soon soon;
    bool open;
};

/* Work on the connection is put off to client_pump; here only the bookkeeping. */
static void client_wake(void *context) {
    net_grpc_client *c = context;
    net_soon_add(c->loop, &c->soon);
}

static void client_lost(net_grpc_client *c, const char *reason) {
    net_tcp_close(c->tcp);
    c->tcp = NULL;
    net_h2_client_lost(c->codec, reason);
}

static void client_pump(void *context) {
    net_grpc_client *c = context;
    uint8_t bytes[NET_WRITE_BYTES];
    size_t n = 1;
    while (c->open && c->tcp && n && net_tcp_pending(c->tcp) < NET_MAX_PENDING_BYTES) {
        st_code rc = net_h2_client_send(c->codec, bytes, sizeof bytes, &n);
        if (!rc && n) rc = net_tcp_write(c->tcp, bytes, n);
        if (rc) client_lost(c, st_text(rc));
    }
    net_h2_client_tick(c->codec, net_now_ns()); /* tells what is done, also when nothing can be sent */
    if (c->tcp && net_h2_client_is_over(c->codec)) client_lost(c, "the server has closed the connection");
    uint64_t at = net_h2_client_next_ns(c->codec);
    net_timer_at(c->timer, at == UINT64_MAX ? 0 : at);
}

static void client_opened(void *context) {
    net_grpc_client *c = context;
    c->open = true;
    client_wake(c);
}

static void client_read(void *context, const uint8_t *bytes, size_t n) {
    net_grpc_client *c = context;
    st_code rc = net_h2_client_receive(c->codec, bytes, n);
    if (rc) client_lost(c, rc == ST_FATAL_MEMORY ? st_text(rc) : "the server does not speak HTTP/2 as it should");
    client_wake(c);
}

static void client_ended(void *context, const char *reason) {
    net_grpc_client *c = context;
    char text[ST_MESSAGE_BYTES];
    if (c->open)
        snprintf(text, sizeof text, "connection to %s lost: %s", net_tcp_peer(c->tcp), reason);
    else
        snprintf(text, sizeof text, "%s; is the cluster running?", reason);
    client_lost(c, text);
}

st_code net_grpc_connect(net_loop *l, const char *host, uint16_t port, uint32_t timeout_ms, net_grpc_client **out, st_error *e) {
    static const net_tcp_callbacks on_tcp = {
        .on_open = client_opened, .on_read = client_read, .on_written = client_wake, .on_end = client_ended};
    char authority[288];
    *out = NULL;
    snprintf(authority, sizeof authority, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);
    net_grpc_client *c = mem_alloc(1, sizeof *c);
    if (!c) return st_fail(e, ST_FATAL_MEMORY, "gRPC client: out of memory");
    c->loop = l;
    c->soon = (net_soon){.fn = client_pump, .context = c};
    st_code rc = net_timer_create(l, client_wake, c, &c->timer);
    if (!rc) rc = net_h2_client_create(authority, client_wake, c, &c->codec);
    if (rc)
        st_fail(e, rc, "gRPC client: %s", st_text(rc));
    else
        rc = net_tcp_connect(l, host, port, timeout_ms, &on_tcp, c, &c->tcp, e);
    if (rc) {
        net_grpc_client_destroy(c);
        return rc;
    }
    *out = c;
    return ST_OK;
}

st_code net_grpc_start(net_grpc_client *c, const char *path, const uint8_t *message, size_t n, uint32_t timeout_ms,
                       const net_grpc_reply *cb, void *context, void **out) {
    net_h2_request *r = NULL;
    st_code rc = net_h2_client_start(c->codec, net_now_ns(), path, message, n, timeout_ms, cb, context, &r);
    if (out) *out = r;
    return rc;
}

void net_grpc_cancel(net_grpc_client *c, void *call) { net_h2_client_cancel(c->codec, call); }

void net_grpc_client_destroy(net_grpc_client *c) {
    if (!c) return;
    net_soon_cancel(c->loop, &c->soon);
    net_timer_destroy(c->timer);
    net_tcp_close(c->tcp);
    net_h2_client_destroy(c->codec);
    mem_free(c);
}
