/* Slots behind the blocks: single rules by example, then all of them against a model that has no tree and no lists and looks
 * through all nodes each time. The model carries out the swaps, too: each block of a chain must hold what the chain believes. */
#include "tests/unit/kv_core/rig.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define N_OPERATIONS 200000
#endif
#endif
#ifndef N_OPERATIONS
#define N_OPERATIONS 6000000
#endif

enum { BLOCKS = 14, MOST_SLOTS = 10, CHAINS = 6, CHAIN_BLOCKS = 6, NODES = BLOCKS + MOST_SLOTS };
static const kv_salt ours = {{0, 0}}, theirs = {{0, 1}};
static const kv_swap_rule always = {NOUNS_MAX_SWAPS, true, true};

/* Blocks of tokens by their kinds, a letter each. */
static const uint32_t *text(const char *kinds) {
    static uint32_t tokens[CHAIN_BLOCKS * B];
    for (uint32_t i = 0; kinds[i]; i++)
        for (uint32_t k = 0; k < B; k++) tokens[i * B + k] = (uint32_t)kinds[i] * 100 + k;
    return tokens;
}

static kv_table *swapping_table(uint32_t n_blocks, uint32_t n_slots) {
    kv_table *t = new_table_with_slots(n_blocks, n_slots, CHAINS, CHAIN_BLOCKS);
    kv_rule_swaps(t, always);
    return t;
}

static kv_chain begun(kv_table *t, const char *kinds, uint32_t *n_shared) {
    kv_chain c;
    uint32_t n = (uint32_t)strlen(kinds) * B;
    assert_int_equal(kv_reserve_known(t, ours, text(kinds), n, n, &c, n_shared), ST_OK);
    return c;
}

/* A chain that has computed all of `kinds`, kept. */
static kv_chain computed(kv_table *t, const char *kinds) {
    uint32_t first, n_new, n = (uint32_t)strlen(kinds) * B, n_shared;
    kv_chain c = begun(t, kinds, &n_shared);
    assert_int_equal(kv_extend(t, c, n, &first, &n_new), ST_OK);
    kv_keep(t, c, ours, text(kinds), n);
    kv_check(t);
    return c;
}

static void preempt(kv_table *t, kv_chain c) {
    kv_expect(t, c);
    kv_release(t, c);
}

static void assert_swaps(kv_table *t, const block_swap *expected, uint32_t n) {
    block_swap swaps[NOUNS_MAX_SWAPS];
    assert_int_equal(kv_n_swaps(t), n);
    assert_int_equal(kv_take_swaps(t, swaps), n);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(swaps[i].block, expected[i].block);
        assert_int_equal(swaps[i].slot, expected[i].slot);
        assert_int_equal(swaps[i].in, expected[i].in);
    }
    assert_int_equal(kv_n_swaps(t), 0);
}

static void who_was_sent_away_finds_his_blocks_in_slots(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    uint32_t n, n_blocks;
    preempt(t, computed(t, "abc"));
    kv_chain other = computed(t, "xyz"); /* one block is free; c and b, used last of all, go first */
    assert_swaps(t, (block_swap[]){{2, 0, false}, {1, 1, false}}, 2);
    assert_int_equal(kv_used_slots(t), 2);
    assert_int_equal(kv_kept_blocks(t), 1);
    assert_int_equal(kv_known(t, ours, text("abcd"), 4 * B, 4 * B, &n_blocks), 3 * B);
    assert_int_equal(n_blocks, 4); /* a is taken from those that are free, b and c need one each */
    kv_release(t, other);
    kv_chain again = begun(t, "abcd", &n);
    assert_int_equal(n, B); /* what lies in slots is not taken yet */
    assert_true(kv_can_fetch(t, again, ours, text("abcd"), 4 * B));
    assert_int_equal(kv_fetch(t, again, ours, text("abcd"), 4 * B), 2 * B);
    assert_swaps(t, (block_swap[]){{1, 1, true}, {2, 0, true}}, 2); /* x, y, z were computed once only: given up */
    assert_false(kv_can_fetch(t, again, ours, text("abcd"), 4 * B));
    assert_int_equal(kv_used_slots(t), 0);
    kv_check(t);
    mem_free(t);
}

