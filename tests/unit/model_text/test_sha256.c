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

/* RFC 4231, test cases 1, 2, 3 and 6: a short key, text, 0xaa and 0xdd, and a key longer than a block. */
static void the_standard_keys_give_the_standard_tags(void **state) {
    (void)state;
    uint8_t ones[20], aa[131], dd[50], tag[SHA256_BYTES];
    char hex[2 * SHA256_BYTES + 1];
    memset(ones, 0x0b, sizeof ones), memset(aa, 0xaa, sizeof aa), memset(dd, 0xdd, sizeof dd);
    static const char long_key[] = "Test Using Larger Than Block-Size Key - Hash Key First";
    const struct {
        const void *key;
        size_t n_key;
        const void *text;
        size_t n;
        const char *tag;
    } cases[] = {
        {ones, 20, "Hi There", 8, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {"Jefe", 4, "what do ya want for nothing?", 28, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {aa, 20, dd, 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {aa, 131, long_key, sizeof long_key - 1, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(sha256_hmac(cases[i].key, cases[i].n_key, cases[i].text, cases[i].n, tag), ST_OK);
        sha256_hex(tag, hex);
        assert_string_equal(hex, cases[i].tag);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_standard_examples_have_the_standard_hashes),
        cmocka_unit_test(pieces_hash_as_the_whole),
        cmocka_unit_test(an_ended_hash_stays_in_error),
        cmocka_unit_test(the_standard_keys_give_the_standard_tags),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
