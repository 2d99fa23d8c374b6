/* link_int: what tests need to see of the links' handshake.
 *
 *     client ── HELLO: nonce C ──────────────────────────────────────────> server
 *     client <── CHALLENGE: nonce S, HMAC(secret, "server" C S) ────────── server
 *     client ── PROOF: HMAC(secret, "client" C S) ───────────────────────> server
 *
 * HMAC is HMAC-SHA256 (RFC 2104); nonces are 32 random bytes, new on each connection, so that a recorded handshake proves
 * nothing; the labels keep a proof from being reflected. Types from NET_LINK_OWN_TYPES on belong to the link itself. */
#ifndef CONSORT_NET_LINK_INT_H
#define CONSORT_NET_LINK_INT_H

#include "net/net.h"

enum {
    NET_LINK_OWN_TYPES = 0xff00,
    NET_LINK_HELLO = NET_LINK_OWN_TYPES,
    NET_LINK_CHALLENGE,
    NET_LINK_PROOF,
    NET_LINK_BYE, /* payload: the reason, as text */
    NET_NONCE_BYTES = 32,
    NET_PROOF_BYTES = 32
};

#define NET_LINK_SERVER_LABEL "consort link 1 server"
#define NET_LINK_CLIENT_LABEL "consort link 1 client"

/* out = HMAC(secret, label C S). Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code net_link_prove(const uint8_t secret[NET_SECRET_BYTES], const char *label,
                                  const uint8_t client[NET_NONCE_BYTES], const uint8_t server[NET_NONCE_BYTES],
                                  uint8_t out[NET_PROOF_BYTES]);
/* For links accepted from now on. At first NET_MAX_LINKS and NET_HANDSHAKE_MS. */
void net_link_server_set_limits(net_link_server *s, uint32_t max_links, uint32_t handshake_ms);

#endif
