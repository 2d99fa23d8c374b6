/* Control links: honest peers on one loop, hostile ones by plain sockets in a thread of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/frame_int.h"
#include "net/limits.h"
#include "net/link_int.h"
#include <arpa/inet.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint8_t SECRET[NET_SECRET_BYTES] = "the secret of this cluster epoch", OTHER[NET_SECRET_BYTES] = "another";

typedef struct side {
    net_loop *loop;
    net_link *link;
    int n_open, n_frames, n_close;
    int *closes_left; /* the loop stops at 0 */
    net_frame last;
    char text[64], reason[600];
    const char *close_after; /* closes with this reason at the first frame */
    bool echo, fill;
    st_code full;
} side;

static void on_open(void *context, net_link *k) {
    side *s = context;
    s->n_open++;
    s->link = k;
    net_frame f = {.type = 3, .cluster_epoch = 1, .group_epoch = 2, .payload = (const uint8_t *)"hello", .n = 5};
    if (s->echo) assert_int_equal(net_link_send(k, &f), ST_OK);
    static uint8_t big[1 << 20];
    net_frame plan = {.type = 4, .payload = big, .n = sizeof big};
    while (s->fill && !s->full) s->full = net_link_send(k, &plan);
    if (s->fill) net_link_close(k, "does not read");
}
static void on_frame(void *context, net_link *k, const net_frame *f) {
    side *s = context;
    s->n_frames++;
    s->last = *f;
    memcpy(s->text, f->payload, f->n < sizeof s->text ? f->n : 0);
    if (s->close_after) net_link_close(k, s->close_after);
    if (s->close_after) assert_int_equal(net_link_send(k, f), ST_ERR_UNAVAILABLE);
}
static void on_close(void *context, net_link *k, const char *reason) {
    side *s = context;
    net_link_close(k, "harmless"); /* also from here */
    s->n_close++;
    snprintf(s->reason, sizeof s->reason, "%s", reason);
    if (--*s->closes_left == 0) net_loop_stop(s->loop);
}
static const net_link_callbacks on_link = {on_open, on_frame, on_close};

typedef struct {
    net_loop *loop;
    net_link_server *listener;
    uint16_t port;
    int closes_left;
    side server, client;
} pair;

static void open_server(pair *p, int closes) {
    memset(p, 0, sizeof *p);
    assert_int_equal(net_loop_create(&p->loop, NULL), ST_OK);
    p->server.loop = p->client.loop = p->loop;
    p->closes_left = closes;
    p->server.closes_left = p->client.closes_left = &p->closes_left;
    assert_int_equal(net_link_listen(p->loop, "127.0.0.1", 0, SECRET, &on_link, &p->server, &p->listener, &p->port, NULL), ST_OK);
}
static void join(pair *p, const uint8_t *secret) {
    assert_int_equal(net_link_connect(p->loop, "127.0.0.1", p->port, secret, 5000, &on_link, &p->client, &p->client.link, NULL),
                     ST_OK);
}
static void close_pair(pair *p) {
    net_link_server_destroy(p->listener);
    net_loop_destroy(p->loop);
}

static void links_with_the_secret_carry_frames_and_close_with_reasons(void **state) {
    (void)state;
    pair p;
    open_server(&p, 2);
    p.server.close_after = "model hash differs\x1b[31m";
    p.client.echo = true;
    join(&p, SECRET);
    net_link_set_user(p.client.link, &p);
    assert_ptr_equal(net_link_user(p.client.link), &p);
    net_frame early = {.type = 3};
    assert_int_equal(net_link_send(p.client.link, &early), ST_ERR_UNAVAILABLE);
    net_loop_run(p.loop);
    assert_int_equal(p.server.n_open, 1);
    assert_int_equal(p.client.n_open, 1);
    assert_int_equal(p.server.n_frames, 1);
    assert_string_equal(p.server.text, "hello");
    assert_true(p.server.last.type == 3 && p.server.last.cluster_epoch == 1 && p.server.last.group_epoch == 2);
    assert_string_equal(p.server.reason, "model hash differs\x1b[31m");
    assert_string_equal(p.client.reason, "closed by the peer: model hash differs?[31m");
    close_pair(&p);
}

static void the_wrong_secret_is_refused(void **state) {
    (void)state;
    pair p;
    open_server(&p, 2);
    join(&p, OTHER);
    net_loop_run(p.loop);
    assert_int_equal(p.server.n_open + p.client.n_open, 0);
    assert_string_equal(p.client.reason, "authentication failed: the peer does not know this cluster's secret");
    assert_string_equal(p.server.reason, "closed during authentication; do both sides have this cluster's secret?");
    close_pair(&p);
}

