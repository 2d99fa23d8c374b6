/* GGUF: whatever opens can be walked to its last byte, and the tokenizer takes it or says why not; so does what reads heads. */
#include "base/mem.h"
#include "model/head.h"
#include "model/text.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads each byte: volatile, so that the compiler cannot leave it out. */
static void touch(const void *bytes, uint64_t n) {
    const volatile uint8_t *p = bytes;
    for (uint64_t i = 0; i < n; i++) (void)p[i];
}

static void walk(const model_file *f) {
    for (uint64_t i = 0; i < model_file_n_keys(f); i++) {
        const model_key *k = model_file_key_at(f, i);
        touch(k->bytes, k->size_bytes);
        touch(k->name.bytes, k->name.size);
        for (uint64_t j = 0; k->type == MODEL_ARRAY && k->item_type == MODEL_STRING && j < k->n; j++) {
            model_string s = model_key_string_at(f, k, j);
            touch(s.bytes, s.size);
        }
    }
    uint64_t end = 0;
    for (uint64_t i = 0; i < model_file_n_tensors(f); i++) {
        const model_tensor *t = model_file_tensor_at(f, i);
        touch(t->bytes, t->size_bytes);
        end += t->size_bytes;
    }
    INVARIANT(end <= model_file_size(f)); /* tensors do not overlap */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    model_ids ids = {0};
    uint8_t hash[32];
    st_error e = {0};
    if (model_file_over("fuzz", data, size, &f, &e)) {
        INVARIANT(e.code && strlen(e.message) > 6);
        return 0;
    }
    walk(f);
    INVARIANT(!model_file_vocabulary_hash(f, hash));
    if (!model_tokenizer_create(f, &t, &e) && !model_tokenize(t, "Hello <|im_end|>", 16, true, 99, &ids, &e)) mem_free(ids.ids);
    model_tokenizer_destroy(t);
    model_head head;
    if (!model_head_read(f, &head, &e)) {
        INVARIANT(head.n_ids > 0 && head.n_ids <= head.n_vocab && head.dim % 32 == 0 && head.ffn_dim % 32 == 0);
        touch(head.ids, (uint64_t)head.n_ids * 4);
    }
    model_file_close(f);
    return 0;
}
