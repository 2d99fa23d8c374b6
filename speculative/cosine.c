/* Cosine: which drafters a request asks, by how sure and how near to the target's tokens they have been (Gao et al., arXiv
 * 2503.10325, adaptive request routing).
 *
 * A drafter's score is the harmonic mean of the mean belief in its own choices and of the mean cosine similarity of their
 * embeddings to those of the tokens that came: one that is near but not sure, or sure and far off, scores as low as the lesser of
 * the two. A near miss counts for something, which in spec_hedge_pick it does not. Judged are the places that it has drafted for
 * behind tokens that came, as by spec_calibration_learn; where it was asked and drafted nothing both are 0.
 *
 * While steps accept few drafts the last place goes to the drafter that was tried least (explore); else all go to the best
 * (exploit). Ties: who answers sooner, which is not in the paper's score, then the lower number, so the same events give the same
 * choice. Sums fade with a horizon of some 64 tokens. Road
 * not taken: the hits of those who are not asked; that is `hedge`. */
#include "speculative/speculative.h"

#define KEPT          (1 - 1 / 64.0f) /* a token */
#define ACCEPTED_KEPT (1 - 1 / 8.0f)  /* a step */
#define FEW           1.0f            /* accepted drafts a step, under which others are tried */

static void judge(spec_cosine *c, float belief, float similarity) {
    c->seen = c->seen * KEPT + 1;
    c->belief = c->belief * KEPT + belief;
    c->similarity = c->similarity * KEPT + (similarity > 0 ? similarity : 0);
}

/* The own choice behind a node is its first child; one of belief 0 is not the drafter's. */
static uint32_t own_choice(const spec_tree *t, uint32_t parent) {
    for (uint32_t i = parent == NOUNS_TREE_ROOT ? 0 : parent + 1; i < t->n; i++)
        if (t->parent[i] == parent && t->probability[i] > 0) return i;
    return NOUNS_TREE_ROOT;
}

void spec_cosine_learn(spec_cosine *c, const spec_tree *draft, const uint32_t *tokens, uint32_t n,
                       const spec_likeness *likeness) {
    token_tree view = spec_tree_view(draft);
    c->n_tried++;
    if (!draft->n) judge(c, 0, 0);
    for (uint32_t i = 0, at = NOUNS_TREE_ROOT; i < n; i++) {
        uint32_t own = own_choice(draft, at);
        if (own != NOUNS_TREE_ROOT)
            judge(c, draft->probability[own],
                  draft->token[own] == tokens[i] ? 1
                  : likeness->similarity         ? likeness->similarity(likeness->context, draft->token[own], tokens[i])
                                                 : 0);
        at = spec_tree_child(&view, at, tokens[i]);
        if (at == NOUNS_TREE_ROOT) return;
    }
}

void spec_cosine_accepted(float *accepted, uint32_t n) { *accepted = *accepted * ACCEPTED_KEPT + (float)n * (1 - ACCEPTED_KEPT); }

static float score_of(const spec_cosine *c) {
    float sum = c->belief + c->similarity;
    return sum > 0 ? 2 * c->belief * c->similarity / (sum * c->seen) : 0;
}

/* Above 0: `a` is to be asked rather than `b`. */
static double better(const spec_cosine *c, const double *wait_ns, bool explores, uint32_t a, uint32_t b) {
    double by = explores ? (double)c[b].n_tried - c[a].n_tried : (double)(score_of(&c[a]) - score_of(&c[b]));
    return by == 0 && wait_ns ? wait_ns[b] - wait_ns[a] : by;
}

uint32_t spec_cosine_pick(const spec_cosine *c, const double *wait_ns, uint32_t n, uint32_t candidates, float accepted) {
    uint32_t picked = 0;
    for (uint32_t k = 0; k < SPEC_COSINE_MOST; k++) {
        bool explores = accepted < FEW && k + 1 == SPEC_COSINE_MOST;
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++) {
            if (!((candidates & ~picked) >> i & 1)) continue;
            if (best == n || better(c, wait_ns, explores, i, best) > 0) best = i;
        }
        if (best == n) break;
        picked |= UINT32_C(1) << best;
    }
    return picked;
}
