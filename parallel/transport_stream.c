/* Links over byte streams: how two ends meet, and messages.
 *
 *     calling ──hello: magic, key──> stranger ─(a link waits for that key)─> open        the called end; it answers: magic
 *        └── closed, or no answer: again, with naps ──┘ else closed, at once
 *     open ─close─> closing ─(all is sent, or CLOSE_NS)─> lingering ─(the peer closes too, or CLOSE_NS)─> over
 *        └─(the stream ends)─> lost ─close─> over
 *
 * What: a message is its length in 4 bytes, then its bytes, read into the slot that was posted first and written from where the
 * caller has them. The head is read before there is a slot, so an end without a word to come is noticed. What has no slot that
 * fits (too long, or cancelled in the middle) is read and dropped: the stream stays whole. A send that was begun cannot be
 * cancelled, for the same reason.
 * Why a caller that comes early is turned away, and calls again: nothing has to be kept for strangers. They are few, short-lived,
 * and the oldest gives way. Why lingering: what was sent is lost if a socket is closed while bytes of the peer are unread.
 * Sockets are registered once, edge-triggered; what epoll said is kept in the pipe until a read or write finds otherwise. */
#include "parallel/transport_stream.h"

#include "base/mem.h"
#include "parallel/clock.h"
#include "parallel/transport_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    MAGIC_BYTES = 8,
    HELLO_BYTES = MAGIC_BYTES + TRANSPORT_KEY_BYTES,
    HEAD_BYTES = 4,
    MAX_STRANGERS = 64,
    MAX_ACCEPTS = 16,     /* in one test */
    TURN_BYTES = 1 << 20, /* of one link and direction in one test: others have their turn */
    SCRATCH_BYTES = 64 * 1024,
    MAX_EVENTS = 64,
    NO_SLOT = TRANSPORT_MAX_SLOTS,
};
static const uint64_t STRANGER_NS = 2000000000, CLOSE_NS = 1000000000, FIRST_NAP_NS = 1000000, LONGEST_NAP_NS = 50000000,
                      ACCEPT_AGAIN_NS = 100000000;
static const uint8_t magic[MAGIC_BYTES] = {'C', 'K', 'V', 'l', 'i', 'n', 'k', 1};

typedef enum { CALLING, WAITING, OPEN, LOST, CLOSING, LINGERING, OVER } link_state;

typedef struct {
    uint8_t *bytes;
    size_t n;
    enum { FREE, SENDING, RECEIVING } use;
    transport_news news;
} slot;

typedef struct transport_stream transport_stream;

struct transport_link {
    transport_stream *t;
    uint32_t index; /* in t->links, and for epoll */
    link_state state;
    bool deaf; /* the peer takes nothing any more */
    transport_pipe pipe;
    transport_call call;
    char address[TRANSPORT_ADDRESS_BYTES];
    uint64_t call_at_ns, nap_ns; /* CALLING without a socket */
    bool said_hello;
    uint64_t close_at_ns; /* CLOSING, LINGERING */
    uint8_t head[HEAD_BYTES], answer[MAGIC_BYTES];
    size_t n_head, n_answer;
    uint32_t into;         /* of the message that is being read: its slot, NO_SLOT: dropped */
    size_t n_done, n_left; /* of that message's bytes; n_left 0: between two */
    size_t n_sent;         /* of head and bytes of the first of `sends` */
    transport_order sends, receives;
    slot slots[TRANSPORT_MAX_SLOTS];
    transport_news lost, closed;
};

/* Who has connected and not named a key yet. */
typedef struct {
    int fd;      /* -1: none */
    int brought; /* a file that came with the hello; -1: none */
    uint64_t until_ns;
    uint8_t hello[HELLO_BYTES];
    size_t n;
} stranger;

struct transport_stream {
    transport base;
    const transport_stream_kind *kind;
    int epoll, listener;
    uint64_t accept_at_ns; /* no files were left: not before; 0: at any time */
    transport_link *links[TRANSPORT_MAX_LINKS];
    stranger strangers[MAX_STRANGERS];
    transport_queue news;
    uint8_t scratch[SCRATCH_BYTES];
};

/* What epoll gives back: a link's index, a stranger's, or the listener. A number that is another's by now does no harm. */
enum { TAG_STRANGER = 1 << 16, TAG_LISTENER = 2 << 16, TAG_KIND = ~0xffff };

