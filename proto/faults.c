/* Fault points on the wire: the calls Faults and ForgetKv, and the same between coordinator and ranks. */
#include "proto/proto_int.h"

#include "base/fault.h"
#include "base/mem.h"
#include "consort.pb-c.h"
#include "control.pb-c.h"
#include <stdio.h>
#include <string.h>

_Static_assert((int)FAULT_N_POINTS <= (int)PROTO_MAX_FAULTS, "a message has room for all points");

void proto_faults_of_this_process(proto_faults *out) {
    *out = (proto_faults){.n_points = FAULT_N_POINTS};
    for (uint32_t i = 0; i < FAULT_N_POINTS; i++) {
        fault_state s = fault_get((fault_point)i);
        proto_fault *to = &out->points[i];
        snprintf(to->name, sizeof to->name, "%s", s.name);
        snprintf(to->help, sizeof to->help, "%s", s.help);
        to->one_in = s.one_in;
        to->passes = s.passes;
        to->hits = s.hits;
    }
}

static st_code take_text(const char *field, ProtobufCBinaryData d, char *dst, size_t dst_bytes, st_code bad, st_error *e) {
    st_code code = proto_wire_check_text(field, (const char *)d.data, d.len, 0, dst_bytes - 1, bad, e);
    if (code) return code;
    memset(dst, 0, dst_bytes);
    if (d.len) memcpy(dst, d.data, d.len);
    return ST_OK;
}

/* *to: of a FaultPoint of either file. */
static st_code take_point(ProtobufCBinaryData name, ProtobufCBinaryData help, uint32_t one_in, uint32_t passes, uint32_t hits,
                          proto_fault *to, st_code bad, st_error *e) {
    st_code code = proto_wire_copy_word("points.name", name, to->name, sizeof to->name, bad, e);
    if (!code) code = take_text("points.help", help, to->help, sizeof to->help, bad, e);
    to->one_in = one_in;
    to->passes = passes;
    to->hits = hits;
    return code;
}

static st_code check_count(size_t n, st_code bad, st_error *e) {
    return n <= PROTO_MAX_FAULTS ? ST_OK : st_fail(e, bad, "points: %zu are over %d", n, PROTO_MAX_FAULTS);
}

/* ---- the control link ---- */

st_code proto_faults_order_encode(const proto_faults_order *o, proto_bytes *out) {
    Consort__Control__V1__Faults m = CONSORT__CONTROL__V1__FAULTS__INIT;
    m.id = o->id;
    m.set = o->set;
    m.plan = proto_wire_text(o->plan);
    return proto_wire_pack(&m.base, out);
}

st_code proto_faults_order_decode(const uint8_t *bytes, size_t n, proto_faults_order *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__Faults *m;
    proto_faults_order o = {0};
    st_code code = proto_wire_unpack_small(&consort__control__v1__faults__descriptor, bytes, n, &room, ST_FATAL_PROTOCOL, &m, e);
    if (!code) code = proto_wire_copy_word("Faults.plan", m->plan, o.plan, sizeof o.plan, ST_FATAL_PROTOCOL, e);
    if (code) return code;
    o.id = m->id;
    o.set = m->set;
    *out = o;
    return ST_OK;
}

st_code proto_faults_encode(const proto_faults *f, proto_bytes *out) {
    Consort__Control__V1__FaultsTold m = CONSORT__CONTROL__V1__FAULTS_TOLD__INIT;
    Consort__Control__V1__FaultPoint points[PROTO_MAX_FAULTS], *list[PROTO_MAX_FAULTS];
    INVARIANT(f->n_points <= PROTO_MAX_FAULTS);
    for (uint32_t i = 0; i < f->n_points; i++) {
        const proto_fault *from = &f->points[i];
        consort__control__v1__fault_point__init(list[i] = &points[i]);
        points[i].name = proto_wire_text(from->name);
        points[i].help = proto_wire_text(from->help);
        points[i].one_in = from->one_in;
        points[i].passes = from->passes;
        points[i].hits = from->hits;
    }
    m.id = f->id;
    m.code = (uint32_t)f->code;
    m.message = proto_wire_text(f->message);
    m.n_points = f->n_points;
    m.points = list;
    return proto_wire_pack(&m.base, out);
}

st_code proto_faults_decode(const uint8_t *bytes, size_t n, proto_faults *out, st_error *e) {
    wire_room room;
    Consort__Control__V1__FaultsTold *m;
    proto_faults f = {0};
    st_code code =
        proto_wire_unpack_small(&consort__control__v1__faults_told__descriptor, bytes, n, &room, ST_FATAL_PROTOCOL, &m, e);
    if (code) return code;
    if (m->code >= ST_N_CODES)
        return st_fail(e, ST_FATAL_PROTOCOL, "FaultsTold.code: %u is outside 0 .. %d", m->code, ST_N_CODES - 1);
    code = check_count(m->n_points, ST_FATAL_PROTOCOL, e);
    for (size_t i = 0; !code && i < m->n_points; i++)
        code = take_point(m->points[i]->name, m->points[i]->help, m->points[i]->one_in, m->points[i]->passes, m->points[i]->hits,
                          &f.points[f.n_points++], ST_FATAL_PROTOCOL, e);
    if (code) return code;
    f.id = m->id;
    f.code = (st_code)m->code;
    proto_wire_copy_reason(m->message, f.message, sizeof f.message);
    *out = f;
    return ST_OK;
}

