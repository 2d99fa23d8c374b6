/* The part of a drafter: loads what its kind needs, then answers each plan with draft trees (draft_step.h). */
#include "base/filemap.h"
#include "base/mem.h"
#include "net/net.h"
#include "worker/draft_head.h"
#include "worker/draft_model.h"
#include "worker/draft_step.h"
#include "worker/part_int.h"
#include <string.h>

typedef struct {
    part part;
    part_engine engine; /* kind model; of kind head its device and file */
    filemap table;      /* kind ngram */
    spec_ngram ngram;
    spec_drafter *drafter;
    draft_step *step;
} drafting;

static drafting *of(part *p) { return (drafting *)p; }

static st_code load_model(drafting *d, st_error *e) {
    part *p = &d->part;
    st_code code = part_engine_init(p, p->config->model, p->o->group_link, &d->engine, e);
    if (code) return code;
    const part_engine *n = &d->engine;
    draft_model_options o = {n->model, n->kv, n->n_blocks, p->info.max_sequences, p->info.max_rows, n->max_context};
    code = draft_model_create(&o, &d->drafter);
    return code ? st_fail(e, code, "no memory for the sequences of a drafter (max_running %u, context %u)", o.max_sequences,
                          o.max_context)
                : ST_OK;
}

static st_code load_head(drafting *d, st_error *e) {
    part *p = &d->part;
    part_engine *n = &d->engine;
    draft_head_info head;
    st_code code = part_device_init(p, n, e);
    if (!code) code = model_file_open(p->config->model, &n->file, e);
    if (code) return code;
    draft_head_options o = {
        n->ops, n->device, n->file, n->precision, p->info.max_sequences, (float)p->o->topology->draft_floor / 100};
    code = draft_head_create(&o, &head, &d->drafter, e);
    if (code) return st_prefix(e, "groups: %s: model", p->config->name);
    memcpy(p->info.vocabulary_hash, head.vocabulary_hash, sizeof p->info.vocabulary_hash);
    p->info.n_vocab = head.n_vocab;
    p->info.dim = head.dim;
    p->info.weight_bytes = head.weight_bytes;
    return ST_OK;
}

static st_code load_table(drafting *d, st_error *e) {
    part *p = &d->part;
    st_code code = filemap_open(p->config->table, &d->table, e);
    if (!code) code = spec_ngram_init(&d->ngram, d->table.bytes, d->table.size_bytes, NULL, e);
    if (code) return st_prefix(e, "groups: %s: table", p->config->name);
    d->ngram.floor = (float)p->o->topology->draft_floor / 100;
    d->drafter = &d->ngram.drafter;
    memcpy(p->info.vocabulary_hash, d->ngram.info.vocabulary_hash, sizeof p->info.vocabulary_hash);
    p->info.n_vocab = d->ngram.info.n_vocab;
    p->info.n_threads = 1;
    p->info.weight_bytes = d->table.size_bytes;
    return ST_OK;
}

/* Then that of drafts ahead is of no use any more. */
static bool has_another_plan(void *context) { return atomic_load(&((part *)context)->n_plans) > 0; }

/* One function a kind that has a rank (speculative/drafters.def). */
static st_code load(part *p, st_error *e) {
    static st_code (*const of_kind[SPEC_N_KINDS])(drafting * d, st_error * e) = {
        [SPEC_KIND_model] = load_model, [SPEC_KIND_head] = load_head, [SPEC_KIND_ngram] = load_table};
    drafting *d = of(p);
    const spec_kind *kind = spec_kind_find(p->config->kind);
    if (!kind || !of_kind[kind - spec_kinds])
        return st_fail(e, ST_ERR_UNSUPPORTED, "groups: %s: there is no drafter of kind %s with a rank of its own",
                       p->config->name, p->config->kind);
    p->info.wants_hidden = kind->wants_hidden;
    st_code code = of_kind[kind - spec_kinds](d, e);
    if (code) return code;
    draft_step_options o = {d->drafter, p->info.max_sequences, p->info.n_vocab, kind->wants_hidden ? p->info.dim : 0};
    code = draft_step_create(&o, &d->step);
    if (code) return st_fail(e, code, "no memory for the sequences of a drafter (max_running %u)", o.max_sequences);
    draft_step_stops(d->step, has_another_plan, p);
    return ST_OK;
}

static st_code step(part *p, const uint8_t *bytes, size_t n, proto_bytes *out, st_error *e) {
    proto_plan plan;
    proto_result result;
    uint64_t start = net_now_ns();
    st_code code = part_decode(p, bytes, n, &plan, e);
    if (!code) code = draft_step_run(of(p)->step, &plan, &result, e);
    if (code) return code;
    result.step_ns = net_now_ns() - start;
    code = proto_result_encode(&result, out);
    return code ? st_fail(e, code, "cannot encode the result of plan %llu", (unsigned long long)plan.id) : ST_OK;
}

static void destroy(part *p) {
    drafting *d = of(p);
    arena_deinit(&p->arena);
    draft_step_destroy(d->step);
    if (d->drafter) d->drafter->ops->destroy(d->drafter);
    filemap_close(&d->table);
    part_engine_deinit(&d->engine);
    mem_free(d);
}

st_code part_draft(part **out) {
    static const part_ops ops = {.load = load, .step = step, .destroy = destroy};
    drafting *d = mem_alloc(1, sizeof *d);
    if (!d) return ST_FATAL_MEMORY;
    d->part.ops = &ops;
    *out = &d->part;
    return ST_OK;
}
