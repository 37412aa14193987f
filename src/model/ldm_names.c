#include "model/ldm_names.h"

#include <stdio.h>
#include <string.h>

enum { NAME_ROOM = 200 };

struct names {
    const char *prefix; /* of the part in the file */
    ldm_pair *pair;
    void *arg;
};

/* A layer's name in the folder, and in the file. */
struct renamed {
    const char *name, *in_file;
};

static void add(const struct names *n, const char *name, const char *in_file, const char *suffix, enum ldm_take take)
{
    char full[NAME_ROOM], full_in_file[NAME_ROOM];
    snprintf(full, sizeof full, "%s%s", name, suffix);
    snprintf(full_in_file, sizeof full_in_file, "%s%s%s", n->prefix, in_file, suffix);
    n->pair(n->arg, full, full_in_file, take);
}

static void add_layer(const struct names *n, const char *name, const char *in_file, enum ldm_take take)
{
    add(n, name, in_file, ".weight", take);
    add(n, name, in_file, ".bias", take);
}

/* Layers inside of a module. */
static void add_layers(const struct names *n, const char *name, const char *in_file, const struct renamed *layers,
                       int64_t count, enum ldm_take take)
{
    for (int64_t i = 0; i < count; i++) {
        char full[NAME_ROOM], full_in_file[NAME_ROOM];
        snprintf(full, sizeof full, "%.90s%s%s", name, *name ? "." : "", layers[i].name);
        snprintf(full_in_file, sizeof full_in_file, "%.90s%s%s", in_file, *in_file ? "." : "", layers[i].in_file);
        add_layer(n, full, full_in_file, take);
    }
}

#define ADD_LAYERS(n, name, in_file, layers, take)                                                                     \
    add_layers(n, name, in_file, layers, sizeof(layers) / sizeof *(layers), take)

/* -------------------------------------------------------------------------------- the UNet */

static void add_resnet(const struct names *n, const char *name, const char *in_file)
{
    static const struct renamed layers[] = {{"norm1", "in_layers.0"},
                                            {"conv1", "in_layers.2"},
                                            {"time_emb_proj", "emb_layers.1"},
                                            {"norm2", "out_layers.0"},
                                            {"conv2", "out_layers.3"}};
    static const struct renamed shortcut[] = {{"conv_shortcut", "skip_connection"}};
    ADD_LAYERS(n, name, in_file, layers, LDM_WHOLE);
    ADD_LAYERS(n, name, in_file, shortcut, LDM_OPTIONAL);
}

/* Names inside of it are the same on both sides. */
static void add_attention(const struct names *n, const char *name, const char *in_file, int64_t depth)
{
    static const struct renamed around[] = {{"norm", "norm"}, {"proj_in", "proj_in"}, {"proj_out", "proj_out"}};
    static const struct renamed biased[] = {{"norm1", "norm1"},
                                            {"norm2", "norm2"},
                                            {"norm3", "norm3"},
                                            {"attn1.to_out.0", "attn1.to_out.0"},
                                            {"attn2.to_out.0", "attn2.to_out.0"},
                                            {"ff.net.0.proj", "ff.net.0.proj"},
                                            {"ff.net.2", "ff.net.2"}};
    static const char *const plain[] = {".attn1.to_q", ".attn1.to_k", ".attn1.to_v",
                                        ".attn2.to_q", ".attn2.to_k", ".attn2.to_v"};
    ADD_LAYERS(n, name, in_file, around, LDM_WHOLE);
    for (int64_t k = 0; k < depth; k++) {
        char block[NAME_ROOM], block_in_file[NAME_ROOM];
        snprintf(block, sizeof block, "%.90s.transformer_blocks.%lld", name, (long long)k);
        snprintf(block_in_file, sizeof block_in_file, "%.90s.transformer_blocks.%lld", in_file, (long long)k);
        ADD_LAYERS(n, block, block_in_file, biased, LDM_WHOLE);
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
            char full[NAME_ROOM], full_in_file[NAME_ROOM];
            snprintf(full, sizeof full, "%.150s%s", block, plain[i]);
            snprintf(full_in_file, sizeof full_in_file, "%.150s%s", block_in_file, plain[i]);
            add(n, full, full_in_file, ".weight", LDM_WHOLE);
        }
    }
}

/* A resnet with its attention, if the block attends: the file has them in one list of modules. */
static void add_pair(const struct names *n, const char *block, int64_t i, const char *in_file, int64_t number,
                     int64_t depth)
{
    char name[NAME_ROOM], from[NAME_ROOM];
    snprintf(name, sizeof name, "%s.resnets.%lld", block, (long long)i);
    snprintf(from, sizeof from, "%s.%lld.0", in_file, (long long)number);
    add_resnet(n, name, from);
    snprintf(name, sizeof name, "%s.attentions.%lld", block, (long long)i);
    snprintf(from, sizeof from, "%s.%lld.1", in_file, (long long)number);
    if (depth > 0)
        add_attention(n, name, from, depth);
}

