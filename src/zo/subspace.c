#include "zo/subspace.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"

/* -------------------------------------------------------------------------------- standardized columns */

/* As sklearn's StandardScaler: population variance by the corrected two-pass sum; a column whose variance is within the
 * rounding error of that sum counts as constant and is only centred. `column` [rows] in place. */
static void standardize(double *column, int64_t rows)
{
    double n = (double)rows, sum = 0, off = 0, squares = 0;
    for (int64_t i = 0; i < rows; i++)
        sum += column[i];
    double mean = sum / n;
    for (int64_t i = 0; i < rows; i++) {
        column[i] -= mean;
        off += column[i];
        squares += column[i] * column[i];
    }
    double variance = (squares - off * off / n) / n, bound = n * mean * DBL_EPSILON;
    if (variance <= n * DBL_EPSILON * variance + bound * bound)
        return;
    double deviation = sqrt(variance);
    for (int64_t i = 0; i < rows; i++)
        column[i] /= deviation;
}

/* -------------------------------------------------------------------------------- singular vectors */

/* One-sided Jacobi (Hestenes, 1958): rotate pairs of vectors until all are orthogonal; their lengths are then the
 * singular values, small ones to full relative accuracy. The fewer vectors are rotated: the history's rows where tau <=
 * dim, else its columns. A rotated row points along its principal direction. A rotated column does not, so each column
 * has a unit vector appended, which goes through the same rotations and ends up as the direction. */
struct vectors {
    int64_t count;   /* of vectors */
    int64_t length;  /* numbers that count in products */
    int64_t width;   /* numbers that are rotated: length, or length + dim */
    double *numbers; /* [count, width] */
    double *squares; /* [count]: squared lengths */
    int64_t *order;  /* [count]: longest first */
};

static double *vector(const struct vectors *v, int64_t i)
{
    return v->numbers + i * v->width;
}

