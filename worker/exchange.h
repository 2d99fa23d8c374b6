/* exchange: what the leader of a group tells its other ranks ahead of each step: its decisions on the step before, and the plan's
 * bytes.
 *
 * One broadcast of a fixed head, and a second one only where that is too small. Nouns: a message (words of decisions, bytes of a
 * plan; no plan: decisions alone, and without those the group ends). Buffers are taken at create. Thread: the step thread. */
#ifndef CONSORT_WORKER_EXCHANGE_H
#define CONSORT_WORKER_EXCHANGE_H

#include "parallel/parallel.h"

typedef struct exchange exchange;

typedef struct {
    const uint32_t *words; /* [n_words] */
    uint32_t n_words;
    const uint8_t *plan; /* [n_plan]; 0 bytes: none */
    uint32_t n_plan;
} exchange_message;

/* `group` is borrowed. Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code exchange_create(parallel_group *group, uint32_t max_words, uint32_t max_plan_bytes, exchange **out);
void exchange_destroy(exchange *x); /* NULL-safe */
/* Leader. Errors: ST_ERR_DEADLINE, ST_ERR_CANCELLED: the group is lost; ST_ERR_INVALID_ARGUMENT: over the sizes of create. */
ST_CHECKED st_code exchange_send(exchange *x, const exchange_message *m, st_error *e);
/* The others. Waits for at most spin_ns for a message to begin; *done false: none yet. *out: views until the next call. Errors:
 * as exchange_send, and ST_FATAL_PROTOCOL. */
ST_CHECKED st_code exchange_receive(exchange *x, uint64_t spin_ns, exchange_message *out, bool *done, st_error *e);

#endif
