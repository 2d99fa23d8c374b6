/* Limits: every bound of the room on what a foreign peer can make us hold, wait for or do; each says which attack it stops.
 *
 * Plain constants, tested at limit - 1, limit and limit + 1 (docs: reliability, "attacks and bug classes"). Bytes are bytes,
 * times are milliseconds. Changing one changes no protocol: peers learn the HTTP/2 ones from our SETTINGS. */
#ifndef CONSORT_NET_LIMITS_H
#define CONSORT_NET_LIMITS_H

enum {
    /* ---- sockets ---- */
    NET_READ_BYTES = 64 * 1024,         /* one read(); shared by all connections of a loop, so idle ones cost no buffer */
    NET_WRITE_BYTES = 64 * 1024,        /* one write(); output is gathered up to this */
    NET_LINGER_MS = 2000,               /* a closing peer that never reads or closes its side (FIN_WAIT hoarding) */
    NET_BACKLOG = 512,                  /* connections waiting for accept() */
    NET_MAX_PENDING_BYTES = 256 * 1024, /* HTTP/2 output of one connection handed to the kernel's queue: peer that never reads */

    /* ---- control links ---- */
    NET_MAX_FRAME_BYTES = 16 * 1024 * 1024,        /* payload of a frame: a hostile member that announces 4 GiB */
    NET_MAX_HANDSHAKE_BYTES = 256,                 /* payload before authentication: memory for strangers */
    NET_HANDSHAKE_MS = 5000,                       /* half-open links: connect and say nothing */
    NET_LINK_MAX_PENDING_BYTES = 32 * 1024 * 1024, /* member that does not read its plans or results */
    NET_MAX_LINKS = 2048,                          /* file descriptors taken by strangers on the join port */

    /* ---- HTTP/2, a connection ---- */
    NET_MAX_CONNECTIONS = 1024,            /* file descriptor exhaustion at accept (CVE-2023-4785) */
    NET_MAX_STREAMS = 256,                 /* concurrent calls of one connection */
    NET_STREAM_WINDOW_BYTES = 1024 * 1024, /* unread request bytes of a call */
    NET_CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024,
    NET_SLICE_BYTES = 4096,                  /* input between two looks at the glitch counter: floods within one read */
    NET_MAX_HEADER_BYTES = 16 * 1024,        /* header list of a call, counted by RFC 9113 10.5.1 (name + value + 32): refused */
    NET_MAX_HEADER_FLOOD_BYTES = 256 * 1024, /* same, connection closed: HPACK references to a large entry (CVE-2026-49975) */
    NET_MAX_PATH_BYTES = 256,                /* :path */
    NET_MAX_OUTBOUND_ACKS = 512,             /* PING and SETTINGS without reading our acks (CVE-2019-9512, 9515) */
    NET_MAX_SETTINGS = 32,                   /* entries of a SETTINGS frame (CVE-2020-11080) */
    NET_HTTP2_HANDSHAKE_MS = 10 * 1000,      /* connect, no preface or SETTINGS */
    NET_HTTP2_HEADER_MS = 10 * 1000,         /* header block without its end (slowloris, dribbled CONTINUATION) */
    NET_HTTP2_REQUEST_MS = 30 * 1000,        /* request message without its end (data dribble, CVE-2019-9511) */
    NET_HTTP2_STALL_MS = 60 * 1000,          /* reply bytes that make no progress: slow read, zero window held open */
    NET_HTTP2_IDLE_MS = 600 * 1000,          /* connections without calls */
    NET_HTTP2_DRAIN_MS = 1000,               /* between the shutdown notice and the last GOAWAY, if the peer acks no PING */

    /* Glitches: frames that cost us and bring no work (resets, pings, settings, window updates, empty data, ...) are charged to
     * the connection by a leaky bucket, ours too (rapid reset CVE-2023-44487, MadeYouReset CVE-2025-8671, the 2019 set). DATA
     * that we send earns some back, because an honest client answers it with window updates and pings. */
    NET_GLITCH_BURST = 10000,
    NET_GLITCH_PER_SECOND = 330,
    NET_GLITCH_RESET = 10, /* a reset, received or provoked: 1000 in a burst, 33 a second */
    NET_GLITCH_SETTINGS = 10,
    NET_GLITCH_CONTINUATION = 10, /* endless or empty CONTINUATION (CVE-2024-28182) */
    NET_GLITCH_INVALID = 10,
    NET_GLITCH_PING = 2,
    NET_GLITCH_SMALL = 1, /* WINDOW_UPDATE, PRIORITY, DATA of less than NET_SMALL_DATA_BYTES that does not end the stream */
    NET_SMALL_DATA_BYTES = 64,
    NET_GLITCH_EARNED_BY_DATA = 4,

    /* ---- HTTP/1, a connection ---- */
    NET_HTTP1_MAX_CONNECTIONS = 128,
    NET_HTTP1_MAX_HEAD_BYTES = 16 * 1024, /* request line and fields; also chunk heads and trailers over what the body earns */
    NET_HTTP1_MAX_FIELDS = 64,            /* fields of a request: many small ones cost more than their bytes */
    NET_HTTP1_MAX_TARGET_BYTES = 1024,    /* path and query */
    NET_HTTP1_MAX_BODY_BYTES = 8 * 1024 * 1024,    /* refused by Content-Length before a byte is taken */
    NET_HTTP1_MAX_AHEAD_BYTES = 16 * 1024,         /* pipelined input, over one read(): past it nothing more is read */
    NET_HTTP1_MAX_QUEUED_BYTES = 256 * 1024,       /* replies not yet sent: past it the next pipelined request waits */
    NET_HTTP1_MAX_BUFFER_BYTES = 64 * 1024 * 1024, /* bytes held for all connections of a server */
    NET_HTTP1_HEADER_MS = 10 * 1000,               /* connect and dribble fields (slowloris, CVE-2007-6750) */
    NET_HTTP1_REQUEST_MS = 30 * 1000,              /* request without its end, from its first byte */
    NET_HTTP1_STALL_MS = 30 * 1000,                /* reply bytes that make no progress (slow read) */
    NET_HTTP1_IDLE_MS = 120 * 1000,                /* kept alive without a request: over the usual interval between two scrapes */

    /* ---- gRPC ---- */
    NET_MAX_MESSAGE_BYTES = 8 * 1024 * 1024,               /* refused at the 5-byte prefix: 4 GiB announced (CVE-2023-33953) */
    NET_CALL_HIGH_BYTES = 64 * 1024,                       /* queued replies: the client is slow */
    NET_CALL_LOW_BYTES = 16 * 1024,                        /* ... and quick again */
    NET_CALL_MAX_QUEUED_BYTES = NET_MAX_MESSAGE_BYTES + 5, /* hard limit, for callers that ignore `slow` */
    NET_MAX_CONNECTION_BUFFER_BYTES = 20 * 1024 * 1024,    /* requests and replies that wait, all calls of a connection */
    NET_MAX_SERVER_BUFFER_BYTES = 128 * 1024 * 1024,       /* and of a server: 256 calls x 8 MiB x many connections */
    NET_MAX_STATUS_MESSAGE_BYTES = 1024,                   /* grpc-message, before percent-encoding */
};

#endif
