/* The topology loader on any bytes: what is accepted has sane ranks and addresses. */
#include "config/config.h"
#include "config/config_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    config_topology *t;
    st_error e;
    if (config_load_bytes("fuzz", data, size, &t, &e)) return 0;
    char host[256];
    uint16_t port;
    uint32_t group = 0, rank = 0;
    INVARIANT(config_n_ranks(t) >= 2 && config_n_ranks(t) <= CONFIG_MAX_RANKS);
    INVARIANT(config_rank(t, config_n_ranks(t) - 1, &group, &rank) && group == t->n_groups - 1);
    INVARIANT(!config_split_address(t->listen, host, sizeof host, &port, &e));
    config_destroy(t);
    return 0;
}
