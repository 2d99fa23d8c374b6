/* Movers of several ranks in one process, over real transports: two ranks that hold heads 0-1 and 1-2 of three send to one that
 * holds all of them. What arrives is in the blocks that were named, byte for byte, and nothing else changes. */
#include "worker/mover.h"
#include "worker/raw_flow.h"

#include "base/fault.h"
#include "base/mem.h"
#include "parallel/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <time.h>

enum {
    N_RANKS = 3,
    TARGET = 2,
    LAYERS = 3,
    HEADS = 3,
    HEAD_DIM = 32,
    WIDE_HEAD_DIM = 576, /* in f32 a layer of a block of two heads is three messages, of which one has K and V */
    BLOCKS = 6,
    N_TOKENS = 70,
    PART = 128 << 10, /* of the mover's messages */
    LEASE_MS = 20000,
    GIVE_UP_S = 60
};
static const uint32_t from_blocks[] = {4, 0, 2}, to_blocks[] = {1, 5, 3};
static const kv_heads held[N_RANKS] = {{0, 2}, {1, 2}, {0, 3}};

typedef struct world world;

typedef struct {
    world *w;
    uint32_t n_answers;
    proto_moved answer; /* the last */
    kv_store *store;
    transport *transports[TRANSPORT_MAX_KINDS];
    uint32_t n_transports;
    mover *mover;
    uint8_t secret[MOVER_SECRET_BYTES];
} rank;

struct world {
    const kernels_ops *ops;
    kernels_device *device;
    const kv_type *type;
    uint32_t head_dim;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    rank ranks[N_RANKS];
};

static void moved(void *context, const proto_moved *m) {
    rank *r = context;
    pthread_mutex_lock(&r->w->lock);
    r->answer = *m;
    r->n_answers++;
    pthread_cond_broadcast(&r->w->changed);
    pthread_mutex_unlock(&r->w->lock);
}

static proto_moved wait_for(rank *r, uint32_t n_answers) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += GIVE_UP_S;
    pthread_mutex_lock(&r->w->lock);
    int late = 0;
    while (r->n_answers < n_answers && !late) late = pthread_cond_timedwait(&r->w->changed, &r->w->lock, &until);
    proto_moved m = r->answer;
    uint32_t n = r->n_answers;
    pthread_mutex_unlock(&r->w->lock);
    assert_int_equal(n, n_answers);
    return m;
}

static uint8_t byte_of(uint32_t r, size_t i) { return (uint8_t)(i * 31 + (i >> 7) * 17 + r * 101 + 3); }

static void start_mover(rank *r, uint32_t i) {
    st_error e = {0};
    mover_options o = {.transports = r->transports,
                       .n_transports = r->n_transports,
                       .secret = r->secret,
                       .store = r->store,
                       .held = held[i],
                       .n_kv_heads = HEADS,
                       .model = {7},
                       .kv_type = r->w->type->name,
                       .rank = i == TARGET ? 0 : i,
                       .moved = moved,
                       .context = r};
    if (mover_start(&o, &r->mover, &e)) fail_msg("%s", e.message);
}

/* way: the only transport that they have; NULL: all of the table. */
static world *begin_with(const char *type, const char *way, uint32_t head_dim) {
    world *w = mem_alloc(1, sizeof *w);
    const transport_kind *kind;
    st_error e = {0};
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->type = kv_type_find(type);
    w->head_dim = head_dim;
    assert_int_equal(kernels_pick("scalar", &w->ops, NULL), ST_OK);
    assert_int_equal(w->ops->create(1, &w->device, NULL), ST_OK);
    for (uint32_t i = 0; i < N_RANKS; i++) {
        rank *r = &w->ranks[i];
        kv_shape shape = {.type = w->type, .n_blocks = BLOCKS, .n_layers = LAYERS, .n_kv_heads = held[i].n, .head_dim = head_dim};
        r->w = w;
        memset(r->secret, 5, sizeof r->secret);
        assert_int_equal(kv_store_create(w->ops, w->device, &shape, &r->store, &e), ST_OK);
        size_t n = kv_store_bytes(r->store);
        uint8_t *bytes = mem_alloc(n, 1);
        for (size_t k = 0; k < n; k++) bytes[k] = byte_of(i, k);
        w->ops->upload(w->device, kv_store_view(r->store)->at, bytes, n);
        mem_free(bytes);
        for (uint32_t k = 0; (kind = transport_kind_at(k)); k++)
            if ((!way || !strcmp(way, kind->name)) &&
                kind->create(&(transport_options){0}, &r->transports[r->n_transports++], &e))
                fail_msg("%s", e.message);
        start_mover(r, i);
    }
    return w;
}

