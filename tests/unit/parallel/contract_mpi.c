/* The contract of a transport, for MPI: mpirun -n 2 contract_mpi. Each rank is an end, and sums with the other all the while in
 * another thread, as a step thread does. With the argument "death" rank 1 is killed in the middle of a message.
 *
 * Rank 0 prints a line a case. tests/cluster/test_transport_mpi.py starts this. */
#include "base/mem.h"
#include "parallel/clock.h"
#include "parallel/world.h"
#include "tests/unit/parallel/transport_contract.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MUST(condition) INVARIANT(condition)
enum { DEADLINE_MS = 30000, LARGE = 8 << 20, N_VALUES = 500 };

typedef struct {
    parallel_group *group;
    _Atomic bool over; /* here */
    uint64_t n_sums;
} summer;

/* Until both are over: the last value says how many are. */
static void *sum(void *context) {
    summer *s = context;
    double values[N_VALUES];
    do {
        for (uint32_t i = 0; i + 1 < N_VALUES; i++) values[i] = s->group->rank * 1000.0 + i;
        values[N_VALUES - 1] = s->over;
        MUST(s->group->ops->all_reduce(s->group, values, N_VALUES) == ST_OK);
        for (uint32_t i = 0; i + 1 < N_VALUES; i++) MUST(values[i] == 1000.0 + 2 * i);
        s->n_sums++;
    } while (values[N_VALUES - 1] != 2);
    return NULL;
}

static void keep_the_contract(contract_end *end, uint32_t rank) {
    summer s = {0};
    pthread_t thread;
    MUST(parallel_world_group(0, 2, DEADLINE_MS, &s.group, NULL) == ST_OK);
    MUST(pthread_create(&thread, NULL, sum, &s) == 0);
    for (uint32_t i = 0; i < n_contract_cases; i++) {
        contract_cases[i].run(end);
        if (rank == 0) printf("ok %s\n", contract_cases[i].name), fflush(stdout);
    }
    s.over = true;
    pthread_join(thread, NULL);
    MUST(s.n_sums > 1);
    if (rank == 0) printf("ok %llu sums meanwhile\n", (unsigned long long)s.n_sums);
    s.group->ops->destroy(s.group);
}

/* A rank that is dead takes nothing: the link is closed all the same, and what MPI may touch stays. */
static void outlive_the_other(contract_end *end, uint32_t rank) {
    uint8_t *bytes = mem_alloc_aligned(2, LARGE, 64);
    transport_link *k = contract_open(end, 1, bytes, end);
    if (rank == 1) {
        end->t->ops->post_recv(k, 0, bytes, LARGE);
        contract_expect(end, TRANSPORT_RECEIVED, end);
        kill(getpid(), SIGKILL);
    }
    for (uint32_t i = 0; i < 3; i++) end->t->ops->post_send(k, i, bytes, LARGE);
    end->t->ops->post_recv(k, 3, bytes + LARGE, LARGE);
    contract_expect(end, TRANSPORT_SENT, end);
    transport_event e;
    for (uint64_t end_ns = parallel_now_ns() + UINT64_C(300000000); parallel_now_ns() < end_ns;)
        if (!end->t->ops->test(end->t, &e)) transport_wait(&end->t, 1, -1, end_ns);
    end->t->ops->cancel(k, 3);
    end->t->ops->close(k);
    do contract_event(end, &e);
    while (e.kind != TRANSPORT_CLOSED);
    puts("ok closed");
    int fd;
    uint64_t wake_ns = 0;
    for (uint64_t end_ns = parallel_now_ns() + UINT64_C(10000000000); wake_ns != UINT64_MAX && parallel_now_ns() < end_ns;) {
        MUST(!end->t->ops->test(end->t, &e));
        transport_wait(&end->t, 1, -1, end_ns);
        end->t->ops->wait_on(end->t, &fd, &wake_ns);
    }
    MUST(wake_ns == UINT64_MAX);
    puts("ok nothing polls");
    end->t->ops->destroy(end->t);
    fflush(stdout);
    _exit(0);
}

int main(int argc, char **argv) {
    uint32_t rank, n_ranks;
    st_error e = {0};
    char addresses[2][TRANSPORT_ADDRESS_BYTES];
    transport *t = NULL;
    if (parallel_world_start(&argc, &argv, &rank, &n_ranks, &e) || n_ranks != 2 ||
        transport_mpi.create(&(transport_options){0}, &t, &e) ||
        parallel_world_gather(t->address, addresses, TRANSPORT_ADDRESS_BYTES, DEADLINE_MS, &e)) {
        fprintf(stderr, "contract_mpi: %s\n", e.message[0] ? e.message : "it takes two ranks");
        return 1;
    }
    contract_end end = {.t = t, .peer = addresses[1 - rank], .calls = rank == 1};
    if (argc == 2 && !strcmp(argv[1], "death")) outlive_the_other(&end, rank);
    keep_the_contract(&end, rank);
    t->ops->destroy(t);
    parallel_world_stop();
    return 0;
}
