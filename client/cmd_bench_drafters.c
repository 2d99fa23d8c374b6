/* consort bench-drafters: replays recorded answers of the target against the pure drafters, without the target.
 *
 * A draft token is accepted if it is what the target chose, and the answer says what it chose: so the steps that a drafter would
 * have saved can be counted from the answer alone. Greedy answers only (the table's own choice at T > 0 needs the seed). */
#include "client/client_int.h"

#include "base/filemap.h"
#include "base/mem.h"
#include "client/replay_route.h"
#include "model/text.h"
#include "speculative/speculative.h"
#include <string.h>

enum { LOOKUP, NGRAM, N_DRAFTERS, MAX_ROUTED = 8 };

/* The tables of --route, and what answers have taught of prompts. */
typedef struct {
    uint32_t n;
    filemap files[MAX_ROUTED];
    spec_ngram tables[MAX_ROUTED];
    spec_drafter *drafters[MAX_ROUTED];
    spec_prior priors[MAX_ROUTED];
} routed;

typedef struct {
    model_tokenizer *tokenizer;
    bool beliefs;
    uint32_t budget, width, min_match;
    double floor;
    spec_lookup_drafter lookup;
    spec_ngram ngram;
    filemap table;
    spec_drafter *drafters[N_DRAFTERS];
    routed *routed; /* NULL: no --route */
} bench;

static void draft_one(spec_drafter *d, const uint32_t *tokens, size_t n, uint32_t budget, spec_tree *tree) {
    st_error e;
    spec_draft item = {.seq = {1}, .tokens = tokens, .n_tokens = (uint32_t)n, .budget = budget, .tree = tree};
    tree->n = 0;
    if (d) INVARIANT(!d->ops->draft(d, &item, 1, &e));
}

typedef struct {
    json_int_t steps, nodes;
} counts;

/* Steps to answer from tokens[0, n_prompt] on (the first token of the answer is the prefill's) with the drafters of `mask`, and
 * the draft nodes that were verified in them. */
static counts replay_with(const bench *b, uint32_t mask, const uint32_t *tokens, size_t n_prompt, size_t n) {
    counts c = {0};
    for (size_t at = n_prompt + 1; at < n; c.steps++) {
        spec_tree trees[N_DRAFTERS], joined;
        for (uint32_t i = 0; i < N_DRAFTERS; i++)
            draft_one(mask >> i & 1 ? b->drafters[i] : NULL, tokens, at, b->budget, &trees[i]);
        spec_fuse(trees, NULL, N_DRAFTERS, b->budget, &joined, NULL);
        token_tree view = spec_tree_view(&joined);
        at += spec_tree_walk(&view, tokens + at, (uint32_t)(n - at), NULL) + 1;
        c.nodes += joined.n;
    }
    return c;
}

/* [[probability, accepted], ...]: what the drafter says of its first choice at each position, and whether it was right. */
static json_t *beliefs_of(spec_drafter *d, const uint32_t *tokens, size_t n_prompt, size_t n) {
    json_t *list = json_array();
    for (size_t at = n_prompt; at < n; at++) {
        spec_tree tree;
        draft_one(d, tokens, at, 1, &tree);
        if (tree.n) json_array_append_new(list, json_pack("[f, b]", (double)tree.probability[0], tree.token[0] == tokens[at]));
    }
    return list;
}

/* [[at, picked, first], ...], a round each; a line with "teach": true teaches the priors that later ones begin with. */
static json_t *route_of(const bench *b, const json_t *line, const uint32_t *tokens, size_t n_prompt, size_t n) {
    routed *t = b->routed;
    replay_route r = {.drafters = t->drafters, .n = t->n, .budget = b->budget};
    replay_round *rounds = mem_alloc(n + 1, sizeof *rounds);
    json_t *list = json_array();
    spec_profile p;
    spec_profile_of(&p, tokens, (uint32_t)n_prompt);
    for (uint32_t i = 0; i < t->n; i++) r.prior[i] = spec_prior_of(&t->priors[i], &p);
    uint32_t n_rounds = rounds ? replay_run(&r, tokens, (uint32_t)n_prompt, (uint32_t)n, rounds) : 0;
    for (uint32_t i = 0; i < n_rounds; i++)
        json_array_append_new(list, json_pack("[i, i, i]", (int)rounds[i].at, (int)rounds[i].picked, (int)rounds[i].first));
    for (uint32_t i = 0; i < t->n && json_is_true(json_object_get(line, "teach")); i++)
        spec_prior_learn(&t->priors[i], &p, &r.hits[i]);
    mem_free(rounds);
    return list;
}

