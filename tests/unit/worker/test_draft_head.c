/* The head drafter against the formula in plain loops, over a small file of float weights that the test writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/mem.h"
#include "tests/unit/model_text/gguf_writer.h"
#include "worker/draft_head.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DIM = 32, FFN = 64, IDS = 20, VOCAB = 100, MAX_SEQ = 40, F32 = 0, CHILDREN = 4, BUDGETS = 16 };

typedef struct {
    uint32_t id[IDS];
    float o[IDS][DIM], l[DIM][2 * DIM], a[FFN][2 * DIM], b[FFN][2 * DIM], c[DIM][FFN];
} weights;

typedef struct {
    weights w;
    gguf g;
    model_file *file;
    const kernels_ops *ops;
    kernels_device *device;
    spec_drafter *drafter;
    draft_head_info info;
} rig;

static void fill(float *x, size_t n, float size) {
    for (size_t i = 0; i < n; i++) x[i] = size * (2 * (float)rand() / (float)RAND_MAX - 1);
}

static void make_weights(weights *w) {
    srand(7);
    for (uint32_t i = 0; i < IDS; i++) w->id[i] = 2 + 4 * i + i % 3;
    fill(w->o[0], IDS * DIM, 0.7f);
    fill(w->l[0], 2 * DIM * DIM, 0.1f);
    fill(w->a[0], 2 * DIM * FFN, 0.3f);
    fill(w->b[0], 2 * DIM * FFN, 0.3f);
    fill(w->c[0], FFN * DIM, 0.1f); /* so that states stay about as large as they are */
    for (uint32_t i = 0; i < DIM; i++) w->l[i][i] += 0.8f;
}

/* What a test may get wrong in the file. */
typedef struct {
    const char *architecture, *hash, *missing;
    uint32_t n_ids, bad_id;
} mistakes;

