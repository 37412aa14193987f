/* model/ldm_names.h
 *
 * Which tensor of a single file (model/ldm_shape.h) is which of a diffusers folder. Every tensor of the folder is one of
 * the file under another name, but for OpenCLIP's attention, whose q, k and v are thirds of one tensor's rows.
 *
 * Equals diffusers' convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint, convert_ldm_clip_checkpoint and
 * convert_open_clip_checkpoint (loaders/single_file_utils.py). What no network reads (EMA copies, the noise schedule's
 * tables, a loss, position ids) has no counterpart and is left out.
 */
#ifndef ZOODIP_MODEL_LDM_NAMES_H
#define ZOODIP_MODEL_LDM_NAMES_H

#include "model/ldm_shape.h"

/* How a tensor of the folder comes from the file's. */
enum ldm_take {
    LDM_WHOLE,
    LDM_OPTIONAL, /* may be missing */
    LDM_MATRIX,   /* without trailing dimensions of 1: the VAE's attention was 1 x 1 convolutions */
    LDM_FIRST_THIRD,
    LDM_SECOND_THIRD,
    LDM_LAST_THIRD, /* of the rows */
};

/* Gets one pair: the name in PART of a folder, and in the file. Both are the caller's only during the call. */
typedef void ldm_pair(void *arg, const char *name, const char *in_file, enum ldm_take take);

/* Calls it for every tensor of a part ("unet", "vae", "text_encoder"). */
void ldm_names(const struct ldm_shape *shape, const char *part, ldm_pair *pair, void *arg);

#endif
