/* Requests that go on in another group, with the KV that was computed in theirs.
 *
 * What: a group that is emptied gives away all that it runs, one that prefills for others whatever it has prefilled. Who finds
 * room elsewhere has blocks reserved there and is in no plan until its KV has come (SCHED_MOVING); who finds none runs on where
 * it is. A prompt in a group that prefills begins to move with its first chunk, and results tell how many of its blocks are
 * ready.
 *
 *     PREFILL, DECODE ──(room elsewhere)──> MOVING ──(it has come)──> PREFILL of the last tokens, there
 *      │  ^  └─(too few tokens for a move)─────│──(it has not)──────> waiting
 *      └──┘ PREFILL of a group that prefills for others: moves while it runs
 *
 * Why whole blocks only: the group that takes over computes what is left, at least two tokens, as it does behind a prefix of its
 * cache, and neither a rank nor the block table has to know what moved. That is 33 tokens at most.
 * Why the blocks stay where they are until SCHED_MOVED, whatever happens: only the ranks know when they last read or wrote them.
 * A lost group's blocks go at once: its ranks hold nothing when they come back.
 * Why what a move takes is learnt, and not what it would take reckoned: it goes by the ways between the ranks, by what else uses
 * them, and by the transport. A move that begins with its prompt says nothing of it, and is not judged by it: it is there so that
 * those who decode are not held up.
 * Why a prompt is computed where it will decode, though others could: where these have prompts before it, or no room, its first
 * token may come sooner there. Then all that is computed until it comes is compared, by what a token of a prompt has taken, and
 * the move counts with it as far as that is known. Only where all of it fits one step, with nobody else or within the bounds of
 * those beside whom prompts are computed: the groups are apart so that answers do not wait, nor those that begin meanwhile. It is
 * not asked where nobody is before it, as what a token takes is known too roughly. A group that has computed no prompt alone yet
 * is believed to take what the other does: it seldom has, until it is tried.
 * Why the KV of a request does not move again once it has not arrived: what failed would fail again, and to compute it always
 * works.
 *
 * Limits: O(moves) an event, O(running) where a group gives away. Where nobody else could ever hold a request it ends here. */
#include "coordinator/sched_int.h"

static sched_transfer *move_of(const sched *s, const sched_request *r) { return &s->moves[r->move]; }

/* ---- what moves, and where to ---- */

/* Whole blocks of which the first n_cached tokens are computed, in tokens; two of the known ones are left. */
static uint32_t whole_tokens(const sched_request *r, uint32_t n_cached) {
    uint32_t most = r->n_known > 2 ? r->n_known - 2 : 0, n = n_cached < most ? n_cached : most;
    return n - n % NOUNS_BLOCK_TOKENS;
}

/* Of its first n_tokens, those that `to` has not in its cache. */
static uint32_t n_missing(const sched_group *to, const sched_request *r, uint32_t n_tokens) {
    uint32_t n_blocks, n_there = sched_n_there(to, r, &n_blocks);
    return n_there < n_tokens ? n_tokens - n_there : 0;
}

static void learn(double *mean, double of) { *mean = *mean > 0 ? *mean * 7 / 8 + of / 8 : of; }

void sched_learn_prompts(sched_group *g, const sched_flight *f) {
    if (f->prompts && f->n_rows >= NOUNS_BLOCK_TOKENS) learn(&g->prompt_ns, (double)(g->s->now_ns - f->sent_ns) / f->n_rows);
}

/* So many tokens may move. */
static bool may_move(const sched *s, const sched_request *r, uint32_t n_tokens) {
    return s->limits.max_moves > 0 && !r->moved_in_vain && n_tokens >= s->limits.min_move_tokens; /* which is not 0 */
}

/* And that takes no longer than to compute them there, as far as both are known. */
bool sched_moves_pay(const sched_group *to) { return to->prompt_ns <= 0 || to->s->move_ns <= to->prompt_ns; }

static bool takes(const sched_group *g, const sched_request *r) { return !g->emptied && sched_could_hold(g, r->n_limit); }

bool sched_prefills_apart(const sched *s, const sched_request *r) {
    const sched_group *end = s->groups + s->limits.n_groups;
    bool prefills = false, decodes = false;
    for (const sched_group *g = s->groups; g < end; g++) prefills |= g->serves == SCHED_PREFILLS && takes(g, r);
    for (const sched_group *g = s->groups; prefills && g < end; g++) {
        if (g->serves == SCHED_PREFILLS || !takes(g, r)) continue;
        if (!may_move(s, r, n_missing(g, r, whole_tokens(r, r->n_known)))) return false;
        decodes = true;
    }
    return decodes;
}

