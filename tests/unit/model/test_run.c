/* The forward pass: the logits of a row depend on the tokens before it and on nothing else, bit for bit. */
#include "base/mem.h"
#include "base/sha256.h"
#include "tests/unit/model/ranks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_TOKENS = 80, N_VOCAB = 200, POISON = N_VOCAB - 1 };

/* tokens[q] of three sequences, and the logits of each position, run token by token on the scalar reference. */
typedef struct {
    tiny_file file;
    uint32_t token[3][N_TOKENS];
    float *logits[3]; /* [N_TOKENS][N_VOCAB] */
    float *work;      /* the same size */
} truth;

/* Of the group of tests that runs. */
static const char *family; /* NULL: llama */
static kernels_precision precision;

static const rig_options plain = {.isa = "scalar", .n_threads = 1};

static rig open_rig(const model_file *f, rig_options o) {
    rig r;
    st_error e = {0};
    o.precision = precision;
    if (rig_make(f, &o, &r, &e) != ST_OK) fail_msg("%s", e.message);
    return r;
}

static int set_up(void **state) {
    truth *t = calloc(1, sizeof *t);
    tiny usual = tiny_of(family);
    uint64_t random = 7;
    assert_non_null(t);
    t->file = tiny_make(&usual);
    t->work = calloc((size_t)N_TOKENS * N_VOCAB, sizeof *t->work);
    assert_non_null(t->work);
    rig r = open_rig(t->file.file, plain);
    for (uint32_t q = 0; q < 3; q++) {
        for (uint32_t i = 0; i < N_TOKENS; i++) t->token[q][i] = (uint32_t)(tiny_random(&random) % (N_VOCAB - 1));
        t->logits[q] = calloc((size_t)N_TOKENS * N_VOCAB, sizeof **t->logits);
        assert_non_null(t->logits[q]);
        rig_feed(&r, q, t->token[q], 0, N_TOKENS, 1, t->logits[q]);
    }
    rig_free(&r);
    *state = t;
    return 0;
}

static int tear_down(void **state) {
    truth *t = *state;
    for (uint32_t q = 0; q < 3; q++) free(t->logits[q]);
    free(t->work);
    tiny_free(&t->file);
    free(t);
    return 0;
}

static const float *expected(const truth *t, uint32_t q, uint32_t position) { return t->logits[q] + (size_t)position * N_VOCAB; }

static void assert_row(const rig *r, uint32_t i, const float *logits) {
    uint32_t layer;
    assert_false(model_row_bad(r->model, i, &layer));
    assert_memory_equal(model_logits(r->model, i), logits, N_VOCAB * sizeof *logits);
}

/* The reference is not trivially constant: rows differ, and a changed early token changes late logits. */
static void logits_depend_on_all_tokens_before(void **state) {
    truth *t = *state;
    uint32_t other[N_TOKENS];
    memcpy(other, t->token[0], sizeof other);
    other[0] = (other[0] + 1) % (N_VOCAB - 1);
    rig r = open_rig(t->file.file, plain);
    rig_feed(&r, 0, other, 0, N_TOKENS, 40, t->work);
    for (uint32_t p = 0; p < N_TOKENS; p++)
        assert_memory_not_equal(t->work + (size_t)p * N_VOCAB, expected(t, 0, p), N_VOCAB * sizeof(float));
    rig_free(&r);
}

static void a_prompt_gives_the_same_logits_in_chunks_of_any_size(void **state) {
    truth *t = *state;
    static const uint32_t chunk[] = {N_TOKENS, 2, 7, 31, 32, 33, 64};
    rig r = open_rig(t->file.file, plain);
    for (size_t i = 0; i < sizeof chunk / sizeof *chunk; i++) {
        rig_feed(&r, 0, t->token[0], 0, N_TOKENS, chunk[i], t->work);
        assert_memory_equal(t->work, t->logits[0], (size_t)N_TOKENS * N_VOCAB * sizeof(float));
    }
    rig_free(&r);
}