static bool watch(transport_stream *t, int op, int fd, uint32_t events, uint32_t tag) {
    return epoll_ctl(t->epoll, op, fd, &(struct epoll_event){.events = events, .data.u32 = tag}) == 0;
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static void tell(transport_link *k, transport_news *news, transport_event_kind kind, uint32_t slot_index, size_t n_bytes) {
    transport_tell(&k->t->news, news,
                   &(transport_event){.context = k->call.context, .kind = kind, .slot = slot_index, .n_bytes = n_bytes});
}

static void give_back(transport_link *k, uint32_t i, transport_event_kind kind, size_t n_bytes) {
    k->slots[i].use = FREE;
    tell(k, &k->slots[i].news, kind, i, n_bytes);
}

static void hang_up(transport_link *k) {
    k->t->kind->drop(&k->pipe);
    close_fd(&k->pipe.fd);
}

static void lose(transport_link *k) {
    hang_up(k);
    k->state = LOST;
    k->into = NO_SLOT;
    tell(k, &k->lost, TRANSPORT_PEER_LOST, 0, 0);
    for (; k->sends.n; transport_order_remove(&k->sends, k->sends.at[0])) give_back(k, k->sends.at[0], TRANSPORT_FAILED, 0);
    for (; k->receives.n; transport_order_remove(&k->receives, k->receives.at[0]))
        give_back(k, k->receives.at[0], TRANSPORT_FAILED, 0);
}

/* ---- meeting ---- */

static void call_again(transport_link *k, uint64_t now_ns) {
    hang_up(k);
    k->call_at_ns = now_ns + k->nap_ns;
    if (k->nap_ns < LONGEST_NAP_NS) k->nap_ns *= 2;
}

static void call(transport_link *k, uint64_t now_ns) {
    k->pipe = (transport_pipe){.fd = k->t->kind->call(k->address), .calls = true};
    k->said_hello = false;
    k->n_answer = 0;
    if (k->pipe.fd < 0 && errno == ECONNREFUSED)
        lose(k); /* it listened before its address was known */
    else if (k->pipe.fd < 0 || !watch(k->t, EPOLL_CTL_ADD, k->pipe.fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, k->index))
        call_again(k, now_ns);
}

static bool say_hello(transport_link *k) {
    uint8_t hello[HELLO_BYTES];
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    int fd = -1;
    memcpy(hello, magic, MAGIC_BYTES);
    memcpy(hello + MAGIC_BYTES, k->call.key, TRANSPORT_KEY_BYTES);
    if (!k->t->kind->welcome(k->pipe.fd) || !k->t->kind->offer(&k->pipe, &fd)) return false;
    struct msghdr m = {.msg_iov = &(struct iovec){hello, sizeof hello}, .msg_iovlen = 1};
    if (fd >= 0) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_LEN(sizeof fd);
        control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    }
    ssize_t n = sendmsg(k->pipe.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    close_fd(&fd);
    return n == (ssize_t)sizeof hello; /* the first bytes of a connection find room */
}

static void be_open(transport_link *k) {
    k->state = OPEN;
    k->t->kind->on_socket(&k->pipe, true, true);
}

/* CALLING, with a socket that may have connected. */
static void meet(transport_link *k, uint64_t now_ns) {
    int error = 0;
    if (!k->said_hello) {
        if (!k->pipe.writable) return;
        if (getsockopt(k->pipe.fd, SOL_SOCKET, SO_ERROR, &error, &(socklen_t){sizeof error})) error = errno;
        if (error == ECONNREFUSED) {
            lose(k);
            return;
        }
        if (error || !say_hello(k)) {
            call_again(k, now_ns);
            return;
        }
        k->said_hello = true;
    }
    while (k->pipe.readable) {
        ssize_t n = recv(k->pipe.fd, k->answer + k->n_answer, MAGIC_BYTES - k->n_answer, MSG_DONTWAIT);
        if (n <= 0 && !(n < 0 && (errno == EAGAIN || errno == EINTR))) {
            call_again(k, now_ns);
            return;
        }
        if (n < 0) {
            k->pipe.readable = errno == EINTR;
            continue;
        }
        k->n_answer += (size_t)n;
        if (k->n_answer < MAGIC_BYTES) continue;
        if (memcmp(k->answer, magic, MAGIC_BYTES))
            call_again(k, now_ns);
        else
            be_open(k);
        return;
    }
}

static void turn_away(stranger *s) {
    close_fd(&s->brought);
    close_fd(&s->fd);
}

/* The link that waits for the stranger's key has the socket from now on. */
static void introduce(transport_stream *t, stranger *s) {
    transport_link *k = NULL;
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS && !k; i++)
        if (t->links[i] && t->links[i]->state == WAITING &&
            !memcmp(t->links[i]->call.key, s->hello + MAGIC_BYTES, TRANSPORT_KEY_BYTES))
            k = t->links[i];
    if (!k) return;
    transport_pipe pipe = {.fd = s->fd};
    if (!t->kind->accept(&pipe, s->brought)) return;
    if (send(s->fd, magic, MAGIC_BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) != MAGIC_BYTES ||
        !watch(t, EPOLL_CTL_MOD, s->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, k->index)) {
        t->kind->drop(&pipe);
        return;
    }
    s->fd = -1;
    k->pipe = pipe;
    be_open(k);
}

