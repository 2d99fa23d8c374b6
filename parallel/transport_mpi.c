/* Transport by MPI: nonblocking messages between two ranks of the world, on a communicator of their own.
 *
 *     caller ──tag 0: key, tag T──> called       kept there until a link waits for that key
 *     caller <──T: one byte──────── called       they have met
 *     either ──T: messages────────> the other    T is used once; of two ranks the lower one calls with even tags
 *     either ──T: no byte─────────> the other    behind the last message: it has closed
 *
 * What: a message is matched (MPI_Improbe) when there is a slot for it, its size is looked at, then it is received; so a slot
 * that waits can always be taken back. What was begun cannot: a link that is closed waits CLOSE_NS for it, then is CLOSED and
 * drops what still comes until the peer has closed too, as a sender would otherwise never be done. What is then still not done,
 * since the peer is dead, stays as an orphan with its memory; they are looked at when something else is, and bounded. Why no
 * MPI_Cancel: for sends it does not work, and with receives that are matched late it is not needed. Limits: MPI reports no death
 * and has nothing to sleep on: links are polled with growing naps. Whichever thread calls MPI copies the bytes that are due, so a
 * large message can hold up a collective. */
#include "parallel/clock.h"
#include "parallel/transport_int.h"
#include "parallel/world.h"
#include "parallel/world_int.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELLO_TAG = 0, HELLO_BYTES = TRANSPORT_KEY_BYTES + 4, MAX_EARLY = 64, MAX_ORPHANS = 64, LEAST_MAX_TAG = 32767 };
static const uint64_t FIRST_NAP_NS = 20000, LONGEST_NAP_NS = 1000000, CLOSE_NS = 1000000000, LINGER_NS = 2000000000;

typedef enum { CALLING, WAITING, OPEN, LOST, CLOSING, LINGERING } link_state;

typedef struct {
    uint8_t *bytes;
    size_t n;
    enum { FREE, SENDING, RECEIVING } use;
    MPI_Request request; /* MPI_REQUEST_NULL: not begun */
    transport_news news;
} slot;

typedef struct transport_mpi_kind transport_mpi_kind;

struct transport_link {
    transport_mpi_kind *t;
    transport_link *next;
    link_state state;
    bool ended; /* the peer's last message has come */
    int peer, tag;
    transport_call call;
    uint8_t hello[HELLO_BYTES]; /* or the answer to one */
    MPI_Request greeting;
    MPI_Message held; /* matched, and without a slot so far */
    size_t n_held;
    uint8_t *dropped; /* what no slot takes is received here */
    MPI_Request dropping;
    uint32_t n_matched; /* the first of `receives` have their message */
    transport_order sends, receives;
    slot slots[TRANSPORT_MAX_SLOTS];
    uint64_t close_at_ns; /* CLOSING, LINGERING; 0: an orphan */
    transport_news lost, closed;
};

typedef struct {
    uint8_t key[TRANSPORT_KEY_BYTES];
    int peer, tag;
} early;

struct transport_mpi_kind {
    transport base;
    const world_messages *w;
    transport_link *links;
    uint32_t n_open, n_orphans; /* until CLOSED; after LINGERING */
    int max_tag;
    int *n_calls; /* [n_ranks] to each */
    early early[MAX_EARLY];
    uint32_t n_early;
    transport_queue news;
    uint64_t nap_ns;
};

static void tell(transport_link *k, transport_news *news, transport_event_kind kind, uint32_t i, size_t n_bytes) {
    transport_tell(&k->t->news, news,
                   &(transport_event){.context = k->call.context, .kind = kind, .slot = i, .n_bytes = n_bytes});
}

static void give_back(transport_link *k, uint32_t i, transport_event_kind kind, size_t n_bytes) {
    slot *s = &k->slots[i];
    transport_order_remove(s->use == SENDING ? &k->sends : &k->receives, i);
    s->use = FREE;
    if (k->state < LINGERING) tell(k, &s->news, kind, i, n_bytes);
}

/* What was begun ends by itself. */
static void fail_idle_slots(transport_link *k) {
    for (uint32_t i = 0; i < TRANSPORT_MAX_SLOTS; i++)
        if (k->slots[i].use != FREE && k->slots[i].request == MPI_REQUEST_NULL) give_back(k, i, TRANSPORT_FAILED, 0);
}

static void lose(transport_link *k) {
    k->state = LOST;
    tell(k, &k->lost, TRANSPORT_PEER_LOST, 0, 0);
    fail_idle_slots(k);
}

