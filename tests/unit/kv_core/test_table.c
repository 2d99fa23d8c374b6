/* The block table: single rules by example, then all of them together against a model that knows no free list, no stack and no
 * running totals: it recounts everything from the chains each time. */
#include "tests/unit/kv_core/rig.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define N_OPERATIONS 500000
#endif
#endif
#ifndef N_OPERATIONS
#define N_OPERATIONS 3000000
#endif

static uint32_t grow(kv_table *t, kv_chain c, uint64_t n_tokens) {
    uint32_t first, n_new;
    assert_int_equal(kv_extend(t, c, n_tokens, &first, &n_new), ST_OK);
    return n_new;
}

static void a_reservation_promises_blocks_without_taking_them(void **state) {
    (void)state;
    kv_table *t = new_table(8, 4, 8);
    kv_chain a, b;
    assert_int_equal(kv_reserve(t, 5 * B, &a), ST_OK);
    assert_int_equal(kv_free_blocks(t), 3);
    assert_int_equal(kv_used_blocks(t), 0);
    assert_int_equal(kv_reserve(t, 3 * B + 1, &b), ST_ERR_NO_BLOCKS);
    assert_int_equal(kv_reserve(t, 3 * B, &b), ST_OK);
    assert_int_equal(grow(t, a, 5 * B), 5); /* b's promise does not stand in the way */
    assert_int_equal(grow(t, b, 3 * B), 3);
    assert_int_equal(kv_used_blocks(t), 8);
    kv_check(t);
    mem_free(t);
}

