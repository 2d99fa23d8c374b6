/* The small messages of the control link: register, welcome, heartbeat, abort. Plans and results: plan.c. */
#include "proto/control_int.h"

#include "base/mem.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

#define BAD ST_FATAL_PROTOCOL

void control_addresses_encode(const proto_address *from, uint32_t n, control_addresses *out) {
    INVARIANT(n <= PROTO_MAX_TRANSPORTS);
    for (uint32_t i = 0; i < n; i++) {
        Consort__Control__V1__Address *m = out->list[i] = &out->addresses[i];
        consort__control__v1__address__init(m);
        m->transport = proto_wire_text(from[i].transport);
        m->address = proto_wire_text(from[i].address);
    }
}

st_code control_addresses_decode(const char *field, Consort__Control__V1__Address *const *m, size_t n, proto_address *list,
                                 uint32_t *n_out, st_error *e) {
    st_code code = ST_OK;
    *n_out = 0;
    for (size_t i = 0; !code && i < n; i++)
        code = proto_wire_add_address(field, m[i]->transport, m[i]->address, list, n_out, BAD, e);
    return code;
}

st_code proto_register_encode(const proto_register *r, proto_bytes *out) {
    Consort__Control__V1__Register m = CONSORT__CONTROL__V1__REGISTER__INIT;
    control_addresses addresses;
#define U(f)    m.f = r->f;
#define WORD(f) m.f = proto_wire_text(r->f);
#define HASH(f) m.f = proto_wire_data(r->f, sizeof r->f);
#include "proto/register.def"
#undef U
#undef WORD
#undef HASH
    control_addresses_encode(r->addresses, r->n_addresses, &addresses);
    m.n_addresses = r->n_addresses;
    m.addresses = addresses.list;
    return proto_wire_pack(&m.base, out);
}

st_code proto_register_decode(const uint8_t *bytes, size_t n, proto_register *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Register *m;
    proto_register r = {0};
    st_code code = proto_wire_unpack_small(&consort__control__v1__register__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
#define U(f) r.f = m->f;
#define WORD(f)                                                                                                                  \
    if (!code) code = proto_wire_copy_word("Register." #f, m->f, r.f, sizeof r.f, BAD, e);
#define HASH(f)                                                                                                                  \
    if (!code) code = proto_wire_copy_hash("Register." #f, m->f, r.f, BAD, e);
#include "proto/register.def"
#undef U
#undef WORD
#undef HASH
    if (!code)
        code = control_addresses_decode("Register.addresses", m->addresses, m->n_addresses, r.addresses, &r.n_addresses, e);
    if (code) return code;
    if (!r.role[0]) return st_fail(e, BAD, "Register.role: is empty");
    if (r.group_rank >= r.group_size)
        return st_fail(e, BAD, "Register.group_rank: %u is not below group_size %u", r.group_rank, r.group_size);
    *out = r;
    return ST_OK;
}

st_code proto_welcome_encode(const proto_welcome *w, proto_bytes *out) {
    Consort__Control__V1__Welcome m = CONSORT__CONTROL__V1__WELCOME__INIT;
    m.cluster_epoch = w->cluster_epoch;
    m.group_epoch = w->group_epoch;
    m.heartbeat_ms = w->heartbeat_ms;
    m.dead_after_ms = w->dead_after_ms;
    return proto_wire_pack(&m.base, out);
}

st_code proto_welcome_decode(const uint8_t *bytes, size_t n, proto_welcome *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Welcome *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__welcome__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->heartbeat_ms || m->dead_after_ms <= m->heartbeat_ms)
        return st_fail(e, BAD, "Welcome.heartbeat_ms: %u; expected 1 or more and less than dead_after_ms %u", m->heartbeat_ms,
                       m->dead_after_ms);
    *out = (proto_welcome){.cluster_epoch = m->cluster_epoch,
                           .group_epoch = m->group_epoch,
                           .heartbeat_ms = m->heartbeat_ms,
                           .dead_after_ms = m->dead_after_ms};
    return ST_OK;
}

st_code proto_wake_encode(uint64_t plan_id, proto_bytes *out) {
    Consort__Control__V1__Wake m = CONSORT__CONTROL__V1__WAKE__INIT;
    m.plan_id = plan_id;
    return proto_wire_pack(&m.base, out);
}

st_code proto_wake_decode(const uint8_t *bytes, size_t n, uint64_t *plan_id, st_error *e) {
    wire_room room;
    Consort__Control__V1__Wake *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__wake__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->plan_id) return st_fail(e, BAD, "Wake.plan_id: 0; expected 1 or more");
    *plan_id = m->plan_id;
    return ST_OK;
}

st_code proto_heartbeat_encode(const proto_heartbeat *h, proto_bytes *out) {
    Consort__Control__V1__Heartbeat m = CONSORT__CONTROL__V1__HEARTBEAT__INIT;
    m.sent_ns = h->sent_ns;
    m.steps = h->steps;
    m.load_share = h->load_share;
    return proto_wire_pack(&m.base, out);
}

st_code proto_heartbeat_decode(const uint8_t *bytes, size_t n, proto_heartbeat *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Heartbeat *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__heartbeat__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!(m->load_share >= 0 && m->load_share <= 1))
        return st_fail(e, BAD, "Heartbeat.load_share: %g is outside 0 .. 1", m->load_share);
    *out = (proto_heartbeat){.sent_ns = m->sent_ns, .steps = m->steps, .load_share = m->load_share};
    return ST_OK;
}

st_code proto_abort_encode(const proto_abort *a, proto_bytes *out) {
    Consort__Control__V1__Abort m = CONSORT__CONTROL__V1__ABORT__INIT;
    m.code = (uint32_t)a->code;
    m.message = proto_wire_text(a->message);
    return proto_wire_pack(&m.base, out);
}

void proto_wire_copy_reason(ProtobufCBinaryData d, char *dst, size_t dst_bytes) {
    snprintf(dst, dst_bytes, "%.*s", (int)d.len, d.len ? (const char *)d.data : "");
    for (size_t n = strlen(dst), at; (at = proto_wire_utf8(dst, n)) < n;) dst[at] = '?';
    for (; *dst; dst++)
        if ((uint8_t)*dst < ' ' || *dst == 0x7F) *dst = '?';
}

st_code proto_abort_decode(const uint8_t *bytes, size_t n, proto_abort *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Abort *m;
    st_code code = proto_wire_unpack_small(&consort__control__v1__abort__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    if (!m->code || m->code >= ST_N_CODES) return st_fail(e, BAD, "Abort.code: %u is outside 1 .. %d", m->code, ST_N_CODES - 1);
    proto_abort a = {.code = (st_code)m->code};
    proto_wire_copy_reason(m->message, a.message, sizeof a.message);
    *out = a;
    return ST_OK;
}
