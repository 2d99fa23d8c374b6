/* YAML to raw strings: libcyaml by a schema made from the .def files.
 *
 * Why all values are strings to libcyaml: its numbers take "3x" for 3 and -1 for 2^64 - 1, and it has no defaults; topology.c
 * reads them strictly, by the same rows. Why libyaml runs first: libcyaml tells a syntax error without its line, and reads the
 * first of several documents. libcyaml names places by log lines only, so these are caught and read (note_log). Limits: aliases
 * are refused, since nothing here needs them and nested ones multiply. */
#include "config/config_int.h"

#include "base/mem.h"
#include <cyaml/cyaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_TEXT_BYTES = 1024, MAX_GROUPS = 1024 };

#define TEXT(name, ...) CYAML_FIELD_STRING_PTR(#name, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, OF, name, 0, MAX_TEXT_BYTES),
#define ENUM            TEXT
#define CHOICE          TEXT
#define NUMBER          TEXT
#define OF              config_raw_group
static const cyaml_schema_field_t group_fields[] = {
#include "config/group.def"
    CYAML_FIELD_END};
static const cyaml_schema_value_t group_schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, config_raw_group, group_fields)};
#undef OF
#define OF config_raw
static const cyaml_schema_field_t topology_fields[] = {
#include "config/topology.def"
    CYAML_FIELD_SEQUENCE_COUNT("groups", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, config_raw, groups, n_groups, &group_schema, 0,
                               MAX_GROUPS),
    CYAML_FIELD_END};
static const cyaml_schema_value_t topology_schema = {CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, config_raw, topology_fields)};

/* ---- what libcyaml says ---- */
typedef struct {
    char what[256]; /* the first message */
    char field[64]; /* innermost field of the backtrace; empty: none */
    size_t line, column;
    bool in_group;
} complaint;

/* "Load: Unexpected key: foo\n", "Load: Backtrace:\n", "  in mapping field 'tp' (line: 2, column: 9)\n", ... outwards */
static void note_log(cyaml_log_t level, void *context, const char *format, va_list args) {
    complaint *c = context;
    char text[sizeof c->what];
    (void)level;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = 0;
    const char *message = strncmp(text, "Load: ", 6) ? text : text + 6;
    if (!c->what[0]) {
        memcpy(c->what, message, strlen(message) + 1);
        return;
    }
    const char *in = strstr(text, "in mapping field '"), *at = strstr(text, "(line: ");
    c->in_group |= strstr(text, "in sequence entry") != NULL;
    if (at && !c->line) {
        char *end;
        c->line = strtoul(at + strlen("(line: "), &end, 10);
        if (!strncmp(end, ", column: ", 10)) c->column = strtoul(end + 10, NULL, 10);
        if (in) sscanf(in, "in mapping field '%63[^']", c->field);
    }
}

/* libcyaml tells where the value before a bad key is; the key itself is the first `key:` from there on. */
static size_t line_of_key(const complaint *c, const char *key, const char *text, size_t n) {
    size_t line = 1, length = strlen(key), i = 0;
    while (i < n && line < c->line) line += text[i++] == '\n';
    for (i += c->column ? c->column - 1 : 0; i + length < n; i++) {
        if (text[i] == '\n') line++;
        if (memcmp(text + i, key, length)) continue;
        size_t k = i + length;
        while (k < n && strchr(" \t\"'", text[k])) k++;
        if (k < n && text[k] == ':') return line;
    }
    return c->line;
}

static void list_keys(const cyaml_schema_field_t *fields, char *out, size_t size) {
    size_t at = 0;
    for (; fields->key && at < size; fields++) at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", fields->key);
}

