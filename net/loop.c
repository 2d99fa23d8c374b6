/* The loop: the only file that knows libuv.
 *
 * What: one uv_loop, one door (net_loop_post: a mutex, a list and a uv_async), timers in nanoseconds, signals, TCP. Work asked
 * for inside a callback and better done after it ("soon") runs from a prepare and a check handle, so before the loop waits
 * again: replies of one turn leave in one write.
 *
 * A tcp, with what makes each transition:
 *
 *     resolving ─on_resolved─> connecting ─on_connected─> open ─net_tcp_finish─> finishing (FIN sent, input thrown away)
 *         │ on_resolved           │ no address left         │ error, FIN            │ FIN, time
 *         └───────────────────────┴─────────────────────────┴───────────────────────┴──> over: handles close, refs drop, freed
 *
 * `over` absorbs: libuv still calls back for cancelled requests, and all of them look at `over` first. `refs` counts libuv's
 * handles and requests that point here; the last one frees.
 *
 * Road not taken: uv_stream_get_write_queue_size as the measure of pending bytes (it leaves out what uv_try_write took, and
 * counts too late); freeing in on_end (libuv still holds the handle). Limits: addresses are tried one after another, no
 * "happy eyeballs". A timer never fires early; it may fire a millisecond late. */
#include "net/limits.h"
#include "net/loop_int.h"

#include "base/mem.h"
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

typedef struct post {
    net_fn fn;
    void *context;
    struct post *next;
} post;

struct net_loop {
    uv_loop_t uv;
    uv_async_t door;
    uv_prepare_t before_wait;
    uv_check_t after_wait;
    uv_signal_t signals[2];
    bool has_signals, running;
    pthread_t thread; /* of net_loop_run, while running */
    void (*on_signal)(void *context, int signal_number);
    void *signal_context;
    pthread_mutex_t lock; /* guards the posts */
    post *first_post, *last_post;
    net_soon soons; /* ring, this is its head */
    net_tcp *tcps;
    uint8_t read_buffer[NET_READ_BYTES]; /* libuv reads and calls back at once, so one serves all connections */
};

struct net_timer {
    uv_timer_t uv;
    uint64_t at_ns;
    net_fn fn;
    void *context;
};

struct net_listener {
    uv_tcp_t uv, refused; /* refused: takes a connection we have no memory for, so that accept() goes on */
    net_loop *loop;
    void (*on_accept)(void *context, net_tcp *t);
    void *context;
    unsigned refs;
    bool refusing, owed, over;
};

struct net_tcp {
    uv_tcp_t uv;
    uv_timer_t timer; /* connecting: time-out; finishing: linger */
    uv_connect_t connect;
    uv_getaddrinfo_t resolve;
    uv_shutdown_t shutdown;
    struct addrinfo *found, *trying;
    net_loop *loop;
    net_tcp *next, *previous;
    net_tcp_callbacks cb;
    void *context;
    size_t pending_bytes;
    unsigned refs;
    int connect_error;
    bool open, finishing, over;
    char peer[288];
    char reason[512];
};

typedef struct {
    uv_write_t uv;
    net_tcp *tcp;
    size_t n;
    uint8_t bytes[];
} tcp_write;

/* ---- loop ---- */

static void check_thread(const net_loop *l) {
    (void)l;
    DCHECK(!l->running || pthread_equal(l->thread, pthread_self()));
}

uint64_t net_now_ns(void) { return uv_hrtime(); }

static void run_posts(uv_async_t *door) {
    net_loop *l = door->data;
    pthread_mutex_lock(&l->lock);
    post *p = l->first_post;
    l->first_post = l->last_post = NULL;
    pthread_mutex_unlock(&l->lock);
    while (p) {
        post *next = p->next;
        p->fn(p->context);
        mem_free(p);
        p = next;
    }
}

static void run_soons(net_loop *l) {
    while (l->soons.next != &l->soons) {
        net_soon *s = l->soons.next;
        net_soon_cancel(l, s);
        s->fn(s->context);
    }
}

