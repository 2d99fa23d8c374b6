/* The step against a fake model (fake_model.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "base/half.h"
#include "base/mem.h"
#include "tests/unit/worker/fake_model.h"
#include "worker/step.h"

static void kv_move(kernels_device *d, const kernels_kv *kv, const uint32_t *blocks, uint32_t to, uint32_t from) {
    (void)kv;
    *slot_of(d->kv, blocks, to) = *slot_of(d->kv, blocks, from);
}

static st_code wait_done(kernels_device *d) {
    (void)d;
    return ST_OK;
}

static const kernels_ops fake_ops = {.isa = "fake", .kv_move = kv_move, .wait = wait_done};

typedef struct rig {
    model model;
    kv_store kv;
    kernels_device device;
    step *step;
    uint64_t next_plan, n_moved;
    struct rig *follower; /* another rank of the group; NULL: none */
    token_rules rules;    /* of the sequences that `grow` opens, with prompts of n_prompt tokens */
    sampling sampling;
    uint32_t n_prompt;
} rig;

static int make_rig(void **state) {
    rig *r = mem_alloc(1, sizeof *r);
    r->model.info.n_vocab = VOCAB;
    r->model.info.dim = 5;
    r->model.bad_row = UINT32_MAX;
    r->device.kv = &r->kv;
    r->next_plan = 1;
    step_options o = {&r->model, &r->kv, &fake_ops, &r->device, MAX_SEQ, MAX_ROWS, CONTEXT, NULL, NULL};
    *state = r;
    return step_create(&o, &r->step) != ST_OK;
}

static int free_rig(void **state) {
    rig *r = *state;
    step_destroy(r->step);
    mem_free(r);
    return 0;
}

/* One step of a leader, and of its follower if it has one. */
static st_code step_all(rig *r, const proto_plan *p, proto_result *out, st_error *e) {
    uint32_t n_words;
    proto_result same;
    st_code code = step_run(r->step, p, e);
    if (code) return code;
    const uint32_t *words = step_decide(r->step, &n_words);
    if (r->follower) {
        assert_int_equal(step_run(r->follower->step, p, e), ST_OK);
        memset(r->follower->model.logits, 0, sizeof r->follower->model.logits); /* it has none */
        assert_int_equal(step_apply(r->follower->step, words, n_words, &same, e), ST_OK);
        r->follower->n_moved += same.n_moved;
        for (uint32_t i = 0; i < same.n_items; i++) assert_true(!same.items[i].logprobs.own && !same.items[i].hidden.f16);
    }
    code = step_apply(r->step, words, n_words, out, e);
    if (!code) r->n_moved += out->n_moved;
    return code;
}

static st_code run(rig *r, const proto_open *open, const proto_work *work, uint32_t n_work, proto_result *out, st_error *e) {
    proto_plan p = {
        .id = r->next_plan++, .kind = PROTO_PLAN_STEP, .n_open = open != NULL, .open = open, .n_work = n_work, .work = work};
    return step_all(r, &p, out, e);
}

static void close_sequence(rig *r, uint64_t id) {
    seq_id close = {id};
    proto_plan p = {.id = r->next_plan++, .n_close = 1, .close = &close};
    proto_result out;
    st_error e = {0};
    assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
}

/* Blocks first ... first + n - 1 of the store, spread so that neighbours are not neighbours. */
static void name_blocks(block_id *ids, uint32_t first, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) ids[i] = (block_id){(first + i) * 5 % BLOCKS, 1};
}

static void a_prompt_in_chunks_chooses_only_at_its_end(void **state) {
    rig *r = *state;
    uint32_t tokens[50];
    block_id ids[4];
    proto_result out;
    st_error e = {0};
    for (uint32_t i = 0; i < 50; i++) tokens[i] = i * 7 % VOCAB;
    name_blocks(ids, 0, 4);
    proto_open open = {.seq = {9}, .n_tokens = 50, .tokens = tokens};
    proto_work work = {.seq = {9}, .n_prefix = 40, .n_blocks = 2, .blocks = ids};
    assert_int_equal(run(r, &open, &work, 1, &out, &e), ST_OK);
    assert_int_equal(out.n_items, 1);
    assert_int_equal(out.items[0].n_tokens, 0);
    assert_int_equal(out.n_rows, 40);
    work = (proto_work){.seq = {9}, .start = 40, .n_prefix = 10};
    assert_int_equal(run(r, NULL, &work, 1, &out, &e), ST_OK);
    assert_int_equal(out.items[0].n_tokens, 1);
    assert_int_equal(out.items[0].tokens[0], truth(tokens, 50));
}

