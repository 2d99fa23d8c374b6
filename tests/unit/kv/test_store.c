/* The block store: the bytes of a shape, and which blocks a plan may name. */
#include "base/mem.h"
#include "kv/kv.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef struct {
    const kernels_ops *ops;
    kernels_device *device;
} machine;

static int set_up(void **state) {
    static machine m;
    assert_int_equal(ST_OK, kernels_pick("scalar", &m.ops, NULL));
    assert_int_equal(ST_OK, m.ops->create(1, &m.device, NULL));
    *state = &m;
    return 0;
}

static int tear_down(void **state) {
    machine *m = *state;
    m->ops->destroy(m->device);
    return 0;
}

static kv_shape shape_of(const char *type) {
    return (kv_shape){.type = kv_type_find(type), .n_blocks = 5, .n_layers = 3, .n_kv_heads = 2, .head_dim = 32};
}

static kv_store *create(const machine *m, const char *type) {
    kv_shape shape = shape_of(type);
    kv_store *s = NULL;
    assert_int_equal(ST_OK, kv_store_create(m->ops, m->device, &shape, &s, NULL));
    return s;
}

static void every_type_is_found_by_its_name_and_sizes_its_store(void **state) {
    const machine *m = *state;
    uint32_t n = 0;
    for (const kv_type *t; (t = kv_type_at(n)); n++) {
        assert_ptr_equal(t, kv_type_find(t->name));
        kv_store *s = create(m, t->name);
        assert_int_equal(5 * 3 * 2 * 32 * kv_type_token_bytes(t, 32), kv_store_bytes(s)); /* as kernels.h lays it out */
        assert_int_equal(t->k, kv_store_view(s)->type[0]);
        assert_int_equal(t->v, kv_store_view(s)->type[1]);
        assert_non_null(strstr(kv_type_names, t->name));
        kv_store_destroy(s);
    }
    assert_true(n >= 4);
    assert_memory_equal(kv_type_names, "f16, f32, ", 10);
    assert_null(kv_type_find("q3"));
}

static void a_token_has_the_bytes_that_its_type_says(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t of_64, of_40;
    } expected[] = {{"f32", 512, 320}, {"f16", 256, 160}, {"q8", 136, 88}, {"k6v4", 96, 96}, {"q4", 80, 80}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        assert_int_equal(expected[i].of_64, kv_type_token_bytes(kv_type_find(expected[i].name), 64));
        assert_int_equal(expected[i].of_40, kv_type_token_bytes(kv_type_find(expected[i].name), 40));
    }
}

static void a_type_that_is_not_named_goes_with_the_precision(void **state) {
    (void)state;
    static const char *const names[] = {NULL, "auto"};
    for (int i = 0; i < 2; i++) {
        assert_ptr_equal(kv_type_find("f16"), kv_type_choose(names[i], KERNELS_FAST));
        assert_ptr_equal(kv_type_find("f32"), kv_type_choose(names[i], KERNELS_FP32));
    }
    assert_ptr_equal(kv_type_find("f16"), kv_type_choose("f16", KERNELS_FP32));
    assert_ptr_equal(kv_type_find("f32"), kv_type_choose("f32", KERNELS_FAST));
    assert_null(kv_type_choose("q3", KERNELS_FP32));
}

static void shapes_without_content_are_refused(void **state) {
    const machine *m = *state;
    for (int i = 0; i < 6; i++) {
        kv_shape shape = shape_of("f16");
        kv_store *s = NULL;
        st_error e = {0};
        switch (i) {
        case 0: shape.type = NULL; break;
        case 1: shape.n_blocks = 0; break;
        case 2: shape.n_layers = 0; break;
        case 3: shape.n_kv_heads = 0; break;
        case 4: shape.head_dim = 0; break;
        default: shape.head_dim = 1 << 20; break;
        }
        assert_int_equal(ST_ERR_INVALID_ARGUMENT, kv_store_create(m->ops, m->device, &shape, &s, &e));
        assert_non_null(strstr(e.message, "KV store"));
        assert_null(s);
    }
}

static void a_store_that_memory_cannot_hold_says_how_large_it_would_be(void **state) {
    const machine *m = *state;
    kv_shape shape = {
        .type = kv_type_find("f32"), .n_blocks = UINT32_MAX, .n_layers = 4096, .n_kv_heads = 4096, .head_dim = 4096};
    kv_store *s = NULL;
    st_error e = {0};
    assert_int_equal(ST_FATAL_MEMORY, kv_store_create(m->ops, m->device, &shape, &s, &e));
    assert_non_null(strstr(e.message, "4294967295 blocks"));
}

