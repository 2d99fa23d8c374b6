/* What the verifiers of random schedules tell before their results: right, wrong, of another plan, or nonsense. */
#ifndef CONSORT_TESTS_SCHEDULES_EARLY_H
#define CONSORT_TESTS_SCHEDULES_EARLY_H

#include "tests/unit/coordinator_core/schedules.h"

/* One item, from the tokens that the result will have. */
static inline void guess(world *w, const rank_sequence *r, proto_item *item, uint32_t *tokens, uint16_t (*hidden)[DIM]) {
    uint32_t before[CONTEXT + ITEM_TOKENS], n_before = r->n_known - item->n_tokens, n = item->n_tokens;
    memcpy(before, r->tokens, n_before * sizeof *before);
    item->tokens = memcpy(tokens, item->tokens, n * sizeof *tokens);
    switch (draw(w, 12)) {
    case 0: tokens[n - 1] = (tokens[n - 1] + 1) % VOCABULARY; break; /* its own choice is another */
    case 1: item->n_tokens = n -= n > 1; break;                      /* or comes earlier */
    case 2: item->seq.value++; break;
    case 3: tokens[0] = (tokens[0] + 1) % VOCABULARY; break;
    case 4: item->n_tokens = n = 0; break;
    default: break; /* right */
    }
    for (uint32_t k = 0; k < n; k++) {
        state_after(before, n_before + k, hidden[k]);
        before[n_before + k] = tokens[k];
    }
    if (item->hidden.f16) item->hidden.f16 = n > 0 ? hidden[0] : NULL;
}

/* Of the plan in flight, or one that is not. */
static inline proto_result early_of(world *w, const verifier *v, proto_item items[BATCH]) {
    static uint32_t tokens[BATCH][ITEM_TOKENS];
    static uint16_t hidden[BATCH][ITEM_TOKENS][DIM];
    proto_result early = v->result;
    memcpy(items, v->items, sizeof v->items);
    early.items = items;
    for (uint32_t i = 0; i < early.n_items; i++)
        if (items[i].n_tokens > 0) guess(w, &v->ranks[items[i].seq.value - 1], &items[i], tokens[i], hidden[i]);
    if (draw(w, 20) == 0) early.plan_id += 1 + draw(w, 2);
    if (early.n_items > 0 && draw(w, 20) == 0) early.n_items--;
    return early;
}

#endif
