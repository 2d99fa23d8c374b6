/* The server codec against the client codec, in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "h2_pair.h"
#include "net/limits.h"
#include <cmocka.h>
#include <string.h>

static const uint8_t *const HI = (const uint8_t *)"hi";

static void a_unary_call_is_answered(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    assert_int_equal(p.n_calls, 1);
    assert_string_equal(p.path, "/a.B/C");
    assert_int_equal(p.request_bytes, 2);
    assert_int_equal(net_call_deadline_ns(p.call), 0);
    bool slow = true;
    assert_int_equal(net_call_send(p.call, HI, 2, &slow), ST_OK);
    assert_false(slow);
    net_call_finish(p.call, 0, NULL);
    pair_run(&p);
    assert_int_equal(p.n_messages, 1);
    assert_int_equal(p.message_bytes, 2);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 0);
    assert_string_equal(p.message, "");
    assert_int_equal(p.n_ends, 0);
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void a_stream_of_messages_comes_in_order(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", NULL, 0, 0);
    pair_run(&p);
    for (uint8_t i = 0; i < 100; i++) {
        assert_int_equal(net_call_send(p.call, &i, 1, NULL), ST_OK);
        if (i % 7 == 0) pair_run(&p);
        if (i % 7 == 0) assert_int_equal(p.message_sum, i);
    }
    net_call_finish(p.call, 0, NULL);
    pair_run(&p);
    assert_int_equal(p.n_messages, 100);
    assert_int_equal(p.status, 0);
    assert_int_equal(p.n_done, 1);
    pair_close(&p);
}

static void an_error_without_data_is_trailers_only_and_keeps_its_words(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    p.finish_with = 5;
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 5);
    assert_string_equal(p.message, "no: 100 %, \xc3\xa4\n");
    assert_int_equal(p.n_messages, 0);
    pair_close(&p);
}

static void an_error_after_data_comes_behind_the_data(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    assert_int_equal(net_call_send(p.call, HI, 2, NULL), ST_OK);
    net_call_finish(p.call, 14, "verifier lost");
    pair_run(&p);
    assert_int_equal(p.n_messages, 1);
    assert_int_equal(p.status, 14);
    assert_string_equal(p.message, "verifier lost");
    pair_close(&p);
}

static void messages_up_to_the_limit_pass_both_ways(void **state) {
    (void)state;
    uint8_t *big = mem_alloc(NET_MAX_MESSAGE_BYTES + 1, 1);
    for (size_t i = 0; i <= NET_MAX_MESSAGE_BYTES; i++) big[i] = (uint8_t)(i * 7 + i / 251);
    h2_pair p;
    pair_open(&p);
    for (size_t n = NET_MAX_MESSAGE_BYTES - 1; n <= NET_MAX_MESSAGE_BYTES; n++) {
        pair_start(&p, "/a.B/C", big, n, 0);
        pair_run(&p);
        assert_int_equal(p.request_bytes, n);
        assert_int_equal(net_call_send(p.call, big, n, NULL), ST_OK);
        net_call_finish(p.call, 0, NULL);
        p.message_bytes = 0;
        pair_run(&p);
        assert_int_equal(p.message_bytes, n);
        assert_int_equal(p.message_sum, p.request_sum);
        assert_int_equal(p.status, 0);
    }
    net_h2_request *r = NULL;
    assert_int_equal(net_h2_client_start(p.client, 0, "/a.B/C", big, NET_MAX_MESSAGE_BYTES + 1, 0, &h2_pair_reply, &p, &r),
                     ST_ERR_RESOURCE_EXHAUSTED);
    mem_free(big);
    pair_close(&p);
}

static void a_client_that_does_not_read_is_slow_until_it_reads(void **state) {
    (void)state;
    static const uint8_t piece[32 * 1024];
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    p.hold_replies = true;
    bool slow = false;
    size_t sent = 0;
    while (!slow) {
        assert_int_equal(net_call_send(p.call, piece, sizeof piece, &slow), ST_OK);
        sent++;
    }
    assert_int_equal(sent, NET_CALL_HIGH_BYTES / sizeof piece);
    st_code rc;
    while ((rc = net_call_send(p.call, piece, sizeof piece, &slow)) == ST_OK) sent++;
    assert_int_equal(rc, ST_ERR_RESOURCE_EXHAUSTED);
    assert_true(slow);
    assert_true(sent * sizeof piece <= NET_CALL_MAX_QUEUED_BYTES);
    pair_run(&p);
    assert_int_equal(p.n_credits, 0);
    p.hold_replies = false;
    pair_run(&p);
    assert_int_equal(p.n_credits, 1);
    assert_int_equal(p.n_messages, sent);
    assert_int_equal(net_call_send(p.call, piece, 1, &slow), ST_OK);
    assert_false(slow);
    net_call_finish(p.call, 0, NULL);
    pair_run(&p);
    assert_int_equal(p.status, 0);
    pair_close(&p);
}

static void a_cancelled_call_ends_at_both_sides(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    net_h2_request *r = pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    assert_int_equal(net_call_send(p.call, HI, 2, NULL), ST_OK);
    pair_run(&p);
    net_h2_client_cancel(p.client, r);
    assert_int_equal(p.n_done, 0); /* not from inside cancel */
    pair_run(&p);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 1);
    assert_int_equal(p.n_ends, 1);
    assert_int_equal(p.end_code, ST_ERR_CANCELLED);
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void a_call_cancelled_before_it_was_sent_never_reaches_the_server(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    net_h2_client_cancel(p.client, pair_start(&p, "/a.B/C", HI, 2, 0));
    pair_run(&p);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 1);
    assert_int_equal(p.n_calls, 0);
    p.finish_with = 0;
    pair_start(&p, "/a.B/C", HI, 2, 0); /* the connection lives */
    pair_run(&p);
    assert_int_equal(p.n_done, 2);
    assert_int_equal(p.status, 0);
    pair_close(&p);
}