static void threads_and_instruction_sets_give_the_same_logits(void **state) {
    truth *t = *state;
    for (size_t i = 0; i < sizeof rig_isas / sizeof *rig_isas; i++)
        for (uint32_t threads = 1; threads <= 3; threads++) {
            const kernels_ops *ops;
            if (kernels_pick(rig_isas[i], &ops, NULL) != ST_OK) continue; /* not on this processor */
            rig r = open_rig(t->file.file, (rig_options){.isa = rig_isas[i], .n_threads = threads});
            rig_feed(&r, 0, t->token[0], 0, N_TOKENS, 37, t->work);
            assert_memory_equal(t->work, t->logits[0], (size_t)N_TOKENS * N_VOCAB * sizeof(float));
            rig_free(&r);
        }
}

static void the_kv_type_changes_the_logits_and_each_holds_chunking_too(void **state) {
    truth *t = *state;
    float *once = malloc((size_t)N_TOKENS * N_VOCAB * sizeof *once);
    assert_non_null(once);
    const kv_type *type, *usual = kv_type_choose(NULL, precision);
    for (uint32_t i = 0; (type = kv_type_at(i)); i++) {
        rig r = open_rig(t->file.file, (rig_options){.isa = "auto", .n_threads = 1, .kv_type = type->name});
        rig_feed(&r, 0, t->token[0], 0, N_TOKENS, N_TOKENS, once);
        rig_feed(&r, 0, t->token[0], 0, N_TOKENS, 5, t->work);
        assert_memory_equal(once, t->work, (size_t)N_TOKENS * N_VOCAB * sizeof(float));
        assert_int_equal(type == usual, !memcmp(once, t->logits[0], (size_t)N_TOKENS * N_VOCAB * sizeof(float)));
        rig_free(&r);
    }
    free(once);
}

/* A tree of 7 nodes under tokens [0, base): the true continuation is nodes 0, 2, 4, 6; node 1, 3 are a wrong branch. */
enum { N_NODES = 7 };
static const uint32_t node_parent[N_NODES] = {0, 0, 0, 1, 2, 2, 4};
static const uint32_t path[] = {0, 2, 4, 6};

static void make_tree(const truth *t, uint32_t q, uint32_t base, uint32_t token[N_NODES]) {
    for (uint32_t i = 0; i < N_NODES; i++) token[i] = (t->token[q][base] + 13 * i + 1) % (N_VOCAB - 1);
    for (uint32_t k = 0; k < 4; k++) token[path[k]] = t->token[q][base + k];
}

static void a_branch_of_a_draft_tree_gives_the_logits_of_its_tokens_in_order(void **state) {
    truth *t = *state;
    static const uint32_t base[] = {0, 20, 29, 30, 31, 32, 61};
    for (size_t i = 0; i < sizeof base / sizeof *base; i++) {
        rig r = open_rig(t->file.file, plain);
        rig_batch b = {0};
        uint32_t token[N_NODES], wrong[N_TOKENS];
        make_tree(t, 0, base[i], token);
        if (base[i]) rig_feed(&r, 0, t->token[0], 0, base[i], 64, t->work);
        rig_add_tree(&b, 0, base[i], token, node_parent, N_NODES);
        rig_run(&r, &b);
        for (uint32_t k = 0; k < 4; k++) assert_row(&r, path[k], expected(t, 0, base[i] + k));
        memcpy(t->work, model_logits(r.model, 3), N_VOCAB * sizeof(float)); /* end of the wrong branch */
        float *in_order = t->work + N_VOCAB;
        memcpy(wrong, t->token[0], base[i] * sizeof *wrong);
        wrong[base[i]] = token[0], wrong[base[i] + 1] = token[1], wrong[base[i] + 2] = token[3];
        rig_feed(&r, 1, wrong, 0, base[i] + 3, 64, in_order);
        assert_memory_equal(t->work, in_order + (size_t)(base[i] + 2) * N_VOCAB, N_VOCAB * sizeof(float));
        rig_free(&r);
    }
}

