/* Design: each thread has a share of the parts, one after the other, so that what a part asks memory for ahead of itself is
 * wanted by the same core; a thread that is through with its share takes from those of the others. One word a share holds (job
 * number, next part), so that claiming a part is one compare-and-swap that fails when the job is over. The caller publishes a
 * job and takes parts like everyone else; it waits for the parts, not for the workers, so a worker that sleeps through a short
 * job costs nothing (a barrier of threads would stall on a machine with fewer cores than threads). A late worker may read the
 * fields of a newer job, but then its claim, made with the older job's number, fails: the caller closes the old tickets before
 * it writes the fields, and opens the new ones after.
 * Waiting, on both sides, spins briefly and then sleeps on a futex; with more threads than processors it never spins.
 * Limits: one job at a time, Linux only. */
#include "base/pool.h"

#include "base/mem.h"
#include "base/pause.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_PAUSES 1000 /* some 10-40 us: longer than the serial work between two loops of a layer */

#define CLOSED UINT32_MAX /* as the next part of a ticket: none is to be had */

typedef struct {
    _Alignas(64) _Atomic uint64_t ticket; /* job number << 32 | next part */
    pool *pool;
    pthread_t thread; /* of all shares but the caller's, the first */
} share;

struct pool {
    _Alignas(64) _Atomic(pool_part *) part;
    _Atomic(void *) context;
    _Atomic uint32_t n_parts;
    _Alignas(64) _Atomic uint32_t n_done; /* parts of this job; futex of the caller */
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t job; /* number of the newest job; futex of the workers */
    _Atomic uint32_t n_sleepers;
    _Atomic uint32_t leave;
    uint32_t spin_pauses, n_threads, n_started;
    share *shares; /* [n_threads]; the first n_started after the caller's have a thread that runs */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
    syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

static uint32_t share_start(const pool *p, uint32_t n, uint32_t i) { return (uint32_t)((uint64_t)n * i / p->n_threads); }

/* Runs parts of `job` until share i has none left to claim. False where the job is over. */
static bool take_share(pool *p, uint32_t job, uint32_t i) {
    share *s = &p->shares[i];
    for (;;) {
        uint64_t ticket = atomic_load_explicit(&s->ticket, memory_order_acquire);
        if (ticket >> 32 != job) return false;
        pool_part *part = atomic_load_explicit(&p->part, memory_order_acquire);
        void *context = atomic_load_explicit(&p->context, memory_order_acquire);
        uint32_t n = atomic_load_explicit(&p->n_parts, memory_order_acquire), at = (uint32_t)ticket;
        if (at >= share_start(p, n, i + 1)) return true;
        /* Success means that this part was still unclaimed, so the job was not over and the fields read above are its own. */
        if (!atomic_compare_exchange_weak_explicit(&s->ticket, &ticket, ticket + 1, memory_order_acq_rel, memory_order_relaxed))
            continue;
        part(context, at);
        if (atomic_fetch_add(&p->n_done, 1) + 1 == n && atomic_load(&p->caller_sleeps)) futex_wake(&p->n_done);
    }
}

/* Runs parts of `job`, those of share `own` first. */
static void take_parts(pool *p, uint32_t job, uint32_t own) {
    for (uint32_t i = 0; i < p->n_threads; i++)
        if (!take_share(p, job, (own + i) % p->n_threads)) return;
}

static void *work(void *argument) {
    const share *own = argument;
    pool *p = own->pool;
    uint32_t seen = 0, pauses = 0;
    for (;;) {
        uint32_t job = atomic_load(&p->job);
        if (atomic_load(&p->leave)) return NULL;
        if (job != seen) {
            take_parts(p, job, (uint32_t)(own - p->shares));
            seen = job;
            pauses = 0;
        } else if (pauses < p->spin_pauses) {
            pauses++;
            pause_briefly();
        } else {
            /* Counted before the kernel looks at `job`: whoever publishes after that sees the sleeper. */
            atomic_fetch_add(&p->n_sleepers, 1);
            futex_wait(&p->job, seen);
            atomic_fetch_sub(&p->n_sleepers, 1);
        }
    }
}

static void wait_done(pool *p, uint32_t n) {
    for (uint32_t pauses = 0; pauses < p->spin_pauses; pauses++) {
        if (atomic_load_explicit(&p->n_done, memory_order_acquire) == n) return;
        pause_briefly();
    }
    atomic_store(&p->caller_sleeps, 1);
    for (uint32_t done; (done = atomic_load(&p->n_done)) != n;) futex_wait(&p->n_done, done);
    atomic_store(&p->caller_sleeps, 0);
}

void pool_run(pool *p, uint32_t n, pool_part *part, void *context) {
    if (p->n_threads == 1 || n <= 1) {
        for (uint32_t i = 0; i < n; i++) part(context, i);
        return;
    }
    uint32_t job = atomic_load_explicit(&p->job, memory_order_relaxed) + 1;
    /* Whoever reads a new field (acquire) also sees the old tickets closed, so it cannot claim a part of the old job with one. */
    for (uint32_t i = 0; i < p->n_threads; i++)
        atomic_store_explicit(&p->shares[i].ticket, (uint64_t)job << 32 | CLOSED, memory_order_relaxed);
    atomic_store_explicit(&p->part, part, memory_order_release);
    atomic_store_explicit(&p->context, context, memory_order_release);
    atomic_store_explicit(&p->n_parts, n, memory_order_release);
    atomic_store_explicit(&p->n_done, 0, memory_order_relaxed);
    for (uint32_t i = 0; i < p->n_threads; i++)
        atomic_store_explicit(&p->shares[i].ticket, (uint64_t)job << 32 | share_start(p, n, i), memory_order_release);
    atomic_store(&p->job, job);
    if (atomic_load(&p->n_sleepers)) futex_wake(&p->job);
    take_parts(p, job, 0);
    wait_done(p, n);
}

static uint32_t n_processors(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    return (uint32_t)CPU_COUNT(&set);
}

st_code pool_create(uint32_t n_threads, pool **out) {
    if (n_threads < 1 || n_threads > POOL_MAX_THREADS) return ST_ERR_INVALID_ARGUMENT;
    pool *p = mem_alloc_aligned(1, sizeof *p, 64);
    if (!p) return ST_FATAL_MEMORY;
    p->n_threads = n_threads;
    p->spin_pauses = n_threads > n_processors() ? 0 : SPIN_PAUSES;
    p->shares = mem_alloc_aligned(n_threads, sizeof *p->shares, 64);
    if (!p->shares) {
        pool_destroy(p);
        return ST_FATAL_MEMORY;
    }
    while (p->n_started < n_threads - 1) {
        share *s = &p->shares[p->n_started + 1];
        s->pool = p;
        if (pthread_create(&s->thread, NULL, work, s)) {
            pool_destroy(p);
            return ST_ERR_RESOURCE_EXHAUSTED;
        }
        p->n_started++;
    }
    *out = p;
    return ST_OK;
}

void pool_destroy(pool *p) {
    if (!p) return;
    atomic_store(&p->leave, 1);
    atomic_fetch_add(&p->job, 1); /* so that a worker on its way to sleep does not */
    futex_wake(&p->job);
    for (uint32_t i = 0; i < p->n_started; i++) pthread_join(p->shares[i + 1].thread, NULL);
    mem_free(p->shares);
    mem_free(p);
}

uint32_t pool_n_threads(const pool *p) { return p->n_threads; }
