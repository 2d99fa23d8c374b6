/* The topology file: defaults, ranges, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "base/mem.h"
#include "config/config.h"
#include "config/config_int.h"
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static st_code load(const char *text, config_topology **t, st_error *e) {
    memset(e, 0, sizeof *e);
    *t = NULL;
    return config_load_bytes("x.yaml", (const uint8_t *)text, strlen(text), t, e);
}

static config_topology *load_good(const char *text) {
    config_topology *t;
    st_error e;
    if (load(text, &t, &e)) fail_msg("%s", e.message);
    return t;
}

static void assert_refused(const char *text, const char *expected) {
    config_topology *t;
    st_error e;
    st_code code = load(text, &t, &e);
    assert_true(code == ST_ERR_FORMAT || code == ST_ERR_INVALID_ARGUMENT);
    assert_null(t);
    assert_string_equal(e.message, expected);
}

static void a_short_file_gets_the_defaults(void **state) {
    (void)state;
    config_topology *t = load_good("model: m.gguf\ngroups: [{name: a}]\n");
    assert_string_equal(t->listen, "127.0.0.1:50051");
    assert_string_equal(t->control_listen, "127.0.0.1:0");
    assert_string_equal(t->http_listen, "127.0.0.1:50080");
    assert_string_equal(t->control_advertise, "");
    assert_string_equal(t->model, "m.gguf");
    assert_int_equal(t->max_running, 64);
    assert_int_equal(t->max_queue, 256);
    assert_int_equal(t->max_context, 0);
    assert_int_equal(t->heartbeat_ms, 500);
    assert_int_equal(t->dead_after_ms, 3000);
    assert_int_equal(t->n_groups, 1);
    assert_string_equal(t->groups[0].name, "a");
    assert_int_equal(t->groups[0].role, CONFIG_VERIFIER);
    assert_int_equal(t->groups[0].tensor_parallel, 1);
    assert_int_equal(t->groups[0].threads, 0);
    assert_string_equal(t->precision, "fast");
    assert_string_equal(t->groups[0].kv_type, "auto");
    assert_int_equal(t->groups[0].kv_tokens, 65536);
    assert_int_equal(t->groups[0].swap_tokens, 0);
    assert_string_equal(t->groups[0].swap_directory, "/var/tmp");
    assert_string_equal(t->groups[0].isa, "auto");
    assert_string_equal(t->groups[0].kind, "model");
    assert_string_equal(t->groups[0].model, "m.gguf");
    assert_string_equal(t->groups[0].table, "");
    assert_string_equal(t->speculation, "all");
    assert_string_equal(t->draft_budgets, "adaptive");
    assert_string_equal(t->fusion, "auto");
    assert_int_equal(t->draft_budget, 4);
    assert_int_equal(t->draft_floor, 40);
    assert_int_equal(t->draft_wait_ms, 200);
    assert_int_equal(t->max_stall_ms, 200);
    assert_string_equal(t->debug, "off");
    config_destroy(t);
}

static void every_number_takes_its_range_and_nothing_else(void **state) {
    (void)state;
    config_key k;
    unsigned min, max, n = 0;
    for (size_t i = 0; config_key_at(i, &k); i++) {
        if (sscanf(k.range, "%u .. %u", &min, &max) != 2) continue;
        n++;
        char text[256];
        const char *format = k.in_group ? "model: m\ngroups: [{name: a, %s: %s}]\n" : "model: m\ngroups: [{name: a}]\n%s: %s\n";
        static const char *const bad[] = {"-1", "3x", "1.5", "", "0x10", "true", "99999999999999999999", " "};
        config_topology *t;
        st_error e;
        for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
            snprintf(text, sizeof text, format, k.name, bad[b]);
            assert_int_equal(load(text, &t, &e), ST_ERR_INVALID_ARGUMENT);
            assert_non_null(strstr(e.message, k.name));
            assert_non_null(strstr(e.message, "expected a whole number"));
        }
        for (int outside = 0; outside < 2; outside++) {
            char value[32];
            if (!outside && !min) continue;
            snprintf(value, sizeof value, "%u", outside ? max + 1 : min - 1);
            snprintf(text, sizeof text, format, k.name, value);
            assert_int_equal(load(text, &t, &e), ST_ERR_INVALID_ARGUMENT);
            assert_non_null(strstr(e.message, k.range));
        }
    }
    assert_int_equal(n, 20);
}

static void values_are_taken_as_written(void **state) {
    (void)state;
    config_topology *t = load_good(
        "model: a b/m.gguf\nprecision: fp32\nlisten: '[::1]:0'\ncontrol_advertise: head\nmax_running: 256\nmax_queue: 0\n"
        "heartbeat_ms: 10\ndead_after_ms: 20\nmax_rows: 8192\nprefill_chunk: 8192\nmax_batch: 256\n"
        "groups:\n- {name: big, tensor_parallel: 3, threads: 8, kv_type: f32, kv_tokens: 32, isa: scalar}\n"
        "- {name: small, role: verifier, kv_tokens: 64}\n");
    assert_string_equal(t->model, "a b/m.gguf");
    assert_string_equal(t->control_advertise, "head");
    assert_int_equal(t->max_running, 256);
    assert_int_equal(t->max_queue, 0);
    assert_int_equal(t->groups[0].threads, 8);
    assert_string_equal(t->precision, "fp32");
    assert_string_equal(t->groups[0].kv_type, "f32");
    assert_string_equal(t->groups[0].isa, "scalar");
    assert_int_equal(config_n_verifiers(t), 2);
    config_destroy(t);
}

static void a_drafter_has_a_model_or_a_table(void **state) {
    (void)state;
    config_topology *t = load_good("model: m\nspeculation: fixed:b\ndraft_budget: 63\ndraft_wait_ms: 1\ngroups:\n- {name: a}\n"
                                   "- {name: b, role: drafter, model: small.gguf}\n- {name: c, role: drafter}\n"
                                   "- {name: d, role: drafter, kind: ngram, table: d.ngram}\n");
    assert_string_equal(t->speculation, "fixed:b");
    assert_int_equal(t->draft_budget, 63);
    assert_int_equal(t->draft_wait_ms, 1);
    assert_int_equal(t->groups[0].role, CONFIG_VERIFIER);
    assert_int_equal(t->groups[1].role, CONFIG_DRAFTER);
    assert_string_equal(t->groups[1].model, "small.gguf");
    assert_string_equal(t->groups[2].model, "m");
    assert_string_equal(t->groups[3].kind, "ngram");
    assert_string_equal(t->groups[3].table, "d.ngram");
    assert_string_equal(t->groups[3].model, "");
    assert_int_equal(config_n_ranks(t), 5);
    config_destroy(t);
}

static void ranks_follow_the_groups(void **state) {
    (void)state;
    config_topology *t =
        load_good("model: m\ngroups: [{name: a, tensor_parallel: 3}, {name: b}, {name: c, tensor_parallel: 2}]\n");
    static const uint32_t want[][2] = {{0, 0}, {0, 1}, {0, 2}, {1, 0}, {2, 0}, {2, 1}};
    uint32_t g = 99, r = 99;
    assert_int_equal(config_n_ranks(t), 7);
    assert_false(config_rank(t, 0, &g, &r));
    for (uint32_t i = 0; i < 6; i++) {
        assert_true(config_rank(t, i + 1, &g, &r));
        assert_int_equal(g, want[i][0]);
        assert_int_equal(r, want[i][1]);
    }
    assert_false(config_rank(t, 7, &g, &r));
    assert_false(config_rank(t, UINT32_MAX, &g, &r));
    config_destroy(t);
}

static void what_does_not_fit_together_is_refused(void **state) {
    (void)state;
    assert_refused("model: m\ngroups: [{name: a}]\nmax_rows: 100\nprefill_chunk: 256\n",
                   "x.yaml: prefill_chunk: 256 is over max_rows 100");
    assert_refused("model: m\ngroups: [{name: a}]\nmax_rows: 50\nprefill_chunk: 50\n",
                   "x.yaml: max_batch: 64 is over max_rows 50");
    assert_refused("model: m\ngroups: [{name: a}]\ndead_after_ms: 999\n",
                   "x.yaml: dead_after_ms: 999 is under two heartbeats (heartbeat_ms 500)");
    assert_refused("", "x.yaml: model: is missing (GGUF file of the model, relative to the working directory of every rank)");
    assert_refused("model: m\n", "x.yaml: groups: no group with role verifier; expected at least one");
    assert_refused("model: ''\ngroups: [{name: a}]\n", "x.yaml: model: is empty; expected the path of a GGUF file");
    assert_refused("model: m\ngroups: [{name: a}]\nmax_rows: 63\nmax_batch: 1\nprefill_chunk: 1\ndraft_budget: 63\n",
                   "x.yaml: draft_budget: 63 and the token before it are over max_rows 63");
    assert_refused("model: m\nprefix_cache: off\ngroups: [{name: a, swap_tokens: 64}]\n",
                   "x.yaml: groups[0]: swap_tokens: 64, but prefix_cache is off: expected on, which finds what lies there");
    assert_refused("model: m\ngroups: [{name: a, swap_tokens: 65}]\n",
                   "x.yaml: groups[0]: swap_tokens: 65 is not a multiple of 32; try 64");
    assert_refused("model: m\ngroups: [{name: a}, {name: b, role: drafter, swap_tokens: 32}]\n",
                   "x.yaml: groups[1]: swap_tokens: is for verifiers; a drafter computes again what it has given up");
    assert_refused("model: m\ngroups: [{name: a, swap_tokens: 32, swap_directory: ''}]\n",
                   "x.yaml: groups[0]: swap_directory: is empty; expected a directory on a local disk");
    char text[2048] = "model: m\ngroups:\n- {name: v}\n";
    for (int i = 0; i < 32; i++) snprintf(text + strlen(text), 64, "- {name: g%d, role: drafter}\n", i);
    assert_refused(text, "x.yaml: groups: 32 drafters are over 30");
    snprintf(text, sizeof text, "model: m\ngroups:\n");
    for (int i = 0; i < 16; i++) snprintf(text + strlen(text), 64, "- {name: g%d, tensor_parallel: 64}\n", i);
    assert_refused(text, "x.yaml: groups: 1025 ranks with the coordinator are over 1024");
}

static void a_file_that_is_no_file_is_refused(void **state) {
    (void)state;
    config_topology *t = NULL;
    st_error e;
    assert_int_equal(config_load("no/such.yaml", &t, &e), ST_ERR_IO);
    assert_string_equal(e.message, "no/such.yaml: No such file or directory");
    assert_int_equal(config_load("tests", &t, &e), ST_ERR_IO);
    assert_string_equal(e.message, "tests: Is a directory");
    assert_int_equal(config_load("/dev/zero", &t, &e), ST_ERR_FORMAT);
    assert_null(t);
    config_destroy(NULL);
}

static void an_address_is_host_and_port(void **state) {
    (void)state;
    static const struct {
        const char *text, *host;
        int port;
    } good[] = {{"127.0.0.1:50051", "127.0.0.1", 50051},
                {"a:0", "a", 0},
                {"[::1]:80", "::1", 80},
                {"node-7.x:65535", "node-7.x", 65535},
                {"[a]:1", "a", 1}};
    static const char *const bad[] = {"",      "a",     ":1",      "a:",    "a:65536", "a:-1",    "a:1x",       "a: 1",  "::1:80",
                                      "[]:80", "[::1]", "[::1:80", "a b:1", "a]:1",    "[[a]]:1", "a:00080000", "[a]x:1"};
    char host[16];
    uint16_t port;
    st_error e;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(config_split_address(good[i].text, host, sizeof host, &port, &e), ST_OK);
        assert_string_equal(host, good[i].host);
        assert_int_equal(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (!config_split_address(bad[i], host, sizeof host, &port, &e)) fail_msg("'%s' was taken", bad[i]);
    assert_int_equal(config_split_address("a-very-long-host-name:1", host, sizeof host, &port, &e), ST_ERR_INVALID_ARGUMENT);
    assert_string_equal(e.message, "'a-very-long-host-name:1': expected host:port or [IPv6]:port, port 0 .. 65535");
}

static void each_failing_allocation_is_said(void **state) {
    (void)state;
    static const char text[] =
        "model: m\nlisten: a:1\ngroups: [{name: a, kv_type: f32}, {name: b, kv_type: f32}, {name: c, role: drafter}]\n";
    st_code code = ST_FATAL_MEMORY;
    uint64_t n = 0;
    while (code) {
        config_topology *t;
        st_error e;
        mem_fail_at(++n);
        code = load(text, &t, &e);
        mem_fail_at(0);
        assert_true(code == ST_OK || code == ST_FATAL_MEMORY);
        assert_int_equal(code != ST_OK, t == NULL);
        config_destroy(t);
        assert_true(n < 1000);
    }
    assert_true(n > 20);
}

static char *read_file(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    char *text = calloc(1, 1 << 16);
    if (!fread(text, 1, (1 << 16) - 1, f)) text[0] = 0;
    fclose(f);
    return text;
}

/* tests/golden/config-errors/NAME.yaml and the message it gives, NAME.txt. */
static void a_bad_file_gives_the_message_beside_it(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("tests/golden/config-errors/*.yaml", 0, NULL, &files), 0);
    assert_true(files.gl_pathc >= 15);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        config_topology *t = NULL;
        st_error e = {0};
        char path[256];
        snprintf(path, sizeof path, "%.*s.txt", (int)strlen(files.gl_pathv[i]) - 5, files.gl_pathv[i]);
        if (!config_load(files.gl_pathv[i], &t, &e)) fail_msg("%s was taken", files.gl_pathv[i]);
        char *expected = read_file(path);
        expected[strcspn(expected, "\n")] = 0;
        assert_string_equal(e.message, expected);
        free(expected);
    }
    globfree(&files);
}