static void a_plan_may_name_a_block_again_and_under_a_newer_generation_but_not_an_older(void **state) {
    const machine *m = *state;
    kv_store *s = create(m, "f16");
    const block_id first[] = {{0, 1}, {4, 7}}, again[] = {{4, 7}, {0, 2}}, older[] = {{2, 9}, {0, 1}}, unseen[] = {{2, 1}};
    st_error e = {0};
    assert_int_equal(ST_OK, kv_store_accept(s, first, 2, &e));
    assert_int_equal(ST_OK, kv_store_accept(s, again, 2, &e));
    assert_int_equal(ST_FATAL_PROTOCOL, kv_store_accept(s, older, 2, &e));
    assert_non_null(strstr(e.message, "block 0 under generation 1; generation 2"));
    assert_int_equal(ST_OK, kv_store_accept(s, unseen, 1, &e)); /* the refused plan left no trace */
    kv_store_destroy(s);
}

static void blocks_out_of_range_and_without_a_generation_are_refused(void **state) {
    const machine *m = *state;
    kv_store *s = create(m, "f16");
    const block_id behind = {5, 1}, none = {1, 0};
    st_error e = {0};
    assert_int_equal(ST_FATAL_PROTOCOL, kv_store_accept(s, &behind, 1, &e));
    assert_non_null(strstr(e.message, "block 5; the store has 5"));
    assert_int_equal(ST_FATAL_PROTOCOL, kv_store_accept(s, &none, 1, &e));
    assert_int_equal(ST_OK, kv_store_accept(s, NULL, 0, &e));
    kv_store_destroy(s);
}

static uint8_t byte_at(size_t i) { return (uint8_t)(i * 131 + (i >> 8) * 7 + 1); }

/* Byte by byte against the layout that kernels.h draws, for every type, range of heads and number of tokens. */
static void a_piece_is_the_rows_of_its_heads_and_tokens(void **state) {
    const machine *m = *state;
    const kv_type *t;
    for (uint32_t i = 0; (t = kv_type_at(i)); i++) {
        kv_store *s = create(m, t->name);
        const size_t row[2] = {kernels_kv_row_bytes(t->k, 32), kernels_kv_row_bytes(t->v, 32)}, token = row[0] + row[1];
        size_t n_store = kv_store_bytes(s);
        uint8_t *before = mem_alloc(n_store, 1), *piece = mem_alloc(2 * 32 * token, 1), *after = mem_alloc(n_store, 1);
        for (size_t k = 0; k < n_store; k++) before[k] = byte_at(k);
        for (uint32_t first = 0; first < 2; first++)
            for (uint32_t n = 1; first + n <= 2; n++)
                for (uint32_t tokens = 1; tokens <= 32; tokens += tokens == 1 ? 18 : 13) {
                    const kv_piece p = {.layer = 2, .heads = {first, n}, .n_tokens = tokens, .token_bytes = (uint32_t)token};
                    size_t bytes = n * tokens * token;
                    m->ops->upload(m->device, kv_store_view(s)->at, before, n_store);
                    assert_int_equal(ST_OK, kv_store_load(s, 3, &p, piece, bytes));
                    uint8_t *at = piece;
                    memcpy(after, before, n_store);
                    for (uint32_t kv = 0; kv < 2; kv++)
                        for (uint32_t h = first; h < first + n; h++)
                            for (size_t b = 0; b < tokens * row[kv]; b++, at++) {
                                size_t place = (3 * 3 + 2) * 2 * 32 * token + kv * 2 * 32 * row[0] + h * 32 * row[kv] + b;
                                assert_int_equal(*at, byte_at(place));
                                after[place] = *at = (uint8_t) ~*at;
                            }
                    assert_int_equal(ST_OK, kv_store_store(s, 3, &p, piece, bytes));
                    assert_memory_equal(m->ops->host(m->device, kv_store_view(s)->at, n_store), after, n_store);
                }
        mem_free(before), mem_free(piece), mem_free(after);
        kv_store_destroy(s);
    }
}

