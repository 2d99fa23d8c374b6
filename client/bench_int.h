/* bench: what the files of `consort bench serve` share: a run (bench_serve.c makes it, bench_report.c tells it).
 *
 * Nouns: a run (all requests of one load), its options, a record of each request (load.h). Records, gaps and names are the run's.
 * One thread. */
#ifndef CONSORT_CLIENT_BENCH_INT_H
#define CONSORT_CLIENT_BENCH_INT_H

#include "client/load.h"
#include "client/prompts.h"
#include "client/request.h"

enum { BENCH_MAX_STREAMS = 256, BENCH_MAX_REQUESTS = 1 << 20, BENCH_MAX_TOKENS = 1 << 16 };

typedef struct bench_flight bench_flight;
typedef struct {
    /* options */
    const char *server, *prompts_path, *domains, *records_path, *expect_path, *system;
    uint32_t n_streams, n_requests, seconds, n_warm_up, n_tokens, timeout_s;
    uint64_t seed;
    double rate; /* 0: a closed loop */
    bool raw, json;
    client_request q; /* what all requests have in common */
    /* at the start */
    prompts prompts;
    char model[256], version[32];
    client_rpc *rpc;
    arena arena; /* of the reply at hand */
    /* of the load so far */
    load_record *records; /* [n_records] in the order of sending; room for n_room */
    size_t n_records, n_room;
    uint64_t *gaps; /* [n_gaps] between tokens, of all requests that went well */
    size_t n_gaps, gaps_room;
    char names[LOAD_MAX_DRAFTERS][32]; /* of drafters, by load_use.name */
    uint32_t n_names;
    uint64_t start_ns;                           /* net_now_ns() */
    uint64_t n_arrived, full_ns, n_full_arrived; /* tokens so far; the end of the full load, tokens until then */
    double cpu_s;                                /* of this process, during the load */
    bool stopped, interrupted;                   /* the cluster was gone; by a signal */
    bench_flight *flights;                       /* in the air */
    json_t *more;                                /* further fields of the summary; NULL: none */
} bench_run;

/* `consort bench serve`; argv[0] is what messages call it. Returns the exit code. */
int bench_serve(int argc, char **argv);
/* `consort bench kv`, likewise. */
int bench_kv(int argc, char **argv);

/* The request for a prompt: views into `b` and `messages`. */
void bench_request(const bench_run *b, uint32_t prompt, proto_message messages[2], proto_request *out);

/* ---- bench_report.c ---- */
/* Recorded answers of an earlier run: JSON lines as in --records; those of requests that failed are left out. */
typedef struct {
    uint8_t request[SHA256_BYTES], tokens[SHA256_BYTES];
    char id[PROMPTS_MAX_NAME_BYTES + 1];
} bench_answer;
typedef struct {
    bench_answer *items; /* [n], sorted by request and id; owned */
    size_t n, room;
} bench_answers;
ST_CHECKED st_code bench_answers_read(const char *path, bench_answers *out, st_error *e);
void bench_answers_deinit(bench_answers *a);

/* How the run's answers compare: with each other where a request was made twice, and with expected ones. */
typedef struct {
    size_t n_compared, n_unknown, n_differ; /* with expected ones */
    size_t n_repeats_differ;
    st_error first; /* the first that differs */
} bench_comparison;
ST_CHECKED st_code bench_compare(const bench_run *b, const bench_answers *expected, bench_comparison *out, st_error *e);
/* One JSON line a request. */
ST_CHECKED st_code bench_write_records(const bench_run *b, FILE *f, st_error *e);
/* To standard output; sorts b->gaps. `c` NULL: nothing was compared with. */
ST_CHECKED st_code bench_report(bench_run *b, const bench_comparison *c, st_error *e);

#endif
