/* model/contents.h
 *
 * What a model holds, as one number: a run is known by it, and ranks compare it. The number depends on what
 * changes what is learned and on nothing else: for each tensor of text encoder, UNet and VAE its name, type, shape and
 * bytes, and the settings of these parts and of the noise schedule as they were read. Paths, file names, shards, metadata
 * and blanks of a header do not count, nor does how a setting is written: a model that diffusers loads and saves again
 * is the same, and so is the folder that it makes of a single file.
 *
 * The pass that reads the tensors also finds numbers that are infinite or NaN, in quantized layers' scales and shifts
 * too, so that no weight is used unseen.
 */
#ifndef ZOODIP_MODEL_CONTENTS_H
#define ZOODIP_MODEL_CONTENTS_H

#include <stdint.h>

#include "base/error.h"
#include "model/model_folder.h"
#include "model/noise_schedule.h"
#include "model/text_encoder.h"
#include "model/unet_config.h"
#include "model/vae.h"

/* Reads all tensors once, on so many threads: *crc is their CRC-32. ERROR_BAD_INPUT names the first tensor that holds a
 * number that is not finite. */
struct error contents_tensors(const char *model, int threads, uint32_t *crc);

/* Continues a CRC-32 with what training uses of a model's settings. */
uint32_t contents_settings(uint32_t crc, const struct text_config *text, const struct unet_config *unet,
                           const struct vae_config *vae, const struct noise_schedule *schedule);

/* Continues a CRC-32 with the small texts beside the tensors, byte by byte (configs, scheduler, and the tokenizer, from
 * the folder `tokenizer`, or where the model has it if that is NULL): for ranks that should read the same files.
 * Those that are not there are left out: the code that needs them reports it. */
struct error contents_texts(uint32_t *crc, const char *model, const char *tokenizer);

/* Where a model's tensors lie: processes of one machine for which it is equal read the same files. */
struct contents_place {
    uint64_t device[MODEL_PARTS], folder[MODEL_PARTS];
};
struct contents_place contents_place_of(const char *model);

/* Names, sizes and times of the model's files: as long as the number stays, so do they. */
uint32_t contents_stamp(const char *model);

#endif