static void what_was_computed_once_gets_no_slot_and_what_was_found_does(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    uint32_t n;
    kv_release(t, computed(t, "ab"));
    kv_release(t, computed(t, "cd"));
    kv_release(t, begun(t, "ce", &n)); /* finds c */
    assert_int_equal(n, B);
    kv_release(t, computed(t, "wxyz"));
    assert_swaps(t, (block_swap[]){{2, 0, false}}, 1);
    kv_check(t);
    mem_free(t);
}

/* Whoever was awaited and comes has found nothing of another's. */
static void what_was_fetched_for_its_own_gets_no_slot_again(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    uint32_t n;
    preempt(t, computed(t, "ab"));
    kv_release(t, computed(t, "wxyz"));
    assert_int_equal(kv_n_swaps(t), 2);
    kv_chain again = begun(t, "abc", &n);
    assert_int_equal(kv_fetch(t, again, ours, text("abc"), 3 * B), 2 * B);
    kv_release(t, again);
    uint32_t n_swaps = kv_n_swaps(t);
    kv_release(t, computed(t, "wxyz"));
    assert_int_equal(kv_n_swaps(t), n_swaps);
    kv_check(t);
    mem_free(t);
}

static void the_slot_filled_longest_ago_makes_room(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 2);
    uint32_t n_blocks;
    preempt(t, computed(t, "abcd"));
    kv_release(t, computed(t, "wxyz"));
    assert_swaps(t, (block_swap[]){{3, 0, false}, {2, 1, false}, {1, 0, false}, {0, 1, false}}, 4); /* d and c gave way */
    assert_int_equal(kv_known(t, ours, text("abcd"), 4 * B, 4 * B, &n_blocks), 2 * B);
    kv_check(t);
    mem_free(t);
}

/* All slots are full, and the one to be fetched is the oldest: it must not be given to the block that makes room for it. */
static void a_slot_that_is_being_fetched_is_not_filled(void **state) {
    (void)state;
    kv_table *t = swapping_table(2, 1);
    uint32_t n;
    preempt(t, computed(t, "a"));
    preempt(t, computed(t, "bc"));
    assert_swaps(t, (block_swap[]){{0, 0, false}}, 1);
    kv_chain again = begun(t, "ad", &n);
    assert_int_equal(kv_fetch(t, again, ours, text("ad"), 2 * B), B);
    assert_swaps(t, (block_swap[]){{0, 0, true}}, 1); /* c, in whose block it comes, is given up */
    kv_check(t);
    mem_free(t);
}

static void what_the_rule_forbids_is_not_done(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 8);
    uint32_t n, n_blocks;
    kv_rule_swaps(t, (kv_swap_rule){.most = 1, .out = true, .in = true});
    preempt(t, computed(t, "abcd"));
    kv_release(t, computed(t, "wx"));
    assert_swaps(t, (block_swap[]){{3, 0, false}}, 1); /* then c must go, and d cannot be found without it */
    assert_int_equal(kv_used_slots(t), 0);
    kv_rule_swaps(t, always);
    kv_release(t, computed(t, "yz"));
    assert_int_equal(kv_n_swaps(t), 2);
    kv_rule_swaps(t, (kv_swap_rule){.most = 3, .out = true, .in = false});
    assert_int_equal(kv_known(t, ours, text("abb"), 3 * B, 3 * B, &n_blocks), 0);
    kv_chain c = begun(t, "abb", &n);
    assert_false(kv_can_fetch(t, c, ours, text("abb"), 3 * B));
    kv_rule_swaps(t, (kv_swap_rule){.most = 3, .out = true, .in = true});
    assert_int_equal(kv_fetch(t, c, ours, text("abb"), 3 * B), 0); /* one in might need one out */
    assert_true(kv_can_fetch(t, c, ours, text("abb"), 3 * B));
    kv_rule_swaps(t, always);
    assert_int_equal(kv_fetch(t, c, ours, text("abb"), 3 * B), 2 * B);
    kv_check(t);
    mem_free(t);
}

