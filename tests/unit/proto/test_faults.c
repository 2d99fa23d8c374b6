/* Faults and ForgetKv on the wire. */
#include "wire_test.h"

#include "base/fault.h"

static proto_faults sample(void) {
    proto_faults f = {.id = UINT64_MAX, .code = ST_ERR_MISMATCH, .message = "not here", .n_points = PROTO_MAX_FAULTS};
    for (uint32_t i = 0; i < f.n_points; i++) {
        f.points[i] = (proto_fault){.one_in = i, .passes = UINT32_MAX - i, .hits = 7 * i};
        memset(f.points[i].name, 'a' + (int)i, sizeof f.points[i].name - 1);
        memset(f.points[i].help, 'A' + (int)i, sizeof f.points[i].help - 1);
    }
    return f;
}

static void assert_same_faults(const proto_faults *a, const proto_faults *b) {
    assert_string_equal(a->message, b->message);
    assert_int_equal(a->n_points, b->n_points);
    assert_memory_equal(a->points, b->points, a->n_points * sizeof *a->points);
}

static void what_a_rank_is_told_and_tells_comes_back_as_it_went(void **state) {
    (void)state;
    proto_faults_order o = {.id = 3, .set = true, .plan = "move.flip=100,seed=7"}, told;
    proto_faults f = sample(), back;
    proto_bytes b;
    st_error e = {0};
    assert_int_equal(proto_faults_order_encode(&o, &b), ST_OK);
    assert_int_equal(proto_faults_order_decode(b.bytes, b.n, &told, &e), ST_OK);
    assert_memory_equal(&o, &told, sizeof o);
    proto_bytes_free(&b);
    assert_int_equal(proto_faults_encode(&f, &b), ST_OK);
    if (proto_faults_decode(b.bytes, b.n, &back, &e)) fail_msg("%s", e.message);
    assert_true(back.id == f.id && back.code == f.code);
    assert_same_faults(&f, &back);
    proto_bytes_free(&b);
}

static void a_call_and_its_replies_come_back_as_they_went(void **state) {
    (void)state;
    proto_faults_request q[] = {
        {0}, {.set = true, .plan = "x=1", .has_rank = true, .rank = UINT32_MAX}, {.set = true, .group = "g"}};
    proto_bytes b;
    st_error e = {0};
    for (size_t i = 0; i < sizeof q / sizeof *q; i++) {
        proto_faults_request back;
        assert_int_equal(proto_faults_request_encode(&q[i], &b), ST_OK);
        assert_int_equal(proto_faults_request_decode(b.bytes, b.n, &back, &e), ST_OK);
        assert_memory_equal(&q[i], &back, sizeof back);
        proto_bytes_free(&b);
    }
    proto_faults_reply r = {.rank = 3, .group = "second", .said = sample()}, back;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(proto_faults_reply_encode(&r, &b), ST_OK);
        if (proto_faults_reply_decode(b.bytes, b.n, &back, &e)) fail_msg("%s", e.message);
        assert_true(back.rank == 3 && (back.said.code == ST_OK) == (r.said.code == ST_OK));
        assert_string_equal(back.group, "second");
        assert_same_faults(&r.said, &back.said);
        proto_bytes_free(&b);
        r.said.code = ST_OK, r.said.message[0] = 0;
    }
    proto_blocks blocks = {1, 2, 3, 4, UINT64_MAX, 6}, same;
    assert_int_equal(proto_blocks_encode(&blocks, &b), ST_OK);
    assert_int_equal(proto_blocks_decode(b.bytes, b.n, &same, &e), ST_OK);
    assert_memory_equal(&blocks, &same, sizeof same);
    proto_bytes_free(&b);
}

static void what_nobody_would_say_is_refused_by_its_field(void **state) {
    (void)state;
    proto_faults_request q;
    proto_faults_order o;
    proto_faults f;
    raw_message m = {.n = 0};
    st_error e = {0};
    char longest[PROTO_FAULT_PLAN_BYTES];
    memset(longest, 'x', sizeof longest);
    put_bytes(&m, 2, "a=1", 3);
    assert_int_equal(proto_faults_request_decode(m.bytes, m.n, &q, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "plan: without set");
    m.n = 0, put_number(&m, 1, 1), put_number(&m, 3, 1), put_bytes(&m, 4, "g", 1);
    assert_int_equal(proto_faults_request_decode(m.bytes, m.n, &q, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "rank, group: expected one of them at most");
    m.n = 0, put_number(&m, 1, 1), put_bytes(&m, 2, longest, sizeof longest);
    assert_int_equal(proto_faults_request_decode(m.bytes, m.n, &q, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "plan: 256 bytes are outside 0 .. 255");
    m.n = 0, put_bytes(&m, 3, "a=1\n", 4);
    assert_int_equal(proto_faults_order_decode(m.bytes, m.n, &o, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "Faults.plan: byte 0x0a at 3: expected printable ASCII without spaces");
    m.n = 0, put_number(&m, 2, ST_N_CODES);
    assert_int_equal(proto_faults_decode(m.bytes, m.n, &f, &e), ST_FATAL_PROTOCOL);
    m.n = 0;
    for (uint32_t i = 0; i <= PROTO_MAX_FAULTS; i++) {
        assert_int_equal(proto_faults_decode(m.bytes, m.n, &f, &e), ST_OK);
        put_bytes(&m, 4, "", 0);
    }
    assert_int_equal(proto_faults_decode(m.bytes, m.n, &f, &e), ST_FATAL_PROTOCOL);
    assert_string_equal(e.message, "points: 17 are over 16");
}

static void this_process_has_the_points_of_the_table(void **state) {
    (void)state;
    proto_faults f;
    assert_int_equal(fault_plan("move.cut=9", NULL), ST_OK);
    proto_faults_of_this_process(&f);
    assert_int_equal(f.n_points, FAULT_N_POINTS);
    assert_int_equal(f.points[FAULT_MOVE_CUT].one_in, 9);
    for (int p = 0; p < FAULT_N_POINTS; p++) { /* none is cut */
        assert_string_equal(f.points[p].name, fault_get((fault_point)p).name);
        assert_string_equal(f.points[p].help, fault_get((fault_point)p).help);
    }
    assert_int_equal(fault_plan(NULL, NULL), ST_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_rank_is_told_and_tells_comes_back_as_it_went),
        cmocka_unit_test(a_call_and_its_replies_come_back_as_they_went),
        cmocka_unit_test(what_nobody_would_say_is_refused_by_its_field),
        cmocka_unit_test(this_process_has_the_points_of_the_table),
    };
    return cmocka_run_group_tests_name("proto_faults", tests, NULL, NULL);
}
