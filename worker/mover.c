/* The mover's thread: one loop over mail, the transports' events, and time.
 *
 * What: a flow is a transfer with its link. The link owns the memory that the transfer and its slots lie in, since a transport
 * may hold on to it longer than anybody waits; so after CLOSED, which is the transfer's last event, neither is touched again.
 * Which transport: the first of the list that both ends have and that reaches; both ends have the same list. The target calls.
 * Threads: hooks touch blocks that no plan names (kv.h), everything else here is the mover's own. Limits: MAX_MOVES at once, and
 * MOVE_BYTES of slots each; one order that is too much is answered with an error, and the KV is computed. */
#include "worker/mover.h"

#include "base/fault.h"
#include "base/mailbox.h"
#include "base/mem.h"
#include "base/sha256.h"
#include "parallel/clock.h"
#include "worker/raw_flow.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum {
    MAILBOX_ITEMS = 512,
    MAX_MOVES = 64,
    PART_BYTES = 128 << 10, /* of a message: see kv/transfer.c */
    MOVE_BYTES = 512 << 10, /* in flight, or two parts: what is checked and copied is then still in a cache of its own */
    POLLED_BYTES = 2 << 20, /* a source's, by a transport that naps between looks: the target is not to wait for the next look */
    SCRATCH_BYTES = 2 * PROTO_MAX_SCRATCH_BYTES, /* of a measurement: more than a cache of its own holds */
    SCRATCH_TOKEN = PROTO_SCRATCH_UNIT,
    MAX_TRIES = 32,      /* nearly a lease: a host with much to do is not a broken link */
    EVENTS_A_TURN = 256, /* of a transport, before others and the mail have theirs */
    QUIT_MS = 500,
    STALL_MS = 100, /* a fault */
};
static const uint64_t MS = 1000000;

enum { MAIL_ORDER, MAIL_READY, MAIL_CANCEL, MAIL_QUIT };

typedef struct move move;

typedef struct {
    move *m;
    proto_flow said; /* addresses below */
    proto_address addresses[PROTO_MAX_TRANSPORTS];
    uint8_t key[PROTO_KEY_BYTES];
    transport *way;
    transport_link *link; /* NULL: not open any more, and neither are t and raw */
    kv_transfer *t;       /* in the link's memory, as is that of raw */
    bool is_raw;
    raw_flow raw;
    size_t bytes;
    uint64_t wake_ns;
} flow;

struct move {
    move *next;
    mover *of;
    proto_move order; /* without views */
    proto_moved result;
    bool cancelled;
    uint32_t n_open;                      /* flows */
    uint64_t began_ns, first_ns, last_ns; /* first, last: a message of scratch */
    size_t first_bytes;                   /* of the first */
    uint8_t *scratch;                     /* [SCRATCH_BYTES] */
    uint32_t *blocks;                     /* [order.n_blocks] behind the flows */
    flow flows[];                         /* [order.n_flows] */
};

typedef struct {
    uint64_t id;
    uint32_t n_ready;
} note; /* of READY and CANCEL */

struct mover {
    mover_options o;
    mailbox *mail;
    int wake_fd;
    pthread_t thread;
    move *moves;
    uint32_t n_moves;
    bool quits;
    uint64_t quit_by_ns, now_ns;
};

/* ---- hooks ---- */

static st_code tag(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    const flow *f = context;
    return sha256_hmac(f->m->of->o.secret, MOVER_SECRET_BYTES, text, n, out);
}

static uint32_t block_of(const move *m, const kv_piece *p) { return m->blocks[p->block]; }

/* Heads as the store counts them. */
static kv_piece local(const move *m, const kv_piece *p) {
    kv_piece own = *p;
    own.heads.first -= m->of->o.held.first; /* of a range that it holds: take_order sees to that */
    return own;
}

static st_code load(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    const move *m = ((flow *)context)->m;
    kv_piece own = local(m, p);
    return kv_store_load(m->of->o.store, block_of(m, p), &own, bytes, n);
}

static st_code store(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    const move *m = ((flow *)context)->m;
    kv_piece own = local(m, p);
    return kv_store_store(m->of->o.store, block_of(m, p), &own, bytes, n);
}

