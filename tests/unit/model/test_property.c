/* The contract as a property: for random models and random schedules, the logits of each position are those of the scalar
 * reference run token by token, each sequence alone, bit for bit; on every instruction set at hand, 1 to 3 threads, 1 to 3 ranks.
 *
 * A schedule is a row of batches. Each mixes prompt chunks, single tokens and draft trees of some of the sequences; an accepted
 * path is compacted and the sequence goes on from it. All is drawn from a seed, which a failure names:
 *
 *     CONSORT_PROPERTY_SEED=n                  that case alone
 *     CONSORT_PROPERTY_CASES=n                 so many cases from seed 1 on (default: a few, for seconds) */
#include "tests/unit/model/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CASES = 3, MAX_LENGTH = 70, MAX_NODES = 10, ALL_TOKENS = 100, ROOM = RIG_BLOCKS * NOUNS_BLOCK_TOKENS };

typedef struct {
    uint64_t seed, random;
    tiny t;
    tiny_file file;
    const char *kv_type;
    kernels_precision precision;
    rig truth;
    uint32_t n_sequences, length[RIG_SEQUENCES], token[RIG_SEQUENCES][MAX_LENGTH];
    float *logits[RIG_SEQUENCES]; /* [length][n_vocab] of the reference */
    char what[160];               /* the variant that runs, for messages */
} property;

/* low .. high */
static uint32_t draw(property *p, uint32_t low, uint32_t high) {
    return low + (uint32_t)(tiny_random(&p->random) % (high - low + 1));
}

static void draw_shape(property *p) {
    static const char *const families[] = {NULL, "qwen2", "qwen3", "gemma3"};
    static const uint32_t head_dims[] = {16, 32, 48, 64, 80};
    tiny *t = &p->t;
    *t = (tiny){.any = true,
                .seed = p->seed,
                .architecture = families[draw(p, 0, 3)],
                .n_layers = draw(p, 1, 3),
                .head_dim = head_dims[draw(p, 0, 4)],
                .dim = draw(p, 0, 3) ? 32 * draw(p, 1, 8) : 256,
                .ffn_dim = draw(p, 0, 3) ? 32 * draw(p, 1, 25) : 256 * draw(p, 1, 3),
                .n_vocab = draw(p, 33, 150),
                .max_context = ROOM,
                .tied = draw(p, 0, 1)};
    do {
        t->n_kv_heads = draw(p, 1, 3);
        t->n_heads = t->n_kv_heads * draw(p, 1, 3);
    } while (t->n_heads * t->head_dim % 32);
    if (t->architecture && !strcmp(t->architecture, "gemma3")) {
        t->window = draw(p, 1, 70);
        t->global_every = draw(p, 2, 3);
    }
    uint32_t n_kv_types = 0;
    while (kv_type_at(n_kv_types)) n_kv_types++;
    p->kv_type = kv_type_at(draw(p, 0, n_kv_types - 1))->name;
    p->precision = draw(p, 0, 3) ? KERNELS_FAST : KERNELS_FP32;
}

/* A few sequences; in each third case 64 short ones. */
static void draw_sequences(property *p) {
    bool many = p->seed % 3 == 0;
    p->n_sequences = many ? RIG_SEQUENCES : draw(p, 1, 6);
    for (uint32_t s = 0, left = ALL_TOKENS; s < p->n_sequences; s++) {
        uint32_t most = left / (p->n_sequences - s) * (many ? 1 : 2);
        p->length[s] = draw(p, 1, most < MAX_LENGTH ? most : MAX_LENGTH);
        if (p->length[s] > left - (p->n_sequences - s - 1)) p->length[s] = left - (p->n_sequences - s - 1);
        left -= p->length[s];
        for (uint32_t i = 0; i < p->length[s]; i++) p->token[s][i] = draw(p, 0, p->t.n_vocab - 1);
    }
}

