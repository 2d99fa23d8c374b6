/* How rows of K and V are rounded, one pair of functions a row of kv_types.def: the truth, written as docs/numerics.md says it. A
 * row is made from its own values alone. */
#include "base/half.h"
#include "kernels/kernels_int.h"
#include <math.h> /* NAN; rintf is exact by IEEE 754 */

void kernels_ref_kv_encode_F16(void *row, const float *x, uint32_t dim) {
    for (uint32_t i = 0; i < dim; i++) ((uint16_t *)row)[i] = half_of_float(x[i]);
}
void kernels_ref_kv_decode_F16(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    for (uint32_t i = 0; i < n_rows * dim; i++) out[i] = half_to_float(((const uint16_t *)rows)[i]);
}

void kernels_ref_kv_encode_F32(void *row, const float *x, uint32_t dim) { memcpy(row, x, dim * sizeof *x); }
void kernels_ref_kv_decode_F32(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    memcpy(out, rows, (size_t)n_rows * dim * sizeof *out);
}

/* The bits of the largest |x|: NaN sorts above infinity. */
static uint32_t largest(const float *x, uint32_t n) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        if ((u & 0x7fffffffu) > most) most = u & 0x7fffffffu;
    }
    return most;
}

/* A row: f32 scale, dim codes of int8. */
void kernels_ref_kv_encode_Q8(void *row, const float *x, uint32_t dim) {
    uint8_t *code = (uint8_t *)row + sizeof(float);
    uint32_t amax = largest(x, dim);
    float a, d = 0, inverse = 0;
    memcpy(&a, &amax, sizeof a);
    if (amax >= 0x7f800000u) {
        d = NAN;
    } else if (amax >= 0x0d800000u) { /* 2^-100 */
        d = a / 127.0f;
        inverse = 127.0f / a;
    }
    memcpy(row, &d, sizeof d);
    for (uint32_t i = 0; i < dim; i++) code[i] = inverse > 0 ? (uint8_t)(int8_t)rintf(x[i] * inverse) : 0;
}
void kernels_ref_kv_decode_Q8(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint8_t *row = rows;
    for (uint32_t r = 0; r < n_rows; r++, row += sizeof(float) + dim) {
        float d;
        memcpy(&d, row, sizeof d);
        for (uint32_t i = 0; i < dim; i++) *out++ = d * (float)(int8_t)row[sizeof d + i];
    }
}

/* Of q4 and q6, by bits of a code: f16 scale, f16 minimum, 16 bytes of the low four bits of codes i and i + 16; of q6 then 8
 * bytes of the high two of codes i, i + 8, i + 16 and i + 24. */
enum { GROUP = 32, LOW_AT = 4, HIGH_AT = 20 };
static uint32_t group_bytes(uint32_t bits) { return 4 + GROUP * bits / 8; }

static void encode_group(uint8_t *group, const float *x, uint32_t bits) {
    const float most = (float)((1u << bits) - 1);
    float low = x[0], high = x[0];
    for (uint32_t i = 1; i < GROUP; i++) {
        if (x[i] < low) low = x[i];
        if (x[i] > high) high = x[i];
    }
    uint16_t minimum = half_of_float(low + 0.0f); /* of a zero: the positive one */
    float range = high - half_to_float(minimum);
    uint16_t scale = range > 0 ? half_of_float(range / most) : 0;
    float m = half_to_float(minimum), d = half_to_float(scale);
    memset(group, 0, group_bytes(bits));
    if (largest(x, GROUP) >= 0x7f800000u || isinf(m) || isinf(d)) {
        scale = 0;
        minimum = 0x7e00; /* NaN */
    } else if (d > 0) {
        float inverse = 1.0f / d;
        for (uint32_t i = 0; i < GROUP; i++) {
            float q = rintf((x[i] - m) * inverse);
            uint32_t code = q < 0 ? 0 : q > most ? (uint32_t)most : (uint32_t)q;
            group[LOW_AT + i % 16] |= (uint8_t)((code & 15) << i / 16 * 4);
            if (bits > 4) group[HIGH_AT + i % 8] |= (uint8_t)(code >> 4 << i / 8 * 2);
        }
    }
    memcpy(group, &scale, sizeof scale);
    memcpy(group + 2, &minimum, sizeof minimum);
}

/* A row: groups of 32 elements; a short last one is filled up with its first value. */
static void encode_groups(uint8_t *row, const float *x, uint32_t dim, uint32_t bits) {
    for (uint32_t i = 0; i < dim; i += GROUP) {
        float group[GROUP];
        for (uint32_t k = 0; k < GROUP; k++) group[k] = x[i + k < dim ? i + k : i];
        encode_group(row + i / GROUP * group_bytes(bits), group, bits);
    }
}

static void decode_groups(float *out, const uint8_t *row, uint32_t n_rows, uint32_t dim, uint32_t bits) {
    for (uint32_t r = 0; r < n_rows; r++, row += (dim + GROUP - 1) / GROUP * group_bytes(bits))
        for (uint32_t i = 0; i < dim; i++) {
            const uint8_t *group = row + i / GROUP * group_bytes(bits);
            uint32_t k = i % GROUP, code = group[LOW_AT + k % 16] >> k / 16 * 4 & 15;
            if (bits > 4) code |= (group[HIGH_AT + k % 8] >> k / 8 * 2 & 3u) << 4;
            *out++ = half_load(group) * (float)code + half_load(group + 2);
        }
}

void kernels_ref_kv_encode_Q4(void *row, const float *x, uint32_t dim) { encode_groups(row, x, dim, 4); }
void kernels_ref_kv_decode_Q4(float *out, const void *rows, uint32_t n, uint32_t dim) { decode_groups(out, rows, n, dim, 4); }
void kernels_ref_kv_encode_Q6(void *row, const float *x, uint32_t dim) { encode_groups(row, x, dim, 6); }
void kernels_ref_kv_decode_Q6(float *out, const void *rows, uint32_t n, uint32_t dim) { decode_groups(out, rows, n, dim, 6); }
