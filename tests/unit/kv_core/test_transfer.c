/* Transfers of KV between groups: which flows there are, and what a million messages through a link with faults come to. */
#include "tests/unit/kv_core/memory_link.h"

#include "base/sha256.h"
#include "tests/unit/kv_core/rig.h"

#include <xxhash.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define N_MESSAGES 60000
#endif
#endif
#ifndef N_MESSAGES
#define N_MESSAGES 1000000
#endif

enum { MAX_RANKS = 6, MAX_HEADS = 6, MAX_LAYERS = 16, MAX_BLOCKS = 8, MAX_ROW = 12, POOL = 24, N_OLD = 64, LINE = 64 };
enum { MAX_PIECE = MAX_HEADS * B * 2 * MAX_ROW };
#define MS UINT64_C(1000000)

/* ---- which flows there are ---- */

/* As model/load.c cuts a model: units of query heads, and the KV heads that these read. */
static kv_heads held_by(uint32_t n_units, uint32_t units_per_kv, uint32_t rank, uint32_t n_ranks) {
    uint32_t each = n_units / n_ranks, more = n_units % n_ranks, first = rank * each + (rank < more ? rank : more);
    uint32_t last = first + each + (rank < more) - 1;
    return (kv_heads){first / units_per_kv, last / units_per_kv - first / units_per_kv + 1};
}

static void each_head_that_a_rank_wants_comes_from_one_rank_that_holds_it(void **state) {
    (void)state;
    uint64_t random = 7;
    for (int round = 0; round < 20000; round++) {
        uint32_t n_kv = 1 + draw_below(&random, 16), per_kv = 1 + draw_below(&random, 8), n_units = n_kv * per_kv;
        uint32_t n_sources = 1 + draw_below(&random, n_units), n_targets = 1 + draw_below(&random, n_units);
        kv_heads held[128];
        for (uint32_t s = 0; s < n_sources; s++) held[s] = held_by(n_units, per_kv, s, n_sources);
        uint32_t target = draw_below(&random, n_targets), n_times[16] = {0};
        kv_heads wanted = held_by(n_units, per_kv, target, n_targets), flow;
        for (uint32_t s = 0; s < n_sources; s++) {
            assert_int_equal(kv_transfer_heads(held, n_sources, s, wanted, target, &flow), ST_OK);
            for (uint32_t h = flow.first; h < flow.first + flow.n; h++) {
                assert_true(h >= held[s].first && h < held[s].first + held[s].n);
                n_times[h]++;
            }
        }
        for (uint32_t h = 0; h < n_kv; h++) assert_int_equal(n_times[h], h >= wanted.first && h < wanted.first + wanted.n);
    }
}

static void ranks_that_hold_the_same_head_take_turns(void **state) {
    (void)state;
    const kv_heads held[] = {{0, 1}, {0, 1}, {1, 1}};
    kv_heads flow;
    for (uint32_t target = 0; target < 4; target++)
        for (uint32_t s = 0; s < 2; s++) {
            assert_int_equal(kv_transfer_heads(held, 3, s, (kv_heads){0, 1}, target, &flow), ST_OK);
            assert_int_equal(flow.n, s == target % 2);
        }
}

static void a_head_that_nobody_holds_is_an_error(void **state) {
    (void)state;
    const kv_heads held[] = {{0, 2}, {3, 1}};
    kv_heads flow;
    assert_int_equal(kv_transfer_heads(held, 2, 0, (kv_heads){0, 4}, 0, &flow), ST_ERR_INVALID_ARGUMENT);
    assert_int_equal(kv_transfer_heads(held, 2, 0, (kv_heads){3, 2}, 0, &flow), ST_ERR_INVALID_ARGUMENT);
}

/* ---- two groups, their blocks, and one move of a sequence between them ---- */

typedef uint8_t block_bytes[MAX_LAYERS][2][MAX_HEADS][B][MAX_ROW];

typedef struct {
    uint64_t random;
    kv_table *tables[2]; /* by role */
    block_bytes *source, *target[MAX_RANKS];
    link_counts counts;
    link_parcel old[N_OLD], recent[N_OLD];
    uint32_t n_old, n_recent, n_done, n_failed, n_flows;
} world;

