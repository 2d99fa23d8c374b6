#include "tests/unit/coordinator/house.h"

#include "model/text.h"
#include "tests/unit/model_text/gguf_writer.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EPOCH = 7, KV_TOKENS = 256, MAX_ROWS = 32, DIM = 64 };

const uint8_t house_secret[NET_SECRET_BYTES] = {1, 2, 3};

/* ---- the model file: a vocabulary and what the coordinator asks of the architecture ---- */

static void write_model(house *h) {
    static gguf g;
    model_file *f;
    proto_register *verifier = &h->members[VERIFIER].info, *drafter = &h->members[DRAFTER].info;
    g.n = 0;
    w_vocabulary(&g, &(wv_options){0});
    w_key_text(&g, "general.architecture", "llama");
    w_key_u32(&g, "llama.context_length", CONTEXT);
    w_key_u32(&g, "llama.embedding_length", DIM);
    w_key_u32(&g, "llama.block_count", LAYERS);
    g.bytes[16] += 4; /* the header's number of keys */
    memcpy(h->model, "/tmp/consort-test-XXXXXX", sizeof "/tmp/consort-test-XXXXXX");
    int fd = mkstemp(h->model);
    assert_true(fd >= 0 && write(fd, g.bytes, g.n) == (ssize_t)g.n && !close(fd));
    assert_int_equal(model_file_open(h->model, &f, NULL), ST_OK);
    assert_int_equal(model_file_hash(f, verifier->model_hash), ST_OK);
    assert_int_equal(model_file_vocabulary_hash(f, verifier->vocabulary_hash), ST_OK);
    h->members[SECOND].info = *verifier;
    memcpy(drafter->vocabulary_hash, verifier->vocabulary_hash, sizeof drafter->vocabulary_hash); /* and a model of its own */
    model_file_close(f);
}

/* ---- the members ---- */

void member_send(member *m, uint16_t type, const void *bytes, size_t n) {
    net_frame f = {type, EPOCH, m->group_epoch, bytes, (uint32_t)n};
    if (m->link) assert_true(net_link_send(m->link, &f) != ST_ERR_INVALID_ARGUMENT); /* it may be closing */
}

static void send_encoded(member *m, uint16_t type, st_code code, proto_bytes *b) {
    assert_int_equal(code, ST_OK);
    member_send(m, type, b->bytes, b->n);
    proto_bytes_free(b);
}

void member_say_register(member *m, uint16_t type) {
    proto_bytes b = {0};
    st_code code = proto_register_encode(&m->info, &b);
    send_encoded(m, type, code, &b);
}

static void say_result(member *m, uint16_t type, uint64_t plan_id, uint32_t n_items) {
    uint32_t tokens[NOUNS_MAX_TREE + 1], parents[NOUNS_MAX_TREE + 1], n = m->plan.n_nodes;
    for (uint32_t i = 0; i <= n; i++) tokens[i] = WV_BYTES + 'a', parents[i] = i ? i - 1 : NOUNS_TREE_ROOT;
    proto_item item = {.seq = m->plan.seq, .n_tokens = n + 1, .tokens = tokens};
    if (m == &m->h->members[DRAFTER]) item = (proto_item){.seq = m->plan.seq, .tree = {n, tokens, parents, NULL}};
    proto_result r = {.plan_id = plan_id, .n_rows = n + 1, .n_items = n_items, .items = &item};
    proto_bytes b = {0};
    st_code code = proto_result_encode(&r, &b);
    send_encoded(m, type, code, &b);
}

void member_say_result(member *m, uint64_t plan_id, uint32_t n_items) { say_result(m, PROTO_MSG_RESULT, plan_id, n_items); }

void member_say_early(member *m, uint64_t plan_id) { say_result(m, PROTO_MSG_EARLY, plan_id, 1); }

void member_say_abort(member *m, const char *message) {
    proto_abort a = {.code = ST_FATAL_MEMORY};
    proto_bytes b = {0};
    snprintf(a.message, sizeof a.message, "%s", message);
    st_code code = proto_abort_encode(&a, &b);
    send_encoded(m, PROTO_MSG_ABORT, code, &b);
}

static void on_beat(void *context) {
    house *h = context;
    for (uint32_t i = 0; i < h->n_members; i++) {
        member *m = &h->members[i];
        proto_bytes b = {0};
        st_code code = proto_heartbeat_encode(&(proto_heartbeat){.load_share = 1}, &b);
        if (m->link && !m->silent) send_encoded(m, PROTO_MSG_HEARTBEAT, code, &b);
        proto_bytes_free(&b);
    }
    net_timer_at(h->beat, net_now_ns() + 20000000);
}