/* c and d lie in slots behind a and b; no more may go out now. z, y, x and w go, and not b with all behind it. */
static void what_slots_stand_behind_stays_where_it_may_not_go_out(void **state) {
    (void)state;
    kv_table *t = swapping_table(6, 8);
    uint32_t n, n_blocks;
    preempt(t, computed(t, "abcd"));
    kv_chain other = computed(t, "wxyz");
    assert_int_equal(kv_used_slots(t), 2);
    kv_release(t, other);
    kv_rule_swaps(t, (kv_swap_rule){.most = 2, .out = true, .in = true}); /* these two are noted */
    kv_release(t, computed(t, "klmn"));
    assert_int_equal(kv_known(t, ours, text("abcde"), 5 * B, 5 * B, &n_blocks), 4 * B);
    kv_rule_swaps(t, (kv_swap_rule){.most = 2, .out = true}); /* what cannot come back does not count */
    kv_chain c = computed(t, "o");
    assert_int_equal(kv_used_slots(t), 0);
    kv_release(t, c);
    kv_rule_swaps(t, always);
    c = begun(t, "abcde", &n);
    assert_int_equal(n, B);
    kv_check(t);
    mem_free(t);
}

static void what_was_computed_again_gives_its_slot_back(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    uint32_t n, n_blocks;
    preempt(t, computed(t, "ab"));
    kv_release(t, computed(t, "wxyz"));
    assert_int_equal(kv_used_slots(t), 2);
    kv_chain c = computed(t, "abc"); /* did not fetch */
    assert_int_equal(kv_used_slots(t), 0);
    kv_chain d = begun(t, "abd", &n);
    assert_int_equal(n, 2 * B);
    assert_memory_equal(kv_chain_blocks(t, c, &n_blocks), kv_chain_blocks(t, d, &n), 2 * sizeof(block_id));
    kv_check(t);
    mem_free(t);
}

/* Whoever was awaited has come, and computed it; a second time it is not kept for him. */
static void what_was_awaited_and_computed_again_is_awaited_no_more(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    preempt(t, computed(t, "ab"));
    kv_release(t, computed(t, "wxyz"));
    assert_int_equal(kv_n_swaps(t), 2);
    kv_release(t, computed(t, "abc"));
    kv_release(t, computed(t, "wxyz"));
    assert_int_equal(kv_n_swaps(t), 2);
    kv_check(t);
    mem_free(t);
}

static void what_is_forgotten_is_in_no_slot(void **state) {
    (void)state;
    kv_table *t = swapping_table(4, 4);
    uint32_t n_blocks;
    preempt(t, computed(t, "ab"));
    kv_chain c = computed(t, "wxyz");
    kv_forget(t);
    kv_check(t);
    assert_int_equal(kv_used_slots(t), 0);
    assert_int_equal(kv_n_swaps(t), 2); /* to be done all the same: others may be behind them */
    assert_int_equal(kv_known(t, ours, text("abb"), 3 * B, 3 * B, &n_blocks), 0);
    kv_release(t, c);
    assert_int_equal(kv_free_blocks(t), 4);
    kv_check(t);
    mem_free(t);
}

/* ---- against a model ---- */

typedef struct {
    bool used, apart;
    kv_chain handle;
    kv_salt salt;
    char kinds[CHAIN_BLOCKS + 1];
    uint32_t n_blocks, n_reserved, n_kept, n_computed;
    block_id ids[CHAIN_BLOCKS];
} model_chain;

typedef enum { NOWHERE, IN_BLOCK, IN_SLOT } place;

typedef struct {
    place place;
    bool awaited, found, fetching;
    kv_salt salt;
    char kinds[CHAIN_BLOCKS + 1]; /* of all blocks up to this one */
    uint32_t block;
    uint64_t since; /* that nobody holds it; in a slot: that it is there */
} model_node;

typedef struct {
    uint64_t random, clock, n_out, n_in, n_gave_way, n_trees, n_again, n_passed_over;
    kv_table *t;
    kv_swap_rule rule;
    uint32_t n_slots, n_swaps;
    model_chain chains[CHAINS];
    model_node nodes[NODES];
    uint32_t generation[BLOCKS]; /* the last seen of each */
    uint64_t content[BLOCKS], file[MOST_SLOTS];
} world;

static uint32_t draw(world *w, uint32_t n) { return draw_below(&w->random, n); }