static void write_file(gguf *g, const weights *w, const mistakes *m) {
    static const char hash[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const struct {
        const char *name;
        const float *values;
        uint64_t rows, cols;
    } tensors[] = {{"output.weight", w->o[0], IDS, DIM},
                   {"linear.weight", w->l[0], DIM, 2 * DIM},
                   {"ffn_gate.weight", w->a[0], FFN, 2 * DIM},
                   {"ffn_up.weight", w->b[0], FFN, 2 * DIM},
                   {"ffn_down.weight", w->c[0], DIM, FFN}};
    uint64_t offset = 0;
    uint32_t n_ids = m->n_ids ? m->n_ids : IDS;
    g->n = 0;
    w_header(g, 3, 5, 6);
    w_key_text(g, "general.architecture", m->architecture ? m->architecture : "recurrent-head");
    w_key_u32(g, "recurrent-head.embedding_length", DIM);
    w_key_u32(g, "recurrent-head.feed_forward_length", FFN);
    w_key_u32(g, "recurrent-head.vocab_size", VOCAB);
    w_key_text(g, "recurrent-head.vocabulary_hash", m->hash ? m->hash : hash);
    w_array(g, "recurrent-head.token_ids", MODEL_I32, n_ids);
    for (uint32_t i = 0; i < n_ids; i++) w_u32(g, m->bad_id && i == 3 ? m->bad_id : w->id[i]);
    for (size_t i = 0; i < 5; i++) {
        const char *name = m->missing && !strcmp(m->missing, tensors[i].name) ? "other" : tensors[i].name;
        w_tensor(g, name, 2, (uint64_t[]){tensors[i].cols, tensors[i].rows}, F32, offset);
        offset += tensors[i].rows * tensors[i].cols * sizeof(float);
    }
    w_pad(g, 32, 0);
    for (size_t i = 0; i < 5; i++) w_bytes(g, tensors[i].values, tensors[i].rows * tensors[i].cols * sizeof(float));
}

static st_code create(rig *r, const mistakes *m, float floor, st_error *e) {
    write_file(&r->g, &r->w, m);
    assert_int_equal(model_file_over("head.gguf", r->g.bytes, r->g.n, &r->file, e), ST_OK);
    draft_head_options o = {r->ops, r->device, r->file, KERNELS_FAST, MAX_SEQ, floor};
    return draft_head_create(&o, &r->info, &r->drafter, e);
}

static int make_rig(void **state) {
    rig *r = *state = mem_alloc(1, sizeof *r);
    make_weights(&r->w);
    assert_int_equal(kernels_pick(NULL, &r->ops, NULL), ST_OK);
    assert_int_equal(r->ops->create(2, &r->device, NULL), ST_OK);
    return 0;
}

static void drop_drafter(rig *r) {
    if (r->drafter) r->drafter->ops->destroy(r->drafter);
    model_file_close(r->file);
    r->drafter = NULL;
    r->file = NULL;
}

static int free_rig(void **state) {
    rig *r = *state;
    drop_drafter(r);
    r->ops->destroy(r->device);
    mem_free(r);
    return 0;
}

/* ---- the formula ---- */

static float dot(const float *a, const float *b, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return (float)sum;
}

/* h becomes h'; p[IDS] */
static void step(const weights *w, float *h, uint32_t token, double *p) {
    float z[2 * DIM] = {0}, x[FFN], next[DIM];
    double sum = 0;
    memcpy(z, h, DIM * sizeof *z);
    for (uint32_t i = 0; i < IDS; i++)
        if (w->id[i] == token) memcpy(z + DIM, w->o[i], DIM * sizeof *z);
    for (uint32_t i = 0; i < FFN; i++) {
        float gate = dot(w->a[i], z, 2 * DIM);
        x[i] = gate / (1 + expf(-gate)) * dot(w->b[i], z, 2 * DIM);
    }
    for (uint32_t i = 0; i < DIM; i++) next[i] = dot(w->l[i], z, 2 * DIM) + dot(w->c[i], x, FFN);
    for (uint32_t i = 0; i < IDS; i++) sum += p[i] = exp((double)dot(w->o[i], next, DIM));
    for (uint32_t i = 0; i < IDS; i++) p[i] /= sum;
    memcpy(h, next, sizeof next);
}

/* Beliefs in what follows `node` of the tree; NOUNS_TREE_ROOT: its root. */
static void believe(const weights *w, const spec_draft *it, uint32_t node, double *p) {
    uint32_t path[NOUNS_MAX_TREE], n = 0;
    float h[DIM];
    for (uint32_t i = 0; i < DIM; i++) h[i] = half_to_float(it->hidden.f16[i]);
    for (; node != NOUNS_TREE_ROOT; node = it->tree->parent[node]) path[n++] = it->tree->token[node];
    for (uint32_t i = it->n_tokens - 1; i < spec_draft_end(it); i++) step(w, h, it->tokens[i], p);
    while (n) step(w, h, path[--n], p);
}

static double path_of(const spec_tree *t, uint32_t node) {
    double p = 1;
    for (; node != NOUNS_TREE_ROOT; node = t->parent[node]) p *= (double)t->probability[node];
    return p;
}

static uint32_t depth_of(const spec_tree *t, uint32_t node) {
    uint32_t depth = 0;
    for (; node != NOUNS_TREE_ROOT; node = t->parent[node]) depth++;
    return depth;
}

static uint32_t n_children(const spec_tree *t, uint32_t parent) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n; i++) n += t->parent[i] == parent;
    return n;
}

/* Only the four likeliest of a depth are given children. */
static bool may_have_children(const spec_tree *t, uint32_t node) {
    uint32_t n_likelier = 0;
    for (uint32_t i = 0; i < t->n && node != NOUNS_TREE_ROOT; i++)
        n_likelier += depth_of(t, i) == depth_of(t, node) && path_of(t, i) > path_of(t, node);
    return n_likelier < CHILDREN;
}

