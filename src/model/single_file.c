#include "model/single_file.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"
#include "model/ldm_names.h"

#define UNET "model.diffusion_model."

const char *single_file_family(const struct single_file *f)
{
    return f->second ? "Stable Diffusion 2.x" : "Stable Diffusion 1.x";
}

/* -------------------------------------------------------------------------------- what else it may be */

static const char not_read[] = "; expected Stable Diffusion 1.x or 2.x";

/* Files that hold something else, known by a part of a tensor's name, the first that fits. */
static const struct {
    const char *in_name;
    const char *what;
} strangers[] = {
    {"conditioner.embedders.1.", "a Stable Diffusion XL checkpoint"},
    {"conditioner.embedders.0.transformer.", "a Stable Diffusion XL checkpoint"},
    {"conditioner.embedders.", "a Stable Diffusion XL refiner"},
    {"joint_blocks.", "a Stable Diffusion 3 checkpoint"},
    {"text_encoders.clip_g.", "a Stable Diffusion 3 checkpoint"},
    {"double_blocks.", "a Flux checkpoint, or one like it"},
    {"single_transformer_blocks.", "a Flux checkpoint, or one like it"},
    {"double_stream_blocks.", "a checkpoint of a diffusion transformer"},
    {"clip_txt_mapper.", "a Stable Cascade checkpoint"},
    {"effnet_mapper.", "a Stable Cascade checkpoint"},
    {"lora_unet_", "a LoRA, not a model"},
    {"lora_te", "a LoRA, not a model"},
    {".lora_down.", "a LoRA, not a model"},
    {".lora_A.", "a LoRA, not a model"},
    {".lora.down.", "a LoRA, not a model"},
    {"_lora.down.", "a LoRA, not a model"},
    {".hada_w1_", "a LoHa, not a model"},
    {".lokr_w1", "a LoKr, not a model"},
    {"control_model.", "a ControlNet"},
    {"controlnet_cond_embedding.", "a ControlNet"},
    {"input_hint_block.", "a ControlNet"},
    {"motion_modules.", "a motion module of AnimateDiff, or a model with one"},
    {"position_net.", "a GLIGEN checkpoint"},
    {"emb_params", "a learned embedding, for --embedding, not a model"},
    {"string_to_param", "a learned embedding, for --embedding, not a model"},
    {UNET "label_emb.", "an upscaler or unCLIP checkpoint"},
};

/* Parts of a model that lie alone in a file: those of which no tensor belongs to a whole one. */
static const struct {
    const char *begin, *what;
} parts[] = {
    {"encoder.conv_in.", "a VAE alone"},
    {"decoder.conv_in.", "a VAE alone"},
    {"down_blocks.", "a UNet alone"},
    {"text_model.", "a text encoder alone"},
    {"input_blocks.", "a UNet alone"},
    {"transformer.resblocks.", "a text encoder alone"},
    {"transformer_blocks.", "a part of a diffusion transformer"},
};

static struct error refuse(const struct safetensors *file, const char *what)
{
    return error_input("%s: is %s%s", file->path, what, not_read);
}

static struct error refuse_strangers(const struct safetensors *file)
{
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        for (int64_t k = 0; k < file->entry_count; k++)
            if (strstr(file->entries[k].name, strangers[i].in_name))
                return refuse(file, strangers[i].what);
    return ok();
}

/* No tensor has a checkpoint's name. */
static struct error refuse_part(const struct safetensors *file)
{
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (ldm_has_prefix(file, parts[i].begin))
            return error_input("%s: is %s%s; for a file of a model folder, give the folder that holds its parts",
                               file->path, parts[i].what, not_read);
    // textual inversions have a tensor or two, under any name
    bool rows = file->entry_count > 0 && file->entry_count <= 4;
    for (int64_t i = 0; i < file->entry_count; i++)
        rows &= file->entries[i].dimensions <= 2;
    return refuse(file, rows ? "a learned embedding, for --embedding, not a model" : "no checkpoint of a model");
}

/* Of the three parts, those that are not there. */
static struct error check_parts(const struct safetensors *file)
{
    static const char *const prefixes[] = {UNET, "cond_stage_model.", "first_stage_model."};
    static const char *const names[] = {"UNet (" UNET "*)", "text encoder (cond_stage_model.*)",
                                        "VAE (first_stage_model.*)"};
    char missing[160] = "";
    int found = 0;
    for (int i = 0; i < 3; i++) {
        size_t used = strlen(missing);
        if (ldm_has_prefix(file, prefixes[i]))
            found++;
        else
            snprintf(missing + used, sizeof missing - used, "%s%s", used ? " and no " : "", names[i]);
    }
    if (found == 0)
        return refuse_part(file);
    if (found == 1 && ldm_has_prefix(file, prefixes[2]))
        return refuse(file, "a VAE alone");
    if (ldm_has_prefix(file, UNET) && !ldm_has_prefix(file, UNET "input_blocks."))
        return refuse(file, "a checkpoint of a diffusion transformer");
    return found == 3 ? ok() : error_input("%s: has no %s; expected a whole checkpoint", file->path, missing);
}

