/* docs/api.md says what fields.def and the services of consort.proto say. */
#include "wire_test.h"

#include "../reference_page.h"

static void the_reference_page_is_up_to_date(void **state) {
    (void)state;
    char made[8192];
    size_t n = (size_t)snprintf(made, sizeof made, "| field | command line | range | default | |\n|---|---|---|---|---|\n");
    proto_field f;
    for (size_t i = 0; proto_request_field(i, &f); i++)
        n += (size_t)snprintf(made + n, sizeof made - n, "| `%s` | `%s%s%s` | %s | %s | %s |\n", f.name, f.cli,
                              f.value ? " " : "", f.value ? f.value : "", f.range, f.default_text, f.help);
    assert_true(n < sizeof made);
    const char *wrong = page_compare("docs/api.md", made);
    if (wrong) fail_msg("docs/api.md: %s", wrong);
}

#define CALLS_BEGIN "<!-- made from proto/consort.proto; do not edit -->\n"

typedef struct {
    char text[16384];
    size_t n;
} page;

static void add(page *p, const char *text, size_t n) {
    assert_true(p->n + n < sizeof p->text);
    memcpy(p->text + p->n, text, n);
    p->text[p->n += n] = 0;
}

static void add_text(page *p, const char *text) { add(p, text, strlen(text)); }

/* Where a comment begins to tell of errors, as in "NOT_FOUND: there is none"; its end: nowhere. */
static const char *errors_of(const char *comment) {
    for (const char *at = comment; *at; at++) {
        size_t n = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");
        if (n > 8 && at[n] == ':') return at;
    }
    return comment + strlen(comment);
}

/* `rpc Call(Request) returns (stream Reply);` as a row. */
static void add_call(page *out, const char *service, const char *rpc, const page *comment) {
    char call[64], request[64], stream[8] = "", reply[64];
    if (sscanf(rpc, "rpc %63[A-Za-z](%63[A-Za-z]) returns (stream %63[A-Za-z]);", call, request, reply) == 3)
        snprintf(stream, sizeof stream, "stream ");
    else
        assert_int_equal(sscanf(rpc, "rpc %63[A-Za-z](%63[A-Za-z]) returns (%63[A-Za-z]);", call, request, reply), 3);
    char head[512];
    snprintf(head, sizeof head, "| `%s/%s(%s) -> %s%s` | ", service, call, request, stream, reply);
    const char *errors = errors_of(comment->text);
    size_t n = (size_t)(errors - comment->text);
    while (n > 0 && comment->text[n - 1] == ' ') n--;
    assert_true(n > 0); /* each call says what it does */
    add_text(out, head);
    add(out, comment->text, n);
    add_text(out, " | ");
    add_text(out, errors);
    add_text(out, *errors ? "|\n" : " |\n");
}

static void the_page_lists_every_call(void **state) {
    (void)state;
    static page out, comment;
    char service[64] = "";
    uint32_t n_calls = 0, n_rpc = 0;
    char *text = page_read("proto/consort.proto");
    assert_non_null(text);
    for (const char *at = text; (at = strstr(at, "rpc ")); at++) n_rpc++;
    add_text(&out, "| call | | errors |\n|---|---|---|\n");
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const char *begin = line + strspn(line, " ");
        if (!strncmp(begin, "//", 2)) {
            begin += 2 + strspn(begin + 2, " ");
            add_text(&comment, begin);
            if (*begin) add_text(&comment, " ");
            continue;
        }
        (void)sscanf(begin, "service %63[A-Za-z] {", service);
        if (!strncmp(begin, "rpc ", 4)) {
            add_call(&out, service, begin, &comment);
            n_calls++;
        }
        comment = (page){0};
    }
    free(text);
    assert_int_equal(n_calls, n_rpc);
    assert_true(n_calls > 0);
    const char *wrong = page_compare_behind("docs/api.md", CALLS_BEGIN, out.text);
    if (wrong) fail_msg("docs/api.md: %s", wrong);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_reference_page_is_up_to_date),
                                       cmocka_unit_test(the_page_lists_every_call)};
    return cmocka_run_group_tests_name("proto_reference", tests, NULL, NULL);
}
