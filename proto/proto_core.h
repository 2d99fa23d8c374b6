/* proto_core: the three structs that travel, `request`, `plan` and `result`, as plain data. Nobody but proto/ sees protobuf.
 *
 * A request is one client call, validated; a plan says all that a group must run in one step (one forward pass over new tokens of
 * many sequences); a result says what came of it. A plan is complete: ranks never schedule or evict. Arrays in these structs are
 * views: they belong to the decoder's arena or to the scheduler's step, and live until its next call. Pure data. */
#ifndef CONSORT_PROTO_CORE_H
#define CONSORT_PROTO_CORE_H

#include "base/nouns.h"
#include "base/status.h"
#include <stddef.h>

enum {
    PROTO_MAX_PLAN_SEQUENCES = 256, /* work items of one step */
    PROTO_MAX_PROMPT_TOKENS = 1 << 20,
    PROTO_MAX_PROMPT_BYTES = 4 << 20,
    PROTO_MAX_MESSAGES = 1024,
    PROTO_MAX_ROLE_BYTES = 64,
    PROTO_MAX_STOPS = 16,
    PROTO_MAX_CHOICES = 16, /* of a request: each is a sequence with a prefill of its own */
    PROTO_MAX_STOP_BYTES = 256,
    PROTO_MAX_STOP_TOKENS = 64,
    PROTO_MAX_ENDS = 128, /* stop tokens and the model's own */
    PROTO_MAX_REPETITION = 10,
    PROTO_MAX_PENALTY = 2, /* presence, frequency: at most this far from 0 */
    PROTO_MAX_BIAS = 300,
    PROTO_MAX_TOP_LOGPROBS = 20,
    PROTO_MAX_PRIORITY = 8,   /* of a request: at most this far from 0 */
    PROTO_BIAS_LIMIT = 100,   /* a bias is at most this far from 0 */
    PROTO_MAX_RUNNING = 4096, /* sequences that a group holds at once: the most that one plan opens or closes */
    PROTO_REQUEST_ID_BYTES = 64,
    PROTO_CACHE_SALT_BYTES = 128,
    PROTO_SPECULATION_BYTES = 40, /* "fixed:" and the name of a drafter */
    PROTO_MAX_DRAFTERS = 32,      /* of a cluster, lookup included */
    PROTO_MAX_TRANSPORTS = 4,     /* kinds of them that a rank has (parallel/transport.h, as what follows) */
    PROTO_TRANSPORT_BYTES = 8,    /* of the name of a kind, NUL included */
    PROTO_ADDRESS_BYTES = 128,    /* of a rank on a transport, NUL included */
    PROTO_KEY_BYTES = 16,         /* of a transport's link */
    PROTO_MAX_FLOWS = 64,         /* of a move at one rank */
    PROTO_MAX_SCRATCH_BYTES = 8 << 20,
    PROTO_SCRATCH_UNIT = 256, /* a piece of scratch is a multiple of it */
    PROTO_MAX_SCRATCH_PIECES = 1 << 16,
};

typedef enum { PROTO_PROMPT_TEXT, PROTO_PROMPT_CHAT, PROTO_PROMPT_TOKENS } proto_prompt_kind;
typedef struct {
    const char *role, *content; /* UTF-8 without NUL inside, NUL-terminated */
} proto_message;

/* One client call after validation: every number is in its range (fields.def), every text is UTF-8, defaults are filled in. */
typedef struct {
    char request_id[PROTO_REQUEST_ID_BYTES + 1]; /* the client's, or drawn by the coordinator where empty */
    proto_prompt_kind prompt_kind;
    const char *text; /* PROTO_PROMPT_TEXT: [text_bytes], at least one byte */
    size_t text_bytes;
    const proto_message *messages; /* PROTO_PROMPT_CHAT: [n_messages] */
    uint32_t n_messages;
    const uint32_t *tokens; /* PROTO_PROMPT_TOKENS: [n_tokens] */
    uint32_t n_tokens;
    uint32_t max_tokens; /* 0: as many as the context holds, at most the cluster's default */
    bool has_seed;
    bool ignore_end; /* do not stop at the model's end-of-answer tokens */
    sampling sampling;
    int32_t priority;                              /* higher is served first */
    char cache_salt[PROTO_CACHE_SALT_BYTES + 1];   /* empty: shared by all who give none */
    char speculation[PROTO_SPECULATION_BYTES + 1]; /* policy of speculative/routes.def; empty: the topology's */
    uint32_t n_stops;
    const char *stops[PROTO_MAX_STOPS]; /* stop strings, not part of the answer */
    uint32_t n_stop_tokens;
    const uint32_t *stop_tokens; /* [n_stop_tokens] */
    uint32_t min_tokens;
    uint32_t n_choices; /* answers; the first is sampling.sample among those of the seed */
    uint32_t n_bias;
    const uint32_t *bias_token; /* [n_bias] */
    const float *bias;          /* [n_bias] */
    bool logprobs;
    uint32_t top_logprobs; /* more than 0: logprobs too */
    bool hidden_states;
} proto_request;

