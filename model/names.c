#include "model/names_int.h"

#include "base/mem.h"
#include <string.h>
#include <xxhash.h>

static bool same(model_string a, model_string b) { return a.size == b.size && !memcmp(a.bytes, b.bytes, a.size); }

st_code model_names_init(model_names *t, uint64_t n_names) {
    uint64_t n = 16;
    while (n / 2 < n_names) n *= 2;
    *t = (model_names){.slots = mem_alloc(n, sizeof *t->slots), .mask = n - 1};
    return t->slots ? ST_OK : ST_FATAL_MEMORY;
}

void model_names_deinit(model_names *t) {
    mem_free(t->slots);
    *t = (model_names){0};
}

/* The slot that holds `name`, or the free one where it belongs; NULL after too many steps. */
static model_names_slot *probe(const model_names *t, model_string name) {
    uint64_t at = XXH3_64bits(name.bytes, name.size);
    for (int step = 0; step < MODEL_NAMES_MAX_PROBE; step++, at++) {
        model_names_slot *s = &t->slots[at & t->mask];
        if (!s->name.bytes || same(s->name, name)) return s;
    }
    return NULL;
}

st_code model_names_add(model_names *t, model_string name, uint32_t index, uint32_t *found) {
    model_names_slot *s = probe(t, name);
    if (!s) return ST_ERR_FORMAT;
    *found = s->name.bytes ? s->index : MODEL_NO_INDEX;
    if (!s->name.bytes) *s = (model_names_slot){.name = name, .index = index};
    return ST_OK;
}

uint32_t model_names_find(const model_names *t, model_string name) {
    const model_names_slot *s = t->slots ? probe(t, name) : NULL;
    return s && s->name.bytes ? s->index : MODEL_NO_INDEX;
}