/* Each node has its probability, and no child of a node of the tree that is left out is likelier than one that is in. */
static void check_tree(const weights *w, const spec_draft *it, uint32_t budget) {
    const spec_tree *t = it->tree;
    double least = 1;
    assert_true(spec_tree_check(t, budget));
    assert_int_equal(t->n, budget);
    for (uint32_t i = 0; i < t->n; i++)
        if (path_of(t, i) < least) least = path_of(t, i);
    for (uint32_t parent = NOUNS_TREE_ROOT, k = 0; k <= t->n; parent = k++) {
        double p[IDS], above = path_of(t, parent);
        token_tree view = spec_tree_view(t);
        if (!may_have_children(t, parent)) continue;
        believe(w, it, parent, p);
        for (uint32_t i = 0; i < IDS; i++) {
            uint32_t node = spec_tree_child(&view, parent, w->id[i]);
            if (node == NOUNS_TREE_ROOT)
                assert_true(above * p[i] <= least * 1.001 || n_children(t, parent) == CHILDREN);
            else
                assert_true(fabs(p[i] - (double)t->probability[node]) < 1e-3 * p[i]);
        }
    }
}

static const uint16_t *random_state(void) {
    static uint16_t h[DIM];
    float x[DIM];
    fill(x, DIM, 1);
    for (uint32_t i = 0; i < DIM; i++) h[i] = half_of_float(x[i]);
    return h;
}

static void a_draft_is_the_likeliest_tree_by_the_formula(void **state) {
    rig *r = *state;
    st_error e = {0};
    if (create(r, &(mistakes){0}, 0, &e)) fail_msg("%s", e.message);
    assert_int_equal(r->info.dim, DIM);
    assert_int_equal(r->info.n_vocab, VOCAB);
    assert_int_equal(r->info.vocabulary_hash[1], 0x11);
    assert_int_equal(r->info.vocabulary_hash[31], 0xff);
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t tokens[3] = {1, 2, i % VOCAB}, budget = 1 + i % BUDGETS; /* some have a row of their own, most have not */
        spec_tree t;
        spec_draft it = {.seq = {1 + i % 3}, .tokens = tokens, .n_tokens = 3, .n_new = 1, .budget = budget, .tree = &t};
        it.hidden = (hidden_states){DIM, random_state()};
        if (r->drafter->ops->draft(r->drafter, &it, 1, &e)) fail_msg("%s", e.message);
        check_tree(&r->w, &it, budget);
    }
}

static void many_sequences_at_once_are_drafted_as_each_alone(void **state) {
    rig *r = *state;
    st_error e = {0};
    static uint16_t hidden[MAX_SEQ][DIM];
    static spec_tree trees[MAX_SEQ];
    uint32_t tokens[MAX_SEQ][2];
    spec_draft items[MAX_SEQ];
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    for (uint32_t i = 0; i < MAX_SEQ; i++) {
        memcpy(hidden[i], random_state(), sizeof hidden[i]);
        tokens[i][1] = tokens[i][0] = i;
        items[i] = (spec_draft){.seq = {1 + i}, .tokens = tokens[i], .n_tokens = 2, .n_new = 1, .tree = &trees[i]};
        items[i].budget = i % BUDGETS; /* 0: none */
        if (i % 7) items[i].hidden = (hidden_states){DIM, hidden[i]};
    }
    if (r->drafter->ops->draft(r->drafter, items, MAX_SEQ, &e)) fail_msg("%s", e.message);
    for (uint32_t i = 0; i < MAX_SEQ; i++) {
        if (i % 7 == 0 || i % BUDGETS == 0)
            assert_int_equal(trees[i].n, 0);
        else
            check_tree(&r->w, &items[i], items[i].budget);
    }
}

