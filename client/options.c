/* Command lines and JSON lines, the same way in every verb.
 *
 * Why not getopt_long: the table that declares an option also prints its help, checks its number and stores it, so that the three
 * cannot drift apart. No short options and no abbreviations: scripts outlive abbreviations. */
#include "client/client_int.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static bool is_positional(const client_option *o) { return o->name[0] != '-'; }
static bool is_repeated(const client_option *o) { return strlen(o->name) > 3 && !strcmp(o->name + strlen(o->name) - 3, "..."); }

static int help(const char *verb, const char *about, const client_option *options, size_t n) {
    printf("Usage: consort %s", verb);
    for (size_t i = 0; i < n; i++) {
        const client_option *o = &options[i];
        printf(o->required ? " %s%s%s" : " [%s%s%s]", o->name, o->value ? " " : "", o->value ? o->value : "");
    }
    printf("\n\n%s\n\n", about);
    for (size_t i = 0; i < n; i++) {
        char left[64];
        snprintf(left, sizeof left, "%s%s%s", options[i].name, options[i].value ? " " : "",
                 options[i].value ? options[i].value : "");
        printf("  %-22s %s\n", left, options[i].help);
    }
    return CLIENT_OK;
}

static bool unsigned_value(const char *text, uint64_t max, uint64_t *out) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    *out = v;
    return *text >= '0' && *text <= '9' && !*end && !errno && v <= max;
}

static bool is_flag(const client_option *o) { return o->kind == CLIENT_FLAG || o->kind == CLIENT_SET_FLAG; }

/* Stores `text`; returns what was expected if it is not that. `e` holds the text where a setter said it. */
static const char *store(const client_option *o, const char *text, st_error *e) {
    const client_setter *setter = o->out;
    uint64_t u;
    char *end;
    switch (o->kind) {
    case CLIENT_FLAG: *(bool *)o->out = true; return NULL;
    case CLIENT_TEXT: *(const char **)o->out = text; return NULL;
    case CLIENT_U32:
        if (!unsigned_value(text, UINT32_MAX - 1, &u)) return "a whole number from 0 to 4294967294"; /* verbs: not given */
        *(uint32_t *)o->out = (uint32_t)u;
        return NULL;
    case CLIENT_U64:
        if (!unsigned_value(text, UINT64_MAX, &u)) return "a whole number from 0 to 18446744073709551615";
        *(uint64_t *)o->out = u;
        return NULL;
    case CLIENT_SET:
    case CLIENT_SET_FLAG: return setter->set(setter->context, o->name + 2, text, e) ? e->message : NULL;
    case CLIENT_F64:
        *(double *)o->out = strtod(text, &end);
        return !*text || *end || !isfinite(*(double *)o->out) ? "a number" : NULL;
    }
    return "a known kind of option";
}

static const client_option *find(const client_option *options, size_t n, const char *arg, size_t *n_positional) {
    bool dashed = arg[0] == '-' && arg[1];
    size_t length = strcspn(arg, "="), positional = 0;
    for (size_t i = 0; i < n; i++) {
        if (!dashed && is_positional(&options[i]) && (positional++ == *n_positional || is_repeated(&options[i])))
            return (*n_positional)++, &options[i];
        if (dashed && strlen(options[i].name) == length && !strncmp(options[i].name, arg, length)) return &options[i];
    }
    return NULL;
}

int client_options(int argc, char **argv, const char *about, const client_option *options, size_t n) {
    size_t n_positional = 0;
    st_error e = {0};
    uint64_t seen = 0; /* bit i: option i was given */
    INVARIANT(n <= 64);
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return help(argv[0], about, options, n);
        const client_option *o = find(options, n, argv[i], &n_positional);
        if (!o) {
            fprintf(stderr, "consort %s: unexpected argument '%s' (consort %s --help)\n", argv[0], argv[i], argv[0]);
            return CLIENT_USAGE;
        }
        const char *value = is_positional(o) ? argv[i] : strchr(argv[i], '=');
        if (!is_positional(o)) value = value ? value + 1 : is_flag(o) ? "" : ++i < argc ? argv[i] : NULL;
        const char *expected = !value ? "a value" : is_flag(o) && *value ? "no value" : store(o, value, &e);
        if (expected == e.message) {
            fprintf(stderr, "consort %s: %s\n", argv[0], e.message);
            return CLIENT_USAGE;
        }
        if (expected) {
            fprintf(stderr, "consort %s: %s %s: expected %s\n", argv[0], o->name, value ? value : "", expected);
            return CLIENT_USAGE;
        }
        seen |= UINT64_C(1) << (o - options);
    }
    for (size_t i = 0; i < n; i++)
        if (options[i].required && !(seen >> i & 1)) {
            fprintf(stderr, "consort %s: %s is missing (consort %s --help)\n", argv[0], options[i].name, argv[0]);
            return CLIENT_USAGE;
        }
    return CLIENT_GO_ON;
}

int client_fail(const char *verb, const st_error *e) {
    fprintf(stderr, "consort %s: %s\n", verb, e->message);
    return e->code == ST_ERR_CANCELLED ? CLIENT_INTERRUPTED : CLIENT_FAILED;
}

static int answer_line(const char *text, size_t size, client_answer *answer, void *context, st_error *e) {
    json_error_t je;
    json_t *line = json_loadb(text, size, JSON_ALLOW_NUL, &je), *out = NULL;
    if (!line || !json_is_object(line))
        (void)st_fail(e, ST_ERR_FORMAT, "expected a JSON object: %s", line ? "found another value" : je.text);
    else
        out = answer(context, line, e);
    bool ok = out && !json_dumpf(out, stdout, JSON_COMPACT) && putchar('\n') != EOF;
    if (out && !ok) (void)st_fail(e, ST_ERR_IO, "standard output: %s", strerror(errno));
    json_decref(out);
    json_decref(line);
    return ok ? CLIENT_OK : CLIENT_FAILED;
}

int client_json_lines(const char *verb, FILE *in, client_answer *answer, void *context) {
    char *text = NULL;
    size_t room = 0, number = 0;
    int rc = CLIENT_OK;
    st_error e = {0};
    for (ssize_t size; rc == CLIENT_OK && (size = getline(&text, &room, in)) >= 0;) {
        number++;
        if (strspn(text, " \t\r\n") == (size_t)size) continue;
        rc = answer_line(text, (size_t)size, answer, context, &e);
    }
    free(text); /* getline's */
    if (rc == CLIENT_OK && ferror(in)) rc = (int)st_fail(&e, ST_ERR_IO, "standard input: %s", strerror(errno));
    if (rc == CLIENT_OK) return rc;
    (void)st_prefix(&e, "line %zu", number);
    return client_fail(verb, &e);
}
