/* Speculative: what to draft, whom to ask, how to join.
 *
 * Drafters guess the target's next tokens as draft trees; the target accepts what equals its own choice, so a draft changes the
 * speed and never the answer (design/speculation.md, 1). Nouns: a tree (spec_tree), a drafter (one interface for all kinds,
 * drafters.def), a route (which drafters a request asks, routes.def) and the fusion of their trees. All of it is pure: no heap,
 * clock, socket or random number; objects live in the caller's storage. Any thread, one at a time for each object. */
#ifndef CONSORT_SPECULATIVE_SPECULATIVE_H
#define CONSORT_SPECULATIVE_SPECULATIVE_H

#include "base/nouns.h"
#include "base/status.h"
#include <stddef.h>

enum {
    SPEC_MAX_DRAFTERS = 32,               /* of a cluster, lookup included: a set of drafters is a mask of 32 bits */
    SPEC_MAX_SCORED = NOUNS_MAX_TREE + 1, /* most tokens that one step commits, so the most that a drafter scores at once */
    SPEC_NAME_BYTES = 32,                 /* longest name of a drafter, with its NUL */
};

/* ---- tree ---- */

/* A draft tree by value. Parents come first; parent[i] is a node's index < i, or NOUNS_TREE_ROOT for a child of the last
 * committed token. probability[i], in [0, 1]: the belief that node i is the target's choice if its parent was; 0: that is not
 * said, the node is there for those below it. No two children of one parent are the same token. */
typedef struct {
    uint32_t n;
    uint32_t token[NOUNS_MAX_TREE], parent[NOUNS_MAX_TREE];
    float probability[NOUNS_MAX_TREE];
} spec_tree;

/* Adds a node and returns its index. The caller has seen to n < NOUNS_MAX_TREE, parent and sibling rules. */
uint32_t spec_tree_add(spec_tree *t, uint32_t parent, uint32_t token, float probability);

/* The child of `parent` that is `token`, or NOUNS_TREE_ROOT if there is none. */
uint32_t spec_tree_child(const token_tree *t, uint32_t parent, uint32_t token);

/* What of `t` follows `token` as its first token; true if that is a child of the root. out != t. */
bool spec_tree_below(const spec_tree *t, uint32_t token, spec_tree *out);

/* The tokens on the way to the likeliest leaf (ties: the first), in token[NOUNS_MAX_TREE]; returns how many. */
uint32_t spec_tree_likeliest(const spec_tree *t, uint32_t *token);

/* Copies a tree that came from elsewhere, checked: at most `budget` nodes, tokens < n_vocab, parents first, siblings differ,
 * probabilities in [0, 1] (probability NULL: 1). Errors: ST_ERR_FORMAT, saying what is wrong; `out` is then empty. */
ST_CHECKED st_code spec_tree_take(spec_tree *out, const token_tree *from, uint32_t budget, uint32_t n_vocab, st_error *e);

bool spec_tree_check(const spec_tree *t, uint32_t budget); /* the rules above hold (tokens aside) */
token_tree spec_tree_view(const spec_tree *t);             /* borrowed from `t` */

/* Walks from the root along tokens[0, n): the nodes that were accepted, in order, in path[NOUNS_MAX_TREE] (may be NULL). Returns
 * how many; a result of a step has this many accepted drafts and then the bonus token. */
uint32_t spec_tree_walk(const token_tree *t, const uint32_t *tokens, uint32_t n_tokens, uint32_t *path);

/* ---- fusion ---- */

/* Joins the trees of n <= SPEC_MAX_DRAFTERS drafters to one of at most `budget` nodes. Where several propose the same token under
 * the same path, p = 1 - product of (1 - w_i p_i), w_i = weights[i] in [0, 1] (NULL: all 1); nodes join in order of path
 * probability (ties: the earlier tree, the earlier node); one that nobody believes in does not. from[i] (may be NULL): mask of
 * the trees that proposed node i. */
void spec_fuse(const spec_tree *trees, const float *weights, uint32_t n, uint32_t budget, spec_tree *out,
               uint32_t from[NOUNS_MAX_TREE]);

/* ---- calibration: what a drafter's beliefs are worth ---- */

enum { SPEC_DEPTHS = 4 /* the last holds all deeper nodes too */, SPEC_BINS = 16 };

/* Nodes whose parent was accepted, and how many of them were too; both fade. */
typedef struct {
    float seen, hits;
} spec_tally;