static void what_can_never_fit_is_told_from_what_must_wait(void **state) {
    (void)state;
    kv_table *t = new_table(8, 2, 6);
    kv_chain a, b, c;
    assert_int_equal(kv_reserve(t, 6 * B + 1, &a), ST_ERR_INVALID_ARGUMENT); /* longer than a chain */
    assert_int_equal(kv_reserve(t, UINT64_MAX, &a), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(kv_reserve(t, (UINT64_C(1) << 32) * B, &a), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(kv_reserve(t, 6 * B, &a), ST_OK);
    assert_int_equal(kv_reserve(t, 6 * B, &b), ST_ERR_NO_BLOCKS);
    assert_int_equal(kv_reserve(t, 1, &b), ST_OK);
    assert_int_equal(kv_reserve(t, 1, &c), ST_ERR_NO_BLOCKS); /* out of chains */
    kv_release(t, a);
    assert_int_equal(kv_reserve(t, 1, &c), ST_OK);
    kv_check(t);
    mem_free(t);
}

static void extending_names_only_the_new_blocks(void **state) {
    (void)state;
    kv_table *t = new_table(8, 2, 8);
    kv_chain a;
    uint32_t first, n_new, n;
    assert_int_equal(kv_reserve(t, 4 * B, &a), ST_OK);
    assert_int_equal(kv_extend(t, a, 1, &first, &n_new), ST_OK);
    assert_int_equal(first, 0);
    assert_int_equal(n_new, 1);
    assert_int_equal(kv_extend(t, a, B, &first, &n_new), ST_OK);
    assert_int_equal(n_new, 0);
    assert_int_equal(kv_extend(t, a, 2 * B + 1, &first, &n_new), ST_OK);
    assert_int_equal(first, 1);
    assert_int_equal(n_new, 2);
    assert_int_equal(kv_extend(t, a, 3, &first, &n_new), ST_OK); /* never shrinks */
    assert_int_equal(n_new, 0);
    assert_int_equal(kv_extend(t, a, 4 * B + 1, &first, &n_new), ST_ERR_INVALID_ARGUMENT);
    const block_id *ids = kv_chain_blocks(t, a, &n);
    assert_int_equal(n, 3);
    for (uint32_t i = 0; i < n; i++) assert_true(kv_block_live(t, ids[i]));
    kv_check(t);
    mem_free(t);
}

static void the_id_of_a_freed_block_is_refused(void **state) {
    (void)state;
    kv_table *t = new_table(1, 1, 1);
    kv_chain a;
    uint32_t n;
    assert_int_equal(kv_reserve(t, B, &a), ST_OK);
    assert_int_equal(grow(t, a, 1), 1);
    block_id old = kv_chain_blocks(t, a, &n)[0];
    assert_int_equal(old.generation, 1);
    kv_release(t, a);
    assert_false(kv_block_live(t, old));
    assert_int_equal(kv_reserve(t, B, &a), ST_OK);
    assert_int_equal(grow(t, a, 1), 1);
    block_id now = kv_chain_blocks(t, a, &n)[0];
    assert_int_equal(now.index, old.index);
    assert_int_equal(now.generation, 2);
    assert_false(kv_block_live(t, old));
    assert_false(kv_block_live(t, (block_id){1, 1}));
    kv_check(t);
    mem_free(t);
}

static void a_size_beyond_the_address_space_is_no_size(void **state) {
    (void)state;
    assert_int_equal(kv_table_bytes(UINT32_MAX, 0, UINT32_MAX, UINT32_MAX), 0);
    assert_int_equal(kv_table_bytes(8, UINT32_MAX, 1, 1), 0);
    assert_true(kv_table_bytes(0, 0, 0, 0) > 0);
}

/* ---- against a model ---- */

enum { BLOCKS = 40, CHAINS = 12, CHAIN_BLOCKS = 16 };

typedef struct {
    bool used;
    kv_chain handle;
    uint32_t n_blocks, n_reserved;
    block_id ids[CHAIN_BLOCKS];
} model_chain;

typedef struct {
    uint64_t random;
    kv_table *t;
    model_chain chains[CHAINS];
    uint32_t generation[BLOCKS]; /* the last seen of each */
} world;

static uint32_t draw(world *w, uint32_t n) { return draw_below(&w->random, n); }

static uint32_t held_by(const world *w, uint32_t block) {
    uint32_t n = 0;
    for (uint32_t c = 0; c < CHAINS; c++)
        for (uint32_t i = 0; w->chains[c].used && i < w->chains[c].n_blocks; i++) n += w->chains[c].ids[i].index == block;
    return n;
}

static void count(const world *w, uint32_t *used, uint32_t *free) {
    uint32_t promised = 0;
    *used = 0;
    for (uint32_t b = 0; b < BLOCKS; b++) *used += held_by(w, b) > 0;
    for (uint32_t c = 0; c < CHAINS; c++)
        if (w->chains[c].used) promised += w->chains[c].n_reserved - w->chains[c].n_blocks;
    *free = BLOCKS - *used - promised;
}

/* A block that a chain has just been given: nobody's before, and its generation is new. */
static void fresh(world *w, block_id id) {
    assert_true(id.index < BLOCKS);
    assert_int_equal(held_by(w, id.index), 0);
    assert_true(id.generation > w->generation[id.index]);
    w->generation[id.index] = id.generation;
}

static model_chain *pick(world *w, bool used) {
    uint32_t start = draw(w, CHAINS);
    for (uint32_t i = 0; i < CHAINS; i++) {
        model_chain *m = &w->chains[(start + i) % CHAINS];
        if (m->used == used) return m;
    }
    return NULL;
}

static st_code expect(const world *w, const model_chain *slot, uint32_t n_tokens) {
    uint32_t used, free;
    count(w, &used, &free);
    if (n_tokens > CHAIN_BLOCKS * B) return ST_ERR_INVALID_ARGUMENT;
    return slot && kv_blocks_for(n_tokens) <= free ? ST_OK : ST_ERR_NO_BLOCKS;
}

static void reserve(world *w) {
    model_chain *m = pick(w, false);
    kv_chain c;
    uint32_t n_tokens = draw(w, (CHAIN_BLOCKS + 1) * B);
    st_code code = kv_reserve(w->t, n_tokens, &c);
    assert_int_equal(code, expect(w, m, n_tokens));
    if (code == ST_OK) *m = (model_chain){.used = true, .handle = c, .n_reserved = kv_blocks_for(n_tokens)};
}

static void extend(world *w) {
    model_chain *m = pick(w, true);
    if (!m) return;
    uint32_t n_tokens = draw(w, (m->n_reserved + 1) * B), first, n_new, n;
    st_code code = kv_extend(w->t, m->handle, n_tokens, &first, &n_new);
    assert_int_equal(code, kv_blocks_for(n_tokens) <= m->n_reserved ? ST_OK : ST_ERR_INVALID_ARGUMENT);
    if (code != ST_OK) return;
    assert_int_equal(first, m->n_blocks);
    const block_id *ids = kv_chain_blocks(w->t, m->handle, &n);
    assert_int_equal(n, first + n_new);
    assert_int_equal(n, kv_blocks_for(n_tokens) > first ? kv_blocks_for(n_tokens) : first);
    for (uint32_t i = first; i < n; i++) {
        fresh(w, ids[i]);
        m->ids[m->n_blocks++] = ids[i];
    }
    assert_memory_equal(ids, m->ids, n * sizeof *ids);
}

static void release(world *w, model_chain *m) {
    if (!m) return;
    kv_release(w->t, m->handle);
    model_chain old = *m;
    *m = (model_chain){0};
    for (uint32_t i = 0; i < old.n_blocks; i++)
        assert_int_equal(kv_block_live(w->t, old.ids[i]), held_by(w, old.ids[i].index) > 0);
}

static void the_table_agrees_with_a_simple_model_for_millions_of_operations(void **state) {
    (void)state;
    world w = {.random = 42, .t = new_table(BLOCKS, CHAINS, CHAIN_BLOCKS)};
    for (uint32_t i = 0; i < N_OPERATIONS; i++) {
        switch (draw(&w, 7)) {
        case 0:
        case 1: reserve(&w); break;
        case 2:
        case 3:
        case 4: extend(&w); break;
        default:
            if (draw(&w, 3) > 0) release(&w, pick(&w, true));
        }
        if (i % 16 == 0) {
            uint32_t used, free;
            count(&w, &used, &free);
            assert_int_equal(kv_used_blocks(w.t), used);
            assert_int_equal(kv_free_blocks(w.t), free);
            kv_check(w.t);
        }
    }
    for (uint32_t i = 0; i < CHAINS; i++)
        if (w.chains[i].used) release(&w, &w.chains[i]);
    assert_int_equal(kv_used_blocks(w.t), 0);
    assert_int_equal(kv_free_blocks(w.t), BLOCKS);
    kv_check(w.t);
    mem_free(w.t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reservation_promises_blocks_without_taking_them),
        cmocka_unit_test(what_can_never_fit_is_told_from_what_must_wait),
        cmocka_unit_test(extending_names_only_the_new_blocks),
        cmocka_unit_test(the_id_of_a_freed_block_is_refused),
        cmocka_unit_test(a_size_beyond_the_address_space_is_no_size),
        cmocka_unit_test(the_table_agrees_with_a_simple_model_for_millions_of_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