/* Two at least, as the largest piece says. */
static uint32_t scratch_places(const proto_move *m) { return SCRATCH_BYTES / m->scratch.piece_bytes; }

static uint8_t *scratch_at(const move *m, const kv_piece *p) {
    return m->scratch + (size_t)(p->block % scratch_places(&m->order)) * m->order.scratch.piece_bytes + p->first_byte;
}

static void note_message(move *m, size_t n) {
    m->last_ns = parallel_now_ns();
    if (m->first_ns) return;
    m->first_ns = m->last_ns;
    m->first_bytes = n;
}

static st_code load_scratch(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    memcpy(bytes, scratch_at(((flow *)context)->m, p), n);
    return ST_OK;
}

static st_code store_scratch(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    move *m = ((flow *)context)->m;
    kernels_copy_past_cache(scratch_at(m, p), bytes, n); /* as into a block */
    note_message(m, n);
    return ST_OK;
}

/* ---- a flow ---- */

static void fail(move *m, const flow *f, st_code code, const char *text) {
    if (m->result.code) return; /* the first says it */
    m->result.code = code;
    snprintf(m->result.message, sizeof m->result.message, "rank %u %s rank %u of the other group: %s", m->of->o.rank,
             m->order.target ? "from" : "to", f->said.peer, text);
}

/* Its link is closed, or was never open. */
static void flow_over(flow *f, st_code code, const char *text) {
    move *m = f->m;
    f->link = NULL;
    f->t = NULL;
    if (code)
        fail(m, f, code, text);
    else
        m->result.bytes += f->bytes;
    m->n_open--;
}

/* Both are the peer's to find out. */
static void send_it(flow *f, const kv_action *a) {
    size_t n = a->n_bytes;
    if (!f->is_raw && fault_hits(FAULT_MOVE_FLIP)) a->bytes[n / 2] ^= 1;
    if (!f->is_raw && fault_hits(FAULT_MOVE_SHORT)) n /= 2;
    f->way->ops->post_send(f->link, a->slot, a->bytes, n);
}

static void carry_out(flow *f, const kv_actions *a) {
    const transport_ops *ops = f->way->ops;
    f->wake_ns = a->wake_ns;
    for (uint32_t i = 0; i < a->n; i++) {
        const kv_action *at = &a->at[i];
        switch (at->verb) {
        case KV_POST_SEND: send_it(f, at); break;
        case KV_POST_RECV: ops->post_recv(f->link, at->slot, at->bytes, at->n_bytes); break;
        case KV_CANCEL: ops->cancel(f->link, at->slot); break;
        case KV_CLOSE: ops->close(f->link); break;
        }
    }
}

static void step(flow *f, const kv_event *e) {
    kv_actions a;
    st_error why = {0};
    st_code code = ST_OK;
    uint64_t now = parallel_now_ns();
    if (!f->link) return;
    if (f->is_raw) {
        if (e->kind == KV_EVENT_RECEIVED) note_message(f->m, e->n_bytes);
        raw_flow_step(&f->raw, now, e, &a);
    } else
        kv_transfer_step(f->t, now, e, &a);
    carry_out(f, &a);
    if (f->is_raw ? raw_flow_over(&f->raw, &code) : kv_transfer_over(f->t, &code, &why))
        flow_over(f, code, why.message[0] ? why.message : st_text(code));
}

static void on_event(const transport_event *e) {
    static const kv_event_kind kinds[] = {[TRANSPORT_SENT] = KV_EVENT_SENT,
                                          [TRANSPORT_RECEIVED] = KV_EVENT_RECEIVED,
                                          [TRANSPORT_FAILED] = KV_EVENT_FAILED,
                                          [TRANSPORT_PEER_LOST] = KV_EVENT_PEER_LOST,
                                          [TRANSPORT_CLOSED] = KV_EVENT_CLOSED};
    step(e->context, &(kv_event){.kind = kinds[e->kind], .slot = e->slot, .n_bytes = e->n_bytes});
    if (e->kind == TRANSPORT_RECEIVED && fault_hits(FAULT_MOVE_CUT)) step(e->context, &(kv_event){.kind = KV_EVENT_PEER_LOST});
}

/* ---- to open one ---- */

