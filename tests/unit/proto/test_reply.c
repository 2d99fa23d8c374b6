/* Replies and the status. */
#include "wire_test.h"

#include <math.h>

static void assert_same_figures(const proto_drafter_figures *a, uint32_t n_a, const proto_drafter_figures *b, uint32_t n_b) {
    assert_int_equal(n_a, n_b);
    for (uint32_t i = 0; i < n_a; i++) {
        assert_string_equal(a[i].name, b[i].name);
        assert_int_equal(a[i].drafted, b[i].drafted);
        assert_int_equal(a[i].accepted, b[i].accepted);
    }
}

static const proto_drafter_figures *some_figures(source *s, arena *a, uint32_t *n) {
    static const char *const names[] = {"lookup", "code", "a-name-of-31-bytes-is-longest--"};
    proto_drafter_figures *f = arena_alloc(a, *n = below(s, PROTO_MAX_DRAFTERS + 1), sizeof *f);
    assert_non_null(f);
    for (uint32_t i = 0; i < *n; i++) f[i] = (proto_drafter_figures){names[below(s, 3)], any64(s), any64(s)};
    return f;
}

static void assert_same_reply(const proto_reply *a, const proto_reply *b) {
    assert_int_equal(a->request_id != NULL, b->request_id != NULL);
    if (a->request_id) assert_string_equal(a->request_id, b->request_id);
    assert_int_equal(a->has_seed, b->has_seed);
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->text_bytes, b->text_bytes);
    if (a->text_bytes) assert_memory_equal(a->text, b->text, a->text_bytes);
    assert_same_numbers(a->tokens, a->n_tokens, b->tokens, b->n_tokens);
    assert_same_logprobs(&a->logprobs, a->n_tokens, &b->logprobs);
    assert_same_hidden(&a->hidden, a->n_tokens, &b->hidden);
    assert_int_equal(a->index, b->index);
    assert_int_equal(a->has_usage, b->has_usage);
    if (a->has_usage) {
        assert_int_equal(a->prompt_tokens, b->prompt_tokens);
        assert_int_equal(a->completion_tokens, b->completion_tokens);
    }
    assert_int_equal(a->finish_reason != NULL, b->finish_reason != NULL);
    if (!a->finish_reason) return;
    assert_string_equal(a->finish_reason, b->finish_reason);
    assert_int_equal(a->queue_ns, b->queue_ns);
    assert_int_equal(a->first_token_ns, b->first_token_ns);
    assert_int_equal(a->total_ns, b->total_ns);
    assert_int_equal(a->steps, b->steps);
    assert_int_equal(a->drafted, b->drafted);
    assert_int_equal(a->accepted, b->accepted);
    assert_same_figures(a->by_drafter, a->n_by_drafter, b->by_drafter, b->n_by_drafter);
}

