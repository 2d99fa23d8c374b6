/* Transport over TCP: one connection a link, and the bytes go through it.
 *
 * An address is "host:port", numeric; behind one of the loopback comes "@" and where it holds, as the same address leads to
 * another host elsewhere. Nothing is encrypted, as on the control links: a private network, or the loopback, which is the
 * default. */
#include "parallel/transport_int.h"
#include "parallel/transport_stream.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    BACKLOG = 128,
    SILENT_MS = 30000,
    KEEP_IDLE_S = 5,
    KEEP_EACH_S = 2,
    KEEP_N = 3,
    PORT_BYTES = 8,
    HOST_BYTES = INET6_ADDRSTRLEN
};

typedef struct {
    struct sockaddr_storage at;
    socklen_t n;
} address;

static bool is_loopback(const address *a) {
    if (a->at.ss_family == AF_INET) return ntohl(((const struct sockaddr_in *)&a->at)->sin_addr.s_addr) >> 24 == 127;
    return a->at.ss_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)&a->at)->sin6_addr);
}

static bool is_any(const address *a) {
    if (a->at.ss_family == AF_INET) return ((const struct sockaddr_in *)&a->at)->sin_addr.s_addr == htonl(INADDR_ANY);
    return a->at.ss_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)&a->at)->sin6_addr);
}

static uint16_t port_of(const address *a) {
    return ntohs(a->at.ss_family == AF_INET ? ((const struct sockaddr_in *)&a->at)->sin_port
                                            : ((const struct sockaddr_in6 *)&a->at)->sin6_port);
}

/* Names are looked up where `flags` has no AI_NUMERICHOST, which waits. False: *error says why (of gai_strerror). */
static bool resolve(const char *host, const char *port, int family, int flags, address *out, int *error) {
    struct addrinfo hints = {.ai_family = family, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV}, *found;
    *error = getaddrinfo(host, port, &hints, &found);
    if (*error) return false;
    memcpy(&out->at, found->ai_addr, found->ai_addrlen);
    out->n = found->ai_addrlen;
    freeaddrinfo(found);
    return true;
}

/* *where: behind the "@"; NULL: no loopback. */
static bool parse(const char *given, address *out, const char **where) {
    char text[TRANSPORT_ADDRESS_BYTES];
    int error;
    if (strnlen(given, sizeof text) == sizeof text) return false;
    snprintf(text, sizeof text, "%s", given);
    char *at = strchr(text, '@');
    *where = at ? given + (at - text) + 1 : NULL;
    if (at) *at = 0;
    char *colon = strrchr(text, ':');
    if (!colon || strspn(colon + 1, "0123456789") != strlen(colon + 1) || strtoul(colon + 1, NULL, 10) - 1 >= UINT16_MAX)
        return false;
    *colon = 0;
    return *text && resolve(text, colon + 1, AF_UNSPEC, AI_NUMERICHOST, out, &error) && !is_any(out) &&
           is_loopback(out) == (*where != NULL);
}

static bool reaches(const transport *t, const char *given) {
    address a;
    const char *where;
    char here[TRANSPORT_HOST_BYTES];
    (void)t;
    return parse(given, &a, &where) && (!where || (transport_host(here, NULL) == ST_OK && !strcmp(where, here)));
}

/* ---- the pipe ---- */

static int call(const char *given) {
    address a;
    const char *where;
    errno = EINVAL;
    if (!parse(given, &a, &where)) return -1;
    int fd = socket(a.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a.at, a.n) == 0 || errno == EINPROGRESS) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static bool set(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value) == 0; }

/* A host that is gone without a word is noticed after SILENT_MS, whether one sends or not; so is one that takes nothing for so
 * long. */
static bool welcome(int fd) {
    return set(fd, IPPROTO_TCP, TCP_NODELAY, 1) && set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, SILENT_MS) &&
           set(fd, SOL_SOCKET, SO_KEEPALIVE, 1) && set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S) &&
           set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_EACH_S) && set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_N);
}

static bool offer(transport_pipe *p, int *fd) {
    (void)p;
    *fd = -1;
    return true;
}

static bool accept_nothing(transport_pipe *p, int fd) {
    (void)p;
    return fd < 0;
}

