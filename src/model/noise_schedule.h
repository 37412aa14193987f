/* model/noise_schedule.h
 *
 * The noise schedule of a model (scheduler/scheduler_config.json): x_t = sqrt(a_t) z + sqrt(1 - a_t) noise. Equal to
 * that of diffusers' DDPMScheduler; noise itself is added by op_add_noise (device/step_core.h).
 */
#ifndef ZOODIP_MODEL_NOISE_SCHEDULE_H
#define ZOODIP_MODEL_NOISE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/prediction.h"
#include "model/sampling.h"

enum prediction { PREDICT_EPSILON, PREDICT_V };

struct noise_schedule {
    int64_t steps; /* num_train_timesteps */
    enum prediction prediction;
    float *alphas_cumprod; /* [steps] */
    bool zero_snr; /* rescale_betas_zero_snr: at the last timestep alphas_cumprod is 0, and noise is all there is */
    bool cosine;   /* beta_schedule is squaredcos_cap_v2 */
    struct sampling sampling;
};

/* Reads a model's scheduler/scheduler_config.json (model/model_source.h), whichever of the common classes wrote it;
 * missing keys have diffusers' defaults; `prediction` rules over prediction_type. Refuses, by key, what is not supported
 * and changes the noise. Settings of a sampler change nothing in training: they are left to sampler_check. */
struct error noise_schedule_read(struct noise_schedule *s, const char *model, enum prediction_choice prediction);
void noise_schedule_free(struct noise_schedule *s);

/* What StableDiffusionPipeline changes in a model's schedule when it loads it (pipeline_stable_diffusion.py, __init__):
 * steps_offset becomes 1, and a clip_sample set by the config is switched off. Training uses neither. */
void noise_schedule_for_pictures(struct noise_schedule *s);

/* What is left of the picture and what is noise at timestep t in [0, steps): sqrt(a_t), sqrt(1 - a_t). */
void noise_schedule_levels(const struct noise_schedule *s, int64_t t, float levels[2]);

#endif
