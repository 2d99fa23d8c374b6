/* Kept blocks: single rules by example, then all of them against a model that has no tree, no buckets and no list: it looks
 * through all blocks each time. */
#include "tests/unit/kv_core/rig.h"

#include "kv/prefix_int.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define N_OPERATIONS 150000
#endif
#endif
#ifndef N_OPERATIONS
#define N_OPERATIONS 1500000
#endif

enum { BLOCKS = 24, CHAINS = 8, CHAIN_BLOCKS = 6 };
static const kv_salt ours = {{0, 0}}, theirs = {{0, 1}};

/* Blocks of tokens by their kinds, a letter each. */
static const uint32_t *text(const char *kinds) {
    static uint32_t tokens[CHAIN_BLOCKS * B];
    for (uint32_t i = 0; kinds[i]; i++)
        for (uint32_t k = 0; k < B; k++) tokens[i * B + k] = (uint32_t)kinds[i] * 100 + k;
    return tokens;
}

static uint32_t known(const kv_table *t, kv_salt salt, const char *kinds, uint32_t n_known) {
    uint32_t n_blocks, n = kv_known(t, salt, text(kinds), n_known, n_known, &n_blocks);
    assert_true(n_blocks >= kv_blocks_for(n_known - n) && n_blocks <= kv_blocks_for(n_known));
    return n;
}

/* A chain that has computed all of `kinds`, kept. */
static kv_chain computed(kv_table *t, kv_salt salt, const char *kinds, uint32_t *n_shared) {
    kv_chain c;
    uint32_t first, n_new, n = (uint32_t)strlen(kinds) * B;
    assert_int_equal(kv_reserve_known(t, salt, text(kinds), n, n, &c, n_shared), ST_OK);
    assert_int_equal(kv_extend(t, c, n, &first, &n_new), ST_OK);
    assert_int_equal(first * B, *n_shared);
    kv_keep(t, c, salt, text(kinds), n);
    kv_check(t);
    return c;
}

static void what_was_computed_once_is_shared_while_it_is_there(void **state) {
    (void)state;
    kv_table *t = new_table(8, 4, CHAIN_BLOCKS);
    uint32_t n, n_blocks;
    kv_chain a = computed(t, ours, "xyz", &n);
    assert_int_equal(n, 0);
    assert_int_equal(known(t, ours, "xyz", 3 * B), 2 * B); /* one token at least is computed */
    assert_int_equal(known(t, ours, "xyzz", 3 * B + 1), 3 * B);
    assert_int_equal(known(t, ours, "xzy", 3 * B), B);
    assert_int_equal(known(t, theirs, "xyz", 3 * B), 0);
    kv_chain b = computed(t, ours, "xyzw", &n); /* while a holds them */
    assert_int_equal(n, 3 * B);
    assert_memory_equal(kv_chain_blocks(t, a, &n_blocks), kv_chain_blocks(t, b, &n), 3 * sizeof(block_id));
    assert_int_equal(kv_used_blocks(t), 4);
    kv_release(t, a);
    assert_int_equal(kv_used_blocks(t), 4);
    kv_release(t, b);
    assert_int_equal(kv_used_blocks(t), 0);
    assert_int_equal(kv_kept_blocks(t), 4);
    assert_int_equal(kv_free_blocks(t), 8); /* they may be taken */
    b = computed(t, ours, "xyzw", &n);      /* when nobody holds them */
    assert_int_equal(n, 3 * B);
    assert_int_equal(kv_kept_blocks(t), 1); /* w: the last block is computed anew, and known already */
    kv_release(t, b);
    assert_int_equal(kv_kept_blocks(t), 4);
    kv_check(t);
    mem_free(t);
}

static void what_was_used_longest_ago_makes_room(void **state) {
    (void)state;
    kv_table *t = new_table(4, 4, CHAIN_BLOCKS);
    uint32_t n;
    kv_release(t, computed(t, ours, "ab", &n));
    kv_release(t, computed(t, ours, "cd", &n));
    assert_int_equal(kv_kept_blocks(t), 4);
    kv_release(t, computed(t, ours, "ae", &n)); /* a is used again; e needs room: b is the oldest */
    assert_int_equal(n, B);
    assert_int_equal(known(t, ours, "abb", 3 * B), B);
    assert_int_equal(known(t, ours, "cdd", 3 * B), 2 * B);
    assert_int_equal(known(t, ours, "aee", 3 * B), 2 * B);
    kv_release(t, computed(t, ours, "f", &n)); /* now d, and not c before it */
    assert_int_equal(known(t, ours, "cdd", 3 * B), B);
    kv_check(t);
    mem_free(t);
}

