/* serve_int: connections of a server, whatever they speak: joins codecs (h2.c, http1.c) to sockets (loop.c).
 *
 * Nouns: a codec (a protocol: bytes in, bytes to send out, time as an argument), a connection (a tcp, one object of the codec, a
 * timer for its next time, a `soon` for its output). Thread: the loop's. */
#ifndef CONSORT_NET_SERVE_INT_H
#define CONSORT_NET_SERVE_INT_H

#include "net/h2_int.h" /* net_budget */

/* The functions of http1_int.h and of h2_int.h's server, with `self` for the object. */
typedef struct {
    /* `owner` is what net_serve was given; `wake` is for the codec to call with wake_context. */
    st_code (*create)(void *owner, net_budget *budget, net_fn wake, void *wake_context, uint64_t now_ns, void **self);
    st_code (*receive)(void *self, uint64_t now_ns, const uint8_t *bytes, size_t n);
    st_code (*send)(void *self, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n);
    void (*tick)(void *self, uint64_t now_ns);
    uint64_t (*next_ns)(const void *self);
    bool (*is_full)(const void *self); /* NULL: never */
    bool (*is_over)(const void *self);
    void (*drain)(void *self, uint64_t now_ns); /* say what must be said; is_over follows */
    void (*lost)(void *self);
    void (*destroy)(void *self);
} net_codec;

typedef struct {
    size_t max_connections;
    uint64_t stall_ms;   /* a peer that takes nothing of what pends for so long is lost */
    size_t budget_bytes; /* held for all connections */
} net_serve_limits;

typedef struct net_served net_served;
ST_CHECKED st_code net_serve(net_loop *l, const char *host, uint16_t port, const net_codec *codec, void *owner,
                             const net_serve_limits *limits, net_served **out, uint16_t *bound_port, st_error *e);
void net_serve_set_limits(net_served *s, size_t max_connections, uint64_t stall_ms); /* for tests */
/* No connection is taken any more; `done` runs when none is left. */
void net_serve_drain(net_served *s, net_fn done, void *context);
void net_serve_destroy(net_served *s); /* NULL-safe; codecs are destroyed, not told */

#endif
