/* Store: one device buffer that holds every block of a rank, and a generation beside each block.
 *
 * What: kernels see the buffer through kernels_kv; plans name blocks by index and generation. Why one buffer: a block is one run
 * of bytes at index * block_bytes, so that a table of u32 is all that attention needs, and a transfer is one copy. The store
 * never allocates, frees or evicts a block: the coordinator's table does, and all ranks follow it. Road not taken: to clear a
 * block when its generation changes. Slots are written before they are read (model.h), and clearing would cost a pass over
 * memory. Limit: generations are compared as plain numbers; a block reused 2^32 times in one epoch would be refused. */
#include "kv/kv.h"

#include "base/mem.h"

enum {
    MAX_LAYERS = 4096, /* with the two below: the bytes of a block fit 64 bits with room to spare */
    MAX_HEADS = 4096,
    MAX_HEAD_DIM = 4096,
};

struct kv_store {
    const kernels_ops *ops;
    kernels_device *device;
    kernels_kv view;
    size_t size_bytes;
    uint32_t *generation; /* [n_blocks] under which a plan last named the block; 0: never */
};

static bool shape_ok(const kv_shape *s) {
    return s->type && s->n_blocks && s->n_layers && s->n_layers <= MAX_LAYERS && s->n_kv_heads && s->n_kv_heads <= MAX_HEADS &&
           s->head_dim && s->head_dim <= MAX_HEAD_DIM;
}

st_code kv_store_create(const kernels_ops *ops, kernels_device *device, const kv_shape *shape, kv_store **out, st_error *e) {
    if (!shape_ok(shape))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "KV store: %u blocks of %u layers, %u KV heads, head size %u, type %s: each must be at least 1 "
                       "(layers, heads and head size at most %d)",
                       shape->n_blocks, shape->n_layers, shape->n_kv_heads, shape->head_dim,
                       shape->type ? shape->type->name : "none", MAX_LAYERS);
    kv_store *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "KV store: no memory");
    s->ops = ops;
    s->device = device;
    s->view = (kernels_kv){.type = {shape->type->k, shape->type->v},
                           .n_blocks = shape->n_blocks,
                           .n_layers = shape->n_layers,
                           .n_kv_heads = shape->n_kv_heads,
                           .head_dim = shape->head_dim};
    size_t block_bytes = kernels_kv_block_bytes(&s->view);
    st_code c = ST_FATAL_MEMORY;
    if (!__builtin_mul_overflow(block_bytes, (size_t)shape->n_blocks, &s->size_bytes) &&
        (s->generation = mem_alloc(shape->n_blocks, sizeof *s->generation)))
        c = ops->alloc(device, s->size_bytes, &s->view.at.buffer);
    if (c != ST_OK) {
        st_fail(e, c, "KV store: no memory for %u blocks of %zu bytes; fewer blocks or a smaller KV type would fit",
                shape->n_blocks, block_bytes);
        kv_store_destroy(s);
        return c;
    }
    *out = s;
    return ST_OK;
}

void kv_store_destroy(kv_store *s) {
    if (!s) return;
    if (s->view.at.buffer) s->ops->free(s->device, s->view.at.buffer);
    mem_free(s->generation);
    mem_free(s);
}

const kernels_kv *kv_store_view(const kv_store *s) { return &s->view; }

size_t kv_store_bytes(const kv_store *s) { return s->size_bytes; }

/* First all are checked, then all are noted: a refused plan leaves no trace. */
st_code kv_store_accept(kv_store *s, const block_id *blocks, uint32_t n, st_error *e) {
    for (uint32_t i = 0; i < n; i++) {
        block_id b = blocks[i];
        if (b.index >= s->view.n_blocks)
            return st_fail(e, ST_FATAL_PROTOCOL, "plan names KV block %u; the store has %u", b.index, s->view.n_blocks);
        if (b.generation == 0 || b.generation < s->generation[b.index])
            return st_fail(e, ST_FATAL_PROTOCOL, "plan names KV block %u under generation %u; generation %u has been seen",
                           b.index, b.generation, s->generation[b.index]);
    }
    for (uint32_t i = 0; i < n; i++)
        if (blocks[i].generation > s->generation[blocks[i].index]) s->generation[blocks[i].index] = blocks[i].generation;
    return ST_OK;
}