static void kept_blocks_that_are_taken_are_not_promised_to_others(void **state) {
    (void)state;
    kv_table *t = new_table(4, 4, 4);
    kv_chain a, b;
    uint32_t n;
    kv_release(t, computed(t, ours, "ab", &n));
    assert_int_equal(kv_reserve(t, 2 * B, &a), ST_OK);
    assert_int_equal(kv_free_blocks(t), 2);
    /* it needs one new block, and holds two that are counted as free: one too many */
    assert_int_equal(kv_reserve_known(t, ours, text("abc"), 3 * B, 3 * B, &b, &n), ST_ERR_NO_BLOCKS);
    assert_int_equal(kv_reserve_known(t, ours, text("abc"), 2 * B, 2 * B, &b, &n), ST_OK);
    assert_int_equal(n, B);
    assert_int_equal(kv_free_blocks(t), 0);
    uint32_t first, n_new;
    assert_int_equal(kv_extend(t, a, 2 * B, &first, &n_new), ST_OK);
    assert_int_equal(kv_extend(t, b, 2 * B, &first, &n_new), ST_OK); /* both get what they were promised */
    kv_check(t);
    mem_free(t);
}

static void two_that_compute_the_same_at_once_keep_it_once(void **state) {
    (void)state;
    kv_table *t = new_table(8, 4, 4);
    kv_chain a, b;
    uint32_t n, first, n_new;
    assert_int_equal(kv_reserve_known(t, ours, text("ab"), 2 * B, 2 * B, &a, &n), ST_OK);
    assert_int_equal(kv_reserve_known(t, ours, text("ab"), 2 * B, 2 * B, &b, &n), ST_OK);
    assert_int_equal(kv_extend(t, a, 2 * B, &first, &n_new), ST_OK);
    assert_int_equal(kv_extend(t, b, 2 * B, &first, &n_new), ST_OK);
    kv_keep(t, a, ours, text("ab"), B);
    kv_keep(t, b, ours, text("ab"), 2 * B);
    kv_keep(t, a, ours, text("ab"), 2 * B);
    kv_check(t);
    assert_int_equal(kv_used_blocks(t), 4);
    kv_release(t, b);
    assert_int_equal(kv_used_blocks(t), 2);
    assert_int_equal(kv_kept_blocks(t), 0); /* b's blocks are no one's */
    kv_release(t, a);
    assert_int_equal(kv_kept_blocks(t), 2);
    kv_check(t);
    mem_free(t);
}

static void what_another_computes_meanwhile_is_adopted(void **state) {
    (void)state;
    kv_table *t = new_table(8, 4, 4);
    kv_chain a, b;
    uint32_t n, first, n_new, n_blocks;
    assert_int_equal(kv_reserve_known(t, ours, text("abc"), 3 * B, 4 * B, &a, &n), ST_OK);
    assert_int_equal(kv_reserve_known(t, ours, text("abd"), 3 * B, 4 * B, &b, &n), ST_OK);
    assert_int_equal(kv_adopt(t, b, ours, text("abd"), 3 * B), 0);
    assert_int_equal(kv_extend(t, a, 2 * B, &first, &n_new), ST_OK);
    kv_keep(t, a, ours, text("abc"), B + 1);
    assert_int_equal(kv_adopt(t, b, theirs, text("abd"), 3 * B), 0);
    assert_int_equal(kv_adopt(t, b, ours, text("abd"), B), 0); /* one token at least is computed */
    assert_int_equal(kv_adopt(t, b, ours, text("abd"), 3 * B), B);
    assert_int_equal(kv_free_blocks(t), 1); /* what b need not take any more is there for others */
    kv_keep(t, a, ours, text("abc"), 2 * B);
    assert_int_equal(kv_adopt(t, b, ours, text("abd"), 3 * B), B);
    assert_memory_equal(kv_chain_blocks(t, a, &n_blocks), kv_chain_blocks(t, b, &n), 2 * sizeof(block_id));
    assert_int_equal(kv_extend(t, b, 2 * B + 1, &first, &n_new), ST_OK);
    assert_int_equal(first, 2);
    kv_keep(t, a, ours, text("abc"), 2 * B);
    assert_int_equal(kv_adopt(t, b, ours, text("abd"), 4 * B), 0); /* it has begun a block of its own */
    kv_check(t);
    kv_release(t, a);
    kv_release(t, b);
    assert_int_equal(kv_kept_blocks(t), 2);
    kv_check(t);
    mem_free(t);
}

