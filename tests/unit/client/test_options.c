/* Command lines of the verbs. What is said to people goes to standard error and is not looked at here. */
#include "client/client_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct {
    bool json;
    const char *model, *file;
    uint32_t threads;
    uint64_t seed;
    double temperature;
} values;

/* Parses a command line of words parted by spaces. */
static int parse(const char *line, values *v) {
    static char text[256];
    char *argv[16] = {"verb"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) argv[argc++] = word;
    const client_option options[] = {
        {"FILE", CLIENT_TEXT, &v->file, NULL, "a file", true},
        {"--json", CLIENT_FLAG, &v->json, NULL, "a flag", false},
        {"--model", CLIENT_TEXT, &v->model, "F", "a text", false},
        {"--threads", CLIENT_U32, &v->threads, "N", "a number", false},
        {"--seed", CLIENT_U64, &v->seed, "N", "a large number", false},
        {"--temperature", CLIENT_F64, &v->temperature, "T", "a real number", false},
    };
    return client_options(argc, argv, "About.", options, sizeof options / sizeof *options);
}

static void all_kinds_of_options_are_stored(void **state) {
    (void)state;
    values v = {.threads = 7};
    assert_int_equal(parse("--json in.gguf --model m --seed=18446744073709551615 --temperature 0.5", &v), CLIENT_GO_ON);
    assert_true(v.json);
    assert_string_equal(v.file, "in.gguf");
    assert_string_equal(v.model, "m");
    assert_true(v.seed == UINT64_MAX && v.temperature == 0.5);
    assert_int_equal(v.threads, 7); /* the default stays */
    assert_int_equal(parse("- --threads 4294967294", &v), CLIENT_GO_ON);
    assert_true(v.threads == UINT32_MAX - 1);
    assert_string_equal(v.file, "-");
}

static void wrong_command_lines_are_refused(void **state) {
    (void)state;
    static const char *const lines[] = {"",
                                        "--json",
                                        "f g",
                                        "f --unknown",
                                        "f --mode m",
                                        "f --model",
                                        "f --json=1",
                                        "f --threads -1",
                                        "f --threads 4294967295", /* which verbs take for: not given */
                                        "f --threads 1x",
                                        "f --threads=",
                                        "f --seed 18446744073709551616",
                                        "f --temperature nan",
                                        "f --temperature 1,5"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        values v = {0};
        if (parse(lines[i], &v) != CLIENT_USAGE) fail_msg("taken: %s", lines[i]);
    }
}

/* A setter that keeps what it got, and refuses the value "bad". */
typedef struct {
    char got[64];
} setter_log;

static st_code set(void *context, const char *name, const char *value, st_error *e) {
    setter_log *s = context;
    size_t n = strlen(s->got);
    if (!strcmp(value, "bad")) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: bad is refused", name);
    snprintf(s->got + n, sizeof s->got - n, "%s=%s;", name, value);
    return ST_OK;
}

static int parse_set(setter_log *s, int argc, char **argv) {
    client_setter setter = {set, s};
    const client_option options[] = {
        {"--stop", CLIENT_SET, &setter, "TEXT", "a text, several times", false},
        {"--ignore-end", CLIENT_SET_FLAG, &setter, NULL, "a flag", false},
    };
    return client_options(argc, argv, "About.", options, sizeof options / sizeof *options);
}

static void setters_get_every_value_as_it_was_typed(void **state) {
    (void)state;
    setter_log s = {0};
    char *argv[] = {"verb", "--stop", "a=b", "--stop=", "--ignore-end", "--stop=--x", "--stop", "--ignore-end"};
    assert_int_equal(parse_set(&s, sizeof argv / sizeof *argv, argv), CLIENT_GO_ON);
    assert_string_equal(s.got, "stop=a=b;stop=;ignore-end=;stop=--x;stop=--ignore-end;");
}

static void what_a_setter_refuses_is_a_usage_error(void **state) {
    (void)state;
    setter_log s = {0};
    assert_int_equal(parse_set(&s, 3, (char *[]){"verb", "--stop", "bad"}), CLIENT_USAGE);
    assert_int_equal(parse_set(&s, 2, (char *[]){"verb", "--stop"}), CLIENT_USAGE);
    assert_int_equal(parse_set(&s, 2, (char *[]){"verb", "--ignore-end=1"}), CLIENT_USAGE);
    assert_string_equal(s.got, "");
}

static void a_cancelled_call_has_an_exit_code_of_its_own(void **state) {
    (void)state;
    assert_int_equal(client_fail("verb", &(st_error){.code = ST_ERR_CANCELLED, .message = "cancelled"}), CLIENT_INTERRUPTED);
    assert_int_equal(client_fail("verb", &(st_error){.code = ST_ERR_UNAVAILABLE, .message = "away"}), CLIENT_FAILED);
}

typedef struct {
    uint32_t n;
    char all[64];
} gathered;

static st_code gather(void *context, const char *name, const char *value, st_error *e) {
    gathered *g = context;
    (void)name, (void)e;
    size_t used = strlen(g->all);
    (void)snprintf(g->all + used, sizeof g->all - used, "%s|", value);
    g->n++;
    return ST_OK;
}

static void a_repeated_argument_takes_all_that_follow(void **state) {
    (void)state;
    gathered g = {0};
    client_setter setter = {gather, &g};
    const char *first = NULL;
    bool json = false;
    const client_option options[] = {
        {"FIRST", CLIENT_TEXT, &first, NULL, "a file", true},
        {"--json", CLIENT_FLAG, &json, NULL, "a flag", false},
        {"FILE...", CLIENT_SET, &setter, NULL, "more files", true},
    };
    char *argv[] = {"verb", "a", "b", "--json", "c", "d"};
    assert_int_equal(client_options(6, argv, "About.", options, 3), CLIENT_GO_ON);
    assert_true(json && g.n == 3);
    assert_string_equal(first, "a");
    assert_string_equal(g.all, "b|c|d|");
    assert_int_equal(client_options(2, argv, "About.", options, 3), CLIENT_USAGE); /* at least one */
}

static void help_wins_over_what_is_missing(void **state) {
    (void)state;
    values v = {0};
    assert_int_equal(parse("--help", &v), CLIENT_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_kinds_of_options_are_stored),
        cmocka_unit_test(wrong_command_lines_are_refused),
        cmocka_unit_test(setters_get_every_value_as_it_was_typed),
        cmocka_unit_test(what_a_setter_refuses_is_a_usage_error),
        cmocka_unit_test(a_repeated_argument_takes_all_that_follow),
        cmocka_unit_test(a_cancelled_call_has_an_exit_code_of_its_own),
        cmocka_unit_test(help_wins_over_what_is_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