/* ---- pieces ---- */

/* Where the rows of the piece lie: as many runs of bytes, stride_bytes apart. What stands side by side is one run. */
typedef struct {
    size_t at, run_bytes, stride_bytes;
    uint32_t n_runs;
} runs;

static st_code find_runs(const kv_store *s, uint32_t block, const kv_piece *p, size_t n, runs k[2]) {
    const kernels_kv *v = &s->view;
    const size_t row[2] = {kernels_kv_row_bytes(v->type[0], v->head_dim), kernels_kv_row_bytes(v->type[1], v->head_dim)};
    if (block >= v->n_blocks || p->layer >= v->n_layers || p->heads.n < 1 || p->heads.first >= v->n_kv_heads ||
        p->heads.n > v->n_kv_heads - p->heads.first || p->n_tokens < 1 || p->n_tokens > NOUNS_BLOCK_TOKENS ||
        p->token_bytes != row[0] + row[1])
        return ST_ERR_INVALID_ARGUMENT;
    const size_t all = (row[0] + row[1]) * p->n_tokens * p->heads.n;
    if (n < 1 || p->first_byte >= all || n > all - p->first_byte) return ST_ERR_INVALID_ARGUMENT;
    size_t at = block * kernels_kv_block_bytes(v) + p->layer * kernels_kv_layer_bytes(v);
    for (int i = 0; i < 2; i++) {
        const size_t head = row[i] * NOUNS_BLOCK_TOKENS, first = at + p->heads.first * head;
        k[i] = p->n_tokens == NOUNS_BLOCK_TOKENS ? (runs){first, p->heads.n * head, 0, 1}
                                                 : (runs){first, p->n_tokens * row[i], head, p->heads.n};
        at += v->n_kv_heads * head;
    }
    return ST_OK;
}

typedef struct {
    size_t at, skip, n; /* in the store; bytes of the part before it; its bytes, 0: none */
} share;

/* What of a run, with so many bytes of rows before it, belongs to the part. */
static share share_of(const runs *k, uint32_t r, size_t before, const kv_piece *p, size_t n) {
    const size_t first = p->first_byte, run_end = before + k->run_bytes, end = run_end < first + n ? run_end : first + n;
    const size_t begin = before < first ? first : before;
    if (begin >= end) return (share){0};
    return (share){k->at + r * k->stride_bytes + (begin - before), begin - first, end - begin};
}

st_code kv_store_load(const kv_store *s, uint32_t block, const kv_piece *p, uint8_t *bytes, size_t n) {
    runs k[2];
    size_t before = 0;
    st_code code = find_runs(s, block, p, n, k);
    for (int i = 0; !code && i < 2; i++)
        for (uint32_t r = 0; r < k[i].n_runs; r++, before += k[i].run_bytes) {
            const share h = share_of(&k[i], r, before, p, n);
            if (h.n) s->ops->peek(s->device, bytes + h.skip, s->view.at.buffer, h.at, h.n);
        }
    return code;
}

st_code kv_store_store(kv_store *s, uint32_t block, const kv_piece *p, const uint8_t *bytes, size_t n) {
    runs k[2];
    size_t before = 0;
    st_code code = find_runs(s, block, p, n, k);
    for (int i = 0; !code && i < 2; i++)
        for (uint32_t r = 0; r < k[i].n_runs; r++, before += k[i].run_bytes) {
            const share h = share_of(&k[i], r, before, p, n);
            if (h.n) s->ops->poke(s->device, s->view.at.buffer, h.at, bytes + h.skip, h.n, false);
        }
    return code;
}
