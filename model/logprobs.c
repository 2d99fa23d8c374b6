/* Log-probabilities as a client sees them. One sum over the vocabulary serves all: logarithms of one softmax differ by what the
 * logits differ by. None is above 0: the sum is at least 1, and rounding is monotonous. */
#include "model/model.h"

/* Puts v into top[0, n), which is descending and has room for n_top; returns how many there are then. Ids come ascending, so of
 * equal ones the earlier stays before. */
static uint32_t insert(const float *logits, uint32_t v, uint32_t *top, uint32_t n, uint32_t n_top) {
    uint32_t at = n;
    while (at && logits[top[at - 1]] < logits[v]) at--;
    if (at == n_top) return n;
    if (n < n_top) n++;
    for (uint32_t i = n - 1; i > at; i--) top[i] = top[i - 1];
    top[at] = v;
    return n;
}

float model_logprobs(const float *logits, uint32_t n_vocab, uint32_t id, uint32_t n_top, uint32_t *top, float *top_log) {
    double own = 0 - model_nll(logits, n_vocab, id); /* not -0 */
    uint32_t n = 0;
    for (uint32_t v = 0; n_top && v < n_vocab; v++) n = insert(logits, v, top, n, n_top);
    for (uint32_t i = 0; i < n; i++) top_log[i] = (float)(own + ((double)logits[top[i]] - (double)logits[id]));
    return (float)own;
}
