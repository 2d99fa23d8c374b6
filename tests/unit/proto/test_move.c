/* The messages of moves: what is said comes back; what no coordinator or rank would say is refused by its field. */
#include "wire_test.h"

static const uint8_t key[PROTO_KEY_BYTES] = {1, 2, 3, [15] = 255};
static const uint32_t blocks[3] = {7, 0, UINT32_MAX};
static const proto_address two[2] = {{"shm", "@x"}, {"tcp", "h:1"}}, one[1] = {{"mpi", "12"}};
static const proto_flow flows[2] = {
    {.peer = 3, .first_head = 4, .n_heads = 2, .n_addresses = 2, .addresses = two, .key = key},
    {.peer = 0, .first_head = 0, .n_heads = 4, .n_addresses = 1, .addresses = one, .key = key},
};

static proto_move sample(void) {
    return (proto_move){.id = UINT64_MAX,
                        .generation = 9,
                        .target = true,
                        .after_plan = 77,
                        .n_tokens = 65,
                        .n_ready = 2,
                        .by_layer = 1,
                        .lease_ms = 1000,
                        .retry_ms = 250,
                        .way = "tcp",
                        .n_blocks = 3,
                        .blocks = blocks,
                        .n_flows = 2,
                        .flows = flows};
}

static void assert_same(const proto_move *a, const proto_move *b) {
    assert_true(a->id == b->id && a->generation == b->generation && a->target == b->target && a->after_plan == b->after_plan);
    assert_true(a->n_tokens == b->n_tokens && a->n_ready == b->n_ready && a->by_layer == b->by_layer);
    assert_true(a->lease_ms == b->lease_ms && a->retry_ms == b->retry_ms);
    assert_string_equal(a->way, b->way);
    assert_same_numbers(a->blocks, a->n_blocks, b->blocks, b->n_blocks);
    assert_int_equal(a->n_flows, b->n_flows);
    for (uint32_t i = 0; i < a->n_flows; i++) {
        const proto_flow *f = &a->flows[i], *g = &b->flows[i];
        assert_true(f->peer == g->peer && f->first_head == g->first_head && f->n_heads == g->n_heads);
        assert_same_addresses(f->addresses, f->n_addresses, g->addresses, g->n_addresses);
        assert_memory_equal(f->key, g->key, PROTO_KEY_BYTES);
    }
    assert_memory_equal(&a->scratch, &b->scratch, sizeof a->scratch);
}

static st_code there_and_back(const proto_move *m, arena *a, proto_move *back, st_error *e) {
    proto_bytes b = {0};
    assert_int_equal(proto_move_encode(m, &b), ST_OK);
    uint8_t *exact = malloc(b.n);
    memcpy(exact, b.bytes, b.n);
    *a = arena_for(b.n);
    st_code code = proto_move_decode(exact, b.n, a, back, e);
    free(exact);
    proto_bytes_free(&b);
    return code;
}

static void an_order_to_move_comes_back_as_it_went(void **state) {
    (void)state;
    arena a;
    proto_move m = sample(), back;
    st_error e = {0};
    for (int i = 0; i < 2; i++) {
        if (there_and_back(&m, &a, &back, &e)) fail_msg("%s", e.message);
        assert_same(&m, &back);
        arena_deinit(&a);
        m.scratch = (proto_scratch){PROTO_MAX_SCRATCH_BYTES, PROTO_MAX_SCRATCH_PIECES, true}; /* instead of blocks */
        m.n_blocks = m.n_tokens = m.n_ready = 0;
    }
}

