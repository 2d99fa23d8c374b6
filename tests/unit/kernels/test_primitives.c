/* Every primitive of every instruction set against ref/, bit for bit, over odd sizes, with guard bytes behind each output. */
#include "tests/unit/kernels/kernels_test.h"

enum { GUARD = 64, GUARD_BYTE = 0xA5, MAX = 1700 };

/* What every fast table is compared with; NULL-terminated. */
static const kernels_primitives *fast[RIG_N_ISAS];

static void *guarded(size_t n_bytes) {
    uint8_t *p = mem_alloc_aligned(n_bytes + GUARD, 1, 64);
    assert_non_null(p);
    memset(p, GUARD_BYTE, n_bytes + GUARD);
    return p;
}
static void assert_guarded(const void *p, size_t n_bytes) {
    for (size_t i = 0; i < GUARD; i++) assert_int_equal(((const uint8_t *)p)[n_bytes + i], GUARD_BYTE);
}

/* Values as a forward pass may meet them: mostly ordinary, some huge, tiny, subnormal, zero of either sign, not finite. */
static void fill_odd(values *v, float *x, size_t n) {
    static const float odd[] = {0.0f, -0.0f, 1e-42f, -3e38f, 0x1p-100f, 0x1.fp-101f, 65520.0f, -65519.0f, 1e-8f, INFINITY, NAN};
    fill(v, x, n, 4.0f);
    for (size_t i = 0; i < n; i++)
        if (below(v, 16) == 0) x[i] = odd[below(v, below(v, 8) ? 9 : 11)];
}

static void quantizing_equals_ref(void **state) {
    (void)state;
    values v = {.seed = 1};
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t k = 1; k <= 200; k++)
            for (int odd = 0; odd < 2; odd++) {
                float x[200];
                (odd ? fill_odd(&v, x, k) : fill(&v, x, k, 3.0f));
                uint32_t n = (k + 31) / 32;
                kernels_act *a = guarded(n * sizeof *a), *b = guarded(n * sizeof *b);
                kernels_ref()->quantize(a, x, k);
                (*p)->quantize(b, x, k);
                assert_guarded(a, n * sizeof *a);
                assert_guarded(b, n * sizeof *b);
                for (uint32_t i = 0; i < n; i++) {
                    assert_memory_equal(a[i].q, b[i].q, 32);
                    assert_int_equal(a[i].sum, b[i].sum);
                    assert_int_equal(a[i].sum_low, b[i].sum_low);
                    assert_true(same_float(a[i].d, b[i].d));
                    assert_true(same_float(a[i].d_sum, b[i].d_sum));
                }
                mem_free(a);
                mem_free(b);
            }
}

/* All bits of codes and scales, not finite ones too. */
static void dequantizing_equals_the_layouts_unpack(void **state) {
    (void)state;
    values v = {.seed = 3};
    for (const kernels_primitives **p = fast; *p; p++)
        for (kernels_format f = KERNELS_Q4_0; f < KERNELS_N_FORMATS; f++) {
            const kernels_layout *l = kernels_layout_of(f);
            uint8_t *tile = guarded(l->tile_bytes);
            assert_non_null((*p)->dequantize[f]); /* or fp32 goes the slow way */
            float(*out)[KERNELS_LANES] = guarded(KERNELS_GROUP * sizeof *out);
            for (uint32_t trial = 0; trial < 60; trial++) {
                for (uint32_t i = 0; i < l->tile_bytes; i++) tile[i] = (uint8_t)next_u32(&v);
                for (uint32_t g = 0; g < l->tile_k / KERNELS_GROUP; g++) {
                    (*p)->dequantize[f](out, tile, g);
                    assert_guarded(out, KERNELS_GROUP * sizeof *out);
                    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) {
                        float expected[KERNELS_GROUP];
                        l->unpack(expected, tile, g * KERNELS_GROUP, lane);
                        for (uint32_t k = 0; k < KERNELS_GROUP; k++) assert_same_floats(&expected[k], &out[k][lane], 1);
                    }
                }
            }
            mem_free(tile);
            mem_free(out);
        }
}

