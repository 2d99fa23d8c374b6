#include "base/cursor.h"

#include <string.h>

void cursor_fail(cursor *c) { c->bad = true; }

const uint8_t *cursor_take(cursor *c, uint64_t n) {
    if (c->bad || n > c->size - c->at) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->bytes + c->at;
    c->at += (size_t)n;
    return p;
}

void cursor_seek(cursor *c, uint64_t at) {
    if (c->bad || at > c->size)
        c->bad = true;
    else
        c->at = (size_t)at;
}

#define READ(name, type)                                                                                                         \
    type cursor_##name(cursor *c) {                                                                                              \
        type v = 0;                                                                                                              \
        const uint8_t *p = cursor_take(c, sizeof v);                                                                             \
        if (p) memcpy(&v, p, sizeof v);                                                                                          \
        return v;                                                                                                                \
    }
READ(u8, uint8_t)
READ(u16, uint16_t)
READ(u32, uint32_t)
READ(u64, uint64_t)
READ(f32, float)
READ(f64, double)
