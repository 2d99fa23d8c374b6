/* The frame codec against any bytes in any split: the first byte chooses the size of the pieces. What comes out whole must
 * encode to the very bytes that came in. */
#include "base/mem.h"
#include "net/frame_int.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    size_t piece = (size_t)data[0] + 1, at = 1, frame_at = 1;
    net_frame_parser p = {.max_payload_bytes = 4096};
    st_code rc = ST_OK;
    while (at < size && !rc) {
        const uint8_t *bytes = data + at;
        size_t n = size - at < piece ? size - at : piece, before = n;
        net_frame f;
        bool got;
        rc = net_frame_feed(&p, &bytes, &n, &f, &got, NULL);
        at += before - n;
        if (!got) continue;
        size_t whole = (size_t)f.n + NET_FRAME_EXTRA_BYTES;
        uint8_t *again = mem_alloc(whole, 1);
        if (again) {
            net_frame_encode(&f, again);
            if (at - frame_at != whole || memcmp(again, data + frame_at, whole) != 0) abort();
        }
        mem_free(again);
        frame_at = at;
    }
    net_frame_parser_deinit(&p);
    return 0;
}
