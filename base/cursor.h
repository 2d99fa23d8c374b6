/* Cursor: the only reader of foreign bytes (files, sockets).
 *
 * A cursor is a view of bytes it does not own. A read past the end, or a check that fails, makes the cursor bad for good: all
 * later reads give 0 or NULL, so a parser reads a whole record and asks cursor_ok() once. `at` stays where it went wrong.
 * Little-endian. Pure; any thread, one at a time. */
#ifndef CONSORT_BASE_CURSOR_H
#define CONSORT_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *bytes; /* [size] */
    size_t size, at;
    bool bad;
} cursor;

static inline cursor cursor_of(const void *bytes, size_t size) { return (cursor){.bytes = bytes, .size = size}; }
static inline bool cursor_ok(const cursor *c) { return !c->bad; }
static inline size_t cursor_left(const cursor *c) { return c->bad ? 0 : c->size - c->at; }

const uint8_t *cursor_take(cursor *c, uint64_t n_bytes); /* view of the next n bytes; NULL if fewer are left */
void cursor_seek(cursor *c, uint64_t at);                /* bad if behind the end */
void cursor_fail(cursor *c);
uint8_t cursor_u8(cursor *c);
uint16_t cursor_u16(cursor *c);
uint32_t cursor_u32(cursor *c);
uint64_t cursor_u64(cursor *c);
float cursor_f32(cursor *c);
double cursor_f64(cursor *c);

#endif
