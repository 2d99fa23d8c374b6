/* consort check-config: what can be found wrong with a topology before a start, and what each rank would do. */
#include "client/client_int.h"

#include "base/filemap.h"
#include "config/config.h"
#include "model/head.h"
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
    if (!code && *t->chat_template) code = model_chat_template_set(tokenizer, t->chat_template, e);
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
static st_code check_policy(const config_topology *t, st_error *e) {
    const char *names[CONFIG_MAX_DRAFTERS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_groups; i++)
        if (t->groups[i].role == CONFIG_DRAFTER) names[n++] = t->groups[i].name;
    spec_roster roster = spec_roster_of(names, n, *t->corpus);
    spec_route route;
    st_code code = spec_route_parse(&route, t->speculation, &roster, e);
    return code ? st_prefix(e, "speculation") : ST_OK;
}

static st_code check_table(const char *path, const uint8_t *vocabulary_hash, st_error *e) {
    filemap m = {0};
    spec_ngram table;
    st_code code = filemap_open(path, &m, e);
    if (!code && spec_ngram_init(&table, m.bytes, m.size_bytes, vocabulary_hash, e)) code = st_prefix(e, "%s", path);
    filemap_close(&m);
    return code;
}

static st_code check_small_model(const config_group *g, const uint8_t *vocabulary_hash, st_error *e) {
    model_file *f = NULL;
    model_info info;
    uint8_t hash[SPEC_NGRAM_HASH_BYTES];
    st_code code = model_file_open(g->model, &f, e);
    if (!code) code = model_read_info(f, &info, e);
    if (!code) code = model_file_vocabulary_hash(f, hash);
    if (!code && memcmp(hash, vocabulary_hash, sizeof hash))
        code = st_fail(e, ST_ERR_MISMATCH, "%s has another vocabulary than the model of the cluster", g->model);
    model_file_close(f);
    return code;
}

static st_code check_head(const config_group *g, const uint8_t *vocabulary_hash, const model_info *info, st_error *e) {
    model_file *f = NULL;
    model_head h;
    st_code code = model_file_open(g->model, &f, e);
    if (!code) code = model_head_read(f, &h, e);
    if (!code && (memcmp(h.vocabulary_hash, vocabulary_hash, sizeof h.vocabulary_hash) || h.n_vocab != info->n_vocab))
        code = st_fail(e, ST_ERR_MISMATCH, "%s is for another vocabulary than that of the model of the cluster", g->model);
    if (!code && h.dim != info->dim)
        code = st_fail(e, ST_ERR_MISMATCH, "%s is for hidden states of %u numbers, those of the model of the cluster have %u",
                       g->model, h.dim, info->dim);
    model_file_close(f);
    return code;
}

/* What the drafters read. A cluster starts without it too, and is slower: so this is not asked before each start. */
static st_code check_drafters(const config_topology *t, const model_info *info, st_error *e) {
    model_file *f = NULL;
    uint8_t hash[SPEC_NGRAM_HASH_BYTES];
    st_code code = model_file_open(t->model, &f, e);
    if (!code) code = model_file_vocabulary_hash(f, hash);
    model_file_close(f);
    if (!code && *t->corpus && check_table(t->corpus, hash, e)) code = st_prefix(e, "corpus");
    for (uint32_t i = 0; !code && i < t->n_groups; i++) {
        const config_group *g = &t->groups[i];
        if (g->role == CONFIG_DRAFTER && g->table[0] && check_table(g->table, hash, e))
            code = st_prefix(e, "groups[%u]: table", i);
        if (g->role != CONFIG_DRAFTER || g->table[0]) continue;
        bool head = spec_kind_find(g->kind)->wants_hidden;
        if (head ? check_head(g, hash, info, e) : check_small_model(g, hash, e)) code = st_prefix(e, "groups[%u]: model", i);
    }
    return code;
}

static const char *kv_name(const config_topology *t, const config_group *g) {
    kernels_precision precision;
    const kv_type *type = kernels_precision_find(t->precision, &precision) ? kv_type_choose(g->kv_type, precision) : NULL;
    return type ? type->name : g->kv_type;
}

static void print_rank(const config_topology *t, uint32_t rank, uint32_t group, uint32_t group_rank) {
    const config_group *g = &t->groups[group];
    char threads[32] = "its share of the cores";
    if (g->threads) snprintf(threads, sizeof threads, "%u threads", g->threads);
    if (g->role == CONFIG_VERIFIER)
        printf("  rank %u  verifier %s, %u of %u", rank, g->name, group_rank + 1, g->tensor_parallel);
    else
        printf("  rank %u  drafter %s, kind %s, of %s", rank, g->name, g->kind, g->table[0] ? g->table : g->model);
    if (!g->table[0]) printf(": %s", threads);
    bool keeps_kv = !g->table[0] && !(g->role == CONFIG_DRAFTER && spec_kind_find(g->kind)->wants_hidden);
    if (keeps_kv && g->kv_tokens) printf(", %u tokens of KV in %s", g->kv_tokens, kv_name(t, g));
    if (keeps_kv && !g->kv_tokens) printf(", as many tokens of KV in %s as are measured at the start", kv_name(t, g));
    if (g->swap_tokens) printf(", %u on disk in %s", g->swap_tokens, g->swap_directory);
    putchar('\n');
}

static void print_summary(const char *path, const config_topology *t, const model_info *info) {
    uint32_t group, group_rank;
    printf("%s: ok\n", path);
    printf("  model   %s (%s, %u layers, vocabulary %u, context %u), precision %s\n", t->model, info->architecture,
           info->n_layers, info->n_vocab, info->max_context, t->precision);
    printf("  rank 0  coordinator: gRPC on %s, control link on %s%s%s\n", t->listen, t->control_listen,
           *t->corpus ? ", drafts from " : "", t->corpus);
    for (uint32_t rank = 1; config_rank(t, rank, &group, &group_rank); rank++) print_rank(t, rank, group, group_rank);
}

int client_check_config(int argc, char **argv) {
    const char *path = NULL;
    bool ranks = false;
    const client_option options[] = {
        {"FILE", CLIENT_TEXT, &path, NULL, "topology, YAML (docs/configuration.md)", true},
        {"--ranks", CLIENT_FLAG, &ranks, NULL, "print only the number of ranks; does not look at what drafters read", false},
    };
    int rc = client_options(argc, argv, "Checks a topology and its model, and prints what each rank would do.", options,
                            sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    config_topology *t = NULL;
    model_info info;
    st_code code = config_load(path, &t, &e);
    if (!code && (check_policy(t, &e) || check_model(t, &info, &e) || (!ranks && check_drafters(t, &info, &e))))
        code = st_prefix(&e, "%s", path);
    if (code)
        rc = client_fail(argv[0], &e);
    else if (ranks)
        rc = printf("%u\n", config_n_ranks(t)) < 0;
    else
        print_summary(path, t, &info), rc = CLIENT_OK;
    config_destroy(t);
    return rc;
}
