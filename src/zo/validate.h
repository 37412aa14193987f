/* zo/validate.h
 *
 * Validation: the mean loss of an embedding over fixed draws, always the same. The pictures come in turn, or with
 * data.hold_out the last one alone, as their posterior means; captions, noise and timesteps have the addresses that
 * draw 0, 1, ... of step 0 would have. Lanes are evaluated as those of a step are (zo/lanes.h).
 */
#ifndef ZOODIP_ZO_VALIDATE_H
#define ZOODIP_ZO_VALIDATE_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/share.h"
#include "device/device.h"
#include "zo/lanes.h"
#include "zo/parts.h"

struct validation {
    int64_t evaluations;
    /* private */
    struct lanes lanes;                 /* one batch, an evaluation a lane */
    struct tensor step_zero, embedding; /* op_draw's step number, 0 */
    struct program *program;
    double *losses; /* [evaluations], of all ranks after validation_loss */
};

/* Evaluates up to `lanes` at a time. Free with validation_free. */
struct error validation_new(struct validation *v, const struct training_parts *parts,
                            const struct lane_sources *sources, int64_t evaluations, int64_t lanes);
void validation_free(struct validation *v);

/* The mean loss of embedding [dim]; this rank evaluates its share of the draws. Collective. */
struct error validation_loss(struct validation *v, const float *embedding, struct share share, double *loss);

#endif
