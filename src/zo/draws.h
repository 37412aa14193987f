/* zo/draws.h
 *
 * The random integers of a step: pictures, flips, captions, timesteps. They follow from (seed, step), see base/rng.h,
 * as do the normals, which the device draws where it needs them (op_draw): the posterior's and the noise's run through
 * a step's pictures [batch, height, width, channels] in STREAM_POSTERIOR and STREAM_NOISE, direction i = 1..n [dim] is
 * STREAM_DIRECTION + i.
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
    int64_t n, dim;                  /* directions and their length: vectors x width */
    int32_t timesteps[2];            /* [first, end) */
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

/* Fills in the integers of step `step` (from 1). */
void draws_make(struct draws *d, int64_t step);

#endif
