/* wire_test: what the tests of proto share: a seeded random source and an arena that must be large enough. */
#ifndef CONSORT_TESTS_WIRE_TEST_H
#define CONSORT_TESTS_WIRE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above */
#include <cmocka.h>

#include "base/mem.h"
#include "proto/proto.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint64_t state;
} source;

/* SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t draw(source *s) {
    uint64_t z = (s->state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static inline uint32_t below(source *s, uint32_t n) { return (uint32_t)(draw(s) % n); }
static inline float unit(source *s) { return (float)(draw(s) >> 40) * 0x1p-24f; }
/* Small numbers often, all sizes sometimes, as varints come. */
static inline uint32_t any32(source *s) { return (uint32_t)draw(s) >> below(s, 32); }
static inline uint64_t any64(source *s) { return draw(s) >> below(s, 64); }

static inline uint32_t *some32(source *s, arena *a, uint32_t n) {
    uint32_t *p = arena_alloc(a, n, sizeof *p);
    assert_non_null(p);
    for (uint32_t i = 0; i < n; i++) p[i] = any32(s);
    return p;
}

static inline arena arena_for(size_t n_bytes) {
    arena a;
    assert_int_equal(arena_init(&a, proto_arena_bytes(n_bytes)), ST_OK);
    return a;
}

static inline void assert_same_numbers(const uint32_t *a, uint32_t n_a, const uint32_t *b, uint32_t n_b) {
    assert_int_equal(n_a, n_b);
    if (n_a) assert_memory_equal(a, b, n_a * sizeof *a);
}

static inline void assert_same_sampling(const sampling *a, const sampling *b) {
    assert_true(a->temperature == b->temperature && a->top_p == b->top_p && a->min_p == b->min_p);
    assert_true(a->typical_p == b->typical_p && a->repetition == b->repetition);
    assert_true(a->presence == b->presence && a->frequency == b->frequency);
    assert_int_equal(a->top_k, b->top_k);
    assert_int_equal(a->seed, b->seed);
    assert_int_equal(a->sample, b->sample);
}

static inline void assert_same_rules(const token_rules *a, const token_rules *b) {
    assert_int_equal(a->min_tokens, b->min_tokens);
    assert_int_equal(a->logprobs, b->logprobs);
    assert_int_equal(a->hidden, b->hidden);
    assert_same_numbers(a->ends, a->n_ends, b->ends, b->n_ends);
    assert_same_numbers(a->bias_token, a->n_bias, b->bias_token, b->n_bias);
    if (a->n_bias) assert_memory_equal(a->bias, b->bias, a->n_bias * sizeof *a->bias);
}

static inline void assert_same_logprobs(const token_logprobs *a, uint32_t n_tokens, const token_logprobs *b) {
    assert_int_equal(a->own != NULL && n_tokens, b->own != NULL);
    if (!b->own) return;
    assert_memory_equal(a->own, b->own, n_tokens * sizeof *a->own);
    assert_same_numbers(a->top, n_tokens * a->n_top, b->top, n_tokens * b->n_top);
    if (a->n_top) assert_memory_equal(a->top_log, b->top_log, n_tokens * a->n_top * sizeof *a->top_log);
}

static inline float *some_logs(source *s, arena *a, uint32_t n) {
    float *p = arena_alloc(a, n, sizeof *p);
    assert_non_null(p);
    for (uint32_t i = 0; i < n; i++) p[i] = -50 * unit(s);
    return p;
}

static inline token_logprobs some_logprobs(source *s, arena *a, uint32_t n_tokens) {
    uint32_t n_top = below(s, PROTO_MAX_TOP_LOGPROBS + 1), n = n_tokens * n_top;
    if (!n_tokens || below(s, 2)) return (token_logprobs){0};
    return (token_logprobs){n_top, some_logs(s, a, n_tokens), some32(s, a, n), some_logs(s, a, n)};
}

static inline hidden_states some_hidden(source *s, arena *a, uint32_t n_tokens) {
    uint32_t dim = 1 + below(s, 40);
    uint16_t *f16 = arena_alloc(a, (size_t)n_tokens * dim, sizeof *f16);
    assert_non_null(f16);
    for (uint32_t i = 0; i < n_tokens * dim; i++) f16[i] = (uint16_t)draw(s);
    return n_tokens && below(s, 2) ? (hidden_states){dim, f16} : (hidden_states){0};
}

static inline void assert_same_hidden(const hidden_states *a, uint32_t n_tokens, const hidden_states *b) {
    assert_int_equal(a->f16 != NULL, b->f16 != NULL);
    if (!a->f16) return;
    assert_int_equal(a->dim, b->dim);
    assert_memory_equal(a->f16, b->f16, (size_t)n_tokens * a->dim * sizeof *a->f16);
}

/* Values from -100 to 100. */
static inline float *some_bias(source *s, arena *a, uint32_t n) {
    float *p = arena_alloc(a, n, sizeof *p);
    assert_non_null(p);
    for (uint32_t i = 0; i < n; i++) p[i] = 200 * unit(s) - 100;
    return p;
}

static inline void assert_same_addresses(const proto_address *a, uint32_t n_a, const proto_address *b, uint32_t n_b) {
    assert_int_equal(n_a, n_b);
    for (uint32_t i = 0; i < n_a; i++) {
        assert_string_equal(a[i].transport, b[i].transport);
        assert_string_equal(a[i].address, b[i].address);
    }
}

/* Member by member: padding has no value. */
static inline void assert_same_register(const proto_register *a, const proto_register *b) {
#define U(name)    assert_int_equal(a->name, b->name);
#define WORD(name) assert_string_equal(a->name, b->name);
#define HASH(name) assert_memory_equal(a->name, b->name, sizeof a->name);
#include "proto/register.def"
#undef U
#undef WORD
#undef HASH
    assert_same_addresses(a->addresses, a->n_addresses, b->addresses, b->n_addresses);
}

/* Bytes of a message written by hand: varints, tags, lengths. */
typedef struct {
    uint8_t bytes[1 << 16];
    size_t n;
} raw_message;
static inline void put_varint(raw_message *m, uint64_t v) {
    for (; v > 127; v >>= 7) m->bytes[m->n++] = (uint8_t)(v | 128);
    m->bytes[m->n++] = (uint8_t)v;
}
static inline void put_number(raw_message *m, uint32_t field, uint64_t v) {
    put_varint(m, field << 3);
    put_varint(m, v);
}
static inline void put_bytes(raw_message *m, uint32_t field, const void *bytes, size_t n) {
    put_varint(m, field << 3 | 2);
    put_varint(m, n);
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}
static inline void put_float(raw_message *m, uint32_t field, float v) {
    put_varint(m, field << 3 | 5);
    memcpy(m->bytes + m->n, &v, 4);
    m->n += 4;
}

#endif
