/* Plans and results: their bytes, and what is refused in them. */
#include "wire_test.h"

#include <math.h>

/* ---- random ones ---- */
static sampling random_sampling(source *s) {
    return (sampling){.temperature = 5 * unit(s),
                      .top_p = unit(s),
                      .min_p = unit(s),
                      .top_k = any32(s),
                      .seed = any64(s),
                      .sample = below(s, 4),
                      .typical_p = unit(s),
                      .repetition = 10 * unit(s),
                      .presence = 4 * unit(s) - 2,
                      .frequency = 4 * unit(s) - 2};
}

static token_rules random_rules(source *s, arena *a) {
    uint32_t n_ends = below(s, 2) ? below(s, PROTO_MAX_ENDS + 1) : 0, n_bias = below(s, 2) ? below(s, PROTO_MAX_BIAS + 1) : 0;
    return (token_rules){.min_tokens = below(s, 2) ? any32(s) : 0,
                         .n_ends = n_ends,
                         .n_bias = n_bias,
                         .ends = some32(s, a, n_ends),
                         .bias_token = some32(s, a, n_bias),
                         .bias = some_bias(s, a, n_bias),
                         .logprobs = below(s, PROTO_MAX_TOP_LOGPROBS + 2),
                         .hidden = below(s, 2)};
}

static token_tree random_tree(source *s, arena *a) {
    uint32_t n = below(s, NOUNS_MAX_TREE + 1);
    uint32_t *parent = arena_alloc(a, n, sizeof *parent);
    float *probability = below(s, 2) && n ? arena_alloc(a, n, sizeof *probability) : NULL;
    for (uint32_t i = 0; i < n; i++) {
        parent[i] = below(s, i + 1) ? below(s, i) : NOUNS_TREE_ROOT;
        if (probability) probability[i] = unit(s);
    }
    return (token_tree){.n_nodes = n, .token = some32(s, a, n), .parent = parent, .probability = probability};
}

static proto_plan random_plan(source *s, arena *a) {
    uint32_t n_close = below(s, 20), n_open = below(s, 8), n_work = below(s, below(s, 8) ? 16 : PROTO_MAX_PLAN_SEQUENCES + 1);
    seq_id *close = arena_alloc(a, n_close, sizeof *close);
    proto_open *open = arena_alloc(a, n_open, sizeof *open);
    proto_work *work = arena_alloc(a, n_work, sizeof *work);
    assert_true(close && open && work);
    for (uint32_t i = 0; i < n_close; i++) close[i].value = 1 + any64(s) / 2;
    for (uint32_t i = 0; i < n_open; i++) {
        uint32_t n = 1 + below(s, 600);
        open[i] = (proto_open){.seq = {1 + any64(s) / 2},
                               .seq_epoch = any32(s),
                               .sampling = random_sampling(s),
                               .rules = random_rules(s, a),
                               .n_tokens = n,
                               .tokens = some32(s, a, n),
                               .n_answered = below(s, n)};
    }
    for (uint32_t i = 0; i < n_work; i++) {
        uint32_t n = below(s, 9);
        block_id *blocks = arena_alloc(a, n, sizeof *blocks);
        for (uint32_t k = 0; k < n; k++) blocks[k] = (block_id){any32(s), any32(s)};
        work[i] = (proto_work){{1 + any64(s) / 2}, below(s, 4096), 1 + below(s, 512), n, blocks, random_tree(s, a)};
    }
    uint32_t n_swaps = below(s, 3) ? 0 : below(s, below(s, 2) ? 20 : NOUNS_MAX_SWAPS + 1);
    block_swap *swaps = arena_alloc(a, n_swaps, sizeof *swaps);
    assert_non_null(swaps);
    for (uint32_t i = 0; i < n_swaps; i++) swaps[i] = (block_swap){any32(s), any32(s), below(s, 2)};
    return (proto_plan){.id = 1 + any64(s) / 2,
                        .kind = PROTO_PLAN_STEP,
                        .n_swaps = n_swaps,
                        .swaps = swaps,
                        .n_close = n_close,
                        .n_open = n_open,
                        .n_work = n_work,
                        .close = close,
                        .open = open,
                        .work = work,
                        .early = below(s, 2)};
}

static proto_plan random_draft_plan(source *s, arena *a) {
    proto_plan p = random_plan(s, a);
    proto_draft *draft = arena_alloc(a, p.n_draft = below(s, below(s, 8) ? 16 : PROTO_MAX_PLAN_SEQUENCES + 1), sizeof *draft);
    assert_non_null(draft);
    p.kind = PROTO_PLAN_DRAFT;
    p.early = false;
    p.n_work = p.n_swaps = 0;
    for (uint32_t i = 0; i < p.n_draft; i++) {
        uint32_t n = below(s, 70);
        uint32_t ahead = below(s, 4) ? 0 : below(s, NOUNS_MAX_TREE + 1);
        draft[i] = (proto_draft){.seq = {1 + any64(s) / 2},
                                 .n_tokens = n,
                                 .tokens = some32(s, a, n),
                                 .budget = below(s, NOUNS_MAX_TREE + 1),
                                 .hidden = some_hidden(s, a, 1),
                                 .n_tentative = ahead,
                                 .tentative = some32(s, a, ahead)};
        draft[i].hidden_at_end = draft[i].hidden.f16 && ahead > 0 && below(s, 2);
    }
    p.draft = draft;
    return p;
}

