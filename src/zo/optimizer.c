#include "zo/optimizer.h"

#include <math.h>

double optimizer_scale(int64_t n, int64_t dim, int64_t removed)
{
    double free_dim = (double)(dim - removed);
    return (double)n * sqrt((free_dim + (double)n - 1) / (double)n);
}

void optimizer_rates(double beta1, double beta2, int64_t step, double lr, double *rate, double *root)
{
    *rate = -lr / (1 - pow(beta1, (double)step));
    *root = sqrt(1 - pow(beta2, (double)step));
}
