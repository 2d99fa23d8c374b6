/* simulate: what `consort simulate` learns from a trace (simulate_trace.c) for the virtual cluster of coordinator/sim.h.
 *
 * Nouns: those of sim.h; a sample (one plan of the trace: its size, its tokens of prompts, its time). All memory is the measured
 * trace's. One thread. */
#ifndef CONSORT_CLIENT_SIMULATE_INT_H
#define CONSORT_CLIENT_SIMULATE_INT_H

#include "coordinator/sim.h"

enum { SIMULATE_MAX_DRAFTERS = PROTO_MAX_DRAFTERS };

typedef struct {
    char name[32];
    bool knows_cost;
    sim_cost cost;
    proto_habit habit; /* all 0: it never drafted */
} simulate_drafter;

typedef struct {
    sim_cost step;
    simulate_drafter drafters[SIMULATE_MAX_DRAFTERS]; /* [n_drafters] lookup among them */
    uint32_t n_drafters;
    sim_lengths *lengths; /* [n_lengths] */
    uint32_t n_lengths;
    uint64_t decide_ns, client_ns;
    uint32_t n_steps, n_drafts;
} simulate_trace;

/* What `consort trace --out FILE` wrote. `out` is zeroed by the caller and deinitialized by it, after an error too. Errors: what
 * is wrong, with the file, and what to do. */
ST_CHECKED st_code simulate_trace_read(simulate_trace *out, const char *path, st_error *e);
void simulate_trace_deinit(simulate_trace *t);
const simulate_drafter *simulate_trace_find(const simulate_trace *t, const char *name); /* NULL: it is not there */
bool simulate_has_drafted(const proto_habit *h);

#endif
