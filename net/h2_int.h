/* h2_int: gRPC over HTTP/2 without sockets: bytes in, callbacks out, bytes to send out. One object a connection.
 *
 * Nouns: a server or client codec (one HTTP/2 session), a call (one stream), a budget (bytes held for peers, of one connection
 * and of all). Time is an argument everywhere. User callbacks come from _receive, _send, _tick and _lost; they may send, finish,
 * start and cancel, but not destroy. `wake` says that there may be bytes to send: it must only make a note. Thread: one. */
#ifndef CONSORT_NET_H2_INT_H
#define CONSORT_NET_H2_INT_H

#include "net/net.h"
#include <nghttp2/nghttp2.h>

/* ---- h2_wire.c: the leaves that both sides share ---- */

/* Bytes held for peers. take() refuses past the limit of this budget or of its parents. */
typedef struct net_budget {
    size_t used_bytes, limit_bytes;
    struct net_budget *parent;
} net_budget;
bool net_budget_take(net_budget *b, size_t n_bytes);
void net_budget_give(net_budget *b, size_t n_bytes);

/* First in, first out; its capacity is taken from the budget (NULL: none). */
typedef struct {
    uint8_t *bytes; /* [capacity], used: [head, tail) */
    size_t head, tail, capacity;
    net_budget *budget;
} net_queue;
static inline size_t net_queue_bytes(const net_queue *q) { return q->tail - q->head; }
/* Errors: ST_ERR_RESOURCE_EXHAUSTED (budget), ST_FATAL_MEMORY; the queue is unchanged. */
ST_CHECKED st_code net_queue_push(net_queue *q, const uint8_t *bytes, size_t n);
ST_CHECKED st_code net_queue_push_message(net_queue *q, const uint8_t *message,
                                          size_t n); /* with its 5-byte prefix, or nothing */
size_t net_queue_pull(net_queue *q, uint8_t *out, size_t n);
void net_queue_clear(net_queue *q); /* gives memory and budget back */

/* One length-prefixed message (gRPC over HTTP2: Compressed-Flag, Message-Length, Message) collected from DATA. */
typedef struct {
    net_queue body;
    uint8_t prefix[5];
    uint32_t n_prefix, n_message;
    bool whole;
    bool compressed_ok; /* the peer named a grpc-encoding: flag 1 is well-formed, though we cannot read it */
} net_inbox;
/* Takes bytes until a message is whole. Returns 0 or a gRPC status code, *why says it in words (static). */
int net_inbox_feed(net_inbox *in, const uint8_t **bytes, size_t *n, const char **why);
void net_inbox_next(net_inbox *in);  /* forget the message, keep memory for the next */
void net_inbox_clear(net_inbox *in); /* give all back */

/* "100m" <-> ns; at most 8 digits and one of H M S m u n. UINT64_MAX where it would overflow. False: malformed. */
bool net_timeout_parse(const uint8_t *text, size_t n, uint64_t *ns);
void net_timeout_format(uint32_t ms, char out[16]);
/* Percent-encoding of grpc-message (RFC 3986 2.1; %x20-7E but % stay). Decoding accepts anything and ends in NUL. */
size_t net_percent_encode(const char *text, char *out, size_t out_size);
void net_percent_decode(const uint8_t *text, size_t n, char *out, size_t out_size);

/* Leaky bucket with time as an argument. False: the burst is used up. */
typedef struct {
    uint64_t level, at_ns;
} net_glitches;
bool net_glitch_charge(net_glitches *g, uint64_t now_ns, uint64_t cost);
void net_glitch_earn(net_glitches *g, uint64_t points);

#define NET_NV(name_, name_n, value_, value_n)                                                                                   \
    ((nghttp2_nv){.name = (uint8_t *)(uintptr_t)(name_),                                                                         \
                  .namelen = (name_n),                                                                                           \
                  .value = (uint8_t *)(uintptr_t)(value_),                                                                       \
                  .valuelen = (value_n)})
#define NET_NV_TEXT(name_, value_) NET_NV(name_, sizeof(name_) - 1, value_, strlen(value_))
bool net_header_is(const uint8_t *name, size_t n, const char *wanted);
nghttp2_mem *net_h2_memory(void); /* base/mem.h as nghttp2's allocator; static, constant */
st_code net_h2_code(int nghttp2_error);

/* Copies what `session` has to send into `out`; *rest, *n_rest keep what did not fit (a view of nghttp2's) for the next call. */
ST_CHECKED st_code net_h2_gather(nghttp2_session *session, const uint8_t **rest, size_t *n_rest, uint8_t *out, size_t capacity,
                                 size_t *n_out);

/* ---- h2.c: server ---- */
typedef struct net_h2_server net_h2_server;
typedef struct {
    net_grpc_callbacks calls;
    void *context;
    net_fn wake; /* with wake_context */
    void *wake_context;
    net_budget *budget; /* of all connections; may be NULL */
} net_h2_server_setup;
ST_CHECKED st_code net_h2_server_create(const net_h2_server_setup *setup, uint64_t now_ns, net_h2_server **out);
/* Errors end the connection: say net_h2_server_lost, then close it. */
ST_CHECKED st_code net_h2_server_receive(net_h2_server *s, uint64_t now_ns, const uint8_t *bytes, size_t n);
/* Up to `capacity` bytes to send; *n 0: nothing now. */
ST_CHECKED st_code net_h2_server_send(net_h2_server *s, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n);
void net_h2_server_tick(net_h2_server *s, uint64_t now_ns);  /* deadlines and time-outs that have come */
uint64_t net_h2_server_next_ns(const net_h2_server *s);      /* when to tick next */
bool net_h2_server_is_over(const net_h2_server *s);          /* all is said: close the connection */
void net_h2_server_drain(net_h2_server *s, uint64_t now_ns); /* shutdown notice now, GOAWAY after a round trip */
void net_h2_server_lost(net_h2_server *s, st_code code);     /* the connection is gone: live calls end with `code` */
void net_h2_server_destroy(net_h2_server *s);                /* no callbacks; NULL-safe */
size_t net_h2_server_calls(const net_h2_server *s);

/* ---- h2_client.c ---- */
typedef struct net_h2_client net_h2_client;
typedef struct net_h2_request net_h2_request;
ST_CHECKED st_code net_h2_client_create(const char *authority, net_fn wake, void *wake_context, net_h2_client **out);
ST_CHECKED st_code net_h2_client_start(net_h2_client *c, uint64_t now_ns, const char *path, const uint8_t *message, size_t n,
                                       uint32_t timeout_ms, const net_grpc_reply *cb, void *context, net_h2_request **out);
void net_h2_client_cancel(net_h2_client *c, net_h2_request *r); /* on_done(1) comes with the next _send or _tick */
ST_CHECKED st_code net_h2_client_receive(net_h2_client *c, const uint8_t *bytes, size_t n);
ST_CHECKED st_code net_h2_client_send(net_h2_client *c, uint8_t *out, size_t capacity, size_t *n);
void net_h2_client_tick(net_h2_client *c, uint64_t now_ns);
uint64_t net_h2_client_next_ns(const net_h2_client *c);        /* UINT64_MAX: nothing to wait for */
bool net_h2_client_is_over(const net_h2_client *c);            /* GOAWAY and all calls done */
void net_h2_client_lost(net_h2_client *c, const char *reason); /* all calls end with UNAVAILABLE, later ones too */
void net_h2_client_destroy(net_h2_client *c);                  /* no callbacks; NULL-safe */

#endif