/* The groups of a strip from column k0 on as wide tiles. */
static uint8_t *widened(const kernels_primitives *p, kernels_format f, const uint8_t *tiles, uint32_t k0, uint32_t cols) {
    const kernels_layout *l = kernels_layout_of(f);
    const uint32_t bytes = tile_bytes(tile_wide_shapes[f]), n = cols / KERNELS_GROUP;
    uint8_t *wide = guarded((size_t)n * bytes);
    for (uint32_t g = n; g-- > 0;) { /* from the last on, so that one which wrote too much would spoil the next */
        uint32_t k = k0 + g * KERNELS_GROUP;
        p->widen[f](wide + (size_t)g * bytes, tiles + (size_t)(k / l->tile_k) * l->tile_bytes, k % l->tile_k / KERNELS_GROUP);
    }
    assert_guarded(wide, (size_t)n * bytes);
    return wide;
}

/* Columns k0 .. k0 + cols - 1 of a strip, as it is packed, or made wide. */
static void one_product(const kernels_primitives *p, kernels_format f, uint32_t n_tokens, bool is_wide, uint32_t k0,
                        uint32_t cols, uint64_t seed) {
    values v = {.seed = seed};
    const kernels_format_info *info = kernels_format_of(f);
    const kernels_layout *l = kernels_layout_of(f);
    uint32_t n_tiles = (k0 + cols - 1) / l->tile_k + 1;
    uint8_t *blocks = random_blocks(&v, f, KERNELS_LANES, n_tiles * l->tile_k);
    uint8_t *tiles = guarded((size_t)n_tiles * l->tile_bytes);
    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++)
        for (uint32_t b = 0; b < n_tiles; b++)
            l->pack(tiles + (size_t)b * l->tile_bytes, blocks + ((size_t)lane * n_tiles + b) * info->block_bytes, lane);
    assert_guarded(tiles, (size_t)n_tiles * l->tile_bytes);
    float *x = mem_alloc(n_tokens * cols, sizeof *x);
    fill(&v, x, n_tokens * cols, 2.0f);
    if (seed & 1) fill_odd(&v, x, cols); /* one token with odd values: the others must not notice */
    size_t stride = kernels_layout_is_float(l) ? cols * sizeof *x : cols / 32 * sizeof(kernels_act);
    kernels_act *act = mem_alloc(n_tokens, cols / 32 * sizeof *act + 1);
    for (uint32_t t = 0; t < n_tokens && !kernels_layout_is_float(l); t++)
        kernels_ref()->quantize((kernels_act *)((char *)act + t * stride), x + t * cols, cols);
    const char *in = kernels_layout_is_float(l) ? (const char *)x : (const char *)act;
    const uint32_t step = l->step_k, unit = (1 + (uint32_t)(seed % 7)) * step * (l->step_k == 1 ? 149 : 3);
    const uint32_t n_units = (cols - 1) / unit + 1;
    size_t out_bytes = n_units * n_tokens * sizeof(float[KERNELS_LANES]), step_bytes = stride / (cols / step);
    float(*all)[KERNELS_LANES] = guarded(out_bytes), (*one)[KERNELS_LANES] = guarded(sizeof *one);
    uint8_t *wide = is_wide ? widened(p, f, tiles, k0, cols) : NULL;
    if (is_wide)
        p->product_wide[f](all, wide, 0, in, stride, n_tokens, cols, unit, (kernels_ahead){(uintptr_t)tiles, 80, 64});
    else
        p->product[f](all, tiles, k0, in, stride, n_tokens, cols, unit, (kernels_ahead){(uintptr_t)tiles, 80, 64});
    assert_guarded(all, out_bytes);
    for (uint32_t u = 0; u < n_units; u++)
        for (uint32_t t = 0; t < n_tokens; t++) { /* ref, a unit of a token at a time: also shows that grouping does not matter */
            uint32_t k = u * unit, n_k = cols - k < unit ? cols - k : unit;
            l->product(one, tiles, k0 + k, in + t * stride + k / step * step_bytes, stride, 1, n_k, n_k, (kernels_ahead){0});
            assert_guarded(one, sizeof *one);
            assert_same_floats(one[0], all[u * n_tokens + t], KERNELS_LANES);
        }
    mem_free(wide);
    mem_free(one);
    mem_free(all);
    mem_free(act);
    mem_free(x);
    mem_free(tiles);
    mem_free(blocks);
}

