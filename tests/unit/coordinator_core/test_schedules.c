/* Random schedules: many clients come, cancel, are late or ask for too much; made-up verifiers, whose next token is a hash of
 * all tokens before it, carry out the plans, check each of them as a rank would, are lost and come back, are drained and filled
 * again, and move their KV to each other, or fail to; made-up drafters propose what is right, wrong, both or nonsense, in time,
 * late or never. Every client must get exactly the tokens it gets alone, and at the end nothing is left. One seed is one run; a
 * failure names it. */
#include "tests/unit/coordinator_core/schedules_clients.h"
#include "tests/unit/coordinator_core/schedules_drafters.h"
#include "tests/unit/coordinator_core/schedules_early.h"
#include "tests/unit/coordinator_core/schedules_moves.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define N_SEEDS 500
#endif
#endif
#ifndef N_SEEDS
#define N_SEEDS 4000
#endif

/* ---- clients ---- */

/* In one of the groups; `up`: of those that are. */
static bool fits(const world *w, const client *c, bool up) {
    uint64_t n = c->max_tokens == 0 ? CONTEXT : (uint64_t)c->n_prompt + c->max_tokens;
    if (n > CONTEXT) n = CONTEXT;
    for (uint32_t g = 0; g < w->limits.n_groups; g++)
        if ((!up || w->verifiers[g].up) && kv_blocks_for(n + w->limits.max_tree) <= w->limits.n_blocks[g]) return true;
    return false;
}

/* In one that takes new requests. */
static bool fits_open(const world *w, const client *c) {
    world open = {.limits = w->limits};
    for (uint32_t g = 0; g < GROUPS; g++) open.verifiers[g].up = w->verifiers[g].up && !w->emptied[g];
    return fits(&open, c, true);
}

static bool never_fits(const world *w, const client *c) {
    return c->n_prompt == 0 || c->n_prompt >= CONTEXT || !fits(w, c, false);
}

static bool has_roles(const world *w) { return w->limits.serves[0] || w->limits.serves[1] || w->limits.serves[2]; }

static void check_figures(world *w, const client *c, const sched_action *a) {
    uint64_t drafted = 0, accepted = 0;
    for (uint32_t i = 0; i < a->n_by_drafter; i++) {
        const proto_drafter_figures *f = &a->by_drafter[i];
        CHECK(w, f->accepted <= f->drafted && f->drafted <= a->drafts.drafted);
        if (strncmp(c->speculation, "fixed:", 6) == 0 && strcmp(c->speculation + 6, f->name) != 0) CHECK(w, f->drafted == 0);
        drafted += f->drafted;
        accepted += f->accepted;
    }
    CHECK(w, drafted >= a->drafts.drafted && accepted >= a->drafts.accepted && a->drafts.accepted <= a->drafts.drafted);
    CHECK(w, drafted_for(c) || drafted == 0);
    CHECK(w, a->drafts.steps + a->drafts.accepted >= c->n_got);
}

static void check_end(world *w, client *c, const sched_action *a) {
    check_figures(w, c, a);
    CHECK(w, c->n_got <= c->n_alone && memcmp(c->got, c->alone, c->n_got * sizeof *c->got) == 0);
    CHECK(w, (a->code == ST_ERR_INVALID_ARGUMENT) == never_fits(w, c));
    if (a->finish == SCHED_FINISH_STOP || a->finish == SCHED_FINISH_LENGTH) {
        CHECK(w, a->code == ST_OK && a->finish == c->alone_finish && c->n_got == c->n_alone);
        return;
    }
    CHECK(w, a->message[0] != 0 && strlen(a->message) < sizeof a->message - 1);
    if (a->finish == SCHED_FINISH_CANCELLED) CHECK(w, c->cancelled && a->code == ST_ERR_CANCELLED);
    if (a->code == ST_ERR_DEADLINE) CHECK(w, c->deadline_ns > 0 && c->deadline_ns <= w->now_ns);
    if (a->code == ST_ERR_NUMERIC) CHECK(w, c->broken);
    if (a->code == ST_ERR_UNAVAILABLE) CHECK(w, !fits(w, c, true) || (w->arriving == c && !fits_open(w, c)));
    if (a->code == ST_ERR_INVALID_ARGUMENT || a->code == ST_ERR_RESOURCE_EXHAUSTED) CHECK(w, c->n_got == 0);
    if (a->code == ST_FATAL_PROTOCOL) CHECK(w, c->broken);
    CHECK(w, a->code != ST_OK);
}

/* ---- the verifier: as strict as a rank ---- */

static uint32_t number_of(const world *w, const verifier *v) { return (uint32_t)(v - w->verifiers); }

static rank_sequence *rank_of(world *w, verifier *v, seq_id seq) {
    CHECK(w, seq.value >= 1 && seq.value <= w->n_sent);
    return &v->ranks[seq.value - 1];
}

static uint32_t n_holders(const verifier *v, uint32_t block) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < CLIENTS; i++)
        for (uint32_t b = 0; v->ranks[i].open && b < v->ranks[i].n_blocks; b++) n += v->ranks[i].blocks[b].index == block;
    return n;
}

