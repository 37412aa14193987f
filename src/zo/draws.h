/* zo/draws.h
 *
 * What chance decides in a step: pictures, flips, captions, timesteps, the posterior's and the noise's normals, and the
 * directions. Everything follows from (seed, step): see base/rng.h.
 *
 * Pictures come as diffusers' textual inversion hands them out: the set `repeats` times over, shuffled anew every epoch
 * (Fisher-Yates over words of the epoch), batch after batch; an epoch's end does not cut a batch short.
 */
#ifndef ZOODIP_ZO_DRAWS_H
#define ZOODIP_ZO_DRAWS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct draw_shape {
    uint64_t seed;
    int64_t pictures, repeats;
    int64_t captions; /* templates to choose from; 0: each picture has its own caption, with the picture's number */
    bool flip;
    int64_t batch;
    int64_t height, width, channels; /* of a latent */
    int64_t n, dim;                  /* directions and their length: vectors x width */
    int32_t timesteps[2];            /* [first, one behind the last) */
};

struct draws {
    struct draw_shape shape;
    int32_t *picture, *flip, *caption, *timestep; /* [batch] */
    float *posterior, *noise;                     /* [batch, height, width, channels] */
    float *directions;                            /* [n, dim] */
    int32_t *order;                               /* private: the epoch's shuffle, [pictures * repeats] */
    int64_t epoch;
};

struct error draws_new(struct draws *d, const struct draw_shape *shape);
void draws_free(struct draws *d);

/* Fills in what step `step` (from 1) draws. */
void draws_make(struct draws *d, int64_t step);

#endif