/* Eight partial sums: a fixed order of adding, which the compiler may still do eight at a time. */
static double product(const double *a, const double *b, int64_t length)
{
    double sums[8] = {0};
    int64_t k = 0;
    for (; k + 8 <= length; k += 8)
        for (int j = 0; j < 8; j++)
            sums[j] += a[k + j] * b[k + j];
    for (; k < length; k++)
        sums[0] += a[k] * b[k];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

/* Makes vectors a and b orthogonal; false if they already were. */
static bool rotate(const struct vectors *v, int64_t a, int64_t b)
{
    double *x = vector(v, a), *y = vector(v, b);
    double along = product(x, y, v->length);
    if (fabs(along) <= 1e-14 * sqrt(v->squares[a] * v->squares[b]))
        return false;
    double zeta = (v->squares[b] - v->squares[a]) / (2 * along);
    double tangent = (zeta < 0 ? -1 : 1) / (fabs(zeta) + sqrt(1 + zeta * zeta));
    double cosine = 1 / sqrt(1 + tangent * tangent), sine = cosine * tangent;
    for (int64_t k = 0; k < v->width; k++) {
        double old = x[k];
        x[k] = cosine * old - sine * y[k];
        y[k] = sine * old + cosine * y[k];
    }
    v->squares[a] -= tangent * along;
    v->squares[b] += tangent * along;
    return true;
}

/* Recomputes squared lengths, and sorts by them; equal ones keep their places. */
static void measure(struct vectors *v)
{
    for (int64_t i = 0; i < v->count; i++) {
        v->squares[i] = product(vector(v, i), vector(v, i), v->length);
        int64_t place = i;
        for (; place > 0 && v->squares[v->order[place - 1]] < v->squares[i]; place--)
            v->order[place] = v->order[place - 1];
        v->order[place] = i;
    }
}

/* How many vectors are longer than rounding alone could make a zero vector. */
static int64_t rank_of(const struct vectors *v)
{
    double longer = (double)(v->count > v->length ? v->count : v->length), least = longer * DBL_EPSILON;
    int64_t rank = 0;
    while (rank < v->count && v->squares[v->order[rank]] > least * least * v->squares[v->order[0]])
        rank++;
    return rank;
}

static void orthogonalize(struct vectors *v)
{
    enum { SWEEPS = 40 }; // usually about ten suffice
    bool turned = true;
    for (int sweep = 0; sweep < SWEEPS && turned; sweep++) {
        turned = false;
        measure(v);
        int64_t rank = rank_of(v);
        for (int64_t i = 0; i < rank; i++)
            for (int64_t j = i + 1; j < rank; j++)
                turned |= rotate(v, v->order[i], v->order[j]);
    }
    measure(v);
}

/* -------------------------------------------------------------------------------- the removed directions */

/* The first index at which the cumulative share of variance exceeds 1 - nu. */
static int64_t signal_end(const struct vectors *v, double nu)
{
    double total = 0, sum = 0;
    for (int64_t i = 0; i < v->count; i++)
        total += v->squares[v->order[i]];
    for (int64_t i = 0; i < v->count; i++) {
        sum += v->squares[v->order[i]];
        if (sum / total > 1 - nu)
            return i;
    }
    return v->count - 1; // nu within rounding of 0: all is signal
}

/* Makes row `count` of rows [count + 1, dim] a unit vector orthogonal to those before it: the axis that they cover
 * least, minus its projections on them (twice, against rounding). */
static void complete(double *rows, int64_t count, int64_t dim)
{
    double *row = rows + count * dim, least = INFINITY;
    int64_t axis = 0;
    for (int64_t k = 0; k < dim; k++) {
        double covered = 0;
        for (int64_t i = 0; i < count; i++)
            covered += rows[i * dim + k] * rows[i * dim + k];
        if (covered < least) {
            least = covered;
            axis = k;
        }
    }
    memset(row, 0, (size_t)dim * sizeof *row);
    row[axis] = 1;
    for (int64_t i = 0; i < 2 * count; i++) {
        const double *other = rows + i % count * dim;
        double along = product(row, other, dim);
        for (int64_t k = 0; k < dim; k++)
            row[k] -= along * other[k];
    }
    double length = sqrt(product(row, row, dim));
    for (int64_t k = 0; k < dim; k++)
        row[k] /= length;
}

/* Principal directions 0 .. count-1 as rows [count, dim]. */
static void principal_rows(const struct vectors *v, int64_t dim, double *rows, int64_t count)
{
    int64_t rank = rank_of(v);
    for (int64_t i = 0; i < count; i++) {
        const double *from = vector(v, v->order[i]);
        double *row = rows + i * dim;
        if (v->width > v->length) {
            memcpy(row, from + v->length, (size_t)dim * sizeof *row);
        } else if (i < rank) {
            double length = sqrt(v->squares[v->order[i]]);
            for (int64_t k = 0; k < dim; k++)
                row[k] = from[k] / length;
        } else {
            complete(rows, i, dim);
        }
    }
}

/* Scratch for a refresh, allocated once: nothing is allocated in the middle of training. */
struct refresh {
    struct vectors vectors;
    double *column; /* [tau] */
    double *rows;   /* [usable, dim]: the principal directions */
    int64_t usable; /* min(tau - 1, dim) */
};

static struct error refresh_new(struct refresh **refresh, int64_t tau, int64_t dim)
{
    struct refresh *r = memory_alloc(1, sizeof *r);
    *refresh = r;
    if (!r)
        return error_memory("the subspace");
    bool by_rows = tau <= dim;
    struct vectors *v = &r->vectors;
    *v = (struct vectors){.count = by_rows ? tau : dim, .length = by_rows ? dim : tau};
    v->width = by_rows ? dim : tau + dim;
    v->numbers = memory_alloc(v->count * v->width, sizeof *v->numbers);
    v->squares = memory_alloc(v->count, sizeof *v->squares);
    v->order = memory_alloc(v->count, sizeof *v->order);
    r->usable = tau - 1 < dim ? tau - 1 : dim;
    r->column = memory_alloc(tau, sizeof *r->column);
    r->rows = memory_alloc(r->usable * dim, sizeof *r->rows);
    return v->numbers && v->squares && v->order && r->column && r->rows ? ok() : error_memory("the subspace");
}

static void refresh_free(struct refresh *r)
{
    if (!r)
        return;
    memory_free(r->vectors.numbers);
    memory_free(r->vectors.squares);
    memory_free(r->vectors.order);
    memory_free(r->column);
    memory_free(r->rows);
    memory_free(r);
}

/* The history, standardized, as the vectors to rotate. */
static void fill_vectors(struct refresh *r, const struct subspace *s)
{
    const struct vectors *v = &r->vectors;
    bool by_rows = v->width == v->length;
    memset(v->numbers, 0, (size_t)(v->count * v->width) * sizeof *v->numbers);
    for (int64_t k = 0; k < s->dim; k++) {
        for (int64_t i = 0; i < s->tau; i++)
            r->column[i] = (double)s->history[i * s->dim + k];
        standardize(r->column, s->tau);
        for (int64_t i = 0; i < s->tau; i++)
            *(by_rows ? vector(v, i) + k : vector(v, k) + i) = r->column[i];
        if (!by_rows)
            vector(v, k)[s->tau + k] = 1;
    }
}

static void find_removed(struct subspace *s)
{
    struct refresh *r = s->refresh;
    fill_vectors(r, s);
    orthogonalize(&r->vectors);
    int64_t first = signal_end(&r->vectors, s->nu) + 1;
    bool varies = r->vectors.squares[r->vectors.order[0]] > 0;
    s->removed_rows = varies && first < r->usable ? r->usable - first : 0;
    if (s->removed_rows == 0)
        return;
    principal_rows(&r->vectors, s->dim, r->rows, r->usable);
    for (int64_t i = 0; i < s->removed_rows * s->dim; i++)
        s->removed[i] = (float)r->rows[first * s->dim + i];
}

bool subspace_push(struct subspace *s, const float *embedding)
{
    memcpy(s->history + s->filled * s->dim, embedding, (size_t)s->dim * sizeof *embedding);
    if (++s->filled < s->tau)
        return false;
    s->filled = 0;
    find_removed(s);
    return true;
}

/* -------------------------------------------------------------------------------- making and freeing */

struct error subspace_new(struct subspace *s, int64_t dim, int64_t tau, double nu)
{
    *s = (struct subspace){.dim = dim, .tau = tau, .nu = nu};
    s->history = memory_alloc(tau * dim, sizeof *s->history);
    s->removed = memory_alloc((tau - 1) * dim, sizeof *s->removed);
    struct error e = s->history && s->removed ? refresh_new(&s->refresh, tau, dim) : error_memory("the subspace");
    if (e.code != ERROR_NONE)
        subspace_free(s);
    return e;
}

void subspace_free(struct subspace *s)
{
    memory_free(s->history);
    memory_free(s->removed);
    refresh_free(s->refresh);
    *s = (struct subspace){0};
}
