/* The optional fields of a request, by the rows of fields.def: defaults, ranges, text form.
 *
 * Why a table at run time beside the one at compile time (request.c moves fields to and from protobuf by it): checks, the command
 * line and the reference page walk the same rows, so that no door has a range or a default of its own. */
#include "proto/proto_int.h"

#include "proto/request_int.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { U32, U64, I32, F32, BOOL, TEXT, TEXTS, TOKENS, BIAS } field_kind;
typedef struct {
    const char *name, *help;
    field_kind kind;
    size_t offset, has; /* in proto_request; `has` for U64 only */
    double min, max, value;
} field;

#define HAS_U64(name) offsetof(proto_request, has_##name)
#define HAS_U32(name) 0
#define HAS_I32       HAS_U32
#define HAS_F32       HAS_U32
#define HAS_BOOL      HAS_U32
#define HAS_TEXT      HAS_U32
#define HAS_TEXTS     HAS_U32
#define HAS_TOKENS    HAS_U32
#define HAS_BIAS      HAS_U32
static const field fields[] = {
#define FIELD(name, kind, member, min, max, value, help)                                                                         \
    {#name, help, kind, offsetof(proto_request, member), HAS_##kind(name), min, max, value},
#include "proto/fields.def"
#undef FIELD
};
enum { N_FIELDS = sizeof fields / sizeof fields[0] };

/* Where a row's value lies in `r`: rows are written by name against proto_request, so the type is right. */
static void *place(const field *f, proto_request *r) { return (char *)r + f->offset; }
static const void *value_of(const field *f, const proto_request *r) { return (const char *)r + f->offset; }

static double number_of(const field *f, const proto_request *r) {
    const void *p = value_of(f, r);
    switch (f->kind) {
    case U32: return *(const uint32_t *)p;
    case I32: return *(const int32_t *)p;
    case F32: return (double)*(const float *)p;
    case BOOL: return *(const bool *)p;
    case TOKENS: return r->n_stop_tokens;
    case TEXTS: return r->n_stops;
    case BIAS: return r->n_bias;
    default: return f->min; /* U64: the whole range of its type; TEXT: checked as text */
    }
}

static const char *range_of(const field *f, char *out, size_t n) {
    if (f->kind == U64)
        snprintf(out, n, "0 .. %llu", (unsigned long long)UINT64_MAX);
    else if (f->kind == BOOL)
        snprintf(out, n, "true or false");
    else
        snprintf(out, n, "%.9g .. %.9g%s", f->min, f->max, f->kind == TEXT ? " bytes" : f->kind >= TEXTS ? " of them" : "");
    return out;
}

static st_code check_stops(const proto_request *r, st_error *e) {
    for (uint32_t i = 0; i < r->n_stops; i++) {
        char name[32];
        snprintf(name, sizeof name, "stop[%u]", i);
        st_code code =
            proto_wire_check_text(name, r->stops[i], strlen(r->stops[i]), 1, PROTO_MAX_STOP_BYTES, ST_ERR_INVALID_ARGUMENT, e);
        if (code) return code;
    }
    return ST_OK;
}

static st_code check_bias(const proto_request *r, st_error *e) {
    for (uint32_t i = 0; i < r->n_bias; i++) {
        if (!(fabsf(r->bias[i]) <= PROTO_BIAS_LIMIT))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "logit_bias[%u]: %.9g is outside -%d .. %d", i, (double)r->bias[i],
                           PROTO_BIAS_LIMIT, PROTO_BIAS_LIMIT);
        for (uint32_t k = 0; k < i; k++)
            if (r->bias_token[k] == r->bias_token[i])
                return st_fail(e, ST_ERR_INVALID_ARGUMENT, "logit_bias[%u]: token %u is named twice", i, r->bias_token[i]);
    }
    return ST_OK;
}

