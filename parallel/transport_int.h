/* What the kinds of transport share: news, the events that the caller has not taken yet, and the order in which slots were
 * posted. Neither allocates: each slot has room for the one event that it can be due. */
#ifndef CONSORT_PARALLEL_TRANSPORT_INT_H
#define CONSORT_PARALLEL_TRANSPORT_INT_H

#include "parallel/transport.h"

typedef struct transport_news {
    struct transport_news *next;
    transport_event event;
    bool taken;
} transport_news;

typedef struct {
    transport_news *first, *last;
} transport_queue;

void transport_tell(transport_queue *q, transport_news *news, const transport_event *event);
bool transport_take(transport_queue *q, transport_event *out);

typedef struct {
    uint8_t at[TRANSPORT_MAX_SLOTS], n; /* slots, the oldest first */
} transport_order;

void transport_order_add(transport_order *o, uint32_t slot);
void transport_order_remove(transport_order *o, uint32_t slot);

/* Where loopback, abstract sockets and memory lead to the same: boot id and network namespace. */
enum { TRANSPORT_HOST_BYTES = 64 };
ST_CHECKED st_code transport_host(char out[TRANSPORT_HOST_BYTES], st_error *e);

#endif