static void work_goes_on_behind_blocks_that_hold_what_was_computed_for_another(void **state) {
    rig *r = *state;
    uint32_t tokens[70], next[CONTEXT];
    block_id ids[3], shared[3];
    proto_result out;
    st_error e = {0};
    for (uint32_t i = 0; i < 70; i++) tokens[i] = next[i] = i * 11 % VOCAB;
    name_blocks(ids, 0, 3);
    name_blocks(shared, 0, 2);
    name_blocks(shared + 2, 3, 1);
    proto_open first = {.seq = {1}, .n_tokens = 70, .tokens = tokens}, second = {.seq = {2}, .n_tokens = 70, .tokens = tokens};
    proto_work whole = {.seq = {1}, .n_prefix = 70, .n_blocks = 3, .blocks = ids};
    assert_int_equal(run(r, &first, &whole, 1, &out, &e), ST_OK);
    const proto_work wrong[] = {{.seq = {2}, .start = 63, .n_prefix = 7, .n_blocks = 3, .blocks = shared},
                                {.seq = {2}, .start = 96, .n_prefix = 1, .n_blocks = 3, .blocks = shared},
                                {.seq = {2}, .start = 64, .n_prefix = 7, .n_blocks = 3, .blocks = shared},
                                {.seq = {2}, .start = 64, .n_prefix = 6, .n_blocks = 2, .blocks = shared}};
    const char *const says[] = {"starts at 63, but 0", "starts at 96, but 0", "a prefix of 7, expected 1 .. 6",
                                "70 tokens in 2 blocks"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(run(r, &second, &wrong[i], 1, &out, &e), ST_FATAL_PROTOCOL);
        if (!strstr(e.message, says[i])) fail_msg("case %zu: %s", i, e.message);
        close_sequence(r, 2);
    }
    proto_work rest = {.seq = {2}, .start = 64, .n_prefix = 6, .n_blocks = 3, .blocks = shared};
    assert_int_equal(run(r, &second, &rest, 1, &out, &e), ST_OK);
    assert_int_equal(out.n_rows, 6);
    for (uint32_t n = 70; n < 76; n++) { /* in turns, each behind the same tokens */
        next[n] = truth(next, n);
        assert_int_equal(out.items[0].tokens[0], next[n]);
        proto_work both[] = {{.seq = {1}, .start = n, .n_prefix = 1}, {.seq = {2}, .start = n, .n_prefix = 1}};
        assert_int_equal(run(r, NULL, both, 2, &out, &e), ST_OK);
        assert_int_equal(out.items[1].tokens[0], out.items[0].tokens[0]);
    }
}

/* What must be chosen after these tokens under the rig's rules: each id in turn, from the definitions. */
static uint32_t wanted(const rig *r, const uint32_t *tokens, uint32_t n) {
    uint32_t best = 0, h = hash_of(tokens, n);
    float best_l = -INFINITY;
    for (uint32_t v = 0; v < VOCAB; v++) {
        float l = logit_of(h, v);
        for (uint32_t i = 0; i < r->rules.n_bias; i++)
            if (r->rules.bias_token[i] == v) l += r->rules.bias[i];
        uint32_t n_all = 0, n_answer = 0;
        for (uint32_t i = 0; i < n; i++) n_all += tokens[i] == v, n_answer += i >= r->n_prompt && tokens[i] == v;
        if (n_all && r->sampling.repetition > 0) l = l > 0 ? l / r->sampling.repetition : l * r->sampling.repetition;
        if (n_answer) l = l - (float)n_answer * r->sampling.frequency - r->sampling.presence;
        for (uint32_t i = 0; i < r->rules.n_ends; i++)
            if (r->rules.ends[i] == v && n < r->n_prompt + r->rules.min_tokens) l = -INFINITY;
        if (l > best_l) best_l = l, best = v;
    }
    return best;
}

/* Of the raw logits after the n known tokens and those of the item before; the likeliest are found one after the other. */
static void check_logprobs(const rig *r, const uint32_t *known, uint32_t n, const proto_item *item) {
    uint32_t tokens[CONTEXT], n_top = r->rules.logprobs ? r->rules.logprobs - 1 : 0;
    float logits[VOCAB];
    assert_int_equal(item->logprobs.own != NULL, r->rules.logprobs > 0);
    assert_int_equal(item->logprobs.n_top, n_top);
    memcpy(tokens, known, n * sizeof *tokens);
    for (uint32_t i = 0; item->logprobs.own && i < item->n_tokens; i++) {
        bool taken[VOCAB] = {false};
        for (uint32_t v = 0; v < VOCAB; v++) logits[v] = logit_of(hash_of(tokens, n), v);
        double own = -model_nll(logits, VOCAB, item->tokens[i]);
        assert_true(item->logprobs.own[i] == (float)own);
        for (uint32_t k = 0; k < n_top; k++) {
            uint32_t best = VOCAB;
            for (uint32_t v = 0; v < VOCAB; v++)
                if (!taken[v] && (best == VOCAB || logits[v] > logits[best])) best = v;
            taken[best] = true;
            assert_int_equal(item->logprobs.top[i * n_top + k], best);
            double log = own + ((double)logits[best] - (double)logits[item->tokens[i]]);
            assert_true(item->logprobs.top_log[i * n_top + k] == (float)log);
        }
        tokens[n++] = item->tokens[i];
    }
}