/* Blocks before the start hold what was computed for others, those behind it are new. */
static void take_blocks(world *w, verifier *v, rank_sequence *r, const proto_work *work) {
    if (work->start != r->n_cached)
        CHECK(w, (w->limits.prefix_cache || w->limits.max_moves > 0) && work->start > r->n_cached &&
                     work->start % NOUNS_BLOCK_TOKENS == 0 && r->n_cached == r->n_blocks * NOUNS_BLOCK_TOKENS);
    for (uint32_t b = 0; b < work->n_blocks; b++) {
        block_id id = work->blocks[b];
        bool is_shared = (r->n_blocks + 1) * NOUNS_BLOCK_TOKENS <= work->start;
        CHECK(w, id.index < w->limits.n_blocks[number_of(w, v)] && (is_shared || n_holders(v, id.index) == 0));
        CHECK(w, is_shared || !is_moving(w, number_of(w, v), id.index, work->seq.value - 1));
        bool is_known = is_shared && !v->fetched[id.index];
        CHECK(w, is_known ? id.generation == v->generation[id.index] : id.generation > v->generation[id.index]);
        v->generation[id.index] = id.generation;
        v->fetched[id.index] = false;
        r->blocks[r->n_blocks++] = id;
        w->n_shared += is_shared && v->moved_here[id.index] != id.generation;
    }
    r->n_cached = work->start;
    /* enough, and no more than a larger tree before may have asked for */
    uint64_t n = (uint64_t)r->n_cached + work->n_prefix + work->tree.n_nodes;
    CHECK(w, r->n_blocks >= kv_blocks_for(n) && r->n_blocks <= kv_blocks_for(n + w->limits.max_tree));
}

static void check_tree(world *w, const rank_sequence *r, const proto_work *work) {
    const token_tree *t = &work->tree;
    CHECK(w, t->n_nodes <= w->limits.max_tree && (t->n_nodes == 0 || drafted_for(&w->clients[work->seq.value - 1])));
    CHECK(w, t->n_nodes == 0 || work->start + work->n_prefix == r->n_known);
    for (uint32_t i = 0; i < t->n_nodes; i++) {
        CHECK(w, (t->parent[i] == NOUNS_TREE_ROOT || t->parent[i] < i) && t->token[i] < VOCABULARY);
        for (uint32_t k = 0; k < i; k++) {
            CHECK(w, t->parent[k] != t->parent[i] || t->token[k] != t->token[i]);
            w->n_branches += t->parent[k] == t->parent[i];
        }
    }
    CHECK(w, (uint64_t)r->n_known + t->n_nodes <
                 CONTEXT + (t->n_nodes == 0)); /* all of it could be accepted, and the choice after it */
}

static uint64_t *slot(verifier *v, const rank_sequence *r, uint32_t at) {
    return &v->cache[r->blocks[at / NOUNS_BLOCK_TOKENS].index * NOUNS_BLOCK_TOKENS + at % NOUNS_BLOCK_TOKENS];
}

/* Reads what is in the cache before the work, as attention would, and writes the work's rows; `bad`: they are no numbers. */
static void use_cache(world *w, verifier *v, const proto_work *work, const rank_sequence *r, uint32_t n_after, bool bad) {
    uint64_t h = w->clients[work->seq.value - 1].salt;
    uint32_t n_slots = work->start + work->n_prefix + work->tree.n_nodes;
    for (uint32_t at = 0; at < n_slots; at++) {
        h = at < n_after ? (h ^ r->tokens[at]) * UINT64_C(1099511628211) + 1 : 0; /* drafts that are not accepted are rubbish */
        if (at < work->start)
            CHECK(w, *slot(v, r, at) == h);
        else
            *slot(v, r, at) = bad ? 0 : h;
    }
    for (uint32_t b = work->start / NOUNS_BLOCK_TOKENS; b < r->n_blocks; b++) CHECK(w, n_holders(v, r->blocks[b].index) == 1);
}

static void compute(world *w, verifier *v, const proto_work *work, uint32_t i) {
    rank_sequence *r = rank_of(w, v, work->seq);
    CHECK(w, r->open && r->last_step != v->steps); /* once in a plan */
    CHECK(w, work->start >= r->n_cached && work->n_prefix >= 1 && work->start + work->n_prefix <= r->n_known);
    r->last_step = v->steps;
    take_blocks(w, v, r, work);
    r->n_cached += work->n_prefix;
    v->items[i] = (proto_item){.seq = work->seq, .tokens = v->tokens[i]};
    check_tree(w, r, work);
    if (draw(w, 3000) == 0) {
        v->items[i].code = ST_ERR_NUMERIC;
        v->items[i].layer = draw(w, 30);
        w->clients[work->seq.value - 1].broken = true;
        use_cache(w, v, work, r, r->n_cached, true);
        return;
    }
    if (r->n_cached < r->n_known) {
        use_cache(w, v, work, r, r->n_cached, false);
        return;
    }
    if (r->hidden) v->items[i].hidden = (hidden_states){DIM, v->hidden[i][0]};
    for (uint32_t node = NOUNS_TREE_ROOT;;) { /* the choice, and on along the drafts that equal it */
        state_after(r->tokens, r->n_known, v->hidden[i][v->items[i].n_tokens]);
        uint32_t t = v->tokens[i][v->items[i].n_tokens++] = r->tokens[r->n_known] = next_token(r->tokens, r->n_known);
        r->n_known++;
        node = spec_tree_child(&work->tree, node, t);
        if (node == NOUNS_TREE_ROOT) break;
        r->n_cached++;
    }
    use_cache(w, v, work, r, r->n_cached, false);
}

/* Steps, at most, that those of higher priority may have before it. */
static uint32_t sits_out(const world *w, uint32_t at) {
    return w->priorities ? (uint32_t)(PROTO_MAX_PRIORITY - w->clients[at].priority) * SCHED_PRIORITY_STEPS : 0;
}

/* One that decodes, and waits for no drafter, has its turn again before all others could have had theirs twice, but for priority.
 */
static void check_turns(world *w, const verifier *v) {
    for (uint32_t i = 0; i < CLIENTS && w->limits.max_batch > 1; i++)
        if (v->ranks[i].open && !moves_away(w, number_of(w, v), i) && !drafted_for(&w->clients[i]) &&
            v->ranks[i].n_known - v->ranks[i].n_cached == 1)
            CHECK(w, v->steps - v->ranks[i].last_step <= w->limits.max_running + sits_out(w, i));
}

