/* The block table of one group.
 *
 * What: for each block a generation and a count of the chains that hold it; for each chain the list of its blocks and how many
 * it may have; one stack of free blocks; one number, `promised`, of blocks that chains may still take.
 *
 *     blocks = used (references >= 1) + kept (a node of the prefix tree, references 0) + on the stack
 *     kept + on the stack = promised + what kv_free_blocks() offers
 *
 * A new block comes from the stack; when that is empty, from the kept block that was used longest ago. What that one holds goes
 * to a slot if it is worth it: whoever gave it back will come again, or it was taken up before, or blocks behind it lie in slots.
 * Where all slots are full, the one filled longest ago is given up. A block that may not go to a slot now, and with which all
 * behind it in slots would be lost, is passed over for one that has nothing behind it.
 *
 * Why reservations: a prompt that has been admitted is computed to its end, and a step that was planned has its blocks. They
 * cover what is needed for certain; who answers at length asks for more (kv_grow), and the scheduler sends away whoever is due
 * last when there is none.
 * Why generations: a plan that names a block which was freed since can be told from one that names its new owner.
 * Why swaps are one list in one order, and not what goes out and what comes in: a block that went out takes what comes in, a slot
 * that was emptied is filled again, all before the list is taken. Done one by one, each finds what it expects.
 * Why a block that comes back gives up its slot: a copy there would save the next way out, and hold room that others lack now.
 *
 * Limits: a shared block is never written: only full blocks are shared. max_chains * max_chain_blocks ids are kept, whether
 * they are used or not; that is 8 bytes for 32 tokens. */
#include "kv/prefix_int.h"

#include <string.h>

#define NO_CHAIN UINT32_MAX

enum { MOST_PASSED_OVER = 64 }; /* resting nodes, to find one to evict */

typedef struct {
    uint32_t n_blocks, n_reserved; /* blocks it holds, blocks it may hold */
    uint32_t next_free;            /* in the list of free chains */
    uint32_t n_kept;               /* of its blocks, the first that are nodes of the tree */
    bool in_use;
    bool apart; /* behind those another chain has computed the same: its own blocks are no nodes */
} chain;

struct kv_table {
    uint32_t n_blocks, n_slots, max_chains, max_chain_blocks;
    uint32_t n_free, n_free_slots; /* blocks on the stack; slots on theirs */
    uint32_t promised;             /* sum over chains of n_reserved - n_blocks; <= n_free and kept ones */
    kv_prefix prefix;
    uint32_t free_chain;                      /* first of the list */
    uint32_t *generation, *references, *free; /* [n_blocks]; free: a stack of indices, top at n_free - 1 */
    uint32_t *free_slots;                     /* [n_slots] a stack likewise */
    uint32_t *count, *slot_count;             /* [n_blocks], [n_slots] scratch of kv_check */
    block_swap *swaps;                        /* [NOUNS_MAX_SWAPS] noted; none without slots */
    uint32_t n_swaps;
    kv_swap_rule rule;
    chain *chains; /* [max_chains] */
    block_id *ids; /* [max_chains][max_chain_blocks] */
};

/* ---- memory: one walk lays the arrays out, without memory to find the size, with it to set the pointers ---- */

typedef struct {
    unsigned char *base; /* NULL: only count */
    size_t used_bytes;
    bool overflow;
} layout;

static void *place(layout *l, size_t n, size_t size_bytes) {
    size_t bytes = 0, at = l->used_bytes;
    if (__builtin_mul_overflow(n, size_bytes, &bytes) || bytes > SIZE_MAX / 2 || at > SIZE_MAX / 4) {
        l->overflow = true;
        return NULL;
    }
    l->used_bytes = at + ((bytes + 63) & ~(size_t)63);
    return l->base ? l->base + at : NULL;
}

