#include "worker/part_int.h"

#include <sched.h>
#include <stdio.h>

st_code part_decode(part *p, const uint8_t *bytes, size_t n, proto_plan *plan, st_error *e) {
    arena_reset(&p->arena, 0);
    return proto_plan_decode(bytes, n, &p->arena, plan, e);
}

/* ---- engine ---- */

static void show_progress(void *context, double share) {
    part *p = context;
    atomic_store(&p->load_permille, (uint32_t)(share * 1000));
}

/* What the topology says, or a fair share of the cores that this process may use. */
static uint32_t compute_threads(const part *p) {
    cpu_set_t cores;
    if (p->config->threads) return p->config->threads;
    if (sched_getaffinity(0, sizeof cores, &cores)) return 1; /* a host of more cores than a cpu_set_t has */
    uint32_t share = (uint32_t)CPU_COUNT(&cores) / p->o->n_neighbours;
    return share ? share : 1;
}

static st_code load_model(part *p, const char *path, parallel_group *group, part_engine *n, st_error *e) {
    const config_topology *t = p->o->topology;
    model_options o = {.ops = n->ops,
                       .device = n->device,
                       .group = group,
                       .max_rows = t->max_rows,
                       .max_choose = t->max_rows,
                       .precision = n->precision,
                       .progress = show_progress,
                       .context = p};
    st_code code = model_file_open(path, &n->file, e);
    if (!code) code = model_file_hash(n->file, p->info.model_hash);
    if (!code) code = model_file_vocabulary_hash(n->file, p->info.vocabulary_hash);
    return code ? code : model_load(n->file, &o, &n->model, e);
}

static void describe(part *p, const part_engine *n, const kv_type *type) {
    proto_register *i = &p->info;
    snprintf(i->kv_type, sizeof i->kv_type, "%s", type->name);
    i->kv_blocks = n->n_blocks;
    i->kv_bytes = kv_store_bytes(n->kv);
    i->weight_bytes = model_weight_bytes(n->model);
    i->max_context = n->max_context;
    i->n_vocab = model_get_info(n->model)->n_vocab;
    i->dim = model_get_info(n->model)->dim;
}

st_code part_device_init(part *p, part_engine *n, st_error *e) {
    const char *precision = p->o->topology->precision;
    p->info.n_threads = compute_threads(p);
    if (!kernels_precision_find(precision, &n->precision))
        return st_fail(e, ST_ERR_UNSUPPORTED, "precision: there is no %s", precision);
    st_code code = kernels_pick(p->config->isa, &n->ops, e);
    if (!code) code = n->ops->create(p->info.n_threads, &n->device, e);
    if (code) return code;
    snprintf(p->info.isa, sizeof p->info.isa, "%s", n->ops->isa);
    snprintf(p->info.precision, sizeof p->info.precision, "%s", precision);
    return ST_OK;
}

st_code part_engine_init(part *p, const char *path, parallel_group *group, part_engine *n, st_error *e) {
    const config_topology *t = p->o->topology;
    st_code code = part_device_init(p, n, e);
    if (!code) code = load_model(p, path, group, n, e);
    if (code) return code;
    kv_shape shape = model_kv_shape(n->model);
    shape.type = kv_type_choose(p->config->kv_type, n->precision);
    shape.n_blocks = n->n_blocks = p->config->kv_tokens / NOUNS_BLOCK_TOKENS;
    if (!shape.type) return st_fail(e, ST_ERR_UNSUPPORTED, "kv_type: there is no type %s", p->config->kv_type);
    code = kv_store_create(n->ops, n->device, &shape, &n->kv, e);
    if (code) return code;
    uint32_t trained = model_get_info(n->model)->max_context;
    n->max_context = t->max_context && t->max_context < trained ? t->max_context : trained;
    describe(p, n, shape.type);
    return ST_OK;
}

void part_engine_deinit(part_engine *n) {
    kv_store_destroy(n->kv);
    model_destroy(n->model);
    model_file_close(n->file);
    if (n->ops) n->ops->destroy(n->device);
    *n = (part_engine){0};
}
