#include "model/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

static const char *const sampler_names[SAMPLER_COUNT] = {"pndm", "ddim", "euler", "dpm++"};

int sampler_find(const char *name)
{
    for (int i = 0; i < SAMPLER_COUNT; i++)
        if (strcmp(name, sampler_names[i]) == 0)
            return i;
    return -1;
}

static enum spacing spacing_of(const struct sampler *s)
{
    static const enum spacing own[SAMPLER_COUNT] = {SPACING_LEADING, SPACING_LEADING, SPACING_LINSPACE,
                                                    SPACING_LINSPACE};
    return s->schedule->spacing != SPACING_DEFAULT ? s->schedule->spacing : own[s->kind];
}

/* Timestep i of n, counted from the noisiest, as each class of diffusers spaces them. */
static double spaced(const struct sampler *s, int64_t i, int64_t n)
{
    int64_t all = s->schedule->steps, up = n - 1 - i;
    bool dpm = s->kind == SAMPLER_DPM;
    switch (spacing_of(s)) {
    case SPACING_LINSPACE: {
        int64_t last = dpm ? n : n - 1, place = dpm ? n - i : up;
        double t = last > 0 ? (double)place * ((double)(all - 1) / (double)last) : 0;
        return s->kind == SAMPLER_EULER ? (double)(float)t : nearbyint(t);
    }
    case SPACING_TRAILING: { // rounded like numpy.arange's stride, because of ties
        double stride = ((double)all - (double)all / (double)n) - (double)all;
        return nearbyint((double)all + (double)i * stride) - 1;
    }
    default:
        return (double)((dpm ? up + 1 : up) * (all / (dpm ? n + 1 : n)) + s->schedule->steps_offset);
    }
}

enum { RUNGE_KUTTA_STEPS = 3, RUNGE_KUTTA_CALLS = 4 * RUNGE_KUTTA_STEPS };

/* A Runge-Kutta step looks at its start, twice at the middle, at its end. PLMS visits its second timestep twice
 * instead, to begin with a better slope. */
static double spaced_pndm(const struct sampler *s, int64_t i)
{
    int64_t n = s->steps;
    if (!s->schedule->runge_kutta)
        return spaced(s, n == 1 || i < 2 ? i : i - 1, n);
    if (i >= RUNGE_KUTTA_CALLS)
        return spaced(s, i - RUNGE_KUTTA_CALLS + RUNGE_KUTTA_STEPS, n);
    int64_t step = i / 4, place = i % 4, half = s->schedule->steps / n / 2;
    return place == 0 ? spaced(s, step, n) : spaced(s, step + 1, n) + (double)(place == 3 ? 0 : half);
}

static double sigma_at(const struct noise_schedule *schedule, double t)
{
    int64_t low = (int64_t)floor(t), last = schedule->steps - 1;
    low = low < 0 ? 0 : low > last ? last : low;
    int64_t high = low < last ? low + 1 : last;
    double a = (double)schedule->alphas_cumprod[low], b = (double)schedule->alphas_cumprod[high];
    double from = sqrt((1 - a) / a), to = sqrt((1 - b) / b);
    return from + (to - from) * (t - (double)low);
}

static struct error device_memory_alloc(struct sampler *s)
{
    s->timesteps = memory_alloc(s->calls, sizeof *s->timesteps);
    s->sigmas = memory_alloc(s->calls + 1, sizeof *s->sigmas);
    s->held = memory_alloc(s->count, sizeof *s->held);
    bool all = s->timesteps && s->sigmas && s->held;
    for (int i = 0; i < SAMPLER_MEMORY; i++) {
        s->memory[i] = memory_alloc(s->count, sizeof *s->memory[i]);
        all = all && s->memory[i];
    }
    return all ? ok() : error_memory("the sampler");
}

int64_t sampler_calls(const struct noise_schedule *schedule, enum sampler_kind kind, int64_t steps)
{
    if (kind != SAMPLER_PNDM)
        return steps;
    return schedule->runge_kutta ? steps + RUNGE_KUTTA_CALLS - RUNGE_KUTTA_STEPS : steps > 1 ? steps + 1 : 1;
}

