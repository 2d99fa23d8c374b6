/* coordinator_core: the scheduler. Decides which sequences of which requests run in the next step of which verifier group, and
 * which drafters draft for them; nothing else does.
 *
 * Nouns: a request (waiting, running, moving, ending), a group (of verifier ranks; numbered; all hold the same model), a drafter
 * (a rank that proposes draft trees, for requests of all groups; numbered), an event (what happened), an action (what the caller
 * must now do). Pure: events and the time come in, actions go out; no clock, socket, random number or allocation inside, so that
 * transcripts and the simulator run this very code.
 *
 *     REQUEST ─> waiting ─(blocks for it)───> prefill ─(prompt done)─> decode ─(stop, max, cancel, error)─> closing ─> gone
 *                   │                                         ┌──────────^ │                                  ^
 *                   │         (answered, lost or late)─── drafting <───────┘ (a token is committed: they are asked)
 *                   └──────(cancel, deadline; in each state)───────────────────────────────────────────────────┘
 *
 * A request that waits goes to the group that has the fewest, or knows most of its tokens, and stays there. If the group is lost
 * it waits again, before all who are due later, is prefilled in another from the tokens that it has, and goes on; without another
 * it ends. When a group's blocks run out, or one of higher priority finds no room, who is due last waits again likewise.
 *
 * From a group that is emptied a request moves to another with its KV, and so it does from one that only prefills: there the KV
 * moves block by block while it is computed. It is a pause for the client and nothing else. Both groups keep the blocks until the
 * move is over, whatever becomes of the request; a move that fails costs what the loss of the group would.
 *
 * Drafters change the speed and never the answer: a draft that is late, wrong, malformed or never comes costs its wait at most.
 * A sequence in `closing` waits for the plan and the move in flight that name it; only then do its blocks go back. Thread: the
 * coordinator's loop. */
#ifndef CONSORT_COORDINATOR_CORE_H
#define CONSORT_COORDINATOR_CORE_H

#include "proto/proto_core.h"

typedef struct sched sched;

enum { SCHED_MAX_GROUPS = 16 };

/* What a step of priority is worth: so much time of waiting; and, where not all that decode fit into a step, so many steps. Both
 * bound how long anybody waits for those of higher priority (sched_before, sched_state.c). */
#define SCHED_PRIORITY_NS UINT64_C(30000000000)
enum { SCHED_PRIORITY_STEPS = 8 };

/* How the drafters of a round go on: each alone, and their trees are joined; together from the surest token of all, a token at a
 * time; or as has given more so far, where several are asked and budgets are adaptive, else each alone. */
typedef enum { SCHED_MERGE, SCHED_LOCKSTEP, SCHED_FUSION_AUTO } sched_fusion;

/* When drafters go on from what a step is expected to commit, while it runs: never; once the verifier itself has told what that
 * will probably be (SCHED_EARLY); or from its beginning, behind the likeliest of the drafts. */
typedef enum { SCHED_AHEAD_OFF, SCHED_AHEAD_ON, SCHED_AHEAD_EARLY } sched_ahead;

/* What a group is for. Another serves all the same where no other can. */
typedef enum { SCHED_BOTH, SCHED_PREFILLS, SCHED_DECODES } sched_service;