/* Cut anywhere, also in the middle of a row, and put together in any order. */
static void the_parts_of_a_piece_are_the_piece(void **state) {
    const machine *m = *state;
    const kv_type *t;
    for (uint32_t i = 0; (t = kv_type_at(i)); i++) {
        kv_store *s = create(m, t->name);
        const size_t token = kernels_kv_row_bytes(t->k, 32) + kernels_kv_row_bytes(t->v, 32), n_store = kv_store_bytes(s);
        uint8_t *before = mem_alloc(n_store, 1), *whole = mem_alloc(2 * 32 * token, 1), *part = mem_alloc(2 * 32 * token, 1);
        for (size_t k = 0; k < n_store; k++) before[k] = byte_at(k);
        for (uint32_t tokens = 5; tokens <= 32; tokens += 27)
            for (size_t each = 1; each < 2 * tokens * token; each = each * 3 + 4) {
                kv_piece p = {.layer = 1, .heads = {0, 2}, .n_tokens = tokens, .token_bytes = (uint32_t)token};
                const size_t bytes = 2 * tokens * token;
                m->ops->upload(m->device, kv_store_view(s)->at, before, n_store);
                assert_int_equal(ST_OK, kv_store_load(s, 2, &p, whole, bytes));
                for (size_t at = (bytes - 1) / each * each;; at -= each) {
                    const size_t n = bytes - at < each ? bytes - at : each;
                    p.first_byte = at;
                    assert_int_equal(ST_OK, kv_store_load(s, 2, &p, part, n));
                    assert_memory_equal(part, whole + at, n);
                    assert_int_equal(ST_OK, kv_store_store(s, 4, &p, part, n));
                    if (!at) break;
                }
                p.first_byte = 0;
                assert_int_equal(ST_OK, kv_store_load(s, 4, &p, part, bytes));
                assert_memory_equal(part, whole, bytes);
                const uint8_t *after = m->ops->host(m->device, kv_store_view(s)->at, n_store);
                size_t n_changed = 0;
                for (size_t k = 0; k < n_store; k++) n_changed += after[k] != before[k];
                assert_true(n_changed <= bytes); /* and no others */
            }
        mem_free(before), mem_free(whole), mem_free(part);
        kv_store_destroy(s);
    }
}

static void a_piece_that_the_store_does_not_have_is_refused(void **state) {
    const machine *m = *state;
    kv_store *s = create(m, "f16");
    const uint32_t row = 64;
    uint8_t bytes[2 * 3 * 33 * 64];
    const kv_piece good = {.layer = 2, .heads = {0, 2}, .n_tokens = 32, .token_bytes = 2 * row};
    for (int i = 0; i < 14; i++) {
        kv_piece p = good;
        uint32_t block = 4;
        size_t n = 2 * 2 * 32 * row;
        switch (i) {
        case 0: break; /* as it should be */
        case 1: block = 5; break;
        case 2: p.layer = 3; break;
        case 3: p.heads = (kv_heads){1, 2}; break;
        case 4: p.heads = (kv_heads){UINT32_MAX, 2}; break;
        case 5: p.heads.n = 0, n = 0; break;
        case 6: p.n_tokens = 33, n = 2 * 2 * 33 * row; break;
        case 7: p.n_tokens = 0, n = 0; break;
        case 8: p.token_bytes = 64, n /= 2; break;
        case 9: n++; break;
        case 10: n = 0; break;
        case 11: p.first_byte = 1; break;
        case 12: p.first_byte = n, n = 1; break;
        default: p.first_byte = SIZE_MAX, n = 2;
        }
        assert_int_equal(i ? ST_ERR_INVALID_ARGUMENT : ST_OK, kv_store_load(s, block, &p, bytes, n));
        assert_int_equal(i ? ST_ERR_INVALID_ARGUMENT : ST_OK, kv_store_store(s, block, &p, bytes, n));
    }
    kv_store_destroy(s);
}

static void creation_survives_any_failed_allocation(void **state) {
    const machine *m = *state;
    kv_shape shape = shape_of("f32");
    st_code c = ST_FATAL_MEMORY;
    uint64_t n = 0;
    while (c != ST_OK) {
        kv_store *s = NULL;
        st_error e = {0};
        mem_fail_at(++n);
        c = kv_store_create(m->ops, m->device, &shape, &s, &e);
        mem_fail_at(0);
        assert_true(c == ST_OK || (c == ST_FATAL_MEMORY && e.message[0]));
        kv_store_destroy(s);
    }
    assert_true(n > 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_is_found_by_its_name_and_sizes_its_store),
        cmocka_unit_test(a_token_has_the_bytes_that_its_type_says),
        cmocka_unit_test(a_type_that_is_not_named_goes_with_the_precision),
        cmocka_unit_test(shapes_without_content_are_refused),
        cmocka_unit_test(a_store_that_memory_cannot_hold_says_how_large_it_would_be),
        cmocka_unit_test(a_plan_may_name_a_block_again_and_under_a_newer_generation_but_not_an_older),
        cmocka_unit_test(blocks_out_of_range_and_without_a_generation_are_refused),
        cmocka_unit_test(a_piece_is_the_rows_of_its_heads_and_tokens),
        cmocka_unit_test(the_parts_of_a_piece_are_the_piece),
        cmocka_unit_test(a_piece_that_the_store_does_not_have_is_refused),
        cmocka_unit_test(creation_survives_any_failed_allocation),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
