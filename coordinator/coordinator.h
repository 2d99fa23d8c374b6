/* coordinator: the process that owns the cluster: clients on one side, every rank's control link on the other, the scheduler
 * between.
 *
 * One thread, one event loop. `coordinator_create` binds both ports, so that the caller can tell the ranks where to come;
 * `coordinator_run` serves until it is told to stop (SIGTERM, SIGINT or the Stop call) and everything accepted is finished. A
 * lost verifier's requests go on in another; the last one's end, and never the coordinator. Thread: the caller's. */
#ifndef CONSORT_COORDINATOR_H
#define CONSORT_COORDINATOR_H

#include "config/config.h"

typedef struct coordinator coordinator;

typedef struct {
    const config_topology *topology;
    const uint8_t *secret; /* [32] proves membership on control links */
    uint32_t cluster_epoch;
    /* Of two tokens of the model, -1 .. 1 (policy cosine); NULL: unknown. On the loop's thread. */
    float (*similarity)(void *context, uint32_t a, uint32_t b);
    void *similarity_context;
    bool kv_listens;      /* verifiers take KV from whoever reaches kv_listen: a warning where that is open */
    const char *run_file; /* where to write the bound addresses as JSON, removed after a drain; NULL: nowhere */
} coordinator_options;

/* Errors: file, field or address and the remedy. `o` and what it points to must outlive the coordinator. */
ST_CHECKED st_code coordinator_create(const coordinator_options *o, coordinator **out, st_error *e);
uint16_t coordinator_control_port(const coordinator *c);
/* ST_OK after a drain in which every rank said goodbye; *lost_ranks tells whether one was lost on the way (MPI_Finalize may then
 * hang). */
ST_CHECKED st_code coordinator_run(coordinator *c, bool *lost_ranks, st_error *e);
void coordinator_destroy(coordinator *c); /* NULL-safe */

#endif
