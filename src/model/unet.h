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
 * looks at. After that point a lane has its own numbers; `struct flow` (unet.c) knows which side of it we are on.
 */
#ifndef ZOODIP_MODEL_UNET_H
#define ZOODIP_MODEL_UNET_H

#include "device/device.h"
#include "model/blocks.h"
#include "model/unet_config.h"
#include "model/weights.h"

/* BasicTransformerBlock: norm ─ self-attention ─(+)─ norm ─ cross-attention ─(+)─ norm ─ geglu ─ linear ─(+) */
struct transformer_block {
    const struct weight *norm1, *q1, *k1, *v1, *out1;
    const struct weight *norm2, *q2, *k2, *v2, *out2;
    const struct weight *norm3, *gated, *down;
};

/* Transformer2DModel: norm ─ proj_in ─ blocks ─ proj_out ─(+) */
struct transformer {
    int64_t channels, heads, depth, groups;
    const struct weight *norm, *proj_in, *proj_out;
    struct transformer_block blocks[UNET_DEPTH];
};

struct unet_block {
    int64_t layers;
    bool cross;
    struct resnet resnets[UNET_LAYERS];
    struct transformer transformers[UNET_LAYERS];
    const struct weight *sampler; /* down or up; NULL in the last block */
};

struct unet {
    struct unet_config config;
    struct weights weights;
    const struct weight *time1, *time2, *conv_in, *norm_out, *conv_out;
    struct unet_block *down, *up; /* [blocks] */
    struct resnet mid_first, mid_second;
    struct transformer mid;
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

/* -> a new tensor [lanes, h, w, out_channels]. */
struct tensor unet_forward(struct device *d, const struct unet *u, const struct unet_input *in);

#endif
