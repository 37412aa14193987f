#include "model/sampler.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "model/sampler_type.h"

/* -------------------------------------------------------------------------------- the table */

#define DPM(its_name, title, theirs, has_karras, has_sde)                                                              \
    {                                                                                                                  \
        .name = its_name, .label = title, .names = {theirs}, .class = CLASS_DPM, .own_spacing = SPACING_LINSPACE,      \
        .spare = 1, .sigmas = true, .spread = true, .karras = has_karras, .sde = has_sde, .step = sampler_step_dpm     \
    }

static const struct sampler_type types[] = {
    {.name = "pndm",
     .label = "PLMS",
     .names = {"PNDMScheduler"},
     .class = CLASS_PNDM,
     .own_spacing = SPACING_LEADING,
     .calls = sampler_calls_pndm,
     .space = sampler_space_pndm,
     .step = sampler_step_pndm},
    {.name = "ddim",
     .label = "DDIM",
     .names = {"DDIMScheduler"},
     .class = CLASS_DDIM,
     .own_spacing = SPACING_LEADING,
     .ends_clean = true,
     .clips = true,
     .step = sampler_step_ddim},
    {.name = "euler",
     .label = "Euler",
     .names = {"EulerDiscreteScheduler"},
     .class = CLASS_EULER,
     .own_spacing = SPACING_LINSPACE,
     .fractional = true,
     .sigmas = true,
     .scaled = true,
     .spread = true,
     .step = sampler_step_euler},
    {.name = "euler_a",
     .label = "Euler a",
     .names = {"Euler ancestral", "EulerAncestralDiscreteScheduler"},
     .class = CLASS_ANCESTRAL,
     .own_spacing = SPACING_LINSPACE,
     .fractional = true,
     .sigmas = true,
     .scaled = true,
     .step = sampler_step_ancestral},
    DPM("dpm++", "DPM++ 2M", "DPMSolverMultistepScheduler", false, false),
    DPM("dpm++_karras", "DPM++ 2M Karras", NULL, true, false),
    DPM("dpm++_2m_sde", "DPM++ 2M SDE", NULL, false, true),
    DPM("dpm++_2m_sde_karras", "DPM++ 2M SDE Karras", NULL, true, true),
    {.name = "unipc",
     .label = "UniPC",
     .names = {"UniPCMultistepScheduler"},
     .class = CLASS_UNIPC,
     .own_spacing = SPACING_LINSPACE,
     .spare = 1,
     .sigmas = true,
     .spread = true,
     .step = sampler_step_unipc},
    {.name = "lcm",
     .label = "LCM",
     .names = {"LCMScheduler"},
     .class = CLASS_LCM,
     .space = sampler_space_lcm,
     .step = sampler_step_lcm},
};
enum { TYPES = sizeof types / sizeof *types };

/* -------------------------------------------------------------------------------- names */

static bool names_agree(const char *a, const char *b)
{
    static const char ignored[] = " _-";
    for (;; a++, b++) {
        a += strspn(a, ignored);
        b += strspn(b, ignored);
        if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
            return false;
        if (!*a)
            return true;
    }
}

const struct sampler_type *sampler_find(const char *name)
{
    for (size_t i = 0; i < TYPES; i++) {
        bool found = names_agree(name, types[i].name) || names_agree(name, types[i].label);
        for (int k = 0; k < OTHER_NAMES && types[i].names[k]; k++)
            found = found || names_agree(name, types[i].names[k]);
        if (found)
            return &types[i];
    }
    return NULL;
}

const struct sampler_type *sampler_default(const struct noise_schedule *schedule)
{
    const char *name = !schedule->zero_snr ? "pndm" : schedule->prediction == PREDICT_V ? "ddim" : "euler";
    return sampler_find(name);
}

const char *sampler_name(const struct sampler_type *type)
{
    return type->name;
}

const char *sampler_label(const struct sampler_type *type)
{
    return type->label;
}

const char *sampler_schedule_label(const struct noise_schedule *schedule, const struct sampler_type *type)
{
    const struct sampling *with = &schedule->sampling;
    bool dpm = type->class == CLASS_DPM && !with->lu; // for which AUTOMATIC1111's own choice is not even
    if (!type->spread)
        return NULL;
    return type->karras || with->karras ? "Karras" : with->exponential ? "Exponential" : dpm ? "Uniform" : NULL;
}