/* Each token's is that of the row that it was chosen from. */
static void check_hidden(const rig *r, const uint32_t *known, uint32_t n, const proto_item *item) {
    uint32_t tokens[CONTEXT], dim = r->model.info.dim;
    assert_int_equal(item->hidden.f16 != NULL, r->rules.hidden);
    memcpy(tokens, known, n * sizeof *tokens);
    for (uint32_t i = 0; item->hidden.f16 && i < item->n_tokens; i++) {
        assert_int_equal(item->hidden.dim, dim);
        for (uint32_t k = 0; k < dim; k++)
            assert_int_equal(item->hidden.f16[i * dim + k], half_of_float(logit_of(hash_of(tokens, n), k)));
        tokens[n++] = item->tokens[i];
    }
}

/* Grows sequence `id` from `tokens` to n_total tokens in single steps or with trees built around the truth: `seed` decides the
 * shapes. */
static void grow(rig *r, uint64_t id, uint32_t first_block, uint32_t *tokens, uint32_t n, uint32_t n_total, unsigned seed,
                 bool trees) {
    uint32_t n_kv = 0, n_blocks = 0;
    st_error e = {0};
    proto_result out;
    while (n < n_total) {
        uint32_t token[NOUNS_MAX_TREE], parent[NOUNS_MAX_TREE], n_nodes = 0, spine = NOUNS_TREE_ROOT, right[CONTEXT];
        memcpy(right, tokens, n * sizeof *right);
        uint32_t n_right = n;
        seed = seed * 1103515245u + 12345u;
        for (uint32_t depth = trees ? seed >> 16 & 3 : 0; depth > 0; depth--) { /* wrong siblings around the right child */
            uint32_t good = wanted(r, right, n_right), before = seed >> 18 & 1, after = seed >> 19 & 1;
            for (uint32_t k = 0; k < before; k++) token[n_nodes] = (good + 1 + k) % VOCAB, parent[n_nodes++] = spine;
            token[n_nodes] = good;
            parent[n_nodes] = spine;
            uint32_t next = n_nodes++;
            for (uint32_t k = 0; k < after; k++) token[n_nodes] = (good + 5 + k) % VOCAB, parent[n_nodes++] = spine;
            spine = next;
            right[n_right++] = good;
        }
        uint32_t all = kv_blocks_for(n + n_nodes),
                 need = all > n_blocks ? all - n_blocks : 0; /* a tree may have asked for more before */
        block_id ids[8];
        name_blocks(ids, first_block + n_blocks, need);
        proto_open open = {.seq = {id}, .sampling = r->sampling, .rules = r->rules, .n_tokens = n, .tokens = tokens};
        proto_work work = {.seq = {id},
                           .start = n_kv,
                           .n_prefix = n - n_kv,
                           .n_blocks = need,
                           .blocks = ids,
                           .tree = {.n_nodes = n_nodes, .token = token, .parent = parent}};
        assert_int_equal(run(r, n_kv ? NULL : &open, &work, 1, &out, &e), ST_OK);
        n_blocks += need;
        n_kv = n;
        assert_int_equal(out.items[0].n_tokens, n_right - n + 1); /* every right draft, and the bonus */
        check_logprobs(r, tokens, n, &out.items[0]);
        check_hidden(r, tokens, n, &out.items[0]);
        for (uint32_t i = 0; i < out.items[0].n_tokens; i++) {
            assert_int_equal(out.items[0].tokens[i], wanted(r, tokens, n));
            tokens[n++] = out.items[0].tokens[i];
        }
        n_kv = n - 1;
    }
}

static void trees_give_the_tokens_that_single_steps_give_and_leave_the_cache_in_order(void **state) {
    rig *r = *state;
    for (unsigned seed = 1; seed < 40; seed++) {
        uint32_t tokens[CONTEXT] = {seed, 2, 3}, plain[CONTEXT] = {seed, 2, 3};
        grow(r, 2 * seed, 0, tokens, 3, 100, seed, true);
        grow(r, 2 * seed + 1, 20, plain, 3, 100, seed, false);
        assert_memory_equal(tokens, plain, 100 * sizeof *tokens);
        seq_id close[2] = {{2 * seed}, {2 * seed + 1}};
        proto_plan p = {.id = r->next_plan++, .n_close = 2, .close = close};
        proto_result out;
        st_error e = {0};
        assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    }
    assert_int_equal(step_open_sequences(r->step), 0);
    assert_true(r->n_moved > 20);
}

/* Grows with trees and in single steps; both must be what `wanted` says. Returns how many choices the rules changed. */
static uint32_t grow_both_ways(rig *r, unsigned seed) {
    uint32_t tokens[CONTEXT] = {seed, 2, 3}, plain[CONTEXT] = {seed, 2, 3}, n_changed = 0;
    r->n_prompt = 3;
    grow(r, 2 * seed, 0, tokens, 3, 100, seed, true);
    grow(r, 2 * seed + 1, 20, plain, 3, 100, seed, false);
    assert_memory_equal(tokens, plain, 100 * sizeof *tokens);
    close_sequence(r, 2 * seed);
    close_sequence(r, 2 * seed + 1);
    for (uint32_t n = 3; n < 100; n++) n_changed += tokens[n] != truth(tokens, n);
    return n_changed;
}

