/* zo/subspace.h
 *
 * Subspace gradient (ZOODiP, section 4.2): the last tau updated embeddings span where learning happens; what lies
 * outside is the estimator's error. Every tau steps subspace_push finds the low-variance principal directions of that
 * history, `removed`; until the next refresh op_update removes them from each gradient g: for each row r of them
 * g -= (g . r) r, in `project` of device/cpu/step.c and of kernels/step.cu.
 *
 * Invariant: the rows of `removed` are orthonormal; it has 0 rows until the history first fills.
 * Equals: with h = sklearn StandardScaler().fit_transform(history), r = min(tau - 1, dim):
 *     pca = PCA(r, svd_solver="full").fit(h); k = argmax(cumsum(pca.explained_variance_ratio_) > 1 - nu)
 *     removed = pca.components_[k + 1:r]
 * (The reference keeps one row more; centred data have rank tau - 1, so that row is rounding error.) Where the
 * history's rank q is below r, components from q on are just some orthonormal completion, in sklearn and here; a
 * history without any variance removes nothing, and neither does a nu within rounding of 0.
 */
#ifndef ZOODIP_ZO_SUBSPACE_H
#define ZOODIP_ZO_SUBSPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct subspace {
    int64_t dim;    /* length of the embedding: vectors x width */
    int64_t tau;    /* rows in the history, and steps between refreshes */
    double nu;      /* the share of the variance that is removed */
    float *history; /* [tau, dim], oldest first */
    int64_t filled; /* rows of history in use */
    float *removed; /* [tau - 1, dim], the first removed_rows in use, orthonormal */
    int64_t removed_rows;
    struct refresh *refresh; /* private: scratch */
};

/* tau >= 1. Free with subspace_free. */
struct error subspace_new(struct subspace *s, int64_t dim, int64_t tau, double nu);
void subspace_free(struct subspace *s);

/* Appends one updated embedding [dim]. If that fills the history: refreshes `removed`, empties the history, and returns
 * true. */
bool subspace_push(struct subspace *s, const float *embedding);

#endif
