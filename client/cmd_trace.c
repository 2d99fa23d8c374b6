/* consort trace: what nodes and requests were busy with, as a file for chrome://tracing or ui.perfetto.dev (Trace Event Format,
 * Google: complete events "X" in microseconds, metadata events "M" for the names of lanes). */
#include "client/rpc.h"

#include "base/mem.h"
#include <string.h>

enum { CALL_TIMEOUT_S = 30, MAX_LANES = 4096 };

typedef struct {
    char kind[16], name[80];
    uint32_t lane;
    uint64_t busy_ns, first_ns, last_ns; /* computing; of all spans */
} lane;

typedef struct {
    json_t *events;
    lane *lanes; /* [MAX_LANES] */
    uint32_t n_lanes;
    proto_span *spans; /* [PROTO_MAX_SPANS] */
    uint64_t n_spans;
    json_t *habits;
    st_error *e;
} tracing;

/* Processes of the picture: the nodes, and the requests. */
static int process_of(const proto_span *s) { return strcmp(s->kind, "request") ? 1 : 2; }

static void add(tracing *t, json_t *event) { json_array_append_new(t->events, event); }

static void name_it(tracing *t, const char *what, int process, uint32_t thread, const char *name) {
    add(t, json_pack("{s:s s:s s:i s:i s:{s:s}}", "ph", "M", "name", what, "pid", process, "tid", (int)thread, "args", "name",
                     name));
}

static lane *lane_of(tracing *t, const proto_span *s) {
    char name[sizeof((lane *)0)->name];
    for (uint32_t i = 0; i < t->n_lanes; i++)
        if (t->lanes[i].lane == s->lane && !strcmp(t->lanes[i].kind, s->kind)) return &t->lanes[i];
    if (t->n_lanes == MAX_LANES) return NULL;
    lane *l = &t->lanes[t->n_lanes++];
    *l = (lane){.lane = s->lane, .first_ns = s->start_ns};
    memcpy(l->kind, s->kind, sizeof l->kind);
    if (process_of(s) == 1)
        snprintf(name, sizeof name, "%s %.64s, rank %u", strcmp(s->kind, "step") ? "drafter" : "verifier", s->name, s->lane);
    else
        snprintf(name, sizeof name, "request %u", s->lane);
    memcpy(l->name, name, sizeof l->name);
    name_it(t, "thread_name", process_of(s), s->lane, name);
    return l;
}

static void add_span(tracing *t, const proto_span *s, const char *name, uint64_t start_ns, uint64_t duration_ns) {
    add(t, json_pack("{s:s s:s s:s s:i s:i s:f s:f s:{s:I s:i s:i s:i s:i s:i}}", "ph", "X", "cat", s->kind, "name", name, "pid",
                     process_of(s), "tid", (int)s->lane, "ts", (double)start_ns / 1e3, "dur", (double)duration_ns / 1e3, "args",
                     "plan", (json_int_t)s->plan, "sequences", (int)s->sequences, "tokens", (int)s->tokens, "prompt",
                     (int)s->prompt, "drafted", (int)s->drafted, "accepted", (int)s->accepted));
}

static void take(tracing *t, const proto_span *s) {
    lane *l = lane_of(t, s);
    if (!l) return;
    if (s->start_ns < l->first_ns) l->first_ns = s->start_ns;
    if (s->start_ns + s->duration_ns > l->last_ns) l->last_ns = s->start_ns + s->duration_ns;
    l->busy_ns += s->part_ns;
    if (process_of(s) == 2) {
        add_span(t, s, s->name, s->start_ns, s->duration_ns);
        if (s->part_ns) add_span(t, s, "until the first token", s->start_ns, s->part_ns);
        return;
    }
    add_span(t, s, "on its way", s->start_ns, s->duration_ns);
    add_span(t, s, s->kind, s->start_ns + (s->duration_ns - s->part_ns) / 2, s->part_ns);
}

static json_t *counts_json(const uint64_t *counts, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer((json_int_t)counts[i]));
    return list;
}

/* For consort simulate; those who show pictures pass over what they do not know. */
static void take_habit(tracing *t, const proto_habit *h) {
    enum { CELLS = sizeof h->seen / sizeof ***h->seen };
    json_array_append_new(t->habits,
                          json_pack("{s:s s:o s:o s:o}", "name", h->name, "none", counts_json(h->none, PROTO_HABIT_DEPTHS),
                                    "seen", counts_json(h->seen[0][0], CELLS), "hits", counts_json(h->hits[0][0], CELLS)));
}