static void biased_tokens_and_ends_that_come_too_early_are_the_same_with_trees_and_without(void **state) {
    rig *r = *state;
    static const uint32_t liked[] = {5, 11, 17, 90};
    static const float bias[] = {0.9f, -100, 0.25f, 100};
    uint32_t ends[VOCAB / 2], n_early = 0, n_biased = 0;
    for (uint32_t i = 0; i < VOCAB / 2; i++) ends[i] = 2 * i + 1; /* many, so that some follow min_tokens at once */
    r->rules = (token_rules){.min_tokens = 50, .n_ends = VOCAB / 2, .ends = ends};
    for (unsigned seed = 1; seed < 20; seed++) n_early += grow_both_ways(r, seed);
    r->rules = (token_rules){.n_bias = 3, .bias_token = liked, .bias = bias};
    for (unsigned seed = 20; seed < 30; seed++) n_biased += grow_both_ways(r, seed);
    assert_in_range(n_early, 19 * 10, 19 * 50);
    assert_true(n_biased > 10);
    r->rules = (token_rules){.min_tokens = 50, .n_ends = VOCAB / 2, .ends = ends, .n_bias = 4, .bias_token = liked, .bias = bias};
    assert_true(grow_both_ways(r, 30) > 80); /* 90, all the time */
    r->rules = (token_rules){0};             /* a sequence leaves nothing to the next in its place */
    for (unsigned seed = 31; seed < 35; seed++) assert_int_equal(grow_both_ways(r, seed), 0);
}

static void penalties_count_the_tokens_of_the_path_too(void **state) {
    rig *r = *state;
    static const sampling asked[] = {
        {.repetition = 3}, {.presence = 0.7f}, {.frequency = 0.6f}, {.repetition = 0.5f, .presence = -0.9f, .frequency = 0.05f}};
    for (unsigned i = 0; i < 4; i++) {
        r->sampling = asked[i];
        uint32_t n_changed = 0;
        for (unsigned seed = 1; seed < 20; seed++) n_changed += grow_both_ways(r, 20 * i + seed);
        assert_true(n_changed > 50);
    }
}

static void logprobs_and_hidden_states_are_of_the_model_itself_with_trees_and_without(void **state) {
    rig *r = *state;
    static const uint32_t wants[] = {1, 2, 6, 21};
    static const uint32_t liked[] = {7};
    static const float bias[] = {1.2f};
    assert_int_equal(make_rig((void **)&r->follower), 0); /* which gets none, and is not confused */
    for (uint32_t i = 0; i < 4; i++) {
        r->rules = (token_rules){.logprobs = wants[i], .hidden = i > 1, .n_bias = i % 2, .bias_token = liked, .bias = bias};
        r->sampling.repetition = i % 2 ? 2 : 1;
        for (unsigned seed = 1; seed < 6; seed++) (void)grow_both_ways(r, 10 * i + seed);
    }
    free_rig((void **)&r->follower);
}

/* ---- early results ---- */

typedef struct {
    uint32_t n_calls, n_tokens;
    uint32_t tokens[NOUNS_MAX_TREE + 1];
    uint16_t hidden[(NOUNS_MAX_TREE + 1) * 5];
} early_result;

static void note_early(void *context, const proto_result *guess) {
    early_result *early = context;
    early->n_calls++;
    assert_int_equal(guess->n_items, 1);
    const proto_item *item = &guess->items[0];
    assert_true(item->seq.value > 0 && item->code == ST_OK && !item->logprobs.own);
    early->n_tokens = item->n_tokens;
    if (!item->n_tokens) return;
    memcpy(early->tokens, item->tokens, item->n_tokens * sizeof *item->tokens);
    if (item->hidden.f16) memcpy(early->hidden, item->hidden.f16, item->n_tokens * 5 * sizeof *item->hidden.f16);
}

/* The step anew, of a model of which the first n_first logits come before the others. */
static void begin_early(rig *r, uint32_t n_first, early_result *early) {
    const step_options o = {&r->model, &r->kv, &fake_ops, &r->device, MAX_SEQ, MAX_ROWS, CONTEXT, note_early, early};
    step_destroy(r->step);
    r->model.n_first = n_first;
    assert_int_equal(step_create(&o, &r->step), ST_OK);
}

static bool is_first(const rig *r, uint64_t runs, uint32_t token) {
    return token < r->model.n_first || runs >> token / MODEL_VOCAB_ROWS & 1;
}

/* The runs that may be looked at behind these tokens: of those that are not first one, the commonest. */
static uint64_t runs_of(const rig *r, const uint32_t *tokens, uint32_t n) {
    uint32_t least = VOCAB;
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= r->model.n_first && tokens[i] < least) least = tokens[i];
    return least < VOCAB ? UINT64_C(1) << least / MODEL_VOCAB_ROWS : 0;
}