static struct error space_timesteps(struct sampler *s)
{
    for (int64_t i = 0; i < s->calls; i++) {
        double t = s->kind == SAMPLER_PNDM ? spaced_pndm(s, i) : spaced(s, i, s->steps);
        if (t < 0 || t > (double)(s->schedule->steps - 1))
            return error_input("--steps: %lld: with the model's steps_offset %lld this needs timestep %.0f of %lld",
                               (long long)s->steps, (long long)s->schedule->steps_offset, t,
                               (long long)s->schedule->steps);
        s->timesteps[i] = t;
    }
    return ok();
}

struct error sampler_new(struct sampler *s, const struct noise_schedule *schedule, enum sampler_kind kind,
                         int64_t steps, int64_t count)
{
    *s = (struct sampler){.schedule = schedule, .kind = kind, .steps = steps, .count = count, .init_sigma = 1};
    int64_t least = kind == SAMPLER_PNDM && schedule->runge_kutta ? RUNGE_KUTTA_STEPS + 1 : 1;
    if (steps < least || steps > schedule->steps - 1)
        return error_input("--steps: %lld: expected %lld to %lld", (long long)steps, (long long)least,
                           (long long)schedule->steps - 1);
    s->calls = sampler_calls(schedule, kind, steps);
    struct error e = device_memory_alloc(s);
    if (e.code == ERROR_NONE)
        e = space_timesteps(s);
    if (e.code != ERROR_NONE) {
        sampler_free(s);
        return e;
    }
    for (int64_t i = 0; i < s->calls; i++) // in float, as torch keeps them; the last is 0
        s->sigmas[i] = (double)(float)sigma_at(schedule, s->timesteps[i]);
    if (kind == SAMPLER_EULER)
        s->init_sigma = spacing_of(s) == SPACING_LEADING ? sqrt(s->sigmas[0] * s->sigmas[0] + 1) : s->sigmas[0];
    return ok();
}

void sampler_free(struct sampler *s)
{
    memory_free(s->timesteps);
    memory_free(s->sigmas);
    memory_free(s->held);
    for (int i = 0; i < SAMPLER_MEMORY; i++)
        memory_free(s->memory[i]);
    *s = (struct sampler){0};
}

void sampler_input(const struct sampler *s, int64_t i, const float *sample, float *input)
{
    float scale = s->kind == SAMPLER_EULER ? (float)(1 / sqrt(s->sigmas[i] * s->sigmas[i] + 1)) : 1.0f;
    for (int64_t k = 0; k < s->count; k++)
        input[k] = sample[k] * scale;
}

/* Keeps an output as the newest; drops the oldest. */
static float *remember(struct sampler *s, const float *output)
{
    float *newest = s->memory[SAMPLER_MEMORY - 1];
    memmove(s->memory + 1, s->memory, (SAMPLER_MEMORY - 1) * sizeof *s->memory);
    s->memory[0] = newest;
    memcpy(newest, output, (size_t)s->count * sizeof *newest);
    if (s->remembered < SAMPLER_MEMORY)
        s->remembered++;
    return newest;
}

/* alpha_cumprod at a timestep; before the first, what the config says. */
static double alpha_at(const struct sampler *s, int64_t t)
{
    const struct noise_schedule *n = s->schedule;
    if (t >= 0)
        return (double)n->alphas_cumprod[t];
    bool one = n->has_alpha_to_one ? n->set_alpha_to_one : s->kind == SAMPLER_DDIM;
    return one ? 1 : (double)n->alphas_cumprod[0];
}

/* PNDM's formula (9), Liu et al. 2022: from t to `to` along a slope. */
static void pndm_transfer(const struct sampler *s, int64_t t, int64_t to, const float *from, const float *slope,
                          float *sample)
{
    double a = alpha_at(s, t), a_to = alpha_at(s, to), b = 1 - a, b_to = 1 - a_to;
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
        remember(s, output);
        memcpy(s->held, sample, (size_t)s->count * sizeof *sample);
    }
    float *mean = s->memory[SAMPLER_MEMORY - 1];
    for (int64_t k = 0; k < s->count; k++)
        mean[k] = (float)((place ? (double)mean[k] : 0) + weights[place] * (double)output[k]);
    int64_t t = (int64_t)s->timesteps[i - place], to = (int64_t)s->timesteps[i] - (place % 2 ? 0 : half);
    pndm_transfer(s, t, to, s->held, place == 3 ? mean : output, sample);
}

