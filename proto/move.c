/* The messages of moves: an order to a rank with all that it needs, and what came of it. */
#include "proto/control_int.h"

#include "base/mem.h"

#define BAD ST_FATAL_PROTOCOL
enum { MAX_BLOCKS = PROTO_MAX_PROMPT_TOKENS / NOUNS_BLOCK_TOKENS };
typedef Consort__Control__V1__Flow wire_flow;
typedef Consort__Control__V1__Move wire_move;
typedef Consort__Control__V1__Scratch wire_scratch;

/* ---- move ---- */

static void encode_flow(const proto_flow *f, wire_flow *m, control_addresses *addresses) {
    consort__control__v1__flow__init(m);
    m->peer = f->peer;
    m->first_head = f->first_head;
    m->n_heads = f->n_heads;
    control_addresses_encode(f->addresses, f->n_addresses, addresses);
    m->n_addresses = f->n_addresses;
    m->addresses = addresses->list;
    m->key = proto_wire_data(f->key, PROTO_KEY_BYTES);
}

st_code proto_move_encode(const proto_move *v, proto_bytes *out) {
    wire_move m = CONSORT__CONTROL__V1__MOVE__INIT;
    wire_scratch scratch = CONSORT__CONTROL__V1__SCRATCH__INIT;
    wire_flow flows[PROTO_MAX_FLOWS], *list[PROTO_MAX_FLOWS];
    control_addresses addresses[PROTO_MAX_FLOWS];
    INVARIANT(v->n_flows <= PROTO_MAX_FLOWS);
    for (uint32_t i = 0; i < v->n_flows; i++) encode_flow(&v->flows[i], list[i] = &flows[i], &addresses[i]);
    m.id = v->id;
    m.generation = v->generation;
    m.target = v->target;
    m.after_plan = v->after_plan;
    m.n_tokens = v->n_tokens;
    m.n_ready = v->n_ready;
    m.by_layer = v->by_layer;
    m.lease_ms = v->lease_ms;
    m.retry_ms = v->retry_ms;
    m.way = proto_wire_text(v->way);
    m.n_blocks = v->n_blocks;
    m.blocks = (uint32_t *)(uintptr_t)v->blocks; /* packing does not write to it */
    m.n_flows = v->n_flows;
    m.flows = list;
    if (v->scratch.n_pieces) {
        scratch.piece_bytes = v->scratch.piece_bytes;
        scratch.n_pieces = v->scratch.n_pieces;
        scratch.raw = v->scratch.raw;
        m.scratch = &scratch;
    }
    return proto_wire_pack(&m.base, out);
}

static st_code decode_flow(const wire_flow *m, arena *a, proto_flow *f, st_error *e) {
    *f = (proto_flow){.peer = m->peer, .first_head = m->first_head, .n_heads = m->n_heads, .key = m->key.data};
    if (!f->n_heads) return st_fail(e, BAD, "n_heads: 0; expected 1 or more");
    if (m->key.len != PROTO_KEY_BYTES) return st_fail(e, BAD, "key: %zu bytes; expected %d", m->key.len, PROTO_KEY_BYTES);
    if (!m->n_addresses || m->n_addresses > PROTO_MAX_TRANSPORTS)
        return st_fail(e, BAD, "addresses: %zu; expected 1 to %d", m->n_addresses, PROTO_MAX_TRANSPORTS);
    proto_address *addresses = arena_alloc(a, m->n_addresses, sizeof *addresses);
    st_code code = addresses ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "addresses: no memory left for %zu", m->n_addresses);
    f->addresses = addresses;
    return code ? code : control_addresses_decode("addresses", m->addresses, m->n_addresses, addresses, &f->n_addresses, e);
}

static st_code check_numbers(const wire_move *m, st_error *e) {
    if (!m->id) return st_fail(e, BAD, "id: 0 is none");
    if (!m->generation) return st_fail(e, BAD, "generation: 0; expected 1 or more");
    if (m->by_layer > 1) return st_fail(e, BAD, "by_layer: %u; expected 0 or 1", m->by_layer);
    if (!m->retry_ms || m->retry_ms > m->lease_ms / 4)
        return st_fail(e, BAD, "retry_ms: %u; expected 1 to a quarter of lease_ms %u", m->retry_ms, m->lease_ms);
    if (m->n_flows > PROTO_MAX_FLOWS) return st_fail(e, BAD, "flows: %zu are over %d", m->n_flows, PROTO_MAX_FLOWS);
    return ST_OK;
}

static st_code check_blocks(const wire_move *m, st_error *e) {
    uint64_t filled = ((uint64_t)m->n_tokens + NOUNS_BLOCK_TOKENS - 1) / NOUNS_BLOCK_TOKENS;
    if (m->scratch) {
        const wire_scratch *s = m->scratch;
        if (!s->piece_bytes || s->piece_bytes > PROTO_MAX_SCRATCH_BYTES || s->piece_bytes % PROTO_SCRATCH_UNIT || !s->n_pieces ||
            s->n_pieces > PROTO_MAX_SCRATCH_PIECES)
            return st_fail(e, BAD, "scratch: %u pieces of %u bytes; expected up to %d of a multiple of %d up to %d", s->n_pieces,
                           s->piece_bytes, PROTO_MAX_SCRATCH_PIECES, PROTO_SCRATCH_UNIT, PROTO_MAX_SCRATCH_BYTES);
        if (m->n_blocks || m->n_tokens || m->n_ready)
            return st_fail(e, BAD, "scratch: with %u tokens in %zu blocks; expected none", m->n_tokens, m->n_blocks);
        return ST_OK;
    }
    if (!m->n_tokens || filled > MAX_BLOCKS)
        return st_fail(e, BAD, "n_tokens: %u is outside 1 .. %d", m->n_tokens, PROTO_MAX_PROMPT_TOKENS);
    if (m->n_blocks != filled) return st_fail(e, BAD, "blocks: %zu for %u tokens", m->n_blocks, m->n_tokens);
    if (m->n_ready > m->n_blocks) return st_fail(e, BAD, "n_ready: %u of %zu blocks", m->n_ready, m->n_blocks);
    return ST_OK;
}

