/* Block: what is the same for every quantized format: packing of parsed blocks, dequantization and the product.
 *
 * A format is a row of formats.def and a function that parses a block of the file into codes and sub-scales; BLOCK_FORMAT
 * makes its layout of both. The formula and the order of sums stand here once (docs/numerics.md, "Matrix products"). Included by
 * the formats of ref/ only. Pure; any thread. */
#ifndef CONSORT_KERNELS_REF_BLOCK_H
#define CONSORT_KERNELS_REF_BLOCK_H

#include "kernels/tile.h"

/* A block of the file, taken apart. */
typedef struct {
    uint8_t code[256]; /* by column */
    uint8_t sub[16];   /* sub-scale, as tile_scale says, by run of columns that share it */
    uint8_t sub_min[16];
} block_parts;

/* One row of a group of 32: column k is d[part] * q[k] + m[part]. */
typedef struct {
    float d[2], m[2];
    int8_t q[KERNELS_GROUP];
} block_row;

static inline uint32_t block_runs(tile_shape s) { return s.halves ? 2 : 1; } /* of a group that have a scale of their own */

/* 16 bytes of 32 codes: the low nibbles first. */
static inline void block_nibbles(uint8_t *code, const uint8_t *from) {
    for (uint32_t k = 0; k < 16; k++) {
        code[k] = from[k] & 15;
        code[k + 16] = from[k] >> 4;
    }
}

/* A quad of columns at a time: neither shift leaves its byte behind the mask. */
static inline void block_pack_plane(uint8_t *plane, const uint8_t *code, uint32_t lane, uint32_t bits, uint32_t shift) {
    const uint32_t per_byte = 8 / bits, mask = ((1u << bits) - 1) * 0x01010101u;
    for (uint32_t v = 0; v < bits; v++) {
        uint32_t four = 0;
        for (uint32_t j = 0; j < per_byte; j++) {
            uint32_t quad;
            memcpy(&quad, code + (v * per_byte + j) * 4, sizeof quad);
            four |= (quad >> shift & mask) << j * bits;
        }
        memcpy(plane + v * 64 + lane * 4, &four, sizeof four);
    }
}

static inline void block_pack(uint8_t *tile, const uint8_t *block, uint32_t lane, tile_shape s,
                              void (*parse)(block_parts *, const uint8_t *)) {
    block_parts p;
    parse(&p, block);
    for (uint32_t g = 0; g < s.groups; g++) {
        uint8_t *to = tile + g * tile_codes_bytes(s);
        block_pack_plane(to, p.code + g * KERNELS_GROUP, lane, s.low, 0);
        if (s.high) block_pack_plane(to + s.low * 64, p.code + g * KERNELS_GROUP, lane, s.high, s.low);
    }
    if (s.scale == TILE_E8M0)
        tile[tile_d(s) + lane] = block[s.d_at];
    else
        memcpy(tile + tile_d(s) + 2 * lane, block + s.d_at, 2);
    if (s.has_min) memcpy(tile + tile_m(s) + 2 * lane, block + s.d_at + 2, 2);
    if (s.scale < TILE_BYTES) return;
    for (uint32_t r = 0; r < s.groups * block_runs(s); r++) {
        tile[tile_sub(s) + r * KERNELS_LANES + lane] = p.sub[r];
        if (s.scale == TILE_BYTES && s.has_min) tile[tile_sub_min(s) + r * KERNELS_LANES + lane] = p.sub_min[r];
    }
}

static inline uint32_t block_plane(const uint8_t *plane, uint32_t lane, uint32_t k, uint32_t bits) {
    uint32_t quad = k / 4, per_byte = 8 / bits;
    return plane[quad / per_byte * 64 + lane * 4 + k % 4] >> quad % per_byte * bits & ((1u << bits) - 1);
}

static inline int8_t block_value(const uint8_t *codes, uint32_t lane, uint32_t k, tile_shape s) {
    uint32_t code = block_plane(codes, lane, k, s.low);
    if (s.high) code |= block_plane(codes + s.low * 64, lane, k, s.high) << s.low;
    return (int8_t)((s.book ? tile_books[s.book][code] : (int)code) - s.bias);
}