static double work_until(const sched_group *g, const sched_request *r) {
    uint32_t n_blocks, n_there = sched_n_there(g, r, &n_blocks);
    return (double)sched_work_until(g, r, n_there);
}

bool sched_comes_sooner(const sched_group *here, const sched_group *apart, const sched_request *r) {
    double n_here = work_until(here, r);
    if (!sched_fit_a_step(here, n_here)) return false;
    if (!apart) return true;
    double apart_ns = apart->prompt_ns, here_ns = here->prompt_ns > 0 ? here->prompt_ns : apart_ns;
    double way_ns = n_missing(here, r, whole_tokens(r, r->n_known)) * here->s->move_ns;
    return apart_ns > 0 && n_here * here_ns < work_until(apart, r) * apart_ns + way_ns;
}

/* Another group should have it, and could. */
static bool is_to_go(const sched_request *r) {
    const sched_group *g = r->group, *o = g->s->groups;
    for (; o < g->s->groups + g->s->limits.n_groups; o++)
        if (o != g && takes(o, r) && (g->emptied || o->serves != SCHED_PREFILLS)) return true;
    return false;
}

/* ---- the way of a move ---- */

uint32_t sched_n_coming(const sched_group *g) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->s->n_moves; i++) n += g->s->moves[i].id > 0 && g->s->moves[i].to == g;
    return n;
}

static bool goes_from(const sched_transfer *m, const sched_group *g) {
    return m->slot != SCHED_NO_SLOT && g->s->requests[m->slot].group == g;
}

static bool may_begin(const sched_group *g) {
    uint32_t n = sched_n_coming(g);
    for (uint32_t i = 0; i < g->s->n_moves; i++) n += g->s->moves[i].id > 0 && goes_from(&g->s->moves[i], g);
    return n < g->s->limits.max_moves;
}

static uint32_t n_computed(const sched_transfer *m, const sched_request *r) {
    uint32_t n = r->n_cached / NOUNS_BLOCK_TOKENS;
    n = n > m->n_there ? n - m->n_there : 0;
    return n < m->n_blocks ? n : m->n_blocks;
}

static sched_action *about(const sched_transfer *m, sched_action *a) {
    a->move = m->id;
    a->n_ready = m->n_ready;
    return a;
}

/* It is out of all rounds until its KV has come. */
static void pause_it(sched *s, sched_request *r) {
    sched_forget_asked(s, r);
    r->asked = r->awaited = r->ahead = 0;
    r->n_agreed = 0;
    sched_move(s, r, SCHED_MOVING);
}

/* Blocks for it in `to`, which are written at once: not before what is in them went to a slot, so that goes nowhere. */
static st_code reserve_there(const sched_request *r, sched_group *to, uint32_t n_tokens, kv_chain *chain, uint32_t *n_shared) {
    uint32_t first, n_new;
    kv_swap_rule rule = kv_rule_swaps(to->kv, (kv_swap_rule){0});
    kv_rule_swaps(to->kv, (kv_swap_rule){.in = rule.in}); /* none now, but what lies in slots is still of use */
    st_code code =
        kv_reserve_known(to->kv, r->salt, r->known, sched_to_share(r), sched_first_tokens(to->s, r) + 1, chain, n_shared);
    if (code == ST_OK) INVARIANT(kv_extend(to->kv, *chain, n_tokens, &first, &n_new) == ST_OK);
    kv_rule_swaps(to->kv, rule);
    return code;
}

/* Its first n_tokens, whole blocks; one more may be known by the time that they have come. False: no room after all, or not yet.
 */
static bool begin(sched_request *r, sched_group *to, uint32_t n_tokens) {
    sched_group *g = r->group;
    sched *s = g->s;
    uint32_t n_shared = 0, first, n_new, at = 0;
    kv_chain chain;
    bool here = sched_swaps_rest(g), there = sched_swaps_rest(to);
    if (!here || !there || reserve_there(r, to, n_tokens, &chain, &n_shared) != ST_OK) return false;
    INVARIANT(kv_extend(g->kv, r->chain, n_tokens, &first, &n_new) == ST_OK);
    while (s->moves[at].id > 0) at++; /* there is one: each group has at most max_moves */
    sched_transfer *m = &s->moves[at];
    *m = (sched_transfer){.id = s->next_move++, .slot = (uint32_t)(r - s->requests), .to = to, .chain = chain};
    m->n_there = n_shared / NOUNS_BLOCK_TOKENS;
    m->n_blocks = n_tokens / NOUNS_BLOCK_TOKENS - m->n_there;
    m->n_ready = n_computed(m, r);
    m->early = m->n_ready < m->n_blocks;
    r->move = at;
    to->stats.looked_up += r->n_known;
    to->stats.shared += n_shared;
    sched_action *a = about(m, sched_act(s, SCHED_ACT_MOVE, r->seq));
    a->group = (uint32_t)(g - s->groups);
    a->to = (uint32_t)(to - s->groups);
    a->n_blocks = m->n_blocks;
    a->n_tokens = m->n_blocks * NOUNS_BLOCK_TOKENS;
    a->from_blocks = kv_chain_blocks(g->kv, r->chain, &first) + m->n_there;
    a->to_blocks = kv_chain_blocks(to->kv, chain, &first) + m->n_there;
    return true;
}

