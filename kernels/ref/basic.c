/* Blocks of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0. In the file: f16 d (, f16 m) (, 32 fifth bits), then 16 bytes of nibbles, of
 * which byte j has value j in its low and value j + 16 in its high half, or 32 int8. */
#include "kernels/ref/block.h"

static void parse_q4_0(block_parts *p, const uint8_t *block) { block_nibbles(p->code, block + 2); }
static void parse_q4_1(block_parts *p, const uint8_t *block) { block_nibbles(p->code, block + 4); }

static void parse_q5(block_parts *p, const uint8_t *fifth, const uint8_t *nibbles) {
    block_nibbles(p->code, nibbles);
    for (uint32_t k = 0; k < KERNELS_GROUP; k++) p->code[k] |= (uint8_t)((fifth[k / 8] >> k % 8 & 1) << 4);
}
static void parse_q5_0(block_parts *p, const uint8_t *block) { parse_q5(p, block + 2, block + 6); }
static void parse_q5_1(block_parts *p, const uint8_t *block) { parse_q5(p, block + 4, block + 8); }

static void parse_q8_0(block_parts *p, const uint8_t *block) { memcpy(p->code, block + 2, KERNELS_GROUP); }

BLOCK_FORMAT(Q4_0, 32, 18, parse_q4_0)
BLOCK_FORMAT(Q4_1, 32, 20, parse_q4_1)
BLOCK_FORMAT(Q5_0, 32, 22, parse_q5_0)
BLOCK_FORMAT(Q5_1, 32, 24, parse_q5_1)
BLOCK_FORMAT(Q8_0, 32, 34, parse_q8_0)