/* One that comes from another group brings what its client has been given. */
static void check_open(world *w, const proto_open *o) {
    client *c = &w->clients[o->seq.value - 1];
    CHECK(w, !c->over && o->n_tokens == c->n_prompt + o->n_answered && o->n_answered == c->n_got);
    CHECK(w, memcmp(o->tokens, c->prompt, c->n_prompt * sizeof *c->prompt) == 0);
    CHECK(w, memcmp(o->tokens + c->n_prompt, c->got, c->n_got * sizeof *c->got) == 0);
    CHECK(w, o->seq_epoch == 1 || w->n_lost > 0 || sched_get_stats(w->s).preempted > 0 || w->n_emptied > 0 || has_roles(w));
    CHECK(w, o->seq_epoch > c->epoch);
    c->epoch = o->seq_epoch;
    w->n_moved += o->n_answered > 0;
}

/* One after the other, before all else. What comes back comes into a block that nobody has; who is closed by this plan had it. */
static void swap_blocks(world *w, verifier *v, const proto_plan *p) {
    uint32_t g = number_of(w, v);
    for (uint32_t i = 0; i < p->n_close; i++) rank_of(w, v, p->close[i])->n_blocks = 0;
    v->n_swaps = p->n_swaps;
    if (p->n_swaps > 0) memcpy(v->swaps, p->swaps, p->n_swaps * sizeof *v->swaps);
    for (uint32_t i = 0; i < p->n_swaps; i++) {
        const block_swap *s = &p->swaps[i];
        CHECK(w, s->block < w->limits.n_blocks[g] && s->slot < w->limits.n_slots[g] && n_holders(v, s->block) == 0);
        for (const kv_move *m = w->moves; m < w->moves + MOVES; m++) CHECK(w, !touches(w, m, g, s->block));
        uint64_t *block = &v->cache[s->block * NOUNS_BLOCK_TOKENS], *slot = v->swap_file[s->slot];
        CHECK(w, !s->in || v->filled[s->slot]);
        memcpy(s->in ? block : slot, s->in ? slot : block, sizeof v->swap_file[0]);
        if (s->in) memset(slot, 0xdd, sizeof v->swap_file[0]); /* it is free from here on */
        v->filled[s->slot] = !s->in;
        v->fetched[s->block] |= s->in;
        w->n_swapped[s->in]++;
    }
}

static void carry_out(world *w, verifier *v, const proto_plan *p) {
    CHECK(w, v->result.plan_id == 0 && v->up); /* one in flight */
    CHECK(w, p->n_work <= w->limits.max_batch && p->n_work + p->n_close + p->n_swaps > 0);
    v->steps++;
    swap_blocks(w, v, p);
    for (uint32_t i = 0; i < p->n_close; i++) {
        CHECK(w, rank_of(w, v, p->close[i])->open);
        rank_of(w, v, p->close[i])->open = false;
        rank_of(w, v, p->close[i])->n_known = 0;
    }
    for (uint32_t i = 0; i < p->n_open; i++) {
        const proto_open *o = &p->open[i];
        rank_sequence *r = rank_of(w, v, o->seq);
        const client *c = &w->clients[o->seq.value - 1];
        check_open(w, o);
        CHECK(w, r->n_known == 0 && o->rules.ends == c->ends && o->rules.hidden >= c->wants_hidden);
        *r = (rank_sequence){
            .open = true, .epoch = o->seq_epoch, .hidden = o->rules.hidden, .n_known = o->n_tokens, .last_step = v->steps - 1};
        memcpy(r->tokens, o->tokens, o->n_tokens * sizeof *r->tokens);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) /* those that go on elsewhere are closed by the next plan here */
        CHECK(w, !v->ranks[i].open || v->ranks[i].epoch == w->clients[i].epoch);
    uint32_t rows = 0, n_open = 0;
    for (uint32_t i = 0; i < p->n_work; i++) {
        compute(w, v, &p->work[i], i);
        rows += p->work[i].n_prefix + p->work[i].tree.n_nodes;
    }
    for (uint32_t i = 0; i < CLIENTS; i++) n_open += v->ranks[i].open;
    CHECK(w, rows <= w->limits.max_rows && n_open <= w->limits.max_running);
    check_turns(w, v);
    v->result = (proto_result){.plan_id = p->id, .n_rows = rows, .n_items = p->n_work, .items = v->items};
    v->result.swap_out_ns = p->n_swaps * (uint64_t)draw(w, w->most_swap_ns + 1);
    v->result.swap_in_ns = p->n_swaps * (uint64_t)draw(w, w->most_swap_ns + 1);
}

/* ---- the loop around the scheduler ---- */

/* Every other request asks for log-probabilities and the likeliest token. */
static bool wants_logprobs(seq_id seq) { return seq.value % 2; }
static float log_of(uint32_t token) { return -0.5f * (float)token; }

