/* gRPC client codec: one HTTP/2 connection, no sockets.
 *
 *     queued ─submit_request─> sent ─HEADERS─> replying ─trailers, reset, GOAWAY, deadline, cancel, loss─> done ─> told ─> freed
 *
 * What: a request's outcome is written once, by end_request (the first wins), and told by tell_done, outside of nghttp2 and of
 * the caller's own call. A request that is told may still be known to nghttp2 (its RST is on the way): it is freed when
 * on_stream_close has come too, or with the client. Why not rely on on_stream_close alone: a request cancelled before it was
 * sent may never get one. Limits: one request message a call; replies are not paused: each is handed over as it comes. */
#include "net/h2_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct net_h2_request {
    net_h2_client *client;
    net_h2_request *next, *previous;
    int32_t stream;
    bool done, told, closed; /* outcome is known; on_done was called; nghttp2 has forgotten it */
    bool has_grpc_status;
    int http_status, status;
    uint64_t deadline_ns; /* UINT64_MAX: none */
    size_t header_bytes;
    net_queue out;
    net_inbox in;
    net_grpc_reply cb;
    void *context;
    char message[NET_MAX_STATUS_MESSAGE_BYTES + 1];
};

struct net_h2_client {
    nghttp2_session *session;
    net_h2_request *requests;
    char *authority;
    char *lost; /* why the connection is gone; for later calls */
    bool is_lost;
    bool stop; /* a reset could not be queued for lack of memory: end the connection */
    net_fn wake;
    void *wake_context;
    const uint8_t *rest;
    size_t n_rest;
};

static void wake(net_h2_client *c) {
    if (c->wake) c->wake(c->wake_context);
}

/* ---- life of a request ---- */

static void request_free(net_h2_request *r) {
    net_h2_client *c = r->client;
    if (r->previous)
        r->previous->next = r->next;
    else
        c->requests = r->next;
    if (r->next) r->next->previous = r->previous;
    net_queue_clear(&r->out);
    net_inbox_clear(&r->in);
    mem_free(r);
}

/* The first outcome counts. */
static void end_request(net_h2_request *r, int status, const char *message) {
    if (r->done) return;
    r->done = true;
    r->status = status;
    if (message) snprintf(r->message, sizeof r->message, "%s", message);
    net_queue_clear(&r->out);
    wake(r->client);
}

static void reset_request(net_h2_request *r, int status, const char *message) {
    net_h2_client *c = r->client;
    if (r->done) return;
    end_request(r, status, message);
    int rc = r->closed || c->is_lost ? 0 : nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, r->stream, NGHTTP2_CANCEL);
    if (rc == NGHTTP2_ERR_NOMEM) c->stop = true;
}

/* on_done may start and cancel requests: the walk begins anew after each. */
static void tell_done(net_h2_client *c) {
    net_h2_request *r = c->requests;
    while (r) {
        if (r->done && !r->told) {
            r->told = true;
            r->cb.on_done(r->context, r->status, r->message);
            r = c->requests;
            continue;
        }
        net_h2_request *next = r->next;
        if (r->told && (r->closed || c->is_lost)) request_free(r);
        r = next;
    }
}

/* ---- the outcome, from headers and resets ---- */

/* https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md */
static int status_of_http(int http) {
    switch (http) {
    case 400: return 13;
    case 401: return 16;
    case 403: return 7;
    case 404: return 12;
    case 429:
    case 502:
    case 503:
    case 504: return 14;
    default: return 2;
    }
}

static int status_of_reset(uint32_t error) {
    switch (error) {
    case NGHTTP2_REFUSED_STREAM: return 14;
    case NGHTTP2_CANCEL: return 1;
    case NGHTTP2_ENHANCE_YOUR_CALM: return 8;
    default: return 13;
    }
}

