#include "base/symmetric.h"

#include <dlfcn.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/memory.h"

/* -------------------------------------------------------------------------------- products */

/* A task is one tile of the matrix: its vectors' numbers are widened to double a chunk at a time, side by side. */
enum { TILE = 64, CHUNK = 256, PART = 4 };

struct products {
    double *matrix;
    const struct vectors_view *x;
    int64_t first, end;
    double *room; /* [threads][2][CHUNK][TILE] */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Numbers from `from` on of `count` vectors from `first` on -> [CHUNK][TILE], zeros where there are none. */
static void widen(double *to, const struct vectors_view *x, int64_t first, int64_t count, int64_t from)
{
    memset(to, 0, CHUNK * TILE * sizeof *to);
    const float *numbers = x->numbers + first * x->apart + from * x->step;
    for (int64_t k = 0; k < least(CHUNK, x->length - from); k++)
        for (int64_t i = 0; i < count; i++)
            to[k * TILE + i] = numbers[i * x->apart + k * x->step];
}

/* A part of the tile, of which `rows` and `columns` are in use, += the chunk's products. */
static void add_part(double *matrix, int64_t n, const double *a, const double *b, int64_t rows, int64_t columns)
{
    double sums[PART][PART] = {{0}};
    for (int64_t k = 0; k < CHUNK; k++)
        for (int i = 0; i < PART; i++)
            for (int j = 0; j < PART; j++)
                sums[i][j] += a[k * TILE + i] * b[k * TILE + j];
    for (int64_t i = 0; i < least(rows, PART); i++)
        for (int64_t j = 0; j < least(columns, PART); j++)
            matrix[i * n + j] += sums[i][j];
}

/* Those across the diagonal are computed whole. */
static void add_tile(void *arg, int64_t task, int thread)
{
    const struct products *p = arg;
    int64_t n = p->x->count, across = (p->end + TILE - 1) / TILE;
    int64_t row = p->first + task / across * TILE, column = task % across * TILE;
    int64_t rows = least(TILE, p->end - row), columns = least(TILE, row + rows - column);
    double *a = p->room + (int64_t)thread * 2 * CHUNK * TILE, *b = a + CHUNK * TILE;
    for (int64_t from = 0; from < p->x->length && columns > 0; from += CHUNK) {
        widen(a, p->x, row, rows, from);
        widen(b, p->x, column, columns, from);
        for (int64_t i = 0; i < rows; i += PART)
            for (int64_t j = 0; j < columns; j += PART)
                add_part(p->matrix + (row + i) * n + column + j, n, a + i, b + j, rows - i, columns - j);
    }
}

struct error symmetric_add_products(double *matrix, const struct vectors_view *x, int64_t first, int64_t end,
                                    struct pool *pool)
{
    struct products p = {.matrix = matrix, .x = x, .first = first, .end = end};
    p.room = memory_alloc(pool_threads(pool), 2 * CHUNK * TILE * (int64_t)sizeof *p.room);
    if (!p.room)
        return error_memory("products of vectors");
    int64_t down = (end - first + TILE - 1) / TILE, across = (end + TILE - 1) / TILE;
    pool_run(pool, down * across, add_tile, &p);
    memory_free(p.room);
    return ok();
}

/* -------------------------------------------------------------------------------- eigenvectors */

/* Fortran's: every argument by address, columns before rows, the lengths of texts last. */
void dsyevr_(const char *job, const char *range, const char *triangle, const int *n, double *a, const int *a_apart,
             const double *low, const double *high, const int *first, const int *last, const double *tolerance,
             int *found, double *values, double *vectors, const int *vectors_apart, int *support, double *work,
             const int *work_count, int *integers, const int *integer_count, int *info, size_t job_length,
             size_t range_length, size_t triangle_length);

/* OpenBLAS, which may stand in for the reference library, cuts sums up by its threads. */
static void use_one_thread(void)
{
    void *symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    union {
        void *symbol;
        void (*set)(int threads);
    } openblas = {symbol};
    if (symbol)
        openblas.set(1);
}

struct decomposition {
    double *matrix, *values, *vectors;
    int n;
    int *support; /* [2 n] */
};

/* Counts of -1 ask for the counts that are best. */
static int call_dsyevr(const struct decomposition *d, double *work, int work_count, int *integers, int integer_count)
{
    const int n = d->n, none = 0;
    const double unused = 0, tolerance = 0;
    int found, info;
    // what are rows to us are columns there: their upper triangle is our lower one
    dsyevr_("V", "A", "U", &n, d->matrix, &n, &unused, &unused, &none, &none, &tolerance, &found, d->values, d->vectors,
            &n, d->support, work, &work_count, integers, &integer_count, &info, 1, 1, 1);
    return info;
}

static void swap(double *a, double *b)
{
    double old = *a;
    *a = *b;
    *b = old;
}

static void fix_sign(double *vector, int64_t n)
{
    int64_t most = 0;
    for (int64_t i = 1; i < n; i++)
        if (fabs(vector[i]) > fabs(vector[most]))
            most = i;
    double sign = vector[most] < 0 ? -1 : 1;
    for (int64_t i = 0; i < n; i++)
        vector[i] *= sign;
}

static void put_largest_first(double *values, double *vectors, int64_t n)
{
    for (int64_t i = 0, j = n - 1; i < j; i++, j--) {
        swap(&values[i], &values[j]);
        for (int64_t k = 0; k < n; k++)
            swap(&vectors[i * n + k], &vectors[j * n + k]);
    }
    for (int64_t i = 0; i < n; i++)
        fix_sign(vectors + i * n, n);
}

static struct error decompose(struct decomposition *d)
{
    double work_best;
    int integers_best, info = call_dsyevr(d, &work_best, -1, &integers_best, -1);
    double *work = info == 0 ? memory_alloc((int64_t)work_best, sizeof *work) : NULL;
    int *integers = info == 0 ? memory_alloc(integers_best, sizeof *integers) : NULL;
    struct error e = info != 0 || (work && integers) ? ok() : error_memory("eigenvectors");
    if (work && integers)
        info = call_dsyevr(d, work, (int)work_best, integers, integers_best);
    if (info != 0)
        e = error_failed("dsyevr: error %d for a matrix of %d rows", info, d->n);
    memory_free(work);
    memory_free(integers);
    return e;
}

struct error symmetric_eigen(double *matrix, int64_t n, double *values, double *vectors)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j <= i; j++)
            if (!isfinite(matrix[i * n + j]))
                return error_failed("eigenvectors of a matrix with numbers that are not finite");
    use_one_thread();
    struct decomposition d = {matrix, values, vectors, (int)n, memory_alloc(2 * n, sizeof *d.support)};
    if (!d.support)
        return error_memory("eigenvectors");
    struct error e = decompose(&d);
    memory_free(d.support);
    if (e.code == ERROR_NONE)
        put_largest_first(values, vectors, n);
    return e;
}
