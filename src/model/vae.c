#include "model/vae.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "files/file.h"
#include "files/json.h"
#include "model/blocks.h"
#include "model/model_source.h"

static const float vae_eps = 1e-6f; /* fixed by AutoencoderKL: encoder and decoder pass resnet_eps = 1e-6 */

struct vae_attention {
    const struct weight *norm, *qkv, *out;
};

struct vae_mid {
    struct resnet first, second;
    struct vae_attention attention;
};

struct vae_block {
    struct resnet resnets[VAE_RESNETS];
    int64_t resnet_count;
    const struct weight *resample; /* down or up; NULL in the last block */
};

struct vae_half {
    const struct weight *conv_in, *norm_out, *conv_out;
    struct vae_block blocks[VAE_BLOCKS];
    struct vae_mid mid;
};

struct vae_layers {
    bool with_encoder, with_decoder;
    struct vae_half encoder, decoder;
    const struct weight *quant_conv, *post_quant_conv;
};

static void refuse_other_blocks(struct json *j, const char *key, int64_t blocks, const char *only)
{
    const char *types[VAE_BLOCKS];
    int64_t count = json_strings(j, key, types, VAE_BLOCKS);
    if (count && count != blocks)
        json_wrong(j, key, "has %lld entries, block_out_channels has %lld", (long long)count, (long long)blocks);
    for (int64_t i = 0; i < count; i++)
        if (strcmp(types[i], only) != 0)
            json_wrong(j, key, "\"%.60s\" is not supported, only \"%s\"", types[i], only);
}

struct error vae_config_read(struct vae_config *c, const char *model)
{
    char path[PATH_SIZE];
    struct json j;
    TRY(model_json(&j, path, model, "vae/config.json", PREDICTION_AS_MODEL));
    const char *class_name = json_string(&j, "_class_name", "AutoencoderKL");
    if (strcmp(class_name, "AutoencoderKL") != 0)
        json_wrong(&j, "_class_name", "\"%.60s\" is not supported, only \"AutoencoderKL\"", class_name);
    c->in_channels = json_integer(&j, "in_channels", 3, 3, 3);
    c->out_channels = json_integer(&j, "out_channels", 3, 3, 3);
    c->latent_channels = json_integer(&j, "latent_channels", 4, 1, 64);
    c->blocks = json_integers(&j, "block_out_channels", c->channels, VAE_BLOCKS, 0, 1, 1 << 14);
    if (c->blocks == 0)
        json_wrong(&j, "block_out_channels", "is missing, expected a list of channels");
    c->layers = json_integer(&j, "layers_per_block", 1, 1, VAE_RESNETS - 1);
    c->groups = json_integer(&j, "norm_num_groups", 32, 1, 1 << 14);
    c->scaling_factor = (float)json_number(&j, "scaling_factor", 0.18215);
    if (!(c->scaling_factor > 0))
        json_wrong(&j, "scaling_factor", "expected a positive number");
    c->quant_conv = json_bool(&j, "use_quant_conv", true);
    c->post_quant_conv = json_bool(&j, "use_post_quant_conv", true);
    refuse_other_blocks(&j, "down_block_types", c->blocks, "DownEncoderBlock2D");
    refuse_other_blocks(&j, "up_block_types", c->blocks, "UpDecoderBlock2D");
    json_same(&j, "act_fn", "silu", "swish");
    json_only(&j, "mid_block_add_attention", "true");
    json_only(&j, "shift_factor", "0");
    json_only(&j, "latents_mean", "null");
    json_only(&j, "latents_std", "null");
    for (int64_t i = 0; i < c->blocks; i++)
        if (c->channels[i] % c->groups != 0)
            json_wrong(&j, "norm_num_groups", "does not divide block_out_channels");
    c->factor = (int64_t)1 << (c->blocks > 0 ? c->blocks - 1 : 0);
    json_close(&j);
    return j.error;
}

static void load_attention(struct vae_attention *a, struct weights *w, int64_t channels, const char *name)
{
    static const char *const all[] = {".to_q", ".to_k", ".to_v", NULL};
    a->norm = weights_norm(w, channels, "%s.group_norm", name);
    a->qkv = weights_joined(w, channels, channels, true, all, "%s", name);
    a->out = weights_linear(w, channels, channels, true, "%s.to_out.0", name);
}