static void the_server_enforces_the_deadline(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 250);
    pair_run(&p);
    uint64_t at = net_call_deadline_ns(p.call);
    assert_int_equal(at, p.now_ns + 250 * MS);
    assert_int_equal(net_h2_server_next_ns(p.server), at);
    net_h2_server_tick(p.server, at - 1);
    assert_int_equal(p.n_ends, 0);
    p.now_ns = at;
    net_h2_server_tick(p.server, at);
    assert_int_equal(p.n_ends, 1);
    assert_int_equal(p.end_code, ST_ERR_DEADLINE);
    pair_run(&p);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 4);
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void the_client_enforces_the_deadline_itself(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 250);
    assert_int_equal(net_h2_client_next_ns(p.client), p.now_ns + 250 * MS);
    net_h2_client_tick(p.client, p.now_ns + 250 * MS);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 4);
    assert_int_equal(net_h2_client_next_ns(p.client), UINT64_MAX);
    pair_run(&p);
    pair_close(&p);
}

/* Queued data is dropped: trailers behind it would wait for the window, for ever. */
static void a_deadline_passes_while_the_window_is_shut(void **state) {
    (void)state;
    h2_pair p;
    lone_open(&p);
    uint8_t bytes[400], head[300];
    uint8_t shut[6] = {0, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0, 0, 0, 10};
    size_t n = put_frame(bytes, NGHTTP2_SETTINGS, 0, 0, shut, sizeof shut);
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    h += put_text_header(head + h, "grpc-timeout", "1S");
    n += put_frame(bytes + n, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, head, h);
    n += put_frame(bytes + n, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "\0\0\0\0\0", 5);
    lone_feed(&p, bytes, n);
    assert_int_equal(p.n_calls, 1);
    assert_int_equal(net_call_send(p.call, bytes, 100, NULL), ST_OK);
    lone_flush(&p);
    assert_true(lone_has_frame(&p, NGHTTP2_DATA, 1, 0)); /* 10 bytes of it */
    p.n_sent = 0;
    p.now_ns += 1000 * MS;
    net_h2_server_tick(p.server, p.now_ns);
    assert_int_equal(p.end_code, ST_ERR_DEADLINE);
    lone_flush(&p);
    assert_true(lone_has_frame(&p, NGHTTP2_HEADERS, 1, 0));
    assert_false(lone_has_frame(&p, NGHTTP2_DATA, 1, 0));
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void a_finished_call_whose_reply_stays_unread_is_given_up(void **state) {
    (void)state;
    static const uint8_t piece[2 * NET_STREAM_WINDOW_BYTES];
    h2_pair p;
    lone_open(&p);
    uint8_t bytes[400], head[300];
    size_t h = put_request_headers(head, "/a.B/C", "application/grpc");
    size_t n = put_frame(bytes, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, head, h);
    n += put_frame(bytes + n, NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "\0\0\0\0\0", 5);
    lone_feed(&p, bytes, n);
    assert_int_equal(net_call_send(p.call, piece, sizeof piece, NULL), ST_OK);
    net_call_finish(p.call, 0, NULL);
    lone_flush(&p);
    assert_int_equal(net_h2_server_next_ns(p.server), p.now_ns + NET_HTTP2_STALL_MS * MS);
    p.now_ns += NET_HTTP2_STALL_MS * MS;
    net_h2_server_tick(p.server, p.now_ns);
    p.n_sent = 0;
    lone_flush(&p);
    assert_true(lone_has_frame(&p, NGHTTP2_RST_STREAM, 1, NGHTTP2_CANCEL));
    assert_int_equal(net_h2_server_calls(p.server), 0);
    pair_close(&p);
}

static void a_draining_server_finishes_its_calls_and_takes_no_more(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    net_call *first = p.call;
    net_h2_server_drain(p.server, p.now_ns);
    pair_run(&p);
    assert_false(net_h2_server_is_over(p.server));
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    assert_int_equal(p.n_calls, 1);
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 14);
    assert_int_equal(net_call_send(first, HI, 2, NULL), ST_OK);
    net_call_finish(first, 0, NULL);
    pair_run(&p);
    assert_int_equal(p.n_done, 2);
    assert_int_equal(p.status, 0);
    assert_true(net_h2_server_is_over(p.server));
    assert_true(net_h2_client_is_over(p.client));
    pair_close(&p);
}

