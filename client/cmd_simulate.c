/* consort simulate: a topology under a load in virtual time, with the cluster's own scheduler; nodes are as a trace of a real run
 * says (simulate_trace.c). What is printed is what `consort bench serve` prints, and what nodes and the scheduler did.
 *
 * The clock of this program times the scheduler only: calls of sched_step a second, and which share of a core it would take. */
#include "client/bench_int.h"
#include "client/simulate_int.h"

#include "base/mem.h"
#include "client/client_int.h"
#include "config/config.h"
#include "model/model.h"
#include <string.h>
#include <time.h>

enum { VOCABULARY = 1 << 15, MAX_STREAMS = 1 << 16, DEFAULT_REQUESTS = 64, DEFAULT_TOKENS = 64, MAX_MOVES = 8 };
/* Of the steps of a model of 135 M weights, whose output head is a third of its time (bench/early-2026-11-30.md). */
static const double EARLY_SHARE = 0.78, EARLY_RIGHT = 0.97;
/* Traces do not tell it, and nothing that was measured goes by it: in the middle (bench/simulator-2026-11-30.md). */
static const double ALIKE = 0.5;

typedef struct {
    const char *topology_path, *trace_path, *speculation, *like, *against;
    uint32_t n_streams, n_requests, n_warm_up, n_copies;
    double link_mbit, link_ms, move_mbit, move_ms, alike;
    /* in the making */
    config_topology *topology;
    simulate_trace trace;
    sim_drafter drafters[SIMULATE_MAX_DRAFTERS];
    const char *names[SIMULATE_MAX_DRAFTERS];
    sim_options o;
    uint64_t kv_token_bytes;
    uint64_t *arrivals_ns;
    void *memory;
    sim *sim;
    bench_run b; /* what the report is made from */
    sim_figures figures;
    double real_s;
} simulation;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- the cluster ---- */

/* What the coordinator itself asks of the model, and how much KV it has. */
static st_code read_model(simulation *s, st_error *e) {
    const config_topology *t = s->topology;
    kernels_precision precision = KERNELS_FAST;
    model_file *f = NULL;
    model_info info;
    model_part whole;
    uint32_t verifier = 0;
    while (t->groups[verifier].role != CONFIG_VERIFIER) verifier++;
    st_code code = model_file_open(t->model, &f, e);
    if (!code) code = model_read_info(f, &info, e);
    if (!code) code = model_read_part(f, 0, 1, &whole, e);
    if (!code && kernels_precision_find(t->precision, &precision)) {
        const kv_type *type = kv_type_choose(t->groups[verifier].kv_type, precision);
        s->kv_token_bytes = whole.kv_token_heads * kv_type_token_bytes(type, whole.head_dim);
    }
    if (!code) {
        s->o.limits.max_context = s->topology->max_context ? s->topology->max_context : info.max_context;
        s->o.limits.dim = info.dim;
    }
    model_file_close(f);
    return code;
}

/* What would be measured where it runs is not known here: the default. */
static uint32_t kv_blocks(const config_group *g) { return (g->kv_tokens ? g->kv_tokens : 65536) / NOUNS_BLOCK_TOKENS; }

static bool needs_lookup(const char *policy) { return strcmp(policy, "none") && strncmp(policy, "fixed:", 6); }
static bool needs_drafters(const char *policy) { return strcmp(policy, "none") && strcmp(policy, "lookup"); }

static bool of_one_file(const config_group *a, const config_group *b) {
    return b->role == CONFIG_DRAFTER && !strcmp(a->kind, b->kind) && !strcmp(a->model, b->model) && !strcmp(a->table, b->table);
}

/* As the trace knows it, or another of its file. */
static const simulate_drafter *find_drafter(const simulation *s, const config_group *g) {
    const config_topology *t = s->topology;
    const simulate_drafter *d = simulate_trace_find(&s->trace, g->name);
    for (uint32_t i = 0; !d && i < t->n_groups; i++)
        if (of_one_file(g, &t->groups[i])) d = simulate_trace_find(&s->trace, t->groups[i].name);
    return d || !s->like ? d : simulate_trace_find(&s->trace, s->like);
}