static world *begin(const char *type, const char *way) { return begin_with(type, way, HEAD_DIM); }

static void stop_rank(rank *r) {
    mover_stop(r->mover);
    r->mover = NULL;
    while (r->n_transports) {
        transport *t = r->transports[--r->n_transports];
        t->ops->destroy(t);
    }
}

static void end(world *w) {
    for (uint32_t i = 0; i < N_RANKS; i++) {
        stop_rank(&w->ranks[i]);
        kv_store_destroy(w->ranks[i].store);
    }
    w->ops->destroy(w->device);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

/* ---- orders ---- */

typedef struct {
    proto_move move;
    proto_flow flows[2];
    proto_address addresses[2][PROTO_MAX_TRANSPORTS];
    uint8_t keys[2][PROTO_KEY_BYTES];
} order;

static uint32_t addresses_of(const rank *r, proto_address *out) {
    for (uint32_t i = 0; i < r->n_transports; i++) {
        snprintf(out[i].transport, sizeof out[i].transport, "%s", r->transports[i]->ops->name);
        snprintf(out[i].address, sizeof out[i].address, "%s", r->transports[i]->address);
    }
    return r->n_transports;
}

/* Heads 0-1 come from rank 0, head 2 from rank 1. */
static void fill(order *o, const world *w, uint64_t id, uint32_t i) {
    bool target = i == TARGET;
    *o = (order){.move = {.id = id,
                          .generation = 1,
                          .target = target,
                          .n_tokens = N_TOKENS,
                          .n_ready = target ? 0 : 3,
                          .by_layer = id % 2,
                          .lease_ms = LEASE_MS,
                          .retry_ms = 100,
                          .n_blocks = 3,
                          .blocks = target ? to_blocks : from_blocks}};
    for (uint32_t s = 0; s < TARGET; s++) {
        const rank *peer = &w->ranks[target ? s : TARGET];
        if (!target && s != i) continue;
        uint32_t n = o->move.n_flows++;
        memset(o->keys[n], (int)(10 * id + s + 1), PROTO_KEY_BYTES);
        o->flows[n] = (proto_flow){.peer = target ? s : 0,
                                   .first_head = s ? 2 : 0,
                                   .n_heads = s ? 1 : 2,
                                   .n_addresses = addresses_of(peer, o->addresses[n]),
                                   .addresses = o->addresses[n],
                                   .key = o->keys[n]};
    }
    o->move.flows = o->flows;
}

static void give(world *w, uint64_t id, uint32_t i) {
    order o;
    fill(&o, w, id, i);
    assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
}

static void give_all(world *w, uint64_t id) {
    for (uint32_t i = 0; i < N_RANKS; i++) give(w, id, i);
}

static size_t place(uint32_t n_heads, const size_t row[2], uint32_t block, uint32_t layer, uint32_t v, uint32_t head) {
    const size_t layers = ((size_t)block * LAYERS + layer) * n_heads * (row[0] + row[1]);
    return (layers + v * n_heads * row[0] + head * row[v]) * NOUNS_BLOCK_TOKENS;
}

/* moved: the KV is there; otherwise no byte may have changed. */
static void check_target(world *w, bool is_moved) {
    rank *t = &w->ranks[TARGET];
    const size_t n = kv_store_bytes(t->store);
    const size_t row[2] = {kernels_kv_row_bytes(w->type->k, w->head_dim), kernels_kv_row_bytes(w->type->v, w->head_dim)};
    uint8_t *expected = mem_alloc(n, 1);
    for (size_t k = 0; k < n; k++) expected[k] = byte_of(TARGET, k);
    for (uint32_t b = 0; is_moved && b < 3; b++)
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t v = 0; v < 2; v++)
                for (uint32_t h = 0; h < HEADS; h++) {
                    uint32_t s = h == 2, tokens = b == 2 ? N_TOKENS - 64 : 32;
                    size_t from = place(held[s].n, row, from_blocks[b], l, v, h - held[s].first);
                    for (size_t k = 0; k < tokens * row[v]; k++)
                        expected[place(HEADS, row, to_blocks[b], l, v, h) + k] = byte_of(s, from + k);
                }
    assert_memory_equal(w->ops->host(w->device, kv_store_view(t->store)->at, n), expected, n);
    mem_free(expected);
}

