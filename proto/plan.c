/* Plans and results: one of each a step and group, so the wire is compact (packed arrays, a tree as three arrays) and equal
 * structs give equal bytes: the leader broadcasts a plan as it came.
 *
 * Decoded arrays stay where protobuf-c put them; only what has another form (block ids, parents) is rewritten. Counts and shapes
 * are checked here, once; what needs the state of a rank (is `start` right, is the block ours, is the token in the vocabulary) is
 * the worker's. */
#include "proto/proto_int.h"

#include "base/mem.h"
#include "control.pb-c.h"
#include <math.h>
#include <string.h>

#define BAD ST_FATAL_PROTOCOL
typedef Consort__Control__V1__Plan wire_plan;
typedef Consort__Control__V1__Open wire_open;
typedef Consort__Control__V1__Work wire_work;
typedef Consort__Control__V1__Draft wire_draft;
typedef Consort__Control__V1__Sampling wire_sampling;
typedef Consort__Control__V1__Item wire_item;
typedef Consort__Control__V1__Result wire_result;

static uint32_t *packed(const void *p) { return (uint32_t *)(uintptr_t)p; } /* packing does not write to it */

/* The three arrays of a tree, which a work and an item have alike. */
typedef struct {
    size_t n_token, n_parent, n_probability;
    uint32_t *token, *parent;
    float *probability;
} wire_tree;
#define TREE_OF(m)                                                                                                               \
    ((wire_tree){(m)->n_tree_token, (m)->n_tree_parent, (m)->n_tree_probability, (m)->tree_token, (m)->tree_parent,              \
                 (m)->tree_probability})

/* ---- encode ---- */
/* `parents` is scratch for the tree's nodes; returns what lies behind it. */
#define ENCODE_TREE(t, parents, m)                                                                                               \
    ((m)->n_tree_token = (m)->n_tree_parent = (t)->n_nodes, (m)->tree_token = packed((t)->token),                                \
     (m)->tree_parent = encode_parents(t, parents), (m)->n_tree_probability = (t)->probability ? (t)->n_nodes : 0,               \
     (m)->tree_probability = (float *)(uintptr_t)(t)->probability, (parents) + (t)->n_nodes)

static uint32_t *encode_parents(const token_tree *t, uint32_t *parents) {
    for (uint32_t i = 0; i < t->n_nodes; i++) parents[i] = t->parent[i] + 1; /* NOUNS_TREE_ROOT becomes 0 */
    return parents;
}

/* Scratch of one encoding: the structs that protobuf-c wants, in one piece of memory. */
typedef struct {
    wire_open *open;
    wire_sampling *sampling;
    wire_open **open_list;
    wire_work *work;
    wire_work **work_list;
    wire_draft *draft;
    wire_draft **draft_list;
    uint32_t *swap_block, *swap_slot;
    uint32_t *numbers; /* block index and generation, parents */
    protobuf_c_boolean *swap_in;
} plan_parts;

static size_t count_numbers(const proto_plan *p) {
    size_t n = 0;
    for (uint32_t i = 0; i < p->n_work; i++) n += 2 * (size_t)p->work[i].n_blocks + p->work[i].tree.n_nodes;
    return n;
}

static size_t parts_bytes(const proto_plan *p) {
    size_t open = sizeof(wire_open) + sizeof(wire_sampling) + sizeof(wire_open *), work = sizeof(wire_work) + sizeof(wire_work *),
           draft = sizeof(wire_draft) + sizeof(wire_draft *);
    size_t swap = 2 * sizeof(uint32_t) + sizeof(protobuf_c_boolean);
    return p->n_open * open + p->n_work * work + p->n_draft * draft + count_numbers(p) * sizeof(uint32_t) + p->n_swaps * swap;
}