static void hear_stranger(transport_stream *t, stranger *s) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr m = {.msg_iov = &(struct iovec){s->hello + s->n, HELLO_BYTES - s->n},
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = CMSG_LEN(sizeof(int))}; /* of several files the system closes the rest */
    ssize_t n = recvmsg(s->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    const struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int))) {
        close_fd(&s->brought);
        memcpy(&s->brought, CMSG_DATA(c), sizeof(int));
    }
    if (n > 0) s->n += (size_t)n;
    if (n <= 0 || memcmp(s->hello, magic, s->n < MAGIC_BYTES ? s->n : MAGIC_BYTES)) {
        turn_away(s);
        return;
    }
    if (s->n < HELLO_BYTES) return;
    introduce(t, s);
    turn_away(s);
}

static void let_in(transport_stream *t, uint64_t now_ns) {
    for (int i = 0; i < MAX_ACCEPTS; i++) {
        int fd = accept4(t->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
            if (watch(t, EPOLL_CTL_MOD, t->listener, 0, TAG_LISTENER)) t->accept_at_ns = now_ns + ACCEPT_AGAIN_NS;
            return;
        }
        if (fd < 0) return;
        stranger *s = &t->strangers[0];
        for (int j = 0; j < MAX_STRANGERS && s->fd >= 0; j++)
            if (t->strangers[j].fd < 0 || t->strangers[j].until_ns < s->until_ns) s = &t->strangers[j];
        turn_away(s);
        *s = (stranger){.fd = fd, .brought = -1, .until_ns = now_ns + STRANGER_NS};
        if (!t->kind->welcome(fd) || !watch(t, EPOLL_CTL_ADD, fd, EPOLLIN, TAG_STRANGER | (uint32_t)(s - t->strangers)))
            turn_away(s);
    }
}

/* ---- messages ---- */

static size_t message_bytes(const transport_link *k) {
    return (size_t)k->head[0] | (size_t)k->head[1] << 8 | (size_t)k->head[2] << 16 | (size_t)k->head[3] << 24;
}

/* The head is there: which slot the message goes to. False: there is none yet. */
static bool begin_message(transport_link *k, size_t n) {
    k->into = NO_SLOT;
    if (k->state == OPEN) { /* else it is dropped */
        if (!k->receives.n) return false;
        k->into = k->receives.at[0];
        if (k->slots[k->into].n < n) {
            transport_order_remove(&k->receives, k->into);
            give_back(k, k->into, TRANSPORT_FAILED, 0);
            k->into = NO_SLOT;
        }
    }
    k->n_head = k->n_done = 0;
    k->n_left = n;
    return true;
}

static void end_message(transport_link *k) {
    if (k->into == NO_SLOT) return;
    transport_order_remove(&k->receives, k->into);
    give_back(k, k->into, TRANSPORT_RECEIVED, k->n_done);
    k->into = NO_SLOT;
}

