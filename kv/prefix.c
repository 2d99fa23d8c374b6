/* The prefix tree of one group's blocks.
 *
 * What: a node is found by its parent and its 32 tokens, which are compared one by one: what is shared is the same, without trust
 * in a hash. Nodes whose block no chain holds rest in a list by the time of their last use; the oldest gives its block first.
 *
 * Why a child is always older there than its parent, so that the oldest has no children: whoever holds a block holds all before
 * it, and gives them back last one first. Not taken: hashes of the blocks instead of their tokens (vLLM's way): they save 128
 * bytes a block, and then two tenants' blocks are told apart by a hash that must be cryptographic. Limits: whole blocks only. */
#include "kv/prefix_int.h"

#include <string.h>

uint32_t kv_prefix_buckets(uint32_t n_blocks) {
    uint32_t n = 1;
    while (n < n_blocks && n < UINT32_C(1) << 31) n *= 2;
    return n;
}

void kv_prefix_init(kv_prefix *p, uint32_t n_blocks) {
    memset(p->nodes, 0, n_blocks * sizeof *p->nodes);
    for (uint32_t i = 0; i < p->n_buckets; i++) p->buckets[i] = KV_NO_BLOCK;
    p->n_nodes = p->n_resting = 0;
    p->oldest = p->newest = KV_NO_BLOCK;
}

/* Spreads well enough: whoever finds tokens that collide makes his own search longer. */
static uint32_t *bucket(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    uint64_t h = salt.half[0] ^ (salt.half[1] * UINT64_C(0x9E3779B97F4A7C15)) ^ parent;
    for (uint32_t i = 0; i < NOUNS_BLOCK_TOKENS; i++) {
        h = (h ^ tokens[i]) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    return &p->buckets[h & (p->n_buckets - 1)];
}

static bool equal(kv_salt a, kv_salt b) { return a.half[0] == b.half[0] && a.half[1] == b.half[1]; }

uint32_t kv_prefix_find(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    for (uint32_t at = *bucket(p, salt, parent, tokens); at != KV_NO_BLOCK; at = p->nodes[at].next_of_bucket) {
        const kv_node *n = &p->nodes[at];
        if (n->parent == parent && equal(n->salt, salt) && memcmp(n->tokens, tokens, sizeof n->tokens) == 0) return at;
    }
    return KV_NO_BLOCK;
}

void kv_prefix_add(kv_prefix *p, uint32_t block, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    kv_node *n = &p->nodes[block];
    uint32_t *first = bucket(p, salt, parent, tokens);
    INVARIANT(!n->there && (parent == KV_NO_BLOCK || p->nodes[parent].there));
    *n = (kv_node){
        .there = true, .salt = salt, .parent = parent, .next_of_bucket = *first, .older = KV_NO_BLOCK, .newer = KV_NO_BLOCK};
    memcpy(n->tokens, tokens, sizeof n->tokens);
    *first = block;
    if (parent != KV_NO_BLOCK) p->nodes[parent].n_children++;
    p->n_nodes++;
}

void kv_prefix_remove(kv_prefix *p, uint32_t block) {
    kv_node *n = &p->nodes[block];
    INVARIANT(n->there && n->n_children == 0);
    if (n->rests) kv_prefix_wake(p, block);
    uint32_t *link = bucket(p, n->salt, n->parent, n->tokens);
    while (*link != block) link = &p->nodes[*link].next_of_bucket;
    *link = n->next_of_bucket;
    if (n->parent != KV_NO_BLOCK) p->nodes[n->parent].n_children--;
    n->there = false;
    p->n_nodes--;
}

void kv_prefix_rest(kv_prefix *p, uint32_t block) {
    kv_node *n = &p->nodes[block];
    INVARIANT(n->there && !n->rests);
    n->rests = true;
    n->older = p->newest;
    n->newer = KV_NO_BLOCK;
    *(p->newest == KV_NO_BLOCK ? &p->oldest : &p->nodes[p->newest].newer) = block;
    p->newest = block;
    p->n_resting++;
}

void kv_prefix_wake(kv_prefix *p, uint32_t block) {
    kv_node *n = &p->nodes[block];
    INVARIANT(n->there && n->rests);
    n->rests = false;
    *(n->older == KV_NO_BLOCK ? &p->oldest : &p->nodes[n->older].newer) = n->newer;
    *(n->newer == KV_NO_BLOCK ? &p->newest : &p->nodes[n->newer].older) = n->older;
    p->n_resting--;
}

void kv_prefix_check(const kv_prefix *p, uint32_t n_blocks) {
    uint32_t n_nodes = 0, n_resting = 0, n_children = 0, n_with_parent = 0, newer = KV_NO_BLOCK;
    for (uint32_t i = 0; i < n_blocks; i++) {
        const kv_node *n = &p->nodes[i];
        if (!n->there) continue;
        n_nodes++;
        n_resting += n->rests;
        n_children += n->n_children;
        n_with_parent += n->parent != KV_NO_BLOCK;
        INVARIANT(kv_prefix_find(p, n->salt, n->parent, n->tokens) == i);
        INVARIANT(n->parent == KV_NO_BLOCK || (p->nodes[n->parent].there && (n->rests || !p->nodes[n->parent].rests)));
    }
    INVARIANT(n_nodes == p->n_nodes && n_resting == p->n_resting && n_children == n_with_parent);
    for (uint32_t i = p->newest, n = 0; i != KV_NO_BLOCK; newer = i, i = p->nodes[i].older, n++)
        INVARIANT(n < p->n_resting && p->nodes[i].rests && p->nodes[i].newer == newer);
    INVARIANT(p->oldest == newer);
}
