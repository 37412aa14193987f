#include "model/prediction.h"

#include <string.h>

enum prediction_choice prediction_named(const char *text)
{
    if (text && strcmp(text, "epsilon") == 0)
        return PREDICTION_EPSILON;
    return text && strcmp(text, "v") == 0 ? PREDICTION_V : PREDICTION_AS_MODEL;
}

const char *prediction_type(enum prediction_choice choice)
{
    return choice == PREDICTION_V ? "v_prediction" : "epsilon";
}

struct error prediction_check(const char *text)
{
    if (!text || prediction_named(text) != PREDICTION_AS_MODEL)
        return ok();
    return error_input("\"%.60s\": expected epsilon or v", text);
}
