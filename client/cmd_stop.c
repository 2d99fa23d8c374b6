/* consort stop: drains the cluster and waits until it is done. */
#include "client/rpc.h"

static st_code ignore(void *context, const uint8_t *message, size_t n) {
    (void)context, (void)message, (void)n;
    return ST_OK;
}

int client_stop(int argc, char **argv) {
    const char *server = client_server();
    uint32_t seconds = 0;
    const client_option options[] = {
        CLIENT_SERVER_OPTION(server),
        {"--timeout", CLIENT_U32, &seconds, "SECONDS", "give up waiting after this; the cluster drains on; default: never",
         false},
    };
    int rc = client_options(
        argc, argv,
        "Stops the cluster: it refuses new requests, finishes those it has, and ends. Returns when they are finished.", options,
        sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    client_rpc *r = NULL;
    st_code code = client_rpc_open(server, &r, &e);
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/Stop", NULL, 0, seconds, ignore, NULL, &e);
    client_rpc_close(r);
    return code ? client_fail(argv[0], &e) : CLIENT_OK;
}
