/* A moment's wait in a loop that spins for something another core will write. */
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