static void products_equal_ref_for_every_format_and_number_of_tokens(void **state) {
    (void)state;
    static const uint32_t sizes[] = {1, 3, 5, 15, 16, 17, 18, 33, 48};
    for (const kernels_primitives **p = fast; *p; p++)
        for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++) {
            assert_non_null((*p)->product[f]);
            const bool widens = (*p)->widen[f] && !kernels_layout_is_float(kernels_layout_of(f));
            const uint32_t step = kernels_layout_of(f)->step_k, most = widens ? (*p)->wide_tokens : (*p)->tile_tokens;
            assert_true(most >= (*p)->tile_tokens && most <= KERNELS_TILE_TOKENS);
            for (uint32_t n = 1; n <= most; n++)
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                    uint32_t k0 = (uint32_t)s % 4 * 3 * step, cols = step == 1 ? sizes[s] * 23 : sizes[s] * step;
                    if (n <= (*p)->tile_tokens) one_product(*p, f, n, false, k0, cols, 100 * n + s + f);
                    if (widens) one_product(*p, f, n, true, k0, cols, 100 * n + s + f);
                }
        }
}

/* The largest integers that a file can hold: the fast sums must not saturate. */
static void products_of_extreme_integers_do_not_saturate(void **state) {
    (void)state;
    for (const kernels_primitives **p = fast; *p; p++)
        for (kernels_format f = 0; f < KERNELS_N_FORMATS; f++)
            for (int byte = 0; byte < 256; byte++)
                for (int sign = -1; sign <= 1; sign += 2) {
                    const kernels_layout *l = kernels_layout_of(f);
                    const tile_shape *shape = &tile_shapes[f];
                    if (kernels_layout_is_float(l)) continue;
                    uint8_t block[256], *tile = mem_alloc(1, l->tile_bytes);
                    memset(block, byte, sizeof block);
                    if (shape->scale == TILE_E8M0)
                        block[shape->d_at] = 128;
                    else
                        memcpy(block + shape->d_at, (uint8_t[]){0, 0x3c, 0, 0x3c}, shape->has_min ? 4 : 2); /* 1.0 */
                    for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) l->pack(tile, block, lane);
                    kernels_act a = {
                        .d = 1, .d_sum = (float)(sign * 32 * 127), .sum = sign * 32 * 127, .sum_low = sign * 16 * 127};
                    memset(a.q, sign * 127, sizeof a.q);
                    float x[1][KERNELS_LANES], y[1][KERNELS_LANES];
                    for (uint32_t k = 0; k < l->tile_k; k += KERNELS_GROUP) {
                        l->product(x, tile, k, &a, sizeof a, 1, KERNELS_GROUP, KERNELS_GROUP, (kernels_ahead){0});
                        (*p)->product[f](y, tile, k, &a, sizeof a, 1, KERNELS_GROUP, KERNELS_GROUP, (kernels_ahead){0});
                        assert_same_floats(x[0], y[0], KERNELS_LANES);
                        if (!(*p)->widen[f]) continue;
                        uint8_t *wide = widened(*p, f, tile, k, KERNELS_GROUP);
                        (*p)->product_wide[f](y, wide, 0, &a, sizeof a, 1, KERNELS_GROUP, KERNELS_GROUP, (kernels_ahead){0});
                        assert_same_floats(x[0], y[0], KERNELS_LANES);
                        mem_free(wide);
                    }
                    mem_free(tile);
                }
}

