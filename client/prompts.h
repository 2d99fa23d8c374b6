/* prompts: texts to ask, from files of JSON lines {"id", "domain", "prompt"}; id and domain may be absent.
 *
 * Nouns: a prompt, a group (those of one file), a domain. The name of a file without .jsonl is the domain of its lines that name
 * none, and its line number their id. Files are read in the order of their names. One thread. */
#ifndef CONSORT_CLIENT_PROMPTS_H
#define CONSORT_CLIENT_PROMPTS_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum {
    PROMPTS_MAX = 1 << 20,             /* prompts: memory for a folder of anything */
    PROMPTS_MAX_FILES = 64,            /* used files of a folder */
    PROMPTS_MAX_LINE_BYTES = 8 << 20,  /* a file that is one long line */
    PROMPTS_MAX_ALL_BYTES = 256 << 20, /* of all files */
    PROMPTS_MAX_DOMAINS = 64,
    PROMPTS_MAX_NAME_BYTES = 128, /* of an id, of a domain */
};

typedef struct {
    char *id, *text; /* owned */
    uint32_t domain;
} prompts_item;

typedef struct {
    prompts_item *items; /* [n] */
    uint32_t n, room, n_files, n_domains;
    uint32_t first[PROMPTS_MAX_FILES + 1]; /* file i has the prompts first[i] .. first[i + 1] - 1, at least one */
    char *files[PROMPTS_MAX_FILES], *domains[PROMPTS_MAX_DOMAINS]; /* names, owned */
    size_t bytes;
} prompts;

/* path: a folder, of which each *.jsonl is read, or a file. domains: NULL, or names with commas between, each of which must be
 * found: of a folder only the files of these names (without .jsonl), of a file only the lines of these domains. Errors: what is
 * wrong, with file and line. `out` is zeroed by the caller and deinitialized by it, after an error too. */
ST_CHECKED st_code prompts_read(prompts *out, const char *path, const char *domains, st_error *e);
void prompts_deinit(prompts *p);

#endif
