/* Sampling: the target's choice as a function of logits, seed and position (docs/numerics.md, "The choice").
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

/* The first of the largest. Maxima run side by side in lanes, which compilers turn into vectors, and only the block of the last
 * rise is searched. */
static uint32_t argmax(const float *logits, uint32_t n) {
    enum { LANES = 16, BLOCK = 512 };
    float best = -INFINITY;
    uint32_t at = 0;
    for (uint32_t from = 0, end; from < n; from = end) {
        float lane[LANES];
        uint32_t i = from;
        end = n - from < BLOCK ? n : from + BLOCK;
        for (uint32_t k = 0; k < LANES; k++) lane[k] = best;
        for (; i + LANES <= end; i += LANES)
            for (uint32_t k = 0; k < LANES; k++) lane[k] = logits[i + k] > lane[k] ? logits[i + k] : lane[k];
        for (; i < end; i++) lane[0] = logits[i] > lane[0] ? logits[i] : lane[0];
        float top = best;
        for (uint32_t k = 0; k < LANES; k++) top = lane[k] > top ? lane[k] : top;
        if (top > best) best = top, at = from;
    }
    while (at < n && logits[at] != best) at++;
    return at < n ? at : 0;
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

/* Typical-p's order: larger key: smaller deviation (>= 0), then lower id. */
static uint64_t key_of_deviation(float deviation, uint32_t id) {
    uint32_t bits;
    memcpy(&bits, &deviation, sizeof bits);
    return (uint64_t)~bits << 32 | (UINT32_MAX - id);
}

static uint32_t key_id(uint64_t key) { return UINT32_MAX - (uint32_t)key; }

static float key_l(uint64_t key) {
    uint32_t bits = (uint32_t)(key >> 32);
    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    float l;
    memcpy(&l, &bits, sizeof l);
    return l;
}

static uint64_t weight_of_l(float l, float l_max) { return (uint64_t)((l == l_max ? 1.0 : (double)fmath_expf(l - l_max)) * ONE); }

/* What the filters weigh tokens by. */
typedef struct {
    const float *logits;
    float temperature, l_max; /* l_max: the largest l that is left */
} scale;
typedef uint64_t weigher(const scale *s, uint64_t key);

static float l_of(const scale *s, uint32_t id) { return s->logits[id] / s->temperature; }
static uint64_t weight_of(const scale *s, uint64_t key) { return weight_of_l(key_l(key), s->l_max); }
static uint64_t weight_of_id(const scale *s, uint64_t key) { return weight_of_l(l_of(s, key_id(key)), s->l_max); }

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
static inline uint32_t keep_probable(uint64_t *key, uint32_t n, const scale *s, weigher *weigh, float p) {
    uint64_t all = 0, sum = 0; /* sum: weight of key[0, low) */
    for (uint32_t i = 0; i < n; i++) all += weigh(s, key[i]);
    double enough = (double)p * (double)all;
    uint32_t low = 0, high = n;
    while (high - low > 1) { /* the prefix ends in (low, high] */
        uint32_t span = high - low;
        uint64_t pivot = median(key[low], key[low + span / 2], key[high - 1]);
        uint32_t mid = low + partition(key + low, span, pivot);
        if (mid == high) mid = low + partition(key + low, span, pivot + 1);
        uint64_t front = sum;
        for (uint32_t i = low; i < mid; i++) front += weigh(s, key[i]);
        if ((double)front >= enough) {
            high = mid;
        } else {
            sum = front;
            low = mid;
        }
    }
    return high;
}

static uint32_t keep_likely(uint64_t *key, uint32_t n, const scale *s, float min_p) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if ((double)weight_of(s, key[i]) >= (double)min_p * ONE) key[kept++] = key[i];
    return kept;
}

static uint64_t extreme(const uint64_t *key, uint32_t n, bool largest) {
    uint64_t found = key[0];
    for (uint32_t i = 1; i < n; i++)
        if (largest ? key[i] > found : key[i] < found) found = key[i];
    return found;
}

/* Locally typical sampling (Meister et al., arXiv 2202.00666): the tokens whose surprise is nearest to the mean surprise, until
 * their weight reaches p of all. Surprise is log Z - (l - l_max); log Z cancels in its distance to the mean. The mean is a sum of
 * doubles, so it is taken in ascending id whatever order the keys are in. Tokens of weight 0 go. The likeliest may go too: l_max
 * is the largest l that stays. */
static uint32_t keep_typical(uint64_t *key, uint32_t n, uint32_t n_vocab, scale *s, float p) {
    uint64_t least = extreme(key, n, false), all = 0;
    double dot = 0;
    uint32_t left = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        float l = l_of(s, i);
        uint64_t w = key_of(l, i) < least ? 0 : weight_of_l(l, s->l_max);
        if (!w) continue;
        all += w;
        dot += (double)w * (double)(l - s->l_max);
        key[left++] = i;
    }
    double mean = dot / (double)all;
    for (uint32_t i = 0; i < left; i++) {
        uint32_t id = (uint32_t)key[i];
        key[i] = key_of_deviation((float)fabs(mean - (double)(l_of(s, id) - s->l_max)), id);
    }
    n = keep_probable(key, left, s, weight_of_id, p);
    for (uint32_t i = 0; i < n; i++) key[i] = key_of(l_of(s, key_id(key[i])), key_id(key[i]));
    s->l_max = key_l(extreme(key, n, true));
    return n;
}

static bool is_typical(const sampling *s) { return s->typical_p > 0 && s->typical_p < 1; }

static uint32_t choose_filtered(const float *logits, uint32_t n, const sampling *s, draw *d, uint64_t *key) {
    uint32_t n_vocab = n, top = argmax(logits, n);
    scale by = {logits, d->temperature, logits[top] / d->temperature};
    for (uint32_t i = 0; i < n; i++) key[i] = key_of(l_of(&by, i), i);
    if (s->top_k) n = keep_top(key, n, s->top_k);
    if (is_typical(s)) {
        n = keep_typical(key, n, n_vocab, &by, s->typical_p);
        top = key_id(extreme(key, n, true));
    }
    if (s->top_p < 1) n = keep_probable(key, n, &by, weight_of, s->top_p);
    if (s->min_p > 0) n = keep_likely(key, n, &by, s->min_p);
    winner best = {-INFINITY, UINT32_MAX};
    enter(d, &best, by.l_max, top);
    for (uint32_t i = 0; i < n; i++) enter(d, &best, key_l(key[i]), key_id(key[i]));
    return best.id == UINT32_MAX ? top : best.id;
}

uint32_t model_choose(const float *logits, uint32_t n_vocab, const sampling *s, uint32_t position, uint64_t *work) {
    if (!(s->temperature > 0)) return argmax(logits, n_vocab);
    draw d = {.temperature = s->temperature, .seed = s->seed, .position = position, .sample = s->sample, .group = UINT32_MAX};
    bool filtered = (s->top_k && s->top_k < n_vocab) || s->top_p < 1 || s->min_p > 0 || is_typical(s);
    return filtered ? choose_filtered(logits, n_vocab, s, &d, work) : choose_any(logits, n_vocab, &d);
}

double model_nll(const float *logits, uint32_t n_vocab, uint32_t id) {
    double max = logits[argmax(logits, n_vocab)], sum = 0;
    for (uint32_t i = 0; i < n_vocab; i++) sum += fmath_exp(logits[i] - max);
    return fmath_log(sum) - (logits[id] - max);
}
