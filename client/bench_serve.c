/* consort bench serve: a load on a running cluster, and what its clients see.
 *
 * All requests are calls on one connection, in one loop of one thread: the loop sends what is due, then sleeps until a reply, the
 * next arrival or a signal. In a closed loop each stream sends its next request when its last has ended; in an open one requests
 * arrive by a schedule whatever the cluster does, and their times count from there. Requests before the load (--warm-up) are a
 * closed loop of their own, ended before the first that counts. Nothing is written while the load runs. */
#include "client/bench_int.h"
#include "client/client_int.h"

#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const uint64_t RETRY_NS = 100000000; /* a closed loop's pause after a failure: no storm of refused requests */
enum { STATUS_TIMEOUT_S = 5, DEFAULT_REQUESTS = 64, DEFAULT_TOKENS = 64 };

/* One request in the air. */
struct bench_flight {
    bench_run *b;
    struct phase *phase;
    bench_flight *next, *previous;
    size_t record;
    void *call;
    sha256 tokens;
    uint64_t *gaps; /* [n_gaps] */
    size_t n_gaps, gaps_room;
    st_error e; /* what was wrong with a reply */
};

/* One load, from its first request to the last end. Times from its start. */
typedef struct phase {
    uint32_t n_streams; /* 0: open */
    load_arrivals arrivals;
    load_mix mix;
    uint64_t limit, until_ns; /* requests; no new ones from then on */
    uint64_t next_ns;         /* open: the next arrival; closed: nothing is sent before */
    uint64_t n_sent;
    uint32_t n_in_flight;
    st_error broken; /* what ends the run */
} phase;

static uint64_t since_start(const bench_run *b) { return net_now_ns() - b->start_ns; }

/* Room for `more` further elements. */
static bool grow(void *array, size_t n, size_t more, size_t *room, size_t size) {
    char *p;
    size_t wanted = *room ? *room : 64;
    memcpy(&p, array, sizeof p);
    while (wanted < n + more) wanted *= 2;
    if (wanted == *room) return true;
    p = mem_resize(p, *room, wanted, size);
    if (!p) return false;
    memcpy(array, &p, sizeof p);
    *room = wanted;
    return true;
}

/* ---- a flight ---- */

static void flight_free(bench_flight *f) {
    uint8_t unused[SHA256_BYTES];
    if (!f) return;
    if (f->previous)
        f->previous->next = f->next;
    else if (f->b->flights == f)
        f->b->flights = f->next;
    if (f->next) f->next->previous = f->previous;
    st_code code = f->tokens.context ? sha256_end(&f->tokens, unused) : ST_OK; /* frees */
    (void)code;
    mem_free(f->gaps);
    mem_free(f);
}

static bench_flight *flight_new(bench_run *b, phase *p) {
    bench_flight *f = mem_alloc(1, sizeof *f);
    if (!f) return NULL;
    *f = (bench_flight){.b = b, .phase = p, .record = b->n_records, .next = b->flights};
    if (f->next) f->next->previous = f;
    b->flights = f;
    sha256_begin(&f->tokens);
    return f;
}

static void take_tokens(bench_flight *f, load_record *r, const proto_reply *reply) {
    uint64_t now = since_start(f->b);
    uint32_t n = reply->n_tokens;
    if (n > f->b->n_tokens - r->n_tokens) {
        (void)st_fail(&f->e, ST_ERR_FORMAT, "more tokens came than the %u asked for", f->b->n_tokens);
        return;
    }
    if (!r->n_tokens) {
        r->first_ns = now;
        r->n_first = n;
    } else if (grow(&f->gaps, f->n_gaps, n, &f->gaps_room, sizeof *f->gaps)) {
        for (uint32_t i = 0; i < n; i++) f->gaps[f->n_gaps++] = (now - r->last_ns) / n;
    } else {
        (void)st_fail(&f->e, ST_FATAL_MEMORY, "out of memory");
    }
    r->last_ns = now;
    r->n_tokens += n;
    f->b->n_arrived += n;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t t = reply->tokens[i];
        uint8_t bytes[4] = {(uint8_t)t, (uint8_t)(t >> 8), (uint8_t)(t >> 16), (uint8_t)(t >> 24)};
        sha256_add(&f->tokens, bytes, sizeof bytes);
    }
}

