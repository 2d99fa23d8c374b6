#include "tests/unit/kernels/kernels_test.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define BITS(...)  (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4

static void unpack_lane(float *out, const kernels_layout *l, const uint8_t *tile, uint32_t lane) {
    for (uint32_t k = 0; k < l->tile_k; k += l->step_k) l->unpack(out + k, tile, k, lane);
}

static void unpacking_gives_what_the_gguf_package_gives(kernels_format f, const uint8_t *bytes, size_t n_bytes,
                                                        const uint32_t *bits, size_t n) {
    const kernels_format_info *info = kernels_format_of(f);
    const kernels_layout *l = kernels_layout_of(f);
    assert_int_equal(n_bytes / info->block_bytes * info->block_elements, n);
    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) /* from every lane of a tile */
        for (size_t b = 0; b < n_bytes / info->block_bytes; b++) {
            uint8_t *tile = mem_alloc(1, l->tile_bytes);
            float out[256];
            l->pack(tile, bytes + b * info->block_bytes, lane);
            unpack_lane(out, l, tile, lane);
            assert_memory_equal(out, bits + b * info->block_elements, info->block_elements * sizeof *bits);
            mem_free(tile);
        }
}

static void formats_equal_the_gguf_package(void **state) {
    (void)state;
    int seen = 0;
#define VECTOR(id, ...)                                                                                                          \
    unpacking_gives_what_the_gguf_package_gives(KERNELS_##id, __VA_ARGS__);                                                      \
    seen++;
#include "tests/unit/kernels/format_vectors.def"
#undef VECTOR
    assert_int_equal(seen, KERNELS_N_FORMATS); /* a new row needs its vectors: scripts/make-format-vectors */
}

static void packing_a_lane_leaves_the_others_alone(void **state) {
    (void)state;
    values v = {.seed = 11};
    for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++) {
        const kernels_layout *l = kernels_layout_of(f);
        uint8_t *blocks = random_blocks(&v, f, KERNELS_LANES, l->tile_k), *tile = mem_alloc(1, l->tile_bytes);
        float before[KERNELS_LANES][256], after[256];
        for (int round = 0; round < 2; round++) /* the second time over old bytes */
            for (uint32_t lane = 0; lane < KERNELS_LANES; lane++)
                l->pack(tile, blocks + lane * kernels_format_of(f)->block_bytes, lane);
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) unpack_lane(before[lane], l, tile, lane);
        l->pack(tile, blocks, 5);
        for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
            unpack_lane(after, l, tile, lane);
            assert_memory_equal(after, before[lane == 5 ? 0 : lane], l->tile_k * sizeof(float));
        }
        mem_free(blocks);
        mem_free(tile);
    }
}

static void the_table_names_every_format_and_nothing_else(void **state) {
    (void)state;
    for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++) {
        const kernels_format_info *info = kernels_format_of(f);
        assert_non_null(info->name);
        const kernels_layout *l = kernels_layout_of(f);
        uint32_t file_bytes = info->block_bytes * KERNELS_LANES;
        assert_int_equal(info->block_elements, l->tile_k);
        assert_int_equal(l->step_k, l->tile_k == 1 ? 1 : KERNELS_GROUP);
        if (!kernels_layout_is_float(l)) assert_int_equal(l->tile_bytes, tile_bytes(tile_shapes[f]));
        /* Packing costs next to no memory: sub-scales of 6 bits get 8; TQ1_0 gets 2 bits a value instead of 1.6. */
        assert_true(l->tile_bytes * 100 <= file_bytes * (f == KERNELS_TQ1_0 ? 123 : 104));
    }
    assert_null(kernels_format_of(KERNELS_N_FORMATS));
    assert_null(kernels_layout_of(KERNELS_N_FORMATS));
}

static void halves_round_to_nearest_even(void **state) {
    (void)state;
    static const struct {
        float x;
        uint16_t h;
    } cases[] = {{0.0f, 0},
                 {-0.0f, 0x8000},
                 {1.0f, 0x3c00},
                 {65504.0f, 0x7bff},
                 {65519.99f, 0x7bff},
                 {65520.0f, 0x7c00},
                 {-1e9f, 0xfc00},
                 {0x1p-24f, 1},
                 {0x1p-25f, 0},
                 {0x1.8p-24f, 2},
                 {0x1.000002p-25f, 1},
                 {0x1.ff8p-15f, 0x3ff},
                 {0x1.ffcp-15f, 0x400},
                 {0x1.002p0f, 0x3c00},
                 {0x1.006p0f, 0x3c02},
                 {INFINITY, 0x7c00}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_int_equal(half_of_float(cases[i].x), cases[i].h);
    assert_true(half_of_float(NAN) > 0x7c00);
    for (uint32_t h = 0; h < 65536; h++) {
        float x = half_to_float((uint16_t)h);
        if (x == x) assert_int_equal(half_of_float(x), h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_equal_the_gguf_package),
        cmocka_unit_test(packing_a_lane_leaves_the_others_alone),
        cmocka_unit_test(the_table_names_every_format_and_nothing_else),
        cmocka_unit_test(halves_round_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
