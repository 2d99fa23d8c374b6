/* One HTTP/1.1 connection at a server: llhttp judges the syntax, this file the framing and the limits.
 *
 *     idle ──first byte──> head ──empty line──> body ──last byte──> call ──net_http_answer──> idle
 *       └──── time-out ──────┴────── wrong, too large, too slow: a last reply ──────┴──────────────> closing
 *
 * What: a head is collected whole (a bounded queue) while every byte of it is looked at, then given to llhttp in one piece, so
 * that the names and values it points to stay where they are until the call is answered. Payload goes through llhttp in bulk.
 * Why look at bytes that llhttp will judge: version 8.1.0, which Debian 12 has, takes a bare CR, a bare LF and folded fields
 * (CVE-2022-32214, 2022-35256, 2023-30589, 2024-27982); two servers that disagree on where a field ends disagree on where a
 * request ends, which is request smuggling. For the same reason a length is told once, either way: Content-Length or chunked, and
 * chunked alone (CVE-2022-32213, 2022-32215). Framing inside a chunked body passes the same look, byte by byte, and must be
 * earned by payload (CVE-2024-22019). Why one call at a time: answers need no order of their own, and what a client pipelines is
 * bounded by what we hold of it. Not taken: upgrades (the fields are ignored, as RFC 9110 7.8 allows), CONNECT, transfer codings
 * beside chunked. */
#include "net/http1_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include <llhttp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef enum { IDLE, HEAD, BODY, CALL, CLOSING } state;

struct net_http_call {
    net_http1 *http1;
};

/* What the lines of a head or of a chunked body look like so far. */
typedef struct {
    uint8_t previous;
    size_t line_bytes, n_lines;
} lines;

struct net_http1 {
    net_http1_setup setup;
    net_http_call call;
    state state;
    llhttp_t parser;
    net_queue head, body, ahead, out;
    lines lines;
    size_t framing_bytes, payload_bytes, payload_left; /* of this request */
    /* the head */
    const char *name, *value; /* the field at hand: views of `head` */
    size_t n_name, n_value;
    char *target; /* [n_target] view of `head` */
    size_t n_target;
    uint32_t n_fields, n_hosts, n_lengths, n_codings;
    bool continues; /* the client waits for 100 Continue */
    bool whole, keep_alive, served;
    int refusal; /* status of the last reply; 0: none */
    const char *why;
    uint64_t now_ns, since_ns; /* last told; when this state began (body: when the head did) */
};

static const uint64_t MS = 1000000;

/* ---- out ---- */

/* RFC 9110 15; a phrase may be missing, clients go by the number. */
static const char *phrase(int status) {
    static const struct {
        int status;
        const char *text;
    } rows[] = {{200, "OK"},
                {400, "Bad Request"},
                {404, "Not Found"},
                {405, "Method Not Allowed"},
                {408, "Request Timeout"},
                {413, "Content Too Large"},
                {414, "URI Too Long"},
                {431, "Request Header Fields Too Large"},
                {500, "Internal Server Error"},
                {501, "Not Implemented"},
                {503, "Service Unavailable"},
                {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].status == status) return rows[i].text;
    return "";
}

static void say(net_http1 *h, const net_http_reply *r, bool with_body, bool keep) {
    char head[512];
    int n =
        snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: %s\r\n%s%s%s\r\n",
                 r->status, phrase(r->status), r->type, r->n, keep ? "keep-alive" : "close", r->allow ? "Allow: " : "",
                 r->allow ? r->allow : "", r->allow ? "\r\n" : "");
    INVARIANT(n > 0 && (size_t)n < sizeof head);
    st_code code = net_queue_push(&h->out, (const uint8_t *)head, (size_t)n);
    if (!code && with_body && r->n) code = net_queue_push(&h->out, r->body, r->n);
    if (code) net_queue_clear(&h->out);
    h->state = keep && !code ? IDLE : CLOSING;
    h->since_ns = h->now_ns;
    h->setup.wake(h->setup.wake_context);
}

static void refuse(net_http1 *h, int status, const char *why) {
    char text[160];
    int n = snprintf(text, sizeof text, "%s\n", why);
    net_http_reply r = {.status = status, .type = "text/plain; charset=utf-8", .body = text, .n = (size_t)n};
    say(h, &r, true, false);
    net_queue_clear(&h->ahead);
}

void net_http_answer(net_http_call *c, const net_http_reply *r) {
    net_http1 *h = c->http1;
    INVARIANT(h->state == CALL);
    h->served = true;
    say(h, r, h->parser.method != HTTP_HEAD, h->keep_alive);
    net_queue_clear(&h->body); /* an idle connection holds no body */
}

