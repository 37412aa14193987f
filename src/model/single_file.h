/* model/single_file.h
 *
 * A Stable Diffusion 1.x or 2.x in one safetensors file, as people share it ("checkpoint"): its tensors under a diffusers
 * folder's names, as views of the same mapping (model/ldm_names.h), and the settings that the folder would hold.
 *
 * Settings follow from the tensors' shapes; what shapes do not say is as in the family's published models, and as
 * diffusers' from_single_file takes it: betas, VAE scaling, 8 heads in 1.x, heads of 64 channels in 2.x and in text
 * encoders. norm_num_groups is the largest power of two up to 32 that divides all channels. What the network predicts is
 * the noise in 1.x; 2.x come in both kinds with the same tensors. Files say it by a tensor `v_pred`, by the metadata
 * modelspec.prediction_type (epsilon, v), modelspec.architecture (stable-diffusion-v2-512, stable-diffusion-v2-768-v) or
 * ss_v_parameterization (True, False), or not at all. A tensor `ztsnr` says that the schedule ends in noise alone.
 */
#ifndef ZOODIP_MODEL_SINGLE_FILE_H
#define ZOODIP_MODEL_SINGLE_FILE_H

#include "files/safetensors.h"
#include "model/ldm_shape.h"
#include "model/prediction.h"

/* CLIP's vocabulary, which all of these checkpoints use. */
enum { CLIP_TOKENS = 49408 };

struct single_file {
    struct safetensors file;
    struct ldm_shape shape;
    bool second;                      /* Stable Diffusion 2.x, else 1.x */
    enum prediction_choice predicted; /* as the file says; PREDICTION_AS_MODEL: it does not */
    bool zero_terminal;               /* `ztsnr` */
};

/* ERROR_BAD_INPUT says what a file is instead (SDXL, a LoRA, a VAE, ...), or which part or tensor is missing. Nothing is
 * owned after an error. */
struct error single_file_open(struct single_file *f, const char *path);
void single_file_close(struct single_file *f);

/* "Stable Diffusion 1.x", "Stable Diffusion 2.x". */
const char *single_file_family(const struct single_file *f);

/* Turns the opened file into a part of a folder ("unet", "vae", "text_encoder"), for safetensors_close; f is closed.
 * ERROR_BAD_INPUT names a missing tensor. */
struct error single_file_part(struct single_file *f, const char *part, struct safetensors *out);

/* What the file NAME of a folder would hold, such as "unet/config.json", for cJSON_Delete; NULL if there is none of that
 * name, or no memory. `prediction` rules over what the file says; if neither says it, 2.x counts as epsilon. */
struct cJSON *single_file_settings(const struct single_file *f, const char *name, enum prediction_choice prediction);

/* The names for which there are settings, a list that ends with NULL. */
extern const char *const single_file_names[];

#endif
