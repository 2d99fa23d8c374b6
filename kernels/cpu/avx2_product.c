/* Matrix products for AVX2: one source for every quantized format, since a tile is planes of bits and a few scales (tile.h). The
 * shape is a constant of each instance, so shifts, masks and formulas are chosen when this is compiled. Bits equal
 * ref/block.h: only integer sums, which are exact, are arranged otherwise. */
#include "kernels/cpu/avx2_tile.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

INLINE __m256i four(const int8_t *q) { /* four columns of a token, for eight rows */
    int32_t word;
    memcpy(&word, q, sizeof word);
    return _mm256_set1_epi32(word);
}

/* Compilers like to load all broadcasts of a tile at once, and to put off its sums, and keep both on the stack; these make them
 * load and add as they go. */
#define LOAD_AS_WE_GO()   __asm__ volatile("" ::: "memory")
#define ADD_AS_WE_GO(sum) __asm__("" : "+x"(sum))

/* -- integer sums -------------------------------------------------------------------------------------------------------- */

/* Of a group of 32 columns: the planes at hand, by half, and the sums, by token and half. */
typedef struct {
    __m256i low[2], high[2];
    __m256i narrow[KERNELS_TILE_TOKENS][2], wide[KERNELS_TILE_TOKENS][2]; /* int16, int32 */
} group_sums;

/* Products of pairs that may be added in int16 before they are widened: n * 2 * 127 * (largest code) must stay under 2^15. */
INLINE uint32_t narrow_quads(const tile_shape s) {
    const uint32_t largest = s.book ? 24 : (1u << (s.low + s.high)) - 1;
    return largest <= 15 ? 8 : largest <= 31 ? 4 : 2;
}

/* Adds four columns to the sums of n tokens. A signed weight gives its sign to the activation, since one factor must be unsigned;
 * |w| = 128 still fits: 2 * 128 * 127 = 32,512. */
INLINE void add_quad(group_sums *g, const uint8_t *codes, const kernels_act *const *a, const uint32_t n, const uint32_t quad,
                     const tile_shape s) {
    const uint32_t columns = s.halves ? 4 : 8, at = quad % columns; /* quads of a sum; of them before this */
    const __m256i ones = _mm256_set1_epi16(1);
    const uint32_t low_bits = s.is_wide ? 8 : s.low, high_bits = s.is_wide ? 0 : s.high;
    for (uint32_t half = 0; half < 2; half++) {
        if (quad % (8 / low_bits) == 0) g->low[half] = load(codes + quad * low_bits / 8 * 64 + half * 32);
        if (high_bits && quad % (8 / high_bits) == 0)
            g->high[half] = load(codes + (low_bits + quad * high_bits / 8) * 64 + half * 32);
    }
    __m256i w[2] = {quad_of(&g->low[0], &g->high[0], quad, s), quad_of(&g->low[1], &g->high[1], quad, s)};
    for (uint32_t t = 0; t < n; t++) {
        __m256i q = four(a[t]->q + quad * 4);
        for (uint32_t half = 0; half < 2; half++) {
            __m256i p = s.is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w[half]), _mm256_sign_epi8(q, w[half]))
                                    : _mm256_maddubs_epi16(w[half], q);
            const uint32_t run = s.is_signed ? 1 : narrow_quads(s) < columns ? narrow_quads(s) : columns;
            p = at % run ? _mm256_add_epi16(g->narrow[t][half], p) : p;
            g->narrow[t][half] = p;
            if ((at + 1) % run) {
                ADD_AS_WE_GO(g->narrow[t][half]);
                continue;
            }
            p = _mm256_madd_epi16(p, ones);
            g->wide[t][half] = at < run ? p : _mm256_add_epi32(g->wide[t][half], p);
            ADD_AS_WE_GO(g->wide[t][half]);
        }
    }
    LOAD_AS_WE_GO();
}

typedef __m256 token_sums[2]; /* by half */

/* -- products ------------------------------------------------------------------------------------------------------------ */

