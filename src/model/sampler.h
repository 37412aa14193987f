/* model/sampler.h
 *
 * The samplers that walk a noise schedule back, from noise to a picture's latents. Equal to diffusers' PNDMScheduler
 * (PLMS), DDIMScheduler (eta 0), EulerDiscreteScheduler and DPMSolverMultistepScheduler (2M), each made from the model's
 * config as from_config does.
 */
#ifndef ZOODIP_MODEL_SAMPLER_H
#define ZOODIP_MODEL_SAMPLER_H

#include <stdint.h>

#include "base/error.h"
#include "model/noise_schedule.h"

enum sampler_kind { SAMPLER_PNDM, SAMPLER_DDIM, SAMPLER_EULER, SAMPLER_DPM, SAMPLER_COUNT };

/* "pndm", "ddim", "euler" or "dpm++"; -1 for another name. */
int sampler_find(const char *name);

/* How often a sampler calls the network for a given number of steps. */
int64_t sampler_calls(const struct noise_schedule *schedule, enum sampler_kind kind, int64_t steps);

enum { SAMPLER_MEMORY = 4 };

struct sampler {
    const struct noise_schedule *schedule;
    enum sampler_kind kind;
    int64_t steps;                 /* asked for */
    int64_t calls;                 /* of the network */
    double *timesteps;             /* [calls] */
    double *sigmas;                /* [calls + 1], Euler and DPM */
    double init_sigma;             /* start latents are noise times this */
    int64_t count;                 /* numbers of a sample */
    float *memory[SAMPLER_MEMORY]; /* [count] each: earlier outputs, newest first; the last is PNDM's scratch at the
                                      start */
    float *held;                   /* [count]: the sample that PNDM returns to; and scratch */
    int64_t remembered;
};

/* For samples of `count` numbers in any layout; the schedule is borrowed. Free with sampler_free. More steps than the
 * schedule has are the user's error. */
struct error sampler_new(struct sampler *s, const struct noise_schedule *schedule, enum sampler_kind kind,
                         int64_t steps, int64_t count);
void sampler_free(struct sampler *s);

/* What the network is shown at call i: sample [count] scaled, into input [count]. */
void sampler_input(const struct sampler *s, int64_t i, const float *sample, float *input);

/* Advances sample [count] one step, in place, with the network's output [count] of call i. Calls come in order. */
void sampler_step(struct sampler *s, int64_t i, const float *output, float *sample);

#endif
