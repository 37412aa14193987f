/* model/sampling.h
 *
 * What a model's scheduler_config.json says to samplers. Any of diffusers' classes may have written the file, and any
 * class is made from it by from_config: each reads the keys that it knows, and takes its own default for those that the
 * file lacks. Training heeds none of this.
 */
#ifndef ZOODIP_MODEL_SAMPLING_H
#define ZOODIP_MODEL_SAMPLING_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct json;

enum spacing { SPACING_DEFAULT, SPACING_LEADING, SPACING_LINSPACE, SPACING_TRAILING };

/* diffusers' classes, by what they heed. */
enum sampler_class { CLASS_PNDM, CLASS_DDIM, CLASS_LCM, CLASS_EULER, CLASS_ANCESTRAL, CLASS_DPM, CLASS_UNIPC };
enum { SAMPLER_CLASSES = CLASS_UNIPC + 1 };

struct sampling {
    enum spacing spacing; /* SPACING_DEFAULT: the file names none */
    int64_t steps_offset;
    bool set_alpha_to_one, has_alpha_to_one; /* has_: the file names it, so a class's own default does not apply */
    bool clip_sample, has_clip_sample;
    float clip_range;
    bool runge_kutta; /* PNDM begins with Runge-Kutta steps: skip_prk_steps is false or absent */

    /* of classes that step from sigma to sigma */
    bool karras, exponential, lu; /* use_karras_sigmas, use_exponential_sigmas, use_lu_lambdas: at most one */
    double sigma_min, sigma_max;  /* where karras and exponential sigmas end and begin; NaN: where the schedule does */
    bool ends_at_sigma_min;       /* final_sigmas_type is "sigma_min": not at 0 */

    /* of multistep solvers */
    int64_t order; /* solver_order, 1 to 3 */
    bool sde;      /* algorithm_type is "sde-dpmsolver++" */
    bool heun;     /* solver_type is "heun" */
    bool bh1;      /* solver_type is "bh1" */
    bool lower_order_final, euler_at_final;

    /* of LCM */
    int64_t original_steps; /* original_inference_steps */
    double timestep_scaling;

    struct error refused[SAMPLER_CLASSES]; /* the first setting that a class heeds and that is not supported, or ok */
};

/* Reads the keys; settings that no class can do without become the json's error, others that of the classes that heed
 * them. `steps`: timesteps of the schedule. */
void sampling_read(struct sampling *s, struct json *j, int64_t steps);

#endif
