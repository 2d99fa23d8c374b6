/* One end of a flow of KV.
 *
 *     target ── HELLO: nonce T, flow, tag of the head ──────────────────────────> source
 *     target <── WELCOME: nonce S, flow, tag "source", tag of the head ────────── source
 *     target ── ASK: first part it lacks, bits of the WINDOW from there, tag "target" ───> source     again and again
 *     target <── PART: rows ... or ALIVE: none of these is ready ──────────────── source
 *     either ── END: why, tag ──────────────────────────────────────────────────> the other
 *
 * What: the target asks, the source only answers, so all that has to be known about lost messages is one window of bits at the
 * target. An ASK that says `again` wants what its bits say, another one only parts that were never sent. A message is a head, a
 * body and the XXH3-64 of both under the session's key (0 before there is one):
 *
 *     0 magic "CKV1" | 4 version | 8 type | 12 generation | 16 id | 24 serial | 28 index | 32 n | 36 body [n] | 36 + n check
 *
 * Tags and key are hooks.tag (HMAC-SHA256 under the cluster's secret) of a label and of both ends' nonce and flow: who has not
 * the secret ends no transfer, is sent no part and has none stored; a message of another session or generation does not check.
 * Versions: in all of them from 3 on a greeting (HELLO, WELCOME) has this head and no more than SMALL_BYTES, and its body ends
 * with the tag of a label and the head. So an end believes a peer of another version that it is one, before anything else that
 * the two would have to agree on, and ends at once; the source says its own version first, in a WELCOME. Nobody else can say so:
 * a tag is of one version and generation, and no end says two.
 * Why slots: a transport writes into slots and never into blocks, so bytes are checked before they touch a block, and a block has
 * no write in flight, whatever the peer does. Road not taken: to receive into the block, which saves a copy. Why parts: a slot
 * is written, read for its checksum and read by the transport, or the other way round; where all slots together fit a processor's
 * own cache, only the block and the wire are memory.
 * Limits: one size of block (block_tokens is compared, not converted); the last END may be lost, the source then waits for its
 * lease to run out; who can read the wire can read the KV. */
#include "kv/transfer.h"

#include "base/cursor.h"
#include "kv/hash_int.h"
#include <string.h>

enum {
    VERSION = 3,
    WINDOW = 64, /* parts: bits of an ASK */
    N_NUMBERS = 12,
    FLOW_BYTES = KV_TRANSFER_HASH_BYTES + 16 + 4 * N_NUMBERS,
    HALF_BYTES = KV_TRANSFER_NONCE_BYTES + FLOW_BYTES, /* what one end says of itself */
    LABEL_BYTES = 16,
    TRANSCRIPT_BYTES = LABEL_BYTES + 12 + 2 * HALF_BYTES,
    HEAD_BYTES = 36,
    CHECK_BYTES = 8,
    SMALL_BYTES = 512,         /* any message but a PART; a greeting of any version */
    MAX_TOKEN_BYTES = 1 << 15, /* with the next: sizes fit 64 bits with room to spare */
    MAX_HEADS = 1 << 12,
    MAX_PIECES = 1 << 24, /* 128 layers of 4 million tokens */
    MAX_PARTS = 1 << 30,
    LINE_BYTES = 64,
    MAX_SLOTS = KV_TRANSFER_MAX_SLOTS + KV_TRANSFER_CONTROL_SLOTS,
};
static const uint32_t MAGIC = 0x31564b43; /* "CKV1" */

typedef enum { HELLO = 1, WELCOME, ASK, PART, ALIVE, END } message_type; /* those behind WELCOME belong to a session */
typedef enum { BECAUSE_DONE, BECAUSE_CANCELLED, BECAUSE_FAILED, BECAUSE_MISMATCH, N_REASONS } reason;
typedef enum { ACCEPTED, DOUBLED, STALE, DAMAGED } verdict;
typedef enum { RUNNING, CLOSING, CLOSED_SOON, OVER } phase; /* CLOSING: posts are in flight; CLOSED_SOON: KV_CLOSE was said */

typedef struct {
    uint32_t version, type, serial, index, n;
    const uint8_t *body; /* [n] view of the slot */
} message;

typedef struct {
    uint8_t *bytes; /* [capacity] */
    size_t capacity;
    enum { FREE, SENDING, RECEIVING } use;
    bool cancelled;
} slot;