/* Of the peer, on a transport of that name; NULL: it has none. */
static const char *address_of(const flow *f, const char *name) {
    for (uint32_t i = 0; i < f->said.n_addresses; i++)
        if (!strcmp(f->addresses[i].transport, name)) return f->addresses[i].address;
    return NULL;
}

static transport *choose(const mover *v, const flow *f, const char **address) {
    for (uint32_t i = 0; i < v->o.n_transports; i++) {
        transport *t = v->o.transports[i];
        const char *name = t->ops->name, *way = f->m->order.way;
        *address = address_of(f, name);
        if ((!way[0] || !strcmp(way, name)) && *address && t->ops->reaches(t, *address)) return t;
    }
    return NULL;
}

static kv_flow describe(const mover *v, const flow *f) {
    const proto_move *m = &f->m->order;
    const kernels_kv *kv = kv_store_view(v->o.store);
    kv_flow d = {.order = m->by_layer ? KV_BY_LAYER : KV_BY_BLOCK,
                 .n_layers = kv->n_layers,
                 .n_kv_heads = v->o.n_kv_heads,
                 .head_dim = kv->head_dim,
                 .block_tokens = NOUNS_BLOCK_TOKENS,
                 .token_bytes = (uint32_t)(kernels_kv_row_bytes(kv->type[0], kv->head_dim) +
                                           kernels_kv_row_bytes(kv->type[1], kv->head_dim)),
                 .n_tokens = m->n_tokens,
                 .part_bytes = PART_BYTES,
                 .source = m->target ? f->said.peer : v->o.rank,
                 .target = m->target ? v->o.rank : f->said.peer,
                 .heads = {f->said.first_head, f->said.n_heads}};
    memcpy(d.model, v->o.model, sizeof d.model);
    if (!m->scratch.n_pieces) {
        snprintf(d.type, sizeof d.type, "%s", v->o.kv_type);
        return d;
    }
    snprintf(d.type, sizeof d.type, "scratch");
    d.n_layers = d.n_kv_heads = d.head_dim = 1;
    d.heads = (kv_heads){0, 1};
    d.token_bytes = SCRATCH_TOKEN;
    d.block_tokens = m->scratch.piece_bytes / SCRATCH_TOKEN;
    d.n_tokens = m->scratch.n_pieces * d.block_tokens;
    return d;
}

static size_t piece_bytes(const kv_flow *d) { return (size_t)d->heads.n * d->block_tokens * d->token_bytes; }

static uint32_t count_slots(const flow *f, size_t message) {
    const proto_move *m = &f->m->order;
    size_t n = (!m->target && f->way->ops->polled ? POLLED_BYTES : MOVE_BYTES) / m->n_flows / message;
    return n < 2 ? 2 : n > KV_TRANSFER_MAX_SLOTS ? KV_TRANSFER_MAX_SLOTS : (uint32_t)n;
}

/* *memory: what the link is to own. */
static st_code make_transfer(const mover *v, flow *f, void **memory, st_error *e) {
    const proto_move *m = &f->m->order;
    bool scratch = m->scratch.n_pieces > 0;
    kv_transfer_config c = {.role = m->target ? KV_TARGET : KV_SOURCE,
                            .handle = {m->id, m->generation},
                            .flow = describe(v, f),
                            .lease_ns = m->lease_ms * MS,
                            .retry_ns = m->retry_ms * MS,
                            .max_tries = MAX_TRIES,
                            .hooks = {f, scratch ? load_scratch : load, scratch ? store_scratch : store, tag}};
    const size_t piece = piece_bytes(&c.flow);
    c.n_slots = count_slots(f, piece < PART_BYTES ? piece : PART_BYTES);
    f->bytes = piece / c.flow.block_tokens * c.flow.n_tokens * c.flow.n_layers;
    size_t bytes = kv_transfer_bytes(&c);
    if (!bytes) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "no flow of this size");
    if (getrandom(c.nonce, sizeof c.nonce, 0) != (ssize_t)sizeof c.nonce)
        return st_fail(e, ST_FATAL_INTERNAL, "no random numbers: %s", strerror(errno));
    *memory = mem_alloc_aligned(bytes, 1, 64);
    if (!*memory) return st_fail(e, ST_FATAL_MEMORY, "no memory for a transfer of %zu bytes", bytes);
    f->t = kv_transfer_init(*memory, &c, parallel_now_ns());
    return ST_OK;
}