static inline block_row block_read(const uint8_t *tile, uint32_t group, uint32_t lane, tile_shape s) {
    block_row row;
    float d = s.scale == TILE_E8M0 ? tile_e8m0(tile[tile_d(s) + lane]) : half_load(tile + tile_d(s) + 2 * lane);
    float m = s.has_min ? half_load(tile + tile_m(s) + 2 * lane) : 0;
    for (uint32_t i = 0; i < block_runs(s); i++) {
        uint32_t at = (group * block_runs(s) + i) * KERNELS_LANES + lane;
        row.d[i] = d;
        row.m[i] = m;
        if (s.scale == TILE_BYTES) {
            row.d[i] = d * (float)(int8_t)tile[tile_sub(s) + at];
            if (s.has_min) row.m[i] = -(m * (float)tile[tile_sub_min(s) + at]);
        } else if (s.scale == TILE_NIBBLES) {
            row.d[i] = d * (float)(tile[tile_sub(s) + at] & 15);
            row.m[i] = -(m * (float)(tile[tile_sub(s) + at] >> 4));
        }
    }
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) row.q[k] = block_value(tile + group * tile_codes_bytes(s), lane, k, s);
    return row;
}

static inline void block_unpack(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane, tile_shape s) {
    block_row row = block_read(tile, k0 / KERNELS_GROUP, lane, s);
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) {
        uint32_t i = s.halves ? k / 16 : 0;
        out[k] = row.d[i] * (float)row.q[k];
        if (s.has_min) out[k] += row.m[i];
    }
}

static inline float block_sum(float acc, const block_row *w, tile_shape s, const kernels_act *a) {
    const uint32_t n = KERNELS_GROUP / block_runs(s);
    for (uint32_t i = 0; i < block_runs(s); i++) {
        int32_t isum = 0, sum = 0;
        for (uint32_t k = i * n; k < (i + 1) * n; k++) {
            isum += w->q[k] * a->q[k];
            sum += a->q[k];
        }
        acc = __builtin_fmaf(w->d[i] * a->d, (float)isum, acc);
        if (s.has_min) acc = __builtin_fmaf(w->m[i], a->d * (float)sum, acc);
    }
    return acc;
}

static inline void block_product(float (*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,
                                 uint32_t n_tokens, uint32_t n_k, tile_shape s) {
    const uint32_t n_groups = n_k / KERNELS_GROUP, chunk = KERNELS_CHUNK / KERNELS_GROUP;
    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
        float sum[KERNELS_TILE_TOKENS] = {0};
        for (uint32_t g0 = 0; g0 < n_groups; g0 += chunk) {
            uint32_t end = n_groups - g0 < chunk ? n_groups : g0 + chunk;
            float acc[KERNELS_TILE_TOKENS] = {0};
            for (uint32_t g = g0; g < end; g++) {
                uint32_t at = k0 / KERNELS_GROUP + g;
                block_row w = block_read(strip + (size_t)(at / s.groups) * tile_bytes(s), at % s.groups, lane, s);
                for (uint32_t t = 0; t < n_tokens; t++)
                    acc[t] = block_sum(acc[t], &w, s, (const kernels_act *)((const char *)x + t * stride) + g);
            }
            for (uint32_t t = 0; t < n_tokens; t++) sum[t] = g0 ? sum[t] + acc[t] : acc[t];
        }
        for (uint32_t t = 0; t < n_tokens; t++) out[t][lane] = sum[t];
    }
}

/* `block_bytes`: of a row in a tile (formats.def gives those of the file); kernels_formats checks it. */
#define BLOCK_FORMAT(id, columns, block_bytes, parse)                                                                            \
    static void pack_##id(uint8_t *tile, const uint8_t *block, uint32_t lane) {                                                  \
        block_pack(tile, block, lane, tile_shapes[KERNELS_##id], parse);                                                         \
    }                                                                                                                            \
    static void unpack_##id(float *out, const uint8_t *tile, uint32_t k0, uint32_t lane) {                                       \
        block_unpack(out, tile, k0, lane, tile_shapes[KERNELS_##id]);                                                            \
    }                                                                                                                            \
    static void product_##id(float(*out)[KERNELS_LANES], const uint8_t *strip, uint32_t k0, const void *x, size_t stride,        \
                             uint32_t n, uint32_t n_k, uint32_t unit_k, kernels_ahead ahead) {                                   \
        (void)ahead;                                                                                                             \
        for (uint32_t k = 0; k < n_k; k += unit_k, out += n)                                                                     \
            block_product(out, strip, k0 + k, (const kernels_act *)x + k / KERNELS_GROUP, stride, n,                             \
                          n_k - k < unit_k ? n_k - k : unit_k, tile_shapes[KERNELS_##id]);                                       \
    }                                                                                                                            \
    const kernels_layout kernels_layout_##id = {columns,   KERNELS_GROUP, KERNELS_LANES * block_bytes,                           \
                                                pack_##id, unpack_##id,   product_##id};

#endif