struct kv_transfer {
    kv_transfer_config c;
    kv_transfer_counts counts;
    phase phase;
    st_error end;                /* .code is meant once phase > RUNNING */
    uint32_t owed;               /* bits of message_type: to be said as slots get free */
    uint8_t half[2][HALF_BYTES]; /* by role; the peer's as it came */
    uint8_t tag[2][KV_TRANSFER_TAG_BYTES];
    uint64_t key;
    bool greeted;           /* the peer's half is there, so tags and key are */
    bool proven;            /* the peer's tag was right */
    uint32_t serial, heard; /* last sent; newest received */
    uint32_t base;          /* target: the first part not stored; source: the same, as it was told */
    uint64_t bits;          /* of base ...: target: stored; source: to be sent */
    uint32_t next;          /* source: no part from here on was ever sent */
    uint32_t asked_base, tries, n_failed;
    bool again;
    uint64_t lease_at, asked_at, part_at, close_at; /* times in ns */
    uint32_t *ready;                                /* source: [n_layers] blocks */
    slot slots[MAX_SLOTS];                          /* n_slots for parts, then the control slots */
};

/* ---- which flows there are ---- */

/* From the first wanted head on, whoever holds it and reaches furthest sends as far as it reaches: few flows, and each one range.
 * Among equals the targets take turns. */
st_code kv_transfer_heads(const kv_heads *held, uint32_t n_ranks, uint32_t source, kv_heads wanted, uint32_t target,
                          kv_heads *out) {
    uint64_t end = (uint64_t)wanted.first + wanted.n;
    *out = (kv_heads){0};
    for (uint64_t at = wanted.first, reach; at < end; at = reach) {
        uint32_t n_best = 0, chosen = 0;
        reach = at;
        for (uint32_t r = 0; r < n_ranks; r++) {
            uint64_t stop = (uint64_t)held[r].first + held[r].n;
            if (stop > end) stop = end;
            if (held[r].first > at || stop <= at || stop < reach) continue;
            if (stop > reach) n_best = 0;
            reach = stop;
            n_best++;
        }
        if (n_best == 0) return ST_ERR_INVALID_ARGUMENT;
        for (uint32_t r = 0, turn = target % n_best; r < n_ranks; r++) {
            uint64_t stop = (uint64_t)held[r].first + held[r].n;
            if (held[r].first <= at && (stop > end ? end : stop) == reach && turn-- == 0) chosen = r;
        }
        if (chosen == source) *out = (kv_heads){(uint32_t)at, (uint32_t)(reach - at)};
    }
    return ST_OK;
}

/* ---- sizes ---- */

static size_t aligned(size_t bytes) { return (bytes + LINE_BYTES - 1) & ~(size_t)(LINE_BYTES - 1); }

static uint32_t blocks_of(const kv_flow *f) {
    return (uint32_t)(((uint64_t)f->n_tokens + f->block_tokens - 1) / f->block_tokens);
}

static uint32_t tokens_of(const kv_flow *f, uint32_t block) { /* of a sequence in this block */
    return block < blocks_of(f) - 1 ? f->block_tokens : f->n_tokens - block * f->block_tokens;
}

static size_t piece_bytes(const kv_flow *f, uint32_t n_tokens) { return (size_t)f->heads.n * n_tokens * f->token_bytes; }

static uint32_t parts_of(const kv_flow *f, uint32_t n_tokens) { /* of a piece with so many */
    return (uint32_t)((piece_bytes(f, n_tokens) + f->part_bytes - 1) / f->part_bytes);
}

static uint64_t count_parts(const kv_flow *f) {
    const uint32_t last = blocks_of(f) - 1;
    return f->n_layers * ((uint64_t)last * parts_of(f, f->block_tokens) + parts_of(f, tokens_of(f, last)));
}

/* The parts of a piece are of one size, in whole cache lines, but for the last. *n: bytes of this one. */
static kv_piece part_of(const kv_flow *f, uint32_t index, size_t *n) {
    const uint32_t last = blocks_of(f) - 1, n_full = parts_of(f, f->block_tokens), n_last = parts_of(f, tokens_of(f, last));
    const uint32_t n_layers = f->order == KV_BY_BLOCK ? f->n_layers : 1; /* that stand side by side */
    const uint32_t run = n_layers * (last * n_full + n_last), at = index % run, before = n_layers * last * n_full;
    const uint32_t n_parts = at < before ? n_full : n_last, piece = (at < before ? at : at - before) / n_parts;
    kv_piece p = {.heads = f->heads, .token_bytes = f->token_bytes};
    p.block = at < before ? piece / n_layers : last;
    p.layer = f->order == KV_BY_BLOCK ? piece % n_layers : index / run;
    p.n_tokens = tokens_of(f, p.block);
    const size_t all = piece_bytes(f, p.n_tokens), each = aligned((all + n_parts - 1) / n_parts);
    p.first_byte = (at < before ? at : at - before) % n_parts * each;
    *n = all - p.first_byte < each ? all - p.first_byte : each;
    return p;
}

