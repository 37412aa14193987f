/* DPM-Solver++ and its SDE, multistep (Lu et al. 2022, "DPM-Solver++", algorithm 2 and appendix): x0 is predicted, and
 * extrapolated from the last outputs along lambda = log(alpha / sigma). */
#include <math.h>
#include <stddef.h>

#include "model/sampler_type.h"

double sampler_alpha_of(double sigma)
{
    return 1 / sqrt(sigma * sigma + 1);
}

double sampler_clean_of(const struct sampler *s, double sigma, double x, double output)
{
    double alpha = sampler_alpha_of(sigma);
    return s->schedule->prediction == PREDICT_V ? alpha * x - sigma * alpha * output
                                                : (x - sigma * alpha * output) / alpha;
}

/* What a step adds up: the sample, the newest x0, its first and second differences, and noise. */
struct dpm_weights {
    double keep, clean, first, second, noise;
};

/* alpha_to times the integrals of e^-u, u e^-u / h and u^2 e^-u / (2 h^2) over the step, whose length is h in lambda, and
 * twice that for the SDE. They go to 0 with h. */
static struct dpm_weights weights_of(const struct sampler *s, double sigma, double to, int64_t order)
{
    double alpha = sampler_alpha_of(sigma), alpha_to = sampler_alpha_of(to), h = log(sigma) - log(to);
    double length = s->sde ? 2 * h : h, shrink = expm1(-length);
    struct dpm_weights w = {.keep = to * alpha_to / (sigma * alpha), .clean = -alpha_to * shrink};
    if (s->sde) {
        w.keep *= exp(-h);
        w.noise = to * alpha_to * sqrt(-shrink);
    }
    if (order > 1)
        w.first = order == 2 && !s->schedule->sampling.heun ? 0.5 * w.clean : alpha_to * (shrink / length + 1);
    if (order > 2)
        w.second = -alpha_to * ((shrink + length) / (length * length) - 0.5);
    return w;
}

/* The last steps may be of a lower order; the last one is where it ends at sigma 0, as is a step of no length. */
static int64_t order_of(const struct sampler *s, int64_t i)
{
    const struct sampling *with = &s->schedule->sampling;
    enum { FEW = 15 };
    bool lower = with->lower_order_final && s->calls < FEW;
    int64_t left = s->calls - i, order = with->order < s->kept ? with->order : s->kept;
    if (left == 1 && (lower || with->euler_at_final || s->sigmas[s->calls] == 0))
        return 1;
    if (s->sigmas[i + 1] == s->sigmas[i])
        return 1;
    return left == 2 && lower && order > 2 ? 2 : order;
}

void sampler_step_dpm(struct sampler *s, int64_t i, const float *output, float *sample)
{
    double sigma = s->sigmas[i], to = s->sigmas[i + 1];
    float *clean = sampler_keep(s, output);
    for (int64_t k = 0; k < s->count; k++)
        clean[k] = (float)sampler_clean_of(s, sigma, (double)sample[k], (double)output[k]);
    int64_t order = order_of(s, i);
    const struct dpm_weights w = weights_of(s, sigma, to, order);
    double h = log(sigma) - log(to);
    double r0 = order > 1 ? (log(s->sigmas[i - 1]) - log(sigma)) / h : 1;
    double r1 = order > 2 ? (log(s->sigmas[i - 2]) - log(s->sigmas[i - 1])) / h : 1;
    const float *noise = w.noise > 0 ? sampler_draw(s, i) : NULL;
    for (int64_t k = 0; k < s->count; k++) {
        double now = (double)s->outputs[0][k], next = w.keep * (double)sample[k] + w.clean * now;
        double first = order > 1 ? (now - (double)s->outputs[1][k]) / r0 : 0, second = 0;
        if (order > 2) {
            double bend = first - ((double)s->outputs[1][k] - (double)s->outputs[2][k]) / r1;
            second = bend / (r0 + r1);
            first += r0 / (r0 + r1) * bend;
        }
        next += w.first * first + w.second * second;
        sample[k] = (float)(noise ? next + w.noise * (double)noise[k] : next);
    }
}
