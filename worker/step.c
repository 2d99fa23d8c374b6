/* A step: plan -> batch of rows -> forward pass -> choices -> result.
 *
 * Rows of one work item, with n_kv tokens in the cache, a prefix of p and a tree of t nodes (node 0 is the last prefix token, the
 * root):
 *
 *     row        0 .. p-1                 p .. p+t-1
 *     token      known tokens n_kv ..     the tree's
 *     slot       n_kv + row               base + 1 + node       base = n_kv + p - 1, the root's slot
 *     position   slot                     depth below the root, counted from base
 *
 * After the choice, the accepted nodes (indices ascending, index >= depth) move to the slots base+1, base+2, ... in place and in
 * order, so the cache holds the tokens as if they had come one by one. All ranks of a group do this from the same plan and the
 * same choices.
 *
 * An early result is made by the same choices along the same tree, of rows in which only some logits are there: those of the
 * commonest tokens, and of the runs of the vocabulary in which other tokens of the sequences and trees lie. So it is the result
 * where each choice is one of these, but for filters that sum over all tokens. Why not by an order of tokens that was counted in
 * texts: with a text's own rare tokens the first ids hold 0.982 of the tokens of answers, the commonest as many 0.990 (without,
 * 0.894 and 0.910; bench/early-2026-11-30.md), and that is not worth a table for each model.
 *
 * Sequences are found by a scan over at most max_sequences ids: 256 compares are nothing beside a forward pass. */
#include "worker/step.h"

#include "base/arena.h"
#include "base/half.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

enum {
    DECISION_WORDS = 4, /* of an item without tokens */
    WANTED_PART = 4,    /* of the first logits, so many more are wanted at most: 4 % of the head, which is computed again */
};

typedef struct {
    seq_id id; /* value 0: unused */
    sampling sampling;
    uint32_t min_tokens, n_ends, n_bias; /* token_rules; the next three are their arrays */
    uint32_t *ends;                      /* [PROTO_MAX_ENDS] */
    uint32_t *bias_token;                /* [PROTO_MAX_BIAS] */
    float *bias;                         /* [PROTO_MAX_BIAS] */
    uint32_t logprobs;                   /* as in token_rules, and the next */
    bool hidden;
    uint32_t n_prompt; /* where the answer begins */
    uint32_t n_tokens, n_kv, n_blocks;
    uint64_t *runs;   /* mask of those that its tokens lie in, the first tokens aside */
    uint32_t *tokens; /* [max_context]; behind n_tokens, while the leader decides, the path that it has chosen */
    uint32_t *blocks; /* [max_blocks] store indices */
    bool bad;
} sequence;

/* What the rows of one work item are. */
typedef struct {
    sequence *seq;
    uint32_t n_prefix, base; /* slot of the root */
    uint32_t first_row, n_rows;
    uint32_t first_choice; /* index into the batch's choices; the root's */
    bool chooses;
} span;

struct step {
    step_options o;
    arena memory;
    uint32_t max_blocks, n_open;
    uint32_t n_moved;         /* in this step_apply */
    sequence *sequences;      /* [max_sequences] */
    span *spans;              /* [PROTO_MAX_PLAN_SEQUENCES] of the last plan */
    uint32_t n_spans, n_rows; /* work items of the last plan whose decisions are not applied; its rows */
    uint64_t plan_id;
    const uint32_t **tables;                                     /* [PROTO_MAX_PLAN_SEQUENCES] */
    uint32_t *token, *position, *slot, *parent, *owner, *choose; /* [max_rows] */
    proto_item *items;                                           /* [PROTO_MAX_PLAN_SEQUENCES] */
    uint32_t *words, n_words;                                    /* [max_words] the leader's decisions */
    uint64_t *work;                                              /* [n_vocab] for the filters */
    float *adjusted;                                             /* [n_vocab] a row of logits */
    uint32_t *count;                                             /* [n_vocab] 0 between choices */
    float *own_log;                                              /* [max_rows] by choice, as the next two */
    uint32_t *top;                                               /* [max_rows][PROTO_MAX_TOP_LOGPROBS]; each span packs its own */
    float *top_log;                                              /* likewise */
    uint16_t *hidden;                                            /* [max_rows][dim] f16, as top */
    bool decided;                                                /* the words to apply are our own */
    bool guesses;                                                /* in the midst of a run: by the first logits */
    uint32_t n_first;                                            /* model_first_tokens */
    float *first;                                                /* [n_vocab] a row of first logits */
    uint64_t *noted;                                             /* mask of runs, of which are wanted (model_batch) ... */
    uint32_t *wanted, n_wanted;                                  /* ... these; [MODEL_RUNS(n_vocab)] */
    uint64_t *allowed;                                           /* [MODEL_MASK_WORDS(n_vocab)] */
};

