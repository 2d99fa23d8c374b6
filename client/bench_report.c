/* What `consort bench serve` tells of a run: its summary, its records, and whether its answers are those of another run.
 *
 * A request is known by its id and by the SHA-256 of its message without what cannot change the answer: request_id, speculation,
 * cache_salt, priority, log-probabilities, and the seed where nothing is drawn. So answers are compared only where all that makes
 * them is the same. */
#include "client/bench_int.h"

#include "base/filemap.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>

static double ms(double ns) { return ns / 1e6; }
static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* ---- answers ---- */

static int by_request(const void *a, const void *b) {
    const bench_answer *x = a, *y = b;
    int order = memcmp(x->request, y->request, SHA256_BYTES);
    return order ? order : strcmp(x->id, y->id);
}

static bool read_hash(const json_t *line, const char *key, uint8_t out[SHA256_BYTES]) {
    const char *text = json_string_value(json_object_get(line, key));
    char again[2 * SHA256_BYTES + 1];
    if (!text || strlen(text) != 2 * SHA256_BYTES) return false;
    for (size_t i = 0; i < SHA256_BYTES; i++) {
        char pair[3] = {text[2 * i], text[2 * i + 1], 0};
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    sha256_hex(out, again);
    return !strcmp(text, again);
}

static st_code read_answer(const char *text, size_t n, bench_answers *out, st_error *e) {
    json_error_t je;
    bench_answer a = {0};
    json_t *line = json_loadb(text, n, 0, &je);
    const char *id = json_string_value(json_object_get(line, "id"));
    st_code code = ST_OK;
    if (!line)
        code = st_fail(e, ST_ERR_FORMAT, "expected a JSON object: %s", je.text);
    else if (json_is_string(json_object_get(line, "error")))
        ; /* it has no answer */
    else if (!id || strlen(id) > PROMPTS_MAX_NAME_BYTES || !read_hash(line, "request_sha256", a.request) ||
             !read_hash(line, "tokens_sha256", a.tokens))
        code = st_fail(e, ST_ERR_FORMAT, "expected 'id', 'request_sha256' and 'tokens_sha256' as --records writes them");
    else if (out->n == BENCH_MAX_REQUESTS)
        code = st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "at most %d records", BENCH_MAX_REQUESTS);
    else {
        snprintf(a.id, sizeof a.id, "%s", id);
        if (out->n == out->room) {
            size_t room = out->room ? 2 * out->room : 256;
            bench_answer *items = mem_resize(out->items, out->room, room, sizeof *items);
            if (!items) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
            if (items) out->items = items, out->room = room;
        }
        if (!code) out->items[out->n++] = a;
    }
    json_decref(line);
    return code;
}

st_code bench_answers_read(const char *path, bench_answers *out, st_error *e) {
    filemap m = {0};
    size_t number = 0;
    st_code code = filemap_open(path, &m, e);
    const char *at = m.bytes, *end = at ? at + m.size_bytes : at;
    while (!code && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        number++;
        if (n > PROMPTS_MAX_LINE_BYTES)
            code = st_fail(e, ST_ERR_FORMAT, "a line of %zu bytes, at most %d", n, PROMPTS_MAX_LINE_BYTES);
        else if (n)
            code = read_answer(at, n, out, e);
        at += n + 1;
    }
    filemap_close(&m);
    if (code) return number ? st_prefix(e, "%s, line %zu", path, number) : code;
    if (out->n) qsort(out->items, out->n, sizeof *out->items, by_request);
    return ST_OK;
}

void bench_answers_deinit(bench_answers *a) {
    mem_free(a->items);
    *a = (bench_answers){0};
}

static st_code request_hash(const bench_run *b, const load_record *r, uint8_t out[SHA256_BYTES]) {
    proto_message messages[2];
    proto_request q;
    proto_bytes bytes = {0};
    bench_request(b, r->prompt, messages, &q);
    q.request_id[0] = q.speculation[0] = q.cache_salt[0] = 0;
    q.priority = 0;
    q.logprobs = false;
    q.top_logprobs = 0;
    q.hidden_states = false;
    if (q.sampling.temperature <= 0) {
        q.has_seed = false;
        q.sampling.seed = 0;
    }
    st_code code = proto_request_encode(&q, &bytes);
    if (!code) code = sha256_of(bytes.bytes, bytes.n, out);
    proto_bytes_free(&bytes);
    return code;
}

static void note_difference(bench_comparison *c, const bench_answer *got, const bench_answer *other, const char *of) {
    char hash[2][2 * SHA256_BYTES + 1];
    sha256_hex(got->tokens, hash[0]);
    sha256_hex(other->tokens, hash[1]);
    if (!c->first.code)
        (void)st_fail(&c->first, ST_ERR_MISMATCH, "%s: the answer differs from that of %s: tokens_sha256 %.16s, there %.16s",
                      got->id, of, hash[0], hash[1]);
}