/* E8M0 bytes, of which the two smallest are subnormal. */
static void every_power_of_two_as_a_scale_equals_ref(void **state) {
    (void)state;
    for (const kernels_primitives **p = fast; *p; p++)
        for (int byte = 0; byte < 256; byte++) {
            const kernels_layout *l = kernels_layout_of(KERNELS_MXFP4);
            uint8_t block[17], *tile = mem_alloc(1, l->tile_bytes);
            memset(block, 0x21, sizeof block);
            block[0] = (uint8_t)byte;
            for (uint32_t lane = 0; lane < KERNELS_LANES; lane++) l->pack(tile, block, lane);
            kernels_act a = {.q = {1, 3, -5}, .d = 0.75f, .d_sum = -0.75f, .sum = -1, .sum_low = -1};
            float x[1][KERNELS_LANES], y[1][KERNELS_LANES];
            l->product(x, tile, 0, &a, sizeof a, 1, KERNELS_GROUP, KERNELS_GROUP, (kernels_ahead){0});
            (*p)->product[KERNELS_MXFP4](y, tile, 0, &a, sizeof a, 1, KERNELS_GROUP, KERNELS_GROUP, (kernels_ahead){0});
            assert_true(x[0][0] != 0);
            assert_same_floats(x[0], y[0], KERNELS_LANES);
            mem_free(tile);
        }
}

static void row_primitives_equal_ref(void **state) {
    (void)state;
    values v = {.seed = 3};
    float *x = mem_alloc(MAX, 4), *w = mem_alloc(MAX, 4);
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t n = 1; n < 260; n++)
            for (int odd = 0; odd < 2; odd++) {
                (odd ? fill_odd(&v, x, n) : fill(&v, x, n, 100.0f));
                fill(&v, w, n, 1.0f);
                float *a = guarded(n * 4), *b = guarded(n * 4);
                kernels_ref()->rmsnorm(a, x, w, n, 1e-5f);
                (*p)->rmsnorm(b, x, w, n, 1e-5f);
                assert_same_floats(a, b, n);
                for (int k = 0; k < KERNELS_N_ACTIVATIONS; k++) {
                    kernels_ref()->glu[k](a, x, w, n);
                    (*p)->glu[k](b, x, w, n);
                    assert_same_floats(a, b, n);
                }
                for (int k = 0; k < KERNELS_N_ROPES; k++) {
                    memcpy(a, x, n * 4);
                    memcpy(b, x, n * 4);
                    kernels_ref()->rope[k](a, w, 1, n & ~1u);
                    (*p)->rope[k](b, w, 1, n & ~1u);
                    assert_same_floats(a, b, n);
                }
                assert_guarded(b, n * 4);
                mem_free(a);
                mem_free(b);
            }
    mem_free(x);
    mem_free(w);
}

/* Sums of 16 lanes a token, over several partials, with values at and beyond the limit. */
static void sums_on_the_grid_equal_ref(void **state) {
    (void)state;
    enum { N = 4 * KERNELS_LANES };
    values v = {.seed = 4};
    float y[5 * N];
    double a[N], b[N], limits[] = {0x1p23, 0x1p25 / 90, 1.0};
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t round = 0; round < 300; round++) {
            memset(a, 0, sizeof a);
            memset(b, 0, sizeof b);
            double limit = limits[round % 3];
            (round % 3 ? fill(&v, y, 5 * N, 3.0f) : fill_odd(&v, y, 5 * N));
            y[round % (5 * N)] = (float)(round & 1 ? limit : -limit); /* just too large */
            kernels_ref()->add_on_grid(a, y, 4, N, limit);
            kernels_ref()->add_on_grid(a, y + 4 * N, 1, N, limit);
            (*p)->add_on_grid(b, y, 3, N, limit);
            (*p)->add_on_grid(b, y + 3 * N, 2, N, limit);
            for (uint32_t i = 0; i < N; i++) assert_true(memcmp(&a[i], &b[i], sizeof a[i]) == 0 || (isnan(a[i]) && isnan(b[i])));
            assert_true(isnan(a[round % N]));
        }
}

