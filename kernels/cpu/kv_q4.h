/* What the fast twins of the KV type q4 share: a group's scale and minimum from its smallest and largest value, as ref/kv.c has
 * them. A group is 20 bytes: f16 scale, f16 minimum, 16 bytes whose low halves are the codes of elements 0 to 15 and whose high
 * halves are those of 16 to 31. The halves are made in integers, so that a NaN has the same bits everywhere.
 *
 * Pure; any thread. */
#ifndef CONSORT_KERNELS_CPU_KV_Q4_H
#define CONSORT_KERNELS_CPU_KV_Q4_H

#include "base/half.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { Q4_GROUP = 32, Q4_GROUP_BYTES = 20, Q4_CODES = 4 /* where they begin */ };

typedef struct {
    float m, inverse; /* codes are rint((x - m) * inverse), cut to 0 .. 15; all 0 where inverse is 0 */
} q4_coding;

/* Writes scale and minimum of a group of values from `low` to `high`; `finite`: all are. */
static inline q4_coding q4_begin(uint8_t *group, float low, float high, bool finite) {
    uint16_t minimum = half_of_float(low + 0.0f); /* of a zero: the positive one */
    float m = half_to_float(minimum), range = high - m;
    uint16_t scale = range > 0 ? half_of_float(range / 15.0f) : 0;
    float d = half_to_float(scale);
    if (!finite || isinf(m) || isinf(d)) {
        scale = 0;
        minimum = 0x7e00; /* NaN */
        m = d = 0;
    }
    memcpy(group, &scale, sizeof scale);
    memcpy(group + 2, &minimum, sizeof minimum);
    return (q4_coding){m, d > 0 ? 1.0f / d : 0};
}

/* A row by an instruction set's own function of a group; a short last group is filled up with its first value. */
INLINE void q4_encode_row(void *row, const float *x, uint32_t dim, void (*encode_group)(uint8_t *group, const float *x)) {
    uint8_t *group = row;
    for (; dim >= Q4_GROUP; dim -= Q4_GROUP, x += Q4_GROUP, group += Q4_GROUP_BYTES) encode_group(group, x);
    if (!dim) return;
    float last[Q4_GROUP];
    for (uint32_t i = 0; i < Q4_GROUP; i++) last[i] = x[i < dim ? i : 0];
    encode_group(group, last);
}

/* Rows, likewise. */
INLINE void q4_decode_rows(float *out, const void *rows, uint32_t n_rows, uint32_t dim,
                           void (*decode_group)(float *out, const uint8_t *group)) {
    const uint8_t *group = rows;
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t i = 0;
        for (; i + Q4_GROUP <= dim; i += Q4_GROUP, out += Q4_GROUP, group += Q4_GROUP_BYTES) decode_group(out, group);
        if (i == dim) continue;
        float last[Q4_GROUP];
        decode_group(last, group);
        memcpy(out, last, (dim - i) * sizeof *out);
        out += dim - i;
        group += Q4_GROUP_BYTES;
    }
}

#endif
