#include "zo/estimator.h"

#include <math.h>

double estimate_scale(int64_t n, int64_t dim, int64_t removed)
{
    double free_dim = (double)(dim - removed);
    return (double)n * sqrt((free_dim + (double)n - 1) / (double)n);
}