static st_code make_raw(flow *f, void **memory, st_error *e) {
    const proto_move *m = &f->m->order;
    f->is_raw = true;
    f->raw = (raw_flow){.role = m->target ? KV_TARGET : KV_SOURCE,
                        .n_slots = count_slots(f, m->scratch.piece_bytes),
                        .n_places = scratch_places(m),
                        .piece_bytes = m->scratch.piece_bytes,
                        .n_pieces = m->scratch.n_pieces,
                        .lease_ns = m->lease_ms * MS};
    f->bytes = (size_t)m->scratch.piece_bytes * m->scratch.n_pieces;
    *memory = f->raw.memory = mem_alloc_aligned(raw_flow_bytes(&f->raw), 1, 64);
    return *memory ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "no memory for slots");
}

static st_code open_flow(mover *v, flow *f, st_error *e) {
    const proto_move *m = &f->m->order;
    const char *address;
    void *memory = NULL;
    f->way = choose(v, f, &address);
    if (!f->way)
        return st_fail(e, ST_ERR_UNSUPPORTED, "no transport that both have reaches it%s%s", m->way[0] ? ", and is " : "", m->way);
    st_code code = m->scratch.raw ? make_raw(f, &memory, e) : make_transfer(v, f, &memory, e);
    transport_call call = {.address = address,
                           .calls = m->target,
                           .deadline_ns = parallel_now_ns() + m->lease_ms * MS,
                           .context = f,
                           .memory = memory};
    memcpy(call.key, f->key, sizeof call.key);
    if (!code) code = f->way->ops->open(f->way, &call, &f->link, e);
    if (code) mem_free(memory);
    return code;
}

/* ---- orders ---- */

static void ready(move *m, uint32_t n_blocks) {
    kv_event e = {.kind = KV_EVENT_READY, .layer = KV_ALL_LAYERS, .n_blocks = n_blocks};
    uint32_t most = m->order.scratch.n_pieces ? m->order.scratch.n_pieces : m->order.n_blocks;
    if (m->order.target || n_blocks > most) return;
    for (uint32_t i = 0; i < m->order.n_flows; i++)
        if (!m->flows[i].is_raw) step(&m->flows[i], &e);
}

static void cancel(move *m) {
    if (m->cancelled) return;
    m->cancelled = true;
    for (uint32_t i = 0; i < m->order.n_flows; i++) step(&m->flows[i], &(kv_event){.kind = KV_EVENT_CANCEL});
}

static bool holds(const mover *v, const proto_flow *f) {
    const kv_heads *h = &v->o.held;
    return f->first_head >= h->first && f->first_head - h->first < h->n && f->n_heads <= h->n - (f->first_head - h->first);
}

static st_code check_order(const mover *v, const move *m, const char **text) {
    bool good = true;
    for (uint32_t i = 0; i < m->order.n_flows; i++) good &= m->order.scratch.n_pieces || holds(v, &m->flows[i].said);
    for (uint32_t i = 0; i < m->order.n_blocks; i++) good &= m->blocks[i] < kv_store_view(v->o.store)->n_blocks;
    *text =
        v->n_moves == MAX_MOVES ? "more moves at once than a rank carries out" : "heads or blocks that this rank does not have";
    return v->n_moves == MAX_MOVES ? ST_ERR_RESOURCE_EXHAUSTED : good ? ST_OK : ST_ERR_INVALID_ARGUMENT;
}

static st_code make_scratch(move *m) {
    if (!m->order.scratch.n_pieces || m->order.scratch.raw) return ST_OK;
    m->scratch = mem_map(SCRATCH_BYTES);
    if (m->scratch) memset(m->scratch, 0x5a, SCRATCH_BYTES); /* pages that were never touched would cost their first touch */
    return m->scratch ? ST_OK : ST_FATAL_MEMORY;
}

