/* Ternary blocks of 256 with one f16 scale: TQ2_0 (two bits a value) and TQ1_0 (five values a byte, in base 3). Both are packed
 * to two bits: for TQ1_0 that is 22 % more memory than the file and no multiplication in the product. */
#include "kernels/ref/block.h"

static void parse_tq2_0(block_parts *p, const uint8_t *block) {
    for (uint32_t k = 0; k < 256; k++) p->code[k] = block[k / 128 * 32 + k % 32] >> k % 128 / 32 * 2 & 3;
}

/* Digit i of a byte is the top of byte * 3^i, as a fraction of 256, times 3. */
static void digits(uint8_t *code, const uint8_t *from, uint32_t n_bytes, uint32_t n_digits) {
    for (uint32_t i = 0, power = 1; i < n_digits; i++, power *= 3)
        for (uint32_t j = 0; j < n_bytes; j++) code[i * n_bytes + j] = (uint8_t)((uint8_t)(from[j] * power) * 3u >> 8);
}

static void parse_tq1_0(block_parts *p, const uint8_t *block) {
    digits(p->code, block, 32, 5);
    digits(p->code + 160, block + 32, 16, 5);
    digits(p->code + 240, block + 48, 4, 4);
}

BLOCK_FORMAT(TQ1_0, 256, 66, parse_tq1_0)
BLOCK_FORMAT(TQ2_0, 256, 66, parse_tq2_0)
