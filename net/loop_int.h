/* loop_int: TCP on the loop, for the files of net/ alone; they see bytes and reasons, never libuv.
 *
 * Nouns: a tcp (one connection), a listener, a soon (work for the end of this turn of the loop). A tcp ends once: either its
 * owner calls net_tcp_close (no callback after that), or on_end tells why it is gone (the last callback). Its memory goes by
 * itself. Callbacks come from the loop only, never from inside a net_tcp_ function. TLS will live behind the same functions.
 * Thread: the loop's. */
#ifndef CONSORT_NET_LOOP_INT_H
#define CONSORT_NET_LOOP_INT_H

#include "net/net.h"

typedef struct net_tcp net_tcp;
typedef struct {
    void (*on_open)(void *context); /* connected; not called on accepted ones */
    void (*on_read)(void *context, const uint8_t *bytes, size_t n);
    void (*on_written)(void *context); /* pending bytes went down */
    void (*on_end)(void *context, const char *reason);
} net_tcp_callbacks;

/* Resolves and connects, address after address, within timeout_ms. Failure comes by on_end: "cannot connect to H:P: why". */
ST_CHECKED st_code net_tcp_connect(net_loop *l, const char *host, uint16_t port, uint32_t timeout_ms, const net_tcp_callbacks *cb,
                                   void *context, net_tcp **out, st_error *e);
void net_tcp_adopt(net_tcp *t, const net_tcp_callbacks *cb, void *context); /* for an accepted one: starts to read */
/* Copies. Errors: ST_FATAL_MEMORY, ST_ERR_UNAVAILABLE (not open). How much may pend is the owner's rule. */
ST_CHECKED st_code net_tcp_write(net_tcp *t, const uint8_t *bytes, size_t n);
size_t net_tcp_pending(const net_tcp *t);
void net_tcp_pause(net_tcp *t, bool paused); /* paused: nothing is read, the peer's window closes */
/* on_end(reason) follows, from the loop. Politely: sends what is queued, then FIN, then waits for the peer's FIN, NET_LINGER_MS
 * at most (a close with unread input would reset the connection and could destroy our last words). Else at once. */
void net_tcp_finish(net_tcp *t, const char *reason, bool politely);
void net_tcp_close(net_tcp *t);             /* at once, no callback; NULL-safe */
const char *net_tcp_peer(const net_tcp *t); /* "127.0.0.1:50051" as given to connect, or the address accepted from */

typedef struct net_listener net_listener;
/* on_accept owns `t`: adopts or closes it. port 0: any, *bound_port tells. */
ST_CHECKED st_code net_listen(net_loop *l, const char *host, uint16_t port, void (*on_accept)(void *context, net_tcp *t),
                              void *context, net_listener **out, uint16_t *bound_port, st_error *e);
void net_listener_destroy(net_listener *s); /* NULL-safe */

/* fn(context) runs once, before the loop next waits, outside of whatever callback asked for it. Storage is the caller's, zeroed
 * but for fn and context; cancel before it goes. */
typedef struct net_soon {
    net_fn fn;
    void *context;
    struct net_soon *next, *previous;
    bool queued;
} net_soon;
void net_soon_add(net_loop *l, net_soon *s);
void net_soon_cancel(net_loop *l, net_soon *s);

#endif
