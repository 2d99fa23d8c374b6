/* consort status: what the cluster is and does; with --wait-ready, waits until it serves. */
#include "client/rpc.h"

#include "base/mem.h"
#include <string.h>
#include <time.h>

enum { POLL_MS = 50, CALL_TIMEOUT_S = 5 };

typedef struct {
    arena arena;
    proto_status status; /* views into arena */
    bool answered;
    st_error *e;
} state;

static st_code on_message(void *context, const uint8_t *message, size_t n) {
    state *s = context;
    arena_deinit(&s->arena);
    st_code code = arena_init(&s->arena, proto_arena_bytes(n));
    s->answered = true;
    return code ? st_fail(s->e, code, "out of memory") : proto_status_decode(message, n, &s->arena, &s->status, s->e);
}

static st_code ask(client_rpc *r, state *s, st_error *e) {
    s->e = e;
    s->answered = false;
    st_code code = client_rpc_call(r, "/consort.v1.Inference/Status", NULL, 0, CALL_TIMEOUT_S, on_message, s, e);
    return code || s->answered ? code : st_fail(e, ST_ERR_UNAVAILABLE, "the coordinator gave no answer");
}

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* Asks until the cluster is ready; says what it waits for whenever that changes. */
static st_code wait_ready(client_rpc *r, state *s, double seconds, st_error *e) {
    struct timespec start;
    char said[sizeof s->status.reason] = "";
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        st_code code = ask(r, s, e);
        if (code == ST_ERR_CANCELLED || (!code && s->status.ready)) return code;
        const char *reason = code ? e->message : s->status.reason;
        if (strcmp(said, reason)) fprintf(stderr, "waiting: %s\n", reason);
        snprintf(said, sizeof said, "%s", reason);
        if (seconds_since(&start) > seconds) return st_fail(e, ST_ERR_DEADLINE, "not ready after %.0f s: %s", seconds, said);
        code = client_rpc_pause(r, POLL_MS, e);
        if (code) return code;
    }
}

static json_t *worker_json(const proto_worker_status *w) {
    const proto_register *i = &w->info;
    return json_pack("{s:i s:s s:s s:s s:s s:b s:b s:I s:i s:i s:i s:s s:s s:s s:i s:I s:I s:I s:I s:f s:I s:i s:I s:I}", "rank",
                     i->rank, "role", i->role, "kind", i->kind, "name", i->name, "hostname", i->hostname, "up", w->up, "drained",
                     w->drained, "requests", (json_int_t)w->requests, "group", i->group, "group_rank", i->group_rank,
                     "group_size", i->group_size, "isa", i->isa, "precision", i->precision, "kv_type", i->kv_type, "threads",
                     i->n_threads, "kv_blocks", (json_int_t)i->kv_blocks, "kv_slots", (json_int_t)i->kv_slots, "weight_bytes",
                     (json_int_t)i->weight_bytes, "kv_bytes", (json_int_t)i->kv_bytes, "step_ms", w->step_ms, "steps",
                     (json_int_t)w->steps, "followed", w->followed, "kv_blocks_held", (json_int_t)w->kv_blocks_held, "dropped",
                     (json_int_t)w->dropped);
}

static int print_json(const proto_status *s) {
    json_t *workers = json_array();
    for (uint32_t i = 0; i < s->n_workers; i++) json_array_append_new(workers, worker_json(&s->workers[i]));
    json_t *o = json_pack("{s:s s:s s:b s:b s:s s:f s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:I s:o}", "version", s->version,
                          "model", s->model, "ready", s->ready, "draining", s->draining, "reason", s->reason, "uptime_s",
                          (double)s->uptime_ns / 1e9, "requests_running", (json_int_t)s->requests_running, "requests_waiting",
                          (json_int_t)s->requests_waiting, "requests_done", (json_int_t)s->requests_done, "requests_failed",
                          (json_int_t)s->requests_failed, "tokens_prompt", (json_int_t)s->tokens_prompt, "tokens_generated",
                          (json_int_t)s->tokens_generated, "steps", (json_int_t)s->steps, "largest_batch",
                          (json_int_t)s->largest_batch, "kv_blocks_total", (json_int_t)s->kv_blocks_total, "kv_blocks_used",
                          (json_int_t)s->kv_blocks_used, "cluster_epoch", (json_int_t)s->cluster_epoch, "workers", workers);
    bool ok = o && !json_dumpf(o, stdout, JSON_COMPACT) && putchar('\n') != EOF;
    json_decref(o);
    return ok ? CLIENT_OK : CLIENT_FAILED;
}