/* Reads what has come, one turn of it. False: the stream has ended, or makes no sense. */
static bool receive(transport_link *k) {
    for (size_t turn = 0; turn < TURN_BYTES;) {
        if (k->n_left == 0 && k->n_head == HEAD_BYTES) {
            const size_t n = message_bytes(k);
            if (n == 0 || n > TRANSPORT_MAX_MESSAGE) return false;
            if (!begin_message(k, n)) return true;
        }
        struct iovec at[2];
        int n_at = 0;
        if (k->n_left && k->into != NO_SLOT)
            at[n_at++] = (struct iovec){k->slots[k->into].bytes + k->n_done, k->n_left};
        else if (k->n_left)
            at[n_at++] = (struct iovec){k->t->scratch, k->n_left < SCRATCH_BYTES ? k->n_left : SCRATCH_BYTES};
        if (!n_at || at[0].iov_len == k->n_left) /* and the head of the next */
            at[n_at++] = (struct iovec){k->head + k->n_head, HEAD_BYTES - k->n_head};
        ssize_t n = k->t->kind->read(&k->pipe, at, n_at);
        if (n <= 0) return n == 0;
        turn += (size_t)n;
        size_t of_body = (size_t)n < k->n_left ? (size_t)n : k->n_left;
        k->n_head += (size_t)n - of_body;
        k->n_done += of_body;
        k->n_left -= of_body;
        if (of_body && !k->n_left) end_message(k);
    }
    return true;
}

static void send_more(transport_link *k) {
    for (size_t turn = 0; turn < TURN_BYTES && k->sends.n && !k->deaf;) {
        const uint32_t i = k->sends.at[0];
        slot *s = &k->slots[i];
        uint8_t head[HEAD_BYTES];
        struct iovec at[2];
        int n_at = 0;
        size_t of_body = k->n_sent < HEAD_BYTES ? 0 : k->n_sent - HEAD_BYTES;
        for (int b = 0; b < HEAD_BYTES; b++) head[b] = (uint8_t)(s->n >> (8 * b));
        if (k->n_sent < HEAD_BYTES) at[n_at++] = (struct iovec){head + k->n_sent, HEAD_BYTES - k->n_sent};
        at[n_at++] = (struct iovec){s->bytes + of_body, s->n - of_body};
        ssize_t n = k->t->kind->write(&k->pipe, at, n_at);
        k->deaf = n < 0; /* what it said before may still be to read */
        if (n <= 0) return;
        turn += (size_t)n;
        k->n_sent += (size_t)n;
        if (k->n_sent < HEAD_BYTES + s->n) continue;
        k->n_sent = 0;
        transport_order_remove(&k->sends, i);
        give_back(k, i, TRANSPORT_SENT, 0);
    }
}

/* ---- a turn of a link ---- */

static void end(transport_link *k, link_state state) {
    k->state = state;
    if (state == OVER) hang_up(k);
    k->sends.n = k->receives.n = 0;
    k->into = NO_SLOT;
    tell(k, &k->closed, TRANSPORT_CLOSED, 0, 0);
}

static void advance(transport_link *k, uint64_t now_ns) {
    switch (k->state) {
    case CALLING:
    case WAITING:
        if (now_ns >= k->call.deadline_ns)
            lose(k);
        else if (k->state == CALLING && k->pipe.fd < 0 && now_ns >= k->call_at_ns)
            call(k, now_ns);
        else if (k->state == CALLING && k->pipe.fd >= 0)
            meet(k, now_ns);
        break;
    case OPEN:
        send_more(k);
        if (!receive(k)) lose(k);
        break;
    case CLOSING:
        send_more(k);
        if (!receive(k) || k->deaf || now_ns >= k->close_at_ns)
            end(k, OVER);
        else if (!k->sends.n) {
            k->close_at_ns = now_ns + CLOSE_NS;
            shutdown(k->pipe.fd, SHUT_WR);
            end(k, LINGERING);
        }
        break;
    case LINGERING:
        if (receive(k) && now_ns < k->close_at_ns) break;
        hang_up(k);
        k->state = OVER;
        break;
    case LOST:
    case OVER: break;
    }
}

static void link_free(transport_link *k) {
    hang_up(k);
    k->t->links[k->index] = NULL;
    mem_free(k->call.memory);
    mem_free(k);
}

