/* The prefix tree of one group's blocks.
 *
 * What: a node is found by its parent and its 32 tokens, which are compared one by one: what is shared is the same, without trust
 * in a hash. Nodes whose block no chain holds rest in a list by the time of their last use; the oldest gives its block first.
 *
 * Why a child is always older there than its parent, so that the oldest has no children: whoever holds a block holds all before
 * it, and gives them back last one first. Not taken: hashes of the blocks instead of their tokens (vLLM's way): they save 128
 * bytes a block, and then two tenants' blocks are told apart by a hash that must be cryptographic. Limits: whole blocks only.
 *
 * Why buckets are chosen with a key: tokens come from clients, and one who could tell which nodes share a bucket would make walks
 * as long as there are nodes, in the one loop that serves all. bucket() is strongly universal: whichever two nodes someone picks
 * who does not know the key, they share one of n buckets with a chance of 1 in n.
 *
 * Swapped nodes have a list of their own, by the time at which they lost their block. There, too, a child is older than its
 * parent: it rested before it, and it comes back after it. */
#include "kv/prefix_int.h"

#include "base/philox.h"
#include <string.h>

uint32_t kv_prefix_buckets(uint32_t n_nodes) {
    uint32_t n = 1;
    while (n < n_nodes && n < UINT32_C(1) << 31) n *= 2;
    return n;
}

void kv_prefix_init(kv_prefix *p) {
    const kv_node_list none = {KV_NONE, KV_NONE, 0};
    for (uint32_t i = 0; i < p->n_nodes; i++)
        p->nodes[i] = (kv_node){.state = KV_UNUSED, .next_of_bucket = i + 1 < p->n_nodes ? i + 1 : KV_NONE};
    for (uint32_t i = 0; i < p->n_blocks; i++) p->of_block[i] = KV_NONE;
    for (uint32_t i = 0; i < p->n_buckets; i++) p->buckets[i] = KV_NONE;
    p->unused = p->n_nodes > 0 ? 0 : KV_NONE;
    p->n_used = 0;
    p->resting = p->swapped = none;
}

void kv_prefix_set_key(kv_prefix *p, uint64_t key) {
    for (uint32_t i = 0; i < KV_PREFIX_FACTORS; i += 2) {
        philox_block b = philox(key, (philox_block){{i}});
        for (uint32_t k = 0; k < 2; k++) p->factors[i + k] = (uint64_t)b.word[2 * k] << 32 | b.word[2 * k + 1];
    }
}

/* f0 + f1 x1 + ... + fn xn modulo 2^64, of which the upper half counts: Lemire and Kaser, Strongly Universal String Hashing is
 * Fast (Computer Journal 57, 2014). */
static uint32_t *bucket(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    const uint64_t *f = p->factors;
    uint64_t h = f[0] + f[1] * parent;
    for (uint32_t i = 0; i < 2; i++) h += f[2 + 2 * i] * (uint32_t)salt.half[i] + f[3 + 2 * i] * (salt.half[i] >> 32);
    for (uint32_t i = 0; i < NOUNS_BLOCK_TOKENS; i++) h += f[6 + i] * tokens[i];
    return &p->buckets[h >> 32 & (p->n_buckets - 1)];
}

static bool equal(kv_salt a, kv_salt b) { return a.half[0] == b.half[0] && a.half[1] == b.half[1]; }

uint32_t kv_prefix_find(const kv_prefix *p, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    for (uint32_t at = *bucket(p, salt, parent, tokens); at != KV_NONE; at = p->nodes[at].next_of_bucket) {
        const kv_node *n = &p->nodes[at];
        if (n->parent == parent && equal(n->salt, salt) && memcmp(n->tokens, tokens, sizeof n->tokens) == 0) return at;
    }
    return KV_NONE;
}

/* ---- beside others ---- */

static void join_family(kv_prefix *p, uint32_t node) {
    kv_node *n = &p->nodes[node];
    n->first_child = n->next_child = n->previous_child = KV_NONE;
    if (n->parent == KV_NONE) return;
    uint32_t *first = &p->nodes[n->parent].first_child;
    n->next_child = *first;
    if (*first != KV_NONE) p->nodes[*first].previous_child = node;
    *first = node;
}

static void leave_family(kv_prefix *p, const kv_node *n) {
    if (n->parent == KV_NONE) return;
    *(n->previous_child == KV_NONE ? &p->nodes[n->parent].first_child : &p->nodes[n->previous_child].next_child) = n->next_child;
    if (n->next_child != KV_NONE) p->nodes[n->next_child].previous_child = n->previous_child;
}

/* As the newest of that list. */
static void enter(kv_prefix *p, kv_node_list *l, uint32_t node) {
    kv_node *n = &p->nodes[node];
    n->older = l->newest;
    n->newer = KV_NONE;
    *(l->newest == KV_NONE ? &l->oldest : &p->nodes[l->newest].newer) = node;
    l->newest = node;
    l->n++;
}

static void leave(kv_prefix *p, kv_node_list *l, const kv_node *n) {
    *(n->older == KV_NONE ? &l->oldest : &p->nodes[n->older].newer) = n->newer;
    *(n->newer == KV_NONE ? &l->newest : &p->nodes[n->newer].older) = n->older;
    l->n--;
}

/* ---- from state to state ---- */

