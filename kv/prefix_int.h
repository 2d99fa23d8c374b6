/* What kv/table.c sees of kv/prefix.c: the tree of blocks whose tokens are known, so that a sequence which begins with the same
 * tokens can begin with the same blocks.
 *
 * Nouns: a node (a full block, its tokens, and the node of the block before it), a salt (sequences of different salts share
 * nothing), a resting node (no chain holds its block: it may be taken for other tokens). All memory is the caller's. */
#ifndef CONSORT_KV_PREFIX_INT_H
#define CONSORT_KV_PREFIX_INT_H

#include "kv/kv_core.h"

#define KV_NO_BLOCK UINT32_MAX

typedef struct {
    bool there;
    kv_salt salt;    /* of the whole sequence; of the first blocks only it decides, as later ones have a parent that it decided */
    uint32_t parent; /* node of the block before; KV_NO_BLOCK: none */
    uint32_t n_children;
    uint32_t next_of_bucket;
    uint32_t older, newer; /* among the resting ones */
    bool rests;
    uint32_t tokens[NOUNS_BLOCK_TOKENS];
} kv_node;

typedef struct {
    kv_node *nodes;    /* [n_blocks] by block */
    uint32_t *buckets; /* [n_buckets] */
    uint32_t n_buckets, n_nodes, n_resting;
    uint32_t oldest, newest; /* of the resting ones; KV_NO_BLOCK: none rests */
} kv_prefix;

/* A power of two, at least n_blocks. */
uint32_t kv_prefix_buckets(uint32_t n_blocks);
void kv_prefix_init(kv_prefix *p, uint32_t n_blocks); /* no node; the arrays are there */
/* Behind `parent`, or at the beginning; tokens[NOUNS_BLOCK_TOKENS]. KV_NO_BLOCK: there is none. */
uint32_t kv_prefix_find(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens);
/* `block` is no node yet, and no other is what it would be. */
void kv_prefix_add(kv_prefix *p, uint32_t block, kv_salt salt, uint32_t parent, const uint32_t *tokens);
/* A node without children; it may rest. */
void kv_prefix_remove(kv_prefix *p, uint32_t block);
void kv_prefix_rest(kv_prefix *p, uint32_t block); /* the newest */
void kv_prefix_wake(kv_prefix *p, uint32_t block);
void kv_prefix_check(const kv_prefix *p, uint32_t n_blocks);

#endif
