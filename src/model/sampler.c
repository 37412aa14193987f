#include "model/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

struct sampler_type {
    const char *name;
    enum spacing own_spacing; /* of the timesteps, if the model's config names none */
    int64_t spare;            /* timesteps that are spaced at the clean end and not visited */
    bool fractional;          /* a timestep may lie between two of the schedule */
    bool ends_clean;          /* below the first timestep alpha is 1, if the model's config does not say */
    bool plain;               /* no setting of the other classes changes it */
    bool scaled;              /* a sample is x0 + sigma noise; the network is shown one of variance 1 */
    int64_t (*calls)(const struct noise_schedule *schedule, int64_t steps); /* sampler_calls; NULL: one a step */
    double (*space)(const struct sampler *s, int64_t i); /* the timestep of call i; NULL: that of step i */
    void (*step)(struct sampler *s, int64_t i, const float *output, float *sample); /* sampler_step */
};

/* -------------------------------------------------------------------------------- timesteps */

static enum spacing spacing_of(const struct sampler *s)
{
    return s->schedule->spacing != SPACING_DEFAULT ? s->schedule->spacing : s->type->own_spacing;
}

/* Timestep i of n, counted from the noisiest, as each class of diffusers spaces them. */
static double spaced(const struct sampler *s, int64_t i, int64_t n)
{
    int64_t all = s->schedule->steps, spare = s->type->spare, place = n - 1 - i + spare;
    switch (spacing_of(s)) {
    case SPACING_LINSPACE: {
        int64_t last = n - 1 + spare;
        double t = last > 0 ? (double)place * ((double)(all - 1) / (double)last) : 0;
        return s->type->fractional ? (double)(float)t : nearbyint(t);
    }
    case SPACING_TRAILING: { // rounded like numpy.arange's stride, because of ties
        double stride = ((double)all - (double)all / (double)n) - (double)all;
        return nearbyint((double)all + (double)i * stride) - 1;
    }
    default:
        return (double)(place * (all / (n + spare)) + s->schedule->steps_offset);
    }
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

/* alpha_cumprod at a timestep; below the first, what the config says. */
static double alpha_at(const struct sampler *s, int64_t t)
{
    const struct noise_schedule *n = s->schedule;
    if (t >= 0)
        return (double)n->alphas_cumprod[t];
    bool one = n->has_alpha_to_one ? n->set_alpha_to_one : s->type->ends_clean;
    return one ? 1 : (double)n->alphas_cumprod[0];
}

/* Keeps an output as the newest; drops the oldest. */
static float *keep_output(struct sampler *s, const float *output)
{
    float *newest = s->outputs[SAMPLER_OUTPUTS - 1];
    memmove(s->outputs + 1, s->outputs, (SAMPLER_OUTPUTS - 1) * sizeof *s->outputs);
    s->outputs[0] = newest;
    memcpy(newest, output, (size_t)s->count * sizeof *newest);
    if (s->kept < SAMPLER_OUTPUTS)
        s->kept++;
    return newest;
}

/* -------------------------------------------------------------------------------- PNDM */

enum { RUNGE_KUTTA_STEPS = 3, RUNGE_KUTTA_CALLS = 4 * RUNGE_KUTTA_STEPS };

static int64_t calls_pndm(const struct noise_schedule *schedule, int64_t steps)
{
    if (!schedule->runge_kutta)
        return steps > 1 ? steps + 1 : 1;
    return steps > RUNGE_KUTTA_STEPS ? steps - RUNGE_KUTTA_STEPS + RUNGE_KUTTA_CALLS : 0;
}

/* A Runge-Kutta step evaluates its start, twice its middle, and its end. PLMS visits its second timestep twice
 * instead, to begin with a better slope. */
static double space_pndm(const struct sampler *s, int64_t i)
{
    int64_t n = s->steps;
    if (!s->schedule->runge_kutta)
        return spaced(s, n == 1 || i < 2 ? i : i - 1, n);
    if (i >= RUNGE_KUTTA_CALLS)
        return spaced(s, i - RUNGE_KUTTA_CALLS + RUNGE_KUTTA_STEPS, n);
    int64_t step = i / 4, place = i % 4, half = s->schedule->steps / n / 2;
    return place == 0 ? spaced(s, step, n) : spaced(s, step + 1, n) + (double)(place == 3 ? 0 : half);
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
        keep_output(s, output);
        memcpy(s->held, sample, (size_t)s->count * sizeof *sample);
    }
    float *mean = s->outputs[SAMPLER_OUTPUTS - 1];
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
            s->outputs[1][k] = (output[k] + s->outputs[0][k]) / 2;
        pndm_transfer(s, t + stride, t, s->held, s->outputs[1], sample);
        return;
    }
    keep_output(s, output);
    const double *w = weights[s->kept - 1];
    for (int64_t k = 0; k < s->count; k++) {
        double slope = 0;
        for (int m = 0; m < s->kept; m++)
            slope += w[m] * (double)s->outputs[m][k];
        s->held[k] = i == 0 ? s->held[k] : (float)slope;
    }
    pndm_transfer(s, t, t - stride, sample, i == 0 ? output : s->held, sample);
}

