/* What goes into a step, and what may come out of it.
 *
 * Decode first: a decoding sequence costs one row and a client waits for each of its tokens. Prompts share the rows that are
 * left, the first due first, since finishing one prompt is worth more than starting two; one whose next tokens another before it
 * computes anyway sits the step out and takes them from there. No one starves: of the places in a batch one is kept for the first
 * prompt, limits say that there is a row for each place, and decoding sequences take turns (sched_state.c). */
#include "coordinator/sched_int.h"

#include <string.h>

uint32_t sched_prompt_share(uint32_t n_left, uint32_t rows_left, uint32_t chunk, bool others_decode) {
    uint32_t n = n_left < rows_left ? n_left : rows_left;
    return others_decode && n > chunk ? chunk : n;
}

/* ---- building a plan ---- */

/* What was proposed for a decoding sequence, as one tree; `rows` of the step are free for it. NULL: none. */
static const sched_tree *draft(sched_group *g, const sched_request *r, uint32_t rows) {
    const sched *s = g->s;
    uint32_t budget = sched_most_drafts(s, r);
    if (budget > rows) budget = rows;
    if (budget == 0) return NULL;
    sched_tree *t = &g->trees[g->n_trees];
    spec_fuse(sched_proposals(s, r), NULL, s->roster.n, budget, &t->tree, t->from);
    if (t->tree.n == 0) return NULL;
    g->n_trees++;
    return t;
}

static const sched_tree *chosen(const sched_group *g, uint32_t i) {
    return g->s->limits.max_tree > 0 && g->trees[i].tree.n > 0 ? &g->trees[i] : NULL;
}

static void add_close(sched_group *g) {
    for (uint32_t i = 0; i < g->n_ended; i++) g->close[i] = g->ended[i];
    g->plan.n_close = g->n_ended;
    g->n_ended = 0;
}

/* One that was in another group before brings its answer so far: penalties and positions count on from there. */
static void add_open(sched_group *g, sched_request *r) {
    g->open[g->plan.n_open++] = (proto_open){.seq = r->seq,
                                             .seq_epoch = r->epoch,
                                             .sampling = r->sampling,
                                             .rules = r->rules,
                                             .n_tokens = r->n_known,
                                             .tokens = r->known,
                                             .n_answered = r->n_known - r->n_prompt};
    r->open = true;
}

/* The KV cache grows to hold the tree too, whether or not it is accepted; within the reservation this cannot fail. */
static void add_work(sched_group *g, sched_request *r, uint32_t n_prefix, const sched_tree *drafts) {
    token_tree tree = drafts ? spec_tree_view(&drafts->tree) : (token_tree){0};
    bool chooses = r->n_cached + n_prefix == r->n_known;
    if (!r->open) add_open(g, r);
    uint64_t n_tokens = (uint64_t)r->n_cached + n_prefix + tree.n_nodes;
    uint32_t first, n_new, n = kv_blocks_for(n_tokens);
    INVARIANT(kv_extend(g->kv, r->chain, n_tokens, &first, &n_new) == ST_OK);
    if (n < r->n_told) n = r->n_told;
    const block_id *blocks = kv_chain_blocks(g->kv, r->chain, &first); /* there may be more, taken for a move */
    g->work[g->plan.n_work++] = (proto_work){.seq = r->seq,
                                             .start = r->n_cached,
                                             .n_prefix = n_prefix,
                                             .n_blocks = n - r->n_told,
                                             .blocks = blocks + r->n_told,
                                             .tree = tree};
    g->flight.items[g->flight.n_items++] =
        (sched_asked){.slot = (uint32_t)(r - g->s->requests), .n_prefix = n_prefix, .drafts = drafts, .chooses = chooses};
    g->flight.n_rows += n_prefix + tree.n_nodes;
    if (chooses) g->flight.n_choosing += 1 + tree.n_nodes;
    r->n_told = n;
    r->last_plan = g->plan.id;
    r->n_given = 0; /* whoever was to compute it has done so, or is gone */
    r->ahead = 0;
}

