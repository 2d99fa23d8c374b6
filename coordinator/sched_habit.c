/* How drafters draft, in counts: what the simulator makes its own drafters from (sim.c).
 *
 * Why beside the calibration, which counts much the same: that one forgets, so that it follows a change of subject; and its bins
 * hold all nodes of a depth, from which no tree can be made again. Limits: a draft that came late counts as none; rounds in
 * lockstep do not count; of more than two children of a node the others are passed over. */
#include "coordinator/sched_int.h"

static uint32_t bin_of(float p) {
    uint32_t bin = (uint32_t)(p * PROTO_HABIT_BINS);
    return bin < PROTO_HABIT_BINS ? bin : PROTO_HABIT_BINS - 1;
}

/* The first two children of a node, in their order; returns how many there are. */
static uint32_t children(const spec_tree *t, uint32_t parent, uint32_t out[PROTO_HABIT_RANKS]) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n && n < PROTO_HABIT_RANKS; i++)
        if (t->parent[i] == parent) out[n++] = i;
    return n;
}

static void learn(proto_habit *h, const spec_tree *t, const uint32_t *tokens, uint32_t n_tokens) {
    uint32_t node = NOUNS_TREE_ROOT, at[PROTO_HABIT_RANKS];
    for (uint32_t i = 0; i < n_tokens; i++) {
        uint32_t depth = i < PROTO_HABIT_DEPTHS ? i : PROTO_HABIT_DEPTHS - 1, n = children(t, node, at);
        if (n == 0) {
            h->none[depth]++;
            return;
        }
        for (uint32_t rank = 0; rank < n; rank++) {
            uint32_t bin = bin_of(t->probability[at[rank]]);
            h->seen[rank][depth][bin]++;
            h->hits[rank][depth][bin] += t->token[at[rank]] == tokens[i];
        }
        node = at[0];
        if (t->token[node] != tokens[i]) return;
    }
}

void sched_learn_habits(sched *s, const sched_request *r, const proto_item *item) {
    const spec_tree *proposals = sched_proposals(s, r);
    uint32_t drafting = r->lockstep ? 0 : r->asked; /* what others agreed on is no habit of its own */
    if (r->state != SCHED_DECODE) return;           /* behind a prompt there was no round */
    if (s->limits.max_tree > 0) drafting |= sched_route(s, r) & s->roster.local;
    for (uint32_t i = 0; i < s->roster.n; i++)
        if (drafting >> i & 1) learn(&s->habits[i], &proposals[i], item->tokens, item->n_tokens);
}

const proto_habit *sched_get_habit(const sched *s, uint32_t drafter) {
    INVARIANT(drafter < s->roster.n);
    return &s->habits[drafter];
}