/* -------------------------------------------------------------------------------- the others */

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
    float *clean = keep_output(s, output);
    for (int64_t k = 0; k < s->count; k++) {
        double x = (double)sample[k], e = (double)output[k];
        clean[k] = (float)(s->schedule->prediction == PREDICT_V ? alpha * x - sigma * alpha * e
                                                                : (x - sigma * alpha * e) / alpha);
    }
    double h = log(sigma) - log(to), shrink = exp(-h) - 1; // lambda = -log sigma
    bool second = i > 0 && i + 1 < s->calls;
    double before = second ? log(s->sigmas[i - 1]) - log(sigma) : 1;
    for (int64_t k = 0; k < s->count; k++) {
        double now = (double)s->outputs[0][k], x = (double)sample[k];
        double next = to * alpha_to / (sigma * alpha) * x - alpha_to * shrink * now;
        if (second)
            next -= 0.5 * alpha_to * shrink * (h / before) * (now - (double)s->outputs[1][k]);
        sample[k] = (float)next;
    }
}

/* -------------------------------------------------------------------------------- the table */

static const struct sampler_type types[] = {
    {.name = "pndm",
     .own_spacing = SPACING_LEADING,
     .plain = true,
     .calls = calls_pndm,
     .space = space_pndm,
     .step = step_pndm},
    {.name = "ddim", .own_spacing = SPACING_LEADING, .ends_clean = true, .step = step_ddim},
    {.name = "euler", .own_spacing = SPACING_LINSPACE, .fractional = true, .scaled = true, .step = step_euler},
    {.name = "dpm++", .own_spacing = SPACING_LINSPACE, .spare = 1, .step = step_dpm},
};
enum { TYPES = sizeof types / sizeof *types };

const struct sampler_type *sampler_find(const char *name)
{
    for (size_t i = 0; i < TYPES; i++)
        if (strcmp(name, types[i].name) == 0)
            return &types[i];
    return NULL;
}

const struct sampler_type *sampler_default(void)
{
    return &types[0];
}

const char *sampler_name(const struct sampler_type *type)
{
    return type->name;
}

void sampler_names(char *text, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < TYPES && used < size; i++) {
        const char *joint = i == 0 ? "" : i + 1 < TYPES ? ", " : " or ";
        used += (size_t)snprintf(text + used, size - used, "%s%s", joint, types[i].name);
    }
}

struct error sampler_check(const struct noise_schedule *schedule, const struct sampler_type *type)
{
    return type->plain ? ok() : schedule->not_plain;
}

int64_t sampler_calls(const struct noise_schedule *schedule, const struct sampler_type *type, int64_t steps)
{
    return type->calls ? type->calls(schedule, steps) : steps;
}

int64_t sampler_least_steps(const struct noise_schedule *schedule, const struct sampler_type *type)
{
    int64_t steps = 1;
    while (sampler_calls(schedule, type, steps) == 0)
        steps++;
    return steps;
}

/* -------------------------------------------------------------------------------- a sampler */

static struct error alloc_arrays(struct sampler *s)
{
    s->timesteps = memory_alloc(s->calls, sizeof *s->timesteps);
    s->sigmas = memory_alloc(s->calls + 1, sizeof *s->sigmas);
    s->held = memory_alloc(s->count, sizeof *s->held);
    bool all = s->timesteps && s->sigmas && s->held;
    for (int i = 0; i < SAMPLER_OUTPUTS; i++) {
        s->outputs[i] = memory_alloc(s->count, sizeof *s->outputs[i]);
        all = all && s->outputs[i];
    }
    return all ? ok() : error_memory("the sampler");
}

static struct error space_timesteps(struct sampler *s)
{
    for (int64_t i = 0; i < s->calls; i++) {
        double t = s->type->space ? s->type->space(s, i) : spaced(s, i, s->steps);
        if (t < 0 || t > (double)(s->schedule->steps - 1))
            return error_input("is %lld, and with the model's steps_offset %lld this needs timestep %.0f of %lld",
                               (long long)s->steps, (long long)s->schedule->steps_offset, t,
                               (long long)s->schedule->steps);
        s->timesteps[i] = t;
        s->sigmas[i] = (double)(float)sigma_at(s->schedule, t); // in float, as torch keeps them
    }
    return ok();
}

struct error sampler_new(struct sampler *s, const struct noise_schedule *schedule, const struct sampler_type *type,
                         int64_t steps, int64_t count)
{
    *s = (struct sampler){.schedule = schedule, .type = type, .steps = steps, .count = count, .init_sigma = 1};
    int64_t least = sampler_least_steps(schedule, type);
    if (steps < least || steps > schedule->steps - 1)
        return error_input("is %lld, expected %lld to %lld", (long long)steps, (long long)least,
                           (long long)schedule->steps - 1);
    s->calls = sampler_calls(schedule, type, steps);
    struct error e = alloc_arrays(s);
    if (e.code == ERROR_NONE)
        e = space_timesteps(s);
    if (e.code != ERROR_NONE) {
        sampler_free(s);
        return e;
    }
    if (type->scaled)
        s->init_sigma = spacing_of(s) == SPACING_LEADING ? sqrt(s->sigmas[0] * s->sigmas[0] + 1) : s->sigmas[0];
    return ok();
}

void sampler_free(struct sampler *s)
{
    memory_free(s->timesteps);
    memory_free(s->sigmas);
    memory_free(s->held);
    for (int i = 0; i < SAMPLER_OUTPUTS; i++)
        memory_free(s->outputs[i]);
    *s = (struct sampler){0};
}

void sampler_input(const struct sampler *s, int64_t i, const float *sample, float *input)
{
    float scale = s->type->scaled ? (float)(1 / sqrt(s->sigmas[i] * s->sigmas[i] + 1)) : 1.0f;
    for (int64_t k = 0; k < s->count; k++)
        input[k] = sample[k] * scale;
}

void sampler_step(struct sampler *s, int64_t i, const float *output, float *sample)
{
    s->type->step(s, i, output, sample);
}
