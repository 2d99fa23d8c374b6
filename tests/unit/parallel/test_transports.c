/* The contract of a transport, for every row of the table; and what only sockets can meet with: strangers, liars, sudden death.
 */
#include "base/mem.h"
#include "parallel/clock.h"
#include "parallel/transport.h"
#include "tests/unit/parallel/transport_contract.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { LARGE = 8 << 20, HELLO_BYTES = 24, MAGIC_BYTES = 8, MANY = 100 };

static transport *new_transport(const transport_kind *kind) {
    transport *t = NULL;
    st_error e = {0};
    if (kind->create(&(transport_options){0}, &t, &e)) fail_msg("%s", e.message);
    return t;
}

static uint32_t n_open_files(void) {
    uint32_t n = 0;
    for (int fd = 0; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* ---- the contract ---- */

typedef struct {
    contract_end end;
    const contract_case *what;
} player;

static void *play(void *context) {
    player *p = context;
    p->what->run(&p->end);
    return NULL;
}

static void every_transport_keeps_the_contract(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = transport_kind_at(i)); i++) {
        uint32_t n_files = n_open_files();
        transport *a = new_transport(kind), *b = new_transport(kind);
        assert_string_equal(kind->name, a->ops->name);
        assert_true(a->ops->reaches(a, b->address));
        for (uint32_t j = 0; j < n_contract_cases; j++) {
            print_message("%s: %s\n", kind->name, contract_cases[j].name);
            player x = {{.t = a, .peer = b->address, .calls = true, .streams = true}, &contract_cases[j]};
            player y = {{.t = b, .peer = a->address, .calls = false, .streams = true}, &contract_cases[j]};
            pthread_t thread;
            assert_int_equal(0, pthread_create(&thread, NULL, play, &y));
            play(&x);
            pthread_join(thread, NULL);
        }
        a->ops->destroy(a);
        b->ops->destroy(b);
        assert_int_equal(n_files, n_open_files());
    }
}

/* ---- death ---- */

/* The child sends (or only reads) and is killed in the middle of a message. */
static void child_main(int out, int in, const transport_kind *kind, bool sends) {
    char peer[TRANSPORT_ADDRESS_BYTES];
    transport *t = new_transport(kind);
    INVARIANT(write(out, t->address, sizeof t->address) == (ssize_t)sizeof t->address);
    INVARIANT(read(in, peer, sizeof peer) == (ssize_t)sizeof peer);
    contract_end end = {.t = t, .peer = peer, .calls = sends};
    uint8_t *bytes = mem_alloc(4, LARGE);
    transport_link *k = contract_open(&end, 1, NULL, bytes);
    for (uint32_t i = 0; i < 4; i++) {
        if (sends)
            t->ops->post_send(k, i, bytes, LARGE);
        else if (i == 0)
            t->ops->post_recv(k, i, bytes, LARGE);
    }
    for (transport_event e;;) contract_event(&end, &e);
}

static pid_t start_child(const transport_kind *kind, bool sends, transport *t, char peer[TRANSPORT_ADDRESS_BYTES]) {
    int to[2], from[2];
    assert_int_equal(0, pipe(to));
    assert_int_equal(0, pipe(from));
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        child_main(from[1], to[0], kind, sends);
        _exit(1);
    }
    assert_true(child > 0);
    assert_int_equal(TRANSPORT_ADDRESS_BYTES, read(from[0], peer, TRANSPORT_ADDRESS_BYTES));
    assert_int_equal(TRANSPORT_ADDRESS_BYTES, write(to[1], t->address, TRANSPORT_ADDRESS_BYTES));
    for (int i = 0; i < 2; i++) close(to[i]), close(from[i]);
    return child;
}