void kv_prefix_add(kv_prefix *p, uint32_t block, kv_salt salt, uint32_t parent, const uint32_t *tokens) {
    uint32_t node = p->unused, *first = bucket(p, salt, parent, tokens);
    INVARIANT(node != KV_NONE && p->of_block[block] == KV_NONE); /* each node has a block or a slot of its own */
    INVARIANT(parent == KV_NONE || p->nodes[parent].state == KV_HELD);
    kv_node *n = &p->nodes[node];
    p->unused = n->next_of_bucket;
    *n = (kv_node){.state = KV_HELD, .salt = salt, .parent = parent, .next_of_bucket = *first, .at = block};
    memcpy(n->tokens, tokens, sizeof n->tokens);
    *first = node;
    join_family(p, node);
    p->of_block[block] = node;
    p->n_used++;
}

void kv_prefix_remove(kv_prefix *p, uint32_t node) {
    kv_node *n = &p->nodes[node];
    INVARIANT(n->state != KV_UNUSED && n->first_child == KV_NONE);
    if (n->state == KV_RESTS) leave(p, &p->resting, n);
    if (n->state == KV_SWAPPED)
        leave(p, &p->swapped, n);
    else
        p->of_block[n->at] = KV_NONE;
    uint32_t *link = bucket(p, n->salt, n->parent, n->tokens);
    while (*link != node) link = &p->nodes[*link].next_of_bucket;
    *link = n->next_of_bucket;
    leave_family(p, n);
    n->state = KV_UNUSED;
    n->next_of_bucket = p->unused;
    p->unused = node;
    p->n_used--;
}

void kv_prefix_rest(kv_prefix *p, uint32_t node) {
    INVARIANT(p->nodes[node].state == KV_HELD);
    p->nodes[node].state = KV_RESTS;
    enter(p, &p->resting, node);
}

void kv_prefix_wake(kv_prefix *p, uint32_t node) {
    INVARIANT(p->nodes[node].state == KV_RESTS);
    leave(p, &p->resting, &p->nodes[node]);
    p->nodes[node].state = KV_HELD;
}

void kv_prefix_swap(kv_prefix *p, uint32_t node, uint32_t slot) {
    kv_node *n = &p->nodes[node];
    INVARIANT(n->state == KV_RESTS);
    leave(p, &p->resting, n);
    p->of_block[n->at] = KV_NONE;
    n->state = KV_SWAPPED;
    n->at = slot;
    enter(p, &p->swapped, node);
}

uint32_t kv_prefix_raise(kv_prefix *p, uint32_t node) {
    kv_node *n = &p->nodes[node];
    uint32_t slot = n->at;
    INVARIANT(n->state == KV_SWAPPED && (n->parent == KV_NONE || p->nodes[n->parent].state == KV_HELD));
    leave(p, &p->swapped, n);
    n->state = KV_HELD;
    n->at = KV_NONE;
    return slot;
}

void kv_prefix_settle(kv_prefix *p, uint32_t node, uint32_t block) {
    kv_node *n = &p->nodes[node];
    INVARIANT(n->state == KV_HELD && n->at == KV_NONE && p->of_block[block] == KV_NONE);
    n->at = block;
    p->of_block[block] = node;
}

/* ---- the check ---- */

static void check_list(const kv_prefix *p, const kv_node_list *l, kv_node_state state) {
    uint32_t newer = KV_NONE, n = 0;
    for (uint32_t i = l->newest; i != KV_NONE; newer = i, i = p->nodes[i].older, n++)
        INVARIANT(n < l->n && p->nodes[i].state == state && p->nodes[i].newer == newer);
    INVARIANT(l->oldest == newer && l->n == n);
}

/* Returns how many there are. */
static uint32_t check_children(const kv_prefix *p, uint32_t node) {
    uint32_t n = 0, previous = KV_NONE;
    for (uint32_t i = p->nodes[node].first_child; i != KV_NONE; previous = i, i = p->nodes[i].next_child, n++)
        INVARIANT(n < p->n_used && p->nodes[i].parent == node && p->nodes[i].previous_child == previous);
    return n;
}

void kv_prefix_check(const kv_prefix *p) {
    uint32_t n_used = 0, n_in_blocks = 0, n_blocks = 0, n_children = 0, n_with_parent = 0, n_of_state[KV_SWAPPED + 1] = {0};
    for (uint32_t i = 0; i < p->n_nodes; i++) {
        const kv_node *n = &p->nodes[i];
        n_of_state[n->state]++;
        if (n->state == KV_UNUSED) continue;
        n_used++;
        n_children += check_children(p, i);
        n_with_parent += n->parent != KV_NONE;
        INVARIANT(kv_prefix_find(p, n->salt, n->parent, n->tokens) == i);
        INVARIANT(n->parent == KV_NONE || (p->nodes[n->parent].state != KV_UNUSED && p->nodes[n->parent].state <= n->state));
        if (n->state == KV_SWAPPED) continue;
        n_in_blocks++;
        INVARIANT(n->at < p->n_blocks && p->of_block[n->at] == i);
    }
    for (uint32_t i = 0; i < p->n_blocks; i++) n_blocks += p->of_block[i] != KV_NONE;
    INVARIANT(n_used == p->n_used && n_in_blocks == n_blocks && n_children == n_with_parent);
    INVARIANT(n_of_state[KV_RESTS] == p->resting.n && n_of_state[KV_SWAPPED] == p->swapped.n);
    check_list(p, &p->resting, KV_RESTS);
    check_list(p, &p->swapped, KV_SWAPPED);
}
