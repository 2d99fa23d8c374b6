/* One link of a stream against any bytes, while its caller does anything: the input is a script of posts, cancels, tests, and of
 * the bytes that the peer writes. Each message that is told is the next one of those bytes, whole; what is too long, or has lost
 * its slot, is left out; nothing is written behind a slot; a length out of range ends the link; in the end it closes. */
#include "base/mem.h"
#include "parallel/transport_stream.h"

#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 4, ROOM = 48, GUARD = 0xee };

typedef struct {
    const uint8_t *bytes; /* [n] of the peer, whatever the script says meanwhile */
    size_t n, n_read, n_may_read;
    size_t at; /* the next message that may be told */
    int socket;
} peer;

static peer *the_peer; /* the kind's functions have no context */

static int call(const char *address) {
    int ends[2];
    (void)address;
    INVARIANT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
    INVARIANT(write(ends[1], "CKVlink\1", 8) == 8);
    the_peer->socket = ends[1];
    return ends[0];
}

static bool welcome(int fd) { return fd >= 0; }
static bool offer(transport_pipe *p, int *fd) {
    (void)p;
    *fd = -1;
    return true;
}
static bool accept_none(transport_pipe *p, int fd) {
    (void)p, (void)fd;
    return false;
}
static void on_socket(transport_pipe *p, bool in, bool out) { (void)p, (void)in, (void)out; }
static bool sleeps(transport_pipe *p, bool reads, bool writes) {
    (void)p, (void)reads, (void)writes;
    return true;
}
static void drop(transport_pipe *p) { (void)p; }

static ssize_t read_some(transport_pipe *p, const struct iovec *at, int n) {
    size_t moved = 0;
    (void)p;
    for (int i = 0; i < n; i++) {
        size_t left = the_peer->n_may_read - the_peer->n_read, m = at[i].iov_len < left ? at[i].iov_len : left;
        if (m) memcpy(at[i].iov_base, the_peer->bytes + the_peer->n_read, m);
        the_peer->n_read += m;
        moved += m;
    }
    return moved || the_peer->n_read < the_peer->n ? (ssize_t)moved : -1;
}

static ssize_t write_some(transport_pipe *p, const struct iovec *at, int n) {
    (void)p;
    return n > 1 ? (ssize_t)at[0].iov_len : (ssize_t)(at[0].iov_len / 2 + 1); /* by and by */
}

static const transport_stream_kind kind = {call, welcome, offer, accept_none, on_socket, read_some, write_some, sleeps, drop};
static bool reaches(const transport *t, const char *address) { return t && address; }
static const transport_ops ops = {.name = "fuzz", .reaches = reaches, TRANSPORT_STREAM_OPS};

/* The message that was told is one of those to come, the ones before it were left out. */
static void check_message(peer *p, const uint8_t *bytes, size_t n) {
    for (;;) {
        INVARIANT(p->at + 4 <= p->n_read);
        size_t length = (size_t)p->bytes[p->at] | (size_t)p->bytes[p->at + 1] << 8 | (size_t)p->bytes[p->at + 2] << 16 |
                        (size_t)p->bytes[p->at + 3] << 24;
        INVARIANT(length > 0 && length <= TRANSPORT_MAX_MESSAGE && p->at + 4 + length <= p->n_read);
        p->at += 4 + length;
        if (length == n && !memcmp(p->bytes + p->at - n, bytes, n)) return;
    }
}

typedef struct {
    uint8_t bytes[SLOTS][ROOM];
    size_t room[SLOTS]; /* 0: free */
    bool sends[SLOTS], closed, lost;
} caller;

static void take_event(caller *c, const transport_event *e, peer *p) {
    INVARIANT(!c->closed);
    if (e->kind == TRANSPORT_CLOSED || e->kind == TRANSPORT_PEER_LOST) {
        INVARIANT(e->kind == TRANSPORT_CLOSED || !c->lost);
        *(e->kind == TRANSPORT_CLOSED ? &c->closed : &c->lost) = true;
        return;
    }
    size_t room = c->room[e->slot];
    INVARIANT(e->slot < SLOTS && room > 0 && e->n_bytes <= room);
    INVARIANT(e->kind == TRANSPORT_FAILED || (e->kind == TRANSPORT_SENT) == c->sends[e->slot]);
    for (size_t i = room; i < ROOM; i++) INVARIANT(c->bytes[e->slot][i] == GUARD);
    if (e->kind == TRANSPORT_RECEIVED) check_message(p, c->bytes[e->slot], e->n_bytes);
    c->room[e->slot] = 0;
}

static void act(caller *c, transport_link *k, uint8_t what, peer *p) {
    const uint32_t slot = what % SLOTS;
    const uint8_t argument = what / SLOTS % 16;
    if (what >= 192) {
        p->n_may_read += argument * argument;
        if (p->n_may_read > p->n) p->n_may_read = p->n;
    } else if (what >= 128) {
        if (c->room[slot]) ops.cancel(k, slot);
    } else if (!c->room[slot]) {
        memset(c->bytes[slot], GUARD, ROOM);
        c->room[slot] = 1 + argument * 2u;
        c->sends[slot] = what >= 112;
        if (c->sends[slot])
            ops.post_send(k, slot, c->bytes[slot], c->room[slot]);
        else
            ops.post_recv(k, slot, c->bytes[slot], c->room[slot]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const transport_call to_peer = {.address = "peer", .calls = true, .deadline_ns = UINT64_MAX};
    const size_t n_script = size / 2;
    peer p = {.bytes = data + n_script, .n = size - n_script, .socket = -1};
    caller c = {0};
    transport *t = NULL;
    transport_link *k = NULL;
    transport_event e;
    the_peer = &p;
    INVARIANT(transport_stream_create(&ops, &kind, eventfd(0, EFD_CLOEXEC), "fuzz", &t, NULL) == ST_OK);
    INVARIANT(ops.open(t, &to_peer, &k, NULL) == ST_OK);
    for (size_t i = 0; i < n_script; i++) {
        act(&c, k, data[i], &p);
        if (ops.test(t, &e)) take_event(&c, &e, &p);
    }
    while (ops.test(t, &e)) take_event(&c, &e, &p);
    ops.close(k);
    p.n_may_read = p.n;
    for (int i = 0; i < 1000 && !c.closed; i++)
        if (ops.test(t, &e)) take_event(&c, &e, &p);
    INVARIANT(c.closed && !ops.test(t, &e));
    ops.destroy(t);
    if (p.socket >= 0) close(p.socket);
    return 0;
}