/* Of one drafter, over all requests: by depth and by belief, in bins of equal width. Zero: nothing seen. */
typedef struct {
    spec_tally bin[SPEC_DEPTHS][SPEC_BINS];
} spec_calibration;

/* Of one drafter in one request: the hits that its calibrated beliefs promised, and those that came. Zero: nothing seen. */
typedef struct {
    float promised, hits;
} spec_trust;

/* Writes `raw` with each belief p replaced by the share of hits that nodes of its depth and bin had, times what this request's
 * hits say of that. With little seen it stays near p. out != raw; the tree is the same otherwise. */
void spec_calibrate(const spec_calibration *c, const spec_trust *t, const spec_tree *raw, spec_tree *out);

/* The tokens behind the tree's root were committed, n >= 1 of them: every node whose parent lies on their path and whose own
 * place they reach is an observation, whether or not it was verified. */
void spec_calibration_learn(spec_calibration *c, spec_trust *t, const spec_tree *raw, const uint32_t *tokens, uint32_t n);

/* ---- agreement: what it is worth that several drafters proposed a node ---- */

enum { SPEC_VOICES = 3 /* the last holds all larger numbers too */, SPEC_AGREEMENT_BINS = 16 };

/* Over all fused trees, by how many drafters proposed a node and by its joint belief. Zero: nothing seen. */
typedef struct {
    spec_trust bin[SPEC_VOICES * SPEC_AGREEMENT_BINS];
} spec_agreement;

/* What the joint belief p of a node is worth that `from`, a mask as of spec_fuse, proposed. With little seen it stays near p. */
float spec_agreed(const spec_agreement *a, uint32_t from, float p);
/* As spec_calibration_learn, of a fused tree and its masks from[fused->n]. */
void spec_agreement_learn(spec_agreement *a, const spec_tree *fused, const uint32_t *from, const uint32_t *tokens, uint32_t n);

/* ---- budgets: how much of what was drafted pays ---- */

enum { SPEC_COST_BUCKETS = 96 };

/* What a step of one verifier group takes by its rows, as measured. Zero: nothing measured. */
typedef struct {
    uint64_t n_steps;
    double level_ns; /* moves with the machine's speed; shape is by which factor a bucket's steps differ from it */
    struct {
        float shape, rows; /* rows: their mean */
        uint32_t seen;
        uint64_t last; /* n_steps of its last one */
    } bucket[SPEC_COST_BUCKETS];
} spec_cost;

void spec_cost_learn(spec_cost *c, uint32_t rows, uint64_t step_ns); /* nothing, where one is 0 */
/* The time of a step of `rows` >= 1, in ns; before the first measurement in units of a step of one row. */
double spec_cost_ns(const spec_cost *c, uint32_t rows);
bool spec_cost_known(const spec_cost *c, uint32_t rows); /* measured a few times, and lately */
uint32_t spec_cost_bucket(uint32_t rows);                /* of rows >= 1; < SPEC_COST_BUCKETS */

/* What rows of prompts add to a step of one verifier group in which sequences decode. Zero: nothing measured. */
typedef struct {
    uint64_t n_steps;
    double over; /* what hardly any takes more than was expected, as a share of that */
    struct {
        float ns, rows; /* means */
        uint32_t seen;
        uint64_t last;           /* n_steps with its last one */
    } bucket[SPEC_COST_BUCKETS]; /* by the prompts' rows */
} spec_stall;

/* A step of n_rows that decode, drafts with them, and n_prompt of prompts has taken step_ns; nothing, where one is 0. `c`: what
 * steps without prompts take, here and below. */
void spec_stall_learn(spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t n_prompt, uint64_t step_ns);
/* The expected time of such a step; rather too much, where nothing like it was measured. n_rows, n_prompt >= 1. */
double spec_stall_ns(const spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t n_prompt);
/* The most rows of prompts, <= `most`, with which all but one of some forty such steps take no longer than bound_ns, as far as
 * what was measured tells; where nothing at all was, none. */
uint32_t spec_stall_rows(const spec_stall *s, const spec_cost *c, uint32_t n_rows, uint32_t most, uint64_t bound_ns);

/* What one sequence could have verified, and what of it is chosen. path[n]: path probabilities of a tree's nodes, never rising,
 * so that its first k nodes are a tree too. */
typedef struct {
    const float *path;
    uint32_t n;
    uint32_t taken; /* out */
    uint32_t open;  /* scratch */
} spec_share;

