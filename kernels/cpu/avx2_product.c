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
    for (uint32_t half = 0; half < 2; half++) {
        if (quad % (8 / s.low) == 0) g->low[half] = load(codes + quad * s.low / 8 * 64 + half * 32);
        if (s.high && quad % (8 / s.high) == 0) g->high[half] = load(codes + (s.low + quad * s.high / 8) * 64 + half * 32);
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

INLINE int32_t sum_of_16(const int8_t *q) {
    __m128i p = _mm_maddubs_epi16(_mm_set1_epi8(1), _mm_loadu_si128((const void *)q));
    p = _mm_madd_epi16(p, _mm_set1_epi16(1));
    p = _mm_add_epi32(p, _mm_shuffle_epi32(p, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(p, _mm_shuffle_epi32(p, 0xb1)));
}

/* -- products ------------------------------------------------------------------------------------------------------------ */

/* Adds the sums of a run of columns, whose activations sum to sum[t], to those of n tokens. */
INLINE void add_run(__m256 (*acc)[2], const group_sums *g, const uint8_t *tile, const uint32_t run, const kernels_act *const *a,
                    const int32_t *sum, const uint32_t n, const tile_shape s) {
    for (uint32_t half = 0; half < 2; half++) {
        __m256 d = scale_of(tile, run, half, s), m = s.has_min ? min_of(tile, run, half, s) : d;
        for (uint32_t t = 0; t < n; t++) {
            __m256i i = g->wide[t][half];
            if (s.bias) i = _mm256_sub_epi32(i, _mm256_set1_epi32(s.bias * sum[t]));
            acc[t][half] = _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(a[t]->d)), _mm256_cvtepi32_ps(i), acc[t][half]);
            if (!s.has_min) continue;
            __m256 d_sum = _mm256_set1_ps(s.halves ? a[t]->d * (float)sum[t] : a[t]->d_sum);
            acc[t][half] =
                s.scale == TILE_HALF ? _mm256_fmadd_ps(m, d_sum, acc[t][half]) : _mm256_fnmadd_ps(m, d_sum, acc[t][half]);
        }
    }
}

/* Adds a group of 32 columns to the sums of n tokens. */
INLINE void add_group(__m256 (*acc)[2], const uint8_t *tile, uint32_t group, const kernels_act *const *a, const uint32_t n,
                      const tile_shape s) {
    const uint8_t *codes = tile + group * tile_codes_bytes(s);
    group_sums g;
    int32_t sum[KERNELS_TILE_TOKENS];
    for (uint32_t t = 0; t < n; t++) sum[t] = s.halves ? sum_of_16(a[t]->q) : a[t]->sum;
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

INLINE void store_chunk(float (*out)[KERNELS_LANES], __m256 (*acc)[2], const uint32_t n, bool is_first) {
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t half = 0; half < 2; half++) {
            float *sum = out[t] + HALF_ROWS * half;
            _mm256_storeu_ps(sum, is_first ? acc[t][half] : _mm256_add_ps(_mm256_loadu_ps(sum), acc[t][half]));
        }
}

INLINE void block_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,
                          const uint32_t n, uint32_t n_k, kernels_ahead ahead, const tile_shape s) {
    const uint32_t n_groups = n_k / KERNELS_GROUP, chunk = KERNELS_CHUNK / KERNELS_GROUP;
    for (uint32_t g0 = 0; g0 < n_groups; g0 += chunk) {
        uint32_t end = n_groups - g0 < chunk ? n_groups : g0 + chunk;
        __m256 acc[KERNELS_TILE_TOKENS][2];
        for (uint32_t t = 0; t < n; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
        for (uint32_t g = g0; g < end; g++) {
            const kernels_act *a[KERNELS_TILE_TOKENS];
            for (uint32_t t = 0; t < n; t++) a[t] = (const kernels_act *)((const char *)x + t * stride) + g;
            uint32_t at = k0 / KERNELS_GROUP + g;
            kernels_ask(ahead, at);
            add_group(acc, strip + (size_t)(at / s.groups) * tile_bytes(s), at % s.groups, a, n, s);
        }
        store_chunk(out, acc, n, !g0);
    }
}

INLINE __m256 floats(const uint8_t *w, const kernels_format format) {
    if (format == KERNELS_F32) return _mm256_loadu_ps((const void *)w);
    if (format == KERNELS_F16) return halves(w);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)w)), 16));
}

INLINE void float_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,
                          const uint32_t n, uint32_t n_k, const kernels_format format) {
    const uint32_t half_bytes = HALF_ROWS * (format == KERNELS_F32 ? 4 : 2);
    const uint8_t *tile = strip + (size_t)k0 * 2 * half_bytes;
    for (uint32_t c0 = 0; c0 < n_k; c0 += KERNELS_CHUNK) {
        uint32_t end = n_k - c0 < KERNELS_CHUNK ? n_k : c0 + KERNELS_CHUNK;
        __m256 acc[KERNELS_TILE_TOKENS][2];
        for (uint32_t t = 0; t < n; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
        for (uint32_t k = c0; k < end; k++) {
            const uint8_t *w = tile + (size_t)k * 2 * half_bytes;
            __m256 w0 = floats(w, format), w1 = floats(w + half_bytes, format);
            for (uint32_t t = 0; t < n; t++) {
                __m256 v = _mm256_broadcast_ss((const float *)((const char *)x + t * stride) + k);
                acc[t][0] = _mm256_fmadd_ps(w0, v, acc[t][0]);
                acc[t][1] = _mm256_fmadd_ps(w1, v, acc[t][1]);
            }
        }
        store_chunk(out, acc, n, !c0);
    }
}

/* Both kinds under one name, since formats.def does not say which a row is. */
INLINE void product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,
                    const uint32_t n, uint32_t n_k, kernels_ahead ahead, const kernels_format format) {
    if (format <= KERNELS_BF16)
        float_product(out, strip, k0, x, stride, n, n_k, format);
    else
        block_product(out, strip, k0, x, stride, n, n_k, ahead, tile_shapes[format]);
}

/* One function a format, with the number of tokens a constant of each case. */
#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void kernels_avx2_product_##id(float(*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,  \
                                   uint32_t n, uint32_t n_k, kernels_ahead ahead) {                                              \
        switch (n) {                                                                                                             \
        case 1: product(out, strip, k0, x, stride, 1, n_k, ahead, KERNELS_##id); break;                                          \
        case 2: product(out, strip, k0, x, stride, 2, n_k, ahead, KERNELS_##id); break;                                          \
        case 3: product(out, strip, k0, x, stride, 3, n_k, ahead, KERNELS_##id); break;                                          \
        default: product(out, strip, k0, x, stride, 4, n_k, ahead, KERNELS_##id); break;                                         \
        }                                                                                                                        \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
