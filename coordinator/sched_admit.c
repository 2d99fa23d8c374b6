/* Admission: which limits make sense, what a request may need at most, and who may come in.
 *
 * First come, first served: a large request at the head of the queue holds smaller ones back until its blocks are free. To let
 * them pass would use the blocks better and starve the large one. */
#include "coordinator/sched_int.h"

#include <stdio.h>
#include <string.h>

st_code sched_check_limits(const sched_limits *l, st_error *e) {
    const struct {
        const char *name;
        uint32_t value, low, high;
    } rows[] = {
        {"max_requests", l->max_requests, 1, 1 << 20},
        {"max_running", l->max_running, 1, PROTO_MAX_PLAN_SEQUENCES}, /* so that one plan can close or open them all */
        {"max_queue", l->max_queue, 0, 1 << 20},
        {"max_batch", l->max_batch, 1, PROTO_MAX_PLAN_SEQUENCES},
        {"max_tree", l->max_tree, 0, NOUNS_MAX_TREE},
        {"max_rows", l->max_rows, l->max_batch > l->max_tree ? l->max_batch : l->max_tree + 1, 1 << 20},
        {"prefill_chunk", l->prefill_chunk, 1, 1 << 20},
        {"max_context", l->max_context, 2, PROTO_MAX_PROMPT_TOKENS},
        {"n_blocks", l->n_blocks, 1, 1 << 28},
        {"n_drafters", l->n_drafters, 0, SPEC_MAX_DRAFTERS - 1},
        {"dim", l->dim, l->want_hidden > 0, NOUNS_MAX_DIM},
        {"n_vocab", l->n_vocab, l->n_drafters > 0, 1 << 28},
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value < rows[i].low || rows[i].value > rows[i].high)
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "scheduler: %s is %u, must be %u to %u", rows[i].name, rows[i].value,
                           rows[i].low, rows[i].high);
    INVARIANT(l->n_drafters == 0 || l->drafter_names);
    return ST_OK;
}

uint32_t sched_limit_tokens(const sched_limits *l, uint32_t n_prompt, uint32_t max_tokens) {
    uint64_t most = (uint64_t)n_prompt + max_tokens;
    return max_tokens == 0 || most > l->max_context ? l->max_context : (uint32_t)most;
}

st_code sched_can_ever_fit(const sched_limits *l, const sched_event *request, char *message, size_t message_bytes) {
    uint32_t n = request->n_tokens;
    if (n == 0) {
        snprintf(message, message_bytes, "the prompt has no tokens");
        return ST_ERR_INVALID_ARGUMENT;
    }
    if (n >= l->max_context) {
        snprintf(message, message_bytes, "the prompt has %u tokens; prompt and answer together may have %u", n, l->max_context);
        return ST_ERR_INVALID_ARGUMENT;
    }
    uint32_t n_limit = sched_limit_tokens(l, n, request->max_tokens), n_blocks = kv_blocks_for((uint64_t)n_limit + l->max_tree);
    if (n_blocks > l->n_blocks) {
        snprintf(message, message_bytes,
                 "max_tokens: a prompt of %u and an answer of up to %u tokens need %u KV blocks; the cluster has %u: "
                 "ask for less",
                 n, n_limit - n, n_blocks, l->n_blocks);
        return ST_ERR_INVALID_ARGUMENT;
    }
    return ST_OK;
}

void sched_admit(sched *s) {
    for (sched_request *r; (r = sched_first(s, SCHED_WAITING));) {
        st_code code = kv_reserve(s->kv, (uint64_t)r->n_limit + s->limits.max_tree, &r->chain);
        if (code == ST_ERR_NO_BLOCKS) return; /* or all max_running chains are taken */
        INVARIANT(code == ST_OK);             /* sched_can_ever_fit has said so */
        r->known = s->known + (size_t)r->chain.index * s->limits.max_context;
        sched_forget_trust(s, r);
        memcpy(r->known, r->prompt, r->n_prompt * sizeof *r->known);
        if (r->n_known > 1)
            sched_move(s, r, SCHED_PREFILL);
        else
            sched_begin_round(s, r);
    }
}