static void assert_moved(world *w, uint32_t n_answers, const char *way) {
    size_t token = kv_type_token_bytes(w->type, w->head_dim);
    for (uint32_t i = 0; i < N_RANKS; i++) {
        proto_moved m = wait_for(&w->ranks[i], n_answers);
        if (m.code) fail_msg("rank %u: %s", i, m.message);
        uint32_t heads = i == 0 ? 2 : i == 1 ? 1 : 3;
        assert_int_equal(m.bytes, heads * token * N_TOKENS * LAYERS);
        assert_true(m.took_ns > 0);
        if (way) assert_string_equal(m.way, way);
    }
    check_target(w, true);
}

/* ---- tests ---- */

static void every_type_moves_by_every_transport(void **state) {
    (void)state;
    const kv_type *t;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++)
        for (uint32_t i = 0; (t = kv_type_at(i)); i++) {
            world *w = begin(t->name, kind->name);
            give_all(w, 1);
            assert_moved(w, 1, kind->name);
            end(w);
        }
}

static void a_large_piece_goes_in_several_messages_over_good_links_and_bad(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++)
        for (uint32_t bad = 0; bad < 2; bad++) {
            world *w = begin_with("f32", kind->name, WIDE_HEAD_DIM);
            assert_true(2 * NOUNS_BLOCK_TOKENS * kv_type_token_bytes(w->type, WIDE_HEAD_DIM) > PART);
            assert_int_equal(fault_plan(bad ? "move.flip=10,move.short=10" : NULL, NULL), ST_OK);
            give_all(w, 1);
            if (bad)
                assert_int_equal(wait_for(&w->ranks[TARGET], 1).code, ST_OK); /* a source may miss the last word */
            else
                assert_moved(w, 1, kind->name);
            check_target(w, true);
            end(w);
        }
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

static void the_best_transport_is_taken_unless_the_order_names_another(void **state) {
    (void)state;
    world *w = begin("f16", NULL);
    order o;
    give_all(w, 1);
    assert_moved(w, 1, transport_kind_at(0)->name);
    for (uint32_t i = 0; i < N_RANKS; i++) {
        fill(&o, w, 2, i);
        snprintf(o.move.way, sizeof o.move.way, "tcp");
        assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
    }
    assert_moved(w, 2, "tcp");
    end(w);
}

static void blocks_go_as_they_get_ready(void **state) {
    (void)state;
    world *w = begin("q8", NULL);
    order o;
    give(w, 3, TARGET);
    for (uint32_t i = 0; i < TARGET; i++) {
        fill(&o, w, 3, i);
        o.move.n_ready = 0;
        assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
        assert_int_equal(mover_ready(w->ranks[i].mover, 3, 99), ST_OK); /* more than there are: not believed */
        for (uint32_t n = 1; n <= 3; n++) assert_int_equal(mover_ready(w->ranks[i].mover, 3, n), ST_OK);
    }
    assert_moved(w, 1, NULL);
    assert_int_equal(mover_ready(w->ranks[0].mover, 3, 3), ST_OK); /* of a move that is over */
    assert_int_equal(mover_cancel(w->ranks[TARGET].mover, 3), ST_OK);
    give_all(w, 4);
    assert_moved(w, 2, NULL);
    end(w);
}

static void a_cancelled_move_ends_at_both_ends(void **state) {
    (void)state;
    for (uint32_t who = 0; who < N_RANKS; who++) {
        world *w = begin("f16", NULL);
        order o;
        for (uint32_t i = 0; i < N_RANKS; i++) {
            fill(&o, w, 5, i);
            o.move.n_ready = 0;
            o.move.lease_ms = 500; /* who is not called, as the other had been cancelled before, waits for so long */
            assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
        }
        assert_int_equal(mover_cancel(w->ranks[who].mover, 5), ST_OK);
        assert_int_equal(wait_for(&w->ranks[who], 1).code, ST_ERR_CANCELLED);
        if (who != TARGET) assert_int_not_equal(wait_for(&w->ranks[TARGET], 1).code, ST_OK);
        for (uint32_t i = 0; i < TARGET;
             i++) { /* each flow's other end has been told; a flow apart from it is the coordinator's */
            if (who != TARGET && i != who) assert_int_equal(mover_cancel(w->ranks[i].mover, 5), ST_OK);
            assert_int_not_equal(wait_for(&w->ranks[i], 1).code, ST_OK);
        }
        check_target(w, false);
        end(w);
    }
}