static void before_wait(uv_prepare_t *h) { run_soons(h->data); }
static void after_wait(uv_check_t *h) { run_soons(h->data); }

void net_soon_add(net_loop *l, net_soon *s) {
    check_thread(l);
    if (s->queued) return;
    s->next = &l->soons;
    s->previous = l->soons.previous;
    s->next->previous = s->previous->next = s;
    s->queued = true;
}

void net_soon_cancel(net_loop *l, net_soon *s) {
    check_thread(l);
    if (!s->queued) return;
    s->previous->next = s->next;
    s->next->previous = s->previous;
    s->queued = false;
}

st_code net_loop_create(net_loop **out, st_error *e) {
    *out = NULL;
    net_loop *l = mem_alloc(1, sizeof *l);
    if (!l) return st_fail(e, ST_FATAL_MEMORY, "event loop: out of memory");
    l->soons.next = l->soons.previous = &l->soons;
    int rc = uv_loop_init(&l->uv);
    if (rc) {
        mem_free(l);
        return st_fail(e, ST_ERR_IO, "event loop: %s", uv_strerror(rc));
    }
    pthread_mutex_init(&l->lock, NULL);
    signal(SIGPIPE, SIG_IGN); /* a peer that is gone is an error code of write() */
    l->door.data = l->before_wait.data = l->after_wait.data = l;
    rc = uv_async_init(&l->uv, &l->door, run_posts);
    if (!rc) rc = uv_prepare_init(&l->uv, &l->before_wait);
    if (!rc) rc = uv_check_init(&l->uv, &l->after_wait);
    if (!rc) rc = uv_prepare_start(&l->before_wait, before_wait);
    if (!rc) rc = uv_check_start(&l->after_wait, after_wait);
    if (rc) {
        net_loop_destroy(l);
        return st_fail(e, ST_ERR_IO, "event loop: %s", uv_strerror(rc));
    }
    *out = l;
    return ST_OK;
}

void net_loop_run(net_loop *l) {
    l->thread = pthread_self();
    l->running = true;
    uv_run(&l->uv, UV_RUN_DEFAULT);
    l->running = false;
}

void net_loop_stop(net_loop *l) {
    check_thread(l);
    uv_stop(&l->uv);
}

st_code net_loop_post(net_loop *l, net_fn fn, void *context) {
    post *p = mem_alloc(1, sizeof *p);
    if (!p) return ST_FATAL_MEMORY;
    *p = (post){.fn = fn, .context = context};
    pthread_mutex_lock(&l->lock);
    if (l->last_post)
        l->last_post->next = p;
    else
        l->first_post = p;
    l->last_post = p;
    uv_async_send(&l->door);
    pthread_mutex_unlock(&l->lock);
    return ST_OK;
}

static void signal_came(uv_signal_t *h, int number) {
    net_loop *l = h->data;
    l->on_signal(l->signal_context, number);
}

st_code net_loop_on_signal(net_loop *l, void (*fn)(void *context, int signal_number), void *context, st_error *e) {
    static const int numbers[2] = {SIGTERM, SIGINT};
    check_thread(l);
    if (l->has_signals) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "signals: this loop already has a handler");
    l->has_signals = true;
    l->on_signal = fn;
    l->signal_context = context;
    for (int i = 0; i < 2; i++) {
        int rc = uv_signal_init(&l->uv, &l->signals[i]);
        l->signals[i].data = l;
        if (!rc) rc = uv_signal_start(&l->signals[i], signal_came, numbers[i]);
        if (rc) return st_fail(e, ST_ERR_IO, "signal %d: %s", numbers[i], uv_strerror(rc));
    }
    return ST_OK;
}

/* ---- timers ---- */

static void timer_arm(net_timer *t);

static void timer_fired(uv_timer_t *h) {
    net_timer *t = h->data;
    if (net_now_ns() < t->at_ns) { /* libuv counts whole milliseconds from the start of its turn */
        timer_arm(t);
        return;
    }
    t->at_ns = 0;
    t->fn(t->context);
}

