/* consortd: one process of the cluster; mpirun or srun starts as many as the topology has ranks.
 *
 * Rank 0 becomes the coordinator, the others what the topology says. MPI is used to learn the rank and to tell everybody where
 * the coordinator's control link is and the cluster's secret, new with each start; from then on the control link alone knows who
 * lives. */
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "config/config.h"
#include "coordinator/coordinator.h"
#include "parallel/world.h"
#include "worker/worker.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { START_DEADLINE_MS = 120000, HOST_BYTES = 256, SECRET_BYTES = 32 };

/* What rank 0 tells all others at the start. */
typedef struct {
    uint32_t ok, cluster_epoch;
    uint16_t port;
    char host[HOST_BYTES];
    uint8_t secret[SECRET_BYTES];
} start;

typedef struct {
    const char *config, *run_file;
    log_level level;
} options;

static const char usage[] =
    "usage: mpirun -np RANKS consortd --config FILE [--run-file FILE] [--log-level error|warn|info|debug]\n"
    "\n"
    "One process of a Consort cluster. RANKS is what `consort check-config FILE` says; scripts/launch starts them all.\n"
    "  --config FILE     the topology (YAML), the same on every host\n"
    "  --run-file FILE   the coordinator writes its addresses there as JSON and removes it at the end\n"
    "  --log-level L     default info; logs go to standard error\n"
    "  --version\n"
    "SIGTERM or SIGINT to rank 0 drains the cluster: requests in flight finish, new ones are refused; a second one ends it at "
    "once.\n";

/* 0: go on; otherwise exit with the value minus 1. */
static int parse(int argc, char **argv, options *o) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    static const struct option names[] = {{"config", required_argument, NULL, 'c'},
                                          {"run-file", required_argument, NULL, 'r'},
                                          {"log-level", required_argument, NULL, 'l'},
                                          {"version", no_argument, NULL, 'v'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    *o = (options){.level = LOG_INFO};
    for (int opt; (opt = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        int level = 0;
        switch (opt) {
        case 'c': o->config = optarg; break;
        case 'r': o->run_file = optarg; break;
        case 'l':
            while (level < 4 && strcmp(optarg, levels[level])) level++;
            if (level == 4) {
                fprintf(stderr, "consortd: --log-level %s: expected error, warn, info or debug\n", optarg);
                return 3;
            }
            o->level = (log_level)level;
            break;
        case 'v': puts("consortd " CONSORT_VERSION); return 1;
        case 'h': fputs(usage, stdout); return 1;
        default: fputs(usage, stderr); return 3;
        }
    }
    if (o->config && optind == argc) return 0;
    fputs(usage, stderr);
    return 3;
}

/* Where workers reach the control link: what the topology advertises, or the host it listens on. Where that is every interface,
 * it is this machine's name: "0.0.0.0" would lead a worker on another host to itself. */
static st_code advertised(const config_topology *t, char host[HOST_BYTES], st_error *e) {
    uint16_t port;
    if (t->control_advertise && t->control_advertise[0]) {
        snprintf(host, HOST_BYTES, "%s", t->control_advertise);
        return ST_OK;
    }
    st_code code = config_split_address(t->control_listen, host, HOST_BYTES, &port, e);
    if (!code && (!strcmp(host, "0.0.0.0") || !strcmp(host, "::")) && gethostname(host, HOST_BYTES))
        code =
            st_fail(e, ST_ERR_IO, "this machine's name: %m; set control_advertise to a name or address that the workers reach");
    return code;
}

/* The key kv_transport takes it. */
static bool is_wanted(const config_topology *t, const transport_kind *kind) {
    return !strcmp(t->kv_transport, "auto") || !strcmp(t->kv_transport, kind->name);
}

static st_code run_coordinator(const options *o, const config_topology *t, start *s, bool *lost, st_error *e) {
    coordinator *c = NULL;
    worker_embeddings *embeddings = NULL;
    coordinator_options co = {.topology = t, .secret = s->secret, .run_file = o->run_file};
    st_code code = getrandom(s->secret, sizeof s->secret, 0) == (ssize_t)sizeof s->secret
                       ? ST_OK
                       : st_fail(e, ST_FATAL_INTERNAL, "no random numbers: %m");
    s->cluster_epoch = co.cluster_epoch = (uint32_t)time(NULL); /* higher with each start */
    if (!code) code = advertised(t, s->host, e);
    if (!code) code = worker_embeddings_open(t->model, &embeddings, e);
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = parallel_world_transport_at(i)); i++) co.kv_listens |= kind->listens && is_wanted(t, kind);
    co.similarity = worker_similarity;
    co.similarity_context = embeddings;
    if (!code) code = coordinator_create(&co, &c, e);
    st_error ignored;
    if (!code) s->port = coordinator_control_port(c);
    s->ok = !code;
    st_code told = parallel_world_broadcast(s, sizeof *s, START_DEADLINE_MS, code ? &ignored : e);
    if (!code) code = told;
    if (!code) code = coordinator_run(c, lost, e);
    coordinator_destroy(c);
    worker_embeddings_close(embeddings);
    return code;
}