static void open_case(property *p, uint64_t seed) {
    st_error e = {0};
    *p = (property){.seed = seed, .random = seed};
    draw_shape(p);
    draw_sequences(p);
    p->file = tiny_make(&p->t);
    rig_options o = {.isa = "scalar", .n_threads = 1, .kv_type = p->kv_type, .precision = p->precision};
    if (rig_make(p->file.file, &o, &p->truth, &e) != ST_OK) fail_msg("seed %llu: %s", (unsigned long long)seed, e.message);
    for (uint32_t s = 0; s < p->n_sequences; s++) {
        p->logits[s] = calloc((size_t)p->length[s] * p->t.n_vocab, sizeof(float));
        assert_non_null(p->logits[s]);
        rig_feed(&p->truth, s, p->token[s], 0, p->length[s], 1, p->logits[s]);
    }
}

static void close_case(property *p) {
    for (uint32_t s = 0; s < p->n_sequences; s++) free(p->logits[s]);
    rig_free(&p->truth);
    tiny_free(&p->file);
}

/* Row i of the batch holds the logits of `expected`, which are finite. */
static void check_row(const property *p, const ranks *r, const rig_batch *b, uint32_t i, const float *expected) {
    uint32_t layer;
    bool bad = model_row_bad(r->r[0].model, i, &layer);
    if (bad || memcmp(model_logits(r->r[0].model, i), expected, p->t.n_vocab * sizeof *expected) != 0)
        fail_msg("CONSORT_PROPERTY_SEED=%llu, %s: row %u of %u (sequence %u, position %u, slot %u) %s",
                 (unsigned long long)p->seed, p->what, i, b->n, b->sequence[i], b->position[i], b->slot[i],
                 bad ? "is not finite" : "differs from the reference");
}

/* A part of a batch: tokens in order, or a tree, of one sequence. */
typedef struct {
    uint32_t sequence, first_row, base, n;
    bool is_tree;
    uint32_t token[MAX_NODES], parent[MAX_NODES];
    uint32_t n_true, true_node[MAX_NODES]; /* of a tree: the nodes that carry on the sequence, from the root */
} piece;

static void draw_tree(property *p, piece *w) {
    uint32_t s = w->sequence;
    w->token[0] = p->token[s][w->base];
    w->n_true = 1;
    for (uint32_t i = 1; i < w->n; i++) {
        uint32_t at = w->base + w->n_true;
        bool is_true = at < p->length[s] && draw(p, 0, 1);
        w->parent[i] = is_true ? w->true_node[w->n_true - 1] : draw(p, 0, i - 1);
        w->token[i] = is_true ? p->token[s][at] : draw(p, 0, p->t.n_vocab - 1);
        if (is_true) w->true_node[w->n_true++] = i;
    }
}

static void draw_piece(property *p, rig_batch *b, piece *w) {
    uint32_t room = RIG_ROWS - b->n, left = p->length[w->sequence] - w->base;
    w->first_row = b->n;
    w->is_tree = draw(p, 0, 1);
    w->n = draw(p, 1, w->is_tree ? MAX_NODES : draw(p, 0, 2) ? left : 1);
    if (w->n > room) w->n = room;
    if (w->is_tree) {
        draw_tree(p, w);
        rig_add_tree(b, w->sequence, w->base, w->token, w->parent, w->n);
    } else {
        rig_add(b, w->sequence, p->token[w->sequence], w->base, w->base + w->n);
    }
}

/* The last node of a tree, wherever it hangs: the reference runs its path in order, and then its own tokens again. */
static void check_last_node(property *p, const ranks *r, const rig_batch *b, const piece *w) {
    uint32_t path[MAX_LENGTH + MAX_NODES], depth = 0, s = w->sequence, n_vocab = p->t.n_vocab;
    for (uint32_t i = w->n - 1; i; i = w->parent[i]) depth++;
    for (uint32_t i = w->n - 1, d = depth; d; i = w->parent[i]) path[w->base + d--] = w->token[i];
    path[w->base] = w->token[0];
    float *work = calloc((size_t)(depth + 1) * n_vocab, sizeof *work);
    assert_non_null(work);
    rig_feed(&p->truth, s, path, w->base, w->base + depth + 1, 1, work);
    check_row(p, r, b, w->first_row + w->n - 1, work + (size_t)depth * n_vocab);
    uint32_t end = w->base + depth + 1 < p->length[s] ? w->base + depth + 1 : p->length[s];
    rig_feed(&p->truth, s, p->token[s], w->base, end, 1, work);
    free(work);
}