static void a_link_to_nobody_says_so(void **state) {
    (void)state;
    pair p;
    open_server(&p, 1);
    net_link_server_destroy(p.listener);
    p.listener = NULL;
    join(&p, SECRET);
    net_loop_run(p.loop);
    assert_non_null(strstr(p.client.reason, "cannot connect to 127.0.0.1:"));
    assert_non_null(strstr(p.client.reason, "connection refused"));
    close_pair(&p);
}

static void a_server_that_is_destroyed_tells_its_links(void **state) {
    (void)state;
    pair p;
    open_server(&p, 1);
    p.client.close_after = "never";
    p.server.echo = true; /* on_frame at the client closes it */
    join(&p, SECRET);
    net_loop_run(p.loop);
    net_link_server_destroy(p.listener);
    p.listener = NULL;
    assert_int_equal(p.server.n_close, 1);
    close_pair(&p);
}

static void own_types_and_oversize_payloads_are_not_sent(void **state) {
    (void)state;
    pair p;
    open_server(&p, 2);
    p.server.close_after = "enough";
    p.client.echo = true;
    join(&p, SECRET);
    net_frame f = {.type = NET_LINK_BYE};
    while (!p.client.n_open && !p.client.n_close) { /* one turn at a time */
        assert_int_equal(net_loop_post(p.loop, (net_fn)net_loop_stop, p.loop), ST_OK);
        net_loop_run(p.loop);
    }
    assert_int_equal(net_link_send(p.client.link, &f), ST_ERR_INVALID_ARGUMENT);
    f = (net_frame){.type = 1, .n = NET_MAX_FRAME_BYTES + 1};
    assert_int_equal(net_link_send(p.client.link, &f), ST_ERR_INVALID_ARGUMENT);
    net_loop_run(p.loop);
    close_pair(&p);
}

/* ---- peers of another kind ---- */

typedef struct {
    uint16_t port;
    int n_bytes_seen;
    uint8_t proof_frame[NET_PROOF_BYTES + NET_FRAME_EXTRA_BYTES];
    bool replay, damaged, oversize, data_first, never_reads;
    pthread_mutex_t *hold; /* never_reads: until this is free */
} stranger;

static int dial(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
    close(fd);
    return -1;
}

static bool read_all(int fd, uint8_t *out, size_t n) {
    while (n) {
        ssize_t some = read(fd, out, n);
        if (some <= 0) return false;
        out += some;
        n -= (size_t)some;
    }
    return true;
}

static void write_all(int fd, const uint8_t *bytes, size_t n) {
    ssize_t sent = write(fd, bytes, n);
    (void)sent; /* the peer may have closed already */
}

static void write_frame(int fd, const net_frame *f, size_t flip_at) {
    uint8_t bytes[1024];
    net_frame_encode(f, bytes);
    if (flip_at) bytes[flip_at] ^= 1;
    write_all(fd, bytes, f->n + NET_FRAME_EXTRA_BYTES);
}

static void *stranger_main(void *context) {
    stranger *s = context;
    uint8_t nonce[NET_NONCE_BYTES] = "one of mine", theirs[NET_NONCE_BYTES + NET_PROOF_BYTES + NET_FRAME_EXTRA_BYTES];
    uint8_t proof[NET_PROOF_BYTES], byte;
    int fd = dial(s->port);
    net_frame hello = {.type = NET_LINK_HELLO, .payload = nonce, .n = sizeof nonce};
    net_frame data = {.type = 5, .payload = nonce, .n = sizeof nonce};
    if (s->oversize) {
        static const uint8_t big[NET_MAX_HANDSHAKE_BYTES + 1];
        hello = (net_frame){.type = NET_LINK_HELLO, .payload = big, .n = sizeof big};
    }
    if (s->data_first) hello = data;
    write_frame(fd, &hello, 0);
    if (read_all(fd, theirs, sizeof theirs)) {
        st_code rc = net_link_prove(SECRET, NET_LINK_CLIENT_LABEL, nonce, theirs + NET_FRAME_HEAD_BYTES, proof);
        net_frame answer = {.type = NET_LINK_PROOF, .payload = proof, .n = rc ? 0 : sizeof proof};
        if (!s->replay) net_frame_encode(&answer, s->proof_frame);
        write_all(fd, s->proof_frame, sizeof s->proof_frame);
        if (s->damaged) write_frame(fd, &data, NET_FRAME_HEAD_BYTES + 3);
        if (s->never_reads) pthread_mutex_lock(s->hold);
        if (s->never_reads) pthread_mutex_unlock(s->hold);
        while (!s->never_reads && read(fd, &byte, 1) == 1) s->n_bytes_seen++;
    }
    close(fd);
    return NULL;
}

static void meet(pair *p, stranger *s) {
    pthread_t thread;
    s->port = p->port;
    assert_int_equal(pthread_create(&thread, NULL, stranger_main, s), 0);
    net_loop_run(p->loop);
    if (s->hold) pthread_mutex_unlock(s->hold);
    pthread_join(thread, NULL);
}

