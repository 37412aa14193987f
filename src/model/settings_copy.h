/* model/settings_copy.h
 *
 * What a model folder holds beside its weights, for a copy of it: settings, vocabulary, model_index.json. A single file's
 * are written as they follow from it (model/single_file.h), with CLIP's tokenizer.
 */
#ifndef ZOODIP_MODEL_SETTINGS_COPY_H
#define ZOODIP_MODEL_SETTINGS_COPY_H

#include <stdbool.h>

#include "base/error.h"
#include "model/prediction.h"

/* Of a model to the folder OUT, which exists. `tokenizer`: as model_tokenizer_folder takes it. `prediction`: what the
 * copy says, whatever the model does. */
struct error settings_copy(const char *model, const char *tokenizer, enum prediction_choice prediction,
                           const char *out);

/* Of one part ("unet") only, to OUT/PART, which is made. */
struct error settings_copy_part(const char *model, const char *part, const char *out);

/* Whether a file of that name may be one of these. */
bool settings_are(const char *name);

/* The folders of a model, and "" for itself, a list that ends with NULL. */
extern const char *const settings_folders[];

/* quanto_qmap.json, which says what is quantized, and is no setting. */
extern const char settings_quanto_map[];

#endif