static void add_down(const struct names *n, const struct ldm_unet *u)
{
    int64_t number = 1;
    for (int64_t b = 0; b < u->blocks; b++) {
        char block[NAME_ROOM], from[NAME_ROOM];
        snprintf(block, sizeof block, "down_blocks.%lld", (long long)b);
        for (int64_t i = 0; i < u->layers[b]; i++)
            add_pair(n, block, i, "input_blocks", number++, u->down_cross[b] ? u->depth[b] : 0);
        if (b + 1 == u->blocks)
            break;
        snprintf(block, sizeof block, "down_blocks.%lld.downsamplers.0.conv", (long long)b);
        snprintf(from, sizeof from, "input_blocks.%lld.0.op", (long long)number++);
        add_layer(n, block, from, LDM_WHOLE);
    }
}

static void add_up(const struct names *n, const struct ldm_unet *u)
{
    int64_t number = 0;
    for (int64_t b = 0; b < u->blocks; b++) {
        char block[NAME_ROOM], from[NAME_ROOM];
        int64_t mirror = u->blocks - 1 - b;
        snprintf(block, sizeof block, "up_blocks.%lld", (long long)b);
        for (int64_t i = 0; i <= u->layers[mirror]; i++)
            add_pair(n, block, i, "output_blocks", number++, u->up_cross[b] ? u->depth[mirror] : 0);
        if (b + 1 == u->blocks)
            break;
        snprintf(block, sizeof block, "up_blocks.%lld.upsamplers.0.conv", (long long)b);
        snprintf(from, sizeof from, "output_blocks.%lld.%d.conv", (long long)number - 1, u->up_cross[b] ? 2 : 1);
        add_layer(n, block, from, LDM_WHOLE);
    }
}

static void unet_names(const struct names *n, const struct ldm_unet *u)
{
    static const struct renamed around[] = {{"time_embedding.linear_1", "time_embed.0"},
                                            {"time_embedding.linear_2", "time_embed.2"},
                                            {"conv_in", "input_blocks.0.0"},
                                            {"conv_norm_out", "out.0"},
                                            {"conv_out", "out.2"}};
    ADD_LAYERS(n, "", "", around, LDM_WHOLE);
    add_down(n, u);
    add_resnet(n, "mid_block.resnets.0", "middle_block.0");
    add_attention(n, "mid_block.attentions.0", "middle_block.1", u->depth[u->blocks - 1]);
    add_resnet(n, "mid_block.resnets.1", "middle_block.2");
    add_up(n, u);
}

/* -------------------------------------------------------------------------------- the VAE */

static void add_vae_resnet(const struct names *n, const char *name, const char *in_file)
{
    static const struct renamed layers[] = {
        {"norm1", "norm1"}, {"conv1", "conv1"}, {"norm2", "norm2"}, {"conv2", "conv2"}};
    static const struct renamed shortcut[] = {{"conv_shortcut", "nin_shortcut"}};
    ADD_LAYERS(n, name, in_file, layers, LDM_WHOLE);
    ADD_LAYERS(n, name, in_file, shortcut, LDM_OPTIONAL);
}

/* What both halves have. */
static void add_half(const struct names *n, const char *half)
{
    static const struct renamed around[] = {
        {"conv_in", "conv_in"}, {"conv_norm_out", "norm_out"}, {"conv_out", "conv_out"}};
    static const struct renamed norm[] = {{"mid_block.attentions.0.group_norm", "mid.attn_1.norm"}};
    static const struct renamed products[] = {{"mid_block.attentions.0.to_q", "mid.attn_1.q"},
                                              {"mid_block.attentions.0.to_k", "mid.attn_1.k"},
                                              {"mid_block.attentions.0.to_v", "mid.attn_1.v"},
                                              {"mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"}};
    ADD_LAYERS(n, half, half, around, LDM_WHOLE);
    ADD_LAYERS(n, half, half, norm, LDM_WHOLE);
    ADD_LAYERS(n, half, half, products, LDM_MATRIX);
    for (int i = 0; i < 2; i++) {
        char name[NAME_ROOM], from[NAME_ROOM];
        snprintf(name, sizeof name, "%s.mid_block.resnets.%d", half, i);
        snprintf(from, sizeof from, "%s.mid.block_%d", half, i + 1);
        add_vae_resnet(n, name, from);
    }
}

/* A block of one half: `name` and `resampler` in the folder, `in_file` and `resample` in the file. */
static void add_vae_block(const struct names *n, const char *name, const char *resampler, const char *in_file,
                          const char *resample, int64_t resnets)
{
    char full[NAME_ROOM], from[NAME_ROOM];
    for (int64_t i = 0; i < resnets; i++) {
        snprintf(full, sizeof full, "%s.resnets.%lld", name, (long long)i);
        snprintf(from, sizeof from, "%s.block.%lld", in_file, (long long)i);
        add_vae_resnet(n, full, from);
    }
    snprintf(full, sizeof full, "%s.%s.0.conv", name, resampler);
    snprintf(from, sizeof from, "%s.%s.conv", in_file, resample);
    if (*resample)
        add_layer(n, full, from, LDM_WHOLE);
}