/* The first expected answer to the request of `own`, or the end. */
static const bench_answer *find(const bench_answers *expected, const bench_answer *own) {
    size_t low = 0, high = expected->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_request(&expected->items[middle], own) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return expected->items + low;
}

/* A request may be expected several times: its answer must be all of them. */
static void compare_one(const bench_run *b, const bench_answer *own, const bench_answers *expected, bench_comparison *out) {
    const bench_answer *end = expected->items + expected->n, *at = find(expected, own), *other = NULL;
    bool known = false;
    for (; at < end && !by_request(at, own); at++, known = true)
        if (!other && memcmp(own->tokens, at->tokens, SHA256_BYTES)) other = at;
    *(known ? &out->n_compared : &out->n_unknown) += 1;
    if (!other) return;
    out->n_differ++;
    note_difference(out, own, other, b->expect_path);
}

static void compare(const bench_run *b, bench_answer *own, size_t n, const bench_answers *expected, bench_comparison *out) {
    for (size_t i = 0; b->expect_path && expected->n && i < n; i++)
        compare_one(b, &own[i], expected, out); /* as they were sent */
    if (n) qsort(own, n, sizeof *own, by_request);
    for (size_t i = 1; i < n; i++) {
        if (by_request(&own[i - 1], &own[i]) || !memcmp(own[i - 1].tokens, own[i].tokens, SHA256_BYTES)) continue;
        out->n_repeats_differ++;
        note_difference(out, &own[i], &own[i - 1], "the same request in this run");
    }
}

st_code bench_compare(const bench_run *b, const bench_answers *expected, bench_comparison *out, st_error *e) {
    *out = (bench_comparison){0};
    size_t n = 0;
    bench_answer *own = mem_alloc(b->n_records + 1, sizeof *own);
    st_code code = own ? ST_OK : ST_FATAL_MEMORY;
    for (size_t i = 0; !code && i < b->n_records; i++) {
        const load_record *r = &b->records[i];
        if (!r->ended || r->error) continue;
        snprintf(own[n].id, sizeof own[n].id, "%s", b->prompts.items[r->prompt].id);
        memcpy(own[n].tokens, r->tokens_hash, SHA256_BYTES);
        code = request_hash(b, r, own[n++].request);
    }
    if (!code) compare(b, own, n, expected, out);
    mem_free(own);
    return code ? st_fail(e, code, "out of memory") : ST_OK;
}

/* ---- records ---- */

static json_t *uses_json(const bench_run *b, const load_use *uses, uint32_t n) {
    json_t *by = json_object();
    for (uint32_t i = 0; i < n; i++)
        json_object_set_new(
            by, b->names[uses[i].name],
            json_pack("{s:I, s:I}", "drafted", (json_int_t)uses[i].drafted, "accepted", (json_int_t)uses[i].accepted));
    return by;
}

static json_t *time_or_null(const load_record *r, uint64_t ns) {
    return r->n_tokens ? json_integer((json_int_t)ns) : json_null();
}

static json_t *record_json(const bench_run *b, const load_record *r) {
    const prompts_item *p = &b->prompts.items[r->prompt];
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:I, s:I, s:s?}", "id", p->id, "domain", b->prompts.domains[r->domain],
                          "scheduled_ns", (json_int_t)r->scheduled_ns, "sent_ns", (json_int_t)r->sent_ns, "first_token_ns",
                          time_or_null(r, r->first_ns), "last_token_ns", time_or_null(r, r->last_ns), "end_ns",
                          (json_int_t)r->end_ns, "tokens", (json_int_t)r->n_tokens, "error", r->error);
    uint8_t request[SHA256_BYTES];
    char hash[2][2 * SHA256_BYTES + 1];
    if (!o || r->error) return o;
    if (request_hash(b, r, request)) return json_decref(o), NULL;
    sha256_hex(request, hash[0]);
    sha256_hex(r->tokens_hash, hash[1]);
    json_t *more =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:o, s:{s:I, s:I, s:I, s:I}}", "finish_reason",
                  r->finish_reason, "request_id", r->request_id, "speculation", b->q.request.speculation, "request_sha256",
                  hash[0], "tokens_sha256", hash[1], "prompt_tokens", (int)r->prompt_tokens, "queue_ns", (json_int_t)r->queue_ns,
                  "steps", (json_int_t)r->steps, "drafted", (json_int_t)r->drafted, "accepted", (json_int_t)r->accepted,
                  "by_drafter", uses_json(b, r->uses, r->n_uses), "inter_token_ns", "p50", (json_int_t)r->gaps.p50, "p90",
                  (json_int_t)r->gaps.p90, "p99", (json_int_t)r->gaps.p99, "max", (json_int_t)r->gaps.max);
    if (!more || json_object_update_new(o, more)) return json_decref(o), NULL;
    return o;
}