static void a_peer_that_is_killed_in_the_middle_of_a_message_is_lost(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = transport_kind_at(i)); i++)
        for (int sends = 0; sends < 2; sends++) {
            char peer[TRANSPORT_ADDRESS_BYTES];
            uint32_t n_files = n_open_files();
            transport *t = new_transport(kind);
            pid_t child = start_child(kind, sends, t, peer);
            contract_end end = {.t = t, .peer = peer, .calls = !sends};
            uint8_t *bytes = mem_alloc_aligned(2, LARGE, 64);
            transport_link *k = contract_open(&end, 1, bytes, &end);
            t->ops->post_recv(k, 0, bytes, LARGE);
            for (uint32_t s = 1; s < 3; s++) t->ops->post_send(k, s, bytes + LARGE, LARGE);
            contract_expect(&end, sends ? TRANSPORT_RECEIVED : TRANSPORT_SENT, &end); /* it is in another one by now */
            kill(child, SIGKILL);
            assert_int_equal(child, waitpid(child, NULL, 0));
            transport_event e = {.kind = TRANSPORT_RECEIVED, .slot = 0};
            for (; e.kind != TRANSPORT_PEER_LOST; contract_event(&end, &e)) { /* behind all that came */
                assert_true(e.kind == TRANSPORT_RECEIVED || e.kind == TRANSPORT_SENT);
                if (sends && e.kind == TRANSPORT_RECEIVED) t->ops->post_recv(k, e.slot, bytes, LARGE);
            }
            t->ops->close(k);
            for (; e.kind != TRANSPORT_CLOSED; contract_event(&end, &e))
                assert_true(e.kind == TRANSPORT_PEER_LOST || e.kind == TRANSPORT_FAILED);
            end.calls = true; /* who calls the dead is told so at once, long before the deadline */
            k = contract_open(&end, 2, NULL, &end);
            const uint64_t begun_ns = parallel_now_ns();
            contract_expect(&end, TRANSPORT_PEER_LOST, &end);
            assert_true(parallel_now_ns() - begun_ns < UINT64_C(10000000000));
            t->ops->destroy(t);
            assert_int_equal(n_files, n_open_files());
        }
}

/* ---- strangers ---- */

static int connect_to(const char *address) {
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    struct sockaddr_in remote = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const bool shm = !strncmp(address, "shm:", 4);
    int n = snprintf(local.sun_path + 1, sizeof local.sun_path - 1, "consort-kv-%s", strrchr(address, ':') + 1);
    remote.sin_port = htons((uint16_t)strtoul(strrchr(address, ':') + 1, NULL, 10));
    int fd = socket(shm ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(
        0, shm ? connect(fd, (struct sockaddr *)&local, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1) + (socklen_t)n)
               : connect(fd, (struct sockaddr *)&remote, sizeof remote));
    return fd;
}

/* Until t has ended the connection. */
static void assert_turned_away(transport *t, int fd) {
    uint8_t byte;
    ssize_t n = -1;
    transport_event e;
    for (uint64_t end_ns = parallel_now_ns() + UINT64_C(30000000000); n < 0 && parallel_now_ns() < end_ns;) {
        assert_false(t->ops->test(t, &e));
        transport_wait(&t, 1, -1, parallel_now_ns() + 1000000);
        n = recv(fd, &byte, 1, MSG_DONTWAIT);
        if (n < 0 && errno == ECONNRESET) n = 0;
    }
    assert_int_equal(0, n);
    close(fd);
}

static void hello(uint8_t key, uint8_t out[HELLO_BYTES]) {
    memset(out, 0, HELLO_BYTES);
    memcpy(out, "CKVlink\1", MAGIC_BYTES);
    memcpy(out + MAGIC_BYTES, (uint8_t[]){key, 1, 2, 3}, 4);
}

/* A hello, and a file with it (-1: none). */
static void say(int fd, const uint8_t *bytes, size_t n, int file) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = &(struct iovec){(void *)(uintptr_t)bytes, n}, .msg_iovlen = 1};
    if (file >= 0) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_LEN(sizeof file);
        control.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof file), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &file, sizeof file);
    }
    assert_int_equal(n, sendmsg(fd, &m, MSG_NOSIGNAL));
}

static void strangers_are_turned_away_and_cost_nothing(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = transport_kind_at(i)); i++) {
        uint32_t n_files = n_open_files();
        transport *t = new_transport(kind), *other = new_transport(kind);
        contract_end end = {.t = t, .peer = other->address}, caller = {.t = other, .peer = t->address, .calls = true};
        transport_link *waits = contract_open(&end, 1, NULL, &end);
        uint8_t right[HELLO_BYTES], wrong[HELLO_BYTES];
        hello(1, right);
        hello(2, wrong);
        int silent[MANY];
        for (int s = 0; s < MANY; s++) { /* more than are let wait */
            transport_event e;
            silent[s] = connect_to(t->address);
            assert_false(t->ops->test(t, &e));
        }
        int fd = connect_to(t->address);
        say(fd, wrong, HELLO_BYTES, -1); /* a key nobody waits for */
        assert_turned_away(t, fd);
        fd = connect_to(t->address);
        say(fd, (const uint8_t *)"GET / HTTP/1.1\r\n\r\n", 4, -1); /* not a hello: seen at the first bytes */
        assert_turned_away(t, fd);
        fd = connect_to(t->address);
        say(fd, right, HELLO_BYTES - 1, -1); /* and falls silent */
        assert_turned_away(t, fd);
        for (int s = 0; s < MANY; s++) assert_turned_away(t, silent[s]);
        transport_link *k = contract_open(&caller, 1, NULL, &caller); /* who was meant is met all the same */
        uint8_t byte = 5, heard = 0;
        other->ops->post_send(k, 0, &byte, 1);
        t->ops->post_recv(waits, 0, &heard, 1);
        transport_event e = {.kind = TRANSPORT_SENT};
        while (e.kind != TRANSPORT_RECEIVED) {
            if (other->ops->test(other, &e)) assert_int_equal(TRANSPORT_SENT, e.kind);
            t->ops->test(t, &e);
        }
        assert_int_equal(5, heard);
        t->ops->destroy(t);
        other->ops->destroy(other);
        assert_int_equal(n_files, n_open_files());
    }
}