/* ---- what llhttp says ---- */

/* Notes why, for the reply; llhttp is to stop. */
static int wrong(net_http1 *h, int status, const char *why) {
    h->refusal = status;
    h->why = why;
    return -1;
}

static int on_url(llhttp_t *p, const char *at, size_t n) {
    net_http1 *h = p->data;
    h->target = (char *)(uintptr_t)at; /* in h->head, which is ours to write */
    h->n_target = n;
    return n > NET_HTTP1_MAX_TARGET_BYTES ? wrong(h, 414, "the request's target is over 1024 bytes") : 0;
}
_Static_assert(NET_HTTP1_MAX_TARGET_BYTES == 1024, "the text in on_url names the limit");

static int on_name(llhttp_t *p, const char *at, size_t n) {
    net_http1 *h = p->data;
    h->name = at;
    h->n_name = n;
    h->n_value = 0;
    return 0;
}

static int on_value(llhttp_t *p, const char *at, size_t n) {
    net_http1 *h = p->data;
    h->value = at;
    h->n_value = n;
    return 0;
}

static bool same_text(const char *a, size_t n, const char *b) { return n == strlen(b) && strncasecmp(a, b, n) == 0; }

static int on_field(llhttp_t *p) {
    net_http1 *h = p->data;
    if (++h->n_fields > NET_HTTP1_MAX_FIELDS) return wrong(h, 431, "the request has over 64 fields");
    if (h->state != HEAD) return 0; /* a trailer: nobody asks for it */
    while (h->n_value && (h->value[h->n_value - 1] == ' ' || h->value[h->n_value - 1] == '\t')) h->n_value--;
    h->n_hosts += same_text(h->name, h->n_name, "host");
    h->n_lengths += same_text(h->name, h->n_name, "content-length");
    h->continues |= same_text(h->name, h->n_name, "expect") && same_text(h->value, h->n_value, "100-continue");
    if (!same_text(h->name, h->n_name, "transfer-encoding")) return 0;
    h->n_codings++;
    return same_text(h->value, h->n_value, "chunked") ? 0 : wrong(h, 501, "the only Transfer-Encoding here is chunked");
}

_Static_assert(NET_HTTP1_MAX_FIELDS == 64, "the text in on_field names the limit");

