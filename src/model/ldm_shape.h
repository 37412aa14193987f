/* model/ldm_shape.h
 *
 * The shape of a Stable Diffusion as the tensors of a single file give it, under the names of the code that it was
 * trained with (latent-diffusion, "LDM"):
 *
 *     model.diffusion_model.         the UNet: input_blocks.N, middle_block.N, output_blocks.N
 *     first_stage_model.             the VAE: encoder.down.N, encoder.mid, decoder.mid, decoder.up.N
 *     cond_stage_model.transformer.  1.x: CLIP's text encoder, as transformers names it, with "text_model." or without
 *     cond_stage_model.model.        2.x: the same as OpenCLIP names it: transformer.resblocks.N
 *
 * Each input_blocks.N is the first convolution (N = 0), a resnet with or without attention, or a downsampler, which ends
 * a block; each output_blocks.N is a resnet, of which a block has one more, and its last the upsampler.
 */
#ifndef ZOODIP_MODEL_LDM_SHAPE_H
#define ZOODIP_MODEL_LDM_SHAPE_H

#include "files/safetensors.h"
#include "model/unet_config.h"
#include "model/vae.h"

enum { LDM_TEXT_LAYERS = 1024 };

struct ldm_unet {
    int64_t in_channels, out_channels, conv_in_kernel, conv_out_kernel, cross_dim;
    int64_t blocks, channels[UNET_BLOCKS];
    int64_t layers[UNET_BLOCKS], depth[UNET_BLOCKS];     /* as in struct unet_config */
    bool down_cross[UNET_BLOCKS], up_cross[UNET_BLOCKS]; /* attention at each of the block's resnets? */
    bool linear; /* projections beside attention: linear, or 1 x 1 convolutions */
};

struct ldm_vae {
    int64_t latent_channels, blocks, channels[VAE_BLOCKS], layers;
    bool quant_conv, post_quant_conv;
};

struct ldm_text {
    const char *prefix; /* of its tensors' names */
    bool open_clip;     /* named as OpenCLIP does */
    int64_t vocab, positions, width, inner;
    int64_t layers; /* without OpenCLIP's last, see below */
};

struct ldm_shape {
    struct ldm_unet unet;
    struct ldm_vae vae;
    struct ldm_text text;
};

/* Reads it. Stable Diffusion 2.x uses what OpenCLIP's last layer but one says, so its last layer is left out, as
 * diffusers does; a text encoder of 23 layers was saved without it. ERROR_BAD_INPUT names a tensor that is missing. */
struct error ldm_shape_read(struct ldm_shape *shape, const struct safetensors *file);

/* The entry of a name (printf-like), or NULL. */
__attribute__((format(printf, 2, 3))) const struct entry *ldm_find(const struct safetensors *file, const char *name,
                                                                   ...);

/* Whether a name begins so. */
bool ldm_has_prefix(const struct safetensors *file, const char *prefix);

#endif
