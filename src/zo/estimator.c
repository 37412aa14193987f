#include "zo/estimator.h"

#include <math.h>

static double row_loss(const double *losses, int64_t row, int64_t batch)
{
    double sum = 0;
    for (int64_t b = 0; b < batch; b++)
        sum += losses[row * batch + b];
    return sum / (double)batch;
}

void estimate_gradient(double *gradient, const double *losses, const float *directions, int64_t n, int64_t sides,
                       int64_t batch, int64_t dim, double eps, int64_t removed)
{
    double free_dim = (double)(dim - removed);
    double scale = (double)n * sqrt((free_dim + (double)n - 1) / (double)n);
    for (int64_t k = 0; k < dim; k++)
        gradient[k] = 0;
    for (int64_t i = 1; i <= n; i++) {
        double ahead = row_loss(losses, i, batch), behind = row_loss(losses, sides == 2 ? n + i : 0, batch);
        double slope = (ahead - behind) / ((double)sides * eps) / scale;
        const float *z = directions + (i - 1) * dim;
        for (int64_t k = 0; k < dim; k++)
            gradient[k] += slope * (double)z[k];
    }
}