static bool flow_ok(const kv_flow *f) {
    return f->order <= KV_BY_LAYER && f->n_layers && f->head_dim && f->block_tokens && f->n_tokens && f->token_bytes &&
           f->token_bytes <= MAX_TOKEN_BYTES && f->n_kv_heads && f->n_kv_heads <= MAX_HEADS && f->heads.n &&
           (uint64_t)f->heads.first + f->heads.n <= f->n_kv_heads && (uint64_t)blocks_of(f) * f->n_layers <= MAX_PIECES &&
           (uint64_t)f->heads.n * f->token_bytes * f->block_tokens <= KV_TRANSFER_MAX_PIECE_BYTES && f->part_bytes &&
           f->part_bytes <= KV_TRANSFER_MAX_PIECE_BYTES && f->part_bytes % LINE_BYTES == 0 && count_parts(f) <= MAX_PARTS;
}

static size_t large_slot_bytes(const kv_flow *f) {
    const size_t piece = piece_bytes(f, f->block_tokens), part = piece < f->part_bytes ? piece : f->part_bytes;
    return part + HEAD_BYTES + CHECK_BYTES > SMALL_BYTES ? part + HEAD_BYTES + CHECK_BYTES : SMALL_BYTES;
}

size_t kv_transfer_bytes(const kv_transfer_config *c) {
    if (!flow_ok(&c->flow) || c->n_slots < 1 || c->n_slots > KV_TRANSFER_MAX_SLOTS || c->retry_ns < 1 ||
        c->retry_ns > c->lease_ns / 4 || c->handle.generation == 0)
        return 0;
    return aligned(sizeof(kv_transfer)) + aligned(c->flow.n_layers * sizeof(uint32_t)) +
           c->n_slots * aligned(large_slot_bytes(&c->flow)) + KV_TRANSFER_CONTROL_SLOTS * aligned(SMALL_BYTES);
}

/* ---- bytes ---- */

static uint8_t *put(uint8_t *at, uint64_t value, unsigned n_bytes) {
    for (unsigned i = 0; i < n_bytes; i++) at[i] = (uint8_t)(value >> (8 * i));
    return at + n_bytes;
}

static const struct {
    const char *name;
    size_t at;
} numbers[N_NUMBERS] = {/* of a flow, as they stand in its bytes behind the model and the type */
                        {"order", offsetof(kv_flow, order)},
                        {"n_layers", offsetof(kv_flow, n_layers)},
                        {"n_kv_heads", offsetof(kv_flow, n_kv_heads)},
                        {"head_dim", offsetof(kv_flow, head_dim)},
                        {"block_tokens", offsetof(kv_flow, block_tokens)},
                        {"token_bytes", offsetof(kv_flow, token_bytes)},
                        {"n_tokens", offsetof(kv_flow, n_tokens)},
                        {"part_bytes", offsetof(kv_flow, part_bytes)},
                        {"source rank", offsetof(kv_flow, source)},
                        {"target rank", offsetof(kv_flow, target)},
                        {"first KV head", offsetof(kv_flow, heads.first)},
                        {"number of KV heads", offsetof(kv_flow, heads.n)}};

static void write_half(const kv_transfer_config *c, uint8_t out[HALF_BYTES]) {
    memset(out, 0, HALF_BYTES);
    memcpy(out, c->nonce, sizeof c->nonce);
    uint8_t *at = out + sizeof c->nonce;
    memcpy(at, c->flow.model, sizeof c->flow.model);
    at += sizeof c->flow.model;
    for (size_t i = 0; i < sizeof c->flow.type && c->flow.type[i]; i++) at[i] = (uint8_t)c->flow.type[i];
    at += sizeof c->flow.type;
    for (int i = 0; i < N_NUMBERS; i++) {
        uint32_t value;
        memcpy(&value, (const char *)&c->flow + numbers[i].at, sizeof value);
        at = put(at, value, 4);
    }
}

static uint32_t room(const kv_transfer *t) { /* parts from base on, at most the window */
    uint32_t left = t->counts.n_parts - t->base;
    return left < WINDOW ? left : WINDOW;
}

static uint64_t lowest(uint32_t n) { return n < 64 ? (UINT64_C(1) << n) - 1 : UINT64_MAX; }

/* ---- how it ends ---- */

/* t->end says why. */
static void finish(kv_transfer *t, uint64_t now_ns, bool tell) {
    t->phase = CLOSING;
    t->owed = tell && t->greeted ? 1u << END : 0;
    t->close_at = now_ns + t->c.retry_ns;
}

/* FINISH(t, now_ns, tell the peer?, code, message ...): it has ended, unless it had before. */
#define FINISH(t, now_ns, tell, ...)                                                                                             \
    do {                                                                                                                         \
        if ((t)->phase != RUNNING) break;                                                                                        \
        st_fail(&(t)->end, __VA_ARGS__);                                                                                         \
        finish(t, now_ns, tell);                                                                                                 \
    } while (0)

#define NO_TAG "KV transfer: no tag could be made"

