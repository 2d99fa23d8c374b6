/* The scheduler's state, and the leaves that sched.c calls. Only files of coordinator_core include this.
 *
 * Nouns: a request (a slot of the table), a group (the verifier group that computes it), a place (what a request has from its
 * admission to its end, whatever group it is in: its tokens, what is known of drafters' luck with it; while it waits again, one
 * that is due before it may take it), a list (requests of one state, in order), a flight (what the plan in flight has asked for,
 * kept to judge its result by), a round (from one committed token to the verification of the drafts behind it). Requests are
 * linked by slot number, so that all memory is one block of the caller's. */
#ifndef CONSORT_COORDINATOR_SCHED_INT_H
#define CONSORT_COORDINATOR_SCHED_INT_H

#include "coordinator/coordinator_core.h"
#include "kv/kv_core.h"
#include "speculative/speculative.h"

#define SCHED_NO_SLOT  UINT32_MAX
#define SCHED_NO_PLACE UINT32_MAX
#define SCHED_NO_MOVE  UINT32_MAX

typedef struct sched_group sched_group;

typedef enum {
    SCHED_FREE,
    SCHED_WAITING,  /* no group and no blocks yet, or not any more */
    SCHED_PREFILL,  /* more than one known token is not yet in the KV cache */
    SCHED_DRAFTING, /* as decode, and drafters have been asked: it waits for them */
    SCHED_DECODE,   /* all but the last known token are in it: ready for the next step */
    SCHED_MOVING,   /* in no plan: its KV is on its way to another group */
    SCHED_CLOSING,  /* over for the client; a plan or a move in flight still names its blocks */
    SCHED_N_STATES
} sched_state;

typedef struct {
    seq_id seq;
    uint32_t epoch;  /* 1 more with each placement */
    uint64_t number; /* rises with each request */
    int32_t priority;
    int64_t due_ns; /* who is due first comes first (sched_before) ... */
    int64_t turn;   /* ... and of those in SCHED_DECODE, who has the lowest turn */
    sched_state state;
    sched_group *group;      /* NULL: free or waiting */
    uint32_t previous, next; /* in the list of its state */
    uint32_t next_of_bucket; /* in the index of ids */
    const uint32_t *prompt;  /* [n_prompt] the caller's */
    uint32_t n_prompt;
    uint32_t n_known;  /* tokens of the sequence: prompt and committed */
    uint32_t n_cached; /* of them in the KV cache, by the results so far */
    uint32_t n_given;  /* of them there already when it came, or computed for another first; 0: it computes itself since */
    uint32_t n_limit;  /* n_known never exceeds it */
    sampling sampling;
    token_rules rules;    /* the caller's, as prompt */
    uint64_t deadline_ns; /* 0: none */
    kv_chain chain;       /* of its group's table ... */
    uint32_t n_told;      /* ... and of its blocks, those that the ranks have been told */
    kv_salt salt;
    uint32_t n_shared; /* of the prompt, cached for others before */
    uint32_t place;    /* SCHED_NO_PLACE: it was never admitted, or waits again and another has its place ... */
    uint32_t aside;    /* ... and its tokens are here; else SCHED_NO_PLACE */
    uint32_t *known;   /* [max_context] the n_known tokens; the scheduler's, by place or aside; NULL: of the prompt alone */
    spec_route route;
    uint32_t asked;       /* mask of drafters: the round began with waiting for them ... */
    uint32_t awaited;     /* ... and waits for these now */
    bool lockstep;        /* they go on together */
    bool tries;           /* they were asked since a fusion was to be tried */
    uint32_t probed;      /* mask of those of them that were to see whether they are still as slow as they were */
    uint32_t kind;        /* of the round (spec_worth_kind) */
    uint32_t budget;      /* of each drafter of the round */
    uint32_t given_up;    /* mask of drafters: they answered nonsense, or lost the sequence */
    uint64_t draft_by_ns; /* the round waits no longer */
    uint64_t full_ns;     /* its group's when the round began */
    uint32_t ahead; /* mask of drafters that were asked for what may come behind the step in flight, or the one just over ... */
    uint32_t ahead_there; /* ... and of those that have answered */
    uint32_t n_early;     /* tokens behind the known ones that the step in flight will probably commit; 0: it has not said */
    uint32_t n_agreed;    /* tokens that the drafters of the round go on from, behind the committed ones (lockstep) ... */
    float belief;         /* ... and the belief in all of these */
    bool knows_hidden;    /* that of its last token is kept, of those that are known, or early */
    sched_drafts drafts;
    float accepted;                    /* drafts a step, of late */
    proto_drafter_figures *by_drafter; /* [roster.n] */
    bool open;                         /* the group's ranks know it */
    bool displaced;                    /* it had to leave its last group, and has no other yet */
    bool moved_in_vain;                /* its KV did not arrive once: it is not moved again */
    uint32_t move;                     /* in s->moves, of its KV; SCHED_NO_MOVE */
    uint64_t last_plan;                /* the group's last plan that names it; 0: none */
} sched_request;

