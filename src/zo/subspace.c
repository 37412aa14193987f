#include "zo/subspace.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

enum { SWEEPS = 60 };

struct error subspace_new(struct subspace *s, int64_t dim, int64_t tau, double nu)
{
    *s = (struct subspace){.dim = dim, .tau = tau, .nu = nu};
    s->history = memory_take(tau * dim, sizeof *s->history);
    s->noise = memory_take(tau * dim, sizeof *s->noise);
    if (s->history && s->noise)
        return ok();
    subspace_free(s);
    return error_memory("the subspace");
}

void subspace_free(struct subspace *s)
{
    memory_free(s->history);
    memory_free(s->noise);
    s->history = s->noise = NULL;
}

/* ------------------------------------------------------------------------------------------- standardized history */

/* Columns of the history with mean 0 and population variance 1, in double. As scikit-learn decides it, a column is constant
 * when its variance lies within the rounding of its mean; such a column is divided by 1. */
static void standardize(const struct subspace *s, double *rows)
{
    double count = (double)s->tau;
    for (int64_t c = 0; c < s->dim; c++) {
        double mean = 0, variance = 0;
        for (int64_t r = 0; r < s->tau; r++)
            mean += (double)s->history[r * s->dim + c];
        mean /= count;
        for (int64_t r = 0; r < s->tau; r++) {
            double x = (double)s->history[r * s->dim + c] - mean;
            variance += x * x;
        }
        variance /= count;
        double rounding = count * DBL_EPSILON * variance + pow(count * mean * DBL_EPSILON, 2);
        double deviation = variance <= rounding ? 1 : sqrt(variance);
        for (int64_t r = 0; r < s->tau; r++)
            rows[r * s->dim + c] = ((double)s->history[r * s->dim + c] - mean) / deviation;
    }
}

/* ------------------------------------------------------------------------------------------- singular vectors */

static double dot(const double *a, const double *b, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

/* One-sided Jacobi (Hestenes): rotates pairs of rows until all are orthogonal. The rows [count, dim] end as singular value
 * times right singular vector; small ones keep their relative accuracy, which a Gram matrix would lose. */
static void orthogonalize(double *rows, int64_t count, int64_t dim)
{
    bool rotated = true;
    for (int sweep = 0; sweep < SWEEPS && rotated; sweep++) {
        rotated = false;
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = i + 1; j < count; j++) {
                double *a = rows + i * dim, *b = rows + j * dim;
                double aa = dot(a, a, dim), bb = dot(b, b, dim), ab = dot(a, b, dim);
                if (fabs(ab) <= 1e-14 * sqrt(aa * bb) || ab == 0)
                    continue;
                rotated = true;
                double zeta = (bb - aa) / (2 * ab);
                double t = (zeta >= 0 ? 1 : -1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
                double c = 1 / sqrt(1 + t * t), s = c * t;
                for (int64_t k = 0; k < dim; k++) {
                    double x = a[k], y = b[k];
                    a[k] = c * x - s * y;
                    b[k] = s * x + c * y;
                }
            }
    }
}

/* Rows by falling length, lengths into `lengths`; a selection sort, since there are few. */
static void sort_rows(double *rows, double *lengths, double *spare, int64_t count, int64_t dim)
{
    for (int64_t i = 0; i < count; i++)
        lengths[i] = sqrt(dot(rows + i * dim, rows + i * dim, dim));
    for (int64_t i = 0; i < count; i++) {
        int64_t best = i;
        for (int64_t j = i + 1; j < count; j++)
            if (lengths[j] > lengths[best])
                best = j;
        if (best == i)
            continue;
        size_t bytes = (size_t)dim * sizeof *rows;
        memcpy(spare, rows + i * dim, bytes);
        memcpy(rows + i * dim, rows + best * dim, bytes);
        memcpy(rows + best * dim, spare, bytes);
        double length = lengths[i];
        lengths[i] = lengths[best];
        lengths[best] = length;
    }
}

/* row [dim] minus its part in the first `count` orthonormal rows, twice for accuracy; its length then. */
static double remove_rows(double *row, const double *rows, int64_t count, int64_t dim)
{
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < count; i++) {
            double part = dot(row, rows + i * dim, dim);
            for (int64_t k = 0; k < dim; k++)
                row[k] -= part * rows[i * dim + k];
        }
    return sqrt(dot(row, row, dim));
}

