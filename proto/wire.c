/* The wire, shared by all messages: protobuf-c held to a budget.
 *
 * Why a budget: 4 MiB of empty repeated messages unpack to 240 MiB with the default allocator. Here all that a message becomes
 * must fit an arena whose size follows from the size of the message (proto_arena_bytes); what needs more is refused. Why not our
 * own decoder: protobuf-c is fuzzed by others too, and a second reader of one format is a second truth. Limits: nothing is freed
 * while unpacking, so protobuf-c's scratch space counts too. */
#include "proto/proto_int.h"

#include "base/mem.h"
#include <stdio.h>
#include <string.h>

typedef struct {
    uint8_t *at, *end;
    bool full;
} budget;

/* One zero byte more than asked, so that all text has its NUL. */
static void *budget_alloc(void *data, size_t size) {
    budget *b = data;
    size_t left = (size_t)(b->end - b->at);
    if (size >= left || (size | 15) + 1 > left) {
        b->full = true;
        return NULL;
    }
    void *p = b->at;
    b->at += (size | 15) + 1;
    return p;
}

static void budget_free(void *data, void *p) {
    (void)data;
    (void)p;
}

enum { PARTS_BYTES = 2 << 20, SLACK_BYTES = 4096 };
static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* A wire byte becomes at most 4 (an array of one-byte varints), but a small part of a message can become a struct of 160; the
 * most parts that the limits allow (256 works, 1,024 chat messages, 4,096 opens) fit PARTS_BYTES beside the arrays. */
static size_t unpacked_bytes(size_t n) { return least(160 * n, 4 * n + PARTS_BYTES) + SLACK_BYTES; }

/* The same again for the plain structs. */
size_t proto_arena_bytes(size_t n) {
    n = least(n, PROTO_MAX_BYTES);
    return unpacked_bytes(n) + least(80 * n, PARTS_BYTES) + SLACK_BYTES;
}

st_code proto_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, arena *a, st_code bad,
                          st_code full, void *out, st_error *e) {
    if (n > PROTO_MAX_BYTES)
        return st_fail(e, bad, "%s: %zu bytes are over the %d of a message", type->short_name, n, PROTO_MAX_BYTES);
    size_t mark = a->used_bytes, room = least(unpacked_bytes(n), a->size_bytes - mark) / 64 * 64;
    uint8_t *p = arena_alloc(a, room, 1);
    budget b = {.at = p, .end = p + room, .full = !p};
    ProtobufCAllocator allocator = {.alloc = budget_alloc, .free = budget_free, .allocator_data = &b};
    ProtobufCMessage *m = p ? protobuf_c_message_unpack(type, &allocator, n, bytes) : NULL;
    arena_reset(a, m ? mark + ((size_t)(b.at - p) + 63) / 64 * 64 : mark);
    if (b.full)
        return st_fail(e, full, "%s: the parts of its %zu bytes need more than %zu bytes of memory", type->short_name, n, room);
    if (!m) return st_fail(e, bad, "%s: %zu bytes are not a protobuf message of this type", type->short_name, n);
    *(ProtobufCMessage **)out = m;
    return ST_OK;
}

st_code proto_wire_unpack_small(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, wire_room *room,
                                st_code bad, void *out, st_error *e) {
    arena a = arena_over(room->bytes, sizeof room->bytes);
    return proto_wire_unpack(type, bytes, n, &a, bad, bad, out, e);
}

st_code proto_wire_pack(const ProtobufCMessage *m, proto_bytes *out) {
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *p = mem_alloc(n, 1);
    if (!p) return ST_FATAL_MEMORY;
    size_t written = protobuf_c_message_pack(m, p);
    INVARIANT(written == n);
    *out = (proto_bytes){.bytes = p, .n = n};
    return ST_OK;
}

void proto_bytes_free(proto_bytes *b) {
    mem_free(b->bytes);
    *b = (proto_bytes){0};
}

ProtobufCBinaryData proto_wire_text(const char *text) { return proto_wire_data(text, text ? strlen(text) : 0); }

/* Bytes of the character that starts with `b`, and the bounds of its second byte, which shut out overlong forms, surrogates and
 * what lies beyond U+10FFFF. */
static size_t utf8_length(uint8_t b, uint8_t *low, uint8_t *high) {
    *low = b == 0xE0 ? 0xA0 : b == 0xF0 ? 0x90 : 0x80;
    *high = b == 0xED ? 0x9F : b == 0xF4 ? 0x8F : 0xBF;
    return b < 0x80 ? 1 : b < 0xC2 ? 0 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : b < 0xF5 ? 4 : 0;
}

size_t proto_wire_utf8(const char *text, size_t n) {
    const uint8_t *s = (const uint8_t *)text;
    for (size_t i = 0; i < n;) {
        uint8_t low, high;
        size_t length = utf8_length(s[i], &low, &high);
        if (!s[i] || !length || length > n - i) return i;
        if (length > 1 && (s[i + 1] < low || s[i + 1] > high)) return i;
        for (size_t k = 2; k < length; k++)
            if ((s[i + k] & 0xC0) != 0x80) return i;
        i += length;
    }
    return n;
}