/* Beside others; a head computes little, and while the verifier waits for it. */
static bool computes(const config_topology *t, uint32_t rank) {
    uint32_t group, group_rank;
    if (!config_rank(t, rank, &group, &group_rank)) return false;
    return t->groups[group].role == CONFIG_VERIFIER || strcmp(t->groups[group].kind, "model") == 0;
}

typedef char host_name[HOST_BYTES];

/* The host of each rank: [n_ranks], the caller's. All ranks call it. */
static st_code gather_hosts(uint32_t n_ranks, host_name **out, st_error *e) {
    host_name mine = "";
    host_name *all = mem_alloc(n_ranks, sizeof *all);
    if (!all) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u ranks", n_ranks);
    if (gethostname(mine, HOST_BYTES - 1)) mine[0] = 0;
    *out = all;
    return parallel_world_gather(mine, all, HOST_BYTES, START_DEADLINE_MS, e);
}

/* How many ranks compute on the host of `rank`, that one counted in any case. */
static uint32_t count_neighbours(const config_topology *t, uint32_t rank, const host_name *hosts) {
    uint32_t n = 1;
    for (uint32_t i = 0; i < config_n_ranks(t); i++)
        n += i != rank && computes(t, i) && !memcmp(hosts[i], hosts[rank], HOST_BYTES);
    return n;
}

/* ---- kv_tokens: 0 ---- */

static bool is_measured(const config_topology *t, uint32_t rank) {
    uint32_t group, group_rank;
    return config_rank(t, rank, &group, &group_rank) && computes(t, rank) && t->groups[group].kv_tokens == 0;
}

/* Tokens of KV that this rank has room for; 0: it is not to be known. */
static uint32_t measure(const config_topology *t, uint32_t rank, uint32_t n_neighbours) {
    uint32_t group, group_rank, tokens = 0;
    uint64_t bytes = 0;
    st_error e;
    INVARIANT(config_rank(t, rank, &group, &group_rank));
    st_code code = worker_available_bytes("", &bytes, &e);
    if (!code) code = worker_measure_kv(t, group, group_rank, n_neighbours, bytes, &tokens, &e);
    if (code) log_line(LOG_ERROR, "consortd", "kv_tokens: 0: %s", e.message);
    return code ? 0 : tokens;
}

/* What each rank measures where its group's kv_tokens is 0: [n_ranks], the caller's. All ranks call it; t NULL: one that cannot
 * start. */
static st_code gather_kv(const config_topology *t, uint32_t rank, uint32_t n_ranks, const host_name *hosts, uint32_t **out,
                         st_error *e) {
    uint32_t mine = t && is_measured(t, rank) ? measure(t, rank, count_neighbours(t, rank, hosts)) : 0;
    if (!(*out = mem_alloc(n_ranks, sizeof **out))) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u ranks", n_ranks);
    return parallel_world_gather(&mine, *out, sizeof mine, START_DEADLINE_MS, e);
}

/* The least of a group's ranks: the same in all processes. */
static st_code settle_kv(config_topology *t, uint32_t rank, const uint32_t *measured, st_error *e) {
    for (uint32_t g = 0, first = 1; g < t->n_groups; first += t->groups[g++].tensor_parallel) {
        config_group *of = &t->groups[g];
        uint32_t least = first;
        if (!is_measured(t, first)) continue;
        for (uint32_t i = first; i < first + of->tensor_parallel; i++)
            if (measured[i] < measured[least]) least = i;
        of->kv_tokens = measured[least];
        if (of->kv_tokens == 0)
            return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED,
                           "kv_tokens of %s: 0, and rank %u could not measure what there is room for", of->name, least);
        if (rank == 0)
            log_line(LOG_INFO, "consortd", "kv_tokens of %s: %u, as measured by rank %u, which has room for the fewest", of->name,
                     of->kv_tokens, least);
    }
    return ST_OK;
}

/* ---- transports of a verifier's rank ---- */

typedef struct {
    transport *all[TRANSPORT_MAX_KINDS]; /* [n] the best first */
    uint32_t n;
} transports;

static void close_transports(transports *t) {
    while (t->n) {
        transport *last = t->all[--t->n];
        last->ops->destroy(last);
    }
}

/* One that cannot be had is an error where it was asked for by its name, and otherwise one less to choose from. */
static st_code open_transport(const config_topology *t, const transport_kind *kind, transports *out, st_error *e) {
    char name[HOST_BYTES] = "";
    transport_options o = {.host = t->kv_listen};
    bool named = strcmp(t->kv_transport, "auto") != 0, any = !strcmp(t->kv_listen, "0.0.0.0") || !strcmp(t->kv_listen, "::");
    if (!is_wanted(t, kind)) return ST_OK;
    if (any && !gethostname(name, HOST_BYTES - 1)) o.advertise = name;
    st_code code = kind->create(&o, &out->all[out->n], e);
    if (!code && any && kind->listens && strchr(out->all[out->n]->address, '@'))
        log_line(LOG_WARN, "consortd",
                 "kv_listen %s: the name of this machine, %s, is a loopback address: KV cache comes from no other host by %s; "
                 "kv_listen may name another address",
                 t->kv_listen, name, kind->name);
    if (!code) out->n++;
    if (!code || named) return code ? st_prefix(e, "kv_transport") : ST_OK;
    log_line(LOG_WARN, "consortd", "KV cache will not move by %s: %s", kind->name, e->message);
    return ST_OK;
}