static uint32_t blocks_for_context(const step_options *o) { return kv_blocks_for((uint64_t)o->max_context + NOUNS_MAX_TREE); }

uint32_t step_max_words(const step_options *o) { return DECISION_WORDS * PROTO_MAX_PLAN_SEQUENCES + 2 * o->max_rows; }

static size_t memory_bytes(const step_options *o, uint32_t n_vocab, uint32_t dim) {
    size_t padding = 64;
    size_t words = (size_t)o->max_context + blocks_for_context(o) + PROTO_MAX_ENDS + 2 * PROTO_MAX_BIAS;
    size_t runs = MODEL_MASK_WORDS(MODEL_RUNS(n_vocab)) * sizeof(uint64_t);
    size_t sequences = o->max_sequences * (sizeof(sequence) + words * sizeof(uint32_t) + runs + 6 * padding);
    size_t choice = (size_t)n_vocab * (sizeof(uint64_t) + 2 * sizeof(float) + sizeof(uint32_t)) +
                    MODEL_MASK_WORDS(n_vocab) * sizeof(uint64_t) + runs + MODEL_RUNS(n_vocab) * sizeof(uint32_t);
    size_t plan = PROTO_MAX_PLAN_SEQUENCES * (sizeof(span) + sizeof(uint32_t *) + sizeof(proto_item));
    size_t logs = (size_t)o->max_rows * ((1 + 2 * PROTO_MAX_TOP_LOGPROBS) * sizeof(float) + dim * sizeof(uint16_t));
    return sequences + plan + choice + logs + ((size_t)o->max_rows * 6 + step_max_words(o)) * sizeof(uint32_t) + 26 * padding;
}

st_code step_create(const step_options *o, step **out) {
    step *s = mem_alloc(1, sizeof *s);
    if (!s) return ST_FATAL_MEMORY;
    uint32_t n_vocab = model_get_info(o->model)->n_vocab, dim = model_get_info(o->model)->dim;
    s->o = *o;
    s->max_blocks = blocks_for_context(o);
    if (arena_init(&s->memory, memory_bytes(o, n_vocab, dim)) != ST_OK) {
        step_destroy(s);
        return ST_FATAL_MEMORY;
    }
    arena *a = &s->memory;
    s->sequences = arena_alloc(a, o->max_sequences, sizeof *s->sequences);
    for (uint32_t i = 0; i < o->max_sequences; i++) {
        s->sequences[i].tokens = arena_alloc(a, o->max_context, sizeof(uint32_t));
        s->sequences[i].runs = arena_alloc(a, MODEL_MASK_WORDS(MODEL_RUNS(n_vocab)), sizeof(uint64_t));
        s->sequences[i].blocks = arena_alloc(a, s->max_blocks, sizeof(uint32_t));
        s->sequences[i].ends = arena_alloc(a, PROTO_MAX_ENDS, sizeof(uint32_t));
        s->sequences[i].bias_token = arena_alloc(a, PROTO_MAX_BIAS, sizeof(uint32_t));
        s->sequences[i].bias = arena_alloc(a, PROTO_MAX_BIAS, sizeof(float));
    }
    s->spans = arena_alloc(a, PROTO_MAX_PLAN_SEQUENCES, sizeof *s->spans);
    s->tables = arena_alloc(a, PROTO_MAX_PLAN_SEQUENCES, sizeof *s->tables);
    s->items = arena_alloc(a, PROTO_MAX_PLAN_SEQUENCES, sizeof *s->items);
    uint32_t **rows[] = {&s->token, &s->position, &s->slot, &s->parent, &s->owner, &s->choose};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = arena_alloc(a, o->max_rows, sizeof(uint32_t));
    s->words = arena_alloc(a, step_max_words(o), sizeof *s->words);
    s->work = arena_alloc(a, n_vocab, sizeof *s->work);
    s->adjusted = arena_alloc(a, n_vocab, sizeof *s->adjusted);
    s->count = arena_alloc(a, n_vocab, sizeof *s->count);
    s->own_log = arena_alloc(a, o->max_rows, sizeof *s->own_log);
    s->top = arena_alloc(a, (size_t)o->max_rows * PROTO_MAX_TOP_LOGPROBS, sizeof *s->top);
    s->top_log = arena_alloc(a, (size_t)o->max_rows * PROTO_MAX_TOP_LOGPROBS, sizeof *s->top_log);
    s->hidden = arena_alloc(a, (size_t)o->max_rows * dim, sizeof *s->hidden);
    s->allowed = arena_alloc(a, MODEL_MASK_WORDS(n_vocab), sizeof *s->allowed);
    s->first = arena_alloc(a, n_vocab, sizeof *s->first);
    s->noted = arena_alloc(a, MODEL_MASK_WORDS(MODEL_RUNS(n_vocab)), sizeof *s->noted);
    s->wanted = arena_alloc(a, MODEL_RUNS(n_vocab), sizeof *s->wanted);
    INVARIANT(s->allowed && s->first && s->noted && s->wanted);
    s->n_first = model_first_tokens(o->model);
    for (uint32_t v = 0; v < n_vocab; v++) s->first[v] = -INFINITY;
    *out = s;
    return ST_OK;
}

