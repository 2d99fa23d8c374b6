#include "worker/draft_step.h"

#include "base/mem.h"
#include <string.h>

enum { FIRST_TOKENS = 1024 };

typedef struct {
    seq_id id; /* value 0: unused */
    sampling sampling;
    uint32_t *tokens; /* [capacity] */
    uint32_t n_tokens, n_new, capacity;
} sequence;

struct draft_step {
    draft_step_options o;
    sequence *sequences; /* [max_sequences], as are the next three */
    spec_draft *drafts;
    spec_tree *trees;
    proto_item *items;
    bool (*stop)(void *context);
    void *stop_context;
};

st_code draft_step_create(const draft_step_options *o, draft_step **out) {
    draft_step *d = mem_alloc(1, sizeof *d);
    if (!d) return ST_FATAL_MEMORY;
    d->o = *o;
    d->sequences = mem_alloc(o->max_sequences, sizeof *d->sequences);
    d->drafts = mem_alloc(o->max_sequences, sizeof *d->drafts);
    d->trees = mem_alloc(o->max_sequences, sizeof *d->trees);
    d->items = mem_alloc(o->max_sequences, sizeof *d->items);
    if (!d->sequences || !d->drafts || !d->trees || !d->items) {
        draft_step_destroy(d);
        return ST_FATAL_MEMORY;
    }
    *out = d;
    return ST_OK;
}

void draft_step_stops(draft_step *d, bool (*stop)(void *context), void *context) {
    d->stop = stop;
    d->stop_context = context;
}

void draft_step_destroy(draft_step *d) {
    if (!d) return;
    for (uint32_t i = 0; d->sequences && i < d->o.max_sequences; i++) mem_free(d->sequences[i].tokens);
    mem_free(d->sequences);
    mem_free(d->drafts);
    mem_free(d->trees);
    mem_free(d->items);
    mem_free(d);
}

static sequence *find(draft_step *d, uint64_t id) {
    for (uint32_t i = 0; i < d->o.max_sequences; i++)
        if (d->sequences[i].id.value == id) return &d->sequences[i];
    return NULL;
}

static st_code reserve(sequence *q, uint64_t n, st_error *e) {
    if (n <= q->capacity) return ST_OK;
    if (n > PROTO_MAX_PROMPT_TOKENS)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu would have %llu tokens, over %d", (unsigned long long)q->id.value,
                       (unsigned long long)n, PROTO_MAX_PROMPT_TOKENS);
    uint32_t capacity = q->capacity ? q->capacity : FIRST_TOKENS;
    while (capacity < n) capacity *= 2;
    uint32_t *tokens = mem_resize(q->tokens, q->capacity, capacity, sizeof *tokens);
    if (!tokens) return st_fail(e, ST_FATAL_MEMORY, "no memory for a sequence of %u tokens", capacity);
    q->tokens = tokens;
    q->capacity = capacity;
    return ST_OK;
}

/* Puts tokens behind those of the sequence, which do not count there yet. */
static st_code put_behind(const draft_step *d, sequence *q, const uint32_t *tokens, uint32_t n, st_error *e) {
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= d->o.n_vocab)
            return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: token %u is outside the vocabulary of %u",
                           (unsigned long long)q->id.value, tokens[i], d->o.n_vocab);
    st_code code = reserve(q, (uint64_t)q->n_tokens + n, e);
    if (!code && n) memcpy(q->tokens + q->n_tokens, tokens, n * sizeof *tokens);
    return code;
}

static st_code append(const draft_step *d, sequence *q, const uint32_t *tokens, uint32_t n, st_error *e) {
    st_code code = put_behind(d, q, tokens, n, e);
    if (code) return code;
    q->n_tokens += n;
    q->n_new += n;
    return ST_OK;
}

static st_code close_sequence(draft_step *d, seq_id id, st_error *e) {
    sequence *q = id.value ? find(d, id.value) : NULL;
    if (!q)
        return st_fail(e, ST_FATAL_PROTOCOL, "the plan closes sequence %llu, which is not open", (unsigned long long)id.value);
    d->o.drafter->ops->close(d->o.drafter, id);
    q->id.value = 0;
    return ST_OK;
}