/* What the last of n blocks of these kinds holds. */
static uint64_t content_of(kv_salt salt, const char *kinds, uint32_t n) {
    uint64_t h = salt.half[1] + 1;
    for (uint32_t i = 0; i < n; i++) h = (h ^ (uint64_t)kinds[i]) * UINT64_C(1099511628211);
    return h;
}

static bool is_held(const world *w, uint32_t block) {
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t i = 0; w->chains[c].used && i < w->chains[c].n_blocks; i++)
            if (w->chains[c].ids[i].index == block) return true;
    return false;
}

typedef struct {
    uint32_t used, kept, promised, slots;
} counts;

static counts count(const world *w) {
    counts n = {0};
    for (uint32_t b = 0; b < BLOCKS; b++) n.used += is_held(w, b);
    for (const model_node *o = w->nodes; o < w->nodes + NODES; o++) {
        n.kept += o->place == IN_BLOCK && !is_held(w, o->block);
        n.slots += o->place == IN_SLOT;
    }
    for (uint32_t c = 0; c < CHAINS; c++)
        if (w->chains[c].used) n.promised += w->chains[c].n_reserved - w->chains[c].n_blocks;
    return n;
}

static model_node *node_of(world *w, kv_salt salt, const char *kinds, uint32_t n) {
    for (model_node *o = w->nodes; o < w->nodes + NODES; o++)
        if (o->place && o->salt.half[1] == salt.half[1] && strlen(o->kinds) == n && !strncmp(o->kinds, kinds, n)) return o;
    return NULL;
}

static bool is_behind(const model_node *o, const model_node *parent) {
    size_t n = strlen(parent->kinds);
    return o->place && o->salt.half[1] == parent->salt.half[1] && strlen(o->kinds) > n && !strncmp(o->kinds, parent->kinds, n);
}

static bool has_behind(const world *w, const model_node *node) {
    for (const model_node *o = w->nodes; o < w->nodes + NODES; o++)
        if (is_behind(o, node)) return true;
    return false;
}

/* ends: only of those that have nothing behind them. */
static model_node *oldest_of(world *w, place p, bool ends) {
    model_node *best = NULL;
    for (model_node *o = w->nodes; o < w->nodes + NODES; o++)
        if (o->place == p && !o->fetching && (p == IN_SLOT || !is_held(w, o->block)) && (!best || o->since < best->since) &&
            !(ends && has_behind(w, o)))
            best = o;
    return best;
}

static model_node *oldest(world *w, place p) { return oldest_of(w, p, false); }

/* Whose block is taken. */
static model_node *victim(world *w) {
    bool may_go = w->rule.out && w->n_swaps < w->rule.most;
    model_node *end = may_go || !w->rule.in ? NULL : oldest_of(w, IN_BLOCK, true), *old = oldest(w, IN_BLOCK);
    w->n_passed_over += end && end != old;
    return end ? end : old;
}

static void drop(world *w, model_node *node) {
    for (model_node *o = w->nodes; o < w->nodes + NODES; o++)
        if (is_behind(o, node)) {
            assert_int_equal(o->place, IN_SLOT);
            o->place = NOWHERE;
            w->n_trees++;
        }
    node->place = NOWHERE;
}

static void evict(world *w, model_node *node) {
    bool worth = node->awaited || node->found || has_behind(w, node);
    uint32_t slots = 0;
    for (const model_node *o = w->nodes; o < w->nodes + NODES; o++) slots += o->place == IN_SLOT;
    bool goes = w->rule.out && w->n_swaps < w->rule.most && worth && w->n_slots > 0;
    if (goes && slots == w->n_slots) {
        model_node *victim = oldest(w, IN_SLOT);
        if (victim) {
            for (model_node *o = w->nodes; o < w->nodes + NODES; o++) assert_false(is_behind(o, victim));
            victim->place = NOWHERE;
            w->n_gave_way++;
        }
        goes = victim != NULL;
    }
    if (!goes) {
        drop(w, node);
        return;
    }
    node->place = IN_SLOT;
    node->since = ++w->clock;
    w->n_swaps++;
    w->n_out++;
}