void step_destroy(step *s) {
    if (!s) return;
    arena_deinit(&s->memory);
    mem_free(s);
}

uint32_t step_open_sequences(const step *s) { return s->n_open; }

static sequence *find(step *s, uint64_t id) {
    for (uint32_t i = 0; i < s->o.max_sequences; i++)
        if (s->sequences[i].id.value == id) return &s->sequences[i];
    return NULL;
}

/* Runs that the tokens lie in: what a text has had of rare tokens is what it will mostly have. */
static void note_runs(const step *s, uint64_t *runs, const uint32_t *tokens, uint32_t n) {
    for (uint32_t i = 0; s->n_first > 0 && i < n; i++)
        if (tokens[i] >= s->n_first) runs[tokens[i] / MODEL_VOCAB_ROWS / 64] |= UINT64_C(1) << tokens[i] / MODEL_VOCAB_ROWS % 64;
}

static st_code close_all(step *s, const proto_plan *p, st_error *e) {
    for (uint32_t i = 0; i < p->n_close; i++) {
        sequence *q = p->close[i].value ? find(s, p->close[i].value) : NULL;
        if (!q)
            return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu closes sequence %llu, which is not open", (unsigned long long)p->id,
                           (unsigned long long)p->close[i].value);
        q->id.value = 0;
        s->n_open--;
    }
    return ST_OK;
}

static st_code check_ids(unsigned long long seq, const char *what, const uint32_t *ids, uint32_t n, uint32_t n_vocab,
                         st_error *e) {
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] >= n_vocab)
            return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %s %u is outside the vocabulary of %u", seq, what, ids[i],
                           n_vocab);
    return ST_OK;
}

static st_code check_open(const step *s, const proto_open *o, st_error *e) {
    unsigned long long id = o->seq.value;
    uint32_t n_vocab = model_get_info(s->o.model)->n_vocab;
    const token_rules *r = &o->rules;
    if (!o->n_tokens || o->n_tokens > s->o.max_context)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %u tokens, expected 1 .. %u", id, o->n_tokens, s->o.max_context);
    if (r->logprobs > 1 + PROTO_MAX_TOP_LOGPROBS || r->logprobs > 1 + n_vocab)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %u likeliest tokens, expected at most %d of %u", id, r->logprobs - 1,
                       PROTO_MAX_TOP_LOGPROBS, n_vocab);
    if (o->n_answered >= o->n_tokens || r->n_ends > PROTO_MAX_ENDS || r->n_bias > PROTO_MAX_BIAS)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %u tokens of an answer among %u, %u end tokens, %u biases", id,
                       o->n_answered, o->n_tokens, r->n_ends, r->n_bias);
    st_code code = check_ids(id, "token", o->tokens, o->n_tokens, n_vocab, e);
    if (!code) code = check_ids(id, "end token", r->ends, r->n_ends, n_vocab, e);
    if (!code) code = check_ids(id, "bias of token", r->bias_token, r->n_bias, n_vocab, e);
    return code;
}

