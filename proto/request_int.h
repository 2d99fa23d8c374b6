/* request_int: what request.c and fields.c share.
 *
 * The rows of fields.def are fields.c's: defaults, ranges, text form. The prompt is request.c's. Pure; any thread. */
#ifndef CONSORT_PROTO_REQUEST_INT_H
#define CONSORT_PROTO_REQUEST_INT_H

#include "proto/proto_core.h"

/* ST_ERR_INVALID_ARGUMENT: a row's value is out of its range; all else in `r` is not looked at. */
ST_CHECKED st_code proto_request_check_fields(const proto_request *r, st_error *e);

#endif
