/* gRPC server codec: one HTTP/2 connection, no sockets.
 *
 * A call, with what makes each transition:
 *
 *     headers ─on_frame_recv─> body ─END_STREAM─> live ─net_call_finish─> finished ─(queue empty)─> trailers ─> closed, freed
 *        └───────────────────────┴────────────────┴── refuse / deadline: abort_call ────────────────^
 *        └───────────────────────┴────────────────┴─────────┴─ reset by the peer, connection lost: on_stream_close ─> freed
 *
 * Only in `live` does the user hold the call. nghttp2 owns the stream's life: on_stream_close frees ours, and since
 * nghttp2_session_del does not call it, destroy walks the list.
 *
 * Replies wait in a queue; nghttp2 asks read_reply for as much as the peer's windows allow. An empty queue defers the stream and
 * net_call_send wakes it. A finished call's last DATA says EOF but not END_STREAM and submits the trailers behind it. When
 * trailers go out before the client has ended its side, RST(NO_ERROR) follows from on_frame_send: submitted earlier it would
 * overtake them. A deadline cannot wait for a shut window, so abort_call drops the queue and submits trailers past the DATA.
 *
 * Against hostile peers: the header list is counted here (nghttp2 does not), every frame that costs without bringing work is
 * charged to the connection (charge_frame), input is fed in slices so that a flood within one read is seen, and after
 * terminate_session nothing more is fed (CVE-2026-27135). Road not taken: nghttp2's own rate limits, whose presence depends
 * on the distribution's patches. Limits: one request message a call; no client streaming, no compression, no HTTP/1. */
#include "net/h2_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include <stdio.h>
#include <string.h>

typedef enum { CALL_HEADERS, CALL_BODY, CALL_LIVE, CALL_FINISHED } call_state;

struct net_call {
    net_h2_server *server;
    net_call *next, *previous;
    int32_t stream;
    call_state state;
    bool peer_ended;     /* END_STREAM came */
    bool headers_queued; /* response headers are submitted */
    bool trailers;       /* trailers are submitted: nothing may follow */
    bool slow;           /* net_call_send has said so; on_credit is owed */
    bool post, grpc;     /* the method and the content type are right */
    int refused;         /* gRPC status found while the headers came; 0: none */
    const char *why;     /* for it; static */
    size_t header_bytes;
    char *path;
    uint64_t begun_ns, deadline_ns;
    uint64_t progress_ns; /* when reply bytes last moved; 0: to be set by the next _send */
    net_inbox in;
    net_queue out;
    int status; /* FINISHED */
    char *message;
    void *user;
};

struct net_h2_server {
    nghttp2_session *session;
    net_h2_server_setup setup;
    net_budget budget;
    net_call *calls;
    size_t n_calls;
    uint64_t now_ns; /* of the call into this codec that is running, or the last */
    uint64_t handshake_by_ns, header_since_ns, header_bytes, idle_since_ns, goaway_at_ns; /* 0: does not apply */
    net_glitches glitches;
    const uint8_t *rest;
    size_t n_rest;
    bool handshaken, draining, terminated;
    bool flooded; /* the glitch counter or the header flood limit: terminate after this slice */
    st_code fatal;
};

/* ---- life of a call ---- */

static void wake(net_h2_server *s) {
    if (s->setup.wake) s->setup.wake(s->setup.wake_context);
}

static void fatal_if(net_h2_server *s, int rc) {
    if (rc && !s->fatal) s->fatal = net_h2_code(rc);
}

static net_call *call_create(net_h2_server *s, int32_t stream) {
    net_call *c = mem_alloc(1, sizeof *c);
    if (!c) return NULL;
    c->server = s;
    c->stream = stream;
    c->begun_ns = c->progress_ns = s->now_ns;
    c->in.body.budget = c->out.budget = &s->budget;
    c->next = s->calls;
    if (c->next) c->next->previous = c;
    s->calls = c;
    s->n_calls++;
    return c;
}