static void take_action(world *w, const sched_action *a) {
    client *c = a->seq.value > 0 ? &w->clients[a->seq.value - 1] : NULL;
    switch (a->kind) {
    case SCHED_ACT_PLAN: carry_out(w, &w->verifiers[a->group], a->plan); break;
    case SCHED_ACT_DRAFT: carry_out_draft(w, &w->drafters[a->drafter], a->plan); break;
    case SCHED_ACT_TOKENS:
        CHECK(w, c && c->sent && !c->over && a->n_tokens > 0 && c->n_got + a->n_tokens <= CONTEXT);
        CHECK(w, (a->logprobs.own != NULL) == wants_logprobs(a->seq));
        for (uint32_t i = 0; c->wants_hidden && i < a->n_tokens; i++) CHECK(w, a->hidden.f16[i * DIM + 1] == a->tokens[i] * 257);
        for (uint32_t i = 0; a->logprobs.own && i < a->n_tokens; i++)
            CHECK(w, a->logprobs.own[i] == log_of(a->tokens[i]) && a->logprobs.top[i] == a->tokens[i] + 1);
        memcpy(c->got + c->n_got, a->tokens, a->n_tokens * sizeof *a->tokens);
        c->n_got += a->n_tokens;
        break;
    case SCHED_ACT_FINISHED:
        CHECK(w, c && c->sent && !c->over);
        check_end(w, c, a);
        c->over = true;
        memset(c->prompt, 0xee, sizeof c->prompt); /* the views are dead now */
        w->n_over++;
        break;
    case SCHED_ACT_TIMER: w->timer_ns = a->at_ns; break;
    case SCHED_ACT_MOVE: begin_move(w, a); break;
    case SCHED_ACT_MOVE_READY: more_is_ready(w, a); break;
    case SCHED_ACT_MOVE_CANCEL: call_off_move(w, a); break;
    case SCHED_ACT_DRAINED:
        CHECK(w, !w->drained && w->n_over == w->n_sent && sched_get_stats(w->s).moving == 0);
        w->drained = true;
        break;
    }
}

static void hash_action(world *w, const sched_action *a) {
    const proto_plan none = {0}, *p = a->plan ? a->plan : &none;
    uint64_t of[4 + 4 * BATCH] = {a->kind, a->seq.value, a->at_ns, p->id}, n = 4;
    for (uint32_t i = 0; i < p->n_draft; i++) of[n++] = p->draft[i].seq.value, of[n++] = p->draft[i].n_tokens;
    for (uint32_t i = 0; i < p->n_work; i++) of[n++] = p->work[i].seq.value, of[n++] = p->work[i].tree.n_nodes;
    for (uint32_t i = 0; i < n; i++) w->actions = (w->actions ^ of[i]) * UINT64_C(1099511628211);
    for (uint32_t i = 0; i < p->n_close; i++) w->actions = (w->actions ^ p->close[i].value) * UINT64_C(1099511628211);
}

static void step(world *w, const sched_event *ev) {
    w->now_ns += draw(w, 10);
    sched_actions acts = sched_step(w->s, w->now_ns, ev);
    for (uint32_t i = 1; i < acts.n; i++) { /* what is ready to move, then the groups' plans */
        const sched_action *a = &acts.items[i], *before = a - 1;
        CHECK(w, a->kind != SCHED_ACT_MOVE_READY || before->kind == SCHED_ACT_MOVE_READY);
        CHECK(w, a->kind != SCHED_ACT_PLAN || before->kind == SCHED_ACT_MOVE_READY ||
                     (before->kind == SCHED_ACT_PLAN && a->group > before->group));
    }
    for (uint32_t i = 0; i < acts.n; i++) hash_action(w, &acts.items[i]);
    for (uint32_t i = 0; i < acts.n; i++) /* a plan may open a sequence with tokens that are committed in this very step */
        if (acts.items[i].kind == SCHED_ACT_TOKENS) take_action(w, &acts.items[i]);
    for (uint32_t i = 0; i < acts.n; i++)
        if (acts.items[i].kind != SCHED_ACT_TOKENS) take_action(w, &acts.items[i]);
    sched_check(w->s);
    for (uint32_t i = 0; i < GUARD_BYTES; i++) CHECK(w, w->memory[w->memory_bytes + i] == 0xa5);
}

static void send_request(world *w) {
    if (w->n_sent == CLIENTS) return;
    client *c = &w->clients[w->n_sent++];
    invent(w, c);
    c->sent = true;
    w->arriving = c;
    step(w, &(sched_event){.kind = SCHED_REQUEST,
                           .seq = {w->n_sent},
                           .tokens = c->prompt,
                           .n_tokens = c->n_prompt,
                           .max_tokens = c->max_tokens,
                           .speculation = c->speculation,
                           .cache_salt = {0, c->salt},
                           .rules = {.ends = c->ends,
                                     .n_ends = c->n_ends,
                                     .logprobs = wants_logprobs((seq_id){w->n_sent}) ? 2 : 0,
                                     .hidden = c->wants_hidden},
                           .priority = c->priority,
                           .deadline_ns = c->deadline_ns});
    w->arriving = NULL;
}

static void cancel(world *w) {
    if (w->n_sent == 0) return;
    uint32_t i = draw(w, w->n_sent);
    bool was_over = w->clients[i].over;
    w->clients[i].cancelled = true;
    step(w, &(sched_event){.kind = SCHED_CANCEL, .seq = {i + 1}, .code = ST_ERR_CANCELLED, .finish = SCHED_FINISH_CANCELLED});
    CHECK(w, was_over || w->clients[i].over); /* at once */
}

/* A verifier out of its mind: one item names another sequence, or has a token too many or none, or is missing. */
static void garble(world *w, proto_result *result, proto_item *items) {
    uint32_t i = draw(w, result->n_items);
    for (uint32_t k = i; k < result->n_items; k++) w->clients[items[k].seq.value - 1].broken = true;
    switch (draw(w, 3)) {
    case 0: items[i].seq.value += 1 + draw(w, 3); break;
    case 1: items[i].n_tokens = items[i].n_tokens == 0 ? 1 : draw(w, 2) * ITEM_TOKENS; break;
    default: result->n_items = i;
    }
}

