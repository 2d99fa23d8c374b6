/* Draft trees by value, and the table of the kinds that make them. */
#include "speculative/speculative.h"

#include <string.h>

const spec_kind spec_kinds[SPEC_N_KINDS] = {
#define PURE                                               true
#define WORKER                                             false
#define DRAFTER(name, where, wants_hidden, keeps_kv, help) {#name, help, where, wants_hidden, keeps_kv},
#include "speculative/drafters.def"
#undef DRAFTER
};

const spec_kind *spec_kind_find(const char *name) {
    for (uint32_t i = 0; i < SPEC_N_KINDS; i++)
        if (!strcmp(spec_kinds[i].name, name)) return &spec_kinds[i];
    return NULL;
}

uint32_t spec_tree_add(spec_tree *t, uint32_t parent, uint32_t token, float probability) {
    INVARIANT(t->n < NOUNS_MAX_TREE && (parent < t->n || parent == NOUNS_TREE_ROOT));
    t->token[t->n] = token;
    t->parent[t->n] = parent;
    t->probability[t->n] = probability;
    return t->n++;
}

uint32_t spec_tree_child(const token_tree *t, uint32_t parent, uint32_t token) {
    for (uint32_t i = parent == NOUNS_TREE_ROOT ? 0 : parent + 1; i < t->n_nodes; i++)
        if (t->parent[i] == parent && t->token[i] == token) return i;
    return NOUNS_TREE_ROOT;
}

token_tree spec_tree_view(const spec_tree *t) {
    return (token_tree){.n_nodes = t->n, .token = t->token, .parent = t->parent, .probability = t->probability};
}

#define ANY_TOKEN UINT32_MAX /* as n_vocab: tokens are not looked at */

bool spec_tree_below(const spec_tree *t, uint32_t token, spec_tree *out) {
    uint32_t place[NOUNS_MAX_TREE], root = NOUNS_TREE_ROOT;
    out->n = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        place[i] = NOUNS_TREE_ROOT;
        if (t->parent[i] == NOUNS_TREE_ROOT) {
            if (t->token[i] == token) root = i;
        } else if (t->parent[i] == root || place[t->parent[i]] != NOUNS_TREE_ROOT) {
            place[i] =
                spec_tree_add(out, t->parent[i] == root ? NOUNS_TREE_ROOT : place[t->parent[i]], t->token[i], t->probability[i]);
        }
    }
    return root != NOUNS_TREE_ROOT;
}

uint32_t spec_tree_likeliest(const spec_tree *t, uint32_t *token) {
    float path[NOUNS_MAX_TREE];
    bool has_child[NOUNS_MAX_TREE] = {false};
    uint32_t best = NOUNS_TREE_ROOT, n = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        bool first = t->parent[i] == NOUNS_TREE_ROOT;
        path[i] = t->probability[i] * (first ? 1 : path[t->parent[i]]);
        if (!first) has_child[t->parent[i]] = true;
    }
    for (uint32_t i = 0; i < t->n; i++)
        if (!has_child[i] && (best == NOUNS_TREE_ROOT || path[i] > path[best])) best = i;
    for (uint32_t i = best; i != NOUNS_TREE_ROOT; i = t->parent[i]) n++;
    for (uint32_t i = best, k = n; i != NOUNS_TREE_ROOT; i = t->parent[i]) token[--k] = t->token[i];
    return n;
}

/* The first breach of the rules, as words with its node, or NULL. */
static const char *breach(const token_tree *t, uint32_t budget, uint32_t n_vocab, uint32_t *node) {
    *node = t->n_nodes;
    if (t->n_nodes > budget || t->n_nodes > NOUNS_MAX_TREE) return "more nodes than asked for";
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        *node = i;
        if (n_vocab != ANY_TOKEN && t->token[i] >= n_vocab) return "token outside the vocabulary";
        if (t->parent[i] >= i && t->parent[i] != NOUNS_TREE_ROOT) return "parent behind its child";
        if (t->probability && !(t->probability[i] >= 0 && t->probability[i] <= 1)) return "probability outside [0, 1]";
        if (spec_tree_child(t, t->parent[i], t->token[i]) != i) return "the same token twice under one parent";
    }
    return NULL;
}

bool spec_tree_check(const spec_tree *t, uint32_t budget) {
    token_tree view = spec_tree_view(t);
    uint32_t node;
    return !breach(&view, budget, ANY_TOKEN, &node);
}

st_code spec_tree_take(spec_tree *out, const token_tree *from, uint32_t budget, uint32_t n_vocab, st_error *e) {
    uint32_t node;
    out->n = 0;
    const char *wrong = breach(from, budget, n_vocab, &node);
    if (wrong)
        return st_fail(e, ST_ERR_FORMAT, "draft tree of %u nodes, asked for %u, node %u: %s", from->n_nodes, budget, node, wrong);
    for (uint32_t i = 0; i < from->n_nodes; i++)
        spec_tree_add(out, from->parent[i], from->token[i], from->probability ? from->probability[i] : 1);
    return ST_OK;
}

uint32_t spec_tree_walk(const token_tree *t, const uint32_t *tokens, uint32_t n_tokens, uint32_t *path) {
    uint32_t at = NOUNS_TREE_ROOT, n = 0;
    while (n < n_tokens && (at = spec_tree_child(t, at, tokens[n])) != NOUNS_TREE_ROOT) {
        if (path) path[n] = at;
        n++;
    }
    return n;
}
