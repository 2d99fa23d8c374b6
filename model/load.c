/* Loading: cuts the model into this rank's share, packs the weights, lays out the scratch of the forward pass.
 *
 * What is cut: query heads (with the KV heads that they read) and FFN columns, by whole units of the exact sum, so that any
 * number of ranks gives the same bits (numerics.md), and the output head by rows, whose logits the leader gathers. Norms are held
 * whole. The token table stays in the file: a pass reads a few rows of it, and the page cache of a host holds it once for all
 * its ranks. All scratch is one device buffer made here: a pass allocates nothing. Limit: no more ranks than units. */
#include "model/model_int.h"

#include "base/mem.h"
#include <string.h>

enum { ALIGN_BYTES = 64 };

/* The rank's units of n: the first ranks get one more where it does not come out even. */
static model_share cut(uint32_t n, uint32_t rank, uint32_t n_ranks) {
    uint32_t each = n / n_ranks, more = n % n_ranks;
    return (model_share){.whole = n, .first = rank * each + (rank < more ? rank : more), .n = each + (rank < more)};
}

static model_share in_columns(model_share units, uint32_t unit_cols, uint32_t whole) {
    uint32_t first = units.first * unit_cols, end = (units.first + units.n) * unit_cols;
    return (model_share){.whole = whole, .first = first, .n = (end < whole ? end : whole) - first};
}

/* Units of the two row-parallel products. */
typedef struct {
    uint32_t head_cols, n_head, n_ffn;
} units;

