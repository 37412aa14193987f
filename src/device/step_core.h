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

/* What the slots of a step hold, for a batch of `batch` pictures with n directions each.
 *
 * Differences: losses, slot i batch + b that of picture b at e (i = 0), at e + eps z_i (i = 1..n) and, with two sides,
 * at e - eps z_i (n + i). Tangents: losses at e in slots 0 .. batch - 1, then slopes: slot batch + b n + i - 1 is the
 * derivative of picture b's loss along z_i. */
struct step_slots {
    int64_t n, batch, sides;
    double eps;
    bool tangents;
};

/* The mean of `count` slots that are `apart` from one another. */
STEP_INLINE double step_mean(const double *slots, int64_t apart, int64_t count)
{
    double sum = 0;
    for (int64_t b = 0; b < count; b++)
        sum += slots[b * apart];
    return sum / (double)count;
}

/* The slope along direction i = 1..n of the mean loss L of `count` pictures from `first` on (ZOODiP, section 4.1):
 * (L_i - L_0) / eps, with two sides (L_i - L_(n+i)) / (2 eps), and with tangents the mean of their slopes. */
STEP_INLINE double step_slope(const struct step_slots *s, const double *slots, int64_t i, int64_t first, int64_t count)
{
    if (s->tangents)
        return step_mean(slots + s->batch + first * s->n + i - 1, s->n, count);
    double plus = step_mean(slots + i * s->batch + first, 1, count);
    double minus = step_mean(slots + (s->sides == 2 ? s->n + i : 0) * s->batch + first, 1, count);
    return (plus - minus) / ((double)s->sides * s->eps);
}

/* What the gradient holds of direction `row` of `rows`: the slope along it of all pictures, which share their n
 * directions, or of its own picture, each of which has n (row = b n + i - 1); divided by the estimate's scale. */
STEP_INLINE double step_factor(const struct step_slots *s, const double *slots, int64_t row, int64_t rows, double scale)
{
    bool shared = rows == s->n;
    int64_t first = shared ? 0 : row / s->n, count = shared ? s->batch : 1;
    return step_slope(s, slots, row % s->n + 1, first, count) / scale;
}

/* Adam as torch.optim.Adam computes it in float: m by lerp from the nearer end, then v, then the step, which is
 * returned. rate = -lr / (1 - beta1^t), root = sqrt(1 - beta2^t). */
struct step_betas {
    float weight1, weight2, beta2, eps; /* 1 - beta1, 1 - beta2 */
};

STEP_INLINE float step_adam(const struct step_betas *a, float rate, float root, double gradient, float *m, float *v)
{
    float g = (float)gradient;
    *m = a->weight1 < 0.5f ? fmaf(a->weight1, g - *m, *m) : fmaf(a->weight1 - 1, g - *m, g);
    *v = fmaf(a->weight2 * g, g, *v * a->beta2);
    return rate * *m / (sqrtf(*v) / root + a->eps);
}

#endif
