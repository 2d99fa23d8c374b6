#include "client/rpc.h"

#include "base/mem.h"
#include "config/config.h"
#include <stdlib.h>

enum { CONNECT_TIMEOUT_MS = 5000 };

struct client_rpc {
    net_loop *loop;
    net_timer *timer; /* of a pause, of client_rpc_run */
    char host[256];
    uint16_t port;
    net_grpc_client *client; /* NULL: not connected */
    void *call;              /* NULL: none in flight */
    bool interrupted;        /* a signal came */
    st_code (*on_message)(void *context, const uint8_t *message, size_t n);
    void *context;
    st_code refused; /* what on_message returned */
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
    r->interrupted = true;
    if (r->call)
        net_grpc_cancel(r->client, r->call);
    else
        net_loop_stop(r->loop); /* ends a pause, client_rpc_run */
}

static void on_timer(void *context) {
    client_rpc *r = context;
    net_loop_stop(r->loop);
}

static st_code check_interrupted(const client_rpc *r, st_error *e) {
    return r->interrupted ? st_fail(e, ST_ERR_CANCELLED, "interrupted by a signal") : ST_OK;
}

st_code client_rpc_open(const char *server, client_rpc **out, st_error *e) {
    client_rpc *r = mem_alloc(1, sizeof *r);
    if (!r) return st_fail(e, ST_FATAL_MEMORY, "out of memory");
    st_code code = config_split_address(server, r->host, sizeof r->host, &r->port, e);
    if (code) (void)st_prefix(e, "--server");
    if (!code) code = net_loop_create(&r->loop, e);
    if (!code) code = net_loop_on_signal(r->loop, on_signal, r, e);
    if (!code && net_timer_create(r->loop, on_timer, r, &r->timer)) code = st_fail(e, ST_FATAL_MEMORY, "out of memory");
    if (code)
        client_rpc_close(r);
    else
        *out = r;
    return code;
}

void client_rpc_close(client_rpc *r) {
    if (!r) return;
    net_grpc_client_destroy(r->client);
    net_timer_destroy(r->timer);
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

st_code client_rpc_outcome(int grpc_status, const char *message, st_error *e) {
    st_code code = from_grpc(grpc_status);
    return code ? st_fail(e, code, "%s", message && *message ? message : st_text(code)) : ST_OK;
}

static void on_message(void *context, const uint8_t *message, size_t n) {
    client_rpc *r = context;
    if (!r->refused) r->refused = r->on_message(r->context, message, n);
    if (r->refused) net_grpc_cancel(r->client, r->call);
}

static void on_done(void *context, int status, const char *message) {
    client_rpc *r = context;
    r->call = NULL;
    r->code = r->refused ? r->refused : client_rpc_outcome(status, message, r->e);
    net_loop_stop(r->loop);
}

static uint32_t to_ms(uint32_t seconds) { return seconds < UINT32_MAX / 1000 ? seconds * 1000 : UINT32_MAX; }

/* What every call begins with. */
static st_code ready(client_rpc *r, st_error *e) {
    st_code code = check_interrupted(r, e);
    return code || r->client ? code : net_grpc_connect(r->loop, r->host, r->port, CONNECT_TIMEOUT_MS, &r->client, e);
}

st_code client_rpc_call(client_rpc *r, const char *path, const uint8_t *request, size_t n, uint32_t timeout_s,
                        st_code (*each)(void *context, const uint8_t *message, size_t n), void *context, st_error *e) {
    static const net_grpc_reply callbacks = {on_message, on_done};
    r->on_message = each;
    r->context = context;
    r->code = r->refused = ST_OK;
    r->e = e;
    st_code code = ready(r, e);
    if (code) return code;
    code = net_grpc_start(r->client, path, request, n, to_ms(timeout_s), &callbacks, r, &r->call);
    if (code) return st_fail(e, code, "cannot start a call of %zu bytes", n);
    net_loop_run(r->loop);
    if (r->code) {
        net_grpc_client_destroy(r->client);
        r->client = NULL;
    }
    return r->code;
}

st_code client_rpc_pause(client_rpc *r, uint32_t ms, st_error *e) {
    return client_rpc_run(r, net_now_ns() + ms * UINT64_C(1000000), e);
}

st_code client_rpc_start(client_rpc *r, const char *path, const uint8_t *request, size_t n, uint32_t timeout_s,
                         const net_grpc_reply *cb, void *context, void **call, st_error *e) {
    st_code code = ready(r, e);
    if (code) return code;
    code = net_grpc_start(r->client, path, request, n, to_ms(timeout_s), cb, context, call);
    return code ? st_fail(e, code, "cannot start a call of %zu bytes", n) : ST_OK;
}

void client_rpc_cancel(client_rpc *r, void *call) { net_grpc_cancel(r->client, call); }

st_code client_rpc_run(client_rpc *r, uint64_t until_ns, st_error *e) {
    if (!r->interrupted) {
        net_timer_at(r->timer, until_ns);
        net_loop_run(r->loop);
        net_timer_at(r->timer, 0);
    }
    return check_interrupted(r, e);
}

void client_rpc_stop(client_rpc *r) { net_loop_stop(r->loop); }
