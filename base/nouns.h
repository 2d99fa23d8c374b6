/* Nouns: the words that all rooms share.
 *
 * A sequence is the tokens of one request; a block holds NOUNS_BLOCK_TOKENS tokens of its KV cache; a draft tree proposes
 * continuations of it. Ids are structs of one number, so that one cannot be passed for another; a block id carries a
 * generation, so that a stale one is refused. Plain data, no functions: owners are said where they travel. */
#ifndef CONSORT_BASE_NOUNS_H
#define CONSORT_BASE_NOUNS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NOUNS_BLOCK_TOKENS = 32, /* tokens in a KV block; also the attention's chunk of keys (numerics.md) */
    NOUNS_MAX_TREE = 64,     /* draft nodes of one sequence in one step */
    NOUNS_MAX_SWAPS = 1024,  /* of one step */
};

typedef struct {
    uint64_t value;
} seq_id; /* unique in a cluster epoch; 0 is none */

typedef struct {
    uint32_t index, generation;
} block_id; /* a block of one group's KV store; the coordinator owns them all */

/* What a block holds goes to a slot of the swap file that each rank of its group has, or comes back from there. */
typedef struct {
    uint32_t block, slot;
    bool in; /* from the slot into the block */
} block_swap;

/* A draft tree under the last token of a sequence: flat arrays, parents first. parent[i] is a node's index < i, or
 * NOUNS_TREE_ROOT for a child of the last token. The arrays belong to whoever made the tree. */
#define NOUNS_TREE_ROOT UINT32_MAX
typedef struct {
    uint32_t n_nodes;
    const uint32_t *token;    /* [n_nodes] */
    const uint32_t *parent;   /* [n_nodes] */
    const float *probability; /* [n_nodes] drafter's belief; may be NULL */
} token_tree;

/* How a request's tokens are chosen (docs/numerics.md): a function of logits, seed, position and the tokens before it. Zeroed:
 * greedy. */
typedef struct {
    float temperature; /* 0: argmax */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    uint32_t top_k;    /* 0: off */
    uint64_t seed;
    uint32_t sample;  /* index among a request's `n` */
    float typical_p;  /* 0 and 1: off */
    float repetition; /* 0 and 1: off; logits of tokens that were there before are divided by it, negative ones multiplied */
    float presence, frequency; /* 0: off; taken off the logits of tokens of the answer, once and by their count */
} sampling;

/* What else a request asks of its tokens; of variable size, so it lives with the sequence. The arrays belong to whoever made it.
 */
typedef struct {
    uint32_t min_tokens; /* `ends` cannot come before the answer has so many */
    uint32_t n_ends, n_bias;
    const uint32_t *ends;       /* [n_ends] ids that end the answer */
    const uint32_t *bias_token; /* [n_bias] ids, each once; their logits get ... */
    const float *bias;          /* [n_bias] ... so much added */
    uint32_t logprobs;          /* 0: not asked for; n + 1: of each token, and of the n likeliest */
    bool hidden;                /* hidden states are asked for */
} token_rules;

/* The logarithms of probabilities of chosen tokens: the softmax of the model's own logits, before all else. Borrowed arrays. */
typedef struct {
    uint32_t n_top;       /* likeliest tokens that stand beside each chosen one */
    const float *own;     /* [n_tokens] of the chosen ones; NULL: not asked for */
    const uint32_t *top;  /* [n_tokens][n_top] ids, descending, ties to the lower id */
    const float *top_log; /* [n_tokens][n_top] */
} token_logprobs;

/* The hidden states that tokens were chosen from: what the output head reads, after the final norm. Borrowed array. */
typedef struct {
    uint32_t dim;
    const uint16_t *f16; /* [n_tokens][dim]; NULL: not asked for, or not known */
} hidden_states;
enum { NOUNS_MAX_DIM = 1 << 17 }; /* of a model */

#endif
