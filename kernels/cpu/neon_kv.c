/* KV rows for NEON. Bits equal ref/kv.c. */
#include "kernels/cpu/neon_int.h"

#ifdef KERNELS_HAS_NEON
#include "base/half.h"
#include "kernels/cpu/kv_group.h"
#include <string.h>

void kernels_neon_kv_encode_F16(void *row, const float *x, uint32_t dim) {
    uint16_t *to = row;
    uint32_t i = 0;
    for (; i + 4 <= dim; i += 4) vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < dim; i++) to[i] = half_of_float(x[i]);
}

void kernels_neon_kv_decode_F16(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint16_t *from = rows;
    const uint32_t n = n_rows * dim;
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, halves(from + i));
    for (; i < n; i++) out[i] = half_to_float(from[i]);
}

void kernels_neon_kv_encode_F32(void *row, const float *x, uint32_t dim) { memcpy(row, x, dim * sizeof *x); }
void kernels_neon_kv_decode_F32(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    memcpy(out, rows, (size_t)n_rows * dim * sizeof *out);
}

INLINE uint32x4_t magnitudes(float32x4_t x) { return vreinterpretq_u32_f32(vabsq_f32(x)); }

/* To nearest, half to even; in int16. */
INLINE int16x4_t codes_of(float32x4_t y) { return vqmovn_s32(vcvtnq_s32_f32(y)); }

INLINE float32x4_t load_first(const float *x, uint32_t n) {
    float last[4] = {0};
    if (n >= 4) return vld1q_f32(x);
    memcpy(last, x, n * sizeof *x);
    return vld1q_f32(last);
}

void kernels_neon_kv_encode_Q8(void *row, const float *x, uint32_t dim) {
    uint8_t *code = (uint8_t *)row + sizeof(float);
    uint32x4_t most = vdupq_n_u32(0);
    for (uint32_t i = 0; i < dim; i += 4) most = vmaxq_u32(most, magnitudes(load_first(x + i, dim - i)));
    const uint32_t amax = vmaxvq_u32(most);
    float a, d = 0;
    memcpy(&a, &amax, sizeof a);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        if (amax >= 0x7f800000u) d = NAN;
        memset(code, 0, dim);
    } else {
        d = a / 127.0f;
        const float inverse = 127.0f / a;
        for (uint32_t i = 0; i < dim; i += 4) {
            int16x4_t q = codes_of(vmulq_n_f32(load_first(x + i, dim - i), inverse));
            int8x8_t bytes = vmovn_s16(vcombine_s16(q, q));
            memcpy(code + i, &bytes, dim - i < 4 ? dim - i : 4);
        }
    }
    memcpy(row, &d, sizeof d);
}

void kernels_neon_kv_decode_Q8(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint8_t *row = rows;
    for (uint32_t r = 0; r < n_rows; r++, row += sizeof(float) + dim, out += dim) {
        const int8_t *code = (const int8_t *)row + sizeof(float);
        float d;
        memcpy(&d, row, sizeof d);
        uint32_t i = 0;
        for (; i + 8 <= dim; i += 8) {
            int16x8_t q = vmovl_s8(vld1_s8(code + i));
            vst1q_f32(out + i, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), d));
            vst1q_f32(out + i + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(q))), d));
        }
        for (; i < dim; i++) out[i] = d * (float)code[i];
    }
}

INLINE void put_codes(uint8_t *group, const uint8x8_t codes[4], const uint32_t bits) {
    const uint8x8_t four = vdup_n_u8(15);
    for (uint32_t i = 0; i < 2; i++)
        vst1_u8(group + KV_LOW_AT + 8 * i, vorr_u8(vand_u8(codes[i], four), vshl_n_u8(codes[i + 2], 4)));
    if (bits == 4) return;
    const uint8x8_t first = vorr_u8(vshr_n_u8(codes[0], 4), vshl_n_u8(vshr_n_u8(codes[1], 4), 2));
    const uint8x8_t last = vorr_u8(vshl_n_u8(vshr_n_u8(codes[2], 4), 4), vshl_n_u8(vshr_n_u8(codes[3], 4), 6));
    vst1_u8(group + KV_HIGH_AT, vorr_u8(first, last));
}