static void on_open(void *context, net_link *k) {
    member *m = context;
    m->link = k;
    if (!m->silent) member_say_register(m, PROTO_MSG_REGISTER);
    net_loop_stop(m->h->loop);
}

/* A plan for the other role, or of another life of the group, fails the test. */
static void on_plan(member *m, const net_frame *f) {
    proto_plan p;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(f->n)), ST_OK);
    assert_int_equal(proto_plan_decode(f->payload, f->n, &a, &p, NULL), ST_OK);
    assert_int_equal(f->group_epoch, m->group_epoch);
    assert_int_equal(p.kind, m == &m->h->members[DRAFTER] ? PROTO_PLAN_DRAFT : PROTO_PLAN_STEP);
    uint32_t n_items = p.n_work + p.n_draft;
    m->n_closed += p.n_close;
    if (n_items) {
        m->plan.id = p.id;
        m->plan.seq = p.n_work ? p.work[0].seq : p.draft[0].seq;
        m->plan.n_nodes = p.n_work ? p.work[0].tree.n_nodes : p.draft[0].budget;
        m->plan.n_answered = p.n_open ? p.open[0].n_answered : 0;
        m->plan.start = p.n_work ? p.work[0].start : 0;
        m->plan.early = p.early;
        m->n_nodes += p.n_work ? p.work[0].tree.n_nodes : 0;
        m->n_plans++;
    }
    if (m->answers || !n_items) member_say_result(m, p.id, n_items); /* none: it only closes sequences */
    arena_deinit(&a);
}

static void on_move(member *m, const net_frame *f) {
    proto_move v;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(f->n)), ST_OK);
    assert_int_equal(proto_move_decode(f->payload, f->n, &a, &v, NULL), ST_OK);
    assert_int_equal(f->group_epoch, m->group_epoch);
    assert_int_equal(v.n_flows, 1); /* each group has one rank */
    m->move.id = v.id;
    m->move.after_plan = v.after_plan;
    m->move.target = v.target;
    m->move.n_tokens = v.n_tokens;
    m->move.n_blocks = v.n_blocks;
    m->move.n_ready = v.n_ready;
    m->move.by_layer = v.by_layer;
    m->move.first_block = v.n_blocks ? v.blocks[0] : UINT32_MAX;
    m->move.scratch = v.scratch;
    snprintf(m->move.way, sizeof m->move.way, "%s", v.way);
    assert_int_equal(v.flows[0].n_addresses, 2);
    snprintf(m->move.peer, sizeof m->move.peer, "%s", v.flows[0].addresses[1].address);
    memcpy(m->move.key, v.flows[0].key, sizeof m->move.key);
    m->n_moves++;
    arena_deinit(&a);
}

void member_say_moved(member *m, st_code code, const char *message, uint64_t bytes, uint64_t took_ns) {
    proto_moved v = {.id = m->move.id, .code = code, .bytes = bytes, .took_ns = took_ns, .way = "tcp"};
    proto_bytes b = {0};
    snprintf(v.message, sizeof v.message, "%s", message);
    code = proto_moved_encode(&v, &b);
    send_encoded(m, PROTO_MSG_MOVED, code, &b);
}

void member_say_faults(member *m, st_code code, const char *message) {
    proto_faults f = {.id = m->faults.id,
                      .code = code,
                      .n_points = 2,
                      .points = {{"a.point", "what it does", 3, 30, 10}, {"another", "what that does", 0, 0, 0}}};
    proto_bytes b = {0};
    snprintf(f.message, sizeof f.message, "%s", message);
    code = proto_faults_encode(&f, &b);
    send_encoded(m, PROTO_MSG_FAULTS_TOLD, code, &b);
}