static void what_is_forgotten_is_not_found(void **state) {
    (void)state;
    kv_table *t = new_table(8, 4, 4);
    uint32_t n;
    kv_chain a = computed(t, ours, "ab", &n);
    kv_release(t, computed(t, ours, "cd", &n));
    kv_forget(t);
    kv_check(t);
    assert_int_equal(kv_kept_blocks(t), 0);
    assert_int_equal(known(t, ours, "abb", 3 * B) + known(t, ours, "cdd", 3 * B), 0);
    kv_keep(t, a, ours, text("ab"), 2 * B);
    kv_release(t, a);
    assert_int_equal(kv_kept_blocks(t), 0); /* what a held from before is not shared any more */
    assert_int_equal(kv_free_blocks(t), 8);
    kv_check(t);
    mem_free(t);
}

/* ---- buckets ---- */

enum { NODES = 64, TRIED = 8192 };

typedef struct {
    kv_prefix p;
    kv_node nodes[NODES];
    uint32_t of_block[NODES], buckets[NODES];
} small_tree;

static void init_small(small_tree *s, uint64_t key) {
    *s = (small_tree){.p = {.n_nodes = NODES, .n_blocks = NODES, .n_buckets = kv_prefix_buckets(NODES)}};
    assert_int_equal(s->p.n_buckets, NODES);
    s->p.nodes = s->nodes;
    s->p.of_block = s->of_block;
    s->p.buckets = s->buckets;
    kv_prefix_set_key(&s->p, key);
    kv_prefix_init(&s->p);
}

static uint32_t longest_bucket(const small_tree *s) {
    uint32_t longest = 0;
    for (uint32_t b = 0; b < NODES; b++) {
        uint32_t n = 0;
        for (uint32_t at = s->buckets[b]; at != KV_NONE; at = s->nodes[at].next_of_bucket) n++;
        if (n > longest) longest = n;
    }
    return longest;
}

/* Differ in one place: where two such tokens differ says most of a weak hash. */
static void draw_tokens(uint64_t *random, uint32_t i, uint32_t tokens[B]) {
    for (uint32_t k = 0; k < B; k++) tokens[k] = 100 + k;
    tokens[i % B] = draw_below(random, 50000);
}

static void who_does_not_know_the_key_cannot_fill_one_bucket(void **state) {
    (void)state;
    static small_tree known, other;
    uint32_t tokens[B], n = 0, wanted = KV_NONE;
    uint64_t random = 5;
    init_small(&known, 1);
    init_small(&other, 2);
    for (uint32_t i = 0; i < TRIED && n < NODES; i++) {
        draw_tokens(&random, i, tokens);
        if (kv_prefix_find(&known.p, ours, KV_NONE, tokens) != KV_NONE) continue;
        kv_prefix_add(&known.p, n, ours, KV_NONE, tokens);
        uint32_t at = 0;
        while (known.buckets[at] != n) at++; /* nodes are numbered as they come, and begin their bucket */
        if (wanted == KV_NONE) wanted = at;
        if (at != wanted) {
            kv_prefix_remove(&known.p, n);
            continue;
        }
        kv_prefix_add(&other.p, n++, ours, KV_NONE, tokens);
    }
    assert_int_equal(n, NODES);
    assert_int_equal(longest_bucket(&known), NODES);
    assert_true(longest_bucket(&other) <= 8); /* 64 balls in 64 bins */
    kv_prefix_check(&other.p);
}