typedef struct {
    world *w;
    kv_chain chains[2];
    const block_id *ids[2];
    kv_flow flow;
    kv_heads held; /* by the source rank */
    uint32_t n_blocks, chunk_at, chunk_layer;
    uint32_t ready[MAX_LAYERS];
    bool stored[MAX_LAYERS][MAX_BLOCKS][MAX_PIECE / LINE]; /* lines of a piece: a part begins with one */
    bool ended[2];
} move;

/* Rows of K are longer than those of V. */
static uint32_t row_bytes(const kv_flow *f, uint32_t v) { return v ? f->head_dim : f->head_dim + 4; }

static uint8_t *row_of(block_bytes *b, const kv_piece *p, uint32_t v, uint32_t head, uint32_t token) {
    return b[0][p->layer][v][head][token];
}

static void known_block(const move *m, kv_transfer_role role, const kv_piece *p) {
    assert_true(p->layer < m->flow.n_layers && p->block < m->n_blocks && p->n_tokens > 0 && p->n_tokens <= B);
    assert_true(kv_block_live(m->w->tables[role], m->ids[role][p->block]));
}

static void known_part(const move *m, const kv_piece *p, size_t n) {
    const size_t all = (size_t)p->heads.n * p->n_tokens * m->flow.token_bytes;
    assert_true(p->first_byte % LINE == 0 && n > 0 && n <= m->flow.part_bytes && p->first_byte + n <= all);
    assert_true(all > m->flow.part_bytes || n == all);
}

/* Of the rows of a piece in these blocks: into rows[MAX_PIECE], or out of it. Returns their bytes. */
static size_t copy_rows(const move *m, const kv_piece *p, block_bytes *b, uint8_t *rows, bool out) {
    uint8_t *at = rows;
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t h = p->heads.first, n_row = row_bytes(&m->flow, v); h < p->heads.first + p->heads.n; h++)
            for (uint32_t i = 0; i < p->n_tokens; i++, at += n_row)
                memcpy(out ? row_of(b, p, v, h, i) : at, out ? at : row_of(b, p, v, h, i), n_row);
    return (size_t)(at - rows);
}

static st_code load(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    move *m = context;
    known_block(m, KV_SOURCE, p);
    assert_true(p->block < m->ready[p->layer]);
    assert_true(p->heads.first >= m->held.first && p->heads.first + p->heads.n <= m->held.first + m->held.n);
    known_part(m, p, n);
    uint8_t rows[MAX_PIECE];
    assert_true(p->first_byte + n <= copy_rows(m, p, &m->w->source[m->ids[KV_SOURCE][p->block].index], rows, false));
    memcpy(bytes, rows + p->first_byte, n);
    return ST_OK;
}

static st_code store(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    move *m = context;
    known_block(m, KV_TARGET, p);
    known_part(m, p, n);
    for (size_t line = p->first_byte / LINE; line * LINE < p->first_byte + n; line++) {
        assert_false(m->stored[p->layer][p->block][line]); /* once */
        m->stored[p->layer][p->block][line] = true;
    }
    block_bytes *to = &m->w->target[m->flow.target][m->ids[KV_TARGET][p->block].index];
    uint8_t rows[MAX_PIECE];
    copy_rows(m, p, to, rows, false);
    memcpy(rows + p->first_byte, bytes, n);
    copy_rows(m, p, to, rows, true);
    return ST_OK;
}

static st_code tag_under(const char *secret, const uint8_t *text, size_t n, uint8_t *out) {
    uint8_t all[512];
    assert_true(n + 8 <= sizeof all);
    memcpy(all, secret, 8);
    memcpy(all + 8, text, n);
    return sha256_of(all, n + 8, out);
}

static st_code tag(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    (void)context;
    return tag_under("secret 1", text, n, out);
}

static st_code tag_of_a_stranger(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    (void)context;
    return tag_under("secret 2", text, n, out);
}

/* Has the key, but not the target's tag. */
static st_code tag_unproven(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    bool own = memcmp(text, "consort kv1 tgt", 15) == 0;
    return own ? tag_of_a_stranger(context, text, n, out) : tag(context, text, n, out);
}

