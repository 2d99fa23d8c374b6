/* The drafters of random schedules: as strict as those of a cluster, and of all kinds: right, wrong, both, or nonsense. */
#ifndef CONSORT_TESTS_SCHEDULES_DRAFTERS_H
#define CONSORT_TESTS_SCHEDULES_DRAFTERS_H

#include "tests/unit/coordinator_core/schedules.h"

static inline uint32_t add_node(drafter *d, uint32_t i, uint32_t parent, uint32_t token, float probability) {
    uint32_t n = d->items[i].tree.n_nodes++;
    d->parents[i][n] = parent;
    d->tokens[i][n] = token;
    d->probabilities[i][n] = probability;
    return n;
}

/* The right tokens, or wrong ones, or right ones with wrong ones beside them. */
static inline void propose(world *w, drafter *d, uint32_t i, const uint32_t *known, uint32_t n_known, uint32_t budget) {
    uint32_t tokens[CONTEXT + 2 * NOUNS_MAX_TREE], parent = NOUNS_TREE_ROOT;
    memcpy(tokens, known, n_known * sizeof *tokens);
    while (d->items[i].tree.n_nodes < budget) {
        uint32_t right = next_token(tokens, n_known), wrong = (right + 1 + d->items[i].tree.n_nodes) % VOCABULARY;
        float probability = (float)draw(w, 101) / 100;
        if (d->nature == WRONG || (d->nature != RIGHT && draw(w, 3) == 0)) {
            uint32_t node = add_node(d, i, parent, wrong, probability);
            if (draw(w, 4) == 0) return;
            if (d->nature == WRONG && draw(w, 2)) parent = node;
        } else {
            parent = add_node(d, i, parent, right, probability);
            tokens[n_known++] = right;
        }
    }
}

static inline void garble_draft(world *w, drafter *d, uint32_t i) {
    proto_item *item = &d->items[i];
    uint32_t last = item->tree.n_nodes ? item->tree.n_nodes - 1 : 0;
    switch (draw(w, 9)) {
    case 0: item->seq.value += 1 + draw(w, 3); break;
    case 1: item->code = ST_ERR_NO_BLOCKS; break;
    case 2: item->tree.n_nodes = w->limits.max_tree + 1; break;
    case 3: d->parents[i][last] = last; break;
    case 4: d->tokens[i][last] = VOCABULARY + draw(w, 1000); break;
    case 5: d->probabilities[i][last] = draw(w, 2) ? 1.5F : -1; break;
    case 6: d->tokens[i][0] = d->tokens[i][last], d->parents[i][last] = NOUNS_TREE_ROOT; break;
    case 7: d->result.n_items = i; break;
    default: break; /* right, for once */
    }
}

static inline void draft(world *w, drafter *d, const proto_draft *ask, uint32_t i) {
    const client *c = &w->clients[ask->seq.value - 1];
    CHECK(w, ask->seq.value >= 1 && ask->seq.value <= w->n_sent && d->sequences[ask->seq.value - 1].open && !c->over);
    uint32_t *tokens = d->sequences[ask->seq.value - 1].tokens, *n = &d->sequences[ask->seq.value - 1].n;
    memcpy(tokens + *n, ask->tokens, ask->n_tokens * sizeof *tokens);
    *n += ask->n_tokens;
    uint32_t n_prompt = *n < c->n_prompt ? *n : c->n_prompt; /* a long one comes in parts */
    CHECK(w, memcmp(tokens, c->prompt, n_prompt * sizeof *tokens) == 0 && *n - n_prompt <= c->n_alone);
    CHECK(w, memcmp(tokens + n_prompt, c->alone, (*n - n_prompt) * sizeof *tokens) == 0);
    CHECK(w, (ask->budget == 0 || *n >= c->n_prompt) && drafted_for(c));
    CHECK(w, w->limits.draft_ahead == SCHED_AHEAD_ON || ask->budget <= w->limits.max_tree);
    CHECK(w, w->limits.draft_ahead || w->limits.fusion != SCHED_LOCKSTEP || ask->budget <= 1);
    CHECK(w, w->limits.draft_ahead || w->limits.fusion != SCHED_MERGE || ask->n_tentative == 0);
    w->n_agreed += w->limits.fusion != SCHED_MERGE && ask->budget == 1 && ask->n_tentative > 0;
    uint32_t most_tentative = w->limits.max_tree + (w->limits.draft_ahead == SCHED_AHEAD_EARLY); /* its own choice */
    CHECK(w, ask->n_tentative <= most_tentative && (!ask->n_tentative || *n + ask->n_tentative + 1 < CONTEXT));
    for (uint32_t k = 0; k < i; k++) CHECK(w, d->items[k].seq.value != ask->seq.value);
    memcpy(tokens + *n, ask->tentative, ask->n_tentative * sizeof *tokens); /* the next call overwrites them */
    uint32_t n_before = *n + (ask->hidden_at_end ? ask->n_tentative : 0);   /* the state's token with them */
    CHECK(w, !ask->hidden_at_end || (ask->hidden.f16 && ask->n_tentative > 0 && w->limits.draft_ahead == SCHED_AHEAD_EARLY));
    bool wants = n_before > c->n_prompt && (w->limits.want_hidden >> (d - w->drafters) & 1); /* of a prompt nothing was chosen */
    CHECK(w, ask->hidden.f16 ? wants : !wants || ask->budget == 0);
    CHECK(w, wants || ask->budget == 0 || !(w->limits.want_hidden >> (d - w->drafters) & 1));
    if (ask->hidden.f16) {
        uint16_t state[DIM];
        state_after(tokens, n_before - 1, state);
        CHECK(w, ask->hidden.dim == DIM && memcmp(ask->hidden.f16, state, sizeof state) == 0);
    }
    d->items[i] = (proto_item){.seq = ask->seq};
    d->items[i].tree = (token_tree){.token = d->tokens[i], .parent = d->parents[i], .probability = d->probabilities[i]};
    propose(w, d, i, tokens, *n + ask->n_tentative, ask->budget);
    uint32_t n_blocks = kv_blocks_for((uint64_t)*n + ask->n_tentative + ask->budget);
    if (d->sequences[ask->seq.value - 1].n_blocks < n_blocks) d->sequences[ask->seq.value - 1].n_blocks = n_blocks;
}

