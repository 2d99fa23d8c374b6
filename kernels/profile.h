/* Profile: a device that times the operations of another one.
 *
 * It is a device like any other, so the code that is measured does not know: give its operations to a model instead of the
 * real ones. Each operation is waited for, so on a device with a queue the sum is longer than a run without. Products are told
 * apart by the shape of their weight. One thread at a time, as for the device. */
#ifndef CONSORT_KERNELS_PROFILE_H
#define CONSORT_KERNELS_PROFILE_H

#include "kernels/kernels.h"

typedef struct kernels_profile kernels_profile;

typedef struct {
    const char *operation;
    uint32_t rows, cols;                         /* of the weights of a call; 0: an operation without */
    uint64_t n_calls, total_ns, multiplications; /* of quantized or float weights, for all rows of the batch */
    uint64_t weight_bytes;                       /* read, each weight once a call */
} kernels_profile_line;

/* Takes over `device`, made by `ops`; it is destroyed with the profile. Errors: ST_FATAL_MEMORY (the device stays the caller's).
 */
ST_CHECKED st_code kernels_profile_create(const kernels_ops *ops, kernels_device *device, kernels_profile **out);
/* To be used together; destroy the device by these operations, and the profile with it. */
const kernels_ops *kernels_profile_ops(const kernels_profile *p);
kernels_device *kernels_profile_device(kernels_profile *p);

void kernels_profile_reset(kernels_profile *p);
/* In order of first use; the view lives until the next operation. */
const kernels_profile_line *kernels_profile_lines(const kernels_profile *p, uint32_t *n);

#endif
