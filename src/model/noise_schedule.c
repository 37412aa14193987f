#include "model/noise_schedule.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "model/model_source.h"

/* torch.linspace in float: steps from both ends, so that both are exact. */
static float linspace(double start, double end, int64_t steps, int64_t i)
{
    float a = (float)start, b = (float)end, step = (b - a) / (float)(steps - 1);
    if (steps == 1)
        return a;
    return i < steps / 2 ? a + step * (float)i : b - step * (float)(steps - 1 - i);
}

static float beta_linear(double start, double end, int64_t steps, int64_t i)
{
    return linspace(start, end, steps, i);
}

static float beta_scaled_linear(double start, double end, int64_t steps, int64_t i)
{
    float root = linspace(sqrt(start), sqrt(end), steps, i);
    return root * root;
}

static double cosine_bar(double t)
{
    double c = cos((t + 0.008) / 1.008 * M_PI / 2);
    return c * c;
}

static float beta_cosine(double start, double end, int64_t steps, int64_t i)
{
    (void)start;
    (void)end;
    double beta = 1 - cosine_bar((double)(i + 1) / (double)steps) / cosine_bar((double)i / (double)steps);
    return (float)fmin(beta, 0.999);
}

static const struct {
    const char *name;
    float (*beta)(double start, double end, int64_t steps, int64_t i);
} beta_schedules[] = {
    {"linear", beta_linear}, {"scaled_linear", beta_scaled_linear}, {"squaredcos_cap_v2", beta_cosine}};

/* -------------------------------------------------------------------------------- betas to alphas */

/* torch.cumprod of 1 - betas, which keeps its product in double; in place. */
static void accumulate(float *betas, int64_t steps)
{
    double product = 1;
    for (int64_t i = 0; i < steps; i++) {
        product *= (double)(1.0f - betas[i]);
        betas[i] = (float)product;
    }
}

/* diffusers' rescale_zero_terminal_snr, float by float (Lin et al. 2023, algorithm 1): sqrt(abar) is shifted so that it
 * ends with 0, and scaled so that it begins as before. */
static void rescale(float *alphas_cumprod, int64_t steps)
{
    float first = sqrtf(alphas_cumprod[0]), last = sqrtf(alphas_cumprod[steps - 1]), scale = first / (first - last);
    float before = 1;
    for (int64_t i = 0; i < steps; i++) {
        float root = (sqrtf(alphas_cumprod[i]) - last) * scale, bar = root * root;
        alphas_cumprod[i] = 1.0f - (i == 0 ? bar : bar / before); // a beta again
        before = bar;
    }
    accumulate(alphas_cumprod, steps);
}

static bool falls(const struct noise_schedule *s)
{
    bool all = s->alphas_cumprod[0] > 0;
    for (int64_t i = 1; i < s->steps; i++)
        all = all && s->alphas_cumprod[i] < s->alphas_cumprod[i - 1];
    return all;
}

/* Betas that the file lists, instead of a rule that makes them. */
static bool read_listed(struct json *j, struct noise_schedule *s)
{
    double *betas = memory_alloc(s->steps, sizeof *betas);
    if (!betas) {
        j->error = error_memory("the noise schedule");
        return false;
    }
    bool listed = json_numbers(j, "trained_betas", betas, s->steps);
    for (int64_t i = 0; i < s->steps && listed && j->error.code == ERROR_NONE; i++) {
        if (!(betas[i] > 0 && betas[i] < 1))
            json_wrong(j, "trained_betas", "expected numbers between 0 and 1");
        s->alphas_cumprod[i] = (float)betas[i];
    }
    memory_free(betas);
    return listed;
}

static void make_betas(struct json *j, struct noise_schedule *s)
{
    double start = json_number(j, "beta_start", 0.0001), end = json_number(j, "beta_end", 0.02);
    const char *name = json_string(j, "beta_schedule", "linear");
    if (!(start > 0 && start < 1))
        json_wrong(j, "beta_start", "expected a number between 0 and 1");
    if (!(end > 0 && end < 1))
        json_wrong(j, "beta_end", "expected a number between 0 and 1");
    for (size_t k = 0; k < sizeof beta_schedules / sizeof *beta_schedules; k++) {
        if (strcmp(name, beta_schedules[k].name) != 0)
            continue;
        s->cosine = beta_schedules[k].beta == beta_cosine;
        for (int64_t i = 0; i < s->steps; i++)
            s->alphas_cumprod[i] = beta_schedules[k].beta(start, end, s->steps, i);
        return;
    }
    json_wrong(j, "beta_schedule",
               "\"%.60s\" is not supported, only \"linear\", \"scaled_linear\", \"squaredcos_cap_v2\"", name);
}

