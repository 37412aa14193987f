#include "model/unet_config.h"

#include <string.h>

#include "model/model_source.h"

/* Which blocks of a list attend to the text: `cross` is the type that does, `plain` the one that does not. */
static void read_block_types(struct json *j, const char *key, int64_t blocks, const char *cross, const char *plain,
                             bool *out)
{
    const char *types[UNET_BLOCKS];
    int64_t count = json_strings(j, key, types, UNET_BLOCKS);
    if (count != blocks) {
        json_wrong(j, key, "has %lld entries, block_out_channels has %lld", (long long)count, (long long)blocks);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        out[i] = strcmp(types[i], cross) == 0;
        if (!out[i] && strcmp(types[i], plain) != 0)
            json_wrong(j, key, "\"%.60s\" is not supported, only \"%s\" and \"%s\"", types[i], cross, plain);
    }
}

/* One number for all blocks, or a list with one for each. If the key is absent, `out` keeps its values. */
static void read_per_block(struct json *j, const char *key, int64_t blocks, int64_t high, int64_t *out)
{
    int64_t count = json_integers(j, key, out, UNET_BLOCKS, blocks, 1, high);
    if (count != 0 && count != blocks)
        json_wrong(j, key, "has %lld entries, block_out_channels has %lld", (long long)count, (long long)blocks);
}

static void refuse_variants(struct json *j)
{
    static const char *const only[][2] = {
        {"mid_block_type", "\"UNetMidBlock2DCrossAttn\""},
        {"resnet_time_scale_shift", "\"default\""},
        {"time_embedding_type", "\"positional\""},
        {"attention_type", "\"default\""},
        {"only_cross_attention", "false"},
        {"mid_block_only_cross_attention", "false"},
        {"dual_cross_attention", "false"},
        {"center_input_sample", "false"},
        {"class_embeddings_concat", "false"},
        {"resnet_skip_time_act", "false"},
        {"mid_block_scale_factor", "1"},
        {"resnet_out_scale_factor", "1"},
        {"class_embed_type", "null"},
        {"num_class_embeds", "null"},
        {"addition_embed_type", "null"},
        {"encoder_hid_dim", "null"},
        {"encoder_hid_dim_type", "null"},
        {"time_cond_proj_dim", "null"},
        {"time_embedding_dim", "null"},
        {"time_embedding_act_fn", "null"},
        {"timestep_post_act", "null"},
        {"cross_attention_norm", "null"},
        {"reverse_transformer_layers_per_block", "null"},
        {"projection_class_embeddings_input_dim", "null"},
    };
    for (size_t i = 0; i < sizeof only / sizeof *only; i++)
        json_only(j, only[i][0], only[i][1]);
}

static void check_divisions(struct json *j, const struct unet_config *c)
{
    for (int64_t i = 0; i < c->blocks; i++) {
        if (c->channels[i] % c->groups != 0)
            json_wrong(j, "norm_num_groups", "%lld does not divide block_out_channels %lld", (long long)c->groups,
                       (long long)c->channels[i]);
        if (c->channels[i] % c->heads[i] != 0)
            json_wrong(j, "attention_head_dim", "%lld heads do not divide block_out_channels %lld",
                       (long long)c->heads[i], (long long)c->channels[i]);
    }
}

/* The shape of the blocks; what the file does not say of them has diffusers' defaults. */
static void read_blocks(struct json *j, struct unet_config *c)
{
    c->blocks = json_integers(j, "block_out_channels", c->channels, UNET_BLOCKS, 0, 1, 1 << 14);
    if (c->blocks == 0)
        json_wrong(j, "block_out_channels", "is missing, expected a list of at most %d channels", UNET_BLOCKS);
    read_block_types(j, "down_block_types", c->blocks, "CrossAttnDownBlock2D", "DownBlock2D", c->down_cross);
    read_block_types(j, "up_block_types", c->blocks, "CrossAttnUpBlock2D", "UpBlock2D", c->up_cross);
    for (int64_t i = 0; i < c->blocks; i++) {
        c->layers[i] = 2;
        c->depth[i] = 1;
        c->heads[i] = 8;
    }
    read_per_block(j, "layers_per_block", c->blocks, UNET_LAYERS - 1, c->layers);
    read_per_block(j, "transformer_layers_per_block", c->blocks, UNET_DEPTH, c->depth);
    // for these models `attention_head_dim` counts heads; `num_attention_heads` does too, and takes precedence
    read_per_block(j, "attention_head_dim", c->blocks, 1 << 12, c->heads);
    read_per_block(j, "num_attention_heads", c->blocks, 1 << 12, c->heads);
}

/* One number, or height and width. */
static int64_t read_sample_size(struct json *j)
{
    int64_t size[2] = {64, 64};
    int64_t count = json_integers(j, "sample_size", size, 2, 1, 1, 4096);
    if (count == 2 && size[0] != size[1])
        json_wrong(j, "sample_size", "%lld x %lld is not supported, only a square", (long long)size[0],
                   (long long)size[1]);
    return size[0];
}

struct error unet_config_read(struct unet_config *c, const char *model, enum prediction_choice prediction)
{
    *c = (struct unet_config){0};
    char path[PATH_SIZE];
    struct json j;
    TRY(model_json(&j, path, model, "unet/config.json", prediction));
    const char *class_name = json_string(&j, "_class_name", "UNet2DConditionModel");
    if (strcmp(class_name, "UNet2DConditionModel") != 0)
        json_wrong(&j, "_class_name", "\"%.60s\" is not supported, only \"UNet2DConditionModel\"", class_name);
    c->in_channels = json_integer(&j, "in_channels", 4, 1, 64);
    c->out_channels = json_integer(&j, "out_channels", 4, 1, 64);
    c->sample_size = read_sample_size(&j);
    read_blocks(&j, c);
    c->cross_dim = json_integer(&j, "cross_attention_dim", 1280, 1, 1 << 16);
    c->groups = json_integer(&j, "norm_num_groups", 32, 1, 1 << 14);
    c->eps = (float)json_number(&j, "norm_eps", 1e-5);
    c->flip_sin_to_cos = json_bool(&j, "flip_sin_to_cos", true);
    c->freq_shift = (float)json_number(&j, "freq_shift", 0);
    c->conv_in_kernel = json_integer(&j, "conv_in_kernel", 3, 1, 15);
    c->conv_out_kernel = json_integer(&j, "conv_out_kernel", 3, 1, 15);
    c->downsample_padding = json_integer(&j, "downsample_padding", 1, 0, 1);
    c->time_dim = 4 * c->channels[0];
    if (c->conv_in_kernel % 2 == 0 || c->conv_out_kernel % 2 == 0)
        json_wrong(&j, "conv_in_kernel", "expected an odd number");
    json_bool(&j, "use_linear_projection", false); // 1 x 1 convolution or linear: the same numbers here
    json_bool(&j, "upcast_attention", false);      // attention is computed in fp32 anyway
    json_same(&j, "act_fn", "silu", "swish");
    refuse_variants(&j);
    if (j.error.code == ERROR_NONE)
        check_divisions(&j, c);
    json_close(&j);
    return j.error;
}