/* Its own states stand for the target's, where no one knows those: one pass a tentative token, for all sequences at once. */
static void a_draft_behind_tentative_tokens_goes_on_from_its_own_states(void **state) {
    rig *r = *state;
    st_error e = {0};
    static uint16_t hidden[MAX_SEQ][DIM];
    static spec_tree trees[MAX_SEQ];
    uint32_t tokens[MAX_SEQ][7];
    spec_draft items[MAX_SEQ];
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    for (uint32_t i = 0; i < MAX_SEQ; i++) {
        memcpy(hidden[i], random_state(), sizeof hidden[i]);
        for (uint32_t k = 0; k < 7; k++) tokens[i][k] = (7 * i + 5 * k) % VOCAB; /* some have a row of their own, most have not */
        items[i] = (spec_draft){.seq = {1 + i}, .tokens = tokens[i], .n_tokens = 2, .n_tentative = i % 6, .n_new = 1};
        items[i].tree = &trees[i];
        items[i].budget = 1 + i % BUDGETS;
        items[i].hidden = (hidden_states){DIM, hidden[i]};
    }
    if (r->drafter->ops->draft(r->drafter, items, MAX_SEQ, &e)) fail_msg("%s", e.message);
    for (uint32_t i = 0; i < MAX_SEQ; i++) check_tree(&r->w, &items[i], items[i].budget);
}

/* As the target's noise at that position has it: behind one more token it is another. */
static void the_noise_behind_tentative_tokens_is_that_of_their_positions(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t tokens[4] = {2, 5, 2, 2}, n_other = 0;
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    for (uint32_t i = 0; i < 50; i++) {
        spec_tree t;
        double p[IDS];
        spec_belief b[IDS];
        spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = 2, .n_tentative = 2, .budget = 1, .tree = &t};
        it.hidden = (hidden_states){DIM, random_state()};
        it.sampling = (sampling){.temperature = 1.5f, .top_p = 1, .seed = i};
        assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        believe(&r->w, &it, NOUNS_TREE_ROOT, p);
        for (uint32_t k = 0; k < IDS; k++) b[k] = (spec_belief){.token = r->w.id[k], .p = (float)p[k]};
        assert_true(spec_believe(b, IDS, &it.sampling, 4) == IDS);
        n_other += b[0].token != t.token[0];
    }
    assert_true(n_other < 5); /* the head looks at the 16 likeliest of 20 only */
}

static void a_node_under_the_floor_is_not_proposed(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t n_shorter = 0, tokens[1] = {2};
    assert_int_equal(create(r, &(mistakes){0}, 0.2f, &e), ST_OK);
    for (uint32_t i = 0; i < 50; i++) {
        spec_tree t;
        spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = 1, .n_new = 1, .budget = 4, .tree = &t};
        it.hidden = (hidden_states){DIM, random_state()};
        assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        for (uint32_t k = 0; k < t.n; k++) assert_true(path_of(&t, k) >= 0.1999);
        n_shorter += t.n < 4;
    }
    assert_true(n_shorter > 10 && n_shorter < 50);
}

/* At a temperature the first proposal is the largest of logit + T * gumbel: another one than without, often. */
static void a_temperature_changes_the_own_choice(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t n_other = 0, tokens[1] = {2};
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    for (uint32_t i = 0; i < 50; i++) {
        spec_tree cold, warm, again;
        spec_tree *trees[] = {&cold, &warm, &again};
        const uint16_t *h = random_state();
        for (uint32_t k = 0; k < 3; k++) {
            spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = 1, .n_new = 1, .budget = 3, .tree = trees[k]};
            it.hidden = (hidden_states){DIM, h};
            it.sampling = (sampling){.temperature = k ? 1.5f : 0, .top_p = 1, .seed = i};
            assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        }
        assert_memory_equal(warm.token, again.token, warm.n * sizeof *warm.token);
        n_other += warm.token[0] != cold.token[0];
    }
    assert_true(n_other > 5 && n_other < 50);
}

