#include "base/sha256.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* FIPS 180-4 examples. */
static void the_standard_examples_have_the_standard_hashes(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < 3; i++) {
        uint8_t hash[SHA256_BYTES];
        char hex[2 * SHA256_BYTES + 1];
        assert_int_equal(sha256_of(cases[i][0], strlen(cases[i][0]), hash), ST_OK);
        sha256_hex(hash, hex);
        assert_string_equal(hex, cases[i][1]);
    }
}

static void pieces_hash_as_the_whole(void **state) {
    (void)state;
    uint8_t whole[SHA256_BYTES], pieces[SHA256_BYTES];
    sha256 h;
    assert_int_equal(sha256_of("abc", 3, whole), ST_OK);
    sha256_begin(&h);
    sha256_add(&h, "a", 1);
    sha256_add(&h, "bc", 2);
    assert_int_equal(sha256_end(&h, pieces), ST_OK);
    assert_memory_equal(whole, pieces, SHA256_BYTES);
}

static void an_ended_hash_stays_in_error(void **state) {
    (void)state;
    uint8_t hash[SHA256_BYTES], zero[SHA256_BYTES] = {0};
    sha256 h;
    sha256_begin(&h);
    assert_int_equal(sha256_end(&h, hash), ST_OK);
    sha256_add(&h, "a", 1);
    assert_int_equal(sha256_end(&h, hash), ST_FATAL_MEMORY);
    assert_memory_equal(hash, zero, SHA256_BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_standard_examples_have_the_standard_hashes),
        cmocka_unit_test(pieces_hash_as_the_whole),
        cmocka_unit_test(an_ended_hash_stays_in_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
