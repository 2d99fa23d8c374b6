/* HTTP/1.1 on the loop: what the codec (http1.c) needs to be a server (serve.c). */
#include "net/http1_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include "net/serve_int.h"

struct net_http_server {
    net_served *served;
    net_http_callbacks cb;
    void *context;
};

static st_code http1_create(void *owner, net_budget *budget, net_fn wake, void *wake_context, uint64_t now_ns, void **self) {
    net_http_server *s = owner;
    net_http1 *h = NULL;
    net_http1_setup setup = {.calls = s->cb, .context = s->context, .wake = wake, .wake_context = wake_context, .budget = budget};
    st_code rc = net_http1_create(&setup, now_ns, &h);
    *self = h;
    return rc;
}
static st_code http1_receive(void *self, uint64_t now_ns, const uint8_t *bytes, size_t n) {
    return net_http1_receive(self, now_ns, bytes, n);
}
static st_code http1_send(void *self, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n) {
    return net_http1_send(self, now_ns, out, capacity, n);
}
static void http1_tick(void *self, uint64_t now_ns) { net_http1_tick(self, now_ns); }
static uint64_t http1_next_ns(const void *self) { return net_http1_next_ns(self); }
static bool http1_is_full(const void *self) { return net_http1_is_full(self); }
static bool http1_is_over(const void *self) { return net_http1_is_over(self); }
static void http1_lost(void *self) { net_http1_lost(self); }
static void http1_destroy(void *self) { net_http1_destroy(self); }
static const net_codec http1_codec = {.create = http1_create,
                                      .receive = http1_receive,
                                      .send = http1_send,
                                      .tick = http1_tick,
                                      .next_ns = http1_next_ns,
                                      .is_full = http1_is_full,
                                      .is_over = http1_is_over,
                                      .lost = http1_lost,
                                      .destroy = http1_destroy};

st_code net_http_listen(net_loop *l, const char *host, uint16_t port, const net_http_callbacks *cb, void *context,
                        net_http_server **out, uint16_t *bound_port, st_error *e) {
    static const net_serve_limits limits = {NET_HTTP1_MAX_CONNECTIONS, NET_HTTP1_STALL_MS, NET_HTTP1_MAX_BUFFER_BYTES};
    *out = NULL;
    net_http_server *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "HTTP server: out of memory");
    *s = (net_http_server){.cb = *cb, .context = context};
    st_code rc = net_serve(l, host, port, &http1_codec, s, &limits, &s->served, bound_port, e);
    if (rc) {
        net_http_destroy(s);
        return rc;
    }
    *out = s;
    return ST_OK;
}

void net_http_set_limits(net_http_server *s, size_t max_connections, uint64_t stall_ms) {
    net_serve_set_limits(s->served, max_connections, stall_ms);
}

void net_http_destroy(net_http_server *s) {
    if (!s) return;
    net_serve_destroy(s->served);
    mem_free(s);
}