typedef struct {
    const spec_cost *cost;
    uint32_t n_rows;    /* of the step without drafts */
    uint32_t n_choices; /* sequences that get a token of it anyway */
    uint32_t n_free;    /* most rows of drafts */
    uint64_t wait_ns;   /* that the group has waited for the drafts */
    enum {
        SPEC_EXPLORES_NOT,
        SPEC_EXPLORES_NEAR,
        SPEC_EXPLORES_FAR
    } explores; /* takes the lowest, or the highest, count near the
                   best whose step is not well known, if any */
} spec_step;

typedef struct {
    double tokens, ns; /* expected of a step, its wait included */
} spec_yield;

/* Chooses how many nodes of each of n sequences are verified: in order of path probability, as many as give the most expected
 * tokens a time, over all counts (the time need not rise evenly); none, where that would gain less than 2 %. Returns what is
 * expected of the best, also where the step explores. */
spec_yield spec_divide(const spec_step *step, spec_share *shares, uint32_t n);

/* ---- worth: whether drafters are waited for, and how they go on ---- */

/* How the drafters that a round asks go on: each alone, and their trees are joined; or together, a token at a time. */
typedef enum { SPEC_MERGE, SPEC_LOCKSTEP, SPEC_FUSIONS } spec_fusion;

/* A round of n_sequences that has waited for drafters: what is expected of it, the wait counted, and of a step without drafters
 * and wait; and how often it waited for answers, one behind the other. */
typedef struct {
    spec_fusion fusion;
    uint32_t kind; /* spec_worth_kind */
    uint32_t n_sequences, n_trips;
    bool several; /* one of them has asked more than one drafter */
    bool tries;   /* it asked since the fusion was to be tried */
    spec_yield with, without;
    uint64_t wait_ns; /* in with.ns */
} spec_round;

/* Of rounds of one fusion and kind: sums that fade, once of few rounds; and once of many that asked several drafters, the waits
 * not in them but counted. */
typedef struct {
    spec_yield with, without, longer, longer_without;
    double n_longer, n_trips, trip_ns; /* trip_ns: of late */
    double wait_ns;                    /* of a round, of late */
    uint32_t n_rounds;
    uint64_t asked_ns, several_ns; /* when the last of them ended, and the last that asked several */
} spec_worth_rounds;

/* Zero: nothing known. */
enum { SPEC_LOADS = 12, SPEC_GAINS = 4, SPEC_ROUND_KINDS = SPEC_LOADS * SPEC_GAINS };
typedef struct {
    spec_worth_rounds kind[SPEC_FUSIONS][SPEC_ROUND_KINDS];
    spec_trust kept[SPEC_FUSIONS]; /* drafts that sequences were promised by such rounds, and those that they got; all fade ... */
    spec_trust kept_without;       /* ... and those that they would have been, and would have got, without */
    uint64_t probed_ns;            /* the last round of a kind that does not pay, tries aside */
    uint64_t quiet_ns,
        turn_ns; /* after a try of the other fusion nobody tries anything before the one; no fusion before the other */
} spec_worth;

/* Rounds are alike in how many sequences decode at once, and in what lookup, which nobody waits for, is expected to bring each:
 * `gain`, in accepted tokens. */
uint32_t spec_worth_kind(uint32_t n_sequences, double gain);
/* True where asking pays, or pays where fewer decode or less is expected of lookup and this kind is not known; where nothing is
 * known; and from time to time to see whether it does by now: so seldom that the waits cost half a hundredth. kind <
 * SPEC_ROUND_KINDS. */
bool spec_worth_asking(const spec_worth *w, spec_fusion f, uint32_t kind, uint64_t now_ns);
/* The fusion that gives more, for a round that may ask several drafters for up to `depth` tokens, and waits no longer than
 * wait_ns; *try_ns > 0: it is not that one, but the other one's turn, which comes so seldom that it costs a quarter of a
 * hundredth: such a round asks, whether it pays or not, and for so long nobody else tries anything once it has begun
 * (spec_worth_try). */
spec_fusion spec_worth_fusion(const spec_worth *w, uint32_t kind, uint32_t depth, uint64_t wait_ns, uint64_t *try_ns,
                              uint64_t now_ns);
/* How often such a round waits for answers, one behind the other, in the mean. */
double spec_worth_trips(const spec_worth *w, spec_fusion f, uint32_t kind);
void spec_worth_try(spec_worth *w, uint64_t try_ns, uint64_t now_ns); /* a round that tries has asked */
void spec_worth_learn(spec_worth *w, const spec_round *r, uint64_t now_ns);
/* Of a sequence in such a round: the drafts that it was promised and got, and what that would have been without. */
void spec_worth_judge(spec_worth *w, spec_fusion f, spec_trust with, spec_trust without);