/* At least 1 ms: a timer of 0 ms that is armed again in its own callback starves libuv 1.44's loop. */
static void timer_arm(net_timer *t) {
    uint64_t now = net_now_ns(), ms = t->at_ns > now ? (t->at_ns - now) / 1000000 + 1 : 1;
    uv_timer_start(&t->uv, timer_fired, ms, 0);
}

st_code net_timer_create(net_loop *l, net_fn fn, void *context, net_timer **out) {
    check_thread(l);
    *out = NULL;
    net_timer *t = mem_alloc(1, sizeof *t);
    if (!t) return ST_FATAL_MEMORY;
    t->fn = fn;
    t->context = context;
    uv_timer_init(&l->uv, &t->uv);
    t->uv.data = t;
    *out = t;
    return ST_OK;
}

void net_timer_at(net_timer *t, uint64_t at_ns) {
    if (t->at_ns == at_ns) return;
    t->at_ns = at_ns;
    if (at_ns)
        timer_arm(t);
    else
        uv_timer_stop(&t->uv);
}

static void timer_closed(uv_handle_t *h) { mem_free(h->data); }

void net_timer_destroy(net_timer *t) {
    if (t) uv_close((uv_handle_t *)&t->uv, timer_closed);
}

/* ---- tcp: birth and death ---- */

static void tcp_unref(net_tcp *t) {
    if (--t->refs) return;
    if (t->found) uv_freeaddrinfo(t->found);
    mem_free(t);
}

static void tcp_handle_closed(uv_handle_t *h) { tcp_unref(h->data); }

/* The one way into `over`: callbacks stop, handles close. */
static void tcp_over(net_tcp *t) {
    if (t->over) return;
    t->over = true;
    if (t->previous)
        t->previous->next = t->next;
    else
        t->loop->tcps = t->next;
    if (t->next) t->next->previous = t->previous;
    if (t->resolve.data) uv_cancel((uv_req_t *)&t->resolve);
    uv_close((uv_handle_t *)&t->timer, tcp_handle_closed);
    /* Not set up yet, or being closed for the next address: there the close callback drops the reference. */
    if (t->uv.data && !uv_is_closing((uv_handle_t *)&t->uv)) uv_close((uv_handle_t *)&t->uv, tcp_handle_closed);
}

static void tcp_end(net_tcp *t, const char *reason) {
    if (t->over) return;
    char why[sizeof t->reason]; /* `reason` may live in what on_end frees */
    snprintf(why, sizeof why, "%s", reason);
    tcp_over(t);
    if (t->cb.on_end) t->cb.on_end(t->context, why);
}

void net_tcp_close(net_tcp *t) {
    if (t) tcp_over(t);
}

static net_tcp *tcp_create(net_loop *l) {
    net_tcp *t = mem_alloc(1, sizeof *t);
    if (!t) return NULL;
    t->loop = l;
    uv_timer_init(&l->uv, &t->timer);
    t->timer.data = t;
    t->refs = 1;
    t->next = l->tcps;
    if (t->next) t->next->previous = t;
    l->tcps = t;
    return t;
}

/* A fresh socket handle in `t`; libuv cannot connect a handle twice. */
static void tcp_new_handle(net_tcp *t) {
    uv_tcp_init(&t->loop->uv, &t->uv); /* cannot fail without flags */
    t->uv.data = t;
    t->refs++;
}

const char *net_tcp_peer(const net_tcp *t) { return t->peer; }
size_t net_tcp_pending(const net_tcp *t) { return t->pending_bytes; }

/* ---- tcp: bytes ---- */

static void tcp_buffer(uv_handle_t *h, size_t hint, uv_buf_t *buffer) {
    (void)hint;
    net_tcp *t = h->data;
    *buffer = uv_buf_init((char *)t->loop->read_buffer, NET_READ_BYTES);
}

