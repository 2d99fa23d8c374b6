/* A group of one rank: its sums are complete and its bytes are everywhere already. */
#include "parallel/parallel.h"

#include "base/mem.h"
#include <string.h>

static st_code all_reduce(parallel_group *g, double *values, size_t n) {
    (void)g, (void)values, (void)n;
    return ST_OK;
}

static st_code broadcast(parallel_group *g, void *bytes, size_t n, uint32_t root) {
    (void)bytes, (void)n;
    INVARIANT(root < g->n_ranks);
    return ST_OK;
}

static st_code gather(parallel_group *g, const void *mine, size_t n, void *all, uint32_t root) {
    INVARIANT(root < g->n_ranks);
    memcpy(all, mine, n);
    return ST_OK;
}

static st_code listen_for(parallel_group *g, void *bytes, size_t n, uint32_t root, uint64_t spin_ns, bool *done) {
    (void)g, (void)bytes, (void)n, (void)root, (void)spin_ns, (void)done;
    return ST_ERR_INVALID_ARGUMENT; /* there is no other rank that could be the root */
}

static void destroy(parallel_group *g) { mem_free(g); }

static const parallel_group_ops local = {.name = "local",
                                         .all_reduce = all_reduce,
                                         .broadcast = broadcast,
                                         .gather = gather,
                                         .listen = listen_for,
                                         .destroy = destroy};

st_code parallel_group_local(parallel_group **out) {
    parallel_group *g = mem_alloc(1, sizeof *g);
    if (!g) return ST_FATAL_MEMORY;
    *g = (parallel_group){.ops = &local, .rank = 0, .n_ranks = 1};
    *out = g;
    return ST_OK;
}
