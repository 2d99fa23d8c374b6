/* transport_stream: a transport over byte streams, what shm and tcp have in common. A kind says how to listen, to call and to
 * move bytes; links, their meeting, messages and events are here (transport_stream.c). */
#ifndef CONSORT_PARALLEL_TRANSPORT_STREAM_H
#define CONSORT_PARALLEL_TRANSPORT_STREAM_H

#include "parallel/transport.h"

#include <sys/types.h>
#include <sys/uio.h>

/* A byte stream both ways. Its socket tells of the peer's end; only of some kinds the bytes go through it. */
typedef struct {
    int fd;                  /* -1: none */
    bool readable, writable; /* for all that is known */
    bool over;               /* the socket has ended */
    bool calls;              /* this end called */
    void *shared;            /* shm: memory of both ends */
    uint64_t n_read, n_written;
} transport_pipe;

typedef struct {
    int (*call)(const char *address);          /* a socket that connects and does not block; -1: errno */
    bool (*welcome)(int fd);                   /* sets up a connected socket; false: one does not speak with who is there */
    bool (*offer)(transport_pipe *p, int *fd); /* the calling end, before its hello: *fd goes with that; -1: none */
    bool (*accept)(transport_pipe *p, int fd); /* the called end: what came with the hello; fd stays the caller's */
    void (*on_socket)(transport_pipe *p, bool in, bool out); /* what poll says */
    /* > 0: bytes moved. 0: not now. -1: never again. */
    ssize_t (*read)(transport_pipe *p, const struct iovec *at, int n);
    ssize_t (*write)(transport_pipe *p, const struct iovec *at, int n);
    bool (*sleep)(transport_pipe *p, bool reads, bool writes); /* whether one can, until the socket says something */
    void (*drop)(transport_pipe *p);                           /* all but the socket */
} transport_stream_kind;

/* Owns `listener` (a socket that listens and does not block), also where it fails. */
ST_CHECKED st_code transport_stream_create(const transport_ops *ops, const transport_stream_kind *kind, int listener,
                                           const char *address, transport **out, st_error *e);

st_code transport_stream_open(transport *t, const transport_call *call, transport_link **out, st_error *e);
void transport_stream_post_send(transport_link *k, uint32_t slot, const uint8_t *bytes, size_t n);
void transport_stream_post_recv(transport_link *k, uint32_t slot, uint8_t *bytes, size_t n);
bool transport_stream_test(transport *t, transport_event *out);
void transport_stream_cancel(transport_link *k, uint32_t slot);
void transport_stream_close(transport_link *k);
void transport_stream_wait_on(transport *t, int *fd, uint64_t *wake_ns);
void transport_stream_destroy(transport *t);
#define TRANSPORT_STREAM_OPS                                                                                                     \
    .open = transport_stream_open, .post_send = transport_stream_post_send, .post_recv = transport_stream_post_recv,             \
    .test = transport_stream_test, .cancel = transport_stream_cancel, .close = transport_stream_close,                           \
    .wait_on = transport_stream_wait_on, .destroy = transport_stream_destroy

#endif
