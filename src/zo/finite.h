/* zo/finite.h
 *
 * A number that is infinite or NaN ends a run with ERROR_FAILED, at the step in which it first appears and before
 * anything of that step is saved: checkpoints and word stay those of the newest good save. The line names the step, the
 * rank, and of a loss the picture, of a slope its direction too.
 */
#ifndef ZOODIP_ZO_FINITE_H
#define ZOODIP_ZO_FINITE_H

#include <stdint.h>

#include "base/error.h"

struct training;

/* The losses and slopes in t->slots, of step k, while the state's embedding is still the one that they are of. Ranks
 * whose slots are equal find the same; each then evaluates its lanes again to name the op that it came from. */
struct error finite_losses(struct training *t, int64_t k);

/* What step k made of them: gradient, embedding, moments, in t and its state. */
struct error finite_update(const struct training *t, int64_t k);

/* The losses of the validation after the state's step. The same on all ranks. */
struct error finite_validation(struct training *t);

#endif
