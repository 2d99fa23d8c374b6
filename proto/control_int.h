/* control_int: what the messages of the control link share: addresses on the wire. Any thread. */
#ifndef CONSORT_PROTO_CONTROL_INT_H
#define CONSORT_PROTO_CONTROL_INT_H

#include "proto/proto_int.h"

#include "control.pb-c.h"

/* Scratch of one encoding. */
typedef struct {
    Consort__Control__V1__Address addresses[PROTO_MAX_TRANSPORTS], *list[PROTO_MAX_TRANSPORTS];
} control_addresses;

/* out->list[n]: views of from[n]. */
void control_addresses_encode(const proto_address *from, uint32_t n, control_addresses *out);
/* list[PROTO_MAX_TRANSPORTS]; `field` names it. */
ST_CHECKED st_code control_addresses_decode(const char *field, Consort__Control__V1__Address *const *m, size_t n,
                                            proto_address *list, uint32_t *n_out, st_error *e);

#endif
