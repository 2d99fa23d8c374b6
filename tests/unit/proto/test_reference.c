/* docs/api.md says what fields.def says. */
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_reference_page_is_up_to_date)};
    return cmocka_run_group_tests_name("proto_reference", tests, NULL, NULL);
}