static st_code check_field(const field *f, const proto_request *r, st_error *e) {
    char range[48];
    double v = number_of(f, r);
    if (!(v >= f->min && v <= f->max)) /* NaN too */
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: %.9g is outside %s", f->name, v, range_of(f, range, sizeof range));
    if (f->kind == TEXTS) return check_stops(r, e);
    if (f->kind == BIAS) return check_bias(r, e);
    if (f->kind != TEXT) return ST_OK;
    const char *text = value_of(f, r);
    return proto_wire_check_word(f->name, text, strnlen(text, (size_t)f->max + 1), (size_t)f->max, ST_ERR_INVALID_ARGUMENT, e);
}

st_code proto_request_check_fields(const proto_request *r, st_error *e) {
    for (size_t i = 0; i < N_FIELDS; i++) {
        st_code code = check_field(&fields[i], r, e);
        if (code) return code;
    }
    return ST_OK;
}

proto_request proto_request_default(void) {
    proto_request r = {.text = ""};
    for (size_t i = 0; i < N_FIELDS; i++) {
        void *p = place(&fields[i], &r);
        switch (fields[i].kind) {
        case U32: *(uint32_t *)p = (uint32_t)fields[i].value; break;
        case I32: *(int32_t *)p = (int32_t)fields[i].value; break;
        case F32: *(float *)p = (float)fields[i].value; break;
        case BOOL: *(bool *)p = fields[i].value != 0; break;
        default: break; /* absent */
        }
    }
    return r;
}

/* ---- text form ---- */
bool proto_request_field(size_t i, proto_field *out) {
    static const char *const values[] = {[U32] = "N",     [U64] = "N",      [I32] = "N",      [F32] = "X",
                                         [TEXT] = "TEXT", [TEXTS] = "TEXT", [TOKENS] = "IDS", [BIAS] = "ID:BIAS"};
    if (i >= N_FIELDS) return false;
    const field *f = &fields[i];
    *out = (proto_field){.name = f->name, .help = f->help, .value = values[f->kind], .repeats = f->kind == TEXTS};
    range_of(f, out->range, sizeof out->range);
    if (f->kind == U32 || f->kind == I32 || f->kind == F32)
        snprintf(out->default_text, sizeof out->default_text, "%.9g", f->value);
    if (f->kind == BOOL) snprintf(out->default_text, sizeof out->default_text, "%s", f->value != 0 ? "true" : "false");
    snprintf(out->cli, sizeof out->cli, "--%s", f->name);
    for (char *p = out->cli + 2; *p; p++)
        if (*p == '_') *p = '-';
    return true;
}

static const field *find(const char *name) {
    for (size_t i = 0; i < N_FIELDS; i++) {
        const char *a = fields[i].name, *b = name;
        while (*a && (*a == *b || (*a == '_' && *b == '-'))) a++, b++;
        if (!*a && !*b) return &fields[i];
    }
    return NULL;
}

static bool parse_u64(const char *text, const char *end_at, uint64_t max, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return *text >= '0' && *text <= '9' && (*end_at ? *end == '\0' || *end == *end_at : !*end) && !errno && v <= max;
}

static bool parse_i32(const char *text, int32_t *out) {
    uint64_t size;
    bool negative = *text == '-';
    if (!parse_u64(text + negative, "", INT32_MAX, &size)) return false;
    *out = negative ? -(int32_t)size : (int32_t)size;
    return true;
}

/* "1,2,3" */
static bool parse_ids(const char *text, arena *a, proto_request *r, bool *full) {
    uint32_t n = 1;
    for (const char *p = text; *p; p++) n += *p == ',';
    if (!*text) n = 0;
    uint32_t *ids = n <= PROTO_MAX_STOP_TOKENS ? arena_alloc(a, n, sizeof *ids) : NULL;
    *full = n <= PROTO_MAX_STOP_TOKENS && !ids;
    r->n_stop_tokens = n; /* too many: check_field says so */
    for (uint32_t i = 0; ids && i < n; i++, text = strchr(text, ',') ? strchr(text, ',') + 1 : "") {
        uint64_t id;
        if (!parse_u64(text, ",", UINT32_MAX, &id)) return false;
        ids[i] = (uint32_t)id;
    }
    r->stop_tokens = ids;
    return true;
}