static void after_the_accepted_path_is_compacted_the_sequence_goes_on_as_if_it_were_in_order(void **state) {
    truth *t = *state;
    static const uint32_t base[] = {5, 29, 30, 62};
    for (size_t i = 0; i < sizeof base / sizeof *base; i++) {
        rig r = open_rig(t->file.file, plain);
        rig_batch b = {0};
        uint32_t token[N_NODES], at = base[i];
        make_tree(t, 0, at, token);
        rig_feed(&r, 0, t->token[0], 0, at, 64, t->work);
        rig_add_tree(&b, 0, at, token, node_parent, N_NODES);
        rig_run(&r, &b);
        for (uint32_t k = 1; k < 4; k++) r.ops->kv_move(r.device, kv_store_view(r.kv), r.table[0], at + k, at + path[k]);
        rig_feed(&r, 0, t->token[0], at + 4, N_TOKENS, 3, t->work);
        assert_memory_equal(t->work, expected(t, 0, at + 4), (N_TOKENS - at - 4) * (size_t)N_VOCAB * sizeof(float));
        rig_free(&r);
    }
}

static void a_sequence_gives_the_same_logits_alone_and_among_others_with_trees(void **state) {
    truth *t = *state;
    uint32_t token[N_NODES];
    rig r = open_rig(t->file.file, (rig_options){.isa = "auto", .n_threads = 2});
    rig_feed(&r, 0, t->token[0], 0, 30, 64, t->work);
    rig_feed(&r, 2, t->token[2], 0, 50, 64, t->work);
    rig_batch b = {0};
    rig_add(&b, 2, t->token[2], 50, 51);
    rig_add(&b, 1, t->token[1], 0, 60);
    make_tree(t, 0, 30, token);
    rig_add_tree(&b, 0, 30, token, node_parent, N_NODES);
    rig_run(&r, &b);
    assert_row(&r, 0, expected(t, 2, 50));
    for (uint32_t p = 0; p < 60; p++) assert_row(&r, 1 + p, expected(t, 1, p));
    for (uint32_t k = 0; k < 4; k++) assert_row(&r, 61 + path[k], expected(t, 0, 30 + k));
    rig_free(&r);
}

typedef struct {
    const rig *r;
    uint32_t n_rows, n_calls;
    float logits[RIG_ROWS][N_VOCAB], *hidden; /* hidden: [n_rows][dim] */
} first_seen;

static void see_first(void *context) {
    first_seen *f = context;
    uint32_t dim = model_get_info(f->r->model)->dim;
    f->n_calls++;
    for (uint32_t i = 0; i < f->n_rows; i++) {
        memcpy(f->logits[i], model_logits(f->r->model, i), sizeof f->logits[i]);
        memcpy(f->hidden + (size_t)i * dim, model_hidden(f->r->model, i), dim * sizeof(float));
    }
}

/* 32 tokens and the wanted runs: 112 .. 127, and the last, of 8. */
static void the_first_logits_are_those_that_all_are_in_the_end(void **state) {
    truth *t = *state;
    const uint32_t wanted[] = {7, 12};
    first_seen *seen = calloc(1, sizeof *seen);
    rig r = open_rig(t->file.file, plain);
    uint32_t dim = model_get_info(r.model)->dim;
    assert_int_equal(model_first_tokens(r.model), 32);
    assert_non_null(seen);
    *seen = (first_seen){.r = &r, .n_rows = N_TOKENS, .hidden = calloc((size_t)N_TOKENS * dim, sizeof(float))};
    r.first = see_first;
    r.context = seen;
    r.n_wanted = 2;
    r.wanted = wanted;
    rig_feed(&r, 0, t->token[0], 0, N_TOKENS, N_TOKENS, t->work);
    assert_memory_equal(t->work, t->logits[0], (size_t)N_TOKENS * N_VOCAB * sizeof(float));
    assert_int_equal(seen->n_calls, 1);
    assert_memory_equal(seen->hidden, model_hidden(r.model, 0), (size_t)N_TOKENS * dim * sizeof(float));
    for (uint32_t i = 0; i < N_TOKENS; i++)
        for (uint32_t v = 0; v < N_VOCAB; v++)
            if (v < 32 || v / 16 == 7 || v / 16 == 12)
                assert_memory_equal(&seen->logits[i][v], &expected(t, 0, i)[v], sizeof(float));
            else
                assert_true(seen->logits[i][v] == 0); /* not computed yet */
    rig_free(&r);
    free(seen->hidden);
    free(seen);
}