static void tcp_read(uv_stream_t *h, ssize_t n, const uv_buf_t *buffer) {
    net_tcp *t = h->data;
    if (t->over || n == 0) return;
    if (n > 0) {
        if (!t->finishing) t->cb.on_read(t->context, (const uint8_t *)buffer->base, (size_t)n);
    } else if (t->finishing)
        tcp_end(t, t->reason);
    else
        tcp_end(t, n == UV_EOF ? "closed by the peer" : uv_strerror((int)n));
}

static void tcp_start(net_tcp *t) {
    t->open = true;
    uv_tcp_nodelay(&t->uv, 1);
    uv_tcp_keepalive(&t->uv, 1, 60);
    uv_read_start((uv_stream_t *)&t->uv, tcp_buffer, tcp_read);
}

void net_tcp_adopt(net_tcp *t, const net_tcp_callbacks *cb, void *context) {
    t->cb = *cb;
    t->context = context;
    tcp_start(t);
}

void net_tcp_pause(net_tcp *t, bool paused) {
    check_thread(t->loop);
    if (t->over || !t->open || t->finishing) return;
    if (paused)
        uv_read_stop((uv_stream_t *)&t->uv);
    else
        uv_read_start((uv_stream_t *)&t->uv, tcp_buffer, tcp_read); /* UV_EALREADY is fine */
}

static void tcp_written(uv_write_t *req, int rc) {
    tcp_write *w = req->data;
    net_tcp *t = w->tcp;
    t->pending_bytes -= w->n;
    mem_free(w);
    if (t->over) return;
    if (rc)
        tcp_end(t, uv_strerror(rc));
    else if (!t->finishing && t->cb.on_written)
        t->cb.on_written(t->context);
}

st_code net_tcp_write(net_tcp *t, const uint8_t *bytes, size_t n) {
    check_thread(t->loop);
    if (t->over || !t->open || t->finishing) return ST_ERR_UNAVAILABLE;
    if (t->pending_bytes == 0) {
        uv_buf_t now = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)n);
        int sent = uv_try_write((uv_stream_t *)&t->uv, &now, 1);
        if (sent > 0) { /* an error comes again, with the callback, from uv_write */
            bytes += sent;
            n -= (size_t)sent;
        }
    }
    if (n == 0) return ST_OK;
    tcp_write *w = mem_alloc(1, sizeof *w + n);
    if (!w) return ST_FATAL_MEMORY;
    w->tcp = t;
    w->n = n;
    w->uv.data = w;
    memcpy(w->bytes, bytes, n);
    uv_buf_t later = uv_buf_init((char *)w->bytes, (unsigned)n);
    if (uv_write(&w->uv, (uv_stream_t *)&t->uv, &later, 1, tcp_written)) {
        mem_free(w);
        return ST_ERR_UNAVAILABLE;
    }
    t->pending_bytes += n;
    return ST_OK;
}

static void tcp_lingered(uv_timer_t *h) {
    net_tcp *t = h->data;
    tcp_end(t, t->reason);
}

static void tcp_shut(uv_shutdown_t *req, int rc) {
    net_tcp *t = req->data;
    if (!t->over && rc) tcp_end(t, t->reason);
}

void net_tcp_finish(net_tcp *t, const char *reason, bool politely) {
    check_thread(t->loop);
    if (t->over || t->finishing) return;
    snprintf(t->reason, sizeof t->reason, "%s", reason);
    t->finishing = true;
    t->shutdown.data = t;
    bool shut = politely && t->open && uv_shutdown(&t->shutdown, (uv_stream_t *)&t->uv, tcp_shut) == 0;
    if (shut) uv_read_start((uv_stream_t *)&t->uv, tcp_buffer, tcp_read);
    uv_timer_start(&t->timer, tcp_lingered, shut ? NET_LINGER_MS : 1, 0); /* on_end comes from the loop in any case */
}

/* ---- tcp: connect ---- */

static void tcp_try(net_tcp *t);

static void cannot_connect(net_tcp *t, const char *why) {
    char text[sizeof t->peer + 160];
    snprintf(text, sizeof text, "cannot connect to %s: %s", t->peer, why);
    tcp_end(t, text);
}

