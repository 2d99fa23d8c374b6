/* SHA-256 (FIPS 180-4), computed by libcrypto.
 *
 *     sha256 h;  sha256_begin(&h);  sha256_add(&h, bytes, n); ...  code = sha256_end(&h, out);
 *
 * An error sticks: it is asked for once, at the end, which also frees what begin took. One thread at a time. */
#ifndef CONSORT_BASE_SHA256_H
#define CONSORT_BASE_SHA256_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32 };

typedef struct {
    void *context; /* EVP_MD_CTX; NULL after an error */
} sha256;

void sha256_begin(sha256 *h);
void sha256_add(sha256 *h, const void *bytes, size_t n);
ST_CHECKED st_code sha256_end(sha256 *h, uint8_t out[SHA256_BYTES]); /* ST_FATAL_MEMORY; `out` is zeroed then */
ST_CHECKED st_code sha256_of(const void *bytes, size_t n, uint8_t out[SHA256_BYTES]);
/* HMAC-SHA256 (RFC 2104): who makes it knows the key. Errors: ST_FATAL_MEMORY; `out` is zeroed then. */
ST_CHECKED st_code sha256_hmac(const void *key, size_t n_key, const void *bytes, size_t n, uint8_t out[SHA256_BYTES]);
void sha256_hex(const uint8_t hash[SHA256_BYTES], char out[2 * SHA256_BYTES + 1]); /* lower case, NUL-terminated */

#endif
