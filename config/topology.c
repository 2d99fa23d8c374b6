/* The topology: raw strings of a file to a checked struct, by the rows of topology.def and group.def (type, range, default), then
 * what rows cannot say: names are unique, limits fit each other. */
#include "config/config_int.h"

#include "base/mem.h"
#include "base/nouns.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 256 << 10 /* of a file: people write them */ };

/* Choices of kv_transport: the kinds that there are, and two more. */
static const char kv_transports[] = "auto"
#define TRANSPORT(name, where) "|" #name
#include "parallel/transports.def"
#undef TRANSPORT
                                    "|off";

typedef enum { TEXT, CHOICE, ENUM, NUMBER } row_kind;
typedef struct {
    const char *name;
    row_kind kind;
    size_t raw, out; /* offsets in the raw struct and in the checked one */
    uint32_t min, max;
    const char *choices, *value, *unit, *help; /* value: the default, NULL: needed */
} row;

#define TEXT(name, value, help) {#name, TEXT, offsetof(RAW, name), offsetof(OUT, name), 0, 0, NULL, value, "", help},
#define CHOICE(name, choices, value, help)                                                                                       \
    {#name, CHOICE, offsetof(RAW, name), offsetof(OUT, name), 0, 0, choices, value, "", help},
#define ENUM(name, choices, value, help) {#name, ENUM, offsetof(RAW, name), offsetof(OUT, name), 0, 0, choices, value, "", help},
#define NUMBER(name, min, max, value, unit, help)                                                                                \
    {#name, NUMBER, offsetof(RAW, name), offsetof(OUT, name), min, max, NULL, value, unit, help},
#define RAW config_raw
#define OUT config_topology
static const row topology_rows[] = {
#include "config/topology.def"
};
#undef RAW
#undef OUT
#define RAW config_raw_group
#define OUT config_group
static const row group_rows[] = {
#include "config/group.def"
};
enum {
    N_TOPOLOGY_ROWS = sizeof topology_rows / sizeof topology_rows[0],
    N_GROUP_ROWS = sizeof group_rows / sizeof group_rows[0]
};

bool config_key_at(size_t i, config_key *out) {
    if (i >= N_TOPOLOGY_ROWS + N_GROUP_ROWS) return false;
    const row *r = i < N_TOPOLOGY_ROWS ? &topology_rows[i] : &group_rows[i - N_TOPOLOGY_ROWS];
    *out = (config_key){.in_group = i >= N_TOPOLOGY_ROWS, .name = r->name, .value = r->value, .unit = r->unit, .help = r->help};
    if (r->kind == NUMBER)
        snprintf(out->range, sizeof out->range, "%u .. %u", r->min, r->max);
    else
        snprintf(out->range, sizeof out->range, "%s", r->choices ? r->choices : "text");
    return true;
}

/* ---- one value ---- */
static bool parse_number(const row *r, const char *text, uint32_t *out) {
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    *out = (uint32_t)v;
    return *text >= '0' && *text <= '9' && !*end && !errno && v >= r->min && v <= r->max;
}

/* Index of `text` in "a|b|c"; -1: not there. */
static int find_choice(const char *choices, const char *text) {
    size_t n = strlen(text);
    for (int i = 0;; i++) {
        size_t length = strcspn(choices, "|");
        if (length == n && !memcmp(choices, text, n)) return i;
        if (!choices[length]) return -1;
        choices += length + 1;
    }
}

static st_code convert_value(const row *r, const char *text, void *out, st_error *e) {
    int choice = r->choices ? find_choice(r->choices, text) : 0;
    if (choice < 0) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: '%.64s': expected %s", r->name, text, r->choices);
    if (r->kind == NUMBER) {
        if (parse_number(r, text, out)) return ST_OK;
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: '%.64s': expected a whole number, %u .. %u (%s)", r->name, text, r->min,
                       r->max, r->unit);
    }
    if (r->kind == ENUM) {
        *(config_role *)out = (config_role)choice;
        return ST_OK;
    }
    char *copy = mem_text(text, strlen(text));
    *(char **)out = copy;
    return copy ? ST_OK : st_fail(e, ST_FATAL_MEMORY, "%s: no memory", r->name);
}

static st_code convert(const row *rows, size_t n, const void *raw, void *out, st_error *e) {
    for (size_t i = 0; i < n; i++) {
        const char *text = *(char *const *)((const char *)raw + rows[i].raw);
        if (!text) text = rows[i].value;
        if (!text) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: is missing (%s)", rows[i].name, rows[i].help);
        st_code code = convert_value(&rows[i], text, (char *)out + rows[i].out, e);
        if (code) return code;
    }
    return ST_OK;
}

/* ---- what rows cannot say ---- */
static st_code check_address(const char *name, const char *address, st_error *e) {
    char host[256];
    uint16_t port;
    return config_split_address(address, host, sizeof host, &port, e) ? st_prefix(e, "%s", name) : ST_OK;
}

static st_code check_drafter(const config_group *g, st_error *e) {
    bool ngram = !strcmp(g->kind, "ngram");
    if (strcmp(g->serves, "both"))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "serves: is for verifiers; a drafter serves all of them");
    if (!strcmp(g->name, "lookup"))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "name: 'lookup' is the drafter that every cluster has; expected another name");
    if (!strcmp(g->name, "corpus"))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "name: 'corpus' is the coordinator's own drafter; expected another name");
    if (g->tensor_parallel != 1)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "tensor_parallel: %u: a drafter has one rank; for more, add groups",
                       g->tensor_parallel);
    if (ngram && !g->table[0])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "table: is missing (a drafter of kind ngram needs its file)");
    if (!ngram && g->table[0])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "table: '%.64s': a drafter of kind %s has none; did you mean kind: ngram?",
                       g->table, g->kind);
    if (!strcmp(g->kind, "head") && !g->model[0])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "model: is missing (a drafter of kind head needs its file)");
    if (ngram && g->model[0])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "model: '%.64s': a drafter of kind ngram has none; its file is `table`",
                       g->model);
    return ST_OK;
}

