/* Design: a part is a few neighbouring rows and one KV head. For each chunk of 32 keys, rows of one sequence share one decoding
 * of the chunk to floats where the keys stand in one block in order (all of a prompt, and all but the newest tokens of a draft
 * tree); a row whose keys are scattered (tree ancestors) gathers its own. The arithmetic of a row is the same either way:
 * it gets the same floats in the same order. Road not taken: decoding inside the dot product, which does it again for each
 * query head and token. Where a table can, queries of a run go side by side, one in each lane (kernels_lanes), through the
 * chunks that they all see in order, and alone through the rest.
 * Limits: head_dim up to KERNELS_MAX_HEAD_DIM; K and V of a chunk and the lanes stand on the stack: 330 KB at most. */
#include "base/fmath.h"
#include "kernels/cpu/cpu_int.h"
#include <math.h> /* INFINITY; sqrtf is exact by IEEE 754 */

enum {
    MAX_PART_ROWS = 16,
    MAX_PART_HEADS = 16, /* query heads of one KV head served by one decoding */
    MAX_LANES = 128,     /* queries of rows that go side by side; a multiple of KERNELS_LANES */
};

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

size_t kernels_kv_row_bytes(kernels_kv_type type, uint32_t head_dim) {
    const size_t n = head_dim;
    switch (type) {
#define KV_TYPE(id, bytes)                                                                                                       \
    case KERNELS_KV_##id:                                                                                                        \
        return bytes;
#include "kernels/kv_types.def"
#undef KV_TYPE
    case KERNELS_N_KV_TYPES: break;
    }
    return 0;
}

size_t kernels_kv_layer_bytes(const kernels_kv *kv) {
    size_t token = kernels_kv_row_bytes(kv->type[0], kv->head_dim) + kernels_kv_row_bytes(kv->type[1], kv->head_dim);
    return kv->n_kv_heads * NOUNS_BLOCK_TOKENS * token;
}

size_t kernels_kv_block_bytes(const kernels_kv *kv) { return kv->n_layers * kernels_kv_layer_bytes(kv); }

/* A KV store with its bytes at hand. */
typedef struct {
    const kernels_kv *kv;
    unsigned char *bytes;
    size_t block_bytes, layer_bytes, v_at; /* of a block, of a layer in it, of its K: behind that is its V */
    size_t row_bytes[2];                   /* of K, of V */
} store;

static store store_of(const kernels_kv *kv) {
    store s = {.kv = kv, .block_bytes = kernels_kv_block_bytes(kv), .layer_bytes = kernels_kv_layer_bytes(kv)};
    for (uint32_t v = 0; v < 2; v++) {
        INVARIANT((unsigned)kv->type[v] < KERNELS_N_KV_TYPES && kv->head_dim <= KERNELS_MAX_HEAD_DIM);
        s.row_bytes[v] = kernels_kv_row_bytes(kv->type[v], kv->head_dim);
    }
    s.v_at = kv->n_kv_heads * NOUNS_BLOCK_TOKENS * s.row_bytes[0];
    s.bytes = kernels_cpu_at(kv->at, kv->n_blocks * s.block_bytes);
    return s;
}

/* Where `slot` of a head stands; `v` is 0 for K and 1 for V. */
static unsigned char *token_at(const store *s, uint32_t layer, uint32_t v, uint32_t head, const uint32_t *blocks, uint32_t slot) {
    uint32_t block = blocks[slot / NOUNS_BLOCK_TOKENS];
    INVARIANT(block < s->kv->n_blocks);
    size_t row = (size_t)head * NOUNS_BLOCK_TOKENS + slot % NOUNS_BLOCK_TOKENS;
    return s->bytes + block * s->block_bytes + layer * s->layer_bytes + v * s->v_at + row * s->row_bytes[v];
}

typedef struct {
    store s;
    const kernels_primitives *p;
    uint32_t layer, n;
    const kernels_row *rows;
    const float *k, *v; /* write: [n][n_kv_heads][head_dim] */
    const float *q;     /* attention: [n][n_heads][head_dim] */
    float *out, scale;
    uint32_t n_heads, part_rows, window;
    const uint32_t *kv_head_of;
} kv_job;

