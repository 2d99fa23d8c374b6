/* Attention over a chunk of keys for AVX2; as in avx2.c, nothing here may run before kernels_avx2() has asked the processor.
 *
 * Up to three queries go through the keys together: two keys and three queries are twelve sums in registers, for five loads of
 * sixteen values, and likewise for the values. Bits equal ref/ref.c: a query's own sums run as if it were alone. */
#include "kernels/cpu/avx2_int.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

enum { QUERIES = 3, KEYS = KERNELS_CHUNK_KEYS };

/* Lane j: the sum of key j's lanes, in the order of sum8: i with i + 4, with i + 2, with i + 1. */
INLINE __m256 sum8_of_8(const __m256 *r) {
    __m256 pair[4], quad[2];
    for (uint32_t j = 0; j < 4; j++)
        pair[j] = _mm256_add_ps(_mm256_permute2f128_ps(r[2 * j], r[2 * j + 1], 0x20),
                                _mm256_permute2f128_ps(r[2 * j], r[2 * j + 1], 0x31));
    for (uint32_t j = 0; j < 2; j++)
        quad[j] = _mm256_add_ps(_mm256_shuffle_ps(pair[2 * j], pair[2 * j + 1], 0x44),
                                _mm256_shuffle_ps(pair[2 * j], pair[2 * j + 1], 0xee));
    __m256 all = _mm256_add_ps(_mm256_shuffle_ps(quad[0], quad[1], 0x88), _mm256_shuffle_ps(quad[0], quad[1], 0xdd));
    return _mm256_permutevar8x32_ps(all, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* out[t][j] = q_t . k_j in sixteen lanes, of which i and i + 8 have been added, for two keys. */
INLINE void dot_two(__m256 (*out)[8], const kernels_query *query, const uint32_t n, const float *k0, const float *k1,
                    const uint32_t dim) {
    __m256 s[QUERIES][2][2];
    for (uint32_t t = 0; t < n; t++) s[t][0][0] = s[t][0][1] = s[t][1][0] = s[t][1][1] = _mm256_setzero_ps();
    uint32_t i = 0;
    for (; i + 16 <= dim; i += 16)
        for (uint32_t half = 0; half < 2; half++) {
            __m256 a = _mm256_loadu_ps(k0 + i + 8 * half), b = _mm256_loadu_ps(k1 + i + 8 * half);
            for (uint32_t t = 0; t < n; t++) {
                __m256 q = _mm256_loadu_ps(query[t].q + i + 8 * half);
                s[t][0][half] = _mm256_fmadd_ps(q, a, s[t][0][half]);
                s[t][1][half] = _mm256_fmadd_ps(q, b, s[t][1][half]);
            }
        }
    for (uint32_t half = 0; i < dim && half < 2; half++) { /* the row goes on with zeros */
        uint32_t left = dim - i > 8 * half ? dim - i - 8 * half : 0, at = left ? i + 8 * half : i;
        __m256 a = load_first(k0 + at, left), b = load_first(k1 + at, left);
        for (uint32_t t = 0; t < n; t++) {
            __m256 q = load_first(query[t].q + at, left);
            s[t][0][half] = _mm256_fmadd_ps(q, a, s[t][0][half]);
            s[t][1][half] = _mm256_fmadd_ps(q, b, s[t][1][half]);
        }
    }
    for (uint32_t t = 0; t < n; t++)
        for (uint32_t j = 0; j < 2; j++) out[t][j] = _mm256_add_ps(s[t][j][0], s[t][j][1]);
}

/* p[t][j] = the scores; *m: the largest of them and of m. Behind the last key: that key again, which changes no maximum. */
INLINE void score(float (*p)[KEYS], float *m, const kernels_query *query, const uint32_t n, const float *k, uint32_t n_keys,
                  const uint32_t dim, float scale) {
    __m256 most[QUERIES];
    for (uint32_t t = 0; t < n; t++) most[t] = _mm256_set1_ps(m[t]);
    for (uint32_t j0 = 0; j0 < n_keys; j0 += 8) {
        __m256 r[QUERIES][8];
        for (uint32_t j = 0; j < 8; j += 2) {
            uint32_t a = j0 + j < n_keys ? j0 + j : n_keys - 1, b = a + 1 < n_keys ? a + 1 : n_keys - 1;
            __m256 two[QUERIES][8];
            dot_two(two, query, n, k + a * dim, k + b * dim, dim);
            for (uint32_t t = 0; t < n; t++) r[t][j] = two[t][0], r[t][j + 1] = two[t][1];
        }
        for (uint32_t t = 0; t < n; t++) {
            __m256 s = _mm256_mul_ps(sum8_of_8(r[t]), _mm256_set1_ps(scale));
            _mm256_storeu_ps(p[t] + j0, s);
            most[t] = _mm256_max_ps(s, most[t]); /* in this order a NaN changes nothing */
        }
    }
    for (uint32_t t = 0; t < n; t++) {
        __m128 x = _mm_max_ps(_mm256_castps256_ps128(most[t]), _mm256_extractf128_ps(most[t], 1));
        x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        m[t] = _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
    }
}

/* Of a chunk, by query; in all lanes alike. */
typedef struct {
    __m256 rescale[QUERIES], l[QUERIES];
} chunk_sums;

/* o_t = o_t * rescale_t + sum of p_tj * v_j, ascending, over 8 * width values from `at`; in the first sweep also l_t += p_tj,
 * which costs nothing beside the products. */
INLINE void add_values(const kernels_query *query, const uint32_t n, uint32_t at, const float *v, const float (*p)[KEYS],
                       uint32_t n_keys, const uint32_t dim, chunk_sums *s, const uint32_t width, const bool with_l) {
    __m256 acc[QUERIES][8], l[QUERIES];
    for (uint32_t t = 0; t < n; t++) {
        l[t] = s->l[t];
        for (uint32_t i = 0; i < width; i++) acc[t][i] = _mm256_mul_ps(_mm256_loadu_ps(query[t].o + at + 8 * i), s->rescale[t]);
    }
    v += at;
    for (uint32_t j = 0; j < n_keys; j++, v += dim) {
        for (uint32_t t = 0; t < n; t++) {
            __m256 pj = _mm256_broadcast_ss(p[t] + j);
            if (with_l) l[t] = _mm256_add_ps(l[t], pj);
            for (uint32_t i = 0; i < width; i++) acc[t][i] = _mm256_fmadd_ps(pj, _mm256_loadu_ps(v + 8 * i), acc[t][i]);
        }
    }
    for (uint32_t t = 0; t < n; t++) {
        s->l[t] = l[t];
        for (uint32_t i = 0; i < width; i++) _mm256_storeu_ps(query[t].o + at + 8 * i, acc[t][i]);
    }
}

INLINE void attend_dim(const kernels_query *query, const uint32_t n, const float *k, const float *v, uint32_t n_keys,
                       const uint32_t dim, float scale) {
    float p[QUERIES][KEYS], m[QUERIES], rescale[8] = {0};
    chunk_sums s;
    for (uint32_t t = 0; t < n; t++) m[t] = query[t].state->m;
    score(p, m, query, n, k, n_keys, dim, scale);
    for (uint32_t t = 0; t < n; t++) rescale[t] = query[t].state->m - m[t];
    _mm256_storeu_ps(rescale, exp8(_mm256_loadu_ps(rescale)));
    for (uint32_t t = 0; t < n; t++) {
        for (uint32_t j = 0; j < n_keys; j += 8)
            _mm256_storeu_ps(p[t] + j, exp8(_mm256_sub_ps(_mm256_loadu_ps(p[t] + j), _mm256_set1_ps(m[t]))));
        s.rescale[t] = _mm256_set1_ps(rescale[t]);
        s.l[t] = _mm256_set1_ps(query[t].state->l * rescale[t]);
    }
    const uint32_t width = n == 1 ? 8 : 4; /* vectors of a sweep: sums must stay in registers */
    uint32_t i = 0;
    for (; i + 8 * width <= dim; i += 8 * width)
        i ? add_values(query, n, i, v, p, n_keys, dim, &s, width, false)
          : add_values(query, n, i, v, p, n_keys, dim, &s, width, true);
    for (; i + 8 <= dim; i += 8)
        i ? add_values(query, n, i, v, p, n_keys, dim, &s, 1, false) : add_values(query, n, i, v, p, n_keys, dim, &s, 1, true);
    if (dim < 8) add_values(query, n, 0, v, p, n_keys, dim, &s, 0, true);
    for (; i < dim; i++)
        for (uint32_t t = 0; t < n; t++) {
            float o = query[t].o[i] * rescale[t];
            for (uint32_t j = 0; j < n_keys; j++) o = __builtin_fmaf(p[t][j], v[j * dim + i], o);
            query[t].o[i] = o;
        }
    for (uint32_t t = 0; t < n; t++) *query[t].state = (kernels_softmax){m[t], _mm256_cvtss_f32(s.l[t])};
}

#include "kernels/cpu/attend_sizes.h"

void kernels_avx2_attend(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                         float scale) {
    attend_all(query, n, k, v, n_keys, dim, scale);
}

#endif
