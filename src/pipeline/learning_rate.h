/* pipeline/learning_rate.h
 *
 * What optim.lr "auto" is: in proportion to the numbers of the model's token table, so that a step moves the word by as
 * much of a word's length in every model, with a factor for each kind of directions, or for the method (measured on
 * toybox). It is decided when a subject is read; from then on the config has the number, and so do recipe, checkpoints
 * and results.
 */
#ifndef ZOODIP_PIPELINE_LEARNING_RATE_H
#define ZOODIP_PIPELINE_LEARNING_RATE_H

#include <stdbool.h>

#include "files/config.h"

/* Replaces auto in config->optim.lr; table_rms as struct text_encoder has it. Returns whether it was auto. */
bool learning_rate_settle(struct config *config, double table_rms);

/* Logs which one auto took. For rank 0 of those who learn. */
void learning_rate_log(const struct config *config);

#endif