static void salt_and_parent_choose_the_bucket_too(void **state) {
    (void)state;
    static small_tree salts, parents;
    uint32_t tokens[B] = {0};
    init_small(&salts, 3);
    init_small(&parents, 3);
    for (uint32_t i = 0; i < NODES; i++) {
        kv_salt salt = {{i % 4 == 0 ? i : 0, 0}};
        if (i % 4) salt.half[i % 4 / 2] = (uint64_t)i << (i % 4 == 1 ? 32 : i % 4 == 2 ? 0 : 32);
        kv_prefix_add(&salts.p, i, salt, KV_NONE, tokens);
        kv_prefix_add(&parents.p, i, ours, i ? i - 1 : KV_NONE, tokens);
    }
    assert_true(longest_bucket(&salts) <= 8);
    assert_true(longest_bucket(&parents) <= 8);
}

/* ---- against a model ---- */

typedef struct {
    bool used, apart;
    kv_chain handle;
    kv_salt salt;
    char kinds[CHAIN_BLOCKS + 1];
    uint32_t n_blocks, n_reserved, n_kept;
    block_id ids[CHAIN_BLOCKS];
} model_chain;

typedef struct {
    bool there;
    kv_salt salt;
    char kinds[CHAIN_BLOCKS + 1]; /* of all blocks up to this one */
    uint64_t used_at;
} model_node;

typedef struct {
    uint64_t random, clock, n_hits, n_adopted, n_evicted, n_fit, n_not;
    kv_table *t;
    model_chain chains[CHAINS];
    model_node nodes[BLOCKS];
    uint32_t generation[BLOCKS]; /* the last seen of each */
} world;

static uint32_t draw(world *w, uint32_t n) { return draw_below(&w->random, n); }

static bool is_held(const world *w, uint32_t block) {
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t i = 0; w->chains[c].used && i < w->chains[c].n_blocks; i++)
            if (w->chains[c].ids[i].index == block) return true;
    return false;
}

static void count(const world *w, uint32_t *used, uint32_t *kept, uint32_t *promised) {
    *used = *kept = *promised = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) {
        *used += is_held(w, b);
        *kept += w->nodes[b].there && !is_held(w, b);
    }
    for (uint32_t c = 0; c < CHAINS; c++)
        if (w->chains[c].used) *promised += w->chains[c].n_reserved - w->chains[c].n_blocks;
}

static uint32_t node_of(const world *w, kv_salt salt, const char *kinds, uint32_t n) {
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (w->nodes[b].there && w->nodes[b].salt.half[1] == salt.half[1] && strlen(w->nodes[b].kinds) == n &&
            !strncmp(w->nodes[b].kinds, kinds, n))
            return b;
    return BLOCKS;
}

static model_chain *pick(world *w, bool used) {
    uint32_t start = draw(w, CHAINS);
    for (uint32_t i = 0; i < CHAINS; i++)
        if (w->chains[(start + i) % CHAINS].used == used) return &w->chains[(start + i) % CHAINS];
    return NULL;
}

static void reserve(world *w) {
    model_chain *m = pick(w, false), fresh = {.used = true, .salt = draw(w, 4) ? ours : theirs};
    for (uint32_t i = 0; i < CHAIN_BLOCKS; i++) fresh.kinds[i] = (char)('a' + (draw(w, 4) == 0));
    uint32_t n_known = 1 + draw(w, CHAIN_BLOCKS * B), n_tokens = n_known + draw(w, CHAIN_BLOCKS * B + 1 - n_known), n_run = 0;
    uint32_t used, kept, promised, n_resting = 0, n_shared, n;
    for (; (n_run + 1) * B < n_known && (n = node_of(w, fresh.salt, fresh.kinds, n_run + 1)) < BLOCKS; n_run++) {
        fresh.ids[n_run] = (block_id){n, w->generation[n]};
        n_resting += !is_held(w, n);
    }
    count(w, &used, &kept, &promised);
    bool fits = m && kv_blocks_for(n_tokens) - n_run + n_resting <= BLOCKS - used - promised;
    st_code code = kv_reserve_known(w->t, fresh.salt, text(fresh.kinds), n_known, n_tokens, &fresh.handle, &n_shared);
    assert_int_equal(code, fits ? ST_OK : ST_ERR_NO_BLOCKS);
    if (!fits) return;
    assert_int_equal(n_shared, n_run * B);
    fresh.n_blocks = fresh.n_kept = n_run;
    fresh.n_reserved = kv_blocks_for(n_tokens);
    assert_memory_equal(kv_chain_blocks(w->t, fresh.handle, &n), fresh.ids, n_run * sizeof *fresh.ids);
    w->n_hits += n_run;
    *m = fresh;
}