static void write_row(void *context, uint32_t i) {
    const kv_job *job = context;
    const kernels_kv *kv = job->s.kv;
    const kernels_row *row = &job->rows[i];
    for (uint32_t h = 0; h < kv->n_kv_heads; h++) {
        size_t at = ((size_t)i * kv->n_kv_heads + h) * kv->head_dim;
        job->p->kv_encode[kv->type[0]](token_at(&job->s, job->layer, 0, h, row->blocks, row->slot), job->k + at, kv->head_dim);
        job->p->kv_encode[kv->type[1]](token_at(&job->s, job->layer, 1, h, row->blocks, row->slot), job->v + at, kv->head_dim);
    }
}

void kernels_cpu_kv_write(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view k, kernels_view v,
                          const kernels_row *rows, uint32_t n) {
    INVARIANT(layer < kv->n_layers);
    uint32_t values = kv->n_kv_heads * kv->head_dim;
    kv_job job = {.s = store_of(kv),
                  .p = d->primitives,
                  .layer = layer,
                  .rows = rows,
                  .k = kernels_cpu_floats(k, n, values),
                  .v = kernels_cpu_floats(v, n, values)};
    kernels_cpu_rows(d, n, 2 * values, write_row, &job, sizeof job);
}

void kernels_cpu_kv_move(kernels_device *d, const kernels_kv *kv, const uint32_t *blocks, uint32_t to, uint32_t from) {
    kernels_cpu_flush(d);
    if (to == from) return;
    store s = store_of(kv);
    for (uint32_t layer = 0; layer < kv->n_layers; layer++)
        for (uint32_t v = 0; v < 2; v++)
            for (uint32_t h = 0; h < kv->n_kv_heads; h++)
                memcpy(token_at(&s, layer, v, h, blocks, to), token_at(&s, layer, v, h, blocks, from), s.row_bytes[v]);
}

static inline uint32_t row_slot(const kernels_row *r, uint32_t position) {
    return position < r->n_before ? position : r->path[position - r->n_before];
}

/* The first position that the row sees. */
static uint32_t first_visible(const kv_job *job, const kernels_row *r) {
    uint32_t n = r->n_before + r->n_path;
    return n > job->window ? n - job->window : 0;
}

/* Keys of the chunk from position p0 up to the last that the row sees; 0 where it sees none of the chunk. */
static uint32_t n_visible(const kv_job *job, const kernels_row *r, uint32_t p0) {
    uint32_t n = r->n_before + r->n_path;
    return n > p0 && first_visible(job, r) < p0 + KERNELS_CHUNK_KEYS ? least(n - p0, KERNELS_CHUNK_KEYS) : 0;
}

/* Whether those keys stand in the slots of their own positions: then they are the front of one block. */
static bool in_order(const kv_job *job, const kernels_row *r, uint32_t p0) {
    uint32_t end = p0 + n_visible(job, r, p0);
    for (uint32_t p = p0 > r->n_before ? p0 : r->n_before; p < end; p++)
        if (r->path[p - r->n_before] != p) return false;
    return true;
}

/* K and V of one chunk of one KV head as floats. */
typedef struct {
    _Alignas(64) float k[KERNELS_CHUNK_KEYS * KERNELS_MAX_HEAD_DIM], v[KERNELS_CHUNK_KEYS * KERNELS_MAX_HEAD_DIM];
} chunk_keys;

/* Rows of a run are asked for in pieces, each before a piece of the run at hand is decoded: a core has too few places for misses
 * to ask for a whole run at once, and waits for each of them instead. */
enum { PIECE_KEYS = 4 };

/* Decodes n keys from position p0 on, which stand in one block in order, and asks for n_next from position p0 +
 * KERNELS_CHUNK_KEYS on: these begin new pages, where the processor's own streams end. */
