#include "client/engine_int.h"

#include "base/mem.h"
#include <unistd.h>

struct engine {
    model_file *file;
    const kernels_ops *ops;
    kernels_device *device;
    kernels_profile *profile; /* is the device, where there is one */
    parallel_group *group;
    model *model;
    const kv_type *type;
    kv_store *kv;
    uint32_t max_rows, max_choose;
    uint32_t *block;         /* [n_sequences][blocks of one] */
    const uint32_t **blocks; /* [n_sequences] */
    uint32_t *column[6];     /* [max_rows] each: the arrays of `batch` */
    model_batch batch;
};

enum { TOKEN, POSITION, SLOT, PARENT, SEQUENCE, CHOOSE, N_COLUMNS };

static st_code open_parts(engine *g, const engine_options *o, st_error *e) {
    long n_processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n_threads = o->n_threads ? o->n_threads : n_processors > 0 ? (uint32_t)n_processors : 1;
    kernels_precision precision;
    if (!kernels_precision_find(o->precision, &precision))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "no precision '%s' (fast, fp32)", o->precision);
    g->type = kv_type_choose(o->kv_type, precision);
    if (!g->type) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "no KV type '%s' (auto, %s)", o->kv_type, kv_type_names);
    st_code c = model_file_open(o->path, &g->file, e);
    if (c == ST_OK) c = kernels_pick(o->isa, &g->ops, e);
    if (c == ST_OK) c = g->ops->create(n_threads, &g->device, e);
    if (c == ST_OK && o->profile) {
        c = kernels_profile_create(g->ops, g->device, &g->profile);
        if (c != ST_OK) return st_fail(e, c, "out of memory");
        g->ops = kernels_profile_ops(g->profile);
        g->device = kernels_profile_device(g->profile);
    }
    if (c != ST_OK) return c;
    if (parallel_group_local(&g->group) != ST_OK) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    for (int i = 0; i < N_COLUMNS; i++)
        if (!(g->column[i] = mem_alloc(o->max_rows, sizeof(uint32_t)))) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    g->batch = (model_batch){.token = g->column[TOKEN],
                             .position = g->column[POSITION],
                             .slot = g->column[SLOT],
                             .parent = g->column[PARENT],
                             .sequence = g->column[SEQUENCE],
                             .choose = g->column[CHOOSE]};
    model_options options = {.ops = g->ops,
                             .device = g->device,
                             .group = g->group,
                             .max_rows = g->max_rows = o->max_rows,
                             .max_choose = g->max_choose = o->max_choose,
                             .precision = precision};
    return model_load(g->file, &options, &g->model, e);
}

st_code engine_open(const engine_options *o, engine **out, st_error *e) {
    engine *g = mem_alloc(1, sizeof *g);
    if (!g) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    st_code c = open_parts(g, o, e);
    if (c != ST_OK) {
        engine_close(g);
        return c;
    }
    *out = g;
    return ST_OK;
}

void engine_close(engine *g) {
    if (!g) return;
    kv_store_destroy(g->kv);
    model_destroy(g->model);
    if (g->group) g->group->ops->destroy(g->group);
    if (g->device) g->ops->destroy(g->device);
    model_file_close(g->file);
    for (int i = 0; i < N_COLUMNS; i++) mem_free(g->column[i]);
    mem_free(g->block);
    mem_free(g->blocks);
    mem_free(g);
}

const model_info *engine_info(const engine *g) { return model_get_info(g->model); }
kernels_profile *engine_profile(engine *g) { return g->profile; }

st_code engine_make_room(engine *g, uint32_t n_sequences, uint32_t n_tokens, st_error *e) {
    if (n_tokens > engine_info(g)->max_context)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%u tokens; the model's context is %u", n_tokens, engine_info(g)->max_context);
    uint32_t each = kv_blocks_for(n_tokens);
    kv_shape shape = model_kv_shape(g->model);
    shape.type = g->type;
    shape.n_blocks = n_sequences * each;
    kv_store_destroy(g->kv);
    g->kv = NULL;
    mem_free(g->block);
    mem_free(g->blocks);
    g->block = mem_alloc(shape.n_blocks, sizeof *g->block);
    g->blocks = mem_alloc(n_sequences, sizeof *g->blocks);
    if (!g->block || !g->blocks) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    for (uint32_t b = 0; b < shape.n_blocks; b++) g->block[b] = b;
    for (uint32_t s = 0; s < n_sequences; s++) g->blocks[s] = g->block + (size_t)s * each;
    g->batch.blocks = g->blocks;
    return kv_store_create(g->ops, g->device, &shape, &g->kv, e);
}

bool engine_add(engine *g, uint32_t sequence, uint32_t token, uint32_t position, bool wanted) {
    uint32_t i = g->batch.n_rows;
    if (i == g->max_rows || (wanted && g->batch.n_choose == g->max_choose)) return false;
    bool follows = i && g->column[SEQUENCE][i - 1] == sequence;
    g->column[TOKEN][i] = token;
    g->column[POSITION][i] = g->column[SLOT][i] = position;
    g->column[PARENT][i] = follows ? i - 1 : MODEL_NO_PARENT;
    g->column[SEQUENCE][i] = sequence;
    if (wanted) g->column[CHOOSE][g->batch.n_choose++] = i;
    g->batch.n_rows++;
    return true;
}

st_code engine_run(engine *g, st_error *e) {
    uint32_t layer;
    st_code c = model_run(g->model, g->kv, &g->batch, e);
    for (uint32_t i = 0; c == ST_OK && i < g->batch.n_rows; i++)
        if (model_row_bad(g->model, i, &layer))
            c = st_fail(e, ST_ERR_NUMERIC, "position %u: a value of layer %u is not a finite number", g->column[POSITION][i],
                        layer);
    g->batch.n_rows = 0;
    g->batch.n_choose = 0;
    return c;
}

const float *engine_logits(const engine *g, uint32_t i) { return model_logits(g->model, i); }
