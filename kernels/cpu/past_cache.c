/* A copy that leaves the caches alone. Memory that is written line by line through a cache is first read into it; a line that is
 * written whole past the cache (SSE2's streaming stores, which every x86-64 has) is not. */
#include "kernels/kernels.h"

#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { LINE_BYTES = 64, WORTH_BYTES = 4096 /* of what is to be stored before the fence, which waits for it */ };

void kernels_copy_past_cache(void *to, const void *from, size_t n) {
#if defined(__SSE2__)
    char *at = to;
    const char *source = from;
    if (n >= WORTH_BYTES) {
        const size_t first = -(uintptr_t)at % LINE_BYTES;
        memcpy(at, source, first);
        for (at += first, source += first, n -= first; n >= LINE_BYTES; at += LINE_BYTES, source += LINE_BYTES, n -= LINE_BYTES) {
            const __m128i *lane = (const void *)source;
            const __m128i a = _mm_loadu_si128(lane), b = _mm_loadu_si128(lane + 1), c = _mm_loadu_si128(lane + 2),
                          d = _mm_loadu_si128(lane + 3);
            _mm_stream_si128((__m128i *)(void *)at, a);
            _mm_stream_si128((__m128i *)(void *)at + 1, b);
            _mm_stream_si128((__m128i *)(void *)at + 2, c);
            _mm_stream_si128((__m128i *)(void *)at + 3, d);
        }
        _mm_sfence(); /* who is told that the bytes are there finds them there */
    }
    to = at;
    from = source;
#endif
    if (n) memcpy(to, from, n);
}
