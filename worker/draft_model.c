/* A model as drafter.
 *
 * A round has two phases. Keeping up: what of the committed tokens is not in the cache is computed, prompt chunks and single
 * tokens of many sequences in one batch; since a draft that was accepted is in the cache already, this is often one row.
 * Drafting: one row a sequence and pass, each the choice after the row before. The choices made on the way are kept, and score
 * the drafter on every token that was committed, whoever drafted it. Tentative tokens go through as committed ones do, but are
 * not scored; where others come in their place the cache is cut back as it is behind drafts.
 *
 *     tokens[0 .. n_cached-1] are in the cache, choices[i] is the own choice after tokens[i]
 *
 * Blocks: a sequence takes those of its tokens and its draft, and more as it grows. They are there: the scheduler counts them
 * (coordinator/sched_follow.c) and closes one sequence before another needs its blocks. Where they are not all the same, what is
 * in the cache stays and nothing is drafted. Not taken: trees of its second choices; a chain costs one pass a token either way,
 * and the fusion with other drafters widens it. */
#include "worker/draft_model.h"

#include "base/arena.h"
#include "base/mem.h"
#include <math.h>
#include <string.h>

typedef struct {
    seq_id id; /* value 0: unused */
    kv_chain chain;
    uint32_t n_cached;          /* tokens */
    uint32_t *tokens, *choices; /* [max_context + NOUNS_MAX_TREE] */
    uint32_t *blocks;           /* [max_blocks] store indices of the chain */
    uint32_t n_blocks;          /* 0: it has no chain */
} cache;

typedef struct {
    spec_drafter drafter;
    draft_model_options o;
    arena memory;
    kv_table *table;
    cache *caches;                                        /* [max_sequences] */
    cache **of_item;                                      /* [max_sequences] of this call's items; NULL: gets no draft */
    const uint32_t **tables;                              /* [max_sequences] */
    uint32_t *token, *position, *parent, *owner, *choose; /* [max_rows] */
    uint64_t *work;                                       /* [n_vocab] */
} draft_model;

static uint32_t room_tokens(const draft_model_options *o) { return o->max_context + NOUNS_MAX_TREE; }

static cache *find(draft_model *d, uint64_t id) {
    for (uint32_t i = 0; i < d->o.max_sequences; i++)
        if (d->caches[i].id.value == id) return &d->caches[i];
    return NULL;
}

static void forget(draft_model *d, cache *c) {
    if (c->n_blocks) kv_release(d->table, c->chain);
    c->id.value = 0;
    c->n_cached = c->n_blocks = 0;
}

/* Room for n tokens; false: there are no blocks for it now. */
static bool make_room(draft_model *d, cache *c, uint32_t n) {
    uint32_t first, n_new, n_blocks;
    st_code code = c->n_blocks ? kv_grow(d->table, c->chain, n) : kv_reserve(d->table, n, &c->chain);
    if (code) return false;
    code = kv_extend(d->table, c->chain, n, &first, &n_new);
    INVARIANT(code == ST_OK);
    const block_id *ids = kv_chain_blocks(d->table, c->chain, &n_blocks);
    while (c->n_blocks < n_blocks) c->blocks[c->n_blocks] = ids[c->n_blocks].index, c->n_blocks++;
    return true;
}

/* The cache of an item's sequence, cut back to what its tokens have in common with it; NULL: none. */
static cache *prepare(draft_model *d, spec_draft *it) {
    cache *c = find(d, it->seq.value);
    if (!c) c = find(d, 0);
    uint32_t end = spec_draft_end(it), same = 0;
    if (!c || end > d->o.max_context || !make_room(d, c, end + it->budget)) return NULL;
    c->id = it->seq;
    while (same < c->n_cached && same < end && c->tokens[same] == it->tokens[same]) same++;
    c->n_cached = same < end ? same : end - 1; /* the last token is computed anew: its logits are wanted */
    memcpy(c->tokens, it->tokens, end * sizeof *c->tokens);
    return c;
}

static void score(const cache *c, spec_draft *it) {
    uint32_t n = it->n_new < SPEC_MAX_SCORED ? it->n_new : SPEC_MAX_SCORED;
    for (uint32_t i = it->n_tokens - n; i < it->n_tokens; i++) {
        if (!i) continue; /* the first token of all has none before it */
        it->n_scored++;
        it->n_hits += c->choices[i - 1] == it->tokens[i];
    }
}