static void take_rules(sequence *q, const token_rules *r) {
    q->min_tokens = r->min_tokens;
    q->logprobs = r->logprobs;
    q->hidden = r->hidden;
    q->n_ends = r->n_ends;
    q->n_bias = r->n_bias;
    if (r->n_ends) memcpy(q->ends, r->ends, r->n_ends * sizeof *q->ends);
    if (!r->n_bias) return;
    memcpy(q->bias_token, r->bias_token, r->n_bias * sizeof *q->bias_token);
    memcpy(q->bias, r->bias, r->n_bias * sizeof *q->bias);
}

static st_code open_all(step *s, const proto_plan *p, st_error *e) {
    for (uint32_t i = 0; i < p->n_open; i++) {
        const proto_open *o = &p->open[i];
        unsigned long long id = o->seq.value;
        if (!id || find(s, id))
            return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu opens sequence %llu, which is %s", (unsigned long long)p->id, id,
                           id ? "open already" : "no id");
        st_code code = check_open(s, o, e);
        if (code) return code;
        sequence *q = find(s, 0);
        if (!q) return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu is one too many: this rank holds %u", id, s->o.max_sequences);
        q->id = o->seq;
        q->sampling = o->sampling;
        take_rules(q, &o->rules);
        q->n_prompt = o->n_tokens - o->n_answered;
        q->n_tokens = o->n_tokens;
        q->n_kv = q->n_blocks = 0;
        q->bad = false;
        memcpy(q->tokens, o->tokens, o->n_tokens * sizeof *q->tokens);
        memset(q->runs, 0, MODEL_MASK_WORDS(MODEL_RUNS(model_get_info(s->o.model)->n_vocab)) * sizeof *q->runs);
        note_runs(s, q->runs, q->tokens, q->n_tokens);
        s->n_open++;
    }
    return ST_OK;
}

/* Checks one work item against its sequence and adds its new blocks to the block table. */
static st_code accept_work(step *s, const proto_work *w, sequence *q, st_error *e) {
    unsigned long long id = w->seq.value;
    bool joins = w->start > q->n_kv && w->start % NOUNS_BLOCK_TOKENS == 0 && q->n_kv == q->n_blocks * NOUNS_BLOCK_TOKENS;
    if (w->start != q->n_kv && (!joins || w->start >= q->n_tokens))
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: work starts at %u, but %u tokens are in the cache", id, w->start,
                       q->n_kv);
    if (!w->n_prefix || w->n_prefix > q->n_tokens - w->start)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: a prefix of %u, expected 1 .. %u", id, w->n_prefix,
                       q->n_tokens - w->start);
    if (w->tree.n_nodes > NOUNS_MAX_TREE || (w->tree.n_nodes && w->start + w->n_prefix != q->n_tokens))
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: a tree of %u nodes, expected at most %u, under the last token", id,
                       w->tree.n_nodes, NOUNS_MAX_TREE);
    if (w->n_blocks > s->max_blocks - q->n_blocks)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %u blocks more than the context of %u tokens needs", id, w->n_blocks,
                       s->o.max_context);
    st_code code = kv_store_accept(s->o.kv, w->blocks, w->n_blocks, e);
    if (code) return code;
    for (uint32_t i = 0; i < w->n_blocks; i++) q->blocks[q->n_blocks++] = w->blocks[i].index;
    uint64_t slots = (uint64_t)w->start + w->n_prefix + w->tree.n_nodes;
    if (kv_blocks_for(slots) > q->n_blocks)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: %llu tokens in %u blocks", id, (unsigned long long)slots,
                       q->n_blocks);
    return ST_OK;
}

