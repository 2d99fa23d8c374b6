/* Replays a recorded answer against drafters that `hedge` chooses among, without the target: whom each round asks.
 *
 * As the scheduler does it (coordinator/sched_draft.c): a round picks, asks, and verifies one tree of what was drafted; who was
 * asked is scored by all tokens that it lacked, who was not once these are eight. One thread. */
#ifndef CONSORT_CLIENT_REPLAY_ROUTE_H
#define CONSORT_CLIENT_REPLAY_ROUTE_H

#include "speculative/speculative.h"

/* at: tokens of the answer that were there; picked: mask of drafters; first: the one that is expected to hit most. */
typedef struct {
    uint32_t at, picked, first;
} replay_round;

typedef struct {
    spec_drafter *const *drafters; /* [n] pure ones that keep nothing of a sequence */
    uint32_t n, budget;
    spec_tally prior[SPEC_MAX_DRAFTERS];
    spec_tally hits[SPEC_MAX_DRAFTERS]; /* out: at the end */
} replay_route;

/* tokens[n_tokens]: prompt and answer, whose first token is the prefill's. rounds[n_tokens - n_prompt]; returns how many. */
uint32_t replay_run(replay_route *r, const uint32_t *tokens, uint32_t n_prompt, uint32_t n_tokens, replay_round *rounds);

#endif
