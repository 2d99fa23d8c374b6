#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/cursor.h"
#include "base/filemap.h"
#include "base/mem.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void a_cursor_reads_little_endian_and_stops_for_good_at_the_end(void **state) {
    (void)state;
    const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    cursor c = cursor_of(bytes, sizeof bytes);
    assert_int_equal(cursor_u8(&c), 1);
    assert_int_equal(cursor_u32(&c), 0x05040302);
    assert_int_equal(cursor_u16(&c), 0x0706);
    assert_int_equal(cursor_left(&c), 2);
    assert_int_equal(cursor_u32(&c), 0); /* two bytes are left */
    assert_false(cursor_ok(&c));
    assert_int_equal(c.at, 7);
    assert_int_equal(cursor_u8(&c), 0); /* bad stays bad */
    assert_int_equal(cursor_left(&c), 0);
    assert_null(cursor_take(&c, 0));
}

static void a_cursor_takes_no_length_that_wraps(void **state) {
    (void)state;
    const uint8_t bytes[8] = {0};
    const uint64_t lengths[] = {9, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        cursor c = cursor_of(bytes, sizeof bytes);
        cursor_u8(&c);
        assert_null(cursor_take(&c, lengths[i]));
        assert_false(cursor_ok(&c));
        c = cursor_of(bytes, sizeof bytes);
        cursor_seek(&c, lengths[i]);
        assert_false(cursor_ok(&c));
    }
    cursor c = cursor_of(bytes, sizeof bytes);
    cursor_seek(&c, sizeof bytes);
    assert_true(cursor_ok(&c));
    assert_non_null(cursor_take(&c, 0));
}

static void an_arena_clears_what_was_used_before_and_is_zero_beyond(void **state) {
    (void)state;
    _Alignas(64) unsigned char borrowed[256];
    memset(borrowed, 0xff, sizeof borrowed);
    for (int kind = 0; kind < 2; kind++) {
        arena a = arena_over(borrowed, sizeof borrowed);
        if (kind) assert_int_equal(arena_init(&a, sizeof borrowed), ST_OK);
        memset(arena_alloc(&a, 64, 1), 0xff, 64);
        arena_reset(&a, 0);
        unsigned char *p = arena_alloc(&a, 192, 1);
        for (int i = 0; i < 192; i++) assert_int_equal(p[i], 0);
        memset(p, 0xff, 192);
        arena_reset(&a, 128);
        p = arena_alloc(&a, 128, 1);
        for (int i = 0; i < 128; i++) assert_int_equal(p[i], 0);
        arena_deinit(&a);
    }
}

static void an_arena_gives_aligned_zeroed_memory_until_it_is_full(void **state) {
    (void)state;
    arena a;
    assert_int_equal(arena_init(&a, 256), ST_OK);
    unsigned char *p = arena_alloc(&a, 3, 1), *q = arena_alloc(&a, 64, 1);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_ptr_equal(q, p + 64);
    memset(q, 7, 64);
    assert_null(arena_alloc(&a, 129, 1));
    assert_null(arena_alloc(&a, SIZE_MAX, 2));
    assert_null(arena_alloc(&a, SIZE_MAX, 1));
    assert_non_null(arena_alloc(&a, 128, 1));
    assert_null(arena_alloc(&a, 1, 1));
    arena_reset(&a, 64);
    q = arena_alloc(&a, 64, 1);
    assert_int_equal(q[0], 0);
    arena_deinit(&a);
    arena_deinit(&a);
}

static void allocation_sizes_that_overflow_are_refused(void **state) {
    (void)state;
    volatile size_t half = SIZE_MAX / 2;
    assert_null(mem_alloc(half, 3));
    assert_null(mem_alloc_aligned(half, 3, 64));
    assert_null(mem_alloc_aligned(SIZE_MAX - 3, 1, 64));
    assert_null(mem_resize(NULL, 0, half, 3));
    assert_null(mem_text("", SIZE_MAX));
}

static void mapped_memory_is_zeroed_and_can_be_refused(void **state) {
    (void)state;
    size_t size = (4 << 20) + 5;
    unsigned char *p = mem_map(size);
    assert_non_null(p);
    assert_true(p[0] == 0 && p[size - 1] == 0);
    p[size - 1] = 1;
    mem_unmap(p, size);
    mem_unmap(NULL, size);
    assert_null(mem_map(0));
    mem_fail_at(1);
    assert_null(mem_map(size));
    mem_fail_at(0);
}

