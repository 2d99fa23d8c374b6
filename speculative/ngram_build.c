/* The writer of n-gram tables, over the caller's memory.
 *
 * One sort serves all levels: with the positions of the text ordered by the `order` tokens that start there, every context of
 * every length is a run of neighbours, and so is every token behind it. Counting is then one pass a level, and the runs come out
 * in the order in which the file keeps them. Heap sort: in place, and no text makes it slow. */
#include "speculative/ngram_int.h"

#include "base/sha256.h"
#include <string.h>

typedef struct {
    const uint32_t *tokens;
    uint32_t n;
} text;

static uint32_t token_at(text t, uint32_t at, uint32_t k) { return k < t.n - at ? t.tokens[at + k] : SPEC_NGRAM_BREAK; }

/* How many of the first `limit` tokens from `a` and from `b` agree; nothing agrees behind a break. */
static uint32_t common(text t, uint32_t a, uint32_t b, uint32_t limit) {
    uint32_t k = 0;
    while (k < limit && token_at(t, a, k) == token_at(t, b, k) && token_at(t, a, k) != SPEC_NGRAM_BREAK) k++;
    return k;
}

static bool before(text t, uint32_t a, uint32_t b, uint32_t order) {
    uint32_t k = common(t, a, b, order);
    if (k == order || token_at(t, a, k) == token_at(t, b, k)) return a < b;
    return token_at(t, a, k) < token_at(t, b, k);
}

static void sift(text t, uint32_t order, uint32_t *heap, uint32_t at, uint32_t n) {
    for (uint64_t child; (child = 2 * (uint64_t)at + 1) < n; at = (uint32_t)child) {
        if (child + 1 < n && before(t, heap[child], heap[child + 1], order)) child++;
        if (!before(t, heap[at], heap[child], order)) return;
        uint32_t swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
    }
}

void spec_ngram_sort(const uint32_t *tokens, uint32_t n_tokens, uint32_t order, uint32_t *index) {
    text t = {tokens, n_tokens};
    for (uint32_t i = 0; i < n_tokens; i++) index[i] = i;
    for (uint32_t i = n_tokens / 2; i--;) sift(t, order, index, i, n_tokens);
    for (uint32_t n = n_tokens; n > 1;) {
        uint32_t swap = index[0];
        index[0] = index[--n];
        index[n] = swap;
        sift(t, order, index, 0, n);
    }
}

/* One context: who stands behind it. */
typedef struct {
    uint32_t total, distinct, n;
    ngram_entry next[NGRAM_NEXT];
} follower_counts;

/* Tokens come in ascending order, so that among equal counts the lower id stays in front. */
static void enter(follower_counts *f, ngram_entry entry) {
    uint32_t at = f->n < NGRAM_NEXT ? f->n++ : NGRAM_NEXT;
    for (; at && f->next[at - 1].count < entry.count; at--)
        if (at < NGRAM_NEXT) f->next[at] = f->next[at - 1];
    if (at < NGRAM_NEXT) f->next[at] = entry;
}

/* Counts behind the context of `level` tokens that starts at index[i]; returns the first position with another context. */
static uint32_t count_run(text t, const uint32_t *index, uint32_t level, uint32_t i, follower_counts *f) {
    uint32_t start = index[i], end = i;
    *f = (follower_counts){0};
    while (end < t.n && common(t, start, index[end], level) == level) {
        uint32_t first = end, token = token_at(t, index[first], level);
        while (end < t.n && common(t, start, index[end], level) == level && token_at(t, index[end], level) == token) end++;
        if (token == SPEC_NGRAM_BREAK) continue;
        f->total += end - first;
        f->distinct++;
        enter(f, (ngram_entry){token, end - first});
    }
    return end > i ? end : i + 1; /* fewer than `level` tokens before a break: no context */
}

static uint8_t *put32(uint8_t *out, uint32_t value) {
    for (uint32_t i = 0; i < 4; i++) out[i] = (uint8_t)(value >> 8 * i);
    return out + 4;
}

static uint8_t *put64(uint8_t *out, uint64_t value) { return put32(put32(out, (uint32_t)value), (uint32_t)(value >> 32)); }

static uint64_t level_bytes(const spec_ngram_info *info, uint32_t level) {
    return (uint64_t)info->level[level].n_contexts * ngram_context_bytes(level) +
           (uint64_t)info->level[level].n_entries * NGRAM_ENTRY_BYTES;
}

static bool keeps(const spec_ngram_info *info, uint32_t level, const follower_counts *f) {
    return f->n > 0 && (level < 2 || f->total >= info->least);
}

uint64_t spec_ngram_size(const uint32_t *tokens, uint32_t n_tokens, const uint32_t *index, spec_ngram_info *info) {
    text t = {tokens, n_tokens};
    uint64_t size = NGRAM_HEAD_BYTES + (uint64_t)info->order * NGRAM_LEVEL_BYTES + SHA256_BYTES;
    info->n_tokens = 0;
    for (uint32_t i = 0; i < n_tokens; i++) info->n_tokens += tokens[i] != SPEC_NGRAM_BREAK;
    for (uint32_t level = 0; level < info->order; level++) {
        follower_counts f;
        info->level[level].n_contexts = info->level[level].n_entries = 0;
        for (uint32_t i = 0; i < n_tokens;) {
            i = count_run(t, index, level, i, &f);
            if (!keeps(info, level, &f)) continue;
            info->level[level].n_contexts++;
            info->level[level].n_entries += f.n;
        }
        size += level_bytes(info, level);
    }
    return size;
}

static uint8_t *put_level(text t, const uint32_t *index, const spec_ngram_info *info, uint32_t level, uint8_t *out) {
    uint8_t *entry = out + (uint64_t)info->level[level].n_contexts * ngram_context_bytes(level);
    uint32_t n_entries = 0;
    follower_counts f;
    for (uint32_t i = 0, next; i < t.n; i = next) {
        next = count_run(t, index, level, i, &f);
        if (!keeps(info, level, &f)) continue;
        for (uint32_t k = 0; k < level; k++) out = put32(out, token_at(t, index[i], k));
        out = put32(put32(put32(out, n_entries), f.total), f.distinct);
        for (uint32_t k = 0; k < f.n; k++) entry = put32(put32(entry, f.next[k].token), f.next[k].count);
        n_entries += f.n;
    }
    return entry;
}

st_code spec_ngram_write(const uint32_t *tokens, uint32_t n_tokens, const uint32_t *index, const spec_ngram_info *info,
                         uint8_t *bytes) {
    uint8_t *out = bytes;
    memcpy(out, NGRAM_MAGIC, 8);
    out = put32(put32(put32(put32(out + 8, NGRAM_VERSION), info->order), info->n_vocab), 0);
    memcpy(out, info->vocabulary_hash, SPEC_NGRAM_HASH_BYTES);
    out = put64(out + SPEC_NGRAM_HASH_BYTES, info->n_tokens);
    for (uint32_t level = 0; level < info->order; level++)
        out = put32(put32(out, info->level[level].n_contexts), info->level[level].n_entries);
    for (uint32_t level = 0; level < info->order; level++) out = put_level((text){tokens, n_tokens}, index, info, level, out);
    return sha256_of(bytes, (size_t)(out - bytes), out);
}
