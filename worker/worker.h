/* worker: one rank of a group: holds its shard of the model and its KV blocks, carries out plans, returns results.
 *
 * Two threads: the link thread (the caller's: control link, heartbeats) and the step thread (model and collectives),
 * joined by one mailbox down and net_loop_post up; a verifier's rank has a third, the mover (KV to and from other groups), which
 * gets its orders from the step thread. The worker decides nothing: a plan is complete. It leaves when the coordinator says STOP,
 * when it is refused, or when the link is lost. */
#ifndef CONSORT_WORKER_H
#define CONSORT_WORKER_H

#include "config/config.h"
#include "parallel/parallel.h"
#include "parallel/transport.h"

typedef struct {
    const config_topology *topology;
    uint32_t rank, group, group_rank;
    const char *host; /* the coordinator's control link */
    uint16_t port;
    const uint8_t *secret; /* [32] of the cluster */
    uint32_t cluster_epoch;
    uint32_t n_neighbours;        /* ranks that compute on this host, this one among them: they share its cores */
    parallel_group *group_link;   /* of this rank's group; borrowed */
    transport *const *transports; /* [n_transports] the best first; borrowed. None: this rank moves no KV */
    uint32_t n_transports;
} worker_options;

/* Runs until the end. ST_OK: stopped by the coordinator. Errors say why it left. */
ST_CHECKED st_code worker_run(const worker_options *o, st_error *e);

/* Bytes that this machine can give away now: what the kernel says is available, or what is left of the least of the memory limits
 * that this process is under (cgroups, version 1 or 2), page cache that can be dropped not counted as used. `root`: "" or where
 * /proc and /sys are looked for. Errors: ST_ERR_IO. */
ST_CHECKED st_code worker_available_bytes(const char *root, uint64_t *out, st_error *e);
/* What `kv_tokens: 0` of the group comes to for one of its ranks: half of available_bytes by the n_neighbours ranks that compute
 * on this host, less the rank's weights, in tokens, a multiple of 32, at most WORKER_MOST_KV_TOKENS. Errors: those of
 * model_file_open and model_read_part; ST_ERR_RESOURCE_EXHAUSTED (not even WORKER_LEAST_KV_TOKENS). */
enum { WORKER_LEAST_KV_TOKENS = 1024, WORKER_MOST_KV_TOKENS = 1 << 20 };
ST_CHECKED st_code worker_measure_kv(const config_topology *t, uint32_t group, uint32_t group_rank, uint32_t n_neighbours,
                                     uint64_t available_bytes, uint32_t *out, st_error *e);

/* How alike two tokens are to a model: the cosine of their rows of its embedding, which are read and dequantized as they are
 * asked for. The coordinator must not see weights (docs/first.md), so whoever starts it hands it worker_similarity. One thread at
 * a time. */
typedef struct worker_embeddings worker_embeddings;
/* Errors: those of model_file_open; ST_ERR_FORMAT (no embedding of the right form); ST_FATAL_MEMORY. */
ST_CHECKED st_code worker_embeddings_open(const char *model, worker_embeddings **out, st_error *e);
void worker_embeddings_close(worker_embeddings *m); /* NULL-safe */
/* -1 .. 1; 0 where one has no row, or none with a length. embeddings: of worker_embeddings_open. */
float worker_similarity(void *embeddings, uint32_t a, uint32_t b);

#endif
