/* net: bytes in, (path, message) out. No other room knows sockets, HTTP/2, TLS or libuv.
 *
 * Nouns: a loop (one thread's events: sockets, timers, signals, one door for other threads), a link (a TCP connection that
 * carries frames), a call (one gRPC call, at a server or at a client; one HTTP/1 request at a server). Everything runs on the
 * loop's thread, except net_loop_post. Callbacks may use any function but the destroy of what calls them. Sizes and counts from
 * outside are bounded by limits.h; nothing busy-waits. */
#ifndef CONSORT_NET_H
#define CONSORT_NET_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- loop ---- */
typedef struct net_loop net_loop;
typedef void (*net_fn)(void *context);

ST_CHECKED st_code net_loop_create(net_loop **out, st_error *e);
void net_loop_run(net_loop *l);  /* until net_loop_stop */
void net_loop_stop(net_loop *l); /* from the loop's thread */
/* Runs what was posted (no thread may post any more), closes the connections that are left (links hear on_close). Servers,
 * clients and timers go before their loop. NULL-safe. */
void net_loop_destroy(net_loop *l);
uint64_t net_now_ns(void); /* monotonic */
/* From any thread: `fn(context)` runs soon on the loop's thread, in the order of posts. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code net_loop_post(net_loop *l, net_fn fn, void *context);
/* fn runs on SIGTERM and SIGINT (installed here, once a loop). */
ST_CHECKED st_code net_loop_on_signal(net_loop *l, void (*fn)(void *context, int signal_number), void *context, st_error *e);

typedef struct net_timer net_timer;
ST_CHECKED st_code net_timer_create(net_loop *l, net_fn fn, void *context, net_timer **out);
void net_timer_at(net_timer *t, uint64_t at_ns); /* one shot at net_now_ns() >= at_ns, never inside this call; 0: off */
void net_timer_destroy(net_timer *t);            /* NULL-safe */

/* ---- control links: frames over TCP ----
 * A frame is magic, version, type, length, epochs, payload, XXH3-64. A frame that is damaged closes the link. Links authenticate
 * before the first frame counts: each side proves that it knows the cluster's secret (HMAC-SHA256 over both sides' nonces) within
 * a few seconds. Types from 0xff00 on are the link's own. */
enum { NET_SECRET_BYTES = 32, NET_FRAME_EXTRA_BYTES = 32 /* of a frame, beside its payload */ };
typedef struct net_link net_link;
typedef struct {
    uint16_t type;
    uint32_t cluster_epoch, group_epoch;
    const uint8_t *payload; /* [n], view while the callback runs */
    uint32_t n;
} net_frame;
typedef struct {
    void (*on_open)(void *context, net_link *k); /* authenticated */
    void (*on_frame)(void *context, net_link *k, const net_frame *f);
    void (*on_close)(void *context, net_link *k, const char *reason); /* last callback; the link is gone after it */
} net_link_callbacks;

typedef struct net_link_server net_link_server;
ST_CHECKED st_code net_link_listen(net_loop *l, const char *host, uint16_t port, const uint8_t secret[NET_SECRET_BYTES],
                                   const net_link_callbacks *cb, void *context, net_link_server **out, uint16_t *bound_port,
                                   st_error *e);
void net_link_server_destroy(net_link_server *s); /* closes its links too, with on_close; NULL-safe */
/* on_close tells when it could not connect and authenticate within timeout_ms. */
ST_CHECKED st_code net_link_connect(net_loop *l, const char *host, uint16_t port, const uint8_t secret[NET_SECRET_BYTES],
                                    uint32_t timeout_ms, const net_link_callbacks *cb, void *context, net_link **out,
                                    st_error *e);
/* Copies the payload. Errors: ST_ERR_INVALID_ARGUMENT (type, size), ST_ERR_UNAVAILABLE (not open), ST_ERR_RESOURCE_EXHAUSTED
 * (peer does not read: over the limit of pending bytes). */
ST_CHECKED st_code net_link_send(net_link *k, const net_frame *f);
/* After what is queued is sent; on_close follows, at the peer with "closed by the peer: reason". */
void net_link_close(net_link *k, const char *reason);
void net_link_set_user(net_link *k, void *user);
void *net_link_user(const net_link *k);