typedef struct {
    uint32_t n_groups;      /* of verifiers: 0 .. n_groups - 1 */
    uint32_t max_requests;  /* running and waiting together */
    uint32_t max_running;   /* sequences of a group with blocks, <= PROTO_MAX_PLAN_SEQUENCES: one plan can close them all; where
                               there are drafters, those of all groups together */
    uint32_t max_queue;     /* waiting ones; past that RESOURCE_EXHAUSTED */
    uint32_t max_rows;      /* tokens of a step (prefix and tree rows), >= max_batch and > max_tree */
    uint32_t max_batch;     /* sequences of a step, <= PROTO_MAX_PLAN_SEQUENCES */
    uint32_t prefill_chunk; /* most prompt tokens of one sequence in a step that also decodes */
    uint64_t max_stall_ns;  /* such a step takes only as many of all prompts as keep nearly all of them that short, by what they
                               were measured to take, but a few always; 0: any number */
    uint32_t max_tree;      /* largest draft tree, reserved for each sequence; 0: nobody drafts */
    uint32_t max_context;   /* tokens of a sequence, prompt and answer */
    uint32_t n_blocks[SCHED_MAX_GROUPS];    /* [n_groups] KV blocks of each group ... */
    uint32_t n_slots[SCHED_MAX_GROUPS];     /* ... and slots of its swap files; 0: it has none */
    sched_service serves[SCHED_MAX_GROUPS]; /* [n_groups] */
    uint32_t max_moves;                     /* of a group, in and out; 0: KV never moves, and is computed anew */
    uint32_t min_move_tokens;               /* fewer are computed anew: that is less than a move costs */
    const char *speculation;                /* policy of requests that do not say; NULL: none. Read in sched_init */
    uint32_t n_drafters; /* <= SPEC_MAX_DRAFTERS - 2: 0 .. n_drafters - 1; lookup and the corpus, without a rank, follow */
    const char *const *drafter_names; /* [n_drafters] unique; they live as long as the scheduler */
    const void *corpus;               /* [corpus_bytes] an n-gram table, as drafter `corpus`; NULL: none. Lives as long, too */
    size_t corpus_bytes;
    struct spec_drafter *corpus_drafter; /* instead of that table: what drafts as `corpus`, at once; NULL: none */
    const uint8_t *vocabulary_hash;      /* [32] that the corpus must have; NULL: any. Read in sched_init */
    uint32_t n_vocab;                    /* where there are drafters: drafts of other ids are refused */
    bool prefix_cache;                   /* what is computed for one request serves all that begin with the same tokens */
    uint64_t kv_key;                     /* of kv_table_init */
    bool adaptive_budgets;               /* trees and waits follow what pays; false: max_tree each, and always waits */
    sched_ahead draft_ahead;
    sched_fusion fusion;
    float draft_floor;      /* of lookup, and of what is agreed on in lockstep: least belief in a node and all before it */
    uint64_t draft_wait_ns; /* that a request waits for its drafters; 0: they are not asked */
    /* [n_drafters] KV blocks of each; 0: it keeps no KV cache */
    uint32_t drafter_blocks[PROTO_MAX_DRAFTERS];
    uint32_t want_hidden;                                       /* mask of the drafters that want the target's hidden states */
    uint32_t dim;                                               /* of a hidden state */
    float (*similarity)(void *context, uint32_t a, uint32_t b); /* of two tokens' embeddings, -1 .. 1; NULL: unknown */
    void *similarity_context;
} sched_limits;

typedef enum {
    SCHED_REQUEST,      /* a new request */
    SCHED_CANCEL,       /* the client went away, its deadline passed, or a stop string was found: `code`, `finish` say which */
    SCHED_RESULT,       /* a plan's result, from `group` */
    SCHED_EARLY,        /* what that will probably be; as `result`, where items without tokens say nothing */
    SCHED_GROUP_UP,     /* `group` is ready (again), with no sequence and all blocks free */
    SCHED_GROUP_DOWN,   /* it is lost: its requests go on in another; without one they end with UNAVAILABLE */
    SCHED_DRAFTER_UP,   /* `drafter` is ready (again), with no sequence */
    SCHED_DRAFTER_DOWN, /* it is lost; its requests go on */
    SCHED_DRAFTS,       /* `result` of the last DRAFT action of `drafter` */
    SCHED_DRAIN,        /* refuse new requests, finish the accepted ones */
    SCHED_MOVED,        /* the move `move` is over: no rank of either group reads or writes its blocks any more, or is lost */
    SCHED_EMPTY,        /* `group` takes no new requests and gives its running ones to others, until SCHED_FILL, also where it
                           is lost and comes back; nothing if sched_may_empty says no */
    SCHED_FILL,         /* `group` takes requests again */
    SCHED_FORGET,       /* no group keeps KV of earlier requests any more; what requests hold stays theirs */
    SCHED_TIMER         /* the time of the last TIMER action has come */
} sched_event_kind;

typedef enum {
    SCHED_FINISH_NONE,
    SCHED_FINISH_STOP,
    SCHED_FINISH_LENGTH,
    SCHED_FINISH_CANCELLED,
    SCHED_FINISH_ERROR
} sched_finish;

typedef struct {
    sched_event_kind kind;
    seq_id seq; /* REQUEST: a new id, chosen by the caller; CANCEL */
    /* REQUEST. Views that live until the FINISHED action of this seq. */
    const uint32_t *tokens; /* [n_tokens] the prompt */
    uint32_t n_tokens;
    uint32_t max_tokens;
    sampling sampling;
    token_rules rules;       /* its ends: stop tokens, and the model's unless ignored */
    uint64_t cache_salt[2];  /* requests of different ones share nothing of the KV cache */
    uint64_t deadline_ns;    /* 0: none */
    int32_t priority;        /* -PROTO_MAX_PRIORITY .. PROTO_MAX_PRIORITY; higher comes first */
    const char *speculation; /* policy (speculative/routes.def), read in this call; NULL or empty: the default */
    /* CANCEL */
    st_code code;
    sched_finish finish;
    /* RESULT, EARLY, DRAFTS */
    const proto_result *result;
    /* GROUP_UP, GROUP_DOWN, RESULT, EARLY, EMPTY, FILL */
    uint32_t group;
    /* DRAFTER_UP, DRAFTER_DOWN, DRAFTS */
    uint32_t drafter;
    /* MOVED; `code` is ST_OK if each token's KV is in the blocks of the target */
    uint64_t move;
    uint64_t took_ns; /* from the first message to the last */
} sched_event;