static reason reason_of(st_code code) {
    return code == ST_OK              ? BECAUSE_DONE
           : code == ST_ERR_CANCELLED ? BECAUSE_CANCELLED
           : code == ST_ERR_MISMATCH  ? BECAUSE_MISMATCH
                                      : BECAUSE_FAILED;
}

static void peer_ended(kv_transfer *t, uint64_t now_ns, uint32_t why) {
    static const struct {
        st_code code;
        const char *text;
    } said[N_REASONS] = {{ST_OK, "done"},
                         {ST_ERR_CANCELLED, "the peer has cancelled it"},
                         {ST_ERR_UNAVAILABLE, "it has failed at the peer"},
                         {ST_ERR_MISMATCH, "the peer's model, KV type or layout is another"}};
    FINISH(t, now_ns, false, said[why].code, "KV transfer: %s", said[why].text);
}

/* ---- handshake ---- */

static st_code derive(kv_transfer *t) {
    static const char labels[3][LABEL_BYTES] = {"consort kv1 src", "consort kv1 tgt", "consort kv1 key"};
    uint8_t text[TRANSCRIPT_BYTES], key[KV_TRANSFER_TAG_BYTES];
    uint8_t *at = put(put(text + LABEL_BYTES, t->c.handle.id, 8), t->c.handle.generation, 4);
    memcpy(at, t->half, sizeof t->half);
    for (int i = 0; i < 3; i++) {
        memcpy(text, labels[i], LABEL_BYTES);
        st_code code = t->c.hooks.tag(t->c.hooks.context, text, sizeof text, i < 2 ? t->tag[i] : key);
        if (code != ST_OK) return code;
    }
    cursor c = cursor_of(key, sizeof key);
    t->key = cursor_u64(&c);
    t->greeted = true;
    return ST_OK;
}

static bool same_tag(const uint8_t *a, const uint8_t *b) {
    uint8_t differ = 0;
    for (int i = 0; i < KV_TRANSFER_TAG_BYTES; i++) differ |= (uint8_t)(a[i] ^ b[i]);
    return differ == 0;
}

static bool tag_right(const kv_transfer *t, const uint8_t *tag) { return same_tag(tag, t->tag[!t->c.role]); }

/* Of a greeting: its version, its type (so which end it is from) and the transfer's id and generation. */
static st_code head_tag(const kv_transfer *t, const uint8_t *head, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    uint8_t text[LABEL_BYTES + HEAD_BYTES] = "consort kv head";
    memcpy(text + LABEL_BYTES, head, HEAD_BYTES);
    return t->c.hooks.tag(t->c.hooks.context, text, sizeof text, out);
}

static bool meet(kv_transfer *t, uint64_t now_ns, const uint8_t *half) {
    memcpy(t->half[!t->c.role], half, HALF_BYTES);
    st_code code = derive(t);
    if (code != ST_OK) FINISH(t, now_ns, false, code, NO_TAG);
    return code == ST_OK;
}

/* The peer has the secret; is it about the same flow? */
static void prove(kv_transfer *t, uint64_t now_ns) {
    const uint8_t *mine = t->half[t->c.role] + KV_TRANSFER_NONCE_BYTES, *theirs = t->half[!t->c.role] + KV_TRANSFER_NONCE_BYTES;
    size_t at = KV_TRANSFER_HASH_BYTES;
    t->proven = true;
    t->lease_at = now_ns + t->c.lease_ns;
    if (memcmp(mine, theirs, at) != 0) FINISH(t, now_ns, true, ST_ERR_MISMATCH, "KV transfer: the peer has another model");
    if (memcmp(mine + at, theirs + at, sizeof t->c.flow.type) != 0)
        FINISH(t, now_ns, true, ST_ERR_MISMATCH, "KV transfer: the peer's KV type is %.16s, here %.16s",
               (const char *)theirs + at, (const char *)mine + at);
    at += sizeof t->c.flow.type;
    cursor a = cursor_of(mine + at, FLOW_BYTES - at), b = cursor_of(theirs + at, FLOW_BYTES - at);
    for (int i = 0; i < N_NUMBERS; i++) {
        uint32_t here = cursor_u32(&a), there = cursor_u32(&b);
        if (here != there)
            FINISH(t, now_ns, true, ST_ERR_MISMATCH, "KV transfer: the peer's %s is %u, here %u", numbers[i].name, there, here);
    }
}

/* ---- what comes in ---- */

static bool greeting_right(const kv_transfer *t, const uint8_t *head, const message *m) {
    uint8_t tag[KV_TRANSFER_TAG_BYTES];
    return m->n >= sizeof tag && head_tag(t, head, tag) == ST_OK && same_tag(m->body + m->n - sizeof tag, tag);
}