static void on_events(transport_stream *t, uint64_t now_ns) {
    struct epoll_event events[MAX_EVENTS];
    int n = epoll_wait(t->epoll, events, MAX_EVENTS, 0);
    for (int i = 0; i < n; i++) {
        const uint32_t tag = events[i].data.u32, index = tag & 0xffff, what = events[i].events;
        const bool in = what & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR), out = what & (EPOLLOUT | EPOLLHUP | EPOLLERR);
        if ((tag & (uint32_t)TAG_KIND) == TAG_LISTENER) {
            let_in(t, now_ns);
        } else if (tag & TAG_STRANGER) {
            if (t->strangers[index].fd >= 0) hear_stranger(t, &t->strangers[index]);
        } else if (t->links[index] && t->links[index]->state == CALLING) {
            t->links[index]->pipe.readable |= in;
            t->links[index]->pipe.writable |= out;
        } else if (t->links[index] && t->links[index]->pipe.fd >= 0) {
            t->kind->on_socket(&t->links[index]->pipe, in, out);
        }
    }
}

/* What the caller has seen the end of: its memory, and then it, is not needed any more. */
static void clear_up(transport_link *k) {
    if (!k->closed.taken) return;
    mem_free(k->call.memory);
    k->call.memory = NULL;
    if (k->state == OVER) link_free(k);
}

bool transport_stream_test(transport *base, transport_event *out) {
    transport_stream *t = (transport_stream *)base;
    if (transport_take(&t->news, out)) return true;
    const uint64_t now_ns = parallel_now_ns();
    if (t->accept_at_ns && now_ns >= t->accept_at_ns && watch(t, EPOLL_CTL_MOD, t->listener, EPOLLIN, TAG_LISTENER))
        t->accept_at_ns = 0;
    on_events(t, now_ns);
    for (uint32_t i = 0; i < MAX_STRANGERS; i++)
        if (t->strangers[i].fd >= 0 && now_ns >= t->strangers[i].until_ns) turn_away(&t->strangers[i]);
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++) {
        transport_link *k = t->links[i];
        if (k) advance(k, now_ns);
        if (k) clear_up(k);
    }
    return transport_take(&t->news, out);
}

static bool can_sleep(transport_link *k) {
    const bool reads = k->state != OPEN || k->n_left || k->n_head < HEAD_BYTES || k->receives.n;
    const bool writes = k->state != LINGERING && k->sends.n && !k->deaf;
    return k->t->kind->sleep(&k->pipe, reads, writes);
}

static uint64_t wake_at(transport_link *k) {
    if (k->closed.taken && (k->call.memory || k->state == OVER)) return 0;
    switch (k->state) {
    case CALLING:
        if (k->pipe.fd < 0 && k->call_at_ns < k->call.deadline_ns) return k->call_at_ns;
        return k->call.deadline_ns;
    case WAITING: return k->call.deadline_ns;
    case OPEN: return can_sleep(k) ? UINT64_MAX : 0;
    case CLOSING:
    case LINGERING: return can_sleep(k) ? k->close_at_ns : 0;
    case LOST:
    case OVER: break;
    }
    return UINT64_MAX;
}

static uint64_t sooner(uint64_t a_ns, uint64_t b_ns) { return a_ns < b_ns ? a_ns : b_ns; }

void transport_stream_wait_on(transport *base, int *fd, uint64_t *wake_ns) {
    transport_stream *t = (transport_stream *)base;
    *fd = t->epoll;
    *wake_ns = t->news.first ? 0 : UINT64_MAX;
    if (t->accept_at_ns) *wake_ns = sooner(*wake_ns, t->accept_at_ns);
    for (uint32_t i = 0; i < MAX_STRANGERS; i++)
        if (t->strangers[i].fd >= 0) *wake_ns = sooner(*wake_ns, t->strangers[i].until_ns);
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++)
        if (t->links[i]) *wake_ns = sooner(*wake_ns, wake_at(t->links[i]));
}

/* ---- the caller's other verbs ---- */

/* A place for a link; one that only lingers gives its up. */
static st_code find_place(transport_stream *t, uint32_t *index) {
    for (uint32_t pass = 0; pass < 2; pass++)
        for (*index = 0; *index < TRANSPORT_MAX_LINKS; ++*index) {
            transport_link *k = t->links[*index];
            if (k && pass == 1 && k->state == LINGERING && k->closed.taken && !k->call.memory) {
                k->state = OVER;
                clear_up(k);
            }
            if (!t->links[*index]) return ST_OK;
        }
    return ST_ERR_RESOURCE_EXHAUSTED;
}