static void deliver_of(world *w, verifier *v) {
    if (v->result.plan_id == 0) return;
    proto_result result = v->result;
    proto_item items[BATCH];
    uint32_t tokens[BATCH][ITEM_TOKENS], top[BATCH][ITEM_TOKENS];
    float logs[BATCH][ITEM_TOKENS];
    memcpy(items, v->items, sizeof items);
    uint16_t hidden[BATCH][ITEM_TOKENS][DIM];
    memcpy(tokens, v->tokens, sizeof v->tokens);
    memcpy(hidden, v->hidden, sizeof hidden);
    for (uint32_t i = 0; i < result.n_items; i++) {
        items[i].tokens = tokens[i];
        if (items[i].hidden.f16) items[i].hidden.f16 = hidden[i][0];
        for (uint32_t k = 0; k < items[i].n_tokens; k++) logs[i][k] = log_of(tokens[i][k]), top[i][k] = tokens[i][k] + 1;
        if (wants_logprobs(items[i].seq)) items[i].logprobs = (token_logprobs){1, logs[i], top[i], logs[i]};
    }
    result.items = items;
    if (result.n_items > 0 && draw(w, 500) == 0) garble(w, &result, items);
    v->result.plan_id = 0;
    step(w, &(sched_event){.kind = SCHED_RESULT, .result = &result, .group = number_of(w, v)});
}

/* Before the result, or when nothing is computed; wanted or not. */
static void tell_early(world *w, verifier *v) {
    proto_item items[BATCH];
    proto_result early = early_of(w, v, items);
    step(w, &(sched_event){.kind = SCHED_EARLY, .result = &early, .group = number_of(w, v)});
}

static void deliver(world *w) {
    verifier *v = &w->verifiers[draw(w, w->limits.n_groups)];
    uint32_t what = draw(w, 6);
    if (what < 2) tell_early(w, v);
    if (what > 0) deliver_of(w, v);
}

static void stale(world *w) {
    uint64_t before = sched_get_stats(w->s).stale_results;
    uint32_t g = draw(w, w->limits.n_groups);
    proto_result result = {.plan_id = w->verifiers[g].result.plan_id + 1 + draw(w, 3)};
    step(w, &(sched_event){.kind = SCHED_RESULT, .result = &result, .group = g});
    CHECK(w, sched_get_stats(w->s).stale_results == before + 1);
}

static void bring_group(world *w, uint32_t g) {
    w->verifiers[g].up = true;
    step(w, &(sched_event){.kind = SCHED_GROUP_UP, .group = g});
    CHECK(w, sched_get_group(w->s, g).up);
}

static bool any_up(const world *w) { return w->verifiers[0].up || w->verifiers[1].up || w->verifiers[2].up; }

/* Its requests go on in another, where there is one that can hold them. */
static void lose_group(world *w, uint32_t g) {
    verifier *v = &w->verifiers[g];
    w->n_lost += sched_get_group(w->s, g).running > 0;
    lose_moves(w, g);
    verifier after = {.steps = v->steps};
    memcpy(after.generation, v->generation, sizeof after.generation); /* ids count on */
    *v = after;
    step(w, &(sched_event){.kind = SCHED_GROUP_DOWN, .group = g});
    CHECK(w, sched_get_group(w->s, g).blocks_used == 0 && !sched_get_group(w->s, g).up);
    CHECK(w, any_up(w) || w->n_over == w->n_sent);
    if (any_up(w) && draw(w, 2)) return;
    if (draw(w, 2) == 0) send_request(w);
    bring_group(w, g);
}

static void empty_group(world *w) {
    uint32_t g = draw(w, w->limits.n_groups);
    bool may = w->emptied[g], fill = w->emptied[g] && draw(w, 2);
    for (uint32_t o = 0; o < w->limits.n_groups; o++) may |= o != g && w->verifiers[o].up && !w->emptied[o];
    CHECK(w, (sched_may_empty(w->s, g, NULL) == ST_OK) == may);
    if (fill || may) w->emptied[g] = !fill;
    w->n_emptied += !fill && may;
    step(w, &(sched_event){.kind = fill ? SCHED_FILL : SCHED_EMPTY, .group = g});
    CHECK(w, sched_get_group(w->s, g).emptied == w->emptied[g]);
}

/* Moves take their time. */
static void deliver_move(world *w) {
    kv_move *m = w->moves;
    while (m < w->moves + MOVES && (m->id == 0 || draw(w, m->n_ready < m->n_blocks ? 40 : 6))) m++;
    if (m == w->moves + MOVES) return;
    sched_event ev = end_move(w, m);
    step(w, &ev);
}

/* What requests hold stays theirs, whatever they share, and nothing else is held. */
static void forget(world *w) {
    step(w, &(sched_event){.kind = SCHED_FORGET});
    CHECK(w, sched_get_stats(w->s).blocks_kept == 0 && sched_get_stats(w->s).slots_used == 0);
}

static void move_event(world *w) {
    uint32_t what = draw(w, 16);
    if (what == 0 && w->limits.n_groups > 1)
        empty_group(w);
    else if (what == 2)
        forget(w);
    else if (what == 1) /* of one that is over, or never was */
        step(w, &(sched_event){.kind = SCHED_MOVED, .move = move_with(w, w->last_move) ? w->last_move + 1 : w->last_move});
    else
        deliver_move(w);
}

/* The last one comes back at once, or requests come to nothing. */
static void turn_group(world *w) {
    uint32_t g = draw(w, w->limits.n_groups);
    if (!w->verifiers[g].up)
        bring_group(w, g);
    else if (draw(w, w->limits.n_groups > 1 ? 4 : 20) == 0)
        lose_group(w, g);
}

static void stale_drafts(world *w, uint32_t i, uint64_t plan) {
    uint64_t before = sched_get_stats(w->s).stale_results;
    proto_result result = {.plan_id = plan};
    step(w, &(sched_event){.kind = SCHED_DRAFTS, .drafter = i, .result = &result});
    CHECK(w, sched_get_stats(w->s).stale_results == before + 1);
}