static void a_reply_comes_back_as_it_went(void **state) {
    (void)state;
    source s = {1};
    for (int i = 0; i < 300; i++) {
        arena made = arena_for(1 << 14);
        proto_reply r = {.has_seed = below(&s, 2), .n_tokens = below(&s, 70), .index = any32(&s)}, back;
        proto_bytes b;
        st_error e = {0};
        if (r.has_seed) r.seed = any64(&s);
        if (below(&s, 2)) r.request_id = "r-1";
        if (below(&s, 2)) r.text = "na\xC3\xAFve", r.text_bytes = 6;
        r.tokens = some32(&s, &made, r.n_tokens);
        r.logprobs = some_logprobs(&s, &made, r.n_tokens);
        r.hidden = some_hidden(&s, &made, r.n_tokens);
        if (below(&s, 2)) {
            r.finish_reason = below(&s, 2) ? "stop" : "length";
            r.has_usage = below(&s, 2);
            if (r.has_usage) r.prompt_tokens = any32(&s), r.completion_tokens = any32(&s);
            r.queue_ns = any64(&s), r.first_token_ns = any64(&s), r.total_ns = any64(&s);
            r.steps = any64(&s), r.drafted = any64(&s), r.accepted = any64(&s);
            r.by_drafter = some_figures(&s, &made, &r.n_by_drafter);
        }
        assert_int_equal(proto_reply_encode(&r, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_reply_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same_reply(&r, &back);
        proto_bytes_free(&b);
        arena_deinit(&a);
        arena_deinit(&made);
    }
}

static void a_reply_with_bad_text_is_refused(void **state) {
    (void)state;
    proto_reply r = {.request_id = "a b"}, back;
    proto_bytes b;
    st_error e;
    arena a = arena_for(100);
    assert_int_equal(proto_reply_encode(&r, &b), ST_OK);
    assert_int_equal(proto_reply_decode(b.bytes, b.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "request_id: byte 0x20 at 1: expected printable ASCII without spaces");
    proto_bytes_free(&b);
    r = (proto_reply){.text = "\xFF", .text_bytes = 1};
    assert_int_equal(proto_reply_encode(&r, &b), ST_OK);
    assert_int_equal(proto_reply_decode(b.bytes, b.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "text: byte 0xff at 0 is not UTF-8");
    assert_int_equal(proto_reply_decode((const uint8_t *)"\x0F", 1, &a, &back, &e), ST_ERR_FORMAT);
    assert_int_equal(a.used_bytes, 0);
    proto_bytes_free(&b);
    arena_deinit(&a);
}

static void a_reply_with_logprobs_for_other_tokens_is_refused(void **state) {
    (void)state;
    raw_message m = {.n = 0}, logs = {.n = 0};
    proto_reply back;
    st_error e;
    arena a = arena_for(1 << 12);
    put_bytes(&logs, 1, "\0\0\0\0", 4);
    put_bytes(&m, 4, "\1\2", 2);
    put_bytes(&m, 9, logs.bytes, logs.n);
    assert_int_equal(proto_reply_decode(m.bytes, m.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "logprobs: 1 for 2 tokens");
    assert_int_equal(a.used_bytes, 0);
    arena_deinit(&a);
}

static void a_reply_with_bad_figures_is_refused(void **state) {
    (void)state;
    raw_message m = {.n = 0}, figures = {.n = 0};
    proto_reply back;
    st_error e;
    arena a = arena_for(1 << 12);
    for (uint32_t i = 0; i <= PROTO_MAX_DRAFTERS; i++) put_bytes(&figures, 4, "", 0);
    put_bytes(&m, 8, figures.bytes, figures.n);
    assert_int_equal(proto_reply_decode(m.bytes, m.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "by_drafter: 33 are over 32");
    m.n = figures.n = 0;
    put_bytes(&figures, 4,
              "\x0A\x03"
              "a b",
              5);
    put_bytes(&m, 8, figures.bytes, figures.n);
    assert_int_equal(proto_reply_decode(m.bytes, m.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "by_drafter.name: byte 0x20 at 1: expected printable ASCII without spaces");
    assert_int_equal(a.used_bytes, 0);
    arena_deinit(&a);
}

static proto_status sample_status(proto_worker_status *workers, uint32_t n) {
    static const proto_drafter_figures figures[] = {{"lookup", 5, 4}, {"code", 9, 8}};
    source s = {7};
    proto_status x = {.version = "0.1.0",
                      .model = "SmolLM2 135M",
                      .ready = true,
                      .reason = "it\xE2\x80\x99s fine",
                      .uptime_ns = UINT64_MAX,
                      .requests_running = 1,
                      .requests_waiting = 2,
                      .requests_done = 3,
                      .requests_failed = 4,
                      .tokens_generated = 5,
                      .tokens_prompt = 6,
                      .steps = 7,
                      .largest_batch = 8,
                      .kv_blocks_total = 9,
                      .kv_blocks_used = 10,
                      .cluster_epoch = 11,
                      .drafted = 12,
                      .accepted = 13,
                      .late_drafts = 14,
                      .n_workers = n,
                      .workers = workers,
                      .n_by_drafter = 2,
                      .by_drafter = figures};
    for (uint32_t i = 0; i < n; i++) {
        workers[i] =
            (proto_worker_status){.up = i % 2, .drained = i % 3, .requests = any64(&s), .step_ms = unit(&s), .steps = any64(&s)};
        workers[i].followed = i, workers[i].kv_blocks_held = any64(&s), workers[i].dropped = any64(&s);
        proto_register *r = &workers[i].info;
        *r = (proto_register){.rank = i, .group_size = 1, .role = "verifier", .hostname = "localhost", .kv_blocks = any64(&s)};
        for (int k = 0; k < 32; k++) r->model_hash[k] = (uint8_t)draw(&s);
        for (; r->n_addresses < i % (PROTO_MAX_TRANSPORTS + 1); r->n_addresses++)
            r->addresses[r->n_addresses] = (proto_address){{(char)('a' + r->n_addresses)}, "somewhere"};
    }
    return x;
}

static void assert_same_status(const proto_status *a, const proto_status *b) {
    assert_string_equal(a->version, b->version);
    assert_string_equal(a->model, b->model);
    assert_string_equal(a->reason, b->reason);
    assert_true(a->ready == b->ready && a->draining == b->draining);
    assert_int_equal(a->uptime_ns, b->uptime_ns);
    assert_int_equal(a->requests_running, b->requests_running);
    assert_int_equal(a->requests_waiting, b->requests_waiting);
    assert_int_equal(a->requests_done, b->requests_done);
    assert_int_equal(a->requests_failed, b->requests_failed);
    assert_int_equal(a->tokens_generated, b->tokens_generated);
    assert_int_equal(a->tokens_prompt, b->tokens_prompt);
    assert_int_equal(a->steps, b->steps);
    assert_int_equal(a->largest_batch, b->largest_batch);
    assert_int_equal(a->kv_blocks_total, b->kv_blocks_total);
    assert_int_equal(a->kv_blocks_used, b->kv_blocks_used);
    assert_int_equal(a->cluster_epoch, b->cluster_epoch);
    assert_int_equal(a->drafted, b->drafted);
    assert_int_equal(a->accepted, b->accepted);
    assert_int_equal(a->late_drafts, b->late_drafts);
    assert_same_figures(a->by_drafter, a->n_by_drafter, b->by_drafter, b->n_by_drafter);
    assert_int_equal(a->n_workers, b->n_workers);
    for (uint32_t i = 0; i < a->n_workers; i++) {
        const proto_worker_status *x = &a->workers[i], *y = &b->workers[i];
        assert_same_register(&x->info, &y->info);
        assert_true(x->up == y->up && x->step_ms == y->step_ms);
        assert_true(x->followed == y->followed && x->kv_blocks_held == y->kv_blocks_held && x->dropped == y->dropped);
        assert_int_equal(x->steps, y->steps);
        assert_true(x->drained == y->drained && x->requests == y->requests);
    }
}

static void a_measurement_comes_back_as_it_went(void **state) {
    (void)state;
    proto_measurement v = {"shm", 25600, 1, 2, 2.5e9, 4e9, .prompt_tokens = 0}, back;
    proto_bytes b;
    st_error e = {0};
    for (int i = 0; i < 2; i++) { /* and one of a prompt */
        assert_int_equal(proto_measurement_encode(&v, &b), ST_OK);
        if (proto_measurement_decode(b.bytes, b.n, &back, &e)) fail_msg("%s", e.message);
        assert_string_equal(back.transport, v.transport);
        assert_true(back.block_bytes == v.block_bytes && back.source == v.source && back.target == v.target);
        assert_true(back.bytes_per_s == v.bytes_per_s && back.raw_bytes_per_s == v.raw_bytes_per_s);
        assert_true(back.prompt_tokens == v.prompt_tokens && back.move_ns == v.move_ns);
        assert_true(back.crossover_tokens == v.crossover_tokens);
        assert_true(back.move_token_ns == v.move_token_ns && back.prompt_token_ns == v.prompt_token_ns);
        proto_bytes_free(&b);
        v.prompt_tokens = 1000, v.move_ns = UINT64_MAX, v.crossover_tokens = 32, v.move_token_ns = 1.5, v.prompt_token_ns = 7e5;
    }
    v.prompt_token_ns = NAN;
    assert_int_equal(proto_measurement_encode(&v, &b), ST_OK);
    assert_int_equal(proto_measurement_decode(b.bytes, b.n, &back, &e), ST_ERR_FORMAT);
    proto_bytes_free(&b);
}

static void a_call_to_measure_names_a_prompt_or_none(void **state) {
    (void)state;
    const uint32_t tokens[] = {0, 1, PROTO_MAX_PROMPT_TOKENS, PROTO_MAX_PROMPT_TOKENS + 1};
    for (int i = 0; i < 4; i++) {
        proto_bytes b;
        uint32_t back = 7;
        st_error e = {0};
        assert_int_equal(proto_measure_request_encode(tokens[i], &b), ST_OK);
        assert_int_equal(proto_measure_request_decode(b.bytes, b.n, &back, &e), i < 3 ? ST_OK : ST_ERR_INVALID_ARGUMENT);
        assert_int_equal(back, i < 3 ? tokens[i] : 7);
        proto_bytes_free(&b);
    }
}

static void a_call_to_drain_comes_back_as_it_went(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        proto_drain d = {.group = "a-name-of-31-bytes-is-longest--", .undo = i & 1, .wait = i & 2}, back;
        proto_bytes b;
        assert_int_equal(proto_drain_encode(&d, &b), ST_OK);
        assert_int_equal(proto_drain_decode(b.bytes, b.n, &back, NULL), ST_OK);
        assert_string_equal(back.group, d.group);
        assert_true(back.undo == d.undo && back.wait == d.wait);
        proto_bytes_free(&b);
    }
    raw_message m = {.n = 0};
    proto_drain back;
    st_error e;
    put_bytes(&m, 1, "two words", 9);
    assert_int_equal(proto_drain_decode(m.bytes, m.n, &back, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "group: byte 0x20 at 3: expected printable ASCII without spaces");
}

static void a_status_comes_back_as_it_went(void **state) {
    (void)state;
    proto_worker_status *workers = calloc(PROTO_MAX_WORKERS + 1, sizeof *workers);
    static const uint32_t counts[] = {0, 1, PROTO_MAX_WORKERS};
    for (size_t i = 0; i < 3; i++) {
        proto_status s = sample_status(workers, counts[i]), back;
        proto_bytes b;
        st_error e = {0};
        assert_int_equal(proto_status_encode(&s, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_status_decode(b.bytes, b.n, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same_status(&s, &back);
        proto_bytes_free(&b);
        arena_deinit(&a);
    }
    free(workers);
}

static void a_status_with_a_bad_worker_is_refused_by_its_index(void **state) {
    (void)state;
    proto_worker_status *workers = calloc(PROTO_MAX_WORKERS + 1, sizeof *workers);
    proto_status s = sample_status(workers, 2), back;
    proto_bytes b;
    st_error e;
    arena a = arena_for(1 << 20);
    workers[1].info.role[0] = '\t';
    assert_int_equal(proto_status_encode(&s, &b), ST_OK);
    assert_int_equal(proto_status_decode(b.bytes, b.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "workers[1]: role: byte 0x09 at 0: expected printable ASCII without spaces");
    proto_bytes_free(&b);
    s = sample_status(workers, 1), workers[0].step_ms = NAN;
    assert_int_equal(proto_status_encode(&s, &b), ST_OK);
    assert_int_equal(proto_status_decode(b.bytes, b.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "workers[0]: step_ms: nan is not finite");
    proto_bytes_free(&b);
    s = sample_status(workers, PROTO_MAX_WORKERS + 1);
    assert_int_equal(proto_status_encode(&s, &b), ST_OK);
    assert_int_equal(proto_status_decode(b.bytes, b.n, &a, &back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "workers: 1025 are over 1024");
    assert_int_equal(a.used_bytes, 0);
    proto_bytes_free(&b);
    for (uint64_t n = 1; n <= 3; n++) {
        mem_fail_at(n);
        assert_int_equal(proto_status_encode(&s, &b), ST_FATAL_MEMORY);
    }
    mem_fail_at(0);
    arena_deinit(&a);
    free(workers);
}

static void spans_come_back_as_they_went(void **state) {
    (void)state;
    source s = {9};
    static proto_span spans[PROTO_MAX_SPANS + 1], back[PROTO_MAX_SPANS];
    for (uint32_t n = 0; n <= PROTO_MAX_SPANS; n += 1 + n) {
        uint32_t n_back;
        proto_bytes b;
        st_error e = {0};
        for (uint32_t i = 0; i < n; i++) {
            spans[i] = (proto_span){.kind = "draft", .lane = any32(&s), .sequences = any32(&s), .tokens = any32(&s)};
            spans[i].start_ns = any64(&s), spans[i].duration_ns = any64(&s), spans[i].part_ns = any64(&s),
            spans[i].plan = any64(&s), spans[i].prompt = any32(&s), spans[i].drafted = any32(&s), spans[i].accepted = any32(&s);
            snprintf(spans[i].name, sizeof spans[i].name, "r-%u", any32(&s));
        }
        assert_int_equal(proto_spans_encode(spans, n, &b), ST_OK);
        arena a = arena_for(b.n);
        if (proto_spans_decode(b.bytes, b.n, &a, back, &n_back, &e)) fail_msg("%s", e.message);
        assert_int_equal(n_back, n);
        assert_memory_equal(spans, back, n * sizeof *spans);
        proto_bytes_free(&b);
        arena_deinit(&a);
    }
}

static void bad_spans_are_refused(void **state) {
    (void)state;
    static proto_span back[PROTO_MAX_SPANS];
    uint32_t n = 7;
    st_error e;
    raw_message m = {.n = 0};
    arena a = arena_for(1 << 14);
    for (uint32_t i = 0; i <= PROTO_MAX_SPANS; i++) put_bytes(&m, 1, "", 0);
    assert_int_equal(proto_spans_decode(m.bytes, m.n, &a, back, &n, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "spans: 257 are over 256");
    assert_int_equal(n, 0);
    proto_span bad = {.kind = "step", .name = "a b"};
    proto_bytes b;
    assert_int_equal(proto_spans_encode(&bad, 1, &b), ST_OK);
    assert_int_equal(proto_spans_decode(b.bytes, b.n, &a, back, &n, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "name: byte 0x20 at 1: expected printable ASCII without spaces");
    proto_bytes_free(&b);
    arena_deinit(&a);
}

static void habits_come_back_as_they_went(void **state) {
    (void)state;
    source s = {10};
    static proto_habit habits[PROTO_MAX_DRAFTERS], back[PROTO_MAX_DRAFTERS];
    const proto_habit *views[PROTO_MAX_DRAFTERS];
    uint64_t *seen = habits[0].seen[0][0], *hits = habits[0].hits[0][0];
    enum { CELLS = sizeof habits[0].seen / sizeof *seen };
    uint32_t n_back;
    proto_bytes b;
    st_error e;
    for (uint32_t i = 0; i < PROTO_MAX_DRAFTERS; i++) {
        views[i] = &habits[i];
        snprintf(habits[i].name, sizeof habits[i].name, "d%u", i);
        habits[i].none[i % PROTO_HABIT_DEPTHS] = any64(&s);
        habits[i].seen[1][2][i % PROTO_HABIT_BINS] = habits[i].hits[1][2][i % PROTO_HABIT_BINS] = any64(&s);
    }
    for (size_t k = 0; k < CELLS; k++) hits[k] = seen[k] / 2;
    assert_int_equal(proto_habits_encode(views, PROTO_MAX_DRAFTERS, &b), ST_OK);
    arena a = arena_for(1 << 20);
    assert_int_equal(proto_habits_decode(b.bytes, b.n, &a, back, &n_back, &e), ST_OK);
    assert_int_equal(n_back, PROTO_MAX_DRAFTERS);
    assert_memory_equal(habits, back, sizeof habits);
    proto_bytes_free(&b);
    hits[5] = seen[5] + 1;
    assert_int_equal(proto_habits_encode(views, 1, &b), ST_OK);
    assert_int_equal(proto_habits_decode(b.bytes, b.n, &a, back, &n_back, &e), ST_ERR_FORMAT);
    assert_string_equal(e.message, "habits: hits: number 5 is more than was seen");
    assert_int_equal(n_back, 0);
    proto_bytes_free(&b);
    arena_deinit(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_comes_back_as_it_went),
        cmocka_unit_test(a_reply_with_bad_text_is_refused),
        cmocka_unit_test(a_reply_with_logprobs_for_other_tokens_is_refused),
        cmocka_unit_test(spans_come_back_as_they_went),
        cmocka_unit_test(bad_spans_are_refused),
        cmocka_unit_test(habits_come_back_as_they_went),
        cmocka_unit_test(a_reply_with_bad_figures_is_refused),
        cmocka_unit_test(a_measurement_comes_back_as_it_went),
        cmocka_unit_test(a_call_to_measure_names_a_prompt_or_none),
        cmocka_unit_test(a_call_to_drain_comes_back_as_it_went),
        cmocka_unit_test(a_status_comes_back_as_it_went),
        cmocka_unit_test(a_status_with_a_bad_worker_is_refused_by_its_index),
    };
    return cmocka_run_group_tests_name("proto_reply", tests, NULL, NULL);
}
