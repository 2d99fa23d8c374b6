/* pause: a moment's wait in a loop that spins for something another core will write.
 *
 * The processor's own hint (pause, yield): it does not give the core to other threads, so who spins for long must also yield or
 * sleep. Thread: any. */
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