static size_t lay_out(unsigned char *base, kv_table shape, kv_table **out) {
    layout l = {.base = base, .overflow = shape.n_slots > UINT32_MAX - shape.n_blocks};
    kv_table *t = place(&l, 1, sizeof *t);
    shape.generation = place(&l, shape.n_blocks, sizeof *shape.generation);
    shape.references = place(&l, shape.n_blocks, sizeof *shape.references);
    shape.free = place(&l, shape.n_blocks, sizeof *shape.free);
    shape.free_slots = place(&l, shape.n_slots, sizeof *shape.free_slots);
    shape.count = place(&l, shape.n_blocks, sizeof *shape.count);
    shape.slot_count = place(&l, shape.n_slots, sizeof *shape.slot_count);
    shape.swaps = place(&l, shape.n_slots > 0 ? NOUNS_MAX_SWAPS : 0, sizeof *shape.swaps);
    shape.prefix.n_blocks = shape.n_blocks;
    shape.prefix.n_nodes = shape.n_blocks + shape.n_slots;
    shape.prefix.n_buckets = kv_prefix_buckets(shape.prefix.n_nodes);
    shape.prefix.nodes = place(&l, shape.prefix.n_nodes, sizeof *shape.prefix.nodes);
    shape.prefix.of_block = place(&l, shape.n_blocks, sizeof *shape.prefix.of_block);
    shape.prefix.buckets = place(&l, shape.prefix.n_buckets, sizeof *shape.prefix.buckets);
    shape.chains = place(&l, shape.max_chains, sizeof *shape.chains);
    shape.ids = place(&l, (size_t)shape.max_chains * shape.max_chain_blocks, sizeof *shape.ids);
    if (base) {
        memset(base, 0, l.used_bytes);
        *t = shape;
        *out = t;
    }
    return l.overflow ? 0 : l.used_bytes;
}

static kv_table shape_of(uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains, uint32_t max_chain_blocks) {
    return (kv_table){.n_blocks = n_blocks, .n_slots = n_slots, .max_chains = max_chains, .max_chain_blocks = max_chain_blocks};
}

size_t kv_table_bytes(uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains, uint32_t max_chain_blocks) {
    return lay_out(NULL, shape_of(n_blocks, n_slots, max_chains, max_chain_blocks), NULL);
}

static void free_all_slots(kv_table *t) {
    for (uint32_t i = 0; i < t->n_slots; i++) t->free_slots[i] = t->n_slots - 1 - i; /* slot 0 on top */
    t->n_free_slots = t->n_slots;
}

kv_table *kv_table_init(void *memory, uint32_t n_blocks, uint32_t n_slots, uint32_t max_chains, uint32_t max_chain_blocks,
                        uint64_t key) {
    kv_table *t = NULL;
    INVARIANT(memory && ((uintptr_t)memory & 63) == 0);
    INVARIANT(lay_out(memory, shape_of(n_blocks, n_slots, max_chains, max_chain_blocks), &t) > 0);
    for (uint32_t i = 0; i < n_blocks; i++) {
        t->generation[i] = 1;
        t->free[i] = n_blocks - 1 - i; /* block 0 on top */
    }
    t->n_free = n_blocks;
    free_all_slots(t);
    kv_prefix_set_key(&t->prefix, key);
    kv_prefix_init(&t->prefix);
    for (uint32_t i = 0; i < max_chains; i++) t->chains[i].next_free = i + 1 < max_chains ? i + 1 : NO_CHAIN;
    t->free_chain = max_chains > 0 ? 0 : NO_CHAIN;
    return t;
}

/* ---- one block, one chain ---- */

static chain *chain_of(const kv_table *t, kv_chain c) {
    INVARIANT(c.index < t->max_chains && t->chains[c.index].in_use);
    return &t->chains[c.index];
}

static block_id *ids_of(const kv_table *t, kv_chain c) { return t->ids + (size_t)c.index * t->max_chain_blocks; }

/* Nobody holds it any more and nothing is known of it. */
static void free_block(kv_table *t, uint32_t index) {
    if (++t->generation[index] == 0) t->generation[index] = 1; /* 0 is no generation */
    t->free[t->n_free++] = index;
}

