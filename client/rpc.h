/* rpc: gRPC calls to the cluster, as a verb wants them: one at a time, blocking; or many at once on one connection.
 *
 * Nouns: a connection (loop and HTTP/2 session), a call, a pause between two calls. Replies are handed over as they come. Ctrl-C
 * cancels what runs, so that the cluster frees its sequences at once. One thread. */
#ifndef CONSORT_CLIENT_RPC_H
#define CONSORT_CLIENT_RPC_H

#include "client/client_int.h"
#include "net/net.h"
#include "proto/proto.h"

#define CLIENT_DEFAULT_SERVER "127.0.0.1:50051"

/* For option tables: where to call. The environment variable CONSORT_SERVER, or CLIENT_DEFAULT_SERVER. */
const char *client_server(void);
#define CLIENT_SERVER_OPTION(variable)                                                                                           \
    {                                                                                                                            \
        "--server", CLIENT_TEXT, &(variable), "HOST:PORT",                                                                       \
            "the coordinator; default: $CONSORT_SERVER, or " CLIENT_DEFAULT_SERVER, false                                        \
    }

typedef struct client_rpc client_rpc;
/* From here to client_rpc_close SIGINT and SIGTERM are ours, none is lost: what runs, and all calls after it, end with
 * ST_ERR_CANCELLED. Connects with the first call, and anew after one that failed. */
ST_CHECKED st_code client_rpc_open(const char *server, client_rpc **out, st_error *e);
void client_rpc_close(client_rpc *r); /* NULL-safe */

/* Calls `path` with `request` and waits for its end; timeout_s 0: none. on_message gets each reply; what it returns other than
 * ST_OK cancels the call and is the error (it has filled `e`). Errors: what the cluster or the connection said;
 * ST_ERR_CANCELLED after a signal. */
ST_CHECKED st_code client_rpc_call(client_rpc *r, const char *path, const uint8_t *request, size_t n, uint32_t timeout_s,
                                   st_code (*on_message)(void *context, const uint8_t *message, size_t n), void *context,
                                   st_error *e);
ST_CHECKED st_code client_rpc_pause(client_rpc *r, uint32_t ms, st_error *e); /* ST_ERR_CANCELLED after a signal */

/* Many at once, and not beside client_rpc_call: start calls, then run; callbacks come from inside client_rpc_run only. `cb` and
 * `context` as in net_grpc_start; calls over the connection's number of streams wait for their turn. *call: for
 * client_rpc_cancel, valid until on_done. No reconnecting: once the connection is lost, each call ends with that. */
ST_CHECKED st_code client_rpc_start(client_rpc *r, const char *path, const uint8_t *request, size_t n, uint32_t timeout_s,
                                    const net_grpc_reply *cb, void *context, void **call, st_error *e);
void client_rpc_cancel(client_rpc *r, void *call);
/* Until client_rpc_stop, or net_now_ns() >= until_ns (0: no such time). ST_ERR_CANCELLED after a signal: calls in flight are
 * left, and end without on_done in client_rpc_close. */
ST_CHECKED st_code client_rpc_run(client_rpc *r, uint64_t until_ns, st_error *e);
void client_rpc_stop(client_rpc *r); /* from a callback: client_rpc_run returns soon, other callbacks may come before */
/* What an on_done says, as an error of ours. ST_OK where status is 0. */
ST_CHECKED st_code client_rpc_outcome(int grpc_status, const char *message, st_error *e);

#endif
