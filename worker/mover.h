/* mover: the third thread of a verifier's rank: sends KV of sequences to ranks of other groups and takes it from them, while the
 * step thread computes with other blocks.
 *
 * Nouns: an order (proto_move: from the coordinator, by way of the step thread), a move (what the order is about, as this rank
 * sees it: some flows, each with a peer), a flow (one end of a transfer, kv/transfer.h, on a link of the best transport that
 * reaches the peer, parallel/transport.h). The mover owns the rank's transports and sleeps until one has something to do, a flow
 * wants time, or an order comes. Each order is answered once, when no flow of it touches a block any more.
 *
 *     step thread ── mailbox, eventfd ──> mover ── links ──> movers of other ranks
 *     link thread <── options.moved ──────┘ */
#ifndef CONSORT_WORKER_MOVER_H
#define CONSORT_WORKER_MOVER_H

#include "kv/kv.h"
#include "parallel/transport.h"
#include "proto/proto_core.h"

typedef struct mover mover;

typedef struct {
    transport *const *transports; /* [n_transports] the best first; borrowed, and the mover's alone until mover_stop */
    uint32_t n_transports;        /* <= TRANSPORT_MAX_KINDS */
    const uint8_t *secret;        /* [MOVER_SECRET_BYTES] of the cluster */
    kv_store *store;              /* outlives the mover */
    kv_heads held;                /* what its rows are of, in the whole model */
    uint32_t n_kv_heads;          /* of the whole model */
    uint8_t model[KV_TRANSFER_HASH_BYTES];
    const char *kv_type;
    uint32_t rank; /* in its group */
    /* On the mover's thread: what came of an order. */
    void (*moved)(void *context, const proto_moved *m);
    void *context;
} mover_options;
enum { MOVER_SECRET_BYTES = 32 };

/* Errors: ST_FATAL_MEMORY, ST_FATAL_INTERNAL (no thread, no eventfd). */
ST_CHECKED st_code mover_start(const mover_options *o, mover **out, st_error *e);
/* Ends what runs, whose answers may be lost, and the thread. NULL-safe. What a peer still holds of a link's memory is the
 * transport's: it is to be destroyed after this. */
void mover_stop(mover *v);

/* Any thread, one at a time. Copies. Errors: ST_FATAL_MEMORY; ST_FATAL_PROTOCOL: more orders than a rank queues. */
ST_CHECKED st_code mover_order(mover *v, const proto_move *order);
/* About an order that may be over. Errors: ST_FATAL_PROTOCOL, as above. */
ST_CHECKED st_code mover_ready(mover *v, uint64_t id, uint32_t n_ready);
ST_CHECKED st_code mover_cancel(mover *v, uint64_t id);

#endif