static void a_source_that_dies_is_noticed(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++) {
        world *w = begin("f16", kind->name);
        order o;
        fill(&o, w, 6, 0);
        o.move.n_ready = 0;
        assert_int_equal(mover_order(w->ranks[0].mover, &o.move), ST_OK);
        give(w, 6, 1);
        give(w, 6, TARGET);
        assert_int_equal(wait_for(&w->ranks[1], 1).code, ST_OK); /* so that rank 0's link is open for long */
        stop_rank(&w->ranks[0]);
        proto_moved m = wait_for(&w->ranks[TARGET], 1);
        assert_int_not_equal(m.code, ST_OK);
        assert_non_null(strstr(m.message, "rank 0 from rank 0 of the other group"));
        end(w);
    }
}

static void who_has_another_secret_gets_nothing_and_gives_nothing(void **state) {
    (void)state;
    for (uint32_t who = 0; who < 2; who++) {
        world *w = begin("f16", NULL);
        order o;
        memset(w->ranks[who ? TARGET : 0].secret, 6, MOVER_SECRET_BYTES); /* read when a tag is made */
        if (!who) memset(w->ranks[1].secret, 6, MOVER_SECRET_BYTES);
        for (uint32_t i = 0; i < N_RANKS; i++) {
            fill(&o, w, 7, i);
            o.move.lease_ms = 400;
            assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
        }
        for (uint32_t i = 0; i < N_RANKS; i++) assert_int_not_equal(wait_for(&w->ranks[i], 1).code, ST_OK);
        check_target(w, false);
        end(w);
    }
}

static void orders_that_a_rank_cannot_carry_out_are_answered(void **state) {
    (void)state;
    world *w = begin("f16", "tcp");
    rank *r = &w->ranks[TARGET];
    const uint32_t outside[] = {1, BLOCKS, 3};
    for (uint32_t i = 0; i < 6; i++) {
        order o;
        fill(&o, w, 20 + i, TARGET);
        st_code expected = ST_ERR_INVALID_ARGUMENT;
        switch (i) {
        case 0: o.move.blocks = outside; break;
        case 1: o.flows[1].n_heads = 2; break;
        case 2: o.flows[0].first_head = UINT32_MAX; break;
        case 3: snprintf(o.move.way, sizeof o.move.way, "shm"), expected = ST_ERR_UNSUPPORTED; break;
        case 4: o.addresses[0][0].transport[0] = 'x', expected = ST_ERR_UNSUPPORTED; break; /* a kind that it does not have */
        default: o.move.n_flows = 0, expected = ST_OK;                                      /* another rank has it all */
        }
        assert_int_equal(mover_order(r->mover, &o.move), ST_OK);
        proto_moved m = wait_for(r, i + 1);
        assert_int_equal(m.code, expected);
        assert_int_equal(m.id, 20 + i);
    }
    check_target(w, false);
    order o;
    fill(&o, w, 30, 1); /* holds heads 1 and 2 */
    o.flows[0].first_head = 0;
    assert_int_equal(mover_order(w->ranks[1].mover, &o.move), ST_OK);
    assert_int_equal(wait_for(&w->ranks[1], 1).code, ST_ERR_INVALID_ARGUMENT);
    end(w);
}

static void more_moves_than_a_rank_carries_out_are_refused_and_the_others_end_well(void **state) {
    (void)state;
    enum { MANY = 64 };
    world *w = begin("f16", "shm");
    rank *r = &w->ranks[0];
    for (uint32_t i = 0; i < MANY; i++) { /* nobody calls them */
        order o;
        fill(&o, w, 100 + i, 0);
        memset(o.keys[0], (int)i + 1, PROTO_KEY_BYTES);
        assert_int_equal(mover_order(r->mover, &o.move), ST_OK);
    }
    give(w, 99, 0);
    proto_moved m = wait_for(r, 1);
    assert_int_equal(m.id, 99);
    assert_int_equal(m.code, ST_ERR_RESOURCE_EXHAUSTED);
    for (uint32_t i = 0; i < MANY; i++) assert_int_equal(mover_cancel(r->mover, 100 + i), ST_OK);
    assert_int_equal(wait_for(r, 1 + MANY).code, ST_ERR_CANCELLED);
    end(w);
}