/* The number of the first drafter of its file. */
static uint32_t first_of_file(const config_topology *t, const config_group *g) {
    uint32_t n = 0;
    for (uint32_t i = 0; !of_one_file(g, &t->groups[i]); i++) n += t->groups[i].role == CONFIG_DRAFTER;
    return n;
}

static st_code add_drafter(simulation *s, const config_group *g, st_error *e) {
    sched_limits *l = &s->o.limits;
    const simulate_drafter *d = find_drafter(s, g);
    if (!d || !d->knows_cost || !simulate_has_drafted(&d->habit))
        return st_fail(e, ST_ERR_NOT_FOUND,
                       "%s: groups: drafter %s has drafted nothing in %s: trace a cluster and a policy that ask it, or name a "
                       "drafter of the "
                       "trace that it is like (--like NAME)",
                       s->topology_path, g->name, s->trace_path);
    if (sched_wants_hidden(g->kind)) l->want_hidden |= UINT32_C(1) << l->n_drafters;
    if (sched_keeps_kv(g->kind)) l->drafter_blocks[l->n_drafters] = kv_blocks(g);
    s->drafters[l->n_drafters] = (sim_drafter){d->cost, &d->habit, first_of_file(s->topology, g)};
    s->names[l->n_drafters++] = g->name;
    return ST_OK;
}

static st_code add_groups(simulation *s, st_error *e) {
    const config_topology *t = s->topology;
    sched_limits *l = &s->o.limits;
    st_code code = ST_OK;
    for (uint32_t i = 0; !code && i < t->n_groups; i++) {
        const config_group *g = &t->groups[i];
        if (g->role == CONFIG_VERIFIER) {
            l->serves[l->n_groups] = !strcmp(g->serves, "prefill")  ? SCHED_PREFILLS
                                     : !strcmp(g->serves, "decode") ? SCHED_DECODES
                                                                    : SCHED_BOTH;
            l->n_blocks[l->n_groups++] = kv_blocks(g);
        } else if (needs_drafters(s->speculation))
            code = add_drafter(s, g, e);
    }
    const simulate_drafter *lookup = simulate_trace_find(&s->trace, "lookup"), *corpus = simulate_trace_find(&s->trace, "corpus");
    if (lookup && simulate_has_drafted(&lookup->habit)) s->o.lookup = &lookup->habit;
    if (*t->corpus && corpus && simulate_has_drafted(&corpus->habit)) s->o.corpus = &corpus->habit;
    if (*t->corpus && !s->o.corpus && needs_lookup(s->speculation))
        fprintf(stderr, "simulated without the corpus: it has drafted nothing in %s\n", s->trace_path);
    if (!code && needs_lookup(s->speculation) && !s->o.lookup)
        code =
            st_fail(e, ST_ERR_NOT_FOUND,
                    "%s: lookup has drafted nothing in it: trace a cluster whose policy asks it, or simulate --speculation none",
                    s->trace_path);
    return code;
}

/* As the coordinator fills them from a topology (coordinator/loop.c); n_groups and n_blocks are there. */
static void set_limits(simulation *s) {
    const config_topology *t = s->topology;
    sched_limits *l = &s->o.limits;
    l->max_running = t->max_running;
    l->max_queue = t->max_queue;
    l->max_requests = l->n_groups * t->max_running + t->max_queue;
    l->max_rows = t->max_rows;
    l->max_batch = t->max_batch;
    l->prefill_chunk = t->prefill_chunk;
    l->max_stall_ns = t->max_stall_ms * UINT64_C(1000000);
    l->max_tree = t->draft_budget;
    l->speculation = s->speculation;
    l->drafter_names = s->names;
    l->n_vocab = VOCABULARY; /* texts are made up, and so are their words */
    l->prefix_cache = !strcmp(t->prefix_cache, "on");
    l->adaptive_budgets = !strcmp(t->draft_budgets, "adaptive");
    l->draft_ahead = sched_ahead_of(t->draft_ahead);
    l->fusion = sched_fusion_of(t->fusion);
    l->draft_floor = (float)t->draft_floor / 100;
    l->draft_wait_ns = t->draft_wait_ms * UINT64_C(1000000);
    l->max_moves = s->move_mbit > 0 ? MAX_MOVES : 0;
    l->min_move_tokens = t->move_tokens;
}