/* The same of the source. */
static st_code tag_unproven_source(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    bool own = memcmp(text, "consort kv1 src", 15) == 0;
    return own ? tag_of_a_stranger(context, text, n, out) : tag(context, text, n, out);
}

/* Prefill in chunks of two blocks, layer by layer. */
static bool next_ready(void *context, kv_event *out) {
    move *m = context;
    if (m->chunk_at >= m->n_blocks) return false;
    uint32_t end = m->chunk_at + 2 < m->n_blocks ? m->chunk_at + 2 : m->n_blocks;
    *out = (kv_event){.kind = KV_EVENT_READY, .layer = m->chunk_layer, .n_blocks = end};
    m->ready[m->chunk_layer] = end;
    if (++m->chunk_layer == m->flow.n_layers) {
        m->chunk_layer = 0;
        m->chunk_at = end;
    }
    return true;
}

static kv_transfer_config config_of(move *m, kv_transfer_role role, uint32_t generation) {
    kv_transfer_config c = {.role = role,
                            .handle = {42, generation},
                            .flow = m->flow,
                            .n_slots = 1 + draw_below(&m->w->random, KV_TRANSFER_MAX_SLOTS),
                            .lease_ns = 2000 * MS,
                            .retry_ns = 100 * MS,
                            .max_tries = 30,
                            .hooks = {.context = m, .load = load, .store = store, .tag = tag}};
    for (int i = 0; i < KV_TRANSFER_NONCE_BYTES; i++) c.nonce[i] = (uint8_t)draw_below(&m->w->random, 256);
    return c;
}

static kv_transfer *new_transfer(const kv_transfer_config *c) {
    size_t n = kv_transfer_bytes(c);
    assert_true(n > 0);
    void *memory = mem_alloc_aligned(1, n, 64);
    assert_non_null(memory);
    memset(memory, 0xa5, n);
    return kv_transfer_init(memory, c, 0);
}

static void new_world(world *w, uint64_t seed) {
    *w = (world){.random = seed};
    for (int i = 0; i < 2; i++) w->tables[i] = new_table(POOL, 4, MAX_BLOCKS);
    w->source = mem_alloc(POOL, sizeof(block_bytes));
    for (int r = 0; r < MAX_RANKS; r++) w->target[r] = mem_alloc(POOL, sizeof(block_bytes));
}

static void end_world(world *w) {
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kv_used_blocks(w->tables[i]), 0);
        assert_int_equal(kv_free_blocks(w->tables[i]), POOL);
        kv_check(w->tables[i]);
        mem_free(w->tables[i]);
    }
    mem_free(w->source);
    for (int r = 0; r < MAX_RANKS; r++) mem_free(w->target[r]);
    for (uint32_t i = 0; i < w->n_old; i++) mem_free(w->old[i].bytes);
}

static void begin_move(world *w, move *m, uint32_t n_layers, uint32_t n_tokens) {
    uint32_t first, n;
    *m = (move){.w = w};
    m->flow = (kv_flow){.type = "q8", .order = draw_below(&w->random, 2), .n_layers = n_layers};
    m->flow.head_dim = 1 + draw_below(&w->random, MAX_ROW - 4);
    m->flow.token_bytes = 2 * m->flow.head_dim + 4;
    m->flow.block_tokens = B;
    m->flow.n_tokens = n_tokens;
    m->flow.part_bytes = draw_below(&w->random, 2) ? KV_TRANSFER_MAX_PIECE_BYTES : LINE * (1 + draw_below(&w->random, 24));
    m->n_blocks = kv_blocks_for(n_tokens);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(kv_reserve(w->tables[i], n_tokens, &m->chains[i]), ST_OK);
        assert_int_equal(kv_extend(w->tables[i], m->chains[i], n_tokens, &first, &n), ST_OK);
        m->ids[i] = kv_chain_blocks(w->tables[i], m->chains[i], &n);
    }
    for (uint32_t b = 0; b < m->n_blocks; b++)
        for (size_t at = 0; at < sizeof(block_bytes) / MAX_LAYERS * n_layers; at += 4) {
            uint32_t value = draw_below(&w->random, UINT32_MAX);
            memcpy((uint8_t *)&w->source[m->ids[KV_SOURCE][b].index] + at, &value, 4);
        }
}

