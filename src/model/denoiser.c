#include "model/denoiser.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"

static struct error encode_body(void *arg)
{
    struct denoiser *d = arg;
    struct device *device = d->setup.device;
    int64_t first = d->setup.vectors ? d->setup.first_id : INT32_MAX;
    struct tensor hidden = text_encoder_forward(device, d->setup.text, d->ids, d->rows, first);
    op_copy(device, d->hidden, hidden, (struct tensor){0});
    device_free(device, &hidden);
    return ok();
}

static struct error predict_body(void *arg)
{
    struct denoiser *d = arg;
    struct device *device = d->setup.device;
    const struct unet_input in = {d->sample, d->timestep, d->context, d->map};
    struct tensor predicted = unet_forward(device, d->setup.unet, &in);
    op_copy(device, d->predicted, predicted, (struct tensor){0});
    device_free(device, &predicted);
    return ok();
}

static struct error keep_tensors(struct denoiser *d)
{
    const struct denoiser_setup *s = &d->setup;
    int64_t width = s->text->config.width, rows = s->vectors ? s->vectors : 1, texts = d->lanes * s->chunks;
    int64_t channels = s->unet->config.in_channels;
    TRY(device_alloc_state(s->device, I32, texts, 1, s->length, 1, &d->ids));
    TRY(device_alloc_state(s->device, F32, texts, 1, rows, width, &d->rows));
    TRY(device_alloc_state(s->device, F32, texts, 1, s->length, width, &d->hidden));
    d->context = tensor_within(d->hidden, 0, F32, d->lanes, 1, s->chunks * s->length, width);
    TRY(device_alloc_state(s->device, F32, 1, s->height, s->width, channels, &d->sample));
    TRY(device_alloc_state(s->device, F32, 1, 1, 1, 1, &d->timestep));
    TRY(device_alloc_state(s->device, I32, 1, 1, 1, d->lanes, &d->map)); // zeros: all lanes have the same picture
    TRY(device_alloc_state(s->device, F32, d->lanes, s->height, s->width, channels, &d->predicted));
    d->numbers = s->height * s->width * channels;
    d->input = memory_alloc(d->numbers, sizeof *d->input);
    d->outputs = memory_alloc(d->lanes * d->numbers, sizeof *d->outputs);
    return d->input && d->outputs ? ok() : error_memory("a picture");
}

struct error denoiser_new(struct denoiser *d, const struct denoiser_setup *setup)
{
    *d = (struct denoiser){.setup = *setup, .lanes = setup->guidance > 1 ? 2 : 1};
    struct error e = keep_tensors(d);
    if (e.code == ERROR_NONE)
        e = program_new(setup->device, encode_body, d, &d->encode);
    if (e.code == ERROR_NONE)
        e = program_new(setup->device, predict_body, d, &d->predict);
    if (e.code != ERROR_NONE)
        denoiser_free(d);
    return e;
}

void denoiser_free(struct denoiser *d)
{
    if (!d->setup.device)
        return;
    program_free(d->encode);
    program_free(d->predict);
    struct tensor *const kept[] = {&d->ids, &d->rows, &d->hidden, &d->sample, &d->timestep, &d->map, &d->predicted};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        device_free_state(d->setup.device, kept[i]);
    memory_free(d->input);
    memory_free(d->outputs);
    *d = (struct denoiser){0};
}

/* Every lane has its own copy of the learned rows. */
static struct error write_rows(struct denoiser *d, const float *rows)
{
    struct device *device = d->setup.device;
    int64_t count = d->setup.vectors * d->setup.text->config.width;
    float *all = memory_alloc(d->ids.lanes * count, sizeof *all);
    if (!all)
        return error_memory("learned words");
    for (int64_t l = 0; l < d->ids.lanes; l++)
        memcpy(all + l * count, rows, (size_t)count * sizeof *all);
    device_write(device, d->rows, all);
    struct error e = device_wait(device);
    memory_free(all);
    return e;
}

/* A chunk's numbers z [length, width] times its weights, with the mean that they had before. */
static void weigh(float *z, const float *weights, int64_t length, int64_t width)
{
    double before = 0, after = 0;
    for (int64_t i = 0; i < length * width; i++) {
        before += (double)z[i];
        z[i] *= weights[i / width];
        after += (double)z[i];
    }
    for (int64_t i = 0; i < length * width; i++)
        z[i] *= (float)(before / after);
}

static struct error weigh_prompts(struct denoiser *d)
{
    struct device *device = d->setup.device;
    int64_t length = d->setup.length, numbers = d->hidden.lane_stride;
    float *z = memory_alloc(d->hidden.lanes * numbers, sizeof *z);
    if (!z)
        return error_memory("the prompt's weights");
    device_read(device, z, d->hidden);
    struct error e = device_wait(device);
    for (int64_t l = 0; l < d->hidden.lanes; l++)
        weigh(z + l * numbers, d->setup.weights + l * length, length, d->hidden.channels);
    device_write(device, d->hidden, z);
    e = error_first(e, device_wait(device));
    memory_free(z);
    return e;
}