/* As worker/verify.c: the leader has all logits, and none of the steps lies with other ranks. */
static bool tells_early(const config_topology *t) {
    for (const config_group *g = t->groups; g < t->groups + t->n_groups; g++)
        if (g->role == CONFIG_VERIFIER && g->tensor_parallel > 1) return false;
    return true;
}

static void set_options(simulation *s) {
    sim_options *o = &s->o;
    o->seed = s->b.seed;
    o->n_copies = s->n_copies;
    o->step = s->trace.step;
    o->early_share = tells_early(s->topology) ? EARLY_SHARE : 0;
    o->early_right = EARLY_RIGHT;
    o->alike = s->alike;
    o->drafters = s->drafters;
    o->link_ns = (uint64_t)(s->link_ms * 1e6);
    o->link_byte_ns = s->link_mbit > 0 ? 8e3 / s->link_mbit : 0;
    o->move_ns = (uint64_t)(s->move_ms * 1e6);
    o->move_token_ns = s->move_mbit > 0 ? 8e3 * (double)s->kv_token_bytes / s->move_mbit : 0;
    o->decide_ns = s->trace.decide_ns;
    o->client_ns = s->trace.client_ns;
    o->max_tokens = s->b.n_tokens;
    o->lengths = s->trace.lengths;
    o->n_lengths = s->trace.n_lengths;
    o->clock = now_ns;
    uint64_t most = (uint64_t)s->n_copies * o->limits.max_requests + 1;
    if (most < s->n_streams) most = s->n_streams;
    uint32_t n = s->n_requests > s->n_warm_up ? s->n_requests : s->n_warm_up;
    o->n_slots = most < n ? (uint32_t)most : n > s->n_streams ? n : s->n_streams;
}

static st_code make_sim(simulation *s, st_error *e) {
    set_options(s);
    size_t bytes = sim_bytes(&s->o);
    s->memory = mem_alloc_aligned(bytes ? bytes : 64, 1, 64);
    s->arrivals_ns = mem_alloc(s->n_requests, sizeof *s->arrivals_ns);
    if (!s->memory || !s->arrivals_ns) return st_fail(e, ST_FATAL_MEMORY, "out of memory: the simulation needs %zu bytes", bytes);
    st_code code = sim_init(s->memory, &s->o, &s->sim, e);
    return code ? st_prefix(e, "%s", s->topology_path) : code;
}

/* ---- the load ---- */

static uint32_t name_number(bench_run *b, const char *name) {
    uint32_t i = 0;
    while (i < b->n_names && strcmp(b->names[i], name)) i++;
    if (i == b->n_names && i < LOAD_MAX_DRAFTERS) snprintf(b->names[b->n_names++], sizeof b->names[0], "%s", name);
    return i;
}

static void take_record(void *context, const sim_record *r) {
    simulation *s = context;
    bench_run *b = &s->b;
    load_record *to = &b->records[b->n_records++];
    *to = (load_record){.scheduled_ns = r->sent_ns,
                        .sent_ns = r->sent_ns,
                        .first_ns = r->first_ns,
                        .last_ns = r->last_ns,
                        .end_ns = r->end_ns,
                        .ended = true,
                        .error = r->code ? st_text(r->code) : NULL,
                        .prompt_tokens = r->n_prompt,
                        .n_tokens = r->n_tokens,
                        .n_first = r->n_first,
                        .steps = r->drafts.steps,
                        .drafted = r->drafts.drafted,
                        .accepted = r->drafts.accepted};
    to->uses = r->n_by_drafter ? mem_alloc(r->n_by_drafter, sizeof *to->uses) : NULL;
    for (uint32_t i = 0; to->uses && i < r->n_by_drafter; i++) {
        const proto_drafter_figures *d = &r->by_drafter[i];
        load_use use = {name_number(b, d->name), d->drafted, d->accepted};
        if (use.name < LOAD_MAX_DRAFTERS) to->uses[to->n_uses++] = use;
    }
}

