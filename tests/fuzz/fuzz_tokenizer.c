/* Tokenizer: any bytes, encoded and decoded, read as the same bytes decoded one by one. The first byte chooses parse_special. */
#include "base/mem.h"
#include "model/text.h"
#include "tests/unit/model_text/gguf_writer.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static model_tokenizer *small_tokenizer(void) {
    static gguf g;
    model_file *f = NULL;
    model_tokenizer *t = NULL;
    w_vocabulary(&g, &(wv_options){0});
    INVARIANT(!model_file_over("fuzz", g.bytes, g.n, &f, NULL) && !model_tokenizer_create(f, &t, NULL));
    model_file_close(f);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static model_tokenizer *t; /* made once: libFuzzer calls this many thousand times */
    if (!t) t = small_tokenizer();
    if (!size) return 0;
    const char *text = (const char *)data + 1;
    const size_t n = size - 1;
    model_ids ids = {0};
    INVARIANT(!model_tokenize(t, text, n, data[0] & 1, SIZE_MAX, &ids, NULL));
    INVARIANT(ids.n <= n);
    char *a = mem_alloc(n + 1, model_token_max_bytes(t)), *b = mem_alloc(n + 1, model_token_max_bytes(t));
    size_t n_a = 0, n_b = 0;
    model_detokenizer da = {0}, db = {0};
    INVARIANT(a && b);
    for (size_t i = 0; i < ids.n; i++) {
        INVARIANT(ids.ids[i] < model_vocabulary_size(t));
        model_detokenize(t, &da, ids.ids[i], true, a, &n_a);
    }
    for (size_t i = 0; i < n; i++) model_detokenize(t, &db, WV_BYTES + (uint8_t)text[i], true, b, &n_b);
    model_detokenize_end(&da, a, &n_a);
    model_detokenize_end(&db, b, &n_b);
    INVARIANT(n_a == n_b && !memcmp(a, b, n_a));
    mem_free(a);
    mem_free(b);
    mem_free(ids.ids);
    return 0;
}
