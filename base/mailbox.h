/* Mailbox: the one door between two threads; a bounded queue whose reader sleeps.
 *
 * Any thread posts, one thread takes. An item's data belongs to the poster until mailbox_post returns true, then to the taker.
 * Order is the order of posts. Nothing spins: the reader waits on a condition variable. */
#ifndef CONSORT_BASE_MAILBOX_H
#define CONSORT_BASE_MAILBOX_H

#include "base/status.h"
#include <stddef.h>

typedef struct mailbox mailbox;
typedef struct {
    uint32_t kind;
    void *data; /* [n] */
    size_t n;
} mailbox_item;

ST_CHECKED st_code mailbox_create(uint32_t capacity, mailbox **out); /* ST_FATAL_MEMORY */
/* NULL-safe; no thread may use it any more. What is still inside is handed to drop (may be NULL). */
void mailbox_destroy(mailbox *m, void (*drop)(mailbox_item *item));
bool mailbox_post(mailbox *m, const mailbox_item *item); /* false: full */
void mailbox_take(mailbox *m, mailbox_item *out);        /* waits */
bool mailbox_try_take(mailbox *m, mailbox_item *out);    /* false: empty */

#endif