/* The load is full until a stream finds nothing more to send, or the last request has arrived. */
static void note_full(simulation *s) {
    sim_figures f = sim_get_figures(s->sim);
    bench_run *b = &s->b;
    if (b->full_ns || f.asked < s->n_requests || (!(b->rate > 0) && f.asked - f.over >= s->n_streams)) return;
    b->full_ns = f.now_ns;
    b->n_full_arrived = f.tokens;
}

static st_code run_load(simulation *s, st_error *e) {
    bench_run *b = &s->b;
    load_arrivals arrivals;
    sim_load warm_up = {.n_streams = s->n_streams, .n_requests = s->n_warm_up};
    sim_load load = {.n_streams = b->rate > 0 ? 0 : s->n_streams, .n_requests = s->n_requests, .arrivals_ns = s->arrivals_ns};
    if (!(b->records = mem_alloc(s->n_requests, sizeof *b->records))) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    load_arrivals_init(&arrivals, b->seed, b->rate);
    for (uint32_t i = 0; b->rate > 0 && i < s->n_requests; i++) s->arrivals_ns[i] = load_arrivals_next(&arrivals);
    sim_begin(s->sim, &warm_up, NULL, NULL);
    while (sim_step(s->sim)) {
    }
    uint64_t began_ns = now_ns();
    sim_begin(s->sim, &load, take_record, s);
    while (sim_step(s->sim)) note_full(s);
    s->real_s = (double)(now_ns() - began_ns) / 1e9;
    s->figures = sim_get_figures(s->sim);
    return ST_OK;
}

/* ---- the report ---- */

static double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

/* Of all copies: the mean, the least and the most of the time that a node computed. `drafter` is n_drafters: the verifiers. */
typedef struct {
    double mean, least, most, mbit;
} busy;

static busy busy_of(const simulation *s, uint32_t drafter) {
    busy out = {.least = 1};
    double ns = (double)s->figures.now_ns;
    bool verifies = drafter == s->o.limits.n_drafters;
    uint32_t each = verifies ? s->o.limits.n_groups : 1, n_all = each * s->n_copies; /* of a cluster; of all */
    for (uint32_t i = 0; i < n_all; i++) {
        sim_node n = verifies ? sim_get_verifier(s->sim, i / each, i % each) : sim_get_drafter(s->sim, i, drafter);
        double x = share((double)n.busy_ns, ns);
        out.mean += x / n_all;
        out.mbit += share(8e3 * (double)n.bytes, ns) / n_all;
        if (x < out.least) out.least = x;
        if (x > out.most) out.most = x;
    }
    return out;
}

static const char *node_name(const simulation *s, uint32_t i) { return i < s->o.limits.n_drafters ? s->names[i] : "verifier"; }

static json_t *nodes_json(const simulation *s) {
    json_t *nodes = json_object();
    for (uint32_t i = 0; i <= s->o.limits.n_drafters; i++) {
        busy b = busy_of(s, i);
        json_object_set_new(
            nodes, node_name(s, i),
            json_pack("{s:f s:f s:f s:f}", "busy", b.mean, "least", b.least, "most", b.most, "mbit_per_s", b.mbit));
    }
    return nodes;
}

static uint32_t n_ranks(const simulation *s) { return s->n_copies * (s->o.limits.n_groups + s->o.limits.n_drafters); }

/* Of all copies, warm-up included. */
static sched_stats stats_of(const simulation *s) {
    sched_stats all = {0};
    for (uint32_t c = 0; c < s->n_copies; c++) {
        sched_stats of = sim_get_stats(s->sim, c);
        all.moves += of.moves - of.moves_failed;
        all.moved_tokens += of.moved_tokens;
        all.asked_rounds += of.asked_rounds;
        all.unasked_rounds += of.unasked_rounds;
        all.lockstep_rounds += of.lockstep_rounds;
    }
    return all;
}

