/* sim: a virtual cluster of virtual time around the real scheduler.
 *
 * Nouns: a cluster (verifiers, drafters and their scheduler), its copies beside each other, each on its own, a load (requests in
 * a closed or open loop), a cost (what a plan takes), a link (latency and bandwidth between the coordinator and one node), a
 * record (what became of a request). A new request goes to the copy that has the fewest. What nodes take and how drafters draft
 * is given as measured (`consort simulate` reads it from a trace); what is asked, joined, verified and awaited is decided by
 * sched_step. KV that moves takes its time between the verifiers, and no other's.
 *
 * A request's text is a function of the seed: it is written so that lookup, which the scheduler runs for real, is right as often
 * as was measured; a drafter, or the corpus, draws its beliefs from its habit, and is right as often as nodes of such belief
 * were. Not in it: how costs grow with a sequence's length, drafters that know one subject better than another. Pure, as the
 * scheduler is: one seed is one run. One thread. */
#ifndef CONSORT_COORDINATOR_SIM_H
#define CONSORT_COORDINATOR_SIM_H

#include "coordinator/coordinator_core.h"

enum {
    SIM_COST_POINTS = 64,
    SIM_COST_DRAWS = 8,
    SIM_COST_PROMPTS = 16,
    SIM_MIN_VOCABULARY = 1024,
    SIM_MAX_COPIES = 1024,
    SIM_MAX_LENGTHS = 1 << 16,
    SIM_MAX_DRAFTERS = PROTO_MAX_DRAFTERS
};

/* What a plan takes from its sending to its result, by its size. */
typedef struct {
    uint32_t n;                                   /* points, at least one */
    uint32_t size[SIM_COST_POINTS];               /* rising; straight lines between, and beyond */
    uint64_t ns[SIM_COST_POINTS][SIM_COST_DRAWS]; /* rising: equally likely times */
    uint32_t
        n_prompts; /* what tokens of prompts add (a drafter: that it takes in): lines from nothing at none, then in proportion */
    uint32_t prompt_size[SIM_COST_PROMPTS]; /* rising, >= 1 */
    double prompt_ns[SIM_COST_PROMPTS];
    double sequence_ns; /* that each of a step's sequences but the first adds: its keys are its own */
} sim_cost;

typedef struct {
    sim_cost cost;            /* by the nodes that it proposes */
    const proto_habit *habit; /* the caller's, as all pointers here */
    uint32_t as;              /* < SIM_MAX_DRAFTERS; those of one number propose the same, as those of one file do */
} sim_drafter;

typedef struct {
    uint32_t n_prompt, n_answer; /* tokens, >= 1; an answer of max_tokens is cut, a shorter one ends by itself */
} sim_lengths;

typedef struct {
    uint64_t seed;
    uint32_t n_copies;
    sched_limits limits;         /* of each; n_vocab >= SIM_MIN_VOCABULARY */
    sim_cost step;               /* of each verifier, by rows at which the verifier chooses */
    double early_share;          /* of a step's time that is over when the verifier tells its early result; 0: it tells none */
    double early_right;          /* of these, by sequence, those that are right */
    const sim_drafter *drafters; /* [limits.n_drafters] */
    const proto_habit *lookup;   /* NULL: texts do not repeat */
    const proto_habit *corpus;   /* NULL: there is none */
    double alike;                /* of tokens, those as easy for one as for another; of others each is right by itself */
    uint64_t link_ns;            /* one way, beyond what the costs hold */
    double link_byte_ns;         /* a byte; 0: no limit */
    uint64_t move_ns;            /* KV that moves between verifiers: what a move takes beside its tokens ... */
    double move_token_ns;        /* ... and each token, one behind the other of all moves from one verifier */
    uint64_t decide_ns;          /* from an event to the plans that come of it */
    uint64_t client_ns;          /* closed loop: from an answer's end to the next request */
    uint32_t max_tokens;         /* of an answer */
    const sim_lengths *lengths;  /* [n_lengths] drawn from */
    uint32_t n_lengths;
    uint32_t n_slots;        /* most requests in the air; further ones are refused */
    uint64_t (*clock)(void); /* real ns, to time the scheduler; NULL: it is not timed */
} sim_options;

/* Times from the start of the load. */
typedef struct {
    uint32_t n_streams; /* 0: open */
    uint64_t n_requests;
    const uint64_t *arrivals_ns; /* open: [n_requests] rising */
} sim_load;

typedef struct {
    uint32_t cluster, n_prompt, n_tokens, n_first; /* n_first: of the tokens, those that came first */
    uint64_t sent_ns, first_ns, last_ns, end_ns;
    sched_finish finish;
    st_code code;
    sched_drafts drafts;
    uint32_t n_by_drafter; /* as in sched_action; a view of this call */
    const proto_drafter_figures *by_drafter;
} sim_record;
typedef void sim_taker(void *context, const sim_record *r);

typedef struct {
    uint64_t busy_ns, plans, bytes; /* since the start of the load; bytes: both ways */
} sim_node;

typedef struct {
    uint64_t now_ns;            /* since the start of the load, as all but the last */
    uint64_t events, decisions; /* decisions: calls of sched_step */
    uint64_t scheduler_ns;      /* real, in them */
    uint64_t asked, over, tokens;
    uint64_t scheduler_bytes; /* memory of one */
} sim_figures;

typedef struct sim sim;

/* 0 where an option is out of range. */
size_t sim_bytes(const sim_options *o);
/* `memory` [sim_bytes], 64-byte aligned, and all of `o` must live as long as the cluster. Errors: ST_ERR_INVALID_ARGUMENT names
 * the option. */
ST_CHECKED st_code sim_init(void *memory, const sim_options *o, sim **out, st_error *e);
/* Begins a load; the one before is over. Schedulers keep what they have learnt. `take` (may be NULL) is told of each end. */
void sim_begin(sim *s, const sim_load *load, sim_taker *take, void *context);
void sim_set_link(sim *s, uint64_t link_ns); /* messages that are sent from now on take so long instead */
bool sim_step(sim *s);                       /* the next event; false: the load is over */
sim_figures sim_get_figures(const sim *s);
sched_stats sim_get_stats(const sim *s, uint32_t cluster); /* of the copies, 0 .. n_copies - 1 */
sim_node sim_get_verifier(const sim *s, uint32_t cluster, uint32_t verifier);
sim_node sim_get_drafter(const sim *s, uint32_t cluster, uint32_t drafter);

#endif