/* Half of the choices are among the first 64 tokens; a run more is known from the text and from the draft. */
static void an_early_result_is_the_result_where_each_choice_is_among_the_first_logits(void **state) {
    rig *r = *state;
    early_result early = {0};
    uint32_t n_steps = 0, n_sure = 0, n_right = 0, n_by_run = 0, tokens[CONTEXT] = {1, 2, 3}, n = 3, n_kv = 0;
    st_error e = {0};
    proto_result out;
    begin_early(r, 64, &early);
    block_id ids[CONTEXT / NOUNS_BLOCK_TOKENS];
    name_blocks(ids, 0, CONTEXT / NOUNS_BLOCK_TOKENS);
    proto_open open = {.seq = {1}, .rules.hidden = true, .n_tokens = n, .tokens = tokens};
    while (n + 3 < CONTEXT) {
        uint32_t draft[] = {truth(tokens, n), 0}, parent[] = {NOUNS_TREE_ROOT, 0};
        tokens[n] = draft[0];
        draft[1] = n % 3 ? truth(tokens, n + 1) : 5;
        proto_work work = {.seq = {1},
                           .start = n_kv,
                           .n_prefix = n - n_kv,
                           .n_blocks = n_kv ? 0 : CONTEXT / NOUNS_BLOCK_TOKENS,
                           .blocks = ids,
                           .tree = {.n_nodes = 2, .token = draft, .parent = parent}};
        proto_plan p = {.id = r->next_plan++,
                        .kind = PROTO_PLAN_STEP,
                        .n_open = n_kv == 0,
                        .open = &open,
                        .n_work = 1,
                        .work = &work,
                        .early = n % 5 > 0};
        memcpy(tokens + n, draft, sizeof draft);
        uint64_t runs = runs_of(r, tokens, n + 2);
        uint32_t n_calls = early.n_calls;
        assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
        assert_int_equal(early.n_calls, n_calls + p.early);
        const proto_item *item = &out.items[0];
        bool sure = p.early, by_run = false;
        for (uint32_t i = 0; i < item->n_tokens; i++) {
            assert_int_equal(item->tokens[i], truth(tokens, n + i)); /* whatever was guessed */
            tokens[n + i] = item->tokens[i];
            sure &= is_first(r, runs, item->tokens[i]);
            by_run |= sure && item->tokens[i] >= 64;
        }
        bool right = early.n_tokens == item->n_tokens && !memcmp(early.tokens, item->tokens, item->n_tokens * sizeof *tokens);
        if (sure) {
            assert_true(right);
            assert_memory_equal(early.hidden, item->hidden.f16, item->n_tokens * 5 * sizeof *item->hidden.f16);
        } else if (p.early)
            assert_false(right);
        n_steps += p.early, n_sure += sure, n_right += right && p.early, n_by_run += by_run && sure;
        n_kv = n + item->n_tokens - 1;
        n += item->n_tokens;
    }
    assert_true(n_steps > 60 && n_sure > 10 && n_sure < n_steps && n_right == n_sure && n_by_run > 2);
}

/* The best of those tokens whose logits are there. */
static uint32_t first_choice(const rig *r, uint64_t runs, const uint32_t *tokens, uint32_t n) {
    uint32_t best = 0, h = hash_of(tokens, n);
    for (uint32_t v = 1; v < VOCAB; v++)
        if (is_first(r, runs, v) && logit_of(h, v) > logit_of(h, best)) best = v;
    return best;
}

/* Of one sequence after the other, with prompts of first tokens only: what one has looked at is not looked at for the next. */
static void the_run_of_a_draft_is_looked_at_for_its_step_alone(void **state) {
    rig *r = *state;
    early_result early = {0};
    uint32_t n_rare = 0;
    block_id id = {0, 1};
    st_error e = {0};
    proto_result out;
    begin_early(r, 64, &early);
    for (uint32_t i = 1; i < 200; i++) {
        uint32_t tokens[5] = {i % 64, i * 7 % 64, i * 31 % 64}, parent = NOUNS_TREE_ROOT, draft = truth(tokens, 3);
        bool drafts = i % 3 > 0;
        uint64_t runs = drafts ? runs_of(r, &draft, 1) : 0;
        proto_open open = {.seq = {i}, .n_tokens = 3, .tokens = tokens};
        proto_work work = {.seq = {i}, .n_prefix = 3, .n_blocks = 1, .blocks = &id};
        if (drafts) work.tree = (token_tree){.n_nodes = 1, .token = &draft, .parent = &parent};
        proto_plan p = {
            .id = r->next_plan++, .kind = PROTO_PLAN_STEP, .n_open = 1, .open = &open, .n_work = 1, .work = &work, .early = true};
        assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
        tokens[3] = first_choice(r, runs, tokens, 3);
        assert_int_equal(early.n_tokens, drafts ? 2 : 1);
        assert_int_equal(early.tokens[0], tokens[3]);
        if (drafts) assert_int_equal(early.tokens[1], first_choice(r, runs, tokens, 4));
        n_rare += drafts && draft >= 64;
        close_sequence(r, i);
    }
    assert_true(n_rare > 20);
}