typedef enum {
    SCHED_ACT_PLAN,   /* send `plan` to `group` (at most one in a step) */
    SCHED_ACT_DRAFT,  /* send `plan` to `drafter` (at most one in flight to each, and one of drafts ahead that it makes stale) */
    SCHED_ACT_TOKENS, /* tokens of `seq` are committed: hand them to the client */
    SCHED_ACT_FINISHED,   /* `seq` is over: reason and code; its id is never used again */
    SCHED_ACT_TIMER,      /* call again with SCHED_TIMER at `at_ns` (replaces an earlier one; 0: none) */
    SCHED_ACT_DRAINED,    /* after SCHED_DRAIN: nothing is left */
    SCHED_ACT_MOVE,       /* the KV of `seq` is to go from `group` to the group `to`: SCHED_MOVED answers, always */
    SCHED_ACT_MOVE_READY, /* the first n_ready blocks of `move` are computed: for a move that began before they were */
    SCHED_ACT_MOVE_CANCEL /* `move` is of no use any more: SCHED_MOVED still answers */
} sched_action_kind;

/* What became of drafts: steps that chose tokens, draft nodes that they verified, and of these accepted. */
typedef struct {
    uint64_t steps, drafted, accepted;
} sched_drafts;

typedef struct {
    sched_action_kind kind;
    seq_id seq;
    const proto_plan *plan;
    uint32_t group, drafter;
    const uint32_t *tokens;
    uint32_t n_tokens;
    token_logprobs logprobs; /* TOKENS, if asked for; a view of the event's result */
    hidden_states hidden;    /* likewise, and where a drafter wants them */
    sched_finish finish;
    st_code code;        /* FINISHED: ST_OK for stop and length */
    char message[160];   /* FINISHED with an error: for the client */
    uint32_t n_shared;   /* FINISHED: tokens of the prompt that were in the KV cache, computed for others */
    sched_drafts drafts; /* FINISHED: what drafting was worth to this request, and by drafter; lookup is the last */
    uint32_t n_by_drafter;
    const proto_drafter_figures *by_drafter;
    uint64_t at_ns;
    /* MOVE (from `group` to `to`; n_tokens tokens, n_blocks blocks there and here, the first n_ready of them computed),
     * MOVE_READY (n_ready), MOVE_CANCEL */
    uint64_t move; /* never used again */
    uint32_t to, n_blocks, n_ready;
    const block_id *from_blocks, *to_blocks; /* [n_blocks] */
} sched_action;

/* Actions of one call, MOVE_READY first, then plans, the groups' before the drafters' (nobody should wait for the clients); views
 * in them live until the next call of sched_step. An end token ends the answer and is not in TOKENS. A plan may hold no work,
 * only sequences to close; it is answered like any other. */
typedef struct {
    uint32_t n;
    const sched_action *items;
} sched_actions;

/* Of all groups together. */
typedef struct {
    uint32_t waiting, running;                                        /* running: with blocks, closing ones too */
    uint32_t blocks_total, blocks_used, blocks_reserved, blocks_kept; /* kept: nobody's, until room is needed */
    sched_drafts drafts;
    uint32_t n_by_drafter; /* as in sched_action; the view lives as long as the scheduler */
    const proto_drafter_figures *by_drafter;
    uint64_t late_drafts;                  /* of all drafters */
    uint64_t branched_trees;               /* verified trees that were no chain */
    uint64_t offered;                      /* nodes that trees had before they were cut to what pays */
    double expected;                       /* of the verified ones to be accepted, where budgets are adaptive */
    uint64_t asked_rounds, unasked_rounds; /* rounds of a sequence that asked drafters, also before they began; and that did not,
                                              since it would not pay */
    uint64_t lockstep_rounds;              /* of the former, those whose drafters went on together */
    uint64_t early_right, early_wrong, early_late; /* early results, by sequence; and those that came when their plan was over */
    uint64_t bets, bets_won, bets_dropped; /* drafts ahead: asked for; of use; ended early, since they could not be any more */
    uint64_t held_steps;                   /* times that a step was held back for drafts */
    uint64_t mixed_steps, mixed_ns, longest_mixed_ns; /* steps that computed prompts beside decoding sequences; of their times
                                                         the sum and the longest */
    uint64_t mixed_over;                              /* ... of them longer than limits.max_stall_ns */
    uint64_t moved_kv; /* accepted tokens whose KV was moved, as their path was not the first of its tree */
    uint64_t steps, rows, tokens, finished, rejected, largest_batch; /* finished: accepted ones that are over */
    uint64_t busy_ns, idle_ns;  /* while there were requests: of groups computing, and of their waiting (for drafts, mostly) */
    uint64_t stale_results;     /* dropped: not of the plan in flight */
    uint64_t looked_up, shared; /* tokens of sequences that began in a group; those that were in its KV cache already */
    uint64_t displaced;         /* times that a request was placed again, as its group was lost or emptied, or its move failed */
    uint64_t preempted;         /* times that one had to wait again, as those who are due before needed its blocks or place ... */
    uint64_t gave_way;          /* ... and of these, for one of higher priority that waited */
    uint64_t moves, moves_failed; /* of KV, that are over; and that brought nothing, cancelled ones too */
    uint64_t moved_tokens;        /* whose KV came with the others */
    uint64_t swapped_out, swapped_in, swap_out_ns, swap_in_ns; /* KV blocks; and what that took */
    uint32_t slots_total, slots_used;                          /* of swap files */
    uint32_t moving;                                           /* in flight */
    double move_token_ns; /* that a move of KV takes for each of its tokens, of late; 0: not known */
    uint32_t groups_up;
    bool draining;
} sched_stats;