typedef struct {
    uint32_t first, last, n;
} sched_list;

/* KV on its way to another group. The request holds the blocks there, this holds those here. */
typedef struct {
    uint64_t id;                /* 0: none */
    uint32_t slot;              /* of the request; SCHED_NO_SLOT: its group is lost, and it goes on without this */
    sched_group *to;            /* NULL: lost */
    kv_chain chain;             /* in `to` */
    uint32_t n_there;           /* blocks that `to` has in its cache already ... */
    uint32_t n_blocks, n_ready; /* ... those that travel, behind them; of these are computed */
    bool early;                 /* it began before all of these were */
    bool cancelled, arrived;
} sched_transfer;

/* The drafts of one sequence in a step. */
typedef struct {
    spec_tree tree;
    uint32_t from[NOUNS_MAX_TREE]; /* masks of the drafters that proposed each node */
    uint32_t n_offered;            /* nodes, before the tree was cut to what pays */
    double promised;               /* of those that are left, expected to be accepted */
    spec_tree without;             /* of a round that has asked: what the step would have verified had nobody been ... */
    double promised_without;
} sched_tree;

/* One item of a plan in flight. */
typedef struct {
    uint32_t slot;
    uint32_t n_prefix;
    const sched_tree *drafts; /* NULL: none */
    const sched_tree *offer;  /* the same, uncut; NULL: budgets are fixed */
    bool chooses;             /* its prefix reaches the end of the known tokens */
} sched_asked;

typedef struct {
    uint64_t id; /* 0: none */
    uint64_t sent_ns;
    bool decodes;      /* each item is one token and its drafts ... */
    bool prompts;      /* ... or none is */
    bool others_draft; /* sequences waited for drafts as it began */
    bool full;         /* no further sequence could have decoded in it */
    uint32_t n_items, n_rows;
    uint32_t n_decoding, n_choosing; /* of the rows: of sequences that decode, drafts too; and with the last ones of prompts */
    uint32_t n_swapped[2];           /* KV blocks out and in (sched_way), before all else ... */
    double swap_ns;                  /* ... which are expected to take so long */
    sched_asked *items;              /* [max_batch] */
} sched_flight;

typedef enum { SCHED_OUT, SCHED_IN } sched_way; /* of a swap */

/* One item of a drafter's plan in flight. */
typedef struct {
    uint32_t slot;
    seq_id seq;       /* the slot may have another by the time of the answer */
    uint32_t n_known; /* tokens that it then has: those that the draft follows, early ones where the hidden state is of them */
    uint32_t n_new;   /* of them new to it: those it is scored by */
    uint32_t budget;  /* 0: it only takes them in */
    bool ahead;       /* behind tokens that are not committed */
} sched_draft_asked;