static void an_order_that_cannot_be_is_refused_by_its_field(void **state) {
    (void)state;
    proto_flow f[1] = {flows[0]};
    proto_address addresses[2];
    proto_move back;
    arena a;
    static const char *const said[] = {
        "Move: id: 0 is none",
        "Move: generation: 0; expected 1 or more",
        "Move: by_layer: 2; expected 0 or 1",
        "Move: retry_ms: 251; expected 1 to a quarter of lease_ms 1000",
        "Move: retry_ms: 0; expected 1 to a quarter of lease_ms 1000",
        "Move: n_tokens: 0 is outside 1 .. 1048576",
        "Move: n_tokens: 1048577 is outside 1 .. 1048576",
        "Move: blocks: 3 for 64 tokens",
        "Move: n_ready: 4 of 3 blocks",
        "Move: flows[0]: n_heads: 0; expected 1 or more",
        "Move: flows[0]: addresses: 0; expected 1 to 4",
        "Move: flows[0]: addresses[1].transport: shm, as in [0]",
        "Move: flows[0]: addresses[0].address: byte 0x20 at 1: expected printable ASCII without spaces",
        "Move: scratch: 1 pieces of 8388864 bytes; expected up to 65536 of a multiple of 256 up to 8388608",
        "Move: scratch: 65537 pieces of 256 bytes; expected up to 65536 of a multiple of 256 up to 8388608",
        "Move: scratch: 1 pieces of 255 bytes; expected up to 65536 of a multiple of 256 up to 8388608",
        "Move: scratch: with 65 tokens in 3 blocks; expected none"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        proto_move m = sample();
        st_error e = {0};
        f[0] = flows[0];
        memcpy(addresses, two, sizeof two);
        f[0].addresses = addresses;
        if (i >= 9) m.flows = f, m.n_flows = 1;
        switch (i) {
        case 0: m.id = 0; break;
        case 1: m.generation = 0; break;
        case 2: m.by_layer = 2; break;
        case 3: m.retry_ms = 251; break;
        case 4: m.retry_ms = 0; break;
        case 5: m.n_tokens = 0; break;
        case 6: m.n_tokens = PROTO_MAX_PROMPT_TOKENS + 1; break;
        case 7: m.n_tokens = 64; break;
        case 8: m.n_ready = 4; break;
        case 9: f[0].n_heads = 0; break;
        case 10: f[0].n_addresses = 0; break;
        case 11: addresses[1] = addresses[0]; break;
        case 12: addresses[0].address[1] = ' '; break;
        case 13: m.scratch = (proto_scratch){PROTO_MAX_SCRATCH_BYTES + 256, 1, false}; break;
        case 14: m.scratch = (proto_scratch){256, PROTO_MAX_SCRATCH_PIECES + 1, false}; break;
        case 15: m.scratch = (proto_scratch){255, 1, false}; break;
        default: m.scratch = (proto_scratch){256, 1, false};
        }
        assert_int_equal(there_and_back(&m, &a, &back, &e), ST_FATAL_PROTOCOL);
        assert_string_equal(e.message, said[i]);
        arena_deinit(&a);
    }
}

static void cut_orders_are_no_orders(void **state) {
    (void)state;
    proto_move m = sample(), back;
    proto_bytes b = {0};
    m.way[0] = 0; /* last on the wire are the flows */
    assert_int_equal(proto_move_encode(&m, &b), ST_OK);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        st_error e = {0};
        arena a = arena_for(n);
        memcpy(exact, b.bytes, n);
        if (!proto_move_decode(exact, n, &a, &back, &e)) assert_true(back.n_flows < 2); /* cut between them */
        assert_true(!e.code || e.code == ST_FATAL_PROTOCOL);
        arena_deinit(&a);
        free(exact);
    }
    proto_bytes_free(&b);
}

