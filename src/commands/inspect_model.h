/* commands/inspect_model.h
 *
 * What zoodip inspect shows of a model: its parts, their shapes, types and sizes.
 */
#ifndef ZOODIP_COMMANDS_INSPECT_MODEL_H
#define ZOODIP_COMMANDS_INSPECT_MODEL_H

#include <stdbool.h>

#include "base/error.h"
#include "model/prediction.h"

/* A folder, or a checkpoint in a single file. */
struct error inspect_model(const char *model, enum prediction_choice prediction);

/* Whether a safetensors file is a checkpoint that can be a model; if it only looks like one, `reason` says why not. */
enum { INSPECT_REASON = 600 };
bool inspect_is_checkpoint(const char *path, char reason[INSPECT_REASON]);

/* Prints text from a file, without control characters that would drive the reader's terminal. */
void inspect_text(const char *text);

#endif
