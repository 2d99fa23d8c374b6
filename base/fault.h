/* Fault points: places where the code does what a broken machine would, if a test wants it.
 *
 * Nouns: a point (a name in fault.def and one `if (fault_hits(...))` in the code), a plan ("move.flip=50,move.cut=400,seed=7": at
 * these points one pass in so many has the fault, drawn from the seed and the number of the pass). Compiled into every build and
 * off: then a point costs a load. Any thread passes points, also while another one makes a plan: a pass of that moment may still
 * be of the old plan. Each fault is a line of the log. */
#ifndef CONSORT_BASE_FAULT_H
#define CONSORT_BASE_FAULT_H

#include "base/status.h"

typedef enum {
#define FAULT(name, text, help) FAULT_##name,
#include "base/fault.def"
#undef FAULT
    FAULT_N_POINTS
} fault_point;

/* NULL or "": none. Errors: ST_ERR_INVALID_ARGUMENT, and then the plan is what it was. Any thread, one at a time. */
ST_CHECKED st_code fault_plan(const char *plan, st_error *e);

bool fault_hits(fault_point p);

typedef struct {
    const char *name, *help;       /* static */
    uint32_t one_in, passes, hits; /* 0: never; since there was a plan last that was not none */
} fault_state;
fault_state fault_get(fault_point p);

#endif
