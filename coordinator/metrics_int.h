/* metrics: counts and times of the coordinator, as Prometheus text.
 *
 * Nouns: metrics (what is counted as things happen), a histogram (times in buckets), a view (what is read when asked).
 * metrics.def is the one table of all names; docs/metrics.md is made from it. Pure but for the text's memory. Thread: any, one at
 * a time. */
#ifndef CONSORT_COORDINATOR_METRICS_INT_H
#define CONSORT_COORDINATOR_METRICS_INT_H

#include "coordinator/coordinator_core.h"

enum { METRICS_BUCKETS = 25, METRICS_GRPC_CODES = 17 };

typedef struct {
    uint64_t counts[METRICS_BUCKETS + 1]; /* by bucket, each time in one; the last: over all bounds */
    uint64_t sum_ns;
} metrics_histogram;
/* n times of t_ns each. */
void metrics_add(metrics_histogram *h, uint64_t t_ns, uint64_t n);

/* Bytes of frames between the coordinator and its members. */
typedef enum { METRICS_SENT, METRICS_RECEIVED, METRICS_DIRECTIONS } metrics_direction;
typedef enum { METRICS_PLANS, METRICS_RESULTS, METRICS_EARLY_RESULTS, METRICS_OTHER, METRICS_MESSAGES } metrics_message;

typedef struct {
    uint64_t link_bytes[METRICS_DIRECTIONS][2][METRICS_MESSAGES]; /* in between: of verifiers, of drafters */
    uint64_t succeeded_stop, succeeded_length;
    uint64_t failed[METRICS_GRPC_CODES]; /* by gRPC status */
    uint64_t prompt_tokens, generation_tokens;
    uint64_t moves_done, moves_cancelled, moves_failed, moved_bytes;
    metrics_histogram first_token, inter_token, whole_request, queue, step, plan_overhead, draft, move;
} metrics;

typedef struct {
    uint32_t rank;
    const char *group, *role; /* printable ASCII */
    bool up, is_leader;
    uint64_t steps;
} metrics_worker;
typedef struct {
    const char *group; /* printable ASCII */
    sched_group_stats stats;
    sched_cost costs[SCHED_MAX_COSTS]; /* [n_costs] */
    uint32_t n_costs;
} metrics_verifier;
typedef struct {
    sched_stats sched;
    bool ready;
    double uptime_seconds;
    uint32_t n_drafters;                 /* that have a rank: the first of sched.by_drafter */
    const sched_drafter_stats *drafters; /* [n_drafters] */
    const metrics_verifier *verifiers;   /* [n_verifiers] */
    uint32_t n_verifiers;
    const metrics_worker *workers; /* [n_workers] */
    uint32_t n_workers;
} metrics_view;

typedef struct {
    char *bytes; /* [n], NUL-terminated; mem_free */
    size_t n;
} metrics_text;
/* All of it in the text format 0.0.4. Errors: ST_FATAL_MEMORY; *out is empty then. */
ST_CHECKED st_code metrics_write(const metrics *m, const metrics_view *v, metrics_text *out);

/* The rows of the table, for docs. Static texts. */
typedef struct {
    const char *name, *type, *help, *labels; /* labels: "" where there are none */
} metrics_row;
bool metrics_row_at(size_t i, metrics_row *out); /* false past the last */

#endif