static void read_alphas(struct json *j, struct noise_schedule *s)
{
    s->zero_snr = json_bool(j, "rescale_betas_zero_snr", false);
    s->alphas_cumprod = memory_alloc(s->steps, sizeof *s->alphas_cumprod);
    if (!s->alphas_cumprod) {
        j->error = error_memory("the noise schedule");
        return;
    }
    if (!read_listed(j, s))
        make_betas(j, s);
    accumulate(s->alphas_cumprod, s->steps);
    if (s->zero_snr && falls(s))
        rescale(s->alphas_cumprod, s->steps);
    else if (s->zero_snr)
        json_wrong(j, "rescale_betas_zero_snr", "true needs betas that add noise at every timestep, also in float");
}

/* -------------------------------------------------------------------------------- reading */

static void read_prediction(struct json *j, struct noise_schedule *s, enum prediction_choice choice)
{
    const char *prediction = json_string(j, "prediction_type", "epsilon");
    s->prediction = PREDICT_EPSILON;
    if (choice == PREDICTION_V || (choice == PREDICTION_AS_MODEL && strcmp(prediction, "v_prediction") == 0))
        s->prediction = PREDICT_V;
    else if (choice == PREDICTION_AS_MODEL && strcmp(prediction, "epsilon") != 0)
        json_wrong(j, "prediction_type", "\"%.60s\" is not supported, only \"epsilon\" and \"v_prediction\"",
                   prediction);
}

/* Refuses the file if a key is present and not one of the names, a list that ends with NULL. */
static void only_one_of(struct json *j, const char *key, const char *const *names)
{
    const char *value = json_string(j, key, NULL);
    for (int i = 0; value && names[i]; i++)
        if (strcmp(value, names[i]) == 0)
            return;
    if (value)
        json_wrong(j, key, "\"%.60s\" is not supported, only \"%s\" and similar", value, names[0]);
}

/* Refuses what would change the noise and is not implemented. */
static void refuse_noise(struct json *j)
{
    static const char *const classes[] = {"PNDMScheduler",
                                          "DDIMScheduler",
                                          "DDIMParallelScheduler",
                                          "DDIMInverseScheduler",
                                          "DDPMScheduler",
                                          "DDPMParallelScheduler",
                                          "EulerDiscreteScheduler",
                                          "EulerAncestralDiscreteScheduler",
                                          "HeunDiscreteScheduler",
                                          "KDPM2DiscreteScheduler",
                                          "KDPM2AncestralDiscreteScheduler",
                                          "DPMSolverMultistepScheduler",
                                          "DPMSolverMultistepInverseScheduler",
                                          "DPMSolverSinglestepScheduler",
                                          "DPMSolverSDEScheduler",
                                          "DEISMultistepScheduler",
                                          "UniPCMultistepScheduler",
                                          "SASolverScheduler",
                                          "LMSDiscreteScheduler",
                                          "LCMScheduler",
                                          "TCDScheduler",
                                          NULL};
    only_one_of(j, "_class_name", classes);
    json_only(j, "use_flow_sigmas", "false");
}

/* PNDM steps along the noise that is left of a sample's own, and divides by what is left of the picture. */
static void refuse_pndm(struct json *j, struct noise_schedule *s)
{
    struct error e = j->error;
    j->error = ok();
    json_wrong(j, "rescale_betas_zero_snr", "true is not supported by pndm; expected another sampler, such as ddim");
    s->sampling.refused[CLASS_PNDM] = j->error;
    j->error = e;
}

struct error noise_schedule_read(struct noise_schedule *s, const char *model, enum prediction_choice prediction)
{
    *s = (struct noise_schedule){0};
    char path[PATH_SIZE];
    struct json j;
    TRY(model_json(&j, path, model, "scheduler/scheduler_config.json", prediction));
    s->steps = json_integer(&j, "num_train_timesteps", 1000, 2, 1 << 20);
    read_prediction(&j, s, prediction);
    read_alphas(&j, s);
    sampling_read(&s->sampling, &j, s->steps);
    if (s->zero_snr)
        refuse_pndm(&j, s);
    refuse_noise(&j);
    struct error e = j.error;
    json_close(&j);
    if (e.code != ERROR_NONE)
        noise_schedule_free(s);
    return e;
}

void noise_schedule_for_pictures(struct noise_schedule *s)
{
    s->sampling.steps_offset = 1;
    s->sampling.clip_sample = false;
}

void noise_schedule_free(struct noise_schedule *s)
{
    memory_free(s->alphas_cumprod);
    s->alphas_cumprod = NULL;
}

void noise_schedule_levels(const struct noise_schedule *s, int64_t t, float levels[2])
{
    levels[0] = sqrtf(s->alphas_cumprod[t]);
    levels[1] = sqrtf(1.0f - s->alphas_cumprod[t]);
}
