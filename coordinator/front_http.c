/* The HTTP front: what monitors ask. /health for load balancers and scripts, /metrics for Prometheus; nothing here changes the
 * cluster, so both are answered at once, from what the loop knows at that moment. */
#include "coordinator/coordinator_int.h"

#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static void answer_text(net_http_call *call, int status, const char *type, const char *body) {
    net_http_reply r = {.status = status, .type = type, .body = body, .n = strlen(body)};
    if (status == 405) r.allow = "GET, HEAD";
    net_http_answer(call, &r);
}

/* The inside of a JSON string. What is not printable ASCII becomes '?': reasons come from other hosts, too. */
static void quote(const char *in, char *out, size_t n_out) {
    size_t n = 0;
    for (; *in && n + 3 < n_out; in++) {
        if (*in == '"' || *in == '\\') out[n++] = '\\';
        out[n++] = *in >= ' ' && *in <= '~' ? *in : '?';
    }
    out[n] = 0;
}

static bool is_lost(const members *m, const member_group *g) {
    for (uint32_t i = g->leader; i < g->leader + g->n_ranks; i++)
        if (m->items[i].state == MEMBER_LOST) return true;
    return false;
}

static bool verifiers_are_lost(const coordinator *c) {
    const members *m = &c->members;
    for (const member_group *g = m->groups; g < m->groups + m->n_groups; g++)
        if (!g->drafts && !is_lost(m, g)) return false;
    return true;
}

/* {"status": "ok"}, or why not: loading (it may come), lost (it does not by itself), draining (it leaves). */
static void on_health(coordinator *c, net_http_call *call) {
    char why[256], quoted[2 * sizeof why], body[sizeof quoted + 64];
    if (coordinator_is_ready(c)) {
        answer_text(call, 200, "application/json", "{\"status\":\"ok\"}\n");
        return;
    }
    members_explain(c, why, sizeof why);
    if (c->draining) snprintf(why, sizeof why, "the cluster is shutting down");
    quote(why, quoted, sizeof quoted);
    snprintf(body, sizeof body, "{\"status\":\"%s\",\"reason\":\"%s\"}\n",
             c->draining             ? "draining"
             : verifiers_are_lost(c) ? "lost"
                                     : "loading",
             quoted);
    answer_text(call, 503, "application/json", body);
}

static void describe_workers(const coordinator *c, metrics_worker *workers, uint32_t n) {
    static const char *const roles[] = {[CONFIG_VERIFIER] = "verifier", [CONFIG_DRAFTER] = "drafter"};
    for (uint32_t i = 0; i < n; i++) {
        const member *m = &c->members.items[i + 1];
        uint32_t group = 0, group_rank = 0;
        INVARIANT(config_rank(c->t, i + 1, &group, &group_rank));
        workers[i] = (metrics_worker){.rank = i + 1,
                                      .group = c->t->groups[group].name,
                                      .role = roles[c->t->groups[group].role],
                                      .up = m->state == MEMBER_READY,
                                      .is_leader = group_rank == 0,
                                      .steps = m->steps};
    }
}

static void describe_verifiers(const coordinator *c, metrics_verifier *verifiers) {
    for (uint32_t i = 0; i < c->members.n_groups; i++) {
        const member_group *g = &c->members.groups[i];
        if (g->drafts) continue;
        metrics_verifier *v = &verifiers[g->number];
        v->group = c->t->groups[i].name;
        v->stats = sched_get_group(c->sched, g->number);
        v->n_costs = sched_get_costs(c->sched, g->number, v->costs);
    }
}

static void on_metrics(coordinator *c, net_http_call *call) {
    uint32_t n = c->members.n - 1;
    metrics_worker *workers = mem_alloc(n ? n : 1, sizeof *workers);
    metrics_verifier *verifiers = mem_alloc(c->members.n_verifiers, sizeof *verifiers);
    bool room = workers && verifiers;
    if (room) describe_workers(c, workers, n);
    if (room) describe_verifiers(c, verifiers);
    sched_drafter_stats drafters[CONFIG_MAX_DRAFTERS];
    for (uint32_t i = 0; i < c->limits.n_drafters; i++) drafters[i] = sched_get_drafter(c->sched, i);
    metrics_view v = {.sched = sched_get_stats(c->sched),
                      .n_drafters = c->limits.n_drafters,
                      .drafters = drafters,
                      .verifiers = verifiers,
                      .n_verifiers = c->members.n_verifiers,
                      .ready = coordinator_is_ready(c),
                      .uptime_seconds = (double)(net_now_ns() - c->started_ns) / 1e9,
                      .workers = workers,
                      .n_workers = n};
    metrics_text text = {0};
    st_code code = room ? metrics_write(&c->metrics, &v, &text) : ST_FATAL_MEMORY;
    if (code)
        answer_text(call, 503, "text/plain; charset=utf-8", "no memory now; try again later\n");
    else
        answer_text(call, 200, "text/plain; version=0.0.4; charset=utf-8", text.bytes);
    mem_free(text.bytes);
    mem_free(workers);
    mem_free(verifiers);
}

static void on_request(void *context, net_http_call *call, const net_http_request *r) {
    static const struct {
        const char *path;
        void (*answer)(coordinator *c, net_http_call *call);
    } routes[] = {{"/health", on_health}, {"/metrics", on_metrics}};
    size_t i = 0, n = sizeof routes / sizeof *routes;
    while (i < n && strcmp(routes[i].path, r->path)) i++;
    if (i == n)
        answer_text(call, 404, "text/plain; charset=utf-8", "there is /health and /metrics here\n");
    else if (strcmp(r->method, "GET") && strcmp(r->method, "HEAD"))
        answer_text(call, 405, "text/plain; charset=utf-8", "this can only be read: GET or HEAD\n");
    else
        routes[i].answer(context, call);
}

st_code front_http_init(coordinator *c, st_error *e) {
    static const net_http_callbacks callbacks = {on_request, NULL};
    char host[256];
    uint16_t port;
    if (!c->t->http_listen[0]) return ST_OK;
    st_code code = config_split_address(c->t->http_listen, host, sizeof host, &port, e);
    if (!code) code = net_http_listen(c->loop, host, port, &callbacks, c, &c->http, &c->http_port, e);
    return code ? st_prefix(e, "http_listen") : ST_OK;
}
