/* zo/gauss_newton.h
 *
 * optim.method gauss_newton: a step of its own length, from what the directions change in the predictions. Lanes compute
 * that anyway; their losses keep one number of it.
 *
 * Of a picture's prediction, N numbers, r is its error and p_i the derivative along row i of the basis (zo.directions
 * text, of which the top zo.n rows are taken). The loss is mean r^2, so that, as means of the step's B pictures,
 *
 *     b_i = mean(r p_i), half the slope,    a_i = mean(p_i^2), half the loss' second derivative by Gauss and Newton
 *
 * and a step moves coordinate i by
 *
 *     h_i = KEPT h_i + a_i,    c_i = -b_i / (h_i + lambda),    lambda = DOUBT loss / (B N tau^2),   tau = optim.lr
 *
 * (with masks, zo/masks.h, all means are of w r^2, w r p_i, w p_i^2, and B N is the sum of the weights w of all numbers),
 * all together at most REACH tau sqrt(n) long, and shorter in proportion as the learning rate falls. That is a Kalman
 * filter for each coordinate: h_i says how well the pictures so far, the older the less, know it, and lambda what was
 * known before: that it lies some tau away, as rows of the token table do; a_i being a mean of B N numbers, that counts
 * as one in B N of them. DOUBT would be 1 if the error's numbers were independent; slopes of toybox vary ten times as
 * much as that says, and 3 learned faster than 1, 6 and 10. REACH 1/2 was better than 1 where the first pictures tell
 * little. The matrix of all p_i p_j instead of its diagonal was not better.
 *
 * Invariant: all ranks have all predictions, so all compute the same.
 */
#ifndef ZOODIP_ZO_GAUSS_NEWTON_H
#define ZOODIP_ZO_GAUSS_NEWTON_H

#include <stdint.h>

#include "base/error.h"

struct training;

struct gauss_newton {
    int64_t lanes, numbers; /* numbers: of a prediction */
    float *predictions;     /* [lanes, numbers], by slots; of a tangent its derivative */
    double *sums;           /* the same, while ranks add them up */
    double *moves;          /* [rank] */
};

/* What the method needs beside the rest of a training; nothing for other methods. Free with gauss_newton_free. */
struct error gauss_newton_new(struct training *t);
void gauss_newton_free(struct training *t);

/* After a step's slots were summed up: gathers all ranks' predictions, and moves the state's embedding. h is the state's
 * v; t->gradient becomes the loss' gradient. lr: the step's. Collective. */
struct error gauss_newton_step(struct training *t, double lr);

#endif