static void end_move(const move *m) {
    for (int i = 0; i < 2; i++) kv_release(m->w->tables[i], m->chains[i]);
}

/* Of the flow, and nothing behind the last token of it. */
static void bytes_are_equal(const move *m) {
    for (uint32_t l = 0; l < m->flow.n_layers; l++)
        for (uint32_t b = 0; b < m->n_blocks; b++)
            for (uint32_t v = 0; v < 2; v++)
                for (uint32_t h = m->flow.heads.first; h < m->flow.heads.first + m->flow.heads.n; h++)
                    for (uint32_t i = 0; i < B; i++) {
                        kv_piece p = {.layer = l};
                        uint8_t *to = row_of(&m->w->target[m->flow.target][m->ids[KV_TARGET][b].index], &p, v, h, i);
                        if (b * B + i < m->flow.n_tokens)
                            assert_memory_equal(to, row_of(&m->w->source[m->ids[KV_SOURCE][b].index], &p, v, h, i),
                                                row_bytes(&m->flow, v));
                        else
                            assert_int_equal(to[0], 0xee);
                    }
}

/* What later sessions will hear again. */
static void remember(world *w, const memory_link *k) {
    for (int r = 0; r < 2; r++)
        for (uint32_t i = 0; i < k->ends[r].n_inbox && w->n_recent < N_OLD; i++) {
            const link_parcel *p = &k->ends[r].inbox[i];
            link_parcel copy = {.bytes = mem_alloc(p->n_bytes + 1, 1), .n_bytes = p->n_bytes};
            memcpy(copy.bytes, p->bytes, p->n_bytes);
            w->recent[w->n_recent++] = copy;
        }
}

/* The session of the recent ones is over. */
static void age(world *w) {
    while (w->n_recent > 0) {
        uint32_t place = w->n_old < N_OLD ? w->n_old++ : draw_below(&w->random, N_OLD);
        mem_free(w->old[place].bytes);
        w->old[place] = w->recent[--w->n_recent];
    }
}

typedef struct {
    st_code code[2]; /* ST_N_CODES: it died */
    st_error why[2];
    kv_transfer_counts counts; /* of the target */
    uint64_t end_ns;
} outcome;

static outcome run_flow(world *w, move *m, const kv_transfer_config c[2], link_plan plan) {
    outcome o = {.code = {ST_N_CODES, ST_N_CODES}};
    memory_link *k = mem_alloc(1, sizeof *k);
    void *memory[2];
    *k = (memory_link){.random = &w->random, .plan = plan, .counts = &w->counts, .next_ready = next_ready, .context = m};
    k->old = w->old;
    k->n_old = w->n_old;
    m->chunk_at = m->chunk_layer = 0;
    memset(m->ready, 0, sizeof m->ready);
    memset(m->stored, 0, sizeof m->stored);
    for (uint32_t b = 0; b < m->n_blocks; b++)
        memset(&w->target[m->flow.target][m->ids[KV_TARGET][b].index], 0xee, sizeof(block_bytes));
    for (int r = 0; r < 2; r++) memory[r] = k->ends[r].t = new_transfer(&c[r]);
    for (int r = 0; r < 2; r++) link_step(k, (kv_transfer_role)r, &(kv_event){.kind = KV_EVENT_TIME});
    uint32_t remember_at = 1 + draw_below(&w->random, 60);
    while (link_turn(k)) {
        if (k->turn == remember_at) remember(w, k);
        assert_true(k->turn < 200000);
    }
    for (int r = 0; r < 2; r++) {
        if (k->ends[r].t) assert_true(kv_transfer_over(k->ends[r].t, &o.code[r], &o.why[r]));
        if (k->ends[r].t && r == KV_TARGET) o.counts = *kv_transfer_counted(k->ends[r].t);
        mem_free(memory[r]);
    }
    o.end_ns = k->now_ns;
    link_free_parcels(k);
    mem_free(k);
    age(w);
    return o;
}

