/* Prometheus text format 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats
 *
 * Why one set of bounds for all times: 1, 2, 5 a decade from 10 us to a quarter of an hour covers the way of a plan and a long
 * answer, and quantiles of any two histograms can be compared. Why no client library: a scrape is a walk over one table. */
#include "coordinator/metrics_int.h"

#include "base/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "consort_"

static const double bounds[METRICS_BUCKETS] = {1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                               0.2,  0.5,  1,    2,    5,    10,   20,    50,    100,   200,  500,  1000};

void metrics_add(metrics_histogram *h, uint64_t t_ns, uint64_t n) {
    size_t i = 0;
    while (i < METRICS_BUCKETS && (double)t_ns > bounds[i] * 1e9) i++;
    h->counts[i] += n;
    h->sum_ns += t_ns * n;
}

/* ---- text that grows ---- */

typedef struct {
    char *bytes;
    size_t n, capacity;
    bool failed;
} text;

static void put(text *t, const char *format, ...) ST_PRINTF(2, 3);
static void put(text *t, const char *format, ...) {
    while (!t->failed) {
        va_list args;
        va_start(args, format);
        int n = vsnprintf(t->bytes + t->n, t->capacity - t->n, format, args);
        va_end(args);
        INVARIANT(n >= 0);
        if ((size_t)n < t->capacity - t->n) {
            t->n += (size_t)n;
            return;
        }
        size_t more = t->capacity + (size_t)n + 1 > 2 * t->capacity ? t->capacity + (size_t)n + 1 : 2 * t->capacity;
        char *bytes = mem_resize(t->bytes, t->capacity, more, 1);
        t->failed = !bytes;
        if (bytes) {
            t->bytes = bytes;
            t->capacity = more;
        }
    }
}

/* ---- families and histograms ---- */

static double metrics_ratio(uint32_t part, uint32_t all) { return all ? (double)part / all : 0; }

static void write_build_info(text *t, const metrics *m, const metrics_view *v) {
    (void)m, (void)v;
    put(t, PREFIX "build_info{version=\"%s\"} 1\n", CONSORT_VERSION);
}

static void write_request_success_total(text *t, const metrics *m, const metrics_view *v) {
    (void)v;
    put(t, PREFIX "request_success_total{finished_reason=\"stop\"} %llu\n", (unsigned long long)m->succeeded_stop);
    put(t, PREFIX "request_success_total{finished_reason=\"length\"} %llu\n", (unsigned long long)m->succeeded_length);
}

/* All of them from the start, so that a rate over the first one is not lost. https://grpc.io/docs/guides/status-codes */
static void write_request_failure_total(text *t, const metrics *m, const metrics_view *v) {
    static const char *const names[METRICS_GRPC_CODES] = {
        "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
        "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
        "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
        "DATA_LOSS", "UNAUTHENTICATED"};
    (void)v;
    for (size_t i = 1; i < METRICS_GRPC_CODES; i++)
        put(t, PREFIX "request_failure_total{code=\"%s\"} %llu\n", names[i], (unsigned long long)m->failed[i]);
}

static void write_kv_moves_total(text *t, const metrics *m, const metrics_view *v) {
    (void)v;
    put(t, PREFIX "kv_moves_total{result=\"done\"} %llu\n", (unsigned long long)m->moves_done);
    put(t, PREFIX "kv_moves_total{result=\"cancelled\"} %llu\n", (unsigned long long)m->moves_cancelled);
    put(t, PREFIX "kv_moves_total{result=\"failed\"} %llu\n", (unsigned long long)m->moves_failed);
}

static void write_early_results_total(text *t, const metrics *m, const metrics_view *v) {
    (void)m;
    put(t, PREFIX "early_results_total{outcome=\"right\"} %llu\n", (unsigned long long)v->sched.early_right);
    put(t, PREFIX "early_results_total{outcome=\"wrong\"} %llu\n", (unsigned long long)v->sched.early_wrong);
    put(t, PREFIX "early_results_total{outcome=\"late\"} %llu\n", (unsigned long long)v->sched.early_late);
}