static plan_parts carve(void *memory, const proto_plan *p) {
    plan_parts t;
    t.open = memory;
    t.sampling = (wire_sampling *)(t.open + p->n_open);
    t.open_list = (wire_open **)(t.sampling + p->n_open);
    t.work = (wire_work *)(t.open_list + p->n_open);
    t.work_list = (wire_work **)(t.work + p->n_work);
    t.draft = (wire_draft *)(t.work_list + p->n_work);
    t.draft_list = (wire_draft **)(t.draft + p->n_draft);
    t.swap_block = (uint32_t *)(t.draft_list + p->n_draft);
    t.swap_slot = t.swap_block + p->n_swaps;
    t.numbers = t.swap_slot + p->n_swaps;
    t.swap_in = (protobuf_c_boolean *)(t.numbers + count_numbers(p));
    return t;
}

static void encode_open(const proto_open *o, wire_sampling *s, wire_open *m) {
    consort__control__v1__sampling__init(s);
    s->temperature = o->sampling.temperature;
    s->top_p = o->sampling.top_p;
    s->min_p = o->sampling.min_p;
    s->top_k = o->sampling.top_k;
    s->seed = o->sampling.seed;
    s->sample = o->sampling.sample;
    s->typical_p = o->sampling.typical_p;
    s->repetition = o->sampling.repetition;
    s->presence = o->sampling.presence;
    s->frequency = o->sampling.frequency;
    consort__control__v1__open__init(m);
    m->seq = o->seq.value;
    m->seq_epoch = o->seq_epoch;
    m->sampling = s;
    m->n_tokens = o->n_tokens;
    m->tokens = packed(o->tokens);
    m->n_answered = o->n_answered;
    m->min_tokens = o->rules.min_tokens;
    m->n_end_tokens = o->rules.n_ends;
    m->end_tokens = packed(o->rules.ends);
    m->n_bias_token = m->n_bias = o->rules.n_bias;
    m->bias_token = packed(o->rules.bias_token);
    m->bias = (float *)(uintptr_t)o->rules.bias;
    m->logprobs = o->rules.logprobs;
    m->hidden = o->rules.hidden;
}

/* Returns the scratch numbers that are left. */
static uint32_t *encode_work(const proto_work *w, uint32_t *numbers, wire_work *m) {
    consort__control__v1__work__init(m);
    m->seq = w->seq.value;
    m->start = w->start;
    m->n_prefix = w->n_prefix;
    m->n_block_index = m->n_block_generation = w->n_blocks;
    m->block_index = numbers;
    m->block_generation = numbers + w->n_blocks;
    for (uint32_t i = 0; i < w->n_blocks; i++) {
        m->block_index[i] = w->blocks[i].index;
        m->block_generation[i] = w->blocks[i].generation;
    }
    return ENCODE_TREE(&w->tree, numbers + 2 * (size_t)w->n_blocks, m);
}

static void encode_draft(const proto_draft *d, wire_draft *m) {
    consort__control__v1__draft__init(m);
    m->seq = d->seq.value;
    m->n_tokens = d->n_tokens;
    m->tokens = packed(d->tokens);
    m->budget = d->budget;
    m->hidden = proto_wire_hidden(&d->hidden, 1);
    m->n_tentative = d->n_tentative;
    m->tentative = packed(d->tentative);
    m->hidden_at_end = d->hidden_at_end;
}

static void encode_swaps(const proto_plan *p, const plan_parts *t, wire_plan *m) {
    for (uint32_t i = 0; i < p->n_swaps; i++) {
        t->swap_block[i] = p->swaps[i].block;
        t->swap_slot[i] = p->swaps[i].slot;
        t->swap_in[i] = p->swaps[i].in;
    }
    m->n_swap_block = m->n_swap_slot = m->n_swap_in = p->n_swaps;
    m->swap_block = t->swap_block;
    m->swap_slot = t->swap_slot;
    m->swap_in = t->swap_in;
}