static bool drawn(world *w, uint32_t one_in) { return draw_below(&w->random, one_in) == 0; }

/* Half of the flows come to no harm, or messages are doubled, late within reason and in any order. */
static link_plan draw_plan(world *w, bool harmless) {
    link_plan p = {.slow = drawn(w, 4)};
    if (drawn(w, 2)) p.per_256[LINK_DOUBLE] = harmless ? 60 : 30;
    if (drawn(w, 2)) p.per_256[LINK_REORDER] = harmless ? 100 : 30;
    if (harmless) return p;
    for (link_fault f = LINK_FLIP; f <= LINK_LATE; f++)
        if (!drawn(w, 4)) p.per_256[f] = 10 + draw_below(&w->random, 36);
    if (drawn(w, 6)) p.cancel_at[draw_below(&w->random, 2)] = 1 + draw_below(&w->random, 200);
    p.dies = drawn(w, 2);
    p.silent = drawn(w, 2);
    if (drawn(w, 6)) p.die_at = 1 + draw_below(&w->random, 200);
    return p;
}

static void one_flow(world *w, move *m, uint32_t generation) {
    bool harmless = drawn(w, 2);
    kv_transfer_config c[2] = {config_of(m, KV_SOURCE, generation), config_of(m, KV_TARGET, generation)};
    outcome o = run_flow(w, m, c, draw_plan(w, harmless));
    w->n_flows++;
    if (harmless) {
        assert_int_equal(o.code[KV_TARGET], ST_OK);
        assert_int_equal(o.code[KV_SOURCE], ST_OK);
        assert_int_equal(o.counts.damaged + o.counts.stale, 0);
    }
    if (o.code[KV_TARGET] == ST_OK) {
        bytes_are_equal(m);
        w->n_done++;
    } else {
        w->n_failed++;
    }
}

static void one_move(world *w, uint32_t *generation) {
    move m;
    begin_move(w, &m, 1 + draw_below(&w->random, MAX_LAYERS), 1 + draw_below(&w->random, MAX_BLOCKS * B));
    uint32_t n_kv = 1 + draw_below(&w->random, MAX_HEADS), per_kv = 1 + draw_below(&w->random, 3), n_units = n_kv * per_kv;
    uint32_t most = n_units < MAX_RANKS ? n_units : MAX_RANKS;
    uint32_t n_sources = 1 + draw_below(&w->random, most), n_targets = 1 + draw_below(&w->random, most);
    kv_heads held[MAX_RANKS];
    for (uint32_t s = 0; s < n_sources; s++) held[s] = held_by(n_units, per_kv, s, n_sources);
    m.flow.n_kv_heads = n_kv;
    for (m.flow.target = 0; m.flow.target < n_targets; m.flow.target++)
        for (m.flow.source = 0; m.flow.source < n_sources; m.flow.source++) {
            kv_heads wanted = held_by(n_units, per_kv, m.flow.target, n_targets);
            m.held = held[m.flow.source];
            assert_int_equal(kv_transfer_heads(held, n_sources, m.flow.source, wanted, m.flow.target, &m.flow.heads), ST_OK);
            if (m.flow.heads.n > 0) one_flow(w, &m, ++*generation);
        }
    end_move(&m);
}

static void of_a_million_messages_no_harmed_one_is_accepted_and_no_block_leaks(void **state) {
    (void)state;
    world *w = mem_alloc(1, sizeof *w);
    new_world(w, 1);
    uint32_t generation = 0;
    while (w->counts.messages < N_MESSAGES) one_move(w, &generation);
    print_message("%u flows: %u done, %u to be computed; %llu messages, %llu of them intact, %llu harmed ones delivered\n",
                  w->n_flows, w->n_done, w->n_failed, (unsigned long long)w->counts.messages,
                  (unsigned long long)w->counts.intact, (unsigned long long)w->counts.harmed);
    static const char *const faults[LINK_N_FAULTS] = {"flipped", "cut",  "lengthened", "of an older session",
                                                      "lost",    "late", "doubled",    "reordered"};
    for (int f = 0; f < LINK_N_FAULTS; f++)
        print_message("%s%s %llu", f ? ", " : "", faults[f], (unsigned long long)w->counts.by_fault[f]);
    print_message("\n");
    for (int f = 0; f < LINK_N_FAULTS; f++) assert_true(w->counts.by_fault[f] > N_MESSAGES / 200);
    assert_true(w->counts.intact >= w->counts.messages / 2 && w->counts.intact < w->counts.messages / 5 * 3);
    assert_true(w->n_failed > w->n_flows / 40);
    end_world(w);
    mem_free(w);
}