static int on_head(llhttp_t *p) {
    net_http1 *h = p->data;
    if (p->http_major != 1 || p->http_minor > 1) return wrong(h, 505, "this server speaks HTTP/1.1 and HTTP/1.0");
    if (p->method == HTTP_CONNECT) return wrong(h, 405, "this server is no proxy");
    if (h->n_hosts > 1 || (h->n_hosts == 0 && p->http_minor == 1)) return wrong(h, 400, "expected one Host field");
    if (h->n_lengths + h->n_codings > 1) return wrong(h, 400, "the body's length is told twice");
    if (h->n_codings && p->http_minor == 0) return wrong(h, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (p->content_length > NET_HTTP1_MAX_BODY_BYTES) return wrong(h, 413, "the body is over 8388608 bytes");
    p->upgrade = 0; /* ignored: the request means what it means without */
    if (h->n_lengths) h->payload_left = (size_t)p->content_length;
    h->keep_alive = llhttp_should_keep_alive(p);
    return 0;
}
_Static_assert(NET_HTTP1_MAX_BODY_BYTES == 8388608, "the texts in on_head and on_chunk name the limit");

static int on_chunk(llhttp_t *p) {
    net_http1 *h = p->data;
    if (p->content_length > NET_HTTP1_MAX_BODY_BYTES - h->payload_bytes) return wrong(h, 413, "the body is over 8388608 bytes");
    h->payload_left = (size_t)p->content_length;
    return 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n) {
    net_http1 *h = p->data;
    return net_queue_push(&h->body, (const uint8_t *)at, n) ? wrong(h, 503, "no memory for the body now; try again later") : 0;
}

static int on_whole(llhttp_t *p) {
    net_http1 *h = p->data;
    h->whole = true;
    return 0;
}

static const llhttp_settings_t settings = {.on_url = on_url,
                                           .on_header_field = on_name,
                                           .on_header_value = on_value,
                                           .on_header_value_complete = on_field,
                                           .on_headers_complete = on_head,
                                           .on_chunk_header = on_chunk,
                                           .on_body = on_body,
                                           .on_message_complete = on_whole};

/* Gives bytes to llhttp. False: the request is refused. */
static bool execute(net_http1 *h, const uint8_t *bytes, size_t n) {
    llhttp_errno_t rc = llhttp_execute(&h->parser, (const char *)bytes, n);
    if (rc == HPE_OK) return true;
    const char *why = llhttp_get_error_reason(&h->parser);
    if (h->refusal)
        refuse(h, h->refusal, h->why);
    else
        refuse(h, rc == HPE_INVALID_VERSION ? 505 : 400, why && why[0] ? why : "malformed request");
    return false;
}

/* ---- in ---- */

static void begin(net_http1 *h) {
    llhttp_init(&h->parser, HTTP_REQUEST, &settings);
    h->parser.data = h;
    h->head.head = h->head.tail = 0; /* its memory is kept for the next */
    h->lines = (lines){0};
    h->framing_bytes = h->payload_bytes = h->payload_left = 0;
    h->n_fields = h->n_hosts = h->n_lengths = h->n_codings = 0;
    h->continues = h->whole = h->keep_alive = false;
    h->target = NULL;
    h->since_ns = h->now_ns;
    h->state = HEAD;
}

/* The look at a framing byte. NULL, or what is wrong with it. */
static const char *look(lines *l, uint8_t b) {
    uint8_t previous = l->previous;
    l->previous = b;
    if ((previous == '\r') != (b == '\n')) return "a line ends in CR LF and nothing else";
    if ((b < ' ' && b != '\t' && b != '\r' && b != '\n') || b == 0x7f) return "a control character";
    if ((b == ' ' || b == '\t') && l->line_bytes == 0 && l->n_lines) return "a field continues on the next line";
    if (b == ':' && l->line_bytes == 0 && l->n_lines) return "a field without a name"; /* llhttp 8.1.0 lets it pass */
    if (b == '\n') {
        l->n_lines++;
        l->line_bytes = 0;
    } else
        l->line_bytes += b != '\r';
    return NULL;
}

/* Two NULs into the head, behind path and query. Absolute targets are taken for their path (RFC 9112 3.2.2). */
static bool split_target(net_http1 *h, net_http_request *r) {
    char *at = h->target;
    INVARIANT(at);
    at[h->n_target] = 0; /* a space stood there */
    if (strncasecmp(at, "http://", 7) == 0) at += 7 + strcspn(at + 7, "/");
    if (*at != '/') return false;
    r->path = at;
    at += strcspn(at, "?");
    r->query = *at ? at + 1 : at;
    *at = 0;
    return true;
}

static void deliver(net_http1 *h) {
    net_http_request r = {
        .method = llhttp_method_name((llhttp_method_t)h->parser.method), .body = h->body.bytes, .n = net_queue_bytes(&h->body)};
    if (!split_target(h, &r)) {
        refuse(h, 400, "expected a target that begins with /");
        return;
    }
    h->state = CALL;
    h->setup.calls.on_request(h->setup.context, &h->call, &r);
}

static void head_is_whole(net_http1 *h) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!execute(h, h->head.bytes, net_queue_bytes(&h->head))) return;
    if (h->whole) {
        deliver(h);
        return;
    }
    h->state = BODY;
    h->lines = (lines){0};
    if (!h->continues || h->parser.http_minor == 0) return;
    if (net_queue_push(&h->out, (const uint8_t *)go_on, sizeof go_on - 1)) refuse(h, 503, "no memory now; try again later");
    h->setup.wake(h->setup.wake_context);
}

static st_code take_head(net_http1 *h, uint8_t b) {
    const char *why = look(&h->lines, b);
    if (why || ++h->framing_bytes > NET_HTTP1_MAX_HEAD_BYTES) {
        refuse(h, why ? 400 : h->lines.n_lines ? 431 : 414, why ? why : "the request line and fields are over 16384 bytes");
        return ST_OK;
    }
    st_code code = net_queue_push(&h->head, &b, 1);
    if (code || b != '\n') return code;
    size_t n = net_queue_bytes(&h->head);
    if (n == 2) { /* an empty line before the request: RFC 9112 2.2 */
        h->head.head = h->head.tail = 0;
        h->lines.n_lines = 0;
    } else if (n >= 4 && memcmp(h->head.bytes + n - 4, "\r\n\r\n", 4) == 0)
        head_is_whole(h);
    return ST_OK;
}
_Static_assert(NET_HTTP1_MAX_HEAD_BYTES == 16384, "the text in take_head names the limit");

