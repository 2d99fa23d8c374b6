/* consort, the command for people: finds the verb and calls it. */
#include "client/client_int.h"

#include <string.h>

typedef int verb_function(int argc, char **argv);

static const struct {
    const char *name, *help;
    verb_function *run;
} verbs[] = {
#define VERB(name, help) {#name, help, client_##name},
#include "client/verbs.def"
#undef VERB
    {0},
};

/* A name in C has underscores where people type dashes. */
static bool same_verb(const char *name, const char *typed) {
    for (; *name && *typed; name++, typed++)
        if (*typed != (*name == '_' ? '-' : *name)) return false;
    return *name == *typed;
}

static int usage(FILE *to) {
    fprintf(to, "Usage: consort VERB [OPTIONS]     (consort VERB --help tells a verb's options)\n\n");
    for (size_t i = 0; verbs[i].name; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s", verbs[i].name);
        for (char *p = name; *p; p++)
            if (*p == '_') *p = '-';
        fprintf(to, "  %-14s %s\n", name, verbs[i].help);
    }
    return to == stdout ? CLIENT_OK : CLIENT_USAGE;
}

static int run(int argc, char **argv) {
    if (argc < 2) return usage(stderr);
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) return usage(stdout);
    if (!strcmp(argv[1], "--version")) return printf("consort %s\n", CONSORT_VERSION), CLIENT_OK;
    for (size_t i = 0; verbs[i].name; i++)
        if (same_verb(verbs[i].name, argv[1])) return verbs[i].run(argc - 1, argv + 1);
    fprintf(stderr, "consort: no verb '%s'\n\n", argv[1]);
    return usage(stderr);
}

int main(int argc, char **argv) {
    int rc = run(argc, argv);
    if (rc || !(fflush(stdout) | ferror(stdout))) return rc;
    fprintf(stderr, "consort: standard output could not be written\n"); /* a full disk, a closed pipe: the result is not whole */
    return CLIENT_FAILED;
}