static void call_free(net_call *c) {
    net_h2_server *s = c->server;
    if (c->previous)
        c->previous->next = c->next;
    else
        s->calls = c->next;
    if (c->next) c->next->previous = c->previous;
    s->n_calls--;
    s->idle_since_ns = s->now_ns;
    net_inbox_clear(&c->in);
    net_queue_clear(&c->out);
    mem_free(c->path);
    mem_free(c->message);
    mem_free(c);
}

static net_call *call_of(net_h2_server *s, int32_t stream) { return nghttp2_session_get_stream_user_data(s->session, stream); }

/* ---- replies ---- */

/* grpc-status and grpc-message, behind `lead` other headers already in nv. */
static size_t status_headers(const net_call *c, nghttp2_nv *nv, char status[12], char *message, size_t message_size) {
    snprintf(status, 12, "%d", c->status);
    nv[0] = NET_NV_TEXT("grpc-status", status);
    if (!c->message || !*c->message) return 1;
    size_t n = net_percent_encode(c->message, message, message_size);
    nv[1] = NET_NV("grpc-message", sizeof "grpc-message" - 1, message, n);
    return 2;
}

static void submit_trailers(net_call *c) {
    char status[12], message[3 * NET_MAX_STATUS_MESSAGE_BYTES + 1];
    nghttp2_nv nv[2];
    size_t n = status_headers(c, nv, status, message, sizeof message);
    c->trailers = true;
    fatal_if(c->server, nghttp2_submit_trailer(c->server->session, c->stream, nv, n));
}

static ssize_t read_reply(nghttp2_session *session, int32_t stream, uint8_t *out, size_t room, uint32_t *flags,
                          nghttp2_data_source *source, void *user) {
    (void)source;
    net_h2_server *s = user;
    net_call *c = nghttp2_session_get_stream_user_data(session, stream);
    if (!c) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    size_t n = c->trailers ? 0 : net_queue_pull(&c->out, out, room);
    if (n) c->progress_ns = s->now_ns;
    if (c->state == CALL_FINISHED && !c->trailers && net_queue_bytes(&c->out) == 0) {
        *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
        submit_trailers(c);
    } else if (n == 0) {
        return NGHTTP2_ERR_DEFERRED;
    }
    return (ssize_t)n;
}

static void submit_headers(net_call *c) {
    nghttp2_nv nv[] = {NET_NV_TEXT(":status", "200"), NET_NV_TEXT("content-type", "application/grpc"),
                       NET_NV_TEXT("grpc-accept-encoding", "identity")};
    nghttp2_data_provider provider = {.read_callback = read_reply};
    c->headers_queued = true;
    fatal_if(c->server, nghttp2_submit_response(c->server->session, c->stream, nv, 3, &provider));
}

static void submit_trailers_only(net_call *c) {
    char status[12], message[3 * NET_MAX_STATUS_MESSAGE_BYTES + 1];
    nghttp2_nv nv[5] = {NET_NV_TEXT(":status", "200"), NET_NV_TEXT("content-type", "application/grpc"),
                        NET_NV_TEXT("grpc-accept-encoding", "identity")};
    size_t n = 3 + status_headers(c, nv + 3, status, message, sizeof message);
    c->headers_queued = c->trailers = true;
    fatal_if(c->server, nghttp2_submit_response(c->server->session, c->stream, nv, n, NULL));
}

static void set_status(net_call *c, int status, const char *message) {
    c->state = CALL_FINISHED;
    c->status = status;
    mem_free(c->message);
    /* Without memory for the words the status alone goes out. */
    c->message = message ? mem_text(message, strnlen(message, NET_MAX_STATUS_MESSAGE_BYTES)) : NULL;
}

/* Ends the call now, past whatever is queued: refusals and deadlines. The user must not hold it any more. */
static void abort_call(net_call *c, int status, const char *message) {
    if (c->trailers) return;
    net_inbox_clear(&c->in);
    net_queue_clear(&c->out);
    set_status(c, status, message);
    if (c->headers_queued)
        submit_trailers(c);
    else
        submit_trailers_only(c);
    wake(c->server);
}

