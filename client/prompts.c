/* See prompts.h. */
#include "client/prompts.h"

#include "base/filemap.h"
#include "base/mem.h"
#include "proto/proto.h"
#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char SUFFIX[] = ".jsonl";

/* Whether `name` stands between the commas of `list`. */
static bool names(const char *list, const char *name) {
    size_t n = strlen(name);
    for (const char *at = list;; at++) {
        size_t part = strcspn(at, ",");
        if (part == n && !memcmp(at, name, n)) return true;
        at += part;
        if (!*at) return false;
    }
}

static st_code domain_number(prompts *p, const char *name, uint32_t *out, st_error *e) {
    for (*out = 0; *out < p->n_domains; ++*out)
        if (!strcmp(p->domains[*out], name)) return ST_OK;
    if (p->n_domains == PROMPTS_MAX_DOMAINS)
        return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "domain '%s': at most %d domains", name, PROMPTS_MAX_DOMAINS);
    p->domains[p->n_domains] = mem_text(name, strlen(name));
    return p->domains[p->n_domains++] ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
}

static st_code add(prompts *p, const char *id, const char *domain, const char *text, st_error *e) {
    uint32_t number;
    if (p->n == PROMPTS_MAX) return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "more than %d prompts", PROMPTS_MAX);
    st_code code = domain_number(p, domain, &number, e);
    if (code) return code;
    if (p->n == p->room) {
        uint32_t room = p->room ? 2 * p->room : 256;
        prompts_item *items = mem_resize(p->items, p->room, room, sizeof *items);
        if (!items) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
        p->items = items;
        p->room = room;
    }
    prompts_item *q = &p->items[p->n++];
    *q = (prompts_item){.id = mem_text(id, strlen(id)), .text = mem_text(text, strlen(text)), .domain = number};
    return q->id && q->text ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
}

/* A text of a line, or `other` where the line has none. */
static st_code text_of(const json_t *line, const char *key, size_t max_bytes, const char *other, const char **out, st_error *e) {
    const json_t *value = json_object_get(line, key);
    *out = value ? json_string_value(value) : other;
    if (!*out) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: expected a text%s", key, value ? ", found another value" : "");
    size_t n = value ? json_string_length(value) : 1;
    if (n < 1 || n > max_bytes) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: %zu bytes, expected 1 to %zu", key, n, max_bytes);
    return ST_OK;
}

/* One line of a file named `stem`; domains: NULL, or those that are wanted. */
static st_code read_line(prompts *p, const char *text, size_t n, const char *stem, size_t number, const char *domains,
                         st_error *e) {
    json_error_t je;
    char row[32];
    const char *id, *domain, *prompt_text;
    json_t *line = json_loadb(text, n, 0, &je);
    snprintf(row, sizeof row, "%zu", number);
    if (!line || !json_is_object(line)) {
        json_decref(line);
        return st_fail(e, ST_ERR_FORMAT, "expected a JSON object: %s", line ? "found another value" : je.text);
    }
    st_code code = text_of(line, "prompt", PROTO_MAX_PROMPT_BYTES, NULL, &prompt_text, e);
    if (!code) code = text_of(line, "id", PROMPTS_MAX_NAME_BYTES, row, &id, e);
    if (!code) code = text_of(line, "domain", PROMPTS_MAX_NAME_BYTES, stem, &domain, e);
    if (!code && (!domains || names(domains, domain))) code = add(p, id, domain, prompt_text, e);
    json_decref(line);
    return code;
}

static st_code read_lines(prompts *p, const filemap *m, const char *stem, const char *domains, size_t *number, st_error *e) {
    st_code code = ST_OK;
    const char *at = m->bytes, *end = at + m->size_bytes;
    while (!code && at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at), blank = 0;
        ++*number;
        if (n > PROMPTS_MAX_LINE_BYTES)
            return st_fail(e, ST_ERR_FORMAT, "a line of %zu bytes, at most %d", n, PROMPTS_MAX_LINE_BYTES);
        while (blank < n && strchr(" \t\r", at[blank]) && at[blank]) blank++;
        if (blank < n) code = read_line(p, at, n, stem, *number, domains, e);
        at += n + 1;
    }
    return code;
}