/* Nothing came of it, and nobody uses its blocks any more. */
static void end(sched *s, sched_transfer *m) {
    if (m->to) kv_release(m->to->kv, m->chain);
    if (m->slot != SCHED_NO_SLOT) s->requests[m->slot].move = SCHED_NO_MOVE;
    m->id = 0;
    s->stats.moves++;
    s->stats.moves_failed++;
}

/* The request goes on where its KV is now. No plan in flight names it. */
static void arrive(sched *s, sched_transfer *m, sched_request *r) {
    kv_release(r->group->kv, r->chain);
    sched_close_there(r);
    r->chain = m->chain;
    r->n_cached = (m->n_there + m->n_blocks) * NOUNS_BLOCK_TOKENS;
    r->n_told = 0;
    r->last_plan = 0;
    r->epoch++;
    r->move = SCHED_NO_MOVE;
    sched_enter(s, r, m->to, SCHED_PREFILL);
    sched_keep(r);
    m->id = 0;
    s->stats.moves++;
    s->stats.moved_tokens += m->n_blocks * NOUNS_BLOCK_TOKENS;
}

/* ---- what may become of it ---- */

static void call_off(sched *s, sched_transfer *m) {
    if (m->arrived || (!m->to && m->slot == SCHED_NO_SLOT)) {
        end(s, m); /* SCHED_MOVED has come, or finds nothing any more */
        return;
    }
    if (!m->cancelled) about(m, sched_act(s, SCHED_ACT_MOVE_CANCEL, (seq_id){0}));
    m->cancelled = true;
}

void sched_cancel_move(sched *s, const sched_request *r) { call_off(s, move_of(s, r)); }

void sched_lose_moves(sched_group *g) {
    sched *s = g->s;
    for (sched_transfer *m = s->moves; m < s->moves + s->n_moves; m++) {
        bool comes = m->to == g, goes = m->id > 0 && goes_from(m, g);
        if (m->id == 0 || (!comes && !goes)) continue;
        if (comes) kv_release(g->kv, m->chain), m->to = NULL;
        if (goes) s->requests[m->slot].move = SCHED_NO_MOVE, m->slot = SCHED_NO_SLOT;
        call_off(s, m);
    }
}

static void go_back(sched *s, sched_request *r) {
    if (r->n_known - r->n_cached > 1)
        sched_move(s, r, SCHED_PREFILL);
    else
        sched_begin_round(s, r);
}

void sched_take_moved(sched *s, const sched_event *ev) {
    sched_transfer *m = s->moves, *last = s->moves + s->n_moves;
    while (m < last && (m->id != ev->move || m->arrived)) m++;
    if (m == last || ev->move == 0) return; /* both its groups were lost */
    sched_request *r = sched_at(s, m->slot);
    bool wanted = r && r->state != SCHED_CLOSING, there = m->to != NULL;
    if (ev->code == ST_OK && !m->early) learn(&s->move_ns, (double)ev->took_ns / (m->n_blocks * NOUNS_BLOCK_TOKENS));
    m->arrived = ev->code == ST_OK && wanted && there && m->n_ready == m->n_blocks;
    if (m->arrived) return; /* a plan in flight may name it: sched_give_away */
    end(s, m);
    if (!wanted) return;
    r->moved_in_vain = there;
    if (r->state != SCHED_MOVING) return;
    if (there)
        sched_leave(r);
    else /* its KV is still here, for another group */
        go_back(s, r);
}

/* ---- before a step ---- */

/* It is computed anew, elsewhere. The room that there is goes to one at a time, and not to who is due later than others that
 * wait.
 */
static void leave(sched *s, sched_request *r) {
    const sched_request *first = sched_at(s, s->waiting.first);
    if (!first || (!first->displaced && sched_before(r, first))) sched_leave(r);
}

static void go_on(sched *s, sched_transfer *m, sched_request *r) {
    if (r->state == SCHED_PREFILL && r->n_known - r->n_cached == 1) pause_it(s, r);
    if (m->arrived && r->last_plan <= r->group->reported) arrive(s, m, r);
}