static void on_frame(void *context, net_link *k, const net_frame *f) {
    member *m = context;
    uint64_t id;
    proto_welcome w;
    (void)k;
    if (f->type == PROTO_MSG_WELCOME) {
        assert_int_equal(proto_welcome_decode(f->payload, f->n, &w, NULL), ST_OK);
        m->group_epoch = w.group_epoch;
        m->n_welcomes++;
    }
    m->n_aborts += f->type == PROTO_MSG_ABORT;
    if (f->type == PROTO_MSG_FAULTS) {
        assert_int_equal(proto_faults_order_decode(f->payload, f->n, &m->faults, NULL), ST_OK);
        m->n_faults++;
    }
    if (f->type == PROTO_MSG_PLAN) on_plan(m, f);
    if (f->type == PROTO_MSG_MOVE) on_move(m, f);
    if (f->type == PROTO_MSG_MOVE_READY)
        assert_int_equal(proto_move_ready_decode(f->payload, f->n, &id, &m->move.n_ready, NULL), ST_OK);
    if (f->type == PROTO_MSG_MOVE_CANCEL) {
        assert_int_equal(proto_move_cancel_decode(f->payload, f->n, &id, NULL), ST_OK);
        assert_true(id == m->move.id);
        m->n_cancels++;
    }
    if (f->type == PROTO_MSG_STOP) member_send(m, PROTO_MSG_GOODBYE, NULL, 0);
    net_loop_stop(m->h->loop);
}

static void on_close(void *context, net_link *k, const char *reason) {
    member *m = context;
    (void)k;
    m->link = NULL;
    snprintf(m->said, sizeof m->said, "%s", reason);
    net_loop_stop(m->h->loop);
}

/* ---- the client ---- */

static void on_message(void *context, const uint8_t *message, size_t n) {
    house *h = ((outcome *)context)->h;
    proto_reply r;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(n)), ST_OK);
    assert_int_equal(proto_reply_decode(message, n, &a, &r, NULL), ST_OK);
    h->n_tokens += r.n_tokens;
    arena_deinit(&a);
}

static void on_status(void *context, const uint8_t *message, size_t n) {
    house *h = ((outcome *)context)->h;
    proto_status s;
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(n)), ST_OK);
    assert_int_equal(proto_status_decode(message, n, &a, &s, NULL), ST_OK);
    h->ready = s.ready;
    memcpy(h->reason, s.reason, sizeof h->reason);
    for (uint32_t i = 0; i < s.n_workers; i++) {
        h->up[s.workers[i].info.rank] = s.workers[i].up;
        h->drained[s.workers[i].info.rank] = s.workers[i].drained;
    }
    arena_deinit(&a);
}

static void ignore(void *context, const uint8_t *message, size_t n) { (void)context, (void)message, (void)n; }

static void on_done(void *context, int status, const char *message) {
    outcome *o = context;
    o->status = status;
    snprintf(o->message, sizeof o->message, "%s", message);
    o->done = true;
    net_loop_stop(o->h->loop);
}

static void call(outcome *o, const char *path, const proto_bytes *b, void (*each)(void *, const uint8_t *, size_t),
                 void **handle) {
    const net_grpc_reply callbacks = {each, on_done};
    o->done = false;
    assert_int_equal(net_grpc_start(o->h->client, path, b->bytes, b->n, 0, &callbacks, o, handle), ST_OK);
}

static void on_measured(void *context, const uint8_t *message, size_t n) {
    house *h = ((outcome *)context)->h;
    assert_int_equal(proto_measurement_decode(message, n, &h->measured, NULL), ST_OK);
    h->n_measured++;
    net_loop_stop(h->loop);
}

void house_measure(house *h, uint32_t prompt_tokens) {
    proto_bytes b = {0};
    h->n_measured = 0;
    assert_int_equal(proto_measure_request_encode(prompt_tokens, &b), ST_OK);
    call(&h->measure, "/consort.v1.Admin/MeasureKv", &b, on_measured, &h->measuring);
    proto_bytes_free(&b);
}

static void on_told(void *context, const uint8_t *message, size_t n) {
    house *h = ((outcome *)context)->h;
    assert_true(h->n_told < sizeof h->told / sizeof *h->told);
    assert_int_equal(proto_faults_reply_decode(message, n, &h->told[h->n_told++], NULL), ST_OK);
    net_loop_stop(h->loop);
}

void house_faults(house *h, const proto_faults_request *q) {
    proto_bytes b = {0};
    assert_int_equal(proto_faults_request_encode(q, &b), ST_OK);
    h->n_told = 0;
    call(&h->faults, "/consort.v1.Admin/Faults", &b, on_told, &h->faulting);
    proto_bytes_free(&b);
}

static void on_forgotten(void *context, const uint8_t *message, size_t n) {
    house *h = ((outcome *)context)->h;
    assert_int_equal(proto_blocks_decode(message, n, &h->blocks, NULL), ST_OK);
}

void house_forget(house *h) { call(&h->forget, "/consort.v1.Admin/ForgetKv", &(proto_bytes){0}, on_forgotten, NULL); }