static verdict open_message(const kv_transfer *t, const uint8_t *bytes, size_t n, message *m) {
    cursor c = cursor_of(bytes, n);
    uint32_t magic = cursor_u32(&c);
    m->version = cursor_u32(&c);
    m->type = cursor_u32(&c);
    uint32_t generation = cursor_u32(&c);
    uint64_t id = cursor_u64(&c);
    m->serial = cursor_u32(&c);
    m->index = cursor_u32(&c);
    m->n = cursor_u32(&c);
    m->body = cursor_take(&c, m->n);
    uint64_t check = cursor_u64(&c);
    if (!cursor_ok(&c) || cursor_left(&c) || magic != MAGIC) return DAMAGED;
    if (id != t->c.handle.id || generation != t->c.handle.generation) return STALE;
    bool session = m->type > WELCOME;
    if (session && !t->greeted) return DAMAGED; /* under no key that is known here */
    if (check != kv_hash(bytes, n - CHECK_BYTES, session ? t->key : 0)) return DAMAGED;
    return session || greeting_right(t, bytes, m) ? ACCEPTED : DAMAGED;
}

/* A holder of the secret says so; what else it says means nothing here. */
static verdict take_other_version(kv_transfer *t, uint64_t now_ns, const message *m) {
    bool source = t->c.role == KV_SOURCE;
    if (m->type != (source ? HELLO : WELCOME) || t->proven) return DAMAGED;
    FINISH(t, now_ns, false, ST_ERR_MISMATCH, "KV transfer: the peer speaks version %u of the protocol, here %u", m->version,
           VERSION);
    if (source) t->owed = 1u << WELCOME;
    return ACCEPTED;
}

/* A message but a PART counts once, and not after one that was sent later. */
static verdict in_turn(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->serial <= t->heard) return DOUBLED;
    t->heard = m->serial;
    t->lease_at = now_ns + t->c.lease_ns;
    return ACCEPTED;
}

static verdict take_hello(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->n != HALF_BYTES + KV_TRANSFER_TAG_BYTES) return DAMAGED;
    if (t->proven) return DOUBLED;
    if (meet(t, now_ns, m->body)) t->owed |= 1u << WELCOME;
    return ACCEPTED;
}

static verdict take_welcome(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->n != HALF_BYTES + 2 * KV_TRANSFER_TAG_BYTES) return DAMAGED;
    if (t->proven) return DOUBLED;
    if (!meet(t, now_ns, m->body)) return ACCEPTED;
    if (!tag_right(t, m->body + HALF_BYTES)) {
        t->greeted = false;
        return DAMAGED;
    }
    t->owed = 1u << ASK;
    t->again = true;
    t->asked_at = t->part_at = now_ns;
    prove(t, now_ns);
    return ACCEPTED;
}

static verdict take_ask(kv_transfer *t, uint64_t now_ns, const message *m) {
    cursor c = cursor_of(m->body, m->n);
    uint64_t wanted = cursor_u64(&c);
    uint32_t again = cursor_u32(&c);
    const uint8_t *tag = cursor_take(&c, KV_TRANSFER_TAG_BYTES);
    if (!cursor_ok(&c) || cursor_left(&c) || !tag_right(t, tag)) return DAMAGED;
    if (m->serial <= t->heard) return DOUBLED;
    if (m->index >= t->counts.n_parts || m->index < t->base || again > 1) return DAMAGED;
    if (!t->proven) prove(t, now_ns);
    if (t->phase != RUNNING) return ACCEPTED;
    uint32_t up = m->index - t->base, n_known = t->next > m->index ? t->next - m->index : 0;
    uint64_t still = up < WINDOW ? t->bits >> up : 0;
    t->base = m->index;
    wanted &= lowest(room(t));
    t->bits = again ? wanted : wanted & (still | ~lowest(n_known));
    if (again) t->owed |= 1u << ALIVE;
    return in_turn(t, now_ns, m);
}

static verdict take_part(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->index < t->base) return DOUBLED;
    uint32_t ahead = m->index - t->base;
    if (ahead >= room(t)) return DAMAGED;
    if (t->bits >> ahead & 1) return DOUBLED;
    size_t n;
    const kv_piece p = part_of(&t->c.flow, m->index, &n);
    if (m->n != n) return DAMAGED;
    st_code code = t->c.hooks.store(t->c.hooks.context, &p, m->body, m->n);
    if (code != ST_OK) {
        FINISH(t, now_ns, true, code, "KV transfer: layer %u of block %u could not be stored", p.layer, p.block);
        return ACCEPTED;
    }
    t->bits |= UINT64_C(1) << ahead;
    t->part_at = now_ns;
    for (; t->bits & 1; t->bits >>= 1, t->base++) t->tries = 0;
    t->counts.n_stored = t->base;
    if (t->base == t->counts.n_parts)
        FINISH(t, now_ns, true, ST_OK, "KV transfer: done");
    else if (t->base - t->asked_base >= WINDOW / 2)
        t->owed |= 1u << ASK;
    verdict newer = in_turn(t, now_ns, m); /* or overtaken, which is no harm */
    (void)newer;
    return ACCEPTED;
}