static void only_the_chosen_rows_get_logits_in_their_order(void **state) {
    truth *t = *state;
    rig r = open_rig(t->file.file, plain);
    rig_batch b = {0};
    rig_add(&b, 0, t->token[0], 0, 40);
    const uint32_t choose[] = {3, 17, 39}, *blocks[] = {r.table[0]};
    model_batch batch = {.n_rows = b.n,
                         .token = b.token,
                         .position = b.position,
                         .slot = b.slot,
                         .parent = b.parent,
                         .sequence = b.sequence,
                         .blocks = blocks,
                         .n_choose = 3,
                         .choose = choose};
    assert_int_equal(ST_OK, model_run(r.model, r.kv, &batch, NULL));
    for (uint32_t i = 0; i < 3; i++) assert_row(&r, i, expected(t, 0, choose[i]));
    rig_free(&r);
}

/* Runs the first sequence on all ranks at once; the leader's logits must be `logits`. Returns the bytes of all shares. */
static size_t run_ranks(const truth *t, const model_file *f, const float *logits, uint32_t n_ranks, size_t *largest_share) {
    ranks all;
    rig_batch b = {0};
    size_t total = 0;
    ranks_open(&all, f, n_ranks, (rig_options){.isa = "auto", .n_threads = 1, .precision = precision});
    *largest_share = 0;
    for (uint32_t k = 0; k < n_ranks; k++) {
        size_t share = model_weight_bytes(all.r[k].model);
        total += share;
        if (share > *largest_share) *largest_share = share;
    }
    rig_add(&b, 0, t->token[0], 0, N_TOKENS);
    ranks_run(&all, &b);
    assert_int_equal(4, all.n_sums); /* two a layer */
    for (uint32_t p = 0; p < N_TOKENS; p++) assert_row(&all.r[0], p, logits + (size_t)p * N_VOCAB);
    ranks_free(&all);
    return total;
}

static void units_split_over_ranks_give_the_same_logits_from_shares_of_the_weights(void **state) {
    truth *t = *state;
    size_t largest, whole;
    rig r = open_rig(t->file.file, plain);
    whole = model_weight_bytes(r.model);
    rig_free(&r);
    for (uint32_t n = 2; n <= 3; n++) {
        size_t total = run_ranks(t, t->file.file, t->logits[0], n, &largest);
        assert_true(total >= whole && total < whole + whole / 10); /* the one KV head is on each */
        assert_true(largest < (n == 2 ? whole * 4 / 5 : whole * 11 / 20));
    }
}

/* Two KV heads over three ranks: heads 0 and 1, head 2, head 3; the KV head of 2 and 3 is on two ranks. */
static void a_kv_head_is_held_by_each_rank_whose_query_heads_read_it(void **state) {
    truth *t = *state;
    tiny grouped = tiny_of(family);
    grouped.n_heads = 4;
    grouped.n_kv_heads = 2;
    tiny_file f = tiny_make(&grouped);
    rig r = open_rig(f.file, plain);
    size_t largest;
    rig_feed(&r, 0, t->token[0], 0, N_TOKENS, 1, t->work);
    rig_free(&r);
    for (uint32_t n = 2; n <= 3; n++) run_ranks(t, f.file, t->work, n, &largest);
    tiny_free(&f);
}

