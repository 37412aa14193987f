/* The settings of a single file, as diffusers and transformers write them: what they need to load the folder. */
#include <cjson/cJSON.h>
#include <string.h>

#include "model/single_file.h"

enum { MOST_GROUPS = 32, HEAD_CHANNELS = 64, HEADS_OF_FIRST = 8 };

const char *const single_file_names[] = {"model_index.json", "text_encoder/config.json",        "unet/config.json",
                                         "vae/config.json",  "scheduler/scheduler_config.json", NULL};

static bool predicts_v(const struct single_file *f, enum prediction_choice prediction)
{
    return (prediction == PREDICTION_AS_MODEL ? f->predicted : prediction) == PREDICTION_V;
}

/* The largest power of two up to 32 that divides all channels. */
static int64_t groups_of(const int64_t *channels, int64_t blocks)
{
    int64_t groups = MOST_GROUPS;
    for (int64_t i = 0; i < blocks; i++)
        while (channels[i] % groups != 0)
            groups /= 2;
    return groups;
}

static int64_t heads_of(int64_t channels)
{
    return channels < HEAD_CHANNELS ? 1 : channels / HEAD_CHANNELS;
}

/* Pixels on a side, by what the model was published with. */
static int64_t latent_size(const struct single_file *f, enum prediction_choice prediction)
{
    return f->second && predicts_v(f, prediction) ? 96 : 64;
}

/* -------------------------------------------------------------------------------- lists */

static void add_item(cJSON *list, cJSON *item)
{
    if (!cJSON_AddItemToArray(list, item))
        cJSON_Delete(item);
}

static void add_strings(cJSON *root, const char *key, const bool *cross, int64_t count, const char *with,
                        const char *without)
{
    cJSON *list = cJSON_AddArrayToObject(root, key);
    for (int64_t i = 0; i < count; i++)
        add_item(list, cJSON_CreateString(cross && cross[i] ? with : without));
}

static void add_integers(cJSON *root, const char *key, const int64_t *values, int64_t count)
{
    cJSON *list = cJSON_AddArrayToObject(root, key);
    for (int64_t i = 0; i < count; i++)
        add_item(list, cJSON_CreateNumber((double)values[i]));
}

/* One number if all blocks have the same, as diffusers writes it. */
static void add_per_block(cJSON *root, const char *key, const int64_t *values, int64_t count)
{
    bool same = true;
    for (int64_t i = 1; i < count; i++)
        same &= values[i] == values[0];
    if (same)
        cJSON_AddNumberToObject(root, key, (double)values[0]);
    else
        add_integers(root, key, values, count);
}

/* -------------------------------------------------------------------------------- the parts */

static void add_unet(cJSON *root, const struct single_file *f, enum prediction_choice prediction)
{
    const struct ldm_unet *u = &f->shape.unet;
    int64_t heads[UNET_BLOCKS];
    for (int64_t i = 0; i < u->blocks; i++)
        heads[i] = f->second ? heads_of(u->channels[i]) : HEADS_OF_FIRST;
    cJSON_AddStringToObject(root, "_class_name", "UNet2DConditionModel");
    cJSON_AddStringToObject(root, "act_fn", "silu");
    add_per_block(root, "attention_head_dim", heads, u->blocks);
    add_integers(root, "block_out_channels", u->channels, u->blocks);
    cJSON_AddBoolToObject(root, "center_input_sample", false);
    cJSON_AddNumberToObject(root, "conv_in_kernel", (double)u->conv_in_kernel);
    cJSON_AddNumberToObject(root, "conv_out_kernel", (double)u->conv_out_kernel);
    cJSON_AddNumberToObject(root, "cross_attention_dim", (double)u->cross_dim);
    add_strings(root, "down_block_types", u->down_cross, u->blocks, "CrossAttnDownBlock2D", "DownBlock2D");
    cJSON_AddNumberToObject(root, "downsample_padding", 1);
    cJSON_AddBoolToObject(root, "flip_sin_to_cos", true);
    cJSON_AddNumberToObject(root, "freq_shift", 0);
    cJSON_AddNumberToObject(root, "in_channels", (double)u->in_channels);
    add_per_block(root, "layers_per_block", u->layers, u->blocks);
    cJSON_AddNumberToObject(root, "mid_block_scale_factor", 1);
    cJSON_AddNumberToObject(root, "norm_eps", 1e-5);
    cJSON_AddNumberToObject(root, "norm_num_groups", (double)groups_of(u->channels, u->blocks));
    cJSON_AddNumberToObject(root, "out_channels", (double)u->out_channels);
    cJSON_AddNumberToObject(root, "sample_size", (double)latent_size(f, prediction));
    add_per_block(root, "transformer_layers_per_block", u->depth, u->blocks);
    add_strings(root, "up_block_types", u->up_cross, u->blocks, "CrossAttnUpBlock2D", "UpBlock2D");
    cJSON_AddBoolToObject(root, "use_linear_projection", u->linear);
}