/* What a drafter that keeps a KV cache has for the request of a place. */
typedef struct {
    uint32_t slot;      /* of the request */
    uint32_t n_blocks;  /* 0: it does not follow it */
    uint64_t last_plan; /* the drafter's last one that names it */
} sched_hold;

typedef struct {
    uint64_t next_plan, flight; /* ids: the next to give, the one in flight (0: none) */
    sched_draft_asked *asked;   /* [max_batch] */
    uint32_t n_asked;
    uint32_t *tentative; /* [max_batch][NOUNS_MAX_TREE] */
    uint32_t *told;      /* [n_places] known tokens that it has; 0: not open */
    seq_id *ended;       /* [n_places] open there, to be closed by the next plan */
    uint32_t n_ended;
    uint32_t n_held;   /* of its KV blocks */
    sched_hold *holds; /* [n_places] */
    proto_plan plan;   /* views of the next three */
    seq_id *close;     /* [n_places] */
    proto_open *open;
    proto_draft *draft;              /* [max_batch], as open */
    uint64_t waits_ns[SPEC_FUSIONS]; /* as stats.wait_ns, by what kind of round it was */
    sched_drafter_stats stats;
} sched_drafter;

/* A verifier group and its requests. */
struct sched_group {
    sched *s;
    bool up, emptied;
    sched_service serves;
    kv_table *kv;
    sched_list lists[SCHED_N_STATES]; /* SCHED_PREFILL and behind */
    uint64_t next_plan, reported;     /* ids: the next to give; all up to `reported` have come back */
    sched_flight flight;
    seq_id *ended; /* [max_running] open on the ranks, to be closed by the next plan */
    uint32_t n_ended;
    sched_tree *trees; /* [max_batch] of the plan in flight */
    uint32_t n_trees;
    proto_plan plan;          /* views of the next three */
    seq_id *close;            /* [max_running] */
    proto_open *open;         /* [max_batch] */
    proto_work *work;         /* [max_batch] */
    block_swap *swaps;        /* [NOUNS_MAX_SWAPS] of the plan in flight; none where there are no slots */
    uint64_t last_swaps;      /* the last plan that had some; 0: none */
    uint32_t n_quiet;         /* plans from now on that are to have none, as a move waits for that */
    double swap_ns[2];        /* a block, out and in, on the average of late; 0: not known ... */
    double swap_slow_ns[2];   /* ... and if it is slow */
    uint64_t swap_seen_ns[2]; /* ... when that was last learnt */
    spec_cost cost;           /* of its steps, their ways included ... */
    spec_stall stall;         /* ... of those that compute prompts beside decoding sequences ... */
    double prompt_ns;         /* ... and of a token of a prompt, of late; 0: not known */
    spec_worth worth;
    bool asks;               /* rounds that begin now wait for drafters ... */
    bool lockstep;           /* ... which go on together, if there are several ... */
    uint64_t try_ns;         /* ... as a try of that fusion, if > 0 (spec_worth_fusion) ... */
    uint32_t round_kind;     /* ... and are of this kind (spec_worth_kind) */
    spec_price price;        /* of asking in them; budgets that are fixed know none */
    uint64_t full_ns;        /* that steps took which had no place left for one that decodes */
    bool tells;              /* its last step was to tell early what it will commit */
    uint64_t idle_since_ns;  /* the last result came */
    uint64_t held_until_ns;  /* it is kept idle for those who wait for drafts; 0: it is not */
    sched_group_stats stats; /* the counters; the rest is filled in when asked */
};

struct sched {
    sched_limits limits;
    sched_group *groups;     /* [n_groups] */
    sched_request *requests; /* [max_requests] */
    sched_list free, waiting;
    uint64_t n_accepted;
    uint32_t *buckets; /* [n_buckets] seq -> slot; those the client still waits for */
    uint32_t n_buckets;
    uint32_t n_places;                    /* n_groups * max_running */
    uint32_t *free_places, n_free_places; /* [n_places] a stack */
    uint32_t *free_asides, n_free_asides; /* [n_places + 1] likewise */
    uint32_t *of_place, *of_aside;        /* [n_places], [n_places + 1] slot of who took it last, and may have left it */
    sched_transfer *moves;                /* [n_moves] */
    uint32_t n_moves;                     /* n_groups * max_moves */
    uint64_t next_move;                   /* id */
    double move_ns;                       /* a token, of late; 0: not known, or too long ago */

