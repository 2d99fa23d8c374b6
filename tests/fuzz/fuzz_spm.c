/* SentencePiece vocabularies: any bytes, encoded and decoded, read as a space and the same bytes decoded one by one. */
#include "base/mem.h"
#include "model/text.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BYTES = 3 }; /* the vocabulary's byte tokens stand behind <unk>, <s>, </s> */

static model_tokenizer *golden_tokenizer(void) {
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    INVARIANT(!model_file_open(CONSORT_SOURCE_DIR "/tests/golden/spm-vocabulary.gguf", &f, NULL));
    INVARIANT(!model_tokenizer_create(f, &t, NULL));
    model_file_close(f);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static model_tokenizer *t; /* made once: libFuzzer calls this many thousand times */
    if (!t) t = golden_tokenizer();
    model_ids ids = {0};
    INVARIANT(!model_tokenize(t, (const char *)data, size, false, SIZE_MAX, &ids, NULL));
    INVARIANT(ids.n <= size + 1);
    char *a = mem_alloc(size + 2, model_token_max_bytes(t)), *b = mem_alloc(size + 2, model_token_max_bytes(t));
    size_t n_a = 0, n_b = 0;
    model_detokenizer da = {0}, db = {0};
    INVARIANT(a && b);
    for (size_t i = 0; i < ids.n; i++) {
        INVARIANT(ids.ids[i] < model_vocabulary_size(t) && !model_token_is_special(t, ids.ids[i]));
        model_detokenize(t, &da, ids.ids[i], true, a, &n_a);
    }
    if (size) model_detokenize(t, &db, BYTES + ' ', true, b, &n_b); /* the space that is put before */
    for (size_t i = 0; i < size; i++) {
        bool sign = size - i >= 3 && !memcmp(data + i, "\xe2\x96\x81", 3); /* stands for a space, and comes back as one */
        model_detokenize(t, &db, BYTES + (sign ? ' ' : data[i]), true, b, &n_b);
        i += sign ? 2 : 0;
    }
    model_detokenize_end(&da, a, &n_a);
    model_detokenize_end(&db, b, &n_b);
    INVARIANT(n_a == n_b && !memcmp(a, b, n_a));
    mem_free(a);
    mem_free(b);
    mem_free(ids.ids);
    return 0;
}
