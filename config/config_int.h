/* config_int: the loader without the file system, for tests and fuzzing, and for config_load itself.
 *
 * Noun: a raw topology (every key a string or NULL), which yaml.c makes of the text and topology.c checks. Any thread. */
#ifndef CONSORT_CONFIG_INT_H
#define CONSORT_CONFIG_INT_H

#include "config/config.h"

/* As config_load; `name` stands for the file in messages. */
ST_CHECKED st_code config_load_bytes(const char *name, const uint8_t *bytes, size_t n, config_topology **out, st_error *e);

/* libcyaml's and libyaml's part (yaml.c): text to raw strings, by the keys of the two .def files. A key that is absent is NULL.
 */
typedef struct {
#define ENUM(name, ...)   char *name;
#define TEXT(name, ...)   char *name;
#define CHOICE(name, ...) char *name;
#define NUMBER(name, ...) char *name;
#include "config/group.def"
} config_raw_group;
typedef struct {
#include "config/topology.def"
#undef ENUM
#undef TEXT
#undef CHOICE
#undef NUMBER
    config_raw_group *groups; /* [n_groups] */
    uint32_t n_groups;
} config_raw;

/* Errors: ST_ERR_FORMAT (name:line: what), ST_FATAL_MEMORY. *out: config_raw_destroy; never NULL on success. */
ST_CHECKED st_code config_raw_load(const char *name, const uint8_t *bytes, size_t n, config_raw **out, st_error *e);
void config_raw_destroy(config_raw *r); /* NULL-safe */

#endif
