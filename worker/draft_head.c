/* A recurrent head as drafter (after ReDrafter, arXiv 2403.09919, and EAGLE, arXiv 2401.15077).
 *
 *     z  = [h ; e]                        h: the hidden state that the last token was chosen from; e: that token's row of O
 *     h' = L z + C (silu(A z) * (B z))    a guess at the next hidden state; logits of the next token: O h'
 *
 * O has rows for the commonest tokens only (token_ids, ascending); any other token's e is 0, and it is never proposed. L, A and B
 * take both halves of z, [rows][2 dim].
 *
 * A tree grows by depth, since all its nodes of one depth, and those of all sequences, go through the head together: the nodes
 * that are among the `budget` best so far get children. Candidates of a depth that does not make it are dropped by path
 * probability, so what is left in the end is the best connected tree of its size among those looked at. Not taken: best first,
 * one node at a time; its trees are hardly better, and each node would be a pass of its own.
 *
 * Tentative tokens are steps of the head before its tree: a pass each, beside those of the other sequences. */
#include "worker/draft_head.h"

#include "base/fmath.h"
#include "base/half.h"
#include "base/mem.h"
#include "model/head.h"
#include <math.h>
#include <string.h>

enum {
    MAX_ROWS = 64, /* of a pass */
    MAX_WIDTH = 4, /* children of a node; nodes of a depth that get children */
    TOP = 16,      /* likeliest tokens that are looked at */
};

typedef struct {
    uint32_t parent, token; /* parent: index among the candidates, or NOUNS_TREE_ROOT */
    uint32_t depth, row;    /* row: of the pass that made it */
    float p, path;
    bool kept, expanded;
} candidate;

#define NO_TOKEN UINT32_MAX
enum { MAX_CANDIDATES = MAX_WIDTH * (1 + MAX_WIDTH * NOUNS_MAX_TREE) };

/* One sequence of a call. */
typedef struct {
    spec_draft *draft;
    uint32_t budget, own;    /* one where none is asked for; its own choice behind the committed tokens, or NO_TOKEN */
    bool promises;           /* nothing is promised behind them yet */
    uint32_t n_stepped, row; /* tentative tokens that have had or are in the next pass; row: of the state that it goes on from */
    bool steps;              /* in the next pass */
    uint32_t n, n_at_depth[2]; /* candidates; those of the last depth: first, one past the last */
    candidate *at;             /* [MAX_CANDIDATES] */
} growing;

/* The chain that it would have drafted alone, as long as it went on: what it is scored by. A draft behind tentative tokens leaves
 * alone what was promised behind the committed ones before; where nothing was, its own choice there is promised. */
typedef struct {
    seq_id seq; /* value 0: unused */
    uint32_t from, n, token[NOUNS_MAX_TREE];
} promise;

typedef enum {
    HEAD_H,      /* f32 [rows][dim] */
    HEAD_NEXT,   /* f32 [rows][dim] h' */
    HEAD_E,      /* f32 [rows][dim] */
    HEAD_Z,      /* f32 [rows][2 dim] */
    HEAD_GATE,   /* f32 [rows][ffn] */
    HEAD_UP,     /* f32 [rows][ffn] */
    HEAD_SUM,    /* f64 [rows][dim] */
    HEAD_ACT,    /* int8 groups of what the next product reads */
    HEAD_LOGITS, /* f32 [rows][n_ids] */
    HEAD_N_PLACES
} head_place;

typedef enum { HEAD_LINEAR, HEAD_FFN_GATE, HEAD_FFN_UP, HEAD_FFN_DOWN, HEAD_OUTPUT, HEAD_N_WEIGHTS } head_weight;

typedef struct {
    spec_drafter drafter;
    draft_head_options o;
    uint32_t dim, ffn, n_ids, n_rows; /* n_rows: of the largest pass */
    uint32_t *ids;                    /* [n_ids] ascending */
    kernels_matrix table;             /* O in the file */
    kernels_weight *weight[HEAD_N_WEIGHTS];
    kernels_buffer *memory;
    kernels_view place[HEAD_N_PLACES];
    float *host, *zero;          /* [n_rows][dim] states to upload; [dim] */
    uint32_t row_of_o[MAX_ROWS]; /* of this pass */
    growing items[MAX_ROWS];
    candidate *candidates; /* [MAX_ROWS / MAX_WIDTH][MAX_CANDIDATES] */
    promise *promises;     /* [max_sequences] */
} head;

static head *of(spec_drafter *d) { return (head *)d; }

