/* raw_flow: messages of one size through a link, as fast as it takes them: what a transfer is measured against.
 *
 * It speaks with a transport as a transfer does (kv/transfer.h: events in, actions out), but asks for nothing, checks nothing and
 * copies nothing: the transport itself reads the source's memory and writes the target's, one place of it after the other, as
 * many bytes of it as a transfer reads and writes. The target says one byte when it has all. Pure; one owner, one thread. */
#ifndef CONSORT_WORKER_RAW_FLOW_H
#define CONSORT_WORKER_RAW_FLOW_H

#include "kv/transfer.h"

typedef struct {
    kv_transfer_role role;
    uint32_t n_slots, n_places, piece_bytes, n_pieces; /* n_slots <= n_places */
    uint64_t lease_ns;
    uint8_t *memory; /* [n_places][piece_bytes], then 64 bytes */
    /* its own: */
    uint32_t n_posted, n_done, n_in_flight;
    bool in_flight[KV_TRANSFER_MAX_SLOTS + 1], told, closing, closed, over;
    uint64_t heard_ns, close_at_ns; /* close_at: what was begun and has not ended is the link's from then on; 0: not yet */
    st_code code;
} raw_flow;

size_t raw_flow_bytes(const raw_flow *r); /* of memory */
void raw_flow_step(raw_flow *r, uint64_t now_ns, const kv_event *event, kv_actions *out);
bool raw_flow_over(const raw_flow *r, st_code *code);

#endif
