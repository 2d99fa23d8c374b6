/* Control links: frames between processes that share the cluster's secret.
 *
 *     connecting ─on_open─> greeting ─(proof is right)─> open ─net_link_close or BYE─> closing ─on_end─> gone
 *          └─────────────────────┴── time-out, wrong proof, bad frame ──────────────────────^
 *
 * What: a link is a net_tcp, a frame parser and a state. Each side proves the secret before a frame of the other is believed
 * (link_int.h draws the three messages); until then a stranger can make us hold NET_MAX_HANDSHAKE_BYTES for NET_HANDSHAKE_MS.
 * A close carries its reason to the other side in a BYE frame. Why not TLS with pre-shared keys: OpenSSL's PSK interface
 * is longer than this file, and what travels is on the cluster's own network; a man in the middle of an open TCP connection is
 * out of scope until TLS is added behind net_tcp. Limits: no keep-alive frames here; heartbeats are the owner's (their period is
 * configuration, and they carry news). */
#include "net/link_int.h"

#include "base/mem.h"
#include "base/sha256.h"
#include "net/frame_int.h"
#include "net/limits.h"
#include "net/loop_int.h"
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

typedef enum { CONNECTING, GREETING, OPEN, CLOSING } link_state;

enum { REASON_BYTES = 200 };

struct net_link {
    net_loop *loop;
    net_tcp *tcp;
    net_timer *timer;          /* until open */
    net_link_server *server;   /* NULL: we connected */
    net_link *next, *previous; /* of the server */
    net_link_callbacks cb;
    void *context, *user;
    link_state state;
    bool challenged; /* server: HELLO was answered */
    net_frame_parser parser;
    uint8_t secret[NET_SECRET_BYTES], client_nonce[NET_NONCE_BYTES], server_nonce[NET_NONCE_BYTES];
};

struct net_link_server {
    net_loop *loop;
    net_listener *listener;
    net_link *links;
    uint32_t n_links, max_links, handshake_ms;
    net_link_callbacks cb;
    void *context;
    uint8_t secret[NET_SECRET_BYTES];
};

/* ---- life ---- */

static void link_free(net_link *k) {
    if (!k) return;
    if (k->server) {
        if (k->previous)
            k->previous->next = k->next;
        else
            k->server->links = k->next;
        if (k->next) k->next->previous = k->previous;
        k->server->n_links--;
    }
    net_tcp_close(k->tcp);
    net_timer_destroy(k->timer);
    net_frame_parser_deinit(&k->parser);
    OPENSSL_cleanse(k->secret, sizeof k->secret);
    mem_free(k);
}

/* The link is gone: the one place that calls on_close. */
static void link_ended(net_link *k, const char *reason) {
    k->state = CLOSING; /* for calls from on_close */
    if (k->cb.on_close) k->cb.on_close(k->context, k, reason);
    link_free(k);
}

static void tcp_ended(void *context, const char *reason) {
    net_link *k = context;
    bool greeting = k->state == GREETING;
    k->tcp = NULL;
    link_ended(k, greeting ? "closed during authentication; do both sides have this cluster's secret?" : reason);
}

static st_code send_frame(net_link *k, const net_frame *f) {
    uint8_t small[NET_FRAME_EXTRA_BYTES + 1024];
    size_t n = (size_t)f->n + NET_FRAME_EXTRA_BYTES;
    if (net_tcp_pending(k->tcp) + n > NET_LINK_MAX_PENDING_BYTES) return ST_ERR_RESOURCE_EXHAUSTED;
    uint8_t *bytes = n <= sizeof small ? small : mem_alloc(n, 1);
    if (!bytes) return ST_FATAL_MEMORY;
    net_frame_encode(f, bytes);
    st_code rc = net_tcp_write(k->tcp, bytes, n);
    if (bytes != small) mem_free(bytes);
    return rc;
}

static void link_fail(net_link *k, const char *reason) {
    if (k->state == CLOSING) return;
    bool open = k->state == OPEN;
    k->state = CLOSING;
    net_timer_at(k->timer, 0);
    net_tcp_finish(k->tcp, reason, open); /* strangers are not waited for */
}

void net_link_close(net_link *k, const char *reason) {
    if (k->state == CLOSING) return;
    if (k->state == OPEN) {
        net_frame bye = {.type = NET_LINK_BYE, .payload = (const uint8_t *)reason};
        bye.n = (uint32_t)strnlen(reason, REASON_BYTES - 1);
        st_code rc = send_frame(k, &bye);
        (void)rc; /* a courtesy: the other side also sees the connection end */
    }
    link_fail(k, reason);
}

void net_link_set_user(net_link *k, void *user) { k->user = user; }
void *net_link_user(const net_link *k) { return k->user; }

st_code net_link_send(net_link *k, const net_frame *f) {
    if (k->state != OPEN) return ST_ERR_UNAVAILABLE;
    if (f->type >= NET_LINK_OWN_TYPES || f->n > NET_MAX_FRAME_BYTES) return ST_ERR_INVALID_ARGUMENT;
    return send_frame(k, f);
}

