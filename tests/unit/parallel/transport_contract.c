#include "tests/unit/parallel/transport_contract.h"

#include "base/mem.h"
#include "kv/transfer.h"
#include "parallel/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition) INVARIANT(condition)

enum { LARGE = (8 << 20) + 12345, CONTROL = 255 };
static const uint64_t PATIENCE_NS = UINT64_C(30000000000), MOMENT_NS = 100000000;

static uint32_t draw_below(uint64_t *random, uint32_t n) { /* xorshift64* */
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    return (uint32_t)((*random * UINT64_C(0x2545F4914F6CDD1D)) >> 32) % n;
}

static bool next_until(contract_end *end, transport_event *out, uint64_t until_ns) {
    while (!end->t->ops->test(end->t, out)) {
        if (parallel_now_ns() >= until_ns) return false;
        transport_wait(&end->t, 1, -1, until_ns);
    }
    return true;
}

void contract_event(contract_end *end, transport_event *out) { MUST(next_until(end, out, parallel_now_ns() + PATIENCE_NS)); }

static transport_event expect(contract_end *end, transport_event_kind kind, void *context) {
    transport_event e;
    contract_event(end, &e);
    if (e.kind != kind || e.context != context)
        fprintf(stderr, "%s, calls %d: event %d of slot %u, expected %d\n", end->t->ops->name, end->calls, (int)e.kind, e.slot,
                (int)kind);
    MUST(e.kind == kind && e.context == context);
    return e;
}

void contract_expect(contract_end *end, transport_event_kind kind, void *context) { expect(end, kind, context); }

static transport_call a_call(const contract_end *end, uint8_t key, void *memory, void *context) {
    return (transport_call){.address = end->peer,
                            .key = {key, 1, 2, 3},
                            .calls = end->calls,
                            .deadline_ns = parallel_now_ns() + PATIENCE_NS,
                            .context = context,
                            .memory = memory};
}

transport_link *contract_open(contract_end *end, uint8_t key, void *memory, void *context) {
    transport_link *k = NULL;
    st_error e = {0};
    transport_call c = a_call(end, key, memory, context);
    MUST(end->t->ops->open(end->t, &c, &k, &e) == ST_OK);
    return k;
}

static void *bytes_of(size_t n) {
    void *p = mem_alloc_aligned(1, n, 64);
    MUST(p);
    return p;
}

/* Bytes that tell a message by its seed. */
static void fill(uint8_t *bytes, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)((seed * 2654435761u + i * 40503u + (i >> 9)) >> 7);
}

static bool is_filled(const uint8_t *bytes, size_t n, uint64_t seed) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != (uint8_t)((seed * 2654435761u + i * 40503u + (i >> 9)) >> 7)) return false;
    return true;
}

/* Either end is where the other is: a byte each way over a link. Nothing else may happen on the transport meanwhile. */
static void in_step(contract_end *end, transport_link *k, void *context) {
    uint8_t said = 7, heard = 0;
    const transport_ops *ops = end->t->ops;
    ops->post_recv(k, 30, &heard, 1);
    ops->post_send(k, 31, &said, 1);
    for (int i = 0; i < 2; i++) {
        transport_event e;
        contract_event(end, &e);
        MUST(e.context == context && (e.slot == 30 ? e.kind == TRANSPORT_RECEIVED : e.slot == 31 && e.kind == TRANSPORT_SENT));
    }
    MUST(heard == 7);
}

/* Both have heard all they want: they end the link at about the same time. */
static void part(contract_end *end, transport_link *k, void *context) {
    transport_event e;
    end->t->ops->close(k);
    do contract_event(end, &e);
    while (e.kind != TRANSPORT_CLOSED);
    MUST(e.context == context);
    MUST(!next_until(end, &e, 0));
}

/* ---- messages ---- */

enum { WINDOW = 3, N_MESSAGES = 48 };

static size_t size_of(uint64_t *random, uint32_t i) {
    switch (draw_below(random, 8)) {
    case 0: return 1 + draw_below(random, 8);
    case 1: return 1 + draw_below(random, 1 << 20);
    case 2: return i % 16 == 0 ? LARGE : 25 * 1024;
    default: return 1 + draw_below(random, 64 * 1024);
    }
}

