/* model/unet.h
 *
 * diffusers' UNet2DConditionModel as Stable Diffusion 1.x and 2.x configure it:
 *
 *     timestep ─ sinusoid ─ linear ─ silu ─ linear ─ silu ─► every resnet
 *     sample ─ conv_in ─ down block x blocks ─ mid ─ up block x blocks ─ norm ─ silu ─ conv_out
 *     down:  [resnet (─ transformer)] x layers ─ conv down
 *     mid:   resnet ─ transformer ─ resnet
 *     up:    [concat skip ─ resnet (─ transformer)] x (layers + 1) ─ conv up
 *
 * A lane is one evaluation. What cannot depend on the text (timestep, conv_in, everything up to the first
 * cross-attention) is computed once per picture and then handed to the picture's lanes: `map` says which picture a lane
 * has. After that point a lane has its own numbers; `struct flow` (unet.c) knows which side of it we are on. With
 * tangents (device.h) each picture has one primal lane, and what cannot depend on the text has no other lanes.
 */
#ifndef ZOODIP_MODEL_UNET_H
#define ZOODIP_MODEL_UNET_H

#include "device/device.h"
#include "model/unet_config.h"
#include "model/weights.h"

struct unet {
    struct unet_config config;
    struct weights weights;
    struct unet_layers *layers; /* private */
};

/* Loads FOLDER/unet with its linear and convolution weights kept in `bits` (0: as stored). Free with unet_free. */
struct error unet_load(struct unet *u, struct device *d, const char *folder, int bits, struct store store);
void unet_free(struct unet *u);

struct unet_input {
    struct tensor sample;   /* F32 [pictures, h, w, in_channels] */
    struct tensor timestep; /* F32 [pictures, 1, 1, 1] */
    struct tensor hidden;   /* F32 [lanes, 1, length, cross_dim] */
    struct tensor map;      /* I32 [1, 1, 1, lanes]: the picture of each lane */
};

/* Calls `take` for every product of the network that reads the text: to_k and to_v of each cross-attention, which are
 * joined, with the count of outputs. Returns the first error. */
struct error unet_text_products(const struct unet *u,
                                struct error (*take)(void *arg, const struct weight *weight, int64_t channels),
                                void *arg);

/* -> a new tensor [lanes, h, w, out_channels]. */
struct tensor unet_forward(struct device *d, const struct unet *u, const struct unet_input *in);

#endif