INLINE void get_codes(uint8x8_t codes[4], const uint8_t *group, const uint32_t bits) {
    for (uint32_t i = 0; i < 2; i++) {
        const uint8x8_t low = vld1_u8(group + KV_LOW_AT + 8 * i);
        codes[i] = vand_u8(low, vdup_n_u8(15));
        codes[i + 2] = vshr_n_u8(low, 4);
    }
    if (bits == 4) return;
    const uint8x8_t high = vld1_u8(group + KV_HIGH_AT), two = vdup_n_u8(0x30);
    codes[0] = vorr_u8(codes[0], vand_u8(vshl_n_u8(high, 4), two));
    codes[1] = vorr_u8(codes[1], vand_u8(vshl_n_u8(high, 2), two));
    codes[2] = vorr_u8(codes[2], vand_u8(high, two));
    codes[3] = vorr_u8(codes[3], vand_u8(vshr_n_u8(high, 2), two));
}

INLINE void encode_group(uint8_t *group, const float *x, const uint32_t bits) {
    float32x4_t low = vld1q_f32(x), high = low;
    uint32x4_t most = magnitudes(low);
    for (uint32_t i = 4; i < KV_GROUP; i += 4) {
        float32x4_t v = vld1q_f32(x + i);
        low = vminq_f32(low, v);
        high = vmaxq_f32(high, v);
        most = vmaxq_u32(most, magnitudes(v));
    }
    const kv_coding c = kv_group_begin(group, vminvq_f32(low), vmaxvq_f32(high), vmaxvq_u32(most) < 0x7f800000u, bits);
    uint8x8_t codes[4] = {vdup_n_u8(0), vdup_n_u8(0), vdup_n_u8(0), vdup_n_u8(0)};
    const float32x4_t m = vdupq_n_f32(c.m);
    for (uint32_t i = 0; c.inverse > 0 && i < 4; i++) {
        int16x4_t a = codes_of(vmulq_n_f32(vsubq_f32(vld1q_f32(x + 8 * i), m), c.inverse));
        int16x4_t b = codes_of(vmulq_n_f32(vsubq_f32(vld1q_f32(x + 8 * i + 4), m), c.inverse));
        codes[i] = vmin_u8(vqmovun_s16(vcombine_s16(a, b)), vdup_n_u8((uint8_t)kv_most_code(bits)));
    }
    put_codes(group, codes, bits);
}

/* d * code is exact, so that the fma rounds as the sum in ref/kv.c. */
INLINE void decode_group(float *out, const uint8_t *group, const uint32_t bits) {
    const float d = half_load(group);
    const float32x4_t m = vdupq_n_f32(half_load(group + 2));
    uint8x8_t codes[4];
    get_codes(codes, group, bits);
    for (uint32_t i = 0; i < 4; i++) {
        uint16x8_t q = vmovl_u8(codes[i]);
        vst1q_f32(out + 8 * i, vfmaq_n_f32(m, vcvtq_f32_u32(vmovl_u16(vget_low_u16(q))), d));
        vst1q_f32(out + 8 * i + 4, vfmaq_n_f32(m, vcvtq_f32_u32(vmovl_u16(vget_high_u16(q))), d));
    }
}

#define GROUPS(id, bits)                                                                                                         \
    void kernels_neon_kv_encode_##id(void *row, const float *x, uint32_t dim) {                                                  \
        kv_encode_groups(row, x, dim, bits, encode_group);                                                                       \
    }                                                                                                                            \
    void kernels_neon_kv_decode_##id(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {                              \
        kv_decode_groups(out, rows, n_rows, dim, bits, decode_group);                                                            \
    }
GROUPS(Q4, 4)
GROUPS(Q6, 6)
#undef GROUPS

#endif
