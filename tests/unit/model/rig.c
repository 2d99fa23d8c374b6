#include "tests/unit/model/rig.h"

#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static st_code make(const model_file *f, const rig_options *o, rig *r, st_error *e) {
    st_code c = kernels_pick(o->isa, &r->ops, e);
    if (c == ST_OK) c = r->ops->create(o->n_threads, &r->device, e);
    if (c == ST_OK && !o->group) c = parallel_group_local(&r->own_group);
    if (c != ST_OK) return c;
    r->group = o->group ? o->group : r->own_group;
    model_options options = {.ops = r->ops,
                             .device = r->device,
                             .group = r->group,
                             .max_rows = RIG_ROWS,
                             .max_choose = RIG_ROWS,
                             .precision = o->precision};
    c = model_load(f, &options, &r->model, e);
    if (c != ST_OK) return c;
    kv_shape shape = model_kv_shape(r->model);
    shape.type = kv_type_choose(o->kv_type, o->precision);
    shape.n_blocks = RIG_SEQUENCES * RIG_BLOCKS;
    for (uint32_t s = 0; s < RIG_SEQUENCES; s++) {
        for (uint32_t b = 0; b < RIG_BLOCKS; b++) r->table[s][b] = (s + b * RIG_SEQUENCES) * 5 % shape.n_blocks;
    }
    return kv_store_create(r->ops, r->device, &shape, &r->kv, e);
}

st_code rig_make(const model_file *f, const rig_options *o, rig *out, st_error *e) {
    *out = (rig){0};
    st_code c = make(f, o, out, e);
    if (c != ST_OK) rig_free(out);
    return c;
}

void rig_free(rig *r) {
    kv_store_destroy(r->kv);
    model_destroy(r->model);
    if (r->own_group) r->own_group->ops->destroy(r->own_group);
    if (r->device) r->ops->destroy(r->device);
    *r = (rig){0};
}

static void add(rig_batch *b, uint32_t sequence, uint32_t token, uint32_t position, uint32_t slot, uint32_t parent) {
    uint32_t i = b->n++;
    assert_true(i < RIG_ROWS);
    b->token[i] = token;
    b->position[i] = position;
    b->slot[i] = slot;
    b->parent[i] = parent;
    b->sequence[i] = sequence;
    b->choose[i] = i;
}

void rig_add(rig_batch *b, uint32_t sequence, const uint32_t *tokens, uint32_t from, uint32_t to) {
    for (uint32_t p = from; p < to; p++) add(b, sequence, tokens[p], p, p, p == from ? MODEL_NO_PARENT : b->n - 1);
}

void rig_add_tree(rig_batch *b, uint32_t sequence, uint32_t base, const uint32_t *token, const uint32_t *parent, uint32_t n) {
    uint32_t first = b->n;
    add(b, sequence, token[0], base, base, MODEL_NO_PARENT);
    for (uint32_t i = 1; i < n; i++) add(b, sequence, token[i], b->position[first + parent[i]] + 1, base + i, first + parent[i]);
}

st_code rig_try(rig *r, const rig_batch *b, st_error *e) {
    const uint32_t *blocks[RIG_SEQUENCES];
    for (uint32_t s = 0; s < RIG_SEQUENCES; s++) blocks[s] = r->table[s];
    model_batch batch = {.n_rows = b->n,
                         .token = b->token,
                         .position = b->position,
                         .slot = b->slot,
                         .parent = b->parent,
                         .sequence = b->sequence,
                         .blocks = blocks,
                         .n_choose = b->n,
                         .choose = b->choose,
                         .first = r->first,
                         .context = r->context,
                         .n_wanted = r->n_wanted,
                         .wanted = r->wanted};
    mem_step_begin();
    st_code c = model_run(r->model, r->kv, &batch, e);
    mem_step_end();
    return c;
}

void rig_run(rig *r, const rig_batch *b) {
    st_error e = {0};
    if (rig_try(r, b, &e) != ST_OK) fail_msg("%s", e.message);
}

void rig_feed(rig *r, uint32_t sequence, const uint32_t *tokens, uint32_t from, uint32_t to, uint32_t chunk, float *out) {
    size_t n_vocab = model_get_info(r->model)->n_vocab;
    for (uint32_t at = from; at < to; at += chunk) {
        rig_batch b = {0};
        rig_add(&b, sequence, tokens, at, at + chunk < to ? at + chunk : to);
        rig_run(r, &b);
        for (uint32_t i = 0; i < b.n; i++, out += n_vocab) memcpy(out, model_logits(r->model, i), n_vocab * sizeof *out);
    }
}
