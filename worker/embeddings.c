#include "worker/worker.h"

#include "base/mem.h"
#include "kernels/kernels.h"
#include "model/file.h"
#include <math.h>

struct worker_embeddings {
    model_file *file;
    const kernels_ops *ops;
    kernels_device *device;
    kernels_buffer *rows; /* f32 [2][cols] */
    kernels_matrix table;
};

static st_code find_table(worker_embeddings *m, st_error *e) {
    const model_tensor *t = model_file_tensor(m->file, "token_embd.weight");
    if (!t || t->n_dims != 2 || t->dims[0] > UINT32_MAX || t->dims[1] > UINT32_MAX)
        return st_fail(e, ST_ERR_FORMAT, "%s: token_embd.weight: expected a matrix of a row for each token",
                       model_file_path(m->file));
    m->table = (kernels_matrix){(kernels_format)t->format, (uint32_t)t->dims[1], (uint32_t)t->dims[0], t->bytes};
    return ST_OK;
}

st_code worker_embeddings_open(const char *model, worker_embeddings **out, st_error *e) {
    worker_embeddings *m = mem_alloc(1, sizeof *m);
    if (!m) return st_fail(e, ST_FATAL_MEMORY, "no memory for embeddings");
    st_code code = model_file_open(model, &m->file, e);
    if (!code) code = find_table(m, e);
    if (!code) code = kernels_pick("scalar", &m->ops, e);
    if (!code) code = m->ops->create(1, &m->device, e);
    if (!code && m->ops->alloc(m->device, 2 * sizeof(float) * m->table.cols, &m->rows))
        code = st_fail(e, ST_FATAL_MEMORY, "no memory for embeddings");
    if (code) {
        worker_embeddings_close(m);
        return code;
    }
    *out = m;
    return ST_OK;
}

void worker_embeddings_close(worker_embeddings *m) {
    if (!m) return;
    if (m->rows) m->ops->free(m->device, m->rows);
    if (m->device) m->ops->destroy(m->device);
    model_file_close(m->file);
    mem_free(m);
}

float worker_similarity(void *embeddings, uint32_t a, uint32_t b) {
    worker_embeddings *m = embeddings;
    const uint32_t token[2] = {a, b};
    if (a >= m->table.rows || b >= m->table.rows) return 0;
    m->ops->embed(m->device, (kernels_view){.buffer = m->rows}, &m->table, token, 2);
    const float *x = m->ops->host(m->device, (kernels_view){.buffer = m->rows}, 2 * sizeof *x * m->table.cols);
    const float *y = x + m->table.cols;
    double product = 0, xx = 0, yy = 0;
    for (uint32_t i = 0; i < m->table.cols; i++) {
        product += (double)x[i] * (double)y[i];
        xx += (double)x[i] * (double)x[i];
        yy += (double)y[i] * (double)y[i];
    }
    double norm = sqrt(xx * yy);
    return norm > 0 && isfinite(product / norm) ? (float)(product / norm) : 0;
}
