/* clock: the time by which waiting for other ranks is limited, and that of transports.
 *
 * Monotonic nanoseconds of this host alone: never compared with another's. Any thread. */
#ifndef CONSORT_PARALLEL_CLOCK_H
#define CONSORT_PARALLEL_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t parallel_now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#endif
