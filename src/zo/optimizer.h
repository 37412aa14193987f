/* zo/optimizer.h
 *
 * The numbers that an update needs besides the losses. The update itself, from losses to embedding, is op_update, on
 * the device: its lines are step_factor and step_adam of device/step_core.h, called by device/cpu/step.c and
 * kernels/step.cu.
 *
 * Gradient (ZOODiP, section 4.1): g = sum_i slope_i z_i / scale, scale = n sqrt((d + n - 1) / n) with d = dim - removed
 * directions. slope_i is the derivative of the batch's mean loss along z_i: (L_i - L_0) / eps, or exact (tangents).
 *
 * Where each picture of a batch of B has n directions of its own, the sum runs over all N = n B of them, each with its
 * own picture's slope, and N stands for n in the scale. A direction's slope then has one picture's part of the mean
 * loss, 1/B of what it would be; N in the scale instead of n is the same 1/B, so there is no further one.
 *
 * z_i are normal; or, with zo.directions table, spread as the token table is; or, with text, z_i = Ut w_i for the rows of
 * a basis U [rank, dim] (zo/coordinates.h). Then the gradient is that by w, y = sum_i slope_i w_i / scale with d = rank,
 * or, where a step takes all rows of U as its directions, y_i = slope_i: a derivative, not an estimate. Directions are
 * removed from Ut y, Adam is in the coordinates, with m and v [rank], and e -= Ut (its step).
 *
 * Adam equals torch.optim.Adam([e], lr, betas=(beta1, beta2), eps=eps), no decay, bias-corrected, in fp32:
 *     m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  e -= lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 * The gradient is rounded to fp32 and the operations are PyTorch's, in its order, fma where it has one: the history of
 * embeddings feeds the subspace, whose directions of least variance magnify a last bit some hundred times.
 */
#ifndef ZOODIP_ZO_OPTIMIZER_H
#define ZOODIP_ZO_OPTIMIZER_H

#include <stdint.h>

/* The gradient's scale for n directions (of a step, all of them) of an embedding of length dim, of which `removed`
 * directions are removed. */
double optimizer_scale(int64_t n, int64_t dim, int64_t removed);

/* What update number `step` (from 1) needs of Adam's bias correction: -lr / (1 - beta1^step), sqrt(1 - beta2^step). */
void optimizer_rates(double beta1, double beta2, int64_t step, double lr, double *rate, double *root);

#endif
