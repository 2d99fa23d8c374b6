/* consort bench kv: how fast KV cache gets from one rank of a cluster to another. The workers measure; this prints. */
#include "client/bench_int.h"

#include <string.h>

typedef struct {
    json_t *list;
    bool json;
    st_error *e;
} table;

static st_code on_message(void *context, const uint8_t *message, size_t n) {
    table *t = context;
    proto_measurement m;
    st_code code = proto_measurement_decode(message, n, &m, t->e);
    if (code) return code;
    if (t->json)
        json_array_append_new(t->list, json_pack("{s:s, s:i, s:f, s:f, s:i, s:i}", "transport", m.transport, "block_bytes",
                                                 (int)m.block_bytes, "gb_s", m.bytes_per_s / 1e9, "raw_gb_s",
                                                 m.raw_bytes_per_s / 1e9, "source", (int)m.source, "target", (int)m.target));
    else
        printf("rank %u to rank %u  %-4s %8.3f MB  %7.3f GB/s, %3.0f %% of the %7.3f GB/s of the transport alone\n", m.source,
               m.target, m.transport, m.block_bytes / 1e6, m.bytes_per_s / 1e9, 100 * m.bytes_per_s / m.raw_bytes_per_s,
               m.raw_bytes_per_s / 1e9);
    fflush(stdout);
    return ST_OK;
}

int bench_kv(int argc, char **argv) {
    const char *server = client_server();
    st_error e = {0};
    table t = {.e = &e};
    const client_option options[] = {
        CLIENT_SERVER_OPTION(server),
        {"--json", CLIENT_FLAG, &t.json, NULL, "one JSON list of {transport, block_bytes, gb_s, raw_gb_s, source, target}",
         false},
    };
    int rc = client_options(
        argc, argv,
        "Measures how fast KV cache gets from one rank of the cluster's verifiers to another, by each transport that leads "
        "there, for\n"
        "messages of several sizes: with the checks and copies of a move, and, by turns with that, by the transport alone. The\n"
        "cluster must have nothing else to do. Takes some seconds a line.",
        options, sizeof options / sizeof *options);
    if (rc != CLIENT_GO_ON) return rc;
    client_rpc *r = NULL;
    t.list = json_array();
    st_code code = client_rpc_open(server, &r, &e);
    if (!code) code = client_rpc_call(r, "/consort.v1.Admin/MeasureKv", NULL, 0, 0, on_message, &t, &e);
    client_rpc_close(r);
    if (!code && t.json && (json_dumpf(t.list, stdout, JSON_REAL_PRECISION(5)) || putchar('\n') == EOF))
        code = st_fail(&e, ST_ERR_IO, "standard output cannot be written");
    json_decref(t.list);
    return code ? client_fail(argv[0], &e) : CLIENT_OK;
}
