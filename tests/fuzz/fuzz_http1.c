/* An HTTP/1.1 connection fed any bytes, once whole and once in pieces (the first byte chooses their size): the requests and the
 * replies must be the same, and afterwards nothing may be held. */
#include "net/http1_int.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    uint64_t told, said; /* hashes of the requests, of the bytes to the client */
} seen;

static void note(uint64_t *hash, const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) *hash = (*hash + 1 + ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
}
static void on_request(void *context, net_http_call *c, const net_http_request *r) {
    seen *s = context;
    if (r->path[0] != '/' || strchr(r->path, '?') || strpbrk(r->path, "\r\n ")) abort();
    note(&s->told, r->method, strlen(r->method));
    note(&s->told, r->path, strlen(r->path) + 1);
    note(&s->told, r->query, strlen(r->query) + 1);
    note(&s->told, r->body, r->n);
    net_http_reply reply = {.status = 200, .type = "text/plain", .body = r->path, .n = strlen(r->path)};
    net_http_answer(c, &reply);
}
static void wake(void *context) { (void)context; }

static seen run(const uint8_t *data, size_t size, size_t piece) {
    seen s = {0};
    net_budget budget = {.limit_bytes = 64 << 20};
    net_http1_setup setup = {.calls = {on_request, NULL}, .context = &s, .wake = wake, .budget = &budget};
    net_http1 *h = NULL;
    if (net_http1_create(&setup, 1, &h)) return s;
    for (size_t at = 0; at < size; at += piece) {
        if (net_http1_receive(h, 1, data + at, size - at < piece ? size - at : piece)) abort();
        uint8_t out[4096];
        for (size_t sent = 1; sent;) {
            if (net_http1_send(h, 1, out, sizeof out, &sent)) abort();
            note(&s.said, out, sent);
        }
    }
    net_http1_tick(h, UINT64_C(1000000000000));
    net_http1_lost(h);
    if (!net_http1_is_over(h)) abort();
    net_http1_destroy(h);
    if (budget.used_bytes) abort();
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    seen pieces = run(data + 1, size - 1, data[0] + 1u), whole = run(data + 1, size - 1, size);
    if (pieces.told != whole.told || pieces.said != whole.said) abort();
    return 0;
}
