#include "model/sampling.h"

#include <math.h>
#include <string.h>

#include "files/json.h"

static void read_spacing(struct json *j, struct sampling *s)
{
    static const char *const names[] = {"", "leading", "linspace", "trailing"};
    const char *spacing = json_string(j, "timestep_spacing", "");
    for (int i = 0; i < 4; i++)
        if (strcmp(spacing, names[i]) == 0) {
            s->spacing = (enum spacing)i;
            return;
        }
    json_wrong(j, "timestep_spacing", "\"%.60s\" is not supported, only \"leading\", \"linspace\", \"trailing\"",
               spacing);
}

/* A flag for which classes have different defaults: whether the file names it. */
static bool read_flag(struct json *j, const char *key, bool *value)
{
    *value = json_bool(j, key, false);
    return *value || !json_bool(j, key, true);
}

/* Which of the names a key has, a list that ends with NULL; names[0] where the key is absent. */
static int read_name(struct json *j, const char *key, const char *const *names)
{
    const char *value = json_string(j, key, names[0]);
    for (int i = 0; names[i]; i++)
        if (strcmp(value, names[i]) == 0)
            return i;
    json_wrong(j, key, "\"%.60s\" is not supported, only \"%s\" and similar", value, names[0]);
    return 0;
}

/* -------------------------------------------------------------------------------- what some classes heed */

static void read_thresholding(struct json *j, struct sampling *s)
{
    (void)s;
    json_only(j, "thresholding", "false");
}

static void read_sigmas(struct json *j, struct sampling *s)
{
    static const char *const ends[] = {"zero", "sigma_min", NULL};
    s->ends_at_sigma_min = read_name(j, "final_sigmas_type", ends) == 1;
    s->karras = json_bool(j, "use_karras_sigmas", false);
    s->exponential = json_bool(j, "use_exponential_sigmas", false);
    s->sigma_min = json_number(j, "sigma_min", NAN);
    s->sigma_max = json_number(j, "sigma_max", NAN);
    json_only(j, "use_beta_sigmas", "false");
    if (s->karras && s->exponential)
        json_wrong(j, "use_exponential_sigmas", "true is not supported beside use_karras_sigmas, only one of them");
    if (s->sigma_min <= 0 || s->sigma_max <= 0)
        json_wrong(j, s->sigma_min <= 0 ? "sigma_min" : "sigma_max", "expected a number above 0");
}

static void read_euler(struct json *j, struct sampling *s)
{
    (void)s;
    json_only(j, "interpolation_type", "\"linear\"");
    json_only(j, "timestep_type", "\"discrete\"");
}

/* A class reads another's solver_type as its own default ("logrho" is DEIS's). */
static void read_solver(struct json *j, struct sampling *s)
{
    static const char *const types[] = {"midpoint", "heun", "bh1", "bh2", "logrho", NULL};
    int type = read_name(j, "solver_type", types);
    s->heun = type == 1;
    s->bh1 = type == 2;
    s->order = json_integer(j, "solver_order", 2, 1, 3);
    s->lower_order_final = json_bool(j, "lower_order_final", true);
}

/* The third order of diffusers' sde-dpmsolver++ has a coefficient that does not vanish with the step. */
static void read_dpm(struct json *j, struct sampling *s)
{
    static const char *const algorithms[] = {"dpmsolver++", "sde-dpmsolver++", "deis", NULL};
    s->sde = read_name(j, "algorithm_type", algorithms) == 1;
    s->euler_at_final = json_bool(j, "euler_at_final", false);
    s->lu = json_bool(j, "use_lu_lambdas", false) && !s->karras;
    json_only(j, "lambda_min_clipped", "null");
    if (s->sde && s->order > 2)
        json_wrong(j, "solver_order", "3 is not supported with algorithm_type \"sde-dpmsolver++\", only 1 and 2");
}

static void read_unipc(struct json *j, struct sampling *s)
{
    (void)s;
    json_only(j, "predict_x0", "true");
    json_only(j, "disable_corrector", "[]");
    json_only(j, "solver_p", "null");
}

static void read_lcm(struct json *j, struct sampling *s)
{
    s->timestep_scaling = json_number(j, "timestep_scaling", 10);
    s->original_steps = json_integer(j, "original_inference_steps", 50, 1, 1 << 20);
}

#define HEEDS(class) (1u << (class))

static const struct {
    void (*read)(struct json *j, struct sampling *s);
    unsigned heeded_by;
} settings[] = {
    {read_thresholding, HEEDS(CLASS_DDIM) | HEEDS(CLASS_LCM) | HEEDS(CLASS_DPM) | HEEDS(CLASS_UNIPC)},
    {read_sigmas, HEEDS(CLASS_EULER) | HEEDS(CLASS_DPM) | HEEDS(CLASS_UNIPC)},
    {read_euler, HEEDS(CLASS_EULER)},
    {read_solver, HEEDS(CLASS_DPM) | HEEDS(CLASS_UNIPC)},
    {read_dpm, HEEDS(CLASS_DPM)},
    {read_unipc, HEEDS(CLASS_UNIPC)},
    {read_lcm, HEEDS(CLASS_LCM)},
};

void sampling_read(struct sampling *s, struct json *j, int64_t steps)
{
    *s = (struct sampling){0};
    s->steps_offset = json_integer(j, "steps_offset", 0, 0, 1000);
    s->has_alpha_to_one = read_flag(j, "set_alpha_to_one", &s->set_alpha_to_one);
    s->has_clip_sample = read_flag(j, "clip_sample", &s->clip_sample);
    s->clip_range = (float)json_number(j, "clip_sample_range", 1.0);
    s->runge_kutta = !json_bool(j, "skip_prk_steps", false);
    read_spacing(j, s);
    struct error common = j->error;
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        j->error = ok();
        settings[i].read(j, s);
        for (int c = 0; c < SAMPLER_CLASSES; c++)
            if (settings[i].heeded_by & HEEDS(c))
                s->refused[c] = error_first(s->refused[c], j->error);
    }
    if (s->original_steps > steps) // as many as there are
        s->original_steps = steps;
    j->error = common;
}
