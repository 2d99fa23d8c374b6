/* client: what the verbs of `consort` share: their table, their options, JSON lines.
 *
 * Nouns: a verb (one file cmd_*.c, one row in verbs.def) and an option. A verb declares its options in a table, from which both
 * parsing and `--help` are made. Messages go to standard error, results to standard output. One thread. */
#ifndef CONSORT_CLIENT_INT_H
#define CONSORT_CLIENT_INT_H

#include "base/status.h"
#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

/* Exit codes. INTERRUPTED: a signal cancelled the call. CLIENT_GO_ON is none: the verb may start its work. */
enum { CLIENT_OK = 0, CLIENT_FAILED = 1, CLIENT_USAGE = 2, CLIENT_INTERRUPTED = 130, CLIENT_GO_ON = -1 };

/* argv[0] is the verb. Returns the exit code. */
#define VERB(name, help) int client_##name(int argc, char **argv);
#include "client/verbs.def"
#undef VERB

typedef enum {
    CLIENT_FLAG, /* bool: set to true */
    CLIENT_TEXT, /* const char *: view of argv */
    CLIENT_U32,
    CLIENT_U64,
    CLIENT_F64,
    CLIENT_SET,      /* client_setter: gets the text; may be given several times */
    CLIENT_SET_FLAG, /* client_setter: gets "" */
} client_kind;

/* Stores an option elsewhere; `name` is the option's, without its dashes. Errors: the message says what is wrong with the value.
 */
typedef struct {
    st_code (*set)(void *context, const char *name, const char *value, st_error *e);
    void *context;
} client_setter;

typedef struct {
    const char *name; /* "--model", or "FILE" (no dashes) for a positional argument, in the order of the table; "FILE...": all
                         that follow, each to a CLIENT_SET */
    client_kind kind;
    void *out;         /* the default lies here before client_options() */
    const char *value; /* what --help calls the value ("F"); NULL for flags and positional arguments */
    const char *help;
    bool required;
} client_option;

/* Parses `--name value`, `--name=value` and positional arguments. Returns CLIENT_GO_ON, or the exit code to return at once:
 * --help was printed (CLIENT_OK), or the command line is wrong and was told so (CLIENT_USAGE). */
int client_options(int argc, char **argv, const char *about, const client_option *options, size_t n_options);

/* Prints "consort VERB: message"; returns CLIENT_FAILED, or CLIENT_INTERRUPTED if the code is ST_ERR_CANCELLED. */
int client_fail(const char *verb, const st_error *e);

/* For each line of `in`, a JSON object: `answer` makes the object that is printed as one line (new reference), or returns NULL
 * with `e` filled, which ends the run with the line's number in the message. Empty lines are skipped. Returns the exit code. */
typedef json_t *client_answer(void *context, const json_t *line, st_error *e);
int client_json_lines(const char *verb, FILE *in, client_answer *answer, void *context);

#endif