static void the_chosen_allocation_fails_and_only_that_one(void **state) {
    (void)state;
    mem_fail_at(2);
    void *a = mem_alloc(1, 1), *b = mem_alloc(1, 1), *c = mem_alloc(1, 1);
    assert_non_null(a);
    assert_null(b);
    assert_non_null(c);
    assert_int_equal(mem_fail_at(0), 3);
    mem_free(a);
    mem_free(c);
}

static void resize_keeps_the_old_elements_and_zeroes_the_new(void **state) {
    (void)state;
    int *p = mem_alloc(2, sizeof *p);
    p[0] = 5, p[1] = 6;
    p = mem_resize(p, 2, 1000, sizeof *p);
    assert_int_equal(p[1], 6);
    for (int i = 2; i < 1000; i++) assert_int_equal(p[i], 0);
    mem_free(p);
}

static void an_error_message_keeps_its_code_takes_a_prefix_and_is_cut_not_overrun(void **state) {
    (void)state;
    st_error e = {0};
    char big[2 * ST_MESSAGE_BYTES];
    assert_int_equal(st_fail(&e, ST_ERR_FORMAT, "expected %d", 3), ST_ERR_FORMAT);
    assert_int_equal(st_prefix(&e, "file %s", "x"), ST_ERR_FORMAT);
    assert_string_equal(e.message, "file x: expected 3");
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    assert_int_equal(st_fail(&e, ST_ERR_IO, "%s", big), ST_ERR_IO);
    assert_int_equal(strlen(e.message), ST_MESSAGE_BYTES - 1);
    assert_int_equal(st_prefix(&e, "%s", big), ST_ERR_IO);
    assert_int_equal(strlen(e.message), ST_MESSAGE_BYTES - 1);
    assert_int_equal(st_fail(NULL, ST_ERR_IO, "nobody listens"), ST_ERR_IO);
}

static void every_code_has_a_name_and_fatal_ones_stand_last(void **state) {
    (void)state;
    for (int i = 0; i < ST_N_CODES; i++) {
        assert_true(strlen(st_name((st_code)i)) > 1 && strlen(st_text((st_code)i)) > 1);
        assert_int_equal(st_is_fatal((st_code)i), strncmp(st_name((st_code)i), "FATAL", 5) == 0);
        assert_int_equal(st_grpc((st_code)i) == 0, i == ST_OK);
    }
    assert_string_equal(st_name((st_code)9999), "ERR_UNKNOWN");
}

static void a_file_is_mapped_whole_and_what_is_none_is_refused(void **state) {
    (void)state;
    char path[] = "/tmp/consort-filemap-XXXXXX";
    int fd = mkstemp(path);
    filemap m = {0};
    st_error e = {0};
    assert_true(fd >= 0);
    assert_int_equal(filemap_open(path, &m, &e), ST_OK);
    assert_true(!m.bytes && !m.size_bytes);
    assert_int_equal(write(fd, "abc", 3), 3);
    assert_int_equal(filemap_open(path, &m, &e), ST_OK);
    assert_int_equal(m.size_bytes, 3);
    assert_memory_equal(m.bytes, "abc", 3);
    filemap_close(&m);
    filemap_close(&m);
    assert_int_equal(close(fd), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(filemap_open(path, &m, &e), ST_ERR_IO);
    assert_non_null(strstr(e.message, path));
    assert_int_equal(filemap_open("/dev/null", &m, &e), ST_ERR_IO);
    assert_non_null(strstr(e.message, "regular file"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cursor_reads_little_endian_and_stops_for_good_at_the_end),
        cmocka_unit_test(a_cursor_takes_no_length_that_wraps),
        cmocka_unit_test(an_arena_clears_what_was_used_before_and_is_zero_beyond),
        cmocka_unit_test(an_arena_gives_aligned_zeroed_memory_until_it_is_full),
        cmocka_unit_test(allocation_sizes_that_overflow_are_refused),
        cmocka_unit_test(mapped_memory_is_zeroed_and_can_be_refused),
        cmocka_unit_test(the_chosen_allocation_fails_and_only_that_one),
        cmocka_unit_test(resize_keeps_the_old_elements_and_zeroes_the_new),
        cmocka_unit_test(an_error_message_keeps_its_code_takes_a_prefix_and_is_cut_not_overrun),
        cmocka_unit_test(a_file_is_mapped_whole_and_what_is_none_is_refused),
        cmocka_unit_test(every_code_has_a_name_and_fatal_ones_stand_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