/* Blocks that its model's KV cache has by now; each must be there. */
static inline void check_cache(world *w, const drafter *d) {
    uint32_t n = 0, total = w->limits.drafter_blocks[d - w->drafters];
    for (uint32_t i = 0; i < CLIENTS; i++) n += d->sequences[i].open ? d->sequences[i].n_blocks : 0;
    CHECK(w, total == 0 || n <= total);
}

static inline void carry_out_draft(world *w, drafter *d, const proto_plan *p) {
    CHECK(w, d->up && p->kind == PROTO_PLAN_DRAFT && p->n_work == 0 && !w->drained);
    CHECK(w, d->result.plan_id == 0 || (d->ahead && !d->dropped));
    d->dropped = d->result.plan_id;
    d->ahead = p->ahead;
    CHECK(w, p->n_draft <= w->limits.max_batch && p->n_open <= p->n_draft && p->n_draft + p->n_close > 0);
    for (uint32_t i = 0; i < p->n_close; i++) {
        CHECK(w, d->sequences[p->close[i].value - 1].open);
        d->sequences[p->close[i].value - 1].open = false;
        d->sequences[p->close[i].value - 1].was_closed = true;
    }
    for (uint32_t i = 0; i < p->n_open; i++) {
        uint64_t at = p->open[i].seq.value - 1;
        CHECK(w, !d->sequences[at].open);
        d->sequences[at].open = true;
        d->sequences[at].n_blocks = 0;
        w->n_again += d->sequences[at].was_closed;
        uint32_t n_prompt = w->clients[at].n_prompt, n_tokens = p->open[i].n_tokens;
        CHECK(w, p->open[i].n_answered == (n_tokens > n_prompt ? n_tokens - n_prompt : 0));
        CHECK(w, p->open[i].rules.ends == w->clients[at].ends);
        d->sequences[at].n = p->open[i].n_tokens;
        memcpy(d->sequences[at].tokens, p->open[i].tokens, p->open[i].n_tokens * sizeof *d->sequences[at].tokens);
    }
    uint32_t n_open = 0, n_tokens = 0;
    for (uint32_t i = 0; i < CLIENTS; i++) n_open += d->sequences[i].open;
    for (uint32_t i = 0; i < p->n_open; i++) n_tokens += p->open[i].n_tokens;
    for (uint32_t i = 0; i < p->n_draft; i++) n_tokens += p->draft[i].n_tokens;
    CHECK(w, n_open <= w->limits.n_groups * w->limits.max_running && n_tokens <= w->limits.max_rows);
    d->result = (proto_result){.plan_id = p->id, .n_items = p->n_draft, .items = d->items};
    for (uint32_t i = 0; i < p->n_draft; i++) draft(w, d, &p->draft[i], i);
    check_cache(w, d);
    for (uint32_t i = 0; i < d->result.n_items && d->nature == NONSENSE; i++) garble_draft(w, d, i);
}

#endif