/* ---- messages ---- */

static bool begin_send(transport_link *k, const void *bytes, size_t n, int tag, MPI_Request *request) {
    return MPI_TURN(MPI_Isend(bytes, (int)n, MPI_BYTE, k->peer, tag, k->t->w->comm, request)) == MPI_SUCCESS;
}

static bool begin_slot(transport_link *k, uint32_t i) {
    return begin_send(k, k->slots[i].bytes, k->slots[i].n, k->tag, &k->slots[i].request);
}

/* *done, *n_bytes: of a request that was begun. An error is that of its message alone. */
static bool is_done(MPI_Request *request, bool *well) {
    int done = 0;
    if (*request == MPI_REQUEST_NULL) return false;
    *well = MPI_TURN(MPI_Test(request, &done, MPI_STATUS_IGNORE)) == MPI_SUCCESS;
    if (!*well) *request = MPI_REQUEST_NULL;
    return done || !*well;
}

/* The next message of (peer, tag), matched. */
static bool match(transport_mpi_kind *t, int peer, int tag, MPI_Message *m, int *from, size_t *n_bytes) {
    int found = 0, n = 0;
    MPI_Status status;
    if (MPI_TURN(MPI_Improbe(peer, tag, t->w->comm, &found, m, &status)) != MPI_SUCCESS || !found) return false;
    MPI_TURN(MPI_Get_count(&status, MPI_BYTE, &n));
    *from = status.MPI_SOURCE;
    *n_bytes = n > 0 ? (size_t)n : 0; /* MPI_UNDEFINED is negative */
    t->nap_ns = FIRST_NAP_NS;
    return true;
}

static bool receive(MPI_Message *m, uint8_t *bytes, size_t n, MPI_Request *request) {
    return MPI_TURN(MPI_Imrecv(bytes, (int)n, MPI_BYTE, m, request)) == MPI_SUCCESS;
}

/* A short message that was matched, whole: MPI has it already. */
static bool take(MPI_Message *m, uint8_t *bytes, size_t n) {
    return MPI_TURN(MPI_Mrecv(bytes, (int)n, MPI_BYTE, m, MPI_STATUS_IGNORE)) == MPI_SUCCESS;
}

/* Where the held message goes: a slot, nowhere, or it says that there are no more. False: the link is of no use. */
static bool place_held(transport_link *k) {
    MPI_Message m = k->held;
    const bool drops = k->state != OPEN;
    if (k->n_held == 0) {
        k->held = MPI_MESSAGE_NULL;
        k->ended = true;
        return take(&m, k->hello, 0);
    }
    if (k->n_held > TRANSPORT_MAX_MESSAGE) return false;
    const uint32_t i = k->n_matched < k->receives.n ? k->receives.at[k->n_matched] : TRANSPORT_MAX_SLOTS;
    if (!drops && i == TRANSPORT_MAX_SLOTS) return true; /* it waits */
    if (!drops && k->slots[i].n >= k->n_held) {
        k->slots[i].n = k->n_held; /* from here on: of the message */
        k->held = MPI_MESSAGE_NULL;
        k->n_matched++;
        return receive(&m, k->slots[i].bytes, k->n_held, &k->slots[i].request);
    }
    if (k->dropped || (!drops && k->n_matched)) return true; /* one at a time, and in order */
    k->dropped = mem_alloc(k->n_held, 1);
    if (!k->dropped) return false;
    if (!drops) give_back(k, i, TRANSPORT_FAILED, 0);
    k->held = MPI_MESSAGE_NULL;
    return receive(&m, k->dropped, k->n_held, &k->dropping);
}

/* False: the link is of no use. */
static bool hear(transport_link *k) {
    int from;
    for (uint32_t i = 0; i < TRANSPORT_MAX_SLOTS && !k->ended; i++) {
        if (k->held == MPI_MESSAGE_NULL && !match(k->t, k->peer, k->tag, &k->held, &from, &k->n_held)) return true;
        if (!place_held(k)) return false;
        if (k->held != MPI_MESSAGE_NULL) return true;
    }
    return true;
}