typedef struct {
    uint8_t *slots[2 * WINDOW]; /* [LARGE] WINDOW to send, WINDOW to receive */
    uint64_t random[2];         /* sizes of what the calling end sends, of what the other does */
    uint32_t n_sent, n_received, n_posted;
    size_t sizes[2][N_MESSAGES];
} traffic;

static void post_next(contract_end *end, transport_link *k, traffic *x, uint32_t slot) {
    const uint32_t i = x->n_posted++;
    fill(x->slots[slot], x->sizes[end->calls][i], i + 1000u * end->calls);
    end->t->ops->post_send(k, slot, x->slots[slot], x->sizes[end->calls][i]);
}

static void messages_come_whole_once_and_in_order(contract_end *end) {
    traffic x = {.random = {11, 12}};
    uint8_t *memory = bytes_of(2 * WINDOW * (size_t)LARGE);
    transport_link *k = contract_open(end, 1, memory, &x);
    for (int side = 0; side < 2; side++)
        for (uint32_t i = 0; i < N_MESSAGES; i++) x.sizes[side][i] = size_of(&x.random[side], i);
    for (uint32_t s = 0; s < 2 * WINDOW; s++) x.slots[s] = memory + s * (size_t)LARGE;
    for (uint32_t s = 0; s < WINDOW; s++) post_next(end, k, &x, s);
    for (uint32_t s = WINDOW; s < 2 * WINDOW; s++) end->t->ops->post_recv(k, s, x.slots[s], LARGE);
    while (x.n_sent < N_MESSAGES || x.n_received < N_MESSAGES) {
        transport_event e;
        contract_event(end, &e);
        MUST(e.context == &x);
        if (e.kind == TRANSPORT_SENT) {
            MUST(e.slot < WINDOW);
            x.n_sent++;
            if (x.n_posted < N_MESSAGES) post_next(end, k, &x, e.slot);
            continue;
        }
        const uint32_t i = x.n_received++;
        MUST(e.kind == TRANSPORT_RECEIVED && e.slot == WINDOW + i % WINDOW && e.n_bytes == x.sizes[!end->calls][i]);
        MUST(is_filled(x.slots[e.slot], e.n_bytes, i + 1000u * !end->calls));
        if (i + WINDOW < N_MESSAGES) end->t->ops->post_recv(k, e.slot, x.slots[e.slot], LARGE);
    }
    part(end, k, &x);
}

static void several_links_do_not_mix(contract_end *end) {
    enum { LINKS = 8, EACH = 20, BYTES = 70000 };
    transport_link *links[LINKS];
    uint8_t *memory[LINKS];
    uint32_t n_sent[LINKS] = {0}, n_received[LINKS] = {0}, open = LINKS;
    for (uint32_t l = 0; l < LINKS; l++) {
        uint32_t which = end->calls ? l : LINKS - 1 - l; /* the ends open them in another order */
        memory[which] = bytes_of(2 * BYTES);
        links[which] = contract_open(end, (uint8_t)(10 + which), memory[which], &memory[which]);
        fill(memory[which], BYTES, which);
        end->t->ops->post_send(links[which], 0, memory[which], BYTES);
        end->t->ops->post_recv(links[which], 1, memory[which] + BYTES, BYTES);
    }
    while (open) {
        transport_event e;
        contract_event(end, &e);
        const uint32_t l = (uint32_t)((uint8_t **)e.context - memory);
        if (e.kind == TRANSPORT_CLOSED) {
            open--;
            continue;
        }
        if (e.kind == TRANSPORT_PEER_LOST) continue; /* it has closed first */
        if (e.kind == TRANSPORT_RECEIVED) {
            MUST(e.n_bytes == BYTES && is_filled(memory[l] + BYTES, BYTES, l));
            memset(memory[l] + BYTES, 0, BYTES);
            if (++n_received[l] < EACH) end->t->ops->post_recv(links[l], 1, memory[l] + BYTES, BYTES);
        } else {
            MUST(e.kind == TRANSPORT_SENT);
            if (++n_sent[l] < EACH) end->t->ops->post_send(links[l], 0, memory[l], BYTES);
        }
        if (n_sent[l] == EACH && n_received[l] == EACH) end->t->ops->close(links[l]);
    }
}

