#include "base/sha256.h"

#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

/* libcrypto fails here only when it cannot allocate, so every failure is ST_FATAL_MEMORY. */
static void drop(sha256 *h) {
    EVP_MD_CTX_free(h->context);
    h->context = NULL;
}

void sha256_begin(sha256 *h) {
    h->context = EVP_MD_CTX_new();
    if (!h->context || !EVP_DigestInit_ex(h->context, EVP_sha256(), NULL)) drop(h);
}

void sha256_add(sha256 *h, const void *bytes, size_t n) {
    if (h->context && !EVP_DigestUpdate(h->context, bytes, n)) drop(h);
}

st_code sha256_end(sha256 *h, uint8_t out[SHA256_BYTES]) {
    bool ok = h->context && EVP_DigestFinal_ex(h->context, out, NULL);
    drop(h);
    if (!ok) memset(out, 0, SHA256_BYTES);
    return ok ? ST_OK : ST_FATAL_MEMORY;
}

st_code sha256_of(const void *bytes, size_t n, uint8_t out[SHA256_BYTES]) {
    sha256 h;
    sha256_begin(&h);
    sha256_add(&h, bytes, n);
    return sha256_end(&h, out);
}

st_code sha256_hmac(const void *key, size_t n_key, const void *bytes, size_t n, uint8_t out[SHA256_BYTES]) {
    unsigned n_out = 0;
    memset(out, 0, SHA256_BYTES);
    if (n_key > INT_MAX || !HMAC(EVP_sha256(), key, (int)n_key, bytes, n, out, &n_out)) return ST_FATAL_MEMORY;
    INVARIANT(n_out == SHA256_BYTES);
    return ST_OK;
}

void sha256_hex(const uint8_t hash[SHA256_BYTES], char out[2 * SHA256_BYTES + 1]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = digits[hash[i] >> 4];
        out[2 * i + 1] = digits[hash[i] & 15];
    }
    out[2 * SHA256_BYTES] = 0;
}
