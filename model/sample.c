/* Sampling: the target's choice as a function of logits, seed and position (speculation.md, section 1).
 *
 * A token's score is fl32(logit / T) + gumbel(seed, position, token); the best score wins. Filters remove tokens first. To keep
 * any order of work from changing the answer, the filters compare integers: a key of 64 bits orders tokens by descending l, then
 * ascending id, and a weight of at most 2^40 stands for exp(l - l_max), so that sums are exact. Prefixes of that order (top-k,
 * top-p) are found by partition in linear time, without sorting. Road not taken: to draw for all tokens, 1 ms over 49,152 ids;
 * a Gumbel value is bounded, so most tokens cannot win and are never drawn for. */
#include "model/model.h"

#include "base/fmath.h"
#include "base/philox.h"
#include <math.h>
#include <string.h>

/* -log(-log(1 - 2^-24)) = 16.6355 is the largest that gumbel() gives; fl32 addition is monotonous, so a token whose l plus this
 * is under the best score cannot reach it. */
#define GUMBEL_MAX 16.64f
#define ONE        1099511627776.0 /* 2^40: the weight of the likeliest token */

typedef struct {
    float temperature;
    uint64_t seed;
    uint32_t position, sample;
    uint32_t group; /* the last group of four tokens drawn for; UINT32_MAX: none */
    philox_block words;
} draw;

/* -log(-log(u)), u = ((x >> 9) + 0.5) * 2^-23: 23 bits, so that u is never 1. */
static float gumbel(draw *d, uint32_t id) {
    if (d->group != id >> 2) {
        d->group = id >> 2;
        d->words = philox(d->seed, (philox_block){{d->position, d->group, d->sample, 0}});
    }
    float u = ((float)(d->words.word[id & 3] >> 9) + 0.5f) * 0x1p-23f;
    return -fmath_logf(-fmath_logf(u));
}

typedef struct {
    float score;
    uint32_t id;
} winner;

static void enter(draw *d, winner *best, float l, uint32_t id) {
    if (l + GUMBEL_MAX < best->score) return;
    float score = l + gumbel(d, id);
    if (score > best->score || (score == best->score && id < best->id)) *best = (winner){score, id};
}

static uint32_t argmax(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* The likeliest token goes first: the higher the best score, the more tokens are skipped. */
static uint32_t choose_any(const float *logits, uint32_t n, draw *d) {
    uint32_t top = argmax(logits, n);
    winner best = {-INFINITY, UINT32_MAX};
    enter(d, &best, logits[top] / d->temperature, top);
    for (uint32_t i = 0; i < n; i++) enter(d, &best, logits[i] / d->temperature, i);
    return best.id == UINT32_MAX ? top : best.id;
}

/* Larger key: larger l, then lower id. */
static uint64_t key_of(float l, uint32_t id) {
    uint32_t bits;
    l += 0.0f; /* -0 and 0 are the same l */
    memcpy(&bits, &l, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (UINT32_MAX - id);
}

static uint32_t key_id(uint64_t key) { return UINT32_MAX - (uint32_t)key; }

static float key_l(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float l;
    memcpy(&l, &bits, sizeof l);
    return l;
}

static uint64_t weight_of(uint64_t key, float l_max) {
    float l = key_l(key);
    return (uint64_t)((l == l_max ? 1.0 : (double)fmath_expf(l - l_max)) * ONE);
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c) {
    if (a > b) return b > c ? b : a > c ? c : a;
    return a > c ? a : b > c ? c : b;
}

/* Puts the keys >= pivot of key[0, n) in front and tells how many they are. */
static uint32_t partition(uint64_t *key, uint32_t n, uint64_t pivot) {
    uint32_t front = 0;
    for (uint32_t i = 0; i < n; i++)
        if (key[i] >= pivot) {
            uint64_t k = key[i];
            key[i] = key[front];
            key[front++] = k;
        }
    return front;
}

/* The k largest keys, in any order, in front. */
static uint32_t keep_top(uint64_t *key, uint32_t n, uint32_t k) {
    uint32_t low = 0, high = n;
    while (high - low > 1 && low < k && k < high) {
        uint32_t span = high - low;
        uint64_t pivot = median(key[low], key[low + span / 2], key[high - 1]);
        uint32_t mid = low + partition(key + low, span, pivot);
        if (mid == high) { /* the pivot is the smallest: take it off by itself */
            mid = low + partition(key + low, span, pivot + 1);
        }
        if (mid <= k)
            low = mid;
        else
            high = mid;
    }
    return k < n ? k : n;
}

/* The smallest prefix, descending by key, whose weight reaches p of all. */
static uint32_t keep_probable(uint64_t *key, uint32_t n, float l_max, float p) {
    uint64_t all = 0, sum = 0; /* sum: weight of key[0, low) */
    for (uint32_t i = 0; i < n; i++) all += weight_of(key[i], l_max);
    double enough = (double)p * (double)all;
    uint32_t low = 0, high = n;
    while (high - low > 1) { /* the prefix ends in (low, high] */
        uint32_t span = high - low;
        uint64_t pivot = median(key[low], key[low + span / 2], key[high - 1]);
        uint32_t mid = low + partition(key + low, span, pivot);
        if (mid == high) mid = low + partition(key + low, span, pivot + 1);
        uint64_t front = sum;
        for (uint32_t i = low; i < mid; i++) front += weight_of(key[i], l_max);
        if ((double)front >= enough) {
            high = mid;
        } else {
            sum = front;
            low = mid;
        }
    }
    return high;
}

static uint32_t keep_likely(uint64_t *key, uint32_t n, float l_max, float min_p) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if ((double)weight_of(key[i], l_max) >= (double)min_p * ONE) key[kept++] = key[i];
    return kept;
}

static uint32_t choose_filtered(const float *logits, uint32_t n, const sampling *s, draw *d, uint64_t *key) {
    uint32_t top = argmax(logits, n);
    float l_max = logits[top] / d->temperature;
    for (uint32_t i = 0; i < n; i++) key[i] = key_of(logits[i] / d->temperature, i);
    if (s->top_k) n = keep_top(key, n, s->top_k);
    if (s->top_p < 1) n = keep_probable(key, n, l_max, s->top_p);
    if (s->min_p > 0) n = keep_likely(key, n, l_max, s->min_p);
    winner best = {-INFINITY, UINT32_MAX};
    enter(d, &best, l_max, top);
    for (uint32_t i = 0; i < n; i++) enter(d, &best, key_l(key[i]), key_id(key[i]));
    return best.id == UINT32_MAX ? top : best.id;
}

uint32_t model_choose(const float *logits, uint32_t n_vocab, const sampling *s, uint32_t position, uint64_t *work) {
    if (!(s->temperature > 0)) return argmax(logits, n_vocab);
    draw d = {.temperature = s->temperature, .seed = s->seed, .position = position, .sample = s->sample, .group = UINT32_MAX};
    bool filtered = (s->top_k && s->top_k < n_vocab) || s->top_p < 1 || s->min_p > 0;
    return filtered ? choose_filtered(logits, n_vocab, s, &d, work) : choose_any(logits, n_vocab, &d);
}

double model_nll(const float *logits, uint32_t n_vocab, uint32_t id) {
    double max = logits[argmax(logits, n_vocab)], sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++) sum += fmath_exp(logits[i] - max);
    return fmath_log(sum) - (logits[id] - max);
}
