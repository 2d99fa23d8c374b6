/* Q4_0 and Q4_1. In the file a block is f16 d (, f16 m), then 16 bytes: byte j has value j in its low and value j + 16 in its
 * high nibble. A tile is
 *     [4 groups of 8 columns][16 rows][4 bytes]   low nibbles: columns 0-3 of the group, high nibbles: columns 4-7
 *     [16] f16 d (, [16] f16 m)
 * so that 32 bytes are four columns of eight rows, as a byte multiply-add wants them. */
#include "kernels/half.h"
#include "kernels/ref/block.h"

enum { NIBBLES = 256 }; /* bytes of a tile before its scales */

static void pack_nibbles(uint8_t *tile, const uint8_t *from, uint32_t lane) {
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) {
        uint32_t value = k < 16 ? from[k] & 15u : from[k - 16] >> 4;
        uint8_t *to = tile + k / 8 * 64 + lane * 4 + k % 4;
        *to = (uint8_t)(k & 4 ? (*to & 0x0fu) | value << 4 : (*to & 0xf0u) | value);
    }
}

static int nibble(const uint8_t *tile, uint32_t lane, uint32_t k) {
    uint8_t byte = tile[k / 8 * 64 + lane * 4 + k % 4];
    return k & 4 ? byte >> 4 : byte & 15;
}

static void pack_0(uint8_t *tile, const uint8_t *block, uint32_t lane) {
    pack_nibbles(tile, block + 2, lane);
    memcpy(tile + NIBBLES + 2 * lane, block, 2);
}

static void pack_1(uint8_t *tile, const uint8_t *block, uint32_t lane) {
    pack_nibbles(tile, block + 4, lane);
    memcpy(tile + NIBBLES + 2 * lane, block, 2);
    memcpy(tile + NIBBLES + 32 + 2 * lane, block + 2, 2);
}

static block_row read_0(const uint8_t *tile, uint32_t lane) {
    block_row row = {.d = half_load(tile + NIBBLES + 2 * lane)};
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) row.q[k] = (int8_t)(nibble(tile, lane, k) - 8);
    return row;
}

static block_row read_1(const uint8_t *tile, uint32_t lane) {
    block_row row = {.d = half_load(tile + NIBBLES + 2 * lane), .m = half_load(tile + NIBBLES + 32 + 2 * lane)};
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) row.q[k] = (int8_t)nibble(tile, lane, k);
    return row;
}

static void unpack_0(float *out, const uint8_t *tile, uint32_t lane) {
    block_row row = read_0(tile, lane);
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) out[k] = row.d * (float)row.q[k];
}

static void unpack_1(float *out, const uint8_t *tile, uint32_t lane) {
    block_row row = read_1(tile, lane);
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) out[k] = row.d * (float)row.q[k] + row.m;
}

static void product_0(float (*out)[KERNELS_LANES], const uint8_t *tile, const void *x, size_t stride, uint32_t n_tokens,
                      uint32_t n_k) {
    block_product(out, tile, NIBBLES + 32, read_0, false, x, stride, n_tokens, n_k);
}

static void product_1(float (*out)[KERNELS_LANES], const uint8_t *tile, const void *x, size_t stride, uint32_t n_tokens,
                      uint32_t n_k) {
    block_product(out, tile, NIBBLES + 64, read_1, true, x, stride, n_tokens, n_k);
}

const kernels_layout kernels_layout_Q4_0 = {KERNELS_GROUP, NIBBLES + 32, pack_0, unpack_0, product_0};
const kernels_layout kernels_layout_Q4_1 = {KERNELS_GROUP, NIBBLES + 64, pack_1, unpack_1, product_1};