static void more_flows_than_a_rank_takes_are_refused(void **state) {
    (void)state;
    raw_message m = {.n = 0}, f = {.n = 0};
    proto_move back;
    st_error e = {0};
    put_number(&f, 3, 1), put_bytes(&f, 4, "\x0a\1s\x12\1x", 6), put_bytes(&f, 5, key, sizeof key);
    put_number(&m, 1, 1), put_number(&m, 2, 1), put_number(&m, 5, 1), put_number(&m, 8, 4), put_number(&m, 9, 1);
    put_number(&m, 11, 0);
    for (uint32_t i = 0; i <= PROTO_MAX_FLOWS; i++) {
        arena a = arena_for(m.n);
        st_code code = proto_move_decode(m.bytes, m.n, &a, &back, &e);
        assert_int_equal(code, ST_OK);
        assert_int_equal(back.n_flows, i);
        arena_deinit(&a);
        put_bytes(&m, 12, f.bytes, f.n);
    }
    arena a = arena_for(m.n);
    assert_int_equal(proto_move_decode(m.bytes, m.n, &a, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Move: flows: 65 are over 64");
    arena_deinit(&a);
}

/* Longer than any of ours. */
static void an_address_too_many_or_too_long_is_refused(void **state) {
    (void)state;
    static const char *const said[] = {"Move: flows[0]: addresses: 5; expected 1 to 4",
                                       "Move: flows[0]: addresses[0].transport: 8 bytes are outside 0 .. 7",
                                       "Move: flows[0]: addresses[0].address: 128 bytes are outside 0 .. 127"};
    char longest[PROTO_ADDRESS_BYTES];
    memset(longest, 'x', sizeof longest);
    for (int i = 0; i < 3; i++) {
        raw_message m = {.n = 0}, f = {.n = 0};
        proto_move back;
        st_error e = {0};
        for (char name = 'a'; name <= (i ? 'a' : 'e'); name++) {
            raw_message address = {.n = 0};
            put_bytes(&address, 1, i == 1 ? "12345678" : &name, i == 1 ? 8 : 1);
            put_bytes(&address, 2, longest, i == 2 ? PROTO_ADDRESS_BYTES : 1);
            put_bytes(&f, 4, address.bytes, address.n);
        }
        put_number(&f, 3, 1), put_bytes(&f, 5, key, sizeof key);
        put_number(&m, 1, 1), put_number(&m, 2, 1), put_number(&m, 5, 1), put_number(&m, 8, 4), put_number(&m, 9, 1);
        put_number(&m, 11, 0), put_bytes(&m, 12, f.bytes, f.n);
        arena a = arena_for(m.n);
        assert_int_equal(proto_move_decode(m.bytes, m.n, &a, &back, &e), ST_FATAL_PROTOCOL);
        assert_string_equal(e.message, said[i]);
        arena_deinit(&a);
    }
}

static void what_follows_an_order_comes_back_as_it_went(void **state) {
    (void)state;
    proto_moved v = {
        .id = 5, .code = ST_ERR_DEADLINE, .message = "rank 3: no word", .way = "shm", .bytes = UINT64_MAX, .took_ns = 12};
    proto_moved back = {0};
    proto_bytes b = {0};
    st_error e = {0};
    uint64_t id = 0;
    uint32_t n_ready = 0;
    assert_int_equal(proto_moved_encode(&v, &b), ST_OK);
    assert_int_equal(proto_moved_decode(b.bytes, b.n, &back, &e), ST_OK);
    assert_true(back.id == v.id && back.code == v.code && back.bytes == v.bytes && back.took_ns == v.took_ns);
    assert_string_equal(back.message, v.message);
    assert_string_equal(back.way, v.way);
    proto_bytes_free(&b);
    assert_int_equal(proto_move_ready_encode(UINT64_MAX, 32768, &b), ST_OK);
    assert_int_equal(proto_move_ready_decode(b.bytes, b.n, &id, &n_ready, &e), ST_OK);
    assert_true(id == UINT64_MAX && n_ready == 32768);
    proto_bytes_free(&b);
    assert_int_equal(proto_move_cancel_encode(3, &b), ST_OK);
    assert_int_equal(proto_move_cancel_decode(b.bytes, b.n, &id, &e), ST_OK);
    assert_true(id == 3);
    proto_bytes_free(&b);
}

static void what_follows_an_order_is_refused_where_it_cannot_be(void **state) {
    (void)state;
    proto_moved back;
    raw_message m = {.n = 0};
    st_error e = {0};
    uint64_t id;
    uint32_t n_ready;
    assert_int_equal(proto_moved_decode(NULL, 0, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Moved.id: 0 is none");
    assert_int_equal(proto_move_ready_decode(NULL, 0, &id, &n_ready, &e), ST_FATAL_PROTOCOL);
    assert_int_equal(proto_move_cancel_decode(NULL, 0, &id, &e), ST_FATAL_PROTOCOL);
    put_number(&m, 1, 1), put_number(&m, 2, 32769);
    assert_int_equal(proto_move_ready_decode(m.bytes, m.n, &id, &n_ready, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "MoveReady.n_ready: 32769 is over 32768");
    m.n = 0, put_number(&m, 1, 1), put_number(&m, 2, ST_N_CODES);
    assert_int_equal(proto_moved_decode(m.bytes, m.n, &back, &e), ST_FATAL_PROTOCOL);
    m.n = 0, put_number(&m, 1, 1), put_bytes(&m, 4, "12345678", 8);
    assert_int_equal(proto_moved_decode(m.bytes, m.n, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Moved.way: 8 bytes are outside 0 .. 7");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_order_to_move_comes_back_as_it_went),
        cmocka_unit_test(an_order_that_cannot_be_is_refused_by_its_field),
        cmocka_unit_test(cut_orders_are_no_orders),
        cmocka_unit_test(more_flows_than_a_rank_takes_are_refused),
        cmocka_unit_test(an_address_too_many_or_too_long_is_refused),
        cmocka_unit_test(what_follows_an_order_comes_back_as_it_went),
        cmocka_unit_test(what_follows_an_order_is_refused_where_it_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