static void its_own_choice_is_promised_even_where_it_is_under_the_floor(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t tokens[60] = {2}, n_hits = 0;
    assert_int_equal(create(r, &(mistakes){0}, 0.99f, &e), ST_OK);
    for (uint32_t n = 1; n < 60; n++) {
        spec_tree t;
        double p[IDS];
        spec_draft it = {.seq = {1}, .tokens = tokens, .n_tokens = n, .n_new = 1, .budget = 3, .tree = &t};
        it.hidden = (hidden_states){DIM, random_state()};
        assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
        assert_int_equal(t.n, 0);
        assert_int_equal(it.n_scored, n > 1);
        n_hits += it.n_hits;
        believe(&r->w, &it, NOUNS_TREE_ROOT, p);
        uint32_t best = 0;
        for (uint32_t i = 1; i < IDS; i++)
            if (p[i] > p[best]) best = i;
        tokens[n] = r->w.id[n % 2 ? best : (best + 1) % IDS];
    }
    assert_int_equal(n_hits, 29);
}

static spec_draft next_round(rig *r, const uint32_t *tokens, uint32_t n, uint32_t n_new, spec_tree *t) {
    st_error e = {0};
    spec_draft it = {.seq = {9}, .tokens = tokens, .n_tokens = n, .n_new = n_new, .budget = 1, .tree = t};
    it.hidden = (hidden_states){DIM, random_state()};
    assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
    return it;
}

static void it_is_scored_on_what_it_promised(void **state) {
    rig *r = *state;
    st_error e = {0};
    spec_tree t;
    uint32_t tokens[8] = {2};
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    spec_draft it = next_round(r, tokens, 1, 1, &t);
    assert_int_equal(it.n_scored, 0); /* it had promised nothing */
    tokens[1] = t.token[0];
    tokens[2] = 5;
    it = next_round(r, tokens, 3, 2, &t);
    assert_int_equal(it.n_scored, 1); /* of the second it had said nothing */
    assert_int_equal(it.n_hits, 1);
    tokens[3] = t.token[0] + 1;
    it = next_round(r, tokens, 4, 1, &t);
    assert_int_equal(it.n_scored, 1);
    assert_int_equal(it.n_hits, 0);
    spec_draft follow = {.seq = {9}, .tokens = tokens, .n_tokens = 4, .budget = 0, .tree = &t};
    follow.hidden = (hidden_states){DIM, random_state()};
    assert_int_equal(r->drafter->ops->draft(r->drafter, &follow, 1, &e), ST_OK);
    assert_int_equal(t.n, 0); /* nobody asked, but it has promised */
    tokens[4] = 5;
    it = next_round(r, tokens, 5, 1, &t);
    assert_int_equal(it.n_scored, 1);
    r->drafter->ops->close(r->drafter, (seq_id){9});
    it = next_round(r, tokens, 6, 1, &t);
    assert_int_equal(it.n_scored, 0);
}

/* The reference is never asked ahead. Where the other was asked ahead and nothing else, it has promised one token. */
static void what_it_promised_behind_committed_tokens_outlives_tentative_ones(void **state) {
    rig *r = *state;
    st_error e = {0};
    uint32_t tokens[128] = {2}, n = 1, n_new = 1, n_scored = 0, n_hits = 0;
    bool only_ahead = false;
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    for (uint32_t round = 0; n < 120; round++) {
        spec_tree plain_tree, tree;
        spec_draft plain = {.seq = {1}, .tokens = tokens, .n_tokens = n, .n_new = n_new, .budget = 4, .tree = &plain_tree}, it;
        plain.hidden = (hidden_states){DIM, random_state()};
        it = plain;
        it.seq.value = 2, it.tree = &tree;
        assert_int_equal(r->drafter->ops->draft(r->drafter, &plain, 1, &e), ST_OK);
        for (uint32_t k = round % 3 == 0; k < 2 + round % 2; k++) { /* as the reference, unless left out; then ahead */
            tokens[n] = 5, tokens[n + 1] = 17 + k;
            it.n_tentative = k ? 2 : 0;
            assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
            assert_int_equal(it.n_scored, !it.n_new ? 0 : only_ahead ? 1 : plain.n_scored);
            assert_int_equal(it.n_hits, !it.n_new ? 0 : only_ahead ? plain.n_hits > 0 : plain.n_hits);
            it.n_new = 0;
        }
        only_ahead = round % 3 == 0;
        n_scored += plain.n_scored, n_hits += plain.n_hits;
        token_tree view = spec_tree_view(&plain_tree);
        tokens[n] = plain_tree.token[0] + (round % 4 == 1);
        tokens[n + 1] = 9;
        for (uint32_t i = plain_tree.n; i-- > 0;) /* its first child is the own choice behind it */
            if (plain_tree.parent[i] == spec_tree_child(&view, NOUNS_TREE_ROOT, tokens[n])) tokens[n + 1] = plain_tree.token[i];
        n_new = 1 + round % 2;
        n += n_new;
    }
    assert_true(n_scored > 80 && n_hits > n_scored / 2 && n_hits < n_scored);
    spec_tree tree;
    assert_int_equal(next_round(r, tokens, n - 1, n - 1, &tree).n_scored, 0);
    assert_int_equal(next_round(r, tokens, n, 1, &tree).n_scored, 1); /* promises have not taken all places */
}

