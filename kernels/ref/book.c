/* Nibbles that index a book of 16 values: IQ4_NL, IQ4_XS (256 columns, a 6-bit sub-scale for each 32) and MXFP4 (E2M1 values,
 * an E8M0 scale; OCP microscaling specification 1.0). */
#include "kernels/ref/block.h"

static void parse_iq4_nl(block_parts *p, const uint8_t *block) { block_nibbles(p->code, block + 2); }
static void parse_mxfp4(block_parts *p, const uint8_t *block) { block_nibbles(p->code, block + 1); }

static void parse_iq4_xs(block_parts *p, const uint8_t *block) {
    uint32_t high = block[2] | (uint32_t)block[3] << 8;
    for (uint32_t g = 0; g < 8; g++) {
        p->sub[g] = (uint8_t)(((block[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4) - 32);
        block_nibbles(p->code + g * KERNELS_GROUP, block + 8 + g * 16);
    }
}

BLOCK_FORMAT(IQ4_NL, 32, 18, parse_iq4_nl)
BLOCK_FORMAT(IQ4_XS, 256, 138, parse_iq4_xs)
BLOCK_FORMAT(MXFP4, 32, 17, parse_mxfp4)