static void tcp_try_next(uv_handle_t *h) {
    net_tcp *t = h->data;
    t->uv.data = NULL;
    if (!t->over) {
        if (t->trying)
            tcp_try(t);
        else
            cannot_connect(t, uv_strerror(t->connect_error));
    }
    tcp_unref(t);
}

static void tcp_failed(net_tcp *t, int rc) {
    t->connect_error = rc;
    t->trying = t->trying->ai_next;
    uv_close((uv_handle_t *)&t->uv, tcp_try_next);
}

static void tcp_connected(uv_connect_t *req, int rc) {
    net_tcp *t = req->data;
    if (t->over || t->finishing) return;
    if (rc) {
        tcp_failed(t, rc);
        return;
    }
    uv_timer_stop(&t->timer);
    tcp_start(t);
    t->cb.on_open(t->context);
}

static void tcp_try(net_tcp *t) {
    tcp_new_handle(t);
    int rc = uv_tcp_connect(&t->connect, &t->uv, t->trying->ai_addr, tcp_connected);
    if (rc) tcp_failed(t, rc);
}

static void tcp_resolved(uv_getaddrinfo_t *req, int rc, struct addrinfo *found) {
    net_tcp *t = req->data;
    t->resolve.data = NULL;
    t->found = t->trying = found;
    if (!t->over && !t->finishing) {
        if (rc)
            cannot_connect(t, uv_strerror(rc));
        else
            tcp_try(t);
    }
    tcp_unref(t);
}

static void tcp_connect_late(uv_timer_t *h) { cannot_connect(h->data, "timed out"); }

static void name_peer(net_tcp *t, const char *host, uint16_t port) {
    const char *format = strchr(host, ':') ? "[%s]:%u" : "%s:%u";
    snprintf(t->peer, sizeof t->peer, format, host, port);
}

st_code net_tcp_connect(net_loop *l, const char *host, uint16_t port, uint32_t timeout_ms, const net_tcp_callbacks *cb,
                        void *context, net_tcp **out, st_error *e) {
    check_thread(l);
    *out = NULL;
    net_tcp *t = tcp_create(l);
    if (!t) return st_fail(e, ST_FATAL_MEMORY, "connect to %s:%u: out of memory", host, port);
    name_peer(t, host, port);
    t->connect.data = t->resolve.data = t;
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    int rc = uv_getaddrinfo(&l->uv, &t->resolve, tcp_resolved, host, service, &hints);
    if (rc) {
        t->resolve.data = NULL;
        tcp_over(t);
        return st_fail(e, ST_ERR_UNAVAILABLE, "cannot connect to %s:%u: %s", host, port, uv_strerror(rc));
    }
    t->refs++;
    t->cb = *cb;
    t->context = context;
    uv_timer_start(&t->timer, tcp_connect_late, timeout_ms ? timeout_ms : 1, 0);
    *out = t;
    return ST_OK;
}

/* ---- listen ---- */

static void listener_unref(uv_handle_t *h) {
    net_listener *s = h->data;
    if (--s->refs == 0) mem_free(s);
}

static void refuse(net_listener *s);

static void refused_closed(uv_handle_t *h) {
    net_listener *s = h->data;
    s->refusing = false;
    if (s->owed && !s->over) refuse(s);
    listener_unref(h);
}

static void refuse(net_listener *s) {
    s->owed = s->refusing;
    if (s->refusing) return; /* libuv holds one back until we accept it */
    s->refusing = true;
    s->refs++;
    uv_tcp_init(&s->loop->uv, &s->refused);
    s->refused.data = s;
    uv_accept((uv_stream_t *)&s->uv, (uv_stream_t *)&s->refused);
    uv_close((uv_handle_t *)&s->refused, refused_closed);
}

static void name_accepted(net_tcp *t) {
    struct sockaddr_storage address;
    char host[64] = "?";
    int n = sizeof address;
    uint16_t port = 0;
    if (uv_tcp_getpeername(&t->uv, (struct sockaddr *)&address, &n) == 0) {
        if (address.ss_family == AF_INET6) {
            const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)&address;
            uv_ip6_name(six, host, sizeof host);
            port = ntohs(six->sin6_port);
        } else {
            const struct sockaddr_in *four = (const struct sockaddr_in *)&address;
            uv_ip4_name(four, host, sizeof host);
            port = ntohs(four->sin_port);
        }
    }
    name_peer(t, host, port);
}

