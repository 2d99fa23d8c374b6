/* kv: the bytes of KV blocks on one rank.
 *
 * Nouns: a store (all blocks of one rank, in device memory), a KV type (how K and V are rounded; one file and one row in
 * kv/types/). The store does as plans say and decides nothing; it remembers the generation under which each
 * block was last named, and refuses an older one. A swap file holds further blocks on disk. Owner: the worker's step thread;
 * kv_store_load and kv_store_store may be called by a second thread meanwhile, for blocks that no plan names: it is the
 * coordinator who sees to that. */
#ifndef CONSORT_KV_H
#define CONSORT_KV_H

#include "kernels/kernels.h"
#include "kv/kv_core.h"
#include "kv/transfer.h"

typedef struct {
    const char *name;     /* "f16", "q8" */
    kernels_kv_type k, v; /* their rows, one token of one head each */
} kv_type;

const kv_type *kv_type_find(const char *name); /* NULL if there is none */
/* As kv_type_find; of NULL or "auto": what goes with the precision, f16 with fast and f32 with fp32. */
const kv_type *kv_type_choose(const char *name, kernels_precision precision);
const kv_type *kv_type_at(uint32_t i);  /* the table, row by row; NULL behind its end */
extern const char *const kv_type_names; /* of all, for messages: "f16, f32, ..." */
/* Bytes of one token's K and V in one head of head_dim elements: no head shares its scale with another. */
static inline size_t kv_type_token_bytes(const kv_type *t, uint32_t head_dim) {
    return kernels_kv_row_bytes(t->k, head_dim) + kernels_kv_row_bytes(t->v, head_dim);
}

typedef struct kv_store kv_store;
typedef struct {
    const kv_type *type;
    uint32_t n_blocks, n_layers, n_kv_heads, head_dim;
} kv_shape;

/* Errors: ST_FATAL_MEMORY (names the bytes), ST_ERR_INVALID_ARGUMENT. `ops` and `device` must outlive the store. */
ST_CHECKED st_code kv_store_create(const kernels_ops *ops, kernels_device *device, const kv_shape *shape, kv_store **out,
                                   st_error *e);
void kv_store_destroy(kv_store *s); /* NULL-safe */
const kernels_kv *kv_store_view(const kv_store *s);
size_t kv_store_bytes(const kv_store *s);
/* Takes note that a plan names these blocks. Errors: ST_FATAL_PROTOCOL (index out of range, or a generation older than the last).
 */
ST_CHECKED st_code kv_store_accept(kv_store *s, const block_id *blocks, uint32_t n, st_error *e);
/* A part of a piece out of a block, and into it: bytes[n], of its rows from p->first_byte on. p->heads are counted among those of
 * the store, and p->block is not looked at. No generation is looked at either: those are the step thread's. Errors:
 * ST_ERR_INVALID_ARGUMENT (block, layer, heads, tokens, rows or bytes not as the store has them; nothing was read or written). */
ST_CHECKED st_code kv_store_load(const kv_store *s, uint32_t block, const kv_piece *p, uint8_t *bytes, size_t n);
ST_CHECKED st_code kv_store_store(kv_store *s, uint32_t block, const kv_piece *p, const uint8_t *bytes, size_t n);

typedef struct kv_swap_file kv_swap_file;
/* A file without a name in `directory` with room for n_slots blocks of the store, set aside at once. All must outlive it. Errors:
 * ST_ERR_IO (names the directory, the bytes, the keys to change), ST_FATAL_MEMORY. */
ST_CHECKED st_code kv_swap_file_create(const kernels_ops *ops, kernels_device *device, const kv_store *store,
                                       const char *directory, uint32_t n_slots, kv_swap_file **out, st_error *e);
void kv_swap_file_destroy(kv_swap_file *f); /* NULL-safe */
/* Copies the block to the slot or the slot to the block, all of it; the device has done what it was told before. After an error
 * the rank must leave: ST_FATAL_PROTOCOL (no such block or slot, or nothing was put in), ST_ERR_IO (the file fails, or the slot
 * holds other bytes than were put in; then the block is untouched). Allocates nothing. Thread: the step thread. */
ST_CHECKED st_code kv_swap_file_do(kv_swap_file *f, const block_swap *s, st_error *e);

#endif
