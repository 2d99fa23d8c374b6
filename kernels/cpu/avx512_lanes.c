/* Attention with a query in each lane, for rows that read the same keys: a vector has the same element of sixteen queries, so
 * that scores, maxima and sums need nothing across lanes, and an element of a key or a value is broadcast as it is read. Bits
 * equal ref/ref.c: the sixteen sums of a score are sixteen vectors here, added in the contract's order
 * (zeros behind a short head are not: they could only change the sign of a score of zero, which exp does not see). Road not
 * taken: the same for AVX2, with two vectors a broadcast; a tenth faster than its three queries a pass. */
#include "kernels/cpu/avx512_int.h"

#ifdef KERNELS_HAS_AVX512
#include <math.h> /* INFINITY */
#include <string.h>

enum { LANES = KERNELS_LANES, KEYS = 4, DIMS = 16 }; /* keys of a step, elements of the output: what the registers hold */

/* Compilers like to make all sixteen sums first and keep them on the stack; this makes them load, and so add, as they go. */
#define LOAD_AS_WE_GO() __asm__ volatile("" ::: "memory")

/* Sum `lane` of the sixteen, of four keys. */
INLINE void one_sum(__m512 *out, const float *q, const float *const *k, const uint32_t dim, const uint32_t lane) {
    for (uint32_t j = 0; j < KEYS; j++) out[j] = _mm512_setzero_ps();
    for (uint32_t i = lane; i < dim; i += KERNELS_LANES) {
        __m512 x = _mm512_load_ps(q + i * LANES);
        for (uint32_t j = 0; j < KEYS; j++) out[j] = _mm512_fmadd_ps(x, _mm512_set1_ps(k[j][i]), out[j]);
    }
    LOAD_AS_WE_GO();
}

#define SUM_OF(name, half, apart)                                                                                                \
    INLINE void name(__m512 *out, const float *q, const float *const *k, const uint32_t dim, const uint32_t lane) {              \
        __m512 more[KEYS];                                                                                                       \
        half(out, q, k, dim, lane);                                                                                              \
        half(more, q, k, dim, lane + (apart));                                                                                   \
        for (uint32_t j = 0; j < KEYS; j++) out[j] = _mm512_add_ps(out[j], more[j]);                                             \
    }
SUM_OF(two_sums, one_sum, 8)
SUM_OF(four_sums, two_sums, 4)
SUM_OF(eight_sums, four_sums, 2)
SUM_OF(all_sums, eight_sums, 1)

/* Which lanes see some of the positions `from` .. to - 1. */
INLINE __mmask16 lanes_see(const kernels_lanes *l, uint32_t from, uint32_t to) {
    return _mm512_cmpgt_epi32_mask(_mm512_set1_epi32((int32_t)to), _mm512_loadu_si512(l->first)) &
           _mm512_cmpgt_epi32_mask(_mm512_loadu_si512(l->end), _mm512_set1_epi32((int32_t)from));
}

/* o[d] = o[d] * rescale + sum of p_j * v_j[d], ascending, for n elements. Where not `all` lanes see all keys, a lane leaves out
 * those it does not see. */
INLINE void add_weighted(float *o, __m512 rescale, const float *v, float (*p)[LANES], uint32_t n_keys, const uint32_t dim,
                         const __mmask16 *sees, const bool all, const uint32_t n) {
    __m512 acc[DIMS];
    for (uint32_t d = 0; d < n; d++) acc[d] = _mm512_mul_ps(_mm512_load_ps(o + d * LANES), rescale);
    for (uint32_t j = 0; j < n_keys; j++, v += dim) {
        __m512 pj = _mm512_load_ps(p[j]);
        for (uint32_t d = 0; d < n; d++)
            acc[d] = _mm512_mask_blend_ps(all ? 0xffff : sees[j], acc[d], _mm512_fmadd_ps(pj, _mm512_set1_ps(v[d]), acc[d]));
    }
    for (uint32_t d = 0; d < n; d++) _mm512_store_ps(o + d * LANES, acc[d]);
}

