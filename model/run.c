/* Running a batch: what each row may see, the pass, the logits, and which rows went bad.
 *
 * A row's view (kernels_row) is derived from its parent alone: rows of a prompt chunk and of a draft tree differ in nothing
 * but their slots. A value that is not finite stays so in the residual (x + y), so one look at the residual after the last layer
 * finds every bad row; only when there is one, the pass is run again, looking after each layer, to tell where it began. The
 * second pass writes the same bits to the same slots, so it harms nobody, and all ranks see the same residual, so they agree to
 * run it. Road not taken: to look after each layer every time, which costs a sweep and a barrier a layer for what never happens.
 */
#include "model/model_int.h"

#include <string.h>

enum {
    PATH = NOUNS_MAX_TREE + 1,
    FIRST_PART = 6, /* of the output head: nine in ten tokens of an answer are in it, and the request has mostly had the others */
};

static st_code check_row(const model *m, const model_batch *b, uint32_t i, st_error *e) {
    uint32_t parent = b->parent[i];
    if (b->token[i] >= m->info.n_vocab)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "row %u: token %u; the vocabulary has %u", i, b->token[i], m->info.n_vocab);
    if (b->position[i] >= m->info.max_context || b->slot[i] < b->position[i])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "row %u: position %u in slot %u; the model's context is %u", i, b->position[i],
                       b->slot[i], m->info.max_context);
    bool ok = parent == MODEL_NO_PARENT
                  ? b->slot[i] == b->position[i]
                  : parent < i && b->sequence[parent] == b->sequence[i] && b->position[i] == b->position[parent] + 1;
    if (!ok)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "row %u: position %u, slot %u do not follow from parent row %u", i,
                       b->position[i], b->slot[i], parent);
    return ST_OK;
}

/* As long as slots and positions are the same, a row simply sees all before it; from the first ancestor that stands elsewhere
 * (another branch lies between), the path names the slots one by one. */
static st_code view_row(model *m, const model_batch *b, uint32_t i, st_error *e) {
    uint32_t parent = b->parent[i], *path = m->paths + (size_t)i * PATH;
    const kernels_row *above = parent == MODEL_NO_PARENT ? NULL : &m->rows[parent];
    kernels_row *row = &m->rows[i];
    *row = (kernels_row){.blocks = b->blocks[b->sequence[i]], .path = path, .slot = b->slot[i]};
    if (!above || (above->n_path == 1 && above->slot == b->position[parent])) {
        row->n_before = b->position[i];
    } else {
        if (above->n_path == PATH)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "row %u: more than %d draft tokens above one another", i, NOUNS_MAX_TREE);
        row->n_before = above->n_before;
        row->n_path = above->n_path;
        memcpy(path, above->path, above->n_path * sizeof *path);
    }
    path[row->n_path++] = row->slot;
    return ST_OK;
}

static st_code make_rows(model *m, const model_batch *b, st_error *e) {
    if (!b->n_rows || b->n_rows > m->max_rows || b->n_choose > m->max_choose)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "batch of %u rows, %u of them chosen; this model was loaded for 1 to %u, and %u", b->n_rows, b->n_choose,
                       m->max_rows, m->max_choose);
    st_code c = ST_OK;
    for (uint32_t i = 0; i < b->n_rows && c == ST_OK; i++) {
        c = check_row(m, b, i, e);
        if (c == ST_OK) c = view_row(m, b, i, e);
        m->bad_layer[i] = UINT32_MAX;
    }
    for (uint32_t i = 0; i < b->n_choose && c == ST_OK; i++)
        if (b->choose[i] >= b->n_rows || (i && b->choose[i] <= b->choose[i - 1]))
            c = st_fail(e, ST_ERR_INVALID_ARGUMENT, "choice %u is row %u; expected ascending rows under %u", i, b->choose[i],
                        b->n_rows);
    return c;
}

st_code model_add_sum(model *m, uint32_t n, const model_weight *norm, st_error *e) {
    kernels_view sum = m->place[MODEL_SUM];
    if (m->group->n_ranks > 1) {
        size_t n_values = (size_t)n * m->info.dim;
        st_code c = m->ops->wait(m->device);
        if (c == ST_OK) {
            m->ops->download(m->device, m->sum, sum, n_values * sizeof *m->sum);
            c = m->ops->wait(m->device);
        }
        if (c == ST_OK) c = m->group->ops->all_reduce(m->group, m->sum, n_values);
        if (c != ST_OK) return st_fail(e, c, "sum over the %u ranks of the group: %s", m->group->n_ranks, st_text(c));
        m->ops->upload(m->device, sum, m->sum, n_values * sizeof *m->sum);
    }
    if (norm->vector.buffer)
        m->ops->add_normed(m->device, m->place[MODEL_X], sum, norm->vector, n, m->info.dim, m->info.rms_eps);
    else
        m->ops->add_reduced(m->device, m->place[MODEL_X], sum, n, m->info.dim);
    return ST_OK;
}

/* Leaves a flag a row of x in m->bad. */
static st_code look(model *m, kernels_view x, uint32_t n, uint32_t cols, bool *any, st_error *e) {
    m->ops->find_bad(m->device, m->bad, x, n, cols);
    st_code c = m->ops->wait(m->device);
    if (c != ST_OK) return st_fail(e, c, "forward pass: the device failed: %s", st_text(c));
    *any = memchr(m->bad, 1, n) != NULL;
    return ST_OK;
}