/* ---- gRPC server (h2.c): HTTP/2 over nghttp2 ---- */
typedef struct net_grpc_server net_grpc_server;
typedef struct net_call net_call;
typedef struct {
    /* One whole request message. path: "/package.Service/Method". The call is answered by net_call_send ... net_call_finish, now
     * or later. */
    void (*on_call)(void *context, net_call *c, const char *path, const uint8_t *message, size_t n);
    /* The client cancelled, its deadline passed (code says which), or its connection is gone. The call is dead after this. Not
     * called after net_call_finish. */
    void (*on_end)(void *context, net_call *c, st_code code);
    /* Queued replies fell under the low mark again after net_call_send had said that the client is slow. */
    void (*on_credit)(void *context, net_call *c);
} net_grpc_callbacks;
ST_CHECKED st_code net_grpc_listen(net_loop *l, const char *host, uint16_t port, const net_grpc_callbacks *cb, void *context,
                                   net_grpc_server **out, uint16_t *bound_port, st_error *e);
/* GOAWAY: new connections and calls are refused, calls in flight go on; `done` runs when all replies are sent and no connection
 * is left. */
void net_grpc_drain(net_grpc_server *s, net_fn done, void *context);
void net_grpc_destroy(net_grpc_server *s); /* NULL-safe; open calls get no callback */
/* Copies one message into the stream. Errors: ST_ERR_UNAVAILABLE (call is dead), ST_ERR_RESOURCE_EXHAUSTED (over the hard limit
 * of queued bytes, or of memory for all connections), ST_FATAL_MEMORY; nothing was queued. *slow (may be NULL): queued bytes are
 * over the high mark; wait for on_credit. */
ST_CHECKED st_code net_call_send(net_call *c, const uint8_t *message, size_t n, bool *slow);
void net_call_finish(net_call *c, int grpc_status, const char *message); /* trailers; the call is dead after this */
uint64_t net_call_deadline_ns(const net_call *c); /* on net_now_ns(); 0: none. The server itself enforces it. */
void net_call_set_user(net_call *c, void *user);
void *net_call_user(const net_call *c);

/* ---- HTTP/1.1 server (http1.c): llhttp ----
 * The calls of a connection come one after another: the next one (pipelined or not) when this one is answered. */
typedef struct net_http_server net_http_server;
typedef struct net_http_call net_http_call;
typedef struct {         /* views until the call is answered */
    const char *method;  /* "GET" */
    const char *path;    /* "/health": as sent, not percent-decoded */
    const char *query;   /* behind the '?'; "" */
    const uint8_t *body; /* [n] */
    size_t n;
} net_http_request;
typedef struct {
    int status;
    const char *type;  /* Content-Type */
    const char *allow; /* methods, with status 405; else NULL */
    const void *body;  /* [n]; not sent to HEAD, which gets the same head as GET */
    size_t n;
} net_http_reply;
typedef struct {
    /* One whole request; net_http_answer now or later. */
    void (*on_request)(void *context, net_http_call *c, const net_http_request *r);
    /* The client is gone before the answer; the call is dead after this. NULL: nobody answers later. */
    void (*on_end)(void *context, net_http_call *c);
} net_http_callbacks;
ST_CHECKED st_code net_http_listen(net_loop *l, const char *host, uint16_t port, const net_http_callbacks *cb, void *context,
                                   net_http_server **out, uint16_t *bound_port, st_error *e);
void net_http_destroy(net_http_server *s); /* NULL-safe; open calls get no callback */
/* Copies `r`; the call is dead after this. Where there is no memory for it the connection ends. */
void net_http_answer(net_http_call *c, const net_http_reply *r);

/* ---- gRPC client: one connection, calls one after another or side by side ---- */
typedef struct net_grpc_client net_grpc_client;
typedef struct {
    void (*on_message)(void *context, const uint8_t *message, size_t n);
    void (*on_done)(void *context, int grpc_status, const char *message); /* last; also when the connection fails (14) */
} net_grpc_reply;
ST_CHECKED st_code net_grpc_connect(net_loop *l, const char *host, uint16_t port, uint32_t timeout_ms, net_grpc_client **out,
                                    st_error *e);
/* timeout_ms: 0 for none; sent as grpc-timeout and enforced here too. *out (may be NULL): handle for net_grpc_cancel, valid until
 * on_done. May be called before the connection stands, and after it is lost: on_done then says 14 and why. on_done never comes
 * from inside net_grpc_start or net_grpc_cancel. Errors: ST_ERR_RESOURCE_EXHAUSTED (message over 8 MiB), ST_FATAL_MEMORY. */
ST_CHECKED st_code net_grpc_start(net_grpc_client *c, const char *path, const uint8_t *message, size_t n, uint32_t timeout_ms,
                                  const net_grpc_reply *cb, void *context, void **out);
void net_grpc_cancel(net_grpc_client *c, void *call);
void net_grpc_client_destroy(net_grpc_client *c); /* NULL-safe; no callbacks after */

#endif
