/* model/scheduler.h
 *
 * The noise schedule of a model (scheduler/scheduler_config.json), for training: x_t = sqrt(a_t) z + sqrt(1 - a_t)
 * noise; and the samplers that walk it back, for drawing. Equal to diffusers' DDPMScheduler.add_noise and get_velocity,
 * and to PNDMScheduler (PLMS), DDIMScheduler (eta 0), EulerDiscreteScheduler and DPMSolverMultistepScheduler (2M), each
 * made from the model's config as from_config does.
 */
#ifndef ZOODIP_MODEL_SCHEDULER_H
#define ZOODIP_MODEL_SCHEDULER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum prediction { PREDICT_EPSILON, PREDICT_V };
enum spacing { SPACING_DEFAULT, SPACING_LEADING, SPACING_LINSPACE, SPACING_TRAILING };

struct noise_schedule {
    int64_t steps; /* num_train_timesteps */
    enum prediction prediction;
    enum spacing spacing; /* SPACING_DEFAULT: the config names none, so the sampler's own default applies */
    int64_t steps_offset;
    bool set_alpha_to_one, has_alpha_to_one; /* has_: named by the config */
    bool clip_sample, has_clip_sample;
    float clip_range;
    bool runge_kutta;      /* PNDM begins with Runge-Kutta steps: skip_prk_steps is false or absent */
    float *alphas_cumprod; /* [steps] */
};

/* Reads FOLDER/scheduler/scheduler_config.json, whichever of the common classes wrote it; missing keys have diffusers'
 * defaults. Refuses, by key, what is not supported. */
struct error noise_schedule_read(struct noise_schedule *s, const char *folder);
void noise_schedule_free(struct noise_schedule *s);

/* What StableDiffusionPipeline changes in a model's schedule when it loads it (pipeline_stable_diffusion.py, __init__):
 * steps_offset becomes 1, and a clip_sample set by the config is switched off. For drawing; training uses neither. */
void noise_schedule_as_pipeline(struct noise_schedule *s);

/* noisy, target [count] from latent and noise [count] at timestep t in [0, steps). */
void noise_add(const struct noise_schedule *s, int64_t t, const float *latent, const float *noise, float *noisy,
               int64_t count);
void noise_target(const struct noise_schedule *s, int64_t t, const float *latent, const float *noise, float *target,
                  int64_t count);

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
