/* Files of prompts: what is taken, in which order, and what is refused. */
#include "client/prompts.h"

#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64];
static const char *const NAMES[] = {"code.jsonl", "math.jsonl", "empty.jsonl", "notes.txt", ".hidden.jsonl"};

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *name, const char *text, size_t n) {
    FILE *f = fopen(path_of(name), "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

static int set_up(void **state) {
    (void)state;
    const char *in = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/consort-prompts-XXXXXX", in && strlen(in) < 32 ? in : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) (void)unlink(path_of(NAMES[i]));
    return rmdir(folder);
}

static void a_folder_is_read_file_by_file(void **state) {
    prompts p = {0};
    st_error e = {0};
    (void)state;
    write_text("math.jsonl", "{\"id\": \"m1\", \"domain\": \"sums\", \"prompt\": \"1 + 1?\"}\n\n{\"prompt\": \"2 + 2?\"}");
    write_text("code.jsonl", "{\"id\": \"c1\", \"prompt\": \"Sort.\", \"other\": 1}\n");
    write_text("empty.jsonl", "\n  \n");
    write_text("notes.txt", "not JSON");
    write_text(".hidden.jsonl", "not JSON");
    assert_int_equal(prompts_read(&p, folder, NULL, &e), ST_OK);
    assert_int_equal(p.n, 3);
    assert_int_equal(p.n_files, 2);
    assert_true(p.first[0] == 0 && p.first[1] == 1 && p.first[2] == 3);
    assert_string_equal(p.files[0], "code");
    assert_string_equal(p.items[0].text, "Sort.");
    assert_string_equal(p.domains[p.items[0].domain], "code");
    assert_string_equal(p.items[1].id, "m1");
    assert_string_equal(p.domains[p.items[1].domain], "sums");
    assert_string_equal(p.items[2].id, "3"); /* its line */
    assert_string_equal(p.domains[p.items[2].domain], "math");
    prompts_deinit(&p);
}

static void domains_choose_files_of_a_folder_and_lines_of_a_file(void **state) {
    prompts p = {0};
    st_error e = {0};
    (void)state;
    write_text("math.jsonl", "{\"domain\": \"sums\", \"prompt\": \"a\"}\n{\"domain\": \"sets\", \"prompt\": \"b\"}\n");
    write_text("code.jsonl", "{\"domain\": \"sums\", \"prompt\": \"c\"}\n");
    assert_int_equal(prompts_read(&p, folder, "math", &e), ST_OK);
    assert_true(p.n == 2 && p.n_files == 1);
    prompts_deinit(&p);
    assert_int_equal(prompts_read(&p, path_of("math.jsonl"), "logic,sets", &e), ST_ERR_NOT_FOUND);
    assert_non_null(strstr(e.message, "'logic'"));
    prompts_deinit(&p);
    assert_int_equal(prompts_read(&p, path_of("math.jsonl"), "sets", &e), ST_OK);
    assert_true(p.n == 1 && !strcmp(p.items[0].text, "b"));
    prompts_deinit(&p);
    assert_int_equal(prompts_read(&p, folder, "math,sums", &e), ST_ERR_NOT_FOUND);
    prompts_deinit(&p);
}

static void what_is_wrong_is_told_with_file_and_line(void **state) {
    static const struct {
        const char *line, *says;
    } cases[] = {{"{", "JSON"},
                 {"[1]", "object"},
                 {"{\"id\": \"x\"}", "prompt"},
                 {"{\"prompt\": 3}", "prompt"},
                 {"{\"prompt\": \"\"}", "prompt: 0 bytes"},
                 {"{\"prompt\": \"a\\u0000b\"}", "JSON"},
                 {"{\"prompt\": \"a\", \"id\": 7}", "id"},
                 {"{\"prompt\": \"\xff\"}", "JSON"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        prompts p = {0};
        st_error e = {0};
        snprintf(text, sizeof text, "{\"prompt\": \"good\"}\n%s\n", cases[i].line);
        write_text("code.jsonl", text);
        assert_int_not_equal(prompts_read(&p, path_of("code.jsonl"), NULL, &e), ST_OK);
        if (!strstr(e.message, "code.jsonl, line 2: ") || !strstr(e.message, cases[i].says)) fail_msg("%s", e.message);
        prompts_deinit(&p);
    }
    prompts p = {0};
    st_error e = {0};
    write_text("code.jsonl", "\n");
    assert_int_equal(prompts_read(&p, path_of("code.jsonl"), NULL, &e), ST_ERR_NOT_FOUND);
    prompts_deinit(&p);
    assert_int_equal(prompts_read(&p, path_of("none.jsonl"), NULL, &e), ST_ERR_IO);
    assert_non_null(strstr(e.message, "none.jsonl"));
    prompts_deinit(&p);
}

static void long_lines_and_names_are_refused(void **state) {
    enum { ROOM = PROMPTS_MAX_LINE_BYTES + 64 };
    char *text = mem_alloc(ROOM, 1);
    (void)state;
    for (size_t over = 0; over < 2; over++) { /* blanks: at the limit, and one over it */
        prompts p = {0};
        st_error e = {0};
        size_t n = PROMPTS_MAX_LINE_BYTES + over;
        memset(text, ' ', n);
        memcpy(text, "{\"prompt\": \"a\"}", 15);
        write_file("code.jsonl", text, n);
        assert_int_equal(prompts_read(&p, path_of("code.jsonl"), NULL, &e), over ? ST_ERR_FORMAT : ST_OK);
        prompts_deinit(&p);
    }
    for (int over = 0; over < 2; over++) {
        prompts p = {0};
        st_error e = {0};
        snprintf(text, ROOM, "{\"prompt\": \"a\", \"id\": \"%0*d\"}", PROMPTS_MAX_NAME_BYTES + over, 1);
        write_text("code.jsonl", text);
        assert_int_equal(prompts_read(&p, path_of("code.jsonl"), NULL, &e), over ? ST_ERR_INVALID_ARGUMENT : ST_OK);
        prompts_deinit(&p);
    }
    mem_free(text);
}

static void memory_that_runs_out_is_an_error(void **state) {
    (void)state;
    write_text("math.jsonl", "{\"prompt\": \"a\"}\n");
    write_text("code.jsonl", "{\"prompt\": \"b\"}\n");
    st_code code = ST_FATAL_MEMORY;
    for (uint64_t n = 1; code; n++) {
        prompts p = {0};
        st_error e = {0};
        (void)mem_fail_at(n);
        code = prompts_read(&p, folder, "code,math", &e);
        (void)mem_fail_at(0);
        if (code) assert_int_equal(code, ST_FATAL_MEMORY);
        for (uint32_t i = 0; !code && i < p.n; i++) assert_true(p.items[i].id && p.items[i].text);
        prompts_deinit(&p);
        assert_true(n < 100);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folder_is_read_file_by_file),
        cmocka_unit_test(domains_choose_files_of_a_folder_and_lines_of_a_file),
        cmocka_unit_test(what_is_wrong_is_told_with_file_and_line),
        cmocka_unit_test(long_lines_and_names_are_refused),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