/* ---- handshake ---- */

st_code net_link_prove(const uint8_t secret[NET_SECRET_BYTES], const char *label, const uint8_t client[NET_NONCE_BYTES],
                       const uint8_t server[NET_NONCE_BYTES], uint8_t out[NET_PROOF_BYTES]) {
    uint8_t text[64 + 2 * NET_NONCE_BYTES];
    size_t n = strlen(label);
    INVARIANT(n <= 64);
    memcpy(text, label, n);
    memcpy(text + n, client, NET_NONCE_BYTES);
    memcpy(text + n + NET_NONCE_BYTES, server, NET_NONCE_BYTES);
    return sha256_hmac(secret, NET_SECRET_BYTES, text, n + 2 * NET_NONCE_BYTES, out);
}

static bool proven(const net_link *k, const char *label, const uint8_t *proof) {
    uint8_t expected[NET_PROOF_BYTES];
    return net_link_prove(k->secret, label, k->client_nonce, k->server_nonce, expected) == ST_OK &&
           CRYPTO_memcmp(expected, proof, NET_PROOF_BYTES) == 0;
}

static st_code say(net_link *k, uint16_t type, const uint8_t *payload, uint32_t n) {
    return send_frame(k, &(net_frame){.type = type, .payload = payload, .n = n});
}

static void link_open(net_link *k) {
    k->state = OPEN;
    k->parser.max_payload_bytes = NET_MAX_FRAME_BYTES;
    net_timer_at(k->timer, 0);
    if (k->cb.on_open) k->cb.on_open(k->context, k);
}

static st_code answer_hello(net_link *k, const net_frame *f) {
    uint8_t out[NET_NONCE_BYTES + NET_PROOF_BYTES];
    memcpy(k->client_nonce, f->payload, NET_NONCE_BYTES);
    if (RAND_bytes(k->server_nonce, NET_NONCE_BYTES) != 1) return ST_FATAL_INTERNAL;
    memcpy(out, k->server_nonce, NET_NONCE_BYTES);
    st_code rc = net_link_prove(k->secret, NET_LINK_SERVER_LABEL, k->client_nonce, k->server_nonce, out + NET_NONCE_BYTES);
    return rc ? rc : say(k, NET_LINK_CHALLENGE, out, sizeof out);
}

static st_code answer_challenge(net_link *k, const net_frame *f) {
    uint8_t out[NET_PROOF_BYTES];
    memcpy(k->server_nonce, f->payload, NET_NONCE_BYTES);
    if (!proven(k, NET_LINK_SERVER_LABEL, f->payload + NET_NONCE_BYTES)) return ST_ERR_MISMATCH;
    st_code rc = net_link_prove(k->secret, NET_LINK_CLIENT_LABEL, k->client_nonce, k->server_nonce, out);
    return rc ? rc : say(k, NET_LINK_PROOF, out, sizeof out);
}

/* The next message of the handshake is the only one that is welcome; the parser's small limit bounds its size. */
static void greet(net_link *k, const net_frame *f) {
    st_code rc = ST_FATAL_PROTOCOL;
    bool opens = false;
    if (!k->server && f->type == NET_LINK_CHALLENGE && f->n == NET_NONCE_BYTES + NET_PROOF_BYTES) {
        rc = answer_challenge(k, f);
        opens = true;
    } else if (k->server && !k->challenged && f->type == NET_LINK_HELLO && f->n == NET_NONCE_BYTES) {
        rc = answer_hello(k, f);
        k->challenged = true;
    } else if (k->server && k->challenged && f->type == NET_LINK_PROOF && f->n == NET_PROOF_BYTES) {
        rc = proven(k, NET_LINK_CLIENT_LABEL, f->payload) ? ST_OK : ST_ERR_MISMATCH;
        opens = true;
    }
    if (rc == ST_ERR_MISMATCH)
        link_fail(k, "authentication failed: the peer does not know this cluster's secret");
    else if (rc == ST_FATAL_PROTOCOL)
        link_fail(k, "authentication failed: unexpected frame");
    else if (rc)
        link_fail(k, st_text(rc));
    else if (opens)
        link_open(k);
}

static void greeting_late(void *context) {
    net_link *k = context;
    if (k->state == GREETING) link_fail(k, "authentication timed out");
}

/* ---- bytes ---- */

static void said_bye(net_link *k, const net_frame *f) {
    char text[REASON_BYTES + 32];
    int n = f->n < REASON_BYTES ? (int)f->n : REASON_BYTES;
    snprintf(text, sizeof text, "closed by the peer: %.*s", n, (const char *)f->payload);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?'; /* it goes to logs and terminals */
    link_fail(k, text);
}

