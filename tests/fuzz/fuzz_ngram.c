/* An n-gram table's file, as it comes and with its checksum made right: what is accepted drafts within its rules for any text. */
#include "base/mem.h"
#include "base/sha256.h"
#include "speculative/speculative.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void draft(spec_ngram *g, const uint8_t *data, size_t size) {
    uint32_t tokens[40];
    for (uint32_t i = 0; i < 40; i++) tokens[i] = data[(i * 7) % size] % (g->info.n_vocab ? g->info.n_vocab : 1);
    for (uint32_t i = 0; i < 4; i++) {
        spec_tree tree;
        st_error e;
        spec_draft item = {.tokens = tokens, .n_tokens = 40 - i, .n_new = 40 - i, .budget = NOUNS_MAX_TREE, .tree = &tree};
        item.sampling = (sampling){.temperature = (float)i, .top_p = 1, .seed = i};
        INVARIANT(!g->drafter.ops->draft(&g->drafter, &item, 1, &e));
        INVARIANT(spec_tree_check(&tree, NOUNS_MAX_TREE) && item.n_hits <= item.n_scored);
        for (uint32_t k = 0; k < tree.n; k++) INVARIANT(tree.token[k] < g->info.n_vocab);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    spec_ngram g;
    st_error e;
    if (!spec_ngram_init(&g, data, size, NULL, &e)) draft(&g, data, size);
    if (size < SHA256_BYTES) return 0;
    uint8_t *mended = mem_alloc(size, 1);
    if (!mended) return 0;
    memcpy(mended, data, size);
    INVARIANT(!sha256_of(mended, size - SHA256_BYTES, mended + size - SHA256_BYTES));
    if (!spec_ngram_init(&g, mended, size, NULL, &e)) draft(&g, mended, size);
    mem_free(mended);
    return 0;
}