static const char *kv_type_of(const config_topology *t, const config_group *g) {
    if (strcmp(g->kv_type, "auto")) return g->kv_type;
    return strcmp(t->precision, "fp32") ? "f16" : "f32";
}

/* A request may go on in another verifier, with the same bytes: what these depend on must be the same. */
static st_code check_alike(const config_topology *t, uint32_t i, st_error *e) {
    for (uint32_t k = 0; k < i; k++)
        if (t->groups[k].role == CONFIG_VERIFIER && strcmp(kv_type_of(t, &t->groups[k]), kv_type_of(t, &t->groups[i])))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                           "kv_type: %s, but groups[%u] (%s), a verifier too, has %s: expected the same",
                           kv_type_of(t, &t->groups[i]), k, t->groups[k].name, kv_type_of(t, &t->groups[k]));
    return ST_OK;
}

static st_code check_verifier(const config_topology *t, uint32_t i, st_error *e) {
    const config_group *g = &t->groups[i];
    const char *key = strcmp(g->kind, "model") ? "kind" : g->model[0] ? "model" : g->table[0] ? "table" : NULL;
    if (!key) return check_alike(t, i, e);
    return st_fail(e, ST_ERR_INVALID_ARGUMENT, "%s: is for drafters; a verifier runs the model of the top level", key);
}

static st_code check_swap(const config_topology *t, const config_group *g, st_error *e) {
    if (g->swap_tokens % NOUNS_BLOCK_TOKENS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "swap_tokens: %u is not a multiple of %d; try %u", g->swap_tokens,
                       NOUNS_BLOCK_TOKENS, g->swap_tokens - g->swap_tokens % NOUNS_BLOCK_TOKENS);
    if (g->swap_tokens && g->role == CONFIG_DRAFTER)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "swap_tokens: is for verifiers; a drafter computes again what it has given up");
    if (g->swap_tokens && strcmp(t->prefix_cache, "on"))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "swap_tokens: %u, but prefix_cache is off: expected on, which finds what lies there", g->swap_tokens);
    if (g->swap_tokens && !g->swap_directory[0])
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "swap_directory: is empty; expected a directory on a local disk");
    return ST_OK;
}

static st_code check_group(const config_topology *t, uint32_t i, st_error *e) {
    const config_group *g = &t->groups[i];
    size_t n = strlen(g->name);
    for (const char *p = g->name; *p; p++)
        if (*p <= ' ' || *p > '~') n = 0;
    if (!n || n > CONFIG_MAX_NAME_BYTES)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "name: '%.64s': expected 1 .. %d printable characters without spaces", g->name,
                       CONFIG_MAX_NAME_BYTES);
    for (uint32_t k = 0; k < i; k++)
        if (!strcmp(t->groups[k].name, g->name))
            return st_fail(e, ST_ERR_INVALID_ARGUMENT, "name: '%s' is also the name of groups[%u]", g->name, k);
    if (g->kv_tokens % NOUNS_BLOCK_TOKENS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "kv_tokens: %u is not a multiple of %d; try %u", g->kv_tokens,
                       NOUNS_BLOCK_TOKENS, g->kv_tokens - g->kv_tokens % NOUNS_BLOCK_TOKENS);
    if (check_swap(t, g, e)) return e->code;
    return g->role == CONFIG_DRAFTER ? check_drafter(g, e) : check_verifier(t, i, e);
}