/* A node that no chain holds, with all behind it, which lies in slots. Its own block is still to be freed. */
static void drop_tree(kv_table *t, uint32_t node) {
    const kv_node *nodes = t->prefix.nodes;
    for (uint32_t at = node, parent;; at = parent) {
        while (nodes[at].first_child != KV_NONE) at = nodes[at].first_child;
        parent = nodes[at].parent;
        if (nodes[at].state == KV_SWAPPED) t->free_slots[t->n_free_slots++] = nodes[at].at;
        kv_prefix_remove(&t->prefix, at);
        if (at == node) return;
    }
}

static void note_swap(kv_table *t, uint32_t block, uint32_t slot, bool in) {
    INVARIANT(t->n_swaps < t->rule.most && t->rule.most <= NOUNS_MAX_SWAPS);
    t->swaps[t->n_swaps++] = (block_swap){block, slot, in};
}

static bool is_worth_a_slot(const kv_node *n) { return n->awaited || n->found || n->first_child != KV_NONE; }

static bool may_swap_out(const kv_table *t) { return t->rule.out && t->n_swaps < t->rule.most; }

/* False: it must be given up. */
static bool swap_out(kv_table *t, uint32_t node) {
    const kv_node *n = &t->prefix.nodes[node];
    if (!may_swap_out(t) || !is_worth_a_slot(n)) return false;
    if (t->n_free_slots == 0 && t->prefix.swapped.n > 0) drop_tree(t, t->prefix.swapped.oldest);
    if (t->n_free_slots == 0) return false; /* the last one is about to be fetched */
    uint32_t slot = t->free_slots[--t->n_free_slots];
    note_swap(t, n->at, slot, false);
    kv_prefix_swap(&t->prefix, node, slot);
    return true;
}

/* The one that has rested longest; or, lest slots that may be fetched are lost with it, one of the next that has nothing behind
 * it. */
static uint32_t victim(const kv_table *t) {
    const kv_node *nodes = t->prefix.nodes;
    const uint32_t oldest = t->prefix.resting.oldest;
    if (may_swap_out(t) || !t->rule.in) return oldest;
    for (uint32_t i = 0, at = oldest; i < MOST_PASSED_OVER && at != KV_NONE; i++, at = nodes[at].newer)
        if (nodes[at].first_child == KV_NONE) return at;
    return oldest;
}

static void evict(kv_table *t) {
    uint32_t node = victim(t);
    INVARIANT(node != KV_NONE);
    uint32_t index = t->prefix.nodes[node].at;
    if (!swap_out(t, node)) drop_tree(t, node);
    free_block(t, index);
}

/* The chain may take it: it is one of the promised ones. */
static void take_block(kv_table *t, chain *c, block_id *ids) {
    INVARIANT(c->n_blocks < c->n_reserved && t->promised > 0);
    if (t->n_free == 0) evict(t);
    uint32_t index = t->free[--t->n_free];
    t->promised--;
    t->references[index] = 1;
    ids[c->n_blocks++] = (block_id){index, t->generation[index]};
}

static void drop_block(kv_table *t, uint32_t index) {
    INVARIANT(t->references[index] > 0);
    if (--t->references[index] > 0) return;
    if (t->prefix.of_block[index] != KV_NONE)
        kv_prefix_rest(&t->prefix, t->prefix.of_block[index]);
    else
        free_block(t, index);
}

/* A new chain of at most n_reserved blocks. */
static kv_chain new_chain(kv_table *t, uint32_t n_reserved) {
    kv_chain c = {t->free_chain};
    t->free_chain = t->chains[c.index].next_free;
    t->chains[c.index] = (chain){.n_reserved = n_reserved, .next_free = NO_CHAIN, .in_use = true};
    t->promised += n_reserved;
    return c;
}

static bool ever_fits(const kv_table *t, uint64_t n_tokens) {
    uint32_t most = t->max_chain_blocks < t->n_blocks ? t->max_chain_blocks : t->n_blocks;
    return n_tokens <= (uint64_t)most * NOUNS_BLOCK_TOKENS;
}

