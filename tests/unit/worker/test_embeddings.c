/* Embeddings: cosines of the rows of a small file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/mem.h"
#include "tests/unit/model_text/gguf_writer.h"
#include "worker/worker.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROWS = 5, DIM = 32, F32 = 0, F16 = 1 };

static const char *write_file(const char *tensor, uint32_t n_dims, const void *bytes, size_t n, uint32_t format) {
    static char path[] = "/tmp/embeddings-XXXXXX";
    static gguf g;
    g.n = 0;
    w_header(&g, 3, 1, 1);
    w_key_text(&g, "general.architecture", "llama");
    w_tensor(&g, tensor, n_dims, (uint64_t[]){DIM, ROWS}, format, 0);
    w_pad(&g, 32, 0);
    w_bytes(&g, bytes, n);
    memcpy(path + sizeof path - 7, "XXXXXX", 6);
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, g.bytes, g.n) == (ssize_t)g.n && close(fd) == 0);
    return path;
}

static void similarity_is_the_cosine_of_two_rows(void **state) {
    (void)state;
    static float rows[ROWS][DIM];
    worker_embeddings *m = NULL;
    st_error e = {0};
    for (uint32_t i = 0; i < DIM; i++) {
        rows[0][i] = 1;
        rows[1][i] = i < DIM / 2 ? 3 : 0;
        rows[2][i] = -2;
        rows[3][i] = i < DIM / 2 ? 0 : 5;
    }
    const char *path = write_file("token_embd.weight", 2, rows, sizeof rows, F32);
    if (worker_embeddings_open(path, &m, &e)) fail_msg("%s", e.message);
    unlink(path);
    const struct {
        uint32_t a, b;
        double expected;
    } cases[] = {{0, 0, 1}, {0, 1, sqrt(0.5)}, {1, 0, sqrt(0.5)}, {0, 2, -1},        {1, 3, 0},
                 {0, 4, 0}, {4, 4, 0},         {0, ROWS, 0},      {UINT32_MAX, 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_true(fabs((double)worker_similarity(m, cases[i].a, cases[i].b) - cases[i].expected) < 1e-6);
    worker_embeddings_close(m);
    worker_embeddings_close(NULL);
}

static void rows_are_dequantized(void **state) {
    (void)state;
    static uint16_t rows[ROWS][DIM];
    worker_embeddings *m = NULL;
    st_error e = {0};
    for (uint32_t i = 0; i < DIM; i++)
        rows[0][i] = 0x3c00, rows[1][i] = i % 2 ? 0x3c00 : 0xbc00, rows[2][i] = 0x7c00; /* 1, +-1, inf */
    const char *path = write_file("token_embd.weight", 2, rows, sizeof rows, F16);
    if (worker_embeddings_open(path, &m, &e)) fail_msg("%s", e.message);
    unlink(path);
    assert_true(worker_similarity(m, 0, 0) == 1 && worker_similarity(m, 0, 1) == 0 && worker_similarity(m, 0, 2) == 0);
    worker_embeddings_close(m);
}

static void a_file_without_a_matrix_of_embeddings_is_refused(void **state) {
    (void)state;
    static float rows[ROWS][DIM];
    for (uint32_t k = 0; k < 3; k++) {
        worker_embeddings *m = NULL;
        st_error e = {0};
        const char *path =
            write_file(k ? "token_embd.weight" : "other", k == 1 ? 1 : 2, rows, k == 1 ? sizeof *rows : sizeof rows, F32);
        if (k == 2) unlink(path);
        assert_int_not_equal(worker_embeddings_open(path, &m, &e), ST_OK);
        if (k < 2) assert_non_null(strstr(e.message, "token_embd.weight: expected a matrix of a row for each token"));
        assert_null(m);
        unlink(path);
    }
}

static void opening_survives_each_failing_allocation(void **state) {
    (void)state;
    static float rows[ROWS][DIM];
    const char *path = write_file("token_embd.weight", 2, rows, sizeof rows, F32);
    for (uint64_t n = 1;; n++) {
        worker_embeddings *m = NULL;
        st_error e = {0};
        mem_fail_at(n);
        st_code code = worker_embeddings_open(path, &m, &e);
        mem_fail_at(0);
        worker_embeddings_close(m);
        if (!code) break;
        assert_int_equal(code, ST_FATAL_MEMORY);
    }
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(similarity_is_the_cosine_of_two_rows),
        cmocka_unit_test(rows_are_dequantized),
        cmocka_unit_test(a_file_without_a_matrix_of_embeddings_is_refused),
        cmocka_unit_test(opening_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