static int print_text(const proto_status *s) {
    printf("Consort %s, %s, model %s\n", s->version, s->ready ? "ready" : s->draining ? "draining" : "not ready", s->model);
    if (s->reason[0]) printf("  because %s\n", s->reason);
    printf("up %.0f s; requests: %llu running, %llu waiting, %llu done, %llu failed\n", (double)s->uptime_ns / 1e9,
           (unsigned long long)s->requests_running, (unsigned long long)s->requests_waiting, (unsigned long long)s->requests_done,
           (unsigned long long)s->requests_failed);
    printf("tokens: %llu of prompts, %llu generated, in %llu steps (largest batch %llu)\n", (unsigned long long)s->tokens_prompt,
           (unsigned long long)s->tokens_generated, (unsigned long long)s->steps, (unsigned long long)s->largest_batch);
    printf("KV blocks: %llu of %llu used\n", (unsigned long long)s->kv_blocks_used, (unsigned long long)s->kv_blocks_total);
    for (uint32_t i = 0; i < s->n_workers; i++) {
        const proto_worker_status *w = &s->workers[i];
        const proto_register *r = &w->info;
        printf("rank %u: %s%s, %s%s%s %s on %s, %u threads%s%s%s%s, %.1f MB weights, %.1f MB KV, %.2f ms a step\n", r->rank,
               w->up ? "up" : "down", w->drained ? ", drained" : "", r->role, r->kind[0] ? " " : "", r->kind, r->name,
               r->hostname, r->n_threads, r->isa[0] ? " of " : "", r->isa, r->precision[0] ? ", " : "", r->precision,
               (double)r->weight_bytes / 1e6, (double)r->kv_bytes / 1e6, w->step_ms);
        if (r->kv_slots)
            printf("  swap file of %llu KV blocks beside %llu in memory\n", (unsigned long long)r->kv_slots,
                   (unsigned long long)r->kv_blocks);
        if (!strcmp(r->role, "drafter") && r->kv_blocks)
            printf("  follows %u requests, in %llu of %llu KV blocks; has had to drop %llu for others\n", w->followed,
                   (unsigned long long)w->kv_blocks_held, (unsigned long long)r->kv_blocks, (unsigned long long)w->dropped);
    }
    return CLIENT_OK;
}

int client_status(int argc, char **argv) {
    const char *server = client_server();
    bool json = false;
    uint32_t seconds = 0;
    const client_option options[] = {
        CLIENT_SERVER_OPTION(server),
        {"--json", CLIENT_FLAG, &json, NULL, "one JSON object", false},
        {"--wait-ready", CLIENT_U32, &seconds, "SECONDS", "wait until the cluster serves, at most this long", false},
    };
    int rc = client_options(argc, argv, "Shows what the cluster is, what it does now, and what it has done since its start.",
                            options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    state s = {0};
    client_rpc *r = NULL;
    st_code code = client_rpc_open(server, &r, &e);
    if (!code) code = seconds ? wait_ready(r, &s, seconds, &e) : ask(r, &s, &e);
    client_rpc_close(r);
    rc = code ? client_fail(argv[0], &e) : json ? print_json(&s.status) : print_text(&s.status);
    arena_deinit(&s.arena);
    return rc;
}