/* Index of a token's row of O; n_ids: it has none. */
static uint32_t find_id(const head *d, uint32_t token) {
    uint32_t low = 0, high = d->n_ids;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (d->ids[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low < d->n_ids && d->ids[low] == token ? low : d->n_ids;
}

/* ---- the network ---- */

static kernels_view row_of(const head *d, head_place p, uint32_t row, uint32_t cols) {
    kernels_view v = d->place[p];
    v.at_bytes += (size_t)row * cols * sizeof(float);
    return v;
}

static void quantize(head *d, head_place x, uint32_t n, uint32_t cols) {
    if (d->o.precision == KERNELS_FAST) d->o.ops->quantize(d->o.device, d->place[HEAD_ACT], d->place[x], n, cols);
}

static void make_inputs(head *d, const uint32_t *token, uint32_t n) {
    const kernels_ops *ops = d->o.ops;
    for (uint32_t i = 0; i < n; i++) d->row_of_o[i] = find_id(d, token[i]) % d->n_ids;
    ops->embed(d->o.device, d->place[HEAD_E], &d->table, d->row_of_o, n);
    for (uint32_t i = 0; i < n; i++) {
        size_t bytes = d->dim * sizeof(float);
        kernels_view z = row_of(d, HEAD_Z, i, 2 * d->dim), e = z;
        e.at_bytes += bytes;
        ops->copy(d->o.device, z, row_of(d, HEAD_H, i, d->dim), bytes);
        if (find_id(d, token[i]) < d->n_ids)
            ops->copy(d->o.device, e, row_of(d, HEAD_E, i, d->dim), bytes);
        else
            ops->upload(d->o.device, e, d->zero, bytes);
    }
}

/* From n rows of H and their tokens: NEXT and, unless `logits` is NULL, LOGITS. */
static st_code run(head *d, const uint32_t *token, uint32_t n, const float **logits, st_error *e) {
    const kernels_ops *ops = d->o.ops;
    const kernels_view *at = d->place;
    make_inputs(d, token, n);
    quantize(d, HEAD_Z, n, 2 * d->dim);
    const kernels_projection in[] = {{.out = at[HEAD_NEXT], .weight = d->weight[HEAD_LINEAR]},
                                     {.out = at[HEAD_GATE], .weight = d->weight[HEAD_FFN_GATE]},
                                     {.out = at[HEAD_UP], .weight = d->weight[HEAD_FFN_UP]}};
    ops->matmul(d->o.device, in, 3, at[HEAD_Z], at[HEAD_ACT], n);
    ops->glu(d->o.device, at[HEAD_GATE], at[HEAD_GATE], at[HEAD_UP], n, d->ffn, KERNELS_SILU);
    quantize(d, HEAD_GATE, n, d->ffn);
    ops->matmul_units(d->o.device, at[HEAD_SUM], d->weight[HEAD_FFN_DOWN], at[HEAD_GATE], at[HEAD_ACT], n, d->ffn, 1);
    ops->add_reduced(d->o.device, at[HEAD_NEXT], at[HEAD_SUM], n, d->dim);
    if (!logits) return ST_OK;
    quantize(d, HEAD_NEXT, n, d->dim);
    const kernels_projection out = {.out = at[HEAD_LOGITS], .weight = d->weight[HEAD_OUTPUT]};
    ops->matmul(d->o.device, &out, 1, at[HEAD_NEXT], at[HEAD_ACT], n);
    st_code code = ops->wait(d->o.device);
    if (code) return st_fail(e, code, "the device failed in a draft");
    *logits = ops->host(d->o.device, at[HEAD_LOGITS], (size_t)n * d->n_ids * sizeof **logits);
    return ST_OK;
}

/* ---- beliefs ---- */

/* A row of logits is as long as a product over it is dear, so these loops must be vector loops. Compilers make none of one that
 * compares floats, since a comparison may trap: hence the integers. */

typedef union {
    float f;
    uint32_t u;
    int32_t i;
} bits;

/* exp(x) for x <= 0, as fmath_expf but for what is nearly 0 anyway: -80 and less, and NaN, are e^-80. */
static inline float exp_below(float x) {
    bits t = {.f = x}, least = {.f = 80}, y;
    t.i &= INT32_MAX;
    t.i = t.i < least.i ? t.i : least.i;
    x = -t.f;
    t.f = x * FMATH_EXPF_LOG2E + FMATH_EXPF_ROUND;
    float n = t.f - FMATH_EXPF_ROUND, r = x - n * FMATH_EXPF_LN2_HI - n * FMATH_EXPF_LN2_LO;
    float p = ((FMATH_EXPF_P5 * r + FMATH_EXPF_P4) * r + FMATH_EXPF_P3) * r + FMATH_EXPF_P2;
    p = (p * r + FMATH_EXPF_P1) * r + FMATH_EXPF_P0;
    y.f = 1 + r + r * r * p;
    y.u += t.u << 23; /* n stands in the low bits of t */
    return y.f;
}

static float sum_of_exp(const float *x, uint32_t n, float top) {
    enum { LANES = 16 };
    float sum[LANES] = {0}, all = 0;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++) sum[lane] += exp_below(x[i + lane] - top);
    for (; i < n; i++) all += exp_below(x[i] - top);
    for (uint32_t lane = 0; lane < LANES; lane++) all += sum[lane];
    return all;
}

/* Rises with x; NaN is somewhere. */
static inline int32_t order_of(float x) {
    bits t = {.f = x};
    return t.i ^ ((t.i >> 31) & INT32_MAX);
}

static int32_t most_of(const float *x, uint32_t n) {
    int32_t most = INT32_MIN;
    for (uint32_t i = 0; i < n; i++) {
        int32_t order = order_of(x[i]);
        most = order > most ? order : most;
    }
    return most;
}

/* The TOP likeliest, best first, with their logits; ties: the lower id. Those whose logit is not finite are left out. */
static uint32_t likeliest(const head *d, const float *logits, spec_belief b[TOP]) {
    enum { RUN = 64 };
    uint32_t n = 0;
    for (uint32_t from = 0; from < d->n_ids; from += RUN) {
        uint32_t end = from + RUN < d->n_ids ? from + RUN : d->n_ids;
        if (n == TOP && most_of(logits + from, end - from) <= order_of(b[TOP - 1].p)) continue;
        for (uint32_t v = from; v < end; v++) {
            if ((n == TOP && !(logits[v] > b[TOP - 1].p)) || !isfinite(logits[v])) continue;
            uint32_t at = n < TOP ? n++ : n - 1;
            for (; at && logits[v] > b[at - 1].p; at--) b[at] = b[at - 1];
            b[at] = (spec_belief){.token = d->ids[v], .p = logits[v]};
        }
    }
    return n;
}

/* The likeliest tokens at `position`, the own choice first; returns how many. Of all but the TOP likeliest the noise is not
 * asked. */
static uint32_t believe(const head *d, const float *logits, const sampling *s, uint32_t position, spec_belief b[TOP]) {
    uint32_t n = likeliest(d, logits, b);
    if (!n) return 0;
    float top = b[0].p, sum = sum_of_exp(logits, d->n_ids, top);
    for (uint32_t i = 0; i < n; i++) b[i].p = exp_below(b[i].p - top) / sum;
    return spec_believe(b, n, s, position);
}

/* ---- trees ---- */

/* Marks the `budget` best candidates. A child's path is never more probable than its parent's, and comes later, so they are a
 * tree. */
static void keep_best(growing *g) {
    for (uint32_t i = 0; i < g->n; i++) g->at[i].kept = false;
    for (uint32_t k = 0; k < g->budget; k++) {
        uint32_t best = g->n;
        for (uint32_t i = 0; i < g->n; i++)
            if (!g->at[i].kept && (best == g->n || g->at[i].path > g->at[best].path)) best = i;
        if (best == g->n) return;
        g->at[best].kept = true;
    }
}

static void add_children(const head *d, growing *g, uint32_t parent, uint32_t row, const float *logits) {
    const spec_draft *it = g->draft;
    uint32_t depth = parent == NOUNS_TREE_ROOT ? 0 : g->at[parent].depth + 1;
    spec_belief b[TOP];
    float above = parent == NOUNS_TREE_ROOT ? 1 : g->at[parent].path;
    uint32_t n = believe(d, logits, &it->sampling, spec_draft_end(it) + depth, b);
    if (n && parent == NOUNS_TREE_ROOT && !it->n_tentative) g->own = b[0].token;
    for (uint32_t i = 0; i < n && i < MAX_WIDTH; i++) {
        candidate c = {.parent = parent, .token = b[i].token, .depth = depth, .row = row, .p = b[i].p, .path = above * b[i].p};
        if (c.path < d->o.floor) return;
        g->at[g->n++] = c;
    }
}

static void take_tree(growing *g, promise *own) {
    uint32_t node[MAX_CANDIDATES], last = NOUNS_TREE_ROOT;
    spec_tree unasked, *t = g->draft->budget ? g->draft->tree : &unasked;
    t->n = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        const candidate *c = &g->at[i];
        if (!c->kept) continue;
        node[i] = spec_tree_add(t, c->parent == NOUNS_TREE_ROOT ? NOUNS_TREE_ROOT : node[c->parent], c->token, c->p);
        if (c->parent != last || g->draft->n_tentative) continue; /* not the first child of the chain so far */
        own->token[own->n++] = c->token;
        last = i;
    }
    if (!own->n && g->own != NO_TOKEN)
        own->token[own->n++] = g->own; /* under the floor, or not asked for: promised all the same */
}