/* plan */
typedef enum {
    PROTO_PLAN_STEP = 1, /* to a verifier group: work */
    PROTO_PLAN_DRAFT     /* to a drafter: draft */
} proto_plan_kind;

typedef struct {
    seq_id seq;
    uint32_t seq_epoch;
    sampling sampling;
    token_rules rules;
    uint32_t n_tokens;
    const uint32_t *tokens; /* [n_tokens] the prompt (after a move: all committed tokens; to a drafter: the first of them) */
    uint32_t n_answered;    /* of these, the last ones are of the answer */
} proto_open;

/* Work on one sequence: compute `n_prefix` tokens that the ranks know and that are not yet in the KV cache, then the draft tree
 * under the last of them. If those reach the end of the known tokens, the leader chooses the next token at the last one and on
 * along the tree; a prompt chunk is a prefix without choice, a plain decode step a prefix of 1, a verification a prefix of 1 and
 * a tree. */
typedef struct {
    seq_id seq;
    uint32_t start;    /* tokens already in the KV cache; a rank that knows of fewer takes them from the blocks that join */
    uint32_t n_prefix; /* >= 1 */
    uint32_t n_blocks; /* blocks that join the sequence's block table with this step: new ones, before them whole ones that hold
                          what was computed for another sequence of the same tokens */
    const block_id *blocks; /* [n_blocks] */
    token_tree tree;
} proto_work;

/* Work of a drafter on one sequence: take in the committed tokens that it has not seen, then propose what follows. In the plan
 * that opens the sequence there are none, since the open carries them. With tentative tokens it proposes what would follow if
 * they were committed next, and forgets them. */
typedef struct {
    seq_id seq;
    uint32_t n_tokens;
    const uint32_t *tokens;    /* [n_tokens] */
    uint32_t budget;           /* most nodes of the tree, <= NOUNS_MAX_TREE */
    hidden_states hidden;      /* of the last committed token, to a drafter that wants it ... */
    bool hidden_at_end;        /* ... or of the last tentative one: these will probably be committed */
    uint32_t n_tentative;      /* <= NOUNS_MAX_TREE */
    const uint32_t *tentative; /* [n_tentative] */
} proto_draft;

typedef struct {
    uint64_t id; /* 1, 2, ... in a group epoch */
    proto_plan_kind kind;
    uint32_t n_swaps, n_close, n_open, n_work, n_draft; /* carried out in this order */
    const block_swap *swaps;                            /* [n_swaps] <= NOUNS_MAX_SWAPS; one after the other; STEP only */
    const seq_id *close;                                /* [n_close] */
    const proto_open *open;                             /* [n_open] */
    const proto_work *work;                             /* [n_work] <= PROTO_MAX_PLAN_SEQUENCES; STEP only */
    const proto_draft *draft;                           /* [n_draft] <= PROTO_MAX_PLAN_SEQUENCES; DRAFT only */
    bool ahead; /* DRAFT only: of no use once another plan has come behind it: may end early then, with what there is */
    bool early; /* STEP only: before its result a leader that can may send what it will probably be (PROTO_MSG_EARLY) */
} proto_plan;

/* result */
typedef struct {
    seq_id seq;
    st_code code;            /* ST_OK, or ST_ERR_NUMERIC: this sequence is lost and must be closed */
    uint32_t layer;          /* where it stopped being finite, for the message */
    uint32_t n_tokens;       /* accepted drafts, then the bonus token; 0 after a prompt chunk that does not end the prompt */
    const uint32_t *tokens;  /* [n_tokens] */
    token_logprobs logprobs; /* of `tokens`, if the open asked for them */
    hidden_states hidden;    /* likewise */
    /* of a draft; `tokens` is empty then */
    token_tree tree;
    uint32_t n_scored,
        n_hits; /* of the new tokens, how many the drafter had a choice of its own for, and how often that was it */
} proto_item;

typedef struct {
    uint64_t plan_id;
    uint64_t step_ns; /* of it the swaps took, out and in, on the slowest rank: */
    uint64_t swap_out_ns, swap_in_ns;
    uint32_t n_rows;  /* tokens computed */
    uint32_t n_moved; /* tokens whose KV was moved, since the accepted path was not the first of its tree */
    uint32_t n_items; /* one for each proto_work or proto_draft, in its order */
    const proto_item *items;
} proto_result;

/* What became of the drafts of a drafter: nodes that were verified, and of these accepted. A node that several proposed counts
 * for each of them. */