/* Appends the rows of one work item (drawing at the head of this file). */
static void add_rows(step *s, const proto_work *w, uint32_t item, model_batch *b) {
    span *sp = &s->spans[item];
    const sequence *q = sp->seq;
    uint32_t root = b->n_rows + w->n_prefix - 1, base = w->start + w->n_prefix - 1;
    sp->n_prefix = w->n_prefix;
    sp->base = base;
    sp->first_row = b->n_rows;
    sp->n_rows = w->n_prefix + w->tree.n_nodes;
    sp->chooses = w->start + w->n_prefix == q->n_tokens;
    sp->first_choice = b->n_choose;
    for (uint32_t i = 0; i < sp->n_rows; i++) {
        uint32_t r = b->n_rows++;
        s->owner[r] = item;
        if (i < w->n_prefix) {
            s->token[r] = q->tokens[w->start + i];
            s->slot[r] = s->position[r] = w->start + i;
            s->parent[r] = i ? r - 1 : MODEL_NO_PARENT;
        } else {
            uint32_t node = i - w->n_prefix, up = w->tree.parent[node];
            s->token[r] = w->tree.token[node];
            s->slot[r] = base + 1 + node;
            s->parent[r] = up == NOUNS_TREE_ROOT ? root : root + 1 + up;
            s->position[r] = s->position[s->parent[r]] + 1;
        }
        if (sp->chooses && r >= root) s->choose[b->n_choose++] = r;
    }
}

static st_code make_batch(step *s, const proto_plan *p, model_batch *b, st_error *e) {
    *b = (model_batch){.token = s->token,
                       .position = s->position,
                       .slot = s->slot,
                       .parent = s->parent,
                       .sequence = s->owner,
                       .blocks = s->tables,
                       .choose = s->choose};
    uint32_t n_vocab = model_get_info(s->o.model)->n_vocab;
    if (p->n_work > PROTO_MAX_PLAN_SEQUENCES)
        return st_fail(e, ST_FATAL_PROTOCOL, "plan of %u sequences, expected at most %d", p->n_work, PROTO_MAX_PLAN_SEQUENCES);
    for (uint32_t i = 0; i < p->n_work; i++) {
        const proto_work *w = &p->work[i];
        sequence *q = w->seq.value ? find(s, w->seq.value) : NULL;
        if (!q)
            return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu works on sequence %llu, which is not open", (unsigned long long)p->id,
                           (unsigned long long)w->seq.value);
        for (uint32_t k = 0; k < i; k++)
            if (s->spans[k].seq == q)
                return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu works twice on sequence %llu", (unsigned long long)p->id,
                               (unsigned long long)w->seq.value);
        st_code code = accept_work(s, w, q, e);
        if (code) return code;
        for (uint32_t k = 0; k < w->tree.n_nodes; k++)
            if (w->tree.token[k] >= n_vocab || (w->tree.parent[k] != NOUNS_TREE_ROOT && w->tree.parent[k] >= k))
                return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: tree node %u: token %u, parent %u",
                               (unsigned long long)w->seq.value, k, w->tree.token[k], w->tree.parent[k]);
        if ((uint64_t)w->n_prefix + w->tree.n_nodes > s->o.max_rows - b->n_rows)
            return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu has more than %u rows", (unsigned long long)p->id, s->o.max_rows);
        s->spans[i].seq = q;
        s->tables[i] = q->blocks;
        add_rows(s, w, i, b);
    }
    return ST_OK;
}

/* The child of `row` (a row of the span) that holds `token`; MODEL_NO_PARENT if none does. */
static uint32_t child(const step *s, const span *sp, uint32_t row, uint32_t token) {
    for (uint32_t r = row + 1; r < sp->first_row + sp->n_rows; r++)
        if (s->parent[r] == row && s->token[r] == token) return r;
    return MODEL_NO_PARENT;
}

/* All but the sequence's end tokens. */
static const uint64_t *forbid_ends(step *s, const sequence *q, uint32_t n_vocab) {
    memset(s->allowed, 0xff, MODEL_MASK_WORDS(n_vocab) * sizeof *s->allowed);
    for (uint32_t i = 0; i < q->n_ends; i++) s->allowed[q->ends[i] / 64] &= ~(UINT64_C(1) << q->ends[i] % 64);
    return s->allowed;
}