/* Adds the sums of a run of columns, whose activations sum to sum[t], to those of n tokens. */
INLINE void add_run(token_sums *acc, const group_sums *g, const uint8_t *tile, const uint32_t run, const kernels_act *const *a,
                    const int32_t *sum, const uint32_t n, const tile_shape s) {
    for (uint32_t half = 0; half < 2; half++) {
        __m256 d = scale_of(tile, run, half, s), m = s.has_min ? min_of(tile, run, half, s) : d;
        for (uint32_t t = 0; t < n; t++) {
            __m256i i = g->wide[t][half];
            if (s.bias) i = _mm256_sub_epi32(i, _mm256_set1_epi32(s.bias * sum[t]));
            acc[t][half] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(a[t]->d)), _mm256_cvtepi32_ps(i), acc[t][half]);
            if (!s.has_min) continue;
            __m256 d_sum = _mm256_set1_ps(s.halves ? a[t]->d * (float)sum[t] : a[t]->d_sum);
            acc[t][half] = _mm256_fmadd_ps(m, d_sum, acc[t][half]);
        }
    }
}

/* Adds a group of 32 columns to the sums of n tokens. */
INLINE void add_group(token_sums *acc, const uint8_t *tile, uint32_t group, const kernels_act *const *a, const uint32_t n,
                      const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    group_sums g;
    int32_t sum[KERNELS_TILE_TOKENS];
    for (uint32_t t = 0; t < n; t++) sum[t] = s.halves ? a[t]->sum_low : a[t]->sum;
    add_quad(&g, codes, a, n, 0, s);
    add_quad(&g, codes, a, n, 1, s);
    add_quad(&g, codes, a, n, 2, s);
    add_quad(&g, codes, a, n, 3, s);
    if (s.halves) {
        add_run(acc, &g, tile, 2 * group, a, sum, n, s);
        for (uint32_t t = 0; t < n; t++) sum[t] = a[t]->sum - sum[t];
    }
    add_quad(&g, codes, a, n, 4, s);
    add_quad(&g, codes, a, n, 5, s);
    add_quad(&g, codes, a, n, 6, s);
    add_quad(&g, codes, a, n, 7, s);
    add_run(acc, &g, tile, s.halves ? 2 * group + 1 : group, a, sum, n, s);
}

INLINE void start_chunk(token_sums *acc, const uint32_t n) {
    for (uint32_t t = 0; t < n; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
}

INLINE void store_chunk(float (*out)[KERNELS_LANES], token_sums *acc, const uint32_t n, bool is_first) {
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t half = 0; half < 2; half++) {
            float *sum = out[t] + HALF_ROWS * half;
            _mm256_storeu_ps(sum, is_first ? acc[t][half] : _mm256_add_ps(_mm256_loadu_ps(sum), acc[t][half]));
        }
}

INLINE __m256 floats(const uint8_t *w, const kernels_format format) {
    if (format == KERNELS_F32) return _mm256_loadu_ps((const void *)w);
    if (format == KERNELS_F16) return halves(w);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w)), 16));
}

INLINE void add_column(token_sums *acc, const uint8_t *w, const char *x, size_t stride, const uint32_t n,
                       const kernels_format format) {
    __m256 w0 = floats(w, format), w1 = floats(w + HALF_ROWS * (format == KERNELS_F32 ? 4 : 2), format);
    for (uint32_t t = 0; t < n; t++) {
        __m256 v = _mm256_broadcast_ss((const float *)(x + t * stride));
        acc[t][0] = _mm256_fmadd_ps(w0, v, acc[t][0]);
        acc[t][1] = _mm256_fmadd_ps(w1, v, acc[t][1]);
    }
}

#define PRODUCT(id) kernels_avx2_product_##id
#include "kernels/cpu/product_loops.h"

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_avx2_product_wide_##id PARAMETERS {                                                                             \
        const tile_shape s = tile_wide_shapes[KERNELS_##id];                                                                     \
        if (KERNELS_##id > KERNELS_BF16) switch (n) {                                                                            \
                TO(WIDE_TOKENS)(OF_SHAPE, s)                                                                                     \
            }                                                                                                                    \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
