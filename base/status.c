#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *text;
    int grpc;
} codes[ST_N_CODES] = {
#define ST(name, grpc, text) {#name, text, grpc},
#include "base/status.def"
#undef ST
};

st_code st_fail(st_error *e, st_code code, const char *format, ...) {
    if (e) {
        va_list args;
        va_start(args, format);
        e->code = code;
        vsnprintf(e->message, sizeof e->message, format, args);
        va_end(args);
    }
    return code;
}

st_code st_prefix(st_error *e, const char *format, ...) {
    char head[ST_MESSAGE_BYTES], old[ST_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(head, sizeof head, format, args);
    va_end(args);
    memcpy(old, e->message, sizeof old);
    size_t n = strlen(head), room = sizeof e->message - 1;
    snprintf(head + n, sizeof head - n, ": ");
    n = strlen(head);
    size_t n_old = strlen(old) < room - n ? strlen(old) : room - n;
    memcpy(e->message, head, n);
    memcpy(e->message + n, old, n_old);
    e->message[n + n_old] = 0;
    return e->code;
}

const char *st_name(st_code code) { return (unsigned)code < ST_N_CODES ? codes[code].name : "ERR_UNKNOWN"; }
const char *st_text(st_code code) { return (unsigned)code < ST_N_CODES ? codes[code].text : "unknown status"; }
int st_grpc(st_code code) { return (unsigned)code < ST_N_CODES ? codes[code].grpc : 2; }

_Noreturn void st_abort(const char *file, int line, const char *condition) {
    fprintf(stderr, "consort: %s:%d: invariant broken: %s\n", file, line, condition);
    abort();
}