/* The number of a drafter's name; LOAD_MAX_DRAFTERS where there are too many. */
static uint32_t name_number(bench_run *b, const char *name) {
    uint32_t i = 0;
    while (i < b->n_names && strcmp(b->names[i], name)) i++;
    if (i == b->n_names && i < LOAD_MAX_DRAFTERS) snprintf(b->names[b->n_names++], sizeof b->names[0], "%s", name);
    return i;
}

static void take_end(bench_flight *f, load_record *r, const proto_reply *reply) {
    snprintf(r->finish_reason, sizeof r->finish_reason, "%s", reply->finish_reason);
    r->prompt_tokens = reply->prompt_tokens;
    r->queue_ns = reply->queue_ns;
    r->steps = reply->steps;
    r->drafted = reply->drafted;
    r->accepted = reply->accepted;
    if (r->uses || !reply->n_by_drafter) return;
    r->uses = mem_alloc(reply->n_by_drafter, sizeof *r->uses);
    if (!r->uses) (void)st_fail(&f->e, ST_FATAL_MEMORY, "out of memory");
    for (uint32_t i = 0; r->uses && i < reply->n_by_drafter; i++) {
        const proto_drafter_figures *d = &reply->by_drafter[i];
        load_use use = {name_number(f->b, d->name), d->drafted, d->accepted};
        if (use.name < LOAD_MAX_DRAFTERS) r->uses[r->n_uses++] = use;
    }
}

static void on_message(void *context, const uint8_t *message, size_t n) {
    bench_flight *f = context;
    bench_run *b = f->b;
    load_record *r = &b->records[f->record];
    proto_reply reply;
    if (f->e.code) return;
    st_code code = ST_OK;
    if (b->arena.size_bytes < proto_arena_bytes(n)) {
        arena_deinit(&b->arena);
        code = arena_init(&b->arena, proto_arena_bytes(n));
        if (code) (void)st_fail(&f->e, code, "out of memory");
    }
    arena_reset(&b->arena, 0);
    if (!code) code = proto_reply_decode(message, n, &b->arena, &reply, &f->e);
    if (!code && reply.index) code = st_fail(&f->e, ST_ERR_FORMAT, "index: %u in a reply; one answer was asked for", reply.index);
    if (!code && reply.request_id) snprintf(r->request_id, sizeof r->request_id, "%s", reply.request_id);
    if (!code && reply.n_tokens) take_tokens(f, r, &reply);
    if (!code && reply.finish_reason) take_end(f, r, &reply);
    if (f->e.code) client_rpc_cancel(b->rpc, f->call);
}

static st_code finish(bench_flight *f, load_record *r) {
    st_code code = sha256_end(&f->tokens, r->tokens_hash);
    if (code || !grow(&f->b->gaps, f->b->n_gaps, f->n_gaps, &f->b->gaps_room, sizeof *f->b->gaps))
        return st_fail(&f->e, ST_FATAL_MEMORY, "out of memory");
    if (f->n_gaps) memcpy(f->b->gaps + f->b->n_gaps, f->gaps, f->n_gaps * sizeof *f->gaps);
    f->b->n_gaps += f->n_gaps;
    r->gaps = load_spread_of(f->gaps, f->n_gaps);
    return ST_OK;
}

static void on_done(void *context, int status, const char *message) {
    bench_flight *f = context;
    bench_run *b = f->b;
    phase *p = f->phase;
    load_record *r = &b->records[f->record];
    st_code code = f->e.code ? f->e.code : client_rpc_outcome(status, message, &f->e);
    r->end_ns = since_start(b);
    r->ended = true;
    if (!code && !r->finish_reason[0]) code = st_fail(&f->e, ST_ERR_FORMAT, "the answer has no end");
    if (!code) code = finish(f, r);
    if (code) {
        r->error = mem_text(f->e.message, strlen(f->e.message));
        if (!r->error || code == ST_FATAL_MEMORY) (void)st_fail(&p->broken, ST_FATAL_MEMORY, "out of memory");
        if (code == ST_ERR_UNAVAILABLE) b->stopped = true; /* nobody serves: no more requests */
        if (p->n_streams) p->next_ns = r->end_ns + RETRY_NS;
    }
    p->n_in_flight--;
    flight_free(f);
    client_rpc_stop(b->rpc);
}