static void take_order(mover *v, move *m) {
    const char *text = "no memory";
    st_error e = {0};
    m->began_ns = parallel_now_ns();
    m->n_open = m->order.n_flows;
    st_code code = check_order(v, m, &text);
    m->next = v->moves;
    v->moves = m;
    v->n_moves++;
    if (!code) code = make_scratch(m);
    for (uint32_t i = 0; i < m->order.n_flows; i++) {
        flow *f = &m->flows[i];
        st_code own = code ? code : open_flow(v, f, &e);
        if (own)
            flow_over(f, own, code ? text : e.message);
        else
            step(f, &(kv_event){.kind = KV_EVENT_TIME});
    }
    ready(m, m->order.scratch.n_pieces ? m->order.scratch.n_pieces : m->order.n_ready);
}

static move *find(const mover *v, uint64_t id) {
    move *m = v->moves;
    while (m && m->order.id != id) m = m->next;
    return m;
}

static bool take_mail(mover *v) {
    mailbox_item item;
    uint64_t count;
    bool any = false;
    (void)!read(v->wake_fd, &count, sizeof count);
    for (; mailbox_try_take(v->mail, &item); any = true) {
        if (item.kind == MAIL_ORDER) {
            take_order(v, item.data);
            continue;
        }
        const note *n = item.data;
        move *m = n ? find(v, n->id) : NULL;
        if (item.kind == MAIL_QUIT) v->quits = true;
        if (m && item.kind == MAIL_READY) ready(m, n->n_ready);
        if (m && item.kind == MAIL_CANCEL) cancel(m);
        mem_free(item.data);
    }
    return any;
}

/* ---- the thread ---- */

static void free_move(move *m) {
    mem_unmap(m->scratch, SCRATCH_BYTES);
    mem_free(m);
}

static void answer(move *m) {
    proto_moved *r = &m->result;
    r->took_ns = parallel_now_ns() - m->began_ns;
    if (m->order.scratch.n_pieces > 1 && m->order.target && !r->code) { /* from the first message on: without the handshake */
        r->took_ns = m->last_ns - m->first_ns;
        r->bytes -= m->first_bytes;
    }
    for (uint32_t i = 0; i < m->order.n_flows; i++) {
        const transport *way = m->flows[i].way;
        const char *name = way ? way->ops->name : "";
        if (i && strcmp(name, r->way))
            snprintf(r->way, sizeof r->way, "several");
        else if (!i)
            snprintf(r->way, sizeof r->way, "%s", name);
    }
    m->of->o.moved(m->of->o.context, r);
}

/* Where one flow failed the others are of no use; where none is left, the coordinator hears of it. */
static void sweep(mover *v) {
    for (move **at = &v->moves; *at;) {
        move *m = *at;
        if (m->result.code || v->quits) cancel(m);
        if (m->n_open) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        v->n_moves--;
        answer(m);
        free_move(m);
    }
}

static bool take_events(mover *v) {
    bool any = false;
    for (uint32_t i = 0; i < v->o.n_transports; i++) {
        transport *t = v->o.transports[i];
        transport_event e;
        for (uint32_t n = 0; n < EVENTS_A_TURN && t->ops->test(t, &e); n++) {
            on_event(&e);
            any = true;
        }
    }
    return any;
}

/* Those whose time has come; *wake_ns: when the next one's does. */
static bool take_time(mover *v, uint64_t *wake_ns) {
    bool any = false;
    *wake_ns = v->quits ? v->quit_by_ns : UINT64_MAX;
    uint64_t now = parallel_now_ns();
    for (move *m = v->moves; m; m = m->next)
        for (uint32_t i = 0; i < m->order.n_flows; i++) {
            flow *f = &m->flows[i];
            if (f->link && f->wake_ns <= now) {
                step(f, &(kv_event){.kind = KV_EVENT_TIME});
                any = true;
            }
            if (f->link && f->wake_ns < *wake_ns) *wake_ns = f->wake_ns;
        }
    return any;
}

static void *run(void *context) {
    mover *v = context;
    for (;;) {
        uint64_t wake_ns;
        bool any = take_mail(v);
        if (v->moves && fault_hits(FAULT_MOVE_STALL)) nanosleep(&(struct timespec){.tv_nsec = STALL_MS * (long)MS}, NULL);
        if (v->quits && !v->quit_by_ns) v->quit_by_ns = parallel_now_ns() + QUIT_MS * MS;
        any |= take_events(v);
        any |= take_time(v, &wake_ns);
        sweep(v);
        if (v->quits && (!v->moves || parallel_now_ns() >= v->quit_by_ns)) return NULL;
        if (!any) transport_wait(v->o.transports, v->o.n_transports, v->wake_fd, wake_ns);
    }
}

