/* consort drain: a verifier gives its requests to the others and takes no new ones, or takes them again. */
#include "client/rpc.h"

#include <string.h>

static st_code ignore(void *context, const uint8_t *message, size_t n) {
    (void)context, (void)message, (void)n;
    return ST_OK;
}

int client_drain(int argc, char **argv) {
    const char *server = client_server(), *group = NULL;
    uint32_t seconds = 0;
    proto_drain d = {0};
    const client_option options[] = {
        {"GROUP", CLIENT_TEXT, &group, NULL, "name of the verifier, as in the topology", true},
        CLIENT_SERVER_OPTION(server),
        {"--undo", CLIENT_FLAG, &d.undo, NULL, "it takes requests again", false},
        {"--wait", CLIENT_FLAG, &d.wait, NULL, "return when it has no requests left", false},
        {"--timeout", CLIENT_U32, &seconds, "SECONDS", "give up waiting after this; it is drained all the same; default: never",
         false},
    };
    int rc = client_options(argc, argv,
                            "Takes a verifier out of service: new requests go to the others, and those that it runs go on there, "
                            "with the same\n"
                            "bytes. It stays so, also when its ranks are lost and come back, until --undo or the cluster's end.",
                            options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    st_error e = {0};
    client_rpc *r = NULL;
    proto_bytes b = {0};
    st_code code = strlen(group) < sizeof d.group
                       ? ST_OK
                       : st_fail(&e, ST_ERR_INVALID_ARGUMENT, "GROUP: a name has at most %zu bytes", sizeof d.group - 1);
    if (!code) {
        memcpy(d.group, group, strlen(group) + 1);
        code = proto_drain_encode(&d, &b);
    }
    if (!code) code = client_rpc_open(server, &r, &e);
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/Drain", b.bytes, b.n, seconds, ignore, NULL, &e);
    client_rpc_close(r);
    proto_bytes_free(&b);
    return code ? client_fail(argv[0], &e) : CLIENT_OK;
}
