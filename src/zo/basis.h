/* zo/basis.h
 *
 * Directions that know where gradients lie (zo.directions), found before the first step and, for text, again now and
 * then. A loss depends on the word e through keys and values of the UNet's cross-attentions alone, so its gradient is
 * Jt times something, J = d(keys and values)/de, and lies where JtJ has large eigenvalues (model/text_jacobian.h).
 *
 *     text   the top eigenvectors of JtJ at the word as it stands, averaged over captions, for all vectors of the word
 *     table  for each vector of the word z = root w, w ~ N(0, I), which has the covariance of the token table's rows
 *
 * Invariant: all ranks get the same bits, whatever their number: each caption's JtJ is one rank's, they are added in
 * the captions' order, rank 0 finds the eigenvectors, and the others get them from it.
 */
#ifndef ZOODIP_ZO_BASIS_H
#define ZOODIP_ZO_BASIS_H

#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"
#include "model/text_jacobian.h"
#include "zo/parts.h"

struct basis {
    int64_t rank, dim; /* table: both the width of a vector */
    float *rows;       /* [rank, dim], owned. text: orthonormal, largest eigenvalue first, the largest number of each
                          (the first such) positive. table: the root, symmetric, trace(root root) = width, so that the
                          mean square of z is 1 */
    double held;       /* the rows' share of the trace */
};
void basis_free(struct basis *b);

/* Of the token table's rows that are tokens (torch.cov of rows [0, first_id)). What *b held before is freed.
 * Collective. */
struct error basis_table(struct basis *b, const struct training_parts *parts);

/* The longest word, vectors x width, for which text's bases can be found. */
enum { TEXT_BASIS_DIM = 4096 };

/* What finds text's bases. Its tensors are on the device from here on, so that memory is planned with it. `arena`: the
 * device's arena that others need, in bytes, the same on all ranks; its batches of tangents stay within it. Free with
 * text_basis_free. */
struct text_basis {
    struct training_parts parts;

    /* private */
    struct text_jacobian jacobian;
    struct pool *pool;
    int64_t captions[4], caption_count; /* those that count: different ones, evenly spread */
};
struct error text_basis_new(struct text_basis *t, const struct training_parts *parts, int64_t arena);
void text_basis_free(struct text_basis *t);

/* At the word as it stands, embedding [dim]. rank 0: the smallest that holds 99.9 % of the trace, and at least `least`;
 * else the rank. What *b held before is freed. Rank 0 logs what was found. ERROR_PREEMPTED, soon, if a rank is asked to
 * stop. Collective. */
struct error text_basis_find(struct text_basis *t, const float *embedding, int64_t least, int64_t rank,
                             struct basis *b);

/* JtJ's eigenvalues, values [dim], and eigenvectors [dim, dim], largest first, on rank 0 alone. Collective. */
struct error text_basis_spectrum(struct text_basis *t, const float *embedding, double *values, double *vectors);

#endif
