#include "base/philox.h"

philox_block philox(uint64_t key, philox_block c) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = UINT64_C(0xD2511F53) * c.word[0], b = UINT64_C(0xCD9E8D57) * c.word[2];
        c = (philox_block){
            {(uint32_t)(b >> 32) ^ c.word[1] ^ k0, (uint32_t)b, (uint32_t)(a >> 32) ^ c.word[3] ^ k1, (uint32_t)a}};
        k0 += 0x9E3779B9u; /* Weyl sequence: golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    return c;
}
