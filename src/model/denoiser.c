#include "model/denoiser.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static struct error encode_body(void *arg)
{
    struct denoiser *p = arg;
    struct device *d = p->parts.device;
    int64_t first = p->parts.vectors ? p->parts.first_id : INT32_MAX;
    struct tensor hidden = text_encoder_forward(d, p->parts.text, p->ids, p->rows, first);
    op_copy(d, p->hidden, hidden, (struct tensor){0});
    device_free(d, &hidden);
    return ok();
}

static struct error predict_body(void *arg)
{
    struct denoiser *p = arg;
    struct device *d = p->parts.device;
    const struct unet_input in = {p->sample, p->timestep, p->hidden, p->map};
    struct tensor noise = unet_forward(d, p->parts.unet, &in);
    op_copy(d, p->noise, noise, (struct tensor){0});
    device_free(d, &noise);
    return ok();
}

static struct error keep_tensors(struct denoiser *p)
{
    const struct denoiser_parts *s = &p->parts;
    struct device *d = s->device;
    int64_t width = s->text->config.width, rows = s->vectors ? s->vectors : 1;
    int64_t channels = s->unet->config.in_channels;
    TRY(device_keep(d, I32, p->lanes, 1, s->length, 1, &p->ids));
    TRY(device_keep(d, F32, p->lanes, 1, rows, width, &p->rows));
    TRY(device_keep(d, F32, p->lanes, 1, s->length, width, &p->hidden));
    TRY(device_keep(d, F32, 1, s->height, s->width, channels, &p->sample));
    TRY(device_keep(d, F32, 1, 1, 1, 1, &p->timestep));
    TRY(device_keep(d, I32, 1, 1, 1, p->lanes, &p->map)); // zeros: all lanes look at the same picture
    TRY(device_keep(d, F32, p->lanes, s->height, s->width, channels, &p->noise));
    p->numbers = s->height * s->width * channels;
    p->input = memory_alloc(p->numbers, sizeof *p->input);
    p->outputs = memory_alloc(p->lanes * p->numbers, sizeof *p->outputs);
    return p->input && p->outputs ? ok() : error_memory("a picture");
}

struct error denoiser_new(struct denoiser *p, const struct denoiser_parts *parts)
{
    *p = (struct denoiser){.parts = *parts, .lanes = parts->guided ? 2 : 1};
    struct error e = keep_tensors(p);
    if (e.code == ERROR_NONE)
        e = device_program(parts->device, encode_body, p, &p->encode);
    if (e.code == ERROR_NONE)
        e = device_program(parts->device, predict_body, p, &p->predict);
    if (e.code != ERROR_NONE)
        denoiser_free(p);
    return e;
}

void denoiser_free(struct denoiser *p)
{
    if (!p->parts.device)
        return;
    program_free(p->encode);
    program_free(p->predict);
    struct tensor *const kept[] = {&p->ids, &p->rows, &p->hidden, &p->sample, &p->timestep, &p->map, &p->noise};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_release(p->parts.device, kept[i]);
    memory_free(p->input);
    memory_free(p->outputs);
    *p = (struct denoiser){0};
}

static struct error run(struct denoiser *p, struct program *program)
{
    TRY(device_run(program));
    return device_wait(p->parts.device);
}

static struct error encode_prompts(struct denoiser *p, const int32_t *ids, const float *rows)
{
    struct device *d = p->parts.device;
    TRY(text_encoder_words(d, p->parts.text, ids, p->lanes * p->parts.length));
    device_write(d, p->ids, ids);
    int64_t count = p->parts.vectors * p->parts.text->config.width;
    if (count) { // every lane has its own copy
        float *all = memory_alloc(p->lanes * count, sizeof *all);
        if (!all)
            return error_memory("learned words");
        for (int64_t l = 0; l < p->lanes; l++)
            memcpy(all + l * count, rows, (size_t)count * sizeof *all);
        device_write(d, p->rows, all);
        struct error e = device_wait(d);
        memory_free(all);
        TRY(e);
    }
    return run(p, p->encode);
}

