/* model/prediction.h
 *
 * What a user says about what a model predicts (--prediction, the config key `prediction`), for models that do not say
 * it themselves, or say it wrongly.
 */
#ifndef ZOODIP_MODEL_PREDICTION_H
#define ZOODIP_MODEL_PREDICTION_H

#include "base/error.h"

enum prediction_choice { PREDICTION_AS_MODEL, PREDICTION_EPSILON, PREDICTION_V };

/* "epsilon" or "v"; anything else, and NULL, is PREDICTION_AS_MODEL. */
enum prediction_choice prediction_named(const char *text);

/* What a scheduler_config.json calls it. Not of PREDICTION_AS_MODEL. */
const char *prediction_type(enum prediction_choice choice);

/* ERROR_BAD_INPUT if a text that is not NULL names none. */
struct error prediction_check(const char *text);

#endif
