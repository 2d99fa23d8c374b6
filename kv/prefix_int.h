/* What kv/table.c sees of kv/prefix.c: the tree of blocks whose tokens are known, so that a sequence which begins with the same
 * tokens can begin with the same blocks.
 *
 * Nouns: a node (a full block, its tokens, and the node of the block before it), a salt (sequences of different salts share
 * nothing), a resting node (no chain holds its block: it may be taken for other tokens), a swapped node (it has no block: what it
 * held is in a slot). A node keeps its number wherever it lies: those behind it name it. All memory is the caller's. */
#ifndef CONSORT_KV_PREFIX_INT_H
#define CONSORT_KV_PREFIX_INT_H

#include "kv/kv_core.h"

#define KV_NONE UINT32_MAX /* node, block or slot */

/* A node is never further down in this list than one behind it: who holds a block holds all before it. */
typedef enum { KV_UNUSED, KV_HELD, KV_RESTS, KV_SWAPPED } kv_node_state;

typedef struct {
    kv_node_state state;
    bool awaited;    /* who gave it back last is to come again */
    bool found;      /* it was taken up by another than who computed it */
    kv_salt salt;    /* of the whole sequence; of the first blocks only it decides, as later ones have a parent that it decided */
    uint32_t parent; /* node of the block before; KV_NONE: none */
    uint32_t first_child, next_child, previous_child; /* of it, and beside it */
    uint32_t next_of_bucket;                          /* and among the unused */
    uint32_t older, newer;                            /* among the resting or the swapped ones */
    uint32_t at;                                      /* its block; where it is swapped, its slot */
    uint32_t tokens[NOUNS_BLOCK_TOKENS];
} kv_node;

typedef struct {
    uint32_t oldest, newest, n; /* KV_NONE: none */
} kv_node_list;

enum { KV_PREFIX_FACTORS = 1 + 1 + 4 + NOUNS_BLOCK_TOKENS }; /* and of parent, salt and tokens, 32 bits each */

typedef struct {
    uint64_t factors[KV_PREFIX_FACTORS]; /* that choose the bucket of a node */
    uint32_t n_nodes, n_blocks, n_buckets;
    kv_node *nodes;     /* [n_nodes] as many as there are blocks and slots */
    uint32_t *of_block; /* [n_blocks] its node; KV_NONE: it is none */
    uint32_t *buckets;  /* [n_buckets] */
    uint32_t unused;    /* first of the list */
    uint32_t n_used;
    kv_node_list resting, swapped;
} kv_prefix;

/* A power of two, at least n_nodes. */
uint32_t kv_prefix_buckets(uint32_t n_nodes);
void kv_prefix_set_key(kv_prefix *p, uint64_t key); /* before kv_prefix_init */
void kv_prefix_init(kv_prefix *p);                  /* no node; the arrays are there, and their sizes */
/* Behind `parent`, or at the beginning; tokens[NOUNS_BLOCK_TOKENS]. KV_NONE: there is none. */
uint32_t kv_prefix_find(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens);
/* `block`, which a chain holds, is no node yet, and no other is what it would be. */
void kv_prefix_add(kv_prefix *p, uint32_t block, kv_salt salt, uint32_t parent, const uint32_t *tokens);
/* A node without children. */
void kv_prefix_remove(kv_prefix *p, uint32_t node);
void kv_prefix_rest(kv_prefix *p, uint32_t node); /* the newest */
void kv_prefix_wake(kv_prefix *p, uint32_t node);
/* A resting node gives its block for the slot. */
void kv_prefix_swap(kv_prefix *p, uint32_t node, uint32_t slot);
/* A swapped node is taken out of their list, and is to get a block with kv_prefix_settle at once: it is held. Returns its slot.
 */
uint32_t kv_prefix_raise(kv_prefix *p, uint32_t node);
void kv_prefix_settle(kv_prefix *p, uint32_t node, uint32_t block);
void kv_prefix_check(const kv_prefix *p);

#endif