/* ---- a phase ---- */

void bench_request(const bench_run *b, uint32_t prompt, proto_message messages[2], proto_request *out) {
    const char *text = b->prompts.items[prompt].text;
    *out = b->q.request;
    if (b->raw) {
        out->prompt_kind = PROTO_PROMPT_TEXT;
        out->text = text;
        out->text_bytes = strlen(text);
        return;
    }
    if (b->system) messages[out->n_messages++] = (proto_message){"system", b->system};
    messages[out->n_messages++] = (proto_message){"user", text};
    out->prompt_kind = PROTO_PROMPT_CHAT;
    out->messages = messages;
}

static st_code send_next(bench_run *b, phase *p, st_error *e) {
    static const net_grpc_reply callbacks = {on_message, on_done};
    proto_message messages[2];
    proto_request request;
    proto_bytes bytes = {0};
    uint32_t prompt = load_mix_next(&p->mix);
    if (!grow(&b->records, b->n_records, 1, &b->n_room, sizeof *b->records)) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    bench_flight *f = flight_new(b, p);
    bench_request(b, prompt, messages, &request);
    if (!f || proto_request_encode(&request, &bytes)) {
        flight_free(f);
        return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    }
    load_record *r = &b->records[b->n_records];
    *r = (load_record){.prompt = prompt, .domain = b->prompts.items[prompt].domain, .sent_ns = since_start(b)};
    r->scheduled_ns = p->n_streams ? r->sent_ns : p->next_ns;
    st_code code = client_rpc_start(b->rpc, "/consort.v1.Inference/Generate", bytes.bytes, bytes.n, b->timeout_s, &callbacks, f,
                                    &f->call, e);
    proto_bytes_free(&bytes);
    if (code) {
        flight_free(f);
        return code;
    }
    b->n_records++;
    p->n_sent++;
    p->n_in_flight++;
    if (!p->n_streams) p->next_ns = load_arrivals_next(&p->arrivals);
    return ST_OK;
}

/* No further request will be sent. An arrival that is late is none the less sent. */
static bool is_over(const bench_run *b, const phase *p, uint64_t now) {
    return b->stopped || p->n_sent >= p->limit || (p->n_streams ? now : p->next_ns) >= p->until_ns;
}

static bool is_due(const bench_run *b, const phase *p, uint64_t now) {
    return !is_over(b, p, now) && p->next_ns <= now && (!p->n_streams || p->n_in_flight < p->n_streams);
}

/* When to look again though no reply came; 0: never. */
static uint64_t wake_ns(const bench_run *b, const phase *p, uint64_t now) {
    if (is_over(b, p, now)) return 0;
    if (!p->n_streams || p->n_in_flight < p->n_streams) return b->start_ns + p->next_ns;
    return p->until_ns == UINT64_MAX ? 0 : b->start_ns + p->until_ns;
}

/* The load is full until a stream finds nothing more to send, or the last request has arrived, or time is over. */
static void note_full(bench_run *b, const phase *p, uint64_t now) {
    bool waning = !p->n_streams || p->n_in_flight < p->n_streams || now >= p->until_ns;
    if (b->full_ns || !waning || !is_over(b, p, now)) return;
    b->full_ns = now;
    b->n_full_arrived = b->n_arrived;
}

static st_code run_phase(bench_run *b, phase *p, st_error *e) {
    st_code code = ST_OK;
    b->start_ns = net_now_ns();
    if (!p->n_streams) p->next_ns = load_arrivals_next(&p->arrivals);
    for (;;) {
        uint64_t now = since_start(b);
        while (!code && is_due(b, p, now)) code = send_next(b, p, e);
        note_full(b, p, now);
        if (code || (!p->n_in_flight && is_over(b, p, now))) return code;
        code = client_rpc_run(b->rpc, wake_ns(b, p, now), e);
        if (!code && p->broken.code) code = st_fail(e, p->broken.code, "%s", p->broken.message);
    }
}