    bool draining, drained;
    uint64_t timer_ns, announced_ns; /* no deadline is earlier than timer_ns; what the caller was told last */

    spec_lookup_options lookup;
    spec_ngram corpus;
    spec_drafter *corpus_drafter;            /* that table, or what the limits have instead */
    spec_roster roster;                      /* the drafters that have a rank, then lookup, then the corpus */
    spec_route route;                        /* of requests that do not say */
    sched_drafter *drafters;                 /* [n_drafters] */
    uint32_t busy, late;                     /* masks: a plan is in flight; and a request has waited for its answer in vain */
    double answer_ns[SPEC_MAX_DRAFTERS];     /* what rounds wait for each that they ask, of late; 0: not known ... */
    uint64_t answered_ns[SPEC_MAX_DRAFTERS]; /* ... and when that was last seen, or one was asked to see it */
    uint16_t *hidden;                        /* [n_places][dim] f16, where a drafter wants them */
    spec_tree *proposals;                    /* [n_places][roster.n] of this round */
    spec_tree *aheads;                       /* [n_places][n_drafters] drafts ahead */
    uint32_t *agreed;                        /* [n_places][max_tree] in lockstep */
    spec_calibration *calibrations;          /* [roster.n] */
    proto_habit *habits;                     /* [roster.n] */
    spec_trust *trust;                       /* [n_places][roster.n] */
    spec_agreement agreement;                /* of fused trees */
    spec_tally *hits;                        /* as trust: tokens that the drafter was scored by, and its hits */
    spec_tally *all_hits;                    /* [roster.n] the same over all requests */
    spec_tally *prior;                       /* as trust: the same, as its prompt lets expect ... */
    spec_profile *profiles;                  /* [n_places] ... by what this is ... */
    spec_prior *priors;                      /* [n_drafters] ... and by what answers have taught */
    spec_cosine *cosine;                     /* as trust */
    spec_share *shares;                      /* [max_batch] scratch, as the next */
    float *paths;                            /* [max_batch][max_tree] */
    proto_drafter_figures *by_drafter;       /* [1 + max_requests][roster.n] in total, then by slot */
    uint32_t *known;                         /* [n_places][max_context] of the admitted ... */
    uint32_t *aside;                         /* ... and [n_places + 1][max_context] of those whose place others have */

    sched_action *actions; /* [n_actions_max] the first n_groups + n_drafters + n_moves are kept for what comes first, which fills
                              them from behind */
    uint32_t first_action, n_actions, n_actions_max; /* n_actions: with what is before the first */
    uint64_t now_ns;                                 /* of this call */
    uint32_t *tokens;                                /* [max_batch][1 + max_tree] what TOKENS actions show */
    uint32_t n_tokens;
    sched_stats stats; /* the counters; the rest is filled in when asked */
};

