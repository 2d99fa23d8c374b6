/* h2_pair: a server codec and a client codec joined by memory, with time set by hand; and hand-made frames for hostile peers. */
#ifndef CONSORT_TESTS_NET_H2_PAIR_H
#define CONSORT_TESTS_NET_H2_PAIR_H

#include "net/h2_int.h"

#define MS UINT64_C(1000000)

typedef struct {
    net_h2_server *server;
    net_h2_client *client;
    uint64_t now_ns;
    bool hold_replies; /* the client reads nothing */
    st_code server_code;
    /* what the server's user saw */
    net_call *call; /* the last */
    int n_calls, n_ends, n_credits, n_wakes;
    st_code end_code;
    char path[300];
    size_t request_bytes;
    uint8_t request_sum;
    int finish_with; /* >= 0: every call is finished at once */
    /* what the client's user saw */
    int n_done, n_messages, status;
    size_t message_bytes;
    uint8_t message_sum;
    char message[1200];
    /* everything the server sent to a hostile peer */
    uint8_t sent[1 << 16];
    size_t n_sent;
} h2_pair;

extern const net_grpc_reply h2_pair_reply;
extern const net_grpc_callbacks h2_pair_calls;

void pair_open(h2_pair *p); /* zeroes, creates both, lets them greet */
void pair_close(h2_pair *p);
void pair_run(h2_pair *p); /* moves bytes until both are silent */
net_h2_request *pair_start(h2_pair *p, const char *path, const uint8_t *message, size_t n, uint32_t timeout_ms);

/* A server alone, fed by hand. */
void lone_open(h2_pair *p); /* preface and SETTINGS are said */
void lone_feed(h2_pair *p, const void *bytes, size_t n);
void lone_flush(h2_pair *p); /* what it says goes to sent (only the last 64 KiB are kept) */
bool lone_has_frame(const h2_pair *p, uint8_t type, int32_t stream, uint32_t error); /* error: of RST_STREAM and GOAWAY, else 0 */
size_t put_frame(uint8_t *out, uint8_t type, uint8_t flags, int32_t stream, const void *payload, size_t n);
size_t put_text_header(uint8_t *out, const char *name, const char *value); /* HPACK: literal, never indexed, no Huffman */
size_t put_request_headers(uint8_t *out, const char *path, const char *content_type);

#endif