INLINE void attend_dim(kernels_lanes *l, uint32_t p0, const float *k, const float *v, uint32_t n_keys, const uint32_t dim,
                       float scale, const bool all) {
    _Alignas(64) float p[KERNELS_CHUNK_KEYS][LANES];
    __mmask16 sees[KERNELS_CHUNK_KEYS];
    __m512 before = _mm512_load_ps(l->m), m = before;
    for (uint32_t j = 0; j < n_keys; j++) sees[j] = all ? 0xffff : lanes_see(l, p0 + j, p0 + j + 1);
    for (uint32_t j0 = 0; j0 < n_keys; j0 += KEYS) {
        const float *key[KEYS];
        __m512 s[KEYS];
        for (uint32_t j = 0; j < KEYS; j++) key[j] = k + (j0 + j < n_keys ? j0 + j : n_keys - 1) * dim;
        all_sums(s, l->q, key, dim, 0);
        for (uint32_t j = 0; j < KEYS && j0 + j < n_keys; j++) {
            __m512 x = _mm512_mul_ps(s[j], _mm512_set1_ps(scale));
            m = _mm512_mask_blend_ps(sees[j0 + j], m, _mm512_max_ps(x, m)); /* in this order a NaN changes nothing */
            _mm512_store_ps(p[j0 + j], x);
        }
    }
    const __mmask16 any = all ? 0xffff : lanes_see(l, p0, p0 + n_keys);
    __m512 rescale = _mm512_mask_blend_ps(any, _mm512_set1_ps(1.0f), exp16(_mm512_sub_ps(before, m)));
    __m512 sum = _mm512_mul_ps(_mm512_load_ps(l->l), rescale);
    for (uint32_t j = 0; j < n_keys; j++) {
        __m512 x = exp16(_mm512_sub_ps(_mm512_load_ps(p[j]), m));
        sum = _mm512_mask_blend_ps(sees[j], sum, _mm512_add_ps(sum, x));
        _mm512_store_ps(p[j], x);
    }
    _mm512_store_ps(l->m, m);
    _mm512_store_ps(l->l, sum);
    uint32_t d = 0;
    for (; d + DIMS <= dim; d += DIMS) add_weighted(l->o + d * LANES, rescale, v + d, p, n_keys, dim, sees, all, DIMS);
    for (; d < dim; d++) add_weighted(l->o + d * LANES, rescale, v + d, p, n_keys, dim, sees, all, 1);
}

/* The common sizes as constants, so that the loops over them unroll. */
void kernels_avx512_attend_lanes(kernels_lanes *l, uint32_t p0, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                                 float scale) {
    bool all = true;
    for (uint32_t i = 0; i < LANES; i++) all &= l->first[i] <= (int32_t)p0 && l->end[i] >= (int32_t)(p0 + n_keys);
    if (!all)
        attend_dim(l, p0, k, v, n_keys, dim, scale, false);
    else if (dim == 64)
        attend_dim(l, p0, k, v, n_keys, 64, scale, true);
    else if (dim == 128)
        attend_dim(l, p0, k, v, n_keys, 128, scale, true);
    else
        attend_dim(l, p0, k, v, n_keys, dim, scale, true);
}

/* Sixteen rows of sixteen become columns: rows by pairs, by pairs of pairs, then quarters of vectors change places. */
INLINE void transpose(__m512 *r) {
    for (uint32_t i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1])),
                b = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
        __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
        __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (uint32_t i = 0; i < 4; i++) {
        __m512 a = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x44), b = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xee);
        __m512 c = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x44), d = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xee);
        r[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[i + 4] = _mm512_shuffle_f32x4(a, c, 0xdd);
        r[i + 8] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

void kernels_avx512_open_lanes(kernels_lanes *l, const float *const *q, uint32_t dim) {
    for (uint32_t d = 0; d < dim; d += 16) {
        __m512 r[16];
        for (uint32_t i = 0; i < 16; i++) r[i] = load(q[i] + d, dim - d);
        transpose(r);
        for (uint32_t i = 0; i < 16 && d + i < dim; i++) _mm512_store_ps(l->q + (d + i) * LANES, r[i]);
    }
    memset(l->o, 0, dim * LANES * sizeof *l->o);
    _mm512_store_ps(l->m, _mm512_set1_ps(-INFINITY));
    _mm512_store_ps(l->l, _mm512_setzero_ps());
}

void kernels_avx512_close_lanes(const kernels_lanes *l, const kernels_query *query, uint32_t n, uint32_t dim, bool done) {
    const __m512 one = _mm512_set1_ps(1.0f), factor = done ? _mm512_div_ps(one, _mm512_load_ps(l->l)) : one;
    for (uint32_t i = 0; i < n; i++) *query[i].state = (kernels_softmax){l->m[i], l->l[i]};
    for (uint32_t d = 0; d < dim; d += 16) {
        __m512 r[16];
        for (uint32_t i = 0; i < 16; i++)
            r[i] = d + i < dim ? _mm512_mul_ps(_mm512_load_ps(l->o + (d + i) * LANES), factor) : _mm512_setzero_ps();
        transpose(r);
        for (uint32_t i = 0; i < n; i++) store(query[i].o + d, r[i], dim - d);
    }
}

#endif