/* PLMS: linear multistep over the last outputs (Adams-Bashforth), with increasing order at the start. */
static void step_pndm(struct sampler *s, int64_t i, const float *output, float *sample)
{
    if (s->schedule->runge_kutta && i < RUNGE_KUTTA_CALLS) {
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
            s->memory[1][k] = (output[k] + s->memory[0][k]) / 2;
        pndm_transfer(s, t + stride, t, s->held, s->memory[1], sample);
        return;
    }
    remember(s, output);
    const double *w = weights[s->remembered - 1];
    for (int64_t k = 0; k < s->count; k++) {
        double slope = 0;
        for (int m = 0; m < s->remembered; m++)
            slope += w[m] * (double)s->memory[m][k];
        s->held[k] = i == 0 ? s->held[k] : (float)slope;
    }
    pndm_transfer(s, t, t - stride, sample, i == 0 ? output : s->held, sample);
}

static void step_ddim(struct sampler *s, int64_t i, const float *output, float *sample)
{
    const struct noise_schedule *n = s->schedule;
    int64_t t = (int64_t)s->timesteps[i], to = t - n->steps / s->steps;
    double a = alpha_at(s, t), a_to = alpha_at(s, to), range = (double)n->clip_range;
    bool clip = n->has_clip_sample ? n->clip_sample : true;
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], e = (double)output[k], clean;
        if (n->prediction == PREDICT_V) {
            clean = sqrt(a) * x - sqrt(1 - a) * e;
            e = sqrt(a) * e + sqrt(1 - a) * x;
        } else {
            clean = (x - sqrt(1 - a) * e) / sqrt(a);
        }
        if (clip)
            clean = fmin(fmax(clean, -range), range);
        sample[k] = (float)(sqrt(a_to) * clean + sqrt(1 - a_to) * e);
    }
}

/* The picture that an output predicts, where the sample is x0 + sigma noise. */
static double clean_of(const struct sampler *s, double sigma, double x, double output)
{
    if (s->schedule->prediction == PREDICT_V)
        return output * (-sigma / sqrt(sigma * sigma + 1)) + x / (sigma * sigma + 1);
    return x - sigma * output;
}

static void step_euler(struct sampler *s, int64_t i, const float *output, float *sample)
{
    double sigma = s->sigmas[i], to = s->sigmas[i + 1];
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], clean = clean_of(s, sigma, x, (double)output[k]);
        sample[k] = (float)(x + (x - clean) / sigma * (to - sigma));
    }
}

/* DPM-Solver++ (Lu et al. 2022), two steps, midpoint; the last step is of first order. */
static void step_dpm(struct sampler *s, int64_t i, const float *output, float *sample)
{
    double sigma = s->sigmas[i], to = s->sigmas[i + 1];
    double alpha = 1 / sqrt(sigma * sigma + 1), alpha_to = 1 / sqrt(to * to + 1);
    float *clean = remember(s, output);
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], e = (double)output[k];
        clean[k] = (float)(s->schedule->prediction == PREDICT_V ? alpha * x - sigma * alpha * e
                                                                : (x - sigma * alpha * e) / alpha);
    }
    double h = log(sigma) - log(to), shrink = exp(-h) - 1; // lambda = -log sigma
    bool second = i > 0 && i + 1 < s->calls;
    double before = second ? log(s->sigmas[i - 1]) - log(sigma) : 1;
    for (int64_t k = 0; k < s->count; k++) {
        double now = (double)s->memory[0][k], x = (double)sample[k];
        double next = to * alpha_to / (sigma * alpha) * x - alpha_to * shrink * now;
        if (second)
            next -= 0.5 * alpha_to * shrink * (h / before) * (now - (double)s->memory[1][k]);
        sample[k] = (float)next;
    }
}

void sampler_step(struct sampler *s, int64_t i, const float *output, float *sample)
{
    static void (*const steps[SAMPLER_COUNT])(struct sampler *, int64_t, const float *,
                                              float *) = {step_pndm, step_ddim, step_euler, step_dpm};
    steps[s->kind](s, i, output, sample);
}
