/* zo/lanes.h
 *
 * The way of a lane on the device, from random numbers to a loss. A training step (zo/step.c) and validation
 * (zo/validate.c) evaluate their lanes this way, a batch at a time, all batches of one shape:
 *
 *     moments, normals, noise levels ─► op_add_noise ─► noisy pictures, targets, timesteps ─┐
 *     captions; embedding, directions ─► op_perturb ─► rows ────────────────────────────────┴─► evaluator ─► losses
 *
 * The host only chooses, by integers: which picture at which timestep, which caption, which direction.
 *
 * With tangents (zo/evaluator.h) a batch's first lanes are its pictures', whose rows are the embedding; the rows of the
 * others are the directions themselves, so that these lanes end in slopes instead of losses.
 */
#ifndef ZOODIP_ZO_LANES_H
#define ZOODIP_ZO_LANES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "device/device.h"
#include "zo/evaluator.h"
#include "zo/parts.h"

/* What lanes choose from, on the device, the same for every step. */
struct lane_sources {
    struct tensor moments;  /* F32: of every picture, then of every mirrored one, as struct add_noise has them */
    struct tensor weights;  /* F32 [.., height, width, 1]: of the same pictures, if any has a mask */
    struct tensor levels;   /* F32: of every timestep, as struct add_noise has them */
    struct tensor captions; /* I32 [captions, 1, length, 1] */
};

/* Free with lane_sources_free, after an error too. */
struct error lane_sources_new(struct lane_sources *s, const struct training_parts *parts);
void lane_sources_free(struct lane_sources *s, struct device *device);

struct lanes {
    struct training_parts parts;
    const struct lane_sources *sources;
    int64_t batches;
    struct evaluator evaluator; /* of one batch */
    struct tensor integers;     /* private: I32, all choices of all batches */
    int32_t *contents;          /* private: the same on the host */
    bool shared;                /* private: with the maker */
};

struct lanes_shape {
    int64_t batches, lanes, pictures; /* lanes and pictures: of a batch */
    bool tangents;                    /* a batch's lanes from `pictures` on are tangents */
    bool predictions;                 /* are kept, as struct evaluator has them */
    struct tensor integers; /* I32 [1, 1, 1, lanes_integers], kept by the maker together with what they are on */
    int32_t *contents;      /* the host, and sent by it; base NULL: the lanes' own, which lanes_write sends */
};

/* How many integers choose the lanes of a shape, of a dataset's pictures. */
int64_t lanes_integers(const struct lanes_shape *shape, const struct dataset *dataset);

/* `sources` is borrowed. Free with lanes_free. */
struct error lanes_new(struct lanes *l, const struct training_parts *parts, const struct lane_sources *sources,
                       const struct lanes_shape *shape);
void lanes_free(struct lanes *l);

/* The choices for one batch, on the host, to be filled in; lanes_write sends those of all batches to the device. What
 * is written must not be changed before the next device_wait. */
struct lane_choices {
    int32_t (*picture)[3]; /* [pictures]: row of the moments, timestep, place among the normals */
    int32_t *mask;         /* [pictures]: row of the weights, the same as of the moments; NULL without masks */
    int32_t *caption;      /* [lanes]: row of the captions */
    int32_t *direction;    /* [lanes]: as op_perturb takes it; of a tangent lane the row of the directions, from 0 */
    int32_t *picture_of;   /* [lanes]: the picture of the batch that a lane is evaluated on; of the first lanes of a
                              batch with tangents their own */
};
struct lane_choices lanes_choices(const struct lanes *l, int64_t batch);
void lanes_write(const struct lanes *l);

/* For the body of a program. Normals for pictures: one stream runs through all lanes of `y`. */
void lanes_draw(const struct training_parts *parts, struct tensor y, struct tensor step, uint32_t stream);

/* What lanes_prepare reads besides the choices. */
struct lane_draws {
    struct tensor posterior, noise;      /* F32 [places, height, width, channels]: normals. Without a posterior (its
                                            base NULL), latents are the means */
    struct tensor embedding, directions; /* as op_perturb takes them */
};

/* For the body of a program. From a batch's choices to the evaluator's inputs; evaluator_forward continues from
 * there. */
void lanes_prepare(const struct lanes *l, int64_t batch, const struct lane_draws *draws);

#endif
