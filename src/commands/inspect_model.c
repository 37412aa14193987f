#include "commands/inspect_model.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "model/model_source.h"
#include "model/single_file.h"

void inspect_text(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

struct part {
    const char *name;
    const char *keys[8]; /* the keys of its config.json that give its shape */
};

static const struct part parts[] = {
    {"text_encoder",
     {"hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "vocab_size",
      "hidden_act"}},
    {"unet",
     {"block_out_channels", "layers_per_block", "attention_head_dim", "cross_attention_dim", "in_channels",
      "sample_size"}},
    {"vae", {"block_out_channels", "layers_per_block", "latent_channels", "scaling_factor", "sample_size"}},
    {"scheduler", {"_class_name", "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type"}},
};

static struct error print_config_keys(const char *model, const struct part *part, enum prediction_choice prediction)
{
    char name[64], path[PATH_SIZE];
    bool scheduler = strcmp(part->name, "scheduler") == 0;
    snprintf(name, sizeof name, "%s/%s", part->name, scheduler ? "scheduler_config.json" : "config.json");
    struct json json;
    TRY(model_json(&json, path, model, name, prediction));
    if (scheduler && prediction != PREDICTION_AS_MODEL) { // which rules over what a folder says
        cJSON_DeleteItemFromObjectCaseSensitive(json.root, "prediction_type");
        cJSON_AddStringToObject(json.root, "prediction_type", prediction_type(prediction));
    }
    for (int i = 0; i < 8 && part->keys[i]; i++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(json.root, part->keys[i]);
        char *text = value ? cJSON_PrintUnformatted(value) : NULL;
        if (text) {
            printf("    %s ", part->keys[i]);
            inspect_text(text);
            printf("\n");
        }
        cJSON_free(text);
    }
    json_close(&json);
    return ok();
}

/* How many numbers a tensor of 4-bit codes stands for: it has as many rows as its scales. */
static int64_t packed_count(const struct safetensors *file, const struct entry *codes)
{
    char name[512];
    snprintf(name, sizeof name, "%.*s._scale", (int)(strlen(codes->name) - strlen("._data._data")), codes->name);
    const struct entry *scale = safetensors_find(file, name);
    if (!scale || scale->dimensions < 1 || codes->dimensions < 1 || codes->count == 0)
        return 2 * codes->count;
    return scale->shape[0] * (codes->count / codes->shape[0]);
}

/* Numbers, bytes and types of a part's weights; scales and shifts of quantized layers count as bytes, not as
 * parameters. */
static struct error print_weights(const char *model, const char *part)
{
    struct safetensors file;
    TRY(model_part_open(&file, model, part));
    int64_t parameters = 0, bytes = 0, quantized = 0, packed4 = 0, types[DTYPE_COUNT] = {0};
    for (int64_t i = 0; i < file.entry_count; i++) {
        const struct entry *entry = &file.entries[i];
        bytes += entry_bytes(entry);
        if (text_ends_with(entry->name, "_scale") || text_ends_with(entry->name, "_shift"))
            continue;
        bool packed = text_ends_with(entry->name, ".weight._data._data");
        parameters += packed ? packed_count(&file, entry) : entry->count;
        types[entry->type] += entry->count;
        quantized += packed || text_ends_with(entry->name, ".weight._data");
        packed4 += packed;
    }
    printf("    %lld parameters, %.1f MB (", (long long)parameters, (double)bytes / 1e6);
    const char *comma = "";
    for (int type = 0; type < DTYPE_COUNT; type++)
        if (types[type]) {
            printf("%s%s", comma, dtype_name((enum dtype)type));
            comma = ", ";
        }
    printf("), ");
    if (quantized)
        printf("%lld layers quantized to %s\n", (long long)quantized, packed4 ? "4 bits" : "int8");
    else
        printf("not quantized\n");
    safetensors_close(&file);
    return ok();
}

/* What kind of model it is; *told: and what it predicts. */
static struct error print_kind(const char *model, enum prediction_choice prediction, bool *told)
{
    struct single_file f;
    *told = true;
    if (!model_is_file(model)) {
        printf(": a model folder\n");
        return ok();
    }
    TRY(single_file_open(&f, model));
    *told = f.predicted != PREDICTION_AS_MODEL || prediction != PREDICTION_AS_MODEL;
    printf(": a checkpoint of %s in a single file\n", single_file_family(&f));
    if (!*told)
        printf("  does not say what it predicts: give --prediction epsilon or --prediction v, in a config the key "
               "prediction\n");
    single_file_close(&f);
    return ok();
}

struct error inspect_model(const char *model, enum prediction_choice prediction)
{
    bool told;
    inspect_text(model);
    TRY(print_kind(model, prediction, &told));
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        bool scheduler = strcmp(parts[i].name, "scheduler") == 0;
        if (scheduler && !told)
            continue;
        printf("\n  %s\n", parts[i].name);
        TRY(print_config_keys(model, &parts[i], prediction));
        if (!scheduler)
            TRY(print_weights(model, parts[i].name));
    }
    return ok();
}

bool inspect_is_checkpoint(const char *path, char reason[INSPECT_REASON])
{
    struct single_file f;
    struct safetensors file;
    struct error e = single_file_open(&f, path);
    *reason = 0;
    if (e.code == ERROR_NONE) {
        single_file_close(&f);
        return true;
    }
    if (safetensors_open(&file, path).code == ERROR_NONE) {
        if (ldm_has_prefix(&file, "model.diffusion_model."))
            snprintf(reason, INSPECT_REASON, "%s", e.text);
        safetensors_close(&file);
    }
    return false;
}
