/* The table of transports, what all of them share, and the sleep until one has something to do. */
#include "parallel/clock.h"
#include "parallel/transport_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRANSPORT(name, where)                                                                                                   \
    _Static_assert(sizeof #name <= TRANSPORT_NAME_BYTES, "messages have room for the names of transports");
#include "parallel/transports.def"
#undef TRANSPORT

static const transport_kind *const kinds[] = {
#define PLAIN(name) &transport_##name,
#define WORLD(name)
#define TRANSPORT(name, where) where(name)
#include "parallel/transports.def"
#undef TRANSPORT
#undef WORLD
#undef PLAIN
};

const transport_kind *transport_kind_at(uint32_t i) { return i < sizeof kinds / sizeof *kinds ? kinds[i] : NULL; }

void transport_wait(transport *const *all, uint32_t n, int wake_fd, uint64_t until_ns) {
    struct pollfd fds[TRANSPORT_MAX_KINDS + 1];
    nfds_t n_fds = 0;
    INVARIANT(n <= TRANSPORT_MAX_KINDS);
    if (wake_fd >= 0) fds[n_fds++] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
    for (uint32_t i = 0; i < n; i++) {
        int fd;
        uint64_t wake_ns;
        all[i]->ops->wait_on(all[i], &fd, &wake_ns);
        if (fd >= 0) fds[n_fds++] = (struct pollfd){.fd = fd, .events = POLLIN};
        if (wake_ns < until_ns) until_ns = wake_ns;
    }
    uint64_t now_ns = parallel_now_ns(), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left_ns / 1000000000u), .tv_nsec = (long)(left_ns % 1000000000u)};
    ppoll(fds, n_fds, until_ns == UINT64_MAX ? NULL : &timeout, NULL); /* what it says is found by test */
}

/* ---- what the kinds share ---- */

void transport_tell(transport_queue *q, transport_news *news, const transport_event *event) {
    *news = (transport_news){.event = *event};
    if (q->first)
        q->last->next = news;
    else
        q->first = news;
    q->last = news;
}

bool transport_take(transport_queue *q, transport_event *out) {
    if (!q->first) return false;
    transport_news *news = q->first;
    *out = news->event;
    news->taken = true;
    q->first = news->next;
    return true;
}

void transport_order_add(transport_order *o, uint32_t slot) {
    INVARIANT(o->n < TRANSPORT_MAX_SLOTS);
    o->at[o->n++] = (uint8_t)slot;
}

void transport_order_remove(transport_order *o, uint32_t slot) {
    uint32_t i = 0;
    while (i < o->n && o->at[i] != slot) i++;
    INVARIANT(i < o->n);
    memmove(&o->at[i], &o->at[i + 1], --o->n - i);
}

st_code transport_host(char out[TRANSPORT_HOST_BYTES], st_error *e) {
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    char boot[37] = "";
    struct stat net;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, boot, sizeof boot - 1);
    if (fd >= 0) close(fd);
    if (n != (ssize_t)sizeof boot - 1 || stat("/proc/self/ns/net", &net))
        return st_fail(e, ST_ERR_UNSUPPORTED, "%s and /proc/self/ns/net tell which host this is; not readable: %s", path,
                       strerror(errno));
    snprintf(out, TRANSPORT_HOST_BYTES, "%s.%llu", boot, (unsigned long long)net.st_ino);
    return ST_OK;
}