static void a_drain_does_not_wait_for_a_peer_that_acks_no_ping(void **state) {
    (void)state;
    h2_pair p;
    lone_open(&p);
    net_h2_server_drain(p.server, p.now_ns);
    lone_flush(&p);
    assert_false(net_h2_server_is_over(p.server));
    p.now_ns += NET_HTTP2_DRAIN_MS * MS;
    net_h2_server_tick(p.server, p.now_ns);
    lone_flush(&p);
    assert_true(net_h2_server_is_over(p.server));
    pair_close(&p);
}

static void calls_of_a_lost_connection_end(void **state) {
    (void)state;
    h2_pair p;
    pair_open(&p);
    pair_start(&p, "/a.B/C", HI, 2, 0);
    pair_run(&p);
    net_h2_server_lost(p.server, ST_ERR_CANCELLED);
    assert_int_equal(p.n_ends, 1);
    net_h2_client_lost(p.client, "connection to test:1 lost: closed by the peer");
    assert_int_equal(p.n_done, 1);
    assert_int_equal(p.status, 14);
    pair_start(&p, "/a.B/C", HI, 2, 0); /* later calls hear the same */
    net_h2_client_tick(p.client, p.now_ns);
    assert_int_equal(p.n_done, 2);
    assert_string_equal(p.message, "connection to test:1 lost: closed by the peer");
    pair_close(&p);
}

static void start_another(void *context, int status, const char *message) {
    h2_pair *p = context;
    (void)message;
    assert_int_equal(status, 0);
    if (++p->n_done < 5) pair_start(p, "/a.B/C", HI, 2, 0);
}

static void a_call_may_be_started_from_on_done(void **state) {
    (void)state;
    const net_grpc_reply again = {NULL, start_another};
    h2_pair p;
    pair_open(&p);
    p.finish_with = 0;
    assert_int_equal(net_h2_client_start(p.client, 0, "/a.B/C", HI, 2, 0, &again, &p, NULL), ST_OK);
    pair_run(&p);
    assert_int_equal(p.n_done, 2);
    pair_close(&p);
}

static void timeouts_are_read_as_the_protocol_says(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        uint64_t ns;
    } rows[] = {{"1n", true, 1},
                {"99999999m", true, 99999999 * MS},
                {"2H", true, UINT64_C(7200000000000)},
                {"3M", true, 180000 * MS},
                {"4S", true, 4000 * MS},
                {"5u", true, 5000},
                {"0S", true, 0},
                {"99999999H", true, UINT64_MAX},
                {"100000000m", false, 0},
                {"m", false, 0},
                {"", false, 0},
                {"5", false, 0},
                {"5s", false, 0},
                {"-5m", false, 0},
                {"5 m", false, 0},
                {"1.5S", false, 0},
                {"12mm", false, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t ns = 0;
        assert_int_equal(net_timeout_parse((const uint8_t *)rows[i].text, strlen(rows[i].text), &ns), rows[i].ok);
        if (rows[i].ok) assert_int_equal(ns, rows[i].ns);
    }
    char text[16];
    uint64_t ns;
    for (uint64_t ms = 1; ms <= UINT32_MAX; ms = ms * 3 + 1) {
        net_timeout_format((uint32_t)ms, text);
        assert_true(net_timeout_parse((const uint8_t *)text, strlen(text), &ns));
        assert_true(ns <= ms * MS && ns + 1000 * MS > ms * MS);
    }
}