/* ---- rounds ---- */

/* How much of the new tokens was promised: the first of them always, the next only behind one that was right. */
static void score(const promise *own, spec_draft *it) {
    if (own->seq.value != it->seq.value || own->from + it->n_new != it->n_tokens) return;
    for (uint32_t i = 0; i < own->n && i < it->n_new && i < SPEC_MAX_SCORED; i++) {
        it->n_scored++;
        if (own->token[i] != it->tokens[own->from + i]) return;
        it->n_hits++;
    }
}

static promise *promise_of(head *d, uint64_t seq) {
    for (uint32_t i = 0; i < d->o.max_sequences; i++)
        if (d->promises[i].seq.value == seq) return &d->promises[i];
    return NULL;
}

/* ---- tentative tokens ---- */

static bool wants_logits(const growing *g) { return g->n_stepped == g->draft->n_tentative || (!g->n_stepped && g->promises); }

/* Row `row` took in the token before a tentative one, which the next pass takes in. */
static void step_on(const head *d, growing *g, uint32_t row, const float *logits) {
    const spec_draft *it = g->draft;
    spec_belief b[TOP];
    if (wants_logits(g) && believe(d, logits, &it->sampling, it->n_tokens, b)) g->own = b[0].token;
    g->n_stepped++;
    g->row = row;
    g->steps = true;
}

