/* Design: weights are packed once into strips of tiles (kernels_int.h) and read front to back ever after. They live in slabs on
 * huge pages: a model is hundreds of matrices, and one aligned allocation for each would round every one up to 2 MiB, while
 * 4 KiB pages cost a third of the read bandwidth (a prototype on a Zen 3 read 11 against 15 GB/s). A slab is a bump allocator
 * that is freed with its last weight; a hole in it is not used again, since weights of a model come and go together. It is
 * mapped, so that the system clears a page when packing first writes to it: what is left over of a slab costs neither memory nor
 * time. */
#include "kernels/cpu/cpu_int.h"
#include "kernels/tile.h"

#include "base/mem.h"
#include <string.h>

enum { HUGE_BYTES = 1 << 21, SLAB_MIN_BYTES = HUGE_BYTES, SLAB_MAX_BYTES = 1 << 25 };

struct kernels_slab {
    kernels_slab *next;
    unsigned char *mapped, *bytes; /* bytes: [size_bytes] of mapped, from the first border of a huge page on */
    size_t size_bytes, used_bytes;
    uint32_t n_weights;
};

static kernels_slab *slab_with(kernels_device *d, size_t n_bytes) {
    size_t size = SLAB_MIN_BYTES;
    for (kernels_slab *s = d->slabs; s; s = s->next) {
        if (n_bytes <= s->size_bytes - s->used_bytes) return s;
        if (size < SLAB_MAX_BYTES) size *= 2;
    }
    kernels_slab *s = mem_alloc(1, sizeof *s);
    if (!s) return NULL;
    s->size_bytes = n_bytes > size ? n_bytes : size;
    s->mapped = mem_map(s->size_bytes + HUGE_BYTES);
    if (!s->mapped) {
        mem_free(s);
        return NULL;
    }
    s->bytes = s->mapped + (HUGE_BYTES - (uintptr_t)s->mapped % HUGE_BYTES);
    s->next = d->slabs;
    d->slabs = s;
    return s;
}

static void slab_release(kernels_device *d, kernels_slab *s) {
    if (--s->n_weights) return;
    kernels_slab **link = &d->slabs;
    while (*link != s) link = &(*link)->next;
    *link = s->next;
    mem_unmap(s->mapped, s->size_bytes + HUGE_BYTES);
    mem_free(s);
}

typedef struct {
    kernels_weight *w;
    const uint8_t *from; /* first block of the first row */
    size_t row_bytes, block_bytes;
    uint32_t n_tiles; /* of a strip */
} pack_job;

static void pack_strip(void *context, uint32_t strip) {
    const pack_job *job = context;
    const kernels_layout *l = job->w->layout;
    uint32_t row0 = strip * KERNELS_LANES, n = job->w->rows - row0 < KERNELS_LANES ? job->w->rows - row0 : KERNELS_LANES;
    uint8_t *tile = job->w->strips + strip * job->w->strip_bytes;
    for (uint32_t b = 0; b < job->n_tiles; b++, tile += l->tile_bytes)
        for (uint32_t lane = 0; lane < n; lane++) /* lanes behind the last row stay 0 */
            l->pack(tile, job->from + (row0 + lane) * job->row_bytes + b * job->block_bytes, lane);
}

static kernels_product *product_of(const kernels_primitives *p, kernels_format format) {
    return p->product[format] ? p->product[format] : kernels_layout_of(format)->product;
}