static void forget_records(bench_run *b) {
    for (size_t i = 0; i < b->n_records; i++) {
        mem_free((char *)(uintptr_t)b->records[i].error);
        mem_free(b->records[i].uses);
    }
    b->n_records = b->n_gaps = 0;
    b->n_arrived = b->full_ns = b->n_full_arrived = 0;
    b->stopped = false;
}

/* Requests that are not counted. One that fails is an error: the load would fail, too. */
static st_code warm_up(bench_run *b, const load_mix *mix, st_error *e) {
    phase p = {.n_streams = b->n_streams, .mix = *mix, .limit = b->n_warm_up, .until_ns = UINT64_MAX};
    st_code code = b->n_warm_up ? run_phase(b, &p, e) : ST_OK;
    for (size_t i = 0; !code && i < b->n_records; i++)
        if (b->records[i].error) code = st_fail(e, ST_ERR_UNAVAILABLE, "warm-up: %s", b->records[i].error);
    if (!code) forget_records(b);
    return code;
}

static double cpu_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static st_code run_load(bench_run *b, uint32_t *order, st_error *e) {
    phase p = {.n_streams = b->rate > 0 ? 0 : b->n_streams,
               .limit = b->n_requests ? b->n_requests
                        : b->seconds  ? BENCH_MAX_REQUESTS
                                      : DEFAULT_REQUESTS,
               .until_ns = b->seconds ? b->seconds * UINT64_C(1000000000) : UINT64_MAX};
    if (p.n_streams > p.limit) p.n_streams = (uint32_t)p.limit; /* more would have nothing to send */
    load_mix_init(&p.mix, b->seed, b->prompts.first, b->prompts.n_files, order);
    load_arrivals_init(&p.arrivals, b->seed, b->rate);
    st_code code = warm_up(b, &p.mix, e);
    if (code) return code;
    b->cpu_s = cpu_s();
    code = run_phase(b, &p, e);
    b->cpu_s = cpu_s() - b->cpu_s;
    b->interrupted = code == ST_ERR_CANCELLED;
    if (!b->full_ns) {
        b->full_ns = since_start(b);
        b->n_full_arrived = b->n_arrived;
    }
    return b->interrupted ? ST_OK : code;
}

/* ---- the verb ---- */

typedef struct {
    bench_run *b;
    bool ready;
    st_error *e;
} status_question;

static st_code on_status(void *context, const uint8_t *message, size_t n) {
    status_question *q = context;
    proto_status s;
    arena a = {0};
    st_code code = arena_init(&a, proto_arena_bytes(n));
    code = code ? st_fail(q->e, code, "out of memory") : proto_status_decode(message, n, &a, &s, q->e);
    if (!code && !s.ready) code = st_fail(q->e, ST_ERR_UNAVAILABLE, "the cluster does not serve: %s", s.reason);
    if (!code) {
        snprintf(q->b->model, sizeof q->b->model, "%s", s.model);
        snprintf(q->b->version, sizeof q->b->version, "%s", s.version);
        q->ready = true;
    }
    arena_deinit(&a);
    return code;
}

/* A cluster that serves, or an error at once. */
static st_code meet(bench_run *b, st_error *e) {
    status_question q = {.b = b, .e = e};
    st_code code = client_rpc_open(b->server, &b->rpc, e);
    if (!code) code = client_rpc_call(b->rpc, "/consort.v1.Inference/Status", NULL, 0, STATUS_TIMEOUT_S, on_status, &q, e);
    return code || q.ready ? code : st_fail(e, ST_ERR_UNAVAILABLE, "the coordinator gave no answer");
}

