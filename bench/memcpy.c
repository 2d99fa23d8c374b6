/* bench_memcpy MESSAGE_BYTES BYTES: how fast memcpy copies messages of one size, with no transport around it.
 *
 * They lie one behind the other, as many as 16 MiB hold, at either end, as those of `consort bench kv` do: more than a cache of
 * its own holds. Both ends are touched before. One thread. Printed: bytes a second, each counted once. bench/kv.py starts it. */
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { END_BYTES = 16 << 20 };

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void copy(unsigned char *to, const unsigned char *from, size_t size, size_t n_messages) {
    const size_t n_places = END_BYTES / size;
    for (size_t i = 0, place = 0; i < n_messages; i++) {
        memcpy(to + place * size, from + place * size, size);
        __asm__ volatile("" ::"r"(to) : "memory"); /* somebody might look */
        if (++place == n_places) place = 0;
    }
}

int main(int argc, char **argv) {
    const size_t size = argc == 3 ? strtoull(argv[1], NULL, 10) : 0, bytes = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    if (!size || size > END_BYTES || bytes < size) {
        fprintf(stderr, "usage: bench_memcpy MESSAGE_BYTES BYTES; expected 1 to %d bytes a message, and at least one message\n",
                END_BYTES);
        return 2;
    }
    unsigned char *from = mem_map(END_BYTES), *to = mem_map(END_BYTES);
    if (from && to) {
        memset(from, 0x5a, END_BYTES);
        memset(to, 0xa5, END_BYTES);
        const double start = now_s();
        copy(to, from, size, bytes / size);
        printf("%.0f\n", (double)(bytes / size * size) / (now_s() - start));
    } else {
        fprintf(stderr, "bench_memcpy: out of memory\n");
    }
    const int status = from && to ? 0 : 1;
    mem_unmap(from, END_BYTES);
    mem_unmap(to, END_BYTES);
    return status;
}
