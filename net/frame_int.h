/* frame_int: the frame codec of the control links; pure, no sockets.
 *
 *     0 magic "CNS1" | 4 version | 6 type | 8 payload bytes n | 12 cluster epoch | 16 group epoch | 20 head check | 24 payload
 * [n] | 24 + n XXH3-64 of all before it            (little-endian; head check: low half of the XXH3-64 of the first 20 bytes)
 *
 * The head check refuses a damaged length at once, where the checksum alone would wait for bytes that never come. XXH3 finds
 * accidents; it is no authentication (link.c does that when a link opens). Any thread, one at a time a parser. */
#ifndef CONSORT_NET_FRAME_INT_H
#define CONSORT_NET_FRAME_INT_H

#include "net/net.h"

enum { NET_FRAME_VERSION = 1, NET_FRAME_HEAD_BYTES = NET_FRAME_EXTRA_BYTES - 8 };

/* Writes f->n + NET_FRAME_EXTRA_BYTES bytes to `out`. The payload must not lie in `out`. */
void net_frame_encode(const net_frame *f, uint8_t *out);

/* Collects bytes of any split into frames. Memory grows with the bytes that came, never with the length that was announced. */
typedef struct {
    uint32_t max_payload_bytes; /* may be raised between frames */
    uint8_t *bytes;             /* [capacity] head and payload of the frame at hand */
    size_t used, capacity;
    bool checked;  /* head is whole and right */
    size_t whole;  /* bytes of the frame, once checked */
    bool returned; /* the frame in `bytes` was handed out: the next call starts anew */
} net_frame_parser;

/* Takes bytes from *bytes, *n (both move) until one frame is whole: *got, and *out views the parser until the next call.
 * Errors: ST_FATAL_PROTOCOL (magic, version, length, checksum, with values), ST_FATAL_MEMORY. Close the link on any. */
ST_CHECKED st_code net_frame_feed(net_frame_parser *p, const uint8_t **bytes, size_t *n, net_frame *out, bool *got, st_error *e);
void net_frame_parser_deinit(net_frame_parser *p); /* also on a zeroed one */

#endif
