/* What every transport has to do, as scripts for two ends: each end runs the same script with its own transport, in a thread, in
 * a process or on a rank of MPI of its own. An end that sees anything else than it must aborts, with file and line. */
#ifndef CONSORT_TESTS_PARALLEL_TRANSPORT_CONTRACT_H
#define CONSORT_TESTS_PARALLEL_TRANSPORT_CONTRACT_H

#include "parallel/transport.h"

typedef struct {
    transport *t;
    bool calls;       /* one of the two does */
    const char *peer; /* its address */
    bool streams;     /* its messages go one after the other: a send that was not begun can be taken back */
} contract_end;

typedef struct {
    const char *name; /* a sentence */
    void (*run)(contract_end *end);
} contract_case;

extern const contract_case contract_cases[];
extern const uint32_t n_contract_cases;

/* For cases of one kind of transport. */
transport_link *contract_open(contract_end *end, uint8_t key, void *memory, void *context);
void contract_event(contract_end *end, transport_event *out); /* the next one; an end that waits for half a minute is broken */
void contract_expect(contract_end *end, transport_event_kind kind, void *context);

#endif