static void deliver_drafts(world *w, uint32_t i) {
    drafter *d = &w->drafters[i];
    if (d->dropped) stale_drafts(w, i, d->dropped);
    d->dropped = 0;
    if (d->result.plan_id == 0) return;
    static drafter copy; /* what the scheduler asks next may come while this is read */
    copy = *d;
    for (uint32_t k = 0; k < copy.result.n_items; k++) {
        copy.items[k].tree.token = copy.tokens[k];
        copy.items[k].tree.parent = copy.parents[k];
        copy.items[k].tree.probability = copy.probabilities[k];
    }
    copy.result.items = copy.items;
    d->result.plan_id = 0;
    step(w, &(sched_event){.kind = SCHED_DRAFTS, .drafter = i, .result = &copy.result});
}

/* It ends, or a new life begins whose first word may come before the end of the old one is seen. */
static void restart_drafter(world *w, uint32_t i) {
    drafter *d = &w->drafters[i];
    bool up = !d->up || draw(w, 3) == 0;
    *d = (drafter){.nature = d->nature, .up = up};
    step(w, &(sched_event){.kind = up ? SCHED_DRAFTER_UP : SCHED_DRAFTER_DOWN, .drafter = i});
}

static void drafter_event(world *w) {
    uint32_t i = draw(w, w->limits.n_drafters), what = draw(w, 200);
    drafter *d = &w->drafters[i];
    if (!d->up ? what < 100 : what < (d->nature == DYING ? 30 : 1))
        restart_drafter(w, i);
    else if (what == 199)
        stale_drafts(w, i, d->result.plan_id + 1 + draw(w, 3));
    else if (d->nature != SLOW || what % 16 == 0)
        deliver_drafts(w, i);
}

static void one_event(world *w) {
    uint32_t what = draw(w, 100);
    bool arrives = draw(w, 100) < w->arrivals;
    if (w->hurries && draw(w, 40) == 0) w->now_ns += draw(w, 46) * SECOND;
    if (w->timer_ns > 0 && w->now_ns >= w->timer_ns) {
        w->timer_ns = 0;
        step(w, &(sched_event){.kind = SCHED_TIMER});
    } else if (arrives) {
        send_request(w);
    } else if (what < 2) {
        cancel(w);
    } else if (what < 3) {
        stale(w);
    } else if (what < 4) {
        turn_group(w);
    } else if (w->limits.n_groups > 1 && draw(w, 3) == 0) {
        move_event(w);
    } else if (w->limits.n_drafters > 0 && draw(w, 2)) {
        drafter_event(w);
    } else {
        deliver(w);
    }
}

/* A scheduler within the limits, and all that it has. */
static void bring_all(world *w) {
    w->memory_bytes = sched_bytes(&w->limits);
    w->memory = mem_alloc_aligned(1, w->memory_bytes + GUARD_BYTES, 64);
    assert_non_null(w->memory);
    memset(w->memory, 0xa5, w->memory_bytes + GUARD_BYTES);
    assert_int_equal(sched_init(w->memory, &w->limits, &w->s, NULL), ST_OK);
    for (uint32_t g = 0; g < w->limits.n_groups; g++) bring_group(w, g);
    for (uint32_t i = 0; i < w->limits.n_drafters; i++) {
        w->drafters[i] = (drafter){.nature = draw(w, N_NATURES), .up = true};
        step(w, &(sched_event){.kind = SCHED_DRAFTER_UP, .drafter = i});
    }
}

static void begin(world *w, uint64_t seed) {
    static const char *const names[] = {"a", "b", "c"};
    *w = (world){
        .corpus = w->corpus, .corpus_bytes = w->corpus_bytes, .seed = seed, .random = seed * UINT64_C(0x9E3779B97F4A7C15) + 1};
    for (uint32_t i = 0; i < 8; i++) draw(w, 2);
    w->now_ns = 1000000000; /* so that all that waits for its turn to be tried has it */
    w->arrivals = 2 + draw(w, 70);
    w->quotes = draw(w, 3) > 0;
    w->hurries = seed % 4 == 3;
    w->priorities = draw(w, 2) || w->hurries;
    uint32_t batch = 1 + draw(w, draw(w, 2) ? 4 : 20), tree = draw(w, 4) ? 1 + draw(w, 20) : 0;
    w->limits = (sched_limits){.max_requests = draw(w, 4) ? 64 : 1 + draw(w, 12),
                               .max_running = 1 + draw(w, 24),
                               .max_queue = draw(w, 30),
                               .max_rows = (batch > tree ? batch : tree + 1) + draw(w, 64),
                               .max_batch = batch,
                               .prefill_chunk = 1 + draw(w, 40),
                               .max_stall_ns = draw(w, 2) * draw(w, 60),
                               .max_tree = tree,
                               .max_context = CONTEXT,
                               .n_groups = draw(w, 3) == 0 ? 1 : 2 + draw(w, GROUPS - 1),
                               .max_moves = draw(w, 4) ? 1 + draw(w, draw(w, 2) ? 2 : 8) : 0,
                               .min_move_tokens = 1 + draw(w, 50),
                               .n_drafters = draw(w, DRAFTERS + 1),
                               .drafter_names = names,
                               .n_vocab = VOCABULARY,
                               .want_hidden = draw(w, 1 << DRAFTERS),
                               .dim = DIM,
                               .prefix_cache = draw(w, 4) > 0,
                               .adaptive_budgets = draw(w, 2),
                               .draft_ahead = (sched_ahead)draw(w, 3),
                               .fusion = (sched_fusion)draw(w, 3),
                               .draft_wait_ns = draw(w, 4) ? 1 + draw(w, 100) : draw(w, 2) * 2000};
    for (uint32_t g = 0; g < w->limits.n_groups; g++)
        w->limits.n_blocks[g] = g > 0 && draw(w, 2) ? w->limits.n_blocks[0] : 3 + draw(w, BLOCKS - 3);
    bool swaps = w->limits.prefix_cache && draw(w, 3), tight_swaps = draw(w, 3);
    w->most_swap_ns = draw(w, 3) ? 1 + draw(w, 20) : draw(w, 2) * 200;
    w->answers = swaps && draw(w, 3) ? 110 : 50;
    for (uint32_t g = 0; swaps && g < w->limits.n_groups; g++) {
        w->limits.n_slots[g] = draw(w, 5) ? 1 + draw(w, draw(w, 4) ? SLOTS : 4) : 0;
        if (tight_swaps) w->limits.n_blocks[g] = 6 + draw(w, 8);
    }
    for (uint32_t i = 0; i < w->limits.n_drafters; i++)
        if (draw(w, 2)) w->limits.drafter_blocks[i] = 1 + draw(w, draw(w, 2) ? 8 : BLOCKS);
    if (w->hurries) w->limits.max_running = 1 + draw(w, 3);
    bool roles = draw(w, 2), tight = draw(w, 2);
    for (uint32_t g = 0; roles && g < w->limits.n_groups; g++) {
        w->limits.serves[g] = (sched_service)draw(w, 3);
        if (tight) w->limits.n_blocks[g] = 7 + draw(w, 5); /* answers grow beside prompts that move */
    }
    if (draw(w, 2)) w->limits.corpus = w->corpus, w->limits.corpus_bytes = w->corpus_bytes;
    bring_all(w);
}

