/* model/denoiser.h
 *
 * Makes a picture from a prompt, as diffusers' StableDiffusionPipeline does, in two halves, so that UNet and VAE need
 * not be in memory together:
 *
 *     denoiser  ids ─► text encoder ─► hidden (x weights) ─┐
 *               start latents ─► [UNet ─► guidance ─► sampler step] x calls ─► latents
 *     decoder   latents / scaling_factor ─► VAE decoder ─► 8 bits
 *
 * With guidance the negative prompt is lane 0 and the prompt lane 1 of one batch; both get the same latents.
 *
 * A prompt is one chunk of ids or several, each encoded as if it stood alone; the UNet attends to all of them, joined
 * along the tokens. Weights multiply the numbers of their tokens; then the mean of each chunk's numbers is restored, as in
 * AUTOMATIC1111 (modules/sd_emphasis.py, EmphasisOriginal): z w mean(z) / mean(z w).
 */
#ifndef ZOODIP_MODEL_DENOISER_H
#define ZOODIP_MODEL_DENOISER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"
#include "files/picture.h"
#include "model/sampler.h"
#include "model/text_encoder.h"
#include "model/unet.h"
#include "model/vae.h"

/* What a denoiser uses, all borrowed, and how. */
struct denoiser_setup {
    struct device *device;
    const struct text_encoder *text;
    const struct unet *unet;
    const struct noise_schedule *schedule;
    const struct sampler_type *sampler;
    int64_t steps;
    double guidance;       /* above 1: two lanes, negative and prompt; else one, the prompt */
    int64_t length;        /* ids of a chunk of a prompt */
    int64_t chunks;        /* of a prompt */
    const float *weights;  /* [lanes, chunks, length], one for each id; NULL: all are 1 */
    int64_t height, width; /* of the latents */
    int64_t vectors;       /* rows of learned words, 0 for none */
    int32_t first_id;      /* the id of row 0; the others follow */
};

struct denoiser {
    int64_t numbers; /* of a picture's latents */

    /* private */
    struct denoiser_setup setup;
    int64_t lanes;
    struct tensor ids, rows, hidden; /* a lane for each chunk */
    struct tensor context;           /* the same memory, the chunks of a prompt joined */
    struct tensor sample, timestep, map, predicted;
    struct program *encode, *predict;
    float *input, *outputs; /* host: NHWC */
};

struct error denoiser_new(struct denoiser *d, const struct denoiser_setup *setup);
void denoiser_free(struct denoiser *d);

/* Called after every call of the UNet; an error from it ends the picture. */
typedef struct error denoiser_tick(void *arg, int64_t call, int64_t calls);

/* seed: the picture's, of the noise that some samplers add. ids [lanes, chunks, length], the negative prompt's first;
 * rows [vectors, width]. latents [height, width, channels]: standard normal numbers, which become the picture's latents;
 * NaN if a network gave a number that is not finite. */
struct error denoiser_run(struct denoiser *d, uint64_t seed, const int32_t *ids, const float *rows, float *latents,
                          denoiser_tick *tick, void *arg);

/* All fields are private. */
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

/* latents [height, width, channels] -> picture, which is allocated. *good: false, and there is no picture, if latents or
 * decoded numbers are infinite or NaN. */
struct error decoder_run(struct decoder *d, const float *latents, struct picture *picture, bool *good);

#endif