/* ---- single rules ---- */

typedef struct {
    world w;
    move m;
    kv_transfer_config c[2];
} rig;

static rig *new_rig(void) {
    rig *r = mem_alloc(1, sizeof *r);
    new_world(&r->w, 99);
    begin_move(&r->w, &r->m, MAX_LAYERS, MAX_BLOCKS * B - 7); /* two windows at least */
    r->m.flow.part_bytes = 8 * LINE;
    r->m.flow.n_kv_heads = 4;
    r->m.flow.heads = r->m.held = (kv_heads){1, 3};
    for (int i = 0; i < 2; i++) r->c[i] = config_of(&r->m, (kv_transfer_role)i, 5);
    return r;
}

static void end_rig(rig *r) {
    end_move(&r->m);
    end_world(&r->w);
    mem_free(r);
}

static void ends_that_mean_different_flows_say_in_what(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) {
        rig *r = new_rig();
        kv_flow *f = &r->c[KV_SOURCE].flow;
        static const char *const said[] = {"another model", "KV type is q4, here q8",    "head_dim", "n_tokens",
                                           "part_bytes",    "first KV head is 0, here 1"};
        switch (i) {
        case 0: f->model[31] ^= 1; break;
        case 1: memcpy(f->type, "q4", 3); break;
        case 2: f->head_dim++; break;
        case 3: f->n_tokens++; break;
        case 4: f->part_bytes = 2 * LINE; break;
        default: f->heads.first = 0; break;
        }
        outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
        assert_int_equal(o.code[KV_TARGET], ST_ERR_MISMATCH);
        assert_int_equal(o.code[KV_SOURCE], ST_ERR_MISMATCH); /* the target has told it */
        assert_non_null(strstr(o.why[KV_TARGET].message, said[i]));
        end_rig(r);
    }
}

static void who_has_not_the_secret_gets_no_piece_and_stores_none(void **state) {
    (void)state;
    for (int stranger = 0; stranger < 2; stranger++) {
        rig *r = new_rig();
        r->c[stranger].hooks.tag = tag_of_a_stranger;
        outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
        assert_int_equal(o.code[KV_SOURCE], ST_ERR_DEADLINE);
        assert_int_equal(o.code[KV_TARGET], ST_ERR_DEADLINE);
        assert_int_equal(o.counts.n_stored + o.counts.accepted, 0);
        end_rig(r);
    }
}

static void a_target_that_does_not_prove_itself_is_sent_no_piece(void **state) {
    (void)state;
    rig *r = new_rig();
    r->c[KV_TARGET].hooks.tag = tag_unproven;
    outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
    assert_int_equal(o.code[KV_SOURCE], ST_ERR_DEADLINE);
    assert_int_equal(o.counts.accepted, 1); /* the WELCOME */
    end_rig(r);
}

static void a_source_that_does_not_prove_itself_has_no_piece_stored(void **state) {
    (void)state;
    rig *r = new_rig();
    r->c[KV_SOURCE].hooks.tag = tag_unproven_source;
    outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
    assert_int_equal(o.code[KV_TARGET], ST_ERR_DEADLINE);
    assert_int_equal(o.counts.n_stored + o.counts.accepted, 0);
    end_rig(r);
}

/* Of a greeting: another version, and the checksum of that. */
static void rewrite_version(uint8_t *m, size_t n, bool has_secret) {
    enum { HEAD_BYTES = 36, LABEL_BYTES = 16 };
    uint8_t text[LABEL_BYTES + HEAD_BYTES] = "consort kv head";
    const uint32_t version = 99;
    if (m[8] > 2) return; /* neither HELLO nor WELCOME */
    memcpy(m + 4, &version, sizeof version);
    memcpy(text + LABEL_BYTES, m, HEAD_BYTES);
    uint64_t check;
    n -= sizeof check;
    if (has_secret) assert_int_equal(tag_under("secret 1", text, sizeof text, m + n - KV_TRANSFER_TAG_BYTES), ST_OK);
    check = XXH3_64bits(m, n);
    memcpy(m + n, &check, sizeof check);
}

