/* An n-gram table's file, the checksum aside: what is accepted drafts within its rules for any text. */
#include "speculative/ngram_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    spec_ngram g, opened;
    st_error e;
    st_code code = spec_ngram_init(&opened, data, size, NULL, &e);
    if (!code) INVARIANT(opened.drafter.ops);
    if (ngram_open(&g, data, size, NULL, false, &e)) {
        INVARIANT(code);
        return 0;
    }
    for (uint32_t level = 0; level < g.info.order; level++)
        for (uint32_t i = 0; i < g.info.level[level].n_entries; i++)
            INVARIANT(ngram_entry_at(&g, level, i).token < g.info.n_vocab);
    if (code) return 0;
    uint32_t tokens[40];
    for (uint32_t i = 0; i < 40; i++) tokens[i] = data[(i * 7) % size] % (g.info.n_vocab ? g.info.n_vocab : 1);
    for (uint32_t i = 0; i < 4; i++) {
        spec_tree tree;
        spec_draft item = {.tokens = tokens, .n_tokens = 40 - i, .n_new = 40 - i, .budget = NOUNS_MAX_TREE, .tree = &tree};
        item.sampling = (sampling){.temperature = (float)i, .top_p = 1, .seed = i};
        INVARIANT(!opened.drafter.ops->draft(&opened.drafter, &item, 1, &e));
        INVARIANT(spec_tree_check(&tree, NOUNS_MAX_TREE) && item.n_hits <= item.n_scored);
    }
    return 0;
}
