/* pause: a moment's wait in a loop that spins for something another core will write.
 *
 * Leaves the core's shared parts to its other thread, and lets go of what was read ahead. It does not give the core to others:
 * who spins for long must also yield or sleep. Thread: any. */
#ifndef CONSORT_BASE_PAUSE_H
#define CONSORT_BASE_PAUSE_H

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
