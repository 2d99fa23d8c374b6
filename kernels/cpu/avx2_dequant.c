/* Dequantization for AVX2: a group of 32 columns of a tile as floats. Bits equal the layouts' unpack: the value, which is exact,
 * times the scale, then the minimum. */
#include "kernels/cpu/avx2_tile.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

/* Columns 4 * quad to 4 * quad + 3 of eight rows. Byte j of a row is moved to the top of its four and down again with its sign: a
 * code that has none is under 128. */
INLINE void quad(float (*out)[KERNELS_LANES], const uint8_t *codes, __m256 d, __m256 m, const uint32_t half, const uint32_t at,
                 const tile_shape s) {
    const uint8_t *plane = codes + half * 32;
    __m256i low = load(plane + at * s.low / 8 * 64), high = low;
    if (s.high) high = load(plane + (s.low + at * s.high / 8) * 64);
    __m256i x = quad_of(&low, &high, at, s);
    if (s.bias) x = _mm256_sub_epi8(x, _mm256_set1_epi8((char)s.bias));
    const __m256i value[4] = {_mm256_srai_epi32(_mm256_slli_epi32(x, 24), 24), _mm256_srai_epi32(_mm256_slli_epi32(x, 16), 24),
                              _mm256_srai_epi32(_mm256_slli_epi32(x, 8), 24), _mm256_srai_epi32(x, 24)};
    for (uint32_t j = 0; j < 4; j++) {
        __m256 y = _mm256_mul_ps(d, _mm256_cvtepi32_ps(value[j]));
        if (s.has_min) y = _mm256_add_ps(y, m);
        _mm256_storeu_ps(out[4 * at + j] + HALF_ROWS * half, y);
    }
}

INLINE void dequantize(float (*out)[KERNELS_LANES], const uint8_t *tile, uint32_t group, const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    const uint32_t run = s.halves ? 2 * group : group;
    for (uint32_t half = 0; half < 2; half++) {
        __m256 d = scale_of(tile, run, half, s), m = s.has_min ? min_of(tile, run, half, s) : d;
        quad(out, codes, d, m, half, 0, s);
        quad(out, codes, d, m, half, 1, s);
        quad(out, codes, d, m, half, 2, s);
        quad(out, codes, d, m, half, 3, s);
        if (s.halves) {
            d = scale_of(tile, run + 1, half, s);
            m = s.has_min ? min_of(tile, run + 1, half, s) : d;
        }
        quad(out, codes, d, m, half, 4, s);
        quad(out, codes, d, m, half, 5, s);
        quad(out, codes, d, m, half, 6, s);
        quad(out, codes, d, m, half, 7, s);
    }
}

INLINE void widen_quad(uint8_t *out, const uint8_t *codes, const uint32_t half, const uint32_t at, const tile_shape s) {
    const uint8_t *plane = codes + half * 32;
    __m256i low = load(plane + at * s.low / 8 * 64), high = low;
    if (s.high) high = load(plane + (s.low + at * s.high / 8) * 64);
    _mm256_storeu_si256((void *)(out + at * 64 + half * 32), quad_of(&low, &high, at, s));
}

/* A group as a wide tile (tile.h). */
INLINE void widen(uint8_t *out, const uint8_t *tile, uint32_t group, const tile_shape s, const tile_shape wide) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    float *d = (float *)(void *)(out + tile_d(wide)), *m = (float *)(void *)(out + tile_wide_m(wide));
    const uint32_t n_runs = s.halves ? 2 : 1;
    for (uint32_t half = 0; half < 2; half++) {
        widen_quad(out, codes, half, 0, s);
        widen_quad(out, codes, half, 1, s);
        widen_quad(out, codes, half, 2, s);
        widen_quad(out, codes, half, 3, s);
        widen_quad(out, codes, half, 4, s);
        widen_quad(out, codes, half, 5, s);
        widen_quad(out, codes, half, 6, s);
        widen_quad(out, codes, half, 7, s);
        for (uint32_t run = 0; run < n_runs; run++) {
            const uint32_t at = run * KERNELS_LANES + half * HALF_ROWS;
            _mm256_storeu_ps(d + at, scale_of(tile, group * n_runs + run, half, s));
            if (s.has_min) _mm256_storeu_ps(m + at, min_of(tile, group * n_runs + run, half, s));
        }
    }
}

/* The float formats have no groups; their products read them as they are. */
#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_avx2_dequantize_##id(void *out, const uint8_t *tile, uint32_t group) {                                          \
        if (KERNELS_##id > KERNELS_BF16) dequantize(out, tile, group, tile_shapes[KERNELS_##id]);                                \
    }                                                                                                                            \
    void kernels_avx2_widen_##id(void *out, const uint8_t *tile, uint32_t group) {                                               \
        if (KERNELS_##id > KERNELS_BF16) widen(out, tile, group, tile_shapes[KERNELS_##id], tile_wide_shapes[KERNELS_##id]);     \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