static st_code open_transports(const config_topology *t, transports *out, st_error *e) {
    const transport_kind *kind;
    st_code code = ST_OK;
    for (uint32_t i = 0; !code && (kind = parallel_world_transport_at(i)); i++) code = open_transport(t, kind, out, e);
    return code;
}

static st_code run_worker(const config_topology *t, uint32_t rank, uint32_t n_neighbours, start *s, st_error *e) {
    worker_options wo = {.topology = t, .rank = rank, .n_neighbours = n_neighbours};
    st_code code = parallel_world_broadcast(s, sizeof *s, START_DEADLINE_MS, e);
    if (code) return code;
    if (!s->ok) return st_fail(e, ST_ERR_UNAVAILABLE, "the coordinator could not start");
    s->host[HOST_BYTES - 1] = 0;
    wo.host = s->host;
    wo.port = s->port;
    wo.secret = s->secret;
    wo.cluster_epoch = s->cluster_epoch;
    INVARIANT(config_rank(t, rank, &wo.group, &wo.group_rank));
    uint32_t n_ranks = t->groups[wo.group].tensor_parallel;
    if (n_ranks == 1)
        code = parallel_group_local(&wo.group_link);
    else
        code = parallel_world_group(rank - wo.group_rank, n_ranks, t->dead_after_ms, &wo.group_link, e);
    if (code) return code;
    transports movers = {0};
    if (t->groups[wo.group].role == CONFIG_VERIFIER) code = open_transports(t, &movers, e);
    wo.transports = movers.all;
    wo.n_transports = movers.n;
    if (!code) code = worker_run(&wo, e);
    /* After an error a collective may be pending whose memory is gone: MPI is not called any more, the process ends by _exit. */
    if (!code) close_transports(&movers);
    wo.group_link->ops->destroy(wo.group_link);
    return code;
}

static st_code load_topology(const options *o, uint32_t n_ranks, config_topology **t, st_error *e) {
    st_code code = config_load(o->config, t, e);
    if (code || config_n_ranks(*t) == n_ranks) return code;
    return st_fail(
        e, ST_ERR_MISMATCH,
        "%s: the topology has %u ranks (the coordinator and its workers), but %u processes were started: use mpirun -np %u",
        o->config, config_n_ranks(*t), n_ranks, config_n_ranks(*t));
}

/* What all take part in, all do, also a rank that cannot start: the others would wait for it. */
static st_code run_rank(const options *o, uint32_t rank, uint32_t n_ranks, bool *lost, st_error *e) {
    config_topology *t = NULL;
    host_name *hosts = NULL;
    uint32_t *measured = NULL;
    start s = {0};
    st_code code = gather_hosts(n_ranks, &hosts, e), told = code;
    st_error ignored;
    if (!code) {
        code = load_topology(o, n_ranks, &t, e);
        told = gather_kv(code ? NULL : t, rank, n_ranks, hosts, &measured, code ? &ignored : e);
        if (!code) code = told ? told : settle_kv(t, rank, measured, e);
    }
    if (code && !told)
        told = parallel_world_broadcast(&s, sizeof s, START_DEADLINE_MS, &ignored);
    else if (!code)
        code = rank == 0 ? run_coordinator(o, t, &s, lost, e) : run_worker(t, rank, count_neighbours(t, rank, hosts), &s, e);
    explicit_bzero(&s, sizeof s);
    config_destroy(t);
    mem_free(measured);
    mem_free(hosts);
    return code;
}

int main(int argc, char **argv) {
    options o;
    uint32_t rank = 0, n_ranks = 1;
    st_error e = {0};
    bool lost = false;
    int leave = parse(argc, argv, &o);
    if (leave) return leave - 1;
    signal(SIGPIPE, SIG_IGN);
    log_setup(o.level, -1);
    st_code code = fault_plan(getenv("CONSORT_FAULTS"), &e);
    if (!code) code = parallel_world_start(&argc, &argv, &rank, &n_ranks, &e);
    if (!code) {
        log_setup(o.level, (int)rank);
        code = run_rank(&o, rank, n_ranks, &lost, &e);
    }
    if (code) log_line(LOG_ERROR, "consortd", "%s", e.message[0] ? e.message : st_text(code));
    if (!code && !lost) {
        parallel_world_stop();
        return 0; /* by exit(), so that sanitizers look for leaks */
    }
    fflush(NULL);
    _exit(code ? 1 : 0); /* not exit(): after a death MPI's own handlers may hang */
}