/* sched_state.c: slots, lists, ids, and the way out of each state. */
void sched_state_init(sched *s);
/* In SCHED_WAITING, with seq, deadline and priority of the event; NULL: table full. */
sched_request *sched_slot_take(sched *s, const sched_event *ev);
/* The order of those that wait, and of prompts; who is last in it is the first to be sent away. */
bool sched_before(const sched_request *a, const sched_request *b);
sched_request *sched_find(sched *s, seq_id seq);  /* NULL: unknown, or over for the client */
sched_request *sched_at(sched *s, uint32_t slot); /* NULL: SCHED_NO_SLOT */
sched_request *sched_first(sched_group *g, sched_state state);
sched_request *sched_next(sched *s, const sched_request *r);                      /* in its list */
void sched_move(sched *s, sched_request *r, sched_state to);                      /* in that list behind all it is not before */
void sched_enter(sched *s, sched_request *r, sched_group *to, sched_state state); /* as sched_move, from another group */
uint32_t sched_n_running(const sched_group *g);                                   /* in SCHED_PREFILL to SCHED_MOVING */
sched_action *sched_act(sched *s, sched_action_kind kind, seq_id seq);
sched_action *sched_act_first(sched *s, sched_action_kind kind, const proto_plan *plan); /* before all others */
/* FINISHED; `message` may be NULL. */
sched_action *sched_say_finished(sched *s, seq_id seq, sched_finish finish, st_code code, const char *message);
/* The request is over for its client: its slot goes at once, or with the plan and the move in flight that name it. */
void sched_drop(sched *s, sched_request *r);
/* Both, for a request that was accepted. */
void sched_end(sched *s, sched_request *r, sched_finish finish, st_code code, const char *message);
void sched_leave_place(sched *s, sched_request *r); /* it is another's from now on, and no drafter follows it */
void sched_leave_aside(sched *s, sched_request *r); /* likewise, if its tokens are there */
/* Gives back blocks and slot of those in SCHED_CLOSING that no plan and no move in flight names. */
void sched_retire_reported(sched_group *g);
/* The group that computed it is lost: it waits for another, before all who are due later, with the tokens that it has. */
void sched_displace(sched_request *r);
/* It gives its blocks to those who are due before, and waits likewise. No plan in flight names it. */
void sched_preempt(sched_request *r);
/* As sched_displace, from a group that is up. No plan in flight names it. */
void sched_leave(sched_request *r);
/* The ranks of its group will close it. */
void sched_close_there(sched_request *r);

/* sched_admit.c: who may come in. */
st_code sched_check_limits(const sched_limits *l, st_error *e);
/* The most tokens that a request can ever have, prompt and answer; max_tokens 0: what the context holds. */
uint32_t sched_limit_tokens(const sched_limits *l, uint32_t n_prompt, uint32_t max_tokens);
/* Blocks that a sequence of at most n_tokens needs. */
uint32_t sched_blocks(const sched_limits *l, uint32_t n_tokens);
bool sched_could_hold(const sched_group *g, uint32_t n_tokens); /* it is up and could, alone at least */
/* One of the groups could; `open`: one that takes new requests. */
bool sched_fits_a_group(const sched *s, uint32_t n_tokens, bool open);
/* What it needs for its prompt and the next step; more when that is full (sched_make_room). */
uint64_t sched_first_tokens(const sched *s, const sched_request *r);
/* Of its tokens, those that may be taken from the cache, with the last of them to be computed all the same. */
uint32_t sched_to_share(const sched_request *r);
const uint32_t *sched_tokens(const sched_request *r);                                     /* [n_known] */
uint32_t sched_n_there(const sched_group *g, const sched_request *r, uint32_t *n_blocks); /* as kv_known */
/* Tokens of prompts that the group would compute until the first token of this one comes; n_there of its own are in the cache. */
uint64_t sched_work_until(const sched_group *g, const sched_request *r, uint32_t n_there);
/* Where it costs least of the groups that have room; `prefill`: those that prefill for others. NULL: none. */
sched_group *sched_pick_group(sched *s, const sched_request *r, bool prefill);
/* ST_OK, or why this request can never run; writes the message. */
st_code sched_can_ever_fit(const sched_limits *l, const sched_event *request, char *message, size_t message_bytes);
void sched_admit(sched *s); /* waiting ones, in order, as long as blocks last, each to the group where it costs least */
/* Before a step: those who decode have the blocks for it. Who is due last makes room where there are too few; who is due first
 * only where KV that comes holds the rest, which cannot be had before SCHED_MOVED. */
void sched_make_room(sched_group *g);
void sched_share(sched_request *r, uint32_t n); /* so many of its tokens are in the cache, without being computed for it */
/* What an item of the group's last step has brought into the cache is there for others, too ... */
void sched_keep(sched_request *r);
/* ... and prompts which begin like that go on behind it. No plan is in flight. */
void sched_adopt(sched_group *g);