static void vae_names(const struct names *n, const struct ldm_vae *v)
{
    static const struct renamed quant[] = {{"quant_conv", "quant_conv"}};
    static const struct renamed post_quant[] = {{"post_quant_conv", "post_quant_conv"}};
    add_half(n, "encoder");
    add_half(n, "decoder");
    for (int64_t b = 0; b < v->blocks; b++) {
        char name[NAME_ROOM], from[NAME_ROOM];
        bool last = b + 1 == v->blocks;
        snprintf(name, sizeof name, "encoder.down_blocks.%lld", (long long)b);
        snprintf(from, sizeof from, "encoder.down.%lld", (long long)b);
        add_vae_block(n, name, "downsamplers", from, last ? "" : "downsample", v->layers);
        // the file counts the decoder's blocks from its end
        snprintf(name, sizeof name, "decoder.up_blocks.%lld", (long long)b);
        snprintf(from, sizeof from, "decoder.up.%lld", (long long)(v->blocks - 1 - b));
        add_vae_block(n, name, "upsamplers", from, last ? "" : "upsample", v->layers + 1);
    }
    if (v->quant_conv)
        ADD_LAYERS(n, "", "", quant, LDM_WHOLE);
    if (v->post_quant_conv)
        ADD_LAYERS(n, "", "", post_quant, LDM_WHOLE);
}

/* -------------------------------------------------------------------------------- the text encoder */

static void clip_names(const struct names *n, const struct ldm_text *t)
{
    static const struct renamed layers[] = {{"layer_norm1", "layer_norm1"},
                                            {"layer_norm2", "layer_norm2"},
                                            {"mlp.fc1", "mlp.fc1"},
                                            {"mlp.fc2", "mlp.fc2"},
                                            {"self_attn.q_proj", "self_attn.q_proj"},
                                            {"self_attn.k_proj", "self_attn.k_proj"},
                                            {"self_attn.v_proj", "self_attn.v_proj"},
                                            {"self_attn.out_proj", "self_attn.out_proj"}};
    add(n, "text_model.embeddings.token_embedding", "embeddings.token_embedding", ".weight", LDM_WHOLE);
    add(n, "text_model.embeddings.position_embedding", "embeddings.position_embedding", ".weight", LDM_WHOLE);
    for (int64_t i = 0; i < t->layers; i++) {
        char name[NAME_ROOM];
        snprintf(name, sizeof name, "text_model.encoder.layers.%lld", (long long)i);
        ADD_LAYERS(n, name, name + strlen("text_model."), layers, LDM_WHOLE);
    }
    add_layer(n, "text_model.final_layer_norm", "final_layer_norm", LDM_WHOLE);
}

/* q, k and v of one layer, weights and biases. */
static void add_thirds(const struct names *n, const char *name, const char *in_file)
{
    static const char *const projections[] = {"q_proj", "k_proj", "v_proj"};
    for (int i = 0; i < 3; i++) {
        char full[NAME_ROOM], from[NAME_ROOM];
        enum ldm_take take = (enum ldm_take)(LDM_FIRST_THIRD + i);
        snprintf(full, sizeof full, "%.90s.self_attn.%s.weight", name, projections[i]);
        snprintf(from, sizeof from, "%.90s.attn.in_proj_weight", in_file);
        add(n, full, from, "", take);
        snprintf(full, sizeof full, "%.90s.self_attn.%s.bias", name, projections[i]);
        snprintf(from, sizeof from, "%.90s.attn.in_proj_bias", in_file);
        add(n, full, from, "", take);
    }
}

static void open_clip_names(const struct names *n, const struct ldm_text *t)
{
    static const struct renamed layers[] = {{"layer_norm1", "ln_1"},
                                            {"layer_norm2", "ln_2"},
                                            {"mlp.fc1", "mlp.c_fc"},
                                            {"mlp.fc2", "mlp.c_proj"},
                                            {"self_attn.out_proj", "attn.out_proj"}};
    add(n, "text_model.embeddings.token_embedding.weight", "token_embedding.weight", "", LDM_WHOLE);
    add(n, "text_model.embeddings.position_embedding.weight", "positional_embedding", "", LDM_WHOLE);
    for (int64_t i = 0; i < t->layers; i++) {
        char name[NAME_ROOM], from[NAME_ROOM];
        snprintf(name, sizeof name, "text_model.encoder.layers.%lld", (long long)i);
        snprintf(from, sizeof from, "transformer.resblocks.%lld", (long long)i);
        ADD_LAYERS(n, name, from, layers, LDM_WHOLE);
        add_thirds(n, name, from);
    }
    add_layer(n, "text_model.final_layer_norm", "ln_final", LDM_WHOLE);
}

void ldm_names(const struct ldm_shape *shape, const char *part, ldm_pair *pair, void *arg)
{
    struct names n = {.pair = pair, .arg = arg};
    if (strcmp(part, "unet") == 0) {
        n.prefix = "model.diffusion_model.";
        unet_names(&n, &shape->unet);
    } else if (strcmp(part, "vae") == 0) {
        n.prefix = "first_stage_model.";
        vae_names(&n, &shape->vae);
    } else {
        n.prefix = shape->text.prefix;
        (shape->text.open_clip ? open_clip_names : clip_names)(&n, &shape->text);
    }
}
