/* The coordinator, whole, in a thread of its own, against a member and a client that this test plays over real sockets: what a
 * broken or hostile member does costs its link and its group's requests, never the coordinator. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "config/config.h"
#include "coordinator/coordinator.h"
#include "model/text.h"
#include "net/net.h"
#include "proto/proto.h"
#include "tests/unit/model_text/gguf_writer.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EPOCH = 7, KV_TOKENS = 256, CONTEXT = 64, MAX_ROWS = 32, GIVE_UP_MS = 60000 /* a limit for hangs, not a measure */ };

static const uint8_t secret[NET_SECRET_BYTES] = {1, 2, 3};

typedef struct {
    char model[32], run_file[32], said[256]; /* said: why the link closed */
    config_group group;
    config_topology topology;
    coordinator_options options;
    coordinator *c;
    uint16_t control_port, grpc_port;
    pthread_t thread;
    bool lost;
    st_code ended; /* of coordinator_run */

    net_loop *loop;
    net_timer *hang, *beat;
    bool hung;
    net_link *link; /* NULL: closed */
    proto_register info;
    uint32_t n_welcomes, n_aborts, n_plans, n_stops, group_epoch;
    bool silent; /* neither REGISTER nor heartbeats */
    uint64_t plan_id;
    seq_id seq; /* of the plan's first work */

    net_grpc_client *client;
    uint32_t n_done, n_tokens;
    int grpc_status;
    char message[256];
    bool ready;
} house;

/* ---- the model file: a vocabulary and what the coordinator asks of the architecture ---- */

static void write_model(house *h) {
    static gguf g;
    model_file *f;
    g.n = 0;
    w_vocabulary(&g, &(wv_options){0});
    w_key_text(&g, "general.architecture", "llama");
    w_key_u32(&g, "llama.context_length", CONTEXT);
    g.bytes[16] += 2; /* the header's number of keys */
    memcpy(h->model, "/tmp/consort-test-XXXXXX", sizeof "/tmp/consort-test-XXXXXX");
    int fd = mkstemp(h->model);
    assert_true(fd >= 0 && write(fd, g.bytes, g.n) == (ssize_t)g.n && !close(fd));
    assert_int_equal(model_file_open(h->model, &f, NULL), ST_OK);
    assert_int_equal(model_file_hash(f, h->info.model_hash), ST_OK);
    assert_int_equal(model_file_vocabulary_hash(f, h->info.vocabulary_hash), ST_OK);
    model_file_close(f);
}

/* ---- the member ---- */

static void send_bytes(house *h, uint16_t type, const void *bytes, size_t n) {
    net_frame f = {type, EPOCH, h->group_epoch, bytes, (uint32_t)n};
    if (h->link) assert_true(net_link_send(h->link, &f) != ST_ERR_INVALID_ARGUMENT); /* it may be closing */
}

static void send_encoded(house *h, uint16_t type, st_code code, proto_bytes *b) {
    assert_int_equal(code, ST_OK);
    send_bytes(h, type, b->bytes, b->n);
    proto_bytes_free(b);
}

static void say_register(house *h, uint16_t type) {
    proto_bytes b = {0};
    st_code code = proto_register_encode(&h->info, &b);
    send_encoded(h, type, code, &b);
}

static void say_result(house *h, uint64_t plan_id, uint32_t n_items) {
    uint32_t token = WV_BYTES + 'a';
    proto_item item = {.seq = h->seq, .n_tokens = 1, .tokens = &token};
    proto_result r = {.plan_id = plan_id, .n_rows = 1, .n_items = n_items, .items = &item};
    proto_bytes b = {0};
    st_code code = proto_result_encode(&r, &b);
    send_encoded(h, PROTO_MSG_RESULT, code, &b);
}

static void on_beat(void *context) {
    house *h = context;
    proto_bytes b = {0};
    st_code code = proto_heartbeat_encode(&(proto_heartbeat){.load_share = 1}, &b);
    if (h->link && !h->silent) send_encoded(h, PROTO_MSG_HEARTBEAT, code, &b);
    proto_bytes_free(&b);
    net_timer_at(h->beat, net_now_ns() + 20000000);
}

static void on_open(void *context, net_link *k) {
    house *h = context;
    h->link = k;
    if (!h->silent) say_register(h, PROTO_MSG_REGISTER);
    net_loop_stop(h->loop);
}

