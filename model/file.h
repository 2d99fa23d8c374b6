/* file: a GGUF file, mapped and checked once (specification: ggml/docs/gguf.md, version 3; version 2 is read too).
 *
 * Nouns: a file, a key with its value, a tensor. All counts, lengths, offsets and types are checked at open through base/cursor
 * before anything is allocated for them; after that views into the map may be trusted. Everything returned is a view that lives
 * as long as the file. Read-only after open: any thread. */
#ifndef CONSORT_MODEL_FILE_H
#define CONSORT_MODEL_FILE_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct model_file model_file;

typedef struct {
    const char *bytes; /* not NUL-terminated */
    uint64_t size;
} model_string;

/* GGUF value types, with the specification's numbers. */
typedef enum {
    MODEL_U8,
    MODEL_I8,
    MODEL_U16,
    MODEL_I16,
    MODEL_U32,
    MODEL_I32,
    MODEL_F32,
    MODEL_BOOL,
    MODEL_STRING,
    MODEL_ARRAY,
    MODEL_U64,
    MODEL_I64,
    MODEL_F64,
    MODEL_N_TYPES
} model_value_type;

typedef struct {
    model_string name;
    model_value_type type, item_type; /* item_type: of an array's elements, else equal to type */
    uint64_t n;                       /* elements of an array, else 1 */
    const void *bytes;                /* value in the file, little-endian, not aligned; string: the text; array: the elements */
    uint64_t size_bytes, at;          /* `at`: byte offset of the value in the file */
} model_key;

typedef struct {
    model_string name;
    uint32_t n_dims;
    uint64_t dims[4];  /* dims[0] is the row length (columns); unused ones are 1 */
    uint32_t format;   /* kernels_format; others are refused at open */
    const void *bytes; /* view into the map */
    uint64_t size_bytes;
} model_tensor;

/* Errors: ST_ERR_IO, ST_ERR_FORMAT, ST_ERR_UNSUPPORTED; the message names file, key or tensor, byte offset, expected and found.
 */
ST_CHECKED st_code model_file_open(const char *path, model_file **out, st_error *e);
/* The same over bytes that the caller keeps (tests, fuzzing). `path` is for messages. */
ST_CHECKED st_code model_file_over(const char *path, const void *bytes, size_t size, model_file **out, st_error *e);
void model_file_close(model_file *f); /* NULL-safe */
const char *model_file_path(const model_file *f);
uint64_t model_file_size(const model_file *f);    /* bytes */
uint32_t model_file_version(const model_file *f); /* of GGUF: 2 or 3 */

/* All keys, in the file's order. */
uint64_t model_file_n_keys(const model_file *f);
const model_key *model_file_key_at(const model_file *f, uint64_t i);

bool model_file_has(const model_file *f, const char *key);
/* Scalars: value of `key`, widened. Errors: ST_ERR_NOT_FOUND, ST_ERR_FORMAT (other type, or outside [min, max]); message filled.
 */
ST_CHECKED st_code model_file_u64(const model_file *f, const char *key, uint64_t min, uint64_t max, uint64_t *out, st_error *e);
ST_CHECKED st_code model_file_f64(const model_file *f, const char *key, double *out, st_error *e);
ST_CHECKED st_code model_file_bool(const model_file *f, const char *key, bool *out, st_error *e);
ST_CHECKED st_code model_file_string(const model_file *f, const char *key, model_string *out, st_error *e);
/* Arrays: *n elements of `type`. Strings are read by model_file_string_at, numbers lie packed and unaligned at *bytes (may be
 * NULL: not wanted). */
ST_CHECKED st_code model_file_array(const model_file *f, const char *key, model_value_type type, const void **bytes, uint64_t *n,
                                    st_error *e);
/* After model_file_array(STRING) succeeded, i < n. */
model_string model_file_string_at(const model_file *f, const char *key, uint64_t i);
model_string model_key_string_at(const model_file *f, const model_key *k,
                                 uint64_t i); /* k: of f, an array of strings, i < k->n */

uint64_t model_file_n_tensors(const model_file *f);
const model_tensor *model_file_tensor_at(const model_file *f, uint64_t i);
const model_tensor *model_file_tensor(const model_file *f, const char *name); /* NULL if there is none */
const char *model_type_name(model_value_type type);                           /* "u32"; static */
const char *model_format_name(uint32_t format);                               /* kernels_format -> "Q4_1"; static */

/* SHA-256 of the whole file and of its vocabulary (tokenizer model, pre-tokenizer, tokens, types, merges, special ids): what must
 * agree in a cluster. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code model_file_hash(const model_file *f, uint8_t out[32]);
ST_CHECKED st_code model_file_vocabulary_hash(const model_file *f, uint8_t out[32]);

#endif