/* uncond + guidance (cond - uncond), into the first lane. */
static void guide(float *outputs, int64_t numbers, float guidance)
{
    for (int64_t k = 0; k < numbers; k++)
        outputs[k] = outputs[k] + guidance * (outputs[numbers + k] - outputs[k]);
}

static struct error sample_latents(struct denoiser *p, struct sampler *s, float *latents, double guidance,
                                   struct error (*tick)(void *, int64_t, int64_t), void *arg)
{
    struct device *d = p->parts.device;
    for (int64_t i = 0; i < s->calls; i++) {
        float t = (float)s->timesteps[i];
        sampler_input(s, i, latents, p->input);
        device_write(d, p->sample, p->input);
        device_write(d, p->timestep, &t);
        TRY(device_run(p->predict));
        device_read(d, p->outputs, p->noise);
        TRY(device_wait(d));
        if (p->parts.guided)
            guide(p->outputs, p->numbers, (float)guidance);
        sampler_step(s, i, p->outputs, latents);
        TRY(tick(arg, i + 1, s->calls));
    }
    return ok();
}

struct error denoiser_run(struct denoiser *p, const int32_t *ids, const float *rows, float *latents,
                          const struct sampler_type *sampler, int64_t steps, double guidance,
                          struct error (*tick)(void *arg, int64_t call, int64_t calls), void *arg)
{
    struct sampler s;
    TRY(sampler_new(&s, p->parts.schedule, sampler, steps, p->numbers));
    for (int64_t k = 0; k < p->numbers; k++)
        latents[k] *= (float)s.init_sigma;
    struct error e = encode_prompts(p, ids, rows);
    if (e.code == ERROR_NONE)
        e = sample_latents(p, &s, latents, guidance, tick, arg);
    sampler_free(&s);
    return e;
}

/* -------------------------------------------------------------------------------- decoder */

static struct error decode_body(void *arg)
{
    const struct decoder *d = arg;
    struct tensor image = vae_decode(d->device, d->vae, d->latent);
    op_copy(d->device, d->image, image, (struct tensor){0});
    device_free(d->device, &image);
    return ok();
}

struct error decoder_new(struct decoder *d, struct device *device, const struct vae *vae, int64_t height, int64_t width)
{
    *d = (struct decoder){.device = device, .vae = vae};
    int64_t factor = vae->config.factor, channels = vae->config.latent_channels;
    d->input = memory_alloc(height * width * channels, sizeof *d->input);
    d->pixels = memory_alloc(height * width * factor * factor * 3, sizeof *d->pixels);
    struct error e = d->input && d->pixels ? ok() : error_memory("a picture");
    if (e.code == ERROR_NONE)
        e = device_keep(device, F32, 1, height, width, channels, &d->latent);
    if (e.code == ERROR_NONE)
        e = device_keep(device, F32, 1, height * factor, width * factor, 3, &d->image);
    if (e.code == ERROR_NONE)
        e = device_program(device, decode_body, d, &d->program);
    if (e.code != ERROR_NONE)
        decoder_free(d);
    return e;
}

void decoder_free(struct decoder *d)
{
    if (!d->device)
        return;
    program_free(d->program);
    device_release(d->device, &d->latent);
    device_release(d->device, &d->image);
    memory_free(d->input);
    memory_free(d->pixels);
    *d = (struct decoder){0};
}

struct error decoder_run(struct decoder *d, const float *latents, struct picture *picture)
{
    const struct tensor *image = &d->image;
    float scaling = d->vae->config.scaling_factor;
    for (int64_t k = 0; k < d->latent.lane_stride; k++)
        d->input[k] = latents[k] / scaling;
    device_write(d->device, d->latent, d->input);
    TRY(device_run(d->program));
    device_read(d->device, d->pixels, *image);
    TRY(device_wait(d->device));
    TRY(picture_new(picture, image->width, image->height));
    for (int64_t k = 0; k < image->width * image->height * 3; k++) {
        float unit = fminf(fmaxf(d->pixels[k] / 2 + 0.5f, 0.0f), 1.0f);
        picture->rgb[k] = (uint8_t)rintf(unit * 255.0f);
    }
    return ok();
}