static void on_frame(void *context, net_link *k, const net_frame *f) {
    house *h = context;
    proto_welcome w;
    proto_plan p;
    arena a;
    (void)k;
    if (f->type == PROTO_MSG_WELCOME) {
        assert_int_equal(proto_welcome_decode(f->payload, f->n, &w, NULL), ST_OK);
        h->group_epoch = w.group_epoch;
        h->n_welcomes++;
    } else if (f->type == PROTO_MSG_PLAN) {
        assert_int_equal(arena_init(&a, proto_arena_bytes(f->n)), ST_OK);
        assert_int_equal(proto_plan_decode(f->payload, f->n, &a, &p, NULL), ST_OK);
        if (p.n_work) {
            h->seq = p.work[0].seq;
            h->plan_id = p.id;
            h->n_plans++;
        } else
            say_result(h, p.id, 0); /* it only closes sequences */
        arena_deinit(&a);
    } else {
        h->n_aborts += f->type == PROTO_MSG_ABORT;
        h->n_stops += f->type == PROTO_MSG_STOP;
    }
    if (f->type == PROTO_MSG_STOP) send_bytes(h, PROTO_MSG_GOODBYE, NULL, 0);
    net_loop_stop(h->loop);
}

static void on_close(void *context, net_link *k, const char *reason) {
    house *h = context;
    (void)k;
    h->link = NULL;
    snprintf(h->said, sizeof h->said, "%s", reason);
    net_loop_stop(h->loop);
}

/* ---- the client ---- */

static void on_message(void *context, const uint8_t *message, size_t n) {
    house *h = context;
    proto_reply r;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(n)), ST_OK);
    assert_int_equal(proto_reply_decode(message, n, &a, &r, NULL), ST_OK);
    h->n_tokens += r.n_tokens;
    arena_deinit(&a);
}

static void on_status(void *context, const uint8_t *message, size_t n) {
    house *h = context;
    proto_status s;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(n)), ST_OK);
    assert_int_equal(proto_status_decode(message, n, &a, &s, NULL), ST_OK);
    h->ready = s.ready;
    arena_deinit(&a);
}

static void ignore(void *context, const uint8_t *message, size_t n) { (void)context, (void)message, (void)n; }

static void on_done(void *context, int status, const char *message) {
    house *h = context;
    h->grpc_status = status;
    snprintf(h->message, sizeof h->message, "%s", message);
    h->n_done++;
    net_loop_stop(h->loop);
}

static void call(house *h, const char *path, const proto_bytes *b, void (*each)(void *, const uint8_t *, size_t)) {
    const net_grpc_reply callbacks = {each, on_done};
    assert_int_equal(net_grpc_start(h->client, path, b->bytes, b->n, 0, &callbacks, h, NULL), ST_OK);
}

static void ask(house *h, uint32_t max_tokens) {
    proto_request r = proto_request_default();
    proto_bytes b = {0};
    r.text = "a";
    r.text_bytes = 1;
    r.max_tokens = max_tokens;
    r.ignore_end = true;
    assert_int_equal(proto_request_encode(&r, &b), ST_OK);
    call(h, "/consort.v1.Inference/Generate", &b, on_message);
    proto_bytes_free(&b);
}

/* ---- the house ---- */

static void on_hang(void *context) {
    house *h = context;
    h->hung = true;
    net_loop_stop(h->loop);
}

