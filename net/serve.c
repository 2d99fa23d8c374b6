/* Connections of a server: one file for all protocols. No knowledge of what the bytes mean.
 *
 * What: whoever produces output only adds the connection's `soon`; pump() runs at the end of the turn, so replies to many calls
 * of a turn leave in one write, and no callback of the user runs inside his own call to us. Output stops at
 * NET_MAX_PENDING_BYTES; while it stands there nothing more is read from that peer either, so whoever sends without reading
 * stalls himself and nobody else.
 *
 * Where TLS will come in: behind net_tcp (loop.c). Limits: one listener a server; a draining server waits for its calls as long
 * as they last. */
#include "net/serve_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include "net/loop_int.h"

typedef struct connection connection;
struct connection {
    net_served *server;
    connection *next, *previous;
    net_tcp *tcp;
    void *codec; /* an object of the server's net_codec */
    net_timer *timer;
    net_soon soon;
    uint64_t blocked_ns; /* since when the socket has taken nothing of what pends; 0: it does */
    bool finishing;
};

struct net_served {
    net_loop *loop;
    net_listener *listener;
    connection *connections;
    size_t n_connections, max_connections;
    uint64_t stall_ns;
    net_budget budget;
    net_codec codec;
    void *owner;
    bool draining;
    net_fn drained;
    void *drained_context;
    net_soon drained_soon;
};

static void connection_free(connection *c) {
    net_served *s = c->server;
    if (c->previous)
        c->previous->next = c->next;
    else
        s->connections = c->next;
    if (c->next) c->next->previous = c->previous;
    s->n_connections--;
    net_soon_cancel(s->loop, &c->soon);
    net_timer_destroy(c->timer);
    net_tcp_close(c->tcp);
    if (c->codec) s->codec.destroy(c->codec);
    mem_free(c);
    if (s->draining && !s->n_connections) net_soon_add(s->loop, &s->drained_soon);
}

static void connection_lost(connection *c) {
    c->server->codec.lost(c->codec);
    connection_free(c);
}

static uint64_t blocked_until(const connection *c) { return c->blocked_ns + c->server->stall_ns; }

/* Moves what the codec has to say into the socket, ends the connection when all is said, sets the timer. */
static void pump(void *context) {
    connection *c = context;
    uint8_t bytes[NET_WRITE_BYTES];
    size_t n = 1;
    if (c->finishing) return;
    while (n && net_tcp_pending(c->tcp) < NET_MAX_PENDING_BYTES) {
        st_code rc = c->server->codec.send(c->codec, net_now_ns(), bytes, sizeof bytes, &n);
        if (!rc && n) rc = net_tcp_write(c->tcp, bytes, n);
        if (rc) {
            connection_lost(c);
            return;
        }
    }
    if (c->server->codec.is_over(c->codec)) {
        c->finishing = true;
        net_timer_at(c->timer, 0);
        c->server->codec.lost(c->codec);
        net_tcp_finish(c->tcp, "finished", true);
        return;
    }
    bool full = c->server->codec.is_full && c->server->codec.is_full(c->codec);
    net_tcp_pause(c->tcp, full || net_tcp_pending(c->tcp) >= NET_MAX_PENDING_BYTES);
    uint64_t at = c->server->codec.next_ns(c->codec);
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
    c->server->codec.tick(c->codec, net_now_ns());
    connection_wake(c);
}

static void connection_written(void *context) {
    connection *c = context;
    c->blocked_ns = 0;
    connection_wake(c);
}

static void connection_read(void *context, const uint8_t *bytes, size_t n) {
    connection *c = context;
    if (c->server->codec.receive(c->codec, net_now_ns(), bytes, n))
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

static st_code connection_create(net_served *s, net_tcp *t) {
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
    st_code rc = s->codec.create(s->owner, &s->budget, connection_wake, c, net_now_ns(), &c->codec);
    if (!rc) rc = net_timer_create(s->loop, connection_time, c, &c->timer);
    if (rc) {
        connection_free(c);
        return rc;
    }
    c->tcp = t;
    net_tcp_adopt(t, &on_tcp, c);
    connection_wake(c); /* the codec may have the first word */
    return ST_OK;
}

static void server_accept(void *context, net_tcp *t) {
    net_served *s = context;
    if (s->draining || s->n_connections >= s->max_connections || connection_create(s, t)) net_tcp_close(t);
}

static void server_drained(void *context) {
    net_served *s = context;
    net_fn done = s->drained;
    s->drained = NULL;
    if (done) done(s->drained_context);
}

st_code net_serve(net_loop *l, const char *host, uint16_t port, const net_codec *codec, void *owner,
                  const net_serve_limits *limits, net_served **out, uint16_t *bound_port, st_error *e) {
    *out = NULL;
    net_served *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "server on %s:%u: out of memory", host, port);
    s->loop = l;
    s->codec = *codec;
    s->owner = owner;
    net_serve_set_limits(s, limits->max_connections, limits->stall_ms);
    s->budget.limit_bytes = limits->budget_bytes;
    s->drained_soon = (net_soon){.fn = server_drained, .context = s};
    st_code rc = net_listen(l, host, port, server_accept, s, &s->listener, bound_port, e);
    if (rc) {
        net_serve_destroy(s);
        return rc;
    }
    *out = s;
    return ST_OK;
}

void net_serve_set_limits(net_served *s, size_t max_connections, uint64_t stall_ms) {
    s->max_connections = max_connections;
    s->stall_ns = stall_ms * 1000000;
}

void net_serve_drain(net_served *s, net_fn done, void *context) {
    if (s->draining) return;
    s->draining = true;
    s->drained = done;
    s->drained_context = context;
    net_listener_destroy(s->listener);
    s->listener = NULL;
    for (connection *c = s->connections; c; c = c->next) s->codec.drain(c->codec, net_now_ns());
    if (!s->n_connections) net_soon_add(s->loop, &s->drained_soon);
}

void net_serve_destroy(net_served *s) {
    if (!s) return;
    net_listener_destroy(s->listener);
    while (s->connections) connection_free(s->connections);
    net_soon_cancel(s->loop, &s->drained_soon);
    mem_free(s);
}