/* ---- the public verbs ---- */

st_code kv_reserve(kv_table *t, uint64_t n_tokens, kv_chain *out) {
    if (!ever_fits(t, n_tokens)) return ST_ERR_INVALID_ARGUMENT;
    uint32_t n = kv_blocks_for(n_tokens);
    if (t->free_chain == NO_CHAIN || n > kv_free_blocks(t)) return ST_ERR_NO_BLOCKS;
    *out = new_chain(t, n);
    return ST_OK;
}

typedef struct {
    uint32_t n, n_resting, n_swapped, n_single; /* blocks; of these so many are held by no chain, lie in slots, are held by one */
} run;

/* The longest run of blocks that hold the first of n_known tokens, but for the last token. */
static run find_run(const kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known) {
    run r = {0};
    uint32_t at = KV_NONE, most = n_known > 0 ? (n_known - 1) / NOUNS_BLOCK_TOKENS : 0;
    for (; r.n < most && r.n < t->max_chain_blocks; r.n++) {
        at = kv_prefix_find(&t->prefix, salt, at, tokens + (size_t)r.n * NOUNS_BLOCK_TOKENS);
        if (at == KV_NONE || (t->prefix.nodes[at].state == KV_SWAPPED && !t->rule.in)) break;
        r.n_resting += t->prefix.nodes[at].state == KV_RESTS;
        r.n_swapped += t->prefix.nodes[at].state == KV_SWAPPED;
        r.n_single += t->prefix.nodes[at].state == KV_HELD && t->references[t->prefix.nodes[at].at] == 1;
    }
    return r;
}

uint32_t kv_known(const kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens,
                  uint32_t *n_blocks) {
    run r = find_run(t, salt, tokens, n_known);
    *n_blocks = kv_blocks_for(n_tokens) - r.n + r.n_resting /* a resting one that it takes cannot be promised to others */
                + r.n_swapped;                              /* and one in a slot needs a block, as one to be computed does */
    return r.n * NOUNS_BLOCK_TOKENS;
}

/* One that a single chain holds counts as if that were released. One of several chains either is left with one of them or comes
 * free, too, which kv_released does not count for any of them: then it takes the one that it brings. */
uint32_t kv_known_then(const kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens) {
    run r = find_run(t, salt, tokens, n_known);
    return kv_blocks_for(n_tokens) - r.n + r.n_resting + r.n_swapped + r.n_single;
}

uint32_t kv_released(const kv_table *t, kv_chain c) {
    const chain *ch = chain_of(t, c);
    const block_id *ids = ids_of(t, c);
    uint32_t n = ch->n_reserved - ch->n_blocks;
    for (uint32_t i = 0; i < ch->n_blocks; i++) n += t->references[ids[i].index] == 1;
    return n;
}

/* The node of block n_before of the chain, whose blocks up to there are nodes; or, behind the last, where one would be added. */
static uint32_t parent_of(const kv_table *t, const block_id *ids, uint32_t n_before) {
    return n_before > 0 ? t->prefix.of_block[ids[n_before - 1].index] : KV_NONE;
}

/* The node that the chain could go on with, of n_known tokens, one of which is to be left. */
static uint32_t next_node(const kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known) {
    const chain *ch = chain_of(t, c);
    if (ch->apart || ch->n_kept < ch->n_blocks || n_known <= (ch->n_blocks + 1) * NOUNS_BLOCK_TOKENS) return KV_NONE;
    INVARIANT(n_known <= (uint64_t)ch->n_reserved * NOUNS_BLOCK_TOKENS);
    return kv_prefix_find(&t->prefix, salt, parent_of(t, ids_of(t, c), ch->n_blocks),
                          tokens + (size_t)ch->n_blocks * NOUNS_BLOCK_TOKENS);
}

/* The chain goes on with a node that has a block. */
static void take_node(kv_table *t, kv_chain c, uint32_t node) {
    chain *ch = chain_of(t, c);
    kv_node *n = &t->prefix.nodes[node];
    if (t->references[n->at]++ == 0) kv_prefix_wake(&t->prefix, node);
    t->promised--;
    ids_of(t, c)[ch->n_blocks++] = (block_id){n->at, t->generation[n->at]};
}

