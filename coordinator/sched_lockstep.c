/* Lockstep: drafters go on together, a token at a time, from the surest token of all (Gao et al., arXiv 2503.10325,
 * confidence-based fusion).
 *
 * What: in a round of a request each drafter that it asks drafts one token behind the committed ones and those agreed on so far.
 * When all have answered, the surest of their tokens, and of those that lookup has there, is agreed on, and all are asked again
 * behind it; until the tree's budget is as deep, the chain is believed less than draft_floor, or nobody goes on. Each drafter's
 * tokens become its tree as if it had drafted that alone: the path to them is there with belief 0, which says nothing of it. So
 * the other tokens are side branches, and fusion, calibration and division are those of `merge`.
 *
 * Sure is who is believed: by the calibrated beliefs where budgets are adaptive, else by the raw ones. Ties: the lowest drafter.
 * A round has one wait, draft_wait_ns from its beginning, for all depths together. Whoever is lost, answers nonsense or is late
 * takes no part in the depths behind; who has no token at a depth is asked at the next.
 * Where the fusion is `auto` a round is in lockstep if such rounds give more (speculative/worth.c), but never for one drafter
 * alone: there is nobody whose token it could go on from, and what it drafts alone costs one round trip. Why a depth waits for
 * all: the paper does; whoever is slow costs all depths, where with `merge` it costs one. Limits: one round trip a depth. Over
 * ways too slow for that a round ends with all of its drafters late, and nobody asks them before what they are at has come
 * (sched_draft.c). A tree of a drafter has NOUNS_MAX_TREE nodes, path included; past that its tokens are lost. */
#include "coordinator/sched_int.h"

#include <string.h>

static uint32_t bit(uint32_t drafter) { return UINT32_C(1) << drafter; }

sched_fusion sched_fusion_of(const char *name) {
    return !strcmp(name, "auto") ? SCHED_FUSION_AUTO : !strcmp(name, "lockstep") ? SCHED_LOCKSTEP : SCHED_MERGE;
}

bool sched_in_lockstep(const sched *s, const sched_request *r, uint32_t asked) {
    return s->limits.fusion == SCHED_LOCKSTEP || (r->group->lockstep && sched_several(asked));
}

uint32_t *sched_agreed(const sched *s, const sched_request *r) { return s->agreed + (size_t)r->place * s->limits.max_tree; }

/* The node at the end of what is agreed on, or NOUNS_TREE_ROOT where nothing is; false: the tree has none. */
static bool end_of(const sched *s, const sched_request *r, const spec_tree *t, uint32_t *node) {
    uint32_t path[NOUNS_MAX_TREE];
    token_tree view = spec_tree_view(t);
    if (spec_tree_walk(&view, sched_agreed(s, r), r->n_agreed, path) < r->n_agreed) return false;
    *node = r->n_agreed ? path[r->n_agreed - 1] : NOUNS_TREE_ROOT;
    return true;
}

/* The belief in it; 0: there is none. */
static float surest(const sched *s, const sched_request *r, uint32_t *token) {
    float best = 0;
    for (uint32_t i = 0; i < s->roster.n; i++) {
        const spec_tree *raw = &sched_proposals(s, r)[i];
        spec_tree calibrated;
        uint32_t parent;
        if (!end_of(s, r, raw, &parent)) continue;
        if (s->limits.adaptive_budgets) sched_calibrate(s, r, i, &calibrated);
        const spec_tree *t = s->limits.adaptive_budgets ? &calibrated : raw;
        for (uint32_t k = 0; k < t->n; k++)
            if (t->parent[k] == parent && t->probability[k] > best) best = t->probability[k], *token = t->token[k];
    }
    return best;
}

bool sched_agree(sched *s, sched_request *r) {
    uint32_t token = 0, goes_on = r->asked & s->roster.up & ~(r->given_up | s->late);
    if (r->draft_by_ns <= s->now_ns) return false; /* nor does it go on for a token that is late */
    float belief = goes_on && r->n_agreed + 1 < r->budget ? r->belief * surest(s, r, &token) : 0;
    if (belief > 0 && belief >= s->limits.draft_floor) {
        sched_agreed(s, r)[r->n_agreed++] = token;
        r->belief = belief;
        r->awaited = goes_on;
        return true;
    }
    for (uint32_t i = 0; i < s->limits.n_drafters; i++)
        if (goes_on & bit(i)) sched_learn_wait(s, i, r, true);
    return false;
}

void sched_graft(sched *s, const sched_request *r, uint32_t drafter, const spec_tree *answer) {
    spec_tree *t = &sched_proposals(s, r)[drafter];
    uint32_t at = NOUNS_TREE_ROOT;
    if (answer->n == 0 || t->n + r->n_agreed + 1 > NOUNS_MAX_TREE) return;
    for (uint32_t i = 0; i <= r->n_agreed; i++) {
        uint32_t token = i < r->n_agreed ? sched_agreed(s, r)[i] : answer->token[0];
        token_tree view = spec_tree_view(t);
        uint32_t child = spec_tree_child(&view, at, token);
        if (child == NOUNS_TREE_ROOT) child = spec_tree_add(t, at, token, 0);
        at = child;
    }
    t->probability[at] = answer->probability[0];
}