/* What it costs to ask drafters. Zero: not known, and counts nothing. */
typedef struct {
    const double
        *wait_ns;   /* [roster.n] how long a round waits for each, in the mean of late; 0: not known, and held to be short */
    double step_ns; /* of a step without drafts; 0: not known ... */
    double tokens;  /* ... and what it brings each sequence, with what local drafters are expected to */
    double n_trips; /* such waits in a round, one behind the other */
    uint32_t depth; /* most tokens of a draft */
} spec_price;

/* ---- hedge: drafters by their hits ---- */

enum { SPEC_HEDGE_MOST = 3 /* drafters that a request asks at once */ };

/* n_tokens were committed and the drafter's own choice was n_hits of them; where it had none, that is a miss. */
void spec_hedge_learn(spec_tally *t, uint32_t n_tokens, uint32_t n_hits);
/* Of the tokens that come, those that the drafter is expected to choose, too: 0 .. 1; `prior`: as was to be expected before. */
float spec_hedge_share(const spec_tally *hits, const spec_tally *prior);
/* Of the candidates of n drafters, the few whose weights are near the best one's; arrays as of spec_record. */
uint32_t spec_hedge_pick(const spec_tally *hits, const spec_tally *prior, uint32_t n, uint32_t candidates);
/* The same, of those candidates whose answers are worth the wait: what gives the most expected tokens a time. */
uint32_t spec_hedge_ask(const spec_tally *hits, const spec_tally *prior, const spec_price *price, uint32_t n,
                        uint32_t candidates);

/* ---- prior: what a prompt says of drafters ---- */

enum { SPEC_PROFILE_BITS = 11, SPEC_PROFILE_BUCKETS = 1 << SPEC_PROFILE_BITS };

/* Which tokens a prompt has, as a set of hashes. */
typedef struct {
    uint64_t word[SPEC_PROFILE_BUCKETS / 64];
    uint32_t n; /* of them set */
} spec_profile;

/* Of one drafter, from the answers that it has followed. Zero: nothing seen. */
typedef struct {
    spec_tally all; /* over answers: their number, and the shares of tokens that it hit; both fade */
    float weight[SPEC_PROFILE_BUCKETS];
} spec_prior;

void spec_profile_of(spec_profile *p, const uint32_t *tokens, uint32_t n);
/* What to expect of an answer to such a prompt, as a tally that spec_hedge_share starts from; with nothing seen, nothing. */
spec_tally spec_prior_of(const spec_prior *d, const spec_profile *p);
/* An answer is over in which the drafter had these hits; nothing, where it was not scored. */
void spec_prior_learn(spec_prior *d, const spec_profile *p, const spec_tally *hits);

/* ---- cosine: drafters by how sure and how near to the target they are ---- */

enum { SPEC_COSINE_MOST = 3 /* drafters that a request asks at once, as with hedge */ };

/* How alike two tokens are to the target: the cosine of their embeddings. similarity NULL: not at all, unless they are the same.
 */
typedef struct {
    float (*similarity)(void *context, uint32_t a, uint32_t b);
    void *context;
} spec_likeness;

/* Of one drafter in one request. Zero: nothing seen. */
typedef struct {
    float seen, belief,
        similarity;   /* places that it has drafted for; over these its beliefs, its tokens' similarities; all fade */
    uint32_t n_tried; /* rounds that asked it */
} spec_cosine;

/* A round asked the drafter, this is what came of it, and n >= 1 tokens were committed behind the tree's root. */
void spec_cosine_learn(spec_cosine *c, const spec_tree *draft, const uint32_t *tokens, uint32_t n, const spec_likeness *likeness);
void spec_cosine_accepted(float *accepted, uint32_t n); /* a step accepted n drafts: the recent mean; 0 at first */
/* Of the candidates of n drafters, those to ask: while few drafts are accepted, one that was tried least is among them.
 * wait_ns[n] as of spec_price, NULL: not known; of equals the faster. */
uint32_t spec_cosine_pick(const spec_cosine *c, const double *wait_ns, uint32_t n, uint32_t candidates, float accepted);

/* ---- routes: whom to ask ---- */

/* The cluster's drafters, numbered; lookup is one of them, by its name. Names are borrowed. */
typedef struct {
    uint32_t n; /* <= SPEC_MAX_DRAFTERS */
    const char *name[SPEC_MAX_DRAFTERS];
    uint32_t up;    /* mask of those that answer at present */
    uint32_t local; /* mask of those without a rank, for which nobody waits: always up */
} spec_roster;

