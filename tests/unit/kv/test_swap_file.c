/* The swap file: what is put in comes back, and nothing else ever does. */
#include "base/mem.h"
#include "kv/kv.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

enum { BLOCKS = 5, SLOTS = 3 };

typedef struct {
    const kernels_ops *ops;
    kernels_device *device;
    kv_store *store;
    kv_swap_file *file;
    char directory[64];
    size_t block_bytes;
    uint8_t *a, *b; /* [block_bytes] scratch */
} machine;

static int set_up(void **state) {
    machine *m = mem_alloc(1, sizeof *m);
    kv_shape shape = {.type = kv_type_find("q4"), .n_blocks = BLOCKS, .n_layers = 3, .n_kv_heads = 2, .head_dim = 40};
    snprintf(m->directory, sizeof m->directory, "/tmp/consort-swap-test-XXXXXX");
    assert_non_null(mkdtemp(m->directory));
    assert_int_equal(ST_OK, kernels_pick("scalar", &m->ops, NULL));
    assert_int_equal(ST_OK, m->ops->create(1, &m->device, NULL));
    assert_int_equal(ST_OK, kv_store_create(m->ops, m->device, &shape, &m->store, NULL));
    assert_int_equal(ST_OK, kv_swap_file_create(m->ops, m->device, m->store, m->directory, SLOTS, &m->file, NULL));
    m->block_bytes = kernels_kv_block_bytes(kv_store_view(m->store));
    m->a = mem_alloc(m->block_bytes, 1);
    m->b = mem_alloc(m->block_bytes, 1);
    *state = m;
    return 0;
}

static int tear_down(void **state) {
    machine *m = *state;
    kv_swap_file_destroy(m->file);
    assert_int_equal(rmdir(m->directory), 0); /* nothing is left in it, nor was while the file was there */
    kv_store_destroy(m->store);
    m->ops->destroy(m->device);
    mem_free(m->a);
    mem_free(m->b);
    mem_free(m);
    return 0;
}

/* Bytes that tell the block, the place and the time at which they were written. */
static void fill(const machine *m, uint8_t *bytes, uint32_t block, uint32_t time) {
    for (size_t i = 0; i < m->block_bytes; i++) bytes[i] = (uint8_t)(i * 31 + i / 251 + block * 7 + time * 13 + 1);
}

static void write_block(const machine *m, uint32_t block, uint32_t time) {
    fill(m, m->a, block, time);
    m->ops->poke(m->device, kv_store_view(m->store)->at.buffer, block * m->block_bytes, m->a, m->block_bytes, false);
}

static void assert_block(const machine *m, uint32_t block, uint32_t of, uint32_t time) {
    fill(m, m->a, of, time);
    m->ops->peek(m->device, m->b, kv_store_view(m->store)->at.buffer, block * m->block_bytes, m->block_bytes);
    assert_memory_equal(m->a, m->b, m->block_bytes);
}

static void swap(const machine *m, uint32_t block, uint32_t slot, bool in) {
    st_error e = {0};
    if (kv_swap_file_do(m->file, &(block_swap){block, slot, in}, &e)) fail_msg("%s", e.message);
}

static void assert_fails(const machine *m, block_swap s, st_code code, const char *says) {
    st_error e = {0};
    assert_int_equal(kv_swap_file_do(m->file, &s, &e), code);
    if (!strstr(e.message, says)) fail_msg("'%s' does not say '%s'", e.message, says);
}

/* The file has no name: it is found among what the process has open. */
static int descriptor(const machine *m) {
    char path[64], target[256];
    DIR *d = opendir("/proc/self/fd");
    int found = -1;
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        snprintf(path, sizeof path, "/proc/self/fd/%.20s", entry->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n <= 0) continue;
        target[n] = 0;
        if (strstr(target, m->directory)) found = (int)strtol(entry->d_name, NULL, 10);
    }
    closedir(d);
    assert_true(found >= 0);
    return found;
}

static void what_goes_out_comes_back_into_any_block_and_leaves_the_others_alone(void **state) {
    const machine *m = *state;
    for (uint32_t b = 0; b < BLOCKS; b++) write_block(m, b, 0);
    swap(m, 1, 2, false);
    swap(m, 4, 0, false);
    write_block(m, 1, 1);
    swap(m, 3, 2, true);
    swap(m, 4, 2, true); /* it still is in its slot */
    swap(m, 1, 0, true);
    assert_block(m, 0, 0, 0);
    assert_block(m, 1, 4, 0);
    assert_block(m, 2, 2, 0);
    assert_block(m, 3, 1, 0);
    assert_block(m, 4, 1, 0);
    write_block(m, 0, 5);
    swap(m, 0, 2, false); /* over what was there */
    swap(m, 2, 2, true);
    assert_block(m, 2, 0, 5);
}