/* Beyond what bench serve prints. */
static json_t *more_json(const simulation *s) {
    const sim_figures *f = &s->figures;
    double scheduler_s = (double)f->scheduler_ns / 1e9;
    sched_stats st = stats_of(s);
    return json_pack("{s:s s:i s:i s:f s:f s:I s:I s:I s:I s:I s:o s:I s:f s:I s:f s:f s:f s:I s:I}", "trace", s->trace_path,
                     "copies", (int)s->n_copies, "ranks", (int)n_ranks(s), "link_ms", s->link_ms, "link_mbit", s->link_mbit,
                     "moves", (json_int_t)st.moves, "moved_tokens", (json_int_t)st.moved_tokens, "asked_rounds",
                     (json_int_t)st.asked_rounds, "unasked_rounds", (json_int_t)st.unasked_rounds, "lockstep_rounds",
                     (json_int_t)st.lockstep_rounds, "nodes", nodes_json(s), "events", (json_int_t)f->events, "events_per_s",
                     share((double)f->events, s->real_s), "decisions", (json_int_t)f->decisions, "decisions_per_s",
                     share((double)f->decisions, scheduler_s), "decision_us", share(scheduler_s * 1e6, (double)f->decisions),
                     "scheduler_share", share((double)f->scheduler_ns, (double)f->now_ns), "scheduler_bytes",
                     (json_int_t)f->scheduler_bytes, "schedulers_bytes", (json_int_t)(f->scheduler_bytes * s->n_copies));
}

static void print_more(const simulation *s) {
    const sim_figures *f = &s->figures;
    double scheduler_s = (double)f->scheduler_ns / 1e9;
    printf("\n  %-20s %10s %10s %10s %10s\n", "node", "busy %", "least", "most", "Mbit/s");
    for (uint32_t i = 0; i <= s->o.limits.n_drafters; i++) {
        busy b = busy_of(s, i);
        printf("  %-20s %10.1f %10.1f %10.1f %10.3f\n", node_name(s, i), 100 * b.mean, 100 * b.least, 100 * b.most, b.mbit);
    }
    sched_stats st = stats_of(s);
    if (st.asked_rounds)
        printf("\n%.0f %% of the rounds waited for drafters, %.0f %% in lockstep\n",
               100 * share((double)st.asked_rounds, (double)(st.asked_rounds + st.unasked_rounds)),
               100 * share((double)st.lockstep_rounds, (double)(st.asked_rounds + st.unasked_rounds)));
    if (st.moves)
        printf("\nKV of %llu tokens moved, in %llu moves\n", (unsigned long long)st.moved_tokens, (unsigned long long)st.moves);
    printf("\n%u cluster%s, %u ranks; %llu events in %.2f s of this machine; %llu decisions of %.2f us, %.0f a second: the "
           "scheduler would "
           "take %.2f %% of a core; its memory: %.2f MiB a cluster, %.1f MiB in all\n",
           s->n_copies, s->n_copies > 1 ? "s" : "", n_ranks(s), (unsigned long long)f->events, s->real_s,
           (unsigned long long)f->decisions, share(scheduler_s * 1e6, (double)f->decisions),
           share((double)f->decisions, scheduler_s), 100 * share((double)f->scheduler_ns, (double)f->now_ns),
           (double)f->scheduler_bytes / 1048576, (double)f->scheduler_bytes * s->n_copies / 1048576);
}

static st_code report(simulation *s, st_error *e) {
    static char simulated[] = "simulated";
    bench_run *b = &s->b;
    b->server = s->topology_path;
    b->n_streams = s->n_streams;
    b->prompts.n_domains = 1;
    b->prompts.domains[0] = simulated;
    snprintf(b->model, sizeof b->model, "%s", s->topology->model);
    snprintf(b->version, sizeof b->version, "%s", CONSORT_VERSION);
    snprintf(b->q.request.speculation, sizeof b->q.request.speculation, "%s", s->speculation);
    b->cpu_s = s->real_s;
    if (b->json && !(b->more = more_json(s))) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    st_code code = bench_report(b, NULL, e);
    json_decref(b->more);
    if (!code && !b->json) print_more(s);
    return code;
}