static int small_number(const uint8_t *text, size_t n) {
    int value = 0;
    if (n == 0 || n > 4) return -1;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
                     const uint8_t *value, size_t value_n, uint8_t flags, void *user) {
    (void)flags, (void)user;
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!r || r->done) return 0;
    r->header_bytes += name_n + value_n + 32;
    if (r->header_bytes > NET_MAX_HEADER_BYTES) {
        reset_request(r, 8, "reply headers are larger than the limit of 16384 bytes");
    } else if (net_header_is(name, name_n, ":status")) {
        r->http_status = small_number(value, value_n);
    } else if (net_header_is(name, name_n, "grpc-status")) {
        r->has_grpc_status = true;
        r->status = small_number(value, value_n);
        if (r->status < 0) r->status = 2;
    } else if (net_header_is(name, name_n, "grpc-message")) {
        net_percent_decode(value, value_n, r->message, sizeof r->message);
    } else if (net_header_is(name, name_n, "grpc-encoding")) {
        r->in.compressed_ok = !net_header_is(value, value_n, "identity");
    }
    return 0;
}

/* END_STREAM: what came in trailers (or in headers, "trailers-only") is the outcome. */
static void reply_ended(net_h2_request *r) {
    char text[80];
    if (r->done) return;
    if (r->has_grpc_status) {
        end_request(r, r->status, NULL);
    } else if (r->http_status != 200) {
        snprintf(text, sizeof text, "HTTP status %d without a gRPC status", r->http_status);
        end_request(r, status_of_http(r->http_status), text);
    } else {
        end_request(r, 13, "the reply ended without a gRPC status");
    }
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (r && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) reply_ended(r);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t n, void *user) {
    (void)flags, (void)user;
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, stream);
    while (r && !r->done && n) {
        const char *why = NULL;
        int status = net_inbox_feed(&r->in, &bytes, &n, &why);
        if (status) {
            reset_request(r, status, why);
        } else if (r->in.whole) {
            if (r->cb.on_message) r->cb.on_message(r->context, r->in.body.bytes, r->in.n_message);
            net_inbox_next(&r->in);
        }
    }
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
    (void)user;
    char text[80];
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, stream);
    if (!r) return 0;
    r->closed = true;
    snprintf(text, sizeof text, "the server reset the call (HTTP/2 error %u)", error);
    end_request(r, status_of_reset(error), text);
    return 0;
}

/* A request that may not start any more, after GOAWAY. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    (void)user, (void)error;
    if (frame->hd.type != NGHTTP2_HEADERS) return 0;
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (r) end_request(r, 14, "the server is shutting down");
    return 0;
}

static ssize_t read_request(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
                            nghttp2_data_source *source, void *user) {
    (void)source, (void)user;
    net_h2_request *r = nghttp2_session_get_stream_user_data(session, stream);
    if (!r || r->done) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    size_t n = net_queue_pull(&r->out, out, room);
    if (net_queue_bytes(&r->out) == 0) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* ---- the client ---- */

static int create_session(net_h2_client *c) {
    nghttp2_session_callbacks *cb = NULL;
    int rc = nghttp2_session_callbacks_new(&cb);
    if (rc) return rc;
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_send);
    rc = nghttp2_session_client_new3(&c->session, cb, c, NULL, net_h2_memory());
    nghttp2_session_callbacks_del(cb);
    return rc;
}

st_code net_h2_client_create(const char *authority, net_fn wake_fn, void *wake_context, net_h2_client **out) {
    static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                                      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NET_STREAM_WINDOW_BYTES},
                                                      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, NET_MAX_HEADER_BYTES}};
    *out = NULL;
    net_h2_client *c = mem_alloc(1, sizeof *c);
    if (!c) return ST_FATAL_MEMORY;
    c->wake = wake_fn;
    c->wake_context = wake_context;
    c->authority = mem_text(authority, strlen(authority));
    int rc = c->authority ? create_session(c) : NGHTTP2_ERR_NOMEM;
    if (!rc) rc = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings);
    if (!rc) rc = nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, NET_CONNECTION_WINDOW_BYTES);
    if (rc) {
        net_h2_client_destroy(c);
        return net_h2_code(rc);
    }
    *out = c;
    return ST_OK;
}

void net_h2_client_destroy(net_h2_client *c) {
    if (!c) return;
    nghttp2_session_del(c->session);
    while (c->requests) request_free(c->requests);
    mem_free(c->authority);
    mem_free(c->lost);
    mem_free(c);
}

