/* A server session fed any bytes behind the preface. The first byte chooses the size of the pieces and whether replies are read
 * and calls answered at once; time goes on with every piece, so that deadlines and time-outs pass too. Afterwards nothing may be
 * held. */
#include "net/h2_int.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void on_call(void *context, net_call *c, const char *path, const uint8_t *message, size_t n) {
    const uint8_t *choice = context;
    bool slow;
    if (path[0] != '/') abort();
    st_code rc = net_call_send(c, message, n, &slow);
    (void)rc;
    if (*choice & 0x80) net_call_finish(c, (int)(n % 17), path);
}
static void on_end(void *context, net_call *c, st_code code) {
    (void)context;
    if (net_call_send(c, NULL, 0, NULL) == ST_OK || code == ST_OK) abort();
}
static void on_credit(void *context, net_call *c) {
    (void)context;
    net_call_finish(c, 0, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    net_budget budget = {.limit_bytes = 1 << 20};
    net_h2_server_setup setup = {.calls = {on_call, on_end, on_credit}, .context = (void *)(uintptr_t)data, .budget = &budget};
    net_h2_server *s = NULL;
    uint64_t now = 1000;
    if (net_h2_server_create(&setup, now, &s)) return 0;
    size_t piece = (size_t)(data[0] & 0x3f) * 4 + 1;
    st_code rc = net_h2_server_receive(s, now, (const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);
    for (size_t at = 1; at < size && !rc && !net_h2_server_is_over(s); at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        now += UINT64_C(300000000);
        rc = net_h2_server_receive(s, now, data + at, n);
        uint8_t out[4096];
        for (size_t sent = 1; sent && !rc && data[0] & 0x40;) rc = net_h2_server_send(s, now, out, sizeof out, &sent);
    }
    net_h2_server_drain(s, now);
    net_h2_server_tick(s, now + UINT64_C(100000000000));
    net_h2_server_lost(s, ST_ERR_CANCELLED);
    net_h2_server_destroy(s);
    if (budget.used_bytes) abort();
    return 0;
}
