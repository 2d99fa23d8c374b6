/* KV rows for AVX2 and F16C. Bits equal ref/kv.c. Lanes that stand behind the end of a row are taken one by one, or in a group of
 * their own on the stack. */
#include "kernels/cpu/avx2_int.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/cpu/kv_group.h"
#include <string.h>

void kernels_avx2_kv_encode_F16(void *row, const float *x, uint32_t dim) {
    uint16_t *to = row;
    uint32_t i = 0;
    for (; i + 8 <= dim; i += 8)
        _mm_storeu_si128((void *)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < dim; i++) to[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT);
}

void kernels_avx2_kv_decode_F16(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint16_t *from = rows;
    const uint32_t n = n_rows * dim;
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, halves((const void *)(from + i)));
    for (; i < n; i++) out[i] = _cvtsh_ss(from[i]);
}

void kernels_avx2_kv_encode_F32(void *row, const float *x, uint32_t dim) { memcpy(row, x, dim * sizeof *x); }
void kernels_avx2_kv_decode_F32(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    memcpy(out, rows, (size_t)n_rows * dim * sizeof *out);
}

INLINE __m256i magnitudes(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

/* To nearest, half to even; in int16. */
INLINE __m128i codes_of(__m256 y) {
    __m256i q = _mm256_cvtps_epi32(y);
    return _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
}

void kernels_avx2_kv_encode_Q8(void *row, const float *x, uint32_t dim) {
    uint8_t *code = (uint8_t *)row + sizeof(float);
    __m256i most = _mm256_setzero_si256();
    for (uint32_t i = 0; i < dim; i += 8) most = _mm256_max_epu32(most, magnitudes(load_first(x + i, dim - i)));
    const uint32_t amax = max_epu32(most);
    float a, d = 0;
    memcpy(&a, &amax, sizeof a);
    if (amax >= 0x7f800000u || amax < 0x0d800000u) { /* not finite; below 2^-100 */
        if (amax >= 0x7f800000u) d = NAN;
        memset(code, 0, dim);
    } else {
        d = a / 127.0f;
        const __m256 inverse = _mm256_set1_ps(127.0f / a);
        for (uint32_t i = 0; i < dim; i += 8) {
            __m128i q = codes_of(_mm256_mul_ps(load_first(x + i, dim - i), inverse));
            q = _mm_packs_epi16(q, q);
            if (dim - i >= 8)
                _mm_storel_epi64((void *)(code + i), q);
            else
                memcpy(code + i, &q, dim - i);
        }
    }
    memcpy(row, &d, sizeof d);
}

void kernels_avx2_kv_decode_Q8(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {
    const uint8_t *row = rows;
    for (uint32_t r = 0; r < n_rows; r++, row += sizeof(float) + dim, out += dim) {
        const int8_t *code = (const int8_t *)row + sizeof(float);
        float d;
        memcpy(&d, row, sizeof d);
        const __m256 d8 = _mm256_set1_ps(d);
        uint32_t i = 0;
        for (; i + 8 <= dim; i += 8) {
            __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)(code + i)));
            _mm256_storeu_ps(out + i, _mm256_mul_ps(d8, _mm256_cvtepi32_ps(q)));
        }
        for (; i < dim; i++) out[i] = d * (float)code[i];
    }
}

INLINE float smallest(__m256 x) {
    __m128 s = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_min_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}
INLINE float largest(__m256 x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

INLINE void encode_group(uint8_t *group, const float *x, const uint32_t bits) {
    __m256 v[4], low, high;
    for (uint32_t i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
    low = _mm256_min_ps(_mm256_min_ps(v[0], v[1]), _mm256_min_ps(v[2], v[3]));
    high = _mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3]));
    __m256i most = _mm256_max_epu32(_mm256_max_epu32(magnitudes(v[0]), magnitudes(v[1])),
                                    _mm256_max_epu32(magnitudes(v[2]), magnitudes(v[3])));
    const bool finite = max_epu32(most) < 0x7f800000u;
    kv_coding c = kv_group_begin(group, smallest(low), largest(high), finite, bits);
    __m128i first = _mm_setzero_si128(), last = first;
    if (c.inverse > 0) {
        __m128i q[4];
        for (uint32_t i = 0; i < 4; i++)
            q[i] = codes_of(_mm256_mul_ps(_mm256_sub_ps(v[i], _mm256_set1_ps(c.m)), _mm256_set1_ps(c.inverse)));
        const __m128i most_code = _mm_set1_epi8((char)kv_most_code(bits));
        first = _mm_min_epu8(_mm_packus_epi16(q[0], q[1]), most_code);
        last = _mm_min_epu8(_mm_packus_epi16(q[2], q[3]), most_code);
    }
    kv_put_codes(group, first, last, bits);
}

/* d * code is exact, so that the fma rounds as the sum in ref/kv.c. */
INLINE void decode_group(float *out, const uint8_t *group, const uint32_t bits) {
    int32_t both;
    __m128i q[2];
    memcpy(&both, group, sizeof both);
    kv_get_codes(q, group, bits);
    const __m128 dm = _mm_cvtph_ps(_mm_cvtsi32_si128(both));
    const __m256 d = _mm256_broadcastss_ps(dm), m = _mm256_broadcastss_ps(_mm_movehdup_ps(dm));
    for (uint32_t i = 0; i < 2; i++) {
        __m256 a = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(q[i]));
        __m256 b = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(q[i], 8)));
        _mm256_storeu_ps(out + 16 * i, _mm256_fmadd_ps(d, a, m));
        _mm256_storeu_ps(out + 16 * i + 8, _mm256_fmadd_ps(d, b, m));
    }
}

#define GROUPS(id, bits)                                                                                                         \
    void kernels_avx2_kv_encode_##id(void *row, const float *x, uint32_t dim) {                                                  \
        kv_encode_groups(row, x, dim, bits, encode_group);                                                                       \
    }                                                                                                                            \
    void kernels_avx2_kv_decode_##id(float *out, const void *rows, uint32_t n_rows, uint32_t dim) {                              \
        kv_decode_groups(out, rows, n_rows, dim, bits, decode_group);                                                            \
    }
GROUPS(Q4, 4)
GROUPS(Q6, 6)
#undef GROUPS

#endif
