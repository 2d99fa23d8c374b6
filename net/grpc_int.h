/* grpc_int: the server's limits, so that tests reach them without a thousand sockets or a minute of waiting. Thread: the loop's.
 */
#ifndef CONSORT_NET_GRPC_INT_H
#define CONSORT_NET_GRPC_INT_H

#include "net/net.h"

/* For connections accepted from now on. At first NET_MAX_CONNECTIONS and NET_HTTP2_STALL_MS. */
void net_grpc_set_limits(net_grpc_server *s, size_t max_connections, uint64_t stall_ms);

#endif