/* What was begun and is done now. True: nothing is begun any more. */
static bool settle(transport_link *k) {
    bool well;
    for (uint32_t i; k->sends.n && is_done(&k->slots[i = k->sends.at[0]].request, &well);)
        give_back(k, i, well ? TRANSPORT_SENT : TRANSPORT_FAILED, 0);
    for (uint32_t i; k->n_matched && is_done(&k->slots[i = k->receives.at[0]].request, &well); k->n_matched--)
        give_back(k, i, well ? TRANSPORT_RECEIVED : TRANSPORT_FAILED, well ? k->slots[i].n : 0);
    if (is_done(&k->dropping, &well)) {
        mem_free(k->dropped);
        k->dropped = NULL;
    }
    is_done(&k->greeting, &well);
    return k->greeting == MPI_REQUEST_NULL && !k->dropped && !k->n_matched &&
           !(k->sends.n && k->slots[k->sends.at[0]].request != MPI_REQUEST_NULL);
}

/* ---- meeting ---- */

static void be_open(transport_link *k) {
    k->state = OPEN;
    for (uint32_t i = 0; i < k->sends.n; i++)
        if (!begin_slot(k, k->sends.at[i])) {
            lose(k);
            return;
        }
}

static void answer(transport_link *k, const early *h) {
    k->peer = h->peer;
    k->tag = h->tag;
    k->hello[0] = 1;
    if (begin_send(k, k->hello, 1, k->tag, &k->greeting))
        be_open(k);
    else
        lose(k);
}

/* Calls that have come are kept in order; of too many the oldest go. */
static void hear_calls(transport_mpi_kind *t) {
    uint8_t hello[HELLO_BYTES];
    MPI_Message m;
    size_t n;
    for (int peer; match(t, MPI_ANY_SOURCE, HELLO_TAG, &m, &peer, &n);) {
        early h = {.peer = peer};
        if (!take(&m, hello, sizeof hello) || n != sizeof hello) continue;
        memcpy(h.key, hello, TRANSPORT_KEY_BYTES);
        memcpy(&h.tag, hello + TRANSPORT_KEY_BYTES, sizeof h.tag); /* ranks of one world are of one kind of machine */
        if (h.tag <= HELLO_TAG || h.tag > t->max_tag) continue;
        if (t->n_early == MAX_EARLY) memmove(&t->early[0], &t->early[1], --t->n_early * sizeof t->early[0]);
        t->early[t->n_early++] = h;
    }
}

static void meet(transport_link *k, uint64_t now_ns) {
    transport_mpi_kind *t = k->t;
    MPI_Message m;
    size_t n;
    int from;
    uint8_t said;
    if (k->state == CALLING && match(t, k->peer, k->tag, &m, &from, &n)) {
        if (take(&m, &said, sizeof said) && n == sizeof said)
            be_open(k);
        else
            lose(k);
        return;
    }
    if (k->state == WAITING) hear_calls(t);
    for (uint32_t i = 0; k->state == WAITING && i < t->n_early; i++)
        if (!memcmp(t->early[i].key, k->call.key, TRANSPORT_KEY_BYTES)) {
            const early h = t->early[i];
            memmove(&t->early[i], &t->early[i + 1], (--t->n_early - i) * sizeof t->early[0]);
            answer(k, &h);
        }
    if (k->state < OPEN && now_ns >= k->call.deadline_ns) lose(k);
}

/* ---- a turn of a link ---- */

static void end(transport_link *k, uint64_t now_ns) {
    k->state = LINGERING;
    k->close_at_ns = now_ns + LINGER_NS;
    k->t->n_open--;
    tell(k, &k->closed, TRANSPORT_CLOSED, 0, 0);
}

/* The caller has seen the end. True: the link is gone. */
static bool linger(transport_link **at, bool is_settled, uint64_t now_ns) {
    transport_link *k = *at;
    if (is_settled) {
        mem_free(k->call.memory);
        k->call.memory = NULL;
    }
    if (k->tag != HELLO_TAG && !k->ended && now_ns < k->close_at_ns) {
        hear(k);
        return false;
    }
    if (is_settled) {
        if (k->close_at_ns == 0) k->t->n_orphans--;
        *at = k->next;
        mem_free(k);
        return true;
    }
    if (k->close_at_ns && now_ns >= k->close_at_ns) {
        k->close_at_ns = 0;
        k->t->n_orphans++;
    }
    return false;
}

/* True: it is gone. */
static bool advance(transport_link **at, uint64_t now_ns) {
    transport_link *k = *at;
    const bool is_settled = settle(k);
    switch (k->state) {
    case CALLING:
    case WAITING: meet(k, now_ns); break;
    case OPEN:
        if (!hear(k) || (k->ended && !k->n_matched)) lose(k);
        break;
    case LOST: break;
    case CLOSING:
        if (k->tag != HELLO_TAG) hear(k);
        if (is_settled || now_ns >= k->close_at_ns) end(k, now_ns);
        break;
    case LINGERING: return k->closed.taken && linger(at, is_settled, now_ns);
    }
    return false;
}