/* ---- passes ---- */

/* The rows of the next depth: at[r] of sequence `item[r]`; NOUNS_TREE_ROOT at the first. */
typedef struct {
    uint32_t n, item[MAX_ROWS], at[MAX_ROWS], token[MAX_ROWS], from[MAX_ROWS];
} frontier;

static void add_row(frontier *f, uint32_t item, uint32_t at, uint32_t token, uint32_t from) {
    f->item[f->n] = item;
    f->at[f->n] = at;
    f->token[f->n] = token;
    f->from[f->n++] = from;
}

/* Of those of the last depth that are kept and not expanded; g->n: there is none. */
static uint32_t likeliest_leaf(const growing *g) {
    uint32_t best = g->n;
    for (uint32_t k = g->n_at_depth[0]; k < g->n_at_depth[1]; k++) {
        const candidate *c = &g->at[k];
        if (!c->kept || c->expanded || c->depth + 1 >= g->budget) continue;
        if (best == g->n || c->path > g->at[best].path) best = k;
    }
    return best;
}

static void next_depth(head *d, uint32_t n, frontier *f) {
    f->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        growing *g = &d->items[i];
        if (g->steps) add_row(f, i, NOUNS_TREE_ROOT, g->draft->tokens[g->draft->n_tokens + g->n_stepped - 1], g->row);
        g->steps = false;
        keep_best(g);
        for (uint32_t n_rows = 0, best; n_rows < MAX_WIDTH && (best = likeliest_leaf(g)) < g->n; n_rows++) {
            candidate *c = &g->at[best];
            c->expanded = true;
            add_row(f, i, best, c->token, c->row);
        }
        g->n_at_depth[0] = g->n_at_depth[1];
    }
}

static st_code pass(head *d, const frontier *f, st_error *e) {
    const float *logits = NULL;
    bool wanted = false;
    for (uint32_t r = 0; r < f->n; r++) wanted |= wants_logits(&d->items[f->item[r]]);
    st_code code = run(d, f->token, f->n, wanted ? &logits : NULL, e);
    for (uint32_t r = 0; r < f->n && !code; r++) {
        growing *g = &d->items[f->item[r]];
        const float *own = wanted ? logits + (size_t)r * d->n_ids : NULL;
        if (g->n_stepped < g->draft->n_tentative)
            step_on(d, g, r, own);
        else
            add_children(d, g, f->at[r], r, own);
        g->n_at_depth[1] = g->n;
    }
    return code;
}

