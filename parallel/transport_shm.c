/* Transport in shared memory, for ranks of one host: two rings of bytes a link.
 *
 *     ring: bytes [RING_BYTES], n_written (of who writes), n_read (of who reads), both counted from the link's beginning
 *
 * The calling end makes the memory (a memfd, so it has no name and dies with its last user) and hands it over with its hello,
 * through an abstract socket under a random name. From then on the socket is a doorbell, which is rung only where the other end
 * has said that it sleeps, and its end is the sign of death.
 * Nothing the peer writes is trusted: each end keeps its own count, the other's is read once and checked, the size is sealed (a
 * file made shorter would kill us), the peer is of the same user. Why bytes in a ring and no messages in shared slots: the posted
 * bytes are ordinary memory at both ends; a copy in and one out at the same time, piece by piece. */
#include "parallel/transport_int.h"
#include "parallel/transport_stream.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    RING_BYTES = 2 << 20,
    PIECE_BYTES = 128 << 10, /* copied before the other end is told: both copy at once */
    BACKLOG = 128,
    NAME_BYTES = 32,
    PAGE_BYTES = 4096,
    SEALS = F_SEAL_SHRINK | F_SEAL_GROW
};

typedef struct {
    _Alignas(64) _Atomic uint64_t n_written;
    _Atomic uint32_t reader_sleeps;
    _Alignas(64) _Atomic uint64_t n_read;
    _Atomic uint32_t writer_sleeps;
    _Alignas(PAGE_BYTES) uint8_t bytes[RING_BYTES];
} ring;

typedef struct {
    ring of_caller, of_called; /* who writes */
} rings;

static ring *mine(const transport_pipe *p) {
    rings *r = p->shared;
    return p->calls ? &r->of_caller : &r->of_called;
}
static ring *theirs(const transport_pipe *p) {
    rings *r = p->shared;
    return p->calls ? &r->of_called : &r->of_caller;
}

/* ---- address ---- */

/* "shm:HOST:NAME"; the name, or NULL where the host is another. */
static const char *name_in(const char *address, const char *here) {
    const size_t n = strlen(here);
    if (strncmp(address, "shm:", 4) || strncmp(address + 4, here, n) || address[4 + n] != ':') return NULL;
    return strnlen(address + 4 + n + 1, NAME_BYTES + 1) == NAME_BYTES ? address + 4 + n + 1 : NULL;
}

static const char *name_here(const char *address) {
    char here[TRANSPORT_HOST_BYTES];
    return transport_host(here, NULL) == ST_OK ? name_in(address, here) : NULL;
}

static bool reaches(const transport *t, const char *address) {
    (void)t;
    return name_here(address) != NULL;
}

/* An abstract name has no file: it begins with a NUL. */
static socklen_t socket_address(const char *name, struct sockaddr_un *out) {
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(out->sun_path + 1, sizeof out->sun_path - 1, "consort-kv-%s", name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* ---- meeting ---- */

static int call(const char *address) {
    struct sockaddr_un a;
    const char *name = name_here(address);
    errno = EINVAL;
    if (!name) return -1;
    socklen_t n = socket_address(name, &a);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, n) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool welcome(int fd) {
    struct ucred peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer}) == 0 && peer.uid == geteuid();
}