/* Turns the loop until the condition holds. */
#define UNTIL(h, condition)                                                                                                      \
    for (net_timer_at((h)->hang, net_now_ns() + GIVE_UP_MS * UINT64_C(1000000)); !(condition);) {                                \
        net_loop_run((h)->loop);                                                                                                 \
        if ((h)->hung) fail_msg("waited in vain for %s; the link said: %s", #condition, (h)->said);                              \
    }

static bool is_ready(house *h) {
    uint32_t n = h->n_done + 1;
    call(h, "/consort.v1.Inference/Status", &(proto_bytes){0}, on_status);
    UNTIL(h, h->n_done == n);
    return h->ready;
}

static void join(house *h) {
    static const net_link_callbacks callbacks = {on_open, on_frame, on_close};
    st_error e;
    net_link *k;
    h->said[0] = 0;
    h->group_epoch = 0;
    if (net_link_connect(h->loop, "127.0.0.1", h->control_port, secret, GIVE_UP_MS, &callbacks, h, &k, &e))
        fail_msg("%s", e.message);
    UNTIL(h, h->link);
}

static void become_ready(house *h) {
    uint32_t n = h->n_welcomes + 1;
    join(h);
    UNTIL(h, h->n_welcomes == n);
    say_register(h, PROTO_MSG_READY);
    UNTIL(h, is_ready(h));
}

static void *run(void *context) {
    house *h = context;
    st_error e;
    h->ended = coordinator_run(h->c, &h->lost, &e);
    coordinator_destroy(h->c); /* here, so that its ports are closed when the thread is joined */
    return NULL;
}

static void *start(uint32_t dead_after_ms, uint32_t drain_timeout_ms) {
    house *h = calloc(1, sizeof *h);
    st_error e;
    unsigned port = 0;
    write_model(h);
    static char name[] = "g";
    h->group = (config_group){.name = name, .tensor_parallel = 1, .kv_tokens = KV_TOKENS};
    static char address[] = "127.0.0.1:0", nothing[] = "";
    h->topology = (config_topology){.listen = address,
                                    .speculation = "none",
                                    .control_listen = address,
                                    .http_listen = nothing,
                                    .model = h->model,
                                    .max_running = 4,
                                    .max_queue = 4,
                                    .max_rows = MAX_ROWS,
                                    .max_batch = 4,
                                    .prefill_chunk = 8,
                                    .default_max_tokens = 8,
                                    .heartbeat_ms = 10,
                                    .dead_after_ms = dead_after_ms,
                                    .join_timeout_ms = GIVE_UP_MS,
                                    .drain_timeout_ms = drain_timeout_ms,
                                    .groups = &h->group,
                                    .n_groups = 1};
    snprintf(h->run_file, sizeof h->run_file, "%s.run", h->model);
    h->options = (coordinator_options){&h->topology, secret, EPOCH, h->run_file};
    if (coordinator_create(&h->options, &h->c, &e)) fail_msg("%s", e.message);
    h->control_port = coordinator_control_port(h->c);
    FILE *f = fopen(h->run_file, "r");
    assert_true(f && fscanf(f, "%*[^g]grpc\": \"127.0.0.1:%u", &port) == 1 && !fclose(f));
    h->grpc_port = (uint16_t)port;
    assert_int_equal(pthread_create(&h->thread, NULL, run, h), 0);

    proto_register *i = &h->info;
    i->rank = i->group_size = 1;
    memcpy(i->role, "verifier", sizeof "verifier");
    memcpy(i->hostname, "here", sizeof "here");
    memcpy(i->isa, "none", sizeof "none");
    memcpy(i->kv_type, "f16", sizeof "f16");
    i->kv_blocks = KV_TOKENS / NOUNS_BLOCK_TOKENS;
    i->max_context = CONTEXT;
    i->max_rows = MAX_ROWS;
    assert_int_equal(net_loop_create(&h->loop, &e), ST_OK);
    assert_int_equal(net_timer_create(h->loop, on_hang, h, &h->hang), ST_OK);
    assert_int_equal(net_timer_create(h->loop, on_beat, h, &h->beat), ST_OK);
    assert_int_equal(net_grpc_connect(h->loop, "127.0.0.1", h->grpc_port, GIVE_UP_MS, &h->client, &e), ST_OK);
    on_beat(h);
    return h;
}

/* Stops the cluster and waits for its end. */
static void stop(house *h) {
    uint32_t n = h->n_done + 1;
    call(h, "/consort.v1.Admin/Stop", &(proto_bytes){0}, ignore);
    UNTIL(h, h->n_done >= n);
    net_grpc_client_destroy(h->client);
    UNTIL(h, !h->link);
    pthread_join(h->thread, NULL);
    assert_int_equal(h->ended, ST_OK);
    assert_int_not_equal(access(h->run_file, F_OK), 0);
    net_timer_destroy(h->hang);
    net_timer_destroy(h->beat);
    net_loop_destroy(h->loop);
    unlink(h->model);
    free(h);
}

enum { PATIENT = 10000, HASTY = 100 }; /* dead_after_ms */

/* ---- the tests ---- */

static void a_request_is_served_and_a_clean_stop_loses_nobody(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    become_ready(h);
    uint32_t n = h->n_done + 1;
    ask(h, 2);
    UNTIL(h, h->n_plans == 1);
    say_result(h, h->plan_id, 1);
    UNTIL(h, h->n_plans == 2);
    say_result(h, h->plan_id, 1);
    UNTIL(h, h->n_done == n);
    assert_int_equal(h->grpc_status, 0);
    assert_int_equal(h->n_tokens, 2);
    stop(h);
}

static void a_link_that_never_registers_is_closed(void **state) {
    (void)state;
    house *h = start(HASTY, PATIENT);
    h->silent = true;
    join(h);
    UNTIL(h, !h->link);
    assert_non_null(strstr(h->said, "no REGISTER came"));
    stop(h);
}

static void a_silent_rank_is_lost(void **state) {
    (void)state;
    house *h = start(HASTY, PATIENT);
    become_ready(h);
    h->silent = true;
    UNTIL(h, !h->link);
    assert_non_null(strstr(h->said, "no sign of life"));
    assert_false(is_ready(h));
    stop(h);
}

static void a_goodbye_that_nobody_asked_for_ends_the_requests(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    become_ready(h);
    uint32_t n = h->n_done + 1;
    ask(h, 8);
    UNTIL(h, h->n_plans == 1);
    send_bytes(h, PROTO_MSG_GOODBYE, NULL, 0);
    UNTIL(h, h->n_done == n && !h->link);
    assert_int_equal(h->grpc_status, st_grpc(ST_ERR_UNAVAILABLE));
    assert_false(is_ready(h));
    ask(h, 8); /* nobody is there to send it to */
    UNTIL(h, h->n_done == n + 2);
    assert_int_equal(h->grpc_status, st_grpc(ST_ERR_UNAVAILABLE));
    stop(h);
}

static void an_abort_closes_the_link_and_the_rank_may_come_back(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    become_ready(h);
    uint32_t first_epoch = h->group_epoch, n = h->n_done + 1;
    proto_bytes b = {0};
    ask(h, 1);
    UNTIL(h, h->n_plans == 1);
    st_code code = proto_abort_encode(&(proto_abort){ST_FATAL_MEMORY, "no memory left"}, &b);
    send_encoded(h, PROTO_MSG_ABORT, code, &b);
    UNTIL(h, h->n_done == n && !h->link);
    assert_non_null(strstr(h->message, "no memory left"));

    become_ready(h);
    assert_true(h->group_epoch > first_epoch);
    n = h->n_done + 1;
    ask(h, 1);
    UNTIL(h, h->n_plans == 2);
    uint32_t epoch = h->group_epoch;
    h->group_epoch = first_epoch;
    say_result(h, h->plan_id, 1); /* of the life before: dropped */
    h->group_epoch = epoch;
    assert_true(is_ready(h) && h->link && h->n_tokens == 0);
    say_result(h, h->plan_id, 1);
    UNTIL(h, h->n_done == n + 1);
    assert_int_equal(h->n_tokens, 1);
    stop(h);
}

static void what_does_not_belong_on_a_link_closes_it(void **state) {
    (void)state;
    enum { LOADING, READY, LATER_EPOCH };
    static const struct {
        int when;
        uint16_t type;
        bool empty; /* otherwise bytes that are no message */
    } cases[] = {
        {LOADING, PROTO_MSG_REGISTER, false},  {LOADING, PROTO_MSG_READY, false},
        {LOADING, PROTO_MSG_HEARTBEAT, false}, {LOADING, PROTO_MSG_RESULT, true},
        {LOADING, PROTO_MSG_PLAN, false},      {LOADING, PROTO_MSG_STOP, true},
        {LOADING, PROTO_MSG_ABORT, false},     {LOADING, 4711, true},
        {READY, PROTO_MSG_READY, true},        {READY, PROTO_MSG_RESULT, false},
        {READY, PROTO_MSG_WELCOME, true},      {LATER_EPOCH, PROTO_MSG_RESULT, true},
    };
    house *h = start(PATIENT, PATIENT);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t n = h->n_welcomes + 1;
        if (cases[i].when == LOADING) {
            join(h);
            UNTIL(h, h->n_welcomes == n);
        } else
            become_ready(h);
        h->group_epoch += cases[i].when == LATER_EPOCH;
        send_bytes(h, cases[i].type, "\xff\xff\xff", cases[i].empty ? 0 : 3);
        UNTIL(h, !h->link);
        assert_false(is_ready(h));
    }
    become_ready(h);
    stop(h);
}