/* The trees of n sequences, which one pass can take at each depth. */
static st_code grow(head *d, uint32_t n, st_error *e) {
    frontier f = {.n = 0};
    for (uint32_t i = 0; i < n; i++) {
        const spec_draft *it = d->items[i].draft;
        for (uint32_t k = 0; k < d->dim; k++) d->host[(size_t)i * d->dim + k] = half_to_float(it->hidden.f16[k]);
        add_row(&f, i, NOUNS_TREE_ROOT, it->tokens[it->n_tokens - 1], i);
    }
    d->o.ops->upload(d->o.device, d->place[HEAD_H], d->host, (size_t)n * d->dim * sizeof *d->host);
    for (;;) {
        st_code code = pass(d, &f, e);
        if (code) return code;
        next_depth(d, n, &f);
        if (!f.n || spec_drafter_stops(&d->drafter)) return ST_OK;
        d->o.ops->gather(d->o.device, d->place[HEAD_H], d->place[HEAD_NEXT], f.from, f.n, d->dim);
        code = d->o.ops->wait(d->o.device); /* it reads f.from */
        if (code) return st_fail(e, code, "the device failed in a draft");
    }
}

static st_code draft(spec_drafter *base, spec_draft *items, uint32_t n, st_error *e) {
    head *d = of(base);
    st_code code = ST_OK;
    uint32_t most = d->n_rows / MAX_WIDTH;
    for (uint32_t i = 0; !code && i < n;) {
        uint32_t n_growing = 0;
        for (; i < n && n_growing < most; i++) {
            spec_draft *it = &items[i];
            promise *own = promise_of(d, it->seq.value);
            it->tree->n = it->n_scored = it->n_hits = 0;
            if (own) score(own, it);
            bool stands = own && it->n_tentative && own->from == it->n_tokens;
            if (own && !stands) own->seq.value = 0;
            if (!it->hidden.f16) continue;
            d->items[n_growing] = (growing){.draft = it,
                                            .budget = it->budget ? it->budget : 1,
                                            .own = NO_TOKEN,
                                            .promises = !stands,
                                            .at = d->candidates + (size_t)n_growing * MAX_CANDIDATES};
            n_growing++;
        }
        if (n_growing) code = grow(d, n_growing, e);
        for (uint32_t k = 0; !code && k < n_growing; k++) {
            promise unused = {0}, *own = d->items[k].promises ? promise_of(d, 0) : NULL;
            if (!own) own = &unused;
            *own = (promise){.seq = d->items[k].draft->seq, .from = d->items[k].draft->n_tokens};
            take_tree(&d->items[k], own);
        }
    }
    return code;
}

static void close_sequence(spec_drafter *base, seq_id seq) {
    promise *own = seq.value ? promise_of(of(base), seq.value) : NULL;
    if (own) own->seq.value = 0;
}

static void destroy(spec_drafter *base) {
    head *d = of(base);
    if (!d) return;
    for (int i = 0; i < HEAD_N_WEIGHTS; i++)
        if (d->weight[i]) d->o.ops->weight_free(d->o.device, d->weight[i]);
    if (d->memory) d->o.ops->free(d->o.device, d->memory);
    mem_free(d->ids);
    mem_free(d->host);
    mem_free(d->zero);
    mem_free(d->candidates);
    mem_free(d->promises);
    mem_free(d);
}

/* ---- loading ---- */

static st_code take_info(head *d, draft_head_info *info, st_error *e) {
    model_head h;
    st_code code = model_head_read(d->o.file, &h, e);
    if (code) return code;
    d->dim = h.dim;
    d->ffn = h.ffn_dim;
    d->n_ids = h.n_ids;
    *info = (draft_head_info){.dim = h.dim, .n_vocab = h.n_vocab};
    memcpy(info->vocabulary_hash, h.vocabulary_hash, sizeof info->vocabulary_hash);
    d->ids = mem_alloc(h.n_ids, sizeof *d->ids);
    if (!d->ids) return st_fail(e, ST_FATAL_MEMORY, "no memory for %u token ids", h.n_ids);
    memcpy(d->ids, h.ids, h.n_ids * sizeof *d->ids);
    return ST_OK;
}

