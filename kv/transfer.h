/* kv/transfer.h: the KV cache of one sequence moves from the ranks of one group to those of another. Pure, like the block table.
 *
 * Nouns: a flow (what one rank of the source sends to one rank of the target: a range of KV heads of every block and layer), a
 * piece (one layer of one block of a flow), a part (what of a piece goes in one message: all of it, if that is not too much), a
 * transfer (one end of a flow; its state machine). An event comes in, actions go out; they are the five verbs of a transport:
 * post_send, post_recv, test, cancel, close.
 *
 *     any degree of tensor parallelism to any other:  kv_transfer_heads says which flows there are
 *     nothing foreign is trusted:                     a message counts by its place, exact size, checksum and generation
 *     nothing is held for ever:                       leases, bounded tries; over once the transport has let go of all memory
 *
 * What goes wrong ends the transfer, and the caller computes the KV instead. docs/kv-transfer.md tells the protocol. All memory
 * is the caller's; `now` comes with each event. Owner and thread: one a transfer. */
#ifndef CONSORT_KV_TRANSFER_H
#define CONSORT_KV_TRANSFER_H

#include "base/nouns.h"
#include "base/status.h"
#include <stddef.h>

typedef struct {
    uint32_t first, n; /* KV heads, numbered as in the whole model */
} kv_heads;

/* Of the heads `wanted` by rank `target`, those that rank `source` sends: *out, n 0 if none. held[n_ranks]: what the ranks of the
 * source hold, heads that several hold included. Over all sources each wanted head comes once. Errors: ST_ERR_INVALID_ARGUMENT
 * (nobody holds a wanted head). */
ST_CHECKED st_code kv_transfer_heads(const kv_heads *held, uint32_t n_ranks, uint32_t source, kv_heads wanted, uint32_t target,
                                     kv_heads *out);

typedef enum { KV_BY_BLOCK, KV_BY_LAYER } kv_order; /* all layers of a block first (chunked prefill), or all blocks of a layer */
enum { KV_TRANSFER_HASH_BYTES = 32, KV_TRANSFER_NONCE_BYTES = 32, KV_TRANSFER_TAG_BYTES = 32 };

/* Both ends make it for themselves; where they differ the transfer ends. */
typedef struct {
    uint8_t model[KV_TRANSFER_HASH_BYTES]; /* SHA-256 of the model's file */
    char type[16];                         /* name of the KV type */
    uint32_t order;                        /* kv_order */
    uint32_t n_layers, n_kv_heads, head_dim, block_tokens;
    uint32_t token_bytes;    /* of the K and V of one token in one head */
    uint32_t n_tokens;       /* of the sequence; of its last block only the rows that are filled travel */
    uint32_t part_bytes;     /* of rows in one message at most; a multiple of 64, up to KV_TRANSFER_MAX_PIECE_BYTES */
    uint32_t source, target; /* ranks in their groups */
    kv_heads heads;
} kv_flow;

/* Names a transfer under the cluster's secret: whoever orders it gives each try a new generation. */
typedef struct {
    uint64_t id;
    uint32_t generation; /* not 0 */
} kv_transfer_handle;

typedef struct {
    uint32_t layer, block; /* the block's place in the sequence: its id stays with the caller */
    kv_heads heads;
    uint32_t n_tokens, token_bytes;
    size_t first_byte; /* of the rows: where the part begins that is meant */
} kv_piece;            /* [K, V][heads.n][n_tokens] rows; those of K and of V may differ in size */

/* The bytes of blocks and the cluster's secret are the caller's to reach. bytes[n]: of the rows of `p`, from p->first_byte on.
 * None of these is called once the transfer has ended. */
typedef struct {
    void *context;
    st_code (*load)(void *context, const kv_piece *p, uint8_t *bytes, size_t n);                      /* source: from the block */
    st_code (*store)(void *context, const kv_piece *p, const uint8_t *bytes, size_t n);               /* target: into the block */
    st_code (*tag)(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]); /* HMAC-SHA256 */
} kv_transfer_hooks;

