#include "client/rpc.h"

#include "base/mem.h"
#include "config/config.h"
#include "net/net.h"
#include <stdlib.h>

enum { CONNECT_TIMEOUT_MS = 5000 };

struct client_rpc {
    net_loop *loop;
    net_grpc_client *client;
    void *call; /* NULL: none in flight */
    void (*on_message)(void *context, const uint8_t *message, size_t n);
    void *context;
    st_code code;
    st_error *e;
};

const char *client_server(void) {
    const char *server = getenv("CONSORT_SERVER");
    return server && *server ? server : CLIENT_DEFAULT_SERVER;
}

static void on_signal(void *context, int number) {
    client_rpc *r = context;
    (void)number;
    if (r->call) net_grpc_cancel(r->client, r->call);
}

st_code client_rpc_open(const char *server, client_rpc **out, st_error *e) {
    char host[256];
    uint16_t port;
    client_rpc *r = mem_alloc(1, sizeof *r);
    if (!r) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    st_code code = config_split_address(server, host, sizeof host, &port, e);
    if (code) (void)st_prefix(e, "--server");
    if (!code) code = net_loop_create(&r->loop, e);
    if (!code) code = net_loop_on_signal(r->loop, on_signal, r, e);
    if (!code) code = net_grpc_connect(r->loop, host, port, CONNECT_TIMEOUT_MS, &r->client, e);
    if (code)
        client_rpc_close(r);
    else
        *out = r;
    return code;
}

void client_rpc_close(client_rpc *r) {
    if (!r) return;
    net_grpc_client_destroy(r->client);
    net_loop_destroy(r->loop);
    mem_free(r);
}

/* The status code of ours that stands for a gRPC one. */
static st_code from_grpc(int status) {
    if (status == 0) return ST_OK;
    for (int i = 1; i < ST_N_CODES; i++)
        if (st_grpc((st_code)i) == status) return (st_code)i;
    return ST_FATAL_INTERNAL;
}

static void on_message(void *context, const uint8_t *message, size_t n) {
    client_rpc *r = context;
    r->on_message(r->context, message, n);
}

static void on_done(void *context, int status, const char *message) {
    client_rpc *r = context;
    r->call = NULL;
    r->code = from_grpc(status);
    if (r->code) (void)st_fail(r->e, r->code, "%s", message && *message ? message : st_text(r->code));
    net_loop_stop(r->loop);
}

st_code client_rpc_call(client_rpc *r, const char *path, const uint8_t *request, size_t n, uint32_t timeout_ms,
                        void (*each)(void *context, const uint8_t *message, size_t n), void *context, st_error *e) {
    static const net_grpc_reply callbacks = {on_message, on_done};
    r->on_message = each;
    r->context = context;
    r->code = ST_OK;
    r->e = e;
    st_code code = net_grpc_start(r->client, path, request, n, timeout_ms, &callbacks, r, &r->call);
    if (code) return st_fail(e, code, "cannot start a call of %zu bytes", n);
    net_loop_run(r->loop);
    return r->code;
}
