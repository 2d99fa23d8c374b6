/* worker: one rank of a group: holds its shard of the model and its KV blocks, carries out plans, returns results.
 *
 * Two threads: the link thread (the caller's: control link, heartbeats) and the step thread (model and collectives),
 * joined by one mailbox down and net_loop_post up. The worker decides nothing: a plan is complete. It leaves when the coordinator
 * says STOP, when it is refused, or when the link is lost. */
#ifndef CONSORT_WORKER_H
#define CONSORT_WORKER_H

#include "config/config.h"
#include "parallel/parallel.h"

typedef struct {
    const config_topology *topology;
    uint32_t rank, group, group_rank;
    const char *host; /* the coordinator's control link */
    uint16_t port;
    const uint8_t *secret; /* [32] of the cluster */
    uint32_t cluster_epoch;
    uint32_t n_neighbours;      /* ranks that compute on this host, this one among them: they share its cores */
    parallel_group *group_link; /* of this rank's group; borrowed */
} worker_options;

/* Runs until the end. ST_OK: stopped by the coordinator. Errors say why it left. */
ST_CHECKED st_code worker_run(const worker_options *o, st_error *e);

#endif
