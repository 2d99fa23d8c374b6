/* kv_tokens: 0: what is available, as kernel and cgroups say, and what that comes to. */
#include "worker/worker.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static char root[64];

static int make_root(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/consort-room-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static void put(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *at = path + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        (void)mkdir(path, 0700);
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    (void)fputs(text, f);
    (void)fclose(f);
}

static uint64_t available(void) {
    uint64_t bytes = 0;
    st_error e;
    assert_int_equal(worker_available_bytes(root, &bytes, &e), ST_OK);
    return bytes;
}

static void without_limits_it_is_what_the_kernel_says(void **state) {
    (void)state;
    uint64_t bytes;
    st_error e;
    assert_int_equal(worker_available_bytes(root, &bytes, &e), ST_ERR_IO);
    assert_non_null(strstr(e.message, "MemAvailable"));
    put("/proc/meminfo", "MemTotal:  9000 kB\nMemFree:  10 kB\nMemAvailable:    4000 kB\n");
    assert_int_equal(available(), 4096000);
    put("/proc/self/cgroup", "0::/a/b\n");
    assert_int_equal(available(), 4096000);
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "1000\n");
    assert_int_equal(available(), 4096000);
}

static void the_least_of_all_limits_above_counts(void **state) {
    (void)state;
    put("/proc/meminfo", "MemAvailable:    4000 kB\n");
    put("/proc/self/cgroup", "0::/a/b\n");
    put("/sys/fs/cgroup/a/b/memory.max", "3000000\n");
    put("/sys/fs/cgroup/a/b/memory.current", "1000000\n");
    assert_int_equal(available(), 2000000);
    put("/sys/fs/cgroup/a/b/memory.stat", "anon 5\ninactive_file 400000\nactive_file 7\n"); /* can be dropped */
    assert_int_equal(available(), 2400000);
    put("/sys/fs/cgroup/a/memory.max", "5000000\n");
    put("/sys/fs/cgroup/a/memory.current", "4500000\n");
    assert_int_equal(available(), 500000);
    put("/sys/fs/cgroup/memory.max", "100\n");
    put("/sys/fs/cgroup/memory.current", "200\n");
    assert_int_equal(available(), 0);
}

static void a_container_and_version_1_are_read_too(void **state) {
    (void)state;
    put("/proc/meminfo", "MemAvailable:    4000 kB\n");
    put("/proc/self/cgroup", "0::/../elsewhere\n");
    put("/sys/fs/cgroup/memory.max", "3000000\n");
    put("/sys/fs/cgroup/memory.current", "0\n");
    assert_int_equal(available(), 3000000);
    put("/proc/self/cgroup", "7:cpu:/x\n5:memory:/docker/c\n");
    assert_int_equal(available(), 4096000);
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2000000\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1500000\n");
    put("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 100000\n");
    assert_int_equal(available(), 600000);
}

static config_group group = {.name = "g", .role = CONFIG_VERIFIER, .tensor_parallel = 1, .kv_type = "f16"};
static const config_topology topology = {
    .groups = &group, .n_groups = 1, .precision = "fast", .model = CONSORT_SOURCE_DIR "/tests/golden/spm-vocabulary.gguf"};

static void a_model_that_cannot_be_read_is_an_error(void **state) {
    (void)state;
    uint32_t tokens;
    st_error e;
    assert_int_not_equal(worker_measure_kv(&topology, 0, 0, 1, UINT64_C(1) << 40, &tokens, &e), ST_OK);
    assert_non_null(strstr(e.message, "spm-vocabulary.gguf"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(without_limits_it_is_what_the_kernel_says, make_root, remove_root),
        cmocka_unit_test_setup_teardown(the_least_of_all_limits_above_counts, make_root, remove_root),
        cmocka_unit_test_setup_teardown(a_container_and_version_1_are_read_too, make_root, remove_root),
        cmocka_unit_test(a_model_that_cannot_be_read_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
