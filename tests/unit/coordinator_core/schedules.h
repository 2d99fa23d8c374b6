/* The world of test_schedules.c: its clients, verifiers and drafters as they are kept, and its random numbers. */
#ifndef CONSORT_TESTS_SCHEDULES_H
#define CONSORT_TESTS_SCHEDULES_H

#include "base/mem.h"
#include "coordinator/coordinator_core.h"
#include "kv/kv_core.h"
#include "tests/unit/speculative/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum {
    CLIENTS = 48,
    CONTEXT = 160,
    VOCABULARY = 60,
    BLOCKS = 64,
    SLOTS = 40,
    GUARD_BYTES = 64,
    ITEM_TOKENS = NOUNS_MAX_TREE + 2,
    DRAFTERS = 3,
    GROUPS = 3,
    MOVES = 64,
    BATCH = 24,
    DIM = 2
};

typedef struct {
    uint32_t prompt[CONTEXT + 8], n_prompt, max_tokens;
    uint32_t ends[3], n_ends;
    uint32_t alone[CONTEXT], n_alone; /* what it must get */
    uint32_t text[CONTEXT + 8];       /* the prompt, and that behind it */
    sched_finish alone_finish;
    uint64_t deadline_ns;
    int32_t priority;
    const char *speculation;
    uint64_t salt;
    bool wants_hidden, sent, over, cancelled, broken; /* broken: the verifier reported an error or nonsense for it */
    uint32_t got[CONTEXT], n_got;
    uint32_t epoch; /* of its last open */
} client;

typedef struct {
    bool open, hidden;
    uint32_t tokens[CONTEXT], n_known, n_cached;
    block_id blocks[BLOCKS];
    uint32_t n_blocks;
    uint64_t last_step; /* number of the step that named it last */
    uint32_t epoch;
} rank_sequence;

typedef struct {
    bool up;
    uint64_t steps;
    rank_sequence ranks[CLIENTS];
    uint32_t generation[BLOCKS];                   /* the last one seen of each block */
    uint32_t moved_here[BLOCKS];                   /* the generation in which it was moved here; 0: none */
    uint64_t cache[BLOCKS * NOUNS_BLOCK_TOKENS];   /* of each token's place: a hash of the salt and all tokens up to this one's */
    uint64_t swap_file[SLOTS][NOUNS_BLOCK_TOKENS]; /* likewise, of what lies there ... */
    bool filled[SLOTS];
    bool fetched[BLOCKS]; /* ... and came back, and was not named by a plan since */
    uint32_t n_swaps;     /* of the plan in flight */
    block_swap swaps[NOUNS_MAX_SWAPS];
    proto_result result; /* of the plan in flight; plan_id 0: none */
    proto_item items[BATCH];
    uint32_t tokens[BATCH][ITEM_TOKENS];
    uint16_t hidden[BATCH][ITEM_TOKENS][DIM];
} verifier;

/* In flight. */
typedef struct {
    uint64_t id; /* 0: none */
    uint64_t client;
    uint32_t from, to, n_blocks, n_ready, n_copied;
    block_id from_blocks[BLOCKS], to_blocks[BLOCKS];
    bool from_lost, to_lost, cancelled;
} kv_move;

typedef enum { RIGHT, WRONG, PARTLY, SLOW, DYING, NONSENSE, N_NATURES } nature;

typedef struct {
    nature nature;
    bool up;
    struct {
        bool open, was_closed;
        uint32_t tokens[CONTEXT], n;
        uint32_t n_blocks; /* taken, if it keeps a KV cache; they stay until it is closed */
    } sequences[CLIENTS];
    proto_result result; /* of the plan in flight; plan_id 0: none */
    bool ahead;          /* another may come behind it, and did: */
    uint64_t dropped;    /* its id; 0: none */
    proto_item items[BATCH];
    uint32_t tokens[BATCH][ITEM_TOKENS], parents[BATCH][ITEM_TOKENS];
    float probabilities[BATCH][ITEM_TOKENS];
} drafter;

typedef struct {
    uint64_t seed, random, now_ns, timer_ns;
    sched_limits limits;
    sched *s;
    unsigned char *memory;
    size_t memory_bytes;
    client clients[CLIENTS]; /* seq id i + 1 */
    uint32_t n_sent, n_over;
    uint32_t arrivals; /* of 100 events */
    bool drained;
    client *arriving; /* its request is being taken */
    verifier verifiers[GROUPS];
    bool emptied[GROUPS];
    uint32_t n_emptied;
    kv_move moves[MOVES];
    uint64_t last_move, n_ok, n_vain, n_called_off,
        n_early;                   /* moves: that came; failed; were cancelled; began with their prompt */
    uint64_t n_lost, n_moved;      /* groups with requests; requests that one with an answer begun was given by another */
    uint32_t most_swap_ns;         /* that a block takes */
    uint32_t answers;              /* most tokens of those that say */
    bool priorities;               /* requests have different ones */
    bool hurries;                  /* few run at once, time leaps, and deadlines are as far away as what priorities are worth */
    bool quotes;                   /* prompts begin with what was asked and answered before */
    uint64_t n_shared;             /* blocks that hold what was computed for another */
    uint64_t n_swapped[2];         /* blocks out and in */
    uint64_t n_branches, n_agreed; /* nodes beside another in the trees that it got; tokens asked for behind those agreed on */
    drafter drafters[DRAFTERS];
    uint64_t n_again; /* requests that a drafter was given again, after it had closed them */
    uint64_t actions; /* a hash of all */
    uint8_t *corpus;  /* of any text: it hits now and then */
    size_t corpus_bytes;
} world;

#define CHECK(w, cond)                                                                                                           \
    do {                                                                                                                         \
        if (!(cond))                                                                                                             \
            fail_msg("seed %llu, at %llu ns: %s", (unsigned long long)(w)->seed, (unsigned long long)(w)->now_ns, #cond);        \
    } while (0)

static inline uint32_t draw(world *w, uint32_t n) { /* xorshift64*: 0 .. n - 1 */
    w->random ^= w->random >> 12;
    w->random ^= w->random << 25;
    w->random ^= w->random >> 27;
    return (uint32_t)((w->random * UINT64_C(0x2545F4914F6CDD1D)) >> 33) % n;
}

/* FNV-1a over the tokens; where the first is even over the last one alone, so that the text comes to repeat itself and lookup
 * finds it. */
static inline uint32_t next_token(const uint32_t *tokens, uint32_t n) {
    uint64_t h = UINT64_C(14695981039346656037);
    for (uint32_t i = tokens[0] % 2 == 0 ? n - 1 : 0; i < n; i++) h = (h ^ tokens[i]) * UINT64_C(1099511628211);
    return (uint32_t)(h >> 20) % VOCABULARY;
}

/* The hidden state that the token after these is chosen from. */
static inline void state_after(const uint32_t *tokens, uint32_t n, uint16_t *out) {
    out[0] = (uint16_t)n;
    out[1] = (uint16_t)(next_token(tokens, n) * 257);
}

static inline bool drafted_for(const client *c) { return c->speculation[0] && strcmp(c->speculation, "none") != 0; }

#endif