static void who_asks_for_logprobs_gets_no_early_result(void **state) {
    rig *r = *state;
    early_result early = {.n_tokens = 1};
    const uint32_t tokens[] = {1, 2};
    const block_id id = {0, 1};
    st_error e = {0};
    proto_result out;
    begin_early(r, 64, &early);
    uint32_t before = n_chosen;
    proto_open open = {.seq = {1}, .rules.logprobs = 3, .n_tokens = 2, .tokens = tokens};
    proto_work work = {.seq = {1}, .n_prefix = 2, .n_blocks = 1, .blocks = &id};
    proto_plan p = {.id = 1, .kind = PROTO_PLAN_STEP, .n_open = 1, .open = &open, .n_work = 1, .work = &work, .early = true};
    assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    assert_int_equal(early.n_calls, 1);
    assert_int_equal(early.n_tokens, 0);
    assert_int_equal(n_chosen, 1 + before); /* in the end */
    r->rules = open.rules;
    check_logprobs(r, tokens, 2, &out.items[0]);
    begin_early(r, 0, &early); /* nobody has the first logits: nobody is told */
    assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    assert_int_equal(early.n_calls, 1);
}

/* Token 70 is in a run that is looked at, 90 in one that is not: nobody knows yet. */
static void of_logits_that_are_not_finite_nothing_is_told_early(void **state) {
    rig *r = *state;
    early_result early = {0};
    const uint32_t tokens[] = {1, 70}, nan_token[] = {3, 70, 90};
    const block_id id = {0, 1};
    st_error e = {0};
    proto_result out;
    begin_early(r, 64, &early);
    for (uint32_t i = 0; i < 3; i++) {
        proto_open open = {.seq = {i + 1}, .n_tokens = 2, .tokens = tokens};
        proto_work work = {.seq = {i + 1}, .n_prefix = 2, .n_blocks = 1, .blocks = &id};
        proto_plan p = {.id = i + 1, .n_open = 1, .open = &open, .n_work = 1, .work = &work, .early = true};
        r->model.nan_token = nan_token[i];
        assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
        assert_int_equal(early.n_calls, i + 1);
        assert_int_equal(early.n_tokens, nan_token[i] == 90);
    }
}

static void two_sequences_in_a_step_get_their_own_logprobs(void **state) {
    rig *r = *state;
    uint32_t a[2] = {1, 2}, b[3] = {3, 4, 5}, c[2] = {8, 9};
    block_id ids[3];
    proto_result out;
    st_error e = {0};
    name_blocks(ids, 0, 3);
    proto_open opens[3] = {{.seq = {1}, .n_tokens = 2, .tokens = a, .rules = {.logprobs = 4}},
                           {.seq = {2}, .n_tokens = 3, .tokens = b},
                           {.seq = {3}, .n_tokens = 2, .tokens = c, .rules = {.logprobs = 21}}};
    proto_work work[3] = {{.seq = {1}, .n_prefix = 2, .n_blocks = 1, .blocks = ids},
                          {.seq = {2}, .n_prefix = 3, .n_blocks = 1, .blocks = ids + 1},
                          {.seq = {3}, .n_prefix = 2, .n_blocks = 1, .blocks = ids + 2}};
    proto_plan p = {.id = 1, .n_open = 3, .open = opens, .n_work = 3, .work = work};
    assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    r->rules.logprobs = 4;
    check_logprobs(r, a, 2, &out.items[0]);
    r->rules.logprobs = 0;
    check_logprobs(r, b, 3, &out.items[1]);
    r->rules.logprobs = 21;
    check_logprobs(r, c, 2, &out.items[2]);
}

static void the_answer_begins_where_the_open_says(void **state) {
    rig *r = *state;
    uint32_t tokens[4] = {1, 2, 3};
    block_id ids[1] = {{0, 1}};
    proto_result out;
    st_error e = {0};
    uint32_t end = truth(tokens, 3);
    for (uint32_t n_answered = 0; n_answered < 3; n_answered++) { /* two must come: with two it may end */
        proto_open open = {.seq = {n_answered + 1},
                           .rules = {.min_tokens = 2, .n_ends = 1, .ends = &end},
                           .n_tokens = 3,
                           .tokens = tokens,
                           .n_answered = n_answered};
        proto_work work = {.seq = {n_answered + 1}, .n_prefix = 3, .n_blocks = 1, .blocks = ids};
        assert_int_equal(run(r, &open, &work, 1, &out, &e), ST_OK);
        assert_int_equal(out.items[0].tokens[0] == end, n_answered == 2);
        close_sequence(r, n_answered + 1);
    }
}

static void a_rank_without_logits_follows_the_leader_slot_by_slot(void **state) {
    rig *r = *state;
    assert_int_equal(make_rig((void **)&r->follower), 0);
    for (unsigned seed = 1; seed < 20; seed++) {
        uint32_t tokens[CONTEXT] = {seed, 2, 3};
        grow(r, seed, 0, tokens, 3, 100, seed, true);
        assert_memory_equal(r->kv.token, r->follower->kv.token, sizeof r->kv.token);
        seq_id close = {seed};
        proto_plan p = {.id = r->next_plan++, .n_close = 1, .close = &close};
        proto_result out;
        st_error e = {0};
        assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    }
    assert_int_equal(r->n_moved, r->follower->n_moved);
    assert_true(r->n_moved > 10);
    free_rig((void **)&r->follower);
}

