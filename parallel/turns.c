#include "parallel/turns.h"

#include "base/pause.h"

#include <sched.h>

enum { PAUSES_PER_LOOK = 100 };

void turns_begin(turns *t) {
    const unsigned mine = atomic_fetch_add_explicit(&t->next, 1, memory_order_relaxed);
    for (unsigned i = 1; atomic_load_explicit(&t->now, memory_order_acquire) != mine; i++) {
        pause_briefly();
        if (i % PAUSES_PER_LOOK == 0) sched_yield(); /* threads may share a core */
    }
}

void turns_end(turns *t) {
    atomic_store_explicit(&t->now, atomic_load_explicit(&t->now, memory_order_relaxed) + 1, memory_order_release);
}