void sampler_names(char text[SAMPLER_NAMES])
{
    size_t used = 0;
    for (size_t i = 0; i < TYPES && used < SAMPLER_NAMES; i++) {
        const char *joint = i == 0 ? "" : i + 1 < TYPES ? ", " : " or ";
        used += (size_t)snprintf(text + used, SAMPLER_NAMES - used, "%s%s", joint, types[i].name);
    }
}

struct error sampler_check(const struct noise_schedule *schedule, const struct sampler_type *type)
{
    if (type->sde && schedule->sampling.order > 2)
        return error_input("%s: the model's config has solver_order %lld, and this sampler only 1 and 2", type->name,
                           (long long)schedule->sampling.order);
    return schedule->sampling.refused[type->class];
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
    s->noise = memory_alloc(s->count, sizeof *s->noise);
    bool all = s->timesteps && s->sigmas && s->held && s->noise;
    for (int i = 0; i < SAMPLER_OUTPUTS; i++) {
        s->outputs[i] = memory_alloc(s->count, sizeof *s->outputs[i]);
        all = all && s->outputs[i];
    }
    return all ? ok() : error_memory("the sampler");
}

/* What the type and the model's config ask for together. */
static void choose(struct sampler *s)
{
    const struct sampling *with = &s->schedule->sampling;
    const struct sampler_type *type = s->type;
    s->karras = type->spread && (type->karras || with->karras);
    s->lu = type->class == CLASS_DPM && with->lu && !type->karras;
    s->spreads = s->karras || s->lu || (type->spread && with->exponential);
    s->sde = type->class == CLASS_DPM && (type->sde || with->sde);
}

/* The most steps that a sampler can take. */
static int64_t most_steps(const struct noise_schedule *schedule, const struct sampler_type *type)
{
    int64_t most = schedule->steps - 1;
    return type->class == CLASS_LCM && schedule->sampling.original_steps < most ? schedule->sampling.original_steps
                                                                                : most;
}

struct error sampler_new(struct sampler *s, const struct noise_schedule *schedule, const struct sampler_type *type,
                         int64_t steps, int64_t count)
{
    *s = (struct sampler){.schedule = schedule, .type = type, .steps = steps, .count = count, .init_sigma = 1};
    int64_t least = sampler_least_steps(schedule, type);
    int64_t most = most_steps(schedule, type);
    if (steps < least || steps > most)
        return error_input("is %lld, expected %lld to %lld", (long long)steps, (long long)least, (long long)most);
    s->calls = sampler_calls(schedule, type, steps);
    choose(s);
    struct error e = alloc_arrays(s);
    if (e.code == ERROR_NONE)
        e = sampler_space(s);
    if (e.code != ERROR_NONE) {
        sampler_free(s);
        return e;
    }
    if (type->scaled)
        s->init_sigma = sampler_spacing(s) == SPACING_LEADING ? sqrt(s->sigmas[0] * s->sigmas[0] + 1) : s->sigmas[0];
    return ok();
}

void sampler_free(struct sampler *s)
{
    memory_free(s->timesteps);
    memory_free(s->sigmas);
    memory_free(s->held);
    memory_free(s->noise);
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

/* -------------------------------------------------------------------------------- for steps */

float *sampler_keep(struct sampler *s, const float *output)
{
    float *newest = s->outputs[SAMPLER_OUTPUTS - 1];
    memmove(s->outputs + 1, s->outputs, (SAMPLER_OUTPUTS - 1) * sizeof *s->outputs);
    s->outputs[0] = newest;
    memcpy(newest, output, (size_t)s->count * sizeof *newest);
    if (s->kept < SAMPLER_OUTPUTS)
        s->kept++;
    return newest;
}

const float *sampler_draw(struct sampler *s, int64_t i)
{
    rng_normals(s->seed, 0, STREAM_SAMPLE, (uint64_t)((i + 1) * s->count), s->count, s->noise);
    return s->noise;
}
