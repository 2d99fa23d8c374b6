/* gRPC on the loop: joins the codecs (h2.c, h2_client.c) to connections (loop.c). No HTTP/2 knowledge here.
 *
 * What: a connection is a tcp, a codec, a timer for the codec's next time and a `soon` for its output. Whoever produces output
 * only adds the soon; pump() runs at the end of the turn, so replies to many calls of a turn leave in one write, and no callback
 * of the user runs inside his own net_call_send. Output stops at NET_MAX_PENDING_BYTES; while it stands there nothing more is
 * read from that peer either, so whoever sends without reading stalls himself and nobody else.
 *
 * Where TLS and HTTP/1 will come in: TLS behind net_tcp (loop.c), HTTP/1 as another codec chosen from a connection's first
 * bytes in tcp_read. Limits: one listener a server; a draining server waits for its calls as long as they last. */
#include "net/h2_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include "net/loop_int.h"
#include <stdio.h>
#include <string.h>

typedef struct connection connection;
struct connection {
    net_grpc_server *server;
    connection *next, *previous;
    net_tcp *tcp;
    net_h2_server *codec;
    net_timer *timer;
    net_soon soon;
    uint64_t blocked_ns; /* since when the socket has taken nothing of what pends; 0: it does */
    bool finishing;
};

struct net_grpc_server {
    net_loop *loop;
    net_listener *listener;
    connection *connections;
    size_t n_connections;
    net_budget budget;
    net_grpc_callbacks cb;
    void *context;
    bool draining;
    net_fn drained;
    void *drained_context;
    net_soon drained_soon;
};

/* ---- server ---- */

static void connection_free(connection *c) {
    net_grpc_server *s = c->server;
    if (c->previous)
        c->previous->next = c->next;
    else
        s->connections = c->next;
    if (c->next) c->next->previous = c->previous;
    s->n_connections--;
    net_soon_cancel(s->loop, &c->soon);
    net_timer_destroy(c->timer);
    net_tcp_close(c->tcp);
    net_h2_server_destroy(c->codec);
    mem_free(c);
    if (s->draining && !s->n_connections) net_soon_add(s->loop, &s->drained_soon);
}

static void connection_lost(connection *c) {
    net_h2_server_lost(c->codec, ST_ERR_CANCELLED);
    connection_free(c);
}

static uint64_t blocked_until(const connection *c) { return c->blocked_ns + NET_HTTP2_STALL_MS * UINT64_C(1000000); }

/* Moves what the codec has to say into the socket, ends the connection when all is said, sets the timer. */
static void pump(void *context) {
    connection *c = context;
    uint8_t bytes[NET_WRITE_BYTES];
    size_t n = 1;
    if (c->finishing) return;
    while (n && net_tcp_pending(c->tcp) < NET_MAX_PENDING_BYTES) {
        st_code rc = net_h2_server_send(c->codec, net_now_ns(), bytes, sizeof bytes, &n);
        if (!rc && n) rc = net_tcp_write(c->tcp, bytes, n);
        if (rc) {
            connection_lost(c);
            return;
        }
    }
    if (net_h2_server_is_over(c->codec)) {
        c->finishing = true;
        net_timer_at(c->timer, 0);
        net_h2_server_lost(c->codec, ST_ERR_CANCELLED);
        net_tcp_finish(c->tcp, "finished", true);
        return;
    }
    net_tcp_pause(c->tcp, net_tcp_pending(c->tcp) >= NET_MAX_PENDING_BYTES);
    uint64_t at = net_h2_server_next_ns(c->codec);
    if (!net_tcp_pending(c->tcp))
        c->blocked_ns = 0;
    else if (!c->blocked_ns)
        c->blocked_ns = net_now_ns();
    if (c->blocked_ns && blocked_until(c) < at) at = blocked_until(c);
    net_timer_at(c->timer, at == UINT64_MAX ? 0 : at);
}

static void connection_wake(void *context) {
    connection *c = context;
    net_soon_add(c->server->loop, &c->soon);
}

static void connection_time(void *context) {
    connection *c = context;
    if (c->blocked_ns && blocked_until(c) <= net_now_ns()) {
        connection_lost(c);
        return;
    }
    net_h2_server_tick(c->codec, net_now_ns());
    connection_wake(c);
}

static void connection_written(void *context) {
    connection *c = context;
    c->blocked_ns = 0;
    connection_wake(c);
}

static void connection_read(void *context, const uint8_t *bytes, size_t n) {
    connection *c = context;
    if (net_h2_server_receive(c->codec, net_now_ns(), bytes, n))
        connection_lost(c);
    else
        connection_wake(c);
}

static void connection_ended(void *context, const char *reason) {
    (void)reason;
    connection *c = context;
    c->tcp = NULL;
    connection_lost(c);
}

static st_code connection_create(net_grpc_server *s, net_tcp *t) {
    static const net_tcp_callbacks on_tcp = {
        .on_read = connection_read, .on_written = connection_written, .on_end = connection_ended};
    connection *c = mem_alloc(1, sizeof *c);
    if (!c) return ST_FATAL_MEMORY;
    c->server = s;
    c->soon = (net_soon){.fn = pump, .context = c};
    c->next = s->connections;
    if (c->next) c->next->previous = c;
    s->connections = c;
    s->n_connections++;
    net_h2_server_setup setup = {
        .calls = s->cb, .context = s->context, .wake = connection_wake, .wake_context = c, .budget = &s->budget};
    st_code rc = net_h2_server_create(&setup, net_now_ns(), &c->codec);
    if (!rc) rc = net_timer_create(s->loop, connection_time, c, &c->timer);
    if (rc) {
        connection_free(c);
        return rc;
    }
    c->tcp = t;
    net_tcp_adopt(t, &on_tcp, c);
    connection_wake(c); /* our SETTINGS */
    return ST_OK;
}

static void server_accept(void *context, net_tcp *t) {
    net_grpc_server *s = context;
    if (s->draining || s->n_connections >= NET_MAX_CONNECTIONS || connection_create(s, t)) net_tcp_close(t);
}

static void server_drained(void *context) {
    net_grpc_server *s = context;
    net_fn done = s->drained;
    s->drained = NULL;
    if (done) done(s->drained_context);
}

st_code net_grpc_listen(net_loop *l, const char *host, uint16_t port, const net_grpc_callbacks *cb, void *context,
                        net_grpc_server **out, uint16_t *bound_port, st_error *e) {
    *out = NULL;
    net_grpc_server *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "gRPC server: out of memory");
    s->loop = l;
    s->cb = *cb;
    s->context = context;
    s->budget.limit_bytes = NET_MAX_SERVER_BUFFER_BYTES;
    s->drained_soon = (net_soon){.fn = server_drained, .context = s};
    st_code rc = net_listen(l, host, port, server_accept, s, &s->listener, bound_port, e);
    if (rc) {
        net_grpc_destroy(s);
        return rc;
    }
    *out = s;
    return ST_OK;
}

void net_grpc_drain(net_grpc_server *s, net_fn done, void *context) {
    if (s->draining) return;
    s->draining = true;
    s->drained = done;
    s->drained_context = context;
    net_listener_destroy(s->listener);
    s->listener = NULL;
    for (connection *c = s->connections; c; c = c->next) net_h2_server_drain(c->codec, net_now_ns());
    if (!s->n_connections) net_soon_add(s->loop, &s->drained_soon);
}

void net_grpc_destroy(net_grpc_server *s) {
    if (!s) return;
    net_listener_destroy(s->listener);
    while (s->connections) connection_free(s->connections);
    net_soon_cancel(s->loop, &s->drained_soon);
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