static void decisions_that_do_not_fit_the_plan_are_refused(void **state) {
    rig *r = *state;
    uint32_t tokens[3] = {1, 2, 3}, child[2] = {5, 6}, up[2] = {NOUNS_TREE_ROOT, 0}, words[16];
    block_id ids[1] = {{0, 1}};
    proto_open open = {.seq = {1}, .n_tokens = 3, .tokens = tokens};
    proto_work work = {.seq = {1}, .n_prefix = 3, .n_blocks = 1, .blocks = ids, .tree = {2, child, up, NULL}};
    proto_plan p = {.id = 1, .n_open = 1, .open = &open, .n_work = 1, .work = &work};
    proto_result out;
    st_error e = {0};
    assert_int_equal(step_run(r->step, &p, &e), ST_OK);
    assert_int_equal(step_run(r->step, &p, &e), ST_FATAL_PROTOCOL);
    assert_non_null(strstr(e.message, "before the decisions of plan 1"));
    static const struct {
        uint32_t n, words[12];
    } bad[] = {
        {0, {0}},
        {3, {0, 0, 0}},
        {4, {0, 0, 1, 0}},                 /* the token is missing */
        {5, {ST_N_CODES, 0, 0, 0, 1}},     /* no such code */
        {5, {ST_ERR_NUMERIC, 0, 1, 0, 1}}, /* bad, and yet a token */
        {7, {0, 0, 1, 2, 1, 0, 1}},        /* more nodes than tokens */
        {8, {0, 0, 2, 2, 1, 1, 1, 0}},     /* nodes not ascending */
        {7, {0, 0, 2, 1, 1, 1, 2}},        /* no such node */
        {6, {0, 0, 1, 0, 1, 9}},           /* a word too many */
        {4, {0, 0, UINT32_MAX, 0}},
        {4, {0, 0, 0, UINT32_MAX}},
        {5, {0, 0, 1, 0, VOCAB}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(words, bad[i].words, sizeof bad[i].words);
        if (i == 8) continue; /* found only after it was applied: the rank leaves */
        if (step_apply(r->step, words, bad[i].n, &out, &e) != ST_FATAL_PROTOCOL) fail_msg("case %zu was taken", i);
    }
    memcpy(words, bad[8].words, sizeof bad[8].words);
    assert_int_equal(step_apply(r->step, words, bad[8].n, &out, &e), ST_FATAL_PROTOCOL);
}

static void a_bad_row_ends_only_its_own_sequence(void **state) {
    rig *r = *state;
    uint32_t a[2] = {1, 2}, b[2] = {3, 4};
    block_id ids[2];
    proto_result out;
    st_error e = {0};
    name_blocks(ids, 0, 2);
    proto_open opens[2] = {{.seq = {1}, .n_tokens = 2, .tokens = a}, {.seq = {2}, .n_tokens = 2, .tokens = b}};
    proto_work work[2] = {{.seq = {1}, .n_prefix = 2, .n_blocks = 1, .blocks = ids},
                          {.seq = {2}, .n_prefix = 2, .n_blocks = 1, .blocks = ids + 1}};
    proto_plan p = {.id = 1, .n_open = 2, .open = opens, .n_work = 2, .work = work};
    r->model.bad_row = 1;
    assert_int_equal(step_all(r, &p, &out, &e), ST_OK);
    assert_int_equal(out.items[0].code, ST_ERR_NUMERIC);
    assert_int_equal(out.items[0].layer, 7);
    assert_int_equal(out.items[0].n_tokens, 0);
    assert_int_equal(out.items[1].code, ST_OK);
    assert_int_equal(out.items[1].tokens[0], truth(b, 2));
}

static void a_plan_that_contradicts_the_rank_is_a_protocol_error_that_says_how(void **state) {
    rig *r = *state;
    uint32_t tokens[4] = {1, 2, 3, 4}, wild[1] = {VOCAB}, up[1] = {0}, child[1] = {5};
    block_id ids[1] = {{0, 1}}, none[1] = {{BLOCKS, 1}};
    proto_open open = {.seq = {1}, .n_tokens = 4, .tokens = tokens}, bad_token = {.seq = {2}, .n_tokens = 1, .tokens = wild},
               empty = {.seq = {2}};
    proto_work first = {.seq = {1}, .n_prefix = 2, .n_blocks = 1, .blocks = ids};
    const struct {
        proto_work work;
        const char *says;
    } cases[] = {
        {{.seq = {3}, .n_prefix = 1}, "not open"},
        {{.seq = {1}, .start = 1, .n_prefix = 1}, "starts at 1, but 2 tokens are in the cache"},
        {{.seq = {1}, .start = 2, .n_prefix = 3}, "a prefix of 3, expected 1 .. 2"},
        {{.seq = {1}, .start = 2, .n_prefix = 0}, "a prefix of 0"},
        {{.seq = {1}, .start = 2, .n_prefix = 1, .tree = {1, child, up, NULL}}, "under the last token"},
        {{.seq = {1}, .start = 2, .n_prefix = 2, .tree = {1, child, up, NULL}}, "parent 0"},
        {{.seq = {1}, .start = 2, .n_prefix = 1, .n_blocks = 1, .blocks = none}, "block 64"},
        {{.seq = {1}, .start = 2, .n_prefix = 2, .n_blocks = 99, .blocks = ids}, "blocks more than the context"},
    };
    proto_result out;
    st_error e = {0};
    assert_int_equal(run(r, &open, &first, 1, &out, &e), ST_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(run(r, NULL, &cases[i].work, 1, &out, &e), ST_FATAL_PROTOCOL);
        if (!strstr(e.message, cases[i].says)) fail_msg("case %zu: %s", i, e.message);
    }
    assert_int_equal(run(r, &open, NULL, 0, &out, &e), ST_FATAL_PROTOCOL);
    assert_non_null(strstr(e.message, "open already"));
    assert_int_equal(run(r, &bad_token, NULL, 0, &out, &e), ST_FATAL_PROTOCOL);
    assert_non_null(strstr(e.message, "token 97 is outside the vocabulary of 97"));
    proto_open bad_rules[] = {
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .rules = {.n_ends = 1, .ends = wild}},
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .rules = {.n_bias = 1, .bias_token = wild, .bias = &(float){1}}},
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .rules = {.n_bias = PROTO_MAX_BIAS + 1}},
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .rules = {.n_ends = PROTO_MAX_ENDS + 1}},
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .n_answered = 4},
        {.seq = {2}, .n_tokens = 4, .tokens = tokens, .rules = {.logprobs = 22}},
    };
    static const char *const says[] = {"end token 97 is outside", "bias of token 97 is outside",   "301 biases",
                                       "129 end tokens",          "4 tokens of an answer among 4", "21 likeliest tokens"};
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(run(r, &bad_rules[i], NULL, 0, &out, &e), ST_FATAL_PROTOCOL);
        if (!strstr(e.message, says[i])) fail_msg("rules %zu: %s", i, e.message);
    }
    assert_int_equal(run(r, &empty, NULL, 0, &out, &e), ST_FATAL_PROTOCOL);
    assert_non_null(strstr(e.message, "0 tokens, expected 1 .. 256"));
    assert_int_equal(r->model.n_runs, 1);
}