/* What the UNet is shown besides the noisy latent. */
static struct error check_channels(const struct safetensors *file)
{
    static const struct {
        int64_t channels;
        const char *what;
    } kinds[] = {{5, "a depth2img checkpoint"},
                 {7, "an upscaler"},
                 {8, "an InstructPix2Pix checkpoint"},
                 {9, "an inpainting checkpoint"}};
    const struct entry *in = ldm_find(file, UNET "input_blocks.0.0.weight");
    for (size_t i = 0; in && in->dimensions == 4 && i < sizeof kinds / sizeof *kinds; i++)
        if (in->shape[1] == kinds[i].channels)
            return error_input("%s: is %s (its UNet has %lld input channels)%s with 4", file->path, kinds[i].what,
                               (long long)in->shape[1], not_read);
    return ok();
}

/* -------------------------------------------------------------------------------- what it predicts */

static struct error read_prediction(struct single_file *f)
{
    const char *spec = safetensors_metadata(&f->file, "modelspec.prediction_type");
    const char *trained = safetensors_metadata(&f->file, "ss_v_parameterization");
    const char *built = safetensors_metadata(&f->file, "modelspec.architecture");
    f->predicted = f->second ? PREDICTION_AS_MODEL : PREDICTION_EPSILON;
    if (built && strcmp(built, "stable-diffusion-v2-768-v") == 0)
        f->predicted = PREDICTION_V;
    if (built && strcmp(built, "stable-diffusion-v2-512") == 0)
        f->predicted = PREDICTION_EPSILON;
    if (trained && (strcasecmp(trained, "true") == 0 || strcasecmp(trained, "false") == 0))
        f->predicted = strcasecmp(trained, "true") == 0 ? PREDICTION_V : PREDICTION_EPSILON;
    if (spec && (strcmp(spec, "v") == 0 || strcmp(spec, "v_prediction") == 0))
        f->predicted = PREDICTION_V;
    else if (spec && (strcmp(spec, "epsilon") == 0 || strcmp(spec, "eps") == 0))
        f->predicted = PREDICTION_EPSILON;
    else if (spec && *spec)
        return error_input("%s: metadata modelspec.prediction_type: \"%.60s\" is not supported, only \"epsilon\" and "
                           "\"v\"",
                           f->file.path, spec);
    if (safetensors_find(&f->file, "v_pred"))
        f->predicted = PREDICTION_V;
    f->zero_terminal = safetensors_find(&f->file, "ztsnr");
    return ok();
}

/* -------------------------------------------------------------------------------- opening */

static struct error recognise(struct single_file *f)
{
    TRY(refuse_strangers(&f->file));
    TRY(check_parts(&f->file));
    TRY(check_channels(&f->file));
    TRY(ldm_shape_read(&f->shape, &f->file));
    f->second = f->shape.text.open_clip || f->shape.text.width == 1024;
    return read_prediction(f);
}

struct error single_file_open(struct single_file *f, const char *path)
{
    *f = (struct single_file){0};
    TRY(safetensors_open(&f->file, path));
    struct error e = recognise(f);
    if (e.code != ERROR_NONE)
        single_file_close(f);
    return e;
}

void single_file_close(struct single_file *f)
{
    safetensors_close(&f->file);
}

/* -------------------------------------------------------------------------------- views */

/* Of two passes over a part's names, the first counts, the second fills. */
struct views {
    const struct safetensors *file;
    struct entry *entries;
    int64_t count, name_bytes;
    char *names;
    struct error error;
};

static struct error cut_view(struct entry *view, const struct safetensors *file, enum ldm_take take)
{
    while (take == LDM_MATRIX && view->dimensions > 2 && view->shape[view->dimensions - 1] == 1)
        view->dimensions--;
    if (take < LDM_FIRST_THIRD)
        return ok();
    if (view->dimensions < 1 || view->shape[0] % 3 != 0)
        return error_input("%s: tensor %s: expected rows of q, k and v, a third of all each", file->path, view->name);
    view->shape[0] /= 3;
    view->count /= 3;
    view->data = (const char *)view->data + (take - LDM_FIRST_THIRD) * entry_bytes(view);
    return ok();
}

static void add_view(void *arg, const char *name, const char *in_file, enum ldm_take take)
{
    struct views *v = arg;
    const struct entry *from = safetensors_find(v->file, in_file);
    if (v->error.code != ERROR_NONE || (!from && take == LDM_OPTIONAL))
        return;
    if (!from) {
        v->error = error_input("%s: tensor %s: is missing; is the checkpoint complete?", v->file->path, in_file);
        return;
    }
    int64_t length = (int64_t)strlen(name) + 1;
    if (v->entries) {
        struct entry *view = &v->entries[v->count];
        *view = *from;
        v->error = cut_view(view, v->file, take);
        view->name = memcpy(v->names + v->name_bytes, name, (size_t)length);
    }
    v->count++;
    v->name_bytes += length;
}

struct error single_file_part(struct single_file *f, const char *part, struct safetensors *out)
{
    struct views count = {.file = &f->file};
    ldm_names(&f->shape, part, add_view, &count);
    struct views v = {.file = &f->file, .error = count.error};
    if (v.error.code == ERROR_NONE) {
        v.entries = memory_alloc(count.count, sizeof *v.entries);
        v.names = memory_alloc(count.name_bytes, 1);
        if (v.entries && v.names)
            ldm_names(&f->shape, part, add_view, &v);
        else
            v.error = error_memory("a checkpoint's tensors");
    }
    if (v.error.code == ERROR_NONE)
        v.error = safetensors_rename(&f->file, v.entries, v.count, v.names);
    else {
        memory_free(v.entries);
        memory_free(v.names);
    }
    if (v.error.code != ERROR_NONE) {
        single_file_close(f);
        return v.error;
    }
    *out = f->file;
    *f = (struct single_file){0};
    return ok();
}