/* The name of a file without its folder and its last suffix. */
static void stem_of(const char *path, char out[PROMPTS_MAX_NAME_BYTES + 1]) {
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path, *dot = strrchr(base, '.');
    int n = dot && dot > base ? (int)(dot - base) : (int)strlen(base);
    snprintf(out, PROMPTS_MAX_NAME_BYTES + 1, "%.*s", n, base);
}

static st_code read_file(prompts *p, const char *path, const char *domains, st_error *e) {
    char stem[PROMPTS_MAX_NAME_BYTES + 1];
    filemap m = {0};
    size_t number = 0;
    stem_of(path, stem);
    st_code code = filemap_open(path, &m, e);
    if (code) return code;
    p->bytes += m.size_bytes;
    if (p->bytes > PROMPTS_MAX_ALL_BYTES)
        code = st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "%s: over %d bytes of prompts", path, PROMPTS_MAX_ALL_BYTES);
    else if (m.size_bytes)
        code = read_lines(p, &m, stem, domains, &number, e);
    if (code && number) (void)st_prefix(e, "%s, line %zu", path, number);
    filemap_close(&m);
    if (code || p->n == p->first[p->n_files]) return code; /* no prompt in it that is wanted */
    if (p->n_files == PROMPTS_MAX_FILES)
        return st_fail(e, ST_ERR_RESOURCE_EXHAUSTED, "%s: at most %d files of prompts", path, PROMPTS_MAX_FILES);
    p->files[p->n_files] = mem_text(stem, strlen(stem));
    p->first[++p->n_files] = p->n;
    return p->files[p->n_files - 1] ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "out of memory");
}

static int is_visible(const struct dirent *d) {
    size_t n = strlen(d->d_name), suffix = sizeof SUFFIX - 1;
    return n > suffix && d->d_name[0] != '.' && !strcmp(d->d_name + n - suffix, SUFFIX);
}

static st_code read_folder(prompts *p, const char *path, const char *domains, st_error *e) {
    struct dirent **found = NULL;
    char file[4096], stem[PROMPTS_MAX_NAME_BYTES + 1];
    st_code code = ST_OK;
    int n = scandir(path, &found, is_visible, alphasort);
    if (n < 0) return st_fail(e, ST_ERR_IO, "%s: %m", path);
    for (int i = 0; i < n; i++) {
        stem_of(found[i]->d_name, stem);
        if (!code && snprintf(file, sizeof file, "%s/%s", path, found[i]->d_name) >= (int)sizeof file)
            code = st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: the path is too long", path);
        if (!code && (!domains || names(domains, stem))) code = read_file(p, file, NULL, e);
        free(found[i]); /* scandir's */
    }
    free(found);
    return code;
}

static bool holds(char *const *found, uint32_t n, const char *name, size_t n_name) {
    for (uint32_t i = 0; i < n; i++)
        if (strlen(found[i]) == n_name && !memcmp(found[i], name, n_name)) return true;
    return false;
}

st_code prompts_read(prompts *out, const char *path, const char *domains, st_error *e) {
    struct stat s;
    if (stat(path, &s)) return st_fail(e, ST_ERR_IO, "%s: %m", path);
    bool folder = S_ISDIR(s.st_mode);
    st_code code = folder ? read_folder(out, path, domains, e) : read_file(out, path, domains, e);
    for (const char *at = domains; !code && at;) {
        size_t n = strcspn(at, ",");
        if (!holds(folder ? out->files : out->domains, folder ? out->n_files : out->n_domains, at, n))
            return st_fail(e, ST_ERR_NOT_FOUND, "%s: no prompts of the domain '%.*s'", path, (int)n, at);
        at = at[n] ? at + n + 1 : NULL;
    }
    return code || out->n ? code : st_fail(e, ST_ERR_NOT_FOUND, "%s: no prompts", path);
}

void prompts_deinit(prompts *p) {
    for (uint32_t i = 0; i < p->n; i++) {
        mem_free(p->items[i].id);
        mem_free(p->items[i].text);
    }
    for (uint32_t i = 0; i < p->n_domains; i++) mem_free(p->domains[i]);
    for (uint32_t i = 0; i < p->n_files; i++) mem_free(p->files[i]);
    mem_free(p->items);
    *p = (prompts){0};
}
