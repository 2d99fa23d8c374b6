/* Dequantization for AVX-512, as in avx2_dequant.c: the value, which is exact, times the scale, then the minimum. */
#include "kernels/cpu/avx512_tile.h"

#ifdef KERNELS_HAS_AVX512

/* Columns 4 * at to 4 * at + 3 of 16 rows. */
INLINE void quad(float (*out)[KERNELS_LANES], const uint8_t *codes, __m512 d, __m512 m, const uint32_t at, const tile_shape s) {
    __m512i low = _mm512_loadu_si512(codes + at * s.low / 8 * 64), high = low;
    if (s.high) high = _mm512_loadu_si512(codes + (s.low + at * s.high / 8) * 64);
    const __m512i x = quad_of(low, high, at, s), byte = _mm512_set1_epi32(0xff), bias = _mm512_set1_epi32(bias_of(s));
    const __m512i code[4] = {_mm512_and_si512(x, byte), _mm512_and_si512(_mm512_srli_epi32(x, 8), byte),
                             _mm512_and_si512(_mm512_srli_epi32(x, 16), byte), _mm512_srli_epi32(x, 24)};
    for (uint32_t j = 0; j < 4; j++) {
        __m512 y = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_sub_epi32(code[j], bias)));
        if (s.has_min) y = _mm512_add_ps(y, m);
        _mm512_storeu_ps(out[4 * at + j], y);
    }
}

INLINE void dequantize(float (*out)[KERNELS_LANES], const uint8_t *tile, uint32_t group, const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    const uint32_t run = s.halves ? 2 * group : group;
    __m512 d = scale_of(tile, run, s), m = s.has_min ? min_of(tile, run, s) : d;
    quad(out, codes, d, m, 0, s);
    quad(out, codes, d, m, 1, s);
    quad(out, codes, d, m, 2, s);
    quad(out, codes, d, m, 3, s);
    if (s.halves) {
        d = scale_of(tile, run + 1, s);
        m = s.has_min ? min_of(tile, run + 1, s) : d;
    }
    quad(out, codes, d, m, 4, s);
    quad(out, codes, d, m, 5, s);
    quad(out, codes, d, m, 6, s);
    quad(out, codes, d, m, 7, s);
}

INLINE void widen_quad(uint8_t *out, const uint8_t *codes, const uint32_t at, const tile_shape s) {
    __m512i low = _mm512_loadu_si512(codes + at * s.low / 8 * 64), high = low;
    if (s.high) high = _mm512_loadu_si512(codes + (s.low + at * s.high / 8) * 64);
    __m512i x = quad_of(low, high, at, s);
    if (!s.has_min) x = _mm512_add_epi8(x, _mm512_set1_epi8((char)(128 - bias_of(s))));
    _mm512_storeu_si512(out + at * 64, x);
}

/* A group as a wide tile (tile.h), of one of the four shapes of wide_of. */
INLINE void widen(uint8_t *out, const uint8_t *tile, uint32_t group, const tile_shape s, const tile_shape wide) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    const uint32_t n_runs = s.halves ? 2 : 1;
    widen_quad(out, codes, 0, s);
    widen_quad(out, codes, 1, s);
    widen_quad(out, codes, 2, s);
    widen_quad(out, codes, 3, s);
    widen_quad(out, codes, 4, s);
    widen_quad(out, codes, 5, s);
    widen_quad(out, codes, 6, s);
    widen_quad(out, codes, 7, s);
    for (uint32_t run = 0; run < n_runs; run++) {
        _mm512_storeu_ps(out + tile_d(wide) + run * 64, scale_of(tile, group * n_runs + run, s));
        if (s.has_min) _mm512_storeu_ps(out + tile_wide_m(wide) + run * 64, min_of(tile, group * n_runs + run, s));
    }
}

/* The float formats have no groups; their products read them as they are. */
#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_avx512_dequantize_##id(void *out, const uint8_t *tile, uint32_t group) {                                        \
        if (KERNELS_##id > KERNELS_BF16) dequantize(out, tile, group, tile_shapes[KERNELS_##id]);                                \
    }                                                                                                                            \
    void kernels_avx512_widen_##id(void *out, const uint8_t *tile, uint32_t group) {                                             \
        if (KERNELS_##id > KERNELS_BF16) widen(out, tile, group, tile_shapes[KERNELS_##id], tile_wide_shapes[KERNELS_##id]);     \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
