/* base/symmetric.h
 *
 * Symmetric matrices in double: products of vectors with each other, and eigenvectors. Matrices are [n, n], of which
 * only the lower triangle (column <= row) is read and written.
 *
 * Invariant: every number is a sum in an order of its own, so it has the same bits for any number of threads, and
 * however many vectors come at a time.
 */
#ifndef ZOODIP_BASE_SYMMETRIC_H
#define ZOODIP_BASE_SYMMETRIC_H

#include <stdint.h>

#include "base/error.h"
#include "base/pool.h"

/* Number k of vector i is numbers[i * apart + k * step]. */
struct vectors_view {
    const float *numbers;
    int64_t count, length, apart, step;
};

/* matrix [count, count] += X Xt in rows [first, end): the products of these vectors with themselves and with all before
 * them. */
struct error symmetric_add_products(double *matrix, const struct vectors_view *x, int64_t first, int64_t end,
                                    struct pool *pool);

/* matrix = sum over i of values[i] vectors[i] vectors[i]t: values [n], largest first, vectors [n, n] orthonormal rows,
 * the largest number of each positive (of equal ones the first). LAPACK's dsyevr; destroys the matrix. ERROR_FAILED if
 * a number of it is not finite. */
struct error symmetric_eigen(double *matrix, int64_t n, double *values, double *vectors);

#endif