static void add_vae(cJSON *root, const struct single_file *f, enum prediction_choice prediction)
{
    const struct ldm_vae *v = &f->shape.vae;
    int64_t factor = (int64_t)1 << (v->blocks - 1);
    cJSON_AddStringToObject(root, "_class_name", "AutoencoderKL");
    cJSON_AddStringToObject(root, "act_fn", "silu");
    add_integers(root, "block_out_channels", v->channels, v->blocks);
    add_strings(root, "down_block_types", NULL, v->blocks, NULL, "DownEncoderBlock2D");
    cJSON_AddNumberToObject(root, "in_channels", 3);
    cJSON_AddNumberToObject(root, "latent_channels", (double)v->latent_channels);
    cJSON_AddNumberToObject(root, "layers_per_block", (double)v->layers);
    cJSON_AddNumberToObject(root, "norm_num_groups", (double)groups_of(v->channels, v->blocks));
    cJSON_AddNumberToObject(root, "out_channels", 3);
    cJSON_AddNumberToObject(root, "sample_size", (double)(latent_size(f, prediction) * factor));
    cJSON_AddNumberToObject(root, "scaling_factor", 0.18215);
    add_strings(root, "up_block_types", NULL, v->blocks, NULL, "UpDecoderBlock2D");
    cJSON_AddBoolToObject(root, "use_post_quant_conv", v->post_quant_conv);
    cJSON_AddBoolToObject(root, "use_quant_conv", v->quant_conv);
}

static void add_text(cJSON *root, const struct single_file *f)
{
    const struct ldm_text *t = &f->shape.text;
    cJSON *kinds = cJSON_AddArrayToObject(root, "architectures");
    add_item(kinds, cJSON_CreateString("CLIPTextModel"));
    cJSON_AddNumberToObject(root, "attention_dropout", 0);
    cJSON_AddNumberToObject(root, "bos_token_id", (double)(t->vocab > 1 ? t->vocab - 2 : 0));
    cJSON_AddNumberToObject(root, "eos_token_id", (double)(t->vocab > 0 ? t->vocab - 1 : 0));
    cJSON_AddStringToObject(root, "hidden_act", f->second ? "gelu" : "quick_gelu");
    cJSON_AddNumberToObject(root, "hidden_size", (double)t->width);
    cJSON_AddNumberToObject(root, "intermediate_size", (double)t->inner);
    cJSON_AddNumberToObject(root, "layer_norm_eps", 1e-5);
    cJSON_AddNumberToObject(root, "max_position_embeddings", (double)t->positions);
    cJSON_AddStringToObject(root, "model_type", "clip_text_model");
    cJSON_AddNumberToObject(root, "num_attention_heads", (double)heads_of(t->width));
    cJSON_AddNumberToObject(root, "num_hidden_layers", (double)t->layers);
    cJSON_AddNumberToObject(root, "pad_token_id", (double)(f->second ? 0 : t->vocab > 0 ? t->vocab - 1 : 0));
    cJSON_AddNumberToObject(root, "projection_dim", (double)t->width);
    cJSON_AddNumberToObject(root, "vocab_size", (double)t->vocab);
}

/* diffusers' PNDMScheduler knows no rescale_betas_zero_snr, its DDIMScheduler does. */
static const char *scheduler_of(const struct single_file *f)
{
    return f->zero_terminal ? "DDIMScheduler" : "PNDMScheduler";
}

static void add_scheduler(cJSON *root, const struct single_file *f, enum prediction_choice prediction)
{
    cJSON_AddStringToObject(root, "_class_name", scheduler_of(f));
    cJSON_AddNumberToObject(root, "beta_end", 0.012);
    cJSON_AddStringToObject(root, "beta_schedule", "scaled_linear");
    cJSON_AddNumberToObject(root, "beta_start", 0.00085);
    cJSON_AddBoolToObject(root, "clip_sample", false);
    cJSON_AddNumberToObject(root, "num_train_timesteps", 1000);
    cJSON_AddStringToObject(root, "prediction_type", predicts_v(f, prediction) ? "v_prediction" : "epsilon");
    if (f->zero_terminal)
        cJSON_AddBoolToObject(root, "rescale_betas_zero_snr", true);
    cJSON_AddBoolToObject(root, "set_alpha_to_one", false);
    cJSON_AddBoolToObject(root, "skip_prk_steps", true);
    cJSON_AddNumberToObject(root, "steps_offset", 1);
    cJSON_AddStringToObject(root, "timestep_spacing", f->zero_terminal ? "trailing" : "leading");
    cJSON_AddNullToObject(root, "trained_betas");
}

static void add_index(cJSON *root, const struct single_file *f)
{
    const char *const entries[][3] = {{"feature_extractor", NULL, NULL},
                                      {"safety_checker", NULL, NULL},
                                      {"scheduler", "diffusers", scheduler_of(f)},
                                      {"text_encoder", "transformers", "CLIPTextModel"},
                                      {"tokenizer", "transformers", "CLIPTokenizer"},
                                      {"unet", "diffusers", "UNet2DConditionModel"},
                                      {"vae", "diffusers", "AutoencoderKL"}};
    cJSON_AddStringToObject(root, "_class_name", "StableDiffusionPipeline");
    cJSON_AddBoolToObject(root, "requires_safety_checker", false);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        cJSON *list = cJSON_AddArrayToObject(root, entries[i][0]);
        for (int k = 1; k < 3; k++)
            add_item(list, entries[i][k] ? cJSON_CreateString(entries[i][k]) : cJSON_CreateNull());
    }
}

cJSON *single_file_settings(const struct single_file *f, const char *name, enum prediction_choice prediction)
{
    int which = 0;
    while (single_file_names[which] && strcmp(name, single_file_names[which]) != 0)
        which++;
    cJSON *root = single_file_names[which] ? cJSON_CreateObject() : NULL;
    if (!root)
        return NULL;
    if (which == 0)
        add_index(root, f);
    else if (which == 1)
        add_text(root, f);
    else if (which == 2)
        add_unet(root, f, prediction);
    else if (which == 3)
        add_vae(root, f, prediction);
    else
        add_scheduler(root, f, prediction);
    return root;
}