/* What was measured, as far as it came; then the first thing that was wrong. */
static st_code tell(bench_run *b, const bench_answers *expected, FILE *records, st_error *e) {
    bench_comparison c = {0};
    size_t n_failed = 0;
    st_code code = bench_compare(b, expected, &c, e);
    if (!code && records) code = bench_write_records(b, records, e);
    if (!code) code = bench_report(b, b->expect_path ? &c : NULL, e);
    const load_record *first = NULL;
    for (size_t i = 0; i < b->n_records; i++)
        if (b->records[i].ended && b->records[i].error && !n_failed++) first = &b->records[i];
    if (code) return code;
    if (c.first.code) return *e = c.first, c.first.code;
    if (b->interrupted) return st_fail(e, ST_ERR_CANCELLED, "interrupted by a signal");
    if (first)
        return st_fail(e, ST_ERR_UNAVAILABLE, "%zu of %zu requests failed; the first, %s: %s", n_failed, b->n_records,
                       b->prompts.items[first->prompt].id, first->error);
    if (b->expect_path && !c.n_compared)
        return st_fail(e, ST_ERR_NOT_FOUND, "%s: no request of this run is in it", b->expect_path);
    return ST_OK;
}

static void leave(bench_run *b) {
    client_rpc_close(b->rpc); /* what is in the air ends without on_done */
    b->rpc = NULL;
    while (b->flights) flight_free(b->flights);
}

static st_code run(bench_run *b, st_error *e) {
    bench_answers expected = {0};
    FILE *records = NULL;
    uint32_t *order = NULL;
    proto_message messages[2];
    proto_request request;
    st_code code = prompts_read(&b->prompts, b->prompts_path, b->domains, e);
    if (!code) {
        bench_request(b, 0, messages, &request);
        code = proto_request_check(&request, e);
    }
    if (!code && b->expect_path) code = bench_answers_read(b->expect_path, &expected, e);
    if (!code && !(order = mem_alloc(b->prompts.n, sizeof *order))) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (!code) code = meet(b, e);
    if (!code && b->records_path && !(records = fopen(b->records_path, "w")))
        code = st_fail(e, ST_ERR_IO, "%s: %m", b->records_path);
    if (!code) code = run_load(b, order, e);
    leave(b);
    if (!code) code = tell(b, &expected, records, e);
    if (records && fclose(records) && !code) code = st_fail(e, ST_ERR_IO, "%s: %m", b->records_path);
    bench_answers_deinit(&expected);
    mem_free(order);
    return code;
}

static const char *check(const bench_run *b, bool has_streams, bool has_max) {
    const proto_request *r = &b->q.request;
    if (b->rate != 0 && has_streams) return "--streams and --rate exclude each other";
    if (b->rate != 0 && !(b->rate >= 0.001 && b->rate <= 100000)) return "--rate: expected 0.001 to 100000 requests a second";
    if (b->n_streams < 1 || b->n_streams > BENCH_MAX_STREAMS) return "--streams: expected 1 to 256";
    if (has_max && (b->n_requests < 1 || b->n_requests > BENCH_MAX_REQUESTS)) return "--requests: expected 1 to 1048576";
    if (b->n_warm_up > BENCH_MAX_REQUESTS) return "--warm-up: expected at most 1048576";
    if (b->n_tokens < 1 || b->n_tokens > BENCH_MAX_TOKENS) return "--tokens: expected 1 to 65536";
    if (b->raw && b->system) return "--system and --raw exclude each other";
    return r->min_tokens > b->n_tokens ? "--min-tokens: more than --tokens" : NULL;
}

/* The rows of a request that the load itself sets are left out. */
static void add_request_options(bench_run *b, client_option *table, size_t *n) {
    static const char *const own[] = {"--request-id", "--max-tokens", "--seed", "--n", "--first-choice"};
    size_t from = *n, kept = *n;
    client_request_options(&b->q, table, n);
    for (size_t i = from; i < *n; i++) {
        bool is_own = false;
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) is_own |= !strcmp(table[i].name, own[k]);
        if (!is_own) table[kept++] = table[i];
    }
    *n = kept;
}