/* What the row primitives mean, in plain doubles. */
static void row_primitives_compute_their_formulas(void **state) {
    (void)state;
    enum { DIM = 70 };
    values v = {.seed = 6};
    float x[DIM], w[DIM], out[DIM];
    double sum = 0;
    fill(&v, x, DIM, 5.0f);
    fill(&v, w, DIM, 5.0f);
    for (uint32_t i = 0; i < DIM; i++) sum += (double)x[i] * (double)x[i];
    kernels_ref()->rmsnorm(out, x, w, DIM, 0.25f);
    for (uint32_t i = 0; i < DIM; i++)
        assert_true(fabs((double)x[i] * (double)w[i] / sqrt(sum / DIM + 0.25) - (double)out[i]) < 1e-5);
    kernels_ref()->glu[KERNELS_SILU](out, x, w, DIM);
    for (uint32_t i = 0; i < DIM; i++)
        assert_true(fabs((double)x[i] * (double)w[i] / (1 + exp(-(double)x[i])) - (double)out[i]) < 1e-5);
    kernels_ref()->glu[KERNELS_GELU](out, x, w, DIM);
    for (uint32_t i = 0; i < DIM; i++) {
        double g = (double)x[i], gelu = 0.5 * g * (1 + tanh(sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g)));
        assert_true(fabs(gelu * (double)w[i] - (double)out[i]) < 1e-5);
    }
    memcpy(out, x, sizeof out);
    kernels_ref()->rope[KERNELS_ROPE_NEIGHBOURS](out, w, 2, DIM / 2 - 1); /* two heads turn by the same angles */
    for (uint32_t h = 0; h < 2; h++)
        for (uint32_t i = 0; i < DIM / 2 - 1; i += 2) {
            const float *a = x + h * (DIM / 2 - 1) + i, *b = out + h * (DIM / 2 - 1) + i;
            assert_true(fabs((double)a[0] * (double)w[i] - (double)a[1] * (double)w[i + 1] - (double)b[0]) < 1e-5);
            assert_true(fabs((double)a[0] * (double)w[i + 1] + (double)a[1] * (double)w[i] - (double)b[1]) < 1e-5);
        }
    assert_memory_equal(out + DIM - 2, x + DIM - 2, 2 * sizeof *x);
    memcpy(out, x, sizeof out);
    kernels_ref()->rope[KERNELS_ROPE_HALVES](out, w, 1, DIM);
    for (uint32_t i = 0; i < DIM / 2; i++) {
        double c = (double)w[2 * i], s = (double)w[2 * i + 1], a = (double)x[i], b = (double)x[i + DIM / 2];
        assert_true(fabs(a * c - b * s - (double)out[i]) < 1e-5);
        assert_true(fabs(a * s + b * c - (double)out[i + DIM / 2]) < 1e-5);
    }
}

