#include "pipeline/learning_rate.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

/* Of Adam, by zo.directions: 3e-2, 6e-2 and 1e-1 on toybox, whose rms is 0.21; and how far Gauss and Newton's method
 * expects the word to lie (zo/gauss_newton.h). */
static const double GAUSS_NEWTON = 1,
                    FACTORS[] = {[DIRECTIONS_NORMAL] = 0.143, [DIRECTIONS_TABLE] = 0.286, [DIRECTIONS_TEXT] = 0.476};

bool learning_rate_settle(struct config *config, double table_rms)
{
    char digits[32]; // more would only pretend to be known
    bool adam = config->optim.method == METHOD_ADAM;
    if (config->optim.lr != 0)
        return false;
    snprintf(digits, sizeof digits, "%.2g", (adam ? FACTORS[config->zo.directions] : GAUSS_NEWTON) * table_rms);
    config->optim.lr = strtod(digits, NULL);
    return true;
}

void learning_rate_log(const struct config *config)
{
    log_line("optim.lr: auto takes %g, by the model's token table", config->optim.lr);
}
