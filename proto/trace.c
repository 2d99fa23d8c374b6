/* TraceReply: what nodes and requests were busy with, and how drafters draft. */
#include "proto/proto_int.h"

#include "consort.pb-c.h"
#include <string.h>

#define BAD ST_ERR_FORMAT

/* The number fields of proto_span, by name. */
#define SPAN_NUMBERS(N)                                                                                                          \
    N(lane)                                                                                                                      \
    N(start_ns)                                                                                                                  \
    N(duration_ns)                                                                                                               \
    N(part_ns)                                                                                                                   \
    N(plan)                                                                                                                      \
    N(sequences)                                                                                                                 \
    N(tokens)                                                                                                                    \
    N(prompt)                                                                                                                    \
    N(drafted)                                                                                                                   \
    N(accepted)

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

/* ---- habits ---- */

enum { DEPTHS = PROTO_HABIT_DEPTHS, CELLS = PROTO_HABIT_RANKS * PROTO_HABIT_DEPTHS * PROTO_HABIT_BINS };
_Static_assert(sizeof((proto_habit *)0)->seen == CELLS * sizeof(uint64_t), "the counts lie one behind the other");

st_code proto_habits_encode(const proto_habit *const *habits, uint32_t n, proto_bytes *out) {
    Consort__V1__TraceReply m = CONSORT__V1__TRACE_REPLY__INIT;
    Consort__V1__TraceHabit parts[PROTO_MAX_DRAFTERS], *list[PROTO_MAX_DRAFTERS];
    uint64_t counts[PROTO_MAX_DRAFTERS][DEPTHS + 2 * CELLS]; /* packing does not write, but takes no const */
    INVARIANT(n <= PROTO_MAX_DRAFTERS);
    for (uint32_t i = 0; i < n; i++) {
        Consort__V1__TraceHabit *to = list[i] = &parts[i];
        consort__v1__trace_habit__init(to);
        to->has_name = 1;
        to->name = proto_wire_text(habits[i]->name);
        to->n_none = DEPTHS, to->none = memcpy(counts[i], habits[i]->none, sizeof habits[i]->none);
        to->n_seen = CELLS, to->seen = memcpy(counts[i] + DEPTHS, habits[i]->seen, sizeof habits[i]->seen);
        to->n_hits = CELLS, to->hits = memcpy(counts[i] + DEPTHS + CELLS, habits[i]->hits, sizeof habits[i]->hits);
    }
    m.n_habits = n;
    m.habits = list;
    return proto_wire_pack(&m.base, out);
}

static st_code take_counts(const char *field, const uint64_t *from, size_t n, uint64_t *to, size_t n_to, st_error *e) {
    if (n != n_to) return st_fail(e, BAD, "habits: %s: %zu counts, expected %zu", field, n, n_to);
    memcpy(to, from, n * sizeof *to);
    return ST_OK;
}

st_code proto_habits_decode(const uint8_t *bytes, size_t n, arena *a, proto_habit *out, uint32_t *n_out, st_error *e) {
    Consort__V1__TraceReply *m;
    *n_out = 0;
    st_code code = proto_wire_unpack(&consort__v1__trace_reply__descriptor, bytes, n, a, BAD, BAD, &m, e);
    if (!code && m->n_habits > PROTO_MAX_DRAFTERS)
        code = st_fail(e, BAD, "habits: %zu are over %d", m->n_habits, PROTO_MAX_DRAFTERS);
    for (size_t i = 0; !code && i < m->n_habits; i++) {
        const Consort__V1__TraceHabit *from = m->habits[i];
        code = proto_wire_copy_word("habits: name", from->name, out[i].name, sizeof out[i].name, BAD, e);
        if (!code) code = take_counts("none", from->none, from->n_none, out[i].none, DEPTHS, e);
        if (!code) code = take_counts("seen", from->seen, from->n_seen, out[i].seen[0][0], CELLS, e);
        if (!code) code = take_counts("hits", from->hits, from->n_hits, out[i].hits[0][0], CELLS, e);
        for (size_t k = 0; !code && k < CELLS; k++)
            if (from->hits[k] > from->seen[k]) code = st_fail(e, BAD, "habits: hits: number %zu is more than was seen", k);
        if (!code) *n_out = (uint32_t)i + 1;
    }
    if (code) *n_out = 0;
    return code;
}
