#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "net/frame_int.h"
#include "net/limits.h"
#include <cmocka.h>
#include <string.h>

static const net_frame SAMPLE = {.type = 5, .cluster_epoch = 7, .group_epoch = 9, .payload = (const uint8_t *)"a plan", .n = 6};
enum { SAMPLE_BYTES = 6 + NET_FRAME_EXTRA_BYTES };

static void assert_is_sample(const net_frame *f) {
    assert_int_equal(f->type, 5);
    assert_int_equal(f->cluster_epoch, 7);
    assert_int_equal(f->group_epoch, 9);
    assert_int_equal(f->n, 6);
    assert_memory_equal(f->payload, "a plan", 6);
}

/* Feeds all of bytes; returns frames seen or -1 when refused. */
static int feed(net_frame_parser *p, const uint8_t *bytes, size_t n, st_error *e) {
    int frames = 0;
    bool got = true;
    net_frame f;
    while (n || got) {
        if (net_frame_feed(p, &bytes, &n, &f, &got, e)) return -1;
        if (got) assert_is_sample(&f);
        frames += got;
    }
    return frames;
}

static void a_frame_survives_every_split(void **state) {
    (void)state;
    uint8_t bytes[2 * SAMPLE_BYTES];
    st_error e;
    net_frame_encode(&SAMPLE, bytes);
    net_frame_encode(&SAMPLE, bytes + SAMPLE_BYTES);
    for (size_t a = 0; a <= sizeof bytes; a++) {
        for (size_t b = a; b <= sizeof bytes; b++) {
            net_frame_parser p = {.max_payload_bytes = 100};
            int frames = feed(&p, bytes, a, &e) + feed(&p, bytes + a, b - a, &e) + feed(&p, bytes + b, sizeof bytes - b, &e);
            assert_int_equal(frames, 2);
            net_frame_parser_deinit(&p);
        }
    }
}

static void a_frame_survives_byte_by_byte(void **state) {
    (void)state;
    uint8_t bytes[SAMPLE_BYTES];
    st_error e;
    net_frame_parser p = {.max_payload_bytes = 100};
    net_frame_encode(&SAMPLE, bytes);
    int frames = 0;
    for (size_t i = 0; i < sizeof bytes; i++) frames += feed(&p, bytes + i, 1, &e);
    assert_int_equal(frames, 1);
    net_frame_parser_deinit(&p);
}

static void every_flipped_bit_is_refused(void **state) {
    (void)state;
    uint8_t bytes[SAMPLE_BYTES];
    st_error e;
    for (size_t bit = 0; bit < 8 * sizeof bytes; bit++) {
        net_frame_parser p = {.max_payload_bytes = UINT32_MAX};
        net_frame_encode(&SAMPLE, bytes);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        e.code = ST_OK;
        assert_int_equal(feed(&p, bytes, sizeof bytes, &e), -1);
        assert_int_equal(e.code, ST_FATAL_PROTOCOL);
        net_frame_parser_deinit(&p);
    }
}

/* A length is refused from the head alone, before a byte of payload is stored. */
static void payloads_are_taken_up_to_the_limit(void **state) {
    (void)state;
    enum { LIMIT = 300 };
    static const uint8_t zeros[LIMIT + 1];
    for (uint32_t n = LIMIT - 1; n <= LIMIT + 1; n++) {
        uint8_t bytes[LIMIT + 1 + NET_FRAME_EXTRA_BYTES];
        net_frame f = {.type = 1, .payload = zeros, .n = n};
        net_frame_encode(&f, bytes);
        net_frame_parser p = {.max_payload_bytes = LIMIT};
        const uint8_t *at = bytes;
        size_t left = NET_FRAME_HEAD_BYTES;
        bool got;
        st_error e;
        st_code rc = net_frame_feed(&p, &at, &left, &f, &got, &e);
        assert_int_equal(rc, n <= LIMIT ? ST_OK : ST_FATAL_PROTOCOL);
        if (n > LIMIT) assert_string_equal(e.message, "frame: payload of 301 bytes, limit is 300");
        net_frame_parser_deinit(&p);
    }
}

static void an_announced_length_takes_no_memory(void **state) {
    (void)state;
    uint8_t bytes[NET_MAX_HANDSHAKE_BYTES];
    uint8_t *big = mem_alloc(NET_MAX_FRAME_BYTES + NET_FRAME_EXTRA_BYTES, 1), *payload = mem_alloc(NET_MAX_FRAME_BYTES, 1);
    net_frame f = {.type = 1, .payload = payload, .n = NET_MAX_FRAME_BYTES};
    net_frame_encode(&f, big);
    memcpy(bytes, big, sizeof bytes);
    net_frame_parser p = {.max_payload_bytes = NET_MAX_FRAME_BYTES};
    const uint8_t *at = bytes;
    size_t left = sizeof bytes;
    bool got;
    assert_int_equal(net_frame_feed(&p, &at, &left, &f, &got, NULL), ST_OK);
    assert_true(p.capacity <= 1024);
    net_frame_parser_deinit(&p);
    mem_free(big);
    mem_free(payload);
}

static void another_version_is_named(void **state) {
    (void)state;
    uint8_t bytes[SAMPLE_BYTES];
    st_error e;
    net_frame_parser p = {.max_payload_bytes = 100};
    net_frame_encode(&SAMPLE, bytes);
    memcpy(bytes, "GET ", 4);
    assert_int_equal(feed(&p, bytes, sizeof bytes, &e), -1);
    assert_non_null(strstr(e.message, "magic 0x20544547"));
    net_frame_parser_deinit(&p);
}

static void an_empty_payload_is_a_frame(void **state) {
    (void)state;
    uint8_t bytes[NET_FRAME_EXTRA_BYTES];
    const uint8_t *at = bytes;
    size_t left = sizeof bytes;
    bool got;
    net_frame f = {.type = 3};
    net_frame_parser p = {.max_payload_bytes = 0};
    net_frame_encode(&f, bytes);
    assert_int_equal(net_frame_feed(&p, &at, &left, &f, &got, NULL), ST_OK);
    assert_true(got && f.n == 0 && f.type == 3);
    net_frame_parser_deinit(&p);
}

static void each_allocation_that_fails_is_told(void **state) {
    (void)state;
    enum { N = 5000 };
    uint8_t bytes[N + NET_FRAME_EXTRA_BYTES], payload[N] = {1};
    net_frame f = {.type = 1, .payload = payload, .n = N};
    net_frame_encode(&f, bytes);
    uint64_t made = 1, k = 0;
    while (made >= k) { /* until fewer than k were made: none failed */
        k++;
        net_frame_parser p = {.max_payload_bytes = N};
        st_code rc = ST_OK;
        mem_fail_at(k);
        for (size_t i = 0; i < sizeof bytes && !rc; i++) {
            const uint8_t *at = bytes + i;
            size_t left = 1;
            bool got;
            rc = net_frame_feed(&p, &at, &left, &f, &got, NULL);
        }
        made = mem_fail_at(0);
        assert_int_equal(rc, made < k ? ST_OK : ST_FATAL_MEMORY);
        net_frame_parser_deinit(&p);
    }
    assert_true(k >= 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_survives_every_split),        cmocka_unit_test(a_frame_survives_byte_by_byte),
        cmocka_unit_test(every_flipped_bit_is_refused),        cmocka_unit_test(payloads_are_taken_up_to_the_limit),
        cmocka_unit_test(an_announced_length_takes_no_memory), cmocka_unit_test(another_version_is_named),
        cmocka_unit_test(an_empty_payload_is_a_frame),         cmocka_unit_test(each_allocation_that_fails_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
