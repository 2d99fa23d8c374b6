/* The leaves of gRPC over HTTP/2 that server and client share: budgets, queues, messages, time-outs, percent-encoding, the
 * glitch bucket. Pure but for memory. Source: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md */
#include "net/h2_int.h"

#include "base/mem.h"
#include "net/limits.h"
#include <stdio.h>
#include <string.h>

/* ---- budgets and queues ---- */

enum { FIRST_QUEUE_BYTES = 256, BIG_QUEUE_BYTES = 1024 * 1024 };

bool net_budget_take(net_budget *b, size_t n) {
    for (net_budget *x = b; x; x = x->parent)
        if (n > x->limit_bytes - x->used_bytes) return false;
    for (; b; b = b->parent) b->used_bytes += n;
    return true;
}

void net_budget_give(net_budget *b, size_t n) {
    for (; b; b = b->parent) b->used_bytes -= n;
}

static st_code reserve(net_queue *q, size_t n) {
    size_t used = net_queue_bytes(q), capacity = q->capacity ? q->capacity : FIRST_QUEUE_BYTES;
    if (q->tail + n <= q->capacity) return ST_OK;
    if (q->head && used + n <= q->capacity / 2) { /* half is free: moving down costs less than it frees */
        memmove(q->bytes, q->bytes + q->head, used);
    } else {
        while (capacity < used + n && capacity < BIG_QUEUE_BYTES) capacity *= 2;
        if (capacity < used + n) capacity = used + n + used / 4; /* doubling 8 MiB would waste what the budget is short of */
        size_t more = capacity - q->capacity;
        if (!net_budget_take(q->budget, more)) return ST_ERR_RESOURCE_EXHAUSTED;
        uint8_t *bytes = mem_alloc(capacity, 1);
        if (!bytes) {
            net_budget_give(q->budget, more);
            return ST_FATAL_MEMORY;
        }
        if (used) memcpy(bytes, q->bytes + q->head, used);
        mem_free(q->bytes);
        q->bytes = bytes;
        q->capacity = capacity;
    }
    q->head = 0;
    q->tail = used;
    return ST_OK;
}

static void append(net_queue *q, const uint8_t *bytes, size_t n) {
    if (n) memcpy(q->bytes + q->tail, bytes, n);
    q->tail += n;
}

st_code net_queue_push(net_queue *q, const uint8_t *bytes, size_t n) {
    st_code rc = reserve(q, n);
    if (!rc) append(q, bytes, n);
    return rc;
}

st_code net_queue_push_message(net_queue *q, const uint8_t *message, size_t n) {
    if (n > NET_MAX_MESSAGE_BYTES || net_queue_bytes(q) + n + 5 > NET_CALL_MAX_QUEUED_BYTES) return ST_ERR_RESOURCE_EXHAUSTED;
    uint8_t prefix[5] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    st_code rc = reserve(q, n + sizeof prefix);
    if (rc) return rc;
    append(q, prefix, sizeof prefix);
    append(q, message, n);
    return ST_OK;
}

size_t net_queue_pull(net_queue *q, uint8_t *out, size_t n) {
    size_t some = net_queue_bytes(q) < n ? net_queue_bytes(q) : n;
    if (some) memcpy(out, q->bytes + q->head, some);
    q->head += some;
    if (q->head == q->tail) {
        q->head = q->tail = 0;
        if (q->capacity > NET_CALL_HIGH_BYTES) net_queue_clear(q); /* a burst's memory is not kept */
    }
    return some;
}

void net_queue_clear(net_queue *q) {
    net_budget_give(q->budget, q->capacity);
    mem_free(q->bytes);
    *q = (net_queue){.budget = q->budget};
}

/* ---- messages ---- */

static int check_prefix(net_inbox *in, const char **why) {
    uint8_t flag = in->prefix[0];
    in->n_message = (uint32_t)in->prefix[1] << 24 | (uint32_t)in->prefix[2] << 16 | (uint32_t)in->prefix[3] << 8 | in->prefix[4];
    if (flag == 1 && in->compressed_ok) return *why = "compressed messages are not supported; send identity", 12;
    if (flag == 1) return *why = "compressed flag set without grpc-encoding", 13;
    if (flag) return *why = "bad compressed flag; expected 0 or 1", 13;
    if (in->n_message > NET_MAX_MESSAGE_BYTES) return *why = "message is larger than the limit of 8388608 bytes", 8;
    return 0;
}

_Static_assert(NET_MAX_MESSAGE_BYTES == 8388608, "the text in check_prefix names the limit");

int net_inbox_feed(net_inbox *in, const uint8_t **bytes, size_t *n, const char **why) {
    while (in->n_prefix < sizeof in->prefix && *n) {
        in->prefix[in->n_prefix++] = *(*bytes)++;
        --*n;
        int status = in->n_prefix == sizeof in->prefix ? check_prefix(in, why) : 0;
        if (status) return status;
    }
    if (in->n_prefix < sizeof in->prefix) return 0;
    size_t wanted = in->n_message - net_queue_bytes(&in->body), some = *n < wanted ? *n : wanted;
    st_code rc = net_queue_push(&in->body, *bytes, some);
    if (rc) return *why = "no memory for the message now; try again later", 8;
    *bytes += some;
    *n -= some;
    in->whole = some == wanted;
    return 0;
}