static void a_slot_that_holds_other_bytes_is_refused_and_the_block_is_untouched(void **state) {
    const machine *m = *state;
    int file = descriptor(m);
    for (size_t at = 0; at < m->block_bytes; at += m->block_bytes / 3) {
        uint8_t byte;
        off_t place = (off_t)(m->block_bytes + at);
        write_block(m, 0, 1);
        write_block(m, 3, 9);
        swap(m, 0, 1, false);
        assert_int_equal(pread(file, &byte, 1, place), 1);
        byte ^= 16;
        assert_int_equal(pwrite(file, &byte, 1, place), 1);
        assert_fails(m, (block_swap){3, 1, true}, ST_ERR_IO, "slot 1 holds other bytes than were put in");
        assert_block(m, 3, 3, 9);
    }
    write_block(m, 0, 1);
    write_block(m, 1, 1);
    swap(m, 0, 0, false);
    swap(m, 1, 1, false);
    assert_int_equal(pread(file, m->b, m->block_bytes, 0), m->block_bytes); /* a block of its own, in the wrong place */
    assert_int_equal(pwrite(file, m->b, m->block_bytes, (off_t)m->block_bytes), m->block_bytes);
    swap(m, 2, 0, true);
    assert_fails(m, (block_swap){2, 1, true}, ST_ERR_IO, "slot 1 holds other bytes");
}

static void a_file_that_was_cut_is_an_error(void **state) {
    const machine *m = *state;
    write_block(m, 0, 1);
    write_block(m, 1, 2);
    swap(m, 0, 2, false);
    assert_int_equal(ftruncate(descriptor(m), (off_t)(3 * m->block_bytes - 10)), 0);
    assert_fails(m, (block_swap){1, 2, true}, ST_ERR_IO, "cannot read slot 2");
    assert_block(m, 1, 1, 2);
}

static void what_is_not_there_is_refused(void **state) {
    const machine *m = *state;
    write_block(m, 0, 1);
    assert_fails(m, (block_swap){BLOCKS, 0, false}, ST_FATAL_PROTOCOL, "KV block 5 and slot 0; there are 5 and 3");
    assert_fails(m, (block_swap){0, SLOTS, false}, ST_FATAL_PROTOCOL, "slot 3");
    assert_fails(m, (block_swap){0, UINT32_MAX, true}, ST_FATAL_PROTOCOL, "slot 4294967295");
    assert_fails(m, (block_swap){0, 1, true}, ST_FATAL_PROTOCOL, "nothing was put into slot 1");
    assert_block(m, 0, 0, 1);
}

static void a_directory_or_a_disk_that_will_not_do_is_named_with_its_key(void **state) {
    const machine *m = *state;
    kv_swap_file *f = NULL;
    st_error e = {0};
    assert_int_equal(kv_swap_file_create(m->ops, m->device, m->store, "/nowhere/at/all", 1, &f, &e), ST_ERR_IO);
    assert_non_null(strstr(e.message, "swap_directory: cannot make a file in /nowhere/at/all: No such file"));
    struct rlimit before, little; /* whatever disks the host has; and a file that grows past it is an error, not a signal */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    little = (struct rlimit){.rlim_cur = 7 * m->block_bytes, .rlim_max = before.rlim_max};
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    st_code code = kv_swap_file_create(m->ops, m->device, m->store, m->directory, 8, &f, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(code, ST_ERR_IO);
    assert_non_null(strstr(e.message, "swap_tokens: cannot set "));
    assert_non_null(strstr(e.message, "8 KV blocks"));
    assert_non_null(strstr(e.message, "File too large"));
    assert_null(f);
    kv_swap_file_destroy(NULL);
}

#define WITH_FILE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_FILE(what_goes_out_comes_back_into_any_block_and_leaves_the_others_alone),
        WITH_FILE(a_slot_that_holds_other_bytes_is_refused_and_the_block_is_untouched),
        WITH_FILE(a_file_that_was_cut_is_an_error),
        WITH_FILE(what_is_not_there_is_refused),
        WITH_FILE(a_directory_or_a_disk_that_will_not_do_is_named_with_its_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