static bool computes(const world *w) {
    return n_moving(w) > 0 || w->verifiers[0].result.plan_id || w->verifiers[1].result.plan_id || w->verifiers[2].result.plan_id;
}

/* No more events but those that must come: many where rounds are in lockstep, or wait for slow drafters as long as they may. */
static void run_out(world *w) {
    for (uint32_t i = 0; (w->n_over < CLIENTS || computes(w)) && i < 4 * CLIENTS * CONTEXT; i++) {
        w->now_ns += draw(w, 10);
        if (w->timer_ns > 0 && w->now_ns >= w->timer_ns) {
            w->timer_ns = 0;
            step(w, &(sched_event){.kind = SCHED_TIMER});
        }
        deliver(w);
        for (uint32_t k = 0; k < 8; k++) deliver_move(w);
        if (w->limits.n_drafters > 0 && draw(w, 2)) drafter_event(w);
    }
    for (uint32_t i = 0; i < w->limits.n_drafters; i++) /* one answer may bring a plan that only closes */
        for (int k = 0; k < 2; k++) deliver_drafts(w, i);
}

static void check_drafters(world *w) {
    for (uint32_t i = 0; i < w->limits.n_drafters; i++) {
        const drafter *d = &w->drafters[i];
        const proto_drafter_figures *f = &sched_get_stats(w->s).by_drafter[i];
        CHECK(w, d->result.plan_id == 0 && sched_get_drafter(w->s, i).up == d->up);
        for (uint32_t k = 0; k < CLIENTS && !w->drained; k++) CHECK(w, !d->sequences[k].open);
        if (d->nature != NONSENSE) CHECK(w, sched_get_drafter(w->s, i).bad == 0);
        if (d->nature == RIGHT && w->limits.fusion == SCHED_MERGE) CHECK(w, f->accepted == f->drafted);
        if (d->nature == WRONG) CHECK(w, f->accepted == 0);
    }
}

/* What all seeds together have seen: else the test would test nothing. */
typedef struct {
    uint64_t whole, largest_batch, drafted, accepted, by_rank, branches, late, bad, won, dropped, by_corpus, agreed, tried, moved,
        shared, preempted, waited_for, right, wrong, swapped[2], gave_way, again, actions, kv_moves, vain_moves, called_off,
        early_moves;
} harvest;

static void reap(const world *w, harvest *h) {
    sched_stats st = sched_get_stats(w->s);
    for (uint32_t i = 0; i < CLIENTS; i++) h->whole += w->clients[i].n_got > 0 && w->clients[i].n_got == w->clients[i].n_alone;
    for (uint32_t i = 0; i < w->limits.n_drafters; i++) {
        h->by_rank += st.by_drafter[i].accepted;
        h->bad += sched_get_drafter(w->s, i).bad;
        h->gave_way += sched_get_drafter(w->s, i).dropped;
        CHECK(w, w->limits.drafter_blocks[i] || sched_get_drafter(w->s, i).dropped == 0);
        CHECK(w, sched_get_drafter(w->s, i).followed == 0 && sched_get_drafter(w->s, i).kv_held == 0);
    }
    h->drafted += st.drafts.drafted, h->accepted += st.drafts.accepted;
    h->branches += w->n_branches;
    h->agreed += w->n_agreed;
    if (w->limits.fusion == SCHED_FUSION_AUTO) h->tried += st.lockstep_rounds;
    CHECK(w, w->limits.fusion != SCHED_MERGE || st.lockstep_rounds == 0);
    CHECK(w,
          st.lockstep_rounds <= st.asked_rounds && (w->limits.fusion != SCHED_LOCKSTEP || st.lockstep_rounds == st.asked_rounds));
    h->late += st.late_drafts;
    h->moved += w->n_moved;
    h->shared += w->n_shared;
    CHECK(w,
          st.shared <= st.looked_up && st.shared >= w->n_shared * NOUNS_BLOCK_TOKENS && (w->limits.prefix_cache || !st.shared));
    h->preempted += st.preempted, h->waited_for += st.gave_way;
    CHECK(w, st.gave_way <= st.preempted && (w->priorities || st.gave_way == 0));
    for (int i = 0; i < 2; i++) h->swapped[i] += w->n_swapped[i];
    CHECK(w, st.swapped_out <= w->n_swapped[0] && st.swapped_in <= w->n_swapped[1]); /* less those of lost verifiers */
    CHECK(w, st.displaced + st.preempted + st.moves - st.moves_failed >= w->n_moved);
    CHECK(w, w->limits.n_groups > 1 || st.displaced == 0);
    CHECK(w, st.moves == w->last_move && st.moves_failed >= w->n_vain && st.moves - st.moves_failed <= w->n_ok);
    h->kv_moves += st.moves - st.moves_failed, h->vain_moves += w->n_vain;
    h->called_off += w->n_called_off, h->early_moves += w->n_early;
    if (w->limits.corpus) h->by_corpus += st.by_drafter[w->limits.n_drafters + 1].accepted;
    h->again += w->n_again;
    h->actions = h->actions * UINT64_C(1099511628211) + w->actions;
    h->won += st.bets_won, h->dropped += st.bets_dropped;
    h->right += st.early_right, h->wrong += st.early_wrong;
    CHECK(w, w->limits.draft_ahead == SCHED_AHEAD_EARLY || st.early_right + st.early_wrong == 0);
    CHECK(w, st.bets_won <= st.bets && (w->limits.draft_ahead || st.bets == 0));
    if (st.largest_batch > h->largest_batch) h->largest_batch = st.largest_batch;
}