static void a_length_out_of_range_ends_the_link(void **state) {
    (void)state;
    static const uint8_t heads[][4] = {{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {1, 16, 0, 4}};
    for (uint32_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        transport *t = new_transport(&transport_tcp);
        contract_end end = {.t = t};
        contract_open(&end, 1, NULL, &end);
        uint8_t bytes[HELLO_BYTES + 4];
        hello(1, bytes);
        memcpy(bytes + HELLO_BYTES, heads[i], 4);
        int fd = connect_to(t->address);
        say(fd, bytes, sizeof bytes, -1);
        contract_expect(&end, TRANSPORT_PEER_LOST, &end);
        close(fd);
        t->ops->destroy(t);
    }
}

/* A peer of shm that is none of ours: it listens where the address says. */
static int listen_as_shm(const transport *t, char address[TRANSPORT_ADDRESS_BYTES]) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(address, TRANSPORT_ADDRESS_BYTES, "%s", t->address);
    memset(address + strlen(address) - 4, 'x', 4);
    int n = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "consort-kv-%s", strrchr(address, ':') + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(0, bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1) + (socklen_t)n));
    assert_int_equal(0, listen(fd, 1));
    return fd;
}

/* What a caller hands over with its hello. */
static int take_memory(contract_end *end, int listener, int *fd) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    uint8_t said[HELLO_BYTES];
    struct msghdr m = {.msg_iov = &(struct iovec){said, sizeof said}, .msg_iovlen = 1, .msg_control = &control};
    transport_event e;
    m.msg_controllen = sizeof control;
    for (int i = 0; i < 2; i++) {
        assert_false(end->t->ops->test(end->t, &e)); /* it connects; it says hello */
    }
    *fd = accept(listener, NULL, NULL);
    assert_int_equal(HELLO_BYTES, recvmsg(*fd, &m, 0));
    int memory;
    memcpy(&memory, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof memory);
    return memory;
}