/* Whether a prompt that is in the plan computes, now or later, the block that comes next for this one. */
static bool is_computed(const sched_group *g, const sched_request *r) {
    const sched *s = g->s;
    uint32_t n = r->n_cached + NOUNS_BLOCK_TOKENS;
    if (!s->limits.prefix_cache || r->move != SCHED_NO_MOVE || r->n_cached % NOUNS_BLOCK_TOKENS > 0 || n + 1 >= r->n_known)
        return false;
    for (uint32_t i = 0; i < g->flight.n_items; i++) {
        const sched_request *o = &s->requests[g->flight.items[i].slot];
        if (o->state == SCHED_PREFILL && o->n_cached < n && o->n_known >= n && !memcmp(&o->salt, &r->salt, sizeof r->salt) &&
            !memcmp(o->known, r->known, n * sizeof *r->known))
            return true;
    }
    return false;
}

/* waits: those whose next tokens lie in a slot sit the step out. */
static void add_prompts(sched_group *g, bool waits) {
    const sched_limits *l = &g->s->limits;
    uint64_t n_opened = 0; /* tokens: opens bring whole prompts, and a plan must not be longer than a message may be */
    bool others_decode = g->flight.n_decoding > 0;
    for (sched_request *r = sched_first(g, SCHED_PREFILL); r; r = sched_next(g->s, r)) {
        if (is_computed(g, r) || (waits && sched_waits_for_slots(g, r))) continue;
        uint32_t rows_left = sched_prompt_room(g, &g->flight);
        n_opened += r->open ? 0 : r->n_known;
        if (rows_left == 0 || g->plan.n_work == l->max_batch || n_opened > PROTO_MAX_PROMPT_TOKENS) break;
        add_work(g, r, sched_prompt_share(r->n_known - r->n_cached, rows_left, l->prefill_chunk, others_decode), NULL);
    }
}

uint32_t sched_places(const sched_group *g) { return g->s->limits.max_batch - (g->lists[SCHED_PREFILL].n > 0); }

bool sched_build_plan(sched_group *g) {
    sched *s = g->s;
    const sched_limits *l = &s->limits;
    g->plan = (proto_plan){.id = g->next_plan, .kind = PROTO_PLAN_STEP, .close = g->close, .open = g->open, .work = g->work};
    g->flight = (sched_flight){.items = g->flight.items};
    g->n_trees = 0;
    sched_make_room(g);
    add_close(g);
    sched_fetch(g);

    uint32_t n_decode = g->lists[SCHED_DECODE].n, places = sched_places(g);
    if (n_decode > places) n_decode = places;
    if (l->adaptive_budgets) sched_choose_drafts(g, n_decode);
    sched_request *r = sched_first(g, SCHED_DECODE);
    for (uint32_t i = 0; i < n_decode; i++, r = sched_next(s, r)) {
        uint32_t taken =
            g->flight.n_rows + (n_decode - i) + (g->lists[SCHED_PREFILL].n > 0); /* those yet to come have a row each */
        add_work(g, r, 1, l->adaptive_budgets ? chosen(g, i) : draft(g, r, l->max_rows - taken));
        if (l->adaptive_budgets && l->max_tree > 0) g->flight.items[i].offer = &g->trees[i];
    }
    for (uint32_t i = 0; i < n_decode; i++)
        sched_move(s, &s->requests[g->flight.items[i].slot], SCHED_DECODE); /* their next turn */
    g->flight.n_decoding = g->flight.n_rows;
    add_prompts(g, true);
    if (g->plan.n_work == 0 && kv_n_swaps(g->kv) == 0) add_prompts(g, false); /* nothing would come that they could wait for */
    sched_add_swaps(g);
    if (g->plan.n_work == 0 && g->plan.n_close == 0 && g->plan.n_swaps == 0) return false;
    g->plan.early = g->tells = sched_wants_early(g);
    g->flight.id = g->plan.id;
    g->flight.sent_ns = s->now_ns;
    g->flight.decodes = n_decode > 0 && n_decode == g->plan.n_work;
    g->flight.prompts = n_decode == 0;
    g->flight.others_draft = g->lists[SCHED_DRAFTING].n > 0;
    g->flight.full = n_decode == places;
    g->next_plan++;
    if (g->n_quiet > 0) g->n_quiet--;
    if (g->plan.n_work > s->stats.largest_batch) s->stats.largest_batch = g->plan.n_work;
    return true;
}

