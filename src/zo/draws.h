/* zo/draws.h
 *
 * The random integers of a step: pictures, flips, captions, timesteps. They follow from (seed, step), see base/rng.h,
 * as do the normals, which the device draws where it needs them (op_draw): the posterior's and the noise's run through
 * a step's pictures [batch, height, width, channels] in STREAM_POSTERIOR and STREAM_NOISE, row j = 0, 1, .. of the
 * directions [dim] is STREAM_DIRECTION + 1 + j. A step has n of them, for all its pictures, or n for each picture:
 * direction i = 1..n of picture b of the batch is row b n + i - 1, so the first picture's are those that all would
 * share.
 *
 * Pictures come in the order of diffusers' textual inversion: the set `repeats` times over, reshuffled every epoch
 * (Fisher-Yates over words of the epoch), batch after batch; an epoch's end does not cut a batch short.
 */
#ifndef ZOODIP_ZO_DRAWS_H
#define ZOODIP_ZO_DRAWS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "files/config.h"

struct draw_shape {
    uint64_t seed;
    int64_t pictures, repeats;
    int64_t captions; /* templates to choose from; 0: each picture has its own caption, with the picture's number */
    bool flip;
    int64_t batch;
    int64_t height, width, channels; /* of a latent */
    int64_t n;                       /* directions of a picture */
    int64_t directions, dim;         /* of a step: n or n batch; and their length: vectors x width */
    int32_t timesteps[2];            /* [first, end) */
    bool even;                       /* they follow each other evenly: rng_even, one sequence for all steps */
};

/* What a config asks for, with `captions` as above. */
struct draw_shape draw_shape_of(const struct config *config, int64_t pictures, int64_t captions, int64_t height,
                                int64_t width, int64_t channels, int64_t dim);

struct draws {
    struct draw_shape shape;
    int32_t *picture, *flip, *caption, *timestep; /* [batch] */

    /* private */
    int32_t *order; /* the epoch's shuffle, [pictures * repeats] */
    int64_t epoch;
};

struct error draws_new(struct draws *d, const struct draw_shape *shape);
void draws_free(struct draws *d);

/* The row of direction i = 1..n of picture b of the batch. */
int64_t draws_direction(const struct draws *d, int64_t b, int64_t i);

/* Fills in the integers of step `step` (from 1). */
void draws_make(struct draws *d, int64_t step);

#endif
