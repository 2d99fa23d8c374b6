/* One end of a transfer against any messages: as they come, and with head and checksum made right, as a member of the cluster
 * that knows the secret could send them, of this version or another (tags and key are zero here). It may refuse anything; what
 * it stores must be a part of its flow, once and whole, and when it is cancelled it must come to an end. */
#include "base/mem.h"
#include "kv/transfer.h"
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD_BYTES = 36, TOKEN_BYTES = 10, TOKENS = 4, N_TOKENS = 10, LAYERS = 30, BLOCKS = 3, PART_BYTES = 64 };

typedef struct {
    bool in_parts; /* of PART_BYTES, which a piece of a full block has two of */
    bool stored[LAYERS * BLOCKS][2];
} cache;

static st_code load(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    (void)context;
    INVARIANT(p->layer < LAYERS && p->block < BLOCKS);
    memset(bytes, 7, n);
    return ST_OK;
}

static st_code store(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    cache *c = context;
    const size_t piece = (size_t)2 * TOKEN_BYTES * (p->block == BLOCKS - 1 ? N_TOKENS % TOKENS : TOKENS);
    const size_t most = c->in_parts ? PART_BYTES : piece, part = p->first_byte / PART_BYTES;
    (void)bytes;
    INVARIANT(p->layer < LAYERS && p->block < BLOCKS && p->heads.first == 1 && p->heads.n == 2);
    INVARIANT(p->first_byte < piece && p->first_byte % most == 0);
    INVARIANT(n == (piece - p->first_byte < most ? piece - p->first_byte : most));
    INVARIANT(!c->stored[p->layer * BLOCKS + p->block][part]);
    c->stored[p->layer * BLOCKS + p->block][part] = true;
    return ST_OK;
}

static st_code tag(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    (void)context, (void)text, (void)n;
    memset(out, 0, KV_TRANSFER_TAG_BYTES);
    return ST_OK;
}

static size_t mend(uint8_t *m, size_t n, uint32_t serial) {
    uint32_t head[] = {0x31564b43, n > 8 && m[4] == 4 ? 4 : 3, n > 8 ? m[8] % 8 : 0, 3}, body;
    uint64_t id = 9, check;
    if (n < HEAD_BYTES + sizeof check) return n;
    memcpy(m, head, sizeof head);
    memcpy(m + 16, &id, sizeof id);
    memcpy(m + 24, &serial, sizeof serial);
    body = (uint32_t)(n - HEAD_BYTES - sizeof check);
    memcpy(m + 32, &body, sizeof body);
    check = XXH3_64bits(m, n - sizeof check);
    memcpy(m + n - sizeof check, &check, sizeof check);
    return n;
}

static kv_transfer_config config_of(uint8_t choice, cache *stored) {
    return (kv_transfer_config){.role = choice & 1,
                                .handle = {9, 3},
                                .flow = {.type = "q8",
                                         .order = choice >> 1 & 1,
                                         .n_layers = LAYERS,
                                         .n_kv_heads = 4,
                                         .head_dim = 1,
                                         .block_tokens = TOKENS,
                                         .token_bytes = TOKEN_BYTES,
                                         .n_tokens = N_TOKENS,
                                         .part_bytes = stored->in_parts ? PART_BYTES : KV_TRANSFER_MAX_PIECE_BYTES,
                                         .heads = {1, 2}},
                                .n_slots = 2,
                                .lease_ns = 400,
                                .retry_ns = 100,
                                .max_tries = 3,
                                .hooks = {.context = stored, .load = load, .store = store, .tag = tag}};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    cache stored = {.in_parts = data[0] >> 2 & 1};
    kv_transfer_config c = config_of(data[0], &stored);
    void *memory = mem_alloc_aligned(1, kv_transfer_bytes(&c), 64);
    if (!memory) return 0;
    uint64_t now_ns = 0;
    kv_transfer *t = kv_transfer_init(memory, &c, now_ns);
    kv_event e = {.kind = KV_EVENT_TIME};
    uint8_t *room[KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS] = {0};
    size_t room_bytes[KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS] = {0}, at = 1;
    bool sending[KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS] = {0}, closed = false;
    st_code code;
    for (uint32_t serial = 1; !kv_transfer_over(t, &code, NULL); serial++) {
        kv_actions out;
        kv_transfer_step(t, now_ns, &e, &out);
        kv_transfer_check(t);
        for (uint32_t i = 0; i < out.n; i++) {
            const kv_action *a = &out.at[i];
            closed |= a->verb == KV_CLOSE;
            if (a->verb > KV_POST_RECV) continue;
            room[a->slot] = a->bytes;
            room_bytes[a->slot] = a->n_bytes;
            sending[a->slot] = a->verb == KV_POST_SEND;
        }
        e = (kv_event){.kind = closed ? KV_EVENT_CLOSED : at >= size ? KV_EVENT_CANCEL : KV_EVENT_TIME};
        if (closed || at >= size) {
            now_ns += 100;
            continue;
        }
        uint8_t what = data[at++];
        if (what % 8 == 0) now_ns += what;
        if (what % 8 == 1 && c.role == KV_SOURCE)
            e = (kv_event){.kind = KV_EVENT_READY, .layer = KV_ALL_LAYERS, .n_blocks = what / 8 % (BLOCKS + 1)};
        if (what % 8 < 2) continue;
        for (uint32_t i = 0; i < c.n_slots + KV_TRANSFER_CONTROL_SLOTS; i++) {
            uint32_t s = (i + serial) % (c.n_slots + KV_TRANSFER_CONTROL_SLOTS);
            if (!room[s] || sending[s] != (what % 8 == 2)) continue;
            e = (kv_event){.kind = sending[s] ? KV_EVENT_SENT : KV_EVENT_RECEIVED, .slot = s};
            if (!sending[s] && at < size) {
                size_t n = data[at] < size - at - 1 ? data[at] : size - at - 1;
                if (n > room_bytes[s]) n = room_bytes[s];
                memcpy(room[s], data + at + 1, n);
                at += n + 1;
                e.n_bytes = what % 8 < 4 ? n : mend(room[s], n, serial);
            }
            room[s] = NULL;
            break;
        }
    }
    mem_free(memory);
    return 0;
}