/* ---- equality ---- */
static void assert_same_tree(const token_tree *a, const token_tree *b) {
    assert_same_numbers(a->token, a->n_nodes, b->token, b->n_nodes);
    assert_same_numbers(a->parent, a->n_nodes, b->parent, b->n_nodes);
    if (!a->n_nodes) return; /* no nodes have no probabilities */
    assert_int_equal(a->probability != NULL, b->probability != NULL);
    if (a->probability) assert_memory_equal(a->probability, b->probability, a->n_nodes * sizeof(float));
}

static void assert_same_work(const proto_work *a, const proto_work *b) {
    assert_int_equal(a->seq.value, b->seq.value);
    assert_int_equal(a->start, b->start);
    assert_int_equal(a->n_prefix, b->n_prefix);
    assert_int_equal(a->n_blocks, b->n_blocks);
    if (a->n_blocks) assert_memory_equal(a->blocks, b->blocks, a->n_blocks * sizeof *a->blocks);
    assert_same_tree(&a->tree, &b->tree);
}

static void assert_same_plan(const proto_plan *a, const proto_plan *b) {
    assert_int_equal(a->id, b->id);
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->n_close, b->n_close);
    if (a->n_close) assert_memory_equal(a->close, b->close, a->n_close * sizeof *a->close);
    assert_int_equal(a->n_open, b->n_open);
    for (uint32_t i = 0; i < a->n_open; i++) {
        assert_int_equal(a->open[i].seq.value, b->open[i].seq.value);
        assert_int_equal(a->open[i].seq_epoch, b->open[i].seq_epoch);
        assert_same_sampling(&a->open[i].sampling, &b->open[i].sampling);
        assert_same_rules(&a->open[i].rules, &b->open[i].rules);
        assert_int_equal(a->open[i].n_answered, b->open[i].n_answered);
        assert_same_numbers(a->open[i].tokens, a->open[i].n_tokens, b->open[i].tokens, b->open[i].n_tokens);
    }
    assert_int_equal(a->n_swaps, b->n_swaps);
    for (uint32_t i = 0; i < a->n_swaps; i++) {
        assert_int_equal(a->swaps[i].block, b->swaps[i].block);
        assert_int_equal(a->swaps[i].slot, b->swaps[i].slot);
        assert_int_equal(a->swaps[i].in, b->swaps[i].in);
    }
    assert_int_equal(a->n_work, b->n_work);
    for (uint32_t i = 0; i < a->n_work; i++) assert_same_work(&a->work[i], &b->work[i]);
    assert_int_equal(a->n_draft, b->n_draft);
    assert_int_equal(a->ahead, b->ahead);
    assert_int_equal(a->early, b->early);
    for (uint32_t i = 0; i < a->n_draft; i++) {
        assert_int_equal(a->draft[i].seq.value, b->draft[i].seq.value);
        assert_int_equal(a->draft[i].budget, b->draft[i].budget);
        assert_same_hidden(&a->draft[i].hidden, 1, &b->draft[i].hidden);
        assert_int_equal(a->draft[i].hidden_at_end, b->draft[i].hidden_at_end);
        assert_same_numbers(a->draft[i].tentative, a->draft[i].n_tentative, b->draft[i].tentative, b->draft[i].n_tentative);
        assert_same_numbers(a->draft[i].tokens, a->draft[i].n_tokens, b->draft[i].tokens, b->draft[i].n_tokens);
    }
}