static st_code take_habits(tracing *t, const uint8_t *message, size_t n, arena *a) {
    proto_habit *habits = mem_alloc(PROTO_MAX_DRAFTERS, sizeof *habits);
    uint32_t n_habits = 0;
    st_code code =
        habits ? proto_habits_decode(message, n, a, habits, &n_habits, t->e) : st_fail(t->e, ST_FATAL_MEMORY, "out of memory");
    for (uint32_t i = 0; i < n_habits; i++) take_habit(t, &habits[i]);
    mem_free(habits);
    return code;
}

static st_code on_message(void *context, const uint8_t *message, size_t n) {
    tracing *t = context;
    arena a;
    uint32_t n_spans = 0;
    st_code code = arena_init(&a, proto_arena_bytes(n));
    if (code) return st_fail(t->e, code, "out of memory");
    code = proto_spans_decode(message, n, &a, t->spans, &n_spans, t->e);
    for (uint32_t i = 0; i < n_spans; i++) {
        if (t->spans[i].part_ns > t->spans[i].duration_ns)
            code = st_fail(t->e, ST_ERR_FORMAT, "spans: part_ns %llu is over duration_ns %llu",
                           (unsigned long long)t->spans[i].part_ns, (unsigned long long)t->spans[i].duration_ns);
        else
            take(t, &t->spans[i]);
    }
    t->n_spans += n_spans;
    if (!code && !n_spans) code = take_habits(t, message, n, &a);
    arena_deinit(&a);
    return code;
}

static st_code write_trace(tracing *t, const char *path, st_error *e) {
    json_t *all = json_pack("{s:s s:O s:O}", "displayTimeUnit", "ms", "habits", t->habits, "traceEvents", t->events);
    FILE *out = strcmp(path, "-") ? fopen(path, "w") : stdout;
    bool ok = all && out && !json_dumpf(all, out, JSON_COMPACT | JSON_REAL_PRECISION(12)) && fputc('\n', out) != EOF;
    if (out && out != stdout) ok = !fclose(out) && ok;
    json_decref(all);
    return ok ? ST_OK : st_fail(e, ST_ERR_IO, "%s: cannot be written: %m", path);
}

static void tell(const tracing *t) {
    fprintf(stderr, "%llu spans", (unsigned long long)t->n_spans);
    for (uint32_t i = 0; i < t->n_lanes; i++) {
        const lane *l = &t->lanes[i];
        if (!strcmp(l->kind, "request")) continue;
        fprintf(stderr, "; %s: busy for %.0f %% of %.1f s", l->name,
                100 * (double)l->busy_ns / (double)(l->last_ns > l->first_ns ? l->last_ns - l->first_ns : 1),
                (double)(l->last_ns - l->first_ns) / 1e9);
    }
    fprintf(stderr, "\n");
}

int client_trace(int argc, char **argv) {
    const char *server = client_server(), *out = "-";
    const client_option options[] = {
        CLIENT_SERVER_OPTION(server),
        {"--out", CLIENT_TEXT, &out, "F", "file to write; default: standard output", false},
    };
    int rc = client_options(
        argc, argv,
        "Writes what nodes and requests were busy with lately (the last 16,384 steps, drafts and requests), side by side, for\n"
        "chrome://tracing or ui.perfetto.dev; and to standard error, for how much of the time each node computed.",
        options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    client_rpc *r = NULL;
    tracing t = {.events = json_array(), .habits = json_array(), .e = &e};
    t.lanes = mem_alloc(MAX_LANES, sizeof *t.lanes);
    t.spans = mem_alloc(PROTO_MAX_SPANS, sizeof *t.spans);
    st_code code = t.events && t.habits && t.lanes && t.spans ? ST_OK : st_fail(&e, ST_FATAL_MEMORY, "out of memory");
    if (!code) {
        name_it(&t, "process_name", 1, 0, "nodes");
        name_it(&t, "process_name", 2, 0, "requests");
        code = client_rpc_open(server, &r, &e);
    }
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/Trace", NULL, 0, CALL_TIMEOUT_S, on_message, &t, &e);
    client_rpc_close(r);
    if (!code) code = write_trace(&t, out, &e);
    if (!code) tell(&t);
    json_decref(t.events);
    json_decref(t.habits);
    mem_free(t.lanes);
    mem_free(t.spans);
    return code ? client_fail(argv[0], &e) : CLIENT_OK;
}
