/* load: the arithmetic of `consort bench serve`: which prompt comes next, when requests arrive, what was seen in figures.
 *
 * Nouns: a mix (the order of prompts), arrivals (the schedule of an open loop), a record (what was seen of one request), a spread
 * (percentiles of some values), a summary. All of it is a function of its arguments: random numbers are philox of a seed; no
 * clock, no memory taken. Times are nanoseconds, those of a record from the start of the load. Any thread. */
#ifndef CONSORT_CLIENT_LOAD_H
#define CONSORT_CLIENT_LOAD_H

#include "base/nouns.h"
#include "base/sha256.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOAD_MAX_GROUPS = 64, LOAD_MAX_DRAFTERS = 32, LOAD_ALL_DOMAINS = -1 };

/* Prompts come in rounds: each round takes one of every group, in an order of its own; a group gives its prompts in one shuffled
 * order, over and over. */
typedef struct {
    uint64_t seed, n_given;
    uint32_t n_groups;
    const uint32_t *first; /* [n_groups + 1] group g has the prompts first[g] .. first[g + 1] - 1, at least one */
    uint32_t *order;       /* [prompts], the caller's */
    uint32_t turn[LOAD_MAX_GROUPS];
} load_mix;
void load_mix_init(load_mix *m, uint64_t seed, const uint32_t *first, uint32_t n_groups, uint32_t *order);
uint32_t load_mix_next(load_mix *m); /* a prompt */

/* A Poisson process. Another rate stretches the same schedule. */
typedef struct {
    uint64_t seed, n_given;
    double rate, at; /* requests per second; the last arrival, at rate 1 */
} load_arrivals;
void load_arrivals_init(load_arrivals *a, uint64_t seed, double rate);
uint64_t load_arrivals_next(load_arrivals *a); /* ns from the start, never less than the one before */

/* Percentiles by nearest rank: the least value that is not under p % of all. All 0 where n is 0. */
typedef struct {
    uint64_t n, p50, p90, p99, max;
    double mean;
} load_spread;
load_spread load_spread_of(uint64_t *values, size_t n); /* sorts them */

typedef struct {
    uint32_t name; /* the caller's number of a drafter */
    uint64_t drafted, accepted;
} load_use;

typedef struct {
    uint32_t prompt, domain; /* the caller's numbers */
    uint64_t scheduled_ns, sent_ns, first_ns, last_ns, end_ns;
    bool ended;        /* the times up to end_ns, and all below, are told */
    const char *error; /* owned by the caller; NULL: it went well */
    char finish_reason[16], request_id[72];
    uint8_t tokens_hash[SHA256_BYTES];         /* of the ids as uint32, little endian */
    uint32_t prompt_tokens, n_tokens, n_first; /* n_first: of the tokens, those of the first reply that had any */
    uint64_t queue_ns;
    uint64_t steps, drafted, accepted;
    load_use *uses; /* [n_uses], owned by the caller */
    uint32_t n_uses;
    load_spread gaps; /* between tokens; those that came together share the time before them */
} load_record;

/* Of requests that went well; n_failed counts the others. */
typedef struct {
    uint64_t n, n_failed, prompt_tokens, n_tokens, end_ns; /* end_ns: the last end of all */
    load_spread first_token, whole, late;                  /* late: from the schedule to the sending */
    load_spread per_token;                                 /* a request's time a token after its first reply */
    double token_ns;                                       /* the same over all requests' tokens; 0: none */
    uint64_t steps, drafted, accepted;
    load_use uses[LOAD_MAX_DRAFTERS];
    uint32_t n_uses;
} load_summary;
/* Of the records of one domain, or LOAD_ALL_DOMAINS. scratch: [n]. */
void load_summarize(const load_record *records, size_t n, uint32_t domain, uint64_t *scratch, load_summary *out);

#endif
