/* bench_collectives: how long the collectives of a group take, and how long until a rank that sleeps is back in one.
 *
 * The world's ranks form one group by parallel/, as those of a verifier do, and carry out each measure many times, without a
 * pause in between. Rank 0 takes the times; its sum ends when all others have taken part in it. For the wake-up the others sleep
 * as a worker does, its link thread in the loop and its step thread at the mailbox, and for longer than a verifier listens after
 * a step; that time begins with the WAKE on their control links. Rank 0 prints a JSON line a measure. bench/collectives starts
 * this and makes the table. */
#include "base/mailbox.h"
#include "base/mem.h"
#include "net/net.h"
#include "parallel/world.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

enum { HIDDEN = 576, MAX_VALUES = 64 * HIDDEN, HEAD_BYTES = 2048, MAX_TIMES = 10000, DEADLINE_MS = 10000, WAKE = 1, QUIT = 2 };
static const uint64_t NAP_NS = 5000000;

typedef struct {
    const char *what;
    size_t n_values, n_bytes; /* n_bytes are broadcast, then n_values summed */
    bool asleep;
} measure;

static const measure measures[] = {
    {"all-reduce of 1 value", 1, 0, false},
    {"all-reduce of 576 values (4.5 KiB)", HIDDEN, 0, false},
    {"all-reduce of 8 x 576 (36 KiB)", 8 * HIDDEN, 0, false},
    {"all-reduce of 64 x 576 (288 KiB)", MAX_VALUES, 0, false},
    {"broadcast of 2 KiB, then all-reduce of 1 value", 1, HEAD_BYTES, false},
    {"WAKE, then all-reduce of 1 value", 1, 0, true},
};

typedef struct {
    parallel_group *group;
    double *values;  /* [MAX_VALUES] zeros */
    uint64_t *times; /* [MAX_TIMES] ns */
    uint32_t n_awake, n_asleep;
} bench;

static st_code take_part(bench *b, const measure *m) {
    parallel_group *g = b->group;
    st_code code = m->n_bytes ? g->ops->broadcast(g, b->values, m->n_bytes, 0) : ST_OK;
    return code ? code : g->ops->all_reduce(g, b->values, m->n_values);
}

static st_code run_awake(bench *b, const measure *m) {
    st_code code = ST_OK;
    for (uint32_t i = 0; !code && i < b->n_awake; i++) {
        uint64_t start = net_now_ns();
        code = take_part(b, m);
        b->times[i] = net_now_ns() - start;
    }
    return code;
}

/* ---- asleep ---- */

typedef struct {
    bench *b;
    const measure *m;
    net_loop *loop;
    uint32_t n_done;
    st_code code;
    net_link **links; /* rank 0: [n_links] to the sleepers */
    uint32_t n_links;
    net_timer *timer;
    mailbox *mail; /* the others: from the link thread to the step thread */
} nap;

/* Where the sleepers connect to. */
typedef struct {
    uint16_t port;
    uint8_t secret[NET_SECRET_BYTES];
} address;

static void on_timer(void *context) {
    nap *s = context;
    net_frame wake = {.type = WAKE};
    uint64_t start = net_now_ns();
    for (uint32_t k = 0; !s->code && k < s->n_links; k++) s->code = net_link_send(s->links[k], &wake);
    if (!s->code) s->code = take_part(s->b, s->m);
    s->b->times[s->n_done++] = net_now_ns() - start;
    if (s->code || s->n_done == s->b->n_asleep)
        net_loop_stop(s->loop);
    else
        net_timer_at(s->timer, net_now_ns() + NAP_NS);
}

static void on_joined(void *context, net_link *k) {
    nap *s = context;
    s->links[s->n_links++] = k;
    if (s->n_links == s->b->group->n_ranks - 1) net_timer_at(s->timer, net_now_ns() + NAP_NS);
}

static void on_open(void *context, net_link *k) { (void)context, (void)k; }
static void on_frame(void *context, net_link *k, const net_frame *f) { (void)context, (void)k, (void)f; }

static void on_wake(void *context, net_link *k, const net_frame *f) {
    nap *s = context;
    mailbox_item item = {.kind = WAKE};
    (void)k, (void)f;
    INVARIANT(mailbox_post(s->mail, &item)); /* the last one was taken before its sum was done */
}

static void on_close(void *context, net_link *k, const char *reason) {
    nap *s = context;
    (void)k, (void)reason;
    net_loop_stop(s->loop);
}

static void *step_main(void *context) {
    nap *s = context;
    for (mailbox_item item; !s->code && (mailbox_take(s->mail, &item), item.kind == WAKE); s->n_done++)
        s->code = take_part(s->b, s->m);
    return NULL;
}

