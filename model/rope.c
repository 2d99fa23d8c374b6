/* Rotary angles (Su et al., arXiv 2104.09864): angle of pair i at position p is p times a frequency, in double; cosine and sine
 * are rounded to fp32 once (docs/numerics.md).
 *
 * What: frequencies are made once, at loading, with the file's scaling; a row of the table when its position is first run. Models
 * promise contexts of 2^17 positions and more: to fill such a table first would cost seconds and memory that most runs never
 * need. The table's memory is mapped, so rows that are not reached cost nothing. */
#include "model/model_int.h"

#include "base/cursor.h"
#include "base/fmath.h"
#include <math.h> /* floor and ceil are exact */

/* base^(-2i / head_dim) */
static void unscaled(const model_info *info, double base, double *frequency) {
    double log_base = fmath_log(base);
    for (uint32_t i = 0; i < info->head_dim / 2; i++) frequency[i] = fmath_exp(-2.0 * i / info->head_dim * log_base);
}

/* The pair that turns `turns` times over the original context (YaRN, section 3.2). */
static double yarn_pair(const model_info *info, double turns) {
    const double two_pi = 6.283185307179586;
    return info->head_dim * fmath_log(info->scaling.original_context / (turns * two_pi)) / (2 * fmath_log(info->rope_base));
}

static double within(double x, double least, double most) { return x < least ? least : x > most ? most : x; }

/* Pairs that turn often keep their frequency, those that turn seldom get 1 / factor of it, those between something between. */
static void scale_yarn(const model_info *info, double *frequency) {
    const double last = info->head_dim - 1;
    double low = within(floor(yarn_pair(info, info->scaling.beta_fast)), 0, last);
    double high = within(ceil(yarn_pair(info, info->scaling.beta_slow)), 0, last);
    if (high <= low) high = low + 0.001;
    for (uint32_t i = 0; i < info->head_dim / 2; i++) {
        double stretched = within((i - low) / (high - low), 0, 1);
        frequency[i] = frequency[i] * (1 - stretched) + frequency[i] / info->scaling.factor * stretched;
    }
}

st_code model_rope_init(model *m, const model_tensor *freqs, const char *path, st_error *e) {
    const model_info *info = &m->info;
    double *frequency = m->frequency[0];
    cursor c = cursor_of(freqs ? freqs->bytes : NULL, freqs ? freqs->size_bytes : 0);
    unscaled(info, info->rope_base, frequency);
    if (info->window) unscaled(info, info->rope_base_local, m->frequency[1]);
    if (info->scaling.kind == MODEL_SCALING_YARN) scale_yarn(info, frequency);
    for (uint32_t i = 0; i < info->head_dim / 2; i++) {
        if (info->scaling.kind == MODEL_SCALING_LINEAR) frequency[i] /= info->scaling.factor;
        double divisor = freqs ? (double)cursor_f32(&c) : 1;
        if (!(divisor > 0 && divisor < 1e30))
            return st_fail(e, ST_ERR_FORMAT, "%s: tensor rope_freqs.weight: element %u is %g; expected a positive number", path,
                           i, divisor);
        frequency[i] /= divisor;
    }
    return ST_OK;
}

/* Rows of MODEL_ROPE_ROWS positions from `first`. */
static void write_rows(model *m, model_place place, const double *frequency, double magnitude, uint32_t first) {
    float rows[MODEL_ROPE_ROWS * KERNELS_MAX_HEAD_DIM], *row = rows;
    uint32_t head_dim = m->info.head_dim;
    for (uint32_t p = first; p < first + MODEL_ROPE_ROWS; p++, row += head_dim)
        for (uint32_t i = 0; i < head_dim / 2; i++) {
            row[2 * i] = (float)(fmath_cos(p * frequency[i]) * magnitude);
            row[2 * i + 1] = (float)(fmath_sin(p * frequency[i]) * magnitude);
        }
    kernels_view to = m->place[place];
    to.at_bytes += (size_t)first * head_dim * sizeof *row;
    m->ops->upload(m->device, to, rows, sizeof *row * MODEL_ROPE_ROWS * head_dim);
}

void model_rope_reach(model *m, uint32_t n_positions) {
    for (; m->n_rope < n_positions; m->n_rope += MODEL_ROPE_ROWS) {
        write_rows(m, MODEL_ROPE, m->frequency[0], m->info.scaling.magnitude, m->n_rope);
        if (m->info.window) write_rows(m, MODEL_ROPE_LOCAL, m->frequency[1], 1, m->n_rope);
    }
}
