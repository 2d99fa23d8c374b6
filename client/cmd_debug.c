/* consort debug: faults on purpose in a running cluster, for tests of it; and its KV cache without what it keeps. */
#include "client/rpc.h"

#include <string.h>

typedef struct {
    json_t *list;
    bool json, told_help, set; /* set: a plan was given: what the points are is known */
    st_error *e;
} table;

static json_t *points_json(const proto_faults *f) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < f->n_points; i++) {
        const proto_fault *p = &f->points[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", p->name, "help", p->help, "one_in",
                                        (json_int_t)p->one_in, "passes", (json_int_t)p->passes, "hits", (json_int_t)p->hits));
    }
    return list;
}

static void print_points(table *t, const proto_faults_reply *r) {
    const proto_faults *f = &r->said;
    const char *between = "";
    for (uint32_t i = 0; i < f->n_points && !t->told_help && !t->set; i++)
        printf("%-12s %s\n", f->points[i].name, f->points[i].help);
    t->told_help |= f->n_points > 0;
    printf("rank %u %s: ", r->rank, r->group);
    for (uint32_t i = 0; i < f->n_points; i++) {
        const proto_fault *p = &f->points[i];
        if (!p->one_in && !p->passes) continue;
        printf("%s%s ", between, p->name);
        if (p->one_in)
            printf("1 in %u", p->one_in);
        else
            printf("off");
        printf(" (%u hits of %u)", p->hits, p->passes);
        between = ", ";
    }
    printf("%s%s\n", f->message, f->message[0] || *between ? "" : "off");
}

static st_code on_faults(void *context, const uint8_t *message, size_t n) {
    table *t = context;
    proto_faults_reply r;
    st_code code = proto_faults_reply_decode(message, n, &r, t->e);
    if (code) return code;
    if (t->json)
        json_array_append_new(t->list, json_pack("{s:i, s:s, s:s?, s:o}", "rank", (int)r.rank, "group", r.group, "error",
                                                 r.said.code ? r.said.message : NULL, "points", points_json(&r.said)));
    else
        print_points(t, &r);
    fflush(stdout);
    return ST_OK;
}

static st_code on_blocks(void *context, const uint8_t *message, size_t n) {
    const table *t = context;
    proto_blocks b;
    st_code code = proto_blocks_decode(message, n, &b, t->e);
    if (code) return code;
    if (t->json)
        json_array_append_new(t->list, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "forgotten", (json_int_t)b.forgotten, "used",
                                                 (json_int_t)b.used, "reserved", (json_int_t)b.reserved, "kept",
                                                 (json_int_t)b.kept, "total", (json_int_t)b.total, "slots", (json_int_t)b.slots));
    else
        printf("forgot %llu KV blocks; of %llu, %llu are used, %llu reserved, %llu kept, and %llu lie on disk\n",
               (unsigned long long)b.forgotten, (unsigned long long)b.total, (unsigned long long)b.used,
               (unsigned long long)b.reserved, (unsigned long long)b.kept, (unsigned long long)b.slots);
    return ST_OK;
}

static st_code copy(const char *name, const char *from, char *to, size_t to_bytes, st_error *e) {
    if (strlen(from) >= to_bytes) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: is over %zu bytes", name, to_bytes - 1);
    memcpy(to, from, strlen(from) + 1);
    return ST_OK;
}

/* plan: NULL: only tell. rank: UINT32_MAX: not given. */
static st_code call_faults(client_rpc *r, const char *plan, uint32_t rank, const char *group, table *t) {
    proto_faults_request q = {.set = plan != NULL, .has_rank = rank != UINT32_MAX};
    proto_bytes b = {0};
    if (q.has_rank) q.rank = rank;
    t->set = q.set;
    st_code code = plan && strcmp(plan, "off") ? copy("PLAN", plan, q.plan, sizeof q.plan, t->e) : ST_OK;
    if (!code && group) code = copy("--group", group, q.group, sizeof q.group, t->e);
    if (!code) code = proto_faults_request_encode(&q, &b);
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/Faults", b.bytes, b.n, 0, on_faults, t, t->e);
    proto_bytes_free(&b);
    return code;
}

static st_code print_json(table *t, bool faults) {
    json_t *what = faults ? t->list : json_array_get(t->list, 0);
    if (!t->json || !what) return ST_OK;
    return json_dumpf(what, stdout, JSON_COMPACT) || putchar('\n') == EOF
               ? st_fail(t->e, ST_ERR_IO, "standard output cannot be written")
               : ST_OK;
}

int client_debug(int argc, char **argv) {
    const char *server = client_server(), *what = NULL, *plan = NULL, *group = NULL;
    uint32_t rank = UINT32_MAX;
    st_error e = {0};
    table t = {.e = &e};
    const client_option options[] = {
        {"WHAT", CLIENT_TEXT, &what, NULL, "faults, or forget", true},
        {"PLAN", CLIENT_TEXT, &plan, NULL,
         "of faults: move.flip=100,seed=7 is one pass in 100 of that point; off: none; without it the points are told, and what "
         "they did",
         false},
        {"--rank", CLIENT_U32, &rank, "N", "faults: only in this rank; 0 is the coordinator", false},
        {"--group", CLIENT_TEXT, &group, "NAME", "faults: only in the ranks of this group", false},
        CLIENT_SERVER_OPTION(server),
        {"--json", CLIENT_FLAG, &t.json, NULL,
         "faults: one JSON list of {rank, group, error, points}; forget: one object of numbers of blocks", false},
    };
    int rc = client_options(
        argc, argv,
        "For tests of a cluster whose topology says debug: on. faults: each rank does, at named points, what a broken machine "
        "would,\nwithout changing an answer. forget: the KV cache keeps nothing of earlier requests any more.",
        options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    bool faults = !strcmp(what, "faults");
    if ((!faults && strcmp(what, "forget")) || (!faults && (plan || group || rank != UINT32_MAX))) {
        fprintf(stderr, "consort debug: expected faults [PLAN] [--rank N | --group NAME], or forget (consort debug --help)\n");
        return CLIENT_USAGE;
    }
    client_rpc *r = NULL;
    t.list = json_array();
    st_code code = client_rpc_open(server, &r, &e);
    if (!code && faults) code = call_faults(r, plan, rank, group, &t);
    if (!code && !faults) code = client_rpc_call(r, "/consort.v1.Admin/ForgetKv", NULL, 0, 0, on_blocks, &t, &e);
    client_rpc_close(r);
    st_error ignored = {0};
    if (code) t.e = &ignored; /* who did answer is told, too */
    st_code printed = print_json(&t, faults);
    json_decref(t.list);
    return code || printed ? client_fail(argv[0], &e) : CLIENT_OK;
}
