/* model/denoiser.h
 *
 * Draws a picture from a prompt, as diffusers' StableDiffusionPipeline does, in two halves, so that UNet and VAE need
 * not be in memory together:
 *
 *     denoiser   ids ─► text encoder ─► hidden ─┐
 *               start latents ─► [UNet ─► guidance ─► sampler step] x calls ─► latents
 *     decoder   latents / scaling_factor ─► VAE decoder ─► 8 bits
 *
 * With guidance the negative prompt is lane 0 and the prompt lane 1 of one batch; both look at the same latents.
 */
#ifndef ZOODIP_MODEL_DENOISER_H
#define ZOODIP_MODEL_DENOISER_H

#include <stdint.h>

#include "base/error.h"
#include "device/device.h"
#include "files/picture.h"
#include "model/sampler.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"

/* What a denoiser uses; all borrowed. */
struct denoiser_parts {
    struct device *device;
    const struct text_encoder *text;
    const struct unet *unet;
    const struct noise_schedule *schedule;
    int64_t length;        /* ids of a prompt */
    int64_t height, width; /* of the latents */
    int64_t vectors;       /* rows of learned words, 0 for none */
    int32_t first_id;      /* the id of row 0; the others follow */
    bool guided;           /* two lanes: negative, prompt */
};

struct denoiser {
    struct denoiser_parts parts;
    int64_t lanes, numbers; /* numbers of a latent */
    struct tensor ids, rows, hidden, sample, timestep, map, noise;
    struct program *encode, *predict;
    float *input, *outputs; /* host: NHWC */
};

struct error denoiser_new(struct denoiser *p, const struct denoiser_parts *parts);
void denoiser_free(struct denoiser *p);

/* ids [lanes, length]: with guidance, negative first. rows [vectors, width]. latents [height, width, channels]:
 * standard normal numbers, which become the picture's latents. tick(arg, call, calls) is called after every call of the
 * UNet; an error from it ends the drawing. */
struct error denoiser_run(struct denoiser *p, const int32_t *ids, const float *rows, float *latents,
                          const struct sampler_type *sampler, int64_t steps, double guidance,
                          struct error (*tick)(void *arg, int64_t call, int64_t calls), void *arg);

struct decoder {
    struct device *device;
    const struct vae *vae;
    struct tensor latent, image;
    struct program *program;
    float *input, *pixels; /* host: NHWC */
};

/* height, width: of the latents. vae is borrowed, with its decoder. Free with decoder_free. */
struct error decoder_new(struct decoder *d, struct device *device, const struct vae *vae, int64_t height,
                         int64_t width);
void decoder_free(struct decoder *d);

/* latents [height, width, channels] -> picture, which is allocated. */
struct error decoder_run(struct decoder *d, const float *latents, struct picture *picture);

#endif
