/* zo/guard.h
 *
 * Keeps a run with tangents in codes of 8 bits (quant.tangents) from learning on noise. Now and then, by the rule of
 * base/slope_noise.h, a step's slopes are also computed in floats, before the step itself; the noise goes into the
 * metrics and the report, and where it is too much, a family of products takes floats from then on. The first time
 * outliers are found, too (device.h). All of it is a part of the state, the same on all ranks.
 */
#ifndef ZOODIP_ZO_GUARD_H
#define ZOODIP_ZO_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "report/metrics.h"

struct training;

struct guard {
    int families;  /* whose tangents are in codes on some rank */
    bool watches;  /* are there any? */
    bool compares; /* in this step: */
    double *exact; /* [batch n], as struct training has slopes */
};

/* Passes on what the state says to the device, before any program is made. Collective. Free with guard_free. */
struct error guard_begin(struct training *t);
void guard_free(struct training *t);

/* From here on the device takes codes where the state says so. */
void guard_use_codes(const struct training *t);

/* Before step k: if it is due, computes its slopes in floats. Collective. */
struct error guard_before(struct training *t, int64_t k);

/* After the step, whose slopes are in t->slopes: m->slope_noise, NAN if the step was not compared. */
void guard_after(struct training *t, struct metric *m);

#endif
