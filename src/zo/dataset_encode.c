#include <math.h>

#include "base/memory.h"
#include "zo/dataset.h"
#include "zo/masks.h"

struct encoding {
    struct device *device;
    const struct vae *vae;
    struct tensor pixels, moments;
    struct program *program;
    float *host; /* the pixels, before they are written to the device */
    struct progress *progress;
    int64_t done; /* pictures, before these */
};

static struct error encode_body(void *arg)
{
    struct encoding *e = arg;
    struct tensor moments = vae_encode(e->device, e->vae, e->pixels);
    op_copy(e->device, e->moments, moments, (struct tensor){0});
    device_free(e->device, &moments);
    return ok();
}

/* Pixels 0..255 as the network wants them, [-1, 1]: x / 127.5 - 1, as diffusers' textual inversion scales them. */
static void scale_pixels(float *to, const struct picture *from, bool mirrored)
{
    for (int64_t y = 0; y < from->height; y++)
        for (int64_t x = 0; x < from->width; x++) {
            const uint8_t *pixel = from->rgb + 3 * (y * from->width + (mirrored ? from->width - 1 - x : x));
            for (int c = 0; c < 3; c++)
                *to++ = (float)((double)pixel[c] / 127.5 - 1.0);
        }
}

static struct error encode_share(struct dataset *s, const struct encoding *e, struct comm *comm)
{
    int64_t numbers = s->height * s->width * 2 * s->channels;
    for (int64_t i = comm_rank(comm); i < s->count; i += comm_size(comm))
        for (int m = 0; m < (s->flip ? 2 : 1); m++) {
            scale_pixels(e->host, &s->pictures[i], m);
            device_write(e->device, e->pixels, e->host);
            TRY(program_run(e->program));
            device_read(e->device, s->moments[m] + i * numbers, e->moments);
            TRY(device_wait(e->device));
            if (!dtype_finite(s->moments[m] + i * numbers, F32, numbers)) // the clamp below would hide it
                return error_failed("%.200s: its latents hold a value that is not a number (or infinite): the "
                                    "weights of the model's vae are too large, or overflow fp16 on a GPU (then set "
                                    "quant.activations to bf16)",
                                    s->paths[i]);
            int64_t done = i + comm_size(comm); // as far as the other ranks keep pace
            if (m == s->flip)
                progress_step(e->progress, e->done + (done < s->count ? done : s->count), "");
        }
    return ok();
}

static struct error find_weights(struct dataset *s, const struct vae *vae)
{
    int64_t places = s->height * s->width;
    for (int m = 0; m < (s->flip ? 2 : 1) && s->masked; m++) {
        s->weights[m] = memory_alloc(s->count * places, sizeof *s->weights[m]);
        if (!s->weights[m])
            return error_memory("the masks");
        for (int64_t i = 0; i < s->count; i++)
            mask_weights(s->weights[m] + i * places, s->masks[i], s->pictures[i].height, vae->config.factor, m);
    }
    return ok();
}

static struct error make_encoding(struct dataset *s, struct encoding *e)
{
    int64_t resolution = s->pictures[0].height, numbers = s->height * s->width * 2 * s->channels;
    e->host = memory_alloc(resolution * resolution * 3, sizeof *e->host);
    if (!e->host)
        return error_memory("a picture");
    for (int m = 0; m < (s->flip ? 2 : 1); m++) {
        s->moments[m] = memory_alloc(s->count * numbers, sizeof *s->moments[m]);
        if (!s->moments[m])
            return error_memory("the latents");
    }
    TRY(device_alloc_state(e->device, F32, 1, resolution, resolution, 3, &e->pixels));
    TRY(device_alloc_state(e->device, F32, 1, s->height, s->width, 2 * s->channels, &e->moments));
    return program_new(e->device, encode_body, e, &e->program);
}

static struct error encode_mine(struct dataset *s, struct encoding e, struct comm *comm)
{
    struct device *device = e.device;
    const struct vae *vae = e.vae;
    s->channels = vae->config.latent_channels;
    s->height = s->width = s->pictures[0].height / vae->config.factor;
    struct error error = find_weights(s, vae);
    if (error.code == ERROR_NONE)
        error = make_encoding(s, &e);
    if (error.code == ERROR_NONE)
        error = encode_share(s, &e, comm);
    program_free(e.program);
    device_free_state(device, &e.pixels);
    device_free_state(device, &e.moments);
    memory_free(e.host);
    return error;
}

struct error dataset_encode(struct dataset *s, struct device *device, const struct vae *vae, struct comm *comm,
                            struct progress *progress, int64_t done)
{
    const struct encoding e = {.device = device, .vae = vae, .progress = progress, .done = done};
    TRY(comm_agree(comm, encode_mine(s, e, comm)));
    int64_t bytes = s->height * s->width * 2 * s->channels * (int64_t)sizeof(float);
    for (int64_t i = 0; i < s->count; i++)
        for (int m = 0; m < (s->flip ? 2 : 1); m++)
            TRY(comm_broadcast(comm, (char *)s->moments[m] + i * bytes, bytes, (int)(i % comm_size(comm))));
    return ok();
}

void dataset_moments(const struct dataset *s, bool mirrored, int64_t position, float *moments)
{
    int64_t c = s->channels;
    const float *from = s->moments[mirrored] + position * 2 * c;
    for (int64_t k = 0; k < c; k++) {
        moments[k] = from[k];
        moments[c + k] = expf(0.5f * fminf(fmaxf(from[c + k], -30.0f), 20.0f));
    }
}

const float *dataset_weights(const struct dataset *s, bool mirrored, int64_t picture)
{
    const float *all = s->weights[mirrored];
    return all ? all + picture * s->height * s->width : NULL;
}