/* sched_swap.c: KV blocks that go to the group's swap files, and come back. */
/* Before a step: how much may be swapped in it; prompts go on behind what comes back with it. */
void sched_fetch(sched_group *g);
/* What comes next of the prompt lies in a slot, and is fetched rather than computed. */
bool sched_waits_for_slots(const sched_group *g, const sched_request *r);
void sched_add_swaps(sched_group *g); /* to the plan, which is otherwise made */
/* It gives its blocks back, and will want them again. */
void sched_expect_again(const sched_request *r);
/* A result has come; takes what swaps took off the time of the step. */
void sched_learn_swaps(sched_group *g, sched_flight *f, const proto_result *result);
/* No swap of the group is to come or under way, so that its blocks may be read and written by a move. If not, plans without swaps
 * come soon. */
bool sched_swaps_rest(sched_group *g);

/* sched_move.c: KV that moves to another group. */
uint32_t sched_n_coming(const sched_group *g);
/* Whether it is worth while to compute its tokens in a group that prefills, and to move their KV. */
bool sched_prefills_apart(const sched *s, const sched_request *r);
/* Whether its first token comes sooner if it is computed where it will decode than behind the others in `apart` (NULL: no group
 * that prefills has room), and it fits one step there. */
bool sched_comes_sooner(const sched_group *here, const sched_group *apart, const sched_request *r);
bool sched_moves_pay(const sched_group *to); /* no longer than to compute there, as far as both are known */
/* The request is over for its client. */
void sched_cancel_move(sched *s, const sched_request *r);
void sched_lose_moves(sched_group *g); /* that come and go: it is lost */
void sched_take_moved(sched *s, const sched_event *ev);
void sched_learn_prompts(sched_group *g, const sched_flight *f); /* the result of a step has come */
/* Before a step: those whose KV has come go on; then groups that are to give requests to others do what can be done now. */
void sched_give_away(sched *s);
/* Behind it: prompts that have begun in a group which prefills for others move from now on. */
void sched_move_early(sched *s);
/* Before the plans: a rank takes both in this order, and the step would hold up the last blocks of a prompt by its whole time. */
void sched_tell_ready(sched *s);
void sched_check_moves(const sched *s);

/* sched_draft.c: drafters. */
bool sched_request_wants_hidden(const sched *s, const sched_request *r); /* a drafter that it may ask wants hidden states */
/* n tokens have been committed, which were chosen from these: the last one is kept, so that any drafter can take over. */
void sched_keep_hidden(sched *s, sched_request *r, const hidden_states *h, uint32_t n);
uint32_t sched_route(const sched *s,
                     const sched_request *r); /* whom its policy asks now: drafters that are up, lookup among them */
spec_tree *sched_proposals(const sched *s, const sched_request *r); /* [roster.n]; of one that has a place */
/* Of one that has nothing to compute first: as those around it. */
void sched_begin_round(sched *s, sched_request *r);
/* Sequences of the step of which all but the last known token are cached now: each asks drafters or goes straight on. */
void sched_begin_rounds(sched_group *g, const sched_flight *f);
/* Requests that have waited long enough go on. */
void sched_end_waits(sched_group *g);
uint64_t sched_next_wait_ns(const sched_group *g); /* 0: nobody waits */
/* What an item of a drafter's answer (NULL: it is missing) means for its request. */
void sched_take_draft(sched *s, sched_request *r, uint32_t drafter, const sched_draft_asked *asked, const proto_item *item);
/* The request behind an asked draft; NULL: it is over. */
sched_request *sched_asked_for(sched *s, const sched_draft_asked *asked);
/* Whatever was asked for it is for nobody. */
void sched_forget_asked(sched *s, const sched_request *r);
/* Goes on, where nobody is awaited any more. */
void sched_answered(sched *s, sched_request *r);
/* Fills the drafter's plan; false where there is nothing to send. */
bool sched_build_draft(sched *s, uint32_t drafter);
/* All that the drafter held is gone; nobody waits for it. */
void sched_forget_drafter(sched *s, uint32_t drafter);
/* The sequence is over: drafters that have it will close it. */
void sched_leave_drafters(sched *s, const sched_request *r);
void sched_check_drafters(const sched *s);

