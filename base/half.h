/* Half: IEEE 754 binary16 to and from float, as the F16C instructions do it (round to nearest even, NaN made quiet).
 *
 * In integers, so that compilers and processors without the type give the same bits. Pure; any thread. */
#ifndef CONSORT_BASE_HALF_H
#define CONSORT_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu, u;
    float x;
    if (exponent == 31) {
        u = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0u);
    } else if (exponent) {
        u = sign | (exponent + 112u) << 23 | mantissa << 13;
    } else {
        float tiny = (float)mantissa * 0x1p-24f; /* subnormal: exact */
        memcpy(&u, &tiny, sizeof u);
        u |= sign;
    }
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline uint16_t half_of_float(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu, h;
    if (a > 0x7f800000u) {
        h = 0x7e00u | (a >> 13 & 0x3ffu);
    } else if (a >= 0x477ff000u) { /* 65520 and above round to infinity */
        h = 0x7c00u;
    } else if (a >= 0x38800000u) { /* normal: add half of the last place less one, plus its parity */
        h = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
    } else if (a >= 0x33000000u) { /* subnormal: shift the mantissa with its hidden one into place */
        uint32_t m = (a & 0x7fffffu) | 0x800000u, shift = 126u - (a >> 23), half = 1u << (shift - 1);
        h = (m + half - 1u + (m >> shift & 1u)) >> shift;
    } else {
        h = 0;
    }
    return (uint16_t)(sign | h);
}

static inline float half_load(const uint8_t *bytes) {
    uint16_t h;
    memcpy(&h, bytes, sizeof h);
    return half_to_float(h);
}

#endif
