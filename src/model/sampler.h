/* model/sampler.h
 *
 * The samplers that walk a noise schedule back, from noise to a picture's latents. Equal to diffusers' PNDMScheduler
 * (PLMS), DDIMScheduler (eta 0), EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, DPMSolverMultistepScheduler
 * (DPM-Solver++ and its SDE), UniPCMultistepScheduler and LCMScheduler, each made from the model's config as
 * from_config does. Their table is in sampler.c: a sampler is a row of it and a step.
 *
 * Some add noise after every step but the last: that of step i of a picture is the normals from number (i + 1) count of
 * STREAM_SAMPLE on, whose first `count` are the picture's start (base/rng.h).
 */
#ifndef ZOODIP_MODEL_SAMPLER_H
#define ZOODIP_MODEL_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/noise_schedule.h"

struct sampler_type;

/* The sampler of that name, or NULL: one of sampler_names, or what it is called by AUTOMATIC1111 ("DPM++ 2M Karras") and
 * by diffusers ("EulerDiscreteScheduler"); capitals, blanks, `-` and `_` do not count. */
const struct sampler_type *sampler_find(const char *name);

/* PNDM, as Stable Diffusion's own pipeline; for a schedule with zero terminal SNR, which PNDM cannot step from, DDIM, or
 * Euler's where the network predicts noise, which says nothing there. */
const struct sampler_type *sampler_default(const struct noise_schedule *schedule);

const char *sampler_name(const struct sampler_type *type);

/* Its name in AUTOMATIC1111, such as "DPM++ 2M", which the texts in pictures use (report/parameters.h). */
const char *sampler_label(const struct sampler_type *type);

/* How it spreads the sigmas of a model's schedule, in the same words: "Karras" or "Exponential"; as timesteps are: NULL, or
 * "Uniform" where AUTOMATIC1111 would take that name for one of the others ("DPM++ 2M" alone is Karras there). */
const char *sampler_schedule_label(const struct noise_schedule *schedule, const struct sampler_type *type);

/* All names, for help and errors: "pndm, ddim, .. or lcm". */
enum { SAMPLER_NAMES = 160 };
void sampler_names(char text[SAMPLER_NAMES]);

/* ERROR_BAD_INPUT if the model's config has a setting that this sampler heeds and that is not supported. */
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
    uint64_t seed;     /* set by the caller: of the noise that is added */

    /* private */
    const struct noise_schedule *schedule;
    const struct sampler_type *type;
    int64_t steps;                   /* asked for */
    bool karras, lu, spreads;        /* how sigmas are spread; spreads: not as timesteps are */
    bool sde;                        /* DPM-Solver++ adds noise */
    double *sigmas;                  /* [calls + 1], the last one is where it ends */
    int64_t count;                   /* numbers of a sample */
    float *outputs[SAMPLER_OUTPUTS]; /* [count]: the newest first; the last one is also Runge-Kutta's sum */
    int64_t kept;                    /* outputs in use */
    float *held;                     /* [count]: the sample that PNDM and UniPC return to; and scratch */
    float *noise;                    /* [count]: what a step draws; and scratch */
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