static void one_sequence_too_many_is_refused(void **state) {
    rig *r = *state;
    uint32_t token = 1;
    proto_result out;
    st_error e = {0};
    for (uint64_t id = 1; id <= MAX_SEQ + 1; id++) {
        proto_open open = {.seq = {id}, .n_tokens = 1, .tokens = &token};
        assert_int_equal(run(r, &open, NULL, 0, &out, &e), id <= MAX_SEQ ? ST_OK : ST_FATAL_PROTOCOL);
    }
    assert_non_null(strstr(e.message, "one too many"));
}

static void create_survives_each_failing_allocation(void **state) {
    rig *r = *state;
    step_options o = {&r->model, &r->kv, &fake_ops, &r->device, MAX_SEQ, MAX_ROWS, CONTEXT, NULL, NULL};
    step *s = NULL;
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        st_code code = step_create(&o, &s);
        mem_fail_at(0);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
        assert_null(s);
    }
    step_destroy(s);
    step_destroy(NULL);
}

#define WITH_RIG(f) cmocka_unit_test_setup_teardown(f, make_rig, free_rig)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_RIG(a_prompt_in_chunks_chooses_only_at_its_end),
        WITH_RIG(work_goes_on_behind_blocks_that_hold_what_was_computed_for_another),
        WITH_RIG(trees_give_the_tokens_that_single_steps_give_and_leave_the_cache_in_order),
        WITH_RIG(biased_tokens_and_ends_that_come_too_early_are_the_same_with_trees_and_without),
        WITH_RIG(penalties_count_the_tokens_of_the_path_too),
        WITH_RIG(logprobs_and_hidden_states_are_of_the_model_itself_with_trees_and_without),
        WITH_RIG(an_early_result_is_the_result_where_each_choice_is_among_the_first_logits),
        WITH_RIG(the_run_of_a_draft_is_looked_at_for_its_step_alone),
        WITH_RIG(who_asks_for_logprobs_gets_no_early_result),
        WITH_RIG(of_logits_that_are_not_finite_nothing_is_told_early),
        WITH_RIG(two_sequences_in_a_step_get_their_own_logprobs),
        WITH_RIG(the_answer_begins_where_the_open_says),
        WITH_RIG(a_rank_without_logits_follows_the_leader_slot_by_slot),
        WITH_RIG(decisions_that_do_not_fit_the_plan_are_refused),
        WITH_RIG(a_bad_row_ends_only_its_own_sequence),
        WITH_RIG(a_plan_that_contradicts_the_rank_is_a_protocol_error_that_says_how),
        WITH_RIG(one_sequence_too_many_is_refused),
        WITH_RIG(create_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
