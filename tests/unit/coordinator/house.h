/* A house for tests of the coordinator: the coordinator, whole, in a thread of its own; and the members and the client, which the
 * test plays over real sockets in its own loop.
 *
 * A member is a rank that does what its test says: it never speaks by itself but for REGISTER, heartbeats, GOODBYE after STOP,
 * and what answers a plan that only closes sequences. All of it fails the test where something is not as it should be. One
 * thread. */
#ifndef CONSORT_TESTS_COORDINATOR_HOUSE_H
#define CONSORT_TESTS_COORDINATOR_HOUSE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "config/config.h"
#include "coordinator/coordinator.h"
#include "net/net.h"
#include "proto/proto.h"
#include <pthread.h>

enum { CONTEXT = 64, BUDGET = 2 };       /* tokens of a sequence; nodes of a draft tree */
enum { LAYERS = 5, PIECE_BYTES = 1024 }; /* of the model; of a layer of a block, the SECOND's */
enum { GIVE_UP_MS = 60000 };             /* a limit for hangs, not a measure */
enum { VERIFIER, DRAFTER, SECOND, MAX_MEMBERS };
extern const uint8_t house_secret[NET_SECRET_BYTES];

typedef struct house house;

/* A rank. */
typedef struct {
    house *h;
    net_link *link; /* NULL: closed */
    char said[256]; /* why it closed */
    proto_register info;
    uint32_t n_welcomes, n_aborts, group_epoch;
    bool silent;                         /* neither REGISTER nor heartbeats */
    bool answers;                        /* each plan, at once and well */
    uint32_t n_plans, n_closed, n_nodes; /* plans with work or drafts, sequences closed, nodes of its trees (the verifier's) */
    struct {
        uint64_t id;
        seq_id seq;          /* its first */
        uint32_t n_nodes;    /* of that: its tree; for a drafter the most that it may propose */
        uint32_t n_answered; /* of the first that it opens: tokens that another had chosen */
        uint32_t start;      /* of its first work */
        bool early;
    } plan; /* the last with work or drafts */
    uint32_t n_faults;
    proto_faults_order faults; /* the last */
    uint32_t n_moves, n_cancels;
    struct {
        uint64_t id, after_plan;
        bool target;
        uint32_t n_tokens, n_blocks, n_ready, by_layer, first_block; /* of the group; its index */
        char way[8], peer[PROTO_ADDRESS_BYTES];                      /* of the first flow: its TCP address */
        uint8_t key[PROTO_KEY_BYTES];
        proto_scratch scratch;
    } move; /* the last order; n_ready: what was said last */
} member;

/* What came of a call. */
typedef struct {
    house *h;
    bool done;
    int status;
    char message[256];
} outcome;

struct house {
    char model[32], run_file[32];
    config_group groups[MAX_MEMBERS];
    config_topology topology;
    coordinator_options options;
    coordinator *c;
    uint16_t control_port, grpc_port;
    pthread_t thread;
    bool lost;
    st_code ended; /* both of coordinator_run */

    net_loop *loop;
    net_timer *hang, *beat;
    bool hung;
    uint32_t n_members;
    member members[MAX_MEMBERS];

    net_grpc_client *client;
    outcome request, status, stop, drain, undo, measure, faults, forget;
    proto_measurement measured; /* the last reply */
    uint32_t n_measured;
    proto_faults_reply told[1 + MAX_MEMBERS]; /* [n_told] of h->faults, in the order in which they came */
    uint32_t n_told;
    void *faulting;      /* the call, to be cancelled */
    proto_blocks blocks; /* of h->forget */
    void *requesting;
    void *measuring;   /* the call, to be cancelled */
    uint32_t n_tokens; /* of the request */
    bool ready, up[1 + MAX_MEMBERS], drained[1 + MAX_MEMBERS];
    char reason[256]; /* why it is not ready */
};

/* ---- the house ---- */

typedef struct {
    uint32_t n_members; /* 1: a verifier, nobody drafts. 2: a drafter, too, whose group comes before it; requests ask nobody else.
                           3: a second verifier, too, whose group comes first */
    uint32_t dead_after_ms, drain_timeout_ms, join_timeout_ms, draft_wait_ms;
} house_options;
house *house_start(const house_options *o);
house *house_start_debug(const house_options *o); /* with debug: on */
void house_ask_stop(house *h);                    /* Stop is answered; house_stop is to be called all the same */
bool house_stop(house *h); /* stops the cluster and waits for its end; true: a rank did not leave, but was lost */

/* Turns the loop until the condition holds. */
#define UNTIL(h, condition)                                                                                                      \
    for (net_timer_at((h)->hang, net_now_ns() + GIVE_UP_MS * UINT64_C(1000000)); !(condition);) house_turn(h, #condition)
void house_turn(house *h, const char *what); /* once, waiting for `what` */

/* ---- the members ---- */

void member_join(member *m);                                             /* the link is open */
void member_join_and_load(member *m);                                    /* WELCOME has come */
void member_become_ready(member *m);                                     /* and the coordinator knows that it is */
bool member_is_up(member *m);                                            /* so says Status */
bool member_is_drained(member *m);                                       /* likewise */
void member_send(member *m, uint16_t type, const void *bytes, size_t n); /* nothing where the link is closed */
void member_say_register(member *m, uint16_t type);                      /* REGISTER or READY */
void member_say_abort(member *m, const char *message);
/* All drafts are "aaa...", and so is every answer: a verifier accepts what its plan brought. n_items: 0 or 1. */
void member_say_result(member *m, uint64_t plan_id, uint32_t n_items);
void member_say_early(member *m, uint64_t plan_id); /* the same, before it */

void member_say_moved(member *m, st_code code, const char *message, uint64_t bytes, uint64_t took_ns); /* of the last order */

void member_say_faults(member *m, st_code code, const char *message); /* answers the last order, with two points */

/* ---- the client ---- */

void house_faults(house *h, const proto_faults_request *q); /* Faults; h->faults and h->told tell of it */
void house_forget(house *h);                                /* ForgetKv; h->forget and h->blocks */
void house_measure(house *h, uint32_t prompt_tokens);       /* MeasureKv; h->measure tells of it */

bool house_is_ready(house *h);                      /* so says Status, with h->reason */
void house_ask(house *h, uint32_t max_tokens);      /* a prompt of three tokens; h->request tells of it */
void house_ends_well(house *h, uint32_t n_tokens);  /* waits for the end of a request of which nothing is lost */
void house_is_served(house *h, uint32_t n_tokens);  /* both */
void house_drain(outcome *o, const proto_drain *d); /* h->drain or h->undo, which tells of it */

#endif
