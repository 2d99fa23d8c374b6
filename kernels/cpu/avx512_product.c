/* Matrix products for AVX-512 with VNNI, built as those of avx2_product.c: one source for every quantized format, its shape a
 * constant of each instance. A vector is one quad of all 16 rows of a tile, and `vpdpbusd` adds its four columns in int32, which
 * is exact: nothing has to be widened, and codes may have all of 0 .. 255. Bits equal ref/block.h. */
#include "kernels/cpu/avx512_tile.h"

#ifdef KERNELS_HAS_AVX512

/* -- integer sums -------------------------------------------------------------------------------------------------------- */

/* Of a group of 32 columns: the planes at hand, and the sums by token. */
typedef struct {
    __m512i low, high;
    __m512i sum[KERNELS_TILE_TOKENS];
} group_sums;

INLINE __m512i four(const int8_t *q) { /* four columns of a token, for all rows */
    int32_t word;
    memcpy(&word, q, sizeof word);
    return _mm512_set1_epi32(word);
}

/* The sums of a run of columns start with what the bias will have added. */
INLINE void start_run(group_sums *g, const int32_t *sum, const uint32_t n, const tile_shape s) {
    for (uint32_t t = 0; t < n; t++) g->sum[t] = bias_of(s) ? _mm512_set1_epi32(-bias_of(s) * sum[t]) : _mm512_setzero_si512();
}

/* Adds four columns to the sums of n tokens. */
INLINE void add_quad(group_sums *g, const uint8_t *codes, const kernels_act *const *a, const uint32_t n, const uint32_t quad,
                     const tile_shape s) {
    if (quad % (8 / s.low) == 0) g->low = _mm512_loadu_si512(codes + quad * s.low / 8 * 64);
    if (s.high && quad % (8 / s.high) == 0) g->high = _mm512_loadu_si512(codes + (s.low + quad * s.high / 8) * 64);
    __m512i w = quad_of(g->low, g->high, quad, s);
    for (uint32_t t = 0; t < n; t++) g->sum[t] = _mm512_dpbusd_epi32(g->sum[t], w, four(a[t]->q + quad * 4));
}

typedef __m512 token_sums;

/* -- products ------------------------------------------------------------------------------------------------------------ */

/* Adds the sums of a run of columns, whose activations sum to sum[t], to those of n tokens. */
INLINE void add_run(token_sums *acc, const group_sums *g, const uint8_t *tile, const uint32_t run, const kernels_act *const *a,
                    const int32_t *sum, const uint32_t n, const tile_shape s) {
    __m512 d = scale_of(tile, run, s), m = s.has_min ? min_of(tile, run, s) : d;
    for (uint32_t t = 0; t < n; t++) {
        acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(a[t]->d)), _mm512_cvtepi32_ps(g->sum[t]), acc[t]);
        if (!s.has_min) continue;
        __m512 d_sum = _mm512_set1_ps(s.halves ? a[t]->d * (float)sum[t] : a[t]->d_sum);
        acc[t] = _mm512_fmadd_ps(m, d_sum, acc[t]);
    }
}

/* Adds a group of 32 columns to the sums of n tokens. */
INLINE void add_group(token_sums *acc, const uint8_t *tile, uint32_t group, const kernels_act *const *a, const uint32_t n,
                      const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    group_sums g;
    int32_t sum[KERNELS_TILE_TOKENS];
    for (uint32_t t = 0; t < n; t++) sum[t] = s.halves ? a[t]->sum_low : a[t]->sum;
    start_run(&g, sum, n, s);
    add_quad(&g, codes, a, n, 0, s);
    add_quad(&g, codes, a, n, 1, s);
    add_quad(&g, codes, a, n, 2, s);
    add_quad(&g, codes, a, n, 3, s);
    if (s.halves) {
        add_run(acc, &g, tile, 2 * group, a, sum, n, s);
        for (uint32_t t = 0; t < n; t++) sum[t] = a[t]->sum - sum[t];
        start_run(&g, sum, n, s);
    }
    add_quad(&g, codes, a, n, 4, s);
    add_quad(&g, codes, a, n, 5, s);
    add_quad(&g, codes, a, n, 6, s);
    add_quad(&g, codes, a, n, 7, s);
    add_run(acc, &g, tile, s.halves ? 2 * group + 1 : group, a, sum, n, s);
}

INLINE void start_chunk(token_sums *acc, const uint32_t n) {
    for (uint32_t t = 0; t < n; t++) acc[t] = _mm512_setzero_ps();
}

INLINE void store_chunk(float (*out)[KERNELS_LANES], const token_sums *acc, const uint32_t n, bool is_first) {
    for (uint32_t t = 0; t < n; t++) _mm512_storeu_ps(out[t], is_first ? acc[t] : _mm512_add_ps(_mm512_loadu_ps(out[t]), acc[t]));
}

INLINE __m512 floats(const uint8_t *w, const kernels_format format) {
    if (format == KERNELS_F32) return _mm512_loadu_ps((const void *)w);
    if (format == KERNELS_F16) return halves(w);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)w)), 16));
}

INLINE void add_column(token_sums *acc, const uint8_t *w, const char *x, size_t stride, const uint32_t n,
                       const kernels_format format) {
    __m512 column = floats(w, format);
    for (uint32_t t = 0; t < n; t++) acc[t] = _mm512_fmadd_ps(column, _mm512_set1_ps(*(const float *)(x + t * stride)), acc[t]);
}

#define PRODUCT(id) kernels_avx512_product_##id
#include "kernels/cpu/product_loops.h"

#define WIDE(name, halves, has_min)                                                                                              \
    static void name PARAMETERS {                                                                                                \
        switch (n) { TO(WIDE_TOKENS)(OF_SHAPE, wide_of(halves, has_min)) }                                                       \
    }
WIDE(wide, false, false)
WIDE(wide_halves, true, false)
WIDE(wide_min, false, true)
WIDE(wide_halves_min, true, true)

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_avx512_product_wide_##id PARAMETERS {                                                                           \
        const tile_shape s = tile_shapes[KERNELS_##id];                                                                          \
        kernels_product *of = s.halves ? s.has_min ? wide_halves_min : wide_halves : s.has_min ? wide_min : wide;                \
        of(out, strip, k0, x, stride, n, n_k, unit_k, ahead);                                                                    \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