static void a_reader_may_be_slow(contract_end *end) {
    enum { N = 12, BYTES = 1 << 20 };
    uint8_t *memory = bytes_of((size_t)N * BYTES);
    transport_link *k = contract_open(end, 2, memory, memory);
    in_step(end, k, memory);
    for (uint32_t i = 0; end->calls && i < N; i++) {
        fill(memory + (size_t)i * BYTES, BYTES, i);
        end->t->ops->post_send(k, i, memory + (size_t)i * BYTES, BYTES);
    }
    if (!end->calls) { /* what waits for room costs no time: hardly anything wakes who has posted none */
        transport_event e;
        uint32_t n_woken = 0;
        for (uint64_t end_ns = parallel_now_ns() + MOMENT_NS; parallel_now_ns() < end_ns; n_woken++) {
            MUST(!end->t->ops->test(end->t, &e));
            transport_wait(&end->t, 1, -1, end_ns);
        }
        MUST(n_woken < 1000);
    }
    for (uint32_t i = 0; i < N; i++) {
        if (!end->calls) end->t->ops->post_recv(k, 0, memory, BYTES);
        transport_event e = expect(end, end->calls ? TRANSPORT_SENT : TRANSPORT_RECEIVED, memory);
        MUST(end->calls ? e.slot == i : e.n_bytes == BYTES && is_filled(memory, BYTES, i));
    }
    in_step(end, k, memory);
    part(end, k, memory);
}

static void what_is_too_long_fails_and_the_next_message_comes_whole(contract_end *end) {
    enum { ROOM = 3000 };
    static const size_t sizes[] = {ROOM, ROOM + 1, 100, LARGE, ROOM - 1};
    uint8_t *memory = bytes_of(LARGE);
    transport_link *k = contract_open(end, 3, memory, memory);
    for (uint32_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (end->calls) {
            fill(memory, sizes[i], i);
            end->t->ops->post_send(k, 0, memory, sizes[i]);
            expect(end, TRANSPORT_SENT, memory);
            continue;
        }
        memset(memory, 0xee, 2 * ROOM);
        end->t->ops->post_recv(k, 5, memory, ROOM);
        transport_event e = expect(end, sizes[i] <= ROOM ? TRANSPORT_RECEIVED : TRANSPORT_FAILED, memory);
        MUST(e.slot == 5 && (e.kind == TRANSPORT_FAILED || (e.n_bytes == sizes[i] && is_filled(memory, sizes[i], i))));
        for (uint32_t b = ROOM; b < 2 * ROOM; b++) MUST(memory[b] == 0xee);
    }
    in_step(end, k, memory);
    part(end, k, memory);
}

/* ---- cancelling ---- */

static void a_cancelled_receive_takes_nothing(contract_end *end) {
    uint8_t memory[3] = {0};
    transport_link *k = contract_open(end, 4, NULL, memory);
    in_step(end, k, memory);
    if (!end->calls) {
        for (uint32_t s = 0; s < 3; s++) end->t->ops->post_recv(k, s, memory + s, 1);
        end->t->ops->cancel(k, 1);
        end->t->ops->cancel(k, 0);
        bool gone[2] = {false};
        for (uint32_t i = 0; i < 2; i++) gone[expect(end, TRANSPORT_FAILED, memory).slot] = true;
        MUST(gone[0] && gone[1]);
    }
    uint8_t said = 3;
    if (end->calls) end->t->ops->post_send(k, 0, &said, 1);
    transport_event e = expect(end, end->calls ? TRANSPORT_SENT : TRANSPORT_RECEIVED, memory);
    MUST(end->calls || (e.slot == 2 && memory[2] == 3 && memory[0] == 0));
    in_step(end, k, memory);
    part(end, k, memory);
}

