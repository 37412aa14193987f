#include <math.h>

#include "model/sampler_type.h"

static bool clips(const struct sampler *s)
{
    const struct sampling *with = &s->schedule->sampling;
    return with->has_clip_sample ? with->clip_sample : s->type->clips;
}

/* What an output says of a sample sqrt(a) x0 + sqrt(1 - a) noise: x0, clipped where the class does that, and noise. */
static void read_output(const struct sampler *s, double a, double x, double output, double *clean, double *noise)
{
    double range = (double)s->schedule->sampling.clip_range;
    if (s->schedule->prediction == PREDICT_V) {
        *clean = sqrt(a) * x - sqrt(1 - a) * output;
        *noise = sqrt(a) * output + sqrt(1 - a) * x;
    } else {
        *clean = (x - sqrt(1 - a) * output) / sqrt(a);
        *noise = output;
    }
    if (clips(s))
        *clean = fmin(fmax(*clean, -range), range);
}

/* -------------------------------------------------------------------------------- with alphas */

/* Song et al. 2021, equation (12), eta 0. */
void sampler_step_ddim(struct sampler *s, int64_t i, const float *output, float *sample)
{
    int64_t t = (int64_t)s->timesteps[i], to = t - s->schedule->steps / s->steps;
    double a = sampler_alpha(s, t), a_to = sampler_alpha(s, to);
    for (int64_t k = 0; k < s->count; k++) {
        double clean, noise;
        read_output(s, a, (double)sample[k], (double)output[k], &clean, &noise);
        sample[k] = (float)(sqrt(a_to) * clean + sqrt(1 - a_to) * noise);
    }
}

/* Latent consistency models were distilled along steps of their own; a sampler's are some of those. */
double sampler_space_lcm(const struct sampler *s, int64_t i)
{
    int64_t original = s->schedule->sampling.original_steps, stride = s->schedule->steps / original;
    int64_t place = (int64_t)floor((double)i * ((double)original / (double)s->steps));
    return (double)((original - place) * stride - 1);
}

/* Luo et al. 2023, algorithm 3: x0 as the consistency function has it, with noise of the next timestep. */
void sampler_step_lcm(struct sampler *s, int64_t i, const float *output, float *sample)
{
    const double data = 0.5; // the deviation of data that the boundary condition supposes
    double at = s->timesteps[i] * s->schedule->sampling.timestep_scaling, norm = at * at + data * data;
    double skip = data * data / norm, out = at / sqrt(norm), a = sampler_alpha(s, (int64_t)s->timesteps[i]);
    bool last = i + 1 == s->calls;
    double a_to = last ? 1 : sampler_alpha(s, (int64_t)s->timesteps[i + 1]);
    const float *drawn = last ? sample : sampler_draw(s, i);
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], clean, noise;
        read_output(s, a, x, (double)output[k], &clean, &noise);
        sample[k] = (float)(sqrt(a_to) * (out * clean + skip * x) + sqrt(1 - a_to) * (double)drawn[k]);
    }
}

/* -------------------------------------------------------------------------------- with sigmas */

/* The picture that an output predicts, where the sample is x0 + sigma noise. */
static double scaled_clean_of(const struct sampler *s, double sigma, double x, double output)
{
    if (s->schedule->prediction == PREDICT_V)
        return output * (-sigma / sqrt(sigma * sigma + 1)) + x / (sigma * sigma + 1);
    return x - sigma * output;
}

/* Along the slope at sigma, to another. */
static void euler(const struct sampler *s, double sigma, double to, const float *output, float *sample)
{
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], clean = scaled_clean_of(s, sigma, x, (double)output[k]);
        sample[k] = (float)(x + (x - clean) / sigma * (to - sigma));
    }
}

void sampler_step_euler(struct sampler *s, int64_t i, const float *output, float *sample)
{
    euler(s, s->sigmas[i], s->sigmas[i + 1], output, sample);
}

/* k-diffusion's ancestral step: further down than the next sigma, and up again by noise. */
void sampler_step_ancestral(struct sampler *s, int64_t i, const float *output, float *sample)
{
    double from = s->sigmas[i], to = s->sigmas[i + 1];
    double up = sqrt(to * to * (from * from - to * to) / (from * from)), down = sqrt(to * to - up * up);
    euler(s, from, down, output, sample);
    if (i + 1 == s->calls)
        return;
    const float *noise = sampler_draw(s, i);
    for (int64_t k = 0; k < s->count; k++)
        sample[k] = (float)((double)sample[k] + up * (double)noise[k]);
}