static void listener_accept(uv_stream_t *h, int rc) {
    net_listener *s = h->data;
    if (rc) return; /* EMFILE and the like: libuv has already shed the connection */
    net_tcp *t = tcp_create(s->loop);
    if (!t) {
        refuse(s);
        return;
    }
    tcp_new_handle(t);
    if (uv_accept(h, (uv_stream_t *)&t->uv)) {
        tcp_over(t);
        return;
    }
    name_accepted(t);
    s->on_accept(s->context, t);
}

static int listener_bind(net_listener *s, const char *host, uint16_t port, uint16_t *bound_port) {
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    uv_getaddrinfo_t req = {0};
    int rc = uv_getaddrinfo(&s->loop->uv, &req, NULL, host, service, &hints); /* no callback: waits, at start-up only */
    if (rc) return rc;
    rc = uv_tcp_bind(&s->uv, req.addrinfo->ai_addr, 0);
    uv_freeaddrinfo(req.addrinfo);
    if (!rc) rc = uv_listen((uv_stream_t *)&s->uv, NET_BACKLOG, listener_accept);
    struct sockaddr_storage address;
    int n = sizeof address;
    if (!rc) rc = uv_tcp_getsockname(&s->uv, (struct sockaddr *)&address, &n);
    if (rc) return rc;
    *bound_port = ntohs(address.ss_family == AF_INET6 ? ((const struct sockaddr_in6 *)&address)->sin6_port
                                                      : ((const struct sockaddr_in *)&address)->sin_port);
    return 0;
}

st_code net_listen(net_loop *l, const char *host, uint16_t port, void (*on_accept)(void *context, net_tcp *t), void *context,
                   net_listener **out, uint16_t *bound_port, st_error *e) {
    check_thread(l);
    *out = NULL;
    net_listener *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "listen on %s:%u: out of memory", host, port);
    *s = (net_listener){.loop = l, .on_accept = on_accept, .context = context, .refs = 1};
    uv_tcp_init(&l->uv, &s->uv);
    s->uv.data = s;
    uint16_t bound = 0;
    int rc = listener_bind(s, host, port, &bound);
    if (rc) {
        net_listener_destroy(s);
        return st_fail(e, ST_ERR_UNAVAILABLE, "cannot listen on %s:%u: %s%s", host, port, uv_strerror(rc),
                       rc == UV_EADDRINUSE ? "; is another cluster running there?" : "");
    }
    if (bound_port) *bound_port = bound;
    *out = s;
    return ST_OK;
}

void net_listener_destroy(net_listener *s) {
    if (!s || s->over) return;
    s->over = true;
    uv_close((uv_handle_t *)&s->uv, listener_unref);
}

/* ---- the end ---- */

static void close_rest(uv_handle_t *h, void *context) {
    (void)context;
    if (uv_is_closing(h)) return;
    if (h->type == UV_TIMER)
        net_timer_destroy(h->data);
    else if (h->type == UV_TCP)
        net_listener_destroy(h->data);
    else
        uv_close(h, NULL);
}

void net_loop_destroy(net_loop *l) {
    if (!l) return;
    run_posts(&l->door); /* what a post owns is its function's to free */
    while (l->tcps) tcp_end(l->tcps, "the loop has ended");
    uv_walk(&l->uv, close_rest, NULL); /* all tcps are closing: what is left are timers, listeners and our own handles */
    l->soons.next = l->soons.previous = &l->soons;
    while (uv_run(&l->uv, UV_RUN_DEFAULT)) continue; /* a post may have called net_loop_stop */
    int rc = uv_loop_close(&l->uv);
    INVARIANT(rc == 0);
    pthread_mutex_destroy(&l->lock);
    mem_free(l);
}
