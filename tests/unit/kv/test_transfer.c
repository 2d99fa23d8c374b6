/* The contract of a KV type with transfers: its rows move between any two degrees of tensor parallelism, and each rank of the
 * target then holds the very bytes of the whole. */
#include "kv/kv.h"
#include "tests/unit/kv_core/memory_link.h"
#include "tests/unit/kv_core/rig.h"

enum { LAYERS = 3, BLOCKS = 2, KV_HEADS = 3, PER_KV = 2, HEAD_DIM = 40, RANKS = KV_HEADS * PER_KV, N_TOKENS = BLOCKS * B };

/* A rank's part of the cache, as kernels.h lays it out. */
typedef struct {
    kv_heads heads;
    size_t run[2];  /* bytes of the rows of a head in a layer of a block: of K, of V */
    uint8_t *bytes; /* [BLOCKS][LAYERS][K, V][heads.n][B] rows */
} part;

static part part_of(uint32_t rank, uint32_t n_ranks, const kv_type *type) { /* as model/load.c cuts query heads */
    uint32_t each = RANKS / n_ranks, more = RANKS % n_ranks, first = rank * each + (rank < more ? rank : more);
    uint32_t last = (first + each + (rank < more) - 1) / PER_KV;
    part p = {.heads = {first / PER_KV, last - first / PER_KV + 1},
              .run = {B * kernels_kv_row_bytes(type->k, HEAD_DIM), B * kernels_kv_row_bytes(type->v, HEAD_DIM)}};
    p.bytes = mem_alloc((size_t)BLOCKS * LAYERS * p.heads.n, p.run[0] + p.run[1]);
    assert_non_null(p.bytes);
    return p;
}

static uint8_t *head_at(const part *p, uint32_t block, uint32_t layer, uint32_t v, uint32_t head) {
    const size_t n = p->heads.n, layers = (size_t)block * LAYERS + layer;
    return p->bytes + layers * n * (p->run[0] + p->run[1]) + v * n * p->run[0] + (head - p->heads.first) * p->run[v];
}

static st_code load(void *context, const kv_piece *p, uint8_t *bytes, size_t n) {
    const part *from = context;
    assert_int_equal(n, p->heads.n * (from->run[0] + from->run[1])); /* N_TOKENS fill their blocks */
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t h = 0; h < p->heads.n; h++, bytes += from->run[v])
            memcpy(bytes, head_at(from, p->block, p->layer, v, p->heads.first + h), from->run[v]);
    return ST_OK;
}

static st_code store(void *context, const kv_piece *p, const uint8_t *bytes, size_t n) {
    const part *to = context;
    assert_int_equal(n, p->heads.n * (to->run[0] + to->run[1]));
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t h = 0; h < p->heads.n; h++, bytes += to->run[v])
            memcpy(head_at(to, p->block, p->layer, v, p->heads.first + h), bytes, to->run[v]);
    return ST_OK;
}

static st_code no_tag(void *context, const uint8_t *text, size_t n, uint8_t out[KV_TRANSFER_TAG_BYTES]) {
    (void)context, (void)text, (void)n;
    memset(out, 1, KV_TRANSFER_TAG_BYTES);
    return ST_OK;
}

static bool all_ready(void *context, kv_event *out) {
    bool *said = context;
    *out = (kv_event){.kind = KV_EVENT_READY, .layer = KV_ALL_LAYERS, .n_blocks = BLOCKS};
    return !*said && (*said = true);
}

