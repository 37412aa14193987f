/* zo/optimizer.h
 *
 * Adam on the embedding. Equals torch.optim.Adam([e], lr, betas=(beta1, beta2), eps=eps), no decay, bias-corrected, in fp32:
 *     m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  e -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 * The gradient is rounded to fp32 and the operations are PyTorch's, in its order, fma where it has one: the history of
 * embeddings feeds the subspace, whose directions of least variance magnify a last bit some hundred times.
 */
#ifndef ZOODIP_ZO_OPTIMIZER_H
#define ZOODIP_ZO_OPTIMIZER_H

#include <stdint.h>

#include "base/error.h"

struct optimizer {
    int64_t dim;
    double beta1, beta2, eps;
    float *m, *v; /* [dim] */
    int64_t step; /* updates done */
};

struct error optimizer_new(struct optimizer *o, int64_t dim, double beta1, double beta2, double eps);
void optimizer_free(struct optimizer *o);

/* What update number `step` (from 1) needs of Adam's bias correction: -lr / (1 - beta1^step), sqrt(1 - beta2^step). The
 * update itself is op_update's (device/step_core.h). */
void optimizer_rates(const struct optimizer *o, int64_t step, double lr, double *rate, double *root);

#endif
