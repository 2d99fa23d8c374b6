#include "model/utf8_int.h"

model_utf8_kind model_utf8_next(const uint8_t *p, size_t n, size_t *size) {
    uint8_t lead = p[0], low = 0x80, high = 0xbf; /* bounds of the second byte */
    size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
    *size = 1;
    if (!length) return UTF8_BAD;
    for (; *size < length; ++*size, low = 0x80, high = 0xbf) {
        if (*size == n) return UTF8_CUT;
        if (p[*size] < low || p[*size] > high) return UTF8_BAD;
    }
    return UTF8_WHOLE;
}
