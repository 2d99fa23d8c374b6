/* The reader of n-gram tables: checks a file once, then finds contexts in place.
 *
 * Nothing is unpacked: levels are sorted arrays in the file's bytes and a context is found by bisection, so that a table of any
 * size opens in the time of one pass over it and is shared by all processes that map it. Road not taken: a hash table, a quarter
 * faster to ask and twice as large. */
#include "speculative/ngram_int.h"

#include "base/cursor.h"
#include "base/sha256.h"
#include <inttypes.h>
#include <string.h>

/* Of bytes that were checked: the i-th u32, at any alignment. */
static uint32_t word(const uint8_t *bytes, uint64_t i) {
    const uint8_t *b = bytes + 4 * i;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static const uint8_t *context_at(const spec_ngram *g, uint32_t level, uint32_t i) {
    return g->level[level].contexts + (uint64_t)i * ngram_context_bytes(level);
}

static ngram_context context_of(const spec_ngram *g, uint32_t level, uint32_t i) {
    const uint8_t *c = context_at(g, level, i);
    bool last = i + 1 == g->info.level[level].n_contexts;
    return (ngram_context){
        .first = word(c, level),
        .end = last ? g->info.level[level].n_entries : word(context_at(g, level, i + 1), level),
        .total = word(c, level + 1),
        .distinct = word(c, level + 2),
    };
}

ngram_entry ngram_entry_at(const spec_ngram *g, uint32_t level, uint32_t i) {
    const uint8_t *entries = g->level[level].entries;
    return (ngram_entry){.token = word(entries, 2 * (uint64_t)i), .count = word(entries, 2 * (uint64_t)i + 1)};
}

/* < 0, 0, > 0 as the i-th context stands before, at or behind these tokens. */
static int compare(const spec_ngram *g, uint32_t level, uint32_t i, const uint32_t *tokens) {
    const uint8_t *c = context_at(g, level, i);
    for (uint32_t k = 0; k < level; k++)
        if (word(c, k) != tokens[k]) return word(c, k) < tokens[k] ? -1 : 1;
    return 0;
}

bool ngram_find(const spec_ngram *g, uint32_t level, const uint32_t *tokens, ngram_context *out) {
    uint32_t low = 0, high = g->info.level[level].n_contexts;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int side = compare(g, level, mid, tokens);
        if (!side) return *out = context_of(g, level, mid), true;
        if (side < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

static st_code check_head(spec_ngram *g, cursor *c, const uint8_t *vocabulary_hash, st_error *e) {
    const uint8_t *magic = cursor_take(c, 8);
    if (!magic || memcmp(magic, NGRAM_MAGIC, 8))
        return st_fail(e, ST_ERR_FORMAT, "not an n-gram table: no '%s' at the start", NGRAM_MAGIC);
    uint32_t version = cursor_u32(c);
    if (version != NGRAM_VERSION)
        return st_fail(e, ST_ERR_FORMAT, "n-gram table of version %u, expected %u; make it again with consort build-ngram",
                       version, NGRAM_VERSION);
    g->info.order = cursor_u32(c);
    g->info.n_vocab = cursor_u32(c);
    uint32_t zero = cursor_u32(c);
    const uint8_t *hash = cursor_take(c, SPEC_NGRAM_HASH_BYTES);
    g->info.n_tokens = cursor_u64(c);
    if (!cursor_ok(c) || zero || g->info.order < 1 || g->info.order > SPEC_NGRAM_MAX_ORDER)
        return st_fail(e, ST_ERR_FORMAT, "n-gram table: order %u, expected 1 to %d; or the head is damaged", g->info.order,
                       SPEC_NGRAM_MAX_ORDER);
    memcpy(g->info.vocabulary_hash, hash, SPEC_NGRAM_HASH_BYTES);
    if (vocabulary_hash && memcmp(hash, vocabulary_hash, SPEC_NGRAM_HASH_BYTES))
        return st_fail(
            e, ST_ERR_MISMATCH,
            "n-gram table: made for another vocabulary; make it with the target's model (consort build-ngram --model)");
    return ST_OK;
}

/* The entries of one context: known tokens, each once, the commonest first, no more than were seen. */
static bool check_entries(const spec_ngram *g, uint32_t level, const ngram_context *c) {
    if (c->first >= c->end || c->end - c->first > NGRAM_NEXT || c->distinct < c->end - c->first) return false;
    ngram_entry before = {0};
    uint64_t sum = 0;
    for (uint32_t i = c->first; i < c->end; i++) {
        ngram_entry now = ngram_entry_at(g, level, i);
        bool behind = i == c->first || now.count < before.count || (now.count == before.count && now.token > before.token);
        if (!now.count || now.token >= g->info.n_vocab || !behind) return false;
        for (uint32_t k = c->first; k < i; k++)
            if (ngram_entry_at(g, level, k).token == now.token) return false;
        sum += now.count;
        before = now;
    }
    return sum <= c->total && c->distinct <= c->total;
}

static bool check_context(const spec_ngram *g, uint32_t level, uint32_t i) {
    uint32_t tokens[SPEC_NGRAM_MAX_ORDER];
    for (uint32_t k = 0; k < level; k++)
        if ((tokens[k] = word(context_at(g, level, i), k)) >= g->info.n_vocab) return false;
    if (i && compare(g, level, i - 1, tokens) >= 0) return false;
    ngram_context c = context_of(g, level, i);
    return (i || !c.first) && c.end <= g->info.level[level].n_entries && check_entries(g, level, &c);
}

static st_code check_level(const spec_ngram *g, uint32_t level, st_error *e) {
    uint32_t n = g->info.level[level].n_contexts;
    if ((!level && n > 1) || (!n && g->info.level[level].n_entries))
        return st_fail(e, ST_ERR_FORMAT, "n-gram table, level %u: %u contexts with %u entries", level, n,
                       g->info.level[level].n_entries);
    for (uint32_t i = 0; i < n; i++)
        if (!check_context(g, level, i))
            return st_fail(e, ST_ERR_FORMAT, "n-gram table, level %u: context %u of %u is damaged", level, i, n);
    return ST_OK;
}

static st_code check_sum(const void *bytes, cursor *c, st_error *e) {
    uint8_t sum[SHA256_BYTES];
    size_t size = c->at;
    const uint8_t *expected = cursor_take(c, SHA256_BYTES);
    if (!expected || cursor_left(c))
        return st_fail(e, ST_ERR_FORMAT, "n-gram table: %zu bytes, expected %zu; the file was cut or something was added",
                       c->size, size + SHA256_BYTES);
    if (sha256_of(bytes, size, sum)) return st_fail(e, ST_FATAL_MEMORY, "n-gram table: out of memory");
    if (memcmp(expected, sum, SHA256_BYTES))
        return st_fail(e, ST_ERR_FORMAT, "n-gram table: wrong checksum: the file is damaged");
    return ST_OK;
}

st_code ngram_open(spec_ngram *g, const void *bytes, size_t size_bytes, const uint8_t *vocabulary_hash, bool summed,
                   st_error *e) {
    cursor c = cursor_of(bytes, size_bytes);
    *g = (spec_ngram){.width = 1};
    st_code code = check_head(g, &c, vocabulary_hash, e);
    if (code) return code;
    for (uint32_t level = 0; level < g->info.order; level++) {
        g->info.level[level].n_contexts = cursor_u32(&c);
        g->info.level[level].n_entries = cursor_u32(&c);
    }
    for (uint32_t level = 0; level < g->info.order; level++) {
        g->level[level].contexts = cursor_take(&c, (uint64_t)g->info.level[level].n_contexts * ngram_context_bytes(level));
        g->level[level].entries = cursor_take(&c, (uint64_t)g->info.level[level].n_entries * NGRAM_ENTRY_BYTES);
    }
    if (!cursor_ok(&c)) return st_fail(e, ST_ERR_FORMAT, "n-gram table: cut at byte %zu of %zu", c.at, c.size);
    if (summed) code = check_sum(bytes, &c, e);
    for (uint32_t level = 0; !code && level < g->info.order; level++) code = check_level(g, level, e);
    return code;
}