typedef struct {
    uint8_t policy;  /* row of routes.def */
    uint8_t drafter; /* of `fixed:<name>` */
} spec_route;

/* Of n <= SPEC_MAX_DRAFTERS - 2 drafters that have a rank, down; of lookup behind them; and of the corpus, where there is one. */
#define SPEC_CORPUS "corpus"
spec_roster spec_roster_of(const char *const *names, uint32_t n, bool corpus);

/* What a policy may know of a request. */
typedef struct {
    const spec_tally *hits;    /* [roster.n] of this request: tokens by which each drafter was scored, and its hits */
    const spec_tally *prior;   /* [roster.n] the same, as was to be expected when it began */
    uint64_t round;            /* steps that chose tokens for it */
    const spec_cosine *cosine; /* [roster.n] of this request */
    float accepted;            /* drafts that its steps accepted of late, in the mean */
    spec_price price;
} spec_record;

/* Reads a row of routes.def: "none", "lookup", "all", "fixed:<name>" ... Errors: ST_ERR_INVALID_ARGUMENT, naming what there is.
 */
ST_CHECKED st_code spec_route_parse(spec_route *r, const char *text, const spec_roster *roster, st_error *e);
/* Masks of drafters that are up: to ask now; and to tell the request's tokens, asked or not, since the policy wants their hits.
 */
uint32_t spec_route_ask(const spec_route *r, const spec_roster *roster, const spec_record *record);
uint32_t spec_route_follow(const spec_route *r, const spec_roster *roster);
uint32_t spec_route_may(const spec_route *r, const spec_roster *roster); /* those that it may ever ask, up or not */

/* ---- drafters ---- */

/* One sequence in one round of a drafter. Every call gives all committed tokens, and says how many are new to this drafter.
 * Tentative tokens may stand behind them: the draft follows those too, but only committed ones are scored, and the next call need
 * not know of them. Tokens of an early result whose hidden state is given count as committed here; of a few hundredths of these
 * the result says otherwise, and then the next call is scored by what it says, too. */
typedef struct {
    seq_id seq;
    sampling sampling;
    const uint32_t *tokens; /* [n_tokens + n_tentative] all that is committed, at least one, prompt first; then the tentative */
    uint32_t n_tokens;      /* committed */
    uint32_t n_tentative;   /* <= NOUNS_MAX_TREE */
    uint32_t n_new;         /* of the n_tokens, the last n_new came since the last call for `seq`; all of them at first */
    hidden_states hidden;   /* of the last committed token, where the kind wants it and it is known */
    uint32_t budget;        /* most nodes of the tree, <= NOUNS_MAX_TREE; 0: only keep up and score */
    spec_tree *tree;        /* out: the draft */
    uint32_t n_scored; /* out: of the last SPEC_MAX_SCORED new tokens, those for which the drafter had a choice of its own ... */
    uint32_t n_hits;   /* out: ... and those where that choice was the token */
} spec_draft;

typedef struct spec_drafter spec_drafter;
typedef struct {
    const char *name; /* of the kind */
    bool wants_hidden;
    ST_CHECKED st_code (*draft)(spec_drafter *d, spec_draft *items, uint32_t n, st_error *e);
    void (*close)(spec_drafter *d, seq_id seq); /* forgets a sequence; unknown ones are ignored */
    void (*destroy)(spec_drafter *d);           /* NULL-safe */
} spec_drafter_ops;

typedef struct {
    uint32_t token;
    float p, score; /* that the token comes; score: what orders them */
} spec_belief;
/* Puts a drafter's own choice for `position` first, and the others behind it, best first; returns how many the request's filters
 * leave. b[n] < 64: candidates and their p, which sum to at most 1. The own choice at temperature T > 0 adds the target's noise
 * for (seed, position, token) to the belief; ties go to the lowest id. So the same seed gives the same draft, and the best
 * agreement with the target that the belief allows. */
uint32_t spec_believe(spec_belief *b, uint32_t n, const sampling *s, uint32_t position);
static inline uint32_t spec_draft_end(const spec_draft *it) { return it->n_tokens + it->n_tentative; } /* the root's position */

struct spec_drafter {
    const spec_drafter_ops *ops; /* first field of every kind's struct */
    /* Whether the draft should end early, with what there is, since it is of no use any more: kinds that compute ask between
     * passes. NULL: it should not. */
    bool (*stop)(void *context);
    void *stop_context;
};
static inline bool spec_drafter_stops(const spec_drafter *d) { return d->stop && d->stop(d->stop_context); }