st_code proto_plan_encode(const proto_plan *p, proto_bytes *out) {
    wire_plan m = CONSORT__CONTROL__V1__PLAN__INIT;
    void *memory = mem_alloc(parts_bytes(p), 1);
    if (!memory) return ST_FATAL_MEMORY;
    plan_parts t = carve(memory, p);
    encode_swaps(p, &t, &m); /* before t.numbers moves on */
    for (uint32_t i = 0; i < p->n_open; i++) encode_open(&p->open[i], &t.sampling[i], t.open_list[i] = &t.open[i]);
    for (uint32_t i = 0; i < p->n_work; i++) t.numbers = encode_work(&p->work[i], t.numbers, t.work_list[i] = &t.work[i]);
    for (uint32_t i = 0; i < p->n_draft; i++) encode_draft(&p->draft[i], t.draft_list[i] = &t.draft[i]);
    m.id = p->id;
    m.kind = (uint32_t)p->kind;
    m.n_close = p->n_close;
    m.close = (uint64_t *)(uintptr_t)p->close; /* seq_id is one uint64_t */
    m.n_open = p->n_open;
    m.open = t.open_list;
    m.n_work = p->n_work;
    m.work = t.work_list;
    m.n_draft = p->n_draft;
    m.draft = t.draft_list;
    m.ahead = p->ahead;
    m.early = p->early;
    st_code code = proto_wire_pack(&m.base, out);
    mem_free(memory);
    return code;
}