static uint32_t n_serving(const config_topology *t, const char *what) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_groups; i++) n += t->groups[i].role == CONFIG_VERIFIER && !strcmp(t->groups[i].serves, what);
    return n;
}

static st_code check_topology(const config_topology *t, st_error *e) {
    st_code code = check_address("listen", t->listen, e);
    if (!code) code = check_address("control_listen", t->control_listen, e);
    if (!code && t->http_listen[0]) code = check_address("http_listen", t->http_listen, e);
    if (code) return code;
    if (!t->kv_listen[0]) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "kv_listen: is empty; expected a name or an address");
    if (!t->model[0]) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "model: is empty; expected the path of a GGUF file");
    if (t->prefill_chunk > t->max_rows)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "prefill_chunk: %u is over max_rows %u", t->prefill_chunk, t->max_rows);
    if (t->max_batch > t->max_rows)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "max_batch: %u is over max_rows %u", t->max_batch, t->max_rows);
    if (t->dead_after_ms < 2 * t->heartbeat_ms)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "dead_after_ms: %u is under two heartbeats (heartbeat_ms %u)",
                       t->dead_after_ms, t->heartbeat_ms);
    if (t->draft_budget >= t->max_rows)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "draft_budget: %u and the token before it are over max_rows %u",
                       t->draft_budget, t->max_rows);
    for (uint32_t i = 0; i < t->n_groups; i++)
        if (check_group(t, i, e)) return st_prefix(e, "groups[%u]", i);
    uint32_t n_verifiers = config_n_verifiers(t);
    if (t->n_groups - n_verifiers > CONFIG_MAX_DRAFTERS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "groups: %u drafters are over %d", t->n_groups - n_verifiers,
                       CONFIG_MAX_DRAFTERS);
    if (!n_verifiers) return st_fail(e, ST_ERR_INVALID_ARGUMENT, "groups: no group with role verifier; expected at least one");
    if (n_serving(t, "prefill") == n_verifiers)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "serves: prefill in each verifier; expected one that decodes at least");
    if (n_serving(t, "prefill") && !strcmp(t->kv_transport, "off"))
        return st_fail(e, ST_ERR_INVALID_ARGUMENT,
                       "kv_transport: off, but a verifier serves prefill: what it computes could not go to those that decode");
    if (n_verifiers > CONFIG_MAX_VERIFIERS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "groups: %u verifiers are over %d", n_verifiers, CONFIG_MAX_VERIFIERS);
    if (t->n_groups > n_verifiers && n_verifiers * t->max_running > CONFIG_MAX_DRAFTED)
        return st_fail(
            e, ST_ERR_INVALID_ARGUMENT,
            "max_running: %u in each of %u verifiers: a drafter follows the sequences of all, at most %d; expected at most "
            "%u",
            t->max_running, n_verifiers, CONFIG_MAX_DRAFTED, CONFIG_MAX_DRAFTED / n_verifiers);
    if (config_n_ranks(t) > CONFIG_MAX_RANKS)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "groups: %u ranks with the coordinator are over %d", config_n_ranks(t),
                       CONFIG_MAX_RANKS);
    return ST_OK;
}

/* ---- load ---- */
/* Where a group with a model does not say which, the topology's. */
static st_code inherit_model(const config_topology *t, config_group *g, st_error *e) {
    if (g->model[0] || g->table[0]) return ST_OK;
    char *copy = mem_text(t->model, strlen(t->model));
    if (!copy) return st_fail(e, ST_FATAL_MEMORY, "model: no memory");
    mem_free(g->model);
    g->model = copy;
    return ST_OK;
}

static st_code fill(const config_raw *raw, config_topology *t, st_error *e) {
    st_code code = convert(topology_rows, N_TOPOLOGY_ROWS, raw, t, e);
    if (code) return code;
    t->groups = mem_alloc(raw->n_groups, sizeof *t->groups);
    if (!t->groups) return st_fail(e, ST_FATAL_MEMORY, "groups: no memory");
    for (t->n_groups = 0; t->n_groups < raw->n_groups; t->n_groups++) {
        uint32_t i = t->n_groups;
        code = convert(group_rows, N_GROUP_ROWS, &raw->groups[i], &t->groups[i], e);
        if (code) {
            t->n_groups++; /* its strings are freed too */
            return st_prefix(e, "groups[%u]", i);
        }
    }
    code = check_topology(t, e);
    for (uint32_t i = 0; !code && i < t->n_groups; i++) code = inherit_model(t, &t->groups[i], e);
    return code;
}

