/* consort check-config: what can be found wrong with a topology before a start, and what each rank would do. */
#include "client/client_int.h"

#include "config/config.h"
#include "model/model.h"
#include "model/text.h"
#include "speculative/speculative.h"
#include <string.h>

/* The model as every rank will open it: readable, of a known family, with a tokenizer, and long enough for the limits. */
static st_code check_model(const config_topology *t, model_info *info, st_error *e) {
    model_file *f = NULL;
    model_tokenizer *tokenizer = NULL;
    st_code code = model_file_open(t->model, &f, e);
    if (!code) code = model_read_info(f, info, e);
    if (!code) code = model_tokenizer_create(f, &tokenizer, e);
    if (!code && t->max_context > info->max_context)
        code = st_fail(e, ST_ERR_INVALID_ARGUMENT, "max_context: %u is over the %u that %s was trained for", t->max_context,
                       info->max_context, t->model);
    for (uint32_t i = 0; !code && i < t->n_groups; i++)
        if (t->groups[i].tensor_parallel > model_max_ranks(info))
            code = st_fail(e, ST_ERR_INVALID_ARGUMENT, "groups[%u]: tensor_parallel: %u is over the %u ranks that can share %s",
                           i, t->groups[i].tensor_parallel, model_max_ranks(info), t->model);
    model_tokenizer_destroy(tokenizer);
    model_file_close(f);
    return code;
}

/* The policy, against the drafters that there will be. */
static st_code check_speculation(const config_topology *t, st_error *e) {
    const char *names[CONFIG_MAX_DRAFTERS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_groups; i++)
        if (t->groups[i].role == CONFIG_DRAFTER) names[n++] = t->groups[i].name;
    spec_roster roster = spec_roster_of(names, n);
    spec_route route;
    st_code code = spec_route_parse(&route, t->speculation, &roster, e);
    return code ? st_prefix(e, "speculation") : ST_OK;
}

static void print_summary(const char *path, const config_topology *t, const model_info *info) {
    static const char *const roles[] = {[CONFIG_VERIFIER] = "verifier", [CONFIG_DRAFTER] = "drafter"};
    uint32_t group, group_rank;
    printf("%s: ok\n", path);
    printf("  model   %s (%s, %u layers, vocabulary %u, context %u)\n", t->model, info->architecture, info->n_layers,
           info->n_vocab, info->max_context);
    printf("  rank 0  coordinator: gRPC on %s, control link on %s\n", t->listen, t->control_listen);
    for (uint32_t rank = 1; config_rank(t, rank, &group, &group_rank); rank++) {
        const config_group *g = &t->groups[group];
        char threads[32] = "its share of the cores";
        if (g->threads) snprintf(threads, sizeof threads, "%u threads", g->threads);
        printf("  rank %u  %s %s, %u of %u: %s, %u tokens of KV in %s\n", rank, roles[g->role], g->name, group_rank + 1,
               g->tensor_parallel, threads, g->kv_tokens, g->kv_type);
    }
}

int client_check_config(int argc, char **argv) {
    const char *path = NULL;
    bool ranks = false;
    const client_option options[] = {
        {"FILE", CLIENT_TEXT, &path, NULL, "topology, YAML (docs/configuration.md)", true},
        {"--ranks", CLIENT_FLAG, &ranks, NULL, "print only the number of ranks", false},
    };
    int rc = client_options(argc, argv, "Checks a topology and its model, and prints what each rank would do.", options,
                            sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    config_topology *t = NULL;
    model_info info;
    st_code code = config_load(path, &t, &e);
    if (!code && (check_speculation(t, &e) || check_model(t, &info, &e))) code = st_prefix(&e, "%s", path);
    if (code)
        rc = client_fail(argv[0], &e);
    else if (ranks)
        rc = printf("%u\n", config_n_ranks(t)) < 0;
    else
        print_summary(path, t, &info), rc = CLIENT_OK;
    config_destroy(t);
    return rc;
}
