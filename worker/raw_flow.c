#include "worker/raw_flow.h"

enum { TAIL_BYTES = 64 };

size_t raw_flow_bytes(const raw_flow *r) { return (size_t)r->n_places * r->piece_bytes + TAIL_BYTES; }

static void act(raw_flow *r, kv_actions *out, kv_verb verb, uint32_t slot) {
    bool last = slot == r->n_slots; /* the byte that says: I have all */
    size_t n = verb == KV_CLOSE || verb == KV_CANCEL ? 0 : last ? 1 : r->piece_bytes;
    uint32_t place = last ? r->n_places : (r->n_posted - 1) % r->n_places; /* pieces come back in order */
    out->at[out->n++] = (kv_action){verb, slot, n ? r->memory + (size_t)place * r->piece_bytes : NULL, n};
    if (verb == KV_POST_SEND || verb == KV_POST_RECV) {
        r->in_flight[slot] = true;
        r->n_in_flight++;
    }
}

static void post(raw_flow *r, kv_actions *out, uint32_t slot) {
    if (r->n_posted == r->n_pieces) return;
    r->n_posted++;
    act(r, out, r->role == KV_SOURCE ? KV_POST_SEND : KV_POST_RECV, slot);
}

static void begin(raw_flow *r, kv_actions *out) {
    for (uint32_t i = 0; i < r->n_slots; i++) post(r, out, i);
    if (r->role == KV_SOURCE) act(r, out, KV_POST_RECV, r->n_slots);
}

static void end(raw_flow *r, st_code code, kv_actions *out) {
    if (r->closing) return;
    r->closing = true;
    r->code = code;
    for (uint32_t i = 0; i <= r->n_slots; i++)
        if (r->in_flight[i]) act(r, out, KV_CANCEL, i);
}

static void on_slot(raw_flow *r, const kv_event *e, kv_actions *out) {
    INVARIANT(e->slot <= r->n_slots && r->in_flight[e->slot]);
    r->in_flight[e->slot] = false;
    r->n_in_flight--;
    if (r->closing) return;
    if (e->slot == r->n_slots) { /* all are there, or it has been said */
        end(r, e->kind == KV_EVENT_FAILED ? ST_ERR_UNAVAILABLE : ST_OK, out);
        return;
    }
    if (e->kind == KV_EVENT_FAILED || (e->kind == KV_EVENT_RECEIVED && e->n_bytes != r->piece_bytes)) {
        end(r, ST_ERR_UNAVAILABLE, out);
        return;
    }
    r->n_done++;
    post(r, out, e->slot);
    if (r->role == KV_SOURCE || r->n_done < r->n_pieces) return;
    act(r, out, KV_POST_SEND, r->n_slots);
}

void raw_flow_step(raw_flow *r, uint64_t now_ns, const kv_event *e, kv_actions *out) {
    out->n = 0;
    if (!r->heard_ns || e->kind != KV_EVENT_TIME) r->heard_ns = now_ns;
    switch (e->kind) {
    case KV_EVENT_TIME:
        if (!r->told) begin(r, out);
        r->told = true;
        break;
    case KV_EVENT_SENT:
    case KV_EVENT_RECEIVED:
    case KV_EVENT_FAILED: on_slot(r, e, out); break;
    case KV_EVENT_PEER_LOST: end(r, ST_ERR_UNAVAILABLE, out); break;
    case KV_EVENT_CANCEL: end(r, ST_ERR_CANCELLED, out); break;
    case KV_EVENT_CLOSED:
        end(r, ST_ERR_UNAVAILABLE, out);
        r->over = true;
        break;
    case KV_EVENT_READY: break;
    }
    if (now_ns > r->heard_ns + r->lease_ns) end(r, ST_ERR_DEADLINE, out);
    if (r->closing && !r->close_at_ns) r->close_at_ns = now_ns + r->lease_ns / 4;
    if (r->closing && !r->closed && (!r->n_in_flight || now_ns >= r->close_at_ns)) {
        r->closed = true;
        act(r, out, KV_CLOSE, 0);
    }
    out->wake_ns = r->closed ? UINT64_MAX : r->closing ? r->close_at_ns : r->heard_ns + r->lease_ns + 1;
}

bool raw_flow_over(const raw_flow *r, st_code *code) {
    if (r->over) *code = r->code;
    return r->over;
}
