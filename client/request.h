/* request: the options of a request on the command line, for the verbs that make one. The fields come from proto/fields.def, so
 * that the command line, JSON and gRPC have the same names, ranges and defaults. One thread. */
#ifndef CONSORT_CLIENT_REQUEST_H
#define CONSORT_CLIENT_REQUEST_H

#include "client/rpc.h"

enum { CLIENT_MAX_OPTIONS = 48 };

/* A request under construction: give it to client_request_options, whose rows fill it. */
typedef struct {
    proto_request request;
    arena arena; /* token lists */
    client_setter setter;
    char help[CLIENT_MAX_OPTIONS][256];
    proto_field fields[CLIENT_MAX_OPTIONS];
} client_request;

ST_CHECKED st_code client_request_init(client_request *r, st_error *e); /* all defaults */
void client_request_deinit(client_request *r);                          /* also on a zeroed one */
/* Appends a row for each field of fields.def to options[*n ...]. */
void client_request_options(client_request *r, client_option *options, size_t *n);

/* One answer of a Generate call. */
typedef struct {
    char *text; /* owned, NUL-terminated */
    size_t n_text;
    uint32_t *ids; /* owned */
    size_t n_ids;
    float *logs, *top_logs; /* owned: [n_logs] of ids, [n_top] beside them; none: not asked for */
    uint32_t *top_ids;      /* owned: [n_top] */
    size_t n_logs, n_top_ids, n_top_logs;
    char request_id[PROTO_REQUEST_ID_BYTES + 1], finish_reason[16];
    uint64_t seed, queue_ns, first_token_ns, total_ns; /* the cluster's clock, from the request's arrival */
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint64_t steps, drafted, accepted;
    proto_drafter_figures by_drafter[PROTO_MAX_DRAFTERS]; /* names in `names` */
    char names[PROTO_MAX_DRAFTERS][32];
    uint32_t n_by_drafter;
    bool show; /* the caller's: print the text to standard output as it comes */
} client_result;
void client_result_deinit(client_result *r);
/* Calls Generate and fills out[request->n_choices]; usage of each is that of the whole call but for completion_tokens. */
ST_CHECKED st_code client_generate_call(client_rpc *rpc, const proto_request *request, uint32_t timeout_s, client_result *out,
                                        st_error *e);

#endif