static void words_survive_percent_encoding(void **state) {
    (void)state;
    char all[256], code[800], back[256];
    for (int i = 1; i < 256; i++) all[i - 1] = (char)i;
    all[255] = 0;
    size_t n = net_percent_encode(all, code, sizeof code);
    for (size_t i = 0; i < n; i++) assert_true(code[i] >= ' ' && code[i] <= '~');
    net_percent_decode((const uint8_t *)code, n, back, sizeof back);
    assert_string_equal(back, all);
    net_percent_decode((const uint8_t *)"a%4%zz%41%00%", 13, back, sizeof back);
    assert_string_equal(back, "a%4%zzA?%");
    net_percent_decode((const uint8_t *)"abcdef", 6, back, 4);
    assert_string_equal(back, "abc");
}

/* Everything a connection does, with allocation k failing: a code, no leak, no crash. */
static bool whole_exchange(h2_pair *p) {
    memset(p, 0, sizeof *p);
    p->finish_with = -1;
    net_h2_server_setup setup = {.calls = h2_pair_calls, .context = p};
    bool ok = net_h2_server_create(&setup, MS, &p->server) == ST_OK;
    ok = ok && net_h2_client_create("a", NULL, NULL, &p->client) == ST_OK;
    ok = ok && net_h2_client_start(p->client, MS, "/a.B/C", HI, 2, 100, &h2_pair_reply, p, NULL) == ST_OK;
    bool answered = false;
    size_t up = 1, down = 1;
    while (ok && (up || down)) {
        uint8_t bytes[4096];
        ok = net_h2_client_send(p->client, bytes, sizeof bytes, &up) == ST_OK;
        ok = ok && (!up || net_h2_server_receive(p->server, MS, bytes, up) == ST_OK);
        if (ok && p->n_calls && !p->n_ends && !answered) {
            answered = true;
            ok = net_call_send(p->call, HI, 2, NULL) == ST_OK;
            net_call_finish(p->call, 5, "words");
        }
        ok = ok && net_h2_server_send(p->server, MS, bytes, sizeof bytes, &down) == ST_OK;
        ok = ok && (!down || net_h2_client_receive(p->client, bytes, down) == ST_OK);
    }
    if (!ok && p->client) net_h2_client_lost(p->client, "out of memory");
    if (!ok && p->server) net_h2_server_lost(p->server, ST_ERR_CANCELLED);
    pair_close(p);
    return ok;
}

static void each_allocation_that_fails_is_survived(void **state) {
    (void)state;
    static h2_pair p;
    uint64_t made = 1, k = 0;
    while (made >= k) { /* until fewer than k were made: none failed */
        mem_fail_at(++k);
        bool ok = whole_exchange(&p);
        made = mem_fail_at(0);
        if (made < k) assert_true(ok && p.n_done == 1 && p.status == 5);
        assert_true(p.n_done <= 1);
    }
    assert_true(k > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_unary_call_is_answered),
        cmocka_unit_test(a_stream_of_messages_comes_in_order),
        cmocka_unit_test(an_error_without_data_is_trailers_only_and_keeps_its_words),
        cmocka_unit_test(an_error_after_data_comes_behind_the_data),
        cmocka_unit_test(messages_up_to_the_limit_pass_both_ways),
        cmocka_unit_test(a_client_that_does_not_read_is_slow_until_it_reads),
        cmocka_unit_test(a_cancelled_call_ends_at_both_sides),
        cmocka_unit_test(a_call_cancelled_before_it_was_sent_never_reaches_the_server),
        cmocka_unit_test(the_server_enforces_the_deadline),
        cmocka_unit_test(the_client_enforces_the_deadline_itself),
        cmocka_unit_test(a_deadline_passes_while_the_window_is_shut),
        cmocka_unit_test(a_finished_call_whose_reply_stays_unread_is_given_up),
        cmocka_unit_test(a_draining_server_finishes_its_calls_and_takes_no_more),
        cmocka_unit_test(a_drain_does_not_wait_for_a_peer_that_acks_no_ping),
        cmocka_unit_test(calls_of_a_lost_connection_end),
        cmocka_unit_test(a_call_may_be_started_from_on_done),
        cmocka_unit_test(timeouts_are_read_as_the_protocol_says),
        cmocka_unit_test(words_survive_percent_encoding),
        cmocka_unit_test(each_allocation_that_fails_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