st_code bench_write_records(const bench_run *b, FILE *f, st_error *e) {
    for (size_t i = 0; i < b->n_records; i++) {
        if (!b->records[i].ended) continue;
        json_t *o = record_json(b, &b->records[i]);
        bool ok = o && !json_dumpf(o, f, JSON_COMPACT) && putc('\n', f) != EOF;
        json_decref(o);
        if (!ok) return st_fail(e, ST_ERR_IO, "%s: cannot be written", b->records_path);
    }
    return fflush(f) ? st_fail(e, ST_ERR_IO, "%s: %m", b->records_path) : ST_OK;
}

/* ---- summary ---- */

typedef struct {
    load_summary all;
    load_summary domains[PROMPTS_MAX_DOMAINS];
    load_spread gaps;
    double seconds, full_seconds;
} figures;

static json_t *spread_json(const load_spread *s) {
    if (!s->n) return json_null();
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "p50", ms((double)s->p50), "p90", ms((double)s->p90), "p99", ms((double)s->p99),
                     "max", ms((double)s->max), "mean", ms(s->mean));
}

static double per_step(const load_summary *s) { return ratio((double)(s->steps + s->accepted), (double)s->steps); }

static json_t *domain_json(const load_summary *s) {
    return json_pack("{s:I, s:I, s:I, s:f, s:f, s:o}", "requests", (json_int_t)s->n, "failed", (json_int_t)s->n_failed, "tokens",
                     (json_int_t)s->n_tokens, "ms_per_token", ms(s->token_ns), "tokens_per_step", per_step(s), "whole_ms",
                     spread_json(&s->whole));
}

/* What was asked for. */
static json_t *load_json(const bench_run *b) {
    char seed[24]; /* jansson's integers are signed: a larger seed is printed as text */
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)b->seed);
    json_t *number = b->seed <= INT64_MAX ? json_integer((json_int_t)b->seed) : json_string(seed);
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:i, s:f, s:s, s:o, s:b}", "server", b->server, "version", b->version, "model",
                          b->model, "load", b->rate > 0 ? "open" : "closed", "max_tokens", (int)b->n_tokens, "temperature",
                          (double)b->q.request.sampling.temperature, "speculation", b->q.request.speculation, "seed", number,
                          "raw", b->raw);
    if (b->rate > 0)
        json_object_set_new(o, "rate", json_real(b->rate));
    else
        json_object_set_new(o, "streams", json_integer(b->n_streams));
    return o;
}

static json_t *summary_json(const bench_run *b, const figures *f, const bench_comparison *c) {
    const load_summary *s = &f->all;
    json_t *o = load_json(b), *domains = json_object();
    for (uint32_t i = 0; i < b->prompts.n_domains; i++)
        if (f->domains[i].n + f->domains[i].n_failed)
            json_object_set_new(domains, b->prompts.domains[i], domain_json(&f->domains[i]));
    json_t *more = json_pack("{s:I, s:I, s:b, s:b, s:f, s:I, s:I, s:f, s:f, s:{s:f, s:I, s:f}}", "requests", (json_int_t)s->n,
                             "failed", (json_int_t)s->n_failed, "interrupted", b->interrupted, "stopped", b->stopped, "seconds",
                             f->seconds, "prompt_tokens", (json_int_t)s->prompt_tokens, "tokens", (json_int_t)s->n_tokens,
                             "tokens_per_s", ratio((double)s->n_tokens, f->seconds), "requests_per_s",
                             ratio((double)s->n, f->seconds), "full", "seconds", f->full_seconds, "tokens",
                             (json_int_t)b->n_full_arrived, "tokens_per_s", ratio((double)b->n_full_arrived, f->full_seconds));
    json_object_update_new(o, more);
    more = json_pack("{s:o, s:o, s:o, s:o, s:o, s:f}", "first_token_ms", spread_json(&s->first_token), "inter_token_ms",
                     spread_json(&f->gaps), "whole_ms", spread_json(&s->whole), "late_ms", spread_json(&s->late),
                     "request_ms_per_token", spread_json(&s->per_token), "ms_per_token", ms(s->token_ns));
    json_object_update_new(o, more);
    more = json_pack("{s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:f}", "steps", (json_int_t)s->steps, "drafted", (json_int_t)s->drafted,
                     "accepted", (json_int_t)s->accepted, "tokens_per_step", per_step(s), "accepted_per_step",
                     ratio((double)s->accepted, (double)s->steps), "by_drafter", uses_json(b, s->uses, s->n_uses), "by_domain",
                     domains, "client_cpu_s", b->cpu_s);
    json_object_update_new(o, more);
    if (b->more) json_object_update(o, b->more);
    if (c)
        json_object_set_new(o, "expected",
                            json_pack("{s:I, s:I, s:I}", "compared", (json_int_t)c->n_compared, "unknown",
                                      (json_int_t)c->n_unknown, "differ", (json_int_t)c->n_differ));
    return o;
}