static st_code explain(const char *name, const complaint *c, const char *text, size_t n, st_error *e) {
    static const char unknown[] = "Unexpected key: ", twice[] = "Mapping field already seen: ";
    char keys[640], line[32] = "";
    if (!strncmp(c->what, unknown, sizeof unknown - 1)) {
        const char *key = c->what + sizeof unknown - 1;
        list_keys(c->in_group ? group_fields : topology_fields, keys, sizeof keys);
        return st_fail(e, ST_ERR_FORMAT, "%s:%zu: unknown key '%.40s'; known here: %s", name, line_of_key(c, key, text, n), key,
                       keys);
    }
    if (!strncmp(c->what, twice, sizeof twice - 1)) {
        const char *key = c->what + sizeof twice - 1;
        return st_fail(e, ST_ERR_FORMAT, "%s:%zu: key '%.40s' is given twice", name, line_of_key(c, key, text, n), key);
    }
    if (c->line) snprintf(line, sizeof line, ":%zu", c->line);
    return st_fail(e, ST_ERR_FORMAT, "%s%s: %s%s%.200s", name, line, c->field, c->field[0] ? ": " : "", c->what);
}

/* ---- libyaml: syntax ---- */
static st_code check_event(const char *name, const yaml_event_t *event, int *documents, st_error *e) {
    size_t line = event->start_mark.line + 1;
    if (event->type == YAML_DOCUMENT_START_EVENT && (*documents)++)
        return st_fail(e, ST_ERR_FORMAT, "%s:%zu: a second document; expected one", name, line);
    if (event->type == YAML_ALIAS_EVENT) return st_fail(e, ST_ERR_FORMAT, "%s:%zu: aliases are not allowed", name, line);
    if (event->type == YAML_SCALAR_EVENT && memchr(event->data.scalar.value, 0, event->data.scalar.length))
        return st_fail(e, ST_ERR_FORMAT, "%s:%zu: a NUL in a value", name, line);
    return ST_OK;
}

/* A byte that is not UTF-8 comes with its offset, all else with its line. */
static st_code not_yaml(const char *name, const yaml_parser_t *p, const uint8_t *bytes, size_t n, st_error *e) {
    size_t line = p->problem_mark.line + 1;
    if (p->error == YAML_MEMORY_ERROR) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory to read it", name);
    if (p->error == YAML_READER_ERROR) {
        line = 1;
        for (size_t i = 0; i < n && i < p->problem_offset; i++) line += bytes[i] == '\n';
    }
    return st_fail(e, ST_ERR_FORMAT, "%s:%zu: not YAML: %s", name, line, p->problem ? p->problem : "no reason given");
}

static st_code check_syntax(const char *name, const uint8_t *bytes, size_t n, st_error *e) {
    yaml_parser_t parser;
    st_code code = ST_OK;
    int documents = 0;
    if (!yaml_parser_initialize(&parser)) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory to read it", name);
    yaml_parser_set_input_string(&parser, bytes, n);
    for (bool end = false; !code && !end;) {
        yaml_event_t event;
        if (!yaml_parser_parse(&parser, &event)) {
            code = not_yaml(name, &parser, bytes, n, e);
            break;
        }
        code = check_event(name, &event, &documents, e);
        end = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return code;
}

/* ---- load ---- */
static void *memory(void *context, void *p, size_t n) {
    (void)context;
    if (n) return mem_resize(p, n, n, 1);
    mem_free(p);
    return NULL;
}

static const cyaml_config_t free_config = {.mem_fn = memory, .flags = CYAML_CFG_NO_ALIAS};

void config_raw_destroy(config_raw *r) { (void)cyaml_free(&free_config, &topology_schema, r, 0); }

st_code config_raw_load(const char *name, const uint8_t *bytes, size_t n, config_raw **out, st_error *e) {
    complaint c = {0};
    cyaml_config_t config = free_config;
    config.log_fn = note_log;
    config.log_ctx = &c;
    config.log_level = CYAML_LOG_ERROR;
    cyaml_data_t *raw = NULL;
    st_code code = check_syntax(name, bytes, n, e);
    if (code) return code;
    cyaml_err_t error = cyaml_load_data(bytes, n, &config, &topology_schema, &raw, NULL);
    if (error == CYAML_ERR_OOM) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory to read it", name);
    if (error) {
        if (!c.what[0]) snprintf(c.what, sizeof c.what, "%s", cyaml_strerror(error));
        return explain(name, &c, (const char *)bytes, n, e);
    }
    if (!raw) raw = mem_alloc(1, sizeof(config_raw)); /* an empty document */
    if (!raw) return st_fail(e, ST_FATAL_MEMORY, "%s: no memory to read it", name);
    *out = raw;
    return ST_OK;
}