static verdict take_alive(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->n != 0 || m->index != 0) return DAMAGED;
    verdict v = in_turn(t, now_ns, m);
    if (v == ACCEPTED) t->tries = 0;
    return v;
}

static verdict take_end(kv_transfer *t, uint64_t now_ns, const message *m) {
    if (m->n != KV_TRANSFER_TAG_BYTES || !tag_right(t, m->body) || m->index >= N_REASONS) return DAMAGED;
    if (t->c.role == KV_TARGET && m->index == BECAUSE_DONE) return DAMAGED; /* only the target knows */
    peer_ended(t, now_ns, m->index);
    return ACCEPTED;
}

static verdict take(kv_transfer *t, uint64_t now_ns, const uint8_t *bytes, size_t n) {
    message m;
    verdict v = open_message(t, bytes, n, &m);
    if (v != ACCEPTED) return v;
    if (m.version != VERSION) return take_other_version(t, now_ns, &m);
    bool source = t->c.role == KV_SOURCE;
    switch (m.type) {
    case HELLO: return source ? take_hello(t, now_ns, &m) : DAMAGED;
    case WELCOME: return source ? DAMAGED : take_welcome(t, now_ns, &m);
    case ASK: return source ? take_ask(t, now_ns, &m) : DAMAGED;
    case PART: return source ? DAMAGED : take_part(t, now_ns, &m);
    case ALIVE: return source ? DAMAGED : take_alive(t, now_ns, &m);
    case END: return take_end(t, now_ns, &m);
    default: return DAMAGED;
    }
}

/* ---- what goes out: each function writes a message, whose size it returns ---- */

static void put_head(kv_transfer *t, uint8_t *out, message_type type, uint32_t index, size_t n) {
    uint8_t *at = put(put(put(put(out, MAGIC, 4), VERSION, 4), type, 4), t->c.handle.generation, 4);
    put(put(put(put(at, t->c.handle.id, 8), ++t->serial, 4), index, 4), n, 4);
}

static size_t seal(kv_transfer *t, uint8_t *out, message_type type, uint32_t index, size_t n) {
    put_head(t, out, type, index, n);
    put(out + HEAD_BYTES + n, kv_hash(out, HEAD_BYTES + n, type > WELCOME ? t->key : 0), CHECK_BYTES);
    return HEAD_BYTES + n + CHECK_BYTES;
}

static size_t compose_ask(kv_transfer *t, uint8_t *out) {
    uint8_t *at = put(put(out + HEAD_BYTES, ~t->bits & lowest(room(t)), 8), t->again, 4);
    memcpy(at, t->tag[KV_TARGET], KV_TRANSFER_TAG_BYTES);
    t->again = false;
    t->asked_base = t->base;
    return seal(t, out, ASK, t->base, 12 + KV_TRANSFER_TAG_BYTES);
}

static size_t compose_end(kv_transfer *t, uint8_t *out) {
    memcpy(out + HEAD_BYTES, t->tag[t->c.role], KV_TRANSFER_TAG_BYTES);
    return seal(t, out, END, reason_of(t->end.code), KV_TRANSFER_TAG_BYTES);
}

/* 0: no tag could be made, which ends it. */
static size_t compose_greeting(kv_transfer *t, uint64_t now_ns, uint8_t *out) {
    bool source = t->c.role == KV_SOURCE;
    uint8_t *at = out + HEAD_BYTES;
    memcpy(at, t->half[t->c.role], HALF_BYTES);
    at += HALF_BYTES;
    if (source) {
        memcpy(at, t->tag[KV_SOURCE], KV_TRANSFER_TAG_BYTES);
        at += KV_TRANSFER_TAG_BYTES;
    }
    size_t n = (size_t)(at - out) - HEAD_BYTES + KV_TRANSFER_TAG_BYTES;
    put_head(t, out, source ? WELCOME : HELLO, 0, n);
    st_code code = head_tag(t, out, at);
    if (code != ST_OK) {
        FINISH(t, now_ns, false, code, NO_TAG);
        return 0;
    }
    put(at + KV_TRANSFER_TAG_BYTES, kv_hash(out, HEAD_BYTES + n, 0), CHECK_BYTES);
    return HEAD_BYTES + n + CHECK_BYTES;
}

