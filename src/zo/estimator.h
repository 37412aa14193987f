/* zo/estimator.h
 *
 * Zeroth-order gradient (ZOODiP, section 4.1): g = sum_i (L_i - L_0) / eps * z_i / scale with
 * scale = n * sqrt((d + n - 1) / n), d = dim - removed directions. The sum is op_update's (device/step_core.h).
 */
#ifndef ZOODIP_ZO_ESTIMATOR_H
#define ZOODIP_ZO_ESTIMATOR_H

#include <stdint.h>

/* The divisor of the sum over n directions of an embedding of length dim. */
double estimate_scale(int64_t n, int64_t dim, int64_t removed);

#endif