/* The moment of the cancel moves through the message. What comes next is that message or the one after it, and whole. */
static void a_receive_cancelled_in_the_middle_leaves_the_link_whole(contract_end *end) {
    uint8_t *memory = bytes_of(LARGE);
    transport_link *k = contract_open(end, 5, memory, memory);
    for (uint32_t round = 0; round < 12; round++) {
        in_step(end, k, memory);
        if (end->calls) {
            fill(memory, LARGE, round);
            end->t->ops->post_send(k, 0, memory, LARGE);
            expect(end, TRANSPORT_SENT, memory);
            end->t->ops->post_send(k, 0, memory, 77);
            expect(end, TRANSPORT_SENT, memory);
            continue;
        }
        transport_event e = {.kind = TRANSPORT_CLOSED};
        end->t->ops->post_recv(k, 1, memory, LARGE);
        for (uint32_t i = 0; i < round && e.kind == TRANSPORT_CLOSED; i++)
            if (!end->t->ops->test(end->t, &e)) transport_wait(&end->t, 1, -1, parallel_now_ns() + MOMENT_NS);
        end->t->ops->cancel(k, 1);
        if (e.kind == TRANSPORT_CLOSED) contract_event(end, &e);
        MUST(e.slot == 1 && (e.kind == TRANSPORT_FAILED || (e.kind == TRANSPORT_RECEIVED && is_filled(memory, LARGE, round))));
        for (size_t n = 0; n != 77;) {
            end->t->ops->post_recv(k, 2, memory, LARGE);
            n = expect(end, TRANSPORT_RECEIVED, memory).n_bytes;
            MUST((n == LARGE || n == 77) && is_filled(memory, n, round));
        }
    }
    in_step(end, k, memory);
    part(end, k, memory);
}

static void a_cancelled_send_does_not_arrive(contract_end *end) {
    enum { N = 4, TAKEN_BACK = 2 };
    uint8_t *memory = bytes_of((size_t)N * LARGE), arrives[N] = {1, 1, 1, 1};
    transport_link *k = contract_open(end, 6, memory, memory);
    in_step(end, k, memory);
    if (end->calls) {
        for (uint32_t i = 0; i < N; i++) {
            fill(memory + (size_t)i * LARGE, LARGE, i);
            end->t->ops->post_send(k, i, memory + (size_t)i * LARGE, LARGE);
        }
        end->t->ops->cancel(k, TAKEN_BACK);
        for (uint32_t i = 0; i < N; i++) {
            transport_event e;
            contract_event(end, &e);
            MUST(e.kind == TRANSPORT_SENT || (e.kind == TRANSPORT_FAILED && e.slot == TAKEN_BACK));
            arrives[e.slot] = e.kind == TRANSPORT_SENT;
        }
        MUST(!end->streams || !arrives[TAKEN_BACK]); /* it was not begun */
        end->t->ops->post_send(k, 0, arrives, N);
        expect(end, TRANSPORT_SENT, memory);
    } else {
        uint8_t arrived[N] = {0};
        for (uint32_t i = 0, n = 0; n != N; i++) {
            end->t->ops->post_recv(k, 0, memory, LARGE);
            n = (uint32_t)expect(end, TRANSPORT_RECEIVED, memory).n_bytes;
            if (n == N) break;
            while (i < N && !is_filled(memory, LARGE, i)) i++;
            MUST(n == LARGE && i < N);
            arrived[i] = 1;
        }
        MUST(!memcmp(memory, arrived, N));
    }
    in_step(end, k, memory);
    part(end, k, memory);
}

/* ---- meeting and parting ---- */

static void who_calls_first_is_met(contract_end *end) {
    int control, other;
    transport_link *c = contract_open(end, CONTROL, NULL, &control);
    in_step(end, c, &control);
    for (uint32_t round = 0; round < 10; round++) {
        transport_link *k = NULL;
        if (end->calls == (round % 2 == 0)) k = contract_open(end, 7, NULL, &other);
        in_step(end, c, &control);
        if (!k) k = contract_open(end, 7, NULL, &other);
        in_step(end, k, &other);
        part(end, k, &other);
        in_step(end, c, &control);
    }
    part(end, c, &control);
}

static void with_a_wrong_key_nobody_is_met(contract_end *end) {
    transport_link *k = NULL;
    uint8_t byte = 0;
    transport_call c = a_call(end, end->calls ? 8 : 9, NULL, &byte);
    st_error error = {0};
    c.deadline_ns = parallel_now_ns() + 2 * MOMENT_NS;
    MUST(end->t->ops->open(end->t, &c, &k, &error) == ST_OK);
    end->t->ops->post_send(k, 0, &byte, 1);
    end->t->ops->post_recv(k, 1, &byte, 1);
    expect(end, TRANSPORT_PEER_LOST, &byte);
    MUST(parallel_now_ns() >= c.deadline_ns);
    for (uint32_t i = 0; i < 2; i++) MUST(expect(end, TRANSPORT_FAILED, &byte).slot == i);
    end->t->ops->post_recv(k, 1, &byte, 1);
    MUST(expect(end, TRANSPORT_FAILED, &byte).slot == 1);
    part(end, k, &byte);
    k = contract_open(end, CONTROL, NULL, &byte); /* and the transports are as before */
    in_step(end, k, &byte);
    part(end, k, &byte);
}

