/* Pool: threads that share a loop. pool_run calls part(context, i) once for each i in [0, n) and returns when all are done.
 *
 * The caller takes part. Each thread starts with a share of neighbouring parts and ends with those that others have not come to.
 * Parts are claimed one by one, so a thread that the system holds back delays nothing but the part it has; which thread runs a
 * part, and in what order, must not matter. Between loops the workers spin for some microseconds, then sleep: an idle pool uses
 * no processor time. One thread at a time calls pool_run, and parts must not call it. */
#ifndef CONSORT_BASE_POOL_H
#define CONSORT_BASE_POOL_H

#include "base/status.h"

typedef struct pool pool;
typedef void pool_part(void *context, uint32_t part);

#define POOL_MAX_THREADS 1024

/* n_threads >= 1 counts the caller, so n_threads - 1 are started. Errors: ST_FATAL_MEMORY; ST_ERR_INVALID_ARGUMENT;
 * ST_ERR_RESOURCE_EXHAUSTED where the system gives no more threads. Thread: the owner's. */
ST_CHECKED st_code pool_create(uint32_t n_threads, pool **out);
void pool_destroy(pool *p); /* NULL-safe; waits for the workers to leave */
uint32_t pool_n_threads(const pool *p);

/* Everything before the call is seen by the parts, everything in the parts by the code after it. */
void pool_run(pool *p, uint32_t n_parts, pool_part *part, void *context);

#endif