static units units_of(const model_info *info) {
    units u = {.head_cols = info->head_dim, .n_ffn = (info->ffn_dim + MODEL_UNIT_COLS - 1) / MODEL_UNIT_COLS};
    while (u.head_cols % MODEL_HEAD_COLS) u.head_cols += info->head_dim;
    u.n_head = info->n_heads * info->head_dim / u.head_cols;
    return u;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t n_vocab_units(const model_info *info) { return (info->n_vocab + MODEL_VOCAB_ROWS - 1) / MODEL_VOCAB_ROWS; }

uint32_t model_max_ranks(const model_info *info) {
    units u = units_of(info);
    return least(least(u.n_head, u.n_ffn), n_vocab_units(info));
}

model_share model_vocab_share(const model_info *info, uint32_t rank, uint32_t n_ranks) {
    return in_columns(cut(n_vocab_units(info), rank, n_ranks), MODEL_VOCAB_ROWS, info->n_vocab);
}

size_t model_head_bytes(const model *m, uint32_t n) {
    uint32_t most = model_vocab_share(&m->info, 0, m->group->n_ranks).n; /* the first has the largest */
    return (size_t)n * (most * sizeof(float) + 1);
}

/* What the rank holds of each extent. */
static st_code cut_shares(const model_info *info, uint32_t rank, uint32_t n_ranks, const char *path,
                          model_share share[MODEL_N_EXTENTS], st_error *e) {
    units u = units_of(info);
    if (n_ranks < 1 || n_ranks > model_max_ranks(info))
        return st_fail(e, ST_ERR_UNSUPPORTED,
                       "%s: %u ranks share %u attention units and %u feed-forward units; use at most %u ranks", path, n_ranks,
                       u.n_head, u.n_ffn, model_max_ranks(info));
    for (model_extent x = 0; x < MODEL_N_EXTENTS; x++) {
        uint32_t whole = model_extent_size(info, x);
        share[x] = (model_share){.whole = whole, .n = whole};
    }
    share[MODEL_HEADS] = in_columns(cut(u.n_head, rank, n_ranks), u.head_cols, share[MODEL_HEADS].whole);
    share[MODEL_FFN] = in_columns(cut(u.n_ffn, rank, n_ranks), MODEL_UNIT_COLS, info->ffn_dim);
    share[MODEL_VOCAB] = model_vocab_share(info, rank, n_ranks);
    uint32_t kv_cols = info->n_heads / info->n_kv_heads * info->head_dim; /* query columns that read one KV head */
    uint32_t kv0 = share[MODEL_HEADS].first / kv_cols, last = share[MODEL_HEADS].first + share[MODEL_HEADS].n - 1;
    share[MODEL_KV_HEADS].first = kv0 * info->head_dim;
    share[MODEL_KV_HEADS].n = (last / kv_cols - kv0 + 1) * info->head_dim;
    return ST_OK;
}

static st_code make_shares(model *m, const model_file *f, st_error *e) {
    const model_info *info = &m->info;
    units u = units_of(info);
    m->head_unit_cols = u.head_cols;
    m->n_head_units = u.n_head;
    m->n_ffn_units = u.n_ffn;
    st_code c = cut_shares(info, m->group->rank, m->group->n_ranks, model_file_path(f), m->share, e);
    if (c != ST_OK) return c;
    uint32_t n_heads = m->share[MODEL_HEADS].n / info->head_dim, h0 = m->share[MODEL_HEADS].first / info->head_dim;
    uint32_t per_kv = info->n_heads / info->n_kv_heads, kv0 = m->share[MODEL_KV_HEADS].first / info->head_dim;
    if (!(m->kv_head_of = mem_alloc(n_heads, sizeof *m->kv_head_of))) return ST_FATAL_MEMORY;
    for (uint32_t h = 0; h < n_heads; h++) m->kv_head_of[h] = (h0 + h) / per_kv - kv0;
    return ST_OK;
}

static size_t part_bytes(const model_tensor_row *row, const model_tensor *t, const model_share share[MODEL_N_EXTENTS]) {
    const kernels_format_info *f = kernels_format_of((kernels_format)t->format);
    model_share rows = share[row->rows], cols = share[row->cols];
    size_t first = cols.first / f->block_elements, end = (cols.first + cols.n - 1) / f->block_elements + 1;
    return rows.n * (end - first) * f->block_bytes;
}

st_code model_read_part(const model_file *f, uint32_t rank, uint32_t n_ranks, model_part *out, st_error *e) {
    model_info info;
    model_string name;
    model_share share[MODEL_N_EXTENTS];
    INVARIANT(rank < n_ranks);
    st_code c = model_read_info(f, &info, e);
    if (c == ST_OK) c = model_file_string(f, "general.architecture", &name, e);
    if (c == ST_OK) c = cut_shares(&info, rank, n_ranks, model_file_path(f), share, e);
    if (c != ST_OK) return c;
    const model_arch *arch = model_arch_find(name);
    size_t n = MODEL_N_OUTER + (size_t)info.n_layers * MODEL_N_LAYER;
    const model_tensor **found = mem_alloc(n, sizeof *found);
    c = found ? model_bind(f, &info, arch, found, e) : st_fail(e, ST_FATAL_MEMORY, "out of memory");
    model_part part = {.n_heads = share[MODEL_HEADS].n / info.head_dim,
                       .n_kv_heads = share[MODEL_KV_HEADS].n / info.head_dim,
                       .head_dim = info.head_dim,
                       .ffn_dim = share[MODEL_FFN].n};
    part.kv_token_heads = (uint64_t)info.n_layers * part.n_kv_heads;
    for (size_t i = 0; c == ST_OK && i < n; i++) {
        const model_tensor_row *row = i < MODEL_N_OUTER ? &arch->outer[i] : &arch->layer[(i - MODEL_N_OUTER) % MODEL_N_LAYER];
        bool head = row->holder == MODEL_TABLE && !found[MODEL_OUTPUT]; /* packed from the table, which stays in the file */
        bool held = row->holder == MODEL_EVERYWHERE || row->holder == MODEL_OPTIONAL || head;
        if (found[i] && held) part.weight_bytes += part_bytes(row, found[i], share);
    }
    mem_free(found);
    if (c == ST_OK) *out = part;
    return c;
}

static size_t align(size_t bytes) { return (bytes + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES; }

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }

/* Sizes are bounded by bind.c's limits and check_options, so that none of the products overflows 64 bits. */
static void place_sizes(const model *m, size_t vector_bytes, size_t bytes[MODEL_N_PLACES]) {
    const model_info *i = &m->info;
    size_t n = m->max_rows, dim = i->dim, heads = m->share[MODEL_HEADS].n, kv = m->share[MODEL_KV_HEADS].n,
           ffn = m->share[MODEL_FFN].n;
    uint32_t widest = (uint32_t)max_size(max_size(dim, heads), ffn);
    bytes[MODEL_X] = bytes[MODEL_H] = n * dim * sizeof(float);
    bytes[MODEL_ACT] = m->precision == KERNELS_FAST ? m->ops->act_bytes(m->max_rows, widest) : 0; /* max_choose <= max_rows */
    bytes[MODEL_Q] = bytes[MODEL_ATT] = n * heads * sizeof(float);
    bytes[MODEL_K] = bytes[MODEL_V] = n * kv * sizeof(float);
    bytes[MODEL_GATE] = bytes[MODEL_UP] = n * ffn * sizeof(float);
    bytes[MODEL_SUM] = n * dim * sizeof(double);
    bytes[MODEL_CHOSEN] = m->max_choose * dim * sizeof(float);
    bytes[MODEL_LOGITS] = (size_t)m->max_choose * m->share[MODEL_VOCAB].n * sizeof(float);
    size_t positions = ((size_t)i->max_context + MODEL_ROPE_ROWS - 1) / MODEL_ROPE_ROWS * MODEL_ROPE_ROWS;
    bytes[MODEL_ROPE] = positions * i->head_dim * sizeof(float);
    bytes[MODEL_ROPE_LOCAL] = i->window ? bytes[MODEL_ROPE] : 0;
    bytes[MODEL_VECTORS] = vector_bytes;
}

static bool is_vector(const model_tensor_row *row) { return row->name && row->rows == MODEL_ONE && row->holder != MODEL_LOADING; }

static size_t vector_bytes(const model *m, const model_tensor_row *row) {
    return is_vector(row) ? align(m->share[row->cols].n * sizeof(float)) : 0;
}

static size_t all_vector_bytes(const model *m) {
    size_t outer = 0, layer = 0;
    for (uint32_t k = 0; k < MODEL_N_OUTER; k++) outer += vector_bytes(m, &m->arch->outer[k]);
    for (uint32_t k = 0; k < MODEL_N_LAYER; k++) layer += vector_bytes(m, &m->arch->layer[k]);
    return outer + layer * m->info.n_layers;
}

/* What goes to other ranks and comes from them. Logits are mapped: sized for the most choices, they cost what is used of them. */
static bool make_messages(model *m) {
    if (m->group->n_ranks == 1) return true;
    size_t part = model_head_bytes(m, m->max_choose);
    m->sum = mem_alloc((size_t)m->max_rows * m->info.dim, sizeof *m->sum);
    m->head_part = mem_map(part);
    if (!m->sum || !m->head_part || m->group->rank) return m->sum && m->head_part;
    m->head_parts = mem_map(m->group->n_ranks * part);
    m->head_whole = mem_map((size_t)m->max_choose * m->info.n_vocab * sizeof(float));
    return m->head_parts && m->head_whole;
}

static st_code make_memory(model *m, st_error *e) {
    size_t bytes[MODEL_N_PLACES], total = 0, n = m->max_rows;
    place_sizes(m, all_vector_bytes(m), bytes);
    for (int k = 0; k < MODEL_N_PLACES; k++) {
        m->place[k].at_bytes = total;
        total += align(bytes[k]);
    }
    st_code c = m->ops->alloc(m->device, total, &m->memory);
    for (int k = 0; k < MODEL_N_PLACES; k++) m->place[k].buffer = m->memory;
    m->rows = mem_alloc(n, sizeof *m->rows);
    m->paths = mem_alloc(n * (NOUNS_MAX_TREE + 1), sizeof *m->paths);
    m->bad_layer = mem_alloc(n, sizeof *m->bad_layer);
    m->bad = mem_alloc(max_size(n, m->max_choose), 1);
    if (c != ST_OK || !m->rows || !m->paths || !m->bad_layer || !m->bad || !make_messages(m))
        return st_fail(e, ST_FATAL_MEMORY, "no memory for a forward pass of %u rows (%zu bytes); fewer rows would fit",
                       m->max_rows, total);
    return ST_OK;
}

/* How far the loading is: bytes of the file's tensors. */
typedef struct {
    const model_options *o;
    uint64_t done_bytes, total_bytes;
    size_t vector_bytes; /* placed so far */
} loading;

static kernels_matrix matrix_of(const model *m, const model_tensor_row *row, const model_tensor *t) {
    return (kernels_matrix){(kernels_format)t->format, m->share[row->rows].whole, m->share[row->cols].whole, t->bytes};
}

/* This rank's share of a matrix. */
static st_code load_matrix(model *m, const model_tensor_row *row, const model_tensor *t, model_weight *out) {
    model_share rows = m->share[row->rows], cols = m->share[row->cols];
    kernels_matrix matrix = matrix_of(m, row, t);
    st_code c = m->ops->weight_create(m->device, &matrix, rows.first, rows.n, cols.first, cols.n, m->precision, &out->weight);
    if (c == ST_OK) m->weight_bytes += m->ops->weight_bytes(out->weight);
    return c;
}

static st_code load_tensor(model *m, loading *now, const model_tensor_row *row, const model_tensor *t, model_weight *out) {
    st_code c = ST_OK;
    if (!t) return c;
    if (is_vector(row)) {
        model_share cols = m->share[row->cols];
        out->vector = m->place[MODEL_VECTORS];
        out->vector.at_bytes += now->vector_bytes;
        now->vector_bytes += vector_bytes(m, row);
        m->ops->upload(m->device, out->vector, (const char *)t->bytes + cols.first * sizeof(float), cols.n * sizeof(float));
    } else if (row->holder == MODEL_TABLE) {
        m->table = matrix_of(m, row, t);
    } else if (row->holder != MODEL_LOADING) { /* which has been looked at */
        c = load_matrix(m, row, t, out);
    }
    now->done_bytes += t->size_bytes;
    if (now->o->progress) now->o->progress(now->o->context, (double)now->done_bytes / (double)now->total_bytes);
    return c;
}

static st_code load_weights(model *m, const model_options *o, const model_tensor *const *found, size_t n_found) {
    loading now = {.o = o};
    st_code c = ST_OK;
    for (size_t i = 0; i < n_found; i++) now.total_bytes += found[i] ? found[i]->size_bytes : 0;
    if (!found[MODEL_OUTPUT]) /* the head is the token table */
        c = load_matrix(m, &m->arch->outer[MODEL_TOKEN_EMBD], found[MODEL_TOKEN_EMBD], &m->outer[MODEL_OUTPUT]);
    for (uint32_t k = 0; k < MODEL_N_OUTER && c == ST_OK; k++)
        c = load_tensor(m, &now, &m->arch->outer[k], *found++, &m->outer[k]);
    for (size_t i = 0; i < (size_t)m->info.n_layers * MODEL_N_LAYER && c == ST_OK; i++)
        c = load_tensor(m, &now, &m->arch->layer[i % MODEL_N_LAYER], *found++, &m->layer[i]);
    return c == ST_OK ? m->ops->wait(m->device) : c;
}

static st_code check_options(const model_options *o, st_error *e) {
    enum { MAX_ROWS = 1 << 16 };
    if (!o->ops || !o->device || !o->group || !o->max_rows || o->max_rows > MAX_ROWS || !o->max_choose ||
        o->max_choose > o->max_rows)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "model options: %u rows and %u choices in a batch; expected 1 to %d rows, no more choices than rows",
                       o->max_rows, o->max_choose, MAX_ROWS);
    return ST_OK;
}