/* Changes only on purpose, in a commit of its own: docs/numerics.md, "Changing it". */
static void the_bits_of_the_logits_are_frozen(void **state) {
    truth *t = *state;
    static const struct {
        const char *family, *hash[2]; /* by precision */
    } frozen[] = {{"llama",
                   {"13a277c0b247cda0eee006383099264a12ad66c5c67d2d3f4f318e7535b75033",
                    "b7da1ef466b91152494ae9b7997abd17285d90c666977b2a8aa3b45d86885dad"}},
                  {"qwen2",
                   {"21afc0c9fdc53f2fa9c245f2e0cec538ced3bd0473398635ddcbbad9530d3038",
                    "c5ffa85cc2680b6577b6e0f6417491043fb9906ba52e016ef23c6c2a39721f68"}},
                  {"qwen3",
                   {"0d25c3a619fffb00b74ac9a0a9469efb68ddacc3bb79ec758fa2f646dfe74238",
                    "6a1fa0ae054c0fa2dafde075772198c157f9e02db058e576b1c9e77837bdff3b"}},
                  {"gemma3",
                   {"087723e081a8f1fbfe089fc7a58ca5d42fddab54ab86511603bc051f8c0fd17f",
                    "c8e0c421dd5b7506d5a3de92bef580669d3bdf75d219e22fe75f36cad4afae14"}}};
    size_t row = 0;
    while (strcmp(frozen[row].family, family ? family : "llama")) row++;
    for (size_t i = 0; i < sizeof rig_isas / sizeof *rig_isas; i++) {
        const kernels_ops *ops;
        if (kernels_pick(rig_isas[i], &ops, NULL) != ST_OK) continue; /* not on this processor */
        uint8_t hash[SHA256_BYTES];
        char text[2 * SHA256_BYTES + 1];
        rig r = open_rig(t->file.file, (rig_options){.isa = rig_isas[i], .n_threads = 1});
        rig_feed(&r, 0, t->token[0], 0, N_TOKENS, 32, t->work);
        rig_free(&r);
        assert_int_equal(ST_OK, sha256_of(t->work, (size_t)N_TOKENS * N_VOCAB * sizeof(float), hash));
        sha256_hex(hash, text);
        assert_string_equal(frozen[row].hash[precision], text);
    }
}

static void more_ranks_than_units_are_refused(void **state) {
    truth *t = *state;
    parallel_group g = {.ops = &ranks_ops, .n_ranks = 4};
    rig r;
    st_error e = {0};
    rig_options o = {.isa = "auto", .n_threads = 1, .group = &g};
    assert_int_equal(ST_ERR_UNSUPPORTED, rig_make(t->file.file, &o, &r, &e));
    assert_non_null(strstr(e.message, "at most 3 ranks"));
}

static st_code deadline(parallel_group *g, double *values, size_t n) {
    (void)g, (void)values, (void)n;
    return ST_ERR_DEADLINE;
}

static void a_failed_all_reduce_ends_the_step_with_its_code(void **state) {
    truth *t = *state;
    static const parallel_group_ops late = {.name = "late", .all_reduce = deadline};
    parallel_group g = {.ops = &late, .rank = 0, .n_ranks = 2};
    rig r = open_rig(t->file.file, (rig_options){.isa = "auto", .n_threads = 1, .group = &g});
    rig_batch b = {0};
    st_error e = {0};
    rig_add(&b, 0, t->token[0], 0, 3);
    assert_int_equal(ST_ERR_DEADLINE, rig_try(&r, &b, &e));
    assert_non_null(strstr(e.message, "2 ranks"));
    rig_free(&r);
}

/* The embedding of token POISON holds an infinity. */
static void what_is_not_finite_stays_in_its_own_sequence(void **state) {
    truth *t = *state;
    tiny poisoned = tiny_of(family);
    poisoned.poison = "token_embd.weight";
    tiny_file f = tiny_make(&poisoned);
    rig r = open_rig(f.file, (rig_options){.isa = "auto", .n_threads = 2});
    uint32_t bad[6] = {1, 2, POISON, 3, 4, 5}, layer;
    rig_batch b = {0};
    rig_add(&b, 0, t->token[0], 0, 30);
    rig_add(&b, 1, bad, 0, 5);
    rig_add(&b, 2, t->token[2], 0, 40);
    rig_run(&r, &b);
    for (uint32_t p = 0; p < 30; p++) assert_row(&r, p, expected(t, 0, p));
    for (uint32_t p = 0; p < 40; p++) assert_row(&r, 35 + p, expected(t, 2, p));
    assert_false(model_row_bad(r.model, 30, &layer));
    assert_false(model_row_bad(r.model, 31, &layer));
    for (uint32_t i = 32; i < 35; i++) {
        assert_true(model_row_bad(r.model, i, &layer));
        assert_int_equal(0, layer);
    }
    rig_batch later = {0}; /* through the KV of an earlier step */
    rig_add(&later, 1, bad, 5, 6);
    rig_add(&later, 0, t->token[0], 30, 31);
    rig_run(&r, &later);
    assert_true(model_row_bad(r.model, 0, &layer));
    assert_row(&r, 1, expected(t, 0, 30));
    rig_free(&r);
    tiny_free(&f);
}