/* Not gRPC at all: an HTTP status, no gRPC one. */
static void refuse_http(net_call *c, const char *http_status) {
    nghttp2_nv nv[] = {NET_NV_TEXT(":status", http_status)};
    c->state = CALL_FINISHED;
    c->headers_queued = c->trailers = true;
    net_inbox_clear(&c->in);
    fatal_if(c->server, nghttp2_submit_response(c->server->session, c->stream, nv, 1, NULL));
    wake(c->server);
}

st_code net_call_send(net_call *c, const uint8_t *message, size_t n, bool *slow) {
    net_h2_server *s = c->server;
    if (slow) *slow = c->slow;
    if (c->state != CALL_LIVE || s->fatal) return ST_ERR_UNAVAILABLE;
    if (net_queue_bytes(&c->out) == 0) c->progress_ns = 0;
    st_code rc = net_queue_push_message(&c->out, message, n);
    if (rc) return rc;
    if (!c->headers_queued)
        submit_headers(c);
    else if (nghttp2_session_resume_data(s->session, c->stream) == NGHTTP2_ERR_NOMEM)
        s->fatal = ST_FATAL_MEMORY;
    if (net_queue_bytes(&c->out) > NET_CALL_HIGH_BYTES) c->slow = true;
    if (slow) *slow = c->slow;
    wake(s);
    return ST_OK;
}

void net_call_finish(net_call *c, int status, const char *message) {
    net_h2_server *s = c->server;
    if (c->state != CALL_LIVE) return;
    set_status(c, status, message);
    c->slow = false;
    if (!c->headers_queued)
        submit_trailers_only(c);
    else if (nghttp2_session_resume_data(s->session, c->stream) == NGHTTP2_ERR_NOMEM)
        s->fatal = ST_FATAL_MEMORY;
    wake(s);
}

uint64_t net_call_deadline_ns(const net_call *c) { return c->deadline_ns; }
void net_call_set_user(net_call *c, void *user) { c->user = user; }
void *net_call_user(const net_call *c) { return c->user; }

/* ---- request headers ---- */

static void refuse_later(net_call *c, int status, const char *why) {
    if (c->refused) return;
    c->refused = status;
    c->why = why;
}

/* "/package.Service/Method": printable, two non-empty parts. */
static bool path_is_sane(const uint8_t *path, size_t n) {
    size_t slashes = 0, last = 0;
    if (n < 4 || n > NET_MAX_PATH_BYTES || path[0] != '/') return false;
    for (size_t i = 0; i < n; i++) {
        if (path[i] <= ' ' || path[i] > '~') return false;
        if (path[i] != '/') continue;
        slashes++;
        last = i;
    }
    return slashes == 2 && last > 1 && last < n - 1;
}

/* application/grpc, application/grpc+proto, either with parameters. */
static bool content_type_is_grpc(const uint8_t *v, size_t n) {
    static const char base[] = "application/grpc", proto[] = "+proto";
    size_t at = sizeof base - 1;
    if (n < at || memcmp(v, base, at) != 0) return false;
    if (n - at >= sizeof proto - 1 && memcmp(v + at, proto, sizeof proto - 1) == 0) at += sizeof proto - 1;
    return at == n || v[at] == ';' || v[at] == ' ';
}

static void read_timeout(net_call *c, const uint8_t *v, size_t n) {
    uint64_t ns, at;
    if (!net_timeout_parse(v, n, &ns))
        refuse_later(c, 13, "malformed grpc-timeout; expected at most 8 digits and one of HMSmun");
    else if (!__builtin_add_overflow(c->begun_ns, ns, &at))
        c->deadline_ns = at ? at : 1;
}