/* ---- the API ---- */

st_code proto_faults_request_encode(const proto_faults_request *r, proto_bytes *out) {
    Consort__V1__FaultsRequest m = CONSORT__V1__FAULTS_REQUEST__INIT;
    m.has_set = m.has_plan = m.has_group = 1;
    m.set = r->set;
    m.plan = proto_wire_text(r->plan);
    m.group = proto_wire_text(r->group);
    m.has_rank = r->has_rank;
    m.rank = r->rank;
    return proto_wire_pack(&m.base, out);
}

st_code proto_faults_request_decode(const uint8_t *bytes, size_t n, proto_faults_request *out, st_error *e) {
    const st_code bad = ST_ERR_INVALID_ARGUMENT;
    wire_room room;
    Consort__V1__FaultsRequest *m;
    proto_faults_request r = {0};
    st_code code = proto_wire_unpack_small(&consort__v1__faults_request__descriptor, bytes, n, &room, bad, &m, e);
    if (!code) code = proto_wire_copy_word("plan", m->plan, r.plan, sizeof r.plan, bad, e);
    if (!code) code = proto_wire_copy_word("group", m->group, r.group, sizeof r.group, bad, e);
    if (code) return code;
    r.set = m->set;
    r.has_rank = m->has_rank;
    r.rank = m->rank;
    if (!r.set && r.plan[0]) return st_fail(e, bad, "plan: without set");
    if (r.has_rank && r.group[0]) return st_fail(e, bad, "rank, group: expected one of them at most");
    *out = r;
    return ST_OK;
}

st_code proto_faults_reply_encode(const proto_faults_reply *r, proto_bytes *out) {
    Consort__V1__FaultsReply m = CONSORT__V1__FAULTS_REPLY__INIT;
    Consort__V1__FaultPoint points[PROTO_MAX_FAULTS], *list[PROTO_MAX_FAULTS];
    const proto_faults *f = &r->said;
    INVARIANT(f->n_points <= PROTO_MAX_FAULTS);
    for (uint32_t i = 0; i < f->n_points; i++) {
        const proto_fault *from = &f->points[i];
        Consort__V1__FaultPoint *to = list[i] = &points[i];
        consort__v1__fault_point__init(to);
        to->has_name = to->has_help = to->has_one_in = to->has_passes = to->has_hits = 1;
        to->name = proto_wire_text(from->name);
        to->help = proto_wire_text(from->help);
        to->one_in = from->one_in;
        to->passes = from->passes;
        to->hits = from->hits;
    }
    m.has_rank = m.has_group = 1;
    m.rank = r->rank;
    m.group = proto_wire_text(r->group);
    m.has_error = f->code != ST_OK;
    m.error = proto_wire_text(f->message[0] ? f->message : st_text(f->code));
    m.n_points = f->n_points;
    m.points = list;
    return proto_wire_pack(&m.base, out);
}

st_code proto_faults_reply_decode(const uint8_t *bytes, size_t n, proto_faults_reply *out, st_error *e) {
    wire_room room;
    Consort__V1__FaultsReply *m;
    proto_faults_reply r = {0};
    proto_faults *f = &r.said;
    st_code code = proto_wire_unpack_small(&consort__v1__faults_reply__descriptor, bytes, n, &room, ST_ERR_FORMAT, &m, e);
    if (!code) code = proto_wire_copy_word("group", m->group, r.group, sizeof r.group, ST_ERR_FORMAT, e);
    if (!code) code = take_text("error", m->error, f->message, sizeof f->message, ST_ERR_FORMAT, e);
    if (!code) code = check_count(m->n_points, ST_ERR_FORMAT, e);
    for (size_t i = 0; !code && i < m->n_points; i++)
        code = take_point(m->points[i]->name, m->points[i]->help, m->points[i]->one_in, m->points[i]->passes, m->points[i]->hits,
                          &f->points[f->n_points++], ST_ERR_FORMAT, e);
    if (code) return code;
    r.rank = m->rank;
    f->code = f->message[0] ? ST_ERR_UNAVAILABLE : ST_OK;
    *out = r;
    return ST_OK;
}

st_code proto_blocks_encode(const proto_blocks *b, proto_bytes *out) {
    Consort__V1__ForgetKvReply m = CONSORT__V1__FORGET_KV_REPLY__INIT;
    m.has_forgotten = m.has_used = m.has_reserved = m.has_kept = m.has_total = m.has_slots = 1;
    m.forgotten = b->forgotten;
    m.used = b->used;
    m.reserved = b->reserved;
    m.kept = b->kept;
    m.total = b->total;
    m.slots = b->slots;
    return proto_wire_pack(&m.base, out);
}

st_code proto_blocks_decode(const uint8_t *bytes, size_t n, proto_blocks *out, st_error *e) {
    wire_room room;
    Consort__V1__ForgetKvReply *m;
    st_code code = proto_wire_unpack_small(&consort__v1__forget_kv_reply__descriptor, bytes, n, &room, ST_ERR_FORMAT, &m, e);
    if (!code) *out = (proto_blocks){m->forgotten, m->used, m->reserved, m->kept, m->total, m->slots};
    return code;
}
