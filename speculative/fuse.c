/* Fusion by merging: the trees of several drafters become one within a budget (design/speculation.md, 4).
 *
 * All nodes go into one trie of at most SPEC_MAX_DRAFTERS * NOUNS_MAX_TREE nodes; each keeps the product of (1 - w_i p_i) of
 * those who proposed it, its proposers' mask, and its place among its siblings. Then nodes are taken by descending path
 * probability. As p <= 1 a child never ranks above its parent, so only the children of taken nodes have to be looked at, and the
 * result is the best connected tree of its size. Road not taken: fixed shares of the budget for each drafter; joining different
 * kinds pays only if each one's confidence is judged where it stands. Limits: the trie, 64 KiB, lies on the stack. */
#include "speculative/speculative.h"

enum { MAX_TRIE = SPEC_MAX_DRAFTERS * NOUNS_MAX_TREE, NONE = UINT16_MAX };

typedef struct {
    uint32_t token, from;
    float miss;                             /* product of (1 - w p) over `from` */
    float path;                             /* path probability, set when the parent is taken */
    uint16_t first_child, last_child, next; /* siblings in the order of their coming */
} trie_node;

typedef struct {
    uint32_t n;
    trie_node node[MAX_TRIE + 1]; /* node 0: the last committed token */
} trie;

static uint16_t child_of(trie *t, uint16_t parent, uint32_t token) {
    uint16_t at = t->node[parent].first_child;
    while (at != NONE && t->node[at].token != token) at = t->node[at].next;
    if (at != NONE) return at;
    at = (uint16_t)t->n++;
    t->node[at] = (trie_node){.token = token, .miss = 1, .first_child = NONE, .last_child = NONE, .next = NONE};
    if (t->node[parent].first_child == NONE)
        t->node[parent].first_child = at;
    else
        t->node[t->node[parent].last_child].next = at;
    t->node[parent].last_child = at;
    return at;
}

static void join(trie *t, const spec_tree *tree, float weight, uint32_t drafter) {
    uint16_t place[NOUNS_MAX_TREE];
    for (uint32_t i = 0; i < tree->n; i++) {
        uint16_t at = child_of(t, tree->parent[i] == NOUNS_TREE_ROOT ? 0 : place[tree->parent[i]], tree->token[i]);
        t->node[at].miss *= 1 - weight * tree->probability[i];
        if (tree->probability[i] > 0) t->node[at].from |= UINT32_C(1) << drafter;
        place[i] = at;
    }
}

typedef struct {
    uint32_t n;
    struct {
        uint16_t at;     /* node of the trie */
        uint32_t parent; /* node of the result */
    } open[MAX_TRIE];    /* children of taken nodes */
} frontier;

static void open_children(trie *t, frontier *f, uint16_t of, uint32_t parent) {
    for (uint16_t c = t->node[of].first_child; c != NONE; c = t->node[c].next) {
        t->node[c].path = t->node[of].path * (1 - t->node[c].miss);
        if (!(t->node[c].path > 0)) continue;
        f->open[f->n].at = c;
        f->open[f->n++].parent = parent;
    }
}

/* Nodes of the trie are numbered in the order of their coming: the lower number is the earlier tree, the earlier node. */
static uint32_t best_of(const trie *t, const frontier *f) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < f->n; i++) {
        uint16_t a = f->open[i].at, b = f->open[best].at;
        if (t->node[a].path > t->node[b].path || (!(t->node[a].path < t->node[b].path) && a < b)) best = i;
    }
    return best;
}

void spec_fuse(const spec_tree *trees, const float *weights, uint32_t n, uint32_t budget, spec_tree *out,
               uint32_t from[NOUNS_MAX_TREE]) {
    trie t;
    frontier f;
    INVARIANT(n <= SPEC_MAX_DRAFTERS);
    t.n = 1;
    f.n = 0;
    t.node[0] = (trie_node){.path = 1, .first_child = NONE, .last_child = NONE, .next = NONE};
    for (uint32_t i = 0; i < n; i++) join(&t, &trees[i], weights ? weights[i] : 1, i);
    out->n = 0;
    open_children(&t, &f, 0, NOUNS_TREE_ROOT);
    while (f.n && out->n < budget && out->n < NOUNS_MAX_TREE) {
        uint32_t best = best_of(&t, &f);
        uint16_t at = f.open[best].at;
        uint32_t node = spec_tree_add(out, f.open[best].parent, t.node[at].token, 1 - t.node[at].miss);
        if (from) from[node] = t.node[at].from;
        f.open[best] = f.open[--f.n];
        open_children(&t, &f, at, node);
    }
}
