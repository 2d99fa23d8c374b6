/* MeasureKvReply: what one transport does with messages of one size. */
#include "proto/proto_int.h"

#include "consort.pb-c.h"
#include <math.h>

#define BAD ST_ERR_FORMAT

st_code proto_measurement_encode(const proto_measurement *v, proto_bytes *out) {
    Consort__V1__MeasureKvReply m = CONSORT__V1__MEASURE_KV_REPLY__INIT;
    m.has_transport = m.has_block_bytes = m.has_bytes_per_s = m.has_raw_bytes_per_s = m.has_source = m.has_target = 1;
    m.transport = proto_wire_text(v->transport);
    m.block_bytes = v->block_bytes;
    m.bytes_per_s = v->bytes_per_s;
    m.raw_bytes_per_s = v->raw_bytes_per_s;
    m.source = v->source;
    m.target = v->target;
    if (v->prompt_tokens) {
        m.has_prompt_tokens = m.has_move_ns = m.has_crossover_tokens = m.has_move_token_ns = m.has_prompt_token_ns = 1;
        m.prompt_tokens = v->prompt_tokens;
        m.move_ns = v->move_ns;
        m.crossover_tokens = v->crossover_tokens;
        m.move_token_ns = v->move_token_ns;
        m.prompt_token_ns = v->prompt_token_ns;
    }
    return proto_wire_pack(&m.base, out);
}

st_code proto_measure_request_encode(uint32_t prompt_tokens, proto_bytes *out) {
    Consort__V1__MeasureKvRequest m = CONSORT__V1__MEASURE_KV_REQUEST__INIT;
    m.has_prompt_tokens = prompt_tokens > 0;
    m.prompt_tokens = prompt_tokens;
    return proto_wire_pack(&m.base, out);
}

st_code proto_measure_request_decode(const uint8_t *bytes, size_t n, uint32_t *prompt_tokens, st_error *e) {
    wire_room room;
    Consort__V1__MeasureKvRequest *m;
    st_code code =
        proto_wire_unpack_small(&consort__v1__measure_kv_request__descriptor, bytes, n, &room, ST_ERR_INVALID_ARGUMENT, &m, e);
    if (code) return code;
    if (m->prompt_tokens > PROTO_MAX_PROMPT_TOKENS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "prompt_tokens: %u is outside 0 .. %d", m->prompt_tokens,
                       PROTO_MAX_PROMPT_TOKENS);
    *prompt_tokens = m->prompt_tokens;
    return ST_OK;
}

st_code proto_measurement_decode(const uint8_t *bytes, size_t n, proto_measurement *out, st_error *e) {
    wire_room room;
    Consort__V1__MeasureKvReply *m;
    st_code code = proto_wire_unpack_small(&consort__v1__measure_kv_reply__descriptor, bytes, n, &room, BAD, &m, e);
    if (code) return code;
    proto_measurement v = {.block_bytes = m->block_bytes,
                           .bytes_per_s = m->bytes_per_s,
                           .raw_bytes_per_s = m->raw_bytes_per_s,
                           .source = m->source,
                           .target = m->target,
                           .prompt_tokens = m->prompt_tokens,
                           .move_ns = m->move_ns,
                           .crossover_tokens = m->crossover_tokens,
                           .move_token_ns = m->move_token_ns,
                           .prompt_token_ns = m->prompt_token_ns};
    code = proto_wire_copy_word("transport", m->transport, v.transport, sizeof v.transport, BAD, e);
    if (!code && !(isfinite(v.bytes_per_s) && isfinite(v.raw_bytes_per_s) && v.bytes_per_s > 0 && v.raw_bytes_per_s > 0))
        code = st_fail(e, BAD, "bytes_per_s: %g, raw_bytes_per_s: %g; expected more than 0", v.bytes_per_s, v.raw_bytes_per_s);
    if (!code && !(isfinite(v.move_token_ns) && isfinite(v.prompt_token_ns) && v.move_token_ns >= 0 && v.prompt_token_ns >= 0))
        code = st_fail(e, BAD, "move_token_ns: %g, prompt_token_ns: %g; expected 0 or more", v.move_token_ns, v.prompt_token_ns);
    if (!code) *out = v;
    return code;
}
