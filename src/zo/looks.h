/* zo/looks.h
 *
 * Looks: validations of the word between steps (zo/validate.h), of which the best word is kept. One at the word that a
 * run starts with, one after its last step, and between them as many as the config asks for, or as a share of the run's
 * evaluations pays for (looks_plan_of).
 *
 * Invariant: what looks have found is part of the state, the same on all ranks and after a resume: it follows from the
 * looks alone, whose steps and draws follow from the config. Draws are fixed, so that values can be compared; if a
 * resumed run looks at more or fewer of them, start and best word are looked at anew before it goes on.
 */
#ifndef ZOODIP_ZO_LOOKS_H
#define ZOODIP_ZO_LOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/config.h"

struct training;

/* -------------------------------------------------------------------------------- when */

struct looks_plan {
    int64_t draws;        /* of each look */
    int64_t count, steps; /* looks after the start, evenly spread over the steps; or */
    int64_t every;        /* steps between them, if this is not 0, and one after the last */
};

/* Of a run whose steps take `lanes` evaluations each. With output.validate_every 0 all looks together, that at the start
 * too, take at most a fiftieth of the evaluations of optim.steps, or with optim.patience a tenth, each of 30 to 60
 * draws. If that does not pay for two looks of 30 they have fewer, one at the least: only start and end are looked at
 * then, which decides nothing, since the last word is kept in either case. */
struct looks_plan looks_plan_of(const struct config *config, int64_t lanes);

/* Whether a look is due after a step; how many are after steps 1..step. */
bool looks_due(const struct looks_plan *plan, int64_t step);
int64_t looks_until(const struct looks_plan *plan, int64_t step);

/* -------------------------------------------------------------------------------- what was found */

struct looked {
    int64_t draws;          /* that the values are means over; 0: nothing was looked at yet */
    int64_t step;           /* of the newest look; 0: the start's */
    int64_t best_step;      /* of the best word; 0: no look was better than the start's */
    int64_t without_gain;   /* looks since the last gain */
    double start, newest;   /* values */
    double best, gain_from; /* the least value; and that from which optim.min_gain counts, of the last gain */
};

/* Adds a look. A gain lowers the value by min_gain of that at the last gain, or of the start's. True if this is the
 * best. */
bool looked_add(struct looked *l, int64_t step, double value, double min_gain);

/* As a checkpoint's metadata have it, and back: false if it is not as looked_text writes it. */
enum { LOOKED_TEXT = 320 };
void looked_text(char text[LOOKED_TEXT], const struct looked *l);
bool looked_parse(struct looked *l, const char *text);

/* -------------------------------------------------------------------------------- in a run; all of it collective */

/* Before the run's first step: looks at the start, unless the state knows it. */
struct error looks_begin(struct training *t);

/* Looks at the word as it is, and keeps it if it is the best. */
struct error looks_add(struct training *t);

#endif