static st_code load(model *m, const model_file *f, const model_options *o, st_error *e) {
    model_string name;
    st_code c = model_read_info(f, &m->info, e);
    if (c == ST_OK) c = model_file_string(f, "general.architecture", &name, e);
    if (c != ST_OK) return c;
    m->arch = model_arch_find(name);
    size_t n_layer = (size_t)m->info.n_layers * MODEL_N_LAYER, n_found = MODEL_N_OUTER + n_layer;
    m->layer = mem_alloc(n_layer, sizeof *m->layer);
    const model_tensor **found = mem_alloc(n_found, sizeof *found);
    c = m->layer && found ? model_bind(f, &m->info, m->arch, found, e) : ST_FATAL_MEMORY;
    if (c == ST_OK) c = make_shares(m, f, e);
    if (c == ST_OK) c = make_memory(m, e);
    if (c == ST_OK) c = model_rope_init(m, found[MODEL_ROPE_FREQS], model_file_path(f), e);
    if (c == ST_OK) c = load_weights(m, o, found, n_found);
    mem_free(found);
    return c;
}

st_code model_load(const model_file *f, const model_options *o, model **out, st_error *e) {
    st_code c = check_options(o, e);
    if (c != ST_OK) return c;
    model *m = mem_alloc(1, sizeof *m);
    if (!m) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory to load the model", model_file_path(f));
    m->ops = o->ops;
    m->device = o->device;
    m->group = o->group;
    m->max_rows = o->max_rows;
    m->max_choose = o->max_choose;
    m->precision = o->precision;
    if (e) e->code = ST_OK;
    c = load(m, f, o, e);
    if (c != ST_OK) {
        if (e && e->code == ST_OK) st_fail(e, c, "%s: no memory to load the model", model_file_path(f));
        model_destroy(m);
        return c;
    }
    *out = m;
    return ST_OK;
}