/* The choice that follows the first n_tokens of q->tokens: of the row's own logits, where nothing changes them. */
static uint32_t choose(step *s, const sequence *q, const float *logits, uint32_t n_tokens) {
    uint32_t n_vocab = model_get_info(s->o.model)->n_vocab;
    const sampling *p = &q->sampling;
    bool early = q->n_ends && n_tokens - q->n_prompt < q->min_tokens;
    if (early || q->n_bias || model_penalises(p)) {
        model_adjustment a = {.n_bias = q->n_bias,
                              .bias_token = q->bias_token,
                              .bias = q->bias,
                              .repetition = p->repetition,
                              .presence = p->presence,
                              .frequency = p->frequency,
                              .n_tokens = n_tokens,
                              .n_prompt = q->n_prompt,
                              .tokens = q->tokens,
                              .allowed = early ? forbid_ends(s, q, n_vocab) : NULL};
        model_adjust(logits, n_vocab, &a, s->adjusted, s->count);
        logits = s->adjusted;
    }
    return model_choose(logits, n_vocab, p, n_tokens, s->work);
}

/* Views of what note_logprobs has left for the span. */
static token_logprobs logprobs_of(const step *s, const span *sp) {
    if (!sp->seq->logprobs) return (token_logprobs){0};
    size_t first = sp->first_choice;
    return (token_logprobs){sp->seq->logprobs - 1, s->own_log + first, s->top + first * PROTO_MAX_TOP_LOGPROBS,
                            s->top_log + first * PROTO_MAX_TOP_LOGPROBS};
}

static void note_logprobs(step *s, const span *sp, uint32_t k, const float *logits, uint32_t token) {
    if (!sp->seq->logprobs) return;
    uint32_t n_top = sp->seq->logprobs - 1;
    size_t first = sp->first_choice, at = first * PROTO_MAX_TOP_LOGPROBS + (size_t)k * n_top;
    s->own_log[first + k] =
        model_logprobs(logits, model_get_info(s->o.model)->n_vocab, token, n_top, s->top + at, s->top_log + at);
}

static hidden_states hidden_of(const step *s, const span *sp) {
    uint32_t dim = model_get_info(s->o.model)->dim;
    return (hidden_states){dim, sp->seq->hidden ? s->hidden + (size_t)sp->first_choice * dim : NULL};
}

/* The k-th token of the span was chosen from the batch's choice `from`. */
static void note_hidden(step *s, const span *sp, uint32_t k, uint32_t from) {
    if (!sp->seq->hidden) return;
    uint32_t dim = model_get_info(s->o.model)->dim;
    uint16_t *to = s->hidden + ((size_t)sp->first_choice + k) * dim;
    const float *h = model_hidden(s->o.model, from);
    for (uint32_t i = 0; i < dim; i++) to[i] = half_of_float(h[i]);
}

/* ---- early results ---- */

/* Those of all sequences that choose, and of their trees; of too many the commonest. */
static void want_runs(step *s, const proto_plan *p) {
    uint32_t n_runs = MODEL_RUNS(model_get_info(s->o.model)->n_vocab), most = s->n_first / MODEL_VOCAB_ROWS / WANTED_PART;
    memset(s->noted, 0, MODEL_MASK_WORDS(n_runs) * sizeof *s->noted);
    for (uint32_t i = 0; i < p->n_work; i++) {
        if (!s->spans[i].chooses) continue;
        for (size_t k = 0; k < MODEL_MASK_WORDS(n_runs); k++) s->noted[k] |= s->spans[i].seq->runs[k];
        note_runs(s, s->noted, p->work[i].tree.token, p->work[i].tree.n_nodes);
    }
    s->n_wanted = 0;
    for (uint32_t run = 0; run < n_runs && s->n_wanted < most; run++)
        if (s->noted[run / 64] >> run % 64 & 1) s->wanted[s->n_wanted++] = run;
}

/* Writes the wanted runs of a row of logits to s->first; NULL: -INFINITY. Returns whether all of them are finite. */
static bool put_runs(step *s, const float *logits) {
    uint32_t n_vocab = model_get_info(s->o.model)->n_vocab;
    bool finite = true;
    for (uint32_t i = 0; i < s->n_wanted; i++) {
        uint32_t first = s->wanted[i] * MODEL_VOCAB_ROWS,
                 end = first + MODEL_VOCAB_ROWS < n_vocab ? first + MODEL_VOCAB_ROWS : n_vocab;
        for (uint32_t v = first; v < end; v++) {
            s->first[v] = logits ? logits[v] : -INFINITY;
            finite &= isfinite(s->first[v]) != 0;
        }
    }
    return finite;
}

