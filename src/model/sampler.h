/* model/sampler.h
 *
 * The samplers that walk a noise schedule back, from noise to a picture's latents. Equal to diffusers' PNDMScheduler
 * (PLMS), DDIMScheduler (eta 0), EulerDiscreteScheduler and DPMSolverMultistepScheduler (2M), each made from the
 * model's config as from_config does. Their table is in sampler.c: a sampler is a row of it and a step.
 */
#ifndef ZOODIP_MODEL_SAMPLER_H
#define ZOODIP_MODEL_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/noise_schedule.h"

struct sampler_type;

/* The sampler of that name, or NULL. */
const struct sampler_type *sampler_find(const char *name);

/* PNDM, as Stable Diffusion's own pipeline. */
const struct sampler_type *sampler_default(void);

const char *sampler_name(const struct sampler_type *type);

/* All names, for help and errors: "pndm, ddim, euler or dpm++". */
void sampler_names(char *text, size_t size);

/* ERROR_BAD_INPUT if the model's config has a setting for this sampler that is not supported. PNDM has none of its own, so
 * that it generates from any model, as diffusers' class does. */
struct error sampler_check(const struct noise_schedule *schedule, const struct sampler_type *type);

/* How often a sampler calls the network for a given number of steps; 0 if they are too few for it. */
int64_t sampler_calls(const struct noise_schedule *schedule, const struct sampler_type *type, int64_t steps);

/* The fewest steps that a sampler can take. */
int64_t sampler_least_steps(const struct noise_schedule *schedule, const struct sampler_type *type);

enum { SAMPLER_OUTPUTS = 4 };

struct sampler {
    int64_t calls;     /* of the network */
    double *timesteps; /* [calls] */
    double init_sigma; /* start latents are noise times this */

    /* private */
    const struct noise_schedule *schedule;
    const struct sampler_type *type;
    int64_t steps;                   /* asked for */
    double *sigmas;                  /* [calls + 1], the last 0 */
    int64_t count;                   /* numbers of a sample */
    float *outputs[SAMPLER_OUTPUTS]; /* [count]: the newest first; the last one is also Runge-Kutta's sum */
    int64_t kept;                    /* outputs in use */
    float *held;                     /* [count]: the sample that PNDM returns to; and scratch */
};

/* For samples of `count` numbers in any layout; the schedule is borrowed. Free with sampler_free. More steps than the
 * schedule has, or fewer than the sampler needs, are the user's error. */
struct error sampler_new(struct sampler *s, const struct noise_schedule *schedule, const struct sampler_type *type,
                         int64_t steps, int64_t count);
void sampler_free(struct sampler *s);

/* The network's input at call i: sample [count] scaled -> input [count]. */
void sampler_input(const struct sampler *s, int64_t i, const float *sample, float *input);

/* Advances sample [count] one step, in place, with the network's output [count] of call i. Calls come in order. */
void sampler_step(struct sampler *s, int64_t i, const float *output, float *sample);

#endif