static void read_header(net_call *c, const uint8_t *name, size_t name_n, const uint8_t *v, size_t n) {
    if (net_header_is(name, name_n, ":path")) {
        if (!path_is_sane(v, n))
            refuse_later(c, 12, "malformed method name; expected /package.Service/Method");
        else if (!c->path && !(c->path = mem_text((const char *)v, n)))
            refuse_later(c, 8, "out of memory");
    } else if (net_header_is(name, name_n, ":method")) {
        c->post = net_header_is(v, n, "POST");
    } else if (net_header_is(name, name_n, "content-type")) {
        c->grpc = content_type_is_grpc(v, n);
    } else if (net_header_is(name, name_n, "grpc-timeout")) {
        read_timeout(c, v, n);
    } else if (net_header_is(name, name_n, "grpc-encoding")) {
        c->in.compressed_ok = !net_header_is(v, n, "identity");
    }
}

static void headers_are_whole(net_call *c) {
    c->state = CALL_BODY;
    if (!c->post)
        refuse_http(c, "405");
    else if (!c->grpc)
        refuse_http(c, "415");
    else if (c->server->draining)
        abort_call(c, 14, "the server is shutting down");
    else if (c->refused)
        abort_call(c, c->refused, c->why);
}

static void request_is_whole(net_call *c) {
    net_h2_server *s = c->server;
    c->peer_ended = true;
    if (c->state != CALL_BODY) return;
    if (c->refused) { /* by its trailers */
        abort_call(c, c->refused, c->why);
        return;
    }
    if (!c->in.whole) {
        abort_call(c, 13, c->in.n_prefix ? "request message is cut short" : "no request message");
        return;
    }
    c->state = CALL_LIVE;
    /* The callback may finish the call; its memory stays, for nothing is sent meanwhile. */
    s->setup.calls.on_call(s->setup.context, c, c->path, c->in.body.bytes, c->in.n_message);
    net_inbox_clear(&c->in);
}

/* ---- what nghttp2 tells ---- */

static void charge(net_h2_server *s, uint64_t cost) {
    if (!net_glitch_charge(&s->glitches, s->now_ns, cost)) s->flooded = true;
}

/* Every frame's head, malformed ones too. Unknown types do not come here: nghttp2 skips them, at the price of reading them. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user) {
    (void)session;
    net_h2_server *s = user;
    bool headers = hd->type == NGHTTP2_HEADERS || hd->type == NGHTTP2_CONTINUATION;
    if (!headers || hd->flags & NGHTTP2_FLAG_END_HEADERS)
        s->header_since_ns = 0;
    else if (!s->header_since_ns)
        s->header_since_ns = s->now_ns;
    switch (hd->type) {
    case NGHTTP2_DATA:
        if (hd->length < NET_SMALL_DATA_BYTES && !(hd->flags & NGHTTP2_FLAG_END_STREAM)) charge(s, NET_GLITCH_SMALL);
        break;
    case NGHTTP2_HEADERS: s->header_bytes = 0; break;
    case NGHTTP2_PRIORITY:
    case NGHTTP2_WINDOW_UPDATE: charge(s, NET_GLITCH_SMALL); break;
    case NGHTTP2_RST_STREAM: charge(s, NET_GLITCH_RESET); break;
    case NGHTTP2_SETTINGS:
    case NGHTTP2_GOAWAY: charge(s, NET_GLITCH_SETTINGS); break;
    case NGHTTP2_PING: charge(s, NET_GLITCH_PING); break;
    case NGHTTP2_CONTINUATION: charge(s, NET_GLITCH_CONTINUATION); break;
    default: break;
    }
    return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    net_h2_server *s = user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    net_call *c = call_create(s, frame->hd.stream_id);
    if (!c) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    return nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, c);
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
                     const uint8_t *value, size_t value_n, uint8_t flags, void *user) {
    (void)session, (void)flags;
    net_h2_server *s = user;
    s->header_bytes += name_n + value_n + 32;
    if (s->header_bytes > NET_MAX_HEADER_FLOOD_BYTES) { /* the HPACK state needs all of the block or none: the connection ends */
        s->fatal = ST_FATAL_PROTOCOL;
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    net_call *c = call_of(s, frame->hd.stream_id);
    if (!c) return 0;
    c->header_bytes += name_n + value_n + 32;
    if (c->header_bytes > NET_MAX_HEADER_BYTES)
        refuse_later(c, 8, "request headers are larger than the limit of 16384 bytes");
    else if (c->state == CALL_HEADERS)
        read_header(c, name, name_n, value, value_n);
    return 0;
}