st_code transport_stream_open(transport *base, const transport_call *call, transport_link **out, st_error *e) {
    transport_stream *t = (transport_stream *)base;
    const char *name = base->ops->name;
    uint32_t index;
    if (call->calls && !base->ops->reaches(base, call->address))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: \"%.*s\" is not an address that can be reached from %s", name,
                       TRANSPORT_ADDRESS_BYTES, call->address, base->address);
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++)
        if (t->links[i] && t->links[i]->state < CLOSING && !memcmp(t->links[i]->call.key, call->key, TRANSPORT_KEY_BYTES))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: there is an open link with that key", name);
    if (find_place(t, &index)) return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "%s: %d links are open", name, TRANSPORT_MAX_LINKS);
    transport_link *k = mem_alloc(1, sizeof *k);
    if (!k) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory for a link", name);
    *k = (transport_link){.t = t, .index = index, .state = call->calls ? CALLING : WAITING, .pipe = {.fd = -1}, .call = *call};
    k->into = NO_SLOT;
    k->nap_ns = FIRST_NAP_NS;
    if (call->calls) snprintf(k->address, sizeof k->address, "%s", call->address);
    t->links[index] = k;
    *out = k;
    return ST_OK;
}

static void post(transport_link *k, uint32_t i, uint8_t *bytes, size_t n, bool sends) {
    INVARIANT(k->state < CLOSING && i < TRANSPORT_MAX_SLOTS && k->slots[i].use == FREE && n > 0);
    k->slots[i].bytes = bytes;
    k->slots[i].n = n;
    if (k->state == LOST) {
        give_back(k, i, TRANSPORT_FAILED, 0);
        return;
    }
    k->slots[i].use = sends ? SENDING : RECEIVING;
    transport_order_add(sends ? &k->sends : &k->receives, i);
}

void transport_stream_post_send(transport_link *k, uint32_t i, const uint8_t *bytes, size_t n) {
    INVARIANT(n <= TRANSPORT_MAX_MESSAGE);
    post(k, i, (uint8_t *)bytes, n, true); /* it is not written to */
}

void transport_stream_post_recv(transport_link *k, uint32_t i, uint8_t *bytes, size_t n) { post(k, i, bytes, n, false); }

void transport_stream_cancel(transport_link *k, uint32_t i) {
    INVARIANT(k->state < CLOSING && i < TRANSPORT_MAX_SLOTS);
    const bool sends = k->slots[i].use == SENDING;
    if (k->slots[i].use == FREE || (sends && k->n_sent && k->sends.at[0] == i)) return; /* its event is on its way */
    transport_order_remove(sends ? &k->sends : &k->receives, i);
    if (k->into == i) k->into = NO_SLOT;
    give_back(k, i, TRANSPORT_FAILED, 0);
}

void transport_stream_close(transport_link *k) {
    INVARIANT(k->state < CLOSING);
    k->receives.n = 0;
    k->into = NO_SLOT;
    if (k->state != OPEN) {
        end(k, OVER);
        return;
    }
    k->state = CLOSING;
    k->close_at_ns = parallel_now_ns() + CLOSE_NS;
}

/* ---- life ---- */

void transport_stream_destroy(transport *base) {
    transport_stream *t = (transport_stream *)base;
    if (!t) return;
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++)
        if (t->links[i]) link_free(t->links[i]);
    for (uint32_t i = 0; i < MAX_STRANGERS; i++) turn_away(&t->strangers[i]);
    close_fd(&t->listener);
    close_fd(&t->epoll);
    mem_free(t);
}

st_code transport_stream_create(const transport_ops *ops, const transport_stream_kind *kind, int listener, const char *address,
                                transport **out, st_error *e) {
    transport_stream *t = mem_alloc(1, sizeof *t);
    if (!t) {
        close(listener);
        return st_fail(e, ST_FATAL_MEMORY, "%s: no memory for a transport", ops->name);
    }
    *t = (transport_stream){.base = {.ops = ops}, .kind = kind, .listener = listener};
    snprintf(t->base.address, sizeof t->base.address, "%s", address);
    for (uint32_t i = 0; i < MAX_STRANGERS; i++) t->strangers[i] = (stranger){.fd = -1, .brought = -1};
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (t->epoll < 0 || !watch(t, EPOLL_CTL_ADD, listener, EPOLLIN, TAG_LISTENER)) {
        st_fail(e, ST_ERR_IO, "%s: epoll: %s", ops->name, strerror(errno));
        transport_stream_destroy(&t->base);
        return ST_ERR_IO;
    }
    *out = &t->base;
    return ST_OK;
}
