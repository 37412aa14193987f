/* model/model_folder.h
 *
 * The folder of a model as diffusers saves it: text_encoder/, unet/, vae/, each with its config and its weights under
 * one of several names, sharded or not, with a variant (fp16) or not.
 */
#ifndef ZOODIP_MODEL_MODEL_FOLDER_H
#define ZOODIP_MODEL_MODEL_FOLDER_H

#include <stdbool.h>

#include "base/error.h"
#include "files/file.h"

/* The folders of the networks: text_encoder, unet, vae. */
enum { MODEL_PARTS = 3 };
extern const char *const model_parts[MODEL_PARTS];

/* ERROR_BAD_INPUT if FOLDER does not exist or holds none of the parts. */
struct error model_folder_check(const char *folder);

/* Whether it is named as what torch.save writes. */
bool model_file_is_pickled(const char *name);

/* The file in FOLDER/PART that has the weights. */
struct error model_folder_weights(char path[PATH_SIZE], const char *folder, const char *part);

#endif