/* ... or with one that lies in a slot. While it gets a block, another may have to go to a slot: never to its own. */
static void fetch_node(kv_table *t, kv_chain c, uint32_t node) {
    chain *ch = chain_of(t, c);
    block_id *ids = ids_of(t, c);
    uint32_t slot = kv_prefix_raise(&t->prefix, node);
    take_block(t, ch, ids);
    uint32_t block = ids[ch->n_blocks - 1].index;
    kv_prefix_settle(&t->prefix, node, block);
    note_swap(t, block, slot, true);
    t->free_slots[t->n_free_slots++] = slot;
}

/* One in, and one out to make room for it. */
static bool may_fetch_now(const kv_table *t) { return t->rule.in && t->n_swaps + 2 <= t->rule.most; }

/* Who was to come again has come, or another has: then it is found. Also where they compute it, as to fetch it does not pay. */
static void note_taken(kv_node *n) {
    if (!n->awaited) n->found = true;
    n->awaited = false;
}

static uint32_t go_on(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known, bool fetches) {
    chain *ch = chain_of(t, c);
    uint32_t before = ch->n_blocks, node;
    while ((node = next_node(t, c, salt, tokens, n_known)) != KV_NONE) {
        bool swapped = t->prefix.nodes[node].state == KV_SWAPPED;
        if (swapped && !(fetches && may_fetch_now(t))) break;
        if (swapped)
            fetch_node(t, c, node);
        else
            take_node(t, c, node);
        note_taken(&t->prefix.nodes[node]);
        ch->n_kept = ch->n_blocks;
    }
    return (ch->n_blocks - before) * NOUNS_BLOCK_TOKENS;
}

uint32_t kv_adopt(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known) {
    return go_on(t, c, salt, tokens, n_known, false);
}

uint32_t kv_fetch(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known) {
    return go_on(t, c, salt, tokens, n_known, true);
}

bool kv_can_fetch(const kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_known) {
    uint32_t node = t->rule.in ? next_node(t, c, salt, tokens, n_known) : KV_NONE;
    return node != KV_NONE && t->prefix.nodes[node].state == KV_SWAPPED;
}

void kv_expect(kv_table *t, kv_chain c) {
    const chain *ch = chain_of(t, c);
    for (uint32_t i = 0; i < ch->n_kept; i++) t->prefix.nodes[t->prefix.of_block[ids_of(t, c)[i].index]].awaited = true;
}

kv_swap_rule kv_rule_swaps(kv_table *t, kv_swap_rule rule) {
    kv_swap_rule before = t->rule;
    INVARIANT(rule.most <= NOUNS_MAX_SWAPS);
    t->rule = rule;
    return before;
}

uint32_t kv_n_swaps(const kv_table *t) { return t->n_swaps; }

uint32_t kv_take_swaps(kv_table *t, block_swap *out) {
    uint32_t n = t->n_swaps;
    if (n > 0) memcpy(out, t->swaps, n * sizeof *out);
    t->n_swaps = 0;
    return n;
}

st_code kv_reserve_known(kv_table *t, kv_salt salt, const uint32_t *tokens, uint32_t n_known, uint64_t n_tokens, kv_chain *out,
                         uint32_t *n_shared) {
    if (!ever_fits(t, n_tokens) || n_known > n_tokens) return ST_ERR_INVALID_ARGUMENT;
    uint32_t n;
    kv_known(t, salt, tokens, n_known, n_tokens, &n);
    if (t->free_chain == NO_CHAIN || n > kv_free_blocks(t)) return ST_ERR_NO_BLOCKS;
    *out = new_chain(t, kv_blocks_for(n_tokens));
    *n_shared = kv_adopt(t, *out, salt, tokens, n_known);
    return ST_OK;
}

