/* A small n-gram table for the tests of speculative/: built from random text with a seed. One thread. */
#ifndef CONSORT_TESTS_SPECULATIVE_TABLE_H
#define CONSORT_TESTS_SPECULATIVE_TABLE_H

#include "base/mem.h"
#include "speculative/speculative.h"

static inline uint32_t table_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* Skewed ids below n_vocab, a break about every 50. */
static inline void table_text(uint64_t seed, uint32_t n_vocab, uint32_t *tokens, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t a = table_random(&seed) % n_vocab, b = table_random(&seed) % n_vocab;
        tokens[i] = table_random(&seed) % 50 ? (uint32_t)((uint64_t)a * b / n_vocab) : SPEC_NGRAM_BREAK;
    }
}

/* Returns the file's bytes (mem_free) and their size. */
static inline uint8_t *table_make_of(const uint32_t *tokens, uint32_t n, uint32_t n_vocab, uint32_t order, uint32_t least,
                                     spec_ngram_info *info, size_t *size) {
    uint32_t *index = mem_alloc(n + 1, sizeof *index);
    *info = (spec_ngram_info){.order = order, .n_vocab = n_vocab, .least = least, .vocabulary_hash = {1, 2, 3}};
    INVARIANT(index);
    spec_ngram_sort(tokens, n, order, index);
    *size = spec_ngram_size(tokens, n, index, info);
    uint8_t *bytes = mem_alloc(*size, 1);
    INVARIANT(bytes && !spec_ngram_write(tokens, n, index, info, bytes));
    mem_free(index);
    return bytes;
}

static inline uint8_t *table_make(const uint32_t *tokens, uint32_t n, uint32_t n_vocab, uint32_t order, spec_ngram_info *info,
                                  size_t *size) {
    return table_make_of(tokens, n, n_vocab, order, 0, info, size);
}

#endif