static void what_was_posted_before_a_close_arrives(contract_end *end) {
    enum { N = 9 };
    uint8_t *memory = bytes_of(2 * (size_t)LARGE), small = 9;
    transport_link *k = contract_open(end, 10, memory, memory);
    in_step(end, k, memory);
    if (end->calls) {
        fill(memory, LARGE, 1);
        end->t->ops->post_recv(k, 20, memory + LARGE, LARGE);
        for (uint32_t i = 0; i < N; i++) end->t->ops->post_send(k, i, memory, i == 3 ? LARGE : 100 + i);
        part(end, k, memory);
        return;
    }
    end->t->ops->post_send(k, 20, &small, 1); /* bytes that nobody reads do no harm */
    expect(end, TRANSPORT_SENT, memory);
    for (uint32_t i = 0; i < N; i++) {
        end->t->ops->post_recv(k, 0, memory, LARGE);
        const size_t n = expect(end, TRANSPORT_RECEIVED, memory).n_bytes;
        MUST(n == (i == 3 ? LARGE : 100 + i) && is_filled(memory, n, 1));
    }
    end->t->ops->post_recv(k, 0, memory, LARGE);
    expect(end, TRANSPORT_PEER_LOST, memory);
    MUST(expect(end, TRANSPORT_FAILED, memory).slot == 0);
    part(end, k, memory);
}

/* A socket that is closed answers what comes then with a reset, at which what it had still to send is dropped. */
static void it_arrives_even_if_the_other_end_speaks_after_that(contract_end *end) {
    enum { N = 9, BYTES = 100 * 1024 };
    uint8_t *memory = bytes_of(N * BYTES), said = 0;
    int control;
    transport_link *c = contract_open(end, CONTROL, NULL, &control), *k = contract_open(end, 14, memory, memory);
    in_step(end, c, &control);
    in_step(end, k, memory);
    if (end->calls) {
        fill(memory, BYTES, 2);
        for (uint32_t i = 0; i < N; i++) end->t->ops->post_send(k, i, memory, BYTES);
        part(end, k, memory);
        in_step(end, c, &control);
        in_step(end, c, &control); /* the other end has read all */
        part(end, c, &control);
        return;
    }
    in_step(end, c, &control);
    for (uint32_t i = 0; i < N; i++) {
        transport_event e = {0};
        end->t->ops->post_send(k, 20 + i, &said, 1); /* whether that is taken is all the same */
        end->t->ops->post_recv(k, 0, memory, BYTES);
        do contract_event(end, &e);
        while (e.context != memory || (e.kind == TRANSPORT_SENT && e.slot >= 20));
        MUST(e.kind == TRANSPORT_RECEIVED && e.n_bytes == BYTES && is_filled(memory, BYTES, 2));
    }
    part(end, k, memory);
    in_step(end, c, &control);
    part(end, c, &control);
}

static void both_ends_may_close_at_once_in_the_middle_of_everything(contract_end *end) {
    for (uint32_t round = 0; round < 8; round++) {
        uint8_t *memory = bytes_of(4 * (size_t)LARGE);
        transport_link *k = contract_open(end, 11, memory, memory);
        in_step(end, k, memory);
        for (uint32_t s = 0; s < 2; s++) end->t->ops->post_send(k, s, memory + s * (size_t)LARGE, LARGE);
        for (uint32_t s = 2; s < 4; s++) end->t->ops->post_recv(k, s, memory + s * (size_t)LARGE, LARGE);
        transport_event e;
        for (uint32_t i = 0; i < round; i++) end->t->ops->test(end->t, &e);
        part(end, k, memory);
    }
}