static bool map(transport_pipe *p, int fd) {
    void *at = mmap(NULL, sizeof(rings), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p->shared = at == MAP_FAILED ? NULL : at;
    return p->shared != NULL;
}

static bool offer(transport_pipe *p, int *fd) {
    *fd = memfd_create("consort-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (*fd < 0) return false;
    if (ftruncate(*fd, sizeof(rings)) == 0 && fcntl(*fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) == 0 && map(p, *fd)) return true;
    close(*fd);
    *fd = -1;
    return false;
}

static bool accept_rings(transport_pipe *p, int fd) {
    struct stat is;
    int seals = fd < 0 ? -1 : fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & SEALS) == SEALS && fstat(fd, &is) == 0 && is.st_size == (off_t)sizeof(rings) && map(p, fd);
}

static void drop(transport_pipe *p) {
    if (p->shared) munmap(p->shared, sizeof(rings));
    p->shared = NULL;
}

/* ---- bytes ---- */

static void ring_bell(transport_pipe *p) {
    if (send(p->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE)
        p->over = true; /* EAGAIN: it has not heard others */
}

static void wake(transport_pipe *p, _Atomic uint32_t *sleeps) {
    if (atomic_load(sleeps) && atomic_exchange(sleeps, 0)) ring_bell(p);
}

static void on_socket(transport_pipe *p, bool in, bool out) {
    uint8_t bells[64];
    (void)out;
    while (in && !p->over) {
        ssize_t n = recv(p->fd, bells, sizeof bells, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        p->over = n == 0 || (n < 0 && errno != EAGAIN);
        in = n > 0;
    }
}

/* Bytes to read; more than the ring has: the peer's count is nonsense. */
static uint64_t to_read(const transport_pipe *p) { return atomic_load(&theirs(p)->n_written) - p->n_read; }
/* Bytes written and not read yet; as above. */
static uint64_t unread(const transport_pipe *p) { return p->n_written - atomic_load(&mine(p)->n_read); }

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Bytes up to the ring's end, to that of the piece, of n and of what there is. */
static size_t run(uint64_t at, size_t n, uint64_t there_is) {
    return least(least(n, there_is), least(PIECE_BYTES, RING_BYTES - at % RING_BYTES));
}

static ssize_t read_some(transport_pipe *p, const struct iovec *at, int n_at) {
    ring *r = theirs(p);
    size_t moved = 0;
    const bool over = p->over; /* before what was written is counted: the peer wrote, and then ended */
    for (int i = 0; i < n_at; i++) {
        for (size_t done = 0, n; done < at[i].iov_len; done += n) {
            const uint64_t there_is = to_read(p);
            if (there_is > RING_BYTES) return -1;
            if (there_is == 0) return moved ? (ssize_t)moved : over ? -1 : 0;
            n = run(p->n_read, at[i].iov_len - done, there_is);
            memcpy((uint8_t *)at[i].iov_base + done, r->bytes + p->n_read % RING_BYTES, n);
            p->n_read += n;
            moved += n;
            atomic_store(&r->n_read, p->n_read);
            if (there_is - n <= RING_BYTES / 2) wake(p, &r->writer_sleeps); /* for a good piece of work */
        }
    }
    return (ssize_t)moved;
}

static ssize_t write_some(transport_pipe *p, const struct iovec *at, int n_at) {
    ring *r = mine(p);
    size_t moved = 0;
    if (p->over) return -1;
    for (int i = 0; i < n_at; i++) {
        for (size_t done = 0, n; done < at[i].iov_len; done += n) {
            const uint64_t is_unread = unread(p);
            if (is_unread > RING_BYTES) return -1;
            if (is_unread == RING_BYTES) return (ssize_t)moved;
            n = run(p->n_written, at[i].iov_len - done, RING_BYTES - is_unread);
            memcpy(r->bytes + p->n_written % RING_BYTES, (const uint8_t *)at[i].iov_base + done, n);
            p->n_written += n;
            moved += n;
            atomic_store(&r->n_written, p->n_written);
            wake(p, &r->reader_sleeps);
        }
    }
    return (ssize_t)moved;
}

/* Says that it sleeps, then looks once more: the other end writes, then looks whether one sleeps. */
static bool sleep_until_rung(transport_pipe *p, bool reads, bool writes) {
    if (p->over) return !reads && !writes;
    if (reads) {
        atomic_store(&theirs(p)->reader_sleeps, 1);
        if (to_read(p)) return false;
    }
    if (writes) {
        atomic_store(&mine(p)->writer_sleeps, 1);
        if (unread(p) != RING_BYTES) return false;
    }
    return true;
}

static const transport_stream_kind kind = {.call = call,
                                           .welcome = welcome,
                                           .offer = offer,
                                           .accept = accept_rings,
                                           .on_socket = on_socket,
                                           .read = read_some,
                                           .write = write_some,
                                           .sleep = sleep_until_rung,
                                           .drop = drop};

static const transport_ops ops = {.name = "shm", .reaches = reaches, TRANSPORT_STREAM_OPS};

static st_code create(const transport_options *o, transport **out, st_error *e) {
    char here[TRANSPORT_HOST_BYTES], name[NAME_BYTES + 1], address[TRANSPORT_ADDRESS_BYTES];
    struct sockaddr_un a;
    uint64_t x[2];
    (void)o;
    st_code code = transport_host(here, e);
    if (code) return code;
    if (getrandom(x, sizeof x, 0) != sizeof x) return st_fail(e, ST_ERR_IO, "shm: getrandom: %s", strerror(errno));
    snprintf(name, sizeof name, "%016" PRIx64 "%016" PRIx64, x[0], x[1]);
    snprintf(address, sizeof address, "shm:%s:%s", here, name);
    socklen_t n = socket_address(name, &a);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, n) || listen(fd, BACKLOG)) {
        st_fail(e, ST_ERR_UNSUPPORTED, "shm: listening on an abstract socket: %s", strerror(errno));
        if (fd >= 0) close(fd);
        return ST_ERR_UNSUPPORTED;
    }
    return transport_stream_create(&ops, &kind, fd, address, out, e);
}

const transport_kind transport_shm = {.name = "shm", .create = create};