typedef enum { KV_SOURCE, KV_TARGET } kv_transfer_role;
enum { KV_TRANSFER_MAX_SLOTS = 16, KV_TRANSFER_CONTROL_SLOTS = 2, KV_TRANSFER_MAX_PIECE_BYTES = 64 << 20 };

typedef struct {
    kv_transfer_role role;
    kv_transfer_handle handle;
    kv_flow flow;
    uint8_t nonce[KV_TRANSFER_NONCE_BYTES]; /* random, new with each transfer */
    uint32_t n_slots;                       /* parts in flight, 1 ... KV_TRANSFER_MAX_SLOTS */
    uint64_t lease_ns;                      /* without a word of the peer the transfer ends */
    uint64_t retry_ns;                      /* without a part the target asks again; at most a quarter of the lease */
    uint32_t max_tries;                     /* so often in a row for one part; not counted while the source has none ready */
    kv_transfer_hooks hooks;
} kv_transfer_config;

typedef enum {
    KV_EVENT_TIME,      /* nothing but `now` */
    KV_EVENT_SENT,      /* test: slot; the transport has let go of its bytes */
    KV_EVENT_RECEIVED,  /* test: slot, n_bytes of one message */
    KV_EVENT_FAILED,    /* test: slot; its message is lost or was cancelled */
    KV_EVENT_PEER_LOST, /* the link is broken; it still has to be closed */
    KV_EVENT_CLOSED,    /* close is done (or the link is gone): the transport touches no slot any more */
    KV_EVENT_READY,     /* source: the first n_blocks blocks of `layer` (KV_ALL_LAYERS: of each) are computed */
    KV_EVENT_CANCEL     /* the caller does not want it any more; always welcome */
} kv_event_kind;
#define KV_ALL_LAYERS UINT32_MAX
typedef struct {
    kv_event_kind kind;
    uint32_t slot, layer, n_blocks;
    size_t n_bytes;
} kv_event;

typedef enum { KV_POST_SEND, KV_POST_RECV, KV_CANCEL, KV_CLOSE } kv_verb;
typedef struct {
    kv_verb verb;
    uint32_t slot;
    uint8_t *bytes; /* post: the transport's until the slot's event */
    size_t n_bytes; /* to send, or room for what is received */
} kv_action;
enum { KV_MAX_ACTIONS = 2 * (KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS) + 1 };
typedef struct {
    kv_action at[KV_MAX_ACTIONS]; /* in this order */
    uint32_t n;
    uint64_t wake_ns; /* an event of that time is wanted, if none comes before; UINT64_MAX: never */
} kv_actions;

typedef struct {
    uint64_t accepted, doubled, stale, damaged; /* messages received; the last three were refused */
    uint32_t n_parts, n_stored;                 /* of the flow; n_stored: from the first on without a gap (target) */
} kv_transfer_counts;

typedef struct kv_transfer kv_transfer;
size_t kv_transfer_bytes(const kv_transfer_config *c); /* 0: no such flow, slots or times */
/* `memory`: kv_transfer_bytes() bytes, 64-byte aligned, the caller's; not to be used again before the transfer is over. */
kv_transfer *kv_transfer_init(void *memory, const kv_transfer_config *c, uint64_t now_ns);
/* Slots named in an event are in flight. The first event is one of time. */
void kv_transfer_step(kv_transfer *t, uint64_t now_ns, const kv_event *event, kv_actions *out);
/* It has ended and its link is closed: blocks and memory may be released. Of a target, *code ST_OK says that each piece is in its
 * block, and anything else that the KV has to be computed; `e` (may be NULL) says why. */
bool kv_transfer_over(const kv_transfer *t, st_code *code, st_error *e);
const kv_transfer_counts *kv_transfer_counted(const kv_transfer *t);
void kv_transfer_check(const kv_transfer *t); /* INVARIANTs */

#endif
