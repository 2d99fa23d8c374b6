/* What the tests of the block table share: a table on memory that was not zero, and numbers to draw from. */
#ifndef CONSORT_TESTS_KV_CORE_RIG_H
#define CONSORT_TESTS_KV_CORE_RIG_H

#include "base/mem.h"
#include "kv/kv_core.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { B = NOUNS_BLOCK_TOKENS };

static inline kv_table *new_table_with_slots(uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains,
                                             uint32_t max_chain_blocks) {
    size_t n = kv_table_bytes(n_blocks, n_slots, max_chains, max_chain_blocks);
    assert_true(n > 0);
    void *memory = mem_alloc_aligned(1, n, 64);
    assert_non_null(memory);
    memset(memory, 0xa5, n); /* init must not lean on zeroed memory */
    return kv_table_init(memory, n_blocks, n_slots, max_chains, max_chain_blocks, 7);
}

static inline kv_table *new_table(uint32_t n_blocks, uint32_t max_chains, uint32_t max_chain_blocks) {
    return new_table_with_slots(n_blocks, 0, max_chains, max_chain_blocks);
}

static inline uint32_t draw_below(uint64_t *random, uint32_t n) { /* xorshift64* */
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    return (uint32_t)((*random * UINT64_C(0x2545F4914F6CDD1D)) >> 32) % n;
}

#endif