void net_inbox_next(net_inbox *in) {
    in->body.head = in->body.tail = 0;
    if (in->body.capacity > NET_CALL_HIGH_BYTES) net_queue_clear(&in->body);
    in->n_prefix = in->n_message = 0;
    in->whole = false;
}

void net_inbox_clear(net_inbox *in) {
    net_queue_clear(&in->body);
    net_inbox_next(in);
}

/* ---- header values ---- */

bool net_timeout_parse(const uint8_t *text, size_t n, uint64_t *ns) {
    static const struct {
        char unit;
        uint64_t ns;
    } units[] = {
        {'H', UINT64_C(3600000000000)}, {'M', UINT64_C(60000000000)}, {'S', 1000000000}, {'m', 1000000}, {'u', 1000}, {'n', 1}};
    if (n < 2 || n > 9) return false;
    uint64_t value = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (text[n - 1] != units[i].unit) continue;
        if (__builtin_mul_overflow(value, units[i].ns, ns)) *ns = UINT64_MAX;
        return true;
    }
    return false;
}

void net_timeout_format(uint32_t ms, char out[16]) {
    bool fits = ms <= 99999999;
    snprintf(out, 16, "%u%c", fits ? ms : ms / 1000, fits ? 'm' : 'S');
}

size_t net_percent_encode(const char *text, char *out, size_t out_size) {
    static const char hex[] = "0123456789ABCDEF";
    size_t n = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c && n + 3 < out_size; c++) {
        if (*c >= ' ' && *c <= '~' && *c != '%') {
            out[n++] = (char)*c;
        } else {
            out[n++] = '%';
            out[n++] = hex[*c >> 4];
            out[n++] = hex[*c & 15];
        }
    }
    out[n] = 0;
    return n;
}

static int hex_value(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

void net_percent_decode(const uint8_t *text, size_t n, char *out, size_t out_size) {
    size_t n_out = 0;
    for (size_t i = 0; i < n && n_out + 1 < out_size; i++) {
        int high = i + 2 < n && text[i] == '%' ? hex_value(text[i + 1]) : -1;
        int low = high >= 0 ? hex_value(text[i + 2]) : -1;
        int value = low >= 0 ? high * 16 + low : text[i];
        if (low >= 0) i += 2;
        out[n_out++] = value ? (char)value : '?';
    }
    out[n_out] = 0;
}

bool net_header_is(const uint8_t *name, size_t n, const char *wanted) {
    return strlen(wanted) == n && memcmp(name, wanted, n) == 0;
}

/* ---- glitches ---- */

bool net_glitch_charge(net_glitches *g, uint64_t now_ns, uint64_t cost) {
    uint64_t elapsed_ms = now_ns > g->at_ns ? (now_ns - g->at_ns) / 1000000 : 0;
    uint64_t leaked = elapsed_ms * NET_GLITCH_PER_SECOND / 1000;
    if (leaked) { /* time of less than one point stays on the clock */
        g->at_ns = now_ns;
        net_glitch_earn(g, leaked);
    }
    g->level += cost;
    return g->level <= NET_GLITCH_BURST;
}

void net_glitch_earn(net_glitches *g, uint64_t points) { g->level = g->level > points ? g->level - points : 0; }

/* ---- nghttp2 ---- */

static void *h2_malloc(size_t n, void *user) { return (void)user, mem_alloc(n, 1); }
static void h2_free(void *p, void *user) { (void)user, mem_free(p); }
static void *h2_calloc(size_t n, size_t size, void *user) { return (void)user, mem_alloc(n, size); }
static void *h2_realloc(void *p, size_t n, void *user) { return (void)user, mem_resize(p, n, n, 1); }

nghttp2_mem *net_h2_memory(void) {
    static const nghttp2_mem memory = {NULL, h2_malloc, h2_free, h2_calloc, h2_realloc};
    return (nghttp2_mem *)(uintptr_t)&memory; /* nghttp2 copies it */
}

st_code net_h2_code(int error) {
    if (error == 0) return ST_OK;
    return error == NGHTTP2_ERR_NOMEM ? ST_FATAL_MEMORY : ST_FATAL_PROTOCOL;
}

st_code net_h2_gather(nghttp2_session *session, const uint8_t **rest, size_t *n_rest, uint8_t *out, size_t capacity,
                      size_t *n_out) {
    *n_out = 0;
    while (*n_out < capacity) {
        if (*n_rest == 0) {
            ssize_t n = nghttp2_session_mem_send(session, rest);
            if (n < 0) return net_h2_code((int)n);
            if (n == 0) return ST_OK;
            *n_rest = (size_t)n;
        }
        size_t room = capacity - *n_out, some = *n_rest < room ? *n_rest : room;
        memcpy(out + *n_out, *rest, some);
        *n_out += some;
        *rest += some;
        *n_rest -= some;
    }
    return ST_OK;
}