/* A unit vector made orthogonal to the first i rows: of the dim axes one at least keeps sqrt((dim - i) / dim) of its length. */
static void complete(double *rows, int64_t i, int64_t dim)
{
    double *row = rows + i * dim, enough = 0.5 * sqrt((double)(dim - i) / (double)dim), length = 0;
    for (int64_t axis = 0; axis < dim && length < enough; axis++) {
        memset(row, 0, (size_t)dim * sizeof *row);
        row[axis] = 1;
        length = remove_rows(row, rows, i, dim);
    }
    for (int64_t k = 0; k < dim; k++)
        row[k] /= length;
}

/* Makes the first `count` rows orthonormal; those whose length is rounding noise say nothing and are replaced. */
static void normalize_rows(double *rows, const double *lengths, int64_t count, int64_t dim)
{
    double noise = lengths[0] * 1e-13 * sqrt((double)dim);
    for (int64_t i = 0; i < count; i++) {
        if (lengths[i] <= noise) {
            complete(rows, i, dim);
            continue;
        }
        for (int64_t k = 0; k < dim; k++)
            rows[i * dim + k] /= lengths[i];
    }
}

/* ------------------------------------------------------------------------------------------- refresh */

/* First index where the cumulative share of the variance exceeds 1 - nu; 0 when none does, as numpy's argmax has it. */
static int64_t first_noise(const double *lengths, int64_t count, int64_t all, double nu)
{
    double total = 0, sum = 0;
    for (int64_t i = 0; i < all; i++)
        total += lengths[i] * lengths[i];
    for (int64_t i = 0; i < count; i++) {
        sum += lengths[i] * lengths[i];
        if (sum / total > 1 - nu)
            return i;
    }
    return 0;
}

static void refresh(struct subspace *s, double *rows, double *lengths, double *spare)
{
    int64_t r = s->tau - 1 < s->dim ? s->tau - 1 : s->dim;
    standardize(s, rows);
    orthogonalize(rows, s->tau, s->dim);
    sort_rows(rows, lengths, spare, s->tau, s->dim);
    s->noise_rows = 0;
    if (lengths[0] == 0 || r < 1)
        return;
    int64_t k = first_noise(lengths, r, s->tau, s->nu);
    normalize_rows(rows, lengths, r, s->dim);
    for (int64_t i = k + 1; i < r; i++, s->noise_rows++)
        for (int64_t c = 0; c < s->dim; c++)
            s->noise[s->noise_rows * s->dim + c] = (float)rows[i * s->dim + c];
}

struct error subspace_push(struct subspace *s, const float *embedding)
{
    memcpy(s->history + s->filled * s->dim, embedding, (size_t)s->dim * sizeof *embedding);
    s->filled++;
    if (s->filled < s->tau)
        return ok();
    double *rows = memory_take(s->tau * s->dim, sizeof *rows);
    double *lengths = memory_take(s->tau, sizeof *lengths), *spare = memory_take(s->dim, sizeof *spare);
    struct error e = rows && lengths && spare ? ok() : error_memory("the principal directions");
    if (e.code == ERROR_NONE)
        refresh(s, rows, lengths, spare);
    s->filled = 0;
    memory_free(rows);
    memory_free(lengths);
    memory_free(spare);
    return e;
}

void subspace_project(const struct subspace *s, double *gradient)
{
    // the rows are orthonormal, so taking them out one after the other is g - g Vt V
    for (int64_t i = 0; i < s->noise_rows; i++) {
        const float *row = s->noise + i * s->dim;
        double part = 0;
        for (int64_t c = 0; c < s->dim; c++)
            part += gradient[c] * (double)row[c];
        for (int64_t c = 0; c < s->dim; c++)
            gradient[c] -= part * (double)row[c];
    }
}