st_code kernels_cpu_weight_create(kernels_device *d, const kernels_matrix *m, uint32_t row0, uint32_t n_rows, uint32_t col0,
                                  uint32_t n_cols, kernels_precision precision, kernels_weight **out) {
    const kernels_format_info *f = kernels_format_of(m->format);
    if (!f) return ST_ERR_UNSUPPORTED;
    const kernels_layout *l = kernels_layout_of(m->format);
    if (!n_rows || !n_cols || row0 > m->rows || n_rows > m->rows - row0 || col0 > m->cols || n_cols > m->cols - col0 ||
        m->cols % l->tile_k || col0 % l->step_k || n_cols % l->step_k)
        return ST_ERR_INVALID_ARGUMENT;
    kernels_weight *w = mem_alloc(1, sizeof *w);
    if (!w) return ST_FATAL_MEMORY;
    w->layout = l;
    w->is_fp32 = precision == KERNELS_FP32 && !kernels_layout_is_float(l);
    w->product = product_of(d->primitives, m->format);
    w->product_unpacked = w->is_fp32                   ? product_of(d->primitives, KERNELS_F32)
                          : kernels_layout_is_float(l) ? NULL
                                                       : d->primitives->product_wide[m->format];
    w->unpack = (w->is_fp32 ? d->primitives->dequantize : d->primitives->widen)[m->format];
    w->unpacked_bytes = w->is_fp32 ? KERNELS_GROUP * KERNELS_LANES * sizeof(float) : tile_bytes(tile_wide_shapes[m->format]);
    w->rows = n_rows;
    w->cols = n_cols;
    w->first_k = col0 % l->tile_k;
    uint32_t n_tiles = (w->first_k + n_cols - 1) / l->tile_k + 1;
    w->strip_bytes = (size_t)n_tiles * l->tile_bytes;
    uint32_t n_strips = (n_rows - 1) / KERNELS_LANES + 1;
    size_t bytes = (kernels_cpu_weight_bytes(w) + 63) / 64 * 64;
    w->slab = slab_with(d, bytes);
    if (!w->slab) {
        mem_free(w);
        return ST_FATAL_MEMORY;
    }
    w->strips = w->slab->bytes + w->slab->used_bytes;
    w->slab->used_bytes += bytes;
    w->slab->n_weights++;
    d->n_weights++;
    size_t row_bytes = (size_t)m->cols / l->tile_k * f->block_bytes;
    pack_job job = {w, (const uint8_t *)m->bytes + row0 * row_bytes + (size_t)col0 / l->tile_k * f->block_bytes, row_bytes,
                    f->block_bytes, n_tiles};
    pool_run(d->threads, n_strips, pack_strip, &job);
    *out = w;
    return ST_OK;
}

void kernels_cpu_weight_free(kernels_device *d, kernels_weight *w) {
    if (!w) return;
    slab_release(d, w->slab);
    d->n_weights--;
    mem_free(w);
}

size_t kernels_cpu_weight_bytes(const kernels_weight *w) { return ((size_t)(w->rows - 1) / KERNELS_LANES + 1) * w->strip_bytes; }

void kernels_cpu_weight_shape(const kernels_weight *w, uint32_t *rows, uint32_t *cols) {
    *rows = w->rows;
    *cols = w->cols;
}

enum { MOST_TILE_BYTES = 8192 };

typedef struct {
    float *out;
    kernels_matrix table;
    const kernels_layout *layout;
    size_t block_bytes;
    const uint32_t *token;
} embed_job;

/* A block is packed as the only row of a tile: its value is what `unpack` makes of that, as in a product. */
static void embed_row(void *context, uint32_t i) {
    const embed_job *job = context;
    const kernels_matrix *m = &job->table;
    const kernels_layout *l = job->layout;
    _Alignas(64) uint8_t tile[MOST_TILE_BYTES];
    INVARIANT(job->token[i] < m->rows);
    const uint8_t *block = (const uint8_t *)m->bytes + (size_t)job->token[i] * (m->cols / l->tile_k) * job->block_bytes;
    float *out = job->out + (size_t)i * m->cols;
    for (uint32_t c = 0; c < m->cols; c += l->tile_k, block += job->block_bytes) {
        l->pack(tile, block, 0);
        for (uint32_t k = 0; k < l->tile_k; k += l->step_k) l->unpack(out + c + k, tile, k, 0);
    }
}

void kernels_cpu_embed(kernels_device *d, kernels_view out, const kernels_matrix *table, const uint32_t *token, uint32_t n) {
    const kernels_layout *l = kernels_layout_of(table->format);
    INVARIANT(l->tile_bytes <= MOST_TILE_BYTES);
    embed_job job = {kernels_cpu_floats(out, n, table->cols), *table, l, kernels_format_of(table->format)->block_bytes, token};
    kernels_cpu_rows(d, n, table->cols, embed_row, &job, sizeof job);
}
