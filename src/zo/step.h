/* zo/step.h
 *
 * The device's part of a training step. The host draws a few random integers (zo/draws.h) and writes them into tensors;
 * then one or two programs run without it:
 *
 *     evaluate: normals ─► for each batch of this rank's lanes: noisy pictures, captions, perturbed rows ─► evaluator
 *               ─► losses into their slots
 *     update:   slots ─► gradient estimate ─► subspace projection ─► Adam ─► embedding
 *
 * Between the two the ranks sum their slots: the host does it (zo/train.c), or, if devices are joined, the device. With
 * joined devices, and for a single rank, both are one program, which ends by sending rank 0's embedding to all.
 *
 * Embedding and Adam's moments live on the device; step_put and step_get move them from and to a struct state.
 */
#ifndef ZOODIP_ZO_STEP_H
#define ZOODIP_ZO_STEP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "cluster/share.h"
#include "device/device.h"
#include "files/config.h"
#include "model/noise_schedule.h"
#include "zo/state.h"
#include "zo/dataset.h"
#include "zo/draws.h"
#include "zo/evaluator.h"

/* What training uses; all borrowed. */
struct training_parts {
    const struct config *config;
    struct comm *comm;
    struct device *device;
    const struct dataset *dataset;
    const struct text_encoder *text;
    const struct unet *unet;
    const struct noise_schedule *schedule;
    float scaling_factor;
    int32_t first_id;         /* of the word's tokens */
    const float *initializer; /* [dim of one vector] */
    const char *recipe;       /* see config_recipe */
};

struct step_shape {
    int64_t lanes;          /* of a step on all ranks together */
    int64_t notes;          /* slots after the losses, for what ranks tell each other */
    int64_t vectors, width; /* of the word */
    int64_t tau;
};

struct step {
    struct training_parts parts;
    struct step_shape shape;
    struct share share;         /* this rank's lanes */
    int64_t batches;            /* of evaluator.shape.lanes, for the share */
    struct evaluator evaluator; /* of one batch; unused where the share is empty */
    struct tensor number;       /* I64: the step */
    struct tensor integers;     /* I32: all that the host writes for the batches, see step.c */
    struct tensor moments, levels, captions;
    struct tensor posterior, noise, directions;
    struct tensor embedding, m, v, gradient, slots;
    struct tensor removed, removed_rows, rates;
    struct program *evaluate, *update, *whole; /* whole: both in one; either update or whole is NULL */
    int32_t *contents;                         /* host: integers */
    double *fresh;                             /* host: what the slots begin with, zeros and the notes */
    int64_t number_now;                        /* host: number and removed_rows as they were last written */
    int32_t removed_rows_now;
};

/* share: this rank's lanes. at_once: the device needs no host between evaluation and update. Free with step_free. */
struct error step_new(struct step *s, const struct training_parts *parts, const struct step_shape *shape,
                      struct share share, bool at_once);
void step_free(struct step *s);

/* Only step_whole will be called from now on: frees the program of step_evaluate. */
void step_whole_only(struct step *s);

/* step_put copies the state's embedding, moments and removed directions to the device; step_get copies embedding and
 * moments back. */
void step_put(struct step *s, const struct state *state);
void step_put_removed(struct step *s, const struct state *state); /* only the directions */
struct error step_get(struct step *s, struct state *state);

/* Enqueues the evaluation of this rank's lanes in step number `number` on the draws. Slots of other ranks' lanes become
 * zero, those after the losses notes [shape.notes]. With `twin`, the last lane of the first batch repeats its first
 * lane. */
struct error step_evaluate(struct step *s, int64_t number, const struct draws *draws, const double *notes, bool twin);

/* Enqueues the update from the slots; rates as struct update has them. */
struct error step_update(struct step *s, const double rates[3]);

/* Both at once. Afterwards the slots hold all ranks' losses, and the sums of their notes. */
struct error step_whole(struct step *s, int64_t number, const struct draws *draws, const double *notes,
                        const double rates[3]);

#endif