static st_code submit(net_h2_request *r, const char *path, uint32_t timeout_ms) {
    net_h2_client *c = r->client;
    char timeout[16];
    nghttp2_nv nv[] = {NET_NV_TEXT(":method", "POST"),
                       NET_NV_TEXT(":scheme", "http"),
                       NET_NV_TEXT(":path", path),
                       NET_NV_TEXT(":authority", c->authority),
                       NET_NV_TEXT("te", "trailers"),
                       NET_NV_TEXT("content-type", "application/grpc"),
                       NET_NV_TEXT("user-agent", "consort/" CONSORT_VERSION),
                       {0}};
    size_t n = sizeof nv / sizeof *nv - 1;
    if (timeout_ms) {
        net_timeout_format(timeout_ms, timeout);
        nv[n++] = NET_NV_TEXT("grpc-timeout", timeout);
    }
    nghttp2_data_provider provider = {.read_callback = read_request};
    r->stream = nghttp2_submit_request(c->session, NULL, nv, n, &provider, r);
    return r->stream < 0 ? net_h2_code(r->stream) : ST_OK;
}

st_code net_h2_client_start(net_h2_client *c, uint64_t now_ns, const char *path, const uint8_t *message, size_t n,
                            uint32_t timeout_ms, const net_grpc_reply *cb, void *context, net_h2_request **out) {
    if (out) *out = NULL;
    net_h2_request *r = mem_alloc(1, sizeof *r);
    if (!r) return ST_FATAL_MEMORY;
    *r = (net_h2_request){.client = c, .cb = *cb, .context = context};
    r->deadline_ns = timeout_ms ? now_ns + timeout_ms * UINT64_C(1000000) : UINT64_MAX;
    r->next = c->requests;
    if (r->next) r->next->previous = r;
    c->requests = r;
    st_code rc = ST_OK;
    if (c->is_lost)
        end_request(r, 14, c->lost ? c->lost : "the connection is lost");
    else
        rc = net_queue_push_message(&r->out, message, n);
    if (!rc && !c->is_lost) rc = submit(r, path, timeout_ms);
    if (rc) {
        request_free(r);
        return rc;
    }
    if (out) *out = r;
    wake(c);
    return ST_OK;
}

void net_h2_client_cancel(net_h2_client *c, net_h2_request *r) {
    (void)c;
    reset_request(r, 1, "cancelled");
}

st_code net_h2_client_receive(net_h2_client *c, const uint8_t *bytes, size_t n) {
    if (c->is_lost) return ST_ERR_UNAVAILABLE;
    ssize_t used = nghttp2_session_mem_recv(c->session, bytes, n);
    tell_done(c);
    if (used < 0) return net_h2_code((int)used);
    return c->stop ? ST_FATAL_MEMORY : ST_OK;
}

st_code net_h2_client_send(net_h2_client *c, uint8_t *out, size_t capacity, size_t *n) {
    *n = 0;
    st_code rc = c->is_lost ? ST_OK : net_h2_gather(c->session, &c->rest, &c->n_rest, out, capacity, n);
    tell_done(c);
    return rc;
}

void net_h2_client_tick(net_h2_client *c, uint64_t now_ns) {
    for (net_h2_request *r = c->requests; r; r = r->next)
        if (!r->done && r->deadline_ns <= now_ns) reset_request(r, 4, "deadline exceeded");
    tell_done(c);
}

uint64_t net_h2_client_next_ns(const net_h2_client *c) {
    uint64_t at = UINT64_MAX;
    for (const net_h2_request *r = c->requests; r; r = r->next)
        if (!r->done && r->deadline_ns < at) at = r->deadline_ns;
    return at;
}

bool net_h2_client_is_over(const net_h2_client *c) {
    return !c->is_lost && !c->n_rest && !nghttp2_session_want_read(c->session) && !nghttp2_session_want_write(c->session);
}

void net_h2_client_lost(net_h2_client *c, const char *reason) {
    if (c->is_lost) return;
    c->is_lost = true;
    c->lost = mem_text(reason, strlen(reason));
    for (net_h2_request *r = c->requests; r; r = r->next) end_request(r, 14, reason);
    tell_done(c);
}
