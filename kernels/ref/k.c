/* K-quants: blocks of 256 with an f16 scale (and minimum) and a sub-scale (and sub-minimum) for each 16 or 32 columns. Places of
 * bits are those of ggml-common.h (block_q2_K ...) and ggml-quants.c (dequantize_row_q2_K ...). Sub-scales of 6 bits take a byte
 * in a tile, so that a shift less stands in the product: 2 to 4 % more memory. */
#include "kernels/ref/block.h"

/* Two bits a column: byte i of 32 has columns i, i + 32, i + 64, i + 96 of its 128. */
static void twos(uint8_t *code, const uint8_t *from, uint32_t shift) {
    for (uint32_t k = 0; k < 256; k++) code[k] |= (uint8_t)((from[k / 128 * 32 + k % 32] >> k % 128 / 32 * 2 & 3) << shift);
}

static void fours(uint8_t *code, const uint8_t *from, uint32_t run) { /* nibbles: `run` columns low, then as many high */
    for (uint32_t k = 0; k < 256; k++) code[k] = from[k / (2 * run) * run + k % run] >> k / run % 2 * 4 & 15;
}

static void ones(uint8_t *code, const uint8_t *from, uint32_t shift) { /* byte i of 32 has columns i, i + 32, ... */
    for (uint32_t k = 0; k < 256; k++) code[k] |= (uint8_t)((from[k % 32] >> k / 32 & 1) << shift);
}

/* Eight scales and eight minimums of 6 bits in 12 bytes. */
static void sixes(block_parts *p, const uint8_t *from) {
    for (uint32_t j = 0; j < 4; j++) {
        uint32_t scale = from[j], min = from[4 + j], both = from[8 + j];
        p->sub[j] = scale & 63;
        p->sub_min[j] = min & 63;
        p->sub[4 + j] = (uint8_t)((both & 15) | (scale >> 6) << 4);
        p->sub_min[4 + j] = (uint8_t)(both >> 4 | (min >> 6) << 4);
    }
}

static void parse_q2_k(block_parts *p, const uint8_t *block) {
    memset(p->code, 0, sizeof p->code);
    memcpy(p->sub, block, 16);
    twos(p->code, block + 16, 0);
}

static void parse_q3_k(block_parts *p, const uint8_t *block) {
    const uint8_t *low = block + 96, *high = low + 8;
    memset(p->code, 0, sizeof p->code);
    twos(p->code, block + 32, 0);
    ones(p->code, block, 2);
    for (uint32_t j = 0; j < 16; j++)
        p->sub[j] = (uint8_t)(((low[j % 8] >> j / 8 * 4 & 15) | (high[j % 4] >> j / 4 * 2 & 3) << 4) - 32);
}

static void parse_q4_k(block_parts *p, const uint8_t *block) {
    sixes(p, block + 4);
    fours(p->code, block + 16, 32);
}

static void parse_q5_k(block_parts *p, const uint8_t *block) {
    sixes(p, block + 4);
    fours(p->code, block + 48, 32);
    ones(p->code, block + 16, 4);
}

static void parse_q6_k(block_parts *p, const uint8_t *block) {
    fours(p->code, block, 64);
    twos(p->code, block + 128, 4);
    memcpy(p->sub, block + 192, 16);
}

BLOCK_FORMAT(Q2_K, 256, 84, parse_q2_k)
BLOCK_FORMAT(Q3_K, 256, 114, parse_q3_k)
BLOCK_FORMAT(Q4_K, 256, 148, parse_q4_k)
BLOCK_FORMAT(Q5_K, 256, 180, parse_q5_k)
BLOCK_FORMAT(Q6_K, 256, 210, parse_q6_k)
