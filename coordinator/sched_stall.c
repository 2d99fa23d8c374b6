/* How long prompts may keep decoding sequences waiting.
 *
 * A step lasts until its last row is computed, so rows of prompts make each decoding stream in it wait. Those that decode come
 * first, with their drafts; prompts together get what keeps all but few steps within limits.max_stall_ns (spec_stall), and LEAST
 * rows at any rate, since a prompt is somebody's wait too: where those take longer, or the decoding rows alone do, the bound
 * gives way. What the swaps before them are expected to take counts with them. The last row of a prompt counts with the decoding
 * ones: a token is chosen at it, and where the vocabulary is large that is most of what it takes.
 *
 * A stream whose drafts are awaited waits for a step of prompts alone too, if they come meanwhile: such a step has no decoding
 * rows to be told by, and gets as many as prompts alone, by the mean of what they took, would fill SPARE of that time with. Pure
 * arithmetic. */
#include "coordinator/sched_int.h"

#define SPARE 0.8
enum { LEAST = 8 };

static uint32_t rows_alone(const sched_group *g, uint64_t bound_ns) {
    double n = g->prompt_ns > 0 ? SPARE * (double)bound_ns / g->prompt_ns : 0;
    return n < (double)g->s->limits.max_rows ? (uint32_t)n : g->s->limits.max_rows;
}

uint32_t sched_prompt_room(const sched_group *g, const sched_flight *f) {
    const sched_limits *l = &g->s->limits;
    uint32_t left = l->max_rows - f->n_rows, taken = f->n_rows - f->n_decoding, n_prompt = f->n_rows - f->n_choosing;
    if (l->max_stall_ns == 0 || (f->n_decoding == 0 && g->lists[SCHED_DRAFTING].n == 0)) return left;
    uint64_t swap_ns = (uint64_t)f->swap_ns, bound_ns = swap_ns < l->max_stall_ns ? l->max_stall_ns - swap_ns : 0;
    uint32_t least = taken < LEAST ? LEAST - taken : 0, n;
    if (f->n_decoding > 0) {
        n = spec_stall_rows(&g->stall, &g->cost, f->n_choosing, n_prompt + left, bound_ns);
        n = n > n_prompt ? n - n_prompt : 0;
    } else {
        n = rows_alone(g, bound_ns);
        n = n > taken ? n - taken : 0;
    }
    if (n < least) n = least;
    return n < left ? n : left;
}

bool sched_fit_a_step(const sched_group *g, double n_tokens) {
    const sched_limits *l = &g->s->limits;
    uint32_t n = sched_n_running(g), n_rows = n < l->max_batch ? n : l->max_batch;
    const sched_flight step = {.n_rows = n_rows, .n_decoding = n_rows, .n_choosing = n_rows};
    return n_tokens <= sched_prompt_room(g, &step) && (n == 0 || n_tokens <= l->prefill_chunk);
}

void sched_learn_stall(sched_group *g, const sched_flight *f) {
    uint64_t step_ns = g->s->now_ns - f->sent_ns;
    sched_stats *stats = &g->s->stats;
    if ((f->n_decoding == 0 && !f->others_draft) || f->n_rows == f->n_decoding) return;
    if (f->n_decoding > 0) spec_stall_learn(&g->stall, &g->cost, f->n_choosing, f->n_rows - f->n_choosing, step_ns);
    stats->mixed_steps++;
    stats->mixed_ns += step_ns;
    if (g->s->limits.max_stall_ns > 0 && step_ns > g->s->limits.max_stall_ns) stats->mixed_over++;
    if (step_ns > stats->longest_mixed_ns) stats->longest_mixed_ns = step_ns;
}