/* By the request's sampling, but without bias, penalties and min_tokens: where they change the target's choice a draft is lost,
 * and nothing else. */
static uint32_t choose(draft_model *d, uint32_t logits_of, const sampling *s, uint32_t position, float *probability) {
    uint32_t n_vocab = model_get_info(d->o.model)->n_vocab;
    const float *logits = model_logits(d->o.model, logits_of);
    uint32_t token = model_choose(logits, n_vocab, s, position, d->work);
    if (probability) *probability = (float)exp(-model_nll(logits, n_vocab, token));
    return token;
}

/* The cache that a row of the batch belongs to; NULL: a number of this sequence is not finite, and it gets no draft, or no more.
 */
static cache *cache_of(draft_model *d, uint32_t row) {
    uint32_t layer;
    if (model_row_bad(d->o.model, row, &layer)) d->of_item[d->owner[row]] = NULL;
    return d->of_item[d->owner[row]];
}

static void add_row(draft_model *d, model_batch *b, uint32_t item, const cache *c, uint32_t position, bool after_row,
                    bool chooses) {
    uint32_t r = b->n_rows++;
    d->token[r] = c->tokens[position];
    d->position[r] = position;
    d->parent[r] = after_row ? r - 1 : MODEL_NO_PARENT;
    d->owner[r] = item;
    if (chooses) d->choose[b->n_choose++] = r;
    d->tables[item] = c->blocks;
}

static model_batch empty_batch(draft_model *d) {
    return (model_batch){.token = d->token,
                         .position = d->position,
                         .slot = d->position,
                         .parent = d->parent,
                         .sequence = d->owner,
                         .blocks = d->tables,
                         .choose = d->choose};
}

/* Brings caches up to all tokens, the tentative ones too; the choice after the last one is the first of the draft. *done: nothing
 * was left to do. */
static st_code keep_up(draft_model *d, spec_draft *items, uint32_t n, bool *done, st_error *e) {
    model_batch b = empty_batch(d);
    for (uint32_t i = 0; i < n; i++) {
        const cache *c = d->of_item[i];
        for (uint32_t p = c ? c->n_cached : 0; c && p < spec_draft_end(&items[i]) && b.n_rows < d->o.max_rows; p++)
            add_row(d, &b, i, c, p, p > c->n_cached,
                    p + 1 + SPEC_MAX_SCORED >= items[i].n_tokens); /* older choices nobody scores */
    }
    *done = b.n_rows == 0;
    st_code code = *done ? ST_OK : model_run(d->o.model, d->o.kv, &b, e);
    for (uint32_t r = 0; r < b.n_rows && !code; r++) d->of_item[d->owner[r]]->n_cached = d->position[r] + 1;
    for (uint32_t k = 0; k < b.n_choose && !code; k++) {
        uint32_t r = d->choose[k], position = d->position[r];
        cache *c = cache_of(d, r);
        spec_draft *it = &items[d->owner[r]];
        bool last = position + 1 == spec_draft_end(it);
        float p = 0;
        if (!c) continue;
        c->choices[position] = choose(d, k, &it->sampling, position + 1, last ? &p : NULL);
        if (last && it->budget) spec_tree_add(it->tree, NOUNS_TREE_ROOT, c->choices[position], p);
    }
    return code;
}

/* One more token on each chain that is not long enough; *done: there was none. */
static st_code extend(draft_model *d, spec_draft *items, uint32_t n, bool *done, st_error *e) {
    model_batch b = empty_batch(d);
    for (uint32_t i = 0; i < n && b.n_rows < d->o.max_rows; i++) {
        cache *c = d->of_item[i];
        spec_tree *t = items[i].tree;
        if (!c || !t->n || t->n >= items[i].budget || spec_draft_end(&items[i]) + t->n >= d->o.max_context) continue;
        c->tokens[c->n_cached] = t->token[t->n - 1];
        add_row(d, &b, i, c, c->n_cached, false, true);
    }
    *done = b.n_rows == 0;
    st_code code = *done ? ST_OK : model_run(d->o.model, d->o.kv, &b, e);
    for (uint32_t r = 0; r < b.n_rows && !code; r++) {
        cache *c = cache_of(d, r);
        spec_draft *it = &items[d->owner[r]];
        float p;
        if (!c) continue;
        c->choices[c->n_cached] = choose(d, r, &it->sampling, d->position[r] + 1, &p);
        spec_tree_add(it->tree, it->tree->n - 1, c->choices[c->n_cached], p);
        c->n_cached++;
    }
    return code;
}