/* Its KV is to move while it is computed. */
static bool moves_early(const sched_request *r) { return r->state == SCHED_PREFILL && !r->group->emptied && !r->moved_in_vain; }

static void give(sched *s, sched_request *r) {
    sched_group *g = r->group;
    if (r->move != SCHED_NO_MOVE || r->last_plan > g->reported || moves_early(r) || !is_to_go(r)) return;
    bool prefill = r->state == SCHED_PREFILL && g->emptied && sched_prefills_apart(s, r);
    sched_group *to = sched_pick_group(s, r, prefill);
    if (!to) return;
    uint32_t n_tokens = whole_tokens(r, r->n_cached);
    bool may = may_move(s, r, n_missing(to, r, n_tokens)), is_slow = may && g->emptied && !sched_moves_pay(to);
    if (is_slow) s->move_ns -= s->move_ns / 32; /* believed a little less each time, so that some day it is tried again */
    if (!may || is_slow)
        leave(s, r);
    else if (may_begin(g) && may_begin(to) && begin(r, to, n_tokens))
        pause_it(s, r);
}

void sched_give_away(sched *s) {
    for (sched_transfer *m = s->moves; m < s->moves + s->n_moves; m++) {
        sched_request *r = m->id > 0 ? sched_at(s, m->slot) : NULL;
        if (r && r->state != SCHED_CLOSING) go_on(s, m, r);
    }
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        for (sched_state state = SCHED_PREFILL; state <= SCHED_DECODE && (g->emptied || g->serves == SCHED_PREFILLS); state++)
            for (sched_request *r = sched_first(g, state), *next; r; r = next) {
                next = sched_next(s, r);
                give(s, r);
            }
}

void sched_move_early(sched *s) {
    for (sched_group *g = s->groups; g < s->groups + s->limits.n_groups; g++)
        for (sched_request *r = sched_first(g, SCHED_PREFILL); r && g->serves == SCHED_PREFILLS; r = sched_next(s, r)) {
            if (r->move != SCHED_NO_MOVE || !r->open || !moves_early(r) || !is_to_go(r)) continue;
            sched_group *to = sched_pick_group(s, r, false);
            uint32_t n_tokens = whole_tokens(r, r->n_known);
            if (to && may_move(s, r, n_missing(to, r, n_tokens)) && may_begin(g) && may_begin(to)) (void)begin(r, to, n_tokens);
        }
}

void sched_tell_ready(sched *s) {
    for (sched_transfer *m = s->moves; m < s->moves + s->n_moves; m++) {
        const sched_request *r = m->id > 0 && !m->cancelled ? sched_at(s, m->slot) : NULL;
        if (!r || n_computed(m, r) == m->n_ready) continue;
        m->n_ready = n_computed(m, r);
        about(m, sched_act_first(s, SCHED_ACT_MOVE_READY, NULL))->seq = r->seq;
    }
}

/* ---- the check ---- */

static void check_move(const sched *s, uint32_t at) {
    const sched_transfer *m = &s->moves[at];
    const sched_request *r = m->slot == SCHED_NO_SLOT ? NULL : &s->requests[m->slot];
    uint32_t n = m->n_there + m->n_blocks, n_here = n, n_there = n;
    INVARIANT((m->to || r) && m->id < s->next_move && m->n_ready <= m->n_blocks && m->n_blocks > 0);
    INVARIANT(m->cancelled == (!m->to || !r || r->state == SCHED_CLOSING)); /* and then only SCHED_MOVED ends it */
    if (r) INVARIANT(r->move == at && r->group != m->to && r->state >= SCHED_PREFILL);
    if (r) kv_chain_blocks(r->group->kv, r->chain, &n_there);
    if (m->to) kv_chain_blocks(m->to->kv, m->chain, &n_here);
    INVARIANT(n_there >= n && n_here == n && (!m->to || m->to->up));
    if (m->arrived) INVARIANT(r && m->to && r->last_plan > r->group->reported && m->n_ready == m->n_blocks);
}

void sched_check_moves(const sched *s) {
    uint32_t n_slots = 0, n_moving = 0;
    for (uint32_t i = 0; i < s->n_moves; i++) {
        if (s->moves[i].id == 0) continue;
        check_move(s, i);
        n_slots += s->moves[i].slot != SCHED_NO_SLOT;
    }
    for (uint32_t i = 0; i < s->limits.max_requests; i++)
        n_moving += s->requests[i].state != SCHED_FREE && s->requests[i].move != SCHED_NO_MOVE;
    INVARIANT(n_slots == n_moving);
}
