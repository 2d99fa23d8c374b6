/* What the products of all instruction sets have in common: the walk over units, chunks and groups, and one function a format
 * with the number of tokens a constant of each case, so that sums stay in registers. Included by each *_product.c behind its own
 *     token_sums                                         the KERNELS_LANES sums of a token
 *     start_chunk(acc, n)                                sets them to 0 for n tokens
 *     store_chunk(out, acc, n, is_first)                 out[t] = acc[t], or += where is_first is not
 *     add_group(acc, tile, group, a, n, s)               adds a group of 32 columns
 *     add_column(acc, w, x, stride, n, format)           adds a column, of a float format, whose lanes stand at w
 *     PRODUCT(id), TILE_TOKENS                           the name of a format's function; the table's tile_tokens */
#ifndef CONSORT_KERNELS_CPU_PRODUCT_LOOPS_H
#define CONSORT_KERNELS_CPU_PRODUCT_LOOPS_H

#include "kernels/tile.h"

static inline uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

INLINE void block_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const char *x, size_t stride,
                          const uint32_t n, uint32_t n_k, uint32_t unit_k, kernels_ahead ahead, const tile_shape s) {
    const uint32_t n_groups = n_k / KERNELS_GROUP, chunk = KERNELS_CHUNK / KERNELS_GROUP, unit = unit_k / KERNELS_GROUP;
    for (uint32_t from = 0, end; from < n_groups; from = end, out += n) {
        end = least(n_groups - from, unit) + from;
        for (uint32_t g = from, stop; g < end; g = stop) {
            const bool is_first = g == from;
            token_sums acc[KERNELS_TILE_TOKENS];
            start_chunk(acc, n);
            for (stop = least(end - g, chunk) + g; g < stop; g++) {
                const kernels_act *a[KERNELS_TILE_TOKENS];
                for (uint32_t t = 0; t < n; t++) a[t] = (const kernels_act *)(x + t * stride) + g;
                uint32_t at = k0 / KERNELS_GROUP + g;
                kernels_ask(ahead, at);
                add_group(acc, strip + (size_t)(at / s.groups) * tile_bytes(s), at % s.groups, a, n, s);
            }
            store_chunk(out, acc, n, is_first);
        }
    }
}

INLINE void float_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const char *x, size_t stride,
                          const uint32_t n, uint32_t n_k, uint32_t unit_k, const kernels_format format) {
    const uint32_t column_bytes = KERNELS_LANES * (format == KERNELS_F32 ? 4 : 2);
    for (uint32_t from = 0, end; from < n_k; from = end, out += n) {
        end = least(n_k - from, unit_k) + from;
        for (uint32_t k = from, stop; k < end; k = stop) {
            const bool is_first = k == from;
            token_sums acc[KERNELS_TILE_TOKENS];
            start_chunk(acc, n);
            for (stop = least(end - k, KERNELS_CHUNK) + k; k < stop; k++)
                add_column(acc, strip + (size_t)(k0 + k) * column_bytes, x + k * sizeof(float), stride, n, format);
            store_chunk(out, acc, n, is_first);
        }
    }
}

/* Both kinds under one name, since formats.def does not say which a row is. */
INLINE void product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const char *x, size_t stride,
                    const uint32_t n, uint32_t n_k, uint32_t unit_k, kernels_ahead ahead, const kernels_format format) {
    if (format <= KERNELS_BF16)
        float_product(out, strip, k0, x, stride, n, n_k, unit_k, format);
    else
        block_product(out, strip, k0, x, stride, n, n_k, unit_k, ahead, tile_shapes[format]);
}

#define PARAMETERS                                                                                                               \
    (float(*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride, uint32_t n, uint32_t n_k,      \
     uint32_t unit_k, kernels_ahead ahead)
#define OF_FORMAT(n, id)   product(out, strip, k0, x, stride, n, n_k, unit_k, ahead, KERNELS_##id);
#define OF_SHAPE(n, shape) block_product(out, strip, k0, x, stride, n, n_k, unit_k, ahead, shape);
/* A case for each number of tokens up to one that a table states; there are those of TO_4, TO_9 and TO_13. */
#define TO(n)       TO_CASES(n)
#define TO_CASES(n) TO_##n
#ifdef KERNELS_ANY_TOKENS /* the same source with no number of tokens a constant: slow, and built in an eighth of the time */
#define TO_4(of, what)                                                                                                           \
    default:                                                                                                                     \
        of(n, what)
#define TO_9  TO_4
#define TO_13 TO_4
#else
#define CASE(n, of, what)                                                                                                        \
    case n:                                                                                                                      \
        of(n, what) break;
#define TO_4(of, what)  CASE(1, of, what) CASE(2, of, what) CASE(3, of, what) CASE(4, of, what)
#define TO_9(of, what)  TO_4(of, what) CASE(5, of, what) CASE(6, of, what) CASE(7, of, what) CASE(8, of, what) CASE(9, of, what)
#define TO_13(of, what) TO_9(of, what) CASE(10, of, what) CASE(11, of, what) CASE(12, of, what) CASE(13, of, what)
#endif

#define FORMAT(id, ggml, name, elements, bytes, ...)                                                                             \
    void PRODUCT(id) PARAMETERS {                                                                                                \
        switch (n) { TO(TILE_TOKENS)(OF_FORMAT, id) }                                                                            \
    }
#include "kernels/formats.def"
#undef FORMAT

#endif
