/* A fake model for the worker's tests: its KV cache holds the tokens themselves, and the choice after a row is a hash of all
 * tokens that the row sees through block table, slots and parents. So a wrong slot, parent, position or compaction changes the
 * answer. Included by one test program each, after cmocka. */
#ifndef CONSORT_TESTS_FAKE_MODEL_H
#define CONSORT_TESTS_FAKE_MODEL_H

#include "model/model.h"
#include <math.h>
#include <string.h>

enum { VOCAB = 97, BLOCKS = 64, MAX_ROWS = 128, MAX_SEQ = 4, CONTEXT = 256 };

struct model {
    model_info info;
    float logits[MAX_ROWS][VOCAB];
    uint32_t bad_row; /* UINT32_MAX: none */
    uint32_t n_runs, n_rows;
    uint32_t nan_token; /* whose logits are not finite; 0: none */
    uint32_t n_first;   /* tokens whose logits are there first; the others are rubbish then, runs that are wanted aside */
};
struct kv_store {
    kernels_kv view;
    uint32_t token[BLOCKS * NOUNS_BLOCK_TOKENS];
};
struct kernels_device {
    kv_store *kv;
};

const model_info *model_get_info(const model *m) { return &m->info; }
uint32_t model_first_tokens(const model *m) { return m->n_first; }
const float *model_logits(const model *m, uint32_t i) { return m->logits[i]; }
const float *model_hidden(const model *m, uint32_t i) { return m->logits[i]; } /* the first info.dim of them */
const kernels_kv *kv_store_view(const kv_store *s) { return &s->view; }

bool model_row_bad(const model *m, uint32_t row, uint32_t *layer) {
    *layer = 7;
    return row == m->bad_row;
}

st_code kv_store_accept(kv_store *s, const block_id *blocks, uint32_t n, st_error *e) {
    (void)s;
    for (uint32_t i = 0; i < n; i++)
        if (blocks[i].index >= BLOCKS) return st_fail(e, ST_FATAL_PROTOCOL, "block %u", blocks[i].index);
    return ST_OK;
}

static uint32_t n_chosen; /* calls of model_choose */

uint32_t model_choose(const float *logits, uint32_t n_vocab, const sampling *s, uint32_t position, uint64_t *work) {
    uint32_t best = 0;
    (void)s, (void)position, (void)work;
    n_chosen++;
    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static uint32_t mix(uint32_t h, uint32_t token) { return (h ^ token) * 16777619u; }
static uint32_t choice_of(uint32_t h) { return (h ^ h >> 15) % VOCAB; }

/* 1 for the choice, less for all others, of both signs. */
static float logit_of(uint32_t h, uint32_t v) { return v == choice_of(h) ? 1 : (float)(mix(h, v) >> 8 & 0xff) / 256 - 0.5f; }

static uint32_t *slot_of(kv_store *kv, const uint32_t *blocks, uint32_t slot) {
    return &kv->token[blocks[slot / NOUNS_BLOCK_TOKENS] * NOUNS_BLOCK_TOKENS + slot % NOUNS_BLOCK_TOKENS];
}

st_code model_run(model *m, kv_store *kv, const model_batch *b, st_error *e) {
    uint32_t hash[MAX_ROWS];
    (void)e;
    m->n_runs++;
    m->n_rows += b->n_rows;
    for (uint32_t r = 0; r < b->n_rows; r++) {
        const uint32_t *blocks = b->blocks[b->sequence[r]];
        uint32_t h = 2166136261u;
        if (b->parent[r] == MODEL_NO_PARENT)
            for (uint32_t s = 0; s < b->position[r]; s++) h = mix(h, *slot_of(kv, blocks, s));
        else
            h = hash[b->parent[r]];
        hash[r] = mix(h, b->token[r]);
        *slot_of(kv, blocks, b->slot[r]) = b->token[r];
    }
    for (int whole = b->first == NULL; whole < 2; whole++) {
        for (uint32_t i = 0; i < b->n_choose; i++)
            for (uint32_t v = 0; v < VOCAB; v++) {
                bool there = whole || v < m->n_first;
                for (uint32_t k = 0; !there && k < b->n_wanted; k++) there = b->wanted[k] == v / MODEL_VOCAB_ROWS;
                m->logits[i][v] = there ? logit_of(hash[b->choose[i]], v) : 1000;
                if (there && v > 0 && v == m->nan_token) m->logits[i][v] = NAN;
            }
        if (!whole) b->first(b->context);
    }
    return ST_OK;
}

double model_nll(const float *logits, uint32_t n_vocab, uint32_t id) {
    (void)n_vocab;
    return logits[id] >= 1 ? 0.5 : 5.0;
}

/* What the fake model says after these tokens. */
static uint32_t hash_of(const uint32_t *tokens, uint32_t n) {
    uint32_t h = 2166136261u;
    for (uint32_t i = 0; i < n; i++) h = mix(h, tokens[i]);
    return h;
}
static uint32_t truth(const uint32_t *tokens, uint32_t n) { return choice_of(hash_of(tokens, n)); }

#endif