static void links_are_bounded_and_keys_are_told_apart(contract_end *end) {
    transport_link *links[TRANSPORT_MAX_LINKS], *one_more = NULL;
    st_error error = {0};
    transport_call c = a_call(end, 0, NULL, links);
    c.calls = false;
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++) {
        c.key[5] = (uint8_t)i;
        MUST(end->t->ops->open(end->t, &c, &links[i], &error) == ST_OK);
    }
    MUST(end->t->ops->open(end->t, &c, &one_more, &error) == ST_ERR_INVALID_ARGUMENT);
    c.key[6] = 1;
    MUST(end->t->ops->open(end->t, &c, &one_more, &error) == ST_ERR_RESOURCE_EXHAUSTED && !one_more);
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++) end->t->ops->close(links[i]);
    for (uint32_t i = 0; i < TRANSPORT_MAX_LINKS; i++) expect(end, TRANSPORT_CLOSED, links);
    transport_event none;
    MUST(!end->t->ops->test(end->t, &none)); /* clears up */
    c.calls = true;
    c.address = "nowhere";
    MUST(end->t->ops->open(end->t, &c, &one_more, &error) == ST_ERR_INVALID_ARGUMENT && !one_more);
    one_more = contract_open(end, 12, NULL, &error);
    in_step(end, one_more, &error);
    part(end, one_more, &error);
}

static void who_cannot_be_woken_says_so(contract_end *end) {
    st_error error = {0};
    transport_link *k = contract_open(end, 14, NULL, &error);
    in_step(end, k, &error);
    int fd;
    uint64_t wake_ns;
    end->t->ops->wait_on(end->t, &fd, &wake_ns);
    MUST((fd < 0) == end->t->ops->polled && (fd >= 0 || wake_ns < UINT64_MAX));
    part(end, k, &error);
}

/* ---- a transfer ---- */

enum { LAYERS = 5, HEADS = 4, BLOCK_TOKENS = 32, N_TOKENS = 300, ROW_BYTES = 128 };

typedef struct {
    uint8_t *bytes; /* [block][layer] pieces */
    uint32_t n;
} cache;

static uint8_t *piece_at(const cache *x, const kv_piece *p) {
    return x->bytes + ((size_t)p->block * LAYERS + p->layer) * 2 * HEADS * BLOCK_TOKENS * ROW_BYTES;
}

static st_code load(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    memcpy(bytes, piece_at(context, p), n);
    return ST_OK;
}

static st_code store(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    memcpy(piece_at(context, p), bytes, n);
    ((cache *)context)->n++;
    return ST_OK;
}

static st_code tag(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    (void)context;
    memset(out, 0, KV_TRANSFER_TAG_BYTES);
    for (size_t i = 0; i < n; i++) out[i % KV_TRANSFER_TAG_BYTES] = (uint8_t)(out[i % KV_TRANSFER_TAG_BYTES] * 31 + text[i]);
    return ST_OK;
}

static void carry_out(const contract_end *end, transport_link *k, const kv_actions *actions) {
    for (uint32_t i = 0; i < actions->n; i++) {
        const kv_action *a = &actions->at[i];
        switch (a->verb) {
        case KV_POST_SEND: end->t->ops->post_send(k, a->slot, a->bytes, a->n_bytes); break;
        case KV_POST_RECV: end->t->ops->post_recv(k, a->slot, a->bytes, a->n_bytes); break;
        case KV_CANCEL: end->t->ops->cancel(k, a->slot); break;
        case KV_CLOSE: end->t->ops->close(k); break;
        }
    }
}

static void run_transfer(contract_end *end, transport_link *k, kv_transfer *t, kv_actions *actions) {
    static const kv_event_kind kinds[] = {[TRANSPORT_SENT] = KV_EVENT_SENT,
                                          [TRANSPORT_RECEIVED] = KV_EVENT_RECEIVED,
                                          [TRANSPORT_FAILED] = KV_EVENT_FAILED,
                                          [TRANSPORT_PEER_LOST] = KV_EVENT_PEER_LOST,
                                          [TRANSPORT_CLOSED] = KV_EVENT_CLOSED};
    for (kv_event event = {.kind = KV_EVENT_TIME}; event.kind != KV_EVENT_CLOSED;) {
        transport_event e;
        event = (kv_event){.kind = KV_EVENT_TIME};
        if (next_until(end, &e, actions->wake_ns))
            event = (kv_event){.kind = kinds[e.kind], .slot = e.slot, .n_bytes = e.n_bytes};
        kv_transfer_step(t, parallel_now_ns(), &event, actions);
        kv_transfer_check(t);
        carry_out(end, k, actions);
    }
}