void house_ask(house *h, uint32_t max_tokens) {
    proto_request r = proto_request_default();
    proto_bytes b = {0};
    r.text = "zzz"; /* as many tokens: no merge */
    r.text_bytes = 3;
    r.max_tokens = max_tokens;
    r.ignore_end = true;
    assert_int_equal(proto_request_encode(&r, &b), ST_OK);
    h->n_tokens = 0;
    call(&h->request, "/consort.v1.Inference/Generate", &b, on_message, &h->requesting);
    proto_bytes_free(&b);
}

/* ---- the house ---- */

static void on_hang(void *context) {
    house *h = context;
    h->hung = true;
    net_loop_stop(h->loop);
}

void house_turn(house *h, const char *what) {
    net_loop_run(h->loop);
    if (h->hung)
        fail_msg("waited in vain for %s; the links said: %s, %s", what, h->members[VERIFIER].said, h->members[DRAFTER].said);
}

/* No UNTIL, since it may be part of the condition of one, whose patience must have an end. */
static void look(house *h) {
    call(&h->status, "/consort.v1.Inference/Status", &(proto_bytes){0}, on_status, NULL);
    while (!h->status.done) house_turn(h, "the status");
}

bool house_is_ready(house *h) {
    look(h);
    return h->ready;
}

bool member_is_up(member *m) {
    look(m->h);
    return m->h->up[m->info.rank];
}

bool member_is_drained(member *m) {
    look(m->h);
    return m->h->drained[m->info.rank];
}

void member_join(member *m) {
    static const net_link_callbacks callbacks = {on_open, on_frame, on_close};
    st_error e;
    net_link *k;
    m->said[0] = 0;
    m->group_epoch = 0;
    if (net_link_connect(m->h->loop, "127.0.0.1", m->h->control_port, house_secret, GIVE_UP_MS, &callbacks, m, &k, &e))
        fail_msg("%s", e.message);
    UNTIL(m->h, m->link);
}

void member_join_and_load(member *m) {
    uint32_t n = m->n_welcomes + 1;
    member_join(m);
    UNTIL(m->h, m->n_welcomes == n);
}

void member_become_ready(member *m) {
    member_join_and_load(m);
    member_say_register(m, PROTO_MSG_READY);
    UNTIL(m->h, member_is_up(m));
}

void house_ends_well(house *h, uint32_t n_tokens) {
    UNTIL(h, h->request.done);
    assert_int_equal(h->request.status, 0);
    assert_int_equal(h->n_tokens, n_tokens);
}

void house_is_served(house *h, uint32_t n_tokens) {
    house_ask(h, n_tokens);
    house_ends_well(h, n_tokens);
}

static void *run(void *context) {
    house *h = context;
    st_error e;
    h->ended = coordinator_run(h->c, &h->lost, &e);
    coordinator_destroy(h->c); /* here, so that its ports are closed when the thread is joined */
    return NULL;
}

static void describe_members(house *h) {
    for (uint32_t i = 0; i < h->n_members; i++) {
        member *m = &h->members[i];
        proto_register *r = &m->info;
        r->group = h->n_members - 1 - i;
        r->rank = r->group + 1;
        r->group_size = 1;
        m->h = h;
        static char kind[] = "model", serves[] = "both";
        static char *const names[] = {[VERIFIER] = "g", [DRAFTER] = "d", [SECOND] = "h"};
        h->groups[r->group] = (config_group){.name = names[i],
                                             .role = i == DRAFTER ? CONFIG_DRAFTER : CONFIG_VERIFIER,
                                             .serves = serves,
                                             .kind = kind,
                                             .tensor_parallel = 1,
                                             .kv_tokens = i == DRAFTER ? 0 : KV_TOKENS};
        snprintf(r->role, sizeof r->role, "%s", i == DRAFTER ? "drafter" : "verifier");
        snprintf(r->hostname, sizeof r->hostname, "here");
        if (i == DRAFTER) continue;
        memcpy(r->isa, "none", sizeof "none");
        memcpy(r->precision, "fast", sizeof "fast");
        memcpy(r->kv_type, "f16", sizeof "f16");
        r->kv_blocks = KV_TOKENS / NOUNS_BLOCK_TOKENS;
        r->kv_bytes =
            r->kv_blocks * LAYERS * (i == SECOND ? PIECE_BYTES : 2 * PIECE_BYTES) - 1; /* of a layer of a block: less than that */
        r->max_context = CONTEXT;
        r->dim = DIM;
        r->max_rows = MAX_ROWS;
        r->n_kv_heads = 2;
        r->n_addresses = 2;
        r->addresses[0] = (proto_address){.transport = "shm", .address = {'@', names[i][0]}};
        r->addresses[1] = (proto_address){.transport = "tcp", .address = {names[i][0], ':', '1'}};
    }
}

