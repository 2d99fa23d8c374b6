#include "net/frame_int.h"

#include "base/cursor.h"
#include "base/mem.h"
#include "net/limits.h"
#include <string.h>
#include <xxhash.h>

static const uint32_t MAGIC = 0x31534e43; /* "CNS1" */

enum { CHECKED_HEAD_BYTES = 20, FIRST_CAPACITY_BYTES = 512 };

static uint8_t *put(uint8_t *at, uint64_t value, unsigned n_bytes) {
    for (unsigned i = 0; i < n_bytes; i++) at[i] = (uint8_t)(value >> (8 * i));
    return at + n_bytes;
}

void net_frame_encode(const net_frame *f, uint8_t *out) {
    uint8_t *at = put(out, MAGIC, 4);
    at = put(at, NET_FRAME_VERSION, 2);
    at = put(at, f->type, 2);
    at = put(at, f->n, 4);
    at = put(at, f->cluster_epoch, 4);
    at = put(at, f->group_epoch, 4);
    at = put(at, XXH3_64bits(out, CHECKED_HEAD_BYTES), 4);
    if (f->n) memcpy(at, f->payload, f->n);
    put(at + f->n, XXH3_64bits(out, NET_FRAME_HEAD_BYTES + (size_t)f->n), 8);
}

static st_code check_head(net_frame_parser *p, st_error *e) {
    cursor c = cursor_of(p->bytes, NET_FRAME_HEAD_BYTES);
    uint32_t magic = cursor_u32(&c);
    uint16_t version = cursor_u16(&c);
    cursor_u16(&c); /* type: any */
    uint32_t n = cursor_u32(&c);
    cursor_take(&c, 8); /* epochs: any */
    uint32_t check = cursor_u32(&c);
    if (magic != MAGIC) return st_fail(e, ST_FATAL_PROTOCOL, "frame: magic 0x%08x, expected 0x%08x", magic, MAGIC);
    if (check != (uint32_t)XXH3_64bits(p->bytes, CHECKED_HEAD_BYTES))
        return st_fail(e, ST_FATAL_PROTOCOL, "frame: head is damaged");
    if (version != NET_FRAME_VERSION)
        return st_fail(e, ST_FATAL_PROTOCOL, "frame: version %u, expected %u; run one build everywhere", version,
                       NET_FRAME_VERSION);
    if (n > p->max_payload_bytes)
        return st_fail(e, ST_FATAL_PROTOCOL, "frame: payload of %u bytes, limit is %u", n, p->max_payload_bytes);
    p->whole = (size_t)n + NET_FRAME_EXTRA_BYTES;
    p->checked = true;
    return ST_OK;
}

static st_code take(net_frame_parser *p, const uint8_t **bytes, size_t *n, size_t until, st_error *e) {
    size_t wanted = until - p->used, some = *n < wanted ? *n : wanted, need = p->used + some;
    if (need > p->capacity) {
        size_t capacity = p->capacity ? p->capacity : FIRST_CAPACITY_BYTES;
        while (capacity < need) capacity *= 2;
        uint8_t *grown = mem_resize(p->bytes, p->capacity, capacity, 1);
        if (!grown) return st_fail(e, ST_FATAL_MEMORY, "frame: out of memory at %zu bytes", capacity);
        p->bytes = grown;
        p->capacity = capacity;
    }
    if (some) memcpy(p->bytes + p->used, *bytes, some);
    p->used += some;
    *bytes += some;
    *n -= some;
    return ST_OK;
}

static st_code open_frame(const net_frame_parser *p, net_frame *out, st_error *e) {
    cursor c = cursor_of(p->bytes, p->whole);
    cursor_take(&c, 6);
    out->type = cursor_u16(&c);
    out->n = cursor_u32(&c);
    out->cluster_epoch = cursor_u32(&c);
    out->group_epoch = cursor_u32(&c);
    cursor_u32(&c);
    out->payload = cursor_take(&c, out->n);
    uint64_t sum = cursor_u64(&c), expected = XXH3_64bits(p->bytes, p->whole - 8);
    if (!cursor_ok(&c) || sum != expected)
        return st_fail(e, ST_FATAL_PROTOCOL, "frame of type %u: checksum %016llx, expected %016llx", out->type,
                       (unsigned long long)sum, (unsigned long long)expected);
    return ST_OK;
}

st_code net_frame_feed(net_frame_parser *p, const uint8_t **bytes, size_t *n, net_frame *out, bool *got, st_error *e) {
    *got = false;
    if (p->returned) {
        p->used = p->whole = 0;
        p->checked = p->returned = false;
    }
    st_code rc = ST_OK;
    if (!p->checked) {
        rc = take(p, bytes, n, NET_FRAME_HEAD_BYTES, e);
        if (rc || p->used < NET_FRAME_HEAD_BYTES) return rc;
        rc = check_head(p, e);
        if (rc) return rc;
    }
    rc = take(p, bytes, n, p->whole, e);
    if (rc || p->used < p->whole) return rc;
    rc = open_frame(p, out, e);
    *got = p->returned = rc == ST_OK;
    return rc;
}

void net_frame_parser_deinit(net_frame_parser *p) {
    mem_free(p->bytes);
    *p = (net_frame_parser){0};
}