/* A block that a chain has been given: one that nobody held, and if all such were kept, the one used longest ago. */
static void take(world *w, model_chain *m, block_id id) {
    counts n = count(w);
    assert_false(is_held(w, id.index));
    if (n.used + n.kept == BLOCKS) {
        model_node *old = victim(w);
        assert_int_equal(id.index, old->block);
        evict(w, old);
    }
    for (const model_node *o = w->nodes; o < w->nodes + NODES; o++) assert_false(o->place == IN_BLOCK && o->block == id.index);
    assert_true(id.generation > w->generation[id.index]);
    w->generation[id.index] = id.generation;
    m->ids[m->n_blocks++] = id;
}

static model_chain *pick(world *w, bool used) {
    uint32_t start = draw(w, CHAINS);
    for (uint32_t i = 0; i < CHAINS; i++)
        if (w->chains[(start + i) % CHAINS].used == used) return &w->chains[(start + i) % CHAINS];
    return NULL;
}

/* Goes on with nodes as the table must; returns by how many. */
static uint32_t go_on(world *w, model_chain *m, uint32_t n_known, bool fetches) {
    uint32_t before = m->n_blocks, n_ids;
    const block_id *ids = kv_chain_blocks(w->t, m->handle, &n_ids);
    while (!m->apart && m->n_kept == m->n_blocks && (m->n_blocks + 1) * B < n_known) {
        model_node *o = node_of(w, m->salt, m->kinds, m->n_blocks + 1);
        bool swapped = o && o->place == IN_SLOT;
        if (!o || (swapped && !(fetches && w->rule.in && w->n_swaps + 2 <= w->rule.most))) break;
        assert_true(m->n_blocks < n_ids);
        if (swapped) {
            o->fetching = true;
            take(w, m, ids[m->n_blocks]);
            o->fetching = false;
            o->place = IN_BLOCK;
            o->block = m->ids[m->n_blocks - 1].index;
            w->n_swaps++;
            w->n_in++;
        } else {
            m->ids[m->n_blocks] = (block_id){o->block, w->generation[o->block]};
            m->n_blocks++;
        }
        if (!o->awaited) o->found = true;
        o->awaited = false;
        m->n_kept = m->n_computed = m->n_blocks;
    }
    assert_int_equal(n_ids, m->n_blocks);
    assert_memory_equal(ids, m->ids, n_ids * sizeof *ids);
    return m->n_blocks - before;
}

static void reserve(world *w) {
    model_chain *m = pick(w, false), fresh = {.used = true, .salt = draw(w, 4) ? ours : theirs};
    for (uint32_t i = 0; i < CHAIN_BLOCKS; i++) fresh.kinds[i] = (char)('a' + (draw(w, 4) == 0));
    uint32_t n_known = 1 + draw(w, CHAIN_BLOCKS * B), n_tokens = n_known + draw(w, CHAIN_BLOCKS * B + 1 - n_known), n_shared;
    uint32_t n_run = 0, n_new = kv_blocks_for(n_tokens), n_blocks;
    const model_node *o;
    for (; (n_run + 1) * B < n_known && (o = node_of(w, fresh.salt, fresh.kinds, n_run + 1)); n_run++) {
        if (o->place == IN_SLOT && !w->rule.in) break;
        n_new -= o->place == IN_BLOCK && is_held(w, o->block);
    }
    counts n = count(w);
    assert_int_equal(kv_known(w->t, fresh.salt, text(fresh.kinds), n_known, n_tokens, &n_blocks), n_run * B);
    assert_int_equal(n_blocks, n_new);
    bool fits = m && n_new <= BLOCKS - n.used - n.promised;
    st_code code = kv_reserve_known(w->t, fresh.salt, text(fresh.kinds), n_known, n_tokens, &fresh.handle, &n_shared);
    assert_int_equal(code, fits ? ST_OK : ST_ERR_NO_BLOCKS);
    if (!fits) return;
    fresh.n_reserved = kv_blocks_for(n_tokens);
    *m = fresh;
    assert_int_equal(go_on(w, m, n_known, false) * B, n_shared);
}