static st_code wake_others(nap *s, st_error *e) {
    static const net_link_callbacks callbacks = {on_joined, on_frame, on_close};
    net_link_server *server = NULL;
    address at = {0};
    s->links = mem_alloc(s->b->group->n_ranks, sizeof(net_link *));
    st_code code = s->links ? net_timer_create(s->loop, on_timer, s, &s->timer) : ST_FATAL_MEMORY;
    if (!code && getrandom(at.secret, sizeof at.secret, 0) != (ssize_t)sizeof at.secret) code = ST_FATAL_INTERNAL;
    if (!code) code = net_link_listen(s->loop, "127.0.0.1", 0, at.secret, &callbacks, s, &server, &at.port, e);
    if (!code) code = parallel_world_broadcast(&at, sizeof at, DEADLINE_MS, e);
    if (!code) net_loop_run(s->loop);
    net_link_server_destroy(server);
    net_timer_destroy(s->timer);
    mem_free(s->links);
    return code;
}

static st_code be_woken(nap *s, st_error *e) {
    static const net_link_callbacks callbacks = {on_open, on_wake, on_close};
    mailbox_item quit = {.kind = QUIT};
    address at;
    pthread_t thread;
    net_link *link;
    st_code code = parallel_world_broadcast(&at, sizeof at, DEADLINE_MS, e);
    if (!code) code = mailbox_create(2, &s->mail);
    if (!code && pthread_create(&thread, NULL, step_main, s)) code = ST_FATAL_INTERNAL;
    if (!code) {
        code = net_link_connect(s->loop, "127.0.0.1", at.port, at.secret, DEADLINE_MS, &callbacks, s, &link, e);
        if (!code) net_loop_run(s->loop);
        INVARIANT(mailbox_post(s->mail, &quit));
        pthread_join(thread, NULL);
    }
    mailbox_destroy(s->mail, NULL);
    return code;
}

static st_code run_asleep(bench *b, const measure *m, st_error *e) {
    nap s = {.b = b, .m = m};
    st_code code = net_loop_create(&s.loop, e);
    if (!code) code = b->group->rank == 0 ? wake_others(&s, e) : be_woken(&s, e);
    net_loop_destroy(s.loop);
    if (!code) code = s.code;
    return !code && s.n_done < b->n_asleep ? st_fail(e, ST_ERR_UNAVAILABLE, "a link was lost after %u wakes", s.n_done) : code;
}

/* ---- all of it ---- */

static void print(const bench *b, const measure *m) {
    uint32_t n = m->asleep ? b->n_asleep : b->n_awake;
    printf("{\"what\": \"%s\", \"ns\": [", m->what);
    for (uint32_t i = 0; i < n; i++) printf("%s%llu", i ? ", " : "", (unsigned long long)b->times[i]);
    puts("]}");
}

static st_code run(bench *b, uint32_t n_ranks, st_error *e) {
    b->values = mem_alloc(MAX_VALUES, sizeof *b->values);
    b->times = mem_alloc(MAX_TIMES, sizeof *b->times);
    st_code code = b->values && b->times ? parallel_world_group(0, n_ranks, DEADLINE_MS, &b->group, e) : ST_FATAL_MEMORY;
    for (size_t i = 0; !code && i < sizeof measures / sizeof *measures; i++) {
        const measure *m = &measures[i];
        code = m->asleep ? run_asleep(b, m, e) : run_awake(b, m);
        if (!code && b->group->rank == 0) print(b, m);
    }
    if (b->group) b->group->ops->destroy(b->group);
    mem_free(b->values);
    mem_free(b->times);
    return code;
}

/* 0: not a number from 1 to MAX_TIMES. */
static uint32_t number(const char *text) {
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    return *text && !*end && n <= MAX_TIMES ? (uint32_t)n : 0;
}

int main(int argc, char **argv) {
    bench b = {.n_awake = argc == 3 ? number(argv[1]) : 0, .n_asleep = argc == 3 ? number(argv[2]) : 0};
    uint32_t rank, n_ranks;
    st_error e = {0};
    if (!b.n_awake || !b.n_asleep) {
        fprintf(stderr, "usage: mpirun -np RANKS bench_collectives REPETITIONS WAKES   (each 1 to %d)\n", MAX_TIMES);
        return 2;
    }
    st_code code = parallel_world_start(&argc, &argv, &rank, &n_ranks, &e);
    if (!code) code = n_ranks > 1 ? run(&b, n_ranks, &e) : st_fail(&e, ST_ERR_INVALID_ARGUMENT, "it takes two ranks or more");
    if (!code) parallel_world_stop();
    if (code) fprintf(stderr, "bench_collectives: %s\n", e.message[0] ? e.message : st_text(code));
    return code ? 1 : 0;
}
