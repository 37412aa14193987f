#include <math.h>
#include <string.h>

#include "model/sampler_type.h"

enum { RUNGE_KUTTA_STEPS = 3, RUNGE_KUTTA_CALLS = 4 * RUNGE_KUTTA_STEPS };

int64_t sampler_calls_pndm(const struct noise_schedule *schedule, int64_t steps)
{
    if (!schedule->sampling.runge_kutta)
        return steps > 1 ? steps + 1 : 1;
    return steps > RUNGE_KUTTA_STEPS ? steps - RUNGE_KUTTA_STEPS + RUNGE_KUTTA_CALLS : 0;
}

/* A Runge-Kutta step evaluates its start, twice its middle, and its end. PLMS visits its second timestep twice
 * instead, to begin with a better slope. */
double sampler_space_pndm(const struct sampler *s, int64_t i)
{
    int64_t n = s->steps;
    if (!s->schedule->sampling.runge_kutta)
        return sampler_spaced(s, n == 1 || i < 2 ? i : i - 1, n);
    if (i >= RUNGE_KUTTA_CALLS)
        return sampler_spaced(s, i - RUNGE_KUTTA_CALLS + RUNGE_KUTTA_STEPS, n);
    int64_t step = i / 4, place = i % 4, half = s->schedule->steps / n / 2;
    return place == 0 ? sampler_spaced(s, step, n) : sampler_spaced(s, step + 1, n) + (double)(place == 3 ? 0 : half);
}

/* PNDM's formula (9), Liu et al. 2022: from t to `to` along a slope. */
static void pndm_transfer(const struct sampler *s, int64_t t, int64_t to, const float *from, const float *slope,
                          float *sample)
{
    double a = sampler_alpha(s, t), a_to = sampler_alpha(s, to), b = 1 - a, b_to = 1 - a_to;
    double keep = sqrt(a_to / a), weight = (a_to - a) / (a * sqrt(b_to) + sqrt(a * b * a_to));
    for (int64_t k = 0; k < s->count; k++) {
        double e = (double)slope[k];
        if (s->schedule->prediction == PREDICT_V)
            e = sqrt(a) * e + sqrt(b) * (double)from[k];
        sample[k] = (float)(keep * (double)from[k] - weight * e);
    }
}

/* Fourth-order Runge-Kutta: four evaluations, each starting from the step's first sample; the last one steps along
 * their mean. */
static void step_runge_kutta(struct sampler *s, int64_t i, const float *output, float *sample)
{
    static const double weights[4] = {1.0 / 6, 1.0 / 3, 1.0 / 3, 1.0 / 6};
    int64_t place = i % 4, half = s->schedule->steps / s->steps / 2;
    if (place == 0) {
        sampler_keep(s, output);
        memcpy(s->held, sample, (size_t)s->count * sizeof *sample);
    }
    float *mean = s->outputs[SAMPLER_OUTPUTS - 1];
    for (int64_t k = 0; k < s->count; k++)
        mean[k] = (float)((place ? (double)mean[k] : 0) + weights[place] * (double)output[k]);
    int64_t t = (int64_t)s->timesteps[i - place], to = (int64_t)s->timesteps[i] - (place % 2 ? 0 : half);
    pndm_transfer(s, t, to, s->held, place == 3 ? mean : output, sample);
}

/* PLMS: linear multistep over the last outputs (Adams-Bashforth), with increasing order at the start. */
void sampler_step_pndm(struct sampler *s, int64_t i, const float *output, float *sample)
{
    if (s->schedule->sampling.runge_kutta && i < RUNGE_KUTTA_CALLS) {
        step_runge_kutta(s, i, output, sample);
        return;
    }
    static const double weights[4][4] = {{1, 0, 0, 0},
                                         {3.0 / 2, -1.0 / 2, 0, 0},
                                         {23.0 / 12, -16.0 / 12, 5.0 / 12, 0},
                                         {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}};
    int64_t stride = s->schedule->steps / s->steps, t = (int64_t)s->timesteps[i];
    size_t bytes = (size_t)s->count * sizeof *sample;
    if (i == 0)
        memcpy(s->held, sample, bytes);
    if (i == 1) { // repeats the first step, from the first sample, along the mean of both slopes
        for (int64_t k = 0; k < s->count; k++)
            s->outputs[1][k] = (output[k] + s->outputs[0][k]) / 2;
        pndm_transfer(s, t + stride, t, s->held, s->outputs[1], sample);
        return;
    }
    sampler_keep(s, output);
    const double *w = weights[s->kept - 1];
    for (int64_t k = 0; k < s->count; k++) {
        double slope = 0;
        for (int m = 0; m < s->kept; m++)
            slope += w[m] * (double)s->outputs[m][k];
        s->held[k] = i == 0 ? s->held[k] : (float)slope;
    }
    pndm_transfer(s, t, t - stride, sample, i == 0 ? output : s->held, sample);
}
