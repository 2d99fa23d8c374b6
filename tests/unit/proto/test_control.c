/* The small messages of the control link. */
#include "wire_test.h"

#include <math.h>

static proto_register sample_register(void) {
    proto_register r = {.rank = 3,
                        .group = 1,
                        .group_rank = 1,
                        .group_size = 2,
                        .role = "drafter",
                        .kind = "ngram",
                        .name = "a-name-of-31-bytes-is-longest--",
                        .wants_hidden = true,
                        .hostname = "node-7.example",
                        .isa = "avx2",
                        .precision = "fp32",
                        .kv_type = "f16",
                        .kv_blocks = 2048,
                        .weight_bytes = UINT64_MAX,
                        .kv_bytes = 1,
                        .max_rows = 512,
                        .max_sequences = 64,
                        .max_context = 8192,
                        .n_vocab = 49152,
                        .n_threads = 2,
                        .first_kv_head = 2,
                        .n_kv_heads = 3,
                        .n_addresses = PROTO_MAX_TRANSPORTS,
                        .addresses = {{"shm", "@consort"}, {"mpi", "12"}, {"7-bytes", "[::1]:65535"}, {.transport = "x"}}};
    memset(r.addresses[3].address, 'a', PROTO_ADDRESS_BYTES - 1);
    for (int i = 0; i < 32; i++) r.model_hash[i] = (uint8_t)i, r.vocabulary_hash[i] = (uint8_t)(255 - i);
    return r;
}

static void a_registration_comes_back_as_it_went(void **state) {
    (void)state;
    proto_register r = sample_register(), back;
    proto_bytes b;
    st_error e = {0};
    memset(r.hostname, 'h', sizeof r.hostname - 1);
    assert_int_equal(proto_register_encode(&r, &b), ST_OK);
    if (proto_register_decode(b.bytes, b.n, &back, &e)) fail_msg("%s", e.message);
    assert_same_register(&r, &back);
    for (size_t n = 0; n < b.n; n++) { /* cut: refused, since the last fields are not zero or text is cut */
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, b.bytes, n);
        st_code code = proto_register_decode(exact, n, &back, &e);
        assert_true(code == ST_OK || code == ST_FATAL_PROTOCOL);
        free(exact);
    }
    proto_bytes_free(&b);
}