st_code proto_wire_check_text(const char *field, const char *text, size_t n, size_t n_min, size_t n_max, st_code bad,
                              st_error *e) {
    if (n < n_min || n > n_max) return st_fail(e, bad, "%s: %zu bytes are outside %zu .. %zu", field, n, n_min, n_max);
    size_t at = proto_wire_utf8(text, n);
    if (at == n) return ST_OK;
    return st_fail(e, bad, "%s: byte 0x%02x at %zu is not %s", field, (uint8_t)text[at], at,
                   text[at] ? "UTF-8" : "allowed: expected text without NUL");
}

st_code proto_wire_check_word(const char *field, const char *text, size_t n, size_t n_max, st_code bad, st_error *e) {
    if (n > n_max) return st_fail(e, bad, "%s: %zu bytes are outside 0 .. %zu", field, n, n_max);
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return st_fail(e, bad, "%s: byte 0x%02x at %zu: expected printable ASCII without spaces", field, (uint8_t)text[i], i);
    return ST_OK;
}

st_code proto_wire_copy_word(const char *field, ProtobufCBinaryData d, char *dst, size_t dst_bytes, st_code bad, st_error *e) {
    st_code code = proto_wire_check_word(field, (const char *)d.data, d.len, dst_bytes - 1, bad, e);
    if (code) return code;
    memset(dst, 0, dst_bytes);
    if (d.len) memcpy(dst, d.data, d.len);
    return ST_OK;
}

static st_code add_word(const char *field, uint32_t i, const char *part, ProtobufCBinaryData d, char *dst, size_t dst_bytes,
                        st_code bad, st_error *e) {
    char name[64];
    snprintf(name, sizeof name, "%s[%u].%s", field, i, part);
    return d.len ? proto_wire_copy_word(name, d, dst, dst_bytes, bad, e) : st_fail(e, bad, "%s: is empty", name);
}

st_code proto_wire_add_address(const char *field, ProtobufCBinaryData transport, ProtobufCBinaryData address, proto_address *list,
                               uint32_t *n, st_code bad, st_error *e) {
    if (*n == PROTO_MAX_TRANSPORTS) return st_fail(e, bad, "%s: more than %d", field, PROTO_MAX_TRANSPORTS);
    proto_address *to = &list[*n];
    st_code code = add_word(field, *n, "transport", transport, to->transport, sizeof to->transport, bad, e);
    if (!code) code = add_word(field, *n, "address", address, to->address, sizeof to->address, bad, e);
    for (uint32_t i = 0; !code && i < *n; i++)
        if (!strcmp(list[i].transport, to->transport))
            code = st_fail(e, bad, "%s[%u].transport: %s, as in [%u]", field, *n, to->transport, i);
    if (!code) ++*n;
    return code;
}

static st_code check_logs(const char *field, const float *logs, size_t n, st_code bad, st_error *e) {
    for (size_t i = 0; i < n; i++)
        if (!(logs[i] <= 0)) return st_fail(e, bad, "%s[%zu]: %g is no logarithm of a probability", field, i, (double)logs[i]);
    return ST_OK;
}

st_code proto_wire_logprobs(wire_logprobs m, size_t n_tokens, token_logprobs *out, st_code bad, st_error *e) {
    *out = (token_logprobs){0};
    if (!m.n_own && !m.n_top && !m.n_top_log) return ST_OK;
    if (!n_tokens || m.n_own != n_tokens) return st_fail(e, bad, "logprobs: %zu for %zu tokens", m.n_own, n_tokens);
    if (m.n_top != m.n_top_log || m.n_top % n_tokens || m.n_top / n_tokens > PROTO_MAX_TOP_LOGPROBS)
        return st_fail(e, bad, "logprobs: %zu likeliest tokens and %zu logarithms for %zu tokens; expected at most %d each",
                       m.n_top, m.n_top_log, n_tokens, PROTO_MAX_TOP_LOGPROBS);
    st_code code = check_logs("logprobs", m.own, m.n_own, bad, e);
    if (!code) code = check_logs("top_logprobs", m.top_log, m.n_top_log, bad, e);
    if (code) return code;
    *out = (token_logprobs){(uint32_t)(m.n_top / n_tokens), m.own, m.top, m.top_log};
    return ST_OK;
}

st_code proto_wire_copy_hash(const char *field, ProtobufCBinaryData d, uint8_t dst[32], st_code bad, st_error *e) {
    if (d.len != 32) return st_fail(e, bad, "%s: %zu bytes; expected 32", field, d.len);
    memcpy(dst, d.data, 32);
    return ST_OK;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hidden states stand on the wire as in memory");

ProtobufCBinaryData proto_wire_hidden(const hidden_states *h, uint32_t n_tokens) {
    return (ProtobufCBinaryData){h->f16 ? (size_t)n_tokens * h->dim * sizeof *h->f16 : 0, (uint8_t *)(uintptr_t)h->f16};
}

st_code proto_wire_take_hidden(const char *field, ProtobufCBinaryData d, size_t n_tokens, hidden_states *out, st_code bad,
                               st_error *e) {
    *out = (hidden_states){0};
    if (!d.len) return ST_OK;
    size_t row = n_tokens ? d.len / n_tokens : 0, dim = row / sizeof *out->f16;
    if (!dim || dim > NOUNS_MAX_DIM || dim * sizeof *out->f16 * n_tokens != d.len)
        return st_fail(e, bad, "%s: %zu bytes for %zu tokens; expected 2 to %zu for each, an even number", field, d.len, n_tokens,
                       NOUNS_MAX_DIM * sizeof *out->f16);
    *out = (hidden_states){(uint32_t)dim, (const uint16_t *)(const void *)d.data};
    return ST_OK;
}
