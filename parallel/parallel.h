/* parallel: what ranks do together. The only room that knows MPI (and later NCCL).
 *
 * Nouns: the world (all processes of one mpirun or srun), a group (the ranks that hold one model together), a transport (from one
 * rank to another, transport.h). The world is used once at start, to learn the rank and to hand the coordinator's address and
 * secret round; a group carries the collectives of the forward pass. Collectives never block for ever: they have a deadline and
 * an abort flag. Thread: the step thread. */
#ifndef CONSORT_PARALLEL_H
#define CONSORT_PARALLEL_H

#include "base/status.h"
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef struct parallel_group parallel_group;

/* Functions of a group; one file a kind (group_local.c: one rank, nothing to do; group_mpi.c). */
typedef struct {
    const char *name;
    /* In place, sum of `values` over the ranks; exact by construction of the values (numerics.md), so any algorithm gives the
     * same bits. Errors: ST_ERR_DEADLINE, ST_ERR_CANCELLED (abort flag): the group is then unusable. */
    st_code (*all_reduce)(parallel_group *g, double *values, size_t n);
    /* Root's bytes to all. Errors as above. */
    st_code (*broadcast)(parallel_group *g, void *bytes, size_t n, uint32_t root);
    /* all[n_ranks][n] at the root = each rank's n bytes; elsewhere `all` is not looked at. Errors as above. */
    st_code (*gather)(parallel_group *g, const void *mine, size_t n, void *all, uint32_t root);
    /* The receiving side of a broadcast that may be long in coming: waits for at most spin_ns. *done false: not yet; call again
     * with the same arguments (`bytes` belongs to the transport until then), whenever there is reason to. Not at the root.
     * Errors: ST_ERR_CANCELLED. */
    st_code (*listen)(parallel_group *g, void *bytes, size_t n, uint32_t root, uint64_t spin_ns, bool *done);
    void (*destroy)(parallel_group *g);
} parallel_group_ops;

struct parallel_group {
    const parallel_group_ops *ops;
    uint32_t rank, n_ranks;
    uint32_t deadline_ms; /* of a collective: past it a rank of the group is taken for dead */
    _Atomic bool aborted; /* set from any thread: collectives in progress and all later ones end with ST_ERR_CANCELLED */
};

/* A group of one. Owns: the caller, by g->ops->destroy(g). Errors: ST_FATAL_MEMORY. */
ST_CHECKED st_code parallel_group_local(parallel_group **out);

#endif