static void speaks_another_version(uint8_t *m, size_t n) { rewrite_version(m, n, true); }

static void version_is_forged(uint8_t *m, size_t n) { rewrite_version(m, n, false); }

static void version_is_forged_once(uint8_t *m, size_t n) {
    uint32_t serial;
    memcpy(&serial, m + 24, sizeof serial);
    if (serial == 1) rewrite_version(m, n, false);
}

static void ends_of_two_versions_say_so_at_once(void **state) {
    (void)state;
    for (int who = 0; who < 3; who++) { /* is of another version for the other end; 2: each is for each */
        rig *r = new_rig();
        link_plan p = {0};
        for (int i = 0; i < 2; i++)
            if (who == i || who == 2) p.rewrite[i] = speaks_another_version;
        outcome o = run_flow(&r->w, &r->m, r->c, p);
        for (int i = 0; i < 2; i++) {
            assert_int_not_equal(o.code[i], ST_OK);
            if (!p.rewrite[!i]) continue;
            assert_int_equal(o.code[i], ST_ERR_MISMATCH);
            assert_non_null(strstr(o.why[i].message, "speaks version 99 of the protocol, here 3"));
        }
        assert_int_equal(o.counts.n_stored, 0);
        assert_true(o.end_ns < r->c[KV_TARGET].retry_ns);
        end_rig(r);
    }
}

static void who_has_not_the_secret_ends_no_transfer_with_another_version(void **state) {
    (void)state;
    for (int who = 0; who < 2; who++)
        for (int once = 0; once < 2; once++) {
            rig *r = new_rig();
            link_plan p = {0};
            p.rewrite[who] = once ? version_is_forged_once : version_is_forged;
            outcome o = run_flow(&r->w, &r->m, r->c, p);
            for (int i = 0; i < 2; i++) assert_int_equal(o.code[i], once ? ST_OK : ST_ERR_DEADLINE);
            end_rig(r);
        }
}

static void an_end_of_another_generation_is_no_peer(void **state) {
    (void)state;
    rig *r = new_rig();
    r->c[KV_SOURCE].handle.generation++;
    outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
    assert_int_equal(o.code[KV_TARGET], ST_ERR_DEADLINE);
    end_rig(r);
}

static void a_cancel_ends_both_ends_whoever_says_it(void **state) {
    (void)state;
    for (uint32_t turn = 1; turn < 25; turn++)
        for (int who = 0; who < 2; who++) {
            rig *r = new_rig();
            link_plan p = {0};
            p.cancel_at[who] = turn;
            outcome o = run_flow(&r->w, &r->m, r->c, p);
            assert_int_equal(o.code[who], ST_ERR_CANCELLED);
            assert_true(o.code[!who] == ST_ERR_CANCELLED || o.code[!who] == ST_ERR_UNAVAILABLE);
            end_rig(r);
        }
}

static void a_peer_that_dies_without_a_word_costs_a_lease(void **state) {
    (void)state;
    for (uint32_t turn = 1; turn < 25; turn++)
        for (int dead = 0; dead < 2; dead++) {
            rig *r = new_rig();
            outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){.dies = (kv_transfer_role)dead, .die_at = turn, .silent = true});
            assert_true(o.code[!dead] == ST_ERR_DEADLINE || o.code[!dead] == ST_ERR_UNAVAILABLE);
            end_rig(r);
        }
}

static void a_piece_that_never_comes_whole_is_asked_for_a_bounded_number_of_times(void **state) {
    (void)state;
    rig *r = new_rig();
    r->c[KV_TARGET].max_tries = 5; /* the lease would have room for 20 */
    outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){.per_256 = {[LINK_FLIP] = 256}, .pieces_only = true});
    assert_int_equal(o.code[KV_TARGET], ST_ERR_UNAVAILABLE);
    assert_non_null(strstr(o.why[KV_TARGET].message, "after 5 tries"));
    end_rig(r);
}

