/* file, inside: what gguf.c fills and file.c reads. */
#ifndef CONSORT_MODEL_FILE_INT_H
#define CONSORT_MODEL_FILE_INT_H

#include "base/filemap.h"
#include "model/names_int.h"

/* Limits, each against a crafted file. Counts are also held against the bytes that are left, before anything is allocated, so
 * that the heap of an open file stays under its size plus 16 MiB (names at worst: 2 * 2 * 65536 slots of 24 bytes). */
enum {
    GGUF_MAX_KEYS = 65536,      /* "n_kv near 2^64" */
    GGUF_MAX_TENSORS = 65536,   /* "n_tensors near 2^64" */
    GGUF_MAX_KEY_BYTES = 65535, /* specification: 2^16 - 1 */
    GGUF_MAX_NAME_BYTES = 64,   /* specification, tensor names */
    GGUF_MAX_DIMS = 4,          /* specification */
    GGUF_MIN_ALIGNMENT = 8,     /* specification: a multiple of 8 */
    GGUF_MAX_ALIGNMENT = 1 << 20,
    GGUF_DEFAULT_ALIGNMENT = 32,
};

struct model_file {
    char *path;
    const uint8_t *bytes; /* [size], mapped or borrowed */
    uint64_t size;
    filemap mapped; /* empty: borrowed */
    uint32_t version;
    uint64_t alignment;
    uint64_t n_keys, n_tensors;
    model_key *keys;       /* [n_keys] */
    uint64_t **strings;    /* [n_keys] arrays of strings: [n] offsets of their lengths in the file; else NULL */
    model_tensor *tensors; /* [n_tensors] */
    model_names key_names, tensor_names;
};

/* `name` in quotes for a message: cut, and without bytes that a terminal would obey. */
enum { MODEL_QUOTED_BYTES = 80 };
const char *model_file_quote(model_string name, char out[MODEL_QUOTED_BYTES]);

#endif
