/* TraceReply: what nodes and requests were busy with. */
#include "proto/proto_int.h"

#include "consort.pb-c.h"

#define BAD ST_ERR_FORMAT

/* The number fields of proto_span, by name. */
#define SPAN_NUMBERS(N)                                                                                                          \
    N(lane)                                                                                                                      \
    N(start_ns)                                                                                                                  \
    N(duration_ns)                                                                                                               \
    N(part_ns)                                                                                                                   \
    N(plan)                                                                                                                      \
    N(sequences)                                                                                                                 \
    N(tokens)

st_code proto_spans_encode(const proto_span *spans, uint32_t n, proto_bytes *out) {
    Consort__V1__TraceReply m = CONSORT__V1__TRACE_REPLY__INIT;
    Consort__V1__TraceSpan parts[PROTO_MAX_SPANS], *list[PROTO_MAX_SPANS];
    INVARIANT(n <= PROTO_MAX_SPANS);
    for (uint32_t i = 0; i < n; i++) {
        Consort__V1__TraceSpan *to = list[i] = &parts[i];
        consort__v1__trace_span__init(to);
        to->has_kind = to->has_name = 1;
        to->kind = proto_wire_text(spans[i].kind);
        to->name = proto_wire_text(spans[i].name);
#define N(f) to->has_##f = 1, to->f = spans[i].f;
        SPAN_NUMBERS(N)
#undef N
    }
    m.n_spans = n;
    m.spans = list;
    return proto_wire_pack(&m.base, out);
}

st_code proto_spans_decode(const uint8_t *bytes, size_t n, arena *a, proto_span *out, uint32_t *n_out, st_error *e) {
    Consort__V1__TraceReply *m;
    st_code code = proto_wire_unpack(&consort__v1__trace_reply__descriptor, bytes, n, a, BAD, BAD, &m, e);
    if (!code && m->n_spans > PROTO_MAX_SPANS) code = st_fail(e, BAD, "spans: %zu are over %d", m->n_spans, PROTO_MAX_SPANS);
    for (size_t i = 0; !code && i < m->n_spans; i++) {
        const Consort__V1__TraceSpan *from = m->spans[i];
        code = proto_wire_copy_word("kind", from->kind, out[i].kind, sizeof out[i].kind, BAD, e);
        if (!code) code = proto_wire_copy_word("name", from->name, out[i].name, sizeof out[i].name, BAD, e);
#define N(f) out[i].f = from->f;
        SPAN_NUMBERS(N)
#undef N
    }
    *n_out = code ? 0 : (uint32_t)m->n_spans;
    return code;
}