/* ---- from outside ---- */

static st_code post(mover *v, uint32_t kind, void *data) {
    const uint64_t one = 1;
    if (!mailbox_post(v->mail, &(mailbox_item){.kind = kind, .data = data})) {
        mem_free(data);
        return ST_FATAL_PROTOCOL;
    }
    return write(v->wake_fd, &one, sizeof one) == (ssize_t)sizeof one ? ST_OK : ST_FATAL_INTERNAL;
}

st_code mover_order(mover *v, const proto_move *order) {
    size_t flows = order->n_flows * sizeof(flow);
    move *m = mem_alloc(1, sizeof *m + flows + order->n_blocks * sizeof *m->blocks);
    if (!m) return ST_FATAL_MEMORY;
    m->of = v;
    m->order = *order;
    m->order.blocks = NULL;
    m->order.flows = NULL;
    m->result.id = order->id;
    m->blocks = (uint32_t *)(void *)((char *)m->flows + flows);
    if (order->n_blocks) memcpy(m->blocks, order->blocks, order->n_blocks * sizeof *m->blocks);
    for (uint32_t i = 0; i < order->n_flows; i++) {
        const proto_flow *from = &order->flows[i];
        flow *f = &m->flows[i];
        INVARIANT(from->n_addresses <= PROTO_MAX_TRANSPORTS);
        f->m = m;
        f->said = (proto_flow){
            .peer = from->peer, .first_head = from->first_head, .n_heads = from->n_heads, .n_addresses = from->n_addresses};
        memcpy(f->addresses, from->addresses, from->n_addresses * sizeof *f->addresses);
        memcpy(f->key, from->key, sizeof f->key);
    }
    return post(v, MAIL_ORDER, m);
}

static st_code post_note(mover *v, uint32_t kind, uint64_t id, uint32_t n_ready) {
    note *n = mem_alloc(1, sizeof *n);
    if (!n) return ST_FATAL_MEMORY;
    *n = (note){id, n_ready};
    return post(v, kind, n);
}

st_code mover_ready(mover *v, uint64_t id, uint32_t n_ready) { return post_note(v, MAIL_READY, id, n_ready); }

st_code mover_cancel(mover *v, uint64_t id) { return post_note(v, MAIL_CANCEL, id, 0); }

static void drop_mail(mailbox_item *item) { mem_free(item->data); }

static void dispose(mover *v) {
    while (v->moves) { /* what lies in memory of links that are still open goes with their transport */
        move *m = v->moves;
        v->moves = m->next;
        free_move(m);
    }
    if (v->wake_fd >= 0) close(v->wake_fd);
    mailbox_destroy(v->mail, drop_mail);
    mem_free(v);
}

st_code mover_start(const mover_options *o, mover **out, st_error *e) {
    INVARIANT(o->n_transports <= TRANSPORT_MAX_KINDS);
    mover *v = mem_alloc(1, sizeof *v);
    if (!v) return st_fail(e, ST_FATAL_MEMORY, "no memory for a mover");
    v->o = *o;
    v->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    st_code code = mailbox_create(MAILBOX_ITEMS, &v->mail);
    if (!code && v->wake_fd < 0) code = st_fail(e, ST_FATAL_INTERNAL, "no eventfd for the mover: %s", strerror(errno));
    if (!code && pthread_create(&v->thread, NULL, run, v))
        code = st_fail(e, ST_FATAL_INTERNAL, "cannot start the mover's thread");
    if (code) {
        dispose(v);
        return code;
    }
    *out = v;
    return ST_OK;
}

void mover_stop(mover *v) {
    if (!v) return;
    while (post(v, MAIL_QUIT, NULL)) { /* full: what is in it is of no use any more */
        mailbox_item old;
        if (mailbox_try_take(v->mail, &old)) mem_free(old.data);
    }
    pthread_join(v->thread, NULL);
    dispose(v);
}