static const char ABOUT[] = "Puts a load on a running cluster and prints what its clients see: percentiles of the times to the\n"
                            "first token, between tokens and of the whole answer, tokens per second, and what drafts did.\n"
                            "Closed loop (--streams): each stream sends its next request when its last has ended. Open loop\n"
                            "(--rate): requests arrive at random times, and their times count from there.";

/* Parses into `b`. */
static int options(int argc, char **argv, bench_run *b) {
    enum { UNSET = UINT32_MAX, N_OWN = 16 };
    b->n_streams = b->n_requests = UNSET;
    client_option table[CLIENT_MAX_OPTIONS + N_OWN] = {
        CLIENT_SERVER_OPTION(b->server),
        {"--prompts", CLIENT_TEXT, &b->prompts_path, "PATH", "file of JSON lines {id, domain, prompt}, or a folder of *.jsonl",
         true},
        {"--domains", CLIENT_TEXT, &b->domains, "A,B", "only these files of the folder, or these domains of the file", false},
        {"--streams", CLIENT_U32, &b->n_streams, "N", "closed loop of so many (default: 1)", false},
        {"--rate", CLIENT_F64, &b->rate, "R", "open loop: requests a second on average", false},
        {"--requests", CLIENT_U32, &b->n_requests, "N", "requests in all (default: 64, or as many as come in --seconds)", false},
        {"--seconds", CLIENT_U32, &b->seconds, "S", "no new requests after this time; those in the air end", false},
        {"--warm-up", CLIENT_U32, &b->n_warm_up, "N", "requests before, not counted (default: 0)", false},
        {"--tokens", CLIENT_U32, &b->n_tokens, "N", "most tokens of an answer (default: 64)", false},
        {"--seed", CLIENT_U64, &b->seed, "N", "of the order of prompts, the arrivals and all answers (default: 1)", false},
        {"--system", CLIENT_TEXT, &b->system, "TEXT", "a system message before each prompt; default: the model's own", false},
        {"--raw", CLIENT_FLAG, &b->raw, NULL, "prompts are plain text to continue: no chat template", false},
        {"--timeout", CLIENT_U32, &b->timeout_s, "SECONDS", "deadline of a request; default: none", false},
        {"--records", CLIENT_TEXT, &b->records_path, "FILE", "write one JSON object a request", false},
        {"--expect", CLIENT_TEXT, &b->expect_path, "FILE", "records of another run: the same requests must have the same answers",
         false},
        {"--json", CLIENT_FLAG, &b->json, NULL, "print one JSON object instead of a table", false},
    };
    size_t n = N_OWN;
    add_request_options(b, table, &n);
    int rc = client_options(argc, argv, ABOUT, table, n);
    if (rc != CLIENT_GO_ON) return rc;
    bool has_streams = b->n_streams != UNSET, has_max = b->n_requests != UNSET;
    if (!has_streams) b->n_streams = 1;
    if (!has_max) b->n_requests = 0;
    const char *wrong = check(b, has_streams, has_max);
    if (!wrong) return CLIENT_GO_ON;
    fprintf(stderr, "consort %s: %s\n", argv[0], wrong);
    return CLIENT_USAGE;
}

int bench_serve(int argc, char **argv) {
    st_error e = {0};
    bench_run *b = mem_alloc(1, sizeof *b);
    st_code code = b ? client_request_init(&b->q, &e) : st_fail(&e, ST_FATAL_MEMORY, "out of memory");
    if (code) {
        mem_free(b);
        return client_fail(argv[0], &e);
    }
    b->server = client_server();
    b->seed = 1;
    b->n_tokens = DEFAULT_TOKENS;
    int rc = options(argc, argv, b);
    b->q.request.max_tokens = b->n_tokens;
    b->q.request.has_seed = true;
    b->q.request.sampling.seed = b->seed;
    if (rc == CLIENT_GO_ON) rc = run(b, &e) ? client_fail(argv[0], &e) : CLIENT_OK;
    forget_records(b);
    mem_free(b->records);
    mem_free(b->gaps);
    prompts_deinit(&b->prompts);
    arena_deinit(&b->arena);
    client_request_deinit(&b->q);
    mem_free(b);
    return rc;
}