typedef struct {
    const char *name;
    uint64_t drafted, accepted;
} proto_drafter_figures;

/* How a drafter drafts: counts along its first choices, as long as these are the target's. At each depth (the last holds all
 * deeper ones): how often its draft ended before; else the belief in its first choice (rank 0) and in the one beside it (rank 1),
 * in bins of equal width, and how often that was the target's. */
enum { PROTO_HABIT_DEPTHS = 4, PROTO_HABIT_BINS = 16, PROTO_HABIT_RANKS = 2 };
typedef struct {
    char name[32]; /* of the drafter */
    uint64_t none[PROTO_HABIT_DEPTHS];
    uint64_t seen[PROTO_HABIT_RANKS][PROTO_HABIT_DEPTHS][PROTO_HABIT_BINS];
    uint64_t hits[PROTO_HABIT_RANKS][PROTO_HABIT_DEPTHS][PROTO_HABIT_BINS]; /* <= seen */
} proto_habit;

/* Where a rank is reached to move KV: the name of a kind of transport, and an address that means something to that kind only. */
typedef struct {
    char transport[PROTO_TRANSPORT_BYTES], address[PROTO_ADDRESS_BYTES]; /* neither is empty */
} proto_address;

/* What a rank says of itself when it joins. */
typedef struct {
    uint32_t rank, group, group_rank, group_size;
    char role[16]; /* "verifier", "drafter" */
    char kind[16]; /* of a drafter: a row of speculative/drafters.def */
    char name[32]; /* of its group */
    bool wants_hidden;
    char hostname[64];
    char isa[16];
    char precision[8], kv_type[8]; /* of a rank that holds a model */
    uint8_t model_hash[32], vocabulary_hash[32];
    uint64_t kv_blocks, kv_slots, weight_bytes, kv_bytes; /* kv_slots: blocks that its swap file holds */
    uint32_t max_rows, max_sequences, max_context, n_vocab, n_threads;
    uint32_t dim;                       /* of hidden states: the model's, or those that a drafter wants; 0: it wants none */
    uint32_t first_kv_head, n_kv_heads; /* of a verifier: the heads of the model whose KV it holds; 0 of them: it moves none */
    uint32_t n_addresses;
    proto_address addresses[PROTO_MAX_TRANSPORTS]; /* [n_addresses] the best first, each of another kind */
} proto_register;

/* ---- moves: the KV of one sequence goes from the ranks of one group to those of another (docs/kv-transfer.md) ---- */

/* What a rank sends to one of the other group, or gets from it. */
typedef struct {
    uint32_t peer;                  /* rank in its group */
    uint32_t first_head, n_heads;   /* numbered as in the whole model */
    uint32_t n_addresses;           /* 1 .. PROTO_MAX_TRANSPORTS */
    const proto_address *addresses; /* [n_addresses] of the peer, as in its proto_register */
    const uint8_t *key;             /* [PROTO_KEY_BYTES] of the link; both ends are told the same */
} proto_flow;

/* Instead of blocks: memory of no content, to measure with. */
typedef struct {
    uint32_t piece_bytes, n_pieces; /* 0: no measurement */
    bool raw;                       /* the transport alone, without checksums and without asking */
} proto_scratch;

typedef struct {
    uint64_t id;         /* never used again */
    uint32_t generation; /* 1 or more: of the transfers */
    bool target;         /* this rank's group receives */
    uint64_t after_plan; /* the last plan that this group has answered: all ranks take the decisions on it first */
    uint32_t n_tokens;   /* of the sequence */
    uint32_t n_ready;    /* source: so many of its blocks are computed; PROTO_MSG_MOVE_READY tells of more */
    uint32_t by_layer;   /* 0: all layers of a block first, 1: all blocks of a layer first */
    uint32_t lease_ms, retry_ms;
    char way[PROTO_TRANSPORT_BYTES]; /* only by this transport; empty: by the first that reaches */
    uint32_t n_blocks;               /* as many as n_tokens fill; 0 with scratch */
    const uint32_t *blocks;          /* [n_blocks] indices in this group's store */
    uint32_t n_flows;                /* <= PROTO_MAX_FLOWS; 0: another rank of the group has all that is to be sent */
    const proto_flow *flows;         /* [n_flows] of this rank */
    proto_scratch scratch;
} proto_move;

/* What came of it at one rank: it does not touch the blocks any more. */
typedef struct {
    uint64_t id;
    st_code code; /* ST_OK, of a target: each piece is in its block */
    char message[ST_MESSAGE_BYTES];
    char way[PROTO_TRANSPORT_BYTES]; /* the transport; "several", or empty: none */
    uint64_t bytes, took_ns;         /* of pieces that it sent or stored; from the order to the end */
} proto_moved;

#endif