static void on_socket(transport_pipe *p, bool in, bool out) {
    p->readable |= in;
    p->writable |= out;
}

static ssize_t moved(ssize_t n, bool *ready) {
    if (n > 0) return n;
    if (n < 0 && errno == EINTR) return 0;
    *ready = n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
    return *ready ? -1 : 0;
}

static ssize_t read_some(transport_pipe *p, const struct iovec *at, int n) {
    struct msghdr m = {.msg_iov = (struct iovec *)at, .msg_iovlen = (size_t)n};
    return p->readable ? moved(recvmsg(p->fd, &m, MSG_DONTWAIT), &p->readable) : 0;
}

static ssize_t write_some(transport_pipe *p, const struct iovec *at, int n) {
    struct msghdr m = {.msg_iov = (struct iovec *)at, .msg_iovlen = (size_t)n};
    return p->writable ? moved(sendmsg(p->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL), &p->writable) : 0;
}

static bool sleep_until_ready(transport_pipe *p, bool reads, bool writes) {
    return !(reads && p->readable) && !(writes && p->writable);
}

static void drop(transport_pipe *p) { (void)p; }

static const transport_stream_kind kind = {.call = call,
                                           .welcome = welcome,
                                           .offer = offer,
                                           .accept = accept_nothing,
                                           .on_socket = on_socket,
                                           .read = read_some,
                                           .write = write_some,
                                           .sleep = sleep_until_ready,
                                           .drop = drop};

static const transport_ops ops = {.name = "tcp", .reaches = reaches, TRANSPORT_STREAM_OPS};

/* ---- the listener ---- */

static st_code name_address(const address *a, uint16_t port, char out[TRANSPORT_ADDRESS_BYTES], st_error *e) {
    char host[HOST_BYTES], here[TRANSPORT_HOST_BYTES] = "";
    int error = getnameinfo((const struct sockaddr *)&a->at, a->n, host, sizeof host, NULL, 0, NI_NUMERICHOST);
    if (error) return st_fail(e, ST_ERR_IO, "tcp: getnameinfo: %s", gai_strerror(error));
    st_code code = is_loopback(a) ? transport_host(here, e) : ST_OK;
    snprintf(out, TRANSPORT_ADDRESS_BYTES, "%s:%u%s%s", host, port, *here ? "@" : "", here);
    return code;
}

static st_code find_addresses(const transport_options *o, address *listened, address *told, st_error *e) {
    const char *host = o->host ? o->host : "127.0.0.1";
    char port[PORT_BYTES];
    int error;
    snprintf(port, sizeof port, "%u", o->port);
    if (!resolve(host, port, AF_UNSPEC, AI_PASSIVE, listened, &error))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tcp: no address of \"%s\" to listen on: %s", host, gai_strerror(error));
    *told = *listened;
    const int family = listened->at.ss_family == AF_INET ? AF_INET : AF_UNSPEC; /* a socket of IPv6 hears both */
    if (o->advertise && !resolve(o->advertise, port, family, 0, told, &error))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tcp: no address of \"%s\" to tell others: %s", o->advertise,
                       gai_strerror(error));
    if (is_any(told))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tcp: \"%s\" is no address that others can reach: name one to tell them",
                       o->advertise ? o->advertise : host);
    return ST_OK;
}

static st_code create(const transport_options *o, transport **out, st_error *e) {
    char text[TRANSPORT_ADDRESS_BYTES];
    address a = {0}, told = {0};
    st_code code = find_addresses(o, &a, &told, e);
    if (code) return code;
    int fd = socket(a.at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || !set(fd, SOL_SOCKET, SO_REUSEADDR, 1) || bind(fd, (struct sockaddr *)&a.at, a.n) || listen(fd, BACKLOG) ||
        getsockname(fd, (struct sockaddr *)&a.at, &a.n))
        code =
            st_fail(e, ST_ERR_IO, "tcp: listening on %s, port %u: %s", o->host ? o->host : "127.0.0.1", o->port, strerror(errno));
    if (!code) code = name_address(&told, port_of(&a), text, e);
    if (!code) return transport_stream_create(&ops, &kind, fd, text, out, e);
    if (fd >= 0) close(fd);
    return code;
}

const transport_kind transport_tcp = {.name = "tcp", .listens = true, .create = create};