static void adopt_or_fetch(world *w, bool fetches) {
    model_chain *m = pick(w, true);
    if (!m) return;
    uint32_t n_known = draw(w, m->n_reserved * B + 1), n;
    const model_node *next = node_of(w, m->salt, m->kinds, m->n_blocks + 1);
    bool can =
        w->rule.in && next && next->place == IN_SLOT && !m->apart && m->n_kept == m->n_blocks && (m->n_blocks + 1) * B < n_known;
    assert_int_equal(kv_can_fetch(w->t, m->handle, m->salt, text(m->kinds), n_known), can);
    if (fetches)
        n = kv_fetch(w->t, m->handle, m->salt, text(m->kinds), n_known);
    else
        n = kv_adopt(w->t, m->handle, m->salt, text(m->kinds), n_known);
    assert_int_equal(go_on(w, m, n_known, fetches) * B, n);
}

static void extend(world *w) {
    model_chain *m = pick(w, true);
    uint32_t first, n_new, n;
    if (!m) return;
    assert_int_equal(kv_extend(w->t, m->handle, draw(w, m->n_reserved * B + 1), &first, &n_new), ST_OK);
    const block_id *ids = kv_chain_blocks(w->t, m->handle, &n);
    for (uint32_t i = first; i < first + n_new; i++) take(w, m, ids[i]);
    assert_int_equal(m->n_blocks, n);
}

/* Swaps are done, then what was planned is computed; and each chain finds in its blocks what it should. */
static void plan(world *w) {
    block_swap swaps[NOUNS_MAX_SWAPS];
    assert_int_equal(kv_n_swaps(w->t), w->n_swaps);
    uint32_t n = kv_take_swaps(w->t, swaps);
    assert_int_equal(n, w->n_swaps);
    w->n_swaps = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!swaps[i].in) {
            w->file[swaps[i].slot] = w->content[swaps[i].block];
            continue;
        }
        w->content[swaps[i].block] = w->file[swaps[i].slot];
        w->file[swaps[i].slot] = 0;
    }
    for (model_chain *m = w->chains; m < w->chains + CHAINS; m++)
        for (; m->used && m->n_computed < m->n_blocks; m->n_computed++)
            w->content[m->ids[m->n_computed].index] = content_of(m->salt, m->kinds, m->n_computed + 1);
    for (const model_chain *m = w->chains; m < w->chains + CHAINS; m++)
        for (uint32_t i = 0; m->used && i < m->n_blocks; i++)
            assert_true(w->content[m->ids[i].index] == content_of(m->salt, m->kinds, i + 1));
}

static void keep(world *w) {
    model_chain *m = pick(w, true);
    if (!m) return;
    uint32_t n_cached = draw(w, m->n_computed * B + 1);
    if (n_cached < m->n_kept * B) n_cached = m->n_kept * B;
    kv_keep(w->t, m->handle, m->salt, text(m->kinds), n_cached);
    for (; !m->apart && m->n_kept < n_cached / B; m->n_kept++) {
        model_node *same = node_of(w, m->salt, m->kinds, m->n_kept + 1), *node = same ? same : w->nodes;
        m->apart = same && same->place == IN_BLOCK;
        if (m->apart) break;
        w->n_again += same != NULL;
        while (!same && node->place) node++;
        if (!same) *node = (model_node){.salt = m->salt};
        if (same) same->found |= !same->awaited, same->awaited = false;
        node->place = IN_BLOCK;
        node->block = m->ids[m->n_kept].index;
        memcpy(node->kinds, m->kinds, m->n_kept + 1);
    }
}

static void release(world *w, model_chain *m, bool comes_again) {
    if (!m) return;
    for (uint32_t i = 0; i < m->n_kept && comes_again; i++) node_of(w, m->salt, m->kinds, i + 1)->awaited = true;
    if (comes_again) kv_expect(w->t, m->handle);
    kv_release(w->t, m->handle);
    m->used = false;
    for (uint32_t i = m->n_blocks; i-- > 0;)
        for (model_node *o = w->nodes; o < w->nodes + NODES; o++)
            if (o->place == IN_BLOCK && o->block == m->ids[i].index && !is_held(w, o->block)) o->since = ++w->clock;
}

static void rule(world *w) {
    kv_swap_rule before = w->rule;
    w->rule = draw(w, 3) ? always : (kv_swap_rule){w->n_swaps + draw(w, 6), draw(w, 4), draw(w, 4)};
    kv_swap_rule old = kv_rule_swaps(w->t, w->rule);
    assert_true(old.most == before.most && old.in == before.in && old.out == before.out);
}