st_code model_layer_done(model *m, const model_pass *p, uint32_t layer, st_error *e) {
    bool any = false;
    if (!p->locate) return ST_OK;
    st_code c = look(m, m->place[MODEL_X], p->batch->n_rows, m->info.dim, &any, e);
    for (uint32_t i = 0; c == ST_OK && i < p->batch->n_rows; i++)
        if (m->bad[i] && m->bad_layer[i] == UINT32_MAX) m->bad_layer[i] = layer;
    return c;
}

/* The parts of all ranks as rows of logits, and their flags in m->bad. */
static void join_parts(model *m, uint32_t n) {
    uint32_t n_ranks = m->group->n_ranks;
    size_t most = model_vocab_share(&m->info, 0, n_ranks).n, bytes = model_head_bytes(m, n);
    memset(m->bad, 0, n);
    for (uint32_t r = 0; r < n_ranks; r++) {
        const uint8_t *part = m->head_parts + r * bytes, *bad = part + n * most * sizeof(float);
        model_share rows = model_vocab_share(&m->info, r, n_ranks);
        for (uint32_t i = 0; i < n; i++) {
            memcpy(m->head_whole + (size_t)i * m->info.n_vocab + rows.first, part + i * most * sizeof(float),
                   rows.n * sizeof(float));
            m->bad[i] |= bad[i];
        }
    }
    m->logits = m->head_whole;
}

/* The leader chooses, so it needs what the others have computed. */
static st_code gather_logits(model *m, const float *mine, uint32_t n, st_error *e) {
    size_t rows = m->share[MODEL_VOCAB].n, most = model_vocab_share(&m->info, 0, m->group->n_ranks).n;
    for (uint32_t i = 0; i < n; i++) memcpy(m->head_part + i * most * sizeof *mine, mine + i * rows, rows * sizeof *mine);
    memcpy(m->head_part + n * most * sizeof *mine, m->bad, n);
    st_code c = m->group->ops->gather(m->group, m->head_part, model_head_bytes(m, n), m->head_parts, 0);
    if (c != ST_OK) return st_fail(e, c, "logits from the %u ranks of the group: %s", m->group->n_ranks, st_text(c));
    if (m->group->rank == 0) join_parts(m, n);
    return ST_OK;
}

static void show(model *m, uint32_t n) {
    m->logits = m->ops->host(m->device, m->place[MODEL_LOGITS], (size_t)n * m->share[MODEL_VOCAB].n * sizeof *m->logits);
    m->hidden = m->ops->host(m->device, m->place[MODEL_CHOSEN], (size_t)n * m->info.dim * sizeof *m->hidden);
}

uint32_t model_first_tokens(const model *m) {
    return m->group->n_ranks == 1 ? m->info.n_vocab / FIRST_PART / MODEL_VOCAB_ROWS * MODEL_VOCAB_ROWS : 0;
}

/* The logits that are wanted first; returns how many columns need not be computed again. */
static uint32_t run_first(model *m, const model_batch *b) {
    uint32_t n_first = model_first_tokens(m);
    if (n_first == 0) return 0;
    model_decode_head(m, b->n_choose, 0, n_first, b->wanted, b->n_wanted);
    show(m, b->n_choose);
    b->first(b->context);
    return n_first;
}

static st_code run_head(model *m, const model_batch *b, st_error *e) {
    uint32_t n = b->n_choose, rows = m->share[MODEL_VOCAB].n;
    bool any = false;
    if (!n) return ST_OK;
    m->ops->gather(m->device, m->place[MODEL_CHOSEN], m->place[MODEL_X], b->choose, n, m->info.dim);
    model_norm_chosen(m, n);
    uint32_t n_first = b->first ? run_first(m, b) : 0;
    model_decode_head(m, n, n_first, rows - n_first, NULL, 0);
    st_code c = look(m, m->place[MODEL_LOGITS], n, rows, &any, e);
    if (c != ST_OK) return c;
    show(m, n);
    if (m->group->n_ranks > 1) c = gather_logits(m, m->logits, n, e);
    for (uint32_t i = 0; i < n; i++)
        if (m->bad[i] && m->bad_layer[b->choose[i]] == UINT32_MAX) m->bad_layer[b->choose[i]] = m->info.n_layers;
    return c;
}

st_code model_run(model *m, kv_store *kv, const model_batch *b, st_error *e) {
    model_pass pass = {.kv = kv_store_view(kv), .batch = b};
    bool any = false;
    st_code c = make_rows(m, b, e);
    for (uint32_t i = 0; c == ST_OK && i < b->n_rows; i++) model_rope_reach(m, b->position[i] + 1);
    if (c == ST_OK) c = model_decode_layers(m, &pass, e);
    if (c == ST_OK) c = look(m, m->place[MODEL_X], b->n_rows, m->info.dim, &any, e);
    if (c == ST_OK && any) {
        pass.locate = true;
        c = model_decode_layers(m, &pass, e);
    }
    return c == ST_OK ? run_head(m, b, e) : c;
}

const float *model_logits(const model *m, uint32_t i) { return m->logits + (size_t)i * m->info.n_vocab; }

const float *model_hidden(const model *m, uint32_t i) { return m->hidden + (size_t)i * m->info.dim; }

bool model_row_bad(const model *m, uint32_t row, uint32_t *layer) {
    if (m->bad_layer[row] == UINT32_MAX) return false;
    *layer = m->bad_layer[row];
    return true;
}
