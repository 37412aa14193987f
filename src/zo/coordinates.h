/* zo/coordinates.h
 *
 * The basis of a run's directions (zo.directions): when it is found, and what the state and the step make of it.
 *
 *     normal  there is none: directions are the draws themselves
 *     table   z = root w for each vector of the word, w being the draws; found once
 *     text    basis U [rank, dim] of orthonormal rows; z = Ut w for the draws w [rank], or, where zo.n is the rank, the
 *             rows themselves, one a direction. Found before the first step, at the word as it stands, and again every
 *             zo.refresh steps. Gradient and Adam's moments are in U's coordinates (struct update in device/device.h),
 *             and a new basis U' turns them along: m' = R m, v' = (R o R) v, R = U' Ut. optim.method
 *             gauss_newton takes the top zo.n rows, and has its second derivatives in v.
 *
 * The basis is part of the state: a resumed run goes on with what its checkpoint holds, and finds it anew only where
 * the run that was not interrupted would.
 */
#ifndef ZOODIP_ZO_COORDINATES_H
#define ZOODIP_ZO_COORDINATES_H

#include <stdint.h>

#include "base/error.h"
#include "files/config.h"
#include "zo/state.h"

struct training;

/* Gives a new state the shape of its basis; vectors of `width` numbers. */
void coordinates_shape(struct state *s, const struct config *config, int64_t width);

/* Rows of the basis that a step needs room for: what is found or asked for, or else as many as there may be. 0: none. */
int64_t coordinates_rank(const struct state *s, const struct config *config);

/* Before the first step: finds the basis, unless the state has one. Collective; the step's programs exist, and are made
 * again if the rank is another. Afterwards the state is to be put on the device. */
struct error coordinates_begin(struct training *t);

/* Before each other step: finds the basis anew where that is due. ERROR_PREEMPTED, with the state as it was, if a rank is
 * asked to stop meanwhile; the same from coordinates_begin. Collective. */
struct error coordinates_refresh(struct training *t);

/* What the estimate of the gradient is divided by (zo/optimizer.h), for `directions` of a step. */
double coordinates_scale(const struct state *s, const struct config *config, int64_t directions);

#endif