static st_code decode_flows(const wire_move *m, arena *a, proto_move *v, st_error *e) {
    proto_flow *flows = arena_alloc(a, m->n_flows, sizeof *flows);
    if (!flows) return st_fail(e, ST_FATAL_MEMORY, "flows: no memory left for %zu", m->n_flows);
    for (size_t i = 0; i < m->n_flows; i++)
        if (decode_flow(m->flows[i], a, &flows[i], e)) return st_prefix(e, "flows[%zu]", i);
    v->n_flows = (uint32_t)m->n_flows;
    v->flows = flows;
    return ST_OK;
}

st_code proto_move_decode(const uint8_t *bytes, size_t n, arena *a, proto_move *out, st_error *e) {
    st_error own; /* prefixes need one */
    size_t mark = a->used_bytes;
    wire_move *m;
    if (!e) e = &own;
    st_code code = proto_wire_unpack(&consort__control__v1__move__descriptor, bytes, n, a, BAD, ST_FATAL_MEMORY, &m, e);
    if (code) return code;
    proto_move v = {.id = m->id,
                    .generation = m->generation,
                    .target = m->target,
                    .after_plan = m->after_plan,
                    .n_tokens = m->n_tokens,
                    .n_ready = m->n_ready,
                    .by_layer = m->by_layer,
                    .lease_ms = m->lease_ms,
                    .retry_ms = m->retry_ms,
                    .n_blocks = (uint32_t)m->n_blocks,
                    .blocks = m->blocks};
    if (m->scratch) v.scratch = (proto_scratch){m->scratch->piece_bytes, m->scratch->n_pieces, m->scratch->raw};
    code = check_numbers(m, e);
    if (!code) code = check_blocks(m, e);
    if (!code) code = proto_wire_copy_word("way", m->way, v.way, sizeof v.way, BAD, e);
    if (!code) code = decode_flows(m, a, &v, e);
    if (!code) {
        *out = v;
        return ST_OK;
    }
    arena_reset(a, mark);
    return st_prefix(e, "Move");
}

/* ---- what follows it ---- */

st_code proto_move_ready_encode(uint64_t id, uint32_t n_ready, proto_bytes *out) {
    Consort__Control__V1__MoveReady m = CONSORT__CONTROL__V1__MOVE_READY__INIT;
    m.id = id;
    m.n_ready = n_ready;
    return proto_wire_pack(&m.base, out);
}

st_code proto_move_ready_decode(const uint8_t *bytes, size_t n, uint64_t *id, uint32_t *n_ready, st_error *e) {
    wire_room room;
    Consort__Control__V1__MoveReady *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__move_ready__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->id) return st_fail(e, BAD, "MoveReady.id: 0 is none");
    if (m->n_ready > MAX_BLOCKS) return st_fail(e, BAD, "MoveReady.n_ready: %u is over %d", m->n_ready, MAX_BLOCKS);
    *id = m->id;
    *n_ready = m->n_ready;
    return ST_OK;
}

st_code proto_move_cancel_encode(uint64_t id, proto_bytes *out) {
    Consort__Control__V1__MoveCancel m = CONSORT__CONTROL__V1__MOVE_CANCEL__INIT;
    m.id = id;
    return proto_wire_pack(&m.base, out);
}

st_code proto_move_cancel_decode(const uint8_t *bytes, size_t n, uint64_t *id, st_error *e) {
    wire_room room;
    Consort__Control__V1__MoveCancel *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__move_cancel__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->id) return st_fail(e, BAD, "MoveCancel.id: 0 is none");
    *id = m->id;
    return ST_OK;
}

st_code proto_moved_encode(const proto_moved *v, proto_bytes *out) {
    Consort__Control__V1__Moved m = CONSORT__CONTROL__V1__MOVED__INIT;
    m.id = v->id;
    m.code = (uint32_t)v->code;
    m.message = proto_wire_text(v->message);
    m.way = proto_wire_text(v->way);
    m.bytes = v->bytes;
    m.took_ns = v->took_ns;
    return proto_wire_pack(&m.base, out);
}

st_code proto_moved_decode(const uint8_t *bytes, size_t n, proto_moved *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Moved *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__moved__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->id) return st_fail(e, BAD, "Moved.id: 0 is none");
    if (m->code >= ST_N_CODES) return st_fail(e, BAD, "Moved.code: %u is outside 0 .. %d", m->code, ST_N_CODES - 1);
    proto_moved v = {.id = m->id, .code = (st_code)m->code, .bytes = m->bytes, .took_ns = m->took_ns};
    code = proto_wire_copy_word("Moved.way", m->way, v.way, sizeof v.way, BAD, e);
    if (code) return code;
    proto_wire_copy_reason(m->message, v.message, sizeof v.message);
    *out = v;
    return ST_OK;
}