static void describe(house *h, const house_options *o) {
    static char address[] = "127.0.0.1:0";
    const bool drafts = h->n_members > DRAFTER;
    h->topology = (config_topology){.listen = address,
                                    .chat_template = "",
                                    .prefix_cache = "on",
                                    .speculation = drafts ? "fixed:d" : "none",
                                    .draft_budget = drafts ? BUDGET : 0,
                                    .draft_wait_ms = o->draft_wait_ms,
                                    .corpus = "",
                                    .draft_budgets = "fixed",
                                    .draft_ahead = "early",
                                    .fusion = "auto",
                                    .kv_transport = "auto",
                                    .kv_order = "block",
                                    .kv_listen = "127.0.0.1",
                                    .control_listen = address,
                                    .http_listen = "",
                                    .model = h->model,
                                    .precision = "fast",
                                    .move_tokens = 32,
                                    .max_running = 4,
                                    .max_queue = 4,
                                    .max_rows = MAX_ROWS,
                                    .max_batch = 4,
                                    .prefill_chunk = 8,
                                    .max_stall_ms = 200,
                                    .default_max_tokens = 8,
                                    .heartbeat_ms = 10,
                                    .dead_after_ms = o->dead_after_ms,
                                    .join_timeout_ms = o->join_timeout_ms,
                                    .drain_timeout_ms = o->drain_timeout_ms,
                                    .groups = h->groups,
                                    .n_groups = h->n_members};
    describe_members(h);
}

static house *start(const house_options *o, bool debug) {
    static char off[] = "off", on[] = "on";
    house *h = calloc(1, sizeof *h);
    st_error e;
    unsigned port = 0;
    h->n_members = o->n_members;
    h->request.h = h->status.h = h->stop.h = h->drain.h = h->undo.h = h->measure.h = h->faults.h = h->forget.h = h;
    write_model(h);
    describe(h, o);
    h->topology.debug = debug ? on : off;
    snprintf(h->run_file, sizeof h->run_file, "%s.run", h->model);
    h->options =
        (coordinator_options){.topology = &h->topology, .secret = house_secret, .cluster_epoch = EPOCH, .run_file = h->run_file};
    if (coordinator_create(&h->options, &h->c, &e)) fail_msg("%s", e.message);
    h->control_port = coordinator_control_port(h->c);
    FILE *f = fopen(h->run_file, "r");
    assert_true(f && fscanf(f, "%*[^g]grpc\": \"127.0.0.1:%u", &port) == 1 && !fclose(f));
    h->grpc_port = (uint16_t)port;
    assert_int_equal(pthread_create(&h->thread, NULL, run, h), 0);

    assert_int_equal(net_loop_create(&h->loop, &e), ST_OK);
    assert_int_equal(net_timer_create(h->loop, on_hang, h, &h->hang), ST_OK);
    assert_int_equal(net_timer_create(h->loop, on_beat, h, &h->beat), ST_OK);
    assert_int_equal(net_grpc_connect(h->loop, "127.0.0.1", h->grpc_port, GIVE_UP_MS, &h->client, &e), ST_OK);
    on_beat(h);
    return h;
}

house *house_start(const house_options *o) { return start(o, false); }

house *house_start_debug(const house_options *o) { return start(o, true); }

void house_drain(outcome *o, const proto_drain *d) {
    proto_bytes b = {0};
    assert_int_equal(proto_drain_encode(d, &b), ST_OK);
    call(o, "/consort.v1.Admin/Drain", &b, ignore, NULL);
    proto_bytes_free(&b);
}

void house_ask_stop(house *h) {
    call(&h->stop, "/consort.v1.Admin/Stop", &(proto_bytes){0}, ignore, NULL);
    UNTIL(h, h->stop.done);
}

bool house_stop(house *h) {
    if (!h->stop.done) house_ask_stop(h);
    net_grpc_client_destroy(h->client);
    for (uint32_t i = 0; i < h->n_members; i++) UNTIL(h, !h->members[i].link);
    pthread_join(h->thread, NULL);
    assert_int_equal(h->ended, ST_OK);
    assert_int_not_equal(access(h->run_file, F_OK), 0);
    net_timer_destroy(h->hang);
    net_timer_destroy(h->beat);
    net_loop_destroy(h->loop);
    unlink(h->model);
    bool lost = h->lost;
    free(h);
    return lost;
}
