#include "tests/unit/kv_core/memory_link.h"

#include "tests/unit/kv_core/rig.h"

enum { LATEST_NS = 300000000 };

static uint32_t draw(memory_link *k, uint32_t n) { return draw_below(k->random, n); }

/* ---- messages ---- */

static void put_parcel(memory_link *k, link_end *to, const uint8_t *bytes, size_t n, uint64_t at_ns, bool harmed, bool anywhere) {
    if (!to->t || to->closing) return; /* nobody is there */
    assert_true(to->n_inbox < LINK_MAX_PARCELS);
    uint32_t place = anywhere ? draw(k, to->n_inbox + 1) : to->n_inbox;
    memmove(to->inbox + place + 1, to->inbox + place, (to->n_inbox - place) * sizeof *to->inbox);
    to->inbox[place] = (link_parcel){.bytes = mem_alloc(n + 1, 1), .n_bytes = n, .at_ns = at_ns, .harmed = harmed};
    assert_non_null(to->inbox[place].bytes);
    memcpy(to->inbox[place].bytes, bytes, n);
    to->n_inbox++;
}

static link_parcel take_parcel(link_end *e, uint32_t i) {
    link_parcel p = e->inbox[i];
    e->n_inbox--;
    memmove(e->inbox + i, e->inbox + i + 1, (e->n_inbox - i) * sizeof *e->inbox);
    return p;
}

static link_fault draw_fault(memory_link *k) {
    uint32_t at = draw(k, 256), f = 0;
    for (; f < LINK_N_FAULTS; f++) {
        if (at < k->plan.per_256[f]) break;
        at -= k->plan.per_256[f];
    }
    return f == LINK_STALE && k->n_old == 0 ? LINK_N_FAULTS : (link_fault)f;
}