static void print_spread(const char *what, const load_spread *s) {
    if (!s->n) return;
    printf("  %-20s %10.2f %10.2f %10.2f %10.2f %10.2f\n", what, ms((double)s->p50), ms((double)s->p90), ms((double)s->p99),
           ms((double)s->max), ms(s->mean));
}

static void print_drafts(const bench_run *b, const load_summary *s) {
    if (!s->steps) return;
    printf("\n%.2f tokens a step, %.2f accepted a step", per_step(s), (double)s->accepted / (double)s->steps);
    if (s->drafted)
        printf(", %.0f %% of %llu drafted", 100.0 * (double)s->accepted / (double)s->drafted, (unsigned long long)s->drafted);
    putchar('\n');
    for (uint32_t i = 0; i < s->n_uses; i++) {
        const load_use *u = &s->uses[i];
        if (u->drafted)
            printf("  %-20s %10llu drafted %10llu accepted %5.0f %%\n", b->names[u->name], (unsigned long long)u->drafted,
                   (unsigned long long)u->accepted, 100.0 * (double)u->accepted / (double)u->drafted);
    }
}

static void print_domains(const bench_run *b, const figures *f) {
    if (!f->all.n) return;
    printf("\n  %-20s %10s %10s %10s %10s\n", "domain", "requests", "tokens", "a step", "ms a token");
    for (uint32_t i = 0; i < b->prompts.n_domains; i++) {
        const load_summary *s = &f->domains[i];
        if (s->n)
            printf("  %-20s %10llu %10llu %10.2f %10.2f\n", b->prompts.domains[i], (unsigned long long)s->n,
                   (unsigned long long)s->n_tokens, per_step(s), ms(s->token_ns));
    }
}

static void print_text(const bench_run *b, const figures *f, const bench_comparison *c) {
    const load_summary *s = &f->all;
    if (b->rate > 0)
        printf("open loop, %g requests/s", b->rate);
    else
        printf("closed loop, %u stream%s", b->n_streams, b->n_streams > 1 ? "s" : "");
    printf(" on %s (%s): %llu requests in %.2f s, %llu failed%s\n", b->server, b->model, (unsigned long long)s->n, f->seconds,
           (unsigned long long)s->n_failed,
           b->interrupted ? "; interrupted"
           : b->stopped   ? "; stopped: the cluster was gone"
                          : "");
    printf("%.1f tokens/s, %.2f requests/s; while the load was full (%.2f s) %.1f tokens/s\n\n",
           ratio((double)s->n_tokens, f->seconds), ratio((double)s->n, f->seconds), f->full_seconds,
           ratio((double)b->n_full_arrived, f->full_seconds));
    printf("  %-20s %10s %10s %10s %10s %10s\n", "ms", "50 %", "90 %", "99 %", "most", "mean");
    print_spread("first token", &s->first_token);
    print_spread("between tokens", &f->gaps);
    print_spread("a token, by request", &s->per_token);
    print_spread("whole answer", &s->whole);
    if (b->rate > 0) print_spread("sent late", &s->late);
    print_drafts(b, s);
    print_domains(b, f);
    if (c)
        printf("\nanswers compared with %s: %zu, of these %zu differ; %zu are not there\n", b->expect_path, c->n_compared,
               c->n_differ, c->n_unknown);
}

st_code bench_report(bench_run *b, const bench_comparison *c, st_error *e) {
    figures *f = mem_alloc(1, sizeof *f);
    uint64_t *scratch = mem_alloc(b->n_records + 1, sizeof *scratch);
    bool ok = f && scratch;
    if (ok) {
        load_summarize(b->records, b->n_records, (uint32_t)LOAD_ALL_DOMAINS, scratch, &f->all);
        for (uint32_t i = 0; i < b->prompts.n_domains; i++) load_summarize(b->records, b->n_records, i, scratch, &f->domains[i]);
        f->gaps = load_spread_of(b->gaps, b->n_gaps);
        f->seconds = (double)f->all.end_ns / 1e9;
        f->full_seconds = (double)b->full_ns / 1e9;
        if (b->json) {
            json_t *o = summary_json(b, f, c);
            ok = o && !json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) && putchar('\n') != EOF;
            json_decref(o);
        } else
            print_text(b, f, c);
    }
    mem_free(scratch);
    mem_free(f);
    return ok ? ST_OK : st_fail(e, ST_ERR_IO, "the summary cannot be made or written");
}