static inline bool sched_several(uint32_t mask) { return (mask & (mask - 1)) > 0; }
/* Drafters with a rank that this request's round may ask, or its next one where a step is in flight or a prompt in the making. */
uint32_t sched_remote_route(const sched *s, const sched_request *r);
/* Gives the drafter the next n_new tokens of the request, and asks for a draft of `budget` nodes, behind tentative[n] too. */
void sched_ask(sched *s, sched_drafter *d, sched_request *r, uint32_t n_new, uint32_t budget, const uint32_t *tentative,
               uint32_t n_tentative);
uint32_t sched_lacks(const sched_drafter *d, const sched_request *r); /* known tokens that it has not been given */

/* sched_follow.c: whom a drafter follows that keeps a KV cache. */
/* Holds room at the drafter for the known tokens of the request and n_behind more; false: there is none. `presses`: others of
 * less worth give way, or it does itself. */
bool sched_make_follow(sched *s, uint32_t drafter, sched_request *r, uint32_t n_behind, bool presses);
/* Of these drafters, those that have room for the request and for a tree behind it, as above. */
uint32_t sched_with_room(sched *s, sched_request *r, uint32_t drafters);
/* The drafter has what it was given of the request, and its room, no longer: its next plan closes it there. */
void sched_leave_drafter(sched_drafter *d, const sched_request *r);
void sched_forget_holds(sched *s, sched_drafter *d); /* all of them */
void sched_check_holds(const sched *s, const sched_drafter *d);
/* Tokens that a plan brings beside drafts that are waited for; who lacks more is not waited for. */
uint32_t sched_follow_chunk(const sched *s, uint32_t drafter);

/* sched_ahead.c: drafts behind what the step in flight will probably commit. */
spec_tree *sched_aheads(const sched *s, const sched_request *r); /* [n_drafters] */
/* Asks for them behind the group's step, as far as `rows` tokens go; returns how many are left. */
uint32_t sched_ask_ahead(sched_group *g, uint32_t drafter, uint32_t rows);
/* Of the plan that is made: whether drafters are to go on from what the group says early of it. */
bool sched_wants_early(const sched_group *g);
/* The group says what its step will probably commit. */
void sched_take_early(sched_group *g, const proto_result *early);
/* The step is over: keeps what was drafted behind just these tokens, as proposals; forgets the rest. Before they are known. */
void sched_settle_ahead(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item);
/* Takes from the awaited those whose drafts ahead have come true. */
void sched_use_ahead(sched *s, sched_request *r);
void sched_take_ahead(sched *s, sched_request *r, uint32_t drafter, const spec_tree *tree);
/* Whether what the drafter is at is of no use any more, and someone waits for it. */
bool sched_abandons(sched *s, uint32_t drafter);

/* sched_lockstep.c: a round in which drafters go on together. */
/* Whether a round that begins now and asks these is one. */
bool sched_in_lockstep(const sched *s, const sched_request *r, uint32_t asked);
uint32_t *sched_agreed(const sched *s, const sched_request *r); /* [max_tree] */
/* All who are awaited have answered: agrees on the next token and awaits them again; false: the round is over. */
bool sched_agree(sched *s, sched_request *r);
/* Adds the token that was drafted behind those agreed on to the drafter's tree. */
void sched_graft(sched *s, const sched_request *r, uint32_t drafter, const spec_tree *answer);

/* sched_habit.c: the tokens of an item count as habits of all who proposed something for it, or could have. */
void sched_learn_habits(sched *s, const sched_request *r, const proto_item *item);