static void send(const kv_flow *flow, part *ends[2], uint64_t *random) {
    link_counts counts = {0};
    bool said = false;
    memory_link *k = mem_alloc(1, sizeof *k);
    void *memory[2];
    *k = (memory_link){.random = random, .counts = &counts, .next_ready = all_ready, .context = &said};
    for (int r = 0; r < 2; r++) {
        kv_transfer_config c = {.role = (kv_transfer_role)r,
                                .handle = {1, 1},
                                .flow = *flow,
                                .n_slots = 4,
                                .lease_ns = 4000000000,
                                .retry_ns = 100000000,
                                .max_tries = 3,
                                .hooks = {.context = ends[r], .load = load, .store = store, .tag = no_tag}};
        memory[r] = mem_alloc_aligned(1, kv_transfer_bytes(&c), 64);
        assert_non_null(memory[r]);
        k->ends[r].t = kv_transfer_init(memory[r], &c, 0);
    }
    for (int r = 0; r < 2; r++) link_step(k, (kv_transfer_role)r, &(kv_event){.kind = KV_EVENT_TIME});
    while (link_turn(k)) assert_true(k->turn < 10000);
    for (int r = 0; r < 2; r++) {
        st_code code = ST_N_CODES;
        assert_true(kv_transfer_over(k->ends[r].t, &code, NULL));
        assert_int_equal(code, ST_OK);
        mem_free(memory[r]);
    }
    link_free_parcels(k);
    mem_free(k);
}

static void move_between(const kv_type *type, uint32_t n_sources, uint32_t n_targets, uint64_t *random) {
    part whole = part_of(0, 1, type), sources[RANKS];
    kv_heads held[RANKS];
    const size_t n_bytes = (size_t)BLOCKS * LAYERS * KV_HEADS * (whole.run[0] + whole.run[1]);
    for (size_t i = 0; i < n_bytes; i++) whole.bytes[i] = (uint8_t)draw_below(random, 256);
    for (uint32_t s = 0; s < n_sources; s++) {
        sources[s] = part_of(s, n_sources, type);
        held[s] = sources[s].heads;
        for (uint32_t i = 0; i < BLOCKS * LAYERS * 2; i++) {
            const uint32_t block = i / 2 / LAYERS, layer = i / 2 % LAYERS, v = i % 2, first = held[s].first;
            memcpy(head_at(&sources[s], block, layer, v, first), head_at(&whole, block, layer, v, first),
                   held[s].n * whole.run[v]);
        }
    }
    for (uint32_t t = 0; t < n_targets; t++) {
        part target = part_of(t, n_targets, type);
        for (uint32_t s = 0; s < n_sources; s++) {
            kv_flow flow = {.order = t % 2,
                            .n_layers = LAYERS,
                            .n_kv_heads = KV_HEADS,
                            .head_dim = HEAD_DIM,
                            .block_tokens = B,
                            .token_bytes = (uint32_t)kv_type_token_bytes(type, HEAD_DIM),
                            .n_tokens = N_TOKENS,
                            .part_bytes = KV_TRANSFER_MAX_PIECE_BYTES,
                            .source = s,
                            .target = t};
            memcpy(flow.type, type->name, strlen(type->name));
            assert_int_equal(kv_transfer_heads(held, n_sources, s, target.heads, t, &flow.heads), ST_OK);
            if (flow.heads.n > 0) send(&flow, (part *[2]){&sources[s], &target}, random);
        }
        for (uint32_t i = 0; i < BLOCKS * LAYERS * 2; i++) {
            const uint32_t block = i / 2 / LAYERS, layer = i / 2 % LAYERS, v = i % 2, first = target.heads.first;
            assert_memory_equal(head_at(&target, block, layer, v, first), head_at(&whole, block, layer, v, first),
                                target.heads.n * whole.run[v]);
        }
        mem_free(target.bytes);
    }
    for (uint32_t s = 0; s < n_sources; s++) mem_free(sources[s].bytes);
    mem_free(whole.bytes);
}

static void rows_of_every_type_move_between_any_two_degrees_of_tensor_parallelism(void **state) {
    (void)state;
    uint64_t random = 3;
    const kv_type *type;
    for (uint32_t i = 0; (type = kv_type_at(i)); i++)
        for (uint32_t n_sources = 1; n_sources <= RANKS; n_sources++)
            for (uint32_t n_targets = 1; n_targets <= RANKS; n_targets++) move_between(type, n_sources, n_targets, &random);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_every_type_move_between_any_two_degrees_of_tensor_parallelism),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