static bool test(transport *base, transport_event *out) {
    transport_mpi_kind *t = (transport_mpi_kind *)base;
    if (transport_take(&t->news, out)) return true;
    const uint64_t now_ns = parallel_now_ns();
    for (transport_link **at = &t->links; *at;)
        if (!advance(at, now_ns)) at = &(*at)->next;
    if (!transport_take(&t->news, out)) return false;
    t->nap_ns = FIRST_NAP_NS;
    return true;
}

/* Orphans are worth no nap. */
static void wait_on(transport *base, int *fd, uint64_t *wake_ns) {
    transport_mpi_kind *t = (transport_mpi_kind *)base;
    bool polls = false;
    *fd = -1;
    *wake_ns = UINT64_MAX;
    for (const transport_link *k = t->links; k && !polls; k = k->next) polls = k->state < LINGERING || k->close_at_ns > 0;
    if (t->news.first)
        *wake_ns = 0;
    else if (polls)
        *wake_ns = parallel_now_ns() + t->nap_ns;
    if (t->nap_ns < LONGEST_NAP_NS) t->nap_ns *= 2;
}

/* ---- the caller's other verbs ---- */

static bool parse(const transport_mpi_kind *t, const char *address, int *peer) {
    char expected[TRANSPORT_ADDRESS_BYTES];
    const char *colon = strrchr(address, ':');
    char *rest;
    if (!colon) return false;
    const unsigned long rank = strtoul(colon + 1, &rest, 10);
    if (*rest || rank >= (unsigned long)t->w->n_ranks) return false;
    snprintf(expected, sizeof expected, "mpi:%016" PRIx64 ":%lu", t->w->job, rank);
    *peer = (int)rank;
    return !strcmp(address, expected);
}

static bool reaches(const transport *base, const char *address) {
    int peer;
    return parse((const transport_mpi_kind *)base, address, &peer);
}

/* A tag that was never used between the two ranks. */
static st_code call(transport_link *k, st_error *e) {
    transport_mpi_kind *t = k->t;
    int *n = &t->n_calls[k->peer];
    if (*n >= t->max_tag / 2 - 1) return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "mpi: all tags to rank %d were used", k->peer);
    k->tag = 2 * ++*n + (t->w->rank > k->peer);
    memcpy(k->hello, k->call.key, TRANSPORT_KEY_BYTES);
    memcpy(k->hello + TRANSPORT_KEY_BYTES, &k->tag, sizeof k->tag);
    if (begin_send(k, k->hello, HELLO_BYTES, HELLO_TAG, &k->greeting)) return ST_OK;
    return st_fail(e, ST_ERR_IO, "mpi: MPI_Isend to rank %d failed", k->peer);
}

static st_code open_link(transport *base, const transport_call *c, transport_link **out, st_error *e) {
    transport_mpi_kind *t = (transport_mpi_kind *)base;
    int peer = MPI_PROC_NULL;
    if (c->calls && !parse(t, c->address, &peer))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "mpi: \"%.*s\" is not an address that can be reached from %s",
                       TRANSPORT_ADDRESS_BYTES, c->address, base->address);
    for (const transport_link *k = t->links; k; k = k->next)
        if (k->state < CLOSING && !memcmp(k->call.key, c->key, TRANSPORT_KEY_BYTES))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "mpi: there is an open link with that key");
    if (t->n_open == TRANSPORT_MAX_LINKS || t->n_orphans >= MAX_ORPHANS)
        return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "mpi: %u links are open, and %u wait for ranks that do not answer",
                       t->n_open, t->n_orphans);
    transport_link *k = mem_alloc(1, sizeof *k);
    if (!k) return st_fail(e, ST_FATAL_MEMORY, "mpi: no memory for a link");
    *k = (transport_link){.t = t, .next = t->links, .state = c->calls ? CALLING : WAITING, .peer = peer, .call = *c};
    k->greeting = k->dropping = MPI_REQUEST_NULL;
    k->held = MPI_MESSAGE_NULL;
    for (uint32_t i = 0; i < TRANSPORT_MAX_SLOTS; i++) k->slots[i].request = MPI_REQUEST_NULL;
    st_code code = c->calls ? call(k, e) : ST_OK;
    if (code) {
        mem_free(k);
        return code;
    }
    t->links = k;
    t->n_open++;
    t->nap_ns = FIRST_NAP_NS;
    *out = k;
    return ST_OK;
}

