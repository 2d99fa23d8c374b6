/* kv_core: who holds which block of a group's KV cache. Pure bookkeeping in the coordinator; no tensor memory here.
 *
 * Nouns: a table (all blocks of one group), a sequence's chain of blocks, a block id (index and generation: an id of a freed
 * block is refused). A sequence reserves what it needs for certain, extends block by block within the reservation, so that it
 * does not run out in the middle, and asks for more when it must: if that fails, another has to go. Blocks are reference-counted:
 * sequences that begin with the same tokens under the same salt share the full blocks of these. A block whose tokens are known
 * stays when nobody holds it any more, until its room is needed (kept blocks; the one used longest ago goes first).
 *
 * Where there are slots (a second, slower tier: a file of each rank), a kept block whose room is needed goes to one if it is
 * likely to be wanted again, and comes back into some block when it is (kv_fetch). The table says what is to be copied where, as
 * swaps, in the order in which they must be done: all of them before anything that is planned later reads or writes a block.
 *
 * All memory is the caller's, sized by kv_table_bytes; no clock, allocation or I/O. Owner: the scheduler. */
#ifndef CONSORT_KV_CORE_H
#define CONSORT_KV_CORE_H

#include "base/nouns.h"
#include "base/status.h"
#include <stddef.h>

typedef struct kv_table kv_table;
typedef struct {
    uint32_t index; /* handle of a chain in one table */
} kv_chain;
#define KV_CHAIN_NONE ((kv_chain){UINT32_MAX})

/* Sequences of different salts share no blocks: whether somebody has asked the same before shows in the time of an answer. */
typedef struct {
    uint64_t half[2];
} kv_salt;

static inline uint32_t kv_blocks_for(uint64_t n_tokens) {
    return (uint32_t)((n_tokens + NOUNS_BLOCK_TOKENS - 1) / NOUNS_BLOCK_TOKENS);
}

/* 0: more than memory can hold. n_slots may be 0. */
size_t kv_table_bytes(uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains, uint32_t max_chain_blocks);
/* `memory`: kv_table_bytes() bytes, 64-byte aligned, owned by the caller for as long as the table is used. `key`: a random
 * number, where tokens come from strangers: who knows it can choose tokens that are found slowly. What is found does not depend
 * on it. */
kv_table *kv_table_init(void *memory, uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains, uint32_t max_chain_blocks,
                        uint64_t key);

/* A new empty chain that may grow to n_tokens. Errors: ST_ERR_NO_BLOCKS (retryable, nothing changed), ST_ERR_INVALID_ARGUMENT
 * (can never fit this table). */
ST_CHECKED st_code kv_reserve(kv_table *t, uint64_t n_tokens, kv_chain *out);
/* As kv_reserve, for a sequence whose first n_known of n_tokens tokens are `tokens`: it begins with the longest run of kept
 * blocks that hold just these, and at least one token is left to be computed. *n_shared: tokens in them; kv_keep goes on from
 * there. */
ST_CHECKED st_code kv_reserve_known(kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens,
                                    kv_chain *out, uint32_t *n_shared);
/* What kv_reserve_known would find, and kv_fetch behind it, in tokens; *n_blocks: free blocks that they would take. */
uint32_t kv_known(const kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens,
                  uint32_t *n_blocks);
/* Would it fit if other chains were released first? It does if this is at most kv_free_blocks and the sum of their kv_released:
 * the free blocks that kv_reserve_known would take then. Where chains share blocks it may say no though it would. */
uint32_t kv_known_then(const kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens);
/* By how much kv_release would raise kv_free_blocks; several chains, at least by the sum. */
uint32_t kv_released(const kv_table *t, kv_chain c);
/* The chain goes on with kept blocks that hold the next of its first n_known tokens, computed for another since it was reserved.
 * Returns how many tokens these are, and leaves one to be computed; 0 for a chain that has begun a block of its own. */
uint32_t kv_adopt(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known);
/* The cache of the chain now holds n_cached tokens, which are `tokens`: its full blocks may be shared from here on, and are kept.
 * For a chain of kv_reserve_known, with the same salt; n_cached never falls. */
void kv_keep(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_cached);
/* Nothing is kept that no chain holds, neither in a block nor in a slot, and what chains hold is not shared any more. Swaps that
 * were noted stay: chains may need them. */
void kv_forget(kv_table *t);

/* The swaps that may be noted until kv_take_swaps: in all, and which. At first none. Where blocks may come in, also with most 0,
 * those in slots are of use: blocks before them are taken for others only if there are no others. */
typedef struct {
    uint32_t most; /* <= NOUNS_MAX_SWAPS */
    bool out, in;
} kv_swap_rule;
kv_swap_rule kv_rule_swaps(kv_table *t, kv_swap_rule rule); /* returns the one before */
/* Whoever holds the chain is about to give it back and will come again: its kept blocks are worth a slot. (So is a block that a
 * second chain has taken up.) */
void kv_expect(kv_table *t, kv_chain c);
/* As kv_adopt, and behind that from slots, as far as the rule allows. What comes from a slot is in its block once the swaps have
 * been done. */
uint32_t kv_fetch(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known);
/* Whether kv_fetch would go on with a slot, now or when more swaps are allowed. */
bool kv_can_fetch(const kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known);
uint32_t kv_n_swaps(const kv_table *t); /* noted and not taken yet */
/* Moves them to out[NOUNS_MAX_SWAPS], in their order; returns how many. */
uint32_t kv_take_swaps(kv_table *t, block_swap *out);
/* The chain may grow to n_tokens, if it might not already. Errors as kv_reserve. */
ST_CHECKED st_code kv_grow(kv_table *t, kv_chain c, uint64_t n_tokens);
/* Makes the chain hold n_tokens tokens. *first and *n_new tell which of its blocks are new (kv_chain_blocks()[first ...]).
 * Errors: ST_ERR_INVALID_ARGUMENT (more than reserved). */
ST_CHECKED st_code kv_extend(kv_table *t, kv_chain c, uint64_t n_tokens, uint32_t *first, uint32_t *n_new);
/* Gives the chain's blocks and reservation back. */
void kv_release(kv_table *t, kv_chain c);

const block_id *kv_chain_blocks(const kv_table *t, kv_chain c,
                                uint32_t *n_blocks); /* view until the next call that changes the chain */
bool kv_block_live(const kv_table *t, block_id id);
uint32_t kv_free_blocks(const kv_table *t); /* neither used nor promised; kept ones are among them */
uint32_t kv_used_blocks(const kv_table *t); /* that chains hold */
uint32_t kv_kept_blocks(const kv_table *t); /* that no chain holds */
uint32_t kv_total_blocks(const kv_table *t);
uint32_t kv_used_slots(const kv_table *t);
uint32_t kv_total_slots(const kv_table *t);

/* INVARIANTs: counts, references, reservations, generations and slots agree. O(blocks + slots); debug builds call it each step.
 */
void kv_check(const kv_table *t);

#endif
