/* What attention over a chunk has in common in AVX2 and AVX-512: up to three queries go through the keys together, and the
 * common sizes of a head are constants, so that the loops over them unroll. Included by each *_attend.c behind its own
 *     QUERIES                                                     3
 *     attend_dim(query, n, k, v, n_keys, dim, scale)              kernels_primitives.attend of at most that many queries */
#ifndef CONSORT_KERNELS_CPU_ATTEND_SIZES_H
#define CONSORT_KERNELS_CPU_ATTEND_SIZES_H

INLINE void attend_some(const kernels_query *query, const uint32_t n, const float *k, const float *v, uint32_t n_keys,
                        uint32_t dim, float scale) {
    switch (dim) {
    case 64: attend_dim(query, n, k, v, n_keys, 64, scale); break;
    case 128: attend_dim(query, n, k, v, n_keys, 128, scale); break;
    default: attend_dim(query, n, k, v, n_keys, dim, scale); break;
    }
}

INLINE void attend_all(const kernels_query *query, uint32_t n, const float *k, const float *v, uint32_t n_keys, uint32_t dim,
                       float scale) {
    for (; n >= QUERIES; n -= QUERIES, query += QUERIES) attend_some(query, QUERIES, k, v, n_keys, dim, scale);
    if (n == 2) attend_some(query, 2, k, v, n_keys, dim, scale);
    if (n == 1) attend_some(query, 1, k, v, n_keys, dim, scale);
}

#endif