/* Some of the path is accepted, the root at least; all ranks move it together. */
static uint32_t compact(property *p, const ranks *r, const piece *w) {
    uint32_t n = draw(p, 1, w->n_true);
    for (uint32_t k = 1; k < n; k++)
        for (uint32_t rank = 0; rank < r->n; rank++) {
            const rig *one = &r->r[rank];
            one->ops->kv_move(one->device, kv_store_view(one->kv), one->table[w->sequence], w->base + k,
                              w->base + w->true_node[k]);
        }
    return n;
}

static void run_batch(property *p, ranks *r, uint32_t done[RIG_SEQUENCES]) {
    static piece pieces[RIG_SEQUENCES];
    uint32_t n = 0, first = draw(p, 0, p->n_sequences - 1), keep = draw(p, 0, 2); /* a third, two thirds or all of them */
    rig_batch b = {0};
    for (uint32_t i = 0; i < p->n_sequences && b.n < RIG_ROWS; i++) {
        uint32_t s = (first + i) % p->n_sequences;
        if (done[s] == p->length[s] || draw(p, 0, 2) > keep) continue;
        pieces[n] = (piece){.sequence = s, .base = done[s]};
        draw_piece(p, &b, &pieces[n++]);
    }
    if (!b.n) return;
    ranks_run(r, &b);
    for (uint32_t i = 0; i < n; i++) {
        const piece *w = &pieces[i];
        const float *expected = p->logits[w->sequence] + (size_t)w->base * p->t.n_vocab;
        for (uint32_t k = 0; k < (w->is_tree ? w->n_true : w->n); k++)
            check_row(p, r, &b, w->first_row + (w->is_tree ? w->true_node[k] : k), expected + (size_t)k * p->t.n_vocab);
        if (w->is_tree) check_last_node(p, r, &b, w);
        done[w->sequence] += w->is_tree ? compact(p, r, w) : w->n;
    }
}

static void run_schedule(property *p, const char *isa, uint32_t n_threads, uint32_t n_ranks) {
    ranks r;
    uint32_t done[RIG_SEQUENCES] = {0};
    snprintf(p->what, sizeof p->what, "%s, %u threads, %u ranks, %s KV", isa, n_threads, n_ranks, p->kv_type);
    ranks_open(&r, p->file.file, n_ranks,
               (rig_options){.isa = isa, .n_threads = n_threads, .kv_type = p->kv_type, .precision = p->precision});
    for (uint32_t s = 0; s < p->n_sequences;)
        if (done[s] == p->length[s])
            s++;
        else
            run_batch(p, &r, done);
    ranks_free(&r);
}

/* The reference is slow: its own instruction set runs with one number of ranks, the others with each. */
static void run_case(uint64_t seed) {
    static property p;
    model_info info;
    open_case(&p, seed);
    assert_int_equal(ST_OK, model_read_info(p.file.file, &info, NULL));
    uint32_t most = model_max_ranks(&info) < 3 ? model_max_ranks(&info) : 3;
    for (size_t i = 0; i < sizeof rig_isas / sizeof *rig_isas; i++) {
        const kernels_ops *ops;
        if (kernels_pick(rig_isas[i], &ops, NULL) != ST_OK || strcmp(ops->isa, rig_isas[i]) != 0) continue; /* not here; "auto" */
        for (uint32_t n = ops == p.truth.ops ? draw(&p, 1, most) : 1; n <= most; n += ops == p.truth.ops ? most : 1)
            run_schedule(&p, rig_isas[i], draw(&p, 1, n == 1 ? 3 : 2), n);
    }
    close_case(&p);
}

static uint64_t setting(const char *name) {
    const char *text = getenv(name);
    return text ? strtoull(text, NULL, 10) : 0;
}

static void any_schedule_of_any_model_gives_the_logits_of_token_by_token(void **state) {
    (void)state;
    uint64_t seed = setting("CONSORT_PROPERTY_SEED"), n = setting("CONSORT_PROPERTY_CASES");
    if (seed) {
        run_case(seed);
        return;
    }
    for (uint64_t i = 1; i <= (n ? n : CASES); i++) run_case(i);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_schedule_of_any_model_gives_the_logits_of_token_by_token)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
