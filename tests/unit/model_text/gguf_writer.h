/* Writes small GGUF files into memory, right or wrong, for tests and fuzzing; and one small vocabulary.
 *
 * Noun: a gguf, a buffer that only grows. The writer checks nothing but its own room, so that tests can write what no reader
 * should take. */
#ifndef CONSORT_TESTS_GGUF_WRITER_H
#define CONSORT_TESTS_GGUF_WRITER_H

#include "model/file.h"

enum { GGUF_ROOM = 1 << 16 };

typedef struct {
    _Alignas(64) uint8_t bytes[GGUF_ROOM];
    size_t n;
} gguf;

void w_bytes(gguf *g, const void *bytes, size_t n);
void w_u8(gguf *g, uint8_t v);
void w_u32(gguf *g, uint32_t v);
void w_u64(gguf *g, uint64_t v);
void w_text(gguf *g, const char *text); /* length and bytes */
void w_header(gguf *g, uint32_t version, uint64_t n_tensors, uint64_t n_keys);
void w_key(gguf *g, const char *name, model_value_type type); /* the value comes after */
void w_array(gguf *g, const char *name, model_value_type type, uint64_t n);
void w_key_text(gguf *g, const char *name, const char *text);
void w_key_u32(gguf *g, const char *name, uint32_t v);
void w_tensor(gguf *g, const char *name, uint32_t n_dims, const uint64_t *dims, uint32_t ggml_type, uint64_t offset);
void w_pad(gguf *g, size_t align, size_t then_zeros);

/* The vocabulary: control tokens 0..2, one user-defined token, the 256 bytes from WV_BYTES on, then one token a merge. */
enum {
    WV_END_OF_TEXT,
    WV_START,
    WV_END,
    WV_USER,
    WV_BYTES,
    WV_MERGED = WV_BYTES + 256,
    WV_N_MERGES = 24,
    WV_N = WV_MERGED + WV_N_MERGES
};
extern const char *const wv_merges[WV_N_MERGES]; /* "left right", in the file's characters */

typedef struct {
    const char *model, *pre, *chat_template; /* NULL: "gpt2", "smollm", no template */
    uint32_t end_id;                         /* 0: WV_END */
    uint32_t n_types;                        /* 0: WV_N */
    int32_t first_type;                      /* 0: control */
    const char *last_token, *last_merge;     /* NULL: as they should be */
    const char *special[4];                  /* the first four tokens; NULL: as they should be */
    const char *true_flag;                   /* a bool key set to true, or NULL */
} wv_options;

void w_vocabulary(gguf *g, const wv_options *o);

#endif
