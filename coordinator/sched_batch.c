/* What goes into a step, and what may come out of it.
 *
 * Decode first: a decoding sequence costs one row and a client waits for each of its tokens. Prompts share the rows that are
 * left, oldest first, since finishing one prompt is worth more than starting two. No one starves: of the places in a batch one
 * is kept for the oldest prompt, limits say that there is a row for each place, and decoding sequences take turns. */
#include "coordinator/sched_int.h"

uint32_t sched_prompt_share(uint32_t n_left, uint32_t rows_left, uint32_t chunk, bool others_decode) {
    uint32_t n = n_left < rows_left ? n_left : rows_left;
    return others_decode && n > chunk ? chunk : n;
}

/* ---- building a plan ---- */

/* What was proposed for a decoding sequence, as one tree; `rows` of the step are free for it. NULL: none. */
static const sched_tree *draft(sched *s, const sched_request *r, uint32_t rows) {
    uint32_t budget = sched_most_drafts(s, r);
    if (budget > rows) budget = rows;
    if (budget == 0) return NULL;
    sched_tree *t = &s->trees[s->n_trees];
    spec_fuse(sched_proposals(s, r), NULL, s->roster.n, budget, &t->tree, t->from);
    if (t->tree.n == 0) return NULL;
    s->n_trees++;
    return t;
}

static const sched_tree *chosen(const sched *s, uint32_t i) {
    return s->limits.max_tree > 0 && s->trees[i].tree.n > 0 ? &s->trees[i] : NULL;
}

static void add_close(sched *s) {
    for (uint32_t i = 0; i < s->n_ended; i++) s->close[i] = s->ended[i];
    s->plan.n_close = s->n_ended;
    s->n_ended = 0;
}

static void add_open(sched *s, sched_request *r) {
    s->open[s->plan.n_open++] = (proto_open){
        .seq = r->seq, .seq_epoch = 1, .sampling = r->sampling, .rules = r->rules, .n_tokens = r->n_prompt, .tokens = r->prompt};
    r->open = true;
}

/* The KV cache grows to hold the tree too, whether or not it is accepted; within the reservation this cannot fail. */
static void add_work(sched *s, sched_request *r, uint32_t n_prefix, const sched_tree *drafts) {
    token_tree tree = drafts ? spec_tree_view(&drafts->tree) : (token_tree){0};
    if (!r->open) add_open(s, r);
    uint32_t first, n_new, n;
    st_code code = kv_extend(s->kv, r->chain, (uint64_t)r->n_cached + n_prefix + tree.n_nodes, &first, &n_new);
    INVARIANT(code == ST_OK);
    s->work[s->plan.n_work++] = (proto_work){.seq = r->seq,
                                             .start = r->n_cached,
                                             .n_prefix = n_prefix,
                                             .n_blocks = n_new,
                                             .blocks = kv_chain_blocks(s->kv, r->chain, &n) + first,
                                             .tree = tree};
    s->flight.items[s->flight.n_items++] = (sched_asked){.slot = (uint32_t)(r - s->requests),
                                                         .n_prefix = n_prefix,
                                                         .drafts = drafts,
                                                         .chooses = r->n_cached + n_prefix == r->n_known};
    s->flight.n_rows += n_prefix + tree.n_nodes;
    r->last_plan = s->plan.id;
    r->ahead = 0;
}

bool sched_build_plan(sched *s) {
    const sched_limits *l = &s->limits;
    s->plan = (proto_plan){.id = s->next_plan, .kind = PROTO_PLAN_STEP, .close = s->close, .open = s->open, .work = s->work};
    s->flight = (sched_flight){.items = s->flight.items};
    s->n_trees = 0;
    add_close(s);

    uint32_t n_decode = s->lists[SCHED_DECODE].n, places = l->max_batch - (s->lists[SCHED_PREFILL].n > 0);
    if (n_decode > places) n_decode = places;
    if (l->adaptive_budgets) sched_choose_drafts(s, n_decode);
    for (uint32_t i = 0; i < n_decode; i++) { /* each goes to the end of the list: they take turns */
        sched_request *r = sched_first(s, SCHED_DECODE);
        uint32_t taken =
            s->flight.n_rows + (n_decode - i) + (s->lists[SCHED_PREFILL].n > 0); /* those yet to come have a row each */
        add_work(s, r, 1, l->adaptive_budgets ? chosen(s, i) : draft(s, r, l->max_rows - taken));
        if (l->adaptive_budgets && l->max_tree > 0) s->flight.items[i].offer = &s->trees[i];
        sched_move(s, r, SCHED_DECODE);
    }
    uint64_t n_opened = 0; /* tokens: opens bring whole prompts, and a plan must not be longer than a message may be */
    for (sched_request *r = sched_first(s, SCHED_PREFILL); r; r = sched_next(s, r)) {
        uint32_t rows_left = l->max_rows - s->flight.n_rows;
        n_opened += r->open ? 0 : r->n_prompt;
        if (rows_left == 0 || s->plan.n_work == l->max_batch || n_opened > PROTO_MAX_PROMPT_TOKENS) break;
        add_work(s, r, sched_prompt_share(r->n_known - r->n_cached, rows_left, l->prefill_chunk, n_decode > 0), NULL);
    }
    if (s->plan.n_work == 0 && s->plan.n_close == 0) return false;
    s->flight.id = s->plan.id;
    s->flight.sent_ns = s->now_ns;
    s->flight.decodes = n_decode > 0 && n_decode == s->plan.n_work;
    s->next_plan++;
    if (s->plan.n_work > s->stats.largest_batch) s->stats.largest_batch = s->plan.n_work;
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