static void results_that_answer_something_else_end_the_request_or_are_dropped(void **state) {
    (void)state;
    house *h = start(PATIENT, PATIENT);
    become_ready(h);
    uint32_t n = h->n_done + 1;
    ask(h, 8);
    UNTIL(h, h->n_plans == 1);
    say_result(h, h->plan_id + 9, 1); /* dropped */
    h->seq.value += 1;
    say_result(h, h->plan_id, 1);
    UNTIL(h, h->n_done == n);
    assert_int_equal(h->grpc_status, st_grpc(ST_FATAL_PROTOCOL));
    stop(h);
}

static void a_plan_that_is_never_answered_does_not_hold_up_the_end(void **state) {
    (void)state;
    house *h = start(1000, 20);
    become_ready(h);
    ask(h, 8);
    UNTIL(h, h->n_plans == 1);
    stop(h); /* its member beats on, and says nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_is_served_and_a_clean_stop_loses_nobody),
        cmocka_unit_test(a_link_that_never_registers_is_closed),
        cmocka_unit_test(a_silent_rank_is_lost),
        cmocka_unit_test(a_goodbye_that_nobody_asked_for_ends_the_requests),
        cmocka_unit_test(an_abort_closes_the_link_and_the_rank_may_come_back),
        cmocka_unit_test(what_does_not_belong_on_a_link_closes_it),
        cmocka_unit_test(results_that_answer_something_else_end_the_request_or_are_dropped),
        cmocka_unit_test(a_plan_that_is_never_answered_does_not_hold_up_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
