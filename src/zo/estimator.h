/* zo/estimator.h
 *
 * Zeroth-order gradient (ZOODiP, section 4.1): g = sum_i (L_i - L_0) / eps * z_i / scale with
 * scale = n * sqrt((d + n - 1) / n), d = dim - removed directions; one-sided. Two-sided: (L_+i - L_-i) / (2 eps).
 */
#ifndef ZOODIP_ZO_ESTIMATOR_H
#define ZOODIP_ZO_ESTIMATOR_H

#include <stdint.h>

/* losses: sides 1: [n + 1, batch], row 0 unperturbed, row i at e + eps z_i. sides 2: [2 n + 1, batch], row 0
 * unperturbed (reported, not used), rows 1..n at e + eps z_i, rows n+1..2n at e - eps z_i. directions [n, dim] ->
 * gradient [dim], all sums in double. A row's loss is the mean over its batch. */
void estimate_gradient(double *gradient, const double *losses, const float *directions, int64_t n, int64_t sides,
                       int64_t batch, int64_t dim, double eps, int64_t removed);

#endif
