/* turns: a lock that is fair. Who asks first comes first, so that a thread which takes it again and again, as one that tests in a
 * loop does, keeps no other out. Held for moments only: who waits spins, then yields the core between two looks. */
#ifndef CONSORT_PARALLEL_TURNS_H
#define CONSORT_PARALLEL_TURNS_H

#include <stdatomic.h>

typedef struct {
    _Atomic unsigned next, now; /* the next ticket; whose turn it is. Zeros: nobody's */
} turns;

void turns_begin(turns *t);
void turns_end(turns *t);

#endif
