#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/philox.h"

/* Known answers of Random123 1.09 (tests/kat_vectors, "philox4x32 10"). */
static void known_answers_are_given(void **state) {
    (void)state;
    static const struct {
        uint64_t key;
        philox_block counter, out;
    } cases[] = {
        {0, {{0, 0, 0, 0}}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}},
        {UINT64_MAX, {{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}}, {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}},
        {UINT64_C(0x299f31d0a4093822),
         {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
         {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        philox_block got = philox(cases[i].key, cases[i].counter);
        assert_memory_equal(&got, &cases[i].out, sizeof got);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_answers_are_given)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
