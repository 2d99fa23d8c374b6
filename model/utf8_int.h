/* utf8: where a character ends (Unicode 15, table 3-7: no surrogates, no overlong forms, nothing above U+10FFFF). Pure. */
#ifndef CONSORT_MODEL_UTF8_INT_H
#define CONSORT_MODEL_UTF8_INT_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    UTF8_WHOLE, /* the first *size bytes are a character */
    UTF8_BAD,   /* the first *size bytes are to become one U+FFFD: the longest start of a character, at least one byte */
    UTF8_CUT,   /* all n bytes are the start of a character */
} model_utf8_kind;

model_utf8_kind model_utf8_next(const uint8_t *bytes, size_t n, size_t *size); /* n > 0 */

#endif
