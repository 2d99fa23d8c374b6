#include "base/mailbox.h"

#include "base/mem.h"
#include <pthread.h>

struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    uint32_t capacity, first, n;
    mailbox_item items[]; /* [capacity] ring */
};

st_code mailbox_create(uint32_t capacity, mailbox **out) {
    mailbox *m = mem_alloc(1, sizeof *m + capacity * sizeof(mailbox_item));
    if (!m) return ST_FATAL_MEMORY;
    m->capacity = capacity;
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->filled, NULL);
    *out = m;
    return ST_OK;
}

void mailbox_destroy(mailbox *m, void (*drop)(mailbox_item *item)) {
    if (!m) return;
    mailbox_item item;
    while (mailbox_try_take(m, &item))
        if (drop) drop(&item);
    pthread_cond_destroy(&m->filled);
    pthread_mutex_destroy(&m->lock);
    mem_free(m);
}

bool mailbox_post(mailbox *m, const mailbox_item *item) {
    pthread_mutex_lock(&m->lock);
    bool room = m->n < m->capacity;
    if (room) {
        m->items[(m->first + m->n++) % m->capacity] = *item;
        pthread_cond_signal(&m->filled);
    }
    pthread_mutex_unlock(&m->lock);
    return room;
}

/* Caller holds the lock and knows that there is an item. */
static void pop(mailbox *m, mailbox_item *out) {
    *out = m->items[m->first];
    m->first = (m->first + 1) % m->capacity;
    m->n--;
}

void mailbox_take(mailbox *m, mailbox_item *out) {
    pthread_mutex_lock(&m->lock);
    while (!m->n) pthread_cond_wait(&m->filled, &m->lock);
    pop(m, out);
    pthread_mutex_unlock(&m->lock);
}

bool mailbox_try_take(mailbox *m, mailbox_item *out) {
    pthread_mutex_lock(&m->lock);
    bool any = m->n > 0;
    if (any) pop(m, out);
    pthread_mutex_unlock(&m->lock);
    return any;
}