static void tcp_read(void *context, const uint8_t *bytes, size_t n) {
    net_link *k = context;
    while (n && k->state != CLOSING) {
        net_frame f;
        bool got;
        st_error e;
        if (net_frame_feed(&k->parser, &bytes, &n, &f, &got, &e)) {
            link_fail(k, e.message);
            return;
        }
        if (!got) continue;
        if (k->state == GREETING)
            greet(k, &f);
        else if (f.type == NET_LINK_BYE)
            said_bye(k, &f);
        else if (f.type >= NET_LINK_OWN_TYPES)
            link_fail(k, "frame of the handshake on an open link");
        else if (k->cb.on_frame)
            k->cb.on_frame(k->context, k, &f);
    }
}

static void tcp_opened(void *context) {
    net_link *k = context;
    if (k->state != CONNECTING) return;
    k->state = GREETING;
    bool ok = RAND_bytes(k->client_nonce, NET_NONCE_BYTES) == 1;
    st_code rc = ok ? say(k, NET_LINK_HELLO, k->client_nonce, NET_NONCE_BYTES) : ST_FATAL_INTERNAL;
    if (rc) link_fail(k, st_text(rc));
}

/* ---- both ways in ---- */

static st_code link_create(net_loop *l, const uint8_t secret[NET_SECRET_BYTES], const net_link_callbacks *cb, void *context,
                           uint64_t greeted_until_ns, net_link **out) {
    net_link *k = mem_alloc(1, sizeof *k);
    if (!k) return ST_FATAL_MEMORY;
    k->loop = l;
    k->cb = *cb;
    k->context = context;
    k->parser.max_payload_bytes = NET_MAX_HANDSHAKE_BYTES;
    memcpy(k->secret, secret, NET_SECRET_BYTES);
    st_code rc = net_timer_create(l, greeting_late, k, &k->timer);
    if (rc) {
        link_free(k);
        return rc;
    }
    net_timer_at(k->timer, greeted_until_ns);
    *out = k;
    return ST_OK;
}

static void link_accept(void *context, net_tcp *t) {
    static const net_tcp_callbacks on_tcp = {.on_read = tcp_read, .on_end = tcp_ended};
    net_link_server *s = context;
    net_link *k = NULL;
    uint64_t until = net_now_ns() + s->handshake_ms * UINT64_C(1000000);
    if (s->n_links >= s->max_links || link_create(s->loop, s->secret, &s->cb, s->context, until, &k)) {
        net_tcp_close(t);
        return;
    }
    k->state = GREETING;
    k->tcp = t;
    k->server = s;
    k->next = s->links;
    if (k->next) k->next->previous = k;
    s->links = k;
    s->n_links++;
    net_tcp_adopt(t, &on_tcp, k);
}

st_code net_link_listen(net_loop *l, const char *host, uint16_t port, const uint8_t secret[NET_SECRET_BYTES],
                        const net_link_callbacks *cb, void *context, net_link_server **out, uint16_t *bound_port, st_error *e) {
    *out = NULL;
    net_link_server *s = mem_alloc(1, sizeof *s);
    if (!s) return st_fail(e, ST_FATAL_MEMORY, "link server: out of memory");
    *s =
        (net_link_server){.loop = l, .cb = *cb, .context = context, .max_links = NET_MAX_LINKS, .handshake_ms = NET_HANDSHAKE_MS};
    memcpy(s->secret, secret, NET_SECRET_BYTES);
    st_code rc = net_listen(l, host, port, link_accept, s, &s->listener, bound_port, e);
    if (rc) {
        net_link_server_destroy(s);
        return rc;
    }
    *out = s;
    return ST_OK;
}

void net_link_server_set_limits(net_link_server *s, uint32_t max_links, uint32_t handshake_ms) {
    s->max_links = max_links;
    s->handshake_ms = handshake_ms;
}

void net_link_server_destroy(net_link_server *s) {
    if (!s) return;
    net_listener_destroy(s->listener);
    while (s->links) link_ended(s->links, "the server was closed");
    OPENSSL_cleanse(s->secret, sizeof s->secret);
    mem_free(s);
}

st_code net_link_connect(net_loop *l, const char *host, uint16_t port, const uint8_t secret[NET_SECRET_BYTES],
                         uint32_t timeout_ms, const net_link_callbacks *cb, void *context, net_link **out, st_error *e) {
    static const net_tcp_callbacks on_tcp = {.on_open = tcp_opened, .on_read = tcp_read, .on_end = tcp_ended};
    *out = NULL;
    net_link *k = NULL;
    uint64_t until = net_now_ns() + timeout_ms * UINT64_C(1000000);
    st_code rc = link_create(l, secret, cb, context, until, &k);
    if (rc) return st_fail(e, rc, "link to %s:%u: %s", host, port, st_text(rc));
    rc = net_tcp_connect(l, host, port, timeout_ms, &on_tcp, k, &k->tcp, e);
    if (rc) {
        link_free(k);
        return rc;
    }
    *out = k;
    return ST_OK;
}