/* A row of those logits that are there; of all others -INFINITY. NULL where one is not finite: the row will be found bad. */
static const float *first_logits(step *s, uint32_t from) {
    const float *logits = model_logits(s->o.model, from);
    bool finite = put_runs(s, logits);
    memcpy(s->first, logits, s->n_first * sizeof *logits);
    for (uint32_t v = 0; v < s->n_first; v++) finite &= isfinite(logits[v]) != 0;
    return finite ? s->first : NULL;
}

/* ---- decisions ---- */

/* Chooses from the root along the tree while drafts equal the choice: words of tokens, then of accepted nodes. Guesses nothing
 * where a row on the way is bad. */
static void choose_path(step *s, const span *sp, uint32_t *head) {
    const sequence *q = sp->seq;
    uint32_t root = sp->first_row + sp->n_prefix - 1, room = s->o.max_context - q->n_tokens;
    uint32_t *tokens = q->tokens + q->n_tokens, path[NOUNS_MAX_TREE], n = 0, n_path = 0;
    for (uint32_t row = root; row != MODEL_NO_PARENT && n < room;) {
        if (row != root) path[n_path++] = row - root - 1;
        uint32_t from = sp->first_choice + (row - root);
        const float *logits = s->guesses ? first_logits(s, from) : model_logits(s->o.model, from);
        if (!logits) {
            n = n_path = 0;
            break;
        }
        tokens[n] = choose(s, q, logits, q->n_tokens + n);
        if (!s->guesses) note_logprobs(s, sp, n, logits, tokens[n]);
        note_hidden(s, sp, n, from);
        row = child(s, sp, row, tokens[n++]);
    }
    head[2] = n;
    head[3] = n_path;
    memcpy(head + DECISION_WORDS, tokens, n * sizeof *tokens);
    memcpy(head + DECISION_WORDS + n, path, n_path * sizeof *path);
}

static void decide_item(step *s, const span *sp, uint32_t *head) {
    memset(head, 0, DECISION_WORDS * sizeof *head);
    if (sp->seq->bad) head[0] = ST_ERR_NUMERIC;
    for (uint32_t r = sp->first_row; r < sp->first_row + sp->n_rows && !head[0]; r++)
        if (model_row_bad(s->o.model, r, &head[1])) head[0] = ST_ERR_NUMERIC;
    if (!head[0] && sp->chooses) choose_path(s, sp, head);
}

const uint32_t *step_decide(step *s, uint32_t *n_words) {
    uint32_t *at = s->words;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        decide_item(s, &s->spans[i], at);
        at += DECISION_WORDS + at[2] + at[3];
    }
    s->decided = true;
    *n_words = (uint32_t)(at - s->words);
    INVARIANT(*n_words <= step_max_words(&s->o));
    return s->words;
}

/* In the midst of step_run. Log-probabilities are not known before all logits are. */
static void guess(void *context) {
    step *s = context;
    uint32_t *at = s->words;
    s->guesses = true;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        const span *sp = &s->spans[i];
        if (sp->seq->logprobs)
            memset(at, 0, DECISION_WORDS * sizeof *at);
        else
            decide_item(s, sp, at);
        s->items[i] = (proto_item){.seq = sp->seq->id, .n_tokens = at[2], .tokens = at + DECISION_WORDS};
        if (at[2] > 0) s->items[i].hidden = hidden_of(s, sp);
        at += DECISION_WORDS + at[2] + at[3];
    }
    s->guesses = false;
    put_runs(s, NULL);
    s->o.early(s->o.context, &(proto_result){.plan_id = s->plan_id, .n_items = s->n_spans, .items = s->items});
}