static void assert_register_refused(const proto_register *r, const char *expected) {
    proto_register back;
    proto_bytes b;
    st_error e = {0};
    assert_int_equal(proto_register_encode(r, &b), ST_OK);
    assert_int_equal(proto_register_decode(b.bytes, b.n, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, expected);
    proto_bytes_free(&b);
}

static void a_bad_registration_is_refused_by_its_field(void **state) {
    (void)state;
    static const uint8_t key[32] = {1};
    proto_register r = sample_register();
    r.role[0] = 0;
    assert_register_refused(&r, "Register.role: is empty");
    r = sample_register(), r.hostname[1] = '\n';
    assert_register_refused(&r, "Register.hostname: byte 0x0a at 1: expected printable ASCII without spaces");
    r = sample_register(), r.group_rank = 2;
    assert_register_refused(&r, "Register.group_rank: 2 is not below group_size 2");
    r = sample_register(), r.addresses[1].transport[0] = 0;
    assert_register_refused(&r, "Register.addresses[1].transport: is empty");
    r = sample_register(), r.addresses[2].address[0] = 0;
    assert_register_refused(&r, "Register.addresses[2].address: is empty");
    r = sample_register(), r.addresses[0].address[1] = '\x80';
    assert_register_refused(&r, "Register.addresses[0].address: byte 0x80 at 1: expected printable ASCII without spaces");
    r = sample_register(), r.addresses[2] = r.addresses[0];
    assert_register_refused(&r, "Register.addresses[2].transport: shm, as in [0]");
    raw_message m = {.n = 0};
    st_error e;
    put_bytes(&m, 8, "12345678", 8);
    assert_int_equal(proto_register_decode(m.bytes, m.n, &r, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Register.kv_type: 8 bytes are outside 0 .. 7");
    m.n = 0, put_bytes(&m, 9, "short", 5);
    assert_int_equal(proto_register_decode(m.bytes, m.n, &r, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Register.model_hash: 5 bytes; expected 32");
    m.n = 0;
    for (char i = 'a'; i <= 'e'; i++) {
        const char address[] = {10, 1, i, 18, 1, 'x'};
        put_bytes(&m, 26, address, sizeof address);
    }
    put_bytes(&m, 9, key, sizeof key), put_bytes(&m, 10, key, sizeof key);
    assert_int_equal(proto_register_decode(m.bytes, m.n, &r, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Register.addresses: more than 4");
    m.n = 0;
    for (int i = 0; i < 4000; i++) put_bytes(&m, 99, "unknown", 7);
    assert_int_equal(proto_register_decode(m.bytes, m.n, &r, &e), ST_FATAL_PROTOCOL);
}

static void a_welcome_comes_back_as_it_went(void **state) {
    (void)state;
    proto_welcome w = {1, UINT32_MAX, 500, 3000}, back;
    proto_bytes b;
    st_error e = {0};
    assert_int_equal(proto_welcome_encode(&w, &b), ST_OK);
    assert_int_equal(proto_welcome_decode(b.bytes, b.n, &back, &e), ST_OK);
    assert_memory_equal(&w, &back, sizeof w);
    proto_bytes_free(&b);
    assert_int_equal(proto_welcome_decode(NULL, 0, &back, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Welcome.heartbeat_ms: 0; expected 1 or more and less than dead_after_ms 0");
}

static void a_wake_names_its_plan(void **state) {
    (void)state;
    uint64_t plan = 0;
    proto_bytes b = {0};
    st_error e = {0};
    assert_int_equal(proto_wake_encode(UINT64_MAX, &b), ST_OK);
    assert_int_equal(proto_wake_decode(b.bytes, b.n, &plan, &e), ST_OK);
    assert_true(plan == UINT64_MAX);
    proto_bytes_free(&b);
    assert_int_equal(proto_wake_decode(NULL, 0, &plan, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Wake.plan_id: 0; expected 1 or more");
}

static void a_heartbeat_comes_back_as_it_went(void **state) {
    (void)state;
    proto_heartbeat h = {UINT64_MAX, 42, 0.5}, back;
    static const double bad[] = {-0.1, 1.1, NAN, INFINITY};
    proto_bytes b;
    st_error e = {0};
    assert_int_equal(proto_heartbeat_encode(&h, &b), ST_OK);
    assert_int_equal(proto_heartbeat_decode(b.bytes, b.n, &back, &e), ST_OK);
    assert_memory_equal(&h, &back, sizeof h);
    proto_bytes_free(&b);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        h.load_share = bad[i];
        assert_int_equal(proto_heartbeat_encode(&h, &b), ST_OK);
        assert_int_equal(proto_heartbeat_decode(b.bytes, b.n, &back, &e), ST_FATAL_PROTOCOL);
        proto_bytes_free(&b);
    }
}

static void an_abort_keeps_its_reason_whatever_it_looks_like(void **state) {
    (void)state;
    proto_abort a = {.code = ST_ERR_MISMATCH, .message = "model hash: ours \xC3\xA9, theirs 2"}, back;
    proto_bytes b;
    st_error e = {0};
    assert_int_equal(proto_abort_encode(&a, &b), ST_OK);
    assert_int_equal(proto_abort_decode(b.bytes, b.n, &back, &e), ST_OK);
    assert_int_equal(back.code, a.code);
    assert_string_equal(back.message, a.message);
    proto_bytes_free(&b);
    raw_message m = {.n = 0};
    put_number(&m, 1, ST_ERR_IO);
    put_bytes(&m, 2, "one\ntwo\x1b[31m \xFF \xC3", 16);
    assert_int_equal(proto_abort_decode(m.bytes, m.n, &back, &e), ST_OK);
    assert_string_equal(back.message, "one?two?[31m ? ?");
    char text[2000];
    memset(text, 'x', sizeof text);
    m.n = 0, put_number(&m, 1, ST_ERR_IO), put_bytes(&m, 2, text, sizeof text);
    assert_int_equal(proto_abort_decode(m.bytes, m.n, &back, &e), ST_OK);
    assert_int_equal(strlen(back.message), ST_MESSAGE_BYTES - 1);
    for (uint64_t code = 0; code <= ST_N_CODES; code += ST_N_CODES) {
        m.n = 0, put_number(&m, 1, code);
        assert_int_equal(proto_abort_decode(m.bytes, m.n, &back, &e), ST_FATAL_PROTOCOL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registration_comes_back_as_it_went),
        cmocka_unit_test(a_bad_registration_is_refused_by_its_field),
        cmocka_unit_test(a_welcome_comes_back_as_it_went),
        cmocka_unit_test(a_wake_names_its_plan),
        cmocka_unit_test(a_heartbeat_comes_back_as_it_went),
        cmocka_unit_test(an_abort_keeps_its_reason_whatever_it_looks_like),
    };
    return cmocka_run_group_tests_name("proto_control", tests, NULL, NULL);
}