static void where_nothing_is_lost_nobody_waits_for_a_time_out_or_sends_twice(void **state) {
    (void)state;
    for (uint32_t n_slots = 1; n_slots <= KV_TRANSFER_MAX_SLOTS; n_slots++) {
        rig *r = new_rig();
        r->c[KV_SOURCE].n_slots = n_slots;
        for (int i = 0; i < 2; i++) r->c[i].flow.order = n_slots % 2;
        outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){0});
        assert_int_equal(o.code[KV_TARGET], ST_OK);
        assert_int_equal(o.counts.doubled, 0);
        assert_true(o.end_ns < r->c[KV_TARGET].retry_ns);
        end_rig(r);
    }
}

static void a_slow_prefill_is_waited_for(void **state) {
    (void)state;
    rig *r = new_rig();
    outcome o = run_flow(&r->w, &r->m, r->c, (link_plan){.slow = true});
    assert_int_equal(o.code[KV_TARGET], ST_OK);
    assert_true(o.end_ns > 2 * r->c[KV_TARGET].lease_ns);
    end_rig(r);
}

static void impossible_flows_have_no_size(void **state) {
    (void)state;
    rig *r = new_rig();
    for (int i = 0; i < 12; i++) {
        kv_transfer_config c = r->c[KV_TARGET];
        switch (i) {
        case 0: c.flow.n_tokens = 0; break;
        case 1: c.flow.heads.n = 4; break; /* first is 1 */
        case 2: c.flow.token_bytes = UINT32_MAX; break;
        case 3: c.flow.n_layers = UINT32_MAX; break;
        case 4: c.flow.block_tokens = UINT32_MAX; break;
        case 5: c.n_slots = KV_TRANSFER_MAX_SLOTS + 1; break;
        case 6: c.retry_ns = c.lease_ns; break;
        case 7: c.flow.part_bytes = 0; break;
        case 8: c.flow.part_bytes = LINE + 1; break;
        case 9: c.flow.part_bytes = KV_TRANSFER_MAX_PIECE_BYTES + LINE; break;
        case 10: /* more parts than are counted; each limit by itself is kept */
            c.flow.token_bytes = 1 << 15, c.flow.block_tokens = 1 << 9, c.flow.heads.n = 1;
            c.flow.n_tokens = c.flow.block_tokens << 10, c.flow.part_bytes = LINE;
            break;
        default: c.handle.generation = 0; break;
        }
        assert_int_equal(kv_transfer_bytes(&c), 0);
    }
    end_rig(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_head_that_a_rank_wants_comes_from_one_rank_that_holds_it),
        cmocka_unit_test(ranks_that_hold_the_same_head_take_turns),
        cmocka_unit_test(a_head_that_nobody_holds_is_an_error),
        cmocka_unit_test(ends_that_mean_different_flows_say_in_what),
        cmocka_unit_test(who_has_not_the_secret_gets_no_piece_and_stores_none),
        cmocka_unit_test(a_source_that_does_not_prove_itself_has_no_piece_stored),
        cmocka_unit_test(ends_of_two_versions_say_so_at_once),
        cmocka_unit_test(who_has_not_the_secret_ends_no_transfer_with_another_version),
        cmocka_unit_test(an_end_of_another_generation_is_no_peer),
        cmocka_unit_test(a_cancel_ends_both_ends_whoever_says_it),
        cmocka_unit_test(a_peer_that_dies_without_a_word_costs_a_lease),
        cmocka_unit_test(a_piece_that_never_comes_whole_is_asked_for_a_bounded_number_of_times),
        cmocka_unit_test(where_nothing_is_lost_nobody_waits_for_a_time_out_or_sends_twice),
        cmocka_unit_test(a_target_that_does_not_prove_itself_is_sent_no_piece),
        cmocka_unit_test(a_slow_prefill_is_waited_for),
        cmocka_unit_test(impossible_flows_have_no_size),
        cmocka_unit_test(of_a_million_messages_no_harmed_one_is_accepted_and_no_block_leaks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
