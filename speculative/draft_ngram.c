/* Ngram: drafts from a table of what followed the last tokens in a text.
 *
 * Belief: Witten and Bell's back-off (The zero-frequency problem, IEEE Trans. Inf. Theory 37(4), 1991) with the weight of the
 * shorter context doubled: a context seen before n tokens of t different kinds gives p_c(v) = (count(v) + 2t p_{c-1}(v)) / (n +
 * 2t). Plain, a table of 95,000 tokens is sure of itself by 0.8 where it is right by 0.5 (bench/drafters-2026-11-24.md). Only the
 * tokens that the table keeps are candidates; the rest of the mass is nobody's.
 *
 * At T > 0 the target's choice is the largest of log q(v) / T + gumbel(v), and the noise is known; so the own choice is the
 * largest of log p(v) / T + gumbel(v), and v's probability goes with p(v) e^(T gumbel(v)): p(v) itself as T goes to 0, and the
 * softmax of the noisy beliefs at T = 1. The filters of the request cut the candidates as the target's.
 *
 * The draft is the likeliest connected tree: the best open child of any node is taken until the budget is spent. No state for a
 * sequence: any table takes over any request at any step. */
#include "speculative/ngram_int.h"

#include "base/fmath.h"
#include "base/philox.h"

enum { MAX_CANDIDATES = NGRAM_NEXT * SPEC_NGRAM_MAX_ORDER, MAX_CONTEXT = SPEC_NGRAM_MAX_ORDER - 1 };

typedef struct {
    uint32_t token;
    float p, score; /* score orders the candidates */
} candidate;

typedef struct {
    uint32_t n;
    candidate at[MAX_CANDIDATES];
} beliefs;

static void add(beliefs *b, uint32_t token, float p) {
    uint32_t i = 0;
    while (i < b->n && b->at[i].token != token) i++;
    if (i == b->n) b->at[b->n++] = (candidate){.token = token};
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

/* Descending score, then ascending id. */
static void sort(beliefs *b) {
    for (uint32_t i = 1; i < b->n; i++) {
        candidate c = b->at[i];
        uint32_t at = i;
        for (; at && (b->at[at - 1].score < c.score || (b->at[at - 1].score == c.score && b->at[at - 1].token > c.token)); at--)
            b->at[at] = b->at[at - 1];
        b->at[at] = c;
    }
}

/* The candidates, sorted by p, that top-k, top-p and min-p leave: always a prefix. Typical-p, bias, penalties and min_tokens are
 * not asked: where they are used, that costs some hits, and nothing else. */
static uint32_t n_allowed(const beliefs *b, const sampling *s) {
    uint32_t n = 0;
    float sum = 0;
    while (n < b->n && (!s->top_k || n < s->top_k) && (!n || sum < s->top_p) && b->at[n].p >= s->min_p * b->at[0].p)
        sum += b->at[n++].p;
    return n;
}

/* -log(-log(u)) for the token's word at the position, as the target draws it (design/speculation.md, 1). */
static float gumbel(const sampling *s, uint32_t position, uint32_t token) {
    philox_block words = philox(s->seed, (philox_block){{position, token >> 2, s->sample, 0}});
    float u = ((float)(words.word[token & 3] >> 9) + 0.5f) * 0x1p-23f;
    return -fmath_logf(-fmath_logf(u));
}

/* Puts the own choice for `position` in front, and gives each candidate its probability. */
static void arrange(beliefs *b, const sampling *s, uint32_t position) {
    float rest = 1, sum = 0;
    for (uint32_t i = 0; i < b->n; i++) b->at[i].score = b->at[i].p, rest -= b->at[i].p;
    sort(b);
    if (!(s->temperature > 0) || !b->n) return;
    b->n = n_allowed(b, s);
    for (uint32_t i = 0; i < b->n; i++)
        b->at[i].score = fmath_logf(b->at[i].p) / s->temperature + gumbel(s, position, b->at[i].token);
    sort(b);
    float top = b->at[0].score;
    for (uint32_t i = 0; i < b->n; i++) sum += b->at[i].p = fmath_expf(s->temperature * (b->at[i].score - top));
    if (rest > 0) sum += rest * fmath_expf(-s->temperature * top);
    for (uint32_t i = 0; i < b->n; i++) b->at[i].p /= sum;
}

/* The last tokens before the child of `node`, oldest first, at the end of out[MAX_CONTEXT]; returns how many. *depth: of `node`.
 */
static uint32_t context_of(const spec_draft *item, uint32_t node, uint32_t *out, uint32_t *depth) {
    uint32_t n = 0;
    *depth = 0;
    for (; node != NOUNS_TREE_ROOT; node = item->tree->parent[node], ++*depth)
        if (n < MAX_CONTEXT) out[MAX_CONTEXT - ++n] = item->tree->token[node];
    for (uint32_t at = item->n_tokens; at && n < MAX_CONTEXT; at--) out[MAX_CONTEXT - ++n] = item->tokens[at - 1];
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
    arrange(&b, &item->sampling, item->n_tokens + depth);
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
        arrange(&b, &item->sampling, at);
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