_Static_assert(NET_MAX_HEADER_BYTES == 16384, "the text in on_header names the limit");

static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value,
                             uint8_t flags, void *user) {
    (void)session, (void)frame, (void)name, (void)value, (void)flags;
    charge(user, NET_GLITCH_INVALID);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* resets the stream; without this callback nghttp2 drops the field and goes on
                                                   */
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error, void *user) {
    (void)session, (void)frame, (void)error;
    charge(user, NET_GLITCH_INVALID);
    return 0;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    (void)session;
    net_h2_server *s = user;
    net_call *c = frame->hd.stream_id ? call_of(s, frame->hd.stream_id) : NULL;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (c && c->state == CALL_HEADERS) headers_are_whole(c);
        if (c && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) request_is_whole(c);
        break;
    case NGHTTP2_DATA:
        if (c && frame->hd.flags & NGHTTP2_FLAG_END_STREAM) request_is_whole(c);
        break;
    case NGHTTP2_SETTINGS: s->handshaken = true; break;
    case NGHTTP2_PING:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK && s->draining) s->goaway_at_ns = s->goaway_at_ns ? 1 : 0; /* due now */
        break;
    default: break;
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *bytes, size_t n, void *user) {
    (void)session, (void)flags;
    net_call *c = call_of(user, stream);
    const char *why = NULL;
    if (!c || c->state != CALL_BODY) return 0; /* refused: nghttp2 gives the windows back, the bytes go */
    int status = c->in.whole ? 0 : net_inbox_feed(&c->in, &bytes, &n, &why);
    if (!status && n) {
        status = 12;
        why = "more than one request message; client streaming is not supported";
    }
    if (status) abort_call(c, status, why);
    return 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    net_h2_server *s = user;
    if (frame->hd.type == NGHTTP2_DATA) net_glitch_earn(&s->glitches, NET_GLITCH_EARNED_BY_DATA);
    if (frame->hd.type == NGHTTP2_RST_STREAM && frame->rst_stream.error_code != NGHTTP2_NO_ERROR) charge(s, NET_GLITCH_RESET);
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    net_call *c = call_of(s, frame->hd.stream_id);
    if (c && !c->peer_ended) return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
    return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
    (void)session, (void)error;
    net_h2_server *s = user;
    net_call *c = call_of(s, stream);
    if (!c) return 0;
    if (c->state == CALL_LIVE) {
        c->state = CALL_FINISHED;
        s->setup.calls.on_end(s->setup.context, c, ST_ERR_CANCELLED);
    }
    call_free(c);
    return 0;
}

/* ---- the connection ---- */

static int create_session(net_h2_server *s) {
    nghttp2_session_callbacks *cb = NULL;
    nghttp2_option *option = NULL;
    int rc = nghttp2_session_callbacks_new(&cb);
    if (!rc) rc = nghttp2_option_new(&option);
    if (!rc) {
        nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
        nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
        nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
        nghttp2_session_callbacks_set_on_invalid_header_callback2(cb, on_invalid_header);
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
        nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
        nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
        nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
        nghttp2_option_set_max_outbound_ack(option, NET_MAX_OUTBOUND_ACKS);
        nghttp2_option_set_max_settings(option, NET_MAX_SETTINGS);
        nghttp2_option_set_no_closed_streams(option, 1); /* keep no memory for them */
        rc = nghttp2_session_server_new3(&s->session, cb, s, option, net_h2_memory());
    }
    nghttp2_option_del(option);
    nghttp2_session_callbacks_del(cb);
    return rc;
}

