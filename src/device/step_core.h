/* device/step_core.h
 *
 * The arithmetic of a training step, one number at a time, in the common subset of C and CUDA C++, so that CPU and GPU
 * round alike. Like base/rng_core.h it needs a compiler that contracts nothing (-ffp-contract=off, -fmad=false).
 */
#ifndef ZOODIP_DEVICE_STEP_CORE_H
#define ZOODIP_DEVICE_STEP_CORE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __CUDACC__
#define STEP_INLINE __host__ __device__ static inline
#else
#define STEP_INLINE static inline
#endif

/* A picture's latent with noise added, and what the network should predict for it: diffusers' DDPMScheduler.add_noise
 * and get_velocity on a sample of DiagonalGaussianDistribution. a = sqrt(abar_t), b = sqrt(1 - abar_t). */
STEP_INLINE void step_add_noise(float mean, float deviation, float posterior, float noise, float scaling, float a,
                                float b, bool velocity, float *noisy, float *target)
{
    float latent = (mean + deviation * posterior) * scaling;
    *noisy = a * latent + b * noise;
    *target = velocity ? a * noise - b * latent : noise;
}

/* e + by z, by = +-eps or 0. */
STEP_INLINE float step_perturb(float e, double by, float z)
{
    return (float)((double)e + by * (double)z);
}

/* The mean loss of direction row `row` over its batch. */
STEP_INLINE double step_row_loss(const double *losses, int64_t row, int64_t batch)
{
    double sum = 0;
    for (int64_t b = 0; b < batch; b++)
        sum += losses[row * batch + b];
    return sum / (double)batch;
}

/* What direction i = 1..n contributes to the gradient per unit of z_i (ZOODiP, section 4.1): (L_i - L_0) / eps / scale,
 * or with two sides (L_i - L_(n+i)) / (2 eps) / scale. */
STEP_INLINE double step_slope(const double *losses, int64_t i, int64_t n, int64_t sides, int64_t batch, double eps,
                              double scale)
{
    double plus = step_row_loss(losses, i, batch), minus = step_row_loss(losses, sides == 2 ? n + i : 0, batch);
    return (plus - minus) / ((double)sides * eps) / scale;
}

/* Adam as torch.optim.Adam computes it in float: m by lerp from the nearer end, then v, then the step. rate =
 * -lr / (1 - beta1^t), root = sqrt(1 - beta2^t). */
struct step_betas {
    float weight1, weight2, beta2, eps; /* 1 - beta1, 1 - beta2 */
};

STEP_INLINE void step_adam(const struct step_betas *a, float rate, float root, double gradient, float *e, float *m,
                           float *v)
{
    float g = (float)gradient;
    *m = a->weight1 < 0.5f ? fmaf(a->weight1, g - *m, *m) : fmaf(a->weight1 - 1, g - *m, g);
    *v = fmaf(a->weight2 * g, g, *v * a->beta2);
    *e += rate * *m / (sqrtf(*v) / root + a->eps);
}

#endif