static void a_state_that_is_not_finite_gets_no_draft(void **state) {
    rig *r = *state;
    st_error e = {0};
    spec_tree t;
    uint32_t tokens[1] = {2};
    uint16_t h[DIM] = {0x7c00};
    assert_int_equal(create(r, &(mistakes){0}, 0, &e), ST_OK);
    spec_draft it = {.seq = {9}, .tokens = tokens, .n_tokens = 1, .n_new = 1, .budget = 4, .tree = &t, .hidden = {DIM, h}};
    assert_int_equal(r->drafter->ops->draft(r->drafter, &it, 1, &e), ST_OK);
    assert_int_equal(t.n, 0);
}

static void a_file_that_is_no_head_is_refused_by_what_is_wrong(void **state) {
    rig *r = *state;
    const struct {
        mistakes m;
        const char *says;
    } cases[] = {
        {{.architecture = "llama"}, "head.gguf: general.architecture: 'llama'; a drafter of kind head needs recurrent-head"},
        {{.hash = "0011"}, "head.gguf: recurrent-head.vocabulary_hash: expected 64 digits of lower hexadecimal"},
        {{.missing = "ffn_up.weight"}, "head.gguf: there is no tensor ffn_up.weight"},
        {{.n_ids = IDS - 1}, "head.gguf: output.weight: 20 rows of 32, expected 19 of 32"},
        {{.bad_id = 1}, "head.gguf: recurrent-head.token_ids[3]: 1; expected ascending ids under 100"},
        {{.bad_id = 100}, "head.gguf: recurrent-head.token_ids[3]: 100; expected ascending ids under 100"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        st_error e = {0};
        assert_int_not_equal(create(r, &cases[i].m, 0, &e), ST_OK);
        assert_string_equal(e.message, cases[i].says);
        assert_null(r->drafter);
        drop_drafter(r);
    }
}

int main(void) {
#define WITH_RIG(test) cmocka_unit_test_setup_teardown(test, make_rig, free_rig)
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_draft_is_the_likeliest_tree_by_the_formula),
        WITH_RIG(many_sequences_at_once_are_drafted_as_each_alone),
        WITH_RIG(a_draft_behind_tentative_tokens_goes_on_from_its_own_states),
        WITH_RIG(the_noise_behind_tentative_tokens_is_that_of_their_positions),
        WITH_RIG(a_node_under_the_floor_is_not_proposed),
        WITH_RIG(a_temperature_changes_the_own_choice),
        WITH_RIG(its_own_choice_is_promised_even_where_it_is_under_the_floor),
        WITH_RIG(it_is_scored_on_what_it_promised),
        WITH_RIG(what_it_promised_behind_committed_tokens_outlives_tentative_ones),
        WITH_RIG(a_state_that_is_not_finite_gets_no_draft),
        WITH_RIG(a_file_that_is_no_head_is_refused_by_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
