/* zo/step.h
 *
 * The device's part of a training step. The host draws a few random integers (zo/draws.h) and writes them into tensors;
 * then one or two programs run without it:
 *
 *     evaluate: op_draw, op_mix ─► for each batch of this rank's lanes (zo/lanes.h): op_add_noise, op_perturb: e + eps z
 *               ─► evaluator_forward ─► losses into their slots
 *     update:   op_update: slots ─► gradient estimate ─► projection ─► Adam ─► embedding
 *
 * With tangents (zo.derivative) lanes are e itself, for each picture, and z for each of its directions, and what they
 * find, losses and slopes, goes into slots that struct step_slots (device/step_core.h) numbers in another order.
 *
 * Between the two the ranks sum their slots: zo/exchange.c says how. With joined devices, and for a single rank, both
 * are one program, in which op_sum adds up the slots and op_broadcast sends rank 0's embedding to all.
 *
 * Embedding and Adam's moments live on the device; step_put and step_get move them from and to a struct state.
 */
#ifndef ZOODIP_ZO_STEP_H
#define ZOODIP_ZO_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/share.h"
#include "device/device.h"
#include "device/step_core.h"
#include "zo/draws.h"
#include "zo/lanes.h"
#include "zo/parts.h"
#include "zo/state.h"
#include "zo/step_block.h"

/* What ranks share out, in pieces: with differences all lanes, by their slots; with tangents n x batch of them, picture
 * by picture: piece b n + i - 1 is direction i = 1..n of picture b. Every rank with a tangent of a picture evaluates
 * its primal lane too, and the one with its first tangent writes its loss. */
struct step_shape {
    int64_t lanes; /* of a step on all ranks together, each with a slot: (sides n + 1) x batch */
    int64_t notes; /* slots after those (zo/exchange.h) */
    int64_t directions, tau;
    int64_t rank;     /* of the basis that directions are mixed from; 0: they are the draws */
    bool coordinates; /* Adam's moments are in it (struct update) */
};

struct step {
    struct training_parts parts;
    struct step_shape shape;
    struct share share;                      /* this rank's pieces */
    struct lanes lanes;                      /* unused where the share is empty */
    struct tensor embedding, m, v, gradient; /* see struct update */
    struct tensor slots;                     /* F64: losses (and slopes) of all ranks' lanes, then the notes */
    struct tensor predictions;               /* F32, for optim.method gauss_newton: by slots; zeros for others' lanes */
    struct program *evaluate, *update, *whole; /* whole: both in one; either update or whole is NULL */

    /* private */
    struct step_block block; /* number, rates, integers (of the lanes), slots, gradient, embedding, m, v */
    struct tensor number;    /* I64: the step */
    struct tensor rates, integers;
    struct tensor posterior, noise, directions;
    struct tensor weights, basis, coordinates; /* of struct update and op_mix; unused without a basis */
    struct tensor removed, removed_rows;
    float *units;             /* weights where a direction is a row of the basis, [directions, rank]; else NULL */
    int32_t removed_rows_now; /* as they were last written */
};

/* What slots hold under a config. */
struct step_slots step_slots_of(const struct config *config);

/* share: this rank's pieces. whole: the device needs no host between evaluation and update. Free with step_free. */
struct error step_new(struct step *s, const struct training_parts *parts, const struct lane_sources *sources,
                      const struct step_shape *shape, struct share share, bool whole);
void step_free(struct step *s);

/* If there is a program for the whole step, only step_whole will be called from now on: frees that of step_evaluate. */
void step_whole_only(struct step *s);

/* step_put copies the state's embedding, moments, basis and removed directions to the device; step_get copies embedding and
 * moments back. */
void step_put(struct step *s, const struct state *state);
void step_put_removed(struct step *s, const struct state *state); /* only the directions */
struct error step_get(struct step *s, struct state *state);

/* step_read enqueues a copy of slots, gradient, embedding and moments to the host, and says where the slots will be after
 * device_wait; step_take then gives the rest. */
const double *step_read(struct step *s);
void step_take(const struct step *s, double *gradient, struct state *state);

/* Enqueues the evaluation of this rank's lanes in step number `number` on the draws. Slots of other ranks' lanes become
 * zero, those after them notes [shape.notes]. With `repeat`, the last piece of the first batch repeats its first. */
struct error step_evaluate(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool repeat);

/* Enqueues the update from the slots; rates as struct update has them. */
struct error step_update(struct step *s, const double rates[3]);

/* Enqueues the last step's lanes once more, from the embedding that it began with; what follows them is of no use. */
struct error step_repeat(struct step *s, const float *embedding);

/* Both at once. Afterwards the slots are all ranks', and hold the sums of their notes. */
struct error step_whole(struct step *s, int64_t number, const struct draws *draws, const double *notes,
                        const double rates[3]);

#endif