static void a_bad_row_names_the_layer_where_it_began(void **state) {
    truth *t = *state;
    static const struct {
        const char *tensor;
        uint32_t layer;
    } cases[] = {{"blk.0.ffn_norm.weight", 0}, {"blk.1.attn_norm.weight", 1}, {"output.weight", 2}};
    for (size_t i = 0; i < 3; i++) {
        tiny poisoned = tiny_of(family);
        poisoned.poison = cases[i].tensor;
        tiny_file f = tiny_make(&poisoned);
        rig r = open_rig(f.file, plain);
        rig_batch b = {0};
        uint32_t layer = UINT32_MAX;
        rig_add(&b, 0, t->token[0], 0, 3);
        rig_run(&r, &b);
        for (uint32_t row = 0; row < 3; row++) {
            assert_true(model_row_bad(r.model, row, &layer));
            assert_int_equal(cases[i].layer, layer);
        }
        rig_free(&r);
        tiny_free(&f);
    }
}

static void batches_that_do_not_add_up_are_refused_by_row(void **state) {
    truth *t = *state;
    rig r = open_rig(t->file.file, plain);
    rig_batch good = {0};
    rig_add(&good, 0, t->token[0], 0, 5);
    for (int i = 0; i < 8; i++) {
        rig_batch b = good;
        st_error e = {0};
        switch (i) {
        case 0: b.token[2] = N_VOCAB; break;
        case 1: b.position[2] = 1; break;
        case 2: b.parent[2] = 2; break;
        case 3: b.slot[2] = 1; break;
        case 4: b.sequence[2] = 1; break;
        case 5: b.parent[2] = MODEL_NO_PARENT, b.slot[2] = 3; break;
        case 6: b.choose[2] = 1; break;
        default: b.choose[4] = 5; break;
        }
        assert_int_equal(ST_ERR_INVALID_ARGUMENT, rig_try(&r, &b, &e));
        assert_non_null(strstr(e.message, i < 6 ? "row 2" : "choice"));
    }
    rig_batch empty = {0};
    assert_int_equal(ST_ERR_INVALID_ARGUMENT, rig_try(&r, &empty, NULL));
    rig_free(&r);
}

static void a_tree_deeper_than_the_limit_is_refused_and_the_deepest_runs(void **state) {
    truth *t = *state;
    rig r = open_rig(t->file.file, plain);
    uint32_t token[RIG_ROWS] = {0}, parent[RIG_ROWS] = {0};
    for (uint32_t i = 2; i < RIG_ROWS; i++) parent[i] = i == 2 ? 0 : i - 1; /* node 1 stands aside: all others are shifted */
    rig_batch b = {0}, deeper = {0};
    rig_add_tree(&b, 0, 0, token, parent, NOUNS_MAX_TREE + 1);
    rig_run(&r, &b);
    rig_add_tree(&deeper, 0, 0, token, parent, NOUNS_MAX_TREE + 4);
    assert_int_equal(ST_ERR_INVALID_ARGUMENT, rig_try(&r, &deeper, NULL));
    rig_free(&r);
    (void)t;
}

/* Head size 16: a unit is two heads. Tied head; grouped KV heads. */
static void small_heads_share_a_unit_and_a_tied_head_works(void **state) {
    (void)state;
    tiny small = {.n_layers = 3,
                  .n_heads = 4,
                  .n_kv_heads = 2,
                  .head_dim = 16,
                  .dim = 64,
                  .ffn_dim = 96,
                  .n_vocab = N_VOCAB,
                  .max_context = 128,
                  .tied = true,
                  .seed = 3};
    tiny_file f = tiny_make(&small);
    rig a = open_rig(f.file, plain), b = open_rig(f.file, (rig_options){.isa = "auto", .n_threads = 3});
    uint32_t token[40];
    float *x = calloc(40 * N_VOCAB, sizeof *x), *y = calloc(40 * N_VOCAB, sizeof *y);
    assert_true(x && y);
    for (uint32_t i = 0; i < 40; i++) token[i] = i * 29 % N_VOCAB;
    rig_feed(&a, 0, token, 0, 40, 1, x);
    rig_feed(&b, 3, token, 0, 40, 40, y);
    assert_memory_equal(x, y, 40 * N_VOCAB * sizeof *x);
    assert_memory_not_equal(x, x + N_VOCAB, N_VOCAB * sizeof *x);
    free(x);
    free(y);
    rig_free(&a);
    rig_free(&b);
    tiny_free(&f);
}