/* Of one group: as in sched_stats. */
typedef struct {
    bool up, emptied;
    uint32_t coming; /* moves to it in flight; an emptied group with nothing coming and none running has nothing left */
    uint32_t running, blocks_total, blocks_used, blocks_reserved, blocks_kept;
    uint64_t steps, rows, busy_ns, idle_ns, looked_up, shared;
    uint64_t swapped_out, swapped_in, swap_out_ns, swap_in_ns;
    uint32_t slots_total, slots_used;
    double prompt_token_ns; /* that a prompt takes here for each of its tokens, of late; 0: not known */
    bool moves_pay;         /* to it: they take no longer than to compute, as far as both are known */
} sched_group_stats;

/* A drafter so far. `scored` tokens had a choice of its own against them, and `hits` of these equalled it, whether or not its
 * drafts were used. */
typedef struct {
    bool up;
    uint64_t drafts, late, bad; /* trees that came; dropped since their step had begun; that did not fit what was asked */
    uint64_t scored, hits;
    uint64_t wait_ns;            /* that rounds have lately waited for it, from their beginning to its draft */
    uint32_t followed;           /* requests that it has tokens of, or room for */
    uint32_t kv_blocks, kv_held; /* of its KV cache; those held for the requests that it follows */
    uint64_t dropped;            /* times that it had to forget a request, as others needed its blocks */
} sched_drafter_stats;

/* What a step of so many rows is held to take, as far as that was measured. */
enum { SCHED_MAX_COSTS = 96 };
typedef struct {
    uint32_t rows;
    double step_ns;
} sched_cost;

/* Whether drafters of this kind (speculative/drafters.def) want the target's hidden states. */
bool sched_wants_hidden(const char *kind);
bool sched_keeps_kv(const char *kind);          /* ... and whether they keep a KV cache of each request */
sched_fusion sched_fusion_of(const char *name); /* "auto", "lockstep"; else merge */
sched_ahead sched_ahead_of(const char *name);   /* "early", "on"; else off */
/* Bytes of memory that sched_init wants for these limits (64-byte aligned); 0 where a limit is out of range. */
size_t sched_bytes(const sched_limits *limits);
/* `memory` stays the caller's and must live as long as the scheduler. Errors: ST_ERR_INVALID_ARGUMENT names the limit. */
ST_CHECKED st_code sched_init(void *memory, const sched_limits *limits, sched **out, st_error *e);
/* `now_ns` never goes back. Never fails: what is wrong with an event comes out as an action (FINISHED with a code); a result that
 * does not belong to the plan in flight of its sender is dropped and counted. */
sched_actions sched_step(sched *s, uint64_t now_ns, const sched_event *event);
sched_stats sched_get_stats(const sched *s);
/* Whether SCHED_EMPTY would be carried out: it is emptied already, or another group that is up takes requests. Errors:
 * ST_ERR_UNAVAILABLE. */
ST_CHECKED st_code sched_may_empty(const sched *s, uint32_t group, st_error *e);
sched_group_stats sched_get_group(const sched *s, uint32_t group);
sched_drafter_stats sched_get_drafter(const sched *s, uint32_t drafter);
const proto_habit *sched_get_habit(const sched *s, uint32_t drafter); /* as in by_drafter; lives as long as the scheduler */
/* Of a group's steps, by rising rows; returns how many. */
uint32_t sched_get_costs(const sched *s, uint32_t group, sched_cost out[SCHED_MAX_COSTS]);
void sched_check(const sched *s); /* INVARIANTs of all states; debug builds run it each step */

#endif