/* sched_adapt.c: what drafts are worth, and how many are verified. */
void sched_forget_trust(sched *s, const sched_request *r); /* its place is new; its prompt is known */
void sched_learn_prior(sched *s, const sched_request *r);  /* it is over, and its place still its own */
spec_tally sched_prior(const sched *s, const sched_request *r, uint32_t drafter);
void sched_learn_step(sched_group *g, const sched_flight *f); /* its result has come */
/* The tokens of an item judge all that was proposed for it. */
void sched_learn_drafts(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item);
/* A drafter's proposals, with what its beliefs are worth. */
void sched_calibrate(const sched *s, const sched_request *r, uint32_t drafter, spec_tree *out);
spec_tally *sched_hits(const sched *s, const sched_request *r); /* [roster.n], as the next */
spec_cosine *sched_cosine(const sched *s, const sched_request *r);
void sched_learn_hits(sched *s, const sched_request *r, uint32_t drafter, const sched_draft_asked *asked, const proto_item *item);
/* Whether the group's rounds that begin now ask, and how drafters go on: `gain` is what local drafters are expected to bring each
 * of them, in accepted tokens; `several`: one of them may ask more than one drafter. */
void sched_decide_asking(sched_group *g, double gain, bool several);
double sched_local_gain(const sched *s, const sched_request *r);
/* From its round's beginning to now. Not whole: the draft was begun before, and tells nobody how long to expect the next. */
void sched_learn_wait(sched *s, uint32_t drafter, const sched_request *r, bool whole);
/* What it costs a round to ask the drafter: what it has waited for it, also in vain or for no time; in lockstep, for one token.
 */
void sched_learn_answer(sched *s, uint32_t drafter, const sched_request *r);
/* The most nodes of a tree that could be of use to it. */
uint32_t sched_most_drafts(const sched *s, const sched_request *r);
/* Fuses the drafts of the first n_decode in SCHED_DECODE to g->trees[0 .. n_decode) and cuts them to what pays in one step. */
void sched_choose_drafts(sched_group *g, uint32_t n_decode);

/* Whether the group had better stay idle until those in SCHED_DRAFTING can take part in its step. */
bool sched_holds_step(sched_group *g);

/* sched_stall.c: how long prompts may keep decoding sequences waiting. */
/* The most rows of prompts that a step with these rows takes yet. */
uint32_t sched_prompt_room(const sched_group *g, const sched_flight *f);
/* So many tokens of prompts do, beside all that run there, as if these decoded. */
bool sched_fit_a_step(const sched_group *g, double n_tokens);
void sched_learn_stall(sched_group *g, const sched_flight *f); /* its result has come */

/* sched_batch.c: what goes into a step. */
/* How many of `n_left` prompt tokens of one sequence go into a step that has `rows_left`. */
uint32_t sched_prompt_share(uint32_t n_left, uint32_t rows_left, uint32_t chunk, bool others_decode);
/* Sequences that may decode in the group's next step. */
uint32_t sched_places(const sched_group *g);
/* Fills g->plan and g->flight; false where there is nothing to send. */
bool sched_build_plan(sched_group *g);
/* By how many tokens the KV cache has grown: the prefix and the accepted drafts. The last token, the bonus, is not in it yet. */
uint32_t sched_newly_cached(const sched_asked *asked, const proto_item *item);
/* How many of the n tokens that a result brings the client gets, and whether that ends the request. */
uint32_t sched_accept(const sched_request *r, const uint32_t *tokens, uint32_t n, sched_finish *finish);
/* Counts a step that chose tokens: what was drafted for it and what of that was accepted, in all and by drafter. */
void sched_count_drafts(sched *s, sched_request *r, const sched_asked *asked, const proto_item *item);
/* Whether an item answers what was asked: its drafts are a path of the tree, its log-probabilities and hidden states those that
 * the request wants. */
bool sched_answers(const sched_asked *asked, const sched_request *r, const proto_item *item);

#endif
