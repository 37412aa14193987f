/* model/vae.h
 *
 * diffusers' AutoencoderKL: pictures to latents and back.
 *
 *     encode: conv_in ─ [resnets ─ conv down] x blocks ─ mid ─ norm ─ silu ─ conv_out ─ quant_conv
 *     decode: post_quant_conv ─ conv_in ─ mid ─ [resnets ─ conv up] x blocks ─ norm ─ silu ─ conv_out
 *     mid:    resnet ─ attention ─ resnet
 *
 * Latents here are the VAE's own, before scaling_factor.
 */
#ifndef ZOODIP_MODEL_VAE_H
#define ZOODIP_MODEL_VAE_H

#include "device/device.h"
#include "model/weights.h"

enum { VAE_BLOCKS = 8, VAE_RESNETS = 17 };

struct vae_config {
    int64_t in_channels, out_channels, latent_channels;
    int64_t blocks, channels[VAE_BLOCKS];
    int64_t layers; /* layers_per_block */
    int64_t groups;
    float scaling_factor;
    bool quant_conv, post_quant_conv;
    int64_t factor; /* pixels per latent on a side: 2^(blocks - 1) */
};

struct vae {
    struct vae_config config;
    struct weights weights;
    struct vae_layers *layers; /* private */
};

/* Reads a model's vae/config.json (model/model_source.h); refuses, by key and value, what this network is not. */
struct error vae_config_read(struct vae_config *c, const char *model);

/* Loads the requested halves of FOLDER/vae. Free with vae_free. */
struct error vae_load(struct vae *v, struct device *d, const char *folder, int bits, bool with_encoder,
                      bool with_decoder, struct store store);
void vae_free(struct vae *v);

/* pixels F32 [lanes, H, W, 3] in [-1, 1] -> a new tensor [lanes, H / factor, W / factor, 2 latent_channels]: mean, then
 * log-variance as the network gives it (diffusers clamps it to [-30, 20] when it samples). */
struct tensor vae_encode(struct device *d, const struct vae *v, struct tensor pixels);

/* latent F32 [lanes, h, w, latent_channels] -> a new tensor [lanes, h factor, w factor, 3], about [-1, 1]. */
struct tensor vae_decode(struct device *d, const struct vae *v, struct tensor latent);

#endif
