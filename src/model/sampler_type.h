/* model/sampler_type.h
 *
 * What the files of the sampler family share; for sampler*.c alone. A sampler is a row of the table in sampler.c and a
 * step: in sampler_single.c those that use one output, in sampler_pndm.c, sampler_dpm.c and sampler_unipc.c those that
 * use earlier ones too. Their timesteps and sigmas are in sampler_spacing.c.
 *
 * Two notations meet here, as they do in diffusers. With alphas a sample is sqrt(a) x0 + sqrt(1 - a) noise. With
 * sigmas, where sigma = sqrt((1 - a) / a), it is either x0 + sigma noise (`scaled`: Euler's, the network is shown one of
 * variance 1), or the same divided by sqrt(sigma^2 + 1) (the multistep solvers').
 */
#ifndef ZOODIP_MODEL_SAMPLER_TYPE_H
#define ZOODIP_MODEL_SAMPLER_TYPE_H

#include "model/sampler.h"

enum { OTHER_NAMES = 2 };

struct sampler_type {
    const char *name;
    const char *label;              /* as AUTOMATIC1111 names it */
    const char *names[OTHER_NAMES]; /* diffusers', and others that users type */
    enum sampler_class class;
    enum spacing own_spacing; /* of the timesteps, if the model's config names none */
    int64_t spare;            /* timesteps that are spaced at the clean end and not visited */
    bool fractional;          /* a timestep may lie between two of the schedule */
    bool ends_clean;          /* below the first timestep alpha is 1, if the model's config does not say */
    bool clips;               /* x0 is clipped, if the model's config does not say */
    bool sigmas;              /* it steps from sigma to sigma */
    bool scaled;              /* a sample is x0 + sigma noise */
    bool spread;              /* sigmas may be spread in another way than timesteps */
    bool karras, sde;         /* whatever the model's config says */
    int64_t (*calls)(const struct noise_schedule *schedule, int64_t steps); /* sampler_calls; NULL: one a step */
    double (*space)(const struct sampler *s, int64_t i); /* the timestep of call i; NULL: that of step i */
    void (*step)(struct sampler *s, int64_t i, const float *output, float *sample); /* sampler_step */
};

/* -------------------------------------------------------------------------------- sampler_spacing.c */

enum spacing sampler_spacing(const struct sampler *s);

/* Timestep i of n, counted from the noisiest, as each class of diffusers spaces them. */
double sampler_spaced(const struct sampler *s, int64_t i, int64_t n);

/* Fills in timesteps and sigmas. A schedule that lacks a timestep is the user's error. */
struct error sampler_space(struct sampler *s);

/* alpha_cumprod at a timestep; below the first, what the config says. */
double sampler_alpha(const struct sampler *s, int64_t t);

/* -------------------------------------------------------------------------------- sampler.c */

/* Keeps an output as the newest; drops the oldest. */
float *sampler_keep(struct sampler *s, const float *output);

/* The noise that call i adds, in s->noise [count]. */
const float *sampler_draw(struct sampler *s, int64_t i);

/* -------------------------------------------------------------------------------- a step each */

int64_t sampler_calls_pndm(const struct noise_schedule *schedule, int64_t steps);
double sampler_space_pndm(const struct sampler *s, int64_t i);
void sampler_step_pndm(struct sampler *s, int64_t i, const float *output, float *sample);

void sampler_step_ddim(struct sampler *s, int64_t i, const float *output, float *sample);
void sampler_step_euler(struct sampler *s, int64_t i, const float *output, float *sample);
void sampler_step_ancestral(struct sampler *s, int64_t i, const float *output, float *sample);

double sampler_space_lcm(const struct sampler *s, int64_t i);
void sampler_step_lcm(struct sampler *s, int64_t i, const float *output, float *sample);

void sampler_step_dpm(struct sampler *s, int64_t i, const float *output, float *sample);
void sampler_step_unipc(struct sampler *s, int64_t i, const float *output, float *sample);

/* Where a solver's sample is at sigma: alpha x0 + alpha sigma noise, alpha = 1 / sqrt(sigma^2 + 1). */
double sampler_alpha_of(double sigma);

/* x0 as an output predicts it for such a sample. */
double sampler_clean_of(const struct sampler *s, double sigma, double x, double output);

#endif
