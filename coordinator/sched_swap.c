/* KV blocks on disk: what goes there, when it comes back, and whether that pays.
 *
 * What: the table of a group (kv/table.c) decides which block goes to a slot, as its room is taken, and notes the copies to be
 * done; the next plan brings them to the ranks, which do them before all else in it. A prompt whose next blocks lie in slots
 * fetches them before a step, oldest first, and sits steps out as long as more of them lie there.
 * Why by plans and not by a task of its own beside them: ranks hear of all changes in one order, so that a block has one content
 * for all of them, and a step that reads it needs no waiting. The price is that a step takes longer by its swaps: what they are
 * expected to take is bounded by max_stall_ns where sequences decode, as for prompts, and by MOST_NS else; LEAST are allowed
 * whatever they take. Whether it pays is measured: ranks say what their swaps took, and a block is fetched only where that takes
 * no longer than to compute it, and goes out only where both ways together do not. What is not known is tried. What was found to
 * be too slow is believed less as time goes by, so that some day it is tried again.
 *
 * Moves (sched_move.c) read and write blocks beside plans: they begin when no swap is under way (sched_swaps_rest), and their
 * blocks are held, so no later swap has their room for another. One that begins with its prompt has blocks taken that are not
 * computed yet: what they held before may still go to a slot, with the next plan, ahead of what computes them; the move reads
 * them only behind that. */
#include "coordinator/sched_int.h"

enum {
    LEAST = 4,  /* swaps of a step, whatever they take: two blocks come back, and two make room */
    FIRST = 16, /* while it is not known what one of the ways takes */
    QUIET = 4,  /* plans */
    MOST_NS = 1000000000
};
static const double DOUBT_NS = 60e9;

static double computed_ns(const sched_group *g) { return g->prompt_ns * NOUNS_BLOCK_TOKENS; }

/* What a block takes on the average, as it is believed: what does not pay is not done, and so not measured. Half of it after
 * DOUBT_NS, so that a disk that was n times too slow is tried again after n - 1 of them. That is for whether it pays alone: what
 * such a trial may take is bounded by what was measured. */
static double believed_ns(const sched_group *g, sched_way way) {
    return g->swap_ns[way] / (1 + (double)(g->s->now_ns - g->swap_seen_ns[way]) / DOUBT_NS);
}

/* As far as both are known. */
static bool pays(const sched_group *g, double ns) { return g->prompt_ns <= 0 || ns <= computed_ns(g); }

/* What a block may take, the slower way. */
static double slower_ns(const sched_group *g) {
    const double *ns = g->swap_slow_ns;
    return ns[SCHED_OUT] > ns[SCHED_IN] ? ns[SCHED_OUT] : ns[SCHED_IN];
}

static kv_swap_rule rule_of(const sched_group *g) {
    const double *ns = g->swap_ns, slower = slower_ns(g);
    uint64_t bound_ns = MOST_NS, stall_ns = g->s->limits.max_stall_ns;
    double out_ns = believed_ns(g, SCHED_OUT), in_ns = believed_ns(g, SCHED_IN);
    kv_swap_rule rule = {.out = pays(g, out_ns + in_ns), .in = pays(g, in_ns)};
    if (g->n_quiet > 0) return rule;
    if (stall_ns > 0 && stall_ns < bound_ns && g->lists[SCHED_DECODE].n + g->lists[SCHED_DRAFTING].n > 0) bound_ns = stall_ns;
    double most = slower > 0 ? (double)bound_ns / slower : FIRST;
    if (most > FIRST && ((rule.out && ns[SCHED_OUT] <= 0) || (rule.in && ns[SCHED_IN] <= 0))) most = FIRST;
    rule.most = most < LEAST ? LEAST : most < NOUNS_MAX_SWAPS ? (uint32_t)most : NOUNS_MAX_SWAPS;
    return rule;
}

void sched_fetch(sched_group *g) {
    if (kv_total_slots(g->kv) == 0) return;
    kv_swap_rule rule = rule_of(g), fetches = rule;
    fetches.most -= rule.most / 4; /* for what makes room for the step's own blocks, which come later */
    for (sched_request *r = sched_first(g, SCHED_PREFILL); r; r = sched_next(g->s, r)) {
        kv_rule_swaps(g->kv, fetches);
        sched_share(r, kv_fetch(g->kv, r->chain, r->salt, r->known, sched_to_share(r)));
        if (!sched_waits_for_slots(g, r))
            fetches.most = rule.most / 2; /* it computes: half the time is its, whoever comes later */
    }
    kv_rule_swaps(g->kv, rule);
    g->flight.swap_ns = slower_ns(g) * kv_n_swaps(g->kv);
}

bool sched_waits_for_slots(const sched_group *g, const sched_request *r) {
    return g->n_quiet == 0 && kv_can_fetch(g->kv, r->chain, r->salt, r->known, sched_to_share(r));
}

void sched_add_swaps(sched_group *g) {
    if (kv_total_slots(g->kv) == 0) return;
    g->plan.swaps = g->swaps;
    g->plan.n_swaps = kv_take_swaps(g->kv, g->swaps);
    for (uint32_t i = 0; i < g->plan.n_swaps; i++) g->flight.n_swapped[g->swaps[i].in ? SCHED_IN : SCHED_OUT]++;
    if (g->plan.n_swaps > 0) g->last_swaps = g->plan.id;
}

void sched_expect_again(const sched_request *r) { kv_expect(r->group->kv, r->chain); }

/* Whether it pays goes by the average, which one slow step does not change much. What takes longer than was thought bounds the
 * very next step, and what takes less some later ones. */
static void learn(sched_group *g, sched_way way, double ns) {
    double *slow = &g->swap_slow_ns[way], *mean = &g->swap_ns[way], before = believed_ns(g, way);
    *mean = before > 0 ? before * 7 / 8 + ns / 8 : ns;
    *slow = *slow > ns ? *slow * 7 / 8 + ns / 8 : ns;
    g->swap_seen_ns[way] = g->s->now_ns;
}

void sched_learn_swaps(sched_group *g, sched_flight *f, const proto_result *result) {
    uint64_t left_ns = g->s->now_ns - f->sent_ns, took_ns[2] = {result->swap_out_ns, result->swap_in_ns};
    for (sched_way way = SCHED_OUT; way <= SCHED_IN; way++) {
        if (f->n_swapped[way] == 0) continue;
        uint64_t ns = took_ns[way] < left_ns ? took_ns[way] : left_ns; /* a rank's word is not trusted */
        left_ns -= ns;
        f->sent_ns += ns;
        learn(g, way, (double)ns / f->n_swapped[way]);
        *(way == SCHED_IN ? &g->stats.swap_in_ns : &g->stats.swap_out_ns) += ns;
        *(way == SCHED_IN ? &g->stats.swapped_in : &g->stats.swapped_out) += f->n_swapped[way];
    }
}

bool sched_swaps_rest(sched_group *g) {
    bool rest = kv_n_swaps(g->kv) == 0 && g->last_swaps <= g->reported;
    if (!rest) g->n_quiet = QUIET;
    return rest;
}