/* One seed; in bounded time, or something hangs. */
static void run(world *w, uint64_t seed, harvest *h) {
    begin(w, seed);
    while (w->n_sent < CLIENTS) one_event(w);
    if (seed % 2 == 0) step(w, &(sched_event){.kind = SCHED_DRAIN});
    run_out(w);
    CHECK(w, w->n_over == CLIENTS && !computes(w) && w->drained == (seed % 2 == 0));
    sched_stats st = sched_get_stats(w->s);
    CHECK(w, st.waiting == 0 && st.running == 0 && st.blocks_used == 0 && st.blocks_reserved == 0);
    CHECK(w, st.finished + st.rejected == CLIENTS);
    for (uint32_t i = 0; i < GROUPS * CLIENTS; i++) CHECK(w, !w->verifiers[i / CLIENTS].ranks[i % CLIENTS].open);
    check_drafters(w);
    reap(w, h);
    mem_free(w->memory);
}

static int make_world(void **state) {
    world *w = mem_alloc(1, sizeof *w);
    spec_ngram_info info;
    uint32_t text[500];
    table_text(1, VOCABULARY, text, 500);
    w->corpus = table_make(text, 500, VOCABULARY, 3, &info, &w->corpus_bytes);
    *state = w;
    return 0;
}

static int free_world(void **state) {
    world *w = *state;
    mem_free(w->corpus);
    mem_free(w);
    return 0;
}

static void each_client_gets_the_tokens_it_gets_alone_whatever_the_schedule(void **state) {
    harvest h = {0};
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) run(*state, seed, &h);
    assert_true(h.whole > N_SEEDS * CLIENTS / 4);
    assert_true(h.largest_batch >= 16);
    assert_true(h.accepted > h.drafted / 10 && h.accepted < h.drafted);
    assert_true(h.by_rank > N_SEEDS && h.branches > N_SEEDS && h.late > N_SEEDS / 4 && h.bad > N_SEEDS / 4);
    assert_true(h.won > N_SEEDS && h.dropped > N_SEEDS / 4 && h.by_corpus > N_SEEDS / 4);
    print_message("%llu rounds in lockstep where it was tried\n", (unsigned long long)h.tried);
    assert_true(h.gave_way > N_SEEDS / 3 && h.again > N_SEEDS / 16 && h.tried > N_SEEDS / 128);
    print_message("%llu moves, %llu failed, %llu called off, %llu began early\n", (unsigned long long)h.kv_moves,
                  (unsigned long long)h.vain_moves, (unsigned long long)h.called_off, (unsigned long long)h.early_moves);
    assert_true(h.kv_moves > N_SEEDS / 4 && h.vain_moves > N_SEEDS / 12 && h.called_off > N_SEEDS / 64 &&
                h.early_moves > N_SEEDS / 8);
    print_message("%llu early results right, %llu wrong\n", (unsigned long long)h.right, (unsigned long long)h.wrong);
    assert_true(h.right > N_SEEDS && h.wrong > N_SEEDS / 4);
    print_message("%llu blocks swapped out, %llu in\n", (unsigned long long)h.swapped[0], (unsigned long long)h.swapped[1]);
    assert_true(h.swapped[0] > N_SEEDS / 3 && h.swapped[1] > N_SEEDS / 12);
    assert_true(h.agreed > N_SEEDS && h.moved > N_SEEDS / 4 && h.shared > N_SEEDS && h.preempted > N_SEEDS / 8);
    print_message("%llu of %llu sent away for one that waited\n", (unsigned long long)h.waited_for,
                  (unsigned long long)h.preempted);
    assert_true(h.waited_for > N_SEEDS);
}

static void the_same_events_give_the_same_actions(void **state) {
    for (uint64_t seed = 1; seed <= N_SEEDS / 20; seed++) {
        harvest once = {0}, again = {0};
        run(*state, seed, &once);
        run(*state, seed, &again);
        assert_true(once.actions == again.actions);
    }
}

#define WITH_WORLD(f) cmocka_unit_test_setup_teardown(f, make_world, free_world)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_WORLD(each_client_gets_the_tokens_it_gets_alone_whatever_the_schedule),
        WITH_WORLD(the_same_events_give_the_same_actions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
