/* Status: the one way in which Consort says that something went wrong.
 *
 * Nouns: a code (st_code; 0 is success, codes from ST_FATAL_MEMORY on are fatal to their object) and an error (st_error:
 * code and a message for people: what, where, expected, found). Every function that can fail returns the code, which must be
 * used; functions whose failure a person has to understand also fill an st_error owned by the caller. Libraries never exit. */
#ifndef CONSORT_BASE_STATUS_H
#define CONSORT_BASE_STATUS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
#define ST(name, grpc, text) ST_##name,
#include "base/status.def"
#undef ST
    ST_N_CODES
} st_code;

#define ST_CHECKED       __attribute__((warn_unused_result))
#define ST_PRINTF(f, a)  __attribute__((format(printf, f, a)))
#define ST_MESSAGE_BYTES 1024

typedef struct {
    st_code code;
    char message[ST_MESSAGE_BYTES]; /* NUL-terminated, cut if longer */
} st_error;

/* Fills `e` (may be NULL) and returns `code`: `return st_fail(e, ST_ERR_FORMAT, "%s: ...", path);` */
st_code st_fail(st_error *e, st_code code, const char *format, ...) ST_PRINTF(3, 4);

/* Puts "prefix: " before the message of `e` and returns its code; for callers that know the file or field. */
st_code st_prefix(st_error *e, const char *format, ...) ST_PRINTF(2, 3);

const char *st_name(st_code code); /* "ERR_FORMAT"; static */
const char *st_text(st_code code); /* "malformed input"; static */
int st_grpc(st_code code);         /* gRPC status code, https://grpc.io/docs/guides/status-codes */
static inline bool st_is_fatal(st_code code) { return code >= ST_FATAL_MEMORY; }

/* INVARIANT is always on: prints file, line and the condition and aborts. Never for input: a bad input is a status.
 * DCHECK is the same in debug builds and nothing in release builds. */
#define INVARIANT(cond) ((cond) ? (void)0 : st_abort(__FILE__, __LINE__, #cond))
#ifdef CONSORT_DEBUG
#define DCHECK(cond) INVARIANT(cond)
#else
#define DCHECK(cond) ((void)sizeof(cond))
#endif
_Noreturn void st_abort(const char *file, int line, const char *condition);

#endif