static st_code draft(spec_drafter *base, spec_draft *items, uint32_t n, st_error *e) {
    draft_model *d = (draft_model *)base;
    if (n > d->o.max_sequences)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%u sequences in one round, this drafter takes %u", n, d->o.max_sequences);
    for (uint32_t i = 0; i < n; i++) {
        items[i].tree->n = items[i].n_scored = items[i].n_hits = 0;
        d->of_item[i] = prepare(d, &items[i]);
    }
    st_code code = ST_OK;
    for (bool done = false; !code && !done;) code = keep_up(d, items, n, &done, e);
    for (uint32_t i = 0; i < n && !code; i++)
        if (d->of_item[i]) score(d->of_item[i], &items[i]);
    for (bool done = false; !code && !done && !spec_drafter_stops(base);) code = extend(d, items, n, &done, e);
    return code;
}

static void close_sequence(spec_drafter *base, seq_id seq) {
    draft_model *d = (draft_model *)base;
    cache *c = seq.value ? find(d, seq.value) : NULL;
    if (c) forget(d, c);
}

static void destroy(spec_drafter *base) {
    draft_model *d = (draft_model *)base;
    if (!d) return;
    arena_deinit(&d->memory);
    mem_free(d);
}

static const spec_drafter_ops model_ops = {.name = "model", .draft = draft, .close = close_sequence, .destroy = destroy};

static void place(draft_model *d, uint32_t max_blocks, size_t table_bytes) {
    const draft_model_options *o = &d->o;
    arena *a = &d->memory;
    void *table = arena_alloc(a, table_bytes, 1);
    d->table = kv_table_init(table, o->n_blocks, 0, o->max_sequences, max_blocks, 0); /* it keeps nothing */
    d->caches = arena_alloc(a, o->max_sequences, sizeof *d->caches);
    for (uint32_t i = 0; i < o->max_sequences; i++) {
        d->caches[i].tokens = arena_alloc(a, room_tokens(o), sizeof(uint32_t));
        d->caches[i].choices = arena_alloc(a, room_tokens(o), sizeof(uint32_t));
        d->caches[i].blocks = arena_alloc(a, max_blocks, sizeof(uint32_t));
    }
    d->of_item = arena_alloc(a, o->max_sequences, sizeof *d->of_item);
    d->tables = arena_alloc(a, o->max_sequences, sizeof *d->tables);
    uint32_t **rows[] = {&d->token, &d->position, &d->parent, &d->owner, &d->choose};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) *rows[i] = arena_alloc(a, o->max_rows, sizeof(uint32_t));
    d->work = arena_alloc(a, model_get_info(o->model)->n_vocab, sizeof *d->work);
    INVARIANT(d->work);
}

st_code draft_model_create(const draft_model_options *o, spec_drafter **out) {
    uint32_t max_blocks = kv_blocks_for(room_tokens(o));
    size_t table_bytes = kv_table_bytes(o->n_blocks, 0, o->max_sequences, max_blocks);
    size_t cache_bytes = sizeof(cache) + (2 * (size_t)room_tokens(o) + max_blocks) * sizeof(uint32_t) + 3 * 64;
    size_t bytes = table_bytes + o->max_sequences * (cache_bytes + 2 * sizeof(void *)) +
                   (size_t)o->max_rows * 5 * sizeof(uint32_t) + (size_t)model_get_info(o->model)->n_vocab * sizeof(uint64_t) +
                   16 * 64;
    draft_model *d = mem_alloc(1, sizeof *d);
    if (!d) return ST_FATAL_MEMORY;
    *d = (draft_model){.drafter.ops = &model_ops, .o = *o};
    if (arena_init(&d->memory, bytes)) {
        destroy(&d->drafter);
        return ST_FATAL_MEMORY;
    }
    place(d, max_blocks, table_bytes);
    *out = &d->drafter;
    return ST_OK;
}