/* "11:-100,13:2.5" */
static bool parse_bias(const char *text, arena *a, proto_request *r, bool *full) {
    uint32_t n = *text != 0;
    for (const char *p = text; *p; p++) n += *p == ',';
    bool fits = n <= PROTO_MAX_BIAS;
    uint32_t *token = fits ? arena_alloc(a, n, sizeof *token) : NULL;
    float *bias = fits ? arena_alloc(a, n, sizeof *bias) : NULL;
    *full = fits && (!token || !bias);
    r->n_bias = n; /* too many: check_field says so */
    for (uint32_t i = 0; token && bias && i < n; i++) {
        uint64_t id;
        if (!parse_u64(text, ":", UINT32_MAX, &id) || !(text = strchr(text, ':')) || text[1] <= ' ') return false;
        char *end;
        token[i] = (uint32_t)id;
        bias[i] = strtof(text + 1, &end);
        if (end == text + 1 || (*end && *end != ',')) return false;
        text = *end ? end + 1 : end;
    }
    r->bias_token = token;
    r->bias = bias;
    return true;
}

/* Copies text into a TEXT row's array and cuts it one byte past its maximum, so that the check refuses what is too long. */
static void set_text(const field *f, proto_request *r, const char *value) {
    snprintf(place(f, r), (size_t)f->max + 1, "%s", value);
}

/* False: `value` has not the form of the row's kind. */
static bool parse(const field *f, const char *value, arena *a, proto_request *r, bool *full) {
    void *p = place(f, r);
    uint64_t u;
    char *end;
    switch (f->kind) {
    case U32:
        if (!parse_u64(value, "", UINT32_MAX, &u)) return false;
        *(uint32_t *)p = (uint32_t)u;
        return true;
    case I32: return parse_i32(value, p);
    case U64: *((bool *)((char *)r + f->has)) = true; return parse_u64(value, "", UINT64_MAX, p);
    case F32: *(float *)p = strtof(value, &end); return *value > ' ' && !*end;
    case BOOL: *(bool *)p = strcmp(value, "false") != 0; return !*value || !strcmp(value, "true") || !strcmp(value, "false");
    case TEXT: set_text(f, r, value); return true;
    case TEXTS:
        if (r->n_stops < PROTO_MAX_STOPS) r->stops[r->n_stops] = value;
        r->n_stops++;
        return true;
    case TOKENS: return parse_ids(value, a, r, full);
    case BIAS: return parse_bias(value, a, r, full);
    }
    return false;
}

st_code proto_request_set(proto_request *r, const char *name, const char *value, arena *a, st_error *e) {
    const field *f = find(name);
    if (!f) return st_fail(e, ST_ERR_NOT_FOUND, "%s: no such field of a request", name);
    proto_request changed = *r; /* so that a refused value leaves `r` as it was */
    bool full = false;
    if (f->kind == TEXT && strlen(value) > (size_t)f->max)
        return proto_wire_check_word(f->name, value, strlen(value), (size_t)f->max, ST_ERR_INVALID_ARGUMENT, e);
    if (!parse(f, value, a, &changed, &full)) {
        char range[48];
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: '%.64s': expected %s%s", f->name, value,
                       f->kind == BOOL     ? ""
                       : f->kind == F32    ? "a number, "
                       : f->kind == TOKENS ? "token ids, "
                       : f->kind == BIAS   ? "ID:BIAS pairs, "
                                           : "a whole number, ",
                       range_of(f, range, sizeof range));
    }
    if (full) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory left", f->name);
    st_code code = check_field(f, &changed, e);
    if (!code) *r = changed;
    return code;
}
