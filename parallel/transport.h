/* transport: messages from one rank to another, outside of the collectives: what carries KV transfers (kv/transfer.h).
 *
 * Nouns: a transport (one way to reach other ranks, as seen from this one: shm, tcp, mpi; one file a kind), its address (a text
 * that tells others how to reach this rank that way), a link (between two ranks, for one transfer; named by a key that both ends
 * were told), a slot (a number that the caller gives to bytes it posts). Five verbs: post_send, post_recv, test, cancel, close.
 *
 *     messages keep their bounds, come once and in order, or the link is lost       no verb blocks
 *     bytes that were posted are the transport's until their slot's event           a link ends with CLOSED, whatever happened
 *
 * A transport checks no contents: who it is that speaks, and whether the bytes are whole, is the transfer's to find out. Thread:
 * one that owns all transports of a rank (the mover), beside the step thread. */
#ifndef CONSORT_PARALLEL_TRANSPORT_H
#define CONSORT_PARALLEL_TRANSPORT_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TRANSPORT_ADDRESS_BYTES = 128, /* printable ASCII, NUL included */
    TRANSPORT_KEY_BYTES = 16,
    TRANSPORT_MAX_LINKS = 256, /* open at once on one transport */
    TRANSPORT_MAX_SLOTS = 32,  /* of a link */
    TRANSPORT_MAX_MESSAGE = (64 << 20) + 4096,
};

typedef struct transport transport;
typedef struct transport_link transport_link;

typedef enum {
    TRANSPORT_SENT,      /* slot: its bytes may be used again (not: they have arrived) */
    TRANSPORT_RECEIVED,  /* slot, n_bytes */
    TRANSPORT_FAILED,    /* slot: cancelled, or longer than the room posted for it */
    TRANSPORT_PEER_LOST, /* nothing more will come; it still has to be closed */
    TRANSPORT_CLOSED     /* the last event of a link; the pointer is of no use any more */
} transport_event_kind;

typedef struct {
    void *context; /* of transport_open */
    transport_event_kind kind;
    uint32_t slot;
    size_t n_bytes;
} transport_event;

typedef struct {
    const char *address;              /* of the peer, on a transport of the same kind */
    uint8_t key[TRANSPORT_KEY_BYTES]; /* both ends give the same, no two open links of a rank do */
    bool calls;                       /* one end calls, the other waits to be called; in any order */
    uint64_t deadline_ns;             /* (parallel_now_ns) until the ends must have met: else PEER_LOST */
    void *context;
    /* What all posted bytes lie in, of mem_alloc_aligned; from transport_open on the link's, which frees it after CLOSED, as soon
     * as nothing can touch it any more (MPI cannot take back what it has begun). NULL: the caller's, who keeps it for good. */
    void *memory;
} transport_call;

typedef struct {
    const char *name; /* "shm", "tcp", "mpi" */
    /* Whether a rank of that address can be reached from here: shm: on the same host. */
    bool (*reaches)(const transport *t, const char *address);
    /* Never waits: what goes wrong later is PEER_LOST. Errors: ST_ERR_NO_SLOTS-like ones as st_code, ST_FATAL_MEMORY; `memory` is
     * then still the caller's. */
    st_code (*open)(transport *t, const transport_call *call, transport_link **out, st_error *e);
    void (*post_send)(transport_link *k, uint32_t slot, const uint8_t *bytes, size_t n);
    void (*post_recv)(transport_link *k, uint32_t slot, uint8_t *bytes, size_t n);
    bool (*test)(transport *t, transport_event *out); /* does what can be done now; the next event of any link, or false */
    void (*cancel)(transport_link *k, uint32_t slot); /* FAILED follows, or the event that was on its way */
    void (*close)(transport_link *k); /* what was handed to post_send before goes out if the peer takes it soon; then CLOSED */
    /* What to sleep on until test has something to do: *fd for poll (POLLIN), or -1, and *wake_ns (parallel_now_ns), a time at
     * which to test whatever fd says; UINT64_MAX: none. */
    void (*wait_on)(const transport *t, int *fd, uint64_t *wake_ns);
    void (*destroy)(transport *t); /* its links are gone without events */
} transport_ops;

struct transport {
    const transport_ops *ops;
    char address[TRANSPORT_ADDRESS_BYTES];
};

#endif