static void decode_block(const kv_job *job, uint32_t head, const uint32_t *blocks, uint32_t p0, uint32_t n, uint32_t n_next,
                         chunk_keys *c) {
    const kernels_kv *kv = job->s.kv;
    for (uint32_t v = 0; v < 2; v++) {
        const size_t row_bytes = job->s.row_bytes[v];
        const unsigned char *run = token_at(&job->s, job->layer, v, head, blocks, p0);
        const unsigned char *next = n_next ? token_at(&job->s, job->layer, v, head, blocks, p0 + KERNELS_CHUNK_KEYS) : run;
        float *out = v ? c->v : c->k;
        size_t asked = 0;
        for (uint32_t j = 0; j < n; j += PIECE_KEYS) {
            size_t end = least(j + PIECE_KEYS, n_next) * row_bytes;
            for (; asked < end; asked += 64) __builtin_prefetch(next + asked);
            job->p->kv_decode[kv->type[v]](out + j * kv->head_dim, run + j * row_bytes, least(PIECE_KEYS, n - j), kv->head_dim);
        }
    }
}

static void decode_scattered(const kv_job *job, uint32_t head, const kernels_row *r, uint32_t p0, uint32_t n, chunk_keys *c) {
    const kernels_kv *kv = job->s.kv;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t slot = row_slot(r, p0 + j);
        job->p->kv_decode[kv->type[0]](c->k + j * kv->head_dim, token_at(&job->s, job->layer, 0, head, r->blocks, slot), 1,
                                       kv->head_dim);
        job->p->kv_decode[kv->type[1]](c->v + j * kv->head_dim, token_at(&job->s, job->layer, 1, head, r->blocks, slot), 1,
                                       kv->head_dim);
    }
}

/* Rows [first, first + n_rows) of one sequence, and the query heads heads[n_heads] that read KV head `kv_head`. */
typedef struct {
    uint32_t first, n_rows, kv_head, n_heads, heads[MAX_PART_HEADS];
} attend_group;

/* Keys before the window are left out of the call, so that they enter neither the maximum nor the sums. */
static void attend_row(const kv_job *job, const attend_group *g, uint32_t row, uint32_t p0, uint32_t n, const chunk_keys *c,
                       kernels_softmax *state) {
    uint32_t dim = job->s.kv->head_dim, lo = first_visible(job, &job->rows[row]), skip = lo > p0 ? lo - p0 : 0;
    kernels_query query[MAX_PART_HEADS];
    for (uint32_t h = 0; h < g->n_heads; h++) {
        size_t at = ((size_t)row * job->n_heads + g->heads[h]) * dim;
        query[h] = (kernels_query){&state[h], job->out + at, job->q + at};
    }
    job->p->attend(query, g->n_heads, c->k + skip * dim, c->v + skip * dim, n - skip, dim, job->scale);
}

/* Queries that go side by side: those of the first n_rows rows of a run, query i being head i % n_heads of row i / n_heads, in
 * the chunks before position `end`. Lanes left over repeat the first of their sixteen. */
typedef struct {
    uint32_t n_rows, end;
    kernels_lanes lanes[MAX_LANES / KERNELS_LANES];
} bunch;

static kernels_query query_of(const kv_job *job, const attend_group *g, uint32_t i, kernels_softmax (*state)[MAX_PART_HEADS]) {
    const uint32_t row = i / g->n_heads, h = i % g->n_heads;
    const size_t at = ((size_t)(g->first + row) * job->n_heads + g->heads[h]) * job->s.kv->head_dim;
    return (kernels_query){&state[row][h], job->out + at, job->q + at};
}

/* How many rows of a run had best go side by side: sixteen lanes take as long as twelve queries alone. */
static uint32_t n_side_by_side(const kv_job *job, const attend_group *g) {
    uint32_t best = 0, least_cost = g->n_rows * g->n_heads;
    for (uint32_t n = 1; n <= g->n_rows && job->p->attend_lanes; n++) {
        const uint32_t cost = ((n * g->n_heads - 1) / KERNELS_LANES + 1) * 12 + (g->n_rows - n) * g->n_heads;
        if (cost > least_cost) continue;
        least_cost = cost;
        best = n;
    }
    return best;
}

