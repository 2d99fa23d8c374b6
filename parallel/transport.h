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
    TRANSPORT_MAX_KINDS = 4,
    TRANSPORT_NAME_BYTES = 8, /* of a kind, NUL included */
};

typedef struct transport transport;
typedef struct transport_link transport_link;

typedef enum {
    TRANSPORT_SENT,      /* slot: its bytes may be used again (not: they have arrived) */
    TRANSPORT_RECEIVED,  /* slot, n_bytes */
    TRANSPORT_FAILED,    /* slot: cancelled; or the message was longer than the room posted for it, and is dropped */
    TRANSPORT_PEER_LOST, /* behind the last message that came: none will any more; all slots FAIL (or end); to be closed */
    TRANSPORT_CLOSED     /* the last event of a link: all slots are the caller's again, the pointer is of no use any more */
} transport_event_kind;

typedef struct {
    void *context; /* of open */
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
    /* What all posted bytes lie in, of mem_alloc_aligned; from open on the link's, which frees it once nothing can touch it any
     * more (MPI cannot take back what it has begun), not before the first test after the one that gave CLOSED. NULL: the bytes
     * are the caller's and live as long as the transport. */
    void *memory;
} transport_call;

typedef struct {
    const char *name; /* of its row in transports.def */
    bool polled;      /* nothing wakes who waits: with little in flight a link stands still until it is tested again */
    /* Whether a rank of that address can be reached from here: shm: on the same host. */
    bool (*reaches)(const transport *t, const char *address);
    /* Never waits: what goes wrong later is PEER_LOST. Errors: ST_ERR_RESOURCE_EXHAUSTED (links), ST_ERR_INVALID_ARGUMENT (the
     * address, the key), ST_FATAL_MEMORY; `memory` is then still the caller's. */
    st_code (*open)(transport *t, const transport_call *call, transport_link **out, st_error *e);
    void (*post_send)(transport_link *k, uint32_t slot, const uint8_t *bytes, size_t n);
    void (*post_recv)(transport_link *k, uint32_t slot, uint8_t *bytes, size_t n);
    bool (*test)(transport *t, transport_event *out); /* does what can be done now; the next event of any link, or false */
    /* FAILED follows, or the event that is on its way: a send that was begun ends, and so does what MPI has begun to receive. */
    void (*cancel)(transport_link *k, uint32_t slot);
    /* What was handed to post_send before goes out if the peer takes it soon; then CLOSED, whichever slots are out. The last verb
     * of a link. */
    void (*close)(transport_link *k);
    /* What to sleep on until test has something to do: *fd for poll (POLLIN), or -1, and *wake_ns (parallel_now_ns), a time at
     * which to test whatever fd says; UINT64_MAX: none. Called last before the sleep: peers are told that one has to be woken. */
    void (*wait_on)(transport *t, int *fd, uint64_t *wake_ns);
    void (*destroy)(transport *t); /* its links are gone without events */
} transport_ops;

struct transport {
    const transport_ops *ops;
    char address[TRANSPORT_ADDRESS_BYTES]; /* with an '@' in it: leads there from this host only */
};

typedef struct {
    const char *host;      /* of a kind that listens: name or address on which to; NULL: 127.0.0.1 */
    uint16_t port;         /* 0: any */
    const char *advertise; /* name or address under which others reach it; NULL: that of host, which is then not 0.0.0.0 */
} transport_options;

typedef struct {
    const char *name;
    bool listens; /* on transport_options.host: whoever reaches that can knock */
    /* Owns: the caller, by ops->destroy. Errors: ST_ERR_UNSUPPORTED, ST_ERR_IO, ST_ERR_INVALID_ARGUMENT (options),
     * ST_FATAL_MEMORY. */
    st_code (*create)(const transport_options *o, transport **out, st_error *e);
} transport_kind;

#define TRANSPORT(name, where) extern const transport_kind transport_##name;
#include "parallel/transports.def"
#undef TRANSPORT
/* Those that need no MPI, the one to try first at 0; NULL behind the last. All of them: parallel_world_transport_at. */
const transport_kind *transport_kind_at(uint32_t i);

/* Sleeps until one of all[n] has something to do, wake_fd (-1: none) is readable or the time has come (UINT64_MAX: never). May
 * end sooner. Call it when test gave false for each. */
void transport_wait(transport *const *all, uint32_t n, int wake_fd, uint64_t until_ns);

#endif
