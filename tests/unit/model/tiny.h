/* tiny: small random models of all families as GGUF bytes, made from a seed, with one thing wrong if asked. For tests. */
#ifndef CONSORT_TESTS_TINY_H
#define CONSORT_TESTS_TINY_H

#include "model/model.h"

typedef struct {
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, n_vocab, max_context;
    bool tied;   /* no output.weight */
    bool floats; /* all tensors are F32 */
    bool any;    /* a matrix is of any type that its rows are whole blocks of, drawn from the seed */
    uint64_t seed;
    const char *without;      /* tensor or key left out */
    const char *bent;         /* tensor with a wrong number of rows (a vector: columns) */
    const char *half;         /* tensor written as F16 */
    const char *extra;        /* tensor too many */
    const char *poison;       /* tensor whose last row begins with an infinity */
    const char *architecture; /* NULL: llama; the keys of others begin with theirs */
    const char *scaling;      /* rope.scaling.type; NULL: not said */
    float factor;             /* rope.scaling.factor; 0: not said */
    uint32_t trained_context; /* rope.scaling.original_context_length; 0: not said */
    bool rope_freqs;          /* a factor for each frequency */
    uint32_t window;          /* 0: not said */
    uint32_t global_every;    /* of windowed models; 0: 2 */
    float rope_base_local;    /* of their windowed layers; 0: 500 */
    uint32_t rope_dims;       /* 0: head_dim */
    uint32_t n_tokens;        /* 0: no tokenizer.ggml.tokens */
} tiny;

/* 3 heads of 32 over one KV head; the FFN has three units, the last one short; formats are mixed. */
tiny tiny_usual(void);
tiny tiny_of(const char *architecture); /* the same of a family, whose windows are shorter than a chunk of keys */

typedef struct {
    void *bytes;
    size_t size;
    model_file *file;
} tiny_file;

tiny_file tiny_make(const tiny *t); /* file is NULL, and the test fails, if it cannot be opened */
void tiny_free(tiny_file *f);

uint64_t tiny_random(uint64_t *state); /* splitmix64 */

#endif