static void load_mid(struct vae_mid *m, struct weights *w, int64_t channels, int64_t groups, const char *half)
{
    char name[64];
    snprintf(name, sizeof name, "%s.mid_block.resnets.0", half);
    resnet_load(&m->first, w, channels, channels, 0, groups, vae_eps, name);
    snprintf(name, sizeof name, "%s.mid_block.attentions.0", half);
    load_attention(&m->attention, w, channels, name);
    snprintf(name, sizeof name, "%s.mid_block.resnets.1", half);
    resnet_load(&m->second, w, channels, channels, 0, groups, vae_eps, name);
}

static void load_block(struct vae_block *b, struct weights *w, int64_t in, int64_t out, int64_t resnets, int64_t groups,
                       const char *name, const char *resample)
{
    b->resnet_count = resnets;
    for (int64_t j = 0; j < resnets; j++) {
        char full[96];
        snprintf(full, sizeof full, "%s.resnets.%lld", name, (long long)j);
        resnet_load(&b->resnets[j], w, j ? out : in, out, 0, groups, vae_eps, full);
    }
    b->resample = resample ? weights_conv(w, out, out, 3, "%s.%s.0.conv", name, resample) : NULL;
}

static void load_encoder(struct vae *v, struct weights *w)
{
    const struct vae_config *c = &v->config;
    struct vae_half *e = &v->layers->encoder;
    int64_t last = c->channels[c->blocks - 1], in = c->channels[0];
    e->conv_in = weights_conv(w, in, c->in_channels, 3, "encoder.conv_in");
    for (int64_t i = 0; i < c->blocks; i++) {
        char name[64];
        snprintf(name, sizeof name, "encoder.down_blocks.%lld", (long long)i);
        load_block(&e->blocks[i], w, in, c->channels[i], c->layers, c->groups, name,
                   i + 1 < c->blocks ? "downsamplers" : NULL);
        in = c->channels[i];
    }
    load_mid(&e->mid, w, last, c->groups, "encoder");
    e->norm_out = weights_norm(w, last, "encoder.conv_norm_out");
    e->conv_out = weights_conv(w, 2 * c->latent_channels, last, 3, "encoder.conv_out");
    if (c->quant_conv)
        v->layers->quant_conv = weights_conv(w, 2 * c->latent_channels, 2 * c->latent_channels, 1, "quant_conv");
}

static void load_decoder(struct vae *v, struct weights *w)
{
    const struct vae_config *c = &v->config;
    struct vae_half *e = &v->layers->decoder;
    int64_t in = c->channels[c->blocks - 1];
    if (c->post_quant_conv)
        v->layers->post_quant_conv = weights_conv(w, c->latent_channels, c->latent_channels, 1, "post_quant_conv");
    e->conv_in = weights_conv(w, in, c->latent_channels, 3, "decoder.conv_in");
    load_mid(&e->mid, w, in, c->groups, "decoder");
    for (int64_t i = 0; i < c->blocks; i++) {
        char name[64];
        snprintf(name, sizeof name, "decoder.up_blocks.%lld", (long long)i);
        int64_t out = c->channels[c->blocks - 1 - i];
        load_block(&e->blocks[i], w, in, out, c->layers + 1, c->groups, name, i + 1 < c->blocks ? "upsamplers" : NULL);
        in = out;
    }
    e->norm_out = weights_norm(w, c->channels[0], "decoder.conv_norm_out");
    e->conv_out = weights_conv(w, c->out_channels, c->channels[0], 3, "decoder.conv_out");
}

static void load(void *arg, struct weights *w)
{
    struct vae *v = arg;
    if (v->layers->with_encoder)
        load_encoder(v, w);
    if (v->layers->with_decoder)
        load_decoder(v, w);
}

struct error vae_load(struct vae *v, struct device *d, const char *folder, int bits, bool with_encoder,
                      bool with_decoder, struct store store)
{
    *v = (struct vae){0};
    struct error e = vae_config_read(&v->config, folder);
    if (e.code == ERROR_NONE && !(v->layers = memory_alloc(1, sizeof *v->layers)))
        e = error_memory("the VAE");
    if (e.code != ERROR_NONE)
        return weights_refuse(store, e);
    v->layers->with_encoder = with_encoder;
    v->layers->with_decoder = with_decoder;
    e = weights_load(&v->weights, d, folder, "vae", bits, store, load, v);
    if (e.code != ERROR_NONE)
        vae_free(v);
    return e;
}