static void scratch_is_measured_with_and_without_the_protocol(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++) {
        world *w = begin("f16", kind->name);
        for (uint32_t n = 1; n <= 4; n++)
            for (uint32_t i = 0; i < N_RANKS; i += 2) {
                order o;
                fill(&o, w, n, i);
                o.move.n_flows = 1;
                o.move.n_tokens = o.move.n_blocks = o.move.n_ready = 0;
                o.move.scratch = (proto_scratch){n > 2 ? 4 << 20 : 25600, 40, n % 2};
                assert_int_equal(mover_order(w->ranks[i].mover, &o.move), ST_OK);
                if (i != TARGET) continue;
                proto_moved m = wait_for(&w->ranks[TARGET], n), s = wait_for(&w->ranks[0], n);
                if (m.code || s.code) fail_msg("%s %s", m.message, s.message);
                const uint64_t piece = o.move.scratch.piece_bytes, part = piece < PART ? piece : PART;
                assert_int_equal(m.bytes, 40 * piece - (o.move.scratch.raw ? piece : part)); /* time begins with the first */
                assert_true(m.took_ns > 0);
            }
        check_target(w, false);
        end(w);
    }
}

static void faults_on_the_way_change_no_byte(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++) {
        world *w = begin("f16", kind->name);
        assert_int_equal(fault_plan("move.flip=20,move.short=20,move.stall=50", NULL), ST_OK);
        give_all(w, 1);
        assert_int_equal(wait_for(&w->ranks[TARGET], 1).code, ST_OK); /* a source may miss the last word */
        check_target(w, true);
        end(w);
        w = begin("f16", kind->name);
        assert_int_equal(fault_plan("move.cut=1", NULL), ST_OK);
        give_all(w, 1);
        assert_int_not_equal(wait_for(&w->ranks[TARGET], 1).code, ST_OK);
        check_target(w, false);
        end(w);
        assert_int_equal(fault_plan(NULL, NULL), ST_OK);
    }
}

static void a_mover_that_is_stopped_leaves_nothing(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t k = 0; (kind = transport_kind_at(k)); k++)
        for (uint32_t n = 0; n < 4; n++) {
            world *w = begin("f32", kind->name);
            for (uint32_t i = 0; i < n; i++) give(w, 1, i); /* with and without the other end */
            end(w);
        }
}

static bool closes(const kv_actions *a) {
    bool any = false;
    for (uint32_t i = 0; i < a->n; i++) any |= a->at[i].verb == KV_CLOSE;
    return any;
}

/* What a peer that stands still has begun to take cannot be taken back. */
static void a_bare_flow_waits_for_its_slots_for_a_quarter_of_a_lease(void **state) {
    (void)state;
    static uint8_t memory[1024];
    raw_flow r = {
        .role = KV_SOURCE, .n_slots = 2, .n_places = 2, .piece_bytes = 64, .n_pieces = 8, .lease_ns = 400, .memory = memory};
    kv_actions a;
    st_code code = ST_OK;
    assert_true(raw_flow_bytes(&r) <= sizeof memory);
    raw_flow_step(&r, 1, &(kv_event){.kind = KV_EVENT_TIME}, &a);
    assert_int_equal(a.n, 3);
    raw_flow_step(&r, 10, &(kv_event){.kind = KV_EVENT_CANCEL}, &a);
    assert_true(a.n == 3 && !closes(&a) && a.wake_ns == 110);
    raw_flow_step(&r, 110, &(kv_event){.kind = KV_EVENT_TIME}, &a);
    assert_true(a.n == 1 && closes(&a) && a.wake_ns == UINT64_MAX);
    raw_flow_step(&r, 111, &(kv_event){.kind = KV_EVENT_SENT, .slot = 1}, &a);
    assert_true(a.n == 0 && !raw_flow_over(&r, &code));
    raw_flow_step(&r, 112, &(kv_event){.kind = KV_EVENT_CLOSED}, &a);
    assert_true(a.n == 0 && raw_flow_over(&r, &code) && code == ST_ERR_CANCELLED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bare_flow_waits_for_its_slots_for_a_quarter_of_a_lease),
        cmocka_unit_test(every_type_moves_by_every_transport),
        cmocka_unit_test(a_large_piece_goes_in_several_messages_over_good_links_and_bad),
        cmocka_unit_test(the_best_transport_is_taken_unless_the_order_names_another),
        cmocka_unit_test(blocks_go_as_they_get_ready),
        cmocka_unit_test(a_cancelled_move_ends_at_both_ends),
        cmocka_unit_test(a_source_that_dies_is_noticed),
        cmocka_unit_test(who_has_another_secret_gets_nothing_and_gives_nothing),
        cmocka_unit_test(orders_that_a_rank_cannot_carry_out_are_answered),
        cmocka_unit_test(more_moves_than_a_rank_carries_out_are_refused_and_the_others_end_well),
        cmocka_unit_test(scratch_is_measured_with_and_without_the_protocol),
        cmocka_unit_test(faults_on_the_way_change_no_byte),
        cmocka_unit_test(a_mover_that_is_stopped_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