static size_t take_body(net_http1 *h, const uint8_t *bytes, size_t n) {
    size_t some = 1;
    if (h->payload_left) {
        some = n < h->payload_left ? n : h->payload_left;
        h->payload_left -= some;
        h->payload_bytes += some;
        if (!h->payload_left) h->lines = (lines){0};
    } else {
        const char *why = look(&h->lines, *bytes);
        if (!why && ++h->framing_bytes > NET_HTTP1_MAX_HEAD_BYTES + h->payload_bytes) why = "more framing than body";
        if (why) {
            refuse(h, 400, why);
            return some;
        }
    }
    if (execute(h, bytes, some) && h->whole) deliver(h);
    return some;
}

static bool is_hungry(const net_http1 *h) { return h->state <= BODY && net_queue_bytes(&h->out) < NET_HTTP1_MAX_QUEUED_BYTES; }

/* Takes of bytes[n] what can be taken now; *used tells how much. */
static st_code consume(net_http1 *h, const uint8_t *bytes, size_t n, size_t *used) {
    st_code code = ST_OK;
    size_t at = 0;
    while (!code && at < n && is_hungry(h)) {
        if (h->state == IDLE) begin(h);
        if (h->state == HEAD)
            code = take_head(h, bytes[at++]);
        else
            at += take_body(h, bytes + at, n - at);
    }
    *used = at;
    return code;
}

st_code net_http1_receive(net_http1 *h, uint64_t now_ns, const uint8_t *bytes, size_t n) {
    size_t used = 0;
    h->now_ns = now_ns;
    if (h->state == CLOSING) return ST_OK;
    st_code code = net_queue_bytes(&h->ahead) ? ST_OK : consume(h, bytes, n, &used);
    if (!code && used < n && h->state != CLOSING) code = net_queue_push(&h->ahead, bytes + used, n - used);
    return code;
}

st_code net_http1_send(net_http1 *h, uint64_t now_ns, uint8_t *out, size_t capacity, size_t *n) {
    size_t used = 0;
    st_code code = ST_OK;
    h->now_ns = now_ns;
    *n = 0;
    if (net_queue_bytes(&h->ahead) && is_hungry(h)) {
        net_queue ahead = h->ahead; /* a refusal inside clears h->ahead */
        h->ahead = (net_queue){.budget = ahead.budget};
        code = consume(h, ahead.bytes + ahead.head, net_queue_bytes(&ahead), &used);
        ahead.head += used;
        if (!code && net_queue_bytes(&ahead) && h->state != CLOSING)
            h->ahead = ahead;
        else
            net_queue_clear(&ahead);
    }
    if (!code) *n = net_queue_pull(&h->out, out, capacity);
    return code;
}

/* ---- time, life and death ---- */

uint64_t net_http1_next_ns(const net_http1 *h) {
    switch (h->state) {
    case IDLE: return h->since_ns + (h->served ? NET_HTTP1_IDLE_MS : NET_HTTP1_HEADER_MS) * MS;
    case HEAD: return h->since_ns + NET_HTTP1_HEADER_MS * MS;
    case BODY: return h->since_ns + NET_HTTP1_REQUEST_MS * MS;
    default: return UINT64_MAX; /* a call takes its time; the rest is the socket's */
    }
}

void net_http1_tick(net_http1 *h, uint64_t now_ns) {
    h->now_ns = now_ns;
    if (now_ns < net_http1_next_ns(h)) return;
    if (h->state == IDLE)
        h->state = CLOSING; /* a reply here could be taken for that to a request on its way */
    else
        refuse(h, 408, "the request did not come to its end in time");
}

bool net_http1_is_full(const net_http1 *h) { return net_queue_bytes(&h->ahead) >= NET_HTTP1_MAX_AHEAD_BYTES; }

bool net_http1_is_over(const net_http1 *h) { return h->state == CLOSING && !net_queue_bytes(&h->out); }

void net_http1_lost(net_http1 *h) {
    bool waits = h->state == CALL;
    h->state = CLOSING;
    net_queue_clear(&h->out);
    if (waits && h->setup.calls.on_end) h->setup.calls.on_end(h->setup.context, &h->call);
}

st_code net_http1_create(const net_http1_setup *setup, uint64_t now_ns, net_http1 **out) {
    *out = NULL;
    net_http1 *h = mem_alloc(1, sizeof *h);
    if (!h) return ST_FATAL_MEMORY;
    h->setup = *setup;
    h->call.http1 = h;
    h->head.budget = h->body.budget = h->ahead.budget = h->out.budget = setup->budget;
    h->now_ns = h->since_ns = now_ns;
    *out = h;
    return ST_OK;
}

void net_http1_destroy(net_http1 *h) {
    if (!h) return;
    net_queue_clear(&h->head);
    net_queue_clear(&h->body);
    net_queue_clear(&h->ahead);
    net_queue_clear(&h->out);
    mem_free(h);
}