static void a_recorded_handshake_cannot_be_replayed(void **state) {
    (void)state;
    pair p;
    stranger s = {.damaged = true};
    open_server(&p, 1);
    meet(&p, &s);
    assert_int_equal(p.server.n_open, 1); /* it knew the secret */
    s.replay = true;
    p.closes_left = 1;
    meet(&p, &s); /* the same nonce, the same proof */
    assert_int_equal(p.server.n_open, 1);
    assert_string_equal(p.server.reason, "authentication failed: the peer does not know this cluster's secret");
    close_pair(&p);
}

static void a_damaged_frame_closes_the_link(void **state) {
    (void)state;
    pair p;
    stranger s = {.damaged = true};
    open_server(&p, 1);
    meet(&p, &s);
    assert_int_equal(p.server.n_frames, 0);
    assert_non_null(strstr(p.server.reason, "frame of type 5: checksum"));
    close_pair(&p);
}

static void a_stranger_gets_no_memory_and_no_word_in(void **state) {
    (void)state;
    pair p;
    stranger big = {.oversize = true}, eager = {.data_first = true};
    open_server(&p, 1);
    meet(&p, &big);
    assert_string_equal(p.server.reason, "frame: payload of 257 bytes, limit is 256");
    p.closes_left = 1;
    meet(&p, &eager);
    assert_string_equal(p.server.reason, "authentication failed: unexpected frame");
    assert_int_equal(p.server.n_open + p.server.n_frames, 0);
    close_pair(&p);
}

static void a_peer_that_says_nothing_times_out_at_both_sides(void **state) {
    (void)state;
    pair p;
    open_server(&p, 1);
    net_link_server_set_handshake_ms(p.listener, 20);
    int fd = dial(p.port);
    net_loop_run(p.loop);
    assert_string_equal(p.server.reason, "authentication timed out");
    close(fd);
    net_link_server_destroy(p.listener);
    p.listener = NULL;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 1), 0); /* the kernel connects, nobody answers */
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    p.closes_left = 1;
    assert_int_equal(
        net_link_connect(p.loop, "127.0.0.1", ntohs(a.sin_port), SECRET, 20, &on_link, &p.client, &p.client.link, NULL), ST_OK);
    net_loop_run(p.loop);
    assert_string_equal(p.client.reason, "authentication timed out");
    close(fd);
    close_pair(&p);
}

static void a_peer_that_does_not_read_meets_the_bound(void **state) {
    (void)state;
    pair p;
    pthread_mutex_t hold = PTHREAD_MUTEX_INITIALIZER;
    stranger s = {.never_reads = true, .hold = &hold};
    pthread_mutex_lock(&hold);
    open_server(&p, 1);
    p.server.fill = true;
    meet(&p, &s);
    assert_int_equal(p.server.full, ST_ERR_RESOURCE_EXHAUSTED);
    close_pair(&p);
}

static void each_allocation_that_fails_is_survived(void **state) {
    (void)state;
    uint64_t made = 1, k = 0;
    while (made >= k) {
        pair p = {0};
        assert_int_equal(net_loop_create(&p.loop, NULL), ST_OK);
        p.server.loop = p.client.loop = p.loop;
        p.closes_left = 2;
        p.server.closes_left = p.client.closes_left = &p.closes_left;
        p.server.close_after = "done";
        p.client.echo = true;
        mem_fail_at(++k);
        bool ok = net_link_listen(p.loop, "127.0.0.1", 0, SECRET, &on_link, &p.server, &p.listener, &p.port, NULL) == ST_OK;
        ok =
            ok && net_link_connect(p.loop, "127.0.0.1", p.port, SECRET, 5000, &on_link, &p.client, &p.client.link, NULL) == ST_OK;
        made = mem_fail_at(0);
        assert_int_equal(ok, made < k);
        if (p.client.link && !ok) net_loop_run(p.loop);
        close_pair(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(links_with_the_secret_carry_frames_and_close_with_reasons),
        cmocka_unit_test(the_wrong_secret_is_refused),
        cmocka_unit_test(a_link_to_nobody_says_so),
        cmocka_unit_test(a_server_that_is_destroyed_tells_its_links),
        cmocka_unit_test(own_types_and_oversize_payloads_are_not_sent),
        cmocka_unit_test(a_recorded_handshake_cannot_be_replayed),
        cmocka_unit_test(a_damaged_frame_closes_the_link),
        cmocka_unit_test(a_stranger_gets_no_memory_and_no_word_in),
        cmocka_unit_test(a_peer_that_says_nothing_times_out_at_both_sides),
        cmocka_unit_test(a_peer_that_does_not_read_meets_the_bound),
        cmocka_unit_test(each_allocation_that_fails_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
