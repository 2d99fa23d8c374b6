/* The virtual cluster's state, shared by sim.c (time, links, requests) and sim_nodes.c (what nodes answer).
 *
 * Nouns as in sim.h; a slot is the place of a request in the air, a source something that has at most one next event. All arrays
 * are the caller's memory. */
#ifndef CONSORT_COORDINATOR_SIM_INT_H
#define CONSORT_COORDINATOR_SIM_INT_H

#include "coordinator/sim.h"
#include "speculative/speculative.h"

typedef struct {
    bool used;
    seq_id seq;
    uint64_t number;  /* of the request, over all loads: what it is drawn by */
    uint32_t n_known; /* tokens, prompt and committed */
    uint32_t *text;   /* [text_room] the prompt, and what the verifier will choose */
    bool hidden;      /* states are asked for */
    sim_record record;
} sim_slot;

typedef struct {
    uint64_t down_free_ns, up_free_ns;
    sim_node figures;
} sim_link;

typedef struct {
    sim_link link;
    uint64_t move_free_ns; /* a verifier's: the last of what it gives away has left */
    proto_result result;   /* of the plan in flight; views of the next ones */
    proto_item *items;     /* [max_batch] */
    uint32_t *tokens;      /* [max_batch][1 + max_tree]; a drafter's: [max_batch][NOUNS_MAX_TREE] nodes */
    uint32_t *parents;     /* [max_batch][NOUNS_MAX_TREE], a drafter's */
    float *beliefs;
    uint32_t *told; /* [n_slots] a drafter's: tokens that it has */
    uint64_t n_plans;
    uint64_t result_ns; /* a verifier's: its next event is an early result, and the result comes then; 0: it is the result */
} sim_place;

/* KV on its way. */
typedef struct {
    uint64_t id; /* 0: none */
    uint32_t from, n_ready, n_blocks;
    uint64_t began_ns;
    bool cancelled;
} sim_move;

typedef struct {
    void *memory; /* the scheduler's */
    sched *sched;
    uint32_t n_requests; /* in the air */
    sim_place *nodes;    /* [n_groups + n_drafters] the verifiers, then the drafters */
    sim_move *moves;     /* [n_groups * max_moves] */
} sim_cluster;

/* Drafts where the scheduler has its corpus. */
typedef struct {
    spec_drafter drafter;
    const sim *sim;
    sim_drafter own;
} sim_corpus;

struct sim {
    sim_options o;
    sim_load load;
    sim_taker *take;
    void *context;
    uint64_t now_ns, start_ns;
    uint64_t n_sent, n_over, n_asked; /* of the load; over all loads */
    sim_figures figures;
    size_t scheduler_bytes;
    sim_cluster *clusters; /* [n_copies] */
    sim_slot *slots;       /* [n_slots] */
    uint32_t *free_slots, n_free;
    uint32_t text_room, *texts;
    double repeats; /* of tokens that lookup does not give, the share that stood in the text before ... */
    double others;  /* ... and of these, those that another occurrence of the last token gives */
    float copies[PROTO_HABIT_BINS];
    spec_lookup_options lookup;
    sim_corpus corpus;
    uint16_t *hidden;  /* [1 + max_tree][dim] zeros */
    uint64_t *returns; /* [n_slots] a ring: when streams that are free ask again */
    uint32_t first_return, n_returns;
    /* The next event of each source, as a heap. */
    uint32_t n_sources, n_heap;
    uint64_t *when; /* [n_sources] */
    uint32_t *heap; /* [n_sources] sources, the earliest first */
    uint32_t *at;   /* [n_sources] place in the heap; UINT32_MAX: none */
};

/* About what the codec makes of a message, a sequence in it, a token, a node of a tree; hidden states come on top. */
enum { SIM_MESSAGE_BYTES = 64, SIM_ITEM_BYTES = 24, SIM_TOKEN_BYTES = 3, SIM_NODE_BYTES = 10, SIM_BLOCK_BYTES = 8 };

enum { SIM_END = 0 /* the token that ends answers */ };

/* What a draw is for: each its own stream, so that none depends on how many another took. */
enum {
    SIM_DRAW_LENGTHS = 1,
    SIM_DRAW_TEXT,
    SIM_DRAW_TRIAL,
    SIM_DRAW_COST,
    SIM_DRAW_EARLY,
    SIM_DRAW_DRAFT /* and sim_drafter.as; the corpus has SIM_MAX_DRAFTERS; the last */
};
/* Four numbers in [0, 1). */
typedef struct {
    double u[4];
} sim_draw;
sim_draw sim_drawn(const sim *s, uint32_t stream, uint64_t number, uint32_t place);

/* sim_nodes.c */
void sim_write_text(const sim *s, uint32_t stream, uint64_t number, uint32_t *text, uint32_t n);
/* Finds s->copies and s->repeats; `scratch` is a text of text_room. */
void sim_fit_text(sim *s, uint32_t *scratch);
/* Fill the node's result; return what the plan takes, and the bytes of the answer. */
uint64_t sim_verify(sim *s, sim_place *v, uint32_t verifier, const proto_plan *p, uint64_t *bytes);
/* Makes the result what the verifier tells before it, or, for the second time, what it was. */
void sim_turn_early(const sim *s, sim_place *v);
uint64_t sim_propose(sim *s, sim_place *d, uint32_t drafter, const proto_plan *p, uint64_t *bytes);
void sim_init_corpus(sim *s);

#endif
