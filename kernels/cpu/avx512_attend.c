/* Attention over a chunk of keys for AVX-512, as in avx2_attend.c: up to three queries go through the keys together, so that one
 * load of a key or a value serves them all. Bits equal ref/ref.c: a query's own sums run as if it were alone. */
#include "kernels/cpu/avx512_int.h"

#ifdef KERNELS_HAS_AVX512

enum { QUERIES = 3, KEYS = KERNELS_CHUNK_KEYS };

/* The halves of what is left of a row, added, for two rows side by side. */
INLINE __m512 add_quarters(__m512 a, __m512 b) { /* lanes i and i + 8 */
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
INLINE __m512 add_eighths(__m512 a, __m512 b) { /* then i and i + 4 */
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
INLINE __m512 add_pairs(__m512 a, __m512 b) { /* then i and i + 2 */
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
INLINE __m512 add_last(__m512 a, __m512 b) { /* then i and i + 1 */
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* out[t] = q_t . k_j of four keys, in sixteen lanes each, of which i and i + 8, then i and i + 4 have been added. */
INLINE void dot_four(__m512 *out, const kernels_query *query, const uint32_t n, const float *const *k, const uint32_t dim) {
    __m512 s[QUERIES][4];
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t j = 0; j < 4; j++) s[t][j] = _mm512_setzero_ps();
    for (uint32_t i = 0; i < dim; i += 16) {
        __m512 x[4];
        for (uint32_t j = 0; j < 4; j++) x[j] = load(k[j] + i, dim - i);
        for (uint32_t t = 0; t < n; t++) {
            __m512 q = load(query[t].q + i, dim - i);
            for (uint32_t j = 0; j < 4; j++) s[t][j] = _mm512_fmadd_ps(q, x[j], s[t][j]);
        }
    }
    for (uint32_t t = 0; t < n; t++) out[t] = add_eighths(add_quarters(s[t][0], s[t][1]), add_quarters(s[t][2], s[t][3]));
}

/* p[t][j] = the scores; m[t]: the largest of them and of m[t]. Behind the last key: keys again, which change no maximum. */
INLINE void score(float (*p)[KEYS], float *m, const kernels_query *query, const uint32_t n, const float *k, uint32_t n_keys,
                  const uint32_t dim, float scale) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512 most[QUERIES];
    for (uint32_t t = 0; t < n; t++) most[t] = _mm512_set1_ps(m[t]);
    for (uint32_t j0 = 0; j0 < n_keys; j0 += 16) {
        __m512 r[4][QUERIES];
        for (uint32_t f = 0; f < 4; f++) {
            const float *four[4];
            for (uint32_t j = 0; j < 4; j++) four[j] = k + (j0 + 4 * f + j < n_keys ? j0 + 4 * f + j : n_keys - 1) * dim;
            if (j0 + 4 * f < n_keys)
                dot_four(r[f], query, n, four, dim);
            else
                for (uint32_t t = 0; t < n; t++) r[f][t] = r[0][t];
        }
        for (uint32_t t = 0; t < n; t++) {
            __m512 all = add_last(add_pairs(r[0][t], r[1][t]), add_pairs(r[2][t], r[3][t]));
            all = _mm512_mul_ps(_mm512_permutexvar_ps(order, all), _mm512_set1_ps(scale));
            most[t] = _mm512_max_ps(all, most[t]); /* in this order a NaN changes nothing */
            _mm512_storeu_ps(p[t] + j0, all);
        }
    }
    for (uint32_t t = 0; t < n; t++) m[t] = _mm512_reduce_max_ps(most[t]);
}

/* Of a chunk, by query; in all lanes alike. */
typedef struct {
    __m512 rescale[QUERIES], l[QUERIES];
} chunk_sums;

/* o_t = o_t * rescale_t + sum of p_tj * v_j, ascending, over `width` vectors from `at`, the last of which may have n_last values
 * only; in the first sweep also l_t += p_tj, which costs nothing beside the products. */
INLINE void add_values(const kernels_query *query, const uint32_t n, uint32_t at, const float *v, const float (*p)[KEYS],
                       uint32_t n_keys, const uint32_t dim, chunk_sums *s, const uint32_t width, uint32_t n_last) {
    const bool with_l = at == 0;
    __m512 acc[QUERIES][4], l[QUERIES];
    for (uint32_t t = 0; t < n; t++) {
        l[t] = s->l[t];
        for (uint32_t i = 0; i < width; i++) acc[t][i] = _mm512_mul_ps(load(query[t].o + at + 16 * i, n_last), s->rescale[t]);
    }
    v += at;
    for (uint32_t j = 0; j < n_keys; j++, v += dim)
        for (uint32_t t = 0; t < n; t++) {
            __m512 pj = _mm512_set1_ps(p[t][j]);
            if (with_l) l[t] = _mm512_add_ps(l[t], pj);
            for (uint32_t i = 0; i < width; i++) acc[t][i] = _mm512_fmadd_ps(pj, load(v + 16 * i, n_last), acc[t][i]);
        }
    for (uint32_t t = 0; t < n; t++) {
        s->l[t] = l[t];
        for (uint32_t i = 0; i < width; i++) store(query[t].o + at + 16 * i, acc[t][i], n_last);
    }
}

INLINE void attend_dim(const kernels_query *query, const uint32_t n, const float *k, const float *v, uint32_t n_keys,
                       const uint32_t dim, float scale) {
    float p[QUERIES][KEYS], m[QUERIES], rescale[16] = {0};
    chunk_sums s;
    for (uint32_t t = 0; t < n; t++) m[t] = query[t].state->m;
    score(p, m, query, n, k, n_keys, dim, scale);
    for (uint32_t t = 0; t < n; t++) rescale[t] = query[t].state->m - m[t];
    _mm512_storeu_ps(rescale, exp16(_mm512_loadu_ps(rescale)));
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t j = 0; j < n_keys; j += 16)
            _mm512_storeu_ps(p[t] + j, exp16(_mm512_sub_ps(_mm512_loadu_ps(p[t] + j), _mm512_set1_ps(m[t]))));
        s.rescale[t] = _mm512_set1_ps(rescale[t]);
        s.l[t] = _mm512_set1_ps(query[t].state->l * rescale[t]);
    }
    uint32_t i = 0;
    for (; i + 64 <= dim; i += 64) add_values(query, n, i, v, p, n_keys, dim, &s, 4, 16);
    for (; i < dim; i += 16) add_values(query, n, i, v, p, n_keys, dim, &s, 1, dim - i);
    for (uint32_t t = 0; t < n; t++) *query[t].state = (kernels_softmax){m[t], _mm_cvtss_f32(_mm512_castps512_ps128(s.l[t]))};
}

#include "kernels/cpu/attend_sizes.h"

void kernels_avx512_attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                           float scale) {
    attend_all(query, n, k, v, n_keys, dim, scale);
}

#endif
