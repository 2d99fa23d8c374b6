#include "client/replay_route.h"

enum { FOLLOW_TOKENS = 8 /* as coordinator/sched_draft.c */ };

/* Its draft, and its hits in what it lacked of the answer. */
static void draft(replay_route *r, uint32_t drafter, const uint32_t *tokens, uint32_t at, uint32_t n_new, uint32_t budget,
                  spec_tree *tree) {
    st_error e;
    spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = at, .n_new = n_new, .budget = budget, .tree = tree}; /* greedy */
    INVARIANT(!r->drafters[drafter]->ops->draft(r->drafters[drafter], &it, 1, &e));
    uint32_t n = n_new < SPEC_MAX_SCORED ? n_new : SPEC_MAX_SCORED;
    spec_hedge_learn(&r->hits[drafter], n, it.n_hits < n ? it.n_hits : n);
}

static uint32_t best_of(const replay_route *r) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < r->n; i++)
        if (spec_hedge_share(&r->hits[i], &r->prior[i]) > spec_hedge_share(&r->hits[best], &r->prior[best])) best = i;
    return best;
}

uint32_t replay_run(replay_route *r, const uint32_t *tokens, uint32_t n_prompt, uint32_t n_tokens, replay_round *rounds) {
    uint32_t told[SPEC_MAX_DRAFTERS], n_rounds = 0;
    for (uint32_t i = 0; i < r->n; i++) r->hits[i] = (spec_tally){0}, told[i] = n_prompt;
    for (uint32_t at = n_prompt + 1; at < n_tokens; n_rounds++) {
        spec_tree trees[SPEC_MAX_DRAFTERS], joined;
        uint32_t all = (UINT32_C(1) << r->n) - 1, picked = spec_hedge_pick(r->hits, r->prior, r->n, all);
        rounds[n_rounds] = (replay_round){at - n_prompt, picked, best_of(r)};
        for (uint32_t i = 0; i < r->n; i++) {
            bool asked = picked >> i & 1;
            trees[i].n = 0;
            if (!asked && at - told[i] < FOLLOW_TOKENS) continue;
            draft(r, i, tokens, at, at - told[i], asked ? r->budget : 0, &trees[i]);
            told[i] = at;
        }
        spec_fuse(trees, NULL, r->n, r->budget, &joined, NULL);
        token_tree view = spec_tree_view(&joined);
        at += spec_tree_walk(&view, tokens + at, n_tokens - at, NULL) + 1;
    }
    return n_rounds;
}