static void a_plan_comes_back_as_it_went_with_the_same_bytes(void **state) {
    (void)state;
    source s = {1};
    for (int i = 0; i < 100; i++) {
        arena made = arena_for(1 << 18);
        proto_plan p = i % 2 ? random_draft_plan(&s, &made) : random_plan(&s, &made), back;
        proto_bytes b, again;
        st_error e = {0};
        assert_int_equal(proto_plan_encode(&p, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_plan_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same_plan(&p, &back);
        assert_int_equal(proto_plan_encode(&back, &again), ST_OK);
        assert_int_equal(b.n, again.n);
        assert_memory_equal(b.bytes, again.bytes, b.n);
        proto_bytes_free(&b);
        proto_bytes_free(&again);
        arena_deinit(&a);
        arena_deinit(&made);
    }
}

/* ---- one plan, to vary ---- */
static const uint32_t prompt[] = {1, 2, 300}, tree_token[] = {7, 8, 9}, tree_parent[] = {NOUNS_TREE_ROOT, 0, NOUNS_TREE_ROOT};
static const float tree_probability[] = {0.5f, 0.25f, 0.125f};
static const block_id blocks[] = {{5, 1}, {600, 2}};
static const seq_id closed[] = {{3}, {4}};

typedef struct {
    proto_open open;
    proto_work work;
    proto_draft draft;
    proto_plan plan, draft_plan;
} sample;

static void make_sample(sample *x) {
    x->open = (proto_open){.seq = {9},
                           .seq_epoch = 2,
                           .sampling = {.temperature = 1, .top_p = 0.5f, .min_p = 0.25f, .top_k = 40, .seed = 77, .sample = 0},
                           .n_tokens = 3,
                           .tokens = prompt};
    x->work = (proto_work){{9}, 0, 3, 2, blocks, {3, tree_token, tree_parent, tree_probability}};
    x->draft = (proto_draft){.seq = {9}, .n_tokens = 3, .tokens = prompt, .budget = 4};
    x->plan = (proto_plan){.id = 12,
                           .kind = PROTO_PLAN_STEP,
                           .n_close = 2,
                           .n_open = 1,
                           .n_work = 1,
                           .close = closed,
                           .open = &x->open,
                           .work = &x->work};
    x->draft_plan =
        (proto_plan){.id = 12, .kind = PROTO_PLAN_DRAFT, .n_close = 2, .n_draft = 1, .close = closed, .draft = &x->draft};
}

static void assert_bytes(const proto_plan *p, const char *expected) {
    proto_bytes b;
    assert_int_equal(proto_plan_encode(p, &b), ST_OK);
    char hex[512] = "";
    for (size_t i = 0; i < b.n; i++) snprintf(hex + 2 * i, 3, "%02x", b.bytes[i]);
    assert_string_equal(hex, expected);
    proto_bytes_free(&b);
}

/* These bytes are the wire: if this test fails, old and new ranks no longer understand each other, and the frame's version must
 * change. Checked by `protoc --decode=consort.control.v1.Plan`. */
static void the_bytes_of_a_plan_are_frozen(void **state) {
    (void)state;
    static const char expected[] =
        "080c10011a0203042226080910021a1a0d0000803f150000003f1d0000803e2028294d0000000000000022040102ac02"
        "2a2508091803220305d8042a02010232030708093a03000100420c0000003f0000803e0000003e";
    static const char expected_draft[] = "080c10021a020304320a0809120401"
                                         "02ac021804";
    sample x;
    make_sample(&x);
    assert_bytes(&x.plan, expected);
    assert_bytes(&x.draft_plan, expected_draft);
    x.draft.n_tentative = 3, x.draft.tentative = prompt;
    assert_bytes(&x.draft_plan, "080c10021a0203043210080912040102ac0218042a040102ac02");
    x.draft_plan.ahead = true;
    assert_bytes(&x.draft_plan, "080c10021a0203043210080912040102ac0218042a040102ac023801");
    static const block_swap swaps[] = {{300, 1, false}, {2, 1, true}};
    proto_plan only = {.id = 12, .kind = PROTO_PLAN_STEP, .n_swaps = 2, .swaps = swaps};
    assert_bytes(&only, "080c1001"
                        "4203ac0202"
                        "4a020101"
                        "52020001");
}

static void assert_refused(const proto_plan *p, const char *expected) {
    proto_bytes b;
    proto_plan back;
    st_error e = {0};
    assert_int_equal(proto_plan_encode(p, &b), ST_OK);
    arena a = arena_for(b.n);
    assert_int_equal(proto_plan_decode(b.bytes, b.n, &a, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, expected);
    assert_int_equal(a.used_bytes, 0);
    assert_int_equal(proto_plan_decode(b.bytes, b.n, &a, &back, NULL), ST_FATAL_PROTOCOL);
    proto_bytes_free(&b);
    arena_deinit(&a);
}

#define REFUSED(change, expected)                                                                                                \
    do {                                                                                                                         \
        sample x;                                                                                                                \
        make_sample(&x);                                                                                                         \
        change;                                                                                                                  \
        assert_refused(&x.plan, expected);                                                                                       \
    } while (0)

static void a_plan_with_a_bad_field_is_refused_by_its_name(void **state) {
    (void)state;
    static const seq_id none[] = {{3}, {0}};
    static const uint32_t late[] = {NOUNS_TREE_ROOT, 2, 0}, self[] = {0, 0, 0};
    static const float odd[] = {0.5f, NAN, 0}, big[] = {0.5f, 0.5f, 1.5f}, biases[PROTO_MAX_BIAS + 1];
    static const uint32_t many[PROTO_MAX_BIAS + 1];
    REFUSED(x.plan.id = 0, "Plan: id: 0; plans count from 1");
    REFUSED(x.plan.kind = (proto_plan_kind)9, "Plan: kind: 9 is unknown");
    REFUSED(x.plan.close = none, "Plan: close[1]: 0 is none");
    REFUSED(x.open.seq.value = 0, "Plan: open[0]: seq: 0 is none");
    REFUSED(x.open.n_tokens = 0, "Plan: open[0]: tokens: 0 are outside 1 .. 1048576");
    REFUSED(x.open.sampling.temperature = -1, "Plan: open[0]: sampling.temperature: -1 is not finite and >= 0");
    REFUSED(x.open.sampling.temperature = NAN, "Plan: open[0]: sampling.temperature: nan is not finite and >= 0");
    REFUSED(x.open.sampling.temperature = INFINITY, "Plan: open[0]: sampling.temperature: inf is not finite and >= 0");
    REFUSED(x.open.sampling.top_p = NAN, "Plan: open[0]: sampling.top_p: nan is outside 0 .. 1");
    REFUSED(x.open.sampling.top_p = 1.5f, "Plan: open[0]: sampling.top_p: 1.5 is outside 0 .. 1");
    REFUSED(x.open.sampling.min_p = -1, "Plan: open[0]: sampling.min_p: -1 is outside 0 .. 1");
    REFUSED(x.open.sampling.typical_p = 2, "Plan: open[0]: sampling.typical_p: 2 is outside 0 .. 1");
    REFUSED(x.open.sampling.repetition = -1, "Plan: open[0]: sampling.repetition: -1 is outside 0 .. 10");
    REFUSED(x.open.sampling.presence = NAN, "Plan: open[0]: sampling.presence: nan is outside -2 .. 2");
    REFUSED(x.open.sampling.frequency = 2.5f, "Plan: open[0]: sampling.frequency: 2.5 is outside -2 .. 2");
    REFUSED(x.open.n_answered = 3, "Plan: open[0]: n_answered: 3 of 3 tokens; expected a prompt before them");
    REFUSED((x.open.rules = (token_rules){.n_ends = 129, .ends = many}), "Plan: open[0]: end_tokens: 129 are over 128");
    REFUSED((x.open.rules = (token_rules){.n_bias = 301, .bias_token = many, .bias = biases}),
            "Plan: open[0]: bias_token: 301 are over 300");
    REFUSED((x.open.rules = (token_rules){.n_bias = 1, .bias_token = many, .bias = odd + 1}),
            "Plan: open[0]: bias[0]: nan is outside -100 .. 100");
    REFUSED((x.open.rules = (token_rules){.n_bias = 1, .bias_token = many, .bias = &(float){-100.5f}}),
            "Plan: open[0]: bias[0]: -100.5 is outside -100 .. 100");
    REFUSED(x.open.rules.logprobs = 22, "Plan: open[0]: logprobs: 21 likeliest tokens are over 20");
    REFUSED(x.work.seq.value = 0, "Plan: work[0]: seq: 0 is none");
    REFUSED(x.work.n_prefix = 0, "Plan: work[0]: n_prefix: 0; expected 1 or more");
    REFUSED(x.work.start = UINT32_MAX, "Plan: work[0]: n_prefix: 3 from 4294967295 is over 1048576 tokens");
    REFUSED(x.work.tree.parent = late, "Plan: work[0]: tree_parent[1]: node 2 does not come before it");
    REFUSED(x.work.tree.parent = self, "Plan: work[0]: tree_parent[0]: node 0 does not come before it");
    REFUSED(x.work.tree.probability = odd, "Plan: work[0]: tree_probability[1]: nan is outside 0 .. 1");
    REFUSED(x.work.tree.probability = big, "Plan: work[0]: tree_probability[2]: 1.5 is outside 0 .. 1");
    REFUSED((x.plan = x.draft_plan, x.draft.seq.value = 0), "Plan: draft[0]: seq: 0 is none");
    REFUSED((x.plan = x.draft_plan, x.draft.budget = 65), "Plan: draft[0]: budget: 65 nodes are over 64");
    REFUSED((x.plan.n_draft = 1, x.plan.draft = &x.draft), "Plan: draft: 1 in a plan for a verifier");
    REFUSED(x.plan.ahead = true, "Plan: ahead: in a plan for a verifier");
    REFUSED((x.plan = x.draft_plan, x.plan.early = true), "Plan: early: in a plan for a drafter");
    REFUSED((x.plan = x.draft_plan, x.draft.hidden_at_end = true, x.draft.n_tentative = 0),
            "Plan: draft[0]: hidden_at_end: without tentative tokens, or without a hidden state");
    REFUSED((x.plan = x.draft_plan, x.draft.hidden_at_end = true, x.draft.hidden.f16 = NULL),
            "Plan: draft[0]: hidden_at_end: without tentative tokens, or without a hidden state");
    REFUSED(x.plan.kind = PROTO_PLAN_DRAFT, "Plan: work: 1 in a plan for a drafter");
    static const block_swap one;
    REFUSED((x.plan = x.draft_plan, x.plan.n_swaps = 1, x.plan.swaps = &one), "Plan: swap_block: 1 in a plan for a drafter");
}

static void a_plan_with_too_many_parts_is_refused(void **state) {
    (void)state;
    enum { N = PROTO_MAX_RUNNING + 1 };
    seq_id *close = calloc(N, sizeof *close);
    proto_open *open = calloc(N, sizeof *open);
    proto_work *work = calloc(N, sizeof *work);
    proto_draft *draft = calloc(N, sizeof *draft);
    uint32_t *numbers = calloc(NOUNS_MAX_TREE + 1, sizeof *numbers);
    sample one;
    make_sample(&one);
    for (int i = 0; i < N; i++) close[i].value = 1, open[i] = one.open, work[i] = one.work, draft[i] = one.draft;
    for (int i = 0; i <= NOUNS_MAX_TREE; i++) numbers[i] = NOUNS_TREE_ROOT;
    REFUSED((x.plan.close = close, x.plan.n_close = N), "Plan: close: 4097 are over 4096");
    REFUSED((x.plan.open = open, x.plan.n_open = N), "Plan: open: 4097 are over 4096");
    REFUSED((x.plan.work = work, x.plan.n_work = 257), "Plan: work: 257 are over 256");
    static const block_swap swaps[NOUNS_MAX_SWAPS + 1];
    REFUSED((x.plan.swaps = swaps, x.plan.n_swaps = NOUNS_MAX_SWAPS + 1), "Plan: swap_block: 1025 are over 1024");
    REFUSED((x.work.tree = (token_tree){NOUNS_MAX_TREE + 1, numbers, numbers, NULL}),
            "Plan: work[0]: tree_token: 65 nodes are over 64");
    REFUSED((x.plan = x.draft_plan, x.draft.tentative = numbers, x.draft.n_tentative = 65),
            "Plan: draft[0]: tentative: 65 tokens are over 64");
    REFUSED((x.plan = x.draft_plan, x.plan.draft = draft, x.plan.n_draft = 257), "Plan: draft: 257 are over 256");
    proto_plan most = {.id = 1, .n_close = N - 1, .n_open = N - 1, .close = close, .open = open, .work = work, .draft = draft};
    for (most.kind = PROTO_PLAN_STEP; most.kind <= PROTO_PLAN_DRAFT; most.kind++) {
        *(most.kind == PROTO_PLAN_STEP ? &most.n_work : &most.n_draft) = 256;
        proto_plan back;
        proto_bytes b;
        st_error e;
        assert_int_equal(proto_plan_encode(&most, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_plan_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same_plan(&most, &back);
        most.n_work = 0;
        proto_bytes_free(&b);
        arena_deinit(&a);
    }
    free(close), free(open), free(work), free(draft), free(numbers);
}

/* Field numbers of control.proto. */
static void assert_bytes_refused(const raw_message *m, const char *expected) {
    proto_plan back;
    st_error e;
    arena a = arena_for(m->n);
    assert_int_equal(proto_plan_decode(m->bytes, m->n, &a, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, expected);
    arena_deinit(&a);
}

static void assert_work_refused(const raw_message *work, const char *expected) {
    raw_message m = {.n = 0};
    put_number(&m, 1, 1);
    put_number(&m, 2, 1);
    put_bytes(&m, 5, work->bytes, work->n);
    assert_bytes_refused(&m, expected);
}

static void arrays_that_belong_together_have_one_length(void **state) {
    (void)state;
    raw_message good = {.n = 0}, m;
    put_number(&good, 1, 5);
    put_number(&good, 3, 1);
    m = good, put_bytes(&m, 4, "\1\2", 2), put_bytes(&m, 5, "\1", 1);
    assert_work_refused(&m, "Plan: work[0]: block_generation: 1 for 2 blocks");
    m = good, put_bytes(&m, 6, "\1\2", 2), put_bytes(&m, 7, "\0", 1);
    assert_work_refused(&m, "Plan: work[0]: tree_parent: 1 for 2 nodes");
    m = good, put_bytes(&m, 6, "\1", 1), put_bytes(&m, 7, "\0", 1), put_bytes(&m, 8, "\0\0\0\0\0\0\0\0", 8);
    assert_work_refused(&m, "Plan: work[0]: tree_probability: 2 for 1 nodes");
    raw_message open = {.n = 0}, plan = {.n = 0};
    put_number(&open, 1, 5), put_bytes(&open, 3, "", 0), put_bytes(&open, 4, "\1", 1), put_bytes(&open, 8, "\1\2", 2);
    put_bytes(&open, 9, "\0\0\0\0", 4);
    put_number(&plan, 1, 1), put_number(&plan, 2, 1), put_bytes(&plan, 4, open.bytes, open.n);
    assert_bytes_refused(&plan, "Plan: open[0]: bias: 1 for 2 tokens");
    raw_message swaps = {.n = 0};
    put_number(&swaps, 1, 1), put_number(&swaps, 2, 1), put_bytes(&swaps, 8, "\1\2", 2);
    put_bytes(&swaps, 9, "\1\2", 2), m = swaps, put_bytes(&m, 10, "\1", 1);
    assert_bytes_refused(&m, "Plan: swap_slot, swap_in: 2 and 1 for 2 blocks");
    put_bytes(&swaps, 9, "\1", 1), put_bytes(&swaps, 10, "\1\0", 2);
    assert_bytes_refused(&swaps, "Plan: swap_slot, swap_in: 3 and 2 for 2 blocks");
}

/* Fields 4, 10, 11 and 12 of control.proto's Item. */
static void logprobs_are_as_many_as_tokens_and_their_likeliest_as_many_for_each(void **state) {
    (void)state;
    static const uint8_t floats[16] = {0};
    static const struct {
        uint32_t n_tokens, n_own, n_top, n_log;
    } wrong[] = {{0, 1, 0, 0}, {2, 1, 0, 0}, {0, 0, 2, 2}, {2, 2, 3, 3}, {2, 2, 2, 4}, {2, 0, 2, 2}, {2, 2, 0, 2}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        raw_message item = {.n = 0}, m = {.n = 0};
        proto_result back;
        st_error e;
        put_number(&item, 1, 5);
        put_bytes(&item, 4, "\1\2\3", wrong[i].n_tokens), put_bytes(&item, 10, floats, 4 * wrong[i].n_own);
        put_bytes(&item, 11, "\1\2\3\4", wrong[i].n_top), put_bytes(&item, 12, floats, 4 * wrong[i].n_log);
        put_number(&m, 1, 1), put_bytes(&m, 4, item.bytes, item.n);
        arena a = arena_for(m.n);
        assert_int_equal(proto_result_decode(m.bytes, m.n, &a, &back, &e), ST_FATAL_PROTOCOL);
        if (!strstr(e.message, "Result: items[0]: logprobs: ")) fail_msg("case %zu: %s", i, e.message);
        arena_deinit(&a);
    }
}

static void a_cut_or_bent_plan_never_breaks_the_decoder(void **state) {
    (void)state;
    source s = {4};
    sample x;
    proto_bytes b;
    make_sample(&x);
    static const block_swap swaps[] = {{300, 1, false}, {2, 1, true}};
    x.plan.n_swaps = 2, x.plan.swaps = swaps;
    assert_int_equal(proto_plan_encode(&x.plan, &b), ST_OK);
    arena a = arena_for(b.n);
    for (int i = 0; i < 20000; i++) {
        size_t n = i < (int)b.n ? (size_t)i : b.n;
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, b.bytes, n);
        for (uint32_t k = i < (int)b.n ? 0 : 1 + below(&s, 3); k && n; k--) exact[below(&s, (uint32_t)n)] = (uint8_t)draw(&s);
        proto_plan back;
        st_error e;
        st_code code = proto_plan_decode(exact, n, &a, &back, &e);
        assert_true(code == ST_OK || code == ST_FATAL_PROTOCOL || code == ST_FATAL_MEMORY);
        arena_reset(&a, 0);
        free(exact);
    }
    proto_bytes_free(&b);
    arena_deinit(&a);
}

static void a_full_arena_is_said_and_left_as_it_was(void **state) {
    (void)state;
    source s = {5};
    arena made = arena_for(1 << 18);
    proto_plan p = random_plan(&s, &made), back;
    while (p.n_work < 4 || !p.n_open) p = random_plan(&s, &made);
    proto_bytes b;
    st_error e;
    assert_int_equal(proto_plan_encode(&p, &b), ST_OK);
    st_code code = ST_FATAL_MEMORY;
    size_t size = 0;
    for (; code; size += 256) {
        arena a;
        assert_int_equal(arena_init(&a, size), ST_OK);
        code = proto_plan_decode(b.bytes, b.n, &a, &back, &e);
        assert_true(code == ST_OK || (code == ST_FATAL_MEMORY && !a.used_bytes));
        arena_deinit(&a);
    }
    assert_true(size < proto_arena_bytes(b.n));
    proto_bytes_free(&b);
    arena_deinit(&made);
}

static void encoding_survives_each_failing_allocation(void **state) {
    (void)state;
    sample x;
    proto_bytes b = {0};
    make_sample(&x);
    for (uint64_t n = 1; n <= 2; n++) {
        mem_fail_at(n);
        assert_int_equal(proto_plan_encode(&x.plan, &b), ST_FATAL_MEMORY);
        assert_null(b.bytes);
    }
    proto_item item = {.seq = {1}, .n_tokens = 3, .tokens = prompt};
    proto_result r = {1, 2, 0, 0, 3, 0, 1, &item};
    for (uint64_t n = 1; n <= 2; n++) {
        mem_fail_at(n);
        assert_int_equal(proto_result_encode(&r, &b), ST_FATAL_MEMORY);
        assert_null(b.bytes);
    }
    mem_fail_at(0);
}

/* ---- results ---- */
static void a_result_comes_back_as_it_went(void **state) {
    (void)state;
    source s = {6};
    for (int i = 0; i < 100; i++) {
        arena made = arena_for(1 << 20);
        uint32_t n = below(&s, PROTO_MAX_PLAN_SEQUENCES + 1);
        proto_item *items = arena_alloc(&made, n, sizeof *items);
        for (uint32_t k = 0; k < n; k++) {
            uint32_t m = below(&s, NOUNS_MAX_TREE + 2), scored = any32(&s);
            items[k] = (proto_item){.seq = {1 + any64(&s) / 2},
                                    .code = below(&s, 2) ? ST_OK : ST_ERR_NUMERIC,
                                    .layer = below(&s, 40),
                                    .n_tokens = m,
                                    .tokens = some32(&s, &made, m),
                                    .n_scored = scored,
                                    .n_hits = scored / 2};
            items[k].logprobs = some_logprobs(&s, &made, m);
            items[k].hidden = some_hidden(&s, &made, m);
            if (below(&s, 2)) items[k].tree = random_tree(&s, &made);
        }
        proto_result r = {1 + any64(&s) / 2, any64(&s), any64(&s), any64(&s), any32(&s), any32(&s), n, items}, back;
        proto_bytes b;
        st_error e = {0};
        assert_int_equal(proto_result_encode(&r, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_result_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_int_equal(r.plan_id, back.plan_id);
        assert_int_equal(r.step_ns, back.step_ns);
        assert_int_equal(r.n_rows, back.n_rows);
        assert_int_equal(r.swap_out_ns, back.swap_out_ns);
        assert_int_equal(r.swap_in_ns, back.swap_in_ns);
        assert_int_equal(r.n_moved, back.n_moved);
        assert_int_equal(r.n_items, back.n_items);
        for (uint32_t k = 0; k < n; k++) {
            assert_int_equal(items[k].seq.value, back.items[k].seq.value);
            assert_int_equal(items[k].code, back.items[k].code);
            assert_int_equal(items[k].layer, back.items[k].layer);
            assert_same_numbers(items[k].tokens, items[k].n_tokens, back.items[k].tokens, back.items[k].n_tokens);
            assert_same_hidden(&items[k].hidden, items[k].n_tokens, &back.items[k].hidden);
            assert_same_logprobs(&items[k].logprobs, items[k].n_tokens, &back.items[k].logprobs);
            assert_same_tree(&items[k].tree, &back.items[k].tree);
            assert_int_equal(items[k].n_scored, back.items[k].n_scored);
            assert_int_equal(items[k].n_hits, back.items[k].n_hits);
        }
        proto_bytes_free(&b);
        arena_deinit(&a);
        arena_deinit(&made);
    }
}

/* Bytes that a peer wrote, since no struct of ours can be wrong in these ways. */
static void hidden_states_are_a_row_of_numbers_for_each_token(void **state) {
    (void)state;
    static const uint8_t zeros[2 * (NOUNS_MAX_DIM + 1)];
    const struct {
        size_t n_tokens, n_bytes;
        bool ok;
    } cases[] = {{2, 0, true},
                 {2, 12, true},
                 {2, 11, false},
                 {2, 10, false},
                 {2, 2, false},
                 {0, 4, false},
                 {1, 2 * NOUNS_MAX_DIM, true},
                 {1, 2 * (NOUNS_MAX_DIM + 1), false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static uint8_t item_bytes[2 * NOUNS_MAX_DIM + 100];
        uint8_t head[] = {0x08, 1, 0x22, (uint8_t)cases[i].n_tokens, 7, 7}; /* seq; tokens */
        size_t n = 4 + cases[i].n_tokens;
        memcpy(item_bytes, head, n);
        item_bytes[n++] = 13 << 3 | 2;
        for (size_t v = cases[i].n_bytes; (item_bytes[n++] = (uint8_t)(v > 127 ? v | 128 : v)) > 127;) v >>= 7;
        memcpy(item_bytes + n, zeros, cases[i].n_bytes);
        n += cases[i].n_bytes;
        static uint8_t bytes[sizeof item_bytes + 100];
        size_t at = 0;
        bytes[at++] = 0x08, bytes[at++] = 1; /* plan_id */
        bytes[at++] = 0x22;                  /* items */
        for (size_t v = n; (bytes[at++] = (uint8_t)(v > 127 ? v | 128 : v)) > 127;) v >>= 7;
        memcpy(bytes + at, item_bytes, n);
        proto_result back;
        st_error e = {0};
        arena a = arena_for(at + n);
        st_code code = proto_result_decode(bytes, at + n, &a, &back, &e);
        if ((code == ST_OK) != cases[i].ok) fail_msg("case %zu: %d, %s", i, (int)code, e.message);
        if (code == ST_OK && cases[i].n_bytes)
            assert_int_equal(back.items[0].hidden.dim, cases[i].n_bytes / 2 / cases[i].n_tokens);
        else
            assert_true(code || !back.items[0].hidden.f16);
        if (code && !strstr(e.message, "Result: items[0]: hidden: ")) fail_msg("case %zu: %s", i, e.message);
        arena_deinit(&a);
    }
}

static void assert_result_refused(const proto_result *r, const char *expected) {
    proto_bytes b;
    proto_result back;
    st_error e;
    assert_int_equal(proto_result_encode(r, &b), ST_OK);
    arena a = arena_for(b.n);
    assert_int_equal(proto_result_decode(b.bytes, b.n, &a, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, expected);
    assert_int_equal(a.used_bytes, 0);
    proto_bytes_free(&b);
    arena_deinit(&a);
}

static void a_result_with_a_bad_field_is_refused_by_its_name(void **state) {
    (void)state;
    uint32_t many[NOUNS_MAX_TREE + 2] = {0};
    proto_item items[PROTO_MAX_PLAN_SEQUENCES + 1];
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++)
        items[i] = (proto_item){.seq = {1}, .n_tokens = 3, .tokens = prompt};
    assert_result_refused(&(proto_result){0, 1, 0, 0, 1, 0, 1, items}, "Result: plan_id: 0; plans count from 1");
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 257, items}, "Result: items: 257 are over 256");
    items[1].seq.value = 0;
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items}, "Result: items[1]: seq: 0 is none");
    items[1] = (proto_item){.seq = {1}, .code = (st_code)99};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items}, "Result: items[1]: code: 99 is outside 0 .. 15");
    items[1] = (proto_item){.seq = {1}, .n_tokens = NOUNS_MAX_TREE + 2, .tokens = many};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items}, "Result: items[1]: tokens: 66 are over 65");
    const float logs[3] = {-1, 0.5f, -2};
    items[1] = (proto_item){.seq = {1}, .n_tokens = 3, .tokens = prompt, .logprobs = {.own = logs}};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items},
                          "Result: items[1]: logprobs[1]: 0.5 is no logarithm of a probability");
    items[1] = (proto_item){.seq = {1}, .n_tokens = 1, .tokens = prompt, .logprobs = {1, logs, prompt, logs + 1}};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items},
                          "Result: items[1]: top_logprobs[0]: 0.5 is no logarithm of a probability");
    float tops[21] = {0};
    items[1].logprobs = (token_logprobs){21, logs, many, tops};
    assert_result_refused(
        &(proto_result){1, 1, 0, 0, 1, 0, 2, items},
        "Result: items[1]: logprobs: 21 likeliest tokens and 21 logarithms for 1 tokens; expected at most 20 each");
    items[1] = (proto_item){.seq = {1}, .n_scored = 1, .n_hits = 2};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items}, "Result: items[1]: n_hits: 2 are over n_scored 1");
    items[1] = (proto_item){.seq = {1}, .tree = {2, prompt, prompt, NULL}};
    assert_result_refused(&(proto_result){1, 1, 0, 0, 1, 0, 2, items},
                          "Result: items[1]: tree_parent[0]: node 1 does not come before it");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_comes_back_as_it_went_with_the_same_bytes),
        cmocka_unit_test(the_bytes_of_a_plan_are_frozen),
        cmocka_unit_test(a_plan_with_a_bad_field_is_refused_by_its_name),
        cmocka_unit_test(a_plan_with_too_many_parts_is_refused),
        cmocka_unit_test(arrays_that_belong_together_have_one_length),
        cmocka_unit_test(a_cut_or_bent_plan_never_breaks_the_decoder),
        cmocka_unit_test(a_full_arena_is_said_and_left_as_it_was),
        cmocka_unit_test(encoding_survives_each_failing_allocation),
        cmocka_unit_test(a_result_comes_back_as_it_went),
        cmocka_unit_test(hidden_states_are_a_row_of_numbers_for_each_token),
        cmocka_unit_test(logprobs_are_as_many_as_tokens_and_their_likeliest_as_many_for_each),
        cmocka_unit_test(a_result_with_a_bad_field_is_refused_by_its_name),
    };
    return cmocka_run_group_tests_name("proto_plan", tests, NULL, NULL);
}