static struct error encode_prompts(struct denoiser *d, const int32_t *ids, const float *rows)
{
    struct device *device = d->setup.device;
    TRY(text_encoder_add_ids(device, d->setup.text, ids, d->ids.lanes * d->setup.length));
    device_write(device, d->ids, ids);
    if (d->setup.vectors)
        TRY(write_rows(d, rows));
    TRY(program_run(d->encode));
    TRY(device_wait(device));
    return d->setup.weights ? weigh_prompts(d) : ok();
}

/* uncond + guidance (cond - uncond), into the first lane. */
static void guide(float *outputs, int64_t numbers, float guidance)
{
    for (int64_t k = 0; k < numbers; k++)
        outputs[k] = outputs[k] + guidance * (outputs[numbers + k] - outputs[k]);
}

/* Latents become NaN with a network's numbers, also where the sampler would clip them to a range. */
static void spoil(float *latents, int64_t numbers)
{
    for (int64_t k = 0; k < numbers; k++)
        latents[k] = NAN;
}

static struct error sample_once(struct denoiser *d, struct sampler *s, int64_t i, float *latents)
{
    struct device *device = d->setup.device;
    float t = (float)s->timesteps[i];
    sampler_input(s, i, latents, d->input);
    device_write(device, d->sample, d->input);
    device_write(device, d->timestep, &t);
    TRY(program_run(d->predict));
    device_read(device, d->outputs, d->predicted);
    TRY(device_wait(device));
    if (d->lanes > 1)
        guide(d->outputs, d->numbers, (float)d->setup.guidance);
    if (dtype_finite(d->outputs, F32, d->numbers))
        sampler_step(s, i, d->outputs, latents);
    else
        spoil(latents, d->numbers);
    return ok();
}

static struct error sample_latents(struct denoiser *d, struct sampler *s, float *latents, denoiser_tick *tick,
                                   void *arg)
{
    for (int64_t i = 0; i < s->calls; i++) {
        if (dtype_finite(latents, F32, d->numbers)) // else the picture is lost already
            TRY(sample_once(d, s, i, latents));
        TRY(tick(arg, i + 1, s->calls));
    }
    return ok();
}

struct error denoiser_run(struct denoiser *d, uint64_t seed, const int32_t *ids, const float *rows, float *latents,
                          denoiser_tick *tick, void *arg)
{
    struct sampler s;
    TRY(sampler_new(&s, d->setup.schedule, d->setup.sampler, d->setup.steps, d->numbers));
    s.seed = seed;
    for (int64_t k = 0; k < d->numbers; k++)
        latents[k] *= (float)s.init_sigma;
    struct error e = encode_prompts(d, ids, rows);
    if (e.code == ERROR_NONE)
        e = sample_latents(d, &s, latents, tick, arg);
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

static struct error make_decoder(struct decoder *d, int64_t height, int64_t width)
{
    int64_t factor = d->vae->config.factor, channels = d->vae->config.latent_channels;
    d->input = memory_alloc(height * width * channels, sizeof *d->input);
    d->pixels = memory_alloc(height * width * factor * factor * 3, sizeof *d->pixels);
    if (!d->input || !d->pixels)
        return error_memory("a picture");
    TRY(device_alloc_state(d->device, F32, 1, height, width, channels, &d->latent));
    TRY(device_alloc_state(d->device, F32, 1, height * factor, width * factor, 3, &d->image));
    return program_new(d->device, decode_body, d, &d->program);
}

struct error decoder_new(struct decoder *d, struct device *device, const struct vae *vae, int64_t height, int64_t width)
{
    *d = (struct decoder){.device = device, .vae = vae};
    struct error e = make_decoder(d, height, width);
    if (e.code != ERROR_NONE)
        decoder_free(d);
    return e;
}

void decoder_free(struct decoder *d)
{
    if (!d->device)
        return;
    program_free(d->program);
    device_free_state(d->device, &d->latent);
    device_free_state(d->device, &d->image);
    memory_free(d->input);
    memory_free(d->pixels);
    *d = (struct decoder){0};
}

struct error decoder_run(struct decoder *d, const float *latents, struct picture *picture, bool *good)
{
    const struct tensor *image = &d->image;
    int64_t numbers = image->width * image->height * 3;
    float scaling = d->vae->config.scaling_factor;
    for (int64_t k = 0; k < d->latent.lane_stride; k++)
        d->input[k] = latents[k] / scaling;
    device_write(d->device, d->latent, d->input);
    TRY(program_run(d->program));
    device_read(d->device, d->pixels, *image);
    TRY(device_wait(d->device));
    *good = dtype_finite(latents, F32, d->latent.lane_stride) && dtype_finite(d->pixels, F32, numbers);
    if (!*good)
        return ok();
    TRY(picture_new(picture, image->width, image->height));
    for (int64_t k = 0; k < numbers; k++) {
        float unit = fminf(fmaxf(d->pixels[k] / 2 + 0.5f, 0.0f), 1.0f);
        picture->rgb[k] = (uint8_t)rintf(unit * 255.0f);
    }
    return ok();
}