void kv_keep(kv_table *t, kv_chain c, kv_salt salt, const uint32_t *tokens, uint32_t n_cached) {
    chain *ch = chain_of(t, c);
    const block_id *ids = ids_of(t, c);
    INVARIANT(n_cached <= (uint64_t)ch->n_blocks * NOUNS_BLOCK_TOKENS);
    for (; !ch->apart && ch->n_kept < n_cached / NOUNS_BLOCK_TOKENS; ch->n_kept++) {
        uint32_t parent = parent_of(t, ids, ch->n_kept), block = ids[ch->n_kept].index;
        const uint32_t *of_block = tokens + (size_t)ch->n_kept * NOUNS_BLOCK_TOKENS;
        uint32_t same = kv_prefix_find(&t->prefix, salt, parent, of_block);
        if (same == KV_NONE) {
            kv_prefix_add(&t->prefix, block, salt, parent, of_block);
        } else if (t->prefix.nodes[same].state == KV_SWAPPED) { /* it was not worth to be fetched, and was computed again */
            t->free_slots[t->n_free_slots++] = kv_prefix_raise(&t->prefix, same);
            kv_prefix_settle(&t->prefix, same, block);
            note_taken(&t->prefix.nodes[same]);
        } else {
            ch->apart = true;
            return;
        }
    }
}

st_code kv_grow(kv_table *t, kv_chain c, uint64_t n_tokens) {
    chain *ch = chain_of(t, c);
    uint32_t n = kv_blocks_for(n_tokens);
    if (!ever_fits(t, n_tokens)) return ST_ERR_INVALID_ARGUMENT;
    if (n <= ch->n_reserved) return ST_OK;
    if (n - ch->n_reserved > kv_free_blocks(t)) return ST_ERR_NO_BLOCKS;
    t->promised += n - ch->n_reserved;
    ch->n_reserved = n;
    return ST_OK;
}

void kv_forget(kv_table *t) {
    while (t->prefix.resting.n > 0) {
        uint32_t node = t->prefix.resting.oldest, index = t->prefix.nodes[node].at;
        drop_tree(t, node);
        free_block(t, index);
    }
    for (uint32_t i = 0; i < t->max_chains; i++) { /* what is left, chains hold */
        t->chains[i].apart = t->chains[i].in_use;
        t->chains[i].n_kept = 0;
    }
    kv_prefix_init(&t->prefix);
    free_all_slots(t);
}

st_code kv_extend(kv_table *t, kv_chain c, uint64_t n_tokens, uint32_t *first, uint32_t *n_new) {
    chain *ch = chain_of(t, c);
    if (n_tokens > (uint64_t)ch->n_reserved * NOUNS_BLOCK_TOKENS) return ST_ERR_INVALID_ARGUMENT;
    uint32_t before = ch->n_blocks;
    while (ch->n_blocks < kv_blocks_for(n_tokens)) take_block(t, ch, ids_of(t, c));
    *first = before;
    *n_new = ch->n_blocks - before;
    return ST_OK;
}

void kv_release(kv_table *t, kv_chain c) {
    chain *ch = chain_of(t, c);
    const block_id *ids = ids_of(t, c);
    t->promised -= ch->n_reserved - ch->n_blocks;
    for (uint32_t i = ch->n_blocks; i > 0; i--) drop_block(t, ids[i - 1].index); /* last first: the stack keeps its order */
    *ch = (chain){.next_free = t->free_chain};
    t->free_chain = c.index;
}

const block_id *kv_chain_blocks(const kv_table *t, kv_chain c, uint32_t *n_blocks) {
    *n_blocks = chain_of(t, c)->n_blocks;
    return ids_of(t, c);
}

bool kv_block_live(const kv_table *t, block_id id) {
    return id.index < t->n_blocks && t->references[id.index] > 0 && t->generation[id.index] == id.generation;
}