static void post(transport_link *k, uint32_t i, uint8_t *bytes, size_t n, bool sends) {
    INVARIANT(k->state < CLOSING && i < TRANSPORT_MAX_SLOTS && k->slots[i].use == FREE && n > 0);
    k->slots[i].bytes = bytes;
    k->slots[i].n = n;
    k->slots[i].use = sends ? SENDING : RECEIVING;
    transport_order_add(sends ? &k->sends : &k->receives, i);
    k->t->nap_ns = FIRST_NAP_NS;
    if (k->state == LOST)
        give_back(k, i, TRANSPORT_FAILED, 0);
    else if (sends && k->state == OPEN && !begin_slot(k, i))
        lose(k);
}

static void post_send(transport_link *k, uint32_t i, const uint8_t *bytes, size_t n) {
    INVARIANT(n <= TRANSPORT_MAX_MESSAGE);
    post(k, i, (uint8_t *)bytes, n, true); /* it is not written to */
}

static void post_recv(transport_link *k, uint32_t i, uint8_t *bytes, size_t n) { post(k, i, bytes, n, false); }

static void cancel(transport_link *k, uint32_t i) {
    INVARIANT(k->state < CLOSING && i < TRANSPORT_MAX_SLOTS);
    if (k->slots[i].use != FREE && k->slots[i].request == MPI_REQUEST_NULL) give_back(k, i, TRANSPORT_FAILED, 0);
}

static void say_last(transport_link *k) {
    MPI_Request last;
    if (k->tag != HELLO_TAG && begin_send(k, NULL, 0, k->tag, &last)) MPI_TURN(MPI_Request_free(&last)); /* no bytes to keep */
}

static void close_link(transport_link *k) {
    INVARIANT(k->state < CLOSING);
    say_last(k);
    fail_idle_slots(k);
    k->state = CLOSING;
    k->close_at_ns = parallel_now_ns() + CLOSE_NS;
    k->t->nap_ns = FIRST_NAP_NS;
}

/* ---- life ---- */

/* What MPI may still touch is left to the end of the process. */
static void destroy(transport *base) {
    transport_mpi_kind *t = (transport_mpi_kind *)base;
    if (!t) return;
    for (transport_link *k = t->links, *next; k; k = next) {
        next = k->next;
        if (k->state < CLOSING) say_last(k);
        k->state = LINGERING;
        if (!settle(k)) continue;
        mem_free(k->call.memory);
        mem_free(k);
    }
    mem_free(t->n_calls);
    mem_free(t);
}

static const transport_ops ops = {.name = "mpi",
                                  .polled = true,
                                  .reaches = reaches,
                                  .open = open_link,
                                  .post_send = post_send,
                                  .post_recv = post_recv,
                                  .test = test,
                                  .cancel = cancel,
                                  .close = close_link,
                                  .wait_on = wait_on,
                                  .destroy = destroy};

static st_code create(const transport_options *o, transport **out, st_error *e) {
    const world_messages *w = world_messages_of_all();
    int *max_tag = NULL, known = 0;
    (void)o;
    if (w->n_ranks == 0) return st_fail(e, ST_ERR_UNSUPPORTED, "mpi: parallel_world_start comes first");
    transport_mpi_kind *t = mem_alloc(1, sizeof *t);
    if (t) *t = (transport_mpi_kind){.base = {.ops = &ops}, .w = w, .max_tag = LEAST_MAX_TAG, .nap_ns = FIRST_NAP_NS};
    if (t) t->n_calls = mem_alloc((size_t)w->n_ranks, sizeof *t->n_calls);
    if (!t || !t->n_calls) {
        mem_free(t);
        return st_fail(e, ST_FATAL_MEMORY, "mpi: no memory for a transport");
    }
    if (MPI_TURN(MPI_Comm_get_attr(w->comm, MPI_TAG_UB, &max_tag, &known)) == MPI_SUCCESS && known) t->max_tag = *max_tag;
    snprintf(t->base.address, sizeof t->base.address, "mpi:%016" PRIx64 ":%d", w->job, w->rank);
    *out = &t->base;
    return ST_OK;
}

const transport_kind transport_mpi = {.name = "mpi", .create = create};