/* The first part that is wanted and ready; 0: there is none. */
static size_t compose_part(kv_transfer *t, uint64_t now_ns, uint8_t *out) {
    for (uint64_t left = t->bits; left; left &= left - 1) {
        uint32_t ahead = (uint32_t)__builtin_ctzll(left), index = t->base + ahead;
        size_t n;
        const kv_piece p = part_of(&t->c.flow, index, &n);
        if (p.block >= t->ready[p.layer]) continue;
        st_code code = t->c.hooks.load(t->c.hooks.context, &p, out + HEAD_BYTES, n);
        if (code != ST_OK) {
            FINISH(t, now_ns, true, code, "KV transfer: layer %u of block %u could not be read", p.layer, p.block);
            return compose_end(t, out);
        }
        t->bits &= ~(UINT64_C(1) << ahead);
        if (index >= t->next) t->next = index + 1;
        t->owed &= ~(1u << ALIVE);
        return seal(t, out, PART, index, n);
    }
    return 0;
}

static bool owes(kv_transfer *t, message_type type) {
    bool it_does = t->owed >> type & 1;
    t->owed &= ~(1u << type);
    return it_does;
}

static size_t compose(kv_transfer *t, uint64_t now_ns, uint8_t *out) {
    if (owes(t, END)) return compose_end(t, out);
    if (owes(t, HELLO) || owes(t, WELCOME)) return compose_greeting(t, now_ns, out);
    if (t->phase != RUNNING) return 0;
    if (owes(t, ASK)) return compose_ask(t, out);
    size_t n = t->c.role == KV_SOURCE ? compose_part(t, now_ns, out) : 0;
    return n == 0 && owes(t, ALIVE) ? seal(t, out, ALIVE, 0, 0) : n;
}

/* ---- the machine ---- */

kv_transfer *kv_transfer_init(void *memory, const kv_transfer_config *c, uint64_t now_ns) {
    INVARIANT(memory && ((uintptr_t)memory & 63) == 0 && kv_transfer_bytes(c) > 0);
    uint8_t *at = memory;
    kv_transfer *t = memory;
    *t = (kv_transfer){.c = *c, .lease_at = now_ns + c->lease_ns, .asked_at = now_ns};
    t->counts.n_parts = (uint32_t)count_parts(&c->flow);
    t->ready = (uint32_t *)(void *)(at += aligned(sizeof *t));
    memset(t->ready, 0, c->flow.n_layers * sizeof *t->ready);
    at += aligned(c->flow.n_layers * sizeof *t->ready);
    for (uint32_t i = 0; i < c->n_slots + KV_TRANSFER_CONTROL_SLOTS; i++) {
        t->slots[i] = (slot){.bytes = at, .capacity = i < c->n_slots ? large_slot_bytes(&c->flow) : SMALL_BYTES};
        at += aligned(t->slots[i].capacity);
    }
    write_half(c, t->half[c->role]);
    if (c->role == KV_TARGET) t->owed = 1u << HELLO;
    return t;
}

static void on_ready(kv_transfer *t, const kv_event *e) {
    INVARIANT(t->c.role == KV_SOURCE && e->n_blocks <= blocks_of(&t->c.flow));
    INVARIANT(e->layer < t->c.flow.n_layers || e->layer == KV_ALL_LAYERS);
    for (uint32_t l = 0; l < t->c.flow.n_layers; l++)
        if ((l == e->layer || e->layer == KV_ALL_LAYERS) && t->ready[l] < e->n_blocks) t->ready[l] = e->n_blocks;
}

static void on_slot(kv_transfer *t, uint64_t now_ns, const kv_event *e) {
    INVARIANT(e->slot < t->c.n_slots + KV_TRANSFER_CONTROL_SLOTS && t->slots[e->slot].use != FREE);
    slot *s = &t->slots[e->slot];
    bool received = s->use == RECEIVING && e->kind == KV_EVENT_RECEIVED;
    s->use = FREE;
    s->cancelled = false;
    if (e->kind == KV_EVENT_FAILED && t->phase == RUNNING && ++t->n_failed > t->c.max_tries)
        FINISH(t, now_ns, false, ST_ERR_UNAVAILABLE, "KV transfer: the link failed %u times in a row", t->n_failed);
    if (!received || t->phase != RUNNING) return;
    verdict v = e->n_bytes <= s->capacity ? take(t, now_ns, s->bytes, e->n_bytes) : DAMAGED;
    uint64_t *counts[] = {&t->counts.accepted, &t->counts.doubled, &t->counts.stale, &t->counts.damaged};
    (*counts[v])++;
    if (v == ACCEPTED) t->n_failed = 0;
}

static void on_event(kv_transfer *t, uint64_t now_ns, const kv_event *e) {
    switch (e->kind) {
    case KV_EVENT_TIME: break;
    case KV_EVENT_SENT:
    case KV_EVENT_RECEIVED:
    case KV_EVENT_FAILED:
        if (t->phase <= CLOSING) on_slot(t, now_ns, e);
        break;
    case KV_EVENT_PEER_LOST: FINISH(t, now_ns, false, ST_ERR_UNAVAILABLE, "KV transfer: the peer is lost"); break;
    case KV_EVENT_CLOSED:
        FINISH(t, now_ns, false, ST_ERR_UNAVAILABLE, "KV transfer: the link was closed");
        t->phase = OVER;
        break;
    case KV_EVENT_READY: on_ready(t, e); break;
    case KV_EVENT_CANCEL: FINISH(t, now_ns, true, ST_ERR_CANCELLED, "KV transfer: cancelled"); break;
    }
}