uint32_t kv_free_blocks(const kv_table *t) { return t->n_free + t->prefix.resting.n - t->promised; }
uint32_t kv_used_blocks(const kv_table *t) { return t->n_blocks - t->n_free - t->prefix.resting.n; }
uint32_t kv_kept_blocks(const kv_table *t) { return t->prefix.resting.n; }
uint32_t kv_total_blocks(const kv_table *t) { return t->n_blocks; }
uint32_t kv_used_slots(const kv_table *t) { return t->n_slots - t->n_free_slots; }
uint32_t kv_total_slots(const kv_table *t) { return t->n_slots; }

/* ---- the check ---- */

/* Counts in t->count how often chains hold each block; returns how many blocks they may still take. */
static uint64_t check_chains(const kv_table *t) {
    uint64_t promised = 0;
    for (uint32_t i = 0; i < t->max_chains; i++) {
        const chain *ch = &t->chains[i];
        if (!ch->in_use) continue;
        INVARIANT(ch->n_kept <= ch->n_blocks && ch->n_blocks <= ch->n_reserved && ch->n_reserved <= t->max_chain_blocks);
        promised += ch->n_reserved - ch->n_blocks;
        const block_id *ids = ids_of(t, (kv_chain){i});
        for (uint32_t b = 0; b < ch->n_blocks; b++) {
            INVARIANT(kv_block_live(t, ids[b]) && (b >= ch->n_kept || t->prefix.of_block[ids[b].index] != KV_NONE));
            t->count[ids[b].index]++;
        }
    }
    return promised;
}

/* Each slot is free, or that of one node; what is noted is within bounds. */
static void check_slots(const kv_table *t) {
    memset(t->slot_count, 0, t->n_slots * sizeof *t->slot_count);
    for (uint32_t i = t->prefix.swapped.oldest; i != KV_NONE; i = t->prefix.nodes[i].newer) {
        INVARIANT(t->prefix.nodes[i].at < t->n_slots);
        t->slot_count[t->prefix.nodes[i].at]++;
    }
    for (uint32_t i = 0; i < t->n_free_slots; i++) t->slot_count[t->free_slots[i]]++;
    for (uint32_t i = 0; i < t->n_slots; i++) INVARIANT(t->slot_count[i] == 1);
    INVARIANT(t->n_free_slots + t->prefix.swapped.n == t->n_slots && t->n_swaps <= NOUNS_MAX_SWAPS);
    for (uint32_t i = 0; i < t->n_swaps; i++) INVARIANT(t->swaps[i].block < t->n_blocks && t->swaps[i].slot < t->n_slots);
}

void kv_check(const kv_table *t) {
    memset(t->count, 0, t->n_blocks * sizeof *t->count);
    uint64_t promised = check_chains(t);
    INVARIANT(t->promised == promised && t->promised <= t->n_free + t->prefix.resting.n && t->n_free <= t->n_blocks);
    uint32_t n_used = 0;
    for (uint32_t i = 0; i < t->n_blocks; i++) {
        uint32_t node = t->prefix.of_block[i];
        INVARIANT(t->count[i] == t->references[i] && t->generation[i] > 0);
        INVARIANT(node == KV_NONE || t->prefix.nodes[node].state == (t->references[i] > 0 ? KV_HELD : KV_RESTS));
        n_used += t->references[i] > 0;
    }
    INVARIANT(n_used + t->prefix.resting.n + t->n_free == t->n_blocks);
    kv_prefix_check(&t->prefix);
    check_slots(t);
    for (uint32_t i = 0; i < t->n_free; i++) { /* free ones: each once, held by nobody */
        INVARIANT(t->free[i] < t->n_blocks && t->count[t->free[i]] == 0 && t->prefix.of_block[t->free[i]] == KV_NONE);
        t->count[t->free[i]] = 1;
    }
    uint32_t n_chains = 0;
    for (uint32_t i = t->free_chain; i != NO_CHAIN; i = t->chains[i].next_free) {
        INVARIANT(i < t->max_chains && !t->chains[i].in_use && n_chains < t->max_chains);
        n_chains++;
    }
    for (uint32_t i = 0; i < t->max_chains; i++) n_chains += t->chains[i].in_use;
    INVARIANT(n_chains == t->max_chains);
}
