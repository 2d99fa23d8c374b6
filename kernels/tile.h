/* Tile: how a quantized format stands in memory once packed, described by a few numbers that all instruction sets share.
 *
 * A tile is KERNELS_LANES rows by one block of columns, lane = row:
 *     [groups of 32 columns] { low plane, high plane }    the codes
 *     [16] f16 d (or [16] E8M0)  (, [16] f16 m)           scale and minimum of the tile
 *     [groups][1 or 2][16] sub-scale (, the same of sub-minimums)
 * A plane of b bits is [b][16 rows][4 bytes]: four columns ("a quad") of a row are the same bits of four bytes, and a byte
 * has the bits of the same column of 8 / b quads, the lowest quad in the lowest bits. So 32 bytes are a quad of eight rows, as a
 * byte multiply-add wants them, and every format is unpacked by shifts and masks.
 * A value is d_w * (code - bias) or d_w * (book[code] - bias), + m_w where there is a minimum.
 * A wide tile is a group that has been unpacked for many tokens to read: no planes and no book, but [8 quads][16 rows][4 bytes]
 * of codes as its instruction set multiplies them, and d_w (and m_w) of its runs as f32. Pure; any thread. */
#ifndef CONSORT_KERNELS_TILE_H
#define CONSORT_KERNELS_TILE_H

#include "base/half.h"
#include "kernels/kernels_int.h"

typedef enum {
    TILE_HALF,    /* d_w = d, m_w = m */
    TILE_E8M0,    /* d_w = 2^(byte - 128): half of the OCP scale, since the book holds doubled values */
    TILE_BYTES,   /* d_w = d * sub-scale (int8), m_w = -(m * sub-minimum) */
    TILE_NIBBLES, /* the same of the low and the high nibble of one byte */
} tile_scale;

typedef enum { TILE_NO_BOOK, TILE_IQ4, TILE_E2M1, TILE_N_BOOKS } tile_book;

typedef struct {
    uint32_t groups;    /* of 32 columns in a tile */
    uint32_t low, high; /* bits of a code in each plane */
    int32_t bias;
    uint32_t d_at; /* in the file's block */
    tile_scale scale;
    tile_book book;
    bool halves;    /* scales are of 16 columns, not of 32 */
    bool has_min;   /* the file's minimum is added, or subtracted where it has sub-minimums */
    bool is_signed; /* values below 0 without a bias */
    bool is_wide;   /* a wide tile: d_w and m_w stand there, and `low`, `high` and `book` only tell how large a code may be */
} tile_shape;

static const tile_shape tile_shapes[KERNELS_N_FORMATS] = {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = {.groups = ((elements) + 31) / 32, __VA_ARGS__},
#include "kernels/formats.def"
#undef FORMAT
};

static const tile_shape tile_wide_shapes[KERNELS_N_FORMATS] = {
#define FORMAT(id, ggml, name, elements, bytes, ...) [KERNELS_##id] = {.groups = 1, .is_wide = true, __VA_ARGS__},
#include "kernels/formats.def"
#undef FORMAT
};

/* ggml-common.h, kvalues_iq4nl; E2M1 of the OCP microscaling specification 1.0, doubled, and 12 added (the bias). */
static const int8_t tile_books[TILE_N_BOOKS][16] = {
    [TILE_IQ4] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
    [TILE_E2M1] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
};

/* Places in a tile, in bytes. */
static inline uint32_t tile_codes_bytes(tile_shape s) { return (s.is_wide ? 8u : s.low + s.high) * 64; } /* of a group */
static inline uint32_t tile_d(tile_shape s) { return s.groups * tile_codes_bytes(s); }
static inline uint32_t tile_wide_m(tile_shape s) { return tile_d(s) + (s.halves ? 2u : 1u) * 4 * KERNELS_LANES; }
static inline uint32_t tile_m(tile_shape s) { return tile_d(s) + 2 * KERNELS_LANES; }
static inline uint32_t tile_sub_bytes(tile_shape s) { /* of all groups; 0 where there are none */
    return s.scale < TILE_BYTES ? 0 : s.groups * (s.halves ? 2 : 1) * KERNELS_LANES;
}
static inline uint32_t tile_sub(tile_shape s) {
    return tile_d(s) + (s.scale == TILE_E8M0 ? KERNELS_LANES : s.has_min ? 4 * KERNELS_LANES : 2 * KERNELS_LANES);
}
static inline uint32_t tile_sub_min(tile_shape s) { return tile_sub(s) + tile_sub_bytes(s); } /* of TILE_BYTES */
static inline uint32_t tile_bytes(tile_shape s) {
    if (s.is_wide) return s.has_min ? 2 * tile_wide_m(s) - tile_d(s) : tile_wide_m(s);
    return tile_sub(s) + tile_sub_bytes(s) * (s.scale == TILE_BYTES && s.has_min ? 2 : 1);
}

/* 2^(e - 128); the two smallest are subnormal (ggml-impl.h, ggml_e8m0_to_fp32_half). */
static inline float tile_e8m0(uint8_t e) {
    uint32_t u = e < 2 ? 0x200000u << e : (e - 1u) << 23;
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

#endif