/* A copy with room for one byte more, harmed. */
static void harm(memory_link *k, link_end *to, link_fault fault, const link_post *p) {
    uint8_t *copy = mem_alloc(p->n_bytes + 1, 1);
    assert_non_null(copy);
    memcpy(copy, p->bytes, p->n_bytes);
    size_t n = p->n_bytes;
    if (fault == LINK_CUT) n -= 1 + draw(k, (uint32_t)n);
    if (fault == LINK_GROW) copy[n++] = (uint8_t)draw(k, 256);
    do
        for (uint32_t i = 1 + draw(k, 3); fault == LINK_FLIP && i > 0; i--) {
            uint32_t bit = draw(k, (uint32_t)n * 8);
            if (draw(k, 2)) bit %= 64 * 8; /* half of them in the head */
            if (bit < n * 8) copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
    while (n == p->n_bytes && memcmp(copy, p->bytes, n) == 0);
    put_parcel(k, to, copy, n, 0, true, false);
    mem_free(copy);
}

static void transmit(memory_link *k, link_end *to, const link_post *p) {
    link_fault fault = k->plan.pieces_only && p->n_bytes <= LINK_SMALL_BYTES ? LINK_N_FAULTS : draw_fault(k);
    k->counts->messages++;
    if (fault == LINK_N_FAULTS)
        k->counts->intact++;
    else
        k->counts->by_fault[fault]++;
    if (fault <= LINK_GROW) {
        harm(k, to, fault, p);
    } else if (fault == LINK_STALE) {
        const link_parcel *old = &k->old[draw(k, k->n_old)];
        put_parcel(k, to, old->bytes, old->n_bytes, 0, true, false);
    } else if (fault != LINK_DROP) {
        uint64_t at_ns = fault == LINK_LATE ? k->now_ns + draw(k, LATEST_NS) : 0;
        put_parcel(k, to, p->bytes, p->n_bytes, at_ns, false, fault == LINK_REORDER);
        if (fault == LINK_DOUBLE) put_parcel(k, to, p->bytes, p->n_bytes, 0, false, true);
    }
}

/* ---- ends ---- */

static void forget_posts(link_end *e) {
    e->n_sends = e->n_receives = e->n_cancels = 0;
    while (e->n_inbox > 0) mem_free(take_parcel(e, 0).bytes);
}

static bool is_over(const link_end *e) {
    st_code code;
    return !e->t || kv_transfer_over(e->t, &code, NULL);
}

void link_step(memory_link *k, kv_transfer_role role, const kv_event *event) {
    link_end *e = &k->ends[role];
    kv_actions out;
    kv_transfer_step(e->t, k->now_ns, event, &out);
    kv_transfer_check(e->t);
    e->wake_ns = out.wake_ns;
    for (uint32_t i = 0; i < out.n; i++) {
        const kv_action *a = &out.at[i];
        link_post p = {a->slot, a->bytes, a->n_bytes};
        assert_false(e->closing);
        switch (a->verb) {
        case KV_POST_SEND: e->sends[e->n_sends++] = p; break;
        case KV_POST_RECV:
            memset(p.bytes, 0xa5, p.n_bytes);
            e->receives[e->n_receives++] = p;
            break;
        case KV_CANCEL: e->cancels[e->n_cancels++] = a->slot; break;
        case KV_CLOSE:
            forget_posts(e);
            e->closing = true;
            break;
        }
        assert_true(e->n_sends + e->n_receives <= LINK_MAX_POSTS);
    }
}

static void send_done(memory_link *k, kv_transfer_role role) {
    link_end *e = &k->ends[role];
    link_post p = e->sends[0];
    memmove(e->sends, e->sends + 1, --e->n_sends * sizeof p);
    if (k->plan.rewrite[role]) k->plan.rewrite[role](p.bytes, p.n_bytes);
    transmit(k, &k->ends[!role], &p);
    memset(p.bytes, 0xa5, p.n_bytes); /* nobody reads it again */
    link_step(k, role, &(kv_event){.kind = KV_EVENT_SENT, .slot = p.slot});
}

static void deliver(memory_link *k, kv_transfer_role role, uint32_t i) {
    link_end *e = &k->ends[role];
    link_parcel p = take_parcel(e, i);
    link_post to = e->receives[0];
    memmove(e->receives, e->receives + 1, --e->n_receives * sizeof to);
    memcpy(to.bytes, p.bytes, p.n_bytes < to.n_bytes ? p.n_bytes : to.n_bytes);
    kv_transfer_counts before = *kv_transfer_counted(e->t);
    link_step(k, role, &(kv_event){.kind = KV_EVENT_RECEIVED, .slot = to.slot, .n_bytes = p.n_bytes});
    const kv_transfer_counts *after = kv_transfer_counted(e->t);
    if (p.harmed) {
        k->counts->harmed++;
        assert_int_equal(after->accepted, before.accepted);
        assert_int_equal(after->n_stored, before.n_stored);
    }
    mem_free(p.bytes);
}

static void cancel_done(memory_link *k, kv_transfer_role role) {
    link_end *e = &k->ends[role];
    uint32_t slot = e->cancels[--e->n_cancels];
    for (uint32_t i = 0; i < e->n_receives; i++) {
        if (e->receives[i].slot != slot) continue;
        e->receives[i] = e->receives[--e->n_receives];
        link_step(k, role, &(kv_event){.kind = KV_EVENT_FAILED, .slot = slot});
        return; /* else a message had come first */
    }
}

/* ---- what can happen ---- */

typedef struct {
    enum { SEND_DONE, DELIVER, CANCEL_DONE, CLOSE_DONE, BREAK } what;
    kv_transfer_role role;
    uint32_t parcel;
} chance;

static uint32_t chances_of(memory_link *k, kv_transfer_role role, chance out[8]) {
    link_end *e = &k->ends[role];
    uint32_t n = 0, due = 0;
    if (is_over(e)) return 0;
    if (e->closing) {
        out[n++] = (chance){CLOSE_DONE, role, 0};
        return n;
    }
    while (due < e->n_inbox && e->inbox[due].at_ns > k->now_ns) due++;
    if (e->n_sends) out[n++] = (chance){SEND_DONE, role, 0};
    if (e->n_receives && due < e->n_inbox) out[n++] = (chance){DELIVER, role, due};
    if (e->n_cancels) out[n++] = (chance){CANCEL_DONE, role, 0};
    if (is_over(&k->ends[!role]) && !e->broken && !(k->plan.silent && !k->ends[!role].t)) out[n++] = (chance){BREAK, role, 0};
    return n;
}

static void happen(memory_link *k, chance c) {
    switch (c.what) {
    case SEND_DONE: send_done(k, c.role); break;
    case DELIVER: deliver(k, c.role, c.parcel); break;
    case CANCEL_DONE: cancel_done(k, c.role); break;
    case CLOSE_DONE: link_step(k, c.role, &(kv_event){.kind = KV_EVENT_CLOSED}); break;
    case BREAK:
        k->ends[c.role].broken = true;
        link_step(k, c.role, &(kv_event){.kind = KV_EVENT_PEER_LOST});
        break;
    }
}

static uint64_t next_time(const memory_link *k) {
    uint64_t next = UINT64_MAX;
    for (int r = 0; r < 2; r++) {
        const link_end *e = &k->ends[r];
        if (is_over(e)) continue;
        if (e->wake_ns < next) next = e->wake_ns;
        for (uint32_t i = 0; i < e->n_inbox; i++)
            if (e->inbox[i].at_ns > k->now_ns && e->inbox[i].at_ns < next) next = e->inbox[i].at_ns;
    }
    return next;
}

static void planned(memory_link *k) {
    k->turn++;
    for (int r = 0; r < 2; r++) {
        link_end *e = &k->ends[r];
        if (k->turn == k->plan.die_at && r == (int)k->plan.dies) {
            forget_posts(e);
            e->t = NULL;
        }
        if (k->turn == k->plan.cancel_at[r] && !is_over(e))
            link_step(k, (kv_transfer_role)r, &(kv_event){.kind = KV_EVENT_CANCEL});
    }
}

bool link_turn(memory_link *k) {
    chance chances[16];
    kv_event ready;
    planned(k);
    uint32_t n = chances_of(k, KV_SOURCE, chances);
    n += chances_of(k, KV_TARGET, chances + n);
    /* what the peer is told with the end of the link comes behind the messages that were sent before it */
    for (uint32_t i = 0; i < n; i++)
        if (chances[i].what == BREAK && n > 1) chances[i] = chances[--n];
    bool computes = k->plan.slow ? n == 0 && draw(k, 8) == 0 : n == 0 || draw(k, 4) == 0;
    if (!is_over(&k->ends[KV_SOURCE]) && computes && k->next_ready && k->next_ready(k->context, &ready)) {
        link_step(k, KV_SOURCE, &ready);
        return true;
    }
    if (n > 0) {
        k->now_ns += draw(k, 20000);
        happen(k, chances[draw(k, n)]);
    } else {
        uint64_t next = next_time(k);
        if (next == UINT64_MAX) return false;
        k->now_ns = next;
    }
    for (int r = 0; r < 2; r++)
        if (!is_over(&k->ends[r]) && k->ends[r].wake_ns <= k->now_ns)
            link_step(k, (kv_transfer_role)r, &(kv_event){.kind = KV_EVENT_TIME});
    return true;
}

void link_free_parcels(memory_link *k) {
    for (int r = 0; r < 2; r++) forget_posts(&k->ends[r]);
}
