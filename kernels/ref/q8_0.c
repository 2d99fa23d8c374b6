/* Q8_0. In the file a block is f16 d, then 32 int8. A tile is
 *     [8 groups of 4 columns][16 rows][4 bytes]
 *     [16] f16 d */
#include "kernels/half.h"
#include "kernels/ref/block.h"

enum { VALUES = 512 }; /* bytes of a tile before its scales */

static void pack(uint8_t *tile, const uint8_t *block, uint32_t lane) {
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) tile[k / 4 * 64 + lane * 4 + k % 4] = block[2 + k];
    memcpy(tile + VALUES + 2 * lane, block, 2);
}

static block_row read(const uint8_t *tile, uint32_t lane) {
    block_row row = {.d = half_load(tile + VALUES + 2 * lane)};
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) row.q[k] = (int8_t)tile[k / 4 * 64 + lane * 4 + k % 4];
    return row;
}

static void unpack(float *out, const uint8_t *tile, uint32_t lane) {
    block_row row = read(tile, lane);
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) out[k] = row.d * (float)row.q[k];
}

static void product(float (*out)[KERNELS_LANES], const uint8_t *tile, const void *x, size_t stride, uint32_t n_tokens,
                    uint32_t n_k) {
    block_product(out, tile, VALUES + 32, read, false, x, stride, n_tokens, n_k);
}

const kernels_layout kernels_layout_Q8_0 = {KERNELS_GROUP, VALUES + 32, pack, unpack, product};
