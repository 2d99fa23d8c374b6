/* http1_int: an HTTP/1.1 server without sockets: bytes in, requests out, bytes to send out. One object a connection.
 *
 * Nouns: a head (request line and fields), a framing byte (of a head, a chunk's head or a trailer; all else is payload), a call
 * (a request that is to be answered; one at a time). Time is an argument everywhere. User callbacks come from _receive, _send and
 * _lost; they may answer, but not destroy. `wake` says that there may be bytes to send: it must only make a note. Thread: one. */
#ifndef CONSORT_NET_HTTP1_INT_H
#define CONSORT_NET_HTTP1_INT_H

#include "net/h2_int.h" /* budgets and queues */

typedef struct net_http1 net_http1;
typedef struct {
    net_http_callbacks calls;
    void *context;
    net_fn wake; /* with wake_context */
    void *wake_context;
    net_budget *budget; /* of all connections; may be NULL */
} net_http1_setup;
ST_CHECKED st_code net_http1_create(const net_http1_setup *setup, uint64_t now_ns, net_http1 **out);
/* A request that is wrong is answered with its status (4xx, 5xx), and the connection is over. Errors: ST_FATAL_MEMORY,
 * ST_ERR_RESOURCE_EXHAUSTED: say net_http1_lost, then close it. */
ST_CHECKED st_code net_http1_receive(net_http1 *h, uint64_t now_ns, const uint8_t *bytes, size_t n);
/* Up to `capacity` bytes to send; *n 0: nothing now. Errors: as _receive (pipelined requests go on from here). */
ST_CHECKED st_code net_http1_send(net_http1 *h, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n);
void net_http1_tick(net_http1 *h, uint64_t now_ns); /* time-outs that have come */
uint64_t net_http1_next_ns(const net_http1 *h);     /* when to tick next; UINT64_MAX: never */
bool net_http1_is_full(const net_http1 *h);         /* read nothing more now */
bool net_http1_is_over(const net_http1 *h);         /* all is said: close the connection */
void net_http1_lost(net_http1 *h);                  /* the connection is gone: a call that waits for its answer ends */
void net_http1_destroy(net_http1 *h);               /* no callbacks; NULL-safe */

/* For tests, before the first connection; net_http_listen sets the values of limits.h. */
void net_http_set_limits(net_http_server *s, size_t max_connections, uint64_t stall_ms);

#endif
