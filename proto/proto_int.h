/* proto_int: what the codecs of this room share: unpacking within a budget, packing, text checks.
 *
 * Text on the wire is `bytes` to protobuf-c (lengths.cmake says why), always with a NUL behind it (proto_wire_unpack sees to
 * that). `bad` is the code of the caller's malformed input: ST_ERR_INVALID_ARGUMENT for the API, ST_FATAL_PROTOCOL for the
 * control link.
 */
#ifndef CONSORT_PROTO_INT_H
#define CONSORT_PROTO_INT_H

#include "proto/proto.h"
#include <protobuf-c/protobuf-c.h>

/* All memory comes from `a`, whose unused rest is given back. *out points into it. Errors: `bad` (malformed), `full` (the parts
 * need more memory than `a` has left). */
ST_CHECKED st_code proto_wire_unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n, arena *a,
                                     st_code bad, st_code full, void *out, st_error *e);
/* For messages without arrays, or with a short one: unpacks into `room`. */
typedef struct {
    _Alignas(64) uint8_t bytes[8192];
} wire_room;
ST_CHECKED st_code proto_wire_unpack_small(const ProtobufCMessageDescriptor *type, const uint8_t *bytes, size_t n,
                                           wire_room *room, st_code bad, void *out, st_error *e);
ST_CHECKED st_code proto_wire_pack(const ProtobufCMessage *m, proto_bytes *out); /* ST_FATAL_MEMORY */

static inline ProtobufCBinaryData proto_wire_data(const void *bytes, size_t n) {
    return (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)bytes}; /* packing does not write to it */
}
ProtobufCBinaryData proto_wire_text(const char *text); /* NULL: empty */

/* Index of the first byte that is not UTF-8 (Unicode 15, table 3-7), or of a NUL; n if all is well. */
size_t proto_wire_utf8(const char *text, size_t n);
/* Checks UTF-8 without NUL, n_min .. n_max bytes. `field` names it. */
ST_CHECKED st_code proto_wire_check_text(const char *field, const char *text, size_t n, size_t n_min, size_t n_max, st_code bad,
                                         st_error *e);
/* Printable ASCII without spaces. */
ST_CHECKED st_code proto_wire_check_word(const char *field, const char *text, size_t n, size_t n_max, st_code bad, st_error *e);
/* A word copied to dst[dst_bytes], NUL-terminated. */
ST_CHECKED st_code proto_wire_copy_word(const char *field, ProtobufCBinaryData d, char *dst, size_t dst_bytes, st_code bad,
                                        st_error *e);
/* Text for people, cut to dst_bytes, which may quote foreign bytes or end in half a character: what does not print on one line
 * becomes '?', since a reason must not get lost for its looks. */
void proto_wire_copy_reason(ProtobufCBinaryData d, char *dst, size_t dst_bytes);
/* One more for list[*n], of at most PROTO_MAX_TRANSPORTS: both words not empty, no transport twice. */
ST_CHECKED st_code proto_wire_add_address(const char *field, ProtobufCBinaryData transport, ProtobufCBinaryData address,
                                          proto_address *list, uint32_t *n, st_code bad, st_error *e);
/* 32 bytes exactly. */
ST_CHECKED st_code proto_wire_copy_hash(const char *field, ProtobufCBinaryData d, uint8_t dst[32], st_code bad, st_error *e);

/* What came of one array for the tokens and two of equal length for their likeliest, as token_logprobs. `n_tokens`: tokens they
 * must be for. None at all is fine. */
typedef struct {
    size_t n_own, n_top, n_top_log;
    float *own, *top_log;
    uint32_t *top;
} wire_logprobs;
/* Hidden states of n_tokens as bytes, and back: none, or a dimension for each token. */
ProtobufCBinaryData proto_wire_hidden(const hidden_states *h, uint32_t n_tokens);
ST_CHECKED st_code proto_wire_take_hidden(const char *field, ProtobufCBinaryData d, size_t n_tokens, hidden_states *out,
                                          st_code bad, st_error *e);
ST_CHECKED st_code proto_wire_logprobs(wire_logprobs m, size_t n_tokens, token_logprobs *out, st_code bad, st_error *e);

#endif