static st_code open_sequence(draft_step *d, const proto_open *o, st_error *e) {
    sequence *q = find(d, 0);
    if (!o->seq.value || find(d, o->seq.value) || !q)
        return st_fail(e, ST_FATAL_PROTOCOL, "the plan opens sequence %llu, which %s", (unsigned long long)o->seq.value,
                       q ? "is open, or no id" : "is one too many");
    q->id = o->seq;
    q->sampling = o->sampling;
    q->n_tokens = q->n_new = 0;
    return append(d, q, o->tokens, o->n_tokens, e);
}

static st_code ask(draft_step *d, uint32_t i, const proto_draft *p, st_error *e) {
    sequence *q = p->seq.value ? find(d, p->seq.value) : NULL;
    for (uint32_t k = 0; q && k < i; k++)
        if (d->drafts[k].seq.value == p->seq.value) q = NULL;
    if (!q)
        return st_fail(e, ST_FATAL_PROTOCOL, "the plan asks for a draft of sequence %llu, which is not open, or twice",
                       (unsigned long long)p->seq.value);
    st_code code = append(d, q, p->tokens, p->n_tokens, e);
    if (!code) code = put_behind(d, q, p->tentative, p->n_tentative, e);
    if (code) return code;
    if (p->hidden.f16 && p->hidden.dim != d->o.dim)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu: a hidden state of %u numbers, expected %u",
                       (unsigned long long)p->seq.value, p->hidden.dim, d->o.dim);
    if (!q->n_tokens)
        return st_fail(e, ST_FATAL_PROTOCOL, "sequence %llu has no tokens to draft behind", (unsigned long long)p->seq.value);
    uint32_t n_settled = p->hidden_at_end ? p->n_tentative : 0; /* as good as committed, and what it is scored by */
    d->trees[i].n = 0;
    d->drafts[i] = (spec_draft){.seq = q->id,
                                .sampling = q->sampling,
                                .tokens = q->tokens,
                                .n_tokens = q->n_tokens + n_settled,
                                .n_tentative = p->n_tentative - n_settled,
                                .n_new = n_settled > 0 ? n_settled : q->n_new,
                                .budget = p->budget,
                                .hidden = p->hidden,
                                .tree = &d->trees[i]};
    q->n_new = 0;
    return ST_OK;
}

static st_code take_in(draft_step *d, const proto_plan *plan, st_error *e) {
    st_code code = ST_OK;
    if (plan->kind != PROTO_PLAN_DRAFT || plan->n_draft > d->o.max_sequences)
        return st_fail(e, ST_FATAL_PROTOCOL, "a plan of kind %d with %u drafts; a drafter takes kind %d with at most %u",
                       (int)plan->kind, plan->n_draft, PROTO_PLAN_DRAFT, d->o.max_sequences);
    for (uint32_t i = 0; !code && i < plan->n_close; i++) code = close_sequence(d, plan->close[i], e);
    for (uint32_t i = 0; !code && i < plan->n_open; i++) code = open_sequence(d, &plan->open[i], e);
    for (uint32_t i = 0; !code && i < plan->n_draft; i++) code = ask(d, i, &plan->draft[i], e);
    return code;
}

st_code draft_step_run(draft_step *d, const proto_plan *plan, proto_result *out, st_error *e) {
    st_code code = take_in(d, plan, e);
    if (code) return code;
    d->o.drafter->stop = plan->ahead ? d->stop : NULL;
    d->o.drafter->stop_context = d->stop_context;
    mem_step_begin();
    code = d->o.drafter->ops->draft(d->o.drafter, d->drafts, plan->n_draft, e);
    mem_step_end();
    if (code) return code;
    *out = (proto_result){.plan_id = plan->id, .n_items = plan->n_draft, .items = d->items};
    for (uint32_t i = 0; i < plan->n_draft; i++) {
        const spec_draft *it = &d->drafts[i];
        out->n_rows += it->n_new + it->n_tentative + it->tree->n;
        d->items[i] =
            (proto_item){.seq = it->seq, .tree = spec_tree_view(it->tree), .n_scored = it->n_scored, .n_hits = it->n_hits};
    }
    return ST_OK;
}