/* A block that a chain has been given: one that nobody held, and if all such were kept, the one used longest ago. */
static void take(world *w, block_id id) {
    uint32_t used, kept, promised, oldest = BLOCKS;
    count(w, &used, &kept, &promised);
    assert_false(is_held(w, id.index));
    for (uint32_t b = 0; b < BLOCKS; b++)
        if (w->nodes[b].there && !is_held(w, b) && (oldest == BLOCKS || w->nodes[b].used_at < w->nodes[oldest].used_at))
            oldest = b;
    if (used + kept == BLOCKS) {
        assert_int_equal(id.index, oldest);
        w->nodes[oldest].there = false;
        w->n_evicted++;
    }
    assert_false(w->nodes[id.index].there);
    assert_true(id.generation > w->generation[id.index]);
    w->generation[id.index] = id.generation;
}

static void extend(world *w) {
    model_chain *m = pick(w, true);
    uint32_t first, n_new, n;
    if (!m) return;
    assert_int_equal(kv_extend(w->t, m->handle, draw(w, m->n_reserved * B + 1), &first, &n_new), ST_OK);
    const block_id *ids = kv_chain_blocks(w->t, m->handle, &n);
    for (uint32_t i = first; i < first + n_new; i++) {
        take(w, ids[i]);
        m->ids[m->n_blocks++] = ids[i];
    }
    assert_int_equal(m->n_blocks, n);
}

static void more(world *w) {
    model_chain *m = pick(w, true);
    uint32_t used, kept, promised, n_tokens = draw(w, CHAIN_BLOCKS * B + 1), n = kv_blocks_for(n_tokens);
    if (!m) return;
    count(w, &used, &kept, &promised);
    bool fits = n <= m->n_reserved || n - m->n_reserved <= BLOCKS - used - promised;
    assert_int_equal(kv_grow(w->t, m->handle, n_tokens), fits ? ST_OK : ST_ERR_NO_BLOCKS);
    if (fits && n > m->n_reserved) m->n_reserved = n;
}

static void keep(world *w) {
    model_chain *m = pick(w, true);
    if (!m) return;
    uint32_t n_cached = draw(w, m->n_blocks * B + 1);
    if (n_cached < m->n_kept * B) n_cached = m->n_kept * B;
    kv_keep(w->t, m->handle, m->salt, text(m->kinds), n_cached);
    for (; !m->apart && m->n_kept < n_cached / B; m->n_kept++) {
        m->apart = node_of(w, m->salt, m->kinds, m->n_kept + 1) < BLOCKS;
        if (m->apart) break;
        model_node *node = &w->nodes[m->ids[m->n_kept].index];
        *node = (model_node){.there = true, .salt = m->salt};
        memcpy(node->kinds, m->kinds, m->n_kept + 1);
    }
}

static void adopt(world *w) {
    model_chain *m = pick(w, true);
    if (!m) return;
    uint32_t n_known = draw(w, m->n_reserved * B + 1), n, n_before = m->n_blocks;
    bool may = !m->apart && m->n_kept == m->n_blocks;
    while (may && (m->n_blocks + 1) * B < n_known && (n = node_of(w, m->salt, m->kinds, m->n_blocks + 1)) < BLOCKS) {
        m->ids[m->n_blocks++] = (block_id){n, w->generation[n]};
        m->n_kept++;
    }
    assert_int_equal(kv_adopt(w->t, m->handle, m->salt, text(m->kinds), n_known), (m->n_blocks - n_before) * B);
    assert_memory_equal(kv_chain_blocks(w->t, m->handle, &n), m->ids, m->n_blocks * sizeof *m->ids);
    w->n_adopted += m->n_blocks - n_before;
}

static void release(world *w, model_chain *m) {
    if (!m) return;
    uint32_t n_free = kv_free_blocks(w->t) + kv_released(w->t, m->handle);
    kv_release(w->t, m->handle);
    assert_int_equal(kv_free_blocks(w->t), n_free);
    m->used = false;
    for (uint32_t i = m->n_blocks; i-- > 0;)
        if (!is_held(w, m->ids[i].index)) w->nodes[m->ids[i].index].used_at = ++w->clock;
}

