#include "zo/estimator.h"

#include <math.h>

static double mean_of(const double *losses, int64_t row, int64_t batch)
{
    double sum = 0;
    for (int64_t b = 0; b < batch; b++)
        sum += losses[row * batch + b];
    return sum / (double)batch;
}

void estimate_gradient(double *gradient, const double *losses, const float *directions, int64_t n, int64_t sides,
                       int64_t batch, int64_t dim, double eps, int64_t removed)
{
    double d = (double)(dim - removed), directions_taken = (double)n;
    double scale = directions_taken * sqrt((d + directions_taken - 1) / directions_taken);
    for (int64_t k = 0; k < dim; k++)
        gradient[k] = 0;
    for (int64_t i = 1; i <= n; i++) {
        double ahead = mean_of(losses, i, batch), behind = mean_of(losses, sides == 2 ? n + i : 0, batch);
        double slope = (ahead - behind) / (sides == 2 ? 2 * eps : eps);
        const float *z = directions + (i - 1) * dim;
        for (int64_t k = 0; k < dim; k++)
            gradient[k] += slope * (double)z[k];
    }
    for (int64_t k = 0; k < dim; k++)
        gradient[k] /= scale;
}