st_code config_load_bytes(const char *name, const uint8_t *bytes, size_t n, config_topology **out, st_error *e) {
    st_error own; /* prefixes need one */
    if (!e) e = &own;
    config_raw *raw = NULL;
    st_code code = config_raw_load(name, bytes, n, &raw, e);
    if (code) return code;
    config_topology *t = mem_alloc(1, sizeof *t);
    code = t ? fill(raw, t, e) : st_fail(e, ST_FATAL_MEMORY, "no memory");
    config_raw_destroy(raw);
    if (code) {
        config_destroy(t);
        return st_prefix(e, "%s", name);
    }
    *out = t;
    return ST_OK;
}

st_code config_load(const char *path, config_topology **out, st_error *e) {
    FILE *f = fopen(path, "rb");
    if (!f) return st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    uint8_t *bytes = mem_alloc(MAX_BYTES + 1, 1);
    size_t n = bytes ? fread(bytes, 1, MAX_BYTES + 1, f) : 0;
    st_code code;
    if (!bytes)
        code = st_fail(e, ST_FATAL_MEMORY, "%s: no memory to read it", path);
    else if (ferror(f))
        code = st_fail(e, ST_ERR_IO, "%s: %s", path, strerror(errno));
    else if (n > MAX_BYTES)
        code = st_fail(e, ST_ERR_FORMAT, "%s: is over %d bytes; is this a topology file?", path, MAX_BYTES);
    else
        code = config_load_bytes(path, bytes, n, out, e);
    mem_free(bytes);
    fclose(f);
    return code;
}

void config_destroy(config_topology *t) {
    if (!t) return;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        mem_free(t->groups[i].name);
        mem_free(t->groups[i].serves);
        mem_free(t->groups[i].kind);
        mem_free(t->groups[i].model);
        mem_free(t->groups[i].table);
        mem_free(t->groups[i].kv_type);
        mem_free(t->groups[i].swap_directory);
        mem_free(t->groups[i].isa);
    }
    mem_free(t->groups);
    mem_free(t->listen);
    mem_free(t->control_listen);
    mem_free(t->control_advertise);
    mem_free(t->http_listen);
    mem_free(t->model);
    mem_free(t->chat_template);
    mem_free(t->precision);
    mem_free(t->prefix_cache);
    mem_free(t->speculation);
    mem_free(t->corpus);
    mem_free(t->draft_budgets);
    mem_free(t->draft_ahead);
    mem_free(t->fusion);
    mem_free(t->kv_transport);
    mem_free(t->kv_order);
    mem_free(t->kv_listen);
    mem_free(t->debug);
    mem_free(t);
}

/* ---- questions ---- */
uint32_t config_n_verifiers(const config_topology *t) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_groups; i++) n += t->groups[i].role == CONFIG_VERIFIER;
    return n;
}

uint32_t config_n_ranks(const config_topology *t) {
    uint32_t n = 1;
    for (uint32_t i = 0; i < t->n_groups; i++) n += t->groups[i].tensor_parallel;
    return n;
}

bool config_rank(const config_topology *t, uint32_t rank, uint32_t *group, uint32_t *group_rank) {
    if (!rank--) return false;
    for (uint32_t i = 0; i < t->n_groups; rank -= t->groups[i++].tensor_parallel) {
        if (rank >= t->groups[i].tensor_parallel) continue;
        *group = i;
        *group_rank = rank;
        return true;
    }
    return false;
}

st_code config_split_address(const char *address, char *host, size_t host_bytes, uint16_t *port, st_error *e) {
    const char *colon = strrchr(address, ':'), *begin = address, *end = colon;
    bool bracketed = address[0] == '[';
    if (bracketed && colon && colon > address + 1 && colon[-1] == ']') {
        begin++;
        end--;
    }
    size_t n = colon ? (size_t)(end - begin) : 0;
    bool good = n && n < host_bytes && strspn(colon + 1, "0123456789") == strlen(colon + 1) && strlen(colon + 1) >= 1 &&
                strlen(colon + 1) <= 5 && strtoul(colon + 1, NULL, 10) <= UINT16_MAX;
    for (size_t i = 0; good && i < n; i++) {
        bool ok = begin[i] > ' ' && begin[i] <= '~' && begin[i] != '[' && begin[i] != ']';
        good = ok && (begin[i] != ':' || begin != address); /* an IPv6 address stands in brackets */
    }
    if (!good)
        return st_fail(e, ST_ERR_INVALID_ARGUMENT, "'%.200s': expected host:port or [IPv6]:port, port 0 .. 65535", address);
    memcpy(host, begin, n);
    host[n] = 0;
    *port = (uint16_t)strtoul(colon + 1, NULL, 10);
    return ST_OK;
}