st_code net_h2_server_create(const net_h2_server_setup *setup, uint64_t now_ns, net_h2_server **out) {
    static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NET_MAX_STREAMS},
                                                      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NET_STREAM_WINDOW_BYTES},
                                                      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, NET_MAX_HEADER_BYTES}};
    *out = NULL;
    net_h2_server *s = mem_alloc(1, sizeof *s);
    if (!s) return ST_FATAL_MEMORY;
    s->setup = *setup;
    s->budget = (net_budget){.limit_bytes = NET_MAX_CONNECTION_BUFFER_BYTES, .parent = setup->budget};
    s->now_ns = s->idle_since_ns = now_ns;
    s->handshake_by_ns = now_ns + NET_HTTP2_HANDSHAKE_MS * UINT64_C(1000000);
    int rc = create_session(s);
    if (!rc) rc = nghttp2_submit_settings(s->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings);
    if (!rc) rc = nghttp2_session_set_local_window_size(s->session, NGHTTP2_FLAG_NONE, 0, NET_CONNECTION_WINDOW_BYTES);
    if (rc) {
        net_h2_server_destroy(s);
        return net_h2_code(rc);
    }
    *out = s;
    return ST_OK;
}

void net_h2_server_destroy(net_h2_server *s) {
    if (!s) return;
    nghttp2_session_del(s->session);
    while (s->calls) call_free(s->calls);
    mem_free(s);
}

/* GOAWAY, then the connection ends; nothing that the peer says matters any more. */
static void terminate(net_h2_server *s, uint32_t error) {
    if (s->terminated) return;
    s->terminated = true;
    fatal_if(s, nghttp2_session_terminate_session(s->session, error));
    wake(s);
}

st_code net_h2_server_receive(net_h2_server *s, uint64_t now_ns, const uint8_t *bytes, size_t n) {
    s->now_ns = now_ns;
    if (s->terminated) return ST_ERR_UNAVAILABLE; /* it goes on sending and has not taken our GOAWAY */
    while (n && !s->terminated && !s->fatal) {
        size_t slice = n < NET_SLICE_BYTES ? n : NET_SLICE_BYTES;
        ssize_t used = nghttp2_session_mem_recv(s->session, bytes, slice);
        if (used < 0) fatal_if(s, (int)used);
        if (s->flooded) terminate(s, NGHTTP2_ENHANCE_YOUR_CALM);
        bytes += slice; /* less is used only where we would have paused */
        n -= slice;
    }
    net_h2_server_tick(s, now_ns);
    return s->fatal;
}

/* Tells the calls whose queues are low again; outside of nghttp2, so that the user's sends find a settled session. */
static void give_credit(net_h2_server *s) {
    for (net_call *c = s->calls; c; c = c->next) {
        if (!c->progress_ns) c->progress_ns = s->now_ns;
        if (!c->slow || c->state != CALL_LIVE || net_queue_bytes(&c->out) >= NET_CALL_LOW_BYTES) continue;
        c->slow = false;
        if (s->setup.calls.on_credit) s->setup.calls.on_credit(s->setup.context, c);
    }
}

st_code net_h2_server_send(net_h2_server *s, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n) {
    s->now_ns = now_ns;
    *n = 0;
    if (s->fatal) return s->fatal;
    st_code rc = net_h2_gather(s->session, &s->rest, &s->n_rest, out, capacity, n);
    if (rc && !s->fatal) s->fatal = rc;
    if (s->flooded) terminate(s, NGHTTP2_ENHANCE_YOUR_CALM);
    if (!s->fatal) give_credit(s);
    return s->fatal;
}

bool net_h2_server_is_over(const net_h2_server *s) {
    if (s->n_rest || nghttp2_session_want_write(s->session)) return false;
    return s->terminated || !nghttp2_session_want_read(s->session);
}

size_t net_h2_server_calls(const net_h2_server *s) { return s->n_calls; }

void net_h2_server_lost(net_h2_server *s, st_code code) {
    if (!s->fatal) s->fatal = ST_ERR_UNAVAILABLE; /* sends of other calls from on_end go nowhere */
    for (net_call *c = s->calls; c; c = c->next) {
        if (c->state != CALL_LIVE) continue;
        c->state = CALL_FINISHED;
        s->setup.calls.on_end(s->setup.context, c, code);
    }
}