/* Whether these words can be a decision about the span. */
static bool may_apply(const step *s, const span *sp, const uint32_t *words, uint32_t n_words) {
    if (n_words < DECISION_WORDS || words[0] >= ST_N_CODES || words[2] > sp->n_rows || words[3] > sp->n_rows) return false;
    uint32_t n = words[2], n_path = words[3], n_tree = sp->n_rows - sp->n_prefix;
    if (n_words < DECISION_WORDS + n + n_path || n_path > n || n_path > n_tree || n > s->o.max_context - sp->seq->n_tokens)
        return false;
    if (n && (!sp->chooses || words[0])) return false;
    const uint32_t *tokens = words + DECISION_WORDS, *path = tokens + n;
    for (uint32_t k = 0; k < n; k++)
        if (tokens[k] >= model_get_info(s->o.model)->n_vocab) return false;
    for (uint32_t k = 0; k < n_path; k++)
        if (path[k] >= n_tree || (k && path[k] <= path[k - 1])) return false;
    return true;
}

/* Keeps the KV of the accepted nodes, takes the tokens. */
static void apply_item(step *s, const span *sp, const uint32_t *words, proto_item *item) {
    sequence *q = sp->seq;
    uint32_t n = words[2], n_path = words[3];
    const uint32_t *tokens = words + DECISION_WORDS, *path = tokens + n;
    *item = (proto_item){.seq = q->id, .code = (st_code)words[0], .layer = words[1], .n_tokens = n, .tokens = tokens};
    if (n && s->decided) {
        item->logprobs = logprobs_of(s, sp);
        item->hidden = hidden_of(s, sp);
    }
    if (item->code) {
        q->bad = true;
        return;
    }
    for (uint32_t k = 0; k < n_path; k++) {
        if (path[k] == k) continue; /* it stands there already */
        s->o.ops->kv_move(s->o.device, kv_store_view(s->o.kv), q->blocks, sp->base + 1 + k, sp->base + 1 + path[k]);
        s->n_moved++;
    }
    memcpy(q->tokens + q->n_tokens, tokens, n * sizeof *tokens);
    note_runs(s, q->runs, tokens, n);
    q->n_tokens += n;
    q->n_kv = sp->base + 1 + n_path;
}

st_code step_apply(step *s, const uint32_t *words, uint32_t n_words, proto_result *out, st_error *e) {
    s->n_moved = 0;
    for (uint32_t i = 0; i < s->n_spans; i++) {
        const span *sp = &s->spans[i];
        if (!may_apply(s, sp, words, n_words))
            return st_fail(e, ST_FATAL_PROTOCOL, "the leader's decision on sequence %llu does not fit plan %llu",
                           (unsigned long long)sp->seq->id.value, (unsigned long long)s->plan_id);
        apply_item(s, sp, words, &s->items[i]);
        uint32_t used = DECISION_WORDS + words[2] + words[3];
        words += used;
        n_words -= used;
    }
    if (n_words)
        return st_fail(e, ST_FATAL_PROTOCOL, "the leader's decisions have %u words more than plan %llu", n_words,
                       (unsigned long long)s->plan_id);
    st_code code = s->o.ops->wait(s->o.device);
    if (code) return st_fail(e, code, "the device failed in plan %llu", (unsigned long long)s->plan_id);
    *out = (proto_result){
        .plan_id = s->plan_id, .n_rows = s->n_rows, .n_moved = s->n_moved, .n_items = s->n_spans, .items = s->items};
    s->n_spans = 0;
    s->decided = false;
    return ST_OK;
}

bool step_is_settled(const step *s) { return !s->n_spans; }

st_code step_run(step *s, const proto_plan *p, st_error *e) {
    model_batch b;
    if (s->n_spans)
        return st_fail(e, ST_FATAL_PROTOCOL, "plan %llu before the decisions of plan %llu", (unsigned long long)p->id,
                       (unsigned long long)s->plan_id);
    st_code code = close_all(s, p, e);
    if (!code) code = open_all(s, p, e);
    if (!code) code = make_batch(s, p, &b, e);
    if (code) return code;
    s->plan_id = p->id;
    s->n_rows = b.n_rows;
    s->n_spans = p->n_work;
    b.first = p->early && s->o.early && s->n_first > 0 ? guess : NULL;
    b.context = s;
    if (b.first) want_runs(s, p);
    b.wanted = s->wanted;
    b.n_wanted = s->n_wanted;
    if (b.n_rows) code = model_run(s->o.model, s->o.kv, &b, e);
    if (code) s->n_spans = 0;
    return code;
}