static st_code pack(head *d, head_weight k, const char *name, uint32_t rows, uint32_t cols, st_error *e) {
    const model_tensor *t = model_file_tensor(d->o.file, name);
    if (!t) return st_fail(e, ST_ERR_NOT_FOUND, "%s: there is no tensor %s", model_file_path(d->o.file), name);
    if (t->n_dims != 2 || t->dims[0] != cols || t->dims[1] != rows)
        return st_fail(e, ST_ERR_FORMAT, "%s: %s: %llu rows of %llu, expected %u of %u", model_file_path(d->o.file), name,
                       (unsigned long long)t->dims[1], (unsigned long long)t->dims[0], rows, cols);
    kernels_matrix m = {(kernels_format)t->format, rows, cols, t->bytes};
    if (k == HEAD_OUTPUT) d->table = m;
    st_code code = d->o.ops->weight_create(d->o.device, &m, 0, rows, 0, cols, d->o.precision, &d->weight[k]);
    return code ? st_fail(e, code, "%s: %s: cannot be packed: %s", model_file_path(d->o.file), name, st_text(code)) : ST_OK;
}

static st_code pack_all(head *d, st_error *e) {
    uint32_t dim = d->dim, ffn = d->ffn;
    st_code code = pack(d, HEAD_LINEAR, "linear.weight", dim, 2 * dim, e);
    if (!code) code = pack(d, HEAD_FFN_GATE, "ffn_gate.weight", ffn, 2 * dim, e);
    if (!code) code = pack(d, HEAD_FFN_UP, "ffn_up.weight", ffn, 2 * dim, e);
    if (!code) code = pack(d, HEAD_FFN_DOWN, "ffn_down.weight", dim, ffn, e);
    if (!code) code = pack(d, HEAD_OUTPUT, "output.weight", d->n_ids, dim, e);
    return code;
}

static st_code make_memory(head *d, st_error *e) {
    uint32_t n = d->n_rows, widest = 2 * d->dim > d->ffn ? 2 * d->dim : d->ffn;
    const size_t bytes[HEAD_N_PLACES] = {
        [HEAD_H] = (size_t)n * d->dim * sizeof(float),       [HEAD_NEXT] = (size_t)n * d->dim * sizeof(float),
        [HEAD_E] = (size_t)n * d->dim * sizeof(float),       [HEAD_Z] = (size_t)n * 2 * d->dim * sizeof(float),
        [HEAD_GATE] = (size_t)n * d->ffn * sizeof(float),    [HEAD_UP] = (size_t)n * d->ffn * sizeof(float),
        [HEAD_SUM] = (size_t)n * d->dim * sizeof(double),    [HEAD_ACT] = d->o.ops->act_bytes(n, widest),
        [HEAD_LOGITS] = (size_t)n * d->n_ids * sizeof(float)};
    size_t total = 0;
    for (int i = 0; i < HEAD_N_PLACES; i++) {
        d->place[i].at_bytes = total;
        total += (bytes[i] + 63) / 64 * 64;
    }
    st_code code = d->o.ops->alloc(d->o.device, total, &d->memory);
    for (int i = 0; i < HEAD_N_PLACES; i++) d->place[i].buffer = d->memory;
    d->host = mem_alloc((size_t)n * d->dim, sizeof *d->host);
    d->zero = mem_alloc(d->dim, sizeof *d->zero);
    d->candidates = mem_alloc((size_t)n / MAX_WIDTH * MAX_CANDIDATES, sizeof *d->candidates);
    d->promises = mem_alloc(d->o.max_sequences, sizeof *d->promises);
    if (code || !d->host || !d->zero || !d->candidates || !d->promises)
        return st_fail(e, ST_FATAL_MEMORY, "no memory for drafts of %u rows (%zu bytes)", n, total);
    return ST_OK;
}

st_code draft_head_create(const draft_head_options *o, draft_head_info *info, spec_drafter **out, st_error *e) {
    static const spec_drafter_ops ops = {
        .name = "head", .wants_hidden = true, .draft = draft, .close = close_sequence, .destroy = destroy};
    head *d = mem_alloc(1, sizeof *d);
    if (!d) return st_fail(e, ST_FATAL_MEMORY, "no memory for a head");
    *d = (head){.drafter.ops = &ops, .o = *o, .n_rows = MAX_ROWS};
    st_code code = take_info(d, info, e);
    if (!code) code = pack_all(d, e);
    if (!code) code = make_memory(d, e);
    if (code) {
        destroy(&d->drafter);
        return code;
    }
    for (int i = 0; i < HEAD_N_WEIGHTS; i++) info->weight_bytes += o->ops->weight_bytes(d->weight[i]);
    *out = &d->drafter;
    return ST_OK;
}