static void every_committed_topology_is_good(void **state) {
    (void)state;
    glob_t files;
    assert_int_equal(glob("cluster-configs/*.yaml", 0, NULL, &files), 0);
    for (size_t i = 0; i < files.gl_pathc; i++) {
        config_topology *t;
        st_error e;
        if (config_load(files.gl_pathv[i], &t, &e)) fail_msg("%s", e.message);
        config_destroy(t);
    }
    globfree(&files);
    config_topology *t;
    st_error e;
    assert_int_equal(config_load("cluster-configs/quickstart.yaml", &t, &e), ST_OK);
    assert_int_equal(config_n_ranks(t), 3);
    assert_string_equal(t->model, "models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_string_equal(t->groups[0].name, "smollm2");
    config_destroy(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_short_file_gets_the_defaults),    cmocka_unit_test(every_number_takes_its_range_and_nothing_else),
        cmocka_unit_test(values_are_taken_as_written),       cmocka_unit_test(a_drafter_has_a_model_or_a_table),
        cmocka_unit_test(ranks_follow_the_groups),           cmocka_unit_test(what_does_not_fit_together_is_refused),
        cmocka_unit_test(a_file_that_is_no_file_is_refused), cmocka_unit_test(an_address_is_host_and_port),
        cmocka_unit_test(each_failing_allocation_is_said),   cmocka_unit_test(a_bad_file_gives_the_message_beside_it),
        cmocka_unit_test(every_committed_topology_is_good),
    };
    return cmocka_run_group_tests_name("config_topology", tests, NULL, NULL);
}