/* ---- measured ---- */

/* What bench serve --json measured, beside what was simulated; to standard error. */
static st_code compare(simulation *s, st_error *e) {
    json_error_t je;
    json_t *measured = json_load_file(s->against, 0, &je);
    double seconds = json_number_value(json_object_get(json_object_get(measured, "full"), "seconds"));
    double tokens = json_number_value(json_object_get(json_object_get(measured, "full"), "tokens"));
    double per_step = json_number_value(json_object_get(measured, "tokens_per_step"));
    uint64_t steps = 0, accepted = 0;
    for (size_t i = 0; i < s->b.n_records; i++) steps += s->b.records[i].steps, accepted += s->b.records[i].accepted;
    st_code code = ST_OK;
    if (!measured)
        code = st_fail(e, ST_ERR_IO, "%s: line %d: %s", s->against, je.line, je.text);
    else if (!(seconds > 0 && tokens > 0))
        code = st_fail(e, ST_ERR_FORMAT, "%s: full: no tokens and seconds; expected what consort bench serve --json prints",
                       s->against);
    else {
        double is = tokens / seconds, was = share((double)s->b.n_full_arrived, (double)s->b.full_ns / 1e9);
        fprintf(stderr, "measured %.1f tokens/s, %.3f a step; simulated %.1f tokens/s, %.3f a step: %+.1f %%\n", is, per_step,
                was, share((double)(steps + accepted), (double)steps), 100 * (was / is - 1));
    }
    json_decref(measured);
    return code;
}

/* ---- the verb ---- */

static st_code run(simulation *s, st_error *e) {
    st_code code = config_load(s->topology_path, &s->topology, e);
    if (!code && !s->speculation) s->speculation = s->topology->speculation;
    if (!code) code = simulate_trace_read(&s->trace, s->trace_path, e);
    if (!code) code = read_model(s, e);
    if (!code) set_limits(s);
    if (!code) code = add_groups(s, e);
    if (!code) code = make_sim(s, e);
    if (!code) code = run_load(s, e);
    if (!code) code = report(s, e);
    if (!code && s->against) code = compare(s, e);
    return code;
}

static const char *check(const simulation *s, bool has_streams) {
    double rate = s->b.rate;
    if (rate != 0 && has_streams) return "--streams and --rate exclude each other";
    if (rate != 0 && !(rate >= 0.001 && rate <= 100000)) return "--rate: expected 0.001 to 100000 requests a second";
    if (s->n_streams < 1 || s->n_streams > MAX_STREAMS) return "--streams: expected 1 to 65536";
    if (s->n_requests < 1 || s->n_requests > BENCH_MAX_REQUESTS) return "--requests: expected 1 to 1048576";
    if (s->n_warm_up > BENCH_MAX_REQUESTS) return "--warm-up: expected at most 1048576";
    if (s->b.n_tokens < 1 || s->b.n_tokens > BENCH_MAX_TOKENS) return "--tokens: expected 1 to 65536";
    if (s->n_copies < 1 || s->n_copies > SIM_MAX_COPIES) return "--copies: expected 1 to 1024";
    if (s->link_mbit < 0 || s->link_ms < 0 || s->link_ms > 60000)
        return "--link-mbit, --link-ms: expected 0 (no limit, no delay) or more";
    if (!(s->alike >= 0 && s->alike <= 1)) return "--alike: expected 0 to 1";
    if (s->move_mbit < 0 || s->move_ms < 0 || s->move_ms > 60000) return "--move-mbit, --move-ms: expected 0 or more";
    return NULL;
}

static const char ABOUT[] =
    "Runs the cluster's own scheduler against virtual nodes in virtual time and prints what clients would see, how busy nodes "
    "would\n"
    "be, and how long the scheduler really took. Costs, drafts and lengths are those of a real run: put a load on a cluster\n"
    "(consort bench serve), then consort trace --out F. Each drafter of the topology must have drafted there, by name.";

