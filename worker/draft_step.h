/* draft_step: from a drafter's plan to its result; on a drafter's rank what step.h is on a verifier's.
 *
 * Noun: a draft step object (the open sequences of this rank with their committed tokens, and the trees of a round). It serves
 * any kind of drafter. A sequence's tokens grow as they come: a drafter need not know how long the target's context is. Thread:
 * the step thread. */
#ifndef CONSORT_WORKER_DRAFT_STEP_H
#define CONSORT_WORKER_DRAFT_STEP_H

#include "proto/proto_core.h"
#include "speculative/speculative.h"

typedef struct draft_step draft_step;

typedef struct {
    spec_drafter *drafter;           /* borrowed */
    uint32_t max_sequences, n_vocab; /* max_sequences <= PROTO_MAX_PLAN_SEQUENCES */
    uint32_t dim;                    /* of the hidden states that it wants; 0: none */
} draft_step_options;

ST_CHECKED st_code draft_step_create(const draft_step_options *o, draft_step **out); /* ST_FATAL_MEMORY */
/* A plan of drafts ahead ends early where stop(context) says so. */
void draft_step_stops(draft_step *d, bool (*stop)(void *context), void *context);
void draft_step_destroy(draft_step *d); /* NULL-safe */

/* Closes, opens, takes in the new tokens, drafts. *out is a view that lives until the next call; its n_rows are the tokens taken
 * in, tentative ones too, and drafted. Errors: ST_FATAL_PROTOCOL (the plan contradicts what this rank holds; the message says
 * how), ST_FATAL_MEMORY, and those of the drafter: the rank must leave. */
ST_CHECKED st_code draft_step_run(draft_step *d, const proto_plan *plan, proto_result *out, st_error *e);

#endif
