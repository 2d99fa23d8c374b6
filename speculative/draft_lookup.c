/* Lookup: the longest suffix of the text that stood in it before, and what followed there (prompt lookup decoding; the suffix
 * drafter of REST, arXiv 2311.08252, over the request itself).
 *
 * No index: a scan from the end compares against the last token first, so 8,000 tokens cost 11 microseconds, and there is no
 * state to keep, move or lose. The scan ends at the first match of max_match tokens; the latest of the longest wins. Where the
 * copy reaches the end of the text it goes on through the draft itself, so that a text that repeats with any period is followed
 * to the budget's end. The probability of a node is the measured acceptance after a match of that length
 * (bench/drafters-2026-11-24.md); each accepted node makes the match a token longer. Temperature has no say: there is only one
 * candidate. */
#include "speculative/speculative.h"

enum { MAX_MATCH = 16 };

/* How often a draft token after a match of 1, 2, ... tokens was the target's choice: the 1,069 training answers of
 * shared/workloads/answers, all domains, chain position included as length. */
static const float belief[] = {0.25f, 0.57f, 0.68f, 0.71f, 0.77f, 0.92f};
enum { N_BELIEFS = sizeof belief / sizeof *belief };

typedef struct {
    uint32_t length; /* tokens that agree, 0: none */
    uint32_t next;   /* index of the token behind the earlier occurrence */
} match;

/* The latest longest earlier occurrence of the suffix of tokens[0, n). */
static match find(const spec_lookup_options *o, const uint32_t *tokens, uint32_t n) {
    match best = {0};
    for (uint32_t end = n - 1; end > best.length && best.length < o->max_match; end--) { /* compares tokens[.., end) */
        uint32_t length = 0, limit = end < o->max_match ? end : o->max_match;
        while (length < limit && tokens[end - 1 - length] == tokens[n - 1 - length]) length++;
        if (length > best.length) best = (match){length, end};
    }
    return best.length >= o->min_match ? best : (match){0};
}

void spec_lookup(const spec_lookup_options *o, const uint32_t *tokens, uint32_t n_tokens, uint32_t budget, spec_tree *out) {
    out->n = 0;
    if (!n_tokens || !budget) return;
    match m = find(o, tokens, n_tokens);
    if (!m.length) return;
    float path = 1;
    for (uint32_t i = 0; i < budget && i < NOUNS_MAX_TREE; i++) {
        uint32_t at = m.next + i, length = m.length + i;
        float p = belief[length < N_BELIEFS ? length - 1 : N_BELIEFS - 1];
        path *= p;
        if (path < o->floor) return;
        spec_tree_add(out, i ? i - 1 : NOUNS_TREE_ROOT, at < n_tokens ? tokens[at] : out->token[at - n_tokens], p);
    }
}

static void score(const spec_lookup_options *o, spec_draft *item) {
    uint32_t n = item->n_new < SPEC_MAX_SCORED ? item->n_new : SPEC_MAX_SCORED;
    for (uint32_t at = item->n_tokens - n; at < item->n_tokens; at++) {
        match m = at ? find(o, item->tokens, at) : (match){0};
        if (!m.length) continue;
        item->n_scored++;
        item->n_hits += item->tokens[m.next] == item->tokens[at];
    }
}

static st_code draft(spec_drafter *d, spec_draft *items, uint32_t n, st_error *e) {
    const spec_lookup_options *o = &((const spec_lookup_drafter *)d)->options;
    (void)e;
    for (uint32_t i = 0; i < n; i++) {
        items[i].n_scored = items[i].n_hits = 0;
        score(o, &items[i]);
        spec_lookup(o, items[i].tokens, spec_draft_end(&items[i]), items[i].budget, items[i].tree);
    }
    return ST_OK;
}

static void forget(spec_drafter *d, seq_id seq) { (void)d, (void)seq; } /* nothing is kept */
static void destroy(spec_drafter *d) { (void)d; }                       /* the storage is the caller's */

spec_drafter *spec_lookup_init(spec_lookup_drafter *storage, const spec_lookup_options *o) {
    static const spec_drafter_ops ops = {.name = "lookup", .draft = draft, .close = forget, .destroy = destroy};
    INVARIANT(o->min_match && o->min_match <= o->max_match && o->max_match <= MAX_MATCH);
    *storage = (spec_lookup_drafter){.drafter.ops = &ops, .options = *o};
    return &storage->drafter;
}
