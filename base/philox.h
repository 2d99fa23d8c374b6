/* Philox4x32-10: a counter-based generator: four random words are a function of a key and a counter, and of nothing else.
 *
 * So the draw for (seed, position, token) is the same wherever and whenever it is made: that is what lets any worker make it
 * (speculative sampling, migration, replay). Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3
 * (SC 2011). Pure; any thread. */
#ifndef CONSORT_BASE_PHILOX_H
#define CONSORT_BASE_PHILOX_H

#include <stdint.h>

typedef struct {
    uint32_t word[4];
} philox_block;

philox_block philox(uint64_t key, philox_block counter); /* key word 0 is the low half of `key` */

#endif