static void on_time(kv_transfer *t, uint64_t now_ns) {
    if (t->phase != RUNNING) return;
    if (now_ns >= t->lease_at)
        FINISH(t, now_ns, true, ST_ERR_DEADLINE, "KV transfer: no word of the peer for %u ms",
               (unsigned)(t->c.lease_ns / 1000000));
    if (t->c.role != KV_TARGET || now_ns < t->asked_at + t->c.retry_ns) return;
    t->asked_at = now_ns;
    t->owed |= t->proven ? 1u << ASK : 1u << HELLO;
    if (!t->proven || now_ns < t->part_at + t->c.retry_ns) return;
    t->again = true;
    if (++t->tries > t->c.max_tries)
        FINISH(t, now_ns, true, ST_ERR_UNAVAILABLE, "KV transfer: part %u did not come whole after %u tries", t->base,
               t->c.max_tries);
}

static void act(kv_actions *out, kv_verb verb, uint32_t index, slot *s, size_t n_bytes) {
    INVARIANT(out->n < KV_MAX_ACTIONS);
    out->at[out->n++] = (kv_action){verb, index, s ? s->bytes : NULL, n_bytes};
}

/* Each free slot gets what it is for; in the end all are to come back. */
static void use_slots(kv_transfer *t, uint64_t now_ns, kv_actions *out) {
    bool in_flight = false;
    for (uint32_t i = 0; i < t->c.n_slots + KV_TRANSFER_CONTROL_SLOTS; i++) {
        slot *s = &t->slots[i];
        bool sends = (t->c.role == KV_SOURCE) == (i < t->c.n_slots);
        size_t n = s->use != FREE ? 0 : sends ? compose(t, now_ns, s->bytes) : t->phase == RUNNING ? s->capacity : 0;
        if (n) {
            act(out, sends ? KV_POST_SEND : KV_POST_RECV, i, s, n);
            s->use = sends ? SENDING : RECEIVING;
        }
        in_flight |= s->use != FREE;
    }
    if (t->phase != CLOSING) return;
    for (uint32_t i = 0; i < t->c.n_slots + KV_TRANSFER_CONTROL_SLOTS; i++) {
        slot *s = &t->slots[i];
        if (s->use == RECEIVING && !s->cancelled) act(out, KV_CANCEL, i, s, 0);
        s->cancelled = s->use == RECEIVING;
    }
    if (in_flight && now_ns < t->close_at) return;
    act(out, KV_CLOSE, 0, NULL, 0);
    t->phase = CLOSED_SOON;
}

void kv_transfer_step(kv_transfer *t, uint64_t now_ns, const kv_event *event, kv_actions *out) {
    out->n = 0;
    on_event(t, now_ns, event);
    on_time(t, now_ns);
    if (t->phase <= CLOSING) use_slots(t, now_ns, out);
    out->wake_ns = UINT64_MAX;
    if (t->phase == CLOSING) out->wake_ns = t->close_at;
    if (t->phase != RUNNING) return;
    uint64_t ask_at = t->asked_at + t->c.retry_ns;
    out->wake_ns = t->c.role == KV_TARGET && ask_at < t->lease_at ? ask_at : t->lease_at;
}

bool kv_transfer_over(const kv_transfer *t, st_code *code, st_error *e) {
    if (t->phase != OVER) return false;
    *code = t->end.code;
    if (e) *e = t->end;
    return true;
}

const kv_transfer_counts *kv_transfer_counted(const kv_transfer *t) { return &t->counts; }

void kv_transfer_check(const kv_transfer *t) {
    bool target = t->c.role == KV_TARGET;
    INVARIANT(t->base <= t->counts.n_parts && (t->bits & ~lowest(room(t))) == 0);
    INVARIANT(!target || (!(t->bits & 1) && t->counts.n_stored == t->base));
    INVARIANT(!t->proven || t->greeted);
    INVARIANT(target || t->base == 0 || t->proven);
    INVARIANT(t->phase == RUNNING || target == false || t->end.code != ST_OK || t->base == t->counts.n_parts);
    for (uint32_t i = 0; i < t->c.n_slots + KV_TRANSFER_CONTROL_SLOTS; i++) {
        bool sends = !target == (i < t->c.n_slots);
        INVARIANT(t->slots[i].use != (sends ? RECEIVING : SENDING) && (t->slots[i].use == RECEIVING || !t->slots[i].cancelled));
    }
}