/* The bunch ends where one of its rows does not see its keys in the slots of their own positions. */
static void open_bunch(const kv_job *job, const attend_group *g, bunch *b, kernels_softmax (*state)[MAX_PART_HEADS]) {
    uint32_t end = UINT32_MAX;
    b->n_rows = n_side_by_side(job, g);
    const uint32_t n = b->n_rows * g->n_heads;
    for (uint32_t i = 0; i < b->n_rows; i++) {
        const kernels_row *r = &job->rows[g->first + i];
        for (uint32_t k = 0; k < r->n_path; k++)
            if (r->path[k] != r->n_before + k) end = least(end, r->n_before + k);
    }
    b->end = end / KERNELS_CHUNK_KEYS * KERNELS_CHUNK_KEYS;
    for (uint32_t i = 0; i < n; i += KERNELS_LANES) {
        kernels_lanes *l = &b->lanes[i / KERNELS_LANES];
        const float *q[KERNELS_LANES];
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            const uint32_t of = i + lane < n ? i + lane : i;
            const kernels_row *r = &job->rows[g->first + of / g->n_heads];
            q[lane] = query_of(job, g, of, state).q;
            l->first[lane] = (int32_t)first_visible(job, r);
            l->end[lane] = (int32_t)(r->n_before + r->n_path);
        }
        job->p->open_lanes(l, q, job->s.kv->head_dim);
    }
}

/* Its rows are done, or go on alone. */
static void close_bunch(const kv_job *job, const attend_group *g, bunch *b, kernels_softmax (*state)[MAX_PART_HEADS], bool done) {
    const uint32_t n = b->n_rows * g->n_heads;
    kernels_query query[MAX_LANES];
    for (uint32_t i = 0; i < n; i++) query[i] = query_of(job, g, i, state);
    for (uint32_t i = 0; i < n; i += KERNELS_LANES)
        job->p->close_lanes(&b->lanes[i / KERNELS_LANES], query + i, least(KERNELS_LANES, n - i), job->s.kv->head_dim, done);
    b->n_rows = 0;
}

static void attend_run(const kv_job *job, const attend_group *g) {
    kernels_softmax state[MAX_PART_ROWS][MAX_PART_HEADS];
    chunk_keys c;
    bunch b;
    uint32_t dim = job->s.kv->head_dim, longest = 0, earliest = UINT32_MAX;
    open_bunch(job, g, &b, state);
    for (uint32_t i = 0; i < g->n_rows; i++) {
        const kernels_row *r = &job->rows[g->first + i];
        if (r->n_before + r->n_path > longest) longest = r->n_before + r->n_path;
        earliest = least(earliest, first_visible(job, r));
        for (uint32_t h = 0; i >= b.n_rows && h < g->n_heads; h++) {
            state[i][h] = (kernels_softmax){-INFINITY, 0};
            memset(job->out + ((size_t)(g->first + i) * job->n_heads + g->heads[h]) * dim, 0, dim * sizeof(float));
        }
    }
    const uint32_t *blocks = job->rows[g->first].blocks;
    for (uint32_t p0 = earliest / KERNELS_CHUNK_KEYS * KERNELS_CHUNK_KEYS; p0 < longest; p0 += KERNELS_CHUNK_KEYS) {
        if (p0 >= b.end) close_bunch(job, g, &b, state, false);
        uint32_t n_block = 0; /* keys to decode for the rows that see this chunk in order */
        for (uint32_t i = 0; i < g->n_rows; i++) {
            const kernels_row *r = &job->rows[g->first + i];
            uint32_t n = n_visible(job, r, p0);
            if (n > n_block && in_order(job, r, p0)) n_block = n;
        }
        uint32_t next = p0 + KERNELS_CHUNK_KEYS, n_next = next < longest ? least(longest - next, KERNELS_CHUNK_KEYS) : 0;
        if (n_block) decode_block(job, g->kv_head, blocks, p0, n_block, n_next, &c);
        for (uint32_t i = 0; n_block && i < b.n_rows * g->n_heads; i += KERNELS_LANES)
            job->p->attend_lanes(&b.lanes[i / KERNELS_LANES], p0, c.k, c.v, n_block, dim, job->scale);
        for (uint32_t i = b.n_rows; i < g->n_rows; i++) {
            const kernels_row *r = &job->rows[g->first + i];
            uint32_t n = n_visible(job, r, p0);
            if (n && in_order(job, r, p0)) attend_row(job, g, g->first + i, p0, n, &c, state[i]);
        }
        for (uint32_t i = b.n_rows; i < g->n_rows; i++) {
            const kernels_row *r = &job->rows[g->first + i];
            uint32_t n = n_visible(job, r, p0);
            if (!n || in_order(job, r, p0)) continue;
            decode_scattered(job, g->kv_head, r, p0, n, &c);
            attend_row(job, g, g->first + i, p0, n, &c, state[i]);
        }
    }
    for (uint32_t i = b.n_rows; i < g->n_rows; i++)
        for (uint32_t h = 0; h < g->n_heads; h++) {
            float *o = job->out + ((size_t)(g->first + i) * job->n_heads + g->heads[h]) * dim, inverse = 1.0f / state[i][h].l;
            for (uint32_t k = 0; k < dim; k++) o[k] *= inverse;
        }
    close_bunch(job, g, &b, state, true);
}