static void write_link_bytes_total(text *t, const metrics *m, const metrics_view *v) {
    static const char *const directions[METRICS_DIRECTIONS] = {"sent", "received"}, *const roles[] = {"verifier", "drafter"};
    static const char *const messages[METRICS_MESSAGES] = {"plan", "result", "early", "other"};
    (void)v;
    for (int d = 0; d < METRICS_DIRECTIONS; d++)
        for (int r = 0; r < 2; r++)
            for (int k = 0; k < METRICS_MESSAGES; k++) {
                bool never = k != METRICS_OTHER && (d == METRICS_SENT) != (k == METRICS_PLANS);
                if (never || (r && k == METRICS_EARLY_RESULTS)) continue;
                put(t, PREFIX "link_bytes_total{direction=\"%s\",role=\"%s\",message=\"%s\"} %llu\n", directions[d], roles[r],
                    messages[k], (unsigned long long)m->link_bytes[d][r][k]);
            }
}

/* The inside of a label. */
static void put_label(text *t, const char *value) {
    for (const char *p = value; *p; p++) put(t, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
}

static void put_drafter(text *t, const char *name, const proto_drafter_figures *d, uint64_t value) {
    put(t, PREFIX "%s{drafter=\"", name);
    put_label(t, d->name);
    put(t, "\"} %llu\n", (unsigned long long)value);
}

static void write_drafter_draft_tokens_total(text *t, const metrics *m, const metrics_view *v) {
    const proto_drafter_figures *d = v->sched.by_drafter;
    (void)m;
    for (uint32_t i = 0; i < v->sched.n_by_drafter; i++) put_drafter(t, "drafter_draft_tokens_total", &d[i], d[i].drafted);
}

static void write_drafter_accepted_tokens_total(text *t, const metrics *m, const metrics_view *v) {
    const proto_drafter_figures *d = v->sched.by_drafter;
    (void)m;
    for (uint32_t i = 0; i < v->sched.n_by_drafter; i++) put_drafter(t, "drafter_accepted_tokens_total", &d[i], d[i].accepted);
}

static void write_drafter_wait_seconds(text *t, const metrics *m, const metrics_view *v) {
    (void)m;
    for (uint32_t i = 0; i < v->n_drafters; i++) {
        put(t, PREFIX "drafter_wait_seconds{drafter=\"");
        put_label(t, v->sched.by_drafter[i].name);
        put(t, "\"} %.9g\n", (double)v->drafters[i].wait_ns / 1e9);
    }
}

#define DRAFTER(name, member)                                                                                                    \
    static void write_##name(text *t, const metrics *m, const metrics_view *v) {                                                 \
        (void)m;                                                                                                                 \
        for (uint32_t i = 0; i < v->n_drafters; i++) put_drafter(t, #name, &v->sched.by_drafter[i], v->drafters[i].member);      \
    }
DRAFTER(drafter_scored_tokens_total, scored)
DRAFTER(drafter_hit_tokens_total, hits)
DRAFTER(drafter_requests_followed, followed)
DRAFTER(drafter_kv_blocks, kv_blocks)
DRAFTER(drafter_kv_blocks_held, kv_held)
DRAFTER(drafter_requests_dropped_total, dropped)
#undef DRAFTER

static void put_verifier(text *t, const char *name, const metrics_verifier *g, double value) {
    put(t, PREFIX "%s{group=\"", name);
    put_label(t, g->group);
    put(t, "\"} %.17g\n", value);
}

#define VERIFIER(name, expression)                                                                                               \
    static void write_##name(text *t, const metrics *m, const metrics_view *v) {                                                 \
        (void)m;                                                                                                                 \
        for (const metrics_verifier *g = v->verifiers; g < v->verifiers + v->n_verifiers; g++)                                   \
            put_verifier(t, #name, g, (double)(expression));                                                                     \
    }
VERIFIER(verifier_up, g->stats.up)
VERIFIER(verifier_drained, g->stats.emptied)
VERIFIER(verifier_requests_running, g->stats.running)
VERIFIER(verifier_kv_blocks, g->stats.blocks_total)
VERIFIER(verifier_kv_blocks_used, g->stats.blocks_used)
VERIFIER(verifier_busy_seconds_total, (double)g->stats.busy_ns / 1e9)
VERIFIER(verifier_idle_seconds_total, (double)g->stats.idle_ns / 1e9)
#undef VERIFIER

static void write_believed_step_seconds(text *t, const metrics *m, const metrics_view *v) {
    (void)m;
    for (const metrics_verifier *g = v->verifiers; g < v->verifiers + v->n_verifiers; g++)
        for (uint32_t i = 0; i < g->n_costs; i++) {
            put(t, PREFIX "believed_step_seconds{group=\"");
            put_label(t, g->group);
            put(t, "\",rows=\"%u\"} %.9g\n", g->costs[i].rows, g->costs[i].step_ns / 1e9);
        }
}

static void put_worker(text *t, const char *name, const metrics_worker *w, uint64_t value) {
    put(t, PREFIX "%s{rank=\"%u\",group=\"", name, w->rank);
    put_label(t, w->group);
    put(t, "\",role=\"%s\"} %llu\n", w->role, (unsigned long long)value);
}

static void write_worker_up(text *t, const metrics *m, const metrics_view *v) {
    (void)m;
    for (uint32_t i = 0; i < v->n_workers; i++) put_worker(t, "worker_up", &v->workers[i], v->workers[i].up);
}

static void write_worker_steps_total(text *t, const metrics *m, const metrics_view *v) {
    (void)m;
    for (uint32_t i = 0; i < v->n_workers; i++)
        if (v->workers[i].is_leader) put_worker(t, "worker_steps_total", &v->workers[i], v->workers[i].steps);
}

static void write_histogram(text *t, const char *name, const metrics_histogram *h) {
    uint64_t n = 0;
    for (size_t i = 0; i < METRICS_BUCKETS; i++) {
        n += h->counts[i];
        put(t, PREFIX "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i], (unsigned long long)n);
    }
    n += h->counts[METRICS_BUCKETS];
    put(t, PREFIX "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)n);
    put(t, PREFIX "%s_sum %.9g\n" PREFIX "%s_count %llu\n", name, (double)h->sum_ns / 1e9, name, (unsigned long long)n);
}

/* ---- the table ---- */

#define VALUE(name, type, help, expression)                                                                                      \
    static void write_##name(text *t, const metrics *m, const metrics_view *v) {                                                 \
        (void)m, (void)v;                                                                                                        \
        put(t, PREFIX #name " %.17g\n", (double)(expression));                                                                   \
    }
#define FAMILY(name, type, help, labels)
#define TIMES(name, help, member)                                                                                                \
    static void write_##name(text *t, const metrics *m, const metrics_view *v) {                                                 \
        (void)v;                                                                                                                 \
        write_histogram(t, #name, &m->member);                                                                                   \
    }
#include "coordinator/metrics.def"
#undef VALUE
#undef FAMILY
#undef TIMES

#define VALUE(name, type, help, expression) {{PREFIX #name, #type, help, ""}, write_##name},
#define FAMILY(name, type, help, labels)    {{PREFIX #name, #type, help, labels}, write_##name},
#define TIMES(name, help, member)           {{PREFIX #name, "histogram", help, ""}, write_##name},
static const struct {
    metrics_row row;
    void (*write)(text *t, const metrics *m, const metrics_view *v);
} rows[] = {
#include "coordinator/metrics.def"
};

bool metrics_row_at(size_t i, metrics_row *out) {
    if (i >= sizeof rows / sizeof *rows) return false;
    *out = rows[i].row;
    return true;
}

st_code metrics_write(const metrics *m, const metrics_view *v, metrics_text *out) {
    enum { FIRST_BYTES = 16 << 10 };
    text t = {.bytes = mem_alloc(FIRST_BYTES, 1), .capacity = FIRST_BYTES};
    t.failed = !t.bytes;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        put(&t, "# HELP %s %s\n# TYPE %s %s\n", rows[i].row.name, rows[i].row.help, rows[i].row.name, rows[i].row.type);
        rows[i].write(&t, m, v);
    }
    if (t.failed) {
        mem_free(t.bytes);
        t = (text){.failed = true};
    }
    *out = (metrics_text){t.bytes, t.n};
    return t.failed ? ST_FATAL_MEMORY : ST_OK;
}