/* The kinds, one row of drafters.def each. Pure kinds run anywhere; the others need what a worker has. */
typedef struct {
    const char *name, *help;
    bool pure, wants_hidden, keeps_kv;
} spec_kind;
enum {
#define DRAFTER(name, where, wants_hidden, keeps_kv, help) SPEC_KIND_##name,
#include "speculative/drafters.def"
#undef DRAFTER
    SPEC_N_KINDS
};
extern const spec_kind spec_kinds[SPEC_N_KINDS];
const spec_kind *spec_kind_find(const char *name); /* NULL if there is no such kind */

/* ---- lookup: the request's own text ---- */

typedef struct {
    uint32_t min_match, max_match; /* tokens of a suffix that must, and that can, count: 1 <= min <= max <= 16 */
    float floor;                   /* see spec_ngram */
} spec_lookup_options;
#define SPEC_LOOKUP_OPTIONS ((spec_lookup_options){.min_match = 1, .max_match = 6})

/* Drafts a chain: what followed the latest of the longest earlier occurrences of the last tokens. O(n_tokens). */
void spec_lookup(const spec_lookup_options *o, const uint32_t *tokens, uint32_t n_tokens, uint32_t budget, spec_tree *out);

typedef struct {
    spec_drafter drafter;
    spec_lookup_options options;
} spec_lookup_drafter;
spec_drafter *spec_lookup_init(spec_lookup_drafter *storage, const spec_lookup_options *o); /* nothing to deinit */

/* ---- ngram: a back-off table over token ids ---- */

enum { SPEC_NGRAM_MAX_ORDER = 4, SPEC_NGRAM_MAX_WIDTH = 4, SPEC_NGRAM_HASH_BYTES = 32 };

typedef struct {
    uint32_t order, n_vocab; /* order: tokens of the longest n-gram */
    uint8_t vocabulary_hash[SPEC_NGRAM_HASH_BYTES];
    uint64_t n_tokens; /* it was counted from */
    uint32_t least;    /* of spec_ngram_size and _write: contexts of two and more tokens seen less often are left out */
    struct {
        uint32_t n_contexts, n_entries;
    } level[SPEC_NGRAM_MAX_ORDER]; /* [c]: contexts of c tokens, and the tokens seen after them */
} spec_ngram_info;

typedef struct {
    spec_drafter drafter;
    spec_ngram_info info;
    uint32_t width; /* most children of a node of its trees: 1 (chains) to SPEC_NGRAM_MAX_WIDTH; 2 after init */
    float floor;    /* a node that is believed, with all before it, to be right with less probability is not worth its row of the
                       step, and not proposed; 0 after init */
    struct {
        const uint8_t *contexts, *entries;
    } level[SPEC_NGRAM_MAX_ORDER];
} spec_ngram;

/* Opens a table over its file's bytes, which must outlive it (map the file). All of it is checked: the drafter never trusts the
 * file again. vocabulary_hash NULL: any. Nothing to deinit. Errors: ST_ERR_FORMAT, ST_ERR_MISMATCH (another vocabulary),
 * ST_FATAL_MEMORY (libcrypto's). */
ST_CHECKED st_code spec_ngram_init(spec_ngram *g, const void *bytes, size_t size_bytes, const uint8_t *vocabulary_hash,
                                   st_error *e);

/* Counts texts into a table: sort, size, write. tokens[n_tokens] < info->n_vocab: the texts one behind the other, with
 * SPEC_NGRAM_BREAK between them. spec_ngram_sort fills index[n_tokens], which the other two need. `info` gives order, n_vocab and
 * vocabulary_hash; spec_ngram_size fills in the rest and returns the bytes of the file, spec_ngram_write writes so many.
 * Errors: ST_FATAL_MEMORY (libcrypto's). */
#define SPEC_NGRAM_BREAK UINT32_MAX
void spec_ngram_sort(const uint32_t *tokens, uint32_t n_tokens, uint32_t order, uint32_t *index);
uint64_t spec_ngram_size(const uint32_t *tokens, uint32_t n_tokens, const uint32_t *index, spec_ngram_info *info);
ST_CHECKED st_code spec_ngram_write(const uint32_t *tokens, uint32_t n_tokens, const uint32_t *index, const spec_ngram_info *info,
                                    uint8_t *bytes);

#endif
