/* model/unet_config.h
 *
 * unet/config.json: the shape of a UNet2DConditionModel as Stable Diffusion 1.x and 2.x configure it. Missing keys have
 * diffusers' defaults.
 */
#ifndef ZOODIP_MODEL_UNET_CONFIG_H
#define ZOODIP_MODEL_UNET_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "model/prediction.h"

enum { UNET_BLOCKS = 8, UNET_LAYERS = 17, UNET_DEPTH = 16 };

struct unet_config {
    int64_t in_channels, out_channels, sample_size;
    int64_t blocks, channels[UNET_BLOCKS];
    int64_t layers[UNET_BLOCKS];                         /* layers_per_block */
    int64_t heads[UNET_BLOCKS];                          /* attention heads of each block's channels */
    int64_t depth[UNET_BLOCKS];                          /* transformer_layers_per_block */
    bool down_cross[UNET_BLOCKS], up_cross[UNET_BLOCKS]; /* does the block attend to the text? */
    int64_t cross_dim, groups, time_dim, conv_in_kernel, conv_out_kernel, downsample_padding;
    float eps, freq_shift;
    bool flip_sin_to_cos;
};

/* Reads a model's unet/config.json (model/model_source.h); refuses, by key and value, what this network is not. */
struct error unet_config_read(struct unet_config *c, const char *model, enum prediction_choice prediction);

#endif