void model_destroy(model *m) {
    if (!m) return;
    for (uint32_t k = 0; k < MODEL_N_OUTER; k++)
        if (m->outer[k].weight) m->ops->weight_free(m->device, m->outer[k].weight);
    for (size_t i = 0; m->layer && i < (size_t)m->info.n_layers * MODEL_N_LAYER; i++)
        if (m->layer[i].weight) m->ops->weight_free(m->device, m->layer[i].weight);
    if (m->memory) m->ops->free(m->device, m->memory);
    mem_free(m->layer);
    mem_free(m->kv_head_of);
    mem_free(m->rows);
    mem_free(m->paths);
    mem_free(m->bad_layer);
    mem_free(m->bad);
    mem_free(m->sum);
    size_t part = model_head_bytes(m, m->max_choose);
    mem_unmap(m->head_part, part);
    mem_unmap(m->head_parts, m->group->n_ranks * part);
    mem_unmap(m->head_whole, (size_t)m->max_choose * m->info.n_vocab * sizeof(float));
    mem_free(m);
}

const model_info *model_get_info(const model *m) { return &m->info; }

size_t model_weight_bytes(const model *m) { return m->weight_bytes; }

kv_shape model_kv_shape(const model *m) {
    return (kv_shape){
        .n_layers = m->info.n_layers, .n_kv_heads = m->share[MODEL_KV_HEADS].n / m->info.head_dim, .head_dim = m->info.head_dim};
}

uint32_t model_first_kv_head(const model *m) { return m->share[MODEL_KV_HEADS].first / m->info.head_dim; }
