/* Ngram: drafts from a table of what followed the last tokens in a text.
 *
 * Belief: Witten and Bell's back-off (The zero-frequency problem, IEEE Trans. Inf. Theory 37(4), 1991) with the weight of the
 * shorter context doubled: a context seen before n tokens of t different kinds gives p_c(v) = (count(v) + 2t p_{c-1}(v)) / (n +
 * 2t). Plain, a table of 95,000 tokens is sure of itself by 0.8 where it is right by 0.5 (bench/drafters-2026-11-24.md). Only the
 * tokens that the table keeps are candidates; the rest of the mass is nobody's.
 *
 * The draft is the likeliest connected tree: the best open child of any node is taken until the budget is spent. No state for a
 * sequence: any table takes over any request at any step. */
#include "speculative/ngram_int.h"

enum { MAX_CANDIDATES = NGRAM_NEXT * SPEC_NGRAM_MAX_ORDER, MAX_CONTEXT = SPEC_NGRAM_MAX_ORDER - 1 };

typedef struct {
    uint32_t n;
    spec_belief at[MAX_CANDIDATES];
} beliefs;

static void add(beliefs *b, uint32_t token, float p) {
    uint32_t i = 0;
    while (i < b->n && b->at[i].token != token) i++;
    if (i == b->n) b->at[b->n++] = (spec_belief){.token = token};
    b->at[i].p += p;
}

/* context[n]: the last tokens, oldest first. */
static void believe(const spec_ngram *g, const uint32_t *context, uint32_t n, beliefs *b) {
    ngram_context c;
    b->n = 0;
    for (uint32_t level = 0; level < g->info.order && level <= n && ngram_find(g, level, context + n - level, &c); level++) {
        float back = 2 * (float)c.distinct, mass = (float)c.total + back;
        for (uint32_t i = 0; i < b->n; i++) b->at[i].p *= back / mass;
        for (uint32_t i = c.first; i < c.end; i++) {
            ngram_entry entry = ngram_entry_at(g, level, i);
            add(b, entry.token, (float)entry.count / mass);
        }
    }
}

/* The last tokens before the child of `node`, oldest first, at the end of out[MAX_CONTEXT]; returns how many. *depth: of `node`.
 */
static uint32_t context_of(const spec_draft *item, uint32_t node, uint32_t *out, uint32_t *depth) {
    uint32_t n = 0;
    *depth = 0;
    for (; node != NOUNS_TREE_ROOT; node = item->tree->parent[node], ++*depth)
        if (n < MAX_CONTEXT) out[MAX_CONTEXT - ++n] = item->tree->token[node];
    for (uint32_t at = spec_draft_end(item); at && n < MAX_CONTEXT; at--) out[MAX_CONTEXT - ++n] = item->tokens[at - 1];
    return n;
}

typedef struct {
    uint32_t parent, token;
    float p, path;
} proposal;

typedef struct {
    uint32_t n;
    proposal at[(NOUNS_MAX_TREE + 1) * SPEC_NGRAM_MAX_WIDTH];
} proposals;

static void propose_children(const spec_ngram *g, const spec_draft *item, uint32_t node, float path, proposals *open) {
    uint32_t context[MAX_CONTEXT], depth, n = context_of(item, node, context, &depth);
    beliefs b;
    believe(g, context + MAX_CONTEXT - n, n, &b);
    b.n = spec_believe(b.at, b.n, &item->sampling, spec_draft_end(item) + depth);
    for (uint32_t i = 0; i < b.n && i < g->width && path * b.at[i].p >= g->floor; i++)
        open->at[open->n++] = (proposal){.parent = node, .token = b.at[i].token, .p = b.at[i].p, .path = path * b.at[i].p};
}

static void grow(const spec_ngram *g, spec_draft *item) {
    proposals open;
    open.n = 0;
    item->tree->n = 0;
    if (!item->budget) return;
    propose_children(g, item, NOUNS_TREE_ROOT, 1, &open);
    while (open.n) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < open.n; i++)
            if (open.at[i].path > open.at[best].path) best = i;
        proposal p = open.at[best];
        open.at[best] = open.at[--open.n];
        uint32_t node = spec_tree_add(item->tree, p.parent, p.token, p.p);
        if (item->tree->n == item->budget || item->tree->n == NOUNS_MAX_TREE) return;
        propose_children(g, item, node, p.path, &open);
    }
}

static void score(const spec_ngram *g, spec_draft *item) {
    uint32_t n = item->n_new < SPEC_MAX_SCORED ? item->n_new : SPEC_MAX_SCORED;
    for (uint32_t at = item->n_tokens - n; at < item->n_tokens; at++) {
        uint32_t n_context = at < MAX_CONTEXT ? at : MAX_CONTEXT;
        beliefs b;
        believe(g, item->tokens + at - n_context, n_context, &b);
        b.n = spec_believe(b.at, b.n, &item->sampling, at);
        item->n_scored += b.n > 0;
        item->n_hits += b.n > 0 && b.at[0].token == item->tokens[at];
    }
}

static st_code draft(spec_drafter *d, spec_draft *items, uint32_t n, st_error *e) {
    const spec_ngram *g = (const spec_ngram *)d;
    (void)e;
    for (uint32_t i = 0; i < n; i++) {
        items[i].n_scored = items[i].n_hits = 0;
        score(g, &items[i]);
        grow(g, &items[i]);
    }
    return ST_OK;
}

static void forget(spec_drafter *d, seq_id seq) { (void)d, (void)seq; } /* nothing is kept */
static void destroy(spec_drafter *d) { (void)d; }                       /* storage and bytes are the caller's */

st_code spec_ngram_init(spec_ngram *g, const void *bytes, size_t size_bytes, const uint8_t *vocabulary_hash, st_error *e) {
    static const spec_drafter_ops ops = {.name = "ngram", .draft = draft, .close = forget, .destroy = destroy};
    st_code code = ngram_open(g, bytes, size_bytes, vocabulary_hash, e);
    if (!code) g->drafter.ops = &ops;
    return code;
}