static void forget(world *w) {
    kv_forget(w->t);
    for (uint32_t i = 0; i < NODES; i++) w->nodes[i].place = NOWHERE;
    for (model_chain *m = w->chains; m < w->chains + CHAINS; m++) m->apart = true, m->n_kept = 0;
}

static void one_operation(world *w) {
    switch (draw(w, 16)) {
    case 0:
    case 1:
    case 2: reserve(w); break;
    case 3:
    case 4: extend(w); break;
    case 5: adopt_or_fetch(w, false); break;
    case 6:
    case 7: adopt_or_fetch(w, true); break;
    case 8:
    case 9: keep(w); break;
    case 10: release(w, pick(w, true), false); break;
    case 11: release(w, pick(w, true), true); break;
    case 12:
    case 13: plan(w); break;
    case 14:
        if (draw(w, 4) == 0) rule(w);
        break;
    default:
        if (draw(w, 500) == 0) forget(w);
    }
}

static void run(world *w, uint32_t n_slots, uint32_t n_operations) {
    memset(w->chains, 0, sizeof w->chains);
    memset(w->nodes, 0, sizeof w->nodes);
    memset(w->generation, 0, sizeof w->generation);
    w->n_slots = n_slots;
    w->n_swaps = 0;
    w->rule = always;
    w->t = swapping_table(BLOCKS, n_slots);
    for (uint32_t i = 0; i < n_operations; i++) {
        if (kv_n_swaps(w->t) > NOUNS_MAX_SWAPS - 64) plan(w);
        one_operation(w);
        if (i % 8) continue;
        counts n = count(w);
        assert_int_equal(kv_used_blocks(w->t), n.used);
        assert_int_equal(kv_kept_blocks(w->t), n.kept);
        assert_int_equal(kv_free_blocks(w->t), BLOCKS - n.used - n.promised);
        assert_int_equal(kv_used_slots(w->t), n.slots);
        assert_int_equal(kv_n_swaps(w->t), w->n_swaps);
        kv_check(w->t);
    }
    plan(w);
    for (uint32_t i = 0; i < CHAINS; i++)
        if (w->chains[i].used) release(w, &w->chains[i], false);
    kv_check(w->t);
    mem_free(w->t);
}

static void slots_agree_with_a_simple_model_for_millions_of_operations(void **state) {
    (void)state;
    world w = {.random = 42};
    for (uint32_t n_slots = 0; n_slots <= MOST_SLOTS; n_slots++) run(&w, n_slots, N_OPERATIONS / (MOST_SLOTS + 1));
    print_message("%llu out, %llu in, %llu gave way, %llu lost what was before them, %llu computed again, %llu passed over\n",
                  (unsigned long long)w.n_out, (unsigned long long)w.n_in, (unsigned long long)w.n_gave_way,
                  (unsigned long long)w.n_trees, (unsigned long long)w.n_again, (unsigned long long)w.n_passed_over);
    assert_true(w.n_out > N_OPERATIONS / 200 && w.n_in > N_OPERATIONS / 400 && w.n_gave_way > N_OPERATIONS / 800 &&
                w.n_trees > N_OPERATIONS / 8000 && w.n_again > N_OPERATIONS / 2000 && w.n_passed_over > N_OPERATIONS / 4000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_was_sent_away_finds_his_blocks_in_slots),
        cmocka_unit_test(what_was_computed_once_gets_no_slot_and_what_was_found_does),
        cmocka_unit_test(what_was_fetched_for_its_own_gets_no_slot_again),
        cmocka_unit_test(the_slot_filled_longest_ago_makes_room),
        cmocka_unit_test(a_slot_that_is_being_fetched_is_not_filled),
        cmocka_unit_test(what_the_rule_forbids_is_not_done),
        cmocka_unit_test(what_slots_stand_behind_stays_where_it_may_not_go_out),
        cmocka_unit_test(what_was_computed_again_gives_its_slot_back),
        cmocka_unit_test(what_was_awaited_and_computed_again_is_awaited_no_more),
        cmocka_unit_test(what_is_forgotten_is_in_no_slot),
        cmocka_unit_test(slots_agree_with_a_simple_model_for_millions_of_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