static json_t *report(const bench *b, const json_t *line, const uint32_t *tokens, size_t n_prompt, size_t n) {
    json_t *out =
        json_pack("{s:O?, s:O?, s:I, s:I}", "id", json_object_get(line, "id"), "domain", json_object_get(line, "domain"),
                  "prompt_tokens", (json_int_t)n_prompt, "tokens", (json_int_t)(n - n_prompt));
    static const struct {
        const char *name;
        uint32_t mask;
    } sets[] = {{"lookup", 1 << LOOKUP}, {"ngram", 1 << NGRAM}, {"both", 1 << LOOKUP | 1 << NGRAM}};
    json_t *steps = json_object(), *nodes = json_object();
    for (size_t i = 0; i < (b->table.bytes ? 3 : 1); i++) {
        counts c = replay_with(b, sets[i].mask, tokens, n_prompt, n);
        json_object_set_new(steps, sets[i].name, json_integer(c.steps));
        json_object_set_new(nodes, sets[i].name, json_integer(c.nodes));
    }
    json_object_set_new(out, "steps", steps);
    json_object_set_new(out, "nodes", nodes);
    if (b->routed) json_object_set_new(out, "rounds", route_of(b, line, tokens, n_prompt, n));
    if (b->beliefs)
        for (uint32_t i = 0; i < N_DRAFTERS; i++)
            if (b->drafters[i])
                json_object_set_new(out, b->drafters[i]->ops->name, beliefs_of(b->drafters[i], tokens, n_prompt, n));
    return out;
}

static json_t *replay(void *context, const json_t *line, st_error *e) {
    const bench *b = context;
    const char *prompt = json_string_value(json_object_get(line, "prompt"));
    const json_t *output = json_object_get(line, "output");
    model_ids asked = {0}, answer = {0};
    json_t *out = NULL;
    if (!prompt || !json_is_string(output))
        return (void)st_fail(e, ST_ERR_INVALID_ARGUMENT, "expected the texts 'prompt' and 'output'"), NULL;
    model_message message = {.role = "user", .content = prompt};
    st_code code = model_chat_tokenize(b->tokenizer, &message, 1, INT32_MAX, &asked, e);
    if (!code)
        code = model_tokenize(b->tokenizer, json_string_value(output), json_string_length(output), false, INT32_MAX, &answer, e);
    uint32_t *tokens = code ? NULL : mem_alloc(asked.n + answer.n + 1, sizeof *tokens);
    if (!code && !tokens) (void)st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (tokens) {
        memcpy(tokens, asked.ids, asked.n * sizeof *tokens);
        if (answer.n) memcpy(tokens + asked.n, answer.ids, answer.n * sizeof *tokens);
        out = report(b, line, tokens, asked.n, asked.n + answer.n);
    }
    mem_free(tokens);
    mem_free(answer.ids);
    mem_free(asked.ids);
    return out;
}

static st_code map_table(bench *b, const char *path, const uint8_t *vocabulary_hash, st_error *e) {
    st_code code = filemap_open(path, &b->table, e);
    if (code) return code;
    code = spec_ngram_init(&b->ngram, b->table.bytes, b->table.size_bytes, vocabulary_hash, e);
    if (code) return st_prefix(e, "%s", path);
    b->ngram.width = b->width;
    b->ngram.floor = (float)b->floor;
    b->drafters[NGRAM] = &b->ngram.drafter;
    return ST_OK;
}