/* ---- judging a result ---- */

bool sched_answers(const sched_asked *asked, const sched_request *r, const proto_item *item) {
    if (item->seq.value != r->seq.value) return false;
    if (item->code != ST_OK) return true;
    if (item->n_tokens > 0 && r->rules.logprobs != (item->logprobs.own ? item->logprobs.n_top + 1 : 0)) return false;
    if (item->n_tokens > 0 && r->rules.hidden != (item->hidden.f16 != NULL)) return false;
    if (!asked->chooses || item->n_tokens == 0) return !asked->chooses && item->n_tokens == 0;
    uint32_t n_accepted = item->n_tokens - 1;
    if (!asked->drafts) return n_accepted == 0;
    token_tree tree = spec_tree_view(&asked->drafts->tree);
    return spec_tree_walk(&tree, item->tokens, n_accepted, NULL) == n_accepted;
}

/* Nodes of the tree count for all who proposed them. */
static void credit(proto_drafter_figures *figures, uint32_t n, const sched_tree *drafts, const uint32_t *path, uint32_t n_path) {
    for (uint32_t d = 0; d < n; d++) {
        for (uint32_t i = 0; i < drafts->tree.n; i++) figures[d].drafted += drafts->from[i] >> d & 1;
        for (uint32_t i = 0; i < n_path; i++) figures[d].accepted += drafts->from[path[i]] >> d & 1;
    }
}

static bool branches(const spec_tree *t) {
    for (uint32_t i = 1; i < t->n; i++)
        if (t->parent[i] != i - 1) return true;
    return false;
}

void sched_count_drafts(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item) {
    uint32_t n_drafted = asked->drafts ? asked->drafts->tree.n : 0, n_accepted = item->n_tokens - 1, path[NOUNS_MAX_TREE];
    sched_drafts *counts[] = {&r->drafts, &s->stats.drafts};
    for (int i = 0; i < 2; i++) {
        counts[i]->steps++;
        counts[i]->drafted += n_drafted;
        counts[i]->accepted += n_accepted;
    }
    if (n_drafted == 0) return;
    s->stats.branched_trees += branches(&asked->drafts->tree);
    token_tree tree = spec_tree_view(&asked->drafts->tree);
    spec_tree_walk(&tree, item->tokens, n_accepted, path);
    credit(r->by_drafter, s->roster.n, asked->drafts, path, n_accepted);
    credit(s->by_drafter, s->roster.n, asked->drafts, path, n_accepted);
}

uint32_t sched_newly_cached(const sched_asked *asked, const proto_item *item) {
    return asked->n_prefix + (item->n_tokens > 0 ? item->n_tokens - 1 : 0);
}

uint32_t sched_accept(const sched_request *r, const uint32_t *tokens, uint32_t n, sched_finish *finish) {
    uint32_t room = r->n_limit - r->n_known;
    *finish = SCHED_FINISH_NONE;
    for (uint32_t i = 0; i < n && i < room; i++)
        for (uint32_t e = 0; e < r->rules.n_ends; e++)
            if (tokens[i] == r->rules.ends[e]) {
                *finish = SCHED_FINISH_STOP;
                return i;
            }
    if (n < room) return n;
    *finish = SCHED_FINISH_LENGTH;
    return room;
}
