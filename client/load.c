/* See load.h. */
#include "client/load.h"

#include "base/fmath.h"
#include "base/philox.h"
#include <stdlib.h>
#include <string.h>

/* What a random number is for: each its own stream, so that none depends on how many another took. */
enum { STREAM_PROMPTS = 1, STREAM_ROUNDS, STREAM_ARRIVALS };

static void shuffle(uint32_t *values, uint32_t n, uint64_t seed, uint32_t stream, uint64_t which) {
    for (uint32_t i = n; i > 1; i--) {
        philox_block b = philox(seed, (philox_block){{stream, (uint32_t)which, (uint32_t)(which >> 32), i}});
        uint32_t k = (uint32_t)((uint64_t)b.word[0] * i >> 32), other = values[k];
        values[k] = values[i - 1];
        values[i - 1] = other;
    }
}

void load_mix_init(load_mix *m, uint64_t seed, const uint32_t *first, uint32_t n_groups, uint32_t *order) {
    INVARIANT(n_groups && n_groups <= LOAD_MAX_GROUPS);
    *m = (load_mix){.seed = seed, .n_groups = n_groups, .first = first, .order = order};
    for (uint32_t g = 0; g < n_groups; g++) {
        for (uint32_t i = first[g]; i < first[g + 1]; i++) order[i] = i;
        shuffle(order + first[g], first[g + 1] - first[g], seed, STREAM_PROMPTS, g);
    }
}

uint32_t load_mix_next(load_mix *m) {
    uint64_t round = m->n_given / m->n_groups, at = m->n_given++ % m->n_groups;
    if (!at) {
        for (uint32_t g = 0; g < m->n_groups; g++) m->turn[g] = g;
        shuffle(m->turn, m->n_groups, m->seed, STREAM_ROUNDS, round);
    }
    uint32_t g = m->turn[at], n = m->first[g + 1] - m->first[g];
    return m->order[m->first[g] + round % n];
}

void load_arrivals_init(load_arrivals *a, uint64_t seed, double rate) { *a = (load_arrivals){.seed = seed, .rate = rate}; }

uint64_t load_arrivals_next(load_arrivals *a) {
    uint64_t i = a->n_given++;
    philox_block b = philox(a->seed, (philox_block){{STREAM_ARRIVALS, (uint32_t)i, (uint32_t)(i >> 32), 0}});
    uint64_t bits = (uint64_t)b.word[1] << 32 | b.word[0];
    double u = (double)(bits >> 11) * 0x1p-53; /* [0, 1) */
    a->at -= fmath_log(1 - u);
    return (uint64_t)(a->at / a->rate * 1e9);
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

load_spread load_spread_of(uint64_t *values, size_t n) {
    load_spread s = {.n = n};
    if (!n) return s;
    qsort(values, n, sizeof *values, by_value);
    for (size_t i = 0; i < n; i++) s.mean += (double)values[i];
    s.mean /= (double)n;
    s.p50 = values[(50 * n + 99) / 100 - 1];
    s.p90 = values[(90 * n + 99) / 100 - 1];
    s.p99 = values[(99 * n + 99) / 100 - 1];
    s.max = values[n - 1];
    return s;
}

/* ---- summary ---- */

static bool is_of(const load_record *r, uint32_t domain) {
    return r->ended && (domain == (uint32_t)LOAD_ALL_DOMAINS || r->domain == domain);
}

/* Figures of a record; NONE where it has none. */
static const uint64_t NONE = UINT64_MAX;

static uint64_t first_token_ns(const load_record *r) { return r->n_tokens ? r->first_ns - r->scheduled_ns : NONE; }
static uint64_t whole_ns(const load_record *r) { return r->end_ns - r->scheduled_ns; }
static uint64_t late_ns(const load_record *r) { return r->sent_ns - r->scheduled_ns; }
static uint64_t per_token_ns(const load_record *r) {
    return r->n_tokens > r->n_first ? (r->last_ns - r->first_ns) / (r->n_tokens - r->n_first) : NONE;
}

static load_spread spread(const load_record *records, size_t n, uint32_t domain, uint64_t *scratch,
                          uint64_t (*figure)(const load_record *r)) {
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (is_of(&records[i], domain) && !records[i].error && figure(&records[i]) != NONE) scratch[k++] = figure(&records[i]);
    return load_spread_of(scratch, k);
}

static void add_uses(load_summary *s, const load_record *r) {
    for (uint32_t i = 0; i < r->n_uses; i++) {
        uint32_t k = 0;
        while (k < s->n_uses && s->uses[k].name != r->uses[i].name) k++;
        if (k == LOAD_MAX_DRAFTERS) continue;
        if (k == s->n_uses) s->uses[s->n_uses++] = (load_use){.name = r->uses[i].name};
        s->uses[k].drafted += r->uses[i].drafted;
        s->uses[k].accepted += r->uses[i].accepted;
    }
}

void load_summarize(const load_record *records, size_t n, uint32_t domain, uint64_t *scratch, load_summary *out) {
    load_summary s = {0};
    uint64_t time = 0, tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const load_record *r = &records[i];
        if (!is_of(r, domain)) continue;
        if (r->end_ns > s.end_ns) s.end_ns = r->end_ns;
        if (r->error) {
            s.n_failed++;
            continue;
        }
        s.n++;
        s.prompt_tokens += r->prompt_tokens;
        s.n_tokens += r->n_tokens;
        s.steps += r->steps;
        s.drafted += r->drafted;
        s.accepted += r->accepted;
        time += r->last_ns - r->first_ns;
        tokens += r->n_tokens - r->n_first;
        add_uses(&s, r);
    }
    s.token_ns = tokens ? (double)time / (double)tokens : 0;
    s.first_token = spread(records, n, domain, scratch, first_token_ns);
    s.whole = spread(records, n, domain, scratch, whole_ns);
    s.late = spread(records, n, domain, scratch, late_ns);
    s.per_token = spread(records, n, domain, scratch, per_token_ns);
    *out = s;
}
