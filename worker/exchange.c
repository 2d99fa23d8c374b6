#include "worker/exchange.h"

#include "base/mem.h"
#include <string.h>

enum { HEAD_BYTES = 2048, COUNTS_BYTES = 2 * sizeof(uint32_t) };

/* buffer: n_words, n_plan (u32 each), words, plan. Its first HEAD_BYTES always travel, the rest where there is more. */
struct exchange {
    parallel_group *group;
    uint32_t max_words, max_plan_bytes;
    size_t size_bytes;
    uint8_t *buffer; /* [size_bytes] */
};

st_code exchange_create(parallel_group *group, uint32_t max_words, uint32_t max_plan_bytes, exchange **out) {
    exchange *x = mem_alloc(1, sizeof *x);
    if (!x) return ST_FATAL_MEMORY;
    *x = (exchange){.group = group,
                    .max_words = max_words,
                    .max_plan_bytes = max_plan_bytes,
                    .size_bytes = HEAD_BYTES + max_words * sizeof(uint32_t) + max_plan_bytes};
    x->buffer = mem_alloc_aligned(x->size_bytes, 1, 64);
    if (!x->buffer) {
        exchange_destroy(x);
        return ST_FATAL_MEMORY;
    }
    *out = x;
    return ST_OK;
}

void exchange_destroy(exchange *x) {
    if (!x) return;
    mem_free(x->buffer);
    mem_free(x);
}

static st_code lost(const exchange *x, st_code code, st_error *e) {
    return st_fail(e, code, "the group of %u ranks does not answer: %s", x->group->n_ranks, st_text(code));
}

static size_t total_bytes(uint32_t n_words, uint32_t n_plan) {
    return COUNTS_BYTES + (size_t)n_words * sizeof(uint32_t) + n_plan;
}

/* What did not fit into the head. */
static st_code pass_rest(exchange *x, size_t total, st_error *e) {
    if (total <= HEAD_BYTES) return ST_OK;
    st_code code = x->group->ops->broadcast(x->group, x->buffer + HEAD_BYTES, total - HEAD_BYTES, 0);
    return code ? lost(x, code, e) : ST_OK;
}

st_code exchange_send(exchange *x, const exchange_message *m, st_error *e) {
    if (m->n_words > x->max_words || m->n_plan > x->max_plan_bytes)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "a plan of %u bytes with %u words of decisions; a rank takes %u and %u",
                       m->n_plan, m->n_words, x->max_plan_bytes, x->max_words);
    uint32_t counts[2] = {m->n_words, m->n_plan};
    uint8_t *at = x->buffer;
    memcpy(at, counts, COUNTS_BYTES);
    at += COUNTS_BYTES;
    if (m->n_words) memcpy(at, m->words, m->n_words * sizeof(uint32_t));
    at += m->n_words * sizeof(uint32_t);
    if (m->n_plan) memcpy(at, m->plan, m->n_plan);
    st_code code = x->group->ops->broadcast(x->group, x->buffer, HEAD_BYTES, 0);
    return code ? lost(x, code, e) : pass_rest(x, total_bytes(m->n_words, m->n_plan), e);
}

st_code exchange_receive(exchange *x, uint64_t spin_ns, exchange_message *out, bool *done, st_error *e) {
    st_code code = x->group->ops->listen(x->group, x->buffer, HEAD_BYTES, 0, spin_ns, done);
    if (code) return lost(x, code, e);
    if (!*done) return ST_OK;
    uint32_t counts[2];
    memcpy(counts, x->buffer, COUNTS_BYTES);
    if (counts[0] > x->max_words || counts[1] > x->max_plan_bytes)
        return st_fail(e, ST_FATAL_PROTOCOL, "the leader sends %u words and a plan of %u bytes; expected at most %u and %u",
                       counts[0], counts[1], x->max_words, x->max_plan_bytes);
    code = pass_rest(x, total_bytes(counts[0], counts[1]), e);
    if (code) return code;
    *out = (exchange_message){.words = (const uint32_t *)(const void *)(x->buffer + COUNTS_BYTES),
                              .n_words = counts[0],
                              .plan = x->buffer + COUNTS_BYTES + counts[0] * sizeof(uint32_t),
                              .n_plan = counts[1]};
    return ST_OK;
}