static void shared_memory_is_not_believed(void **state) {
    (void)state;
    for (int sends = 0; sends < 2; sends++) {
        char address[TRANSPORT_ADDRESS_BYTES];
        struct stat is;
        int fd;
        uint8_t bytes[64] = {0};
        transport *t = new_transport(&transport_shm);
        int listener = listen_as_shm(t, address);
        contract_end end = {.t = t, .peer = address, .calls = true};
        transport_link *k = contract_open(&end, 1, NULL, &end);
        int memory = take_memory(&end, listener, &fd);
        assert_int_equal(0, fstat(memory, &is));
        assert_int_equal(-1, ftruncate(memory, 0)); /* sealed: it cannot be taken from under us */
        assert_int_equal(-1, ftruncate(memory, 2 * is.st_size));
        uint8_t *all = mmap(NULL, (size_t)is.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
        assert_true(all != MAP_FAILED);
        memset(all, 1, (size_t)is.st_size); /* all counts are nonsense, the lengths of messages are not */
        if (sends)
            t->ops->post_send(k, 0, bytes, sizeof bytes);
        else
            t->ops->post_recv(k, 0, bytes, sizeof bytes);
        say(fd, (const uint8_t *)"CKVlink\1", MAGIC_BYTES, -1);
        contract_expect(&end, TRANSPORT_PEER_LOST, &end);
        munmap(all, (size_t)is.st_size);
        close(memory), close(fd), close(listener);
        t->ops->destroy(t);
    }
}

static void memory_of_another_size_or_without_seals_is_refused(void **state) {
    (void)state;
    char address[TRANSPORT_ADDRESS_BYTES];
    struct stat is;
    int fd;
    uint8_t right[HELLO_BYTES];
    transport *t = new_transport(&transport_shm), *other = new_transport(&transport_shm);
    int listener = listen_as_shm(t, address);
    contract_end end = {.t = t, .peer = address, .calls = true}, called = {.t = other};
    contract_open(&end, 1, NULL, &end);
    int memory = take_memory(&end, listener, &fd);
    assert_int_equal(0, fstat(memory, &is));
    hello(1, right);
    contract_open(&called, 1, NULL, &called);
    for (int i = 0; i < 5; i++) { /* none, a pipe, unsealed, too small, right */
        int pipes[2], file = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(0, pipe(pipes));
        assert_int_equal(0, ftruncate(file, i == 3 ? 4096 : is.st_size));
        if (i >= 3) assert_int_equal(0, fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
        int stranger = connect_to(other->address);
        say(stranger, right, HELLO_BYTES, i == 0 ? -1 : i == 1 ? pipes[0] : file);
        close(pipes[0]), close(pipes[1]), close(file);
        if (i < 4) {
            assert_turned_away(other, stranger);
            continue;
        }
        uint8_t answer[MAGIC_BYTES];
        transport_event e;
        for (ssize_t n = -1; n < 0; n = recv(stranger, answer, sizeof answer, MSG_DONTWAIT)) other->ops->test(other, &e);
        assert_memory_equal(answer, right, MAGIC_BYTES);
        close(stranger);
        contract_expect(&called, TRANSPORT_PEER_LOST, &called);
    }
    close(memory), close(fd), close(listener);
    t->ops->destroy(t);
    other->ops->destroy(other);
}

/* ---- addresses ---- */

static void an_address_leads_to_where_it_holds(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = transport_kind_at(i)); i++) {
        transport *t = new_transport(kind);
        char elsewhere[TRANSPORT_ADDRESS_BYTES];
        snprintf(elsewhere, sizeof elsewhere, "%s", t->address);
        char *host = strchr(elsewhere, '-'); /* in the boot id */
        assert_non_null(host);
        assert_true(t->ops->reaches(t, elsewhere));
        host[1] = host[1] == '0' ? '1' : '0';
        assert_false(t->ops->reaches(t, elsewhere));
        t->ops->destroy(t);
    }
    transport *t = new_transport(&transport_tcp);
    static const char *const good[] = {"10.0.0.1:80", "fe80::1:80", "192.168.7.7:65535"};
    static const char *const bad[] = {
        "",       ":",          "10.0.0.1",         "10.0.0.1:",     "10.0.0.1:x", "host:80", ":80", "127.0.0.1:80",
        "::1:80", "0.0.0.0:80", "10.0.0.1:80@here", "10.0.0.1:65536"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(t->ops->reaches(t, good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (t->ops->reaches(t, bad[i])) fail_msg("\"%s\" is reached", bad[i]);
    t->ops->destroy(t);
}

static void options_say_where_tcp_listens_and_what_others_are_told(void **state) {
    (void)state;
    transport *t = NULL, *second = NULL;
    st_error e = {0};
    assert_int_equal(ST_OK, transport_tcp.create(&(transport_options){.host = "0.0.0.0", .advertise = "10.1.2.3"}, &t, &e));
    assert_memory_equal(t->address, "10.1.2.3:", 9);
    assert_null(strchr(t->address, '@'));
    const uint16_t port = (uint16_t)strtoul(t->address + 9, NULL, 10);
    assert_int_equal(ST_ERR_IO, transport_tcp.create(&(transport_options){.host = "127.0.0.1", .port = port}, &second, &e));
    t->ops->destroy(t);
    assert_int_equal(ST_ERR_INVALID_ARGUMENT, transport_tcp.create(&(transport_options){.host = "0.0.0.0"}, &second, &e));
    assert_int_equal(ST_ERR_INVALID_ARGUMENT, transport_tcp.create(&(transport_options){.host = "no such host"}, &second, &e));
    assert_null(second);
}

static void without_memory_there_is_an_error(void **state) {
    (void)state;
    const transport_kind *kind;
    for (uint32_t i = 0; (kind = transport_kind_at(i)); i++) {
        transport *t = NULL;
        transport_link *k = NULL;
        st_error e = {0};
        uint32_t n_files = n_open_files();
        mem_fail_at(1);
        assert_int_equal(ST_FATAL_MEMORY, kind->create(&(transport_options){0}, &t, &e));
        mem_fail_at(0);
        assert_null(t);
        assert_int_equal(n_files, n_open_files());
        t = new_transport(kind);
        mem_fail_at(1);
        assert_int_equal(ST_FATAL_MEMORY, t->ops->open(t, &(transport_call){.deadline_ns = UINT64_MAX}, &k, &e));
        mem_fail_at(0);
        t->ops->destroy(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transport_keeps_the_contract),
        cmocka_unit_test(a_peer_that_is_killed_in_the_middle_of_a_message_is_lost),
        cmocka_unit_test(strangers_are_turned_away_and_cost_nothing),
        cmocka_unit_test(a_length_out_of_range_ends_the_link),
        cmocka_unit_test(shared_memory_is_not_believed),
        cmocka_unit_test(memory_of_another_size_or_without_seals_is_refused),
        cmocka_unit_test(an_address_leads_to_where_it_holds),
        cmocka_unit_test(options_say_where_tcp_listens_and_what_others_are_told),
        cmocka_unit_test(without_memory_there_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