static void every_half_decodes_and_encodes_as_ref(void **state) {
    (void)state;
    uint16_t *h = mem_alloc(65536, 2), *back = mem_alloc(65536, 2);
    float *a = mem_alloc(65536, 4), *b = mem_alloc(65536, 4);
    for (uint32_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    for (const kernels_primitives **p = fast; *p; p++) {
        kernels_ref()->kv_decode[KERNELS_KV_F16](a, h, 1, 65536);
        (*p)->kv_decode[KERNELS_KV_F16](b, h, 1, 65536);
        assert_memory_equal(a, b, 65536 * 4); /* also the bits of NaN: the store is moved between machines */
        values v = {.seed = 4};
        for (uint32_t i = 0; i < 65536; i++) { /* near the rounding borders between halves, and anywhere */
            uint32_t u;
            memcpy(&u, &a[i], 4);
            u += below(&v, 8) ? 0x1000u + below(&v, 3) - 1 : next_u32(&v);
            memcpy(&b[i], &u, 4);
        }
        kernels_ref()->kv_encode[KERNELS_KV_F16](h, b, 65536);
        (*p)->kv_encode[KERNELS_KV_F16](back, b, 65535);
        assert_memory_equal(h, back, 65535 * 2);
        assert_int_equal(back[65535], 0);
        for (uint32_t i = 0; i < 65536; i++) h[i] = (uint16_t)i;
    }
    mem_free(h);
    mem_free(back);
    mem_free(a);
    mem_free(b);
}

static void attention_of_a_chunk_equals_ref(void **state) {
    (void)state;
    values v = {.seed = 5};
    static const uint32_t dims[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, 40, 64, 72, 80, 96, 100, 128, 136, 256};
    enum { MOST_QUERIES = 8 };
    float *q = mem_alloc(MOST_QUERIES * 256, 4), *k = mem_alloc(32 * 256, 4), *u = mem_alloc(32 * 256, 4);
    for (const kernels_primitives **p = fast; *p; p++)
        for (size_t s = 0; s < sizeof dims / sizeof *dims; s++)
            for (uint32_t n = 1; n <= 32; n++) {
                uint32_t dim = dims[s], n_queries = 1 + (n + dim) % MOST_QUERIES;
                fill(&v, q, n_queries * dim, 2.0f);
                fill(&v, k, 32 * dim, 2.0f);
                (n % 8 == 3 ? fill_odd(&v, u, 32 * dim) : fill(&v, u, 32 * dim, 2.0f));
                float *a = guarded(n_queries * dim * 4), *b = guarded(n_queries * dim * 4);
                memset(a, 0, n_queries * dim * 4);
                memset(b, 0, n_queries * dim * 4);
                kernels_softmax x[MOST_QUERIES], y[MOST_QUERIES];
                kernels_query ours[MOST_QUERIES], refs[MOST_QUERIES];
                for (uint32_t t = 0; t < n_queries; t++) {
                    x[t] = y[t] = (kernels_softmax){-INFINITY, 0};
                    refs[t] = (kernels_query){&x[t], a + t * dim, q + t * dim};
                    ours[t] = (kernels_query){&y[t], b + t * dim, q + t * dim};
                }
                for (int chunk = 0; chunk < 2; chunk++) { /* the second rescales */
                    kernels_ref()->attend(refs, n_queries, k, u, n, dim, 1.0f + (float)chunk);
                    (*p)->attend(ours, n_queries, k, u, n, dim, 1.0f + (float)chunk);
                    assert_same_floats(a, b, n_queries * dim);
                    for (uint32_t t = 0; t < n_queries; t++) {
                        assert_same_floats(&x[t].l, &y[t].l, 1);
                        assert_true(x[t].m == y[t].m);
                    }
                }
                assert_guarded(b, n_queries * dim * 4);
                mem_free(a);
                mem_free(b);
            }
    mem_free(q);
    mem_free(k);
    mem_free(u);
}

/* Queries side by side, each with positions of its own: before, inside and behind the chunks, some with none in a chunk. */
static void attention_side_by_side_equals_ref(void **state) {
    (void)state;
    enum { CHUNKS = 3, KEYS = CHUNKS * KERNELS_CHUNK_KEYS - 5 };
    static const uint32_t dims[] = {1, 8, 15, 16, 17, 40, 64, 100, 128, 256};
    values v = {.seed = 7};
    float *q = mem_alloc(KERNELS_LANES * 256, 4), *k = mem_alloc(KEYS * 256, 4), *u = mem_alloc(KEYS * 256, 4);
    for (const kernels_primitives **p = fast; *p; p++)
        for (uint32_t trial = 0; trial < 12 * sizeof dims / sizeof *dims && (*p)->attend_lanes; trial++) {
            const uint32_t dim = dims[trial / 12], n = 1 + below(&v, KERNELS_LANES), p0 = 64, end = p0 + KEYS;
            float *a = mem_alloc(KERNELS_LANES * dim, 4), *b = guarded(n * dim * 4);
            kernels_lanes *l = guarded(sizeof *l);
            kernels_softmax s[KERNELS_LANES], ours[KERNELS_LANES];
            const float *rows[KERNELS_LANES];
            kernels_query closed[KERNELS_LANES];
            fill(&v, q, KERNELS_LANES * dim, 2.0f);
            fill(&v, k, KEYS * dim, 2.0f);
            (trial % 4 == 3 ? fill_odd(&v, u, KEYS * dim) : fill(&v, u, KEYS * dim, 2.0f));
            for (uint32_t t = 0; t < KERNELS_LANES; t++) {
                rows[t] = q + t * dim;
                closed[t] = (kernels_query){&ours[t], b + t * dim, rows[t]};
                s[t] = (kernels_softmax){-INFINITY, 0};
                const uint32_t last = trial % 3 ? p0 + below(&v, KEYS) : end - 1;
                l->end[t] = (int32_t)last + 1;
                l->first[t] = trial % 3 == 1 ? (int32_t)below(&v, last + 1) : 0;
            }
            (*p)->open_lanes(l, rows, dim);
            for (uint32_t c = p0; c < end; c += KERNELS_CHUNK_KEYS) {
                const uint32_t n_keys = end - c < KERNELS_CHUNK_KEYS ? end - c : KERNELS_CHUNK_KEYS;
                (*p)->attend_lanes(l, c, k + (c - p0) * dim, u + (c - p0) * dim, n_keys, dim, 0.5f);
                for (uint32_t t = 0; t < n; t++) {
                    uint32_t from = (uint32_t)l->first[t] > c ? (uint32_t)l->first[t] : c;
                    uint32_t to = (uint32_t)l->end[t] < c + n_keys ? (uint32_t)l->end[t] : c + n_keys;
                    const size_t at = (size_t)(from - p0) * dim;
                    kernels_query query = {&s[t], a + t * dim, rows[t]};
                    if (from < to) kernels_ref()->attend(&query, 1, k + at, u + at, to - from, dim, 0.5f);
                    assert_same_floats(&s[t].l, &l->l[t], 1);
                }
            }
            const bool done = trial & 1;
            (*p)->close_lanes(l, closed, n, dim, done);
            assert_guarded(l, sizeof *l);
            assert_guarded(b, n * dim * 4);
            for (uint32_t t = 0; done && t < n; t++)
                for (uint32_t i = 0; i < dim; i++) a[t * dim + i] *= 1.0f / s[t].l;
            assert_same_floats(a, b, n * dim);
            for (uint32_t t = 0; t < n; t++) {
                assert_same_floats(&s[t].l, &ours[t].l, 1);
                assert_true(s[t].m == ours[t].m);
            }
            mem_free(l);
            mem_free(a);
            mem_free(b);
        }
    mem_free(q);
    mem_free(k);
    mem_free(u);
}

int main(void) {
    for (int isa = 1, n = 0; isa < RIG_N_ISAS; isa++)
        if (rig_isas[isa].primitives()) fast[n++] = rig_isas[isa].primitives();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dequantizing_equals_the_layouts_unpack),
        cmocka_unit_test(quantizing_equals_ref),
        cmocka_unit_test(products_equal_ref_for_every_format_and_number_of_tokens),
        cmocka_unit_test(products_of_extreme_integers_do_not_saturate),
        cmocka_unit_test(every_power_of_two_as_a_scale_equals_ref),
        cmocka_unit_test(row_primitives_equal_ref),
        cmocka_unit_test(sums_on_the_grid_equal_ref),
        cmocka_unit_test(row_primitives_compute_their_formulas),
        cmocka_unit_test(every_half_decodes_and_encodes_as_ref),
        cmocka_unit_test(attention_of_a_chunk_equals_ref),
        cmocka_unit_test(attention_side_by_side_equals_ref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