/* ---- decode ---- */
static st_code decode_sampling(const wire_sampling *m, sampling *s, st_error *e) {
    if (!m) return st_fail(e, BAD, "sampling: is missing");
    if (!(m->temperature >= 0) || !isfinite(m->temperature))
        return st_fail(e, BAD, "sampling.temperature: %g is not finite and >= 0", (double)m->temperature);
    const struct {
        const char *name;
        float value;
        int low, high;
    } rows[] = {
        {"top_p", m->top_p, 0, 1},
        {"min_p", m->min_p, 0, 1},
        {"typical_p", m->typical_p, 0, 1},
        {"repetition", m->repetition, 0, PROTO_MAX_REPETITION},
        {"presence", m->presence, -PROTO_MAX_PENALTY, PROTO_MAX_PENALTY},
        {"frequency", m->frequency, -PROTO_MAX_PENALTY, PROTO_MAX_PENALTY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!(rows[i].value >= (float)rows[i].low && rows[i].value <= (float)rows[i].high))
            return st_fail(e, BAD, "sampling.%s: %g is outside %d .. %d", rows[i].name, (double)rows[i].value, rows[i].low,
                           rows[i].high);
    *s = (sampling){.temperature = m->temperature,
                    .top_p = m->top_p,
                    .min_p = m->min_p,
                    .top_k = m->top_k,
                    .seed = m->seed,
                    .sample = m->sample,
                    .typical_p = m->typical_p,
                    .repetition = m->repetition,
                    .presence = m->presence,
                    .frequency = m->frequency};
    return ST_OK;
}

static st_code decode_rules(const wire_open *m, token_rules *r, st_error *e) {
    if (m->n_end_tokens > PROTO_MAX_ENDS) return st_fail(e, BAD, "end_tokens: %zu are over %d", m->n_end_tokens, PROTO_MAX_ENDS);
    if (m->n_bias_token > PROTO_MAX_BIAS) return st_fail(e, BAD, "bias_token: %zu are over %d", m->n_bias_token, PROTO_MAX_BIAS);
    if (m->n_bias != m->n_bias_token) return st_fail(e, BAD, "bias: %zu for %zu tokens", m->n_bias, m->n_bias_token);
    for (size_t i = 0; i < m->n_bias; i++)
        if (!(fabsf(m->bias[i]) <= PROTO_BIAS_LIMIT))
            return st_fail(e, BAD, "bias[%zu]: %g is outside -%d .. %d", i, (double)m->bias[i], PROTO_BIAS_LIMIT,
                           PROTO_BIAS_LIMIT);
    if (m->logprobs > 1 + PROTO_MAX_TOP_LOGPROBS)
        return st_fail(e, BAD, "logprobs: %u likeliest tokens are over %d", m->logprobs - 1, PROTO_MAX_TOP_LOGPROBS);
    *r = (token_rules){.min_tokens = m->min_tokens,
                       .n_ends = (uint32_t)m->n_end_tokens,
                       .n_bias = (uint32_t)m->n_bias,
                       .ends = m->end_tokens,
                       .bias_token = m->bias_token,
                       .bias = m->bias,
                       .logprobs = m->logprobs,
                       .hidden = m->hidden};
    return ST_OK;
}

static st_code decode_open(const wire_open *m, proto_open *o, st_error *e) {
    st_code code = decode_sampling(m->sampling, &o->sampling, e);
    if (!code) code = decode_rules(m, &o->rules, e);
    if (code) return code;
    if (!m->seq) return st_fail(e, BAD, "seq: 0 is none");
    if (!m->n_tokens || m->n_tokens > PROTO_MAX_PROMPT_TOKENS)
        return st_fail(e, BAD, "tokens: %zu are outside 1 .. %d", m->n_tokens, PROTO_MAX_PROMPT_TOKENS);
    if (m->n_answered >= m->n_tokens)
        return st_fail(e, BAD, "n_answered: %u of %zu tokens; expected a prompt before them", m->n_answered, m->n_tokens);
    o->n_answered = m->n_answered;
    o->seq.value = m->seq;
    o->seq_epoch = m->seq_epoch;
    o->n_tokens = (uint32_t)m->n_tokens;
    o->tokens = m->tokens;
    return ST_OK;
}

/* Rewrites the parents in place. */
static st_code decode_tree(wire_tree m, token_tree *t, st_error *e) {
    size_t n = m.n_token;
    if (n > NOUNS_MAX_TREE) return st_fail(e, BAD, "tree_token: %zu nodes are over %d", n, NOUNS_MAX_TREE);
    if (m.n_parent != n) return st_fail(e, BAD, "tree_parent: %zu for %zu nodes", m.n_parent, n);
    if (m.n_probability && m.n_probability != n)
        return st_fail(e, BAD, "tree_probability: %zu for %zu nodes", m.n_probability, n);
    for (size_t i = 0; i < n; i++) {
        if (m.parent[i] > i) return st_fail(e, BAD, "tree_parent[%zu]: node %u does not come before it", i, m.parent[i] - 1);
        m.parent[i]--; /* 0 becomes NOUNS_TREE_ROOT */
        if (m.n_probability && !(m.probability[i] >= 0 && m.probability[i] <= 1))
            return st_fail(e, BAD, "tree_probability[%zu]: %g is outside 0 .. 1", i, (double)m.probability[i]);
    }
    *t = (token_tree){.n_nodes = (uint32_t)n, .token = m.token, .parent = m.parent, .probability = m.probability};
    return ST_OK;
}

static st_code decode_work(wire_work *m, arena *a, proto_work *w, st_error *e) {
    if (!m->seq) return st_fail(e, BAD, "seq: 0 is none");
    if (!m->n_prefix) return st_fail(e, BAD, "n_prefix: 0; expected 1 or more");
    if ((uint64_t)m->start + m->n_prefix > PROTO_MAX_PROMPT_TOKENS)
        return st_fail(e, BAD, "n_prefix: %u from %u is over %d tokens", m->n_prefix, m->start, PROTO_MAX_PROMPT_TOKENS);
    if (m->n_block_generation != m->n_block_index)
        return st_fail(e, BAD, "block_generation: %zu for %zu blocks", m->n_block_generation, m->n_block_index);
    if (m->n_block_index > PROTO_MAX_PROMPT_TOKENS / NOUNS_BLOCK_TOKENS)
        return st_fail(e, BAD, "block_index: %zu blocks are over %d", m->n_block_index,
                       PROTO_MAX_PROMPT_TOKENS / NOUNS_BLOCK_TOKENS);
    block_id *blocks = arena_alloc(a, m->n_block_index, sizeof *blocks);
    if (!blocks) return st_fail(e, ST_FATAL_MEMORY, "block_index: no memory left for %zu blocks", m->n_block_index);
    for (size_t i = 0; i < m->n_block_index; i++) blocks[i] = (block_id){m->block_index[i], m->block_generation[i]};
    w->seq.value = m->seq;
    w->start = m->start;
    w->n_prefix = m->n_prefix;
    w->n_blocks = (uint32_t)m->n_block_index;
    w->blocks = blocks;
    return decode_tree(TREE_OF(m), &w->tree, e);
}

static st_code decode_draft(const wire_draft *m, proto_draft *d, st_error *e) {
    if (!m->seq) return st_fail(e, BAD, "seq: 0 is none");
    if (m->n_tokens > PROTO_MAX_PROMPT_TOKENS)
        return st_fail(e, BAD, "tokens: %zu are over %d", m->n_tokens, PROTO_MAX_PROMPT_TOKENS);
    if (m->budget > NOUNS_MAX_TREE) return st_fail(e, BAD, "budget: %u nodes are over %d", m->budget, NOUNS_MAX_TREE);
    if (m->n_tentative > NOUNS_MAX_TREE)
        return st_fail(e, BAD, "tentative: %zu tokens are over %d", m->n_tentative, NOUNS_MAX_TREE);
    if (m->hidden_at_end && (m->n_tentative == 0 || m->hidden.len == 0))
        return st_fail(e, BAD, "hidden_at_end: without tentative tokens, or without a hidden state");
    *d = (proto_draft){.seq = {m->seq},
                       .n_tokens = (uint32_t)m->n_tokens,
                       .tokens = m->tokens,
                       .budget = m->budget,
                       .n_tentative = (uint32_t)m->n_tentative,
                       .tentative = m->tentative,
                       .hidden_at_end = m->hidden_at_end};
    return proto_wire_take_hidden("hidden", m->hidden, 1, &d->hidden, BAD, e);
}

static st_code check_plan(const wire_plan *m, st_error *e) {
    if (!m->id) return st_fail(e, BAD, "id: 0; plans count from 1");
    if (m->kind != PROTO_PLAN_STEP && m->kind != PROTO_PLAN_DRAFT) return st_fail(e, BAD, "kind: %u is unknown", m->kind);
    if (m->n_close > PROTO_MAX_RUNNING) return st_fail(e, BAD, "close: %zu are over %d", m->n_close, PROTO_MAX_RUNNING);
    if (m->n_open > PROTO_MAX_RUNNING) return st_fail(e, BAD, "open: %zu are over %d", m->n_open, PROTO_MAX_RUNNING);
    if (m->n_work > PROTO_MAX_PLAN_SEQUENCES)
        return st_fail(e, BAD, "work: %zu are over %d", m->n_work, PROTO_MAX_PLAN_SEQUENCES);
    if (m->n_draft > PROTO_MAX_PLAN_SEQUENCES)
        return st_fail(e, BAD, "draft: %zu are over %d", m->n_draft, PROTO_MAX_PLAN_SEQUENCES);
    if (m->kind == PROTO_PLAN_STEP && m->n_draft) return st_fail(e, BAD, "draft: %zu in a plan for a verifier", m->n_draft);
    if (m->kind == PROTO_PLAN_STEP && m->ahead) return st_fail(e, BAD, "ahead: in a plan for a verifier");
    if (m->kind == PROTO_PLAN_DRAFT && m->early) return st_fail(e, BAD, "early: in a plan for a drafter");
    if (m->kind == PROTO_PLAN_DRAFT && m->n_work) return st_fail(e, BAD, "work: %zu in a plan for a drafter", m->n_work);
    if (m->n_swap_block > NOUNS_MAX_SWAPS)
        return st_fail(e, BAD, "swap_block: %zu are over %d", m->n_swap_block, NOUNS_MAX_SWAPS);
    if (m->n_swap_slot != m->n_swap_block || m->n_swap_in != m->n_swap_block)
        return st_fail(e, BAD, "swap_slot, swap_in: %zu and %zu for %zu blocks", m->n_swap_slot, m->n_swap_in, m->n_swap_block);
    if (m->kind == PROTO_PLAN_DRAFT && m->n_swap_block)
        return st_fail(e, BAD, "swap_block: %zu in a plan for a drafter", m->n_swap_block);
    for (size_t i = 0; i < m->n_close; i++)
        if (!m->close[i]) return st_fail(e, BAD, "close[%zu]: 0 is none", i);
    return ST_OK;
}

static st_code decode_lists(const wire_plan *m, arena *a, proto_plan *p, st_error *e) {
    proto_open *open = arena_alloc(a, m->n_open, sizeof *open);
    proto_work *work = arena_alloc(a, m->n_work, sizeof *work);
    proto_draft *draft = arena_alloc(a, m->n_draft, sizeof *draft);
    block_swap *swaps = arena_alloc(a, m->n_swap_block, sizeof *swaps);
    if (!open || !work || !draft || !swaps)
        return st_fail(e, ST_FATAL_MEMORY, "no memory left for %zu opens, %zu works, %zu drafts and %zu swaps", m->n_open,
                       m->n_work, m->n_draft, m->n_swap_block);
    for (size_t i = 0; i < m->n_swap_block; i++) swaps[i] = (block_swap){m->swap_block[i], m->swap_slot[i], m->swap_in[i]};
    for (size_t i = 0; i < m->n_open; i++)
        if (decode_open(m->open[i], &open[i], e)) return st_prefix(e, "open[%zu]", i);
    for (size_t i = 0; i < m->n_work; i++)
        if (decode_work(m->work[i], a, &work[i], e)) return st_prefix(e, "work[%zu]", i);
    for (size_t i = 0; i < m->n_draft; i++)
        if (decode_draft(m->draft[i], &draft[i], e)) return st_prefix(e, "draft[%zu]", i);
    *p = (proto_plan){.id = m->id,
                      .kind = (proto_plan_kind)m->kind,
                      .n_swaps = (uint32_t)m->n_swap_block,
                      .n_close = (uint32_t)m->n_close,
                      .n_open = (uint32_t)m->n_open,
                      .n_work = (uint32_t)m->n_work,
                      .n_draft = (uint32_t)m->n_draft,
                      .swaps = swaps,
                      .close = (const seq_id *)m->close, /* seq_id is one uint64_t */
                      .open = open,
                      .work = work,
                      .draft = draft,
                      .ahead = m->ahead,
                      .early = m->early};
    return ST_OK;
}

st_code proto_plan_decode(const uint8_t *bytes, size_t n, arena *a, proto_plan *out, st_error *e) {
    st_error own; /* prefixes need one */
    size_t mark = a->used_bytes;
    wire_plan *m;
    if (!e) e = &own;
    st_code code = proto_wire_unpack(&consort__control__v1__plan__descriptor, bytes, n, a, BAD, ST_FATAL_MEMORY, &m, e);
    if (code) return code;
    code = check_plan(m, e);
    if (!code) code = decode_lists(m, a, out, e);
    if (!code) return ST_OK;
    arena_reset(a, mark);
    return st_prefix(e, "Plan");
}

/* ---- result ---- */
static void encode_logprobs(const token_logprobs *l, uint32_t n_tokens, wire_item *m) {
    if (!l->own) return;
    m->n_logprobs = n_tokens;
    m->n_top_tokens = m->n_top_logprobs = (size_t)n_tokens * l->n_top;
    m->logprobs = (float *)(uintptr_t)l->own;
    m->top_tokens = packed(l->top);
    m->top_logprobs = (float *)(uintptr_t)l->top_log;
}

st_code proto_result_encode(const proto_result *r, proto_bytes *out) {
    wire_result m = CONSORT__CONTROL__V1__RESULT__INIT;
    size_t n_nodes = 0;
    for (uint32_t i = 0; i < r->n_items; i++) n_nodes += r->items[i].tree.n_nodes;
    void *memory = mem_alloc(r->n_items * (sizeof(wire_item) + sizeof(wire_item *)) + n_nodes * sizeof(uint32_t), 1);
    if (!memory) return ST_FATAL_MEMORY;
    wire_item *items = memory, **list = (wire_item **)(items + r->n_items);
    uint32_t *parents = (uint32_t *)(list + r->n_items);
    for (uint32_t i = 0; i < r->n_items; i++) {
        const proto_item *from = &r->items[i];
        wire_item *to = list[i] = &items[i];
        consort__control__v1__item__init(to);
        to->seq = from->seq.value;
        to->code = (uint32_t)from->code;
        to->layer = from->layer;
        to->n_tokens = from->n_tokens;
        to->tokens = packed(from->tokens);
        encode_logprobs(&from->logprobs, from->n_tokens, to);
        to->hidden = proto_wire_hidden(&from->hidden, from->n_tokens);
        to->n_scored = from->n_scored;
        to->n_hits = from->n_hits;
        parents = ENCODE_TREE(&from->tree, parents, to);
    }
    m.plan_id = r->plan_id;
    m.step_ns = r->step_ns;
    m.swap_out_ns = r->swap_out_ns;
    m.swap_in_ns = r->swap_in_ns;
    m.n_rows = r->n_rows;
    m.n_moved = r->n_moved;
    m.n_items = r->n_items;
    m.items = list;
    st_code code = proto_wire_pack(&m.base, out);
    mem_free(memory);
    return code;
}

static st_code decode_item(wire_item *m, proto_item *i, st_error *e) {
    if (!m->seq) return st_fail(e, BAD, "seq: 0 is none");
    if (m->code >= ST_N_CODES) return st_fail(e, BAD, "code: %u is outside 0 .. %d", m->code, ST_N_CODES - 1);
    if (m->n_tokens > NOUNS_MAX_TREE + 1) return st_fail(e, BAD, "tokens: %zu are over %d", m->n_tokens, NOUNS_MAX_TREE + 1);
    if (m->n_hits > m->n_scored) return st_fail(e, BAD, "n_hits: %u are over n_scored %u", m->n_hits, m->n_scored);
    *i = (proto_item){.seq = {m->seq},
                      .code = (st_code)m->code,
                      .layer = m->layer,
                      .n_tokens = (uint32_t)m->n_tokens,
                      .tokens = m->tokens,
                      .n_scored = m->n_scored,
                      .n_hits = m->n_hits};
    wire_logprobs logs = {m->n_logprobs, m->n_top_tokens, m->n_top_logprobs, m->logprobs, m->top_logprobs, m->top_tokens};
    st_code code = proto_wire_logprobs(logs, m->n_tokens, &i->logprobs, BAD, e);
    if (!code) code = proto_wire_take_hidden("hidden", m->hidden, m->n_tokens, &i->hidden, BAD, e);
    return code ? code : decode_tree(TREE_OF(m), &i->tree, e);
}

static st_code decode_items(const wire_result *m, arena *a, proto_result *r, st_error *e) {
    if (!m->plan_id) return st_fail(e, BAD, "plan_id: 0; plans count from 1");
    if (m->n_items > PROTO_MAX_PLAN_SEQUENCES)
        return st_fail(e, BAD, "items: %zu are over %d", m->n_items, PROTO_MAX_PLAN_SEQUENCES);
    proto_item *items = arena_alloc(a, m->n_items, sizeof *items);
    if (!items) return st_fail(e, ST_FATAL_MEMORY, "items: no memory left for %zu", m->n_items);
    for (size_t i = 0; i < m->n_items; i++)
        if (decode_item(m->items[i], &items[i], e)) return st_prefix(e, "items[%zu]", i);
    *r = (proto_result){.plan_id = m->plan_id,
                        .step_ns = m->step_ns,
                        .swap_out_ns = m->swap_out_ns,
                        .swap_in_ns = m->swap_in_ns,
                        .n_rows = m->n_rows,
                        .n_moved = m->n_moved,
                        .n_items = (uint32_t)m->n_items,
                        .items = items};
    return ST_OK;
}

st_code proto_result_decode(const uint8_t *bytes, size_t n, arena *a, proto_result *out, st_error *e) {
    st_error own; /* prefixes need one */
    size_t mark = a->used_bytes;
    wire_result *m;
    if (!e) e = &own;
    st_code code = proto_wire_unpack(&consort__control__v1__result__descriptor, bytes, n, a, BAD, ST_FATAL_MEMORY, &m, e);
    if (code) return code;
    code = decode_items(m, a, out, e);
    if (!code) return ST_OK;
    arena_reset(a, mark);
    return st_prefix(e, "Result");
}