static st_code map_routed(routed *t, const char *paths, float floor, const uint8_t *vocabulary_hash, st_error *e) {
    for (const char *at = paths; *at;) {
        char path[1024];
        size_t n = strcspn(at, ",");
        if (n >= sizeof path || t->n == MAX_ROUTED)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--route: expected at most %d files", MAX_ROUTED);
        memcpy(path, at, n);
        path[n] = 0;
        st_code code = filemap_open(path, &t->files[t->n], e);
        spec_ngram *g = &t->tables[t->n];
        if (code) return code;
        code = spec_ngram_init(g, t->files[t->n].bytes, t->files[t->n].size_bytes, vocabulary_hash, e);
        t->drafters[t->n++] = &g->drafter;
        g->floor = floor;
        if (code) return st_prefix(e, "%s", path);
        at += n + (at[n] == ',');
    }
    return ST_OK;
}

static st_code start(bench *b, const char *model, const char *table, const char *route, st_error *e) {
    uint8_t hash[SPEC_NGRAM_HASH_BYTES];
    model_file *f = NULL;
    spec_lookup_options o = SPEC_LOOKUP_OPTIONS;
    if (b->min_match < 1 || b->min_match > o.max_match)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--min-match %u: expected 1 to %u", b->min_match, o.max_match);
    if (b->budget < 1 || b->budget > NOUNS_MAX_TREE)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--budget %u: expected 1 to %d", b->budget, NOUNS_MAX_TREE);
    if (b->width < 1 || b->width > SPEC_NGRAM_MAX_WIDTH)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "--width %u: expected 1 to %d", b->width, SPEC_NGRAM_MAX_WIDTH);
    o.min_match = b->min_match;
    o.floor = (float)b->floor;
    b->drafters[LOOKUP] = spec_lookup_init(&b->lookup, &o);
    st_code code = model_file_open(model, &f, e);
    if (!code) code = model_tokenizer_create(f, &b->tokenizer, e);
    if (!code && model_file_vocabulary_hash(f, hash)) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (!code && table) code = map_table(b, table, hash, e);
    if (!code && route) code = map_routed(b->routed, route, (float)b->floor, hash, e);
    model_file_close(f);
    return code;
}

int client_bench_drafters(int argc, char **argv) {
    const char *model = NULL, *table = NULL, *route = NULL;
    bench b = {.budget = 4, .width = 2, .min_match = SPEC_LOOKUP_OPTIONS.min_match};
    const client_option options[] = {
        {"--model", CLIENT_TEXT, &model, "F", "GGUF file with the target's vocabulary and chat template", true},
        {"--table", CLIENT_TEXT, &table, "T", "n-gram table (consort build-ngram)", false},
        {"--route", CLIENT_TEXT, &route, "T,T,...", "n-gram tables: whom of them hedge asks in each round, too", false},
        {"--budget", CLIENT_U32, &b.budget, "N", "drafted tokens a step (4)", false},
        {"--width", CLIENT_U32, &b.width, "N", "most children of a node of the table's trees, 1 to 4 (2)", false},
        {"--min-match", CLIENT_U32, &b.min_match, "N", "tokens that a lookup must match (1)", false},
        {"--floor", CLIENT_F64, &b.floor, "X", "least belief in a node and all before it, 0 to 1 (0)", false},
        {"--beliefs", CLIENT_FLAG, &b.beliefs, NULL, "also what each drafter believed at each position, and whether it was right",
         false},
    };
    int rc =
        client_options(argc, argv,
                       "Reads greedy answers as JSON lines {\"prompt\", \"output\"} from standard input; for each prints the\n"
                       "verify steps that its tokens take with each drafter, the step of the prompt left out, and the\n"
                       "draft nodes in them.",
                       options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    if (route && !(b.routed = mem_alloc(1, sizeof *b.routed)))
        return client_fail(argv[0], (st_fail(&e, ST_FATAL_MEMORY, "out of memory"), &e));
    rc = start(&b, model, table, route, &e) ? client_fail(argv[0], &e) : client_json_lines(argv[0], stdin, replay, &b);
    model_tokenizer_destroy(b.tokenizer);
    filemap_close(&b.table);
    for (uint32_t i = 0; b.routed && i < b.routed->n; i++) filemap_close(&b.routed->files[i]);
    mem_free(b.routed);
    return rc;
}