/* Some chains go for another: if it was to fit then, it does. */
static void make_way(world *w) {
    char kinds[CHAIN_BLOCKS + 1] = {0};
    for (uint32_t i = 0; i < CHAIN_BLOCKS; i++) kinds[i] = (char)('a' + (draw(w, 4) == 0));
    uint32_t n = 1 + draw(w, CHAIN_BLOCKS * B), who = draw(w, 1 << CHAINS), n_free = kv_free_blocks(w->t), n_blocks;
    for (uint32_t c = 0; c < CHAINS; c++)
        if (w->chains[c].used && who >> c & 1) n_free += kv_released(w->t, w->chains[c].handle);
    bool fits = kv_known_then(w->t, ours, text(kinds), n, n) <= n_free;
    for (uint32_t c = 0; c < CHAINS; c++)
        if (w->chains[c].used && who >> c & 1) release(w, &w->chains[c]);
    kv_known(w->t, ours, text(kinds), n, n, &n_blocks);
    w->n_fit += fits, w->n_not += !fits;
    assert_true(n_blocks <= kv_free_blocks(w->t) || !fits);
}

static void forget(world *w) {
    kv_forget(w->t);
    for (uint32_t b = 0; b < BLOCKS; b++) w->nodes[b].there = false;
    for (uint32_t c = 0; c < CHAINS; c++) w->chains[c].apart = true, w->chains[c].n_kept = 0;
}

static void kept_blocks_agree_with_a_simple_model_for_millions_of_operations(void **state) {
    (void)state;
    world w = {.random = 42, .t = new_table(BLOCKS, CHAINS, CHAIN_BLOCKS)};
    for (uint32_t i = 0; i < N_OPERATIONS; i++) {
        uint32_t used, kept, promised;
        switch (draw(&w, 10)) {
        case 0:
        case 1: reserve(&w); break;
        case 2:
        case 3: extend(&w); break;
        case 4:
        case 5: keep(&w); break;
        case 6: release(&w, pick(&w, true)); break;
        case 7: adopt(&w); break;
        case 8: more(&w); break;
        default:
            if (draw(&w, 1000) == 0) forget(&w);
            if (draw(&w, 50) == 0) make_way(&w);
        }
        if (i % 8) continue;
        count(&w, &used, &kept, &promised);
        assert_int_equal(kv_used_blocks(w.t), used);
        assert_int_equal(kv_kept_blocks(w.t), kept);
        assert_int_equal(kv_free_blocks(w.t), BLOCKS - used - promised);
        kv_check(w.t);
    }
    print_message("%llu blocks shared, %llu adopted, %llu made room\n", (unsigned long long)w.n_hits,
                  (unsigned long long)w.n_adopted, (unsigned long long)w.n_evicted);
    assert_true(w.n_hits > N_OPERATIONS / 20 && w.n_adopted > N_OPERATIONS / 1000 && w.n_evicted > N_OPERATIONS / 100);
    assert_true(w.n_fit > N_OPERATIONS / 2000 && w.n_not > N_OPERATIONS / 50000);
    for (uint32_t i = 0; i < CHAINS; i++)
        if (w.chains[i].used) release(&w, &w.chains[i]);
    forget(&w);
    assert_int_equal(kv_free_blocks(w.t), BLOCKS);
    assert_int_equal(kv_used_blocks(w.t) + kv_kept_blocks(w.t), 0);
    kv_check(w.t);
    mem_free(w.t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_computed_once_is_shared_while_it_is_there),
        cmocka_unit_test(what_was_used_longest_ago_makes_room),
        cmocka_unit_test(kept_blocks_that_are_taken_are_not_promised_to_others),
        cmocka_unit_test(two_that_compute_the_same_at_once_keep_it_once),
        cmocka_unit_test(what_another_computes_meanwhile_is_adopted),
        cmocka_unit_test(what_is_forgotten_is_not_found),
        cmocka_unit_test(who_does_not_know_the_key_cannot_fill_one_bucket),
        cmocka_unit_test(salt_and_parent_choose_the_bucket_too),
        cmocka_unit_test(kept_blocks_agree_with_a_simple_model_for_millions_of_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
