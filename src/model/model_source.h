/* model/model_source.h
 *
 * A model as people have it: a diffusers folder (model/model_folder.h), or a checkpoint in a single file
 * (model/single_file.h). What reads a model asks here, and sees a folder's parts and settings either way; `model` is the
 * path of either.
 */
#ifndef ZOODIP_MODEL_MODEL_SOURCE_H
#define ZOODIP_MODEL_MODEL_SOURCE_H

#include "files/file.h"
#include "files/json.h"
#include "files/safetensors.h"
#include "model/prediction.h"
#include "text/tokenizer.h"

/* ERROR_BAD_INPUT if there is no model: what is there instead, and what to do. */
struct error model_check(const char *model);

/* Not a folder: model_check has found something there. */
bool model_is_file(const char *model);

/* A part's tensors, of `model_parts`, under the names of a folder. Close with safetensors_close. */
struct error model_part_open(struct safetensors *file, const char *model, const char *part);

/* The settings that a folder holds in the file `name`, such as "unet/config.json"; `path` names them in errors and must
 * live as long as they. A file that does not say what it predicts has no scheduler's settings without `prediction`.
 * Close with json_close. */
struct error model_json(struct json *j, char path[PATH_SIZE], const char *model, const char *name,
                        enum prediction_choice prediction);

/* Its tokenizer's folder: `chosen`, if that is not NULL (--tokenizer, the config key `tokenizer`), else the model's own,
 * or for a single file CLIP's, which comes with the program. *pads: the token that fills texts up, if it is not the one
 * that the folder names, else NULL. */
struct error model_tokenizer_folder(char folder[PATH_SIZE], const char *model, const char *chosen, const char **pads);
struct error model_tokenizer_load(struct tokenizer **tokenizer, const char *model, const char *chosen);

#endif