void vae_free(struct vae *v)
{
    weights_free(&v->weights);
    memory_free(v->layers);
    v->layers = NULL;
}

/* One head over all positions, as wide as the channels. */
static void self_attention(struct device *d, const struct vae_attention *a, int64_t groups, struct tensor *x)
{
    int64_t channels = x->channels;
    struct tensor h = block_alloc(d, *x, channels);
    op_norm(d, h, *x, a->norm, groups, vae_eps, ACT_NONE);
    block_self_attention(d, a->qkv, h, 1, false);
    op_linear(d, *x, h, a->out, (struct epilogue){.residual = x});
    device_free(d, &h);
}

static void apply_mid(struct device *d, const struct vae_mid *m, int64_t groups, struct tensor *x)
{
    resnet_in_place(d, &m->first, x, NULL);
    self_attention(d, &m->attention, groups, x);
    resnet_in_place(d, &m->second, x, NULL);
}

static void apply_resnets(struct device *d, const struct vae_block *b, struct tensor *x)
{
    for (int64_t j = 0; j < b->resnet_count; j++)
        resnet_in_place(d, &b->resnets[j], x, NULL);
}

static struct tensor finish(struct device *d, const struct vae_half *half, int64_t groups, struct tensor *x,
                            int64_t out)
{
    op_norm(d, *x, *x, half->norm_out, groups, vae_eps, ACT_SILU);
    struct tensor y = block_conv(d, half->conv_out, *x, x->height, x->width, out, (struct conv){.stride = 1, .pad = 1});
    device_free(d, x);
    return y;
}

struct tensor vae_encode(struct device *d, const struct vae *v, struct tensor pixels)
{
    const struct vae_config *c = &v->config;
    const struct vae_half *e = &v->layers->encoder;
    struct tensor x = block_conv(d, e->conv_in, pixels, pixels.height, pixels.width, c->channels[0],
                                 (struct conv){.stride = 1, .pad = 1});
    for (int64_t i = 0; i < c->blocks; i++) {
        const struct vae_block *b = &e->blocks[i];
        apply_resnets(d, b, &x);
        // diffusers pads one row below and one column to the right, none above and left: F.pad (0, 1, 0, 1)
        if (b->resample)
            block_replace(d, &x,
                          block_conv(d, b->resample, x, (x.height - 2) / 2 + 1, (x.width - 2) / 2 + 1, x.channels,
                                     (struct conv){.stride = 2, .pad = 0}));
    }
    apply_mid(d, &e->mid, c->groups, &x);
    struct tensor moments = finish(d, e, c->groups, &x, 2 * c->latent_channels);
    if (v->layers->quant_conv)
        block_replace(d, &moments, block_linear(d, v->layers->quant_conv, moments, 2 * c->latent_channels));
    return moments;
}

struct tensor vae_decode(struct device *d, const struct vae *v, struct tensor latent)
{
    const struct vae_config *c = &v->config;
    const struct vae_half *e = &v->layers->decoder;
    struct tensor z = latent;
    if (v->layers->post_quant_conv)
        z = block_linear(d, v->layers->post_quant_conv, latent, c->latent_channels);
    struct tensor x = block_conv(d, e->conv_in, z, z.height, z.width, c->channels[c->blocks - 1],
                                 (struct conv){.stride = 1, .pad = 1});
    if (v->layers->post_quant_conv)
        device_free(d, &z);
    apply_mid(d, &e->mid, c->groups, &x);
    for (int64_t i = 0; i < c->blocks; i++) {
        const struct vae_block *b = &e->blocks[i];
        apply_resnets(d, b, &x);
        if (b->resample)
            block_replace(d, &x,
                          block_conv(d, b->resample, x, 2 * x.height, 2 * x.width, x.channels,
                                     (struct conv){.stride = 1, .pad = 1, .up = true}));
    }
    return finish(d, e, c->groups, &x, c->out_channels);
}
