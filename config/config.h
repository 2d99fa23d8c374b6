/* config: the topology file, checked.
 *
 * Noun: a topology (which ranks exist, what each does, where the coordinator listens, limits). YAML by schema (libcyaml): every
 * default, unit and range is a row of topology.def or group.def; unknown keys are refused with the line. Read once at start, then
 * read-only. */
#ifndef CONSORT_CONFIG_H
#define CONSORT_CONFIG_H

#include "base/status.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONFIG_MAX_RANKS = 1024,   /* the coordinator's included */
    CONFIG_MAX_VERIFIERS = 16, /* groups */
    CONFIG_MAX_DRAFTED = 256,  /* sequences that run at once, in all verifiers together, where there are drafters */
    CONFIG_MAX_DRAFTERS = 30,  /* groups; with lookup and the corpus a mask of 32 bits */
    CONFIG_MAX_NAME_BYTES = 31 /* of a group */
};

typedef enum { CONFIG_VERIFIER, CONFIG_DRAFTER } config_role;

typedef struct {
    char *name; /* unique */
    config_role role;
    char *serves;             /* verifiers: "both", "prefill", "decode" */
    char *kind;               /* drafters: "model", "head", "ngram" (speculative/drafters.def) */
    char *model;              /* kind model: its GGUF file; where the file has none, the topology's */
    char *table;              /* kind ngram: its table; else empty */
    uint32_t tensor_parallel; /* ranks of the group, >= 1; a drafter has one */
    uint32_t threads;         /* compute threads a rank; 0: a share of the host's cores */
    char *kv_type;            /* "auto", or of a type */
    uint32_t kv_tokens;       /* tokens of KV cache; multiple of 32; 0: to be measured by whoever starts ranks */
    uint32_t swap_tokens;     /* verifiers: of KV cache on disk; multiple of 32; 0: none */
    char *swap_directory;     /* where their files are */
    char *isa;                /* "auto", or as of kernels_pick */
} config_group;

typedef struct {
    char *listen;            /* host:port of the gRPC server; port 0: any */
    char *control_listen;    /* host:port of the control link; port 0: any */
    char *control_advertise; /* host that workers connect to; empty: the listen host */
    char *http_listen;       /* host:port of /health and /metrics; port 0: any; empty: none */
    char *model;             /* path of the GGUF file, relative to the working directory */
    char *chat_template;     /* name of one; empty: the file's */
    char *precision;         /* "fast", "fp32" */
    uint32_t max_running, max_queue, max_rows, max_batch, prefill_chunk, max_stall_ms, default_max_tokens, max_context;
    char *prefix_cache;  /* "on", "off" */
    char *speculation;   /* policy of requests that do not say (speculative/routes.def); its words are not checked here */
    char *corpus;        /* a file; empty: none */
    char *draft_budgets; /* "adaptive", "fixed" */
    char *draft_ahead;   /* "off", "early", "on" */
    char *fusion;        /* "auto", "merge", "lockstep" */
    uint32_t draft_budget, draft_floor, draft_wait_ms;
    char *kv_transport; /* "auto", "off", or one of parallel/transports.def */
    char *kv_order;     /* "block", "layer" */
    char *kv_listen;    /* host */
    uint32_t move_tokens;
    uint32_t heartbeat_ms, dead_after_ms, join_timeout_ms, drain_timeout_ms;
    char *debug;          /* "off", "on" */
    config_group *groups; /* [n_groups] */
    uint32_t n_groups;
} config_topology;

/* Errors: ST_ERR_IO, ST_ERR_FORMAT, ST_ERR_INVALID_ARGUMENT; the message names file, line or field, value and remedy. */
ST_CHECKED st_code config_load(const char *path, config_topology **out, st_error *e);
void config_destroy(config_topology *t); /* NULL-safe */

/* Rank 0 is the coordinator, then the groups in order. */
uint32_t config_n_ranks(const config_topology *t);
uint32_t config_n_verifiers(const config_topology *t); /* groups */
/* False for the coordinator and for ranks outside; else group index and rank within it. */
bool config_rank(const config_topology *t, uint32_t rank, uint32_t *group, uint32_t *group_rank);

/* "host:port" -> host and port; "[::1]:80" too. Errors: ST_ERR_INVALID_ARGUMENT names what was expected. */
ST_CHECKED st_code config_split_address(const char *address, char *host, size_t host_bytes, uint16_t *port, st_error *e);

/* The keys of a topology file, for docs. Static texts. */
typedef struct {
    bool in_group; /* a key of one entry of `groups` */
    const char *name, *value /* the default; NULL: the key is needed */, *unit, *help;
    char range[48];
} config_key;
bool config_key_at(size_t i, config_key *out); /* false past the last */

#endif