static void loading_survives_any_failed_allocation(void **state) {
    truth *t = *state;
    st_code c = ST_FATAL_MEMORY;
    uint64_t n = 0;
    while (c != ST_OK) {
        rig r;
        st_error e = {0};
        mem_fail_at(++n);
        c = rig_make(t->file.file, &plain, &r, &e);
        mem_fail_at(0);
        if (c == ST_OK)
            rig_free(&r);
        else
            assert_int_equal(ST_FATAL_MEMORY, c);
        assert_true(n < 1000);
    }
    assert_true(n > 20);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(logits_depend_on_all_tokens_before),
        cmocka_unit_test(a_prompt_gives_the_same_logits_in_chunks_of_any_size),
        cmocka_unit_test(threads_and_instruction_sets_give_the_same_logits),
        cmocka_unit_test(the_kv_type_changes_the_logits_and_each_holds_chunking_too),
        cmocka_unit_test(a_branch_of_a_draft_tree_gives_the_logits_of_its_tokens_in_order),
        cmocka_unit_test(after_the_accepted_path_is_compacted_the_sequence_goes_on_as_if_it_were_in_order),
        cmocka_unit_test(a_sequence_gives_the_same_logits_alone_and_among_others_with_trees),
        cmocka_unit_test(only_the_chosen_rows_get_logits_in_their_order),
        cmocka_unit_test(the_first_logits_are_those_that_all_are_in_the_end),
        cmocka_unit_test(units_split_over_ranks_give_the_same_logits_from_shares_of_the_weights),
        cmocka_unit_test(a_kv_head_is_held_by_each_rank_whose_query_heads_read_it),
        cmocka_unit_test(the_bits_of_the_logits_are_frozen),
        cmocka_unit_test(more_ranks_than_units_are_refused),
        cmocka_unit_test(a_failed_all_reduce_ends_the_step_with_its_code),
        cmocka_unit_test(what_is_not_finite_stays_in_its_own_sequence),
        cmocka_unit_test(a_bad_row_names_the_layer_where_it_began),
        cmocka_unit_test(batches_that_do_not_add_up_are_refused_by_row),
        cmocka_unit_test(a_tree_deeper_than_the_limit_is_refused_and_the_deepest_runs),
        cmocka_unit_test(small_heads_share_a_unit_and_a_tied_head_works),
        cmocka_unit_test(loading_survives_any_failed_allocation),
    };
    /* What a family's own steps could break. */
    const struct CMUnitTest each[] = {
        cmocka_unit_test(threads_and_instruction_sets_give_the_same_logits),
        cmocka_unit_test(a_sequence_gives_the_same_logits_alone_and_among_others_with_trees),
        cmocka_unit_test(units_split_over_ranks_give_the_same_logits_from_shares_of_the_weights),
        cmocka_unit_test(a_kv_head_is_held_by_each_rank_whose_query_heads_read_it),
        cmocka_unit_test(the_bits_of_the_logits_are_frozen),
        cmocka_unit_test(what_is_not_finite_stays_in_its_own_sequence),
    };
    static const char *const families[] = {"qwen2", "qwen3", "gemma3"};
    int failed = 0;
    for (precision = KERNELS_FAST; precision <= KERNELS_FP32; precision++) {
        family = NULL;
        failed += cmocka_run_group_tests_name("llama", all, set_up, tear_down);
        for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
            family = families[i];
            failed += cmocka_run_group_tests_name(family, each, set_up, tear_down);
        }
    }
    return failed;
}