/* ---- time ---- */

static uint64_t after_ms(uint64_t since_ns, uint64_t ms) { return since_ns + ms * 1000000; }
static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* When the call must be looked at, and why. */
typedef enum { DUE_NEVER, DUE_DEADLINE, DUE_REQUEST, DUE_STALL } due_kind;
static uint64_t call_due(const net_call *c, due_kind *kind) {
    uint64_t at = UINT64_MAX;
    *kind = DUE_NEVER;
    if (c->deadline_ns && !c->trailers) {
        at = c->deadline_ns;
        *kind = DUE_DEADLINE;
    }
    uint64_t request_ns = after_ms(c->begun_ns, NET_HTTP2_REQUEST_MS);
    if (c->state <= CALL_BODY && request_ns < at) {
        at = request_ns;
        *kind = DUE_REQUEST;
    }
    uint64_t stall_ns = after_ms(c->progress_ns, NET_HTTP2_STALL_MS);
    if (net_queue_bytes(&c->out) && c->progress_ns && stall_ns < at) {
        at = stall_ns;
        *kind = DUE_STALL;
    }
    return at;
}

static void end_due_call(net_call *c, due_kind kind) {
    net_h2_server *s = c->server;
    bool live = c->state == CALL_LIVE;
    c->state = CALL_FINISHED;
    if (kind == DUE_STALL) { /* trailers would wait in the same peer; on_stream_close does the rest */
        net_queue_clear(&c->out);
        c->trailers = true;
        fatal_if(s, nghttp2_submit_rst_stream(s->session, NGHTTP2_FLAG_NONE, c->stream, NGHTTP2_CANCEL));
        wake(s);
    } else {
        abort_call(c, 4, kind == DUE_DEADLINE ? "deadline exceeded" : "the request did not end in time");
    }
    if (live) s->setup.calls.on_end(s->setup.context, c, kind == DUE_DEADLINE ? ST_ERR_DEADLINE : ST_ERR_CANCELLED);
}

static uint64_t connection_due(const net_h2_server *s) {
    uint64_t at = UINT64_MAX;
    if (s->terminated) return at;
    if (!s->handshaken) at = least(at, s->handshake_by_ns);
    if (s->header_since_ns) at = least(at, after_ms(s->header_since_ns, NET_HTTP2_HEADER_MS));
    if (s->n_calls == 0) at = least(at, after_ms(s->idle_since_ns, NET_HTTP2_IDLE_MS));
    return at;
}

uint64_t net_h2_server_next_ns(const net_h2_server *s) {
    uint64_t at = least(connection_due(s), s->goaway_at_ns ? s->goaway_at_ns : UINT64_MAX);
    due_kind kind;
    for (const net_call *c = s->calls; c; c = c->next) at = least(at, call_due(c, &kind));
    return at;
}

void net_h2_server_tick(net_h2_server *s, uint64_t now_ns) {
    s->now_ns = now_ns;
    if (s->fatal) return;
    for (net_call *c = s->calls; c; c = c->next) {
        due_kind kind;
        if (call_due(c, &kind) <= now_ns) end_due_call(c, kind);
    }
    if (s->goaway_at_ns && s->goaway_at_ns <= now_ns) {
        s->goaway_at_ns = 0;
        int32_t last = nghttp2_session_get_last_proc_stream_id(s->session);
        fatal_if(s, nghttp2_submit_goaway(s->session, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0));
        wake(s);
    }
    if (connection_due(s) <= now_ns) terminate(s, NGHTTP2_NO_ERROR);
}

void net_h2_server_drain(net_h2_server *s, uint64_t now_ns) {
    static const uint8_t opaque[8] = "drain";
    if (s->draining) return;
    s->draining = true;
    s->goaway_at_ns = after_ms(now_ns, NET_HTTP2_DRAIN_MS);
    fatal_if(s, nghttp2_submit_shutdown_notice(s->session));
    fatal_if(s, nghttp2_submit_ping(s->session, NGHTTP2_FLAG_NONE, opaque));
    wake(s);
}