static void a_kv_transfer_moves_a_sequence(contract_end *end) {
    const size_t n_bytes = (size_t)(N_TOKENS / BLOCK_TOKENS + 1) * LAYERS * 2 * HEADS * BLOCK_TOKENS * ROW_BYTES;
    cache here = {.bytes = bytes_of(n_bytes)};
    kv_transfer_config c = {.role = end->calls ? KV_TARGET : KV_SOURCE,
                            .handle = {7, 1},
                            .flow = {.n_layers = LAYERS, .n_kv_heads = HEADS, .head_dim = 64, .block_tokens = BLOCK_TOKENS},
                            .nonce = {end->calls},
                            .n_slots = 4,
                            .lease_ns = PATIENCE_NS,
                            .retry_ns = PATIENCE_NS / 4,
                            .max_tries = 3,
                            .hooks = {&here, load, store, tag}};
    c.flow.token_bytes = 2 * ROW_BYTES;
    c.flow.n_tokens = N_TOKENS;
    c.flow.part_bytes = KV_TRANSFER_MAX_PIECE_BYTES;
    c.flow.heads = (kv_heads){0, HEADS};
    if (!end->calls) fill(here.bytes, n_bytes, 5);
    void *memory = bytes_of(kv_transfer_bytes(&c));
    kv_transfer *t = kv_transfer_init(memory, &c, parallel_now_ns());
    transport_link *k = contract_open(end, 13, memory, memory);
    kv_actions actions;
    st_code code;
    kv_transfer_step(t, parallel_now_ns(), &(kv_event){.kind = KV_EVENT_TIME}, &actions);
    carry_out(end, k, &actions);
    if (!end->calls) {
        kv_transfer_step(t, parallel_now_ns(),
                         &(kv_event){.kind = KV_EVENT_READY, .layer = KV_ALL_LAYERS, .n_blocks = N_TOKENS / BLOCK_TOKENS + 1},
                         &actions);
        carry_out(end, k, &actions);
    }
    run_transfer(end, k, t, &actions);
    MUST(kv_transfer_over(t, &code, NULL) && code == ST_OK); /* memory is there until the next test */
    const uint32_t last = N_TOKENS % BLOCK_TOKENS;
    for (uint32_t l = 0; end->calls && l < LAYERS; l++)
        for (uint32_t b = 0; b <= N_TOKENS / BLOCK_TOKENS; b++) {
            const kv_piece p = {.layer = l, .block = b};
            const size_t at = (size_t)(piece_at(&here, &p) - here.bytes);
            const size_t n = (size_t)2 * HEADS * (b < N_TOKENS / BLOCK_TOKENS ? BLOCK_TOKENS : last) * ROW_BYTES;
            for (size_t i = 0; i < n; i++)
                MUST(here.bytes[at + i] == (uint8_t)((5 * 2654435761u + (at + i) * 40503u + ((at + i) >> 9)) >> 7));
        }
    MUST(!end->calls || here.n == LAYERS * (N_TOKENS / BLOCK_TOKENS + 1));
    transport_event e;
    MUST(!end->t->ops->test(end->t, &e));
    mem_free(here.bytes);
}

#define CASE(f)                                                                                                                  \
    { #f, f }
const contract_case contract_cases[] = {
    CASE(messages_come_whole_once_and_in_order),
    CASE(several_links_do_not_mix),
    CASE(a_reader_may_be_slow),
    CASE(what_is_too_long_fails_and_the_next_message_comes_whole),
    CASE(a_cancelled_receive_takes_nothing),
    CASE(a_receive_cancelled_in_the_middle_leaves_the_link_whole),
    CASE(a_cancelled_send_does_not_arrive),
    CASE(who_calls_first_is_met),
    CASE(with_a_wrong_key_nobody_is_met),
    CASE(what_was_posted_before_a_close_arrives),
    CASE(it_arrives_even_if_the_other_end_speaks_after_that),
    CASE(both_ends_may_close_at_once_in_the_middle_of_everything),
    CASE(links_are_bounded_and_keys_are_told_apart),
    CASE(who_cannot_be_woken_says_so),
    CASE(a_kv_transfer_moves_a_sequence),
};
const uint32_t n_contract_cases = sizeof contract_cases / sizeof *contract_cases;