static void attend_part(void *context, uint32_t part) {
    const kv_job *job = context;
    uint32_t n_kv_heads = job->s.kv->n_kv_heads, first = part / n_kv_heads * job->part_rows;
    uint32_t end = least(job->n, first + job->part_rows);
    attend_group g = {.kv_head = part % n_kv_heads};
    for (uint32_t h = 0; h < job->n_heads;) {
        for (g.n_heads = 0; h < job->n_heads && g.n_heads < MAX_PART_HEADS; h++)
            if (job->kv_head_of[h] == g.kv_head) g.heads[g.n_heads++] = h;
        if (!g.n_heads) continue;
        for (g.first = first; g.first < end; g.first += g.n_rows) { /* a run of rows of one sequence */
            g.n_rows = 1;
            while (g.first + g.n_rows < end && (!job->p->attend_lanes || (g.n_rows + 1) * g.n_heads <= MAX_LANES) &&
                   job->rows[g.first + g.n_rows].blocks == job->rows[g.first].blocks)
                g.n_rows++;
            attend_run(job, &g);
        }
    }
}

void kernels_cpu_attention(kernels_device *d, const kernels_kv *kv, uint32_t layer, kernels_view out, kernels_view q,
                           const kernels_row *rows, uint32_t n, uint32_t n_heads, const uint32_t *kv_head_of, uint32_t window) {
    INVARIANT(layer < kv->n_layers && window > 0);
    /* Two parts a thread, so that one that starts late leaves some to the others; no more, since each decodes its keys again. */
    const uint32_t n_parts = d->n_threads == 1 ? 1 : 2 * d->n_threads, runs = (n_parts - 1) / kv->n_kv_heads + 1;
    kv_job job = {.s = store_of(kv),
                  .p = d->primitives,
                  .layer = layer,
                  .n = n,
                  .rows = rows,
                  .q = kernels_cpu_floats(q, n, n_heads * kv->head_dim),
                  .out = kernels_cpu_floats(out, n, n_heads * kv->head_dim),
                  .scale = 1.0f / sqrtf((float)kv->head_dim),
                  .n_heads = n_heads,
                  .window = window,
                  .part_rows = n ? least((n - 1) / runs + 1, MAX_PART_ROWS) : 1,
                  .kv_head_of = kv_head_of};
    if (!n) return;
    kernels_cpu_flush(d);
    pool_run(d->threads, ((n - 1) / job.part_rows + 1) * kv->n_kv_heads, attend_part, &job);
}
