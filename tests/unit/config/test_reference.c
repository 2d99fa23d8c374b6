/* docs/configuration.md says what topology.def and group.def say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "../reference_page.h"
#include "config/config.h"

static void the_reference_page_is_up_to_date(void **state) {
    (void)state;
    char made[8192];
    size_t n = (size_t)snprintf(made, sizeof made, "| key | values | default | |\n|---|---|---|---|\n");
    config_key k;
    for (size_t i = 0; config_key_at(i, &k); i++) {
        char values[80] = "";
        for (const char *p = k.range; *p; p++) snprintf(values + strlen(values), 3, *p == '|' ? "\\|" : "%c", *p);
        n += (size_t)snprintf(made + n, sizeof made - n, "| `%s%s` | %s%s%s | %s | %s |\n", k.in_group ? "groups[]." : "", k.name,
                              values, k.unit[0] ? " " : "", k.unit,
                              !k.value     ? "(needed)"
                              : k.value[0] ? k.value
                                           : "(empty)",
                              k.help);
    }
    assert_true(n < sizeof made);
    const char *wrong = page_compare("docs/configuration.md", made);
    if (wrong) fail_msg("docs/configuration.md: %s", wrong);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_reference_page_is_up_to_date)};
    return cmocka_run_group_tests_name("config_reference", tests, NULL, NULL);
}