static int options(int argc, char **argv, simulation *s) {
    enum { UNSET = UINT32_MAX };
    uint32_t n_streams = UNSET;
    const client_option table[] = {
        {"--topology", CLIENT_TEXT, &s->topology_path, "F", "topology to simulate, YAML", true},
        {"--trace", CLIENT_TEXT, &s->trace_path, "F", "what consort trace --out wrote behind a load", true},
        {"--copies", CLIENT_U32, &s->n_copies, "N",
         "so many of the topology beside each other, without common drafters; a request goes to the least busy (default: 1)",
         false},
        {"--link-ms", CLIENT_F64, &s->link_ms, "MS",
         "one way between coordinator and node, beyond what the trace has (default: 0)", false},
        {"--link-mbit", CLIENT_F64, &s->link_mbit, "N", "bandwidth of each node's link, each way; 0: no limit (default: 0)",
         false},
        {"--move-mbit", CLIENT_F64, &s->move_mbit, "N",
         "bandwidth from each verifier to the others, for KV cache that moves; 0: it is computed again (default: 0)", false},
        {"--move-ms", CLIENT_F64, &s->move_ms, "MS", "that a move takes beside its bytes (default: 0)", false},
        {"--speculation", CLIENT_TEXT, &s->speculation, "P", "policy (default: the topology's)", false},
        {"--like", CLIENT_TEXT, &s->like, "NAME",
         "drafters that the trace does not know, nor others of their files, draft like this one of it", false},
        {"--alike", CLIENT_F64, &s->alike, "SHARE",
         "of tokens, those that are as easy for one drafter as for another: 0 to 1 (default: 0.5)", false},
        {"--streams", CLIENT_U32, &n_streams, "N", "closed loop of so many (default: 1)", false},
        {"--rate", CLIENT_F64, &s->b.rate, "R", "open loop: requests a second on average", false},
        {"--requests", CLIENT_U32, &s->n_requests, "N", "requests in all (default: 64)", false},
        {"--warm-up", CLIENT_U32, &s->n_warm_up, "N", "requests before, not counted (default: 0)", false},
        {"--tokens", CLIENT_U32, &s->b.n_tokens, "N", "most tokens of an answer (default: 64)", false},
        {"--seed", CLIENT_U64, &s->b.seed, "N", "of texts, drafts, costs and arrivals (default: 1)", false},
        {"--against", CLIENT_TEXT, &s->against, "FILE", "what bench serve --json measured: say how far off the simulation is",
         false},
        {"--json", CLIENT_FLAG, &s->b.json, NULL, "print one JSON object instead of a table", false},
    };
    int rc = client_options(argc, argv, ABOUT, table, sizeof table / sizeof *table);
    if (rc != CLIENT_GO_ON) return rc;
    s->n_streams = n_streams == UNSET ? 1 : n_streams;
    const char *wrong = check(s, n_streams != UNSET);
    if (!wrong) return CLIENT_GO_ON;
    fprintf(stderr, "consort %s: %s\n", argv[0], wrong);
    return CLIENT_USAGE;
}

int client_simulate(int argc, char **argv) {
    st_error e = {0};
    simulation *s = mem_alloc(1, sizeof *s);
    if (!s) return (void)st_fail(&e, ST_FATAL_MEMORY, "out of memory"), client_fail(argv[0], &e);
    s->n_copies = 1;
    s->n_requests = DEFAULT_REQUESTS;
    s->b.n_tokens = DEFAULT_TOKENS;
    s->b.seed = 1;
    s->alike = ALIKE;
    int rc = options(argc, argv, s);
    if (rc == CLIENT_GO_ON) rc = run(s, &e) ? client_fail(argv[0], &e) : CLIENT_OK;
    for (size_t i = 0; i < s->b.n_records; i++) mem_free(s->b.records[i].uses);
    mem_free(s->b.records);
    mem_free(s->arrivals_ns);
    mem_free(s->memory);
    simulate_trace_deinit(&s->trace);
    config_destroy(s->topology);
    mem_free(s);
    return rc;
}
