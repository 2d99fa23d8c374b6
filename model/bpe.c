/* Byte-pair encoding: merges neighbours in a word, lowest rank first, leftmost first, until none is left (Sennrich et al. 2016).
 *
 * What: symbols in a doubly linked list inside an array, and a heap of candidates (rank, position). A candidate goes stale when
 * one of its symbols is merged; it is not searched for, but dropped when it comes up and its pair has another rank. What two
 * symbols join to is asked of a function: a table of merges here, the vocabulary's texts in spm.c.
 *
 * Road not taken: scanning all pairs for each merge is simpler and quadratic: one word of 100 kB without spaces would stop the
 * coordinator for seconds.
 *
 * Limits: 36 bytes of scratch a byte of the longest word; the caller bounds words by the ids that it will take. */
#include "model/text_int.h"

#include "base/mem.h"
#include "model/names_int.h"
#include <string.h>

typedef model_symbol symbol;

#define NONE MODEL_NO_SYMBOL

st_code model_id_list_push(model_id_list *l, uint32_t id) {
    if (l->n == l->max) return ST_ERR_INVALID_ARGUMENT;
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        uint32_t *ids = mem_resize(l->ids, l->room, room, sizeof *ids);
        if (!ids) return ST_FATAL_MEMORY;
        l->ids = ids;
        l->room = room;
    }
    l->ids[l->n++] = id;
    return ST_OK;
}

st_code model_merges_init(model_merges *m, uint64_t n_merges) {
    uint64_t n = 16;
    while (n / 2 < n_merges) n *= 2;
    m->slots = mem_alloc(n, sizeof *m->slots);
    if (!m->slots) return ST_FATAL_MEMORY;
    m->mask = n - 1;
    for (uint64_t i = 0; i < n; i++) m->slots[i].pair = UINT64_MAX;
    for (int b = 0; b < 256; b++) m->byte_id[b] = MODEL_NO_ID;
    return ST_OK;
}

void model_merges_deinit(model_merges *m) {
    mem_free(m->slots);
    m->slots = NULL;
}

static uint64_t pair_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

/* The slot of `pair`, or the free one where it belongs; NULL after too many steps. Hash: the finalizer of SplitMix64. */
static model_merge *probe(const model_merges *m, uint64_t pair) {
    uint64_t h = pair;
    h = (h ^ h >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
    h ^= h >> 31;
    for (int step = 0; step < MODEL_NAMES_MAX_PROBE; step++, h++) {
        model_merge *s = &m->slots[h & m->mask];
        if (s->pair == pair || s->pair == UINT64_MAX) return s;
    }
    return NULL;
}

st_code model_merges_add(model_merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
    model_merge *s = probe(m, pair_of(left, right));
    if (!s || s->pair != UINT64_MAX) return ST_ERR_FORMAT;
    *s = (model_merge){.pair = pair_of(left, right), .rank = rank, .merged = merged};
    return ST_OK;
}

static const model_merge *find(const model_merges *m, uint32_t left, uint32_t right) {
    const model_merge *s = probe(m, pair_of(left, right));
    return s && s->pair != UINT64_MAX ? s : NULL;
}

/* A binary heap of rank << 32 | position, smallest first. */
static void heap_push(uint64_t *heap, size_t *n, uint64_t key) {
    size_t i = (*n)++;
    for (; i && heap[(i - 1) / 2] > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

void model_bpe_scratch_deinit(model_bpe_scratch *s) {
    mem_free(s->symbols);
    mem_free(s->heap);
    *s = (model_bpe_scratch){0};
}

st_code model_symbols_reserve(model_bpe_scratch *s, size_t n) {
    if (n <= s->room) return ST_OK;
    size_t room = n < 64 ? 64 : n > SIZE_MAX / 4 ? n : 2 * n;
    model_bpe_scratch_deinit(s);
    s->symbols = mem_alloc(room, sizeof *s->symbols);
    s->heap = mem_alloc(2 * room, sizeof *s->heap);
    if (!s->symbols || !s->heap) return ST_FATAL_MEMORY;
    s->room = room;
    return ST_OK;
}

/* A run of merging. */
typedef struct {
    symbol *symbols;
    uint64_t *heap;
    size_t n_heap; /* at most n - 1 candidates at first, and each merge takes one and adds two: < 2n */
    model_join *join;
    const void *context;
} merging;

/* A candidate: symbol `i` and the one behind it, if they join. */
static void offer(merging *m, uint32_t i) {
    const symbol *left = &m->symbols[i];
    model_joined j = left->next == NONE ? (model_joined){.id = MODEL_NO_ID} : m->join(m->context, left, &m->symbols[left->next]);
    if (j.id != MODEL_NO_ID) heap_push(m->heap, &m->n_heap, pair_of(j.rank, i));
}

void model_symbols_merge(model_bpe_scratch *s, uint32_t n, model_join *join, const void *context) {
    merging m = {.symbols = s->symbols, .heap = s->heap, .join = join, .context = context};
    symbol *symbols = s->symbols;
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].previous = i ? i - 1 : NONE;
        symbols[i].next = i + 1 < n ? i + 1 : NONE;
    }
    for (uint32_t i = 0; i < n; i++) offer(&m, i);
    while (m.n_heap) {
        uint64_t key = heap_pop(m.heap, &m.n_heap);
        const uint32_t at = (uint32_t)key;
        symbol *left = &symbols[at];
        if (!left->n_bytes || left->next == NONE) continue;
        symbol *right = &symbols[left->next];
        model_joined j = join(context, left, right);
        if (j.id == MODEL_NO_ID || j.rank != key >> 32) continue; /* stale */
        left->id = j.id;
        left->n_bytes += right->n_bytes;
        left->next = right->next;
        right->n_bytes = 0;
        if (left->next != NONE) symbols[left->next].previous = at;
        offer(&m, at);
        if (left->previous != NONE) offer(&m, left->previous);
    }
}

static model_joined join_merges(const void *context, const symbol *left, const symbol *right) {
    const model_merge *merge = find(context, left->id, right->id);
    return merge ? (model_joined){merge->rank, merge->merged} : (model_joined){.id = MODEL_NO_ID};
}

static uint32_t load(const model_merges *m, symbol *symbols, const uint8_t *word, size_t n_bytes) {
    uint32_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        uint32_t id = m->byte_id[word[i]];
        if (id == MODEL_NO_ID) continue; /* no token: left out, its neighbours meet */
        symbols[n++] = (symbol){.id = id, .start = (uint32_t)i, .n_bytes = 1};
    }
    return n;
}

st_code model_bpe(const model_merges *m, model_bpe_scratch *s, const uint8_t *word, size_t n_bytes, model_id_list *out) {
    st_code code = model_symbols_reserve(s, n_bytes);
    if (code) return code;
    const uint32_t n = load(m, s->symbols, word, n_bytes);
    model_symbols_merge(s, n, join_merges, m);
    for (uint32_t i = n ? 0 : NONE; i != NONE && !code; i = s->symbols[i].next) code = model_id_list_push(out, s->symbols[i].id);
    return code;
}
