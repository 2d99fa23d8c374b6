/* The file of an n-gram table, between its writer (ngram_build.c) and its reader (ngram_file.c). All numbers are little-endian.
 *
 *     magic[8], u32 version, u32 order, u32 n_vocab, u32 0, vocabulary_hash[32], u64 n_tokens
 *     for each level c in [0, order):  u32 n_contexts, u32 n_entries
 *     for each level c:  contexts {u32 token[c], first, total, distinct}, ascending;  entries {u32 token, count}
 *     SHA-256 of all that
 *
 * A context of level c is c tokens; its entries are [first, the next one's first): the NGRAM_NEXT commonest tokens behind it, by
 * descending count, then ascending id. `total` tokens were seen behind it, `distinct` different ones. */
#ifndef CONSORT_SPECULATIVE_NGRAM_INT_H
#define CONSORT_SPECULATIVE_NGRAM_INT_H

#include "speculative/speculative.h"

#define NGRAM_MAGIC "CONSORTN"
enum {
    NGRAM_VERSION = 1,
    NGRAM_NEXT = 16,
    NGRAM_HEAD_BYTES = 8 + 4 * 4 + SPEC_NGRAM_HASH_BYTES + 8,
    NGRAM_LEVEL_BYTES = 8,
    NGRAM_ENTRY_BYTES = 8,
};

static inline uint32_t ngram_context_bytes(uint32_t level) { return 4 * (level + 3); }

typedef struct {
    uint32_t first, end, total, distinct;
} ngram_context;

/* spec_ngram_init without the drafter; `summed` false leaves the checksum out, for the fuzzer, which cannot guess one. */
ST_CHECKED st_code ngram_open(spec_ngram *g, const void *bytes, size_t size_bytes, const uint8_t *vocabulary_hash, bool summed,
                              st_error *e);

/* The context of these `level` tokens; false if the table has none. After spec_ngram_init. */
bool ngram_find(const spec_ngram *g, uint32_t level, const uint32_t *tokens, ngram_context *out);

typedef struct {
    uint32_t token, count;
} ngram_entry;
ngram_entry ngram_entry_at(const spec_ngram *g, uint32_t level, uint32_t i);

#endif
