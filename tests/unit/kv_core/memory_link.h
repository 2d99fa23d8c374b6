/* A link in memory for the tests of transfers: two ends, each with its transfer, in virtual time. It carries out what the
 * machines ask for, one thing at a time in an order that is drawn, and does to messages what a fault plan says.
 *
 * It is strict: bytes are read when a send completes and written when a message is delivered, a message that came to harm
 * must not be accepted, and after a close nothing is in flight. */
#ifndef CONSORT_TESTS_KV_CORE_MEMORY_LINK_H
#define CONSORT_TESTS_KV_CORE_MEMORY_LINK_H

#include "kv/transfer.h"

typedef enum {
    LINK_FLIP,
    LINK_CUT,
    LINK_GROW,
    LINK_STALE,
    LINK_DROP,
    LINK_LATE,
    LINK_DOUBLE,
    LINK_REORDER,
    LINK_N_FAULTS
} link_fault;

typedef struct {
    uint32_t per_256[LINK_N_FAULTS]; /* of messages; a message has one fault at most */
    uint32_t cancel_at[2], die_at;   /* turn in which an end (by role) cancels, in which end `dies` is dead; 0: never */
    kv_transfer_role dies;
    bool silent;                                  /* the other end is not told of the death */
    bool slow;                                    /* the prefill goes on only now and then while nothing else can happen */
    bool pieces_only;                             /* small messages come to no harm */
    void (*rewrite[2])(uint8_t *bytes, size_t n); /* by the role of the sender; NULL: as they are */
} link_plan;

enum { LINK_MAX_PARCELS = 512, LINK_SMALL_BYTES = 256, LINK_MAX_POSTS = KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS };

typedef struct {
    uint32_t slot;
    uint8_t *bytes;
    size_t n_bytes;
} link_post;

typedef struct {
    uint8_t *bytes;
    size_t n_bytes;
    uint64_t at_ns; /* not before */
    bool harmed;
} link_parcel;

typedef struct {
    kv_transfer *t; /* NULL: dead */
    link_post sends[LINK_MAX_POSTS], receives[LINK_MAX_POSTS];
    uint32_t n_sends, n_receives;
    uint32_t cancels[LINK_MAX_POSTS], n_cancels; /* slots */
    bool closing, broken;                        /* broken: the other end is gone and this one has been told */
    uint64_t wake_ns;
    link_parcel inbox[LINK_MAX_PARCELS];
    uint32_t n_inbox;
} link_end;

typedef struct {
    uint64_t messages, intact, harmed, by_fault[LINK_N_FAULTS];
} link_counts;

typedef struct memory_link {
    link_end ends[2]; /* by kv_transfer_role */
    uint64_t now_ns, *random;
    uint32_t turn;
    link_plan plan;
    link_counts *counts;
    const link_parcel *old; /* [n_old] messages of an earlier session, for LINK_STALE */
    uint32_t n_old;
    bool (*next_ready)(void *context, kv_event *out); /* the prefill's next READY; false: there is none left */
    void *context;
} memory_link;

void link_step(memory_link *k, kv_transfer_role role, const kv_event *e); /* the first of each end: KV_EVENT_TIME */
/* Something that can happen happens; false: nothing can any more. */
bool link_turn(memory_link *k);
void link_free_parcels(memory_link *k);

#endif
